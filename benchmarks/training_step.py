#!/usr/bin/env python
"""A training step by part, beside what is counted of each.

```bash
python benchmarks/training_step.py bert-base --json step.json
python benchmarks/training_step.py minilm --data_dir datasets/twitter2017 --tokenizer MODEL --trace trace.json
```

The network has random weights, the pictures random features: with captions (0 to 6 regions, two on average) and with
15 regions each. The tweets are those of `--data_dir`, split by `--tokenizer`; without them, tweets of made-up words
whose numbers of words and of sub-tokens have the quantiles of Twitter-2017's training split. Batches are those of
`run_mner.py`: through its Trainer's data loader, grouped by length, and with its optimiser.

A round times every case (captions and regions, fp32 and bf16) on the same batches: each step once by part, with a
clock that hooks of the modules switch, and once as a whole. A part's backward pass runs from the gradient of its
output to the gradient of what went before it. Reported are medians over the rounds, and the spread: the largest
minus the smallest, over the median. On an accelerator the clock waits for the device, so there the parts sum to more
than the whole.

`times the limit` is a step's time, on a CPU, over that of its multiply-adds at the rate of a large product of matrices
in the same precision. The last line of a case is the network's time but the encoder's, over the encoder's, forward
and backward, divided by the same ratio of counted multiply-adds: 1 means as fast as counted, and up to 1.3 is good.
"""

import argparse
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import contextmanager

import torch
from torch.profiler import profile, record_function

from hamlearning.training.trainer import MNERTrainer, keep_freed_memory
from modeling_hamlearning import HamLearningForTokenClassification
from operations import count_operations
from workload import (
    SIZES,
    add_workload_arguments,
    autocast,
    make_trainer,
    print_table,
    products_a_second,
    read_tweets,
    sizes_of,
    spread,
    write_figures,
)


GOOD = 1.3
# Where the parts that `operations.py` counts are in the network.
MODULES = {
    "text encoder": "model.text_model",
    "textual Transformer": "model.text_layers",
    "FFNN": "model.ffnn",
    "visual embeddings": "model.visual_embeddings",
    "semantic view": "model.semantic_encoder",
    "spatial view": "model.spatial_encoder",
    "local-global": "model.local_global",
    "relevance": "model.relevance",
    "interaction": "model.interaction",
    "classifier": "classifier",
    "CRF": "crf",
}


class Clock:
    """Seconds by part; one part runs at a time."""

    def __init__(self):
        self.seconds: dict[str, float] = defaultdict(float)
        self._part, self._since = None, 0.0

    def switch(self, part: str | None):
        """From now on `part` runs, or none."""
        if torch.accelerator.is_available():
            torch.accelerator.synchronize()
        now = time.perf_counter()
        if self._part is not None:
            self.seconds[self._part] += now - self._since
        self._part, self._since = part, now


@contextmanager
def watch_parts(model: HamLearningForTokenClassification, switch: Callable[[str], None]):
    """Calls `switch` with what a pass comes to: a part's name, then ", forward" or ", backward".

    In a profiler's trace the forward passes of the parts stand under their names.
    """
    hooks, records = [], []

    def mark(tensor: torch.Tensor, part: str):
        node = tensor.grad_fn
        if node is not None and "part" not in node.metadata:
            node.metadata["part"] = part
            node.register_prehook(lambda gradients: switch(part))

    def before(part):
        def hook(module, inputs):
            for tensor in _tensors(inputs):
                mark(tensor, "rest, backward")  # unless another part made it
            records.append(record_function(part))
            records[-1].__enter__()
            switch(f"{part}, forward")

        return hook

    def after(part):
        def hook(module, inputs, output):
            switch("rest, forward")
            records.pop().__exit__(None, None, None)
            for tensor in _tensors(output):
                mark(tensor, f"{part}, backward")

        return hook

    modules = dict(model.named_modules())
    for part, name in MODULES.items():
        if name not in modules:  # switched off
            continue
        is_list = isinstance(modules[name], torch.nn.ModuleList)  # which is never called itself
        for module in modules[name] if is_list else [modules[name]]:
            hooks += [module.register_forward_pre_hook(before(part)), module.register_forward_hook(after(part))]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _tensors(values) -> list[torch.Tensor]:
    if isinstance(values, torch.Tensor):
        return [values]
    if isinstance(values, dict):
        values = tuple(values.values())
    return [tensor for value in values for tensor in _tensors(value)] if isinstance(values, tuple | list) else []


def train_epoch(
    trainer: MNERTrainer, precision: str, clock: Clock, steps: int | None = None
) -> tuple[list[dict[str, int]], float]:
    """One pass over the tweets, or its first steps; returns the batches' sizes and the seconds."""
    model, sizes = trainer.model.train(), []
    start = time.perf_counter()
    clock.switch("waiting for data")
    for batch in trainer.get_train_dataloader():
        batch.pop("ids")
        clock.switch("rest, forward")
        with autocast(trainer.args.device, precision):
            loss = model(**batch).loss
        clock.switch("rest, backward")
        loss.backward()
        clock.switch("optimiser")
        torch.nn.utils.clip_grad_norm_(model.parameters(), trainer.args.max_grad_norm)
        trainer.optimizer.step()
        trainer.optimizer.zero_grad()
        sizes.append(sizes_of(batch))
        if len(sizes) == steps:
            break
        clock.switch("waiting for data")
    clock.switch(None)
    return sizes, time.perf_counter() - start


def time_steps(trainers: dict[str, MNERTrainer], precisions: list[str], rounds: int) -> dict[str, dict]:
    """`{case: figures}`, a case being a kind of pictures and a precision."""
    cases = [(kind, precision) for kind in trainers for precision in precisions]
    sizes: dict[tuple, list[dict[str, int]]] = {case: [] for case in cases}
    wholes: dict[tuple, list[float]] = {case: [] for case in cases}
    parts: dict[tuple, list[dict[str, float]]] = {case: [] for case in cases}
    for kind, precision in cases:
        train_epoch(trainers[kind], precision, Clock(), steps=2)  # warm up
    for round_ in range(rounds):
        for case in cases:
            trainer, precision = trainers[case[0]], case[1]
            wholes[case].append(train_epoch(trainer, precision, Clock())[1])
            clock = Clock()
            with watch_parts(trainer.model, clock.switch):
                sizes[case] += train_epoch(trainer, precision, clock)[0]
            parts[case].append(clock.seconds)
        print(f"round {round_ + 1} of {rounds}", flush=True)
    figures = {
        " ".join(case): step_figures(trainers[case[0]], sizes[case], wholes[case], parts[case]) for case in cases
    }
    if not torch.accelerator.is_available():
        rates = {precision: products_a_second(precision) for precision in precisions}
        for (_, precision), found in zip(cases, figures.values(), strict=True):
            counted = sum(found["counted_multiply_adds"].values())
            found["over_limit"] = found["step_seconds"] * rates[precision] / counted
    return figures


def step_figures(
    trainer: MNERTrainer, sizes: list[dict[str, int]], wholes: list[float], parts: list[dict[str, float]]
) -> dict:
    """Medians over rounds of a step's seconds, whole and by part, and the mean of what is counted."""
    steps = len(sizes) // len(wholes)
    counted: dict[str, float] = defaultdict(float)
    for of_batch in sizes:
        for part, count in count_operations(trainer.model.config, **of_batch).items():
            counted[part] += count.training / len(sizes)
    of_rounds = {
        name: [seconds.get(name, 0.0) / steps for seconds in parts]
        for name in dict.fromkeys(sum(map(list, parts), []))
    }
    part_seconds = {name: statistics.median(values) for name, values in of_rounds.items()}
    whole = [seconds / steps for seconds in wholes]
    network = sum(seconds for name, seconds in part_seconds.items() if name.endswith("ward"))
    encoder = part_seconds["text encoder, forward"] + part_seconds["text encoder, backward"]
    but_encoder, but_encoder_counted = network / encoder - 1, sum(counted.values()) / counted["text encoder"] - 1
    return {
        "step_seconds": statistics.median(whole),
        "step_spread": spread(whole),
        "tweets_per_second": len(trainer.train_dataset) / steps / statistics.median(whole),
        "mean_sizes": {name: statistics.mean(of_batch[name] for of_batch in sizes) for name in sizes[0]},
        "part_seconds": part_seconds,
        "part_spread": {name: spread(values) for name, values in of_rounds.items()},
        "counted_multiply_adds": counted,
        "but_encoder_over_encoder": but_encoder,
        "but_encoder_over_encoder_counted": but_encoder_counted,
        "over_counted": but_encoder / but_encoder_counted,
    }


def print_steps(figures: dict[str, dict]):
    """A table a case."""
    for case, found in figures.items():
        seconds, counted = found["part_seconds"], found["counted_multiply_adds"]
        total, total_counted = sum(seconds.values()), sum(counted.values())
        print(
            f"\n### {case}: {1e3 * found['step_seconds']:.0f} ms a step (spread {found['step_spread']:.0%}), "
            f"{found['tweets_per_second']:.1f} tweets/s; by part {1e3 * total:.0f} ms"
            + (f"; {found['over_limit']:.2f} times the limit\n" if "over_limit" in found else "\n")
        )
        rows = []
        for part in [part for part in counted if f"{part}, forward" in seconds] + ["rest"]:
            forward, backward = (seconds.get(f"{part}, {way}", 0.0) for way in ("forward", "backward"))
            row = [
                part,
                f"{1e3 * forward:.1f}",
                f"{1e3 * backward:.1f}",
                f"{(forward + backward) / total:.1%}",
                "",
                "",
            ]
            if part in counted:
                speed = counted[part] / (forward + backward) / 1e9
                row[4:] = [f"{counted[part] / total_counted:.1%}", f"{speed:.1f}"]
            rows.append(row)
        for part in ("optimiser", "waiting for data"):
            rows.append([part, f"{1e3 * seconds[part]:.1f}", "", f"{seconds[part] / total:.1%}", "", ""])
        header = ["part", "forward, ms", "backward, ms", "share of time", "counted share", "G multiply-adds/s"]
        print_table(header, rows)
        print(
            f"\neverything but the encoder, over the encoder: {found['but_encoder_over_encoder']:.2f}, counted "
            f"{found['but_encoder_over_encoder_counted']:.2f}: {found['over_counted']:.2f} times as counted "
            f"({'good' if found['over_counted'] <= GOOD else f'more than {GOOD}'})"
        )


def write_trace(trainer: MNERTrainer, precision: str, path: str):
    """Chrome trace of two steps."""
    with watch_parts(trainer.model, lambda part: None), profile() as profiler:
        train_epoch(trainer, precision, Clock(), steps=2)
    profiler.export_chrome_trace(path)


def main():
    """Prints tables, and writes them as JSON and a trace if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_workload_arguments(parser)
    parser.add_argument("--kinds", nargs="+", choices=SIZES, default=list(SIZES), help="of pictures")
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--trace", metavar="FILE", help="write a chrome trace of two steps of the first case here")
    options = parser.parse_args()

    tweets, tokenizer = read_tweets(options)
    figures = {
        "config": options.config,
        "tweets": len(tweets),
        "batch_size": options.batch_size,
        "rounds": options.rounds,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
    print(figures)
    if not torch.accelerator.is_available():
        keep_freed_memory()  # as Trainer's `train` does, which is not called here
    with tempfile.TemporaryDirectory() as folder:
        trainers = {
            kind: make_trainer(options.config, kind, tweets, tokenizer, options.batch_size, folder)
            for kind in options.kinds
        }
        figures["step"] = time_steps(trainers, options.precisions, options.rounds)
        print_steps(figures["step"])
        if options.trace:
            write_trace(trainers[options.kinds[0]], options.precisions[0], options.trace)
    write_figures(figures, options)


if __name__ == "__main__":
    main()
