#!/usr/bin/env python
"""Tweets a second that the network tags, by batch size and by length.

```bash
python benchmarks/inference.py bert-base --json inference.json
python benchmarks/inference.py minilm --data_dir datasets/twitter2017 --tokenizer MODEL --kinds text captions
```

Timed is the network from tensors to tags and entities' probabilities on the host: forward pass, Viterbi and
forward-backward. Making the tensors is not in it; `pipeline_speed.py` times everything. The weights are random; bf16
are weights in bfloat16, as `pipeline(dtype="bfloat16")` loads them. Kinds: text alone, pictures with captions (0 to 6
regions, two on average), and pictures with 15 regions.

By batch size: tweets of Twitter-2017's lengths (see `training_step.py`), those of like length together. By length:
batches of `--batch_size`, every tweet of so many sub-tokens; seven eighths as many words, as in the median tweet.

Rounds alternate between all points of a kind; reported are the medians and, in the file, the spread: the largest
minus the smallest, over the median. On a CPU a second pair of tables says how far each point is from the limit: its
time over that of its multiply-adds (`operations.py`) at the rate of a large product of matrices in the same precision.
"""

import argparse
import copy
import statistics

import torch
from transformers import set_seed

from configuration_hamlearning import HamLearningConfig
from hamlearning.training.batches import with_lengths
from modeling_hamlearning import HamLearningForTokenClassification
from operations import count_operations
from workload import (
    KINDS,
    add_workload_arguments,
    kind_config,
    make_collator,
    print_table,
    products_a_second,
    random_batch,
    read_tweets,
    sizes_of,
    spread,
    time_rounds,
    write_figures,
)


REGIONS = {"text": 0, "captions": 2, "regions": 15}  # of a tweet, by length


def batches_by_size(rows: list[dict], collate, sizes: list[int]) -> dict[str, list[dict]]:
    """All the tweets in batches of each size."""
    return {
        f"batch {size}": [collate(rows[first : first + size]) for first in range(0, len(rows), size)] for size in sizes
    }


def batches_by_length(config, kind: str, batch_size: int, lengths: list[int]) -> dict[str, list[dict]]:
    """One batch of tweets of each length."""
    return {
        f"{length} sub-tokens": [random_batch(config, batch_size, length, max(7 * length // 8 - 2, 1), REGIONS[kind])]
        for length in lengths
    }


def time_inference(models: dict[str, torch.nn.Module], batches: dict[str, list[dict]], rounds: int) -> dict[str, dict]:
    """`{precision: {point: figures}}`."""
    model = next(iter(models.values()))
    device = model.device
    counted = {name: multiply_adds(model.config, several) for name, several in batches.items()}
    rates = {precision: products_a_second(precision) for precision in models} if device.type == "cpu" else {}
    for several in batches.values():
        for batch in several:
            batch.pop("labels", None)
            batch.update({name: tensor.to(device) for name, tensor in batch.items()})

    @torch.no_grad()
    def tag(precision, name):
        for batch in batches[name]:
            outputs = models[precision](**batch)
            outputs.predictions.cpu(), outputs.scores.cpu()

    points = [(precision, name) for precision in models for name in batches]
    seconds = time_rounds({point: lambda point=point: tag(*point) for point in points}, rounds)
    figures: dict[str, dict] = {precision: {} for precision in models}
    for (precision, name), values in seconds.items():
        speeds = [sum(len(batch["input_ids"]) for batch in batches[name]) / value for value in values]
        figures[precision][name] = {"tweets_per_second": statistics.median(speeds), "spread": spread(speeds)}
        if precision in rates:
            figures[precision][name]["over_limit"] = statistics.median(values) * rates[precision] / counted[name]
    return figures


def multiply_adds(config: HamLearningConfig, batches: list[dict]) -> int:
    """Of the forward passes of all batches, as they are padded."""
    parts = [part for batch in batches for part in count_operations(config, **sizes_of(batch)).values()]
    return sum(part.multiply_adds for part in parts)


def main():
    """Prints two tables, and writes them as JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_workload_arguments(parser)
    parser.set_defaults(tweets=128)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS), help="of tweets")
    parser.add_argument("--batch_sizes", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32, 64, 128])
    parser.add_argument("--lengths", type=int, nargs="+", default=[8, 16, 32, 64, 128], help="sub-tokens")
    parser.add_argument("--batch_size", type=int, default=32, help="of the tweets by length")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()

    tweets, tokenizer = read_tweets(options)
    device = torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    setting = {"tweets": len(tweets), "rounds": options.rounds, "device": device.type}
    setting |= {"threads": torch.get_num_threads(), "torch": torch.__version__}
    figures = {"config": options.config, "batch_size": options.batch_size} | setting | {"tweets_per_second": {}}
    print(setting)
    for kind in options.kinds:
        set_seed(1)
        config = kind_config(options.config, kind)
        collate = make_collator(config, kind, tweets, tokenizer)
        rows = sorted(with_lengths(tweets, collate.processor), key=lambda row: row["length"])
        batches = batches_by_size(rows, collate, options.batch_sizes)
        batches |= batches_by_length(config, kind, options.batch_size, options.lengths)
        model = HamLearningForTokenClassification(config).eval().to(device)
        models = {"fp32": model, "bf16": copy.deepcopy(model).bfloat16()}
        found = time_inference({p: models[p] for p in options.precisions}, batches, options.rounds)
        figures["tweets_per_second"] |= {f"{kind} {precision}": rates for precision, rates in found.items()}
    shown = {"tweets/s": "tweets_per_second"} | ({"times the limit": "over_limit"} if device.type == "cpu" else {})
    for title, quantity in shown.items():
        for points in ([f"batch {n}" for n in options.batch_sizes], [f"{n} sub-tokens" for n in options.lengths]):
            print()
            rows = [
                [case, *(f"{found[name][quantity]:.1f}" for name in points)]
                for case, found in figures["tweets_per_second"].items()
            ]
            print_table([title, *points], rows)
    write_figures(figures, options)


if __name__ == "__main__":
    main()
