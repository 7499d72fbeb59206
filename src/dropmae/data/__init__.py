"""Training data: sequences of frames, and the samples and batches made from them."""
