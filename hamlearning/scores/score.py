"""`hamlearning score` and `hamlearning compare`: files in, everything that tells systems apart out."""

import json as json_format
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from hamlearning.scores.counts import mentions
from hamlearning.scores.evaluation import evaluate_tags
from hamlearning.scores.metric import score_table
from hamlearning.scores.predictions import read_gold, read_predictions, read_span_scores
from hamlearning.scores.significance import compare
from hamlearning.scores.thresholds import threshold_for, threshold_sentence


def score(
    predictions: str,
    gold: str | None = None,
    against: str | None = None,
    train: str | None = None,
    split: str = "test",
    fill_with_o: bool = False,
    samples: int = 1000,
    seed: int = 0,
    json: Path | None = None,
    precision: float | None = None,
) -> None:
    """Print what predictions score, and write it all to `json` if that is given.

    Args:
        predictions: What `read_predictions` reads.
        gold: What `read_gold` reads; `predictions` if None.
        against: Another system's predictions, to compare with.
        train: The training tweets, as `gold`: they tell seen mentions from unseen.
        split: Of `gold`, if it is a folder.
        fill_with_o: Whether words that a length limit cut off count as O.
        samples: Of intervals and test.
        seed: Of the samples.
        json: The file.
        precision: Say which threshold of scores gives it, see `threshold_for`.

    Raises:
        OSError: A file is missing.
        ValueError: A file is malformed, or about other tweets; the message names file and line.
    """
    result = evaluate_files(predictions, gold, against, train, split, fill_with_o, samples, seed, precision)
    write(result, json)
    print(to_markdown(result))


def compare_files(predictions: str, against: str, json: Path | None = None, **options: Any) -> None:
    """Print whether one system is better than another; the arguments are those of `score`."""
    result = evaluate_files(predictions, against=against, **options)
    write(result, json)
    print(comparison_page(result))


def write(result: Mapping[str, Any], path: Path | None) -> None:
    """Write a result as JSON, if there is a path to write to."""
    if path is not None:
        path.write_text(json_format.dumps(result, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


def evaluate_files(
    predictions: str,
    gold: str | None = None,
    against: str | None = None,
    train: str | None = None,
    split: str = "test",
    fill_with_o: bool = False,
    samples: int = 1000,
    seed: int = 0,
    precision: float | None = None,
) -> dict[str, Any]:
    """What `score` prints, as data; the arguments are the same."""
    if samples < 1:
        raise ValueError(f"--samples is {samples}: give at least 1")
    if gold is None and not predictions.endswith(".jsonl"):
        raise ValueError(f"{predictions} is no .jsonl of a run: give GOLD before it")
    gold_path = gold or predictions
    there = read_gold(gold_path, split)
    tags, tokens = there["ner_tags"], there["tokens"]
    predicted, notes = read_predictions(predictions, there, fill_with_o)
    result = {
        "predictions": predictions,
        "gold": {"path": gold_path, "tweets": len(tags), "sha256": there["sha256"]},
        "samples": samples,
        "seed": seed,
    }
    known = None
    if train is not None:
        seen = read_gold(train, "train")
        known = mentions(seen["tokens"], seen["ner_tags"])
        result["train"] = {"path": train, "tweets": len(seen["tokens"]), "sha256": seen["sha256"]}
    result["scores"] = evaluate_tags(tags, predicted, tokens, known, samples, seed)
    if precision is not None:
        result["threshold"] = threshold_for(precision, tags, read_span_scores(predictions, predicted), samples, seed)
    all_notes = {predictions: notes}
    if against is not None:
        other, all_notes[against] = read_predictions(against, there, fill_with_o)
        result["against"] = evaluate_tags(tags, other, tokens, known, samples, seed)
        result["comparison"] = {"predictions": against, **compare(tags, predicted, other, samples, seed)}
    result["notes"] = all_notes
    result["choices"] = _choices(result, all_notes, len(tokens) - len(set(map(tuple, tokens))))
    return result


def to_markdown(result: Mapping[str, Any]) -> str:
    """What `score` prints: the scores, their intervals, the comparison if there is one, and how it was scored."""
    scores = result["scores"]
    low, high = scores["intervals"]["f1"]
    strict_low, strict_high = scores["intervals"]["strict_f1"]
    parts = [
        f"# {result['predictions']}",
        f"F1 **{100 * scores['f1']:.2f}** (95 % interval {100 * low:.2f} to {100 * high:.2f}); strict IOB2 "
        f"{100 * scores['strict_f1']:.2f} ({100 * strict_low:.2f} to {100 * strict_high:.2f})",
        score_table(scores),
    ]
    lines = ["| entities | P | R | F1 | gold |", "|---|---|---|---|---|"]
    groups = {
        "of 1 word": scores["words"]["1"],
        "of 2 words": scores["words"]["2"],
        "of 3 words and more": scores["words"]["3+"],
        **{f"{group} in training": values for group, values in scores.get("mentions", {}).items()},
    }
    for name, values in groups.items():
        percent = " | ".join(f"{100 * values[key]:.2f}" for key in ("precision", "recall", "f1"))
        lines.append(f"| {name} | {percent} | {values['number']} |")
    parts.append("\n".join(lines))
    if "threshold" in result:
        parts.append(threshold_sentence(result["threshold"]))
    if "comparison" in result:
        parts.append(
            f"## Against {result['comparison']['predictions']}\n\n{comparison_sentence(result['comparison'])}"
        )
    parts.append("## How it was scored\n\n" + "\n".join(f"- {choice}" for choice in result["choices"]))
    return "\n\n".join(parts)


def comparison_page(result: Mapping[str, Any]) -> str:
    """What `compare_files` prints: both systems by type and group, the difference and its p."""
    one, other = result["scores"], result["against"]
    rows = {"all": (one, other), "all, strict IOB2": (_strict(one), _strict(other))}
    rows |= {type_: (one["types"].get(type_), other["types"].get(type_)) for type_ in one["types"] | other["types"]}
    lines = ["| F1 | one | other | difference |", "|---|---|---|---|"]
    for name, pair in rows.items():
        first, second = (0.0 if scores is None else 100 * scores["f1"] for scores in pair)
        lines.append(f"| {name} | {first:.2f} | {second:.2f} | {first - second:+.2f} |")
    return "\n\n".join(
        [
            f"# {result['predictions']} and {result['comparison']['predictions']}",
            comparison_sentence(result["comparison"]),
            "\n".join(lines),
            "## How it was scored\n\n" + "\n".join(f"- {choice}" for choice in result["choices"]),
        ]
    )


def _strict(scores: Mapping[str, Any]) -> dict[str, float]:
    return {"f1": scores["strict_f1"]}


def comparison_sentence(test: Mapping[str, Any]) -> str:
    """The difference of two systems, its interval, and the p of the paired test."""
    low, high = test["interval"]
    return (
        f"F1 {100 * test['f1']:.2f} against {100 * test['other_f1']:.2f}: difference "
        f"{100 * test['difference']:+.2f} (95 % interval {100 * low:+.2f} to {100 * high:+.2f}), "
        f"p = {test['p_value']:.4g}"
    )


def _choices(result: Mapping[str, Any], notes: Mapping[str, Mapping[str, int]], repeated: int) -> list[str]:
    scores, gold = result["scores"], result["gold"]
    choices = [
        f"Evaluator: as seqeval {metadata.version('seqeval')}, whole entities, of the right type and extent. The "
        "headline, the types and the groups are default mode.",
        "An I- tag that no B- of its type opens begins an entity in default mode and none in strict IOB2. "
        f"{scores['orphan_i_tags']} of the {scores['gold_entities']} gold entities begin so, and "
        f"{scores['predicted_orphan_i_tags']} of the {scores['predicted_entities']} predicted ones.",
        f"Gold: {gold['path']}, {gold['tweets']} tweets, {scores['gold_entities']} entities, SHA-256 {gold['sha256']} "
        "(as a released text file, with MISC for OTHER).",
        "OTHER of Twitter-2015 counts as MISC, in gold and predictions.",
        f"Every tweet counts, {repeated} of them with the words of an earlier one.",
        "An entity belongs to a group by its own words, a predicted one by those predicted.",
    ]
    if "train" in result:
        train = result["train"]
        choices.append(
            "Seen: the same words, in the same letters, are an entity of the same type in "
            f"{train['path']} ({train['tweets']} tweets, SHA-256 {train['sha256']})."
        )
    for path, counts in notes.items():
        choices.append(
            f"{path}: {counts['dropped']} rows of sub-tokens, [CLS], [SEP] or padding were dropped. Words that count "
            f"as O for want of a tag: {counts['no_tag']} with X or the like predicted, {counts['filled']} cut off."
        )
        if counts["other_gold"]:
            choices.append(
                f"{path} holds other gold tags than the gold file for {counts['other_gold']} tweets: the gold file's "
                "count. Its own system's figure may rest on another version of the data."
            )
    choices.append(
        f"Intervals: percentile bootstrap, {result['samples']} samples of the tweets, seed {result['seed']}."
    )
    if "comparison" in result:
        choices.append(
            "p: approximate randomisation, two-sided, on default-mode F1; the predictions of a tweet are swapped "
            f"together, {result['samples']} times; (1 + differences at least as large) / (1 + samples)."
        )
    return choices
