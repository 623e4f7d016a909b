#!/usr/bin/env python
"""HamLearning beside a peer's own code, alternating in one process: tweets a second in training and prediction.

```bash
git clone https://github.com/jefferyYu/UMT
python benchmarks/peers.py --umt UMT --json peers.json
```

The peer is UMT (Yu et al., ACL 2020), imported from the clone as it is. Both have a BERT-base of random weights and
the same made-up tweets, of the lengths of Twitter-2017 (see `workload.py`).

- `UMT`: a step of its run script: float32, batches of 32 (16 to predict), every tweet padded to 128 sub-tokens,
  ResNet-152 on the batch's pictures, forward, backward, `loss.item()`, its BertAdam. Its pictures and tweets are
  tensors in memory before the clock starts, as its script has them.
- `HamLearning, captions` and `HamLearning, regions`: an epoch of `run_mner.py`'s Trainer, batches of 32 grouped by
  length, bf16 where the hardware has it, tweets tokenized and padded on the clock; with about two regions a picture
  and with 15, features from file. Prediction is the Trainer's, from the longest tweet to the shortest.

A round times each of them once: HamLearning on all tweets, UMT, whose time does not depend on their lengths, on
`--umt_steps` batches. Reported are the medians over the rounds, and of the ratios within a round.
"""

import argparse
import importlib
import json
import statistics
import sys
import tempfile
import time
import types
import warnings
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from transformers import set_seed

from operations import PRESETS
from run_mner import TrainingWatch, predict
from workload import SIZES, made_up_tweets, make_trainer, spread


MAX_LENGTH, TRAIN_BATCH, PREDICT_BATCH = 128, 32, 16  # of UMT's run script
NUM_TAGS, NUM_CHUNK_TAGS = 13, 7  # its tags and chunk tags: padding, X, [CLS] and [SEP] among them
IMAGE_POSITIONS = 49


def import_umt(folder: Path) -> types.SimpleNamespace:
    """Its modules, with stand-ins for what they import but do not use here."""
    if not (folder / "my_bert" / "mner_modeling.py").is_file():
        raise FileNotFoundError(f"{folder} holds no my_bert/mner_modeling.py: git clone jefferyYu/UMT there.")
    for name, attribute in (("boto3", None), ("botocore", None), ("botocore.exceptions", "ClientError")):
        try:
            importlib.import_module(name)
        except ImportError:  # its downloads from S3
            sys.modules[name] = types.ModuleType(name)
            if attribute:
                setattr(sys.modules[name], attribute, Exception)
    sys.path.insert(0, str(folder))
    names = {"model": "my_bert.mner_modeling", "optimiser": "my_bert.optimization", "resnet": "resnet.resnet"}
    modules = {key: importlib.import_module(name) for key, name in names.items()}
    modules["wrapper"] = importlib.import_module("resnet.resnet_utils")
    sys.path.remove(str(folder))
    return types.SimpleNamespace(**modules)


class UMT:
    """UMT's model and its ResNet-152, random weights, and the steps of its run script."""

    def __init__(self, folder: Path, tweets: Dataset, device: torch.device):
        umt = import_umt(folder)
        self.device = device
        config = umt.model.BertConfig(30522, **PRESETS["bert-base"])
        self.model = umt.model.MTCCMBertForMMTokenClassificationCRF(
            config, layer_num1=1, layer_num2=1, layer_num3=1, num_labels=NUM_TAGS, auxnum_labels=NUM_CHUNK_TAGS
        ).to(device)
        for crf in (self.model.crf, self.model.aux_crf):
            use_bool_masks(crf)
        self.resnet = umt.wrapper.myResnet(umt.resnet.resnet152(), False, device).to(device)
        no_decay = ("bias", "LayerNorm.bias", "LayerNorm.weight")
        groups: dict[bool, list] = {True: [], False: []}
        for name, parameter in self.model.named_parameters():
            groups[not any(part in name for part in no_decay)].append(parameter)
        self.optimiser = umt.optimiser.BertAdam(
            [{"params": groups[True], "weight_decay": 0.01}, {"params": groups[False], "weight_decay": 0.0}],
            lr=5e-5, warmup=0.1, t_total=10_000,
        )  # fmt: skip
        self.chunk_to_tag = torch.rand(NUM_CHUNK_TAGS, NUM_TAGS, dtype=torch.double, device=device)
        self.lengths = torch.tensor([min(length, MAX_LENGTH) for length in tweets["length"]])

    def batch(self, first: int, size: int) -> dict[str, torch.Tensor]:
        """Tensors of tweets, over and over if they are fewer."""
        lengths = self.lengths[torch.arange(first, first + size) % len(self.lengths)]
        mask = (torch.arange(MAX_LENGTH) < lengths[:, None]).long()
        image_mask = torch.cat([torch.ones(size, IMAGE_POSITIONS, dtype=torch.long), mask], dim=1)
        return {
            "input_ids": torch.randint(1000, 30000, (size, MAX_LENGTH)) * mask,
            "segment_ids": torch.zeros_like(mask),
            "input_mask": mask,
            "added_attention_mask": image_mask,
            "labels": torch.randint(1, NUM_TAGS, (size, MAX_LENGTH)) * mask,
            "auxlabels": torch.randint(1, NUM_CHUNK_TAGS, (size, MAX_LENGTH)) * mask,
            "pictures": torch.randn(size, 3, 224, 224),
        }

    def _forward(self, batch: dict[str, torch.Tensor]):
        batch = {name: tensor.to(self.device) for name, tensor in batch.items()}
        with torch.no_grad():
            _, _, visual_embeds_att = self.resnet(batch.pop("pictures"))
        return self.model(**batch, visual_embeds_att=visual_embeds_att, trans_matrix=self.chunk_to_tag)

    def training_rate(self, steps: int) -> float:
        """Tweets a second."""
        batches = [self.batch(step * TRAIN_BATCH, TRAIN_BATCH) for step in range(steps)]
        self.model.train()
        self.resnet.train()
        start = time.perf_counter()
        for batch in batches:
            loss = self._forward(batch)
            loss.backward()
            loss.item()
            self.optimiser.step()
            self.optimiser.zero_grad()
        return steps * TRAIN_BATCH / (time.perf_counter() - start)

    @torch.no_grad()
    def prediction_rate(self, steps: int) -> float:
        """Tweets a second, on as many tweets as `training_rate`."""
        count = steps * TRAIN_BATCH
        batches = [self.batch(first, PREDICT_BATCH) for first in range(0, count, PREDICT_BATCH)]
        for batch in batches:
            del batch["labels"], batch["auxlabels"]
        self.model.eval()
        self.resnet.eval()
        start = time.perf_counter()
        for batch in batches:
            self._forward(batch)
        return count / (time.perf_counter() - start)


def use_bool_masks(crf):
    """Today's `torch.where` refuses the byte masks that UMT gives its CRF."""
    forward, decode = crf.forward, crf.decode
    crf.forward = lambda emissions, tags, mask, reduction: forward(emissions, tags, mask.bool(), reduction)
    crf.decode = lambda emissions, mask: decode(emissions, mask.bool())


class HamLearning:
    """`run_mner.py`'s Trainer on tweets with a kind of pictures."""

    def __init__(self, kind: str, tweets: Dataset, tokenizer, folder: str):
        self.trainer = make_trainer("bert-base", kind, tweets, tokenizer, TRAIN_BATCH, folder)

    def training_rate(self) -> float:
        """Tweets a second."""
        watch = TrainingWatch()
        self.trainer.add_callback(watch)
        self.trainer.train()
        self.trainer.remove_callback(watch)
        return len(self.trainer.train_dataset) / watch.seconds

    def prediction_rate(self) -> float:
        """Tweets a second."""
        tweets = self.trainer.train_dataset
        return len(tweets) / predict(self.trainer, tweets)["seconds"]


def main():
    """Prints a table, and writes it as JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--umt", type=Path, required=True, help="clone of github.com/jefferyYu/UMT")
    parser.add_argument("--tweets", type=int, default=256, help="of a round of HamLearning")
    parser.add_argument("--umt_steps", type=int, default=2, help="batches of 32 of a round of UMT")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", help="also write the figures here")
    options = parser.parse_args()
    warnings.filterwarnings("ignore", category=UserWarning)  # UMT calls signatures that PyTorch will drop

    set_seed(1)
    tweets, tokenizer = made_up_tweets(options.tweets, np.random.default_rng(1))
    with tempfile.TemporaryDirectory() as folder:
        contestants = {f"HamLearning, {kind}": HamLearning(kind, tweets, tokenizer, folder) for kind in SIZES}
        trainer = next(iter(contestants.values())).trainer
        umt = UMT(options.umt, trainer.train_dataset, trainer.args.device)
        timers = {
            "training": {"UMT": lambda: umt.training_rate(options.umt_steps)}
            | {name: contestant.training_rate for name, contestant in contestants.items()},
            "prediction": {"UMT": lambda: umt.prediction_rate(options.umt_steps)}
            | {name: contestant.prediction_rate for name, contestant in contestants.items()},
        }
        rates = {task: {name: [] for name in of_task} for task, of_task in timers.items()}
        for round_ in range(options.rounds):
            for task, of_task in timers.items():
                for name, timer in of_task.items():
                    rates[task][name].append(timer())
            print(
                f"round {round_ + 1}:",
                {t: {n: round(v[-1], 2) for n, v in r.items()} for t, r in rates.items()},
                flush=True,
            )

    setting = {
        "tweets": options.tweets,
        "umt_tweets": options.umt_steps * TRAIN_BATCH,
        "rounds": options.rounds,
        "threads": torch.get_num_threads(),
        "bf16": trainer.args.bf16,
        "torch": torch.__version__,
    }
    print(f"\n{setting}\n\n| | tweets/s | spread | over UMT | spread |\n|---|---|---|---|---|")
    figures = setting | {"rates": rates, "median": {}, "over_umt": {}}
    for task, of_task in rates.items():
        for name, values in of_task.items():
            over = [value / base for value, base in zip(values, of_task["UMT"], strict=True)]
            figures["median"][f"{task}, {name}"] = statistics.median(values)
            figures["over_umt"][f"{task}, {name}"] = statistics.median(over)
            row = [f"{task}, {name}", f"{statistics.median(values):.2f}", f"{spread(values):.0%}"]
            print("| " + " | ".join([*row, f"{statistics.median(over):.2f}", f"{spread(over):.0%}"]) + " |")
    if options.json:
        Path(options.json).write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
