"""The vision model of a run, and the visual features that it trains on."""

import json
import logging
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from datasets import DatasetDict
from huggingface_hub.utils import httpx
from transformers import AutoModel

from configuration_hamlearning import HamLearningVisionConfig
from hamlearning.data.downloads import wanted_of_hub
from hamlearning.data.features import VisualFeatures, read_visual_metadata
from hamlearning.pictures.extraction import REPORT_FILE, extract_visual_features
from hamlearning.pictures.tweet_images import TweetImages, picture_keys, with_picture_keys
from hamlearning.rivals.architectures import architecture_of, class_of, processor_class_of
from hamlearning.training.arguments import DataArguments, MNERTrainingArguments, ModelArguments, VisionArguments
from modeling_faster_rcnn_vg import PUBLISHED_WEIGHTS
from modeling_hamlearning_vision import HamLearningVisionModel
from processing_hamlearning import VISION_FOLDER


logger = logging.getLogger(__name__)


def load_vision_model(model_args: ModelArguments, vision_args: VisionArguments) -> HamLearningVisionModel | None:
    """The vision model that is named, that of the model to go on with (None if it has none), or a new one."""
    vision_model = _find_vision_model(model_args, vision_args)
    if vision_model is not None:
        set_up_vision_model(vision_model, vision_args)
    return vision_model


def set_up_vision_model(vision_model: HamLearningVisionModel, vision_args: VisionArguments) -> None:
    """What computes it, and in which precision."""
    vision_model.runtime = vision_args.vision_runtime
    if vision_args.vision_precision is not None:
        vision_model.settle_precision(vision_args.vision_precision)


def _find_vision_model(model_args: ModelArguments, vision_args: VisionArguments) -> HamLearningVisionModel | None:
    if vision_args.vision_model is not None:
        with wanted_of_hub(vision_args.vision_model):
            found, _ = HamLearningVisionConfig.get_config_dict(vision_args.vision_model)
            subfolder = "" if found.get("model_type") == HamLearningVisionConfig.model_type else VISION_FOLDER
            return HamLearningVisionModel.from_pretrained(vision_args.vision_model, subfolder=subfolder)
    if model_args.model_name_or_path is not None:
        with wanted_of_hub(model_args.model_name_or_path):
            processor_class = processor_class_of(architecture_of(model_args.model_name_or_path))
            processor = processor_class.from_pretrained(model_args.model_name_or_path)
            return None if processor.vision_source is None else processor.vision_model
    limits = {} if model_args.max_regions is None else {"max_regions": model_args.max_regions}
    try:
        return HamLearningVisionModel.from_backbone_detector_pretrained(
            vision_args.vision_backbone,
            vision_args.detector,
            vision_args.detector_name_or_path,
            vision_args.class_names_file,
            **limits,
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


def extract_features(
    images: TweetImages,
    vision_model: HamLearningVisionModel,
    vision_args: VisionArguments,
    args: MNERTrainingArguments,
) -> Path:
    """The visual feature file of the pictures: in the output folder if asked for, else kept for the next run."""
    workers = vision_args.extraction_workers
    if workers is None:
        # Each holds its pictures' tensors as open files, of which a process may mostly have 1024.
        workers = min(max((os.cpu_count() or 1) // args.world_size - 1, 1), 8)
    path = extract_visual_features(
        images,
        vision_model.to(args.device),  # pyright: ignore[reportArgumentType]  # `to` is wrapped without its self
        args.output_dir if args.do_extract else vision_args.extraction_dir,
        vision_args.extraction_batch_size,
        workers,
        show_progress=not args.disable_tqdm,
        is_cache=not args.do_extract,
    )
    vision_model.to("cpu")  # pyright: ignore[reportArgumentType]  # `to` is wrapped without its self
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
    """The visual feature file of the run, extracted now if need be, and the vision model that made it, if known.

    Where pictures are of the tweets' own column and an id has several, the rows of `tweets` get a column `picture_key`
    that says which is theirs.

    Raises:
        ValueError: there are no pictures or no vision model, though the arguments ask for features; the vision model
            did not make the file; or a file that is looked up by id cannot tell two pictures of one id apart.
    """
    if data_args.visual_features is not None and not args.do_extract:
        if model_args.use_vision is False:
            return None, None
        TweetImages(tweets)  # refuses an id that stands for two pictures
        vision_model = None if vision_args.vision_model is None else load_vision_model(model_args, vision_args)
        if vision_model is not None and read_visual_metadata(data_args.visual_features).get("vision_sha256") != (
            vision_model.fingerprint()
        ):
            raise ValueError(
                f"{data_args.visual_features} was not made by the vision model of {vision_args.vision_model}."
            )
        return data_args.visual_features, vision_model
    wants_pictures = model_args.use_vision is not False
    if wants_pictures and model_args.model_name_or_path is not None:
        with wanted_of_hub(model_args.model_name_or_path):
            config_class = class_of(architecture_of(model_args.model_name_or_path)).config_class
            wants_pictures = config_class.from_pretrained(model_args.model_name_or_path).use_vision
    if not (wants_pictures or args.do_extract):
        return None, None
    # A file that is asked for is looked up by id, by whoever reads it later.
    images = TweetImages(tweets, data_args.image_dir, data_args.image_subfolders, by_id=args.do_extract)
    if args.do_extract:
        if not images.has_pictures:
            raise ValueError(
                "No tweet has a picture to extract features of: give --image_dir, the folder of the pictures."
            )
    elif not images.has_pictures:
        return None, None
    vision_model = load_vision_model(model_args, vision_args)
    if vision_model is None:
        if args.do_extract:
            raise ValueError(
                f"{model_args.model_name_or_path} has no vision model to extract with: name one, --vision_model."
            )
        logger.warning(
            f"{model_args.model_name_or_path} has no vision model, because it learned from a visual feature file: the "
            "pictures of the data set are left out. Give the vision model that made the file as --vision_model, or "
            "give --visual_features."
        )
        return None, None
    tweets.update({split: with_picture_keys(tweets[split], keys) for split, keys in images.keys.items()})
    return extract_features(images, vision_model, vision_args, args), vision_model


def picture_source(
    tweets: DatasetDict, visual_features: VisualFeatures, shuffle: bool, seed: int
) -> Mapping[str, Mapping[str, Any]]:
    """Visual features by tweet id, or by `picture_key` where rows have one.

    With `shuffle`, those of another tweet of the same split.

    Raises:
        ValueError: no tweet has a picture.
    """
    source: dict[str, Mapping[str, Any]] = {}
    for split, dataset in tweets.items():
        ids = [key for key in picture_keys(dataset) if key is not None and key in visual_features]
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
