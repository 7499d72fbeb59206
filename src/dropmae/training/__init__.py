"""Training: the one loop, what learns in it, and what it leaves behind."""
