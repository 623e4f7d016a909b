#!/usr/bin/env python
"""Speed of the pipeline: seconds to the first answer in a fresh process, and tweets a second by batch size.

```bash
python benchmarks/pipeline_speed.py outputs/demo --data_dir datasets/sample/generated
python benchmarks/pipeline_speed.py ORG/NAME --data_dir my/twitter2017 --tweets 256
```

The tweets are the first of the test split, words joined by spaces, with their pictures where the data set has them and
the model has a vision model. The first answer is timed from `pipeline(...)`, which the model's download precedes, to
the first entities; importing transformers is not in it. Rounds alternate between batch sizes; reported are the
medians.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from transformers import pipeline
from transformers.pipelines.base import Pipeline

from hamlearning.data.tweets import load_tweets


BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64)
FIRST_ANSWER = """
import sys, time
from transformers import pipeline
model, text, picture = sys.argv[1:]
start = time.perf_counter()
ner = pipeline(model=model, trust_remote_code=True)
ner({"text": text, "image": picture or None})
print(time.perf_counter() - start)
"""


def first_answer_seconds(model: str, text: str, picture: str, rounds: int) -> float:
    """Median over fresh processes."""
    command = [sys.executable, "-c", FIRST_ANSWER, model, text, picture]
    runs = [subprocess.run(command, capture_output=True, text=True, check=True) for _ in range(rounds)]
    return statistics.median(float(run.stdout.split()[-1]) for run in runs)


def tweets_per_second(ner: Pipeline, tweets: list, rounds: int) -> dict[int, float]:
    """Median by batch size."""
    seconds: dict[int, list[float]] = {size: [] for size in BATCH_SIZES}
    ner(tweets[:8], batch_size=8)  # warm up
    for _ in range(rounds):
        for size, values in seconds.items():
            start = time.perf_counter()
            ner(tweets, batch_size=size)
            values.append(time.perf_counter() - start)
    return {size: len(tweets) / statistics.median(values) for size, values in seconds.items()}


def main() -> None:
    """Prints a table, and writes it as JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="folder or Hub id")
    parser.add_argument("--data_dir", required=True)
    parser.add_argument("--tweets", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dtype", default="auto", help="of the network: auto (as saved), float32, bfloat16, ...")
    parser.add_argument("--json", help="also write the figures here")
    options = parser.parse_args()

    rows = load_tweets(options.data_dir)["test"].select(range(options.tweets))
    texts = [" ".join(tokens) for tokens in rows["tokens"]]
    ner = pipeline(model=options.model, trust_remote_code=True, dtype=options.dtype)
    kinds = {"text": texts}
    if "image" in rows.column_names and ner.processor.vision_source is not None:
        pairs = [{"text": text, "image": image} for text, image in zip(texts, rows["image"], strict=True)]
        kinds["text and picture"] = [pair for pair in pairs if pair["image"] is not None]

    figures: dict[str, dict] = {}
    with tempfile.TemporaryDirectory() as folder:
        for kind, tweets in kinds.items():
            picture = "" if kind == "text" else f"{folder}/picture.png"
            if picture:
                tweets[0]["image"].save(picture)
            figures[kind] = {
                "first_answer_seconds": first_answer_seconds(options.model, texts[0], picture, options.rounds),
                "tweets_per_second": tweets_per_second(ner, tweets, options.rounds),
            }
    setting = f"{ner.dtype}, {len(texts)} tweets, {torch.get_num_threads()} threads, median of {options.rounds}"
    print(f"{options.model}: {setting}\n")
    print(f"| | first answer, s | {' | '.join(f'batch {size}' for size in BATCH_SIZES)} | 64 over 1 |")
    print("|---" * (len(BATCH_SIZES) + 3) + "|")
    for kind, found in figures.items():
        speeds = found["tweets_per_second"]
        cells = " | ".join(f"{speeds[size]:.1f}" for size in BATCH_SIZES)
        print(f"| {kind} | {found['first_answer_seconds']:.2f} | {cells} | {speeds[64] / speeds[1]:.1f} |")
    if options.json:
        Path(options.json).write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
