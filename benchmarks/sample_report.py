#!/usr/bin/env python
"""What a model trained on the sample has learned: F1 by what decides a tweet, and what its relevance measures.

```bash
python benchmarks/sample_report.py outputs/demo --data_dir datasets/sample/generated
```

The AUC says how well |C^r| (Eq 8) tells the tweets with a related picture from the others. Beside it stands the AUC
when every tweet keeps its text and gets the picture of another one: what is left of it then came from the text alone.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from seqeval.metrics import f1_score
from sklearn.metrics import roc_auc_score
from transformers import AutoConfig

from configuration_hamlearning import HamLearningConfig
from hamlearning.data.features import VisualFeatures
from hamlearning.data.tweets import load_tweets
from hamlearning.data.tweets import tag_names as gold_tags
from hamlearning.training.vision import picture_source
from modeling_hamlearning import HamLearningForTokenClassification
from processing_hamlearning import HamLearningDataCollator, HamLearningProcessor


BATCH = 64
SHUFFLES = 5


@torch.no_grad()
def run(model, collator: HamLearningDataCollator, rows: list[dict], tags: list[str]):
    """Predicted tags of every tweet, and |C^r| (tweets, views) or None."""
    predictions, relevance = [], []
    for start in range(0, len(rows), BATCH):
        outputs = model(**collator(rows[start : start + BATCH]))
        predictions += [[tags[tag] for tag in row if tag != -100] for row in outputs.predictions.tolist()]
        if outputs.relevance is not None:
            relevance.append(outputs.relevance.abs().double())
    return predictions, torch.cat(relevance).numpy() if relevance else None


def main():
    """Prints both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="output folder of run_mner.py")
    parser.add_argument("--data_dir", required=True, help="folder that make_sample.py wrote")
    parser.add_argument("--visual_features", help="visual features [the drawn objects, in the data folder]")
    options = parser.parse_args()
    AutoConfig.register("hamlearning", HamLearningConfig, exist_ok=True)
    model = HamLearningForTokenClassification.from_pretrained(options.model).eval()
    processor = HamLearningProcessor.from_pretrained(options.model)
    tweets = load_tweets(options.data_dir)
    test = tweets["test"]
    rows = [{"id": id_, "tokens": tokens} for id_, tokens in zip(test["id"], test["tokens"], strict=True)]
    features = VisualFeatures(options.visual_features or Path(options.data_dir) / "visual_features.parquet")
    predictions, relevance = run(model, HamLearningDataCollator(processor, features), rows, processor.tags)

    print("| decided by | tweets | F1 |\n|---|---|---|")
    gold, deciders = gold_tags(test), test["decided_by"][:]
    for decider in ("scene", "arrangement", "text"):
        chosen = [i for i, name in enumerate(deciders) if name == decider]
        f1 = f1_score([gold[i] for i in chosen], [predictions[i] for i in chosen])
        print(f"| {decider} | {len(chosen)} | {100 * f1:.1f} |")
    if relevance is None:
        return
    others = []
    for seed in range(SHUFFLES):
        pictures = picture_source(tweets, features, shuffle=True, seed=seed)
        others.append(run(model, HamLearningDataCollator(processor, pictures), rows, processor.tags)[1])
    related = np.array(test["related"][:])
    print("\n| view | AUC of \\|C\\| | with other pictures | mean \\|C\\| | spread |\n|---|---|---|---|---|")
    for column, view in enumerate(model.config.visual_views):
        own = relevance[:, column]
        other = np.mean([roc_auc_score(related, values[:, column]) for values in others])
        print(f"| {view} | {roc_auc_score(related, own):.3f} | {other:.3f} | {own.mean():.3f} | {own.std():.3f} |")


if __name__ == "__main__":
    main()
