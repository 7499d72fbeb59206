"""Downstream models, one file each."""
