"""Trained tasks at work: on a stream of frames, on the sequences of a benchmark."""
