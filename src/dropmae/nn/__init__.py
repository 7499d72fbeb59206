"""Networks that several methods and tasks build from: the transformer, masks, int8."""
