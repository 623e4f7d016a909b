"""Everything that one system's predictions are scored by."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from hamlearning.data.schemes import Entity, Tags, entities_of, orphan_i_tags
from hamlearning.scores.counts import entity_counts, f1_of, mention
from hamlearning.scores.metric import entity_scores
from hamlearning.scores.significance import bootstrap, interval


def evaluate_tags(
    gold: Tags,
    predicted: Tags,
    tokens: Sequence[Sequence[str]] | None = None,
    known: set[tuple[str, str]] | None = None,
    samples: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """Everything that one system's predictions are scored by.

    ```python
    >>> scores = evaluate_tags([["B-PER", "I-PER", "O", "B-LOC"]], [["B-PER", "I-PER", "O", "O"]])
    >>> scores["f1"], scores["words"]["1"]["recall"], scores["words"]["2"]["recall"]
    (0.6666666666666666, 0.0, 1.0)
    ```

    An entity, gold or predicted, belongs to a group by its own words, so that each group has its precision, its recall
    and its F1, and what was found in a group is counted once.

    Args:
        gold: The gold tags.
        predicted: As many for each tweet.
        tokens: The words of the tweets. Only seen and unseen mentions need them.
        known: The `mentions` of the training tweets; without them nothing is said on seen and unseen.
        samples: How many samples the confidence intervals rest on.
        seed: Of the samples.

    Returns:
        What `entity_scores` returns, and
        `predicted_orphan_i_tags`: how many predicted entities of default mode open with an I- tag,
        `words`: precision, recall, f1 and number (of gold entities) of entities of "1", "2" and "3+" words,
        `mentions` (with `known`): the same of "seen" and "unseen" ones,
        `intervals`: f1 and strict_f1, each [low, high]: 95 %, percentile bootstrap over tweets.

    Raises:
        ValueError: There is no tweet, numbers of tweets or of tags differ, or a tag is not O, B-TYPE or I-TYPE.
    """
    scores = entity_scores(gold, predicted)
    scores["predicted_orphan_i_tags"] = orphan_i_tags(predicted)
    scores["words"] = _group_scores(
        gold, predicted, ("1", "2", "3+"), lambda tweet, entity: ("1", "2", "3+")[min(entity[2] - entity[1], 2)]
    )
    if known is not None:
        scores["mentions"] = _group_scores(
            gold,
            predicted,
            ("seen", "unseen"),
            lambda tweet, entity: "seen" if mention((tokens or [])[tweet], entity) in known else "unseen",
        )
    counts = np.concatenate([entity_counts(gold, predicted), entity_counts(gold, predicted, strict=True)], axis=1)
    resampled = bootstrap(counts, samples, np.random.default_rng(seed))
    scores["intervals"] = {"f1": interval(f1_of(resampled[:, :3])), "strict_f1": interval(f1_of(resampled[:, 3:]))}
    return scores


def _group_scores(
    gold: Tags, predicted: Tags, groups: Sequence[str], group_of: Callable[[int, Entity], str]
) -> dict[str, dict[str, float]]:
    there, found, right = Counter(), Counter(), Counter()
    for tweet, (of_gold, of_prediction) in enumerate(zip(entities_of(gold), entities_of(predicted), strict=True)):
        for counter, entities in ((there, of_gold), (found, of_prediction), (right, of_gold & of_prediction)):
            counter.update(group_of(tweet, entity) for entity in entities)
    return {
        group: {
            "precision": right[group] / max(found[group], 1),
            "recall": right[group] / max(there[group], 1),
            "f1": 2 * right[group] / max(found[group] + there[group], 1),
            "number": there[group],
        }
        for group in groups
    }
