"""Scores of multimodal named entity recognition, as an `evaluate` metric module: what was counted, and how."""

import re
from typing import Any

import datasets
import evaluate
from seqeval.metrics.sequence_labeling import get_entities, precision_recall_fscore_support
from seqeval.metrics.v1 import precision_recall_fscore_support as strict_scores
from seqeval.scheme import IOB2, Entities


_TAG = re.compile(r"O|[BI]-\S+")
_SCORES = ("precision", "recall", "f1", "number")  # the order in which seqeval returns them

_CITATION = """\
@misc{seqeval,
  title={{seqeval}: A Python framework for sequence labeling evaluation},
  author={Hiroki Nakayama},
  year={2018},
  url={https://github.com/chakki-works/seqeval},
}
"""

_DESCRIPTION = """\
Entity-level precision, recall and F1 as published work on multimodal named entity recognition reports them. The same
predictions score differently under seqeval's default mode, where an I- tag that no B- opens begins an entity, and
under strict IOB2, where it does not. Both are given, with the gold counts that tell which test file was scored.
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions: One list of tags a tweet: O, B-TYPE or I-TYPE.
    references: The gold tags, as many for each tweet as it has predictions.

Returns:
    A dict of plain numbers; scores are fractions from 0 to 1, and 0 where there is nothing to divide by.

    precision, recall, f1: seqeval's default mode, over all entities: the headline.
    strict_precision, strict_recall, strict_f1: the same with mode="strict", scheme=IOB2.
    types: for each type of the references or predictions {precision, recall, f1, strict_precision, strict_recall,
        strict_f1, number}; number is that of the gold entities in default mode.
    gold_entities, predicted_entities: how many there are in default mode.
    strict_gold_entities: how many gold entities there are in strict IOB2.
    orphan_i_tags: how many gold entities of default mode open with an I- tag.

Raises:
    ValueError: There is no tweet, numbers of tweets or of tags differ, or a tag is not O, B-TYPE or I-TYPE.

Examples:
    >>> import evaluate
    >>> scores = evaluate.load("mner_scores.py")
    >>> result = scores.compute(
    ...     predictions=[["B-PER", "I-PER", "O", "B-LOC"]], references=[["B-PER", "I-PER", "O", "I-LOC"]]
    ... )
    >>> result["f1"], result["gold_entities"], result["strict_gold_entities"], result["orphan_i_tags"]
    (1.0, 2, 1, 1)
"""


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS_DESCRIPTION)
class MNERScores(evaluate.Metric):  # noqa: D101 the decorator writes it
    def _info(self) -> evaluate.MetricInfo:
        tags = datasets.List(datasets.Value("string"))
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features({"predictions": tags, "references": tags}),
            reference_urls=["https://github.com/chakki-works/seqeval"],
        )

    def _compute(  # pyright: ignore[reportIncompatibleMethodOverride]  # takes these alone
        self, predictions: list[list[str]], references: list[list[str]]
    ) -> dict:
        if not references:
            raise ValueError("there is no tweet to score: give at least one list of tags")
        for tweet, (predicted, gold) in enumerate(zip(predictions, references, strict=True)):
            if len(predicted) != len(gold):
                raise ValueError(
                    f"tweet {tweet} has {len(predicted)} predictions but {len(gold)} references: give one prediction "
                    "a token, O for a token that the model did not read"
                )
            for name, tags in (("predictions", predicted), ("references", gold)):
                for position, tag in enumerate(tags):
                    if tag is None or not _TAG.fullmatch(tag):
                        raise ValueError(
                            f"tweet {tweet} has {tag!r} at position {position} of its {name}: give tags as strings, "
                            "O, B-TYPE or I-TYPE"
                        )

        gold = [entity for tags in references for entity in get_entities(tags)]
        predicted = [entity for tags in predictions for entity in get_entities(tags)]
        strict_gold = Entities(references, IOB2)
        default_types = sorted({type_ for type_, _, _ in gold + predicted})
        strict_types = sorted(strict_gold.unique_tags | Entities(predictions, IOB2).unique_tags)

        zero_division: Any = 0  # which seqeval takes for a string

        def scores(average: str | None) -> tuple[dict, dict]:
            """Return seqeval's default and strict scores; without an average, an array each, one entry a type."""
            default = precision_recall_fscore_support(
                references, predictions, average=average, zero_division=zero_division
            )
            strict = strict_scores(references, predictions, average=average, zero_division=zero_division, scheme=IOB2)
            return dict(zip(_SCORES, default, strict=True)), dict(zip(_SCORES, strict, strict=True))

        default, strict = scores("micro")
        default_by_type, strict_by_type = scores(None)
        types = {
            type_: {
                **{name: float(default_by_type[name][row]) for name in _SCORES[:3]},
                **{f"strict_{name}": 0.0 for name in _SCORES[:3]},
                "number": int(default_by_type["number"][row]),
            }
            for row, type_ in enumerate(default_types)
        }
        for row, type_ in enumerate(strict_types):
            types[type_].update({f"strict_{name}": float(strict_by_type[name][row]) for name in _SCORES[:3]})
        return {
            **{name: float(default[name]) for name in _SCORES[:3]},
            **{f"strict_{name}": float(strict[name]) for name in _SCORES[:3]},
            "types": types,
            "gold_entities": len(gold),
            "strict_gold_entities": sum(map(len, strict_gold.entities)),
            "predicted_entities": len(predicted),
            "orphan_i_tags": sum(
                tags[start].startswith("I-") for tags in references for _, start, _ in get_entities(tags)
            ),
        }
