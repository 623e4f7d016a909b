"""Tweets, pictures and visual features: the files that people bring, read and checked."""
