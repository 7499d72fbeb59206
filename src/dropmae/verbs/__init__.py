"""The verbs of the command line: each is the function of that name in one of these files."""
