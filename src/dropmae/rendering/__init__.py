"""Rendered clips whose annotation is exact."""
