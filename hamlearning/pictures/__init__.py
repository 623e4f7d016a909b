"""Visual features of a data set's pictures, computed once."""
