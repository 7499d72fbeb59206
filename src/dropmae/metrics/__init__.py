"""Metrics: pure functions that give the official numbers."""
