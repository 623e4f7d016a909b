#!/usr/bin/env python
"""Train, evaluate and predict with HamLearning.

```bash
python run_mner.py configs/sample.yaml                                   # everything is in the file
python run_mner.py configs/sample.yaml --seed 2 --output_dir runs/two    # any flag overrides the file
accelerate launch run_mner.py configs/sample.yaml                        # on as many GPUs as there are
python run_mner.py --model_name_or_path runs/two --data_dir tweets --do_predict --output_dir runs/predictions
python run_mner.py --do_extract --data_dir prepared/twitter2017 --output_dir features    # what the eyes see, as a file
```
"""

import ctypes
import hashlib
import json
import logging
import math
import os
import re
import shlex
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields
from importlib import metadata
from pathlib import Path
from typing import Any

import evaluate
import matplotlib
import numpy as np
import torch
import transformers
import yaml
from accelerate.utils import DistributedType, DynamoBackend, TorchDynamoPlugin, parse_flag_from_env
from datasets import Dataset, DatasetDict, IterableDataset
from huggingface_hub import DatasetCard, hf_hub_download
from huggingface_hub.constants import HF_HOME
from huggingface_hub.utils import httpx
from torch.utils.data import DataLoader, Sampler, SequentialSampler
from transformers import (
    AutoConfig,
    AutoModel,
    AutoTokenizer,
    EarlyStoppingCallback,
    EvalPrediction,
    HfArgumentParser,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
    set_seed,
)
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import IntervalStrategy, TrainOutput
from transformers.utils import is_torch_bf16_gpu_available

import mner_scores
from configuration_hamlearning import DETECTORS, HamLearningConfig, HamLearningVisionConfig
from data_hamlearning import (
    SPLITS,
    VisualFeatures,
    limit_silence,
    load_tweets,
    read_visual_metadata,
    split_sha256,
    stream_tweets,
    wanted_of_hub,
)
from fault_tolerance import (
    DECISIVE_SETTINGS,
    UNFINISHED,
    FaultTolerantTrainer,
    begin_run,
    claim_folder,
    describe_config,
    file_sha256,
    move_into,
    run_from_terminal,
    write_text,
    writing,
)
from modeling_faster_rcnn_vg import PUBLISHED_WEIGHTS, load_plain_yaml
from modeling_hamlearning import HamLearningForTokenClassification
from modeling_hamlearning_vision import HamLearningVisionModel
from pipeline_hamlearning import HamLearningPipeline
from processing_hamlearning import VISION_FOLDER, HamLearningDataCollator, HamLearningProcessor, entity_spans
from publishing import RESULTS_FILE, PublishError, create_repo, publish_model
from shard_prediction import TweetReader, find_shards, predict_shards, shard_identity
from visual_extraction import REPORT_FILE, TweetImages, extract_visual_features


matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402


logger = logging.getLogger("run_mner")

KEPT = "Checkpoints and earlier results stay: make room, and go on with --resume_from_checkpoint True."

# Of the training arguments, what decides about the scores.
TRAINING_FACTS = (
    "learning_rate",
    "text_learning_rate",
    "crf_learning_rate",
    "lr_scheduler_type",
    "warmup_steps",
    "weight_decay",
    "per_device_train_batch_size",
    "tokens_per_batch",
    "gradient_accumulation_steps",
    "world_size",
    "num_train_epochs",
    "max_steps",
    "bf16",
    "fp16",
)


@dataclass
class ModelArguments:
    """Which model: one to go on with, or a new one around a text encoder. A switch left out keeps its default."""

    model_name_or_path: str | None = field(
        default=None,
        metadata={"help": "HamLearning model to evaluate, predict with or train further: folder or Hub id."},
    )
    text_model: str | None = field(
        default=None,
        metadata={"help": "Pretrained text encoder of a new model: folder or Hub id. [bert-base-uncased]"},
    )
    use_vision: bool | None = field(
        default=None, metadata={"help": "Look at pictures. [True where the data set or --visual_features has them]"}
    )
    use_semantic_encoder: bool | None = field(default=None, metadata={"help": "False: without ViT (Table 2)."})
    use_spatial_encoder: bool | None = field(default=None, metadata={"help": "False: without RGCN (Table 2)."})
    use_relevance: bool | None = field(default=None, metadata={"help": "False: without RM (Table 2)."})
    use_crf: bool | None = field(default=None, metadata={"help": "False: every word's tag by itself."})
    num_text_layers: int | None = field(default=None, metadata={"help": "Layers of the textual Transformer."})
    num_semantic_layers: int | None = field(default=None, metadata={"help": "Layers of the ViT (Eq 4)."})
    num_spatial_layers: int | None = field(default=None, metadata={"help": "Layers of the R-GCN (Eq 5-7)."})
    num_ffnn_layers: int | None = field(default=None, metadata={"help": "Linear layers of Eq 12."})
    num_interaction_layers: int | None = field(default=None, metadata={"help": "L, rounds of Eq 13-15 (Table 3)."})
    share_interaction_layers: bool | None = field(
        default=None, metadata={"help": "One set of weights for all rounds."}
    )
    class_embedding_size: int | None = field(default=None, metadata={"help": "Size of a detector class's embedding."})
    dropout: float | None = field(default=None, metadata={"help": "Dropout outside the text encoder."})
    forced_relevance: float | None = field(
        default=None, metadata={"help": "Control: C^r of Eq 8 is this, whatever tweet and picture."}
    )
    picture_dropout: float | None = field(
        default=None, metadata={"help": "Share of pictures hidden in training, so that the model can do without."}
    )
    word_splitting: str = field(
        default="punctuation", metadata={"help": "How raw text will be split later: punctuation or tweet."}
    )
    max_length: int = field(default=128, metadata={"help": "Most sub-tokens of a tweet."})
    max_regions: int = field(default=15, metadata={"help": "Most regions of a picture, best score first."})

    def config_switches(self) -> dict[str, Any]:
        """The fields of `HamLearningConfig` that were given."""
        names = {f.name for f in fields(HamLearningConfig)} & {f.name for f in fields(self)}
        return {name: getattr(self, name) for name in sorted(names) if getattr(self, name) is not None}


@dataclass
class DataArguments:
    """Which tweets and which pictures."""

    data_dir: str | None = field(
        default=None, metadata={"help": "Folder with train, valid and test as released text files or Parquet."}
    )
    dataset_name: str | None = field(default=None, metadata={"help": "Data set of the Hub."})
    dataset_config_name: str | None = field(default=None, metadata={"help": "Its configuration."})
    visual_features: str | None = field(
        default=None,
        metadata={
            "help": "Visual feature file (Parquet), in place of the pictures themselves: a path, or "
            "hf://datasets/ORG/NAME/FILE of the Hub."
        },
    )
    image_dir: str | None = field(
        default=None,
        metadata={"help": "Folder of pictures named by tweet id. [the data set's own image column, if it has one]"},
    )
    streaming: bool = field(
        default=False,
        metadata={
            "help": "With --do_train: read the train split's Parquet shards as they come, again and again until "
            "--max_steps; the other splits are read as ever. With --do_predict alone: read those of the test split, "
            "write shards."
        },
    )
    shuffle_buffer: int = field(
        default=10_000,
        metadata={"help": "Streamed training: tweets in memory of each process, of which the next ones are drawn."},
    )
    shuffle_pictures: bool = field(
        default=False, metadata={"help": "Control: every tweet gets the picture of another tweet of its split."}
    )
    hide_pictures: bool = field(default=False, metadata={"help": "Control: no tweet has its picture."})
    mask_words: bool = field(
        default=False, metadata={"help": "Control: every word is the mask token, so only the pictures tell."}
    )


@dataclass
class VisionArguments:
    """Which eyes look at pictures. A model that has its own keeps them."""

    vision_model: str | None = field(
        default=None, metadata={"help": "Eyes that were saved: folder or Hub id, or that of a model that has them."}
    )
    vision_backbone: str = field(
        default="timm/resnet152.tv_in1k",
        metadata={"help": "Global backbone of new eyes: timm model, folder or Hub id."},
    )
    detector: str = field(
        default="faster_rcnn_vg",
        metadata={"help": "Region detector of new eyes (Table 5).", "choices": DETECTORS},
    )
    detector_name_or_path: str | None = field(
        default=None, metadata={"help": "Its weights: folder, file, Hub id or torchvision name. [those of the kind]"}
    )
    class_names_file: str | None = field(default=None, metadata={"help": "A name a line of the detector's classes."})
    extraction_dir: str = field(
        default=os.path.join(HF_HOME, "hamlearning"),
        metadata={"help": "Where features of pictures are kept, to be found again by the next run."},
    )
    extraction_batch_size: int = field(default=8, metadata={"help": "Pictures that are looked at together."})
    extraction_workers: int | None = field(
        default=None,
        metadata={"help": "Processes that decode pictures meanwhile. [CPU cores but one, 8 at most]"},
    )


@dataclass
class MNERTrainingArguments(TrainingArguments):
    """`TrainingArguments` with this project's defaults and a learning rate a part of the network."""

    output_dir: str = field(default="runs/hamlearning", metadata={"help": "Where model and results go."})  # pyright: ignore[reportIncompatibleVariableOverride]  # never None here
    do_extract: bool = field(
        default=False, metadata={"help": "Write what the eyes see of all pictures to the output folder."}
    )
    text_learning_rate: float | None = field(
        default=None, metadata={"help": "Learning rate of the text encoder. [--learning_rate]"}
    )
    crf_learning_rate: float | None = field(default=None, metadata={"help": "Of the CRF. [--learning_rate]"})
    tokens_per_batch: int | None = field(
        default=None,
        metadata={
            "help": "A device's training batches are tweets of like length with at most so many sub-tokens, padding "
            "included, in place of --per_device_train_batch_size tweets."
        },
    )
    hub_license: str = field(default="apache-2.0", metadata={"help": "Licence of the published weights."})
    example_texts: list[str] = field(
        default_factory=lambda: ["Just landed in Chicago with Maria Lopez, the NBA finals start tonight"],
        metadata={"help": "Texts whose entities the model card shows: your own, no one else's tweets."},
    )
    early_stopping_patience: int | None = field(
        default=None, metadata={"help": "Stop after so many epochs without a better dev F1."}
    )
    bf16: bool | None = field(default=None, metadata={"help": "bfloat16 autocast. [True where the hardware has it]"})
    eval_strategy: str = "epoch"
    save_strategy: str = "epoch"
    logging_strategy: str = "epoch"
    save_total_limit: int | None = 1
    load_best_model_at_end: bool = True
    metric_for_best_model: str | None = "f1"
    train_sampling_strategy: str = "group_by_length"
    warmup_steps: float = 0.1
    remove_unused_columns: bool = False
    # A filtered log would hide a loss that is not a number.
    logging_nan_inf_filter: bool = False
    # Every parameter gets a gradient in every step, so nobody has to look for those that do not.
    ddp_find_unused_parameters: bool | None = False
    per_device_train_batch_size: int = 32
    per_device_eval_batch_size: int = 32
    # What is half trained is nobody else's business: the repo gets one commit, at the end.
    hub_strategy: str = "end"

    def __post_init__(self):
        wanted = str(self.resume_from_checkpoint)
        if wanted.lower() in ("true", "false", "none"):  # a settings file has YAML's, a command line text
            self.resume_from_checkpoint = "True" if wanted.lower() == "true" else None
        if not torch.accelerator.is_available():
            self.use_cpu = True  # without it TrainingArguments refuses bf16 on a CPU
        if self.bf16 is None:
            self.bf16 = not self.fp16 and self._hardware_has_bf16()  # pyright: ignore[reportIncompatibleVariableOverride]  # from here on a bool, as in the base class
            logger.info(f"bf16 is {'on' if self.bf16 else 'off'}: chosen by the hardware, --bf16 overrides it.")
        self.label_names = ["labels"]
        wants_eval = self.do_eval
        if not self.do_train:
            self.eval_strategy = self.save_strategy = "no"
            self.load_best_model_at_end = False
        super().__post_init__()
        self.do_eval = wants_eval  # evaluating between epochs is no wish for scores at the end

    def _hardware_has_bf16(self) -> bool:
        if not self.use_cpu:
            if torch.cuda.is_available():
                return torch.cuda.is_bf16_supported(including_emulation=False)
            return is_torch_bf16_gpu_available()
        capabilities = torch.cpu.get_capabilities()
        return bool(capabilities.get("amx_bf16") or capabilities.get("avx512_bf16"))


def parse_arguments(
    argv: list[str],
) -> tuple[ModelArguments, DataArguments, VisionArguments, MNERTrainingArguments]:
    """Flags, or one YAML/JSON file and flags that override it.

    Raises:
        ValueError: see `read_settings`.
        SystemExit: an argument is unknown or of the wrong type; argparse names it.
    """
    if argv and argv[0].endswith((".yaml", ".yml", ".json")):
        argv = read_settings(argv[0]) + argv[1:]
    parts: Any = (ModelArguments, DataArguments, VisionArguments, MNERTrainingArguments)
    parser: Any = HfArgumentParser(parts)
    try:
        return parser.parse_args_into_dataclasses(argv)
    except ValueError as error:  # of `TrainingArguments`, or an unknown flag
        raise ValueError(f"{error} `python run_mner.py --help` lists the flags.") from error


def read_settings(path: str) -> list[str]:
    """The flags that a YAML or JSON file of settings stands for.

    Raises:
        ValueError: the file is not a mapping of names to values, or holds what has no place in one: tags of Python
            objects, aliases (a few lines of them can stand for gigabytes), brackets in brackets without end.
    """
    flags = []
    try:
        text = Path(path).read_text(encoding="utf-8")  # JSON is YAML too
        settings = load_plain_yaml(text)
        if not isinstance(settings, dict):
            raise ValueError(f"it is of type {type(settings).__name__}")
        for name, value in settings.items():
            if isinstance(value, list):
                flags += [f"--{name}", *map(str, value)]
            elif value is not None:
                flags += [f"--{name}", json.dumps(value) if isinstance(value, dict) else str(value)]
    except (yaml.YAMLError, ValueError, TypeError) as error:  # TypeError: a dict of what JSON does not have
        reason = " ".join(str(error).split())
        raise ValueError(f"{path} holds no settings ({reason}): expected lines `name: value`.") from None
    return flags


class TokenBudgetBatches(Sampler):
    """Batches of tweets of like length whose padded sub-tokens, tweets times longest, do not exceed a budget.

    ```python
    >>> list(TokenBudgetBatches(lengths=[9, 2, 4, 5, 3], budget=10))
    [[0], [3, 2], [4, 1]]
    ```

    Every epoch each tweet is in one batch, in other company and at another time than in the epoch before; the number
    of batches stays. Of several processes each takes one batch in turn. Those of one step are neighbours in length, so
    that all processes have as much to do.

    The loss is the mean over the tweets of a batch, and processes (or the steps of an accumulation) average their
    gradients. So each batch has the same weight, and a long tweet, in company of few, weighs more than a short one,
    with one process as with several. As the batches of a step are of like length, their average is nearly the mean
    over all its tweets.

    Args:
        lengths: sub-tokens of each tweet.
        budget: most padded sub-tokens of a batch.
        num_processes: that the batches are dealt to. Their number is a multiple of it where there are enough tweets.
        seed: of the shuffling, with the epoch.

    Raises:
        ValueError: a tweet is longer than the budget.
    """

    def __init__(self, lengths: Sequence[int], budget: int, num_processes: int = 1, seed: int = 0):
        self.lengths = np.asarray(lengths)
        self.num_processes = num_processes
        self.seed = seed
        self.epoch = 0
        longest = int(self.lengths.max())
        if longest > budget:
            raise ValueError(
                f"--tokens_per_batch {budget}, but tweet {self.lengths.argmax()} of the train split has {longest} "
                f"sub-tokens: give at least {longest}, or cut the tweets with --max_length {budget}."
            )
        # The longest tweet opens a batch: its length says how many go with it, whatever the order among equals.
        descending = np.sort(self.lengths)[::-1]
        sizes, first = [], 0
        while first < len(descending):
            sizes.append(min(int(budget // descending[first]), len(descending) - first))
            first += sizes[-1]
        while len(sizes) % num_processes and max(sizes) > 1:
            largest = int(np.argmax(sizes))
            half = sizes[largest] // 2
            sizes[largest : largest + 1] = [sizes[largest] - half, half]
        self.ends = np.cumsum(sizes)

    def set_epoch(self, epoch: int) -> None:
        """Trainer says here which epoch comes, also where it goes on from a checkpoint."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.ends)

    def __iter__(self) -> Iterator[list[int]]:
        rng = np.random.default_rng((self.seed, self.epoch))
        descending = np.lexsort((rng.random(len(self.lengths)), -self.lengths))
        batches = np.split(descending, self.ends[:-1])
        steps = [batches[first : first + self.num_processes] for first in range(0, len(batches), self.num_processes)]
        for step in rng.permutation(len(steps)):
            yield from (batch.tolist() for batch in steps[step])


class PictureInEveryBatch(HamLearningDataCollator):
    """Batches that all have the visual inputs, two regions a tweet or more, masked where there is nothing to see.

    What is compiled has one graph for them all then (a size of 0 or 1 has its own), and what is sharded has the same
    layers to gather on every process.
    """

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """As `HamLearningDataCollator`."""
        processor, count = self.processor, len(rows)
        nothing = {
            "image_features": torch.zeros(count, processor.image_feature_size or 0),
            "region_features": torch.zeros(count, 0, processor.region_feature_size or 0),
            "region_boxes": torch.zeros(count, 0, 4),
            "region_class_ids": torch.zeros(count, 0, dtype=torch.long),
            "region_mask": torch.zeros(count, 0, dtype=torch.long),
            "image_mask": torch.zeros(count, dtype=torch.long),
            "image_sizes": torch.ones(count, 2, dtype=torch.long),
        }
        batch = nothing | super().__call__(rows)
        for name in ("region_features", "region_boxes", "region_class_ids", "region_mask"):
            tensor = batch[name]
            missing = max(2 - tensor.shape[1], 0)
            batch[name] = torch.nn.functional.pad(tensor, (0, 0) * (tensor.dim() - 2) + (0, missing))
        return batch


class MNERTrainer(FaultTolerantTrainer):
    """`Trainer` with learning rates a part of the network, and predictions in the order of the data set."""

    # What `main` gives it.
    args: MNERTrainingArguments
    model: Any
    processing_class: HamLearningProcessor
    data_collator: HamLearningDataCollator
    train_dataset: Any

    def train(self, resume_from_checkpoint: str | None = None, **kwargs: Any) -> TrainOutput:
        """As in `FaultTolerantTrainer`."""
        if self.args.device.type == "cpu":
            keep_freed_memory()
        return super().train(resume_from_checkpoint, **kwargs)

    def _build_accelerator_args(self, **kwargs) -> dict[str, Any]:
        # What is to be compiled is so already. Trainer would compile the CRF too, anew for every number of words.
        given = super()._build_accelerator_args(**kwargs)
        return (
            given | {"dynamo_plugin": TorchDynamoPlugin(backend=DynamoBackend.NO)}
            if self.args.torch_compile
            else given
        )

    def create_accelerator_and_postprocess(self) -> None:
        """As in `Trainer`, and says how FSDP treats this model."""
        state: Any = self.args.distributed_state
        if state.distributed_type == DistributedType.MULTI_CPU and parse_flag_from_env("ACCELERATE_USE_FSDP"):
            # accelerate 1.15 (`AcceleratorState.__init__`) makes FSDP's processes of those of every device but a CPU,
            # and leaves these with whole weights, without a word. Torch shards over gloo as over anything.
            state.distributed_type = DistributedType.MULTI_GPU
        super().create_accelerator_and_postprocess()
        if self.is_fsdp_enabled:
            plugin: Any = self.accelerator.state.fsdp_plugin
            # It would cast the CRF too. Autocast decides, as for whole weights, what is computed in less than float32.
            plugin.mixed_precision_policy = None
            # The text encoder's own list may name its embeddings, which accelerate shards by themselves already.
            layers = (module for module in self.model.modules() if isinstance(module, GradientCheckpointingLayer))
            plugin.transformer_cls_names_to_wrap = sorted({type(layer).__name__ for layer in layers})

    def _save(self, output_dir: str | None = None, state_dict: dict[str, torch.Tensor] | None = None) -> None:
        # FSDP puts a class of its own in the model's place, whose code would be saved with it.
        sharded_class = type(self.model)
        self.model.__class__ = HamLearningForTokenClassification
        try:
            super()._save(output_dir, state_dict)
        finally:
            self.model.__class__ = sharded_class

    def create_optimizer(self, model: torch.nn.Module | None = None) -> torch.optim.Optimizer:
        """AdamW over the text encoder, the new layers and the CRF, with and without weight decay."""
        if self.optimizer is not None:
            return self.optimizer
        network: Any = self.model if model is None else model
        args = self.args
        rates = {"text": args.text_learning_rate, "new": None, "crf": args.crf_learning_rate}
        decayed = self.get_decay_parameter_names(network)
        groups: dict[tuple[str, bool], list[torch.nn.Parameter]] = {}
        for name, parameter in network.named_parameters():
            if parameter.requires_grad:
                part = "text" if "text_model." in name else "crf" if "crf." in name else "new"
                groups.setdefault((part, name in decayed), []).append(parameter)
        optimizer_class, optimizer_kwargs = self.get_optimizer_cls_and_kwargs(args, network)
        self.optimizer = optimizer_class(
            [
                {
                    "params": parameters,
                    "lr": args.learning_rate if rates[part] is None else rates[part],
                    "weight_decay": args.weight_decay if is_decayed else 0.0,
                }
                for (part, is_decayed), parameters in groups.items()
            ],
            **optimizer_kwargs,
        )
        return self.optimizer

    def make_train_dataloader(self) -> tuple[DataLoader, Sampler | None]:
        """Batches of `--per_device_train_batch_size` tweets, or of `--tokens_per_batch` sub-tokens."""
        args = self.args
        if args.tokens_per_batch is None:
            return super().make_train_dataloader()
        seed = args.seed if args.data_seed is None else args.data_seed
        batches = TokenBudgetBatches(self.train_dataset["length"], args.tokens_per_batch, args.world_size, seed)
        loader = self.accelerator.prepare(
            DataLoader(
                self.train_dataset,
                batch_sampler=batches,
                collate_fn=self.data_collator,
                num_workers=args.dataloader_num_workers,
                pin_memory=args.dataloader_pin_memory,
                persistent_workers=args.dataloader_persistent_workers,
                prefetch_factor=args.dataloader_prefetch_factor,
            )
        )
        logger.info(
            f"{len(loader)} batches an epoch, of at most {args.tokens_per_batch} padded sub-tokens: "
            f"{len(self.train_dataset) / len(batches):.1f} tweets in the mean."
        )
        return loader, batches

    def _get_eval_sampler(self, eval_dataset: Any) -> Sampler | None:
        # Trainer would shuffle by length here too, and predictions would not be in the order of the tweets.
        return SequentialSampler(eval_dataset) if self.args.world_size <= 1 else None


class TrainingWatch(TrainerCallback):
    """Times the epochs without their evaluations."""

    def __init__(self):
        self.epochs = 0.0
        self.seconds = 0.0
        self._begun_at = 0.0
        self._start: float | None = None

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Starts the clock."""
        self._begun_at = state.epoch or 0
        self._start = time.perf_counter()

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Takes an evaluation in the middle of an epoch out."""
        if self._start is not None:
            self._start += (metrics or {})["eval_runtime"]

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Stops the clock."""
        self.epochs += (state.epoch or 0) - self._begun_at
        if self._start is not None:
            self.seconds += time.perf_counter() - self._start
        self._start = None


def keep_freed_memory() -> None:
    """Has glibc keep the memory that tensors free for those of the next step.

    Else it goes back to the system, and comes again page by page, in every step. The process keeps it to its end. What
    that is worth: docs/performance.md.
    """
    if sys.platform != "linux" or not hasattr(libc := ctypes.CDLL(None), "mallopt"):
        return  # another C library
    trim_threshold, top_pad, mmap_threshold = -1, -2, -3  # of malloc.h
    libc.mallopt(trim_threshold, -1)  # never
    libc.mallopt(top_pad, 2**28)
    libc.mallopt(mmap_threshold, 2**25)  # the most that it takes


def compile_trunk(model: HamLearningForTokenClassification, args: MNERTrainingArguments) -> None:
    """`--torch_compile`: the network up to the last hidden state, for batches of any size, without the CRF's loop."""
    # Else sizes that happen to be equal in the first batch are taken to be so always, which costs another graph.
    torch.fx.experimental._config.use_duck_shape = False  # pyright: ignore[reportAttributeAccessIssue]  # no public name
    # In place, so that the weights keep their names.
    model.model.compile(backend=args.torch_compile_backend, mode=args.torch_compile_mode, dynamic=True)


def check_output_dir(args: MNERTrainingArguments) -> None:
    """Refuses a folder that holds another run.

    Raises:
        FileExistsError: the folder holds results or checkpoints, and the run does not go on with them.
    """
    folder, wanted = Path(args.output_dir), args.resume_from_checkpoint
    goes_on = wanted == "True" or wanted is not None and Path(wanted).resolve().parent == folder.resolve()
    if goes_on or not folder.is_dir():
        return
    held = sorted(p.name for p in folder.iterdir() if p.name == RESULTS_FILE or p.name.startswith("checkpoint-"))
    if held:
        raise FileExistsError(
            f"--output_dir {folder} holds another run ({', '.join(held)}): give another folder, remove that one, or "
            "go on from its last checkpoint with --resume_from_checkpoint True."
        )


def check_splits(tweets: DatasetDict, args: MNERTrainingArguments, is_streamed: bool) -> None:
    """Refuses a data set that lacks a split or the tags that the run needs, before anything is computed.

    A train split that is streamed is not among them.

    Raises:
        ValueError: names the split and what to leave out.
    """
    needed = {}
    if args.do_train:
        needed |= {} if is_streamed else {"train": "--do_train"}
        needed |= {"validation": "--do_train (the checkpoint is chosen on it)"}
    if args.do_eval:
        needed["validation"] = "--do_eval"
    for split, reason in needed.items():
        if split in tweets and "ner_tags" not in tweets[split].column_names:
            raise ValueError(f"The {split} split has no ner_tags, which {reason} needs: use --do_predict alone.")
    if args.do_predict:
        needed["test"] = "--do_predict"
    for split, reason in needed.items():
        if split not in tweets:
            raise ValueError(
                f"The data set has no {split} split, which {reason} needs; it has {', '.join(map(str, tweets))}: "
                "add it, or leave that flag out."
            )


def local_file(path: str) -> str:
    """The path itself, or where `hf://datasets/ORG/NAME/FILE` lies once it is downloaded."""
    if not path.startswith("hf://"):
        return path
    found = re.fullmatch(r"hf://datasets/([^/]+/[^/@]+)(?:@([^/]+))?/(.+)", path)
    if found is None:
        raise ValueError(f"{path}: expected hf://datasets/ORG/NAME/FILE or hf://datasets/ORG/NAME@REVISION/FILE.")
    repo_id, revision, file_name = found.groups()
    with wanted_of_hub(path):
        return hf_hub_download(repo_id, file_name, repo_type="dataset", revision=revision)


def load_eyes(model_args: ModelArguments, vision_args: VisionArguments) -> HamLearningVisionModel | None:
    """The eyes that the arguments name, those of the model to go on with (None if it has none), or new ones."""
    if vision_args.vision_model is not None:
        with wanted_of_hub(vision_args.vision_model):
            found, _ = HamLearningVisionConfig.get_config_dict(vision_args.vision_model)
            subfolder = "" if found.get("model_type") == HamLearningVisionConfig.model_type else VISION_FOLDER
            return HamLearningVisionModel.from_pretrained(vision_args.vision_model, subfolder=subfolder)
    if model_args.model_name_or_path is not None:
        with wanted_of_hub(model_args.model_name_or_path):
            processor = HamLearningProcessor.from_pretrained(model_args.model_name_or_path)
            return None if processor.vision_source is None else processor.vision_model
    try:
        return HamLearningVisionModel.from_backbone_detector_pretrained(
            vision_args.vision_backbone,
            vision_args.detector,
            vision_args.detector_name_or_path,
            vision_args.class_names_file,
            max_regions=model_args.max_regions,
        )
    except (httpx.HTTPError, OSError):
        wanted = vision_args.vision_backbone
        with suppress(OSError):  # which of the two it was, no error says: a backbone that was had is in the cache
            AutoModel.from_pretrained(vision_args.vision_backbone, local_files_only=True)
            wanted = vision_args.detector_name_or_path or PUBLISHED_WEIGHTS
        if wanted != vision_args.vision_backbone and vision_args.detector in ("grid", "mask_rcnn_coco"):
            raise  # these have nothing from the Hub
        with wanted_of_hub(wanted):
            raise


def look_at_pictures(
    images: TweetImages, eyes: HamLearningVisionModel, vision_args: VisionArguments, args: MNERTrainingArguments
) -> Path:
    """The visual feature file of the pictures: in the output folder if asked for, else kept for the next run."""
    workers = vision_args.extraction_workers
    if workers is None:
        # Each holds its pictures' tensors as open files, of which a process may mostly have 1024.
        workers = min(max((os.cpu_count() or 1) // args.world_size - 1, 1), 8)
    path = extract_visual_features(
        images,
        eyes.to(args.device),  # pyright: ignore[reportArgumentType]  # `to` is wrapped without its self
        args.output_dir if args.do_extract else vision_args.extraction_dir,
        vision_args.extraction_batch_size,
        workers,
        show_progress=not args.disable_tqdm,
        is_cache=not args.do_extract,
    )
    eyes.to("cpu")  # pyright: ignore[reportArgumentType]  # `to` is wrapped without its self
    report = json.loads(path.with_name(REPORT_FILE).read_text(encoding="utf-8"))
    logger.info(
        f"{path}: {report['pictures']} pictures; {report['without_picture']} tweets have none, {report['unusable']} "
        f"pictures cannot be used (see {REPORT_FILE} beside it)."
    )
    return path


def find_visual_features(
    tweets: DatasetDict,
    model_args: ModelArguments,
    data_args: DataArguments,
    vision_args: VisionArguments,
    args: MNERTrainingArguments,
) -> tuple[str | Path | None, HamLearningVisionModel | None]:
    """The visual feature file of the run, extracted now if need be, and the eyes that made it, where they are known.

    Raises:
        ValueError: there is nothing to look at or nothing to look with, though the arguments ask for it; or the eyes
            did not make the file.
    """
    if data_args.visual_features is not None and not args.do_extract:
        if model_args.use_vision is False:
            return None, None
        eyes = None if vision_args.vision_model is None else load_eyes(model_args, vision_args)
        if eyes is not None and read_visual_metadata(data_args.visual_features).get("vision_sha256") != (
            eyes.fingerprint()
        ):
            raise ValueError(f"{data_args.visual_features} was not made by the eyes of {vision_args.vision_model}.")
        return data_args.visual_features, eyes
    looks = model_args.use_vision is not False
    if looks and model_args.model_name_or_path is not None:
        with wanted_of_hub(model_args.model_name_or_path):
            looks = HamLearningConfig.from_pretrained(model_args.model_name_or_path).use_vision
    images = TweetImages(tweets, data_args.image_dir)
    if args.do_extract:
        if not images.has_pictures:
            raise ValueError("--do_extract, but no tweet has a picture: give --image_dir, the folder of the pictures.")
    elif not (looks and images.has_pictures):
        return None, None
    eyes = load_eyes(model_args, vision_args)
    if eyes is None:
        if args.do_extract:
            raise ValueError(
                f"{model_args.model_name_or_path} has no eyes to extract with: name some, --vision_model."
            )
        logger.warning(
            f"{model_args.model_name_or_path} has no eyes, because it learned from a visual feature file: the "
            "pictures of the data set are left out. Give the eyes that made the file as --vision_model, or give "
            "--visual_features."
        )
        return None, None
    return look_at_pictures(images, eyes, vision_args, args), eyes


def load_model(
    model_args: ModelArguments, tags: list[str] | None, visual_features: VisualFeatures | None
) -> tuple[HamLearningForTokenClassification, HamLearningProcessor]:
    """The model to go on with, or a new one around its text encoder; and its processor.

    Raises:
        ValueError: the tags, sizes or classes of the data are not the model's.
    """
    switches = model_args.config_switches()
    if model_args.model_name_or_path is not None:
        path = model_args.model_name_or_path
        with wanted_of_hub(path):
            config = HamLearningConfig.from_pretrained(path, **switches)
            model = HamLearningForTokenClassification.from_pretrained(path, config=config, dtype=torch.float32)
            processor = HamLearningProcessor.from_pretrained(path)
        unknown = sorted(set(tags or ()) - set(processor.tags))
        if unknown:
            raise ValueError(f"The data has the tags {unknown}, which {path} does not know; it has {processor.tags}.")
    else:
        switches.setdefault("use_vision", visual_features is not None)
        if switches["use_vision"]:
            if visual_features is None:
                raise ValueError(
                    "--use_vision True, but the data set has no pictures: give --image_dir or --visual_features, or "
                    "--use_vision False."
                )
            switches |= {
                "image_feature_size": visual_features.image_feature_size,
                "region_feature_size": visual_features.region_feature_size,
                "num_classes": visual_features.num_classes,
            }
        if tags is None:
            raise ValueError("The train split has no ner_tags: a new model learns from them.")
        text_model = model_args.text_model or "bert-base-uncased"
        label2id = {tag: i for i, tag in enumerate(tags)}
        with wanted_of_hub(text_model):
            tokenizer = AutoTokenizer.from_pretrained(text_model)
            model = HamLearningForTokenClassification.from_text_pretrained(
                text_model, id2label=dict(enumerate(tags)), label2id=label2id, **switches
            )
        sizes = {name: switches.get(name) for name in ("image_feature_size", "region_feature_size", "num_classes")}
        processor = HamLearningProcessor(
            tokenizer,
            tags=tags,
            word_splitting=model_args.word_splitting,
            max_length=model_args.max_length,
            max_regions=model_args.max_regions,
            **sizes,
        )
    if model.config.use_vision and visual_features is not None:
        for name in ("image_feature_size", "region_feature_size", "num_classes"):
            if getattr(visual_features, name) != getattr(model.config, name):
                raise ValueError(
                    f"{visual_features.path} has {name} {getattr(visual_features, name)}, the model takes "
                    f"{getattr(model.config, name)}: give the features of the vision model that it was trained with."
                )
    return model, processor


def picture_source(
    tweets: DatasetDict, visual_features: VisualFeatures, shuffle: bool, seed: int
) -> Mapping[str, Mapping[str, Any]]:
    """Visual features by tweet id; with `shuffle`, those of another tweet of the same split.

    Raises:
        ValueError: no tweet has a picture.
    """
    source: dict[str, Mapping[str, Any]] = {}
    for split, dataset in tweets.items():
        ids = [id_ for id_ in dataset["id"] if id_ in visual_features]
        logger.info(f"{split}: {len(ids)} of {len(dataset)} tweets have a picture.")
        donors = ids
        if shuffle:
            order = np.random.default_rng(seed).permutation(len(ids))
            donor_of = dict(zip(order.tolist(), np.roll(order, 1).tolist(), strict=True))
            donors = [ids[donor_of[i]] for i in range(len(ids))]
        source |= {id_: visual_features[donor] for id_, donor in zip(ids, donors, strict=True)}
    if not source:
        raise ValueError(
            f"{visual_features.path} has no picture of any tweet: its ids are like "
            f"{next(iter(visual_features), None)!r}, the tweets' like {next(iter(tweets.values()))['id'][0]!r}."
        )
    return source


def with_lengths(dataset: Dataset, processor: HamLearningProcessor) -> Dataset:
    """Adds `length`, each tweet's number of sub-tokens, by which batches are made."""
    lengths = processor(text=dataset["tokens"][:])["attention_mask"].sum(dim=1).tolist()
    return dataset.add_column("length", lengths)


def whole_tags(row: np.ndarray, num_words: int, names: np.ndarray) -> list[str]:
    """Tag names of a whole tweet from a padded row of ids: a word beyond the length limit counts as O."""
    tags = names[row[row != -100]].tolist()
    return tags + ["O"] * (num_words - len(tags))


def predict(trainer: MNERTrainer, dataset: Dataset) -> dict[str, Any]:
    """Tags, scores and relevance of every tweet, in the order of the data set.

    Returns:
        `tags`: a list of tag names a tweet, O for words beyond the length limit; `scores`: as long; `relevance`:
        |C^r| a view for each tweet, None for a tweet without a picture (or None altogether: the model measures none);
        `num_cut`: words beyond the limit; `seconds`.
    """
    order = np.argsort(dataset["length"], kind="stable")[::-1]
    start = time.perf_counter()
    rows: Any = dataset.select(order)
    output: Any = trainer.predict(rows).predictions
    seconds = time.perf_counter() - start
    place = np.argsort(order)
    predictions, scores = output[0][place], output[1][place]
    relevance = None
    if len(output) == 3:
        pictures = trainer.data_collator.visual_features or {}
        relevance = [
            np.abs(views).tolist() if id_ in pictures else None
            for id_, views in zip(dataset["id"], output[2][place], strict=True)
        ]
    names = np.array(trainer.processing_class.tags)
    tags, tweet_scores, num_cut = [], [], 0
    for row, tokens in enumerate(dataset["tokens"]):
        kept = int((predictions[row] != -100).sum())
        num_cut += len(tokens) - kept
        tags.append(whole_tags(predictions[row], len(tokens), names))
        tweet_scores.append(scores[row, :kept].tolist() + [0.0] * (len(tokens) - kept))
    return {"tags": tags, "scores": tweet_scores, "relevance": relevance, "num_cut": num_cut, "seconds": seconds}


def prepare_streamed_training(data_args: DataArguments, args: MNERTrainingArguments) -> None:
    """Refuses what a stream cannot do, and has done by steps what would be done at the end of each epoch.

    Raises:
        ValueError: `--max_steps` is missing, or an argument needs to see the whole train split.
    """
    if args.max_steps <= 0:
        raise ValueError(
            "--streaming True --do_train without --max_steps: a stream has no end, so say how many steps it takes."
        )
    for name, value in (
        ("tokens_per_batch", args.tokens_per_batch),
        ("shuffle_pictures", data_args.shuffle_pictures),
        ("do_extract", args.do_extract),
    ):
        if value:
            raise ValueError(
                f"--{name} {value} needs the whole train split, and --streaming True reads it bit by bit."
            )
    # Trainer would have the first process read for all of them.
    accelerator_config: Any = args.accelerator_config
    accelerator_config.dispatch_batches = False
    for what in ("eval", "save", "logging"):
        if getattr(args, f"{what}_strategy") == "epoch":
            setattr(args, f"{what}_strategy", IntervalStrategy.STEPS)
            setattr(args, f"{what}_steps", math.ceil(args.max_steps / 10))


def predict_streamed(
    model_args: ModelArguments, data_args: DataArguments, vision_args: VisionArguments, args: MNERTrainingArguments
) -> dict[str, Any]:
    """Writes entities of the test split's shards, see `predict_shards`.

    Raises:
        ValueError: the arguments ask for more than the predictions of a trained model.
    """
    check_streamed_prediction(model_args, data_args, vision_args, args)
    shards = find_shards(data_args.data_dir, data_args.dataset_name, data_args.dataset_config_name)
    logger.info(f"{len(shards)} shards, from {shards[0]} to {shards[-1]}")
    features_file, eyes = None, None
    if data_args.visual_features is not None and not data_args.hide_pictures:
        features_file, eyes = find_visual_features(DatasetDict(), model_args, data_args, vision_args, args)
    elif vision_args.vision_model is not None:
        eyes = load_eyes(model_args, vision_args)
    visual_features = None if features_file is None else VisualFeatures(features_file)
    model, processor = load_model(model_args, None, visual_features)
    if eyes is not None:
        processor.vision_model = eyes
    reader = TweetReader(
        model.to(args.device).eval(),  # pyright: ignore[reportArgumentType]  # `to` is wrapped without its self
        processor,
        args.per_device_eval_batch_size,
        visual_features,
        image_dir=data_args.image_dir,
        hide_pictures=data_args.hide_pictures,
        mask_words=data_args.mask_words,
        extraction_batch_size=vision_args.extraction_batch_size,
        dtype=torch.bfloat16 if args.bf16 else torch.float16 if args.fp16 else None,
    )
    if reader.pictures == "none":
        asked = {
            "visual_features": data_args.visual_features,
            "image_dir": data_args.image_dir,
            "vision_model": vision_args.vision_model,
        }
        for name in (name for name, value in asked.items() if value is not None):
            reason = "has no eyes: give --vision_model too" if model.config.use_vision else "reads text alone"
            raise ValueError(f"--{name} {asked[name]}, but {model_args.model_name_or_path} {reason}.")
        if model.config.use_vision:
            logger.warning(
                f"{model_args.model_name_or_path} has no eyes: tweets are read without pictures. Give --vision_model "
                "or --visual_features."
            )
    counts = predict_shards(shards, reader, Path(args.output_dir), show_progress=not args.disable_tqdm)
    if visual_features is not None and counts["tweets"] and not counts["pictures"]:
        logger.warning(
            f"{features_file} has no picture of any of {counts['tweets']} tweets: its ids are like "
            f"{next(iter(visual_features))!r}."
        )
    logger.info(f"This process's {counts['shards']} of {len(shards)} shards are in {args.output_dir}: {counts}")
    return {}


# Of streamed prediction: what it cannot do, and what to do about it.
NOT_STREAMED = {
    "do_eval": "do that in a run of its own without --streaming",
    "do_extract": "do that in a run of its own without --streaming",
    "shuffle_pictures": "it needs all pictures of the split, so do that without --streaming",
    "shuffle_buffer": "nothing is shuffled",
    "extraction_dir": "nothing of what the eyes see is kept",
    "extraction_workers": "pictures are decoded as they come: start more processes",
    "vision_backbone": "the eyes are the model's, or those that --vision_model names",
    "detector": "the eyes are the model's, or those that --vision_model names",
    "detector_name_or_path": "the eyes are the model's, or those that --vision_model names",
    "class_names_file": "the eyes are the model's, or those that --vision_model names",
    "text_model": "the model has its own",
    "word_splitting": "the model has its own",
    "max_length": "the model has its own",
    "max_regions": "the model has its own",
    "resume_from_checkpoint": "it goes on by itself with the shards that are missing",
    "torch_compile": "nothing is compiled",
    "bf16_full_eval": "--bf16 it is",
    "fp16_full_eval": "--fp16 it is",
    "prediction_loss_only": "there is no loss",
    "full_determinism": "nothing is drawn by lot",
    "dataloader_num_workers": "start more processes",
    "report_to": "there is nothing to report",
    "fsdp": "each process has the whole model",
    "deepspeed": "each process has the whole model",
}


def check_streamed_prediction(
    model_args: ModelArguments, data_args: DataArguments, vision_args: VisionArguments, args: MNERTrainingArguments
):
    """Refuses every argument that streamed prediction would have to ignore, but for those of training.

    Raises:
        ValueError: names the argument and what to do.
    """
    reason = "--streaming True predicts without --do_train: it writes entities of the test split's shards, so"
    for name, remedy in NOT_STREAMED.items():
        of = next(part for part in (model_args, data_args, vision_args, args) if hasattr(part, name))
        value, usual = getattr(of, name), None if of is args else getattr(type(of)(), name)
        if value if of is args else value != usual:
            raise ValueError(f"{reason} leave out --{name} {value}: {remedy}.")
    if model_args.model_name_or_path is None:
        raise ValueError(f"{reason} give --model_name_or_path, a trained model.")
    given = [name for name in ("visual_features", "image_dir") if getattr(data_args, name) is not None]
    if len(given) == 2:
        raise ValueError("--visual_features and --image_dir were both given: the features are those of the pictures.")


def gold_tags(dataset: Dataset) -> list[list[str]]:
    """The tags of a split by name."""
    names = dataset.features["ner_tags"].feature.names
    return [[names[tag] for tag in tags] for tags in dataset["ner_tags"]]


def write_predictions(path: Path, dataset: Dataset, predicted: dict[str, Any]) -> None:
    """One JSON line a tweet: its id, tokens, gold tags where known, predicted tags, entities, |C^r| of its picture."""
    gold = gold_tags(dataset) if "ner_tags" in dataset.column_names else None
    lines = []
    for row, (id_, tokens) in enumerate(zip(dataset["id"], dataset["tokens"], strict=True)):
        line = {"id": id_, "tokens": tokens}
        if gold is not None:
            line["ner_tags"] = gold[row]
        line["predictions"] = predicted["tags"][row]
        line["entities"] = [
            {"type": type_, "start": first, "end": end, "score": round(predicted["scores"][row][first], 4)}
            for type_, first, end in entity_spans(predicted["tags"][row])
        ]
        if predicted["relevance"] is not None:
            views = predicted["relevance"][row]
            line["relevance"] = views and [round(value, 4) for value in views]
        lines.append(json.dumps(line, ensure_ascii=False) + "\n")
    write_text(path, "".join(lines))


def plot_training(history: list[dict[str, float]], path: Path) -> None:
    """Training loss and dev F1 over the epochs (the paper's Figure 4)."""
    figure, loss_axis = plt.subplots(figsize=(7, 4))
    f1_axis = loss_axis.twinx()
    for axis, key, scale, color, name in (
        (loss_axis, "loss", 1, "tab:blue", "training loss"),
        (f1_axis, "eval_f1", 100, "tab:red", "dev F1 (%)"),
    ):
        points = [(entry["epoch"], scale * entry[key]) for entry in history if key in entry]
        axis.plot(*zip(*points, strict=True), color=color, marker="o", label=name)
        axis.set_ylabel(name, color=color)
    loss_axis.set_xlabel("epoch")
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def show_tweet(dataset: Dataset, predicted: dict[str, Any]) -> str:
    """The first tweet in which something was found, with what was found."""
    rows = (row for row, tags in enumerate(predicted["tags"]) if any(tag != "O" for tag in tags))
    row = next(rows, 0)
    tokens, tags = dataset["tokens"][row], predicted["tags"][row]
    found = [
        f"  {type_:5} {' '.join(tokens[first:end])}  (score {predicted['scores'][row][first]:.2f})"
        for type_, first, end in entity_spans(tags)
    ]
    return "\n".join([" ".join(tokens), *(found or ["  no entity"])])


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Runs what the arguments ask for, and returns what `results.json` holds."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s", stream=sys.stderr)
    logging.getLogger("httpx2").setLevel(logging.WARNING)  # the Hub client's, a line a request
    model_args, data_args, vision_args, args = parse_arguments(sys.argv[1:] if argv is None else argv)
    is_main = args.process_index == 0
    if not is_main:
        logger.setLevel(logging.WARNING)
        transformers.utils.logging.set_verbosity_error()
    wants_model = args.do_train or args.do_eval or args.do_predict
    if not (wants_model or args.do_extract):
        raise ValueError("Nothing to do: give --do_train, --do_eval, --do_predict or --do_extract.")
    if args.push_to_hub and not args.do_train:
        raise ValueError(
            "--push_to_hub without --do_train: a run publishes what it trained. Publish what was trained before with "
            "`python publishing.py FOLDER ORG/NAME`."
        )
    if args.push_to_hub and (args.hub_strategy != "end" or args.hub_revision is not None):
        raise ValueError(
            f"--hub_strategy {args.hub_strategy} --hub_revision {args.hub_revision}: a run is published once, at its "
            "end, to main: leave them out."
        )
    limit_silence()
    data_name = data_set_name(data_args)
    if is_main:
        check_output_dir(args)
        if args.push_to_hub:  # now, not after hours of training
            name = args.hub_model_id or Path(args.output_dir).resolve().name
            try:
                args.hub_model_id = create_repo(name, private=args.hub_private_repo, token=args.hub_token)
            except PublishError as error:
                command = shlex.join(["python", "publishing.py", args.output_dir, name])
                raise PublishError(
                    f"{error} Or train without --push_to_hub and publish afterwards: `{command}`."
                ) from error
    # A model folder is loaded with this code, never with the code that it carries.
    AutoConfig.register("hamlearning", HamLearningConfig, exist_ok=True)

    if data_args.visual_features is not None:
        data_args.visual_features = local_file(data_args.visual_features)
    place = (data_args.data_dir, data_args.dataset_name, data_args.dataset_config_name)
    trains_streamed = data_args.streaming and args.do_train
    if trains_streamed:
        prepare_streamed_training(data_args, args)
    elif data_args.streaming:
        return predict_streamed(model_args, data_args, vision_args, args)
    if args.torch_compile and args.torch_compile_backend == "inductor" and args.device.type == "cpu":
        raise ValueError(
            "--torch_compile True on a CPU: steps are no faster (docs/performance.md), compiling takes minutes: leave "
            "it out, it is for GPUs."
        )
    tweets = load_tweets(*place, splits=("validation", "test") if trains_streamed else tuple(SPLITS))
    check_splits(tweets, args, trains_streamed)
    tags: Any = next(
        (d.features["ner_tags"].feature.names for d in tweets.values() if "ner_tags" in d.column_names), None
    )
    stream, shards = None, []
    if trains_streamed:
        shards = find_shards(*place, split="train")
        logger.info(f"{len(shards)} shards, from {shards[0]} to {shards[-1]}")
        stream = stream_tweets(shards, tags, args.seed, data_args.shuffle_buffer)
        looks = data_args.visual_features is None and model_args.use_vision is not False
        if looks and TweetImages(tweets, data_args.image_dir).has_pictures:
            raise ValueError(
                "--streaming True --do_train with pictures: have them looked at before, --do_extract, and give the "
                "file as --visual_features; or leave them out, --use_vision False."
            )
    features_file, eyes = find_visual_features(tweets, model_args, data_args, vision_args, args)
    if not wants_model:
        return {}
    set_seed(args.seed)  # behind the eyes, which draw random numbers too where they are new
    tweets = DatasetDict(
        {
            split: dataset.remove_columns([*({"image"} & set(dataset.column_names))])
            for split, dataset in tweets.items()
        }
    )
    visual_features = None if features_file is None else VisualFeatures(features_file)
    model, processor = load_model(model_args, tags, visual_features)
    if args.torch_compile:
        compile_trunk(model, args)
    data_facts = {
        str(split): {"tweets": len(dataset), "sha256": split_sha256(dataset)}
        for split, dataset in tweets.items()
        if "ner_tags" in dataset.column_names
    }
    if data_args.mask_words:
        mask = processor.tokenizer.mask_token or processor.tokenizer.unk_token

        def mask_words(tweet: dict[str, Any]) -> dict[str, Any]:
            return {"tokens": [mask] * len(tweet["tokens"])}

        tweets = tweets.map(mask_words)
        stream = stream and stream.map(mask_words)
    pictures = None
    if model.config.use_vision:
        if visual_features is None:
            logger.warning("No pictures: the model was trained with pictures and does without them now.")
        elif not data_args.hide_pictures:
            pictures = picture_source(tweets, visual_features, data_args.shuffle_pictures, args.seed)
            pictures = pictures if stream is None else visual_features  # nobody knows yet whose are needed
    tweets = DatasetDict({split: with_lengths(dataset, processor) for split, dataset in tweets.items()})

    metric = evaluate.load(mner_scores.__file__)
    splits = {"validation": args.do_eval, "test": args.do_predict}
    results: dict[str, Any] = {}

    def compute_metrics(evaluation: EvalPrediction) -> dict[str, float]:
        gold = gold_tags(tweets["validation"])
        names = np.array(processor.tags)
        predictions = [
            whole_tags(row, len(tags), names) for row, tags in zip(evaluation.predictions[0], gold, strict=True)
        ]
        scores: Any = metric.compute(predictions=predictions, references=gold)
        return {name: scores[name] for name in ("precision", "recall", "f1", "strict_f1")}

    output_dir, checkpoint = Path(args.output_dir), None
    if args.do_train:
        facts = run_facts(data_facts, shards, model, processor, data_args, visual_features, args)
        checkpoint = begin_run(args, facts)
    elif is_main:
        claim_folder(output_dir)
    # Not Trainer's business: it would make the repo once more, and give up at the first fault of the Hub.
    publishes, args.push_to_hub = args.push_to_hub, False
    watch = TrainingWatch()
    callbacks: list[TrainerCallback] = [watch]
    if args.early_stopping_patience is not None:
        callbacks.append(EarlyStoppingCallback(args.early_stopping_patience))
    trainer = MNERTrainer(
        model=model,
        args=args,
        data_collator=HamLearningDataCollator(processor, pictures),
        train_dataset=stream or (tweets["train"] if args.do_train else None),
        eval_dataset=tweets["validation"] if args.do_train or args.do_eval else None,
        processing_class=processor,
        compute_metrics=compute_metrics,
        # The emissions are large and needed no more once the tags are found.
        preprocess_logits_for_metrics=lambda outputs, labels: outputs[1:],
        callbacks=callbacks,
    )
    if pictures is not None and (args.torch_compile or trainer.is_fsdp_enabled):
        trainer.data_collator = PictureInEveryBatch(processor, pictures)
    if args.do_train:
        results["train"] = train(trainer, watch, output_dir, eyes, checkpoint)
    trainer.compute_metrics = None  # from here on whole splits are scored, with all their tags
    for split in (name for name, wanted in splits.items() if wanted):
        dataset = tweets[split]
        predicted = predict(trainer, dataset)
        results[split] = {"words_cut": predicted["num_cut"], "tweets_per_second": len(dataset) / predicted["seconds"]}
        if "ner_tags" in dataset.column_names:
            scores: Any = metric.compute(predictions=predicted["tags"], references=gold_tags(dataset))
            results[split] = scores | results[split]
        if is_main:
            with writing(f"The predictions of the {split} split", output_dir, KEPT):
                write_predictions(output_dir / f"predictions_{split}.jsonl", dataset, predicted)
                if "types" in results[split]:
                    table = mner_scores.score_table(results[split])
                    write_text(output_dir / f"scores_{split}.md", table + "\n")
                    print(f"\n{split}: entity-level, seqeval\n{table}")
            print(f"\n{show_tweet(dataset, predicted)}\n")
    if stream is not None:
        results["streamed"] = {"shards": len(shards), "shuffle_buffer": data_args.shuffle_buffer}
    results |= describe_run(data_name, data_facts, model, model_args, data_args, visual_features, args)
    if is_main:
        model = trainer.accelerator.unwrap_model(model, keep_fp32_wrapper=False)  # as who loads it will have it
        if args.do_train:  # this one may be compiled, or in pieces
            model = HamLearningForTokenClassification.from_pretrained(output_dir)
        ner = HamLearningPipeline(model=model, processor=processor, device=args.device)
        results["examples"] = [{"text": text, "entities": ner(text)} for text in args.example_texts]
        with writing(RESULTS_FILE, output_dir, KEPT):
            write_text(output_dir / RESULTS_FILE, json.dumps(results, indent=2) + "\n")
        logger.info(f"Everything is in {output_dir}")
        if publishes:
            url = publish_model(
                output_dir, str(args.hub_model_id), args.hub_license, args.hub_private_repo, args.hub_token
            )
            logger.info(f"Published: {url}")
    return results


def train(
    trainer: MNERTrainer,
    watch: TrainingWatch,
    output_dir: Path,
    eyes: HamLearningVisionModel | None,
    checkpoint: Path | None,
) -> dict[str, Any]:
    """Trains to the checkpoint with the best dev F1, saves it with its eyes, and returns how it went."""
    args = trainer.args
    trainer.train(resume_from_checkpoint=checkpoint and str(checkpoint))
    processor = trainer.processing_class
    if eyes is not None:
        processor.vision_model = eyes  # not before: every checkpoint would carry them
    elif processor.vision_source is not None and trainer.is_world_process_zero():
        _ = processor.vision_model  # loaded, the eyes of the model to go on with are saved with what became of it
    history = trainer.state.log_history
    staged = output_dir / UNFINISHED / "model"
    with writing("The trained model", output_dir, KEPT):
        if trainer.is_world_process_zero():
            shutil.rmtree(staged.parent, ignore_errors=True)  # what a kill may have left
        trainer.accelerator.wait_for_everyone()
        try:
            # Called by its public name it would push a model that has neither card nor scores yet.
            trainer.save_model(str(staged), _internal_call=True)
            if trainer.is_world_process_zero():
                plot_training(history, staged / "training.png")
                move_into(staged, output_dir)
        finally:  # also on a full disk, which needs the room
            if trainer.is_world_process_zero():
                shutil.rmtree(staged.parent, ignore_errors=True)
    evaluations = [entry for entry in history if "eval_f1" in entry]
    last = {"epoch": trainer.state.epoch}
    best = max(evaluations, key=lambda entry: entry["eval_f1"], default=last)
    if args.load_best_model_at_end and trainer.state.best_model_checkpoint is not None:
        # Not always of the best evaluation: there may be more evaluations than checkpoints.
        state_file = Path(trainer.state.best_model_checkpoint) / TRAINER_STATE_NAME
        kept = json.loads(state_file.read_text(encoding="utf-8"))["global_step"]
        best = next((entry for entry in evaluations if entry["step"] == kept), best)
    tweets_an_epoch = args.max_steps * trainer.get_total_train_batch_size(args)
    if not isinstance(trainer.train_dataset, IterableDataset):
        tweets_an_epoch = len(trainer.train_dataset)
    return {
        "epochs": trainer.state.epoch,
        "best_epoch": best["epoch"],
        "seconds": watch.seconds,
        "tweets_per_second": tweets_an_epoch * watch.epochs / max(watch.seconds, 1e-9),
        "history": [
            {key: entry[key] for key in ("epoch", "loss", "eval_loss", "eval_f1") if key in entry}
            for entry in history
            if "loss" in entry or "eval_f1" in entry
        ],
    }


def run_facts(
    data_facts: dict[str, Any],
    shards: Sequence[str],
    model: HamLearningForTokenClassification,
    processor: HamLearningProcessor,
    data_args: DataArguments,
    visual_features: VisualFeatures | None,
    args: MNERTrainingArguments,
) -> dict[str, Any]:
    """What a training is, whatever code does it: settings, network, tokenizer, data and features."""
    names = ("streaming", "shuffle_buffer", "shuffle_pictures", "hide_pictures", "mask_words")
    vocabulary = json.dumps(sorted(processor.tokenizer.get_vocab().items()))
    tokenizer = None
    if processor.tokenizer.is_fast:  # it says how a word is normalised and taken apart, too
        parts = json.loads(processor.tokenizer.backend_tokenizer.to_str())
        del parts["truncation"], parts["padding"]  # those of the last call
        tokenizer = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
    # Not the time of change: a copy has another one. Content is known of the Hub's shards only.
    identities = [shard_identity(shard) for shard in shards]
    return {
        "settings": {name: args.to_dict().get(name, getattr(args, name)) for name in DECISIVE_SETTINGS},
        "data": data_facts | {name: getattr(data_args, name) for name in names},
        "shards": {one["shard"]: {name: one[name] for name in ("bytes", "content")} for one in identities},
        "visual_features_sha256": None if visual_features is None else file_sha256(visual_features.path),
        "model": describe_config(model.config),
        "processor": {name: getattr(processor, name) for name in ("max_length", "max_regions", "tags")},
        "vocabulary_sha256": hashlib.sha256(vocabulary.encode()).hexdigest(),
        "tokenizer_sha256": tokenizer,
    }


def data_set_name(data_args: DataArguments) -> str:
    """The data set's Hub id, the name in its card, or that of its folder."""
    if data_args.dataset_name is not None or data_args.data_dir is None:
        return str(data_args.dataset_name)
    card, name = Path(data_args.data_dir) / "README.md", Path(data_args.data_dir).resolve().name
    if not card.is_file():
        return name
    try:
        return getattr(DatasetCard.load(card).data, "pretty_name", None) or name
    except (ValueError, yaml.YAMLError) as error:
        logger.warning(f"{card} is no card of a data set ({error}): the data set is called {name}.")
        return name


def starting_point(model_args: ModelArguments) -> dict[str, Any]:
    """What the training starts from: `kind` (text encoder or trained model), `origin`, and whether it `is_on_hub`."""
    kind = "text encoder" if model_args.model_name_or_path is None else "trained model"
    origin = model_args.model_name_or_path or model_args.text_model or "bert-base-uncased"
    is_folder = Path(origin).is_dir()
    name = f"in a folder of its maker, {Path(origin).resolve().name}" if is_folder else origin
    return {"kind": kind, "origin": name, "is_on_hub": not is_folder}


def describe_run(
    data_name: str,
    data_facts: dict[str, Any],
    model: HamLearningForTokenClassification,
    model_args: ModelArguments,
    data_args: DataArguments,
    visual_features: VisualFeatures | None,
    args: MNERTrainingArguments,
) -> dict[str, Any]:
    """What a reader needs to trust the scores: data, eyes, switches, seed and versions."""
    names = ("torch", "transformers", "datasets", "accelerate", "evaluate", "seqeval", "pytorch-crf")
    switches = {f.name for f in fields(ModelArguments)} & set(model.config.to_dict())
    vision = None
    if visual_features is not None:
        made_by = visual_features.metadata.get("vision_config", {})
        vision = {
            "pictures": len(visual_features),
            "detector": made_by.get("detector"),
            "global_backbone": made_by.get("global_backbone_config", {}).get("architecture"),
            "sha256": visual_features.metadata.get("vision_sha256"),
        }
    text_config = model.config.text_config
    encoder = {name: getattr(text_config, name) for name in ("model_type", "num_hidden_layers", "hidden_size")}
    return {
        "evaluator": "seqeval, entity level; f1: default mode, strict_f1: strict IOB2",
        "seed": args.seed,
        "data_name": data_name,
        "data_is_on_hub": data_args.dataset_name is not None,
        "data": data_facts,
        "vision": vision,
        "shuffle_pictures": data_args.shuffle_pictures,
        "hide_pictures": data_args.hide_pictures,
        "mask_words": data_args.mask_words,
        "types": list(dict.fromkeys(tag[2:] for tag in model.config.label2id or () if tag != "O")),
        "starts_from": starting_point(model_args),
        "text_encoder": encoder,
        "model": {name: getattr(model.config, name) for name in sorted(switches)},
        "parameters": sum(p.numel() for p in model.parameters()),
        "training": {name: getattr(args, name) for name in TRAINING_FACTS},
        "versions": {name: metadata.version(name) for name in names} | {"python": sys.version.split()[0]},
    }


if __name__ == "__main__":
    sys.exit(run_from_terminal(main))
