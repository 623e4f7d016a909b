"""The workshop around the model: train, read, score, compare, publish, serve. The model itself is the files beside it.

$ hamlearning --help
"""
