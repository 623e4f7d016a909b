#!/usr/bin/env python
"""Whether scores of entities are probabilities, before a temperature is fitted on dev and with it.

```bash
python benchmarks/reliability.py outputs/twitter2017 --data_dir datasets/twitter2017 \
    --visual_features datasets/twitter2017/caption_features.parquet --plot reliability.png
```

A row a model and a split. `temperature` is fitted on dev alone, as a training does it; no tag depends on it. ECE is
over ten bins of equal width; Brier the mean of (score - 1)² of right entities and score² of wrong ones; log loss the
mean of -log p of what is so. Each before and after; of Brier and log loss also the 95 % interval of the change,
bootstrap over tweets. The plot is of the test split of the first model. Several seeds of one thing are several models.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from matplotlib.figure import Figure

from hamlearning.data.features import VisualFeatures
from hamlearning.data.tweets import load_tweets, tag_names
from hamlearning.rivals.architectures import architecture_of, class_of, processor_class_of, register
from hamlearning.scores.calibration import calibration
from hamlearning.scores.significance import draws, interval
from hamlearning.training.temperature import LEAST, Entities, fit_temperature, log_loss, span_scorer
from words_hamlearning import entity_spans


BATCH = 64
SAMPLES = 1000
STYLES = {"before": ("0.6", "o"), "after": ("tab:blue", "s")}


@torch.no_grad()
def read_entities(model: Any, processor: Any, split: Dataset, features: VisualFeatures | None) -> Entities:
    """The entities that a model finds in a split, as `temperature.predict_entities` has them."""
    rows = sorted(zip(split["tokens"], tag_names(split), split["id"], strict=True), key=lambda row: -len(row[0]))
    emissions, paths = [], []
    for first in range(0, len(rows), BATCH):
        tweets, _, ids = zip(*rows[first : first + BATCH], strict=True)
        shown = {} if features is None else {"visual_features": [features.get(id_) for id_ in ids]}
        outputs = model(**processor(text=[list(words) for words in tweets], **shown))
        emissions += outputs.logits.double().unbind()
        paths += outputs.predictions.unbind()
    found = []
    for row, ((_, gold, _), path) in enumerate(zip(rows, paths, strict=True)):
        spans = entity_spans([processor.tags[tag] for tag in path.tolist() if tag != -100])
        found += [(row, span[1], span in entity_spans(gold)) for span in spans]
    columns, pad = torch.tensor(found), torch.nn.utils.rnn.pad_sequence
    path = pad(paths, batch_first=True, padding_value=-100)
    places = columns[:, 0], columns[:, 1]
    return Entities(pad(emissions, batch_first=True), path.clamp(min=0), path != -100, *places, columns[:, 2].bool())


def losses_of(log_probabilities: torch.Tensor, is_right: torch.Tensor) -> np.ndarray:
    """Of each entity what Brier and log loss are the means of, (K, 2)."""
    p = log_probabilities.exp().clamp(max=1)
    happened = torch.where(is_right, p, -torch.expm1(log_probabilities.clamp(max=0))).clamp(min=LEAST)
    return torch.stack([(p - is_right.double()) ** 2, -happened.log()], dim=1).numpy()


def change_intervals(entities: Entities, before: torch.Tensor, after: torch.Tensor) -> list[list[float]]:
    """The 95 % intervals of the changes of Brier and log loss, bootstrap over tweets."""
    tweets = len(entities.emissions)
    counts = np.zeros((tweets, 3))  # the sums of both changes, and the number of entities
    change = losses_of(after, entities.is_right) - losses_of(before, entities.is_right)
    np.add.at(counts, entities.rows.numpy(), np.column_stack([change, np.ones(len(change))]))
    sums = np.concatenate([times @ counts for times in draws(tweets, SAMPLES, np.random.default_rng(0))])
    return [interval(sums[:, column] / sums[:, 2]) for column in (0, 1)]


def measured(entities: Entities, score: Any, temperature: float) -> tuple[torch.Tensor, dict[str, Any]]:
    """Log probabilities of the entities at a temperature, and what they score."""
    log_probabilities = score(temperature)
    figures = calibration(log_probabilities.exp().clamp(max=1).tolist(), entities.is_right.tolist())
    return log_probabilities, figures | {"log_loss": log_loss(log_probabilities, entities.is_right)}


def draw(figures: dict[str, dict[str, Any]], temperature: float, path: Path) -> None:
    """The reliability plot: share of right entities over mean score of each bin, and how many there are."""
    figure = Figure(figsize=(5, 5.4))
    axis, below = figure.subplots(2, height_ratios=(4, 1), sharex=True)
    axis.plot((0, 1), (0, 1), color="0.8", linewidth=1)
    for place, (name, found) in enumerate(figures.items()):
        colour, marker = STYLES[name]
        label = f"{name}: ECE {100 * found['ece']:.1f} %, Brier {100 * found['brier']:.1f} %"
        bins = [row for row in found["bins"] if row["number"]]
        axis.plot([r["score"] for r in bins], [r["right"] for r in bins], color=colour, marker=marker, label=label)
        below.bar(
            [row["low"] + 0.03 + 0.04 * place for row in bins],
            [row["number"] for row in bins],
            width=0.035,
            color=colour,
        )
    axis.set_ylabel("share of entities that are right")
    axis.set_title(f"temperature {temperature:.2f}, fitted on dev", fontsize=10)
    axis.legend(frameon=False, fontsize=9)
    below.set(xlabel="score", ylabel="entities", xlim=(0, 1))
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main() -> None:
    """Prints the table, and draws the plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", help="output folders of `hamlearning train`")
    parser.add_argument("--data_dir", required=True, help="folder of the data set")
    parser.add_argument("--visual_features", help="visual feature file [none: text alone]")
    parser.add_argument("--plot", type=Path, help="where the reliability plot goes")
    options = parser.parse_args()
    tweets = load_tweets(options.data_dir)
    features = None if options.visual_features is None else VisualFeatures(options.visual_features)
    heads = ("model", "temperature", "split", "entities", "ECE", "Brier (change)", "log loss (change)")
    print(f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}")
    for place, folder in enumerate(options.models):
        architecture = architecture_of(folder)
        register(architecture)
        model = class_of(architecture).from_pretrained(folder).eval()
        processor, temperature = processor_class_of(architecture).from_pretrained(folder), 1.0
        for split in ("validation", "test"):
            entities = read_entities(model, processor, tweets[split], features)
            score = span_scorer(model, entities)
            if split == "validation":
                temperature = fit_temperature(score, entities.is_right)
            (plain, before), (other, after) = (measured(entities, score, t) for t in (1.0, temperature))
            (low, high), (lower, higher) = change_intervals(entities, plain, other)
            print(
                f"| {Path(folder).name} | {temperature:.2f} | {split} | {before['number']} "
                f"| {100 * before['ece']:.2f}, {100 * after['ece']:.2f} "
                f"| {100 * before['brier']:.2f}, {100 * after['brier']:.2f} ({100 * low:+.2f} to {100 * high:+.2f}) "
                f"| {before['log_loss']:.3f}, {after['log_loss']:.3f} ({lower:+.3f} to {higher:+.3f}) |",
                flush=True,
            )
            if split == "test" and place == 0 and options.plot is not None:
                draw({"before": before, "after": after}, temperature, options.plot)


if __name__ == "__main__":
    main()
