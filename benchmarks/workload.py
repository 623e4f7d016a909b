"""What the benchmarks run: tweets of Twitter-2017's lengths, random pictures, random networks; and how it is timed."""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from datasets import ClassLabel, Dataset, Features, List, Value
from transformers import AutoTokenizer, BertTokenizer, PrinterCallback, set_seed

from configuration_hamlearning import HamLearningConfig
from hamlearning.data.tweets import load_tweets
from hamlearning.training.arguments import MNERTrainingArguments
from hamlearning.training.batches import with_lengths
from hamlearning.training.trainer import MNERTrainer
from modeling_hamlearning import HamLearningForTokenClassification
from operations import PRESETS, network_config
from processing_hamlearning import HamLearningDataCollator, HamLearningProcessor
from words_hamlearning import TAGS


# Twitter-2017, training split, BERT's uncased vocabulary: words and sub-tokens ([CLS] and [SEP] among them) a tweet.
QUANTILES = (0, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 1)
WORDS = (5, 8, 10, 12, 15, 19, 23, 25, 29, 50)
SUBTOKENS = (7, 11, 13, 16, 19, 24, 29, 31, 36, 56)
# The share of tweets with 0, 1, ... regions where these come from a caption.
CAPTION_REGIONS = (0.17, 0.20, 0.26, 0.29, 0.07, 0.01)
SIZES = {"captions": 384, "regions": 2048}  # of the features
KINDS = ("text", *SIZES)  # of tweets: without vision, with about two regions a picture, with 15
PRECISIONS = ("fp32", "bf16")


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


def add_workload_arguments(parser: argparse.ArgumentParser):
    """The arguments that every benchmark of the network has."""
    parser.add_argument("config", help=f"{', '.join(PRESETS)}, or a folder with config.json; its weights are not read")
    parser.add_argument("--data_dir", help="tweets; made-up ones without it")
    parser.add_argument("--tokenizer", help="folder or Hub id, of the tweets in --data_dir")
    parser.add_argument("--tweets", type=int, default=256, help="so many of them")
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=list(PRECISIONS))
    parser.add_argument("--json", metavar="FILE", help="also write the figures here, as JSON")


def read_tweets(options: argparse.Namespace) -> tuple[Dataset, BertTokenizer]:
    """Tweets of the training split in random order, or made-up ones, and their tokenizer.

    Raises:
        ValueError: tweets without a tokenizer, or a tokenizer without tweets.
    """
    if (options.data_dir is None) != (options.tokenizer is None):
        raise ValueError("--data_dir and --tokenizer: give both, or neither for made-up tweets.")
    rng = np.random.default_rng(1)
    if options.data_dir is None:
        return made_up_tweets(options.tweets, rng)
    tweets = load_tweets(options.data_dir)["train"]
    tweets = tweets.select(rng.permutation(len(tweets))[: options.tweets])
    return tweets, AutoTokenizer.from_pretrained(options.tokenizer)


def kind_config(source: str, kind: str) -> HamLearningConfig:
    """`network_config` for a kind of tweets."""
    if kind == "text":
        return network_config(source, use_vision=False)
    return network_config(source, image_feature_size=SIZES[kind], region_feature_size=SIZES[kind])


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


def make_collator(config: HamLearningConfig, kind: str, tweets: Dataset, tokenizer) -> HamLearningDataCollator:
    """Makes batches of tweets with random pictures of a kind."""
    if kind == "text":
        return HamLearningDataCollator(HamLearningProcessor(tokenizer))
    processor = HamLearningProcessor(tokenizer, image_feature_size=SIZES[kind], region_feature_size=SIZES[kind])
    pictures = random_pictures(tweets["id"][:], kind, config.num_classes, np.random.default_rng(1))
    return HamLearningDataCollator(processor, pictures)


def make_trainer(
    source: str, kind: str, tweets: Dataset, tokenizer, batch_size: int, folder: str, **arguments
) -> MNERTrainer:
    """What `run_mner.py` trains, from random weights, with pictures of a kind and further training arguments."""
    set_seed(1)
    config = kind_config(source, kind)
    collator = make_collator(config, kind, tweets, tokenizer)
    args = MNERTrainingArguments(
        folder, num_train_epochs=1, save_strategy="no", eval_strategy="no", logging_strategy="no", disable_tqdm=True,
        load_best_model_at_end=False, do_train=True, per_device_train_batch_size=batch_size, **arguments,
    )  # fmt: skip
    trainer = MNERTrainer(
        model=HamLearningForTokenClassification(config),
        args=args,
        train_dataset=with_lengths(tweets, collator.processor),
        data_collator=collator,
        processing_class=collator.processor,
        preprocess_logits_for_metrics=lambda outputs, labels: outputs[1:],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.create_optimizer()
    return trainer


def random_batch(
    config: HamLearningConfig, tweets: int, subtokens: int, words: int, regions: int
) -> dict[str, torch.Tensor]:
    """A batch without any padding: B tweets of S sub-tokens, W words and N regions."""
    of_subtoken = 1 + torch.arange(subtokens - 2) * words // (subtokens - 2)
    word_ids = torch.cat([torch.tensor([0]), of_subtoken, torch.tensor([-1])])
    batch = {
        "input_ids": torch.randint(config.text_config.vocab_size, (tweets, subtokens)),
        "attention_mask": torch.ones(tweets, subtokens, dtype=torch.long),
        "word_ids": word_ids.repeat(tweets, 1),
        "labels": torch.randint(config.num_labels, (tweets, words)),
    }
    if not config.use_vision:
        return batch
    extents = 0.1 + 0.4 * torch.rand(tweets, regions, 2)
    centres = extents.flip(-1) / 2 + (1 - extents.flip(-1)) * torch.rand(tweets, regions, 2)
    return batch | {
        "image_features": torch.randn(tweets, config.image_feature_size),
        "region_features": torch.randn(tweets, regions, config.region_feature_size),
        "region_boxes": torch.cat([centres, extents], dim=-1),
        "region_class_ids": torch.randint(config.num_classes, (tweets, regions)),
        "region_mask": torch.ones(tweets, regions, dtype=torch.long),
        "image_mask": torch.ones(tweets, dtype=torch.long),
        "image_sizes": torch.tensor([640, 480]).repeat(tweets, 1),
    }


def sizes_of(batch: dict[str, torch.Tensor]) -> dict[str, int]:
    """B, S, W and N."""
    tweets, subtokens = batch["input_ids"].shape
    return {
        "tweets": tweets,
        "subtokens": subtokens,
        "words": batch["labels"].shape[1],
        "regions": batch["region_mask"].shape[1] if "region_mask" in batch else 0,
    }


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """What Accelerate wraps the forward pass in."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


def time_rounds(contestants: dict[str, Callable], rounds: int) -> dict[str, list[float]]:
    """Seconds of each in every round. They alternate, so that a slow minute of the machine slows all alike."""
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for round_ in range(rounds + 1):
        for name, contestant in contestants.items():
            start = time.perf_counter()
            contestant()
            if torch.accelerator.is_available():
                torch.accelerator.synchronize()
            if round_ > 0:  # the first warms up
                seconds[name].append(time.perf_counter() - start)
    return seconds


def products_a_second(precision: str, size: int = 2048, rounds: int = 20) -> float:
    """Multiply-adds a second of a large product of matrices by PyTorch on the CPU: the fastest of some, a limit."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    one, other = (torch.randn(size, size, dtype=dtype) for _ in range(2))
    return size**3 / min(time_rounds({"product": lambda: one @ other}, rounds)["product"])


def spread(values: list[float]) -> float:
    """Largest minus smallest, over the median."""
    return (max(values) - min(values)) / statistics.median(values)


def print_table(header: list[str], rows: list[list[str]]):
    """As Markdown."""
    print("\n".join(markdown_table(header, rows)), flush=True)


def markdown_table(header: list[str], rows: list[list[str]]) -> list[str]:
    """Its lines."""
    return ["| " + " | ".join(row) + " |" for row in (header, ["---"] * len(header), *rows)]


def write_figures(figures: dict, options: argparse.Namespace):
    """As JSON, if asked."""
    if options.json:
        Path(options.json).write_text(json.dumps(figures, indent=2) + "\n")
