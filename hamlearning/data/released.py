"""Tweets of one text file, and their hash over the released text format."""

import hashlib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from hamlearning.data.columns import read_columns
from hamlearning.data.reading import ReadingOptions
from hamlearning.data.schemes import SchemeError, canonical_tag, find_scheme, tag_pairs, to_iob2


def read_tweets(path: str | os.PathLike) -> dict[str, list]:
    r"""Read one text file as `load_tweets` reads it, without Arrow and `datasets`.

    ```python
    >>> read_tweets("train.txt")
    {'id': ['1', ...], 'tokens': [['Ada', 'sings'], ...], 'ner_tags': [['B-PER', 'O'], ...]}
    ```

    See `read_columns` of the lines; the scheme of the tags is found from this file alone. OTHER becomes MISC; of
    B- and I- tags, an I- that no B- opens stays as it is.

    Args:
        path: The text file, UTF-8.

    Returns:
        `id` (one string a tweet), `tokens` (a list of strings each) and, if the file is tagged, `ner_tags` (a list of
        strings each, as long as its tokens).

    Raises:
        OSError: The file cannot be read.
        ValueError: The file is empty or malformed; the message names file, line and text.
    """
    reading = read_columns([Path(path)], ReadingOptions())
    columns: Any = reading.columns
    if "ner_tags" in columns:
        try:
            scheme = find_scheme(tag_pairs(columns["ner_tags"]))
        except SchemeError as error:
            row = next(row for row, tags in enumerate(columns["ner_tags"]) if error.tag in tags)
            word = columns["tokens"][row][columns["ner_tags"][row].index(error.tag)]
            raise ValueError(f"{reading.places[row]} and after: {word!r}: {error}") from None
        columns["ner_tags"] = [
            [canonical_tag(tag) for tag in to_iob2(sequence, scheme)] for sequence in columns["ner_tags"]
        ]
    return columns


def tweets_sha256(tweets: Iterable[Mapping[str, Any]]) -> str:
    r"""Hash tweets as they would stand in the released text format, however they are stored.

    What is hashed: for each tweet `"IMGID:<id>\n"`, `"<token>\t<tag>\n"` for each token (`"<token>\n"` without tags)
    and `"\n"`, in UTF-8. For Twitter-2017 these are the bytes of the released files, so `sha256sum` prints the same.
    For Twitter-2015 it does not: those files say OTHER for MISC, and lack the last blank line.

    Args:
        tweets: `id`, `tokens` and, where it is tagged, `ner_tags` (names) of each tweet.

    Returns:
        64 hexadecimal digits.
    """
    digest = hashlib.sha256()
    for tweet in tweets:
        lines = [f"IMGID:{tweet['id']}", *tweet["tokens"], "", ""]
        for position, tag in enumerate(tweet.get("ner_tags", []), start=1):
            lines[position] += "\t" + tag
        digest.update("\n".join(lines).encode())
    return digest.hexdigest()
