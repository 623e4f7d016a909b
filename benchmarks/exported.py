#!/usr/bin/env python
"""An exported model beside the model that it was exported from: the same entities, the same F1, how much faster.

```bash
hamlearning export outputs/one outputs/one_cpu
OMP_WAIT_POLICY=PASSIVE python benchmarks/exported.py outputs/one outputs/one_cpu --data_dir my/twitter2017 \
    --visual_features my/twitter2017/caption_features.parquet --json figures.json
```

Both are loaded by `pipeline`, the trained one in fp32, and read the dev tweets without pictures and, if visual
features are given, with them. Timed is what the pipeline does with a tweet that is split into words: processor,
network, CRF and entities, in batches of tweets of like length. Rounds alternate between the two; reported are the
medians, after a round that is not counted. Threads are PyTorch's, for both: set `OMP_NUM_THREADS`. Without
`OMP_WAIT_POLICY=PASSIVE` PyTorch's threads, when they have nothing to do, keep the cores from OpenVINO's for a while.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import torch
from datasets import Dataset
from transformers import pipeline
from transformers.pipelines.base import Pipeline

from hamlearning.data.features import VisualFeatures
from hamlearning.data.tweets import load_tweets
from hamlearning.scores.mner_scores import MNERScores


BATCH_SIZE = 32


def find_entities(ner: Pipeline, rows: Dataset, features: VisualFeatures | None) -> list[list[dict]]:
    """Entities of each tweet, in the order of the rows."""
    tokens, ids = rows["tokens"][:], rows["id"][:]
    order = sorted(range(len(rows)), key=lambda place: sum(map(len, tokens[place])))
    found: list[list[dict]] = [[]] * len(rows)
    for first in range(0, len(rows), BATCH_SIZE):
        places = order[first : first + BATCH_SIZE]
        pictures = None if features is None else [features.get(ids[place]) for place in places]
        inputs = ner.processor(text=[tokens[place] for place in places], visual_features=pictures)
        with torch.inference_mode():
            entities = ner.processor.post_process_entities(ner.model(**inputs), inputs)
        for place, answer in zip(places, entities, strict=True):
            found[place] = answer
    return found


def f1(found: list[list[dict]], rows: Dataset) -> float:
    """Entity-level F1 of seqeval, default mode, in percent."""
    names = rows.features["ner_tags"].feature.names
    gold = [[names[tag] for tag in tags] for tags in rows["ner_tags"]]
    predicted = [["O"] * len(tags) for tags in gold]
    for tags, entities in zip(predicted, found, strict=True):
        for entity in entities:
            first, end = entity["word_start"], entity["word_end"]
            tags[first:end] = [f"B-{entity['entity_group']}"] + [f"I-{entity['entity_group']}"] * (end - first - 1)
    return 100 * MNERScores(keep_in_memory=True).compute(predictions=predicted, references=gold)["f1"]


def spans(entities: list[dict]) -> list[tuple]:
    """What must be the same: type and place."""
    return [(entity["entity_group"], entity["word_start"], entity["word_end"]) for entity in entities]


def compare(pipelines: dict[str, Pipeline], rows: Dataset, features: VisualFeatures | None, rounds: int) -> dict:
    """Agreement, scores and medians of speed of the two on the same tweets."""
    found = {name: find_entities(ner, rows, features) for name, ner in pipelines.items()}
    seconds: dict[str, list[float]] = {name: [] for name in pipelines}
    for _ in range(rounds):
        for name, ner in pipelines.items():
            start = time.perf_counter()
            find_entities(ner, rows, features)
            seconds[name].append(time.perf_counter() - start)
    speeds = {name: len(rows) / statistics.median(values) for name, values in seconds.items()}
    pairs = zip(found["trained"], found["exported"], strict=True)
    same = [spans(one) == spans(other) for one, other in pairs]
    return {
        "same_entities": 100 * statistics.mean(same),
        "f1": {name: f1(entities, rows) for name, entities in found.items()},
        "tweets_per_second": speeds,
        "ratio": speeds["exported"] / speeds["trained"],
    }


def main() -> None:
    """Prints a table, and writes it as JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trained", help="folder or Hub id")
    parser.add_argument("exported", help="folder or Hub id of its export")
    parser.add_argument("--data_dir", required=True)
    parser.add_argument("--visual_features", help="a visual feature file")
    parser.add_argument("--tweets", type=int, help="the first so many of the dev split (default: all)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", help="also write the figures here")
    options = parser.parse_args()

    rows = load_tweets(options.data_dir)["validation"]
    rows = rows.select(range(min(options.tweets or len(rows), len(rows))))
    pipelines = {
        "trained": pipeline(model=options.trained, trust_remote_code=True, dtype=torch.float32),
        "exported": pipeline(model=options.exported, trust_remote_code=True),
    }
    kinds = {"text": None}
    if options.visual_features:
        kinds["text and visual features"] = VisualFeatures(options.visual_features)
    figures = {kind: compare(pipelines, rows, features, options.rounds) for kind, features in kinds.items()}

    precision = pipelines["exported"].model.config.precision
    setting = f"{len(rows)} dev tweets, {torch.get_num_threads()} threads, median of {options.rounds}"
    print(f"{options.exported}, {precision}, beside {options.trained}, fp32: {setting}\n")
    print("| | same entities, % of tweets | F1 trained | F1 exported | tweets/s trained | exported | ratio |")
    print("|---|---|---|---|---|---|---|")
    for kind, found in figures.items():
        scores, speeds = found["f1"], found["tweets_per_second"]
        print(
            f"| {kind} | {found['same_entities']:.2f} | {scores['trained']:.2f} | {scores['exported']:.2f} "
            f"| {speeds['trained']:.1f} | {speeds['exported']:.1f} | {found['ratio']:.2f} |"
        )
    if options.json:
        settings = {"precision": precision, "tweets": len(rows), "threads": torch.get_num_threads()}
        Path(options.json).write_text(json.dumps(settings | figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
