"""Training data: a data set or a kind of data set each."""
