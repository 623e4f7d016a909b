"""Bootstrap intervals, and whether one system is better than another on the same tweets."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from hamlearning.data.schemes import Tags
from hamlearning.scores.counts import entity_counts, f1_of


_CHUNK = 256  # samples at a time: 7 MB of weights for 3,257 tweets


def compare(gold: Tags, one: Tags, other: Tags, samples: int = 1000, seed: int = 0) -> dict[str, Any]:
    """Whether one system is better than another, on the same tweets, by default-mode F1.

    ```python
    >>> compare([["B-PER"]] * 9, [["B-PER"]] * 9, [["O"]] * 9)
    {'f1': 1.0, 'other_f1': 0.0, 'difference': 1.0, 'interval': [1.0, 1.0], 'p_value': 0.004995004995004995}
    ```

    Args:
        gold: The gold tags.
        one: One system's.
        other: The other's.
        samples: How often tweets are resampled, and how often predictions are swapped.
        seed: Of both.

    Returns:
        `f1`, `other_f1`, `difference` (the first less the second), `interval` (of the difference: 95 %, percentile
        bootstrap over tweets, the same tweets for both) and `p_value`, two-sided: of approximate randomisation, in
        which the two predictions of each tweet are swapped by the toss of a coin; (1 + how many differences are at
        least as large as the observed one) / (1 + samples).

    Raises:
        ValueError: There is no tweet, or numbers of tweets or of tags differ.
    """
    return compare_counts(entity_counts(gold, one)[None], entity_counts(gold, other)[None], samples, seed)


def compare_counts(counts: ArrayLike, other_counts: ArrayLike, samples: int = 1000, seed: int = 0) -> dict[str, Any]:
    """Whether one system is better than another, each trained with several seeds, by the mean of their F1.

    What is drawn is the tweet, with all seeds' predictions of it: so the answer is about other tweets of this kind,
    not about other seeds.

    Args:
        counts: (seeds, tweets, 3), the `entity_counts` of one system.
        other_counts: (seeds, tweets, 3), the other's.
        samples: How often tweets are resampled, and how often predictions are swapped.
        seed: Of both.

    Returns:
        What `compare` returns, means over the seeds.

    Raises:
        ValueError: The shapes differ.
    """
    counts, other_counts = np.asarray(counts), np.asarray(other_counts)
    if counts.shape != other_counts.shape:
        raise ValueError(
            f"counts {counts.shape} and {other_counts.shape}: both must be (seeds, tweets, 3), of the same tweets and "
            "as many seeds"
        )
    seeds, tweets = counts.shape[:2]

    def mean_f1(summed: np.ndarray) -> np.ndarray:  # (..., seeds, 3)
        return f1_of(summed).mean(axis=-1)

    difference = mean_f1(counts.sum(axis=1)) - mean_f1(other_counts.sum(axis=1))
    rng = np.random.default_rng(seed)
    both = np.stack([counts, other_counts], axis=1)  # (seeds, 2, tweets, 3)
    resampled = bootstrap(np.moveaxis(both, 2, 0).reshape(tweets, -1), samples, rng).reshape(samples, seeds, 2, 3)

    gain = np.moveaxis(other_counts - counts, 1, 0).reshape(tweets, -1)  # (tweets, seeds * 3)
    gain = gain[gain.any(axis=1)].astype(float)  # to swap what is counted alike changes nothing
    as_large = 0
    for size in _chunks(samples):
        moved = (rng.integers(2, size=(size, len(gain))).astype(float) @ gain).reshape(size, seeds, 3)
        differences = mean_f1(counts.sum(axis=1) + moved) - mean_f1(other_counts.sum(axis=1) - moved)
        # The same difference may come out of other counts, rounded otherwise.
        as_large += int((np.abs(differences) >= abs(difference) - 1e-12).sum())
    return {
        "f1": float(mean_f1(counts.sum(axis=1))),
        "other_f1": float(mean_f1(other_counts.sum(axis=1))),
        "difference": float(difference),
        "interval": interval(mean_f1(resampled[:, :, 0]) - mean_f1(resampled[:, :, 1])),
        "p_value": (1 + as_large) / (1 + samples),
    }


def mean_f1_interval(counts: ArrayLike, samples: int = 1000, seed: int = 0) -> list[float]:
    """The 95 % interval of the mean F1 of several seeds, by percentile bootstrap over tweets.

    Args:
        counts: (seeds, tweets, 3), the `entity_counts` of one system.
        samples: How often tweets are resampled.
        seed: Of that.
    """
    counts = np.asarray(counts)
    seeds, tweets = counts.shape[:2]
    resampled = bootstrap(np.moveaxis(counts, 1, 0).reshape(tweets, -1), samples, np.random.default_rng(seed))
    return interval(f1_of(resampled.reshape(samples, seeds, 3)).mean(axis=-1))


def bootstrap(counts: np.ndarray, samples: int, rng: np.random.Generator) -> np.ndarray:
    """Sum the counts (tweets, k) over as many tweets, drawn with replacement: (samples, k)."""
    tweets = len(counts)
    return np.concatenate([times.astype(float) @ counts.astype(float) for times in draws(tweets, samples, rng)])


def draws(tweets: int, samples: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """How often each tweet is among as many, drawn with replacement: (some samples, tweets), until all are drawn."""
    for size in _chunks(samples):
        drawn = rng.integers(tweets, size=(size, tweets)) + tweets * np.arange(size)[:, None]
        yield np.bincount(drawn.ravel(), minlength=size * tweets).reshape(size, tweets)


def _chunks(samples: int) -> Iterator[int]:
    yield from (min(_CHUNK, samples - done) for done in range(0, samples, _CHUNK))


def interval(values: np.ndarray) -> list[float]:
    """95 %, by percentiles."""
    return np.percentile(values, [2.5, 97.5]).tolist()
