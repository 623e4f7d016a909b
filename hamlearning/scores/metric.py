"""The score of MNER: entity-level precision, recall and F1, in seqeval's default mode and in strict IOB2.

`mner_scores.py` beside it gives the same figures as a metric of `evaluate`: it has to stand alone, as a Space, and
leaves the counting to seqeval's own functions. These import scikit-learn, half of what a score would take.
"""

from typing import Any

from hamlearning.data.schemes import TAG, Tags, entities_of, orphan_i_tags
from hamlearning.scores.counts import check_lengths


def entity_scores(gold: Tags, predicted: Tags) -> dict[str, Any]:
    """Scores of predicted tags.

    ```python
    >>> scores = entity_scores([["B-PER", "I-PER", "O", "I-LOC"]], [["B-PER", "I-PER", "O", "B-LOC"]])
    >>> scores["f1"], scores["gold_entities"], scores["strict_gold_entities"], scores["orphan_i_tags"]
    (1.0, 2, 1, 1)
    ```

    Args:
        gold: The gold tags: O, B-TYPE or I-TYPE.
        predicted: As many for each tweet.

    Returns:
        Plain numbers; scores are fractions from 0 to 1, and 0 where there is nothing to divide by.
        `precision`, `recall`, `f1`: seqeval's default mode, over all entities: the headline,
        `strict_precision`, `strict_recall`, `strict_f1`: the same with mode="strict", scheme=IOB2,
        `types`: for each type of gold or predictions these six, and `number` of gold entities in default mode,
        `gold_entities`, `predicted_entities`: how many there are in default mode,
        `strict_gold_entities`: how many gold entities there are in strict IOB2,
        `orphan_i_tags`: how many gold entities of default mode open with an I- tag.

    Raises:
        ValueError: There is no tweet, numbers of tweets or of tags differ, or a tag is not O, B-TYPE or I-TYPE.
    """
    _check(gold, predicted)
    there, found = entities_of(gold), entities_of(predicted)
    strict_there, strict_found = entities_of(gold, strict=True), entities_of(predicted, strict=True)
    entities = list(zip(there, found, strict=True))
    strict_entities = list(zip(strict_there, strict_found, strict=True))
    types = sorted({type_ for pair in entities for side in pair for type_, _, _ in side})
    return {
        **_rates(entities),
        **_rates(strict_entities, "strict_"),
        "types": {
            type_: {
                **_rates(_of_type(entities, type_)),
                **_rates(_of_type(strict_entities, type_), "strict_"),
                "number": sum(entity[0] == type_ for side in there for entity in side),
            }
            for type_ in types
        },
        "gold_entities": sum(map(len, there)),
        "strict_gold_entities": sum(map(len, strict_there)),
        "predicted_entities": sum(map(len, found)),
        "orphan_i_tags": orphan_i_tags(gold),
    }


def score_table(scores: dict[str, Any]) -> str:
    """P, R and F1 a type and over all, in percent, as a Markdown table."""
    lines = ["| type | P | R | F1 | gold |", "|---|---|---|---|---|"]

    def line(name: str, values: dict[str, float], count: int) -> str:
        percent = " | ".join(f"{100 * values[key]:.2f}" for key in ("precision", "recall", "f1"))
        return f"| {name} | {percent} | {count} |"

    lines += [line(name, values, values["number"]) for name, values in scores["types"].items()]
    lines.append(line("all", scores, scores["gold_entities"]))
    strict = {key: scores[f"strict_{key}"] for key in ("precision", "recall", "f1")}
    lines.append(line("all, strict IOB2", strict, scores["strict_gold_entities"]))
    return "\n".join(lines)


def _check(gold: Tags, predicted: Tags) -> None:
    check_lengths(gold, predicted)
    for tweet, (tags, predictions) in enumerate(zip(gold, predicted, strict=True)):
        for name, sequence in (("predictions", predictions), ("gold tags", tags)):
            for position, tag in enumerate(sequence):
                if not isinstance(tag, str) or not TAG.fullmatch(tag):
                    raise ValueError(
                        f"tweet {tweet} has {tag!r} at position {position} of its {name}: give tags as strings, "
                        "O, B-TYPE or I-TYPE"
                    )


def _of_type(pairs: list[tuple[set, set]], type_: str) -> list[tuple[set, set]]:
    return [({e for e in gold if e[0] == type_}, {e for e in found if e[0] == type_}) for gold, found in pairs]


def _rates(pairs: list[tuple[set, set]], prefix: str = "") -> dict[str, float]:
    right, found, there = (
        sum(len(gold & predicted) for gold, predicted in pairs),
        sum(len(predicted) for _, predicted in pairs),
        sum(len(gold) for gold, _ in pairs),
    )
    precision, recall = right / max(found, 1), right / max(there, 1)
    f1 = (
        2 * precision * recall / (precision + recall) if right else 0.0
    )  # in seqeval's order: the same to the last bit
    return {f"{prefix}precision": precision, f"{prefix}recall": recall, f"{prefix}f1": f1}
