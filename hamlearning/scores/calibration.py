"""Whether scores of entities are probabilities, and which types are taken for each other."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from hamlearning.data.schemes import Tags
from words_hamlearning import entity_spans


def calibration(scores: Sequence[float], is_right: Sequence[bool], bins: int = 10) -> dict[str, Any]:
    """How far the scores of predictions are from how often these are right.

    ```python
    >>> calibration([0.9, 0.7, 0.2], [True, False, False], bins=2)["bins"][1]
    {'low': 0.5, 'high': 1.0, 'number': 2, 'score': 0.8, 'right': 0.5}
    ```

    Args:
        scores: One probability a prediction.
        is_right: Whether that prediction is right.
        bins: How many bins of equal width [0, 1] is cut into. A score on a border belongs to the bin above it.

    Returns:
        `number` of predictions; `ece`, the expected calibration error: the distance of a bin's mean score from its
        share of right predictions, averaged over predictions; `brier`, the mean of (score - 1)² of right predictions
        and score² of wrong ones; and `bins`, lowest first, each with `low`, `high`,
        `number`, and mean `score` and share `right`, None in an empty bin.

    Raises:
        ValueError: There is no score, the numbers differ, or a score is not in [0, 1].
    """
    score_of, right_of = np.asarray(scores, float), np.asarray(is_right, float)
    if not len(score_of) or len(score_of) != len(right_of):
        raise ValueError(f"{len(score_of)} scores, {len(right_of)} answers: give one of each for every prediction")
    outside = ~((score_of >= 0) & (score_of <= 1))
    if outside.any():
        raise ValueError(f"a score is {score_of[outside][0]}: give probabilities, in [0, 1]")
    edges = np.arange(bins + 1) / bins
    bin_of = np.minimum(np.searchsorted(edges, score_of, side="right") - 1, bins - 1)
    rows, ece = [], 0.0
    for number, (low, high) in enumerate(zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True)):
        inside = bin_of == number
        row = {"low": low, "high": high, "number": int(inside.sum()), "score": None, "right": None}
        if row["number"]:
            row["score"], row["right"] = float(score_of[inside].mean()), float(right_of[inside].mean())
            ece += row["number"] / len(score_of) * abs(row["score"] - row["right"])
        rows.append(row)
    brier = float(((score_of - right_of) ** 2).mean())
    return {"number": len(score_of), "ece": ece, "brier": brier, "bins": rows}


def confusion(gold: Tags, predicted: Tags) -> Counter[tuple[str | None, str | None]]:
    """Count entities by (gold type, predicted type), for entities of the same words.

    ```python
    >>> confusion([["B-PER", "O"], ["B-LOC", "I-LOC"]], [["B-ORG", "O"], ["B-LOC", "O"]])
    Counter({('PER', 'ORG'): 1, ('LOC', None): 1, (None, 'LOC'): 1})
    ```

    A gold entity whose words are no predicted entity counts as (type, None), a predicted one whose words are none of
    gold as (None, type): nothing was there, or something of other boundaries.

    Args:
        gold: The gold tags.
        predicted: As many for each tweet.

    Raises:
        ValueError: The numbers of tweets differ.
    """
    counts: Counter[tuple[str | None, str | None]] = Counter()
    for tags, predictions in zip(gold, predicted, strict=True):
        there = {(first, end): type_ for type_, first, end in entity_spans(tags)}
        found = {(first, end): type_ for type_, first, end in entity_spans(predictions)}
        counts.update((there.get(words), found.get(words)) for words in [*there, *(found.keys() - there.keys())])
    return counts
