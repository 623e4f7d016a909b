"""Runs that read their tweets as they come."""

import logging
import math
from pathlib import Path
from typing import Any

import torch
from datasets import DatasetDict
from transformers.trainer_utils import IntervalStrategy

from hamlearning.data.features import VisualFeatures
from hamlearning.tagging.prediction import predict_shards
from hamlearning.tagging.reader import TweetReader
from hamlearning.tagging.shards import find_shards
from hamlearning.training.arguments import DataArguments, MNERTrainingArguments, ModelArguments, VisionArguments
from hamlearning.training.model import load_model
from hamlearning.training.vision import find_visual_features, load_vision_model, set_up_vision_model


logger = logging.getLogger(__name__)


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
    features_file, vision_model = None, None
    if data_args.visual_features is not None and not data_args.hide_pictures:
        features_file, vision_model = find_visual_features(DatasetDict(), model_args, data_args, vision_args, args)
    elif vision_args.vision_model is not None:
        vision_model = load_vision_model(model_args, vision_args)
    visual_features = None if features_file is None else VisualFeatures(features_file)
    model, processor = load_model(model_args, None, visual_features)
    if vision_model is not None:
        processor.vision_model = vision_model
    reader = TweetReader(
        model.to(args.device).eval(),  # pyright: ignore[reportArgumentType]  # `to` is wrapped without its self
        processor,
        args.per_device_eval_batch_size,
        visual_features,
        image_dir=data_args.image_dir,
        image_subfolders=data_args.image_subfolders,
        hide_pictures=data_args.hide_pictures,
        mask_words=data_args.mask_words,
        extraction_batch_size=vision_args.extraction_batch_size,
        dtype=torch.bfloat16 if args.bf16 else torch.float16 if args.fp16 else None,
    )
    if reader.extracts:
        set_up_vision_model(processor.vision_model, vision_args)
    if reader.pictures == "none":
        asked = {
            "visual_features": data_args.visual_features,
            "image_dir": data_args.image_dir,
            "vision_model": vision_args.vision_model,
        }
        for name in (name for name, value in asked.items() if value is not None):
            reason = "has no vision model: give --vision_model too" if model.config.use_vision else "reads text alone"
            raise ValueError(f"--{name} {asked[name]}, but {model_args.model_name_or_path} {reason}.")
        if model.config.use_vision:
            logger.warning(
                f"{model_args.model_name_or_path} has no vision model: tweets are read without pictures. Give "
                "--vision_model or --visual_features."
            )
    counts = predict_shards(shards, reader, Path(args.output_dir), show_progress=not args.disable_tqdm)
    if visual_features is not None and counts["tweets"] and not counts["pictures"]:
        logger.warning(
            f"{features_file} has no picture of any of {counts['tweets']} tweets: its ids are like "
            f"{next(iter(visual_features))!r}."
        )
    if reader.pictures.startswith("folder") and counts["tweets"] and not counts["pictures"]:
        logger.warning(
            f"{data_args.image_dir} has no picture of any of {counts['tweets']} tweets: call them by the ids."
        )
    logger.info(f"{len(shards)} shards are in {args.output_dir}: {counts}")
    return {}


# Of streamed prediction: what it cannot do, and what to do about it.
NOT_STREAMED = {
    "do_eval": "do that in a run of its own without --streaming",
    "do_extract": "do that in a run of its own without --streaming",
    "calibrate": "do that in a run of its own without --streaming, or by `hamlearning calibrate`",
    "shuffle_pictures": "it needs all pictures of the split, so do that without --streaming",
    "shuffle_buffer": "nothing is shuffled",
    "grid_features": "features are those that the model reads",
    "pyramid_features": "features are those that the model reads",
    "extraction_dir": "no visual features are kept",
    "extraction_workers": "pictures are decoded as they come; `hamlearning predict --engine ray` has more processes",
    "extraction_engine": "`hamlearning predict --engine ray` it is",
    "ray_workers": "`hamlearning predict --engine ray --workers` it is",
    "ray_threads": "`hamlearning predict --engine ray --threads` it is",
    "ray_gpus": "`hamlearning predict --engine ray --gpus` it is",
    "vision_backbone": "the vision model is the model's own, or what --vision_model names",
    "detector": "the vision model is the model's own, or what --vision_model names",
    "detector_name_or_path": "the vision model is the model's own, or what --vision_model names",
    "class_names_file": "the vision model is the model's own, or what --vision_model names",
    "predict_probabilities": "the output has entities alone, so do that without --streaming",
    "predict_explanations": "the output has entities alone, so do that without --streaming",
    "new_head": "it would have learned nothing",
    "token_column": "shards are Parquet, with tokens or text",
    "tag_column": "tags are not read",
    "tag_scheme": "tags are not read",
    "type_map": "tags are not read",
    "annotator": "annotations are not read",
    "tag_names": "tags are not read",
    "text_model": "the model has its own",
    "word_splitting": "the model has its own",
    "max_length": "the model has its own",
    "stride": "the model has its own",
    "max_regions": "the model has its own",
    "resume_from_checkpoint": "it goes on by itself with the shards that are missing",
    "torch_compile": "nothing is compiled",
    "bf16_full_eval": "--bf16 it is",
    "fp16_full_eval": "--fp16 it is",
    "prediction_loss_only": "there is no loss",
    "full_determinism": "nothing is drawn by lot",
    "dataloader_num_workers": "`hamlearning predict --engine ray` has more processes",
    "report_to": "there is nothing to report",
    "fsdp": "the process has the whole model",
    "deepspeed": "the process has the whole model",
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
    if args.world_size > 1:
        raise ValueError(
            f"{reason} start one process, not {args.world_size}: many share `hamlearning predict MODEL --data PLACE "
            "--output PLACE --engine ray`."
        )
    if model_args.model_name_or_path is None:
        raise ValueError(f"{reason} give --model_name_or_path, a trained model.")
    given = [name for name in ("visual_features", "image_dir") if getattr(data_args, name) is not None]
    if len(given) == 2:
        raise ValueError("--visual_features and --image_dir were both given: the features are those of the pictures.")
