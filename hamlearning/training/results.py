"""What a reader needs to trust the scores of a run."""

import hashlib
import json
import logging
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import DatasetCard

from hamlearning.data.files import file_sha256
from hamlearning.rivals.architectures import architecture_of_type
from hamlearning.scores.figures import Figure
from hamlearning.tagging.shards import shard_identity
from hamlearning.training.arguments import Arguments, DataArguments, ModelArguments
from hamlearning.training.data import Data
from hamlearning.training.model import starting_point
from hamlearning.training.resuming import DECISIVE_SETTINGS, describe_config
from modeling_hamlearning import HamLearningForTokenClassification
from processing_hamlearning import HamLearningProcessor


logger = logging.getLogger(__name__)

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


def describe_run(data: Data, model: HamLearningForTokenClassification, arguments: Arguments) -> dict[str, Any]:
    """What a reader needs to trust the scores: data, vision model, switches, seed and versions."""
    names = ("torch", "transformers", "datasets", "accelerate", "evaluate", "seqeval", "pytorch-crf")
    switches = set(ModelArguments.all_switches()) & set(model.config.switches())
    vision = None
    if data.features is not None:
        made_by = data.features.metadata.get("vision_config", {})
        vision = {
            "pictures": len(data.features),
            "detector": made_by.get("detector"),
            "global_backbone": made_by.get("global_backbone_config", {}).get("architecture"),
            "sha256": data.features.metadata.get("vision_sha256"),
        }
    text_config = model.config.text_config
    encoder = {name: getattr(text_config, name) for name in ("model_type", "num_hidden_layers", "hidden_size")}
    streamed = {"shards": len(data.shards), "shuffle_buffer": arguments.data.shuffle_buffer}
    return ({} if data.stream is None else {"streamed": streamed}) | {
        "evaluator": "seqeval, entity level; f1: default mode, strict_f1: strict IOB2",
        "seed": arguments.training.seed,
        "data_name": data.name,
        "data_is_on_hub": arguments.data.dataset_name is not None,
        "data": data.facts,
        "vision": vision,
        "shuffle_pictures": arguments.data.shuffle_pictures,
        "hide_pictures": arguments.data.hide_pictures,
        "mask_words": arguments.data.mask_words,
        "types": list(dict.fromkeys(tag[2:] for tag in model.config.label2id or () if tag != "O")),
        "starts_from": starting_point(arguments.model),
        "architecture": architecture_of_type(model.config.model_type),
        "text_encoder": encoder,
        "model": {name: getattr(model.config, name) for name in sorted(switches)},
        "parameters": sum(p.numel() for p in model.parameters()),
        "training": {name: getattr(arguments.training, name) for name in TRAINING_FACTS},
        "versions": {name: metadata.version(name) for name in names} | {"python": sys.version.split()[0]},
    }


def run_facts(
    data: Data, model: HamLearningForTokenClassification, processor: HamLearningProcessor, arguments: Arguments
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
    identities = [shard_identity(shard) for shard in data.shards]
    return {
        "settings": {
            name: arguments.training.to_dict().get(name, getattr(arguments.training, name))
            for name in DECISIVE_SETTINGS
        },
        "data": data.facts | {name: getattr(arguments.data, name) for name in names},
        "shards": {one["shard"]: {name: one[name] for name in ("bytes", "content")} for one in identities},
        "visual_features_sha256": None if data.features is None else file_sha256(data.features.path),
        "model": describe_config(model.config),
        "processor": {name: getattr(processor, name) for name in ("max_length", "stride", "max_regions", "tags")},
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


def plot_training(history: list[dict[str, float]], path: Path) -> None:
    """Training loss and dev F1 over the epochs (the paper's Figure 4)."""
    figure = Figure(figsize=(7, 4))
    loss_axis = figure.subplots()
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
