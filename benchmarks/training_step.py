#!/usr/bin/env python
"""A training step by part, beside what is counted of each; inference by batch size and length; peak memory.

```bash
python benchmarks/training_step.py --width bert-base --json step.json
python benchmarks/training_step.py --width minilm --data_dir datasets/twitter2017 --tokenizer MODEL --trace trace.json
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

The last line of a case is the network's time but the encoder's, over the encoder's, forward and backward, divided by
the same ratio of counted multiply-adds: 1 means as fast as counted, and up to 1.3 is good.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from datasets import ClassLabel, Dataset, Features, List, Value
from torch.profiler import profile, record_function
from transformers import AutoTokenizer, BertTokenizer, set_seed

from configuration_hamlearning import TAGS
from data_hamlearning import load_tweets
from modeling_hamlearning import HamLearningForTokenClassification
from operations import PRESETS, count_operations, network_config
from processing_hamlearning import HamLearningDataCollator, HamLearningProcessor
from run_mner import MNERTrainer, MNERTrainingArguments, with_lengths


# Twitter-2017, training split, BERT's uncased vocabulary: words and sub-tokens ([CLS] and [SEP] among them) a tweet.
QUANTILES = (0, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 1)
WORDS = (5, 8, 10, 12, 15, 19, 23, 25, 29, 50)
SUBTOKENS = (7, 11, 13, 16, 19, 24, 29, 31, 36, 56)
# The share of tweets with 0, 1, ... regions where these come from a caption.
CAPTION_REGIONS = (0.17, 0.20, 0.26, 0.29, 0.07, 0.01)
SIZES = {"captions": 384, "regions": 2048}  # of the features
LENGTHS = (8, 16, 32, 64, 100)  # words
BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64)
GOOD = 1.3


class Clock:
    """Seconds by part; one part runs at a time. With `record` the parts of the forward pass stand in a trace."""

    def __init__(self, record: bool = False):
        self.seconds: dict[str, float] = defaultdict(float)
        self._record = record
        self._part, self._since = None, 0.0
        self._marked: set[torch.autograd.graph.Node] = set()
        self._records: list[record_function] = []

    def switch(self, part: str | None):
        """From now on `part` runs, or none."""
        if torch.accelerator.is_available():
            torch.accelerator.synchronize()
        now = time.perf_counter()
        if self._part is not None:
            self.seconds[self._part] += now - self._since
        self._part, self._since = part, now

    def watch(self, modules: dict[str, list[torch.nn.Module]]) -> list:
        """Hooks that switch; `remove` them."""
        hooks = []
        for part, watched in modules.items():
            for module in watched:
                hooks.append(module.register_forward_pre_hook(self._before(part)))
                hooks.append(module.register_forward_hook(self._after(part)))
        return hooks

    def _before(self, part):
        def hook(module, inputs):
            for tensor in _tensors(inputs):
                # Unless another part made it, what made this input belongs to no part.
                self._mark(tensor, "rest, backward")
            if self._record:
                self._records.append(record_function(part))
                self._records[-1].__enter__()
            self.switch(f"{part}, forward")

        return hook

    def _after(self, part):
        def hook(module, inputs, output):
            self.switch("rest, forward")
            if self._record:
                self._records.pop().__exit__(None, None, None)
            for tensor in _tensors(output):
                self._mark(tensor, f"{part}, backward")

        return hook

    def _mark(self, tensor: torch.Tensor, part: str):
        node = tensor.grad_fn
        if node is not None and node not in self._marked:
            self._marked.add(node)
            node.register_prehook(lambda gradients: self.switch(part))

    def forget(self):
        """Lets go of the last step's graph."""
        self._marked.clear()


def _tensors(values) -> list[torch.Tensor]:
    if isinstance(values, torch.Tensor):
        return [values]
    if isinstance(values, dict):
        values = tuple(values.values())
    return [tensor for value in values for tensor in _tensors(value)] if isinstance(values, tuple | list) else []


def parts_of(model: HamLearningForTokenClassification) -> dict[str, list[torch.nn.Module]]:
    """The modules of each part that `operations.py` counts."""
    trunk = model.model
    return {
        "text encoder": [trunk.text_model],
        "textual Transformer": [*trunk.text_layers],
        "FFNN": [trunk.ffnn],
        "visual embeddings": [trunk.visual_embeddings],
        "semantic view": [trunk.semantic_encoder],
        "spatial view": [trunk.spatial_encoder],
        "local-global": [trunk.local_global],
        "relevance": [*trunk.relevance],
        "interaction": [trunk.interaction],
        "classifier": [model.classifier],
        "CRF": [model.crf],
    }


def made_up_tweets(count: int, rng: np.random.Generator) -> tuple[Dataset, BertTokenizer]:
    """Tweets of Twitter-2017's lengths, and a tokenizer that takes a word of n letters for n sub-tokens."""
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "##a"]
    tokenizer = BertTokenizer(vocab={piece: index for index, piece in enumerate(vocabulary)})
    at = rng.uniform(size=count)
    words = np.interp(at, QUANTILES, WORDS).round().astype(int)
    more = np.maximum(np.interp(at, QUANTILES, SUBTOKENS).round().astype(int) - 2 - words, 0)
    tokens = []
    for num_words, num_more in zip(words, more, strict=True):
        letters = 1 + np.bincount(rng.integers(num_words, size=num_more), minlength=num_words)
        tokens.append(["a" * n for n in letters])
    rows = {
        "id": [str(number) for number in range(count)],
        "tokens": tokens,
        "ner_tags": [rng.choice(len(TAGS), len(words)).tolist() for words in tokens],
    }
    columns = {"id": Value("string"), "tokens": List(Value("string")), "ner_tags": List(ClassLabel(names=list(TAGS)))}
    return Dataset.from_dict(rows, features=Features(columns)), tokenizer


def random_pictures(ids: list[str], kind: str, num_classes: int, rng: np.random.Generator) -> dict[str, dict]:
    """A picture an id, as rows of a visual feature file."""
    size, pictures = SIZES[kind], {}
    for id_ in ids:
        count = 15 if kind == "regions" else rng.choice(len(CAPTION_REGIONS), p=CAPTION_REGIONS)
        extents = rng.uniform(0.1, 0.5, (count, 2))
        centres = rng.uniform(extents / 2, 1 - extents / 2)
        pictures[id_] = {
            "image_size": np.array([640, 480]),
            "image_features": rng.normal(size=size).astype(np.float32),
            "boxes": np.concatenate([centres, extents[:, ::-1]], axis=1).astype(np.float32),
            "class_ids": rng.integers(0, num_classes, count),
            "features": rng.normal(size=(count, size)).astype(np.float32),
        }
    return pictures


def make_trainer(width: str, kind: str, tweets: Dataset, tokenizer, batch_size: int, folder: str) -> MNERTrainer:
    """What `run_mner.py` trains, from random weights, with pictures of a kind."""
    set_seed(1)
    sizes = {"image_feature_size": SIZES[kind], "region_feature_size": SIZES[kind]}
    config = network_config(width, **sizes)
    processor = HamLearningProcessor(tokenizer, **sizes)
    pictures = random_pictures(tweets["id"][:], kind, config.num_classes, np.random.default_rng(1))
    args = MNERTrainingArguments(
        folder, num_train_epochs=1, save_strategy="no", eval_strategy="no", logging_strategy="no", disable_tqdm=True,
        load_best_model_at_end=False, do_train=True, per_device_train_batch_size=batch_size,
    )  # fmt: skip
    trainer = MNERTrainer(
        model=HamLearningForTokenClassification(config),
        args=args,
        train_dataset=with_lengths(tweets, processor),
        data_collator=HamLearningDataCollator(processor, pictures),
        processing_class=processor,
        preprocess_logits_for_metrics=lambda outputs, labels: outputs[1:],
    )
    trainer.create_optimizer()
    return trainer


def autocast(trainer: MNERTrainer, precision: str) -> torch.autocast:
    """What Accelerate wraps the forward pass in."""
    return torch.autocast(trainer.args.device.type, torch.bfloat16, enabled=precision == "bf16")


def train_epoch(
    trainer: MNERTrainer, precision: str, clock: Clock, steps: int | None = None
) -> tuple[list[dict], float]:
    """One pass over the tweets, or its first steps; returns the batches' sizes and the seconds."""
    model, sizes = trainer.model.train(), []
    start = time.perf_counter()
    clock.switch("waiting for data")
    for batch in trainer.get_train_dataloader():
        clock.switch("rest, forward")
        with autocast(trainer, precision):
            loss = model(**batch).loss
        clock.switch("rest, backward")
        loss.backward()
        clock.switch("optimiser")
        torch.nn.utils.clip_grad_norm_(model.parameters(), trainer.args.max_grad_norm)
        trainer.optimizer.step()
        trainer.optimizer.zero_grad()
        clock.forget()
        sizes.append(sizes_of(batch))
        if len(sizes) == steps:
            break
        clock.switch("waiting for data")
    clock.switch(None)
    return sizes, time.perf_counter() - start


def sizes_of(batch: dict[str, torch.Tensor]) -> dict[str, int]:
    """B, S, W and N."""
    tweets, subtokens = batch["input_ids"].shape
    return {
        "tweets": tweets,
        "subtokens": subtokens,
        "words": batch["labels"].shape[1],
        "regions": batch["region_mask"].shape[1] if "region_mask" in batch else 0,
    }


def time_steps(trainers: dict[str, MNERTrainer], precisions: list[str], rounds: int) -> dict[str, dict]:
    """`{case: figures}`, a case being a kind of pictures and a precision."""
    cases = [(kind, precision) for kind in trainers for precision in precisions]
    parts: dict[tuple, list[dict[str, float]]] = {case: [] for case in cases}
    wholes: dict[tuple, list[float]] = {case: [] for case in cases}
    counted: dict[tuple, dict[str, int]] = {case: defaultdict(int) for case in cases}
    steps = 0
    for kind, precision in cases:
        train_epoch(trainers[kind], precision, Clock(), steps=2)  # warm up
    for round_ in range(rounds):
        for case in cases:
            trainer, precision = trainers[case[0]], case[1]
            wholes[case].append(train_epoch(trainer, precision, Clock())[1])
            clock = Clock()
            hooks = clock.watch(parts_of(trainer.model))
            sizes, _ = train_epoch(trainer, precision, clock)
            for hook in hooks:
                hook.remove()
            parts[case].append(dict(clock.seconds))
            steps = len(sizes)
            for of_batch in sizes:
                for part, count in count_operations(trainer.model.config, **of_batch).items():
                    counted[case][part] += count.training
        print(f"round {round_ + 1} of {rounds}", flush=True)

    figures = {}
    for case in cases:
        names = dict.fromkeys(name for seconds in parts[case] for name in seconds)
        of_round = {name: [seconds.get(name, 0.0) / steps for seconds in parts[case]] for name in names}
        found = {name: statistics.median(values) for name, values in of_round.items()}
        whole = [seconds / steps for seconds in wholes[case]]
        network = {name: seconds for name, seconds in found.items() if name.endswith("ward")}
        encoder = network["text encoder, forward"] + network["text encoder, backward"]
        operations = {part: count / steps / rounds for part, count in counted[case].items()}
        but_encoder_counted = sum(operations.values()) / operations["text encoder"] - 1
        ratio = sum(network.values()) / encoder - 1
        figures[" ".join(case)] = {
            "step_seconds": statistics.median(whole),
            "step_spread": spread(whole),
            "tweets_per_second": len(trainers[case[0]].train_dataset) / steps / statistics.median(whole),
            "part_seconds": found,
            "part_spread": {name: spread(values) for name, values in of_round.items()},
            "counted_multiply_adds": operations,
            "but_encoder_over_encoder": ratio,
            "but_encoder_over_encoder_counted": but_encoder_counted,
            "over_counted": ratio / but_encoder_counted,
        }
    return figures


def spread(values: list[float]) -> float:
    """Largest minus smallest, over the median."""
    return (max(values) - min(values)) / statistics.median(values)


def print_steps(figures: dict[str, dict]):
    """A table a case."""
    for case, found in figures.items():
        seconds, counted = found["part_seconds"], found["counted_multiply_adds"]
        total, total_counted = sum(seconds.values()), sum(counted.values())
        print(
            f"\n### {case}: {1e3 * found['step_seconds']:.0f} ms a step (spread {found['step_spread']:.0%}), ", end=""
        )
        print(f"{found['tweets_per_second']:.1f} tweets/s; by part {1e3 * total:.0f} ms\n")
        print(
            "| part | forward, ms | backward, ms | share of time | counted share | G multiply-adds/s |\n|" + "---|" * 6
        )
        for part in [part for part in counted if f"{part}, forward" in seconds] + ["rest"]:
            forward, backward = (seconds.get(f"{part}, {way}", 0.0) for way in ("forward", "backward"))
            share = (forward + backward) / total
            row = [part, f"{1e3 * forward:.1f}", f"{1e3 * backward:.1f}", f"{share:.1%}", "", ""]
            if part in counted:
                speed = counted[part] / (forward + backward) / 1e9
                row[4:] = [f"{counted[part] / total_counted:.1%}", f"{speed:.1f}"]
            print("| " + " | ".join(row) + " |")
        for part in ("optimiser", "waiting for data"):
            print(f"| {part} | {1e3 * seconds[part]:.1f} | | {seconds[part] / total:.1%} | | |")
        print(
            f"\neverything but the encoder, over the encoder: {found['but_encoder_over_encoder']:.2f}, counted "
            f"{found['but_encoder_over_encoder_counted']:.2f}: {found['over_counted']:.2f} times as counted "
            f"({'good' if found['over_counted'] <= GOOD else f'more than {GOOD}'})"
        )


@torch.no_grad()
def time_inference(trainers: dict[str, MNERTrainer], precisions: list[str], rounds: int) -> dict[str, dict]:
    """Tweets a second by batch size, and by the tweets' number of words in batches of 32."""
    figures = {}
    for kind, trainer in trainers.items():
        model, collate = trainer.model.eval(), trainer.data_collator
        rows = sorted(trainer.train_dataset, key=lambda row: row["length"])[:: len(trainer.train_dataset) // 64][:64]
        words = [word for row in trainer.train_dataset for word in row["tokens"]]
        batches = {f"batch of {size}": [rows[at : at + size] for at in range(0, 64, size)] for size in BATCH_SIZES}
        for length in LENGTHS:
            cut = [(words * length)[at * length : (at + 1) * length] for at in range(32)]
            batches[f"{length} words"] = [
                [{"id": row["id"], "tokens": tokens} for row, tokens in zip(rows, cut, strict=False)]
            ]
        inputs = {
            name: [{key: value.to(trainer.args.device) for key, value in collate(part).items()} for part in several]
            for name, several in batches.items()
        }
        seconds = {(name, precision): [] for name in inputs for precision in precisions}
        for _ in range(rounds + 1):
            for (name, precision), values in seconds.items():
                start = time.perf_counter()
                with autocast(trainer, precision):
                    for batch in inputs[name]:
                        model(**batch).predictions.cpu()
                values.append(time.perf_counter() - start)
        for (name, precision), values in seconds.items():
            count = sum(map(len, batches[name]))
            rates = [count / value for value in values[1:]]  # the first round warmed up
            case = figures.setdefault(f"{kind} {precision}", {})
            case[name] = {"tweets_per_second": statistics.median(rates), "spread": spread(rates)}
    return figures


class SavedBytes:
    """Bytes that a module keeps for its backward pass, its parameters aside; counted in each forward pass."""

    def __init__(self, module: torch.nn.Module):
        self.total = 0
        self._storages = {p.untyped_storage().data_ptr() for p in module.parameters()}
        self._hooks = [module.register_forward_pre_hook(self._enter), module.register_forward_hook(self._leave)]

    def _enter(self, module, inputs):
        self._seen, self.total = set(self._storages), 0
        self._context = torch.autograd.graph.saved_tensors_hooks(self._pack, lambda tensor: tensor)
        self._context.__enter__()

    def _pack(self, tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self._seen:  # alive until the backward pass, so no address comes twice
            self._seen.add(storage.data_ptr())
            self.total += storage.nbytes()
        return tensor

    def _leave(self, module, inputs, output):
        self._context.__exit__(None, None, None)

    def remove(self):
        for hook in self._hooks:
            hook.remove()


def resident_bytes(peak: bool = False) -> int:
    """What this process holds of the machine's memory, or the most since `reset_peak`."""
    field = "VmHWM:" if peak else "VmRSS:"
    status = Path("/proc/self/status").read_text()
    return 1024 * next(int(line.split()[1]) for line in status.splitlines() if line.startswith(field))


def reset_peak():
    Path("/proc/self/clear_refs").write_text("5")


def measure_memory(precision: str, *of_trainer) -> dict[str, float]:
    """Peak memory of training steps on the longest tweets, and what it consists of, in bytes.

    In a process of its own: what was freed before still counts as held by a process.
    """
    on_cuda = torch.cuda.is_available()
    before = 0 if on_cuda else resident_bytes()
    trainer = make_trainer(*of_trainer)
    model = trainer.model.train()
    longest = sorted(trainer.train_dataset, key=lambda row: -row["length"])[: trainer.args.per_device_train_batch_size]
    batch = {key: value.to(trainer.args.device) for key, value in trainer.data_collator(longest).items()}

    def step():
        with autocast(trainer, precision):
            loss = model(**batch).loss
        loss.backward()
        trainer.optimizer.step()
        trainer.optimizer.zero_grad()

    step()  # makes the optimiser's states
    if on_cuda:
        torch.cuda.reset_peak_memory_stats()
    else:
        reset_peak()
    step()
    peak = torch.cuda.max_memory_allocated() if on_cuda else resident_bytes(peak=True) - before
    encoder, whole = SavedBytes(model.model.text_model), SavedBytes(model)
    # Hooks of the innermost context alone are called: the encoder's are not counted in the whole.
    step()
    encoder.remove()
    whole.remove()
    parameters = sum(p.numel() * p.element_size() for p in model.parameters())
    states = sum(
        value.numel() * value.element_size()
        for state in trainer.optimizer.state.values()
        for value in state.values()
        if isinstance(value, torch.Tensor)
    )
    least = 2 * parameters + states + encoder.total
    return {
        "peak": peak,
        "parameters": parameters,
        "gradients": parameters,
        "states": states,
        "encoder_activations": encoder.total,
        "other_activations": whole.total,
        "peak_over_least": peak / least,
    }


def main():
    """Prints tables, and writes them as JSON and a trace if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", choices=PRESETS, default="bert-base")
    parser.add_argument("--data_dir", help="tweets; made-up ones without it")
    parser.add_argument("--tokenizer", help="folder or Hub id, of the tweets in --data_dir")
    parser.add_argument("--kinds", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--precisions", nargs="+", choices=("fp32", "bf16"), default=["fp32", "bf16"])
    sections = ["step", "inference", "memory"]
    parser.add_argument("--sections", nargs="+", choices=sections, default=sections)
    parser.add_argument("--tweets", type=int, default=256, help="of a round")
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--memory_batch_sizes", type=int, nargs="+", default=[8, 16, 32, 64])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--trace", help="write a chrome trace of two steps of the first case here")
    parser.add_argument("--json", help="also write the figures here")
    options = parser.parse_args()
    if (options.data_dir is None) != (options.tokenizer is None):
        parser.error("--data_dir and --tokenizer: give both, or neither for made-up tweets")

    rng = np.random.default_rng(1)
    if options.data_dir:
        tweets, tokenizer = load_tweets(options.data_dir)["train"], AutoTokenizer.from_pretrained(options.tokenizer)
        tweets = tweets.select(rng.permutation(len(tweets))[: options.tweets])
    else:
        tweets, tokenizer = made_up_tweets(options.tweets, rng)

    figures = {
        "width": options.width,
        "tweets": len(tweets),
        "batch_size": options.batch_size,
        "rounds": options.rounds,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
    print(figures)
    with tempfile.TemporaryDirectory() as folder:
        if "memory" in options.sections:
            figures["memory"] = {}
            print("\n| case | batch | peak, MB | parameters | gradients | states | encoder's activations ", end="")
            print("| other activations | peak over least |\n|" + "---|" * 9)
            # The least: parameters, gradients, states and the encoder's activations.
            for kind, precision, size in product(options.kinds, options.precisions, options.memory_batch_sizes):
                with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
                    of_trainer = (options.width, kind, tweets, tokenizer, size, folder)
                    found = process.submit(measure_memory, precision, *of_trainer).result()
                figures["memory"][f"{kind} {precision} {size}"] = found
                megabytes = [f"{value / 1e6:.0f}" for name, value in found.items() if name != "peak_over_least"]
                row = [f"{kind} {precision}", str(size), *megabytes, f"{found['peak_over_least']:.2f}"]
                print("| " + " | ".join(row) + " |", flush=True)
        trainers = {}
        if options.trace or set(options.sections) != {"memory"}:
            trainers = {
                kind: make_trainer(options.width, kind, tweets, tokenizer, options.batch_size, folder)
                for kind in options.kinds
            }
        if "step" in options.sections:
            figures["step"] = time_steps(trainers, options.precisions, options.rounds)
            print_steps(figures["step"])
        if "inference" in options.sections:
            figures["inference"] = time_inference(trainers, options.precisions, options.rounds)
            for case, found in figures["inference"].items():
                print(f"\n### inference, {case}\n\n| | tweets/s | spread |\n|---|---|---|")
                for name, values in found.items():
                    print(f"| {name} | {values['tweets_per_second']:.1f} | {values['spread']:.0%} |")
        if options.trace:
            trainer = trainers[options.kinds[0]]
            clock = Clock(record=True)
            hooks = clock.watch(parts_of(trainer.model))
            with profile() as profiler:
                train_epoch(trainer, options.precisions[0], clock, steps=2)
            for hook in hooks:
                hook.remove()
            profiler.export_chrome_trace(options.trace)
    if options.json:
        Path(options.json).write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
