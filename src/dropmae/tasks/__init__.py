"""Downstream models, a folder or a file each; a folder holds all that its task alone needs."""
