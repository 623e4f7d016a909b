"""`Trainer` for HamLearning."""

import ctypes
import logging
import sys
import time
from typing import Any

import torch
from accelerate.utils import DistributedType, DynamoBackend, TorchDynamoPlugin, parse_flag_from_env
from torch.utils.data import DataLoader, Sampler, SequentialSampler
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.trainer_utils import TrainOutput

from hamlearning.rivals.architectures import architecture_of_type, class_of
from hamlearning.training.arguments import MNERTrainingArguments
from hamlearning.training.batches import TokenBudgetBatches
from hamlearning.training.fault_tolerance import FaultTolerantTrainer
from modeling_hamlearning import HamLearningForTokenClassification
from processing_hamlearning import HamLearningDataCollator, HamLearningProcessor


logger = logging.getLogger(__name__)


class MNERTrainer(FaultTolerantTrainer):
    """`Trainer` with learning rates a part of the network, and predictions in the order of the data set."""

    # What `main` gives it.
    args: MNERTrainingArguments
    model: Any
    processing_class: HamLearningProcessor
    data_collator: HamLearningDataCollator
    train_dataset: Any
    asks_for_probabilities = False  # of each tag at each word, in predictions

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
        self.model.__class__ = class_of(architecture_of_type(self.model.config.model_type))
        try:
            super()._save(output_dir, state_dict)
        finally:
            self.model.__class__ = sharded_class

    def create_optimizer(self, model: torch.nn.Module | None = None) -> torch.optim.Optimizer:
        """AdamW over the text encoder, the new layers, the CRF and the matching, with and without weight decay."""
        if self.optimizer is not None:
            return self.optimizer
        network: Any = self.model if model is None else model
        args = self.args
        rates = {"text": args.text_learning_rate, "new": None, "crf": args.crf_learning_rate}
        rates["matching"] = args.matching_learning_rate
        decayed = self.get_decay_parameter_names(network)
        groups: dict[tuple[str, bool], list[torch.nn.Parameter]] = {}
        for name, parameter in network.named_parameters():
            if parameter.requires_grad:
                named = {"text_model.": "text", "crf.": "crf", ".matching.": "matching"}
                part = next((part for mark, part in named.items() if mark in name), "new")
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

    def prediction_step(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[torch.Tensor | None, Any, Any]:
        """As in `Trainer`; of the outputs nothing is left out."""
        if self.asks_for_probabilities:
            inputs = {**inputs, "output_probabilities": True}
        return super().prediction_step(model, inputs, prediction_loss_only, ignore_keys or [])

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
