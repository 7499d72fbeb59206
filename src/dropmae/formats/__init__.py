"""Annotations and results as data sets and their evaluators write them: label maps, boxes, arrays."""
