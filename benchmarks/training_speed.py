#!/usr/bin/env python
"""Training speed of HamLearning beside a plain token classifier, in one alternating run.

```bash
python benchmarks/training_speed.py --text_model sentence-transformers/all-MiniLM-L6-v2 \
    --data_dir datasets/twitter2017 --visual_features datasets/twitter2017/caption_features.parquet
```

The contestants, all through `Trainer`, batch 32, AdamW:

- `plain`: `AutoModelForTokenClassification` with the same encoder, as transformers' token-classification example
  trains it: fp32, tweets in random order, padded to the longest of their batch;
- `text`: HamLearning without vision, as `run_mner.py` trains it (length-bucketed; bf16 where the hardware has it);
- `captions`: HamLearning with the given visual features;
- `regions`: HamLearning with 15 random regions a picture.

Every round trains each of them on the same tweets for one epoch; reported is the median over the rounds. Beside the
ratio of times stands the ratio of counted floating-point operations of a forward and backward pass.
"""

import argparse
import json
import statistics
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    AutoModelForTokenClassification,
    AutoTokenizer,
    DataCollatorForTokenClassification,
    Trainer,
    TrainingArguments,
    set_seed,
)

from hamlearning.data.features import VisualFeatures
from hamlearning.data.tweets import load_tweets
from hamlearning.training.arguments import MNERTrainingArguments
from hamlearning.training.batches import with_lengths
from hamlearning.training.trainer import MNERTrainer, TrainingWatch
from modeling_hamlearning import HamLearningForTokenClassification
from processing_hamlearning import HamLearningDataCollator, HamLearningProcessor


NUM_REGIONS = 15


def random_regions(features: VisualFeatures, ids: list[str], rng: np.random.Generator) -> dict[str, dict]:
    """The pictures of `features` with random regions in place of their own."""
    pictures = {}
    for id_ in (id_ for id_ in ids if id_ in features):
        sizes = rng.uniform(0.1, 0.5, (NUM_REGIONS, 2))
        centres = rng.uniform(sizes[:, ::-1] / 2, 1 - sizes[:, ::-1] / 2)
        pictures[id_] = dict(features[id_]) | {
            "image_size": np.array([640, 480]),
            "boxes": np.concatenate([centres, sizes], axis=1).astype(np.float32),
            "class_ids": rng.integers(0, features.num_classes, NUM_REGIONS),
            "features": rng.normal(size=(NUM_REGIONS, features.region_feature_size)).astype(np.float32),
        }
    return pictures


def plain_trainer(text_model: str, tweets, folder: str) -> Trainer:
    """What transformers' token-classification example trains."""
    names = tweets.features["ner_tags"].feature.names
    tokenizer = AutoTokenizer.from_pretrained(text_model, add_prefix_space=True)
    model = AutoModelForTokenClassification.from_pretrained(text_model, num_labels=len(names), dtype=torch.float32)

    def tokenize(rows):
        encoded = tokenizer(rows["tokens"], truncation=True, max_length=128, is_split_into_words=True)
        encoded["labels"] = []
        for index, tags in enumerate(rows["ner_tags"]):
            word_ids = encoded.word_ids(index)
            firsts = [
                word is not None and word != before
                for word, before in zip(word_ids, [None, *word_ids[:-1]], strict=True)
            ]
            encoded["labels"].append(
                [tags[word] if first else -100 for word, first in zip(word_ids, firsts, strict=True)]
            )
        return encoded

    args = TrainingArguments(
        folder, per_device_train_batch_size=32, num_train_epochs=1, save_strategy="no", logging_strategy="no",
        disable_tqdm=True, learning_rate=0.0,
    )  # fmt: skip
    return Trainer(
        model=model,
        args=args,
        train_dataset=tweets.map(tokenize, batched=True, remove_columns=tweets.column_names),
        data_collator=DataCollatorForTokenClassification(tokenizer),
        processing_class=tokenizer,
    )


def hamlearning_trainer(text_model: str, tweets, folder: str, pictures, sizes: dict[str, int]) -> MNERTrainer:
    """What `run_mner.py` trains."""
    model = HamLearningForTokenClassification.from_text_pretrained(
        text_model, use_vision=pictures is not None, **sizes
    )
    processor = HamLearningProcessor(AutoTokenizer.from_pretrained(text_model))
    args = MNERTrainingArguments(
        folder, num_train_epochs=1, save_strategy="no", eval_strategy="no", logging_strategy="no", disable_tqdm=True,
        load_best_model_at_end=False, learning_rate=0.0, do_train=True,
    )  # fmt: skip
    return MNERTrainer(
        model=model,
        args=args,
        train_dataset=with_lengths(tweets, processor),
        data_collator=HamLearningDataCollator(processor, pictures),
        processing_class=processor,
    )


def count_operations(trainer: Trainer) -> int:
    """Floating-point operations of one epoch's forward and backward passes."""
    trainer.model.train()
    with FlopCounterMode(display=False) as counter:
        for batch in trainer.get_train_dataloader():
            batch.pop("ids", None)
            trainer.model(**batch).loss.backward()
    trainer.model.zero_grad()
    return counter.get_total_flops()


def main():
    """Prints a table, and writes it as JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text_model", required=True)
    parser.add_argument("--data_dir", required=True)
    parser.add_argument("--visual_features", required=True)
    parser.add_argument("--tweets", type=int, default=1024, help="train on so many tweets of the train split")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", help="also write the figures here")
    options = parser.parse_args()

    set_seed(options.seed)
    rng = np.random.default_rng(options.seed)
    train = load_tweets(options.data_dir)["train"]
    train = train.select(rng.permutation(len(train))[: options.tweets])
    features = VisualFeatures(options.visual_features)
    sizes = {
        "image_feature_size": features.image_feature_size,
        "region_feature_size": features.region_feature_size,
        "num_classes": features.num_classes,
    }
    with tempfile.TemporaryDirectory() as folder:
        trainers = {
            "plain": plain_trainer(options.text_model, train, folder),
            "text": hamlearning_trainer(options.text_model, train, folder, None, {}),
            "captions": hamlearning_trainer(options.text_model, train, folder, features, sizes),
            "regions": hamlearning_trainer(
                options.text_model, train, folder, random_regions(features, train["id"][:], rng), sizes
            ),
        }
        operations = {name: count_operations(trainer) for name, trainer in trainers.items()}
        rates: dict[str, list[float]] = {name: [] for name in trainers}
        for round_ in range(options.rounds):
            for name, trainer in trainers.items():
                watch = TrainingWatch()
                trainer.add_callback(watch)
                trainer.train()
                trainer.remove_callback(watch)
                rates[name].append(len(train) / watch.seconds)
            print(f"round {round_ + 1}:", {name: round(values[-1], 1) for name, values in rates.items()}, flush=True)

    bf16 = trainers["text"].args.bf16
    print(f"\n{len(train)} tweets a round, {options.rounds} rounds, {torch.get_num_threads()} threads, bf16 {bf16}\n")
    print(
        "| model | tweets/s | against | ratio (median of rounds) | counted operations allow |\n|---|---|---|---|---|"
    )
    figures = {"tweets_per_second": {}, "ratio": {}, "counted": {}}
    for name, base in (("plain", None), ("text", "plain"), ("captions", "text"), ("regions", "text")):
        figures["tweets_per_second"][name] = statistics.median(rates[name])
        row = [name, f"{figures['tweets_per_second'][name]:.1f}", base or "", "", ""]
        if base:
            ratio = statistics.median(a / b for a, b in zip(rates[name], rates[base], strict=True))
            counted = operations[base] / operations[name]
            figures["ratio"][f"{name}/{base}"], figures["counted"][f"{name}/{base}"] = ratio, counted
            row[3:] = [f"{ratio:.2f}", f"{counted:.2f}"]
        print("| " + " | ".join(row) + " |")
    if options.json:
        Path(options.json).write_text(json.dumps(figures | {"rates": rates, "bf16": bf16}, indent=2) + "\n")


if __name__ == "__main__":
    main()
