"""Visual features of a data set's pictures."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from filelock import FileLock
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm

from configuration_hamlearning import HamLearningVisionConfig
from hamlearning.data.features import VisualFeatures, read_visual_metadata, write_visual_features
from hamlearning.data.files import sync, write_text, writing
from hamlearning.data.workers import lost_process, outlive_a_signal
from hamlearning.pictures.tweet_images import TweetImages
from image_processing_hamlearning import ImageError, read_image
from modeling_hamlearning_vision import HamLearningVisionModel, PreparedImage, lasting_settings, prepare_image


SHARD_SIZE = 64  # with a slow detector, half an hour on two CPU cores: no more is lost when the work is killed
KEPT = "Give a folder that can be written, or make room: the same command goes on where this one was."
FEATURES_FILE = "visual_features.parquet"
REPORT_FILE = "visual_features_report.json"


@dataclass(frozen=True)
class PictureShard:
    """Some pictures that follow each other, and a hash of them: what it gets is the same whoever extracts it."""

    number: int
    key: str  # of the vision model, the ids and the pictures

    def features_file(self, folder: Path) -> Path:
        """Its rows; there is none where no picture can be used."""
        return folder / f"{self.number:06d}-{self.key[:16]}.parquet"

    def done_file(self, folder: Path) -> Path:
        """Written when the shard is complete; it holds the pictures that were skipped, with their reasons."""
        return self.features_file(folder).with_suffix(".json")

    def places(self, images: TweetImages) -> range:
        """Of its pictures."""
        return range(self.number * SHARD_SIZE, min((self.number + 1) * SHARD_SIZE, len(images)))


def extract_visual_features(
    images: TweetImages,
    vision_model: HamLearningVisionModel,
    folder: str | os.PathLike,
    batch_size: int = 8,
    num_workers: int = 1,
    show_progress: bool = True,
    is_cache: bool = False,
    share: Callable[[Sequence[PictureShard], Path], Iterator[int]] | None = None,
) -> Path:
    """Write the visual feature file of a data set, or find that it is written already.

    ```python
    >>> extract_visual_features(TweetImages(tweets), vision_model, "features")
    extracting: 100%|██████████| 4819/4819 [41:02<00:00,  1.96picture/s]
    PosixPath('features/visual_features.parquet')
    ```

    Beside the file, `visual_features_report.json` tells how many tweets have no picture, and lists the pictures that
    could not be used, with their reasons. Started by several processes (Accelerate), each extracts its share of the
    shards, and the main one joins them. The file is the same however often the work was interrupted, and however many
    processes did it.

    Args:
        images: the pictures.
        vision_model: the frozen vision model, on its device.
        folder: where the file goes; it may hold the shards of an earlier, interrupted call.
        batch_size: pictures that go through the global backbone together; another changes rounding at most.
        num_workers: processes that read and resize pictures beside the forward pass; 0 for none.
        show_progress: on the main process, a bar with pictures a second and the time left.
        is_cache: the folder is one for many data sets; each gets a subfolder, named by the hash of pictures and vision
            model.
        share: has others extract shards into a folder (see `extract_shards`), and yields how many pictures are done
            each time; None for this process.

    Returns:
        The file.

    Raises:
        FileExistsError: the folder, which is no cache, holds the features of other pictures or another vision model.
        FileNotFoundError: what others have extracted is not there.
        ValueError: no picture can be used; the message gives the first reasons.
    """
    state = PartialState()
    fingerprint = vision_model.fingerprint()
    all_shards = _find_shards(images, fingerprint, state)
    extraction = hashlib.sha256("".join(shard.key for shard in all_shards).encode()).hexdigest()
    folder = Path(folder) / extraction[:16] if is_cache else Path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Runs that start together on one cache take turns: the second finds what the first has written.
    takes_turns = is_cache and state.is_main_process
    with FileLock(folder.with_suffix(".lock")) if takes_turns else nullcontext():
        state.wait_for_everyone()
        path, parts = folder / FEATURES_FILE, folder / "shards"
        if path.is_file():
            found = read_visual_metadata(path).get("extraction")
            if found == extraction:
                if state.is_main_process:
                    shutil.rmtree(parts, ignore_errors=True)  # of a call that was interrupted while it removed them
                return path
            raise FileExistsError(
                f"{path} is of other pictures, or of another vision model: give another folder, or remove it."
            )
        with writing("The features of pictures", parts, KEPT):
            parts.mkdir(parents=True, exist_ok=True)
        mine = all_shards[state.process_index :: state.num_processes]
        todo = [shard for shard in mine if not shard.done_file(parts).is_file()]
        total, left = (sum(len(shard.places(images)) for shard in some) for some in (mine, todo))
        with tqdm(
            total=total,
            initial=total - left,
            desc="extracting",
            unit="picture",
            disable=not (show_progress and state.is_main_process),
        ) as progress:
            if share is not None:
                done = share(todo, parts)
            else:
                done = extract_shards(todo, images, vision_model, fingerprint, parts, batch_size, num_workers)
            for count in done:
                progress.update(count)
        state.wait_for_everyone()
        if state.is_main_process:
            _check_shards(all_shards, parts)
            with writing(FEATURES_FILE, folder, KEPT):
                metadata = _metadata(vision_model, fingerprint) | {"extraction": extraction}
                _join(images, all_shards, parts, path, metadata, vision_model.more_feature_sizes)
        state.wait_for_everyone()
        return path


def extract_shards(
    shards: Sequence[PictureShard],
    images: TweetImages,
    vision_model: HamLearningVisionModel,
    fingerprint: str,
    folder: Path,
    batch_size: int,
    num_workers: int,
) -> Iterator[int]:
    """Write the features of some shards, a file each.

    Args:
        shards: of `images`.
        images: all pictures.
        vision_model: on its device.
        fingerprint: its own.
        folder: of the files.
        batch_size: pictures that go through the global backbone together.
        num_workers: processes that read and resize pictures meanwhile; 0 for none.

    Yields:
        How many pictures are done, batch by batch.
    """
    metadata = _metadata(vision_model, fingerprint)
    loader = _loader(images, vision_model.config, shards, batch_size, num_workers)
    for shard in shards:
        rows, skipped = [], {}
        for places in _batches(shard, images, batch_size):
            batch = _next_batch(loader, num_workers)
            pictures = [None if isinstance(picture, str) else picture for picture in batch]
            for place, picture, row in zip(places, batch, vision_model.extract(pictures), strict=True):
                if row is not None:
                    rows.append({"id": images.ids[place]} | row)
                else:
                    skipped[images.ids[place]] = picture
            yield len(places)
        with writing("The features of pictures", folder, KEPT):
            if rows:
                write_visual_features(shard.features_file(folder), rows, metadata, vision_model.more_feature_sizes)
                sync(shard.features_file(folder))
            _write_json(shard.done_file(folder), skipped)


def shard_key(number: int, images: TweetImages, fingerprint: str) -> str:
    """A hash of the vision model, and of the ids and the pictures of a shard."""
    digest = hashlib.sha256(fingerprint.encode())
    for place in PictureShard(number, "").places(images):
        digest.update(json.dumps([images.ids[place], images.sha256(place)]).encode())
    return digest.hexdigest()


class _PreparedImages(Dataset):
    """In worker processes: a picture's place to the picture as the vision model takes it, or why there is none."""

    def __init__(self, images: TweetImages, config: HamLearningVisionConfig):
        self.images, self.config = images, config

    def __getitem__(self, index: int) -> PreparedImage | str | None:
        image, image_dir = self.images[index], self.images.image_dir
        if image is None:
            if image_dir is None:
                return None
            return f"there is no picture of this name in {image_dir}, or it is a link out of it"
        try:
            return prepare_image(read_image(image), self.config)
        except ImageError as error:
            return str(error)


def _metadata(vision_model: HamLearningVisionModel, fingerprint: str) -> dict[str, Any]:
    """What the file says of its making."""
    return {
        "image_feature_size": vision_model.image_feature_size,
        "region_feature_size": vision_model.region_feature_size,
        "class_names": vision_model.config.class_names,
        "vision_config": lasting_settings(json.loads(vision_model.config.to_json_string(use_diff=False))),
        "vision_sha256": fingerprint,
    }


def _find_shards(images: TweetImages, fingerprint: str, state: PartialState) -> list[PictureShard]:
    """All shards. Every process reads its share of the pictures."""
    numbers = range(state.process_index, -(-len(images) // SHARD_SIZE), state.num_processes)
    keys = gather_object([(number, shard_key(number, images, fingerprint)) for number in numbers])
    return [PictureShard(number, key) for number, key in sorted(keys)]


def _batches(shard: PictureShard, images: TweetImages, batch_size: int) -> list[range]:
    """Batches never reach over a shard's end, so that they are the same after a restart and for any process."""
    places = shard.places(images)
    return [places[first : first + batch_size] for first in range(0, len(places), batch_size)]


def _loader(
    images: TweetImages,
    config: HamLearningVisionConfig,
    shards: Sequence[PictureShard],
    batch_size: int,
    num_workers: int,
) -> Iterator[list]:
    return iter(
        DataLoader(
            _PreparedImages(images, config),
            batch_sampler=[list(places) for shard in shards for places in _batches(shard, images, batch_size)],
            num_workers=num_workers,
            collate_fn=list,
            worker_init_fn=outlive_a_signal,
            generator=torch.Generator(),  # the global one is left as it was, for the training that may follow
        )
    )


def _next_batch(loader: Iterator[list], num_workers: int) -> list:
    try:
        return next(loader)
    except (RuntimeError, EOFError, ConnectionError) as error:
        reason = lost_process(error, num_workers)
        if reason is None:
            raise
        raise RuntimeError(
            f"A process that decodes pictures has ended ({reason}), often for lack of memory: give fewer, "
            "--extraction_workers; the same command goes on where this one was."
        ) from error


def _check_shards(shards: Sequence[PictureShard], folder: Path) -> None:
    missing = [shard for shard in shards if not shard.done_file(folder).is_file()]
    if missing:
        raise FileNotFoundError(
            f"{len(missing)} of {len(shards)} shards of features are not in {folder}, number {missing[0].number} the "
            "first: give a folder that all machines reach, or, if another program has removed them, start again."
        )


def _write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, ensure_ascii=False, indent=2) + "\n")


def _join(
    images: TweetImages,
    shards: Sequence[PictureShard],
    folder: Path,
    path: Path,
    metadata: Mapping[str, Any],
    more: Mapping[str, int],
) -> None:
    """One file of all shards, one in memory at a time, and the report; the shards are removed then."""
    skipped: dict[str, str | None] = {}
    for shard in shards:
        skipped |= json.loads(shard.done_file(folder).read_text(encoding="utf-8"))
    reasons = [{"id": id_, "reason": reason} for id_, reason in skipped.items() if reason is not None]
    if len(skipped) == len(images):
        first = "; ".join(f"{entry['id']}: {entry['reason']}" for entry in reasons[:3])
        raise ValueError(
            f"None of the {len(images)} tweets has a picture that can be used ({len(reasons)} cannot be read"
            f"{': ' + first if first else ''}): give --image_dir, or train with --use_vision False."
        )

    def rows() -> Iterator[dict[str, Any]]:
        for shard in shards:
            file = shard.features_file(folder)
            if file.is_file():
                features = VisualFeatures(file)
                features.read_more(more)
                yield from ({"id": id_} | features[id_] for id_ in features)

    report = {
        "pictures": len(images) - len(skipped),
        "without_picture": len(skipped) - len(reasons),
        "unusable": len(reasons),
        "unusable_pictures": reasons,
    }
    # Among the shards at first, so that what an interruption leaves of them is removed with the shards; and the report
    # takes its place first, so that whoever sees the file finds the report beside it.
    _write_json(folder / REPORT_FILE, report)
    write_visual_features(folder / FEATURES_FILE, rows(), metadata, more)
    sync(folder / FEATURES_FILE)
    for name in (REPORT_FILE, FEATURES_FILE):
        os.replace(folder / name, path.with_name(name))
    shutil.rmtree(folder)
