"""How fast things are: measured beside the textbook form, or simulated for a cluster."""
