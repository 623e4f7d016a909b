"""Text files with a token a line."""

from collections.abc import Sequence
from pathlib import Path

from hamlearning.data.reading import Reading, ReadingOptions
from hamlearning.data.released import read_tweets


def read_columns(files: Sequence[Path], options: ReadingOptions) -> Reading:
    """Read the text file of a split."""
    return Reading(read_tweets(files[0]), "columns separated by a tab")
