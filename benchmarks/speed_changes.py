#!/usr/bin/env python
"""What each choice made for speed is worth: a training epoch with it and without, and the CRF beside the library's.

```bash
python benchmarks/speed_changes.py minilm --json changes.json
python benchmarks/speed_changes.py bert-base --data_dir datasets/twitter2017 --tokenizer MODEL --rounds 3
```

Network and pictures are random, tweets as in `training_step.py`. `default` is an epoch as `run_mner.py` trains it.
Each other row differs from it in one thing: what is on by default is put back, what is an option is switched on.
Rounds alternate between the rows. Reported are the medians over the rounds, and of the ratio within a round: above 1,
the row is faster than the default. What an epoch before the rounds takes longer than their median is compiling.

The second table is that of a setting of the whole process, whether the C library keeps what a step frees: in each
round two processes train as by default, one of them without `keep_freed_memory`. On an accelerator, which has its
own memory, there is none.

The third is the CRF alone, on one batch of 32 tweets of 19 words with 9 tags: loss and backward pass, and the most
probable tags, as here and as in pytorch-crf, 1000 alternating times.
"""

import argparse
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor

import torch
from torchcrf import CRF

import hamlearning.training.trainer as trainer_module
from hamlearning.training.batches import PictureInEveryBatch
from hamlearning.training.trainer import MNERTrainer, compile_trunk
from modeling_hamlearning import HamLearningCRF
from workload import (
    KINDS,
    add_workload_arguments,
    make_trainer,
    print_table,
    read_tweets,
    spread,
    time_rounds,
    write_figures,
)


CRF_TWEETS, CRF_WORDS, CRF_TAGS = 32, 19, 9


def changes(tokens_per_batch: int) -> dict[str, dict]:
    """Training arguments of each row."""
    return {
        "default": {},
        "float32 in place of bf16": {"bf16": False},
        "tweets in random order": {"train_sampling_strategy": "random"},
        "AdamW a parameter at a time": {"optim": "adamw_torch"},
        f"--tokens_per_batch {tokens_per_batch}": {"tokens_per_batch": tokens_per_batch},
        "--torch_compile": {"torch_compile": True},
    }


def make_epoch(trainer: MNERTrainer) -> Callable[[], None]:
    """Trains one epoch, compiled if its arguments say so."""
    if trainer.args.torch_compile:
        compile_trunk(trainer.model, trainer.args)
        collator = trainer.data_collator
        trainer.data_collator = PictureInEveryBatch(collator.processor, collator.visual_features or {})
    return lambda: trainer.train()


def seconds_of_an_epoch(options: argparse.Namespace, keeps: bool) -> float:
    """Of the second epoch of a process of its own, whose C library keeps what a step frees, or does not."""
    if not keeps:
        trainer_module.keep_freed_memory = lambda: None
    tweets, tokenizer = read_tweets(options)
    with tempfile.TemporaryDirectory() as folder:
        epoch = make_epoch(make_trainer(options.config, options.kind, tweets, tokenizer, options.batch_size, folder))
        epoch()
        start = time.perf_counter()
        epoch()
        return time.perf_counter() - start


def in_a_process(function: Callable, *arguments):
    """What a function returns in a fresh process."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
        return process.submit(function, *arguments).result()


def crf_batch() -> tuple[HamLearningCRF, torch.Tensor, torch.LongTensor, torch.BoolTensor]:
    """A CRF, emissions (B, W, T), tags (B, W) and mask (B, W) of tweets that fill half of W or more."""
    torch.manual_seed(1)
    emissions = torch.randn(CRF_TWEETS, CRF_WORDS, CRF_TAGS, requires_grad=True)
    tags = torch.randint(CRF_TAGS, (CRF_TWEETS, CRF_WORDS))
    mask = torch.arange(CRF_WORDS) < torch.randint(CRF_WORDS // 2, CRF_WORDS + 1, (CRF_TWEETS, 1))
    return HamLearningCRF(CRF_TAGS), emissions, tags, mask


def crf_contestants() -> dict[str, Callable[[], None]]:
    """Loss and decoding, here and in the library."""
    crf, emissions, tags, mask = crf_batch()

    def decode(how: Callable) -> Callable[[], None]:
        return torch.no_grad()(lambda: how(crf, emissions, mask))

    return {
        "loss": lambda: crf(emissions, tags, mask, reduction="mean").backward(),
        "loss, pytorch-crf": lambda: CRF.forward(crf, emissions, tags, mask, reduction="mean").backward(),
        "tags": decode(HamLearningCRF.viterbi),
        "tags, pytorch-crf": decode(CRF.decode),
    }


def main():
    """Prints the tables, and writes them as JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_workload_arguments(parser)
    parser.add_argument("--kind", choices=KINDS, default="captions", help="of pictures")
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()

    memory: dict[str, list[float]] = {"kept": [], "given back": []}
    on_cpu = not torch.accelerator.is_available()
    for _ in range(options.rounds if on_cpu else 0):
        for name, values in memory.items():
            values.append(in_a_process(seconds_of_an_epoch, options, name == "kept"))
    of_crf = time_rounds(crf_contestants(), 1000)
    tweets, tokenizer = read_tweets(options)
    with tempfile.TemporaryDirectory() as folder:

        def trainer(**arguments) -> MNERTrainer:
            return make_trainer(
                options.config, options.kind, tweets, tokenizer, options.batch_size, folder, **arguments
            )

        lengths = trainer().train_dataset["length"][:]
        budget = round(options.batch_size * statistics.mean(lengths))
        epochs = {name: make_epoch(trainer(**arguments)) for name, arguments in changes(budget).items()}
        first = {}
        for name, epoch in epochs.items():
            start = time.perf_counter()
            epoch()
            first[name] = time.perf_counter() - start
        seconds = time_rounds(epochs, options.rounds)

    figures = {
        "config": options.config,
        "kind": options.kind,
        "tweets": len(tweets),
        "batch_size": options.batch_size,
        "rounds": options.rounds,
        "device": "cpu" if on_cpu else torch.accelerator.current_accelerator().type,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
    print(figures, "\n")
    ratios = {
        name: [base / value for base, value in zip(seconds["default"], values, strict=True)]
        for name, values in seconds.items()
    }
    median = statistics.median
    figures["tokens_per_batch"] = budget
    figures["first_epoch_seconds"] = first
    figures["tweets_per_second"] = {name: len(tweets) / median(values) for name, values in seconds.items()}
    figures["over_default"] = {name: median(values) for name, values in ratios.items()}
    figures["crf_seconds"] = {name: median(values) for name, values in of_crf.items()}
    rows = [
        [
            name,
            f"{figures['tweets_per_second'][name]:.1f}",
            f"{spread(values):.0%}",
            f"{figures['over_default'][name]:.2f}",
            f"{spread(ratios[name]):.0%}",
            f"{first[name] - median(values):.0f}",
        ]
        for name, values in seconds.items()
    ]
    header = ["", "tweets/s", "spread", "over default", "spread", "first epoch takes longer by, s"]
    print_table(header, rows)
    print()
    if on_cpu:
        over = [back / kept for back, kept in zip(memory["given back"], memory["kept"], strict=True)]
        figures["epoch_seconds_by_memory"] = memory
        figures["kept_over_given_back"] = median(over)
        rows = [
            [name, f"{len(tweets) / median(values):.1f}", f"{spread(values):.0%}"] for name, values in memory.items()
        ]
        print_table(["freed memory", "tweets/s", "spread"], rows)
        print(f"Kept over given back: {median(over):.2f}, {min(over):.2f} to {max(over):.2f} within a round.\n")
    rows = []
    for name in ("loss", "tags"):
        ours, library = of_crf[name], of_crf[f"{name}, pytorch-crf"]
        over = [there / here for here, there in zip(ours, library, strict=True)]
        quartiles = statistics.quantiles(over, n=4)
        figures[f"crf_{name}_over_library"] = quartiles
        rows.append(
            [name, f"{1e3 * median(ours):.2f}", f"{1e3 * median(library):.2f}", *(f"{q:.2f}" for q in quartiles)]
        )
    print_table(["CRF", "ms", "pytorch-crf, ms", "ratio, lower quartile", "median", "upper quartile"], rows)
    write_figures(figures, options)


if __name__ == "__main__":
    main()
