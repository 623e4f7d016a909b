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
medians, after a round that is not counted. How far each is from the limit is its time over that of the network's
multiply-adds (`operations.py`), as PyTorch multiplies large matrices in that precision. Threads are PyTorch's, for
both: set `OMP_NUM_THREADS`. Without `OMP_WAIT_POLICY=PASSIVE` PyTorch's threads, when they have nothing to do, keep
the cores from OpenVINO's for a while.
"""

import argparse
import json
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from datasets import Dataset
from transformers import BatchFeature, pipeline
from transformers.pipelines.base import Pipeline

from hamlearning.data.features import VisualFeatures
from hamlearning.data.tweets import load_tweets
from hamlearning.scores.mner_scores import MNERScores
from operations import BERT_LIKE, count_operations
from workload import print_table, products_a_second


BATCH_SIZE = 32


def batches(ner: Pipeline, rows: Dataset, features: VisualFeatures | None) -> Iterator[tuple[list[int], BatchFeature]]:
    """Places of tweets of like length, and the network's inputs of them."""
    tokens, ids = rows["tokens"][:], rows["id"][:]
    order = sorted(range(len(rows)), key=lambda place: sum(map(len, tokens[place])))
    for first in range(0, len(rows), BATCH_SIZE):
        places = order[first : first + BATCH_SIZE]
        pictures = None if features is None else [features.get(ids[place]) for place in places]
        yield places, ner.processor(text=[tokens[place] for place in places], visual_features=pictures)


def multiply_adds(ner: Pipeline, rows: Dataset, features: VisualFeatures | None) -> int | None:
    """Of the network for all tweets; None: nobody has counted its text encoder's."""
    config, total = ner.model.config, 0
    if config.text_config.model_type not in BERT_LIKE:
        return None
    for _, inputs in batches(ner, rows, features):
        tweets, subtokens = inputs["input_ids"].shape
        regions = inputs["region_mask"].shape[1] if "region_mask" in inputs else 0
        parts = count_operations(config, tweets, subtokens, max(map(len, inputs.words)), regions)
        total += sum(part.multiply_adds for part in parts.values())
    return total


def find_entities(ner: Pipeline, rows: Dataset, features: VisualFeatures | None) -> list[list[dict]]:
    """Entities of each tweet, in the order of the rows."""
    found: list[list[dict]] = [[]] * len(rows)
    for places, inputs in batches(ner, rows, features):
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


def compare(
    pipelines: dict[str, Pipeline],
    rows: Dataset,
    features: VisualFeatures | None,
    rounds: int,
    rates: dict[str, float],
) -> dict:
    """Agreement, scores and medians of speed of the two on the same tweets; `rates` are multiply-adds a second."""
    found = {name: find_entities(ner, rows, features) for name, ner in pipelines.items()}
    seconds: dict[str, list[float]] = {name: [] for name in pipelines}
    for _ in range(rounds):
        for name, ner in pipelines.items():
            start = time.perf_counter()
            find_entities(ner, rows, features)
            seconds[name].append(time.perf_counter() - start)
    speeds = {name: len(rows) / statistics.median(values) for name, values in seconds.items()}
    counted = multiply_adds(pipelines["trained"], rows, features)
    over_limit = {name: counted and rates[name] / counted * len(rows) / speeds[name] for name in speeds}
    pairs = zip(found["trained"], found["exported"], strict=True)
    same = [spans(one) == spans(other) for one, other in pairs]
    return {
        "same_entities": 100 * statistics.mean(same),
        "f1": {name: f1(entities, rows) for name, entities in found.items()},
        "tweets_per_second": speeds,
        "ratio": speeds["exported"] / speeds["trained"],
        "over_limit": over_limit,
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
    precision = pipelines["exported"].model.config.precision
    rates = {"trained": products_a_second("fp32"), "exported": products_a_second(precision)}
    figures = {kind: compare(pipelines, rows, features, options.rounds, rates) for kind, features in kinds.items()}

    setting = f"{len(rows)} dev tweets, {torch.get_num_threads()} threads, median of {options.rounds}"
    print(f"{options.exported}, {precision}, beside {options.trained}, fp32: {setting}\n")
    header = ["", "same entities, % of tweets", "F1 trained", "exported", "tweets/s trained", "exported", "ratio"]
    table = []
    for kind, found in figures.items():
        cells = [f"{found['same_entities']:.2f}", *(f"{score:.2f}" for score in found["f1"].values())]
        cells += [f"{speed:.1f}" for speed in found["tweets_per_second"].values()] + [f"{found['ratio']:.2f}"]
        limits = ["" if over is None else f"{over:.1f}" for over in found["over_limit"].values()]
        table.append([kind, *cells, *limits])
    print_table([*header, "times the limit, trained", "exported"], table)
    if options.json:
        settings = {"precision": precision, "tweets": len(rows), "threads": torch.get_num_threads(), "rates": rates}
        Path(options.json).write_text(json.dumps(settings | figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
