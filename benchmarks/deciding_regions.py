#!/usr/bin/env python
"""Whether the region with the largest effect is one that decided, on the sample, where it is known which did.

```bash
python benchmarks/deciding_regions.py outputs/sample_regions --data_dir datasets/sample/generated --plot deletion.png
```

Of each test tweet that a scene or an arrangement decides, and whose ambiguous name was found with its right type: is
the region that comes first one of the objects that decide? First by the effect of hiding it (`model.explain`), by the
words' attention to it (Eq 15, mean over rounds, heads and the entity's words), or by chance. The deletion curve hides
regions in each of these orders, and follows the probability of the entity: the faster it falls, the better the order.
"""

import argparse
import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig

from configuration_hamlearning import HamLearningConfig
from hamlearning.data.features import VisualFeatures
from hamlearning.data.tweets import load_tweets, tag_names
from modeling_hamlearning import HamLearningForTokenClassification
from processing_hamlearning import HamLearningProcessor
from words_hamlearning import entity_spans


ORDERS = ("effect", "attention", "random")
STEPS = np.linspace(0, 1, 11)  # shares of the regions that are hidden


def sample_script() -> Any:
    """`make_sample.py`, which knows the names and the topics."""
    path = Path(__file__).parents[1] / "datasets" / "sample" / "make_sample.py"
    spec: Any = importlib.util.spec_from_file_location("make_sample", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def ambiguous_span(tokens: list[str], tags: list[str], names: set[str]) -> tuple[str, int, int] | None:
    """Type, first word and word after the last of the tweet's name that may be of any type."""
    for type_, first, end in entity_spans(tags):
        if " ".join(tokens[first:end]).lower() in names:
            return type_, first, end
    return None


@torch.no_grad()
def attention_to_regions(model: HamLearningForTokenClassification, inputs: Any, span: tuple[int, int]) -> np.ndarray:
    """The words' attention to each region (N,), mean over rounds, heads and the words of the entity."""
    rounds = torch.stack(model(**inputs, output_attentions=True).attentions)  # (L, 1, heads, W, N)
    return rounds[:, 0, :, span[0] : span[1]].mean(dim=(0, 1, 2)).numpy()


@torch.no_grad()
def probabilities_as_regions_go(
    model: HamLearningForTokenClassification, inputs: Any, path: torch.Tensor, first: int, order: np.ndarray
) -> np.ndarray:
    """The probability of the entity that begins at a word with 0, 1, ... and all regions hidden: (N + 1,)."""
    num_regions = len(order)
    shown = torch.ones(num_regions + 1, num_regions, dtype=torch.bool)
    for step, region in enumerate(order, start=1):
        shown[step:, region] = False
    rows = {name: value.repeat_interleave(num_regions + 1, dim=0) for name, value in inputs.items()}
    rows["region_mask"] = rows["region_mask"].bool() & shown
    logits = model(**rows).logits
    path, mask = path.expand(num_regions + 1, -1), torch.ones(logits.shape[:2], dtype=torch.bool)
    return model.crf.span_probabilities(logits, path, mask, *model._tag_tables())[:, first].numpy()


def measure(model: Any, processor: Any, test: Any, features: VisualFeatures, seed: int) -> dict[str, dict]:
    """By what decides, and by order: `hits` (0 or 1 a tweet) and `curve` (probabilities at `STEPS`); and `chance`."""
    script, rng = sample_script(), np.random.default_rng(seed)
    names = {name.lower() for name in script.NAMES}
    topics = {script.CLASS_NAMES.index(topic) for topic in script.TOPICS}
    found: dict[str, dict] = {}
    for id_, tokens, gold, decider in zip(
        test["id"], test["tokens"], tag_names(test), test["decided_by"], strict=True
    ):
        entity = ambiguous_span(tokens, gold, names)
        if decider == "text" or entity is None:
            continue
        row = features[id_]
        inputs = processor(text=[tokens], visual_features=[row])
        explanation = model.explain(**inputs)
        tags = [processor.tags[tag] for tag in explanation.predictions[0].tolist()]
        if entity not in entity_spans(tags):
            continue
        decides = np.array([class_id not in topics for class_id in inputs["region_class_ids"][0].tolist()])
        _, first, end = entity
        values = {
            "effect": explanation.region_effects[0, first].numpy(),
            "attention": attention_to_regions(model, inputs, (first, end)),
            "random": rng.random(len(decides)),
        }
        of_decider = found.setdefault(decider, {name: {"hits": [], "curve": []} for name in ORDERS} | {"chance": []})
        of_decider["chance"].append(decides.mean())
        for name in ORDERS:
            order = np.argsort(-values[name])
            curve = probabilities_as_regions_go(model, inputs, explanation.predictions, first, order)
            of_decider[name]["hits"].append(bool(decides[order[0]]))
            of_decider[name]["curve"].append(np.interp(STEPS * len(order), np.arange(len(order) + 1), curve))
    return found


def plot(found: dict[str, dict], path: str) -> None:
    """The deletion curves as a picture."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(found), figsize=(4.2 * len(found), 3.2), sharey=True, squeeze=False)
    for axis, (decider, of_decider) in zip(axes[0], found.items(), strict=True):
        for name, style in zip(ORDERS, ("-o", "--s", ":^"), strict=True):
            curve = np.mean(of_decider[name]["curve"], axis=0)
            axis.plot(STEPS, curve, style, label=f"by {name}" if name != "random" else "at random", markersize=4)
        axis.set(title=f"decided by {decider}", xlabel="share of the regions hidden", ylim=(0, 1.02))
        axis.spines[["top", "right"]].set_visible(False)
    axes[0, 0].set_ylabel("probability of the entity")
    axes[0, -1].legend(frameon=False)
    figure.tight_layout()
    figure.savefig(path, dpi=130)


def main() -> None:
    """Prints the table and draws the plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="output folder of run_mner.py")
    parser.add_argument("--data_dir", required=True, help="folder that make_sample.py wrote")
    parser.add_argument("--visual_features", help="visual features [the drawn objects, in the data folder]")
    parser.add_argument("--plot", help="file of the deletion curves")
    parser.add_argument("--seed", type=int, default=0, help="of the random order")
    options = parser.parse_args()
    AutoConfig.register("hamlearning", HamLearningConfig, exist_ok=True)
    model = HamLearningForTokenClassification.from_pretrained(options.model, attn_implementation="eager").eval()
    processor = HamLearningProcessor.from_pretrained(options.model)
    features = VisualFeatures(options.visual_features or Path(options.data_dir) / "visual_features.parquet")
    found = measure(model, processor, load_tweets(options.data_dir)["test"], features, options.seed)
    print("| decided by | tweets | by effect | by attention | at random | p with half hidden by each |")
    print("|---|---|---|---|---|---|")
    for decider, of_decider in sorted(found.items()):
        shares = [f"{100 * np.mean(of_decider[name]['hits']):.1f}" for name in ("effect", "attention")]
        half = " / ".join(f"{np.mean(of_decider[name]['curve'], axis=0)[5]:.2f}" for name in ORDERS)
        chance = f"{100 * np.mean(of_decider['chance']):.1f}"
        print(f"| {decider} | {len(of_decider['chance'])} | {shares[0]} | {shares[1]} | {chance} | {half} |")
    if options.plot:
        plot(dict(sorted(found.items())), options.plot)


if __name__ == "__main__":
    main()
