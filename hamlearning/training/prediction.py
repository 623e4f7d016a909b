"""Tags of a split's tweets, and the file that holds them."""

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset

from hamlearning.data.files import write_text
from hamlearning.data.tweets import tag_names
from hamlearning.pictures.tweet_images import picture_keys
from hamlearning.training.trainer import MNERTrainer
from words_hamlearning import entity_spans


def predict(trainer: MNERTrainer, dataset: Dataset) -> dict[str, Any]:
    """Tags, scores and relevance of every tweet, in the order of the data set.

    Returns:
        `tags`: a list of tag names a tweet; `scores`: as long; `relevance`: |C^r| a view for each tweet, None for a
        tweet without a picture (or None altogether: the model measures none); with `--predict_probabilities`
        `probabilities`: a dict a tweet, by tag, of its probability at each word, else None; `words_in_windows`: words
        of tweets that were read in several windows; `words_not_read`: words that got no tag, and count as O;
        `seconds`.
    """
    order = np.argsort(dataset["length"], kind="stable")[::-1]
    start = time.perf_counter()
    rows: Any = dataset.select(order)
    trainer.asks_for_probabilities = trainer.args.predict_probabilities
    output: Any = trainer.predict(rows).predictions
    trainer.asks_for_probabilities = False
    seconds = time.perf_counter() - start
    place = np.argsort(order)
    names = np.array(trainer.processing_class.tags)
    probabilities = None
    if trainer.args.predict_probabilities:
        output, padded = output[:-1], output[-1]
        probabilities = [
            dict(zip(names.tolist(), padded[at, : len(tokens)].T.tolist(), strict=True))
            for at, tokens in zip(place, dataset["tokens"], strict=True)
        ]
    predictions, scores = output[0][place], output[1][place]
    relevance = None
    if len(output) == 3:
        pictures = trainer.data_collator.visual_features or {}
        relevance = [
            np.abs(views).tolist() if key in pictures else None
            for key, views in zip(picture_keys(dataset), output[2][place], strict=True)
        ]
    tags, tweet_scores, not_read = [], [], 0
    for row, tokens in enumerate(dataset["tokens"]):
        kept = int((predictions[row] != -100).sum())
        not_read += len(tokens) - kept
        tags.append(whole_tags(predictions[row], len(tokens), names))
        tweet_scores.append(scores[row, :kept].tolist() + [0.0] * (len(tokens) - kept))
    return {
        "tags": tags,
        "scores": tweet_scores,
        "relevance": relevance,
        "probabilities": probabilities,
        "words_in_windows": words_in_windows(dataset, trainer.processing_class.max_length),
        "words_not_read": not_read,
        "seconds": seconds,
    }


def whole_tags(row: np.ndarray, num_words: int, names: np.ndarray) -> list[str]:
    """Tag names of a whole tweet from a padded row of ids: a word that was not read counts as O."""
    tags = names[row[row != -100]].tolist()
    return tags + ["O"] * (num_words - len(tags))


def words_in_windows(dataset: Dataset, max_length: int) -> int:
    """How many words the tweets have that are longer than is read at once."""
    is_long = np.asarray(dataset["length"]) > max_length
    return int(sum(len(tokens) for tokens in dataset.select(np.flatnonzero(is_long))["tokens"]))


def write_predictions(path: Path, dataset: Dataset, predicted: dict[str, Any]) -> None:
    """One JSON line a tweet: id, tokens, gold tags where known, predicted tags, entities, |C^r|, probabilities."""
    gold = tag_names(dataset) if "ner_tags" in dataset.column_names else None
    lines = []
    for row, (id_, tokens) in enumerate(zip(dataset["id"], dataset["tokens"], strict=True)):
        line = {"id": id_, "tokens": tokens}
        if gold is not None:
            line["ner_tags"] = gold[row]
        line["predictions"] = predicted["tags"][row]
        line["entities"] = [
            {"type": type_, "start": first, "end": end, "score": round(predicted["scores"][row][first], 4)}
            for type_, first, end in entity_spans(predicted["tags"][row])
        ]
        if predicted["relevance"] is not None:
            views = predicted["relevance"][row]
            line["relevance"] = views and [round(value, 4) for value in views]
        if predicted["probabilities"] is not None:
            by_tag = predicted["probabilities"][row].items()
            line["probabilities"] = {tag: [round(value, 6) for value in values] for tag, values in by_tag}
        lines.append(json.dumps(line, ensure_ascii=False) + "\n")
    write_text(path, "".join(lines))


def show_tweet(dataset: Dataset, predicted: dict[str, Any]) -> str:
    """The first tweet in which something was found, with what was found."""
    rows = (row for row, tags in enumerate(predicted["tags"]) if any(tag != "O" for tag in tags))
    row = next(rows, 0)
    tokens, tags = dataset["tokens"][row], predicted["tags"][row]
    found = [
        f"  {type_:5} {' '.join(tokens[first:end])}  (score {predicted['scores'][row][first]:.2f})"
        for type_, first, end in entity_spans(tags)
    ]
    return "\n".join([" ".join(tokens), *(found or ["  no entity"])])
