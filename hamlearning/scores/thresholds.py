"""The threshold of scores from which on what is found has a wanted precision."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hamlearning.data.schemes import Tags
from hamlearning.scores.significance import draws, interval
from words_hamlearning import entity_spans


Span = tuple[str, int, int]


def threshold_for(
    precision: float, gold: Tags, scores: Sequence[Mapping[Span, float]], samples: int = 1000, seed: int = 0
) -> dict[str, Any]:
    r"""The lowest threshold with which the entities that are kept have at least this precision.

    ```python
    >>> found = threshold_for(0.9, [["B-PER", "O"]], [{("PER", 0, 1): 0.8, ("PER", 1, 2): 0.3}])
    >>> found["threshold"], found["precision"], found["recall"]
    (0.55, 1.0, 1.0)
    ```

    It lies halfway between the lowest score that is kept and the highest that is not, and is 0 if all are kept.

    Args:
        precision: wanted share of right entities among those kept, in (0, 1].
        gold: the gold tags.
        scores: of each tweet its predicted entities, (type, first word, word after the last), with their scores.
        samples: how often tweets are resampled.
        seed: of that.

    Returns:
        `wanted`, the precision; `entities` predicted; `threshold`, None if none has it; how many entities are then
        `kept`; their `precision` and `recall`, and `precision_interval`; `threshold_interval`, of the threshold as it
        would be found in other tweets, 1 where none has the precision; `missed`, in what share of the samples that is
        so. Intervals are 95 %, percentile bootstrap over tweets. Without a threshold `kept` and `precision` are those
        of the highest precision that any has, and the rest is None.

    Raises:
        ValueError: the precision is no share, there is no score, or the numbers of tweets differ.
    """
    if not 0 < precision <= 1:
        raise ValueError(f"--precision {precision}: give a share in (0, 1], as 0.95")
    there = [set(entity_spans(tags)) for tags in gold]
    rows = [
        (score, tweet, span in spans)
        for tweet, (found, spans) in enumerate(zip(scores, there, strict=True))
        for span, score in found.items()
    ]
    if not rows:
        raise ValueError("no entity has a score: --precision needs a predictions_*.jsonl of a run that found some")
    score_of, tweet_of, right = map(np.array, zip(*sorted(rows, reverse=True), strict=True))
    ends = np.append(np.flatnonzero(np.diff(score_of)), len(score_of) - 1)  # where what is kept may end: behind ties
    kept, found = ends + 1, np.cumsum(right)[ends]
    result: dict[str, Any] = {"wanted": precision, "entities": len(rows)}
    place = _last_precise(found, kept, precision)
    if place is None:
        best = int(np.argmax(found / kept))
        figures = {"kept": int(kept[best]), "precision": float(found[best] / kept[best])}
        return result | dict.fromkeys(("threshold", "recall", "precision_interval", "threshold_interval")) | figures
    levels = np.append((score_of[ends][:-1] + score_of[ends[:-1] + 1]) / 2, 0.0)  # the threshold of each end
    thresholds, precisions = [], []
    for times in draws(len(gold), samples, np.random.default_rng(seed)):
        for of_tweet in times:
            weights = of_tweet[tweet_of]
            all_kept, all_found = np.cumsum(weights)[ends], np.cumsum(weights * right)[ends]
            at = _last_precise(all_found, all_kept, precision)
            thresholds.append(1.0 if at is None else levels[at])
            precisions.append(all_found[place] / max(all_kept[place], 1))
    return result | {
        "threshold": float(levels[place]),
        "kept": int(kept[place]),
        "precision": float(found[place] / kept[place]),
        "recall": float(found[place] / max(sum(map(len, there)), 1)),
        "precision_interval": interval(np.array(precisions)),
        "threshold_interval": interval(np.array(thresholds)),
        "missed": float(np.mean([threshold == 1 for threshold in thresholds])),
    }


def _last_precise(found: np.ndarray, kept: np.ndarray, precision: float) -> int | None:
    """The last place at which the share of `found` in `kept` is at least the precision."""
    places = np.flatnonzero((kept > 0) & (found >= precision * kept - 1e-9))
    return int(places[-1]) if len(places) else None


def threshold_sentence(result: Mapping[str, Any]) -> str:
    """What `threshold_for` found, in words."""
    wanted = f"a precision of {100 * result['wanted']:g} %"
    if result["threshold"] is None:
        return (
            f"No threshold gives {wanted} here: the highest is {100 * result['precision']:.2f}, of the "
            f"{result['kept']} of {result['entities']} entities with the highest scores."
        )
    low, high = result["threshold_interval"]
    precise_low, precise_high = (100 * share for share in result["precision_interval"])
    return (
        f"`threshold={result['threshold']:.5g}` (95 % interval {low:.4g} to {high:.4g}) gives {wanted}: it keeps "
        f"{result['kept']} of {result['entities']} entities, precision {100 * result['precision']:.2f} (95 % interval "
        f"{precise_low:.2f} to {precise_high:.2f}), recall {100 * result['recall']:.2f}. It was chosen on these "
        "tweets: choose it on dev, and see on test what it gives."
    )
