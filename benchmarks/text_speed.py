#!/usr/bin/env python
"""What int8, and several tweets in one row, would bring to prediction of text on a CPU, beside what is done.

```bash
hamlearning export outputs/one outputs/one_fp32 --precision fp32
pip install nncf
python benchmarks/text_speed.py outputs/one outputs/one_fp32 --data_dir my/twitter2017 --json figures.json
```

**int8.** The exported network is computed in float32, in bfloat16, and in int8: quantised after training by `nncf`
(weights and activations, calibrated on `--calibration` tweets of the train split; with and without its smoothing of
activations), or with int8 weights whose activations OpenVINO quantises as they come. Timed are the way from split
words to entities, as in `exported.py`, and the network alone on the same batches. Agreement is with float32. To be
kept, int8 must have 1.4 times bfloat16's tweets a second, the same entities in 99% of the tweets, and F1 within 0.2.

**Packing.** Tweets are grouped by length, so that padding is what packing can save: its share is counted by batch
size. And the trained text encoder, in PyTorch and bfloat16, reads the tweets in batches of like length, and packed
into rows of `--row` sub-tokens in which each attends to its own tweet alone. To be kept, it must gain 1.15.

Rounds alternate; reported are medians, and of ratios the medians of the ratios within a round.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import torch
from datasets import Dataset
from transformers import pipeline
from transformers.pipelines.base import Pipeline

from exported import BATCH_SIZE, f1, find_entities, spans
from exported_hamlearning import CORE, TEXT_INPUTS, cut_network, network_settings, read_network
from hamlearning.data.tweets import load_tweets
from modeling_hamlearning import HamLearningForTokenClassification
from networks_hamlearning import untold
from workload import print_table


BATCH_SIZES = (8, 32, 64)
GROUPS = (32, 128, 384)  # of numbers that share a scale, where activations are quantised as they come


# ------------------------------------------------------------------------------------------------------------- int8


def as_arrays(ner: Pipeline, tweets: list[list[str]]) -> dict[str, np.ndarray]:
    """The text's inputs of the network."""
    inputs = ner.processor(text=tweets)
    return {name: inputs[name].numpy() for name in TEXT_INPUTS}


def make_contestants(ner: Pipeline, network: openvino.Model, tweets: list[list[str]]) -> dict[str, Any]:
    """Compiled networks by their names; those of int8 where nncf is installed."""
    text = cut_network(network, "text")
    found = {name: (text, network_settings(name)) for name in ("fp32", "bf16")}
    try:
        with untold():
            import nncf  # pyright: ignore[reportMissingImports]  # an experiment's
        from nncf.quantization.advanced_parameters import AdvancedQuantizationParameters, AdvancedSmoothQuantParameters
    except ImportError:
        print("nncf is not installed (pip install nncf): no int8")
        return {name: CORE.compile_model(part, "CPU", settings) for name, (part, settings) in found.items()}
    batches = [as_arrays(ner, tweets[first : first + 4]) for first in range(0, len(tweets), 4)]
    unsmoothed = AdvancedSmoothQuantParameters(convolution=-1, matmul=-1)
    for name, smoothing in {"int8": AdvancedSmoothQuantParameters(), "int8, not smoothed": unsmoothed}.items():
        quantised = nncf.quantize(
            text.clone(),
            nncf.Dataset(batches),
            subset_size=len(batches),
            model_type=nncf.ModelType.TRANSFORMER,
            advanced_parameters=AdvancedQuantizationParameters(smooth_quant_alphas=smoothing),
        )
        found[name] = quantised, network_settings("bf16")
    weights = nncf.compress_weights(text.clone(), mode=nncf.CompressWeightsMode.INT8_SYM)
    for group in GROUPS:
        settings = network_settings("bf16") | {"DYNAMIC_QUANTIZATION_GROUP_SIZE": group}
        found[f"int8 weights, activations by {group}"] = weights, settings
    return {name: CORE.compile_model(part, "CPU", settings) for name, (part, settings) in found.items()}


def compare_precisions(ner: Pipeline, compiled: dict[str, Any], rows: Dataset, rounds: int) -> dict[str, dict]:
    """Agreement with float32, F1, and speed, of the whole way and of the network alone."""
    trunk = ner.model.model
    by_length = sorted(rows["tokens"][:], key=lambda tokens: sum(map(len, tokens)))
    batches = [as_arrays(ner, by_length[first : first + BATCH_SIZE]) for first in range(0, len(rows), BATCH_SIZE)]

    def read(name: str) -> list[list[dict]]:
        trunk.compiled["text"] = compiled[name]
        return find_entities(ner, rows, None)

    def compute(name: str) -> None:
        for batch in batches:
            compiled[name](batch)

    entities = {name: read(name) for name in compiled}
    whole = time_rounds({name: lambda name=name: read(name) for name in compiled}, rounds)
    alone = time_rounds({name: lambda name=name: compute(name) for name in compiled}, rounds)
    return {
        name: {
            "same_entities": 100 * statistics.mean(
                spans(one) == spans(other) for one, other in zip(entities["fp32"], entities[name], strict=True)
            ),
            "f1": f1(entities[name], rows),
            "tweets_per_second": len(rows) / statistics.median(whole[name]),
            "over_bf16": ratio(whole["bf16"], whole[name]),
            "network_tweets_per_second": len(rows) / statistics.median(alone[name]),
            "network_over_bf16": ratio(alone["bf16"], alone[name]),
        }
        for name in compiled
    }  # fmt: skip


def time_rounds(contestants: dict[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each, after a round that is not timed."""
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for round_ in range(rounds + 1):
        for name, contestant in contestants.items():
            start = time.perf_counter()
            contestant()
            if round_ > 0:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def ratio(ones: list[float], others: list[float]) -> float:
    """How many times faster the others are: the median of the rounds' ratios."""
    return statistics.median(one / other for one, other in zip(ones, others, strict=True))


# ---------------------------------------------------------------------------------------------------------- packing


def padding(lengths: list[int], size: int) -> float:
    """Sub-tokens with padding over sub-tokens, where tweets of like length go together."""
    ordered = np.sort(lengths)
    return sum(batch.max() * len(batch) for batch in np.split(ordered, range(size, len(ordered), size))) / sum(lengths)


def pack(lengths: list[int], row: int) -> list[list[int]]:
    """Which tweets share a row: the longest first, each into the first row with room."""
    rows: list[list[int]] = []
    room: list[int] = []
    for place in np.argsort(lengths)[::-1]:
        length = lengths[place]
        found = next((index for index, free in enumerate(room) if free >= length), None)
        if found is None:
            rows.append([])
            room.append(row)
            found = len(rows) - 1
        rows[found].append(int(place))
        room[found] -= length
    return rows


def grouped_batches(tweets: list[list[int]], size: int) -> list[dict[str, torch.Tensor]]:
    """Inputs of the encoder, tweets of like length together."""
    ordered = sorted(tweets, key=len)
    batches = []
    for first in range(0, len(ordered), size):
        chosen = [torch.tensor(ids) for ids in ordered[first : first + size]]
        input_ids = torch.nn.utils.rnn.pad_sequence(chosen, batch_first=True)
        lengths = torch.tensor([len(ids) for ids in chosen])
        mask = torch.arange(input_ids.shape[1]) < lengths[:, None]
        batches.append({"input_ids": input_ids, "attention_mask": mask.long()})
    return batches


def packed_batches(tweets: list[list[int]], row: int, size: int) -> list[dict[str, torch.Tensor]]:
    """The same for rows of several tweets; `size` tweets' worth of sub-tokens go together."""
    rows = pack([len(ids) for ids in tweets], row)
    a_batch = max(round(size * statistics.mean(map(len, tweets)) / row), 1)
    batches = []
    for first in range(0, len(rows), a_batch):
        chosen = rows[first : first + a_batch]
        input_ids, positions, owners = (torch.zeros(len(chosen), row, dtype=torch.long) for _ in range(3))
        for index, places in enumerate(chosen):
            end = 0
            for number, place in enumerate(places, start=1):
                begin, end = end, end + len(tweets[place])
                input_ids[index, begin:end] = torch.tensor(tweets[place])
                positions[index, begin:end] = torch.arange(end - begin)
                owners[index, begin:end] = number
        attends = (owners[:, None, :, None] == owners[:, None, None, :]).expand(-1, 1, -1, -1)
        mask = torch.zeros(attends.shape, dtype=torch.bfloat16).masked_fill(~attends, -1e9)
        batches.append({"input_ids": input_ids, "position_ids": positions, "attention_mask": mask})
    return batches


def compare_packing(trained: str, tokenizer: Any, rows: Dataset, row: int, rounds: int) -> dict[str, Any]:
    """Padding by batch size, and the encoder's speed in batches of like length and in rows of several tweets."""
    tweets = [tokenizer(tokens, is_split_into_words=True)["input_ids"] for tokens in rows["tokens"]]
    encoder = HamLearningForTokenClassification.from_pretrained(trained, dtype=torch.bfloat16).eval().model.text_model
    kinds = {
        "batches of like length": grouped_batches(tweets, BATCH_SIZE),
        "rows of several tweets": packed_batches(tweets, row, BATCH_SIZE),
    }

    @torch.inference_mode()
    def read(name: str) -> None:
        for batch in kinds[name]:
            encoder(**batch)

    seconds = time_rounds({name: lambda name=name: read(name) for name in kinds}, rounds)
    return {
        "padding": {size: padding(list(map(len, tweets)), size) for size in BATCH_SIZES},
        "rows": sum(len(batch["input_ids"]) for batch in kinds["rows of several tweets"]),
        "tweets_per_second": {name: len(rows) / statistics.median(values) for name, values in seconds.items()},
        "gain": ratio(*seconds.values()),
    }


def main() -> None:
    """Prints two tables, and writes them as JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trained", help="folder or Hub id")
    parser.add_argument("exported", help="folder of its export, in fp32")
    parser.add_argument("--data_dir", required=True)
    parser.add_argument("--tweets", type=int, help="the first so many of the dev split (default: all)")
    parser.add_argument("--calibration", type=int, default=300, help="tweets of the train split for nncf")
    parser.add_argument("--row", type=int, default=128, help="sub-tokens of a row of several tweets")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", help="also write the figures here")
    options = parser.parse_args()

    tweets = load_tweets(options.data_dir)
    rows = tweets["validation"]
    rows = rows.select(range(min(options.tweets or len(rows), len(rows))))
    ner = pipeline(model=options.exported, trust_remote_code=True)
    network = read_network(ner.model.model.network_files)
    compiled = make_contestants(ner, network, tweets["train"]["tokens"][: options.calibration])
    figures = {"int8": compare_precisions(ner, compiled, rows, options.rounds)}
    figures["packing"] = compare_packing(options.trained, ner.processor.tokenizer, rows, options.row, options.rounds)

    print(f"\n{len(rows)} dev tweets, {torch.get_num_threads()} threads, median of {options.rounds} rounds\n")
    names = ["same entities, %", "F1", "tweets/s", "over bf16", "network alone, tweets/s", "over bf16"]
    precisions = [1, 2, 0, 2, 0, 2]
    cells = [
        [name, *(f"{value:.{digits}f}" for value, digits in zip(found.values(), precisions, strict=True))]
        for name, found in figures["int8"].items()
    ]
    print_table(["", *names], cells)
    packing = figures["packing"]
    shares = ", ".join(f"{share:.3f} in batches of {size}" for size, share in packing["padding"].items())
    print(f"\nsub-tokens with padding over sub-tokens: {shares}")
    for name, speed in packing["tweets_per_second"].items():
        print(f"encoder, {name}: {speed:.0f} tweets/s")
    print(f"gain of rows of several tweets: {packing['gain']:.2f}")
    if options.json:
        Path(options.json).write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
