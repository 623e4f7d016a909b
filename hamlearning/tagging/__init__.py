"""Tweets of any number to entities."""
