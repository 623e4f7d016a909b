"""The vision model of a run, and the visual features that it trains on."""

import json
import logging
import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import DatasetDict
from huggingface_hub.utils import httpx
from transformers import AutoModel

from configuration_hamlearning import MORE_FEATURES, HamLearningVisionConfig
from hamlearning.data.downloads import wanted_of_hub
from hamlearning.data.features import VisualFeatures, read_visual_metadata
from hamlearning.data.ray_cluster import share_with_ray
from hamlearning.data.tweets import SPLITS, read_data
from hamlearning.pictures.extraction import (
    REPORT_FILE,
    PictureShard,
    extract_shards,
    extract_visual_features,
    shard_key,
)
from hamlearning.pictures.tweet_images import TweetImages, picture_keys, with_picture_keys
from hamlearning.rivals.architectures import HAMLEARNING, architecture_of, class_of, processor_class_of
from hamlearning.training.arguments import DataArguments, MNERTrainingArguments, ModelArguments, VisionArguments
from modeling_faster_rcnn_vg import PUBLISHED_WEIGHTS
from modeling_hamlearning_vision import NUM_CROPS, HamLearningVisionModel
from processing_hamlearning import VISION_FOLDER


logger = logging.getLogger(__name__)


def load_vision_model(model_args: ModelArguments, vision_args: VisionArguments) -> HamLearningVisionModel | None:
    """The vision model that is named, that of the model to go on with (None if it has none), or a new one."""
    vision_model = _find_vision_model(model_args, vision_args)
    if vision_model is not None:
        set_up_vision_model(vision_model, vision_args)
        settle_further_features(vision_model, model_args, vision_args)
    return vision_model


def set_up_vision_model(vision_model: HamLearningVisionModel, vision_args: VisionArguments) -> None:
    """What computes it, and in which precision."""
    vision_model.runtime = vision_args.vision_runtime
    if vision_args.vision_precision is not None:
        vision_model.settle_precision(vision_args.vision_precision)


def settle_further_features(
    vision_model: HamLearningVisionModel, model_args: ModelArguments, vision_args: VisionArguments
) -> None:
    """Has the vision model give what the architecture reads beside regions, and what the flags ask for.

    Raises:
        ValueError: it cannot give that; the message names architecture, value and remedy.
    """
    columns = columns_read(model_args)
    asked = {name for name in MORE_FEATURES if name in columns or getattr(vision_args, name)}
    try:
        vision_model.settle_more_features(asked | set(vision_model.config.more_features or ()))
    except ValueError as error:
        if "pyramid_features" not in columns:
            raise
        raise ValueError(f"{error} Or train HVPNeT-lite, which reads none of them: --use_pyramid False.") from None
    for name, width in columns.items():
        given = vision_model.more_feature_sizes.get(name)
        if given is not None and given != width:
            raise ValueError(
                f"The model reads {name} of {width} numbers a cell, and the vision model gives {given}: give "
                "--grid_feature_size so, or another --vision_backbone."
            )
    if model_args.num_crops is not None and model_args.num_crops > NUM_CROPS and "pyramid_features" in columns:
        raise ValueError(
            f"--num_crops {model_args.num_crops}: a vision model gives pyramids of the best {NUM_CROPS} regions: give "
            "at most so many, or a feature file of your own that has more, --visual_features."
        )


def columns_read(model_args: ModelArguments) -> dict[str, int | None]:
    """Further columns of a visual feature file that the architecture of a run reads, with their widths."""
    path = model_args.model_name_or_path
    if path is None:
        config_class = class_of(model_args.architecture or HAMLEARNING).config_class
        config = config_class(**model_args.config_switches(config_class))
    else:
        with wanted_of_hub(path):
            config_class = class_of(architecture_of(path)).config_class
            config = config_class.from_pretrained(path, **model_args.config_switches(config_class))
    return getattr(config, "visual_columns", {})


def check_extracted_columns(model_args: ModelArguments) -> None:
    """Refuses a run of pictures whose architecture reads what no vision model gives, before they are extracted.

    Raises:
        ValueError: names the column and the remedy.
    """
    for name in columns_read(model_args).keys() - {*MORE_FEATURES, "class_names"}:
        raise ValueError(
            f"The model reads a {name} of each picture, which no vision model gives: give a visual feature file that "
            f"has it, --visual_features, or train without, --use_{name}s False."
        )


def has_made(vision_model: HamLearningVisionModel, file: str | Path) -> bool:
    """Whether the vision model made a visual feature file, perhaps with other columns than it is to give now."""
    metadata, now = read_visual_metadata(file), vision_model.config.more_features
    settings = metadata.get("vision_config")
    then = settings.get("more_features") if isinstance(settings, dict) else None
    then = [name for name in MORE_FEATURES if isinstance(then, list) and name in then]
    vision_model.config.more_features = then or None
    try:
        return metadata.get("vision_sha256") == vision_model.fingerprint()
    finally:
        vision_model.config.more_features = now


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
    model_args: ModelArguments,
    data_args: DataArguments,
    vision_args: VisionArguments,
    args: MNERTrainingArguments,
) -> Path:
    """The visual feature file of the pictures: in the output folder if asked for, else kept for the next run."""
    folder = Path(args.output_dir if args.do_extract else vision_args.extraction_dir)
    workers, share = vision_args.extraction_workers, None
    if workers is None:
        # Each holds its pictures' tensors as open files, of which a process may mostly have 1024.
        workers = min(max((os.cpu_count() or 1) // args.world_size - 1, 1), 8)
    if vision_args.extraction_engine == "ray":
        share = RayExtraction(model_args, data_args, vision_args, by_id=args.do_extract)
    else:
        vision_model.to(args.device)  # pyright: ignore[reportArgumentType]  # `to` is wrapped without its self
    path = extract_visual_features(
        images,
        vision_model,
        folder,
        vision_args.extraction_batch_size,
        workers,
        show_progress=not args.disable_tqdm,
        is_cache=not args.do_extract,
        share=share,
    )
    vision_model.to("cpu")  # pyright: ignore[reportArgumentType]  # `to` is wrapped without its self
    report = json.loads(path.with_name(REPORT_FILE).read_text(encoding="utf-8"))
    logger.info(
        f"{path}: {report['pictures']} pictures; {report['without_picture']} tweets have none, {report['unusable']} "
        f"pictures cannot be used (see {REPORT_FILE} beside it)."
    )
    return path


# Names of flags whose values may be places of this machine, of which a worker's folder is another one.
PLACES = (
    *("data_dir", "image_dir", "model_name_or_path", "vision_model", "vision_backbone", "detector_name_or_path"),
    "class_names_file",
)


@dataclass
class RayExtraction:
    """Extraction by the workers of a Ray cluster, each of which reads data set and vision model as the flags say.

    What is sent to them is the flags and the names of shards: neither pictures nor features pass through Ray.
    """

    model_args: ModelArguments
    data_args: DataArguments
    vision_args: VisionArguments
    by_id: bool

    def __post_init__(self):
        self.model_args = replace(self.model_args, **_absolute(self.model_args))
        self.data_args = replace(self.data_args, **_absolute(self.data_args))
        self.vision_args = replace(self.vision_args, **_absolute(self.vision_args))

    def __call__(self, shards: Sequence[PictureShard], folder: Path) -> Iterator[int]:
        """How many pictures are done, shard by shard."""
        threads, gpus = self.vision_args.ray_threads, self.vision_args.ray_gpus
        work = ShardWork(self, folder.absolute())
        return share_with_ray(work, shards, self.vision_args.ray_workers, threads, gpus)


@dataclass
class ShardWork:
    """What a worker does with a shard; it loads the vision model with the first one."""

    flags: RayExtraction
    folder: Path

    def __getstate__(self) -> dict[str, Any]:
        return {"flags": self.flags, "folder": self.folder}

    def __call__(self, shard: PictureShard) -> int:
        """How many pictures are done.

        Raises:
            ValueError: this machine has other pictures, or another vision model, than the one that asks for them.
        """
        vision_args = self.flags.vision_args
        found = shard_key(shard.number, self.images, self.fingerprint)
        if found != shard.key:
            raise ValueError(
                f"Shard {shard.number} has other pictures on {platform.node()}, or is of another vision model "
                "there: give data and models that all machines reach, or that are on the Hub."
            )
        some, workers = vision_args.extraction_batch_size, vision_args.extraction_workers or 0
        return sum(
            extract_shards([shard], self.images, self.vision_model, self.fingerprint, self.folder, some, workers)
        )

    @cached_property
    def images(self) -> TweetImages:
        """The pictures, as this machine has them."""
        data_args = self.flags.data_args
        place = (data_args.data_dir, data_args.dataset_name, data_args.dataset_config_name)
        tweets = read_data(*place, splits=tuple(SPLITS), options=data_args.reading_options(None)).splits
        return TweetImages(tweets, data_args.image_dir, data_args.image_subfolders, by_id=self.flags.by_id)

    @cached_property
    def vision_model(self) -> HamLearningVisionModel:
        """On the worker's own device."""
        torch.set_num_threads(self.flags.vision_args.ray_threads)
        vision_model: Any = load_vision_model(self.flags.model_args, self.flags.vision_args)
        return vision_model.to("cuda" if self.flags.vision_args.ray_gpus else "cpu").eval()

    @cached_property
    def fingerprint(self) -> str:
        """Of the vision model."""
        return self.vision_model.fingerprint()


def _absolute(flags: ModelArguments | DataArguments | VisionArguments) -> dict[str, str]:
    places = {name: getattr(flags, name, None) for name in PLACES}
    return {name: os.path.abspath(place) for name, place in places.items() if place and Path(place).exists()}


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
        if vision_model is not None and not has_made(vision_model, data_args.visual_features):
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
    if args.do_train or args.do_eval or args.do_predict:
        check_extracted_columns(model_args)
    tweets.update({split: with_picture_keys(tweets[split], keys) for split, keys in images.keys.items()})
    return extract_features(images, vision_model, model_args, data_args, vision_args, args), vision_model


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
