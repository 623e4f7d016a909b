"""A run, from arguments to results, whole whatever happens to it."""
