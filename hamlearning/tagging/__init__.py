"""Tweets of any number to entities."""

from typing import Any


def __getattr__(name: str) -> Any:
    """`hamlearning.tagging.Tagger`, imported when it is asked for: PyTorch stands behind it."""
    if name != "Tagger":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from hamlearning.tagging.tagger import Tagger

    return Tagger
