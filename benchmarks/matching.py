#!/usr/bin/env python
"""Whether the relevance of trained models tells the own picture from others', and related pictures from unrelated.

```bash
python benchmarks/matching.py outputs/paper outputs/apart --data_dir datasets/sample/generated
```

A row a model and a column of its relevance. Each tweet is read with its own picture and with those of some others:

- own above other's: how often the own picture has the higher relevance, ties half. Of related tweets only, where the
  data set says which are.
- ceiling: the same of an oracle that knows the tweet's topic and whether it is in a picture (the sample alone): other
  tweets' pictures have it too, by chance, and nothing in a tweet tells these from its own.
- AUC related / unrelated, with own pictures and with others' (which is what the words alone say).
- the same with the text kept apart: each figure is replaced by the share of the others' pictures whose figure, with
  the same text, is lower. What depends on the words alone is gone from that.
"""

import argparse
import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.metrics import roc_auc_score
from transformers import AutoConfig

from configuration_hamlearning import HamLearningConfig
from hamlearning.data.features import VisualFeatures
from hamlearning.data.tweets import load_tweets
from modeling_hamlearning import HamLearningForTokenClassification
from processing_hamlearning import HamLearningProcessor


BATCH = 64
OTHERS = 16  # pictures of other tweets that each tweet is read with


def wins(own: np.ndarray, others: np.ndarray) -> np.ndarray:
    """The share of the others (K, tweets) that each tweet's own figure (tweets,) is above, ties half."""
    return ((own > others) + 0.5 * (own == others)).mean(axis=0)


@torch.no_grad()
def read_pairs(model: Any, processor: Any, tweets: list[list[str]], rows: list[Any], shifts: list[int]) -> np.ndarray:
    """The relevance of each tweet with the picture that stands so many places further: (shifts, tweets, columns)."""
    found = []
    for shift in shifts:
        shown = rows[shift:] + rows[:shift]
        parts = []
        for first in range(0, len(tweets), BATCH):
            inputs = processor(text=tweets[first : first + BATCH], visual_features=shown[first : first + BATCH])
            parts.append(model(**inputs).relevance.abs().float())
        found.append(torch.cat(parts).numpy())
    return np.stack(found)


def ceiling(tweets: list[list[str]], rows: list[Any], shifts: list[int], is_related: np.ndarray) -> float:
    """Own above other's of an oracle that knows which objects are in a picture and which of them the tweet names."""
    path = Path(__file__).parents[1] / "datasets" / "sample" / "make_sample.py"
    spec: Any = importlib.util.spec_from_file_location("make_sample", path)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    named = [next(word.lower() for word in words if word.lower() in script.TOPICS) for words in tweets]
    seen = [{script.CLASS_NAMES[class_id] for class_id in row["class_ids"]} for row in rows]
    has = [np.array([topic in there for topic, there in zip(named, seen[s:] + seen[:s], strict=True)]) for s in shifts]
    return float(wins(has[0], np.stack(has[1:]))[is_related].mean())


def figures(relevance: np.ndarray, is_related: np.ndarray) -> list[float]:
    """The columns of the table from the relevance (1 + K, tweets) of one column; the first is of the own pictures."""
    own, others = relevance[0], relevance[1:]
    share = wins(own, others)
    if is_related.all():
        return [share.mean()]
    # Of the others each in turn against the rest, as the own one is.
    shares = [wins(others[k], np.delete(others, k, axis=0)) for k in range(len(others))]
    return [
        share[is_related].mean(),
        roc_auc_score(is_related, own),
        float(np.mean([roc_auc_score(is_related, other) for other in others])),
        roc_auc_score(is_related, share),
        float(np.mean([roc_auc_score(is_related, other) for other in shares])),
        own[is_related].mean(),
        own[~is_related].mean(),
        others[:, is_related].mean(),
    ]


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", help="output folders of run_mner.py")
    parser.add_argument("--data_dir", required=True, help="folder of the data set")
    parser.add_argument("--split", default="test", help="which of its splits")
    parser.add_argument("--visual_features", help="visual features [visual_features.parquet of the data folder]")
    parser.add_argument("--seed", type=int, default=0, help="of which others' pictures are shown")
    options = parser.parse_args()
    AutoConfig.register("hamlearning", HamLearningConfig, exist_ok=True)
    split = load_tweets(options.data_dir)[options.split]
    features = VisualFeatures(options.visual_features or Path(options.data_dir) / "visual_features.parquet")
    kept = [place for place, id_ in enumerate(split["id"]) if features.get(id_) is not None]
    tweets, rows = [split["tokens"][place] for place in kept], [features.get(split["id"][place]) for place in kept]
    is_sample = "related" in split.column_names
    is_related = np.array([split["related"][place] if is_sample else True for place in kept], bool)
    random = np.random.default_rng(options.seed)
    shifts = [0, *random.choice(np.arange(1, len(kept)), OTHERS, replace=False).tolist()]

    heads = ["own above other's"]
    if is_sample:
        heads += ["AUC own", "AUC others'", "AUC own, text apart", "AUC others', text apart", "mean related"]
        heads += ["mean unrelated", "mean others'"]
        print(f"ceiling of own above other's: {ceiling(tweets, rows, shifts, is_related):.3f}\n")
    print(f"| model | relevance | {' | '.join(heads)} |\n|{'---|' * (2 + len(heads))}")
    for folder in options.models:
        model = HamLearningForTokenClassification.from_pretrained(folder).eval()
        relevance = read_pairs(model, HamLearningProcessor.from_pretrained(folder), tweets, rows, shifts)
        for column, name in enumerate(model.config.relevance_columns):
            cells = " | ".join(f"{value:.3f}" for value in figures(relevance[..., column], is_related))
            print(f"| {Path(folder).name} | {name} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
