"""Functions with a plain PyTorch meaning and, where it pays, a fast twin that computes the same thing."""
