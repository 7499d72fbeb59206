"""Networks: the transformer, what methods and tasks build from it, and what goes in and comes out."""
