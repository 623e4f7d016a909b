"""Entities of tag sequences, and how many of them were found."""

from collections.abc import Sequence

import numpy as np

from hamlearning.data.schemes import Entity, Tags, entities_of


def entity_counts(gold: Tags, predicted: Tags, strict: bool = False) -> np.ndarray:
    """Count the entities of each tweet: those found (of the right type and extent), those predicted, those of gold.

    ```python
    >>> entity_counts([["B-PER", "O"], ["B-LOC", "I-LOC"]], [["B-PER", "O"], ["B-LOC", "O"]]).tolist()
    [[1, 1, 1], [0, 1, 1]]
    ```

    Args:
        gold: The gold tags.
        predicted: As many for each tweet.
        strict: Count as strict IOB2 does, not as seqeval's default mode.

    Returns:
        Integers of shape (tweets, 3).

    Raises:
        ValueError: There is no tweet, or numbers of tweets or of tags differ.
    """
    check_lengths(gold, predicted)
    pairs = zip(entities_of(gold, strict), entities_of(predicted, strict), strict=True)
    return np.array([[len(there & found), len(found), len(there)] for there, found in pairs]).reshape(-1, 3)


def check_lengths(gold: Tags, predicted: Tags) -> None:
    """Refuse predictions that are not one a word of the gold tags.

    Raises:
        ValueError: There is no tweet, or numbers of tweets or of tags differ.
    """
    if not gold or len(gold) != len(predicted):
        raise ValueError(f"{len(gold)} tweets with gold tags, {len(predicted)} with predictions: give both of each")
    for tweet, (tags, predictions) in enumerate(zip(gold, predicted, strict=True)):
        if len(tags) != len(predictions):
            raise ValueError(
                f"tweet {tweet} has {len(predictions)} predictions but {len(tags)} gold tags: give one prediction a "
                "word, O for a word that was not read"
            )


def mentions(tokens: Sequence[Sequence[str]], tags: Tags) -> set[tuple[str, str]]:
    """The entities of some tweets as (type, text), the words joined by spaces; letter case stays.

    ```python
    >>> mentions([["in", "New", "York"]], [["O", "B-LOC", "I-LOC"]])
    {('LOC', 'New York')}
    ```
    """
    found = zip(tokens, entities_of(tags), strict=True)
    return {mention(words, entity) for words, entities in found for entity in entities}


def mention(words: Sequence[str], entity: Entity) -> tuple[str, str]:
    """The type and the text of one entity."""
    type_, first, last = entity
    return type_, " ".join(words[first : last + 1])


def f1_of(counts: np.ndarray) -> np.ndarray:
    """F1 of (found, predicted, gold) along the last axis; 0 where there is nothing to find and nothing was found."""
    return 2 * counts[..., 0] / np.maximum(counts[..., 1] + counts[..., 2], 1)
