#!/usr/bin/env python
"""HamLearning beside peers' own code, alternating in one process: tweets a second in training and prediction.

```bash
git clone https://github.com/jefferyYu/UMT
git clone https://github.com/zjunlp/HVPNeT
python benchmarks/peers.py --umt UMT --hvpnet HVPNeT --json peers.json
```

The peers are UMT (Yu et al., ACL 2020) and HVPNeT (Chen et al., NAACL 2022 Findings), imported from their clones as
they are, with stand-ins for what today's libraries no longer have. All have a BERT-base of random weights and the same
made-up tweets, of the lengths of Twitter-2017 (see `workload.py`).

- `UMT`: a step of its run script: float32, batches of 32 (16 to predict), every tweet padded to 128 sub-tokens,
  ResNet-152 on the batch's pictures, forward, backward, `loss.item()`, its BertAdam.
- `HVPNeT`: a step of its run script for Twitter-2017: float32, batches of 8, every tweet padded to 128, ResNet-50 on
  the picture and three cut out of it, forward (which decodes), backward, `loss.item()`, AdamW. Prediction is its
  evaluation, which computes the loss too.
- `HamLearning, captions` and `HamLearning, regions`: an epoch of `run_mner.py`'s Trainer, batches of 32 grouped by
  length, bf16 where the hardware has it, tweets tokenized and padded on the clock; with about two regions a picture
  and with 15, features from file. Prediction is the Trainer's, from the longest tweet to the shortest.

The peers' pictures and tweets are tensors in memory before the clock starts. A round times each of them once:
HamLearning on all tweets, a peer, whose time does not depend on their lengths, on `--peer_tweets` of them. Reported
are the medians over the rounds, and of the ratios within a round the median and the lowest.

With `--extracted grid=16 faster_rcnn_vg=2` a round also extracts the features of so many JPEG files with ResNet-152
and that detector (weights drawn, networks compiled before), as `hamlearning extract` does, and the table says what a
tweet takes from its picture's file through 24 epochs, UMT's recipe: a peer's ResNet runs again in each, HamLearning
extracts once.
"""

import argparse
import ctypes
import importlib
import json
import statistics
import sys
import tempfile
import time
import types
import warnings
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
import torchvision
import transformers.file_utils
import transformers.modeling_utils
import transformers.pytorch_utils
from datasets import Dataset, DatasetDict
from transformers import BertConfig, get_linear_schedule_with_warmup, set_seed

from configuration_hamlearning import HamLearningVisionConfig
from extraction_speed import extraction_seconds, write_pictures
from hamlearning.pictures.tweet_images import TweetImages
from hamlearning.training.prediction import predict
from hamlearning.training.trainer import TrainingWatch, keep_freed_memory
from modeling_hamlearning_vision import HamLearningVisionModel
from operations import PRESETS
from pictures_speed import draw_weights
from workload import SIZES, made_up_tweets, make_trainer, print_table, spread


MAX_LENGTH = 128  # of both run scripts
BATCH_SIZE = 32  # HamLearning's, and UMT's
NUM_TAGS, NUM_CHUNK_TAGS = 13, 7  # tags and UMT's chunk tags: padding, X, [CLS] and [SEP] among them
IMAGE_POSITIONS = 49
EPOCHS = 24  # of UMT's recipe


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


def give_memory_back():
    """Hands what a contestant has freed, and `run_mner.py` would keep for its next step, to the next contestant."""
    if hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)


class Peer:
    """How the rates of a peer's `training_step` and `predict` are taken.

    Its `batch(first, size)` gives tensors, its `vision` is the network that sees pictures.
    """

    train_batch: int
    predict_batch: int

    def watch_vision(self, vision: torch.nn.Module):
        """Sums up, in `vision_seconds`, the time of its forward passes."""
        self.vision_seconds = 0.0

        def on(*_):
            self.vision_seconds -= time.perf_counter()

        def off(*_):
            self.vision_seconds += time.perf_counter()

        vision.register_forward_pre_hook(on)
        vision.register_forward_hook(off)

    def training_rate(self, count: int) -> float:
        """Tweets a second; `vision_share` becomes the share of the pictures' network in the time."""
        batches = [self.batch(first, self.train_batch) for first in range(0, count, self.train_batch)]
        self.train_mode(True)
        self.vision_seconds, start = 0.0, time.perf_counter()
        for batch in batches:
            self.training_step(batch)
        seconds = time.perf_counter() - start
        self.vision_share = self.vision_seconds / seconds
        return count / seconds

    @torch.no_grad()
    def prediction_rate(self, count: int) -> float:
        """Tweets a second."""
        batches = [self.batch(first, self.predict_batch) for first in range(0, count, self.predict_batch)]
        self.train_mode(False)
        start = time.perf_counter()
        for batch in batches:
            self.predict(batch)
        return count / (time.perf_counter() - start)


class UMT(Peer):
    """UMT's model and its ResNet-152, random weights, and the steps of its run script."""

    train_batch, predict_batch = BATCH_SIZE, 16

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
        self.watch_vision(self.resnet)
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

    def train_mode(self, is_on: bool):
        self.model.train(is_on)
        self.resnet.train(is_on)

    def training_step(self, batch: dict[str, torch.Tensor]):
        loss = self._forward(batch)
        loss.backward()
        loss.item()
        self.optimiser.step()
        self.optimiser.zero_grad()

    def predict(self, batch: dict[str, torch.Tensor]):
        self._forward({name: tensor for name, tensor in batch.items() if name not in ("labels", "auxlabels")})


def import_hvpnet(folder: Path) -> types.ModuleType:
    """Its module of models, with what transformers and torchvision have dropped since, and no downloads."""
    if not (folder / "models" / "bert_model.py").is_file():
        raise FileNotFoundError(f"{folder} holds no models/bert_model.py: git clone zjunlp/HVPNeT there.")
    for name in ("apply_chunking_to_forward", "find_pruneable_heads_and_indices", "prune_linear_layer"):
        function = getattr(transformers.pytorch_utils, name, None)  # None: no head is pruned here
        setattr(transformers.modeling_utils, name, function)
    transformers.file_utils.add_code_sample_docstrings = lambda **_: lambda function: function  # other arguments now
    sys.path.insert(0, str(folder))
    models = importlib.import_module("models.bert_model")
    sys.path.remove(str(folder))
    bert = models.BertModel
    bert.get_extended_attention_mask = lambda self, mask, shape, device: (
        (1 - mask[:, None, None, :].float()) * -10000.0
    )
    bert.get_head_mask = lambda self, head_mask, count: [None] * count
    bert.init_weights = lambda self: None  # random weights are as good
    bert.from_pretrained = classmethod(lambda cls, name: cls(BertConfig(**PRESETS["bert-base"])))
    models.resnet50 = lambda pretrained: torchvision.models.resnet50()
    return models


class HVPNeT(Peer):
    """HVPNeT's model with its ResNet-50, random weights, and the steps of its run script."""

    train_batch = predict_batch = 8

    def __init__(self, folder: Path, tweets: Dataset, device: torch.device):
        args = types.SimpleNamespace(prompt_dim=800, prompt_len=4, bert_name="", use_prompt=True, device=device)
        self.model = import_hvpnet(folder).HMNeTNERModel([str(tag) for tag in range(NUM_TAGS)], args).to(device)
        use_bool_masks(self.model.crf)
        self.device = device
        self.watch_vision(self.model.image_model)
        rates: dict[float, list] = {3e-5: [], 5e-2: []}
        for name, parameter in self.model.named_parameters():
            if "image_model" in name:
                parameter.requires_grad = False
            else:
                rates[5e-2 if "crf" in name or name.startswith("fc") else 3e-5].append(parameter)
        groups = [{"params": parameters, "lr": rate, "weight_decay": 1e-2} for rate, parameters in rates.items()]
        self.optimiser = torch.optim.AdamW(groups)
        self.scheduler = get_linear_schedule_with_warmup(self.optimiser, 100, 10_000)
        self.lengths = torch.tensor([min(length, MAX_LENGTH) for length in tweets["length"]])

    def batch(self, first: int, size: int) -> dict[str, torch.Tensor]:
        """Tensors of tweets, over and over if they are fewer."""
        lengths = self.lengths[torch.arange(first, first + size) % len(self.lengths)]
        mask = (torch.arange(MAX_LENGTH) < lengths[:, None]).long()
        return {
            "input_ids": torch.randint(1000, 30000, (size, MAX_LENGTH)) * mask,
            "token_type_ids": torch.zeros_like(mask),
            "attention_mask": mask,
            "labels": torch.randint(1, NUM_TAGS, (size, MAX_LENGTH)) * mask,
            "images": torch.randn(size, 3, 224, 224),
            "aux_imgs": torch.randn(size, 3, 3, 224, 224),
        }

    def train_mode(self, is_on: bool):
        self.model.train(is_on)

    def training_step(self, batch: dict[str, torch.Tensor]):
        loss = self.predict(batch).loss
        loss.backward()
        loss.item()
        self.optimiser.step()
        self.scheduler.step()
        self.optimiser.zero_grad()

    def predict(self, batch: dict[str, torch.Tensor]):
        return self.model(**{name: tensor.to(self.device) for name, tensor in batch.items()})


def use_bool_masks(crf):
    """Today's `torch.where` refuses the byte masks that peers give their CRF."""
    forward, decode = crf.forward, crf.decode
    crf.forward = lambda emissions, tags, mask, reduction: forward(emissions, tags, mask.bool(), reduction)
    crf.decode = lambda emissions, mask: decode(emissions, mask.bool())


class HamLearning:
    """`run_mner.py`'s Trainer on tweets with a kind of pictures."""

    def __init__(self, kind: str, tweets: Dataset, tokenizer, folder: str):
        self.trainer = make_trainer("bert-base", kind, tweets, tokenizer, BATCH_SIZE, folder)

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


class Extraction:
    """ResNet-152 and a detector, and JPEG files to extract features of."""

    def __init__(self, detector: str, count: int, folder: Path):
        backbone = {"architecture": "resnet152"}
        config = HamLearningVisionConfig(global_backbone_config=backbone, detector=detector)
        self.vision_model, self.count = HamLearningVisionModel(config).eval(), count
        draw_weights(self.vision_model.global_backbone.timm_model)
        folder.mkdir()
        write_pictures(folder, count, seed=1)
        ids = Dataset.from_dict({"id": [str(number) for number in range(count)]})
        self.images = TweetImages(DatasetDict({"train": ids}), folder)
        self.seconds()  # compiles

    def seconds(self) -> float:
        """A picture."""
        return extraction_seconds(self.vision_model, self.images) / self.count


def whole_way(rates: dict[str, list[float]], extracted: dict[str, list[float]], peers: Iterable[str]) -> list[list]:
    """Rows of a table: seconds a tweet from its picture's file through all epochs."""
    rows = []
    for peer in peers:
        theirs = [EPOCHS / rate for rate in rates[peer]]
        rows.append([f"{peer}, {EPOCHS} epochs", f"{statistics.median(theirs):.2f}", ""])
        for detector, seconds in extracted.items():
            ours = [e + EPOCHS / rate for e, rate in zip(seconds, rates["HamLearning, regions"], strict=True)]
            over = statistics.median(a / b for a, b in zip(theirs, ours, strict=True))
            rows.append([f"HamLearning, {detector}", f"{statistics.median(ours):.2f}", f"{over:.2f} times {peer}"])
    return rows


def main():
    """Prints a table, and writes it as JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--umt", type=Path, help="clone of github.com/jefferyYu/UMT")
    parser.add_argument("--hvpnet", type=Path, help="clone of github.com/zjunlp/HVPNeT")
    parser.add_argument("--tweets", type=int, default=256, help="of a round of HamLearning")
    parser.add_argument("--peer_tweets", type=int, default=64, help="of a round of a peer, a multiple of 32")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--extracted", nargs="*", default=[], metavar="DETECTOR=PICTURES", help="from files as well")
    parser.add_argument("--json", help="also write the figures here")
    options = parser.parse_args()
    folders = {"UMT": (UMT, options.umt), "HVPNeT": (HVPNeT, options.hvpnet)}
    folders = {name: given for name, given in folders.items() if given[1] is not None}
    if not folders or options.peer_tweets % BATCH_SIZE:
        parser.error("give --umt or --hvpnet, the clone of a peer, and as --peer_tweets a multiple of 32")
    warnings.filterwarnings("ignore", category=UserWarning)  # UMT calls signatures that PyTorch will drop

    if not torch.accelerator.is_available():
        keep_freed_memory()  # as HamLearning's training does: for all, from the first round on
    set_seed(1)
    tweets, tokenizer = made_up_tweets(options.tweets, np.random.default_rng(1))
    with tempfile.TemporaryDirectory() as folder:
        contestants = {f"HamLearning, {kind}": HamLearning(kind, tweets, tokenizer, folder) for kind in SIZES}
        trainer = next(iter(contestants.values())).trainer
        peers = {
            name: peer(place, trainer.train_dataset, trainer.args.device) for name, (peer, place) in folders.items()
        }
        count = options.peer_tweets
        timers = {
            "training": {name: (lambda peer=peer: peer.training_rate(count)) for name, peer in peers.items()}
            | {name: contestant.training_rate for name, contestant in contestants.items()},
            "prediction": {name: (lambda peer=peer: peer.prediction_rate(count)) for name, peer in peers.items()}
            | {name: contestant.prediction_rate for name, contestant in contestants.items()},
        }
        rates = {task: {name: [] for name in of_task} for task, of_task in timers.items()}
        vision_shares = {name: [] for name in peers}
        wanted = [entry.partition("=") for entry in options.extracted]
        extractions = {name: Extraction(name, int(count), Path(folder, name)) for name, _, count in wanted}
        extracted = {name: [] for name in extractions}
        for round_ in range(options.rounds):
            for task, of_task in timers.items():
                for name, timer in of_task.items():
                    rates[task][name].append(timer())
                    give_memory_back()
            for name, peer in peers.items():
                vision_shares[name].append(peer.vision_share)
            for name, extraction in extractions.items():
                extracted[name].append(extraction.seconds())
                print(f"{name}: {extracted[name][-1]:.2f} s a picture", flush=True)
            print(
                f"round {round_ + 1}:",
                {t: {n: round(v[-1], 2) for n, v in r.items()} for t, r in rates.items()},
                flush=True,
            )

    setting = {
        "tweets": options.tweets,
        "peer_tweets": count,
        "rounds": options.rounds,
        "threads": torch.get_num_threads(),
        "bf16": trainer.args.bf16,
        "torch": torch.__version__,
    }
    shares = {name: statistics.median(values) for name, values in vision_shares.items()}
    figures = setting | {"rates": rates, "median": {}, "over": {}, "vision_share_of_training": shares}
    rows = []
    for task, of_task in rates.items():
        for name, values in of_task.items():
            row = [f"{task}, {name}", f"{statistics.median(values):.2f}", f"{spread(values):.0%}"]
            figures["median"][row[0]] = statistics.median(values)
            for peer in peers:
                over = [value / base for value, base in zip(values, of_task[peer], strict=True)]
                figures["over"][f"{row[0]} over {peer}"] = {"median": statistics.median(over), "lowest": min(over)}
                row += [f"{statistics.median(over):.2f}", f"{min(over):.2f}"] if name not in peers else ["", ""]
            rows.append(row)
    print(f"\n{setting}\n")
    print_table(["", "tweets/s", "spread", *(title for peer in peers for title in (f"over {peer}", "lowest"))], rows)
    for name, share in shares.items():
        print(f"\nOf {name}'s training, {share:.0%} is the network that sees pictures.")
    if extracted:
        print()
        print_table(["from a picture's file", "s a tweet", ""], whole_way(rates["training"], extracted, peers))
        figures["seconds_a_picture"] = extracted
    if options.json:
        Path(options.json).write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
