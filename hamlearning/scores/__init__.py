"""The metric, evaluation, significance, and the report of errors."""
