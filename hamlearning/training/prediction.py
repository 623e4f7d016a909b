"""Tags of a split's tweets, and the file that holds them."""

import json
import math
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


EXPLAINED_AT_ONCE = 4  # tweets: each goes through the network once for every region


def predict(trainer: MNERTrainer, dataset: Dataset) -> dict[str, Any]:
    """Tags, scores and relevance of every tweet, in the order of the data set.

    Returns:
        `tags`: a list of tag names a tweet; `scores`: as long; `relevance`: |C^r| a view for each tweet, None for a
        tweet without a picture (or None altogether: the model measures none); with `--predict_probabilities`
        `probabilities`: a dict a tweet, by tag, of its probability at each word, else None; `explanations`: see
        `explain`; `words_in_windows`: words
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
    config: Any = trainer.accelerator.unwrap_model(trainer.model).config
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
        "relevance_is_probability": getattr(config, "relevance_matching", "none") != "none",
        "probabilities": probabilities,
        "explanations": explain(trainer, dataset) if trainer.args.predict_explanations else None,
        "words_in_windows": words_in_windows(dataset, trainer.processing_class.max_length),
        "words_not_read": not_read,
        "seconds": seconds,
    }


def explain(trainer: MNERTrainer, dataset: Dataset) -> list[dict[tuple[str, int, int], dict[str, Any]]]:
    """What in its picture decided each entity of a tweet, see `HamLearningForTokenClassification.explain`.

    Returns:
        A dict a tweet, by (type, first word, word after the last): `with` and `without`, the entity's probability
        with the picture and without it, `type`, that of the same words without the picture (None: no entity), and
        `regions`, the effect of hiding each region, in the order of the visual features. Empty without a picture.
    """
    processor, collate = trainer.processing_class, trainer.data_collator
    model: Any = trainer.accelerator.unwrap_model(trainer.model)
    model.eval()
    found = []
    for first in range(0, len(dataset), EXPLAINED_AT_ONCE):
        inputs = collate([dataset[place] for place in range(first, min(first + EXPLAINED_AT_ONCE, len(dataset)))])
        inputs = {name: value.to(model.device) for name, value in inputs.items() if name != "labels"}
        outputs = model.explain(**inputs)
        for row, tag_ids in enumerate(outputs.predictions.tolist()):
            entities = {}
            if outputs.picture_effects is not None and bool(inputs["image_mask"][row]):
                types = processor.types_of_words(outputs.picture_predictions[row].tolist())
                kept = inputs["region_mask"][row].bool()
                for (start, end), type_ in processor.types_of_words(tag_ids).items():
                    score = float(outputs.scores[row, start])
                    entities[type_, start, end] = {
                        "with": round(score, 4),
                        "without": round(min(score * math.exp(-float(outputs.picture_effects[row, start])), 1.0), 4),
                        "type": types.get((start, end)),
                        "regions": [round(effect, 4) for effect in outputs.region_effects[row, start][kept].tolist()],
                    }
            found.append(entities)
    return found


def whole_tags(row: np.ndarray, num_words: int, names: np.ndarray) -> list[str]:
    """Tag names of a whole tweet from a padded row of ids: a word that was not read counts as O."""
    tags = names[row[row != -100]].tolist()
    return tags + ["O"] * (num_words - len(tags))


def words_in_windows(dataset: Dataset, max_length: int) -> int:
    """How many words the tweets have that are longer than is read at once."""
    is_long = np.asarray(dataset["length"]) > max_length
    return int(sum(len(tokens) for tokens in dataset.select(np.flatnonzero(is_long))["tokens"]))


def write_predictions(path: Path, dataset: Dataset, predicted: dict[str, Any]) -> None:
    """One JSON line a tweet: id, tokens, gold tags where known, predicted tags, entities, relevance, probabilities."""
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
            if predicted["relevance_is_probability"]:
                line["relevance_kind"] = "probability"
        if predicted["probabilities"] is not None:
            by_tag = predicted["probabilities"][row].items()
            line["probabilities"] = {tag: [round(value, 6) for value in values] for tag, values in by_tag}
        if predicted["explanations"] is not None:
            decided = predicted["explanations"][row]
            for entity in line["entities"]:
                entity["picture"] = decided.get((entity["type"], entity["start"], entity["end"]))
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
