"""What the error report shows of pictures: the pictures themselves, their regions and captions."""

import base64
import io
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from datasets import DatasetDict
from PIL import Image

from hamlearning.data.features import read_visual_metadata
from hamlearning.data.picture_files import find_images, picture_of
from hamlearning.data.tweets import load_tweets
from hamlearning.pictures.tweet_images import TweetImages
from image_processing_hamlearning import ImageError, read_image


THUMBNAIL = 320  # pixels of the longer side
WHOLE = (0.5, 0.5, 1.0, 1.0)  # the box of a region that lies nobody knows where


def _is_box(box: Any) -> bool:
    if not isinstance(box, list) or len(box) != 4 or not all(isinstance(share, int | float) for share in box):
        return False
    x, y, h, w = box
    return all(map(math.isfinite, (x - w / 2, y - h / 2, h, w)))  # two that are finite may have no finite difference


def read_regions(path: str, ids: set[str]) -> dict[str, dict[str, Any]]:
    """By image id: `caption` (or None) and `regions`, a list each: class name, and left, top, width, height if known.

    The features stay on disk: they may be gigabytes.
    """
    names = read_visual_metadata(path)["class_names"]
    columns = pq.read_schema(path).names
    missing = [name for name in ("id", "boxes", "class_ids") if name not in columns]
    if missing:
        raise ValueError(f"{path} lacks the columns {missing}, it has {columns}: give a visual feature file")
    wanted = ["id", "boxes", "class_ids", *(["caption"] if "caption" in columns else [])]
    seen = {}
    with pq.ParquetFile(path) as file:
        all_rows = (row for batch in file.iter_batches(columns=wanted) for row in batch.to_pylist())
        rows = [row for row in all_rows if isinstance(row["id"], str) and row["id"] in ids]
    for row in rows:
        regions, boxes, class_ids, caption = [], row["boxes"], row["class_ids"], row.get("caption")
        where = f"{path}, image {row['id']!r}"
        if not isinstance(boxes, list):
            raise ValueError(f"{where}: boxes is {boxes!r}: give a list of boxes, an empty one for no region")
        for box in boxes:
            if not _is_box(box):
                raise ValueError(f"{where}: the box {box!r} is not (x_c, y_c, h, w): give it 4 finite numbers")
        are_classes = isinstance(class_ids, list) and all(isinstance(class_id, int) for class_id in class_ids)
        if not are_classes or len(boxes) != len(class_ids) or not all(0 <= id_ < len(names) for id_ in class_ids):
            raise ValueError(
                f"{where}: {len(boxes)} boxes and the class_ids {class_ids!r}: give each region one box and one of "
                f"the {len(names)} classes that the metadata names"
            )
        if not isinstance(caption, str | None):
            raise ValueError(f"{where}: caption is {caption!r}: give a string, or null for none")
        for class_id, (x, y, h, w) in zip(class_ids, boxes, strict=True):
            place = [] if (x, y, h, w) == WHOLE else [x - w / 2, y - h / 2, w, h]
            regions.append([names[class_id], *(round(share, 4) for share in place)])
        seen[row["id"]] = {"caption": caption, "regions": regions}
    if not seen:
        raise ValueError(f"{path} has no row for any of the {len(ids)} images: give the file of this data set")
    return seen


def picture_sources(
    ids: set[str],
    image_dir: Path | None = None,
    data_dir: str | None = None,
    split: str = "test",
    image_subfolders: bool = False,
) -> dict[str, Any]:
    """What `read_image` takes, by image id."""
    if image_dir is not None:
        files = find_images(image_dir, image_subfolders)
        found = {id_: file for id_ in ids if (file := picture_of(id_, files)) is not None}
    elif data_dir is not None:
        splits = load_tweets(data_dir)
        if split not in splits:
            raise ValueError(f"{data_dir} holds no split {split!r}, only {', '.join(map(str, splits))}: give --split")
        images = TweetImages(DatasetDict({split: splits[split]}))
        found = {id_: images[place] for place, id_ in enumerate(images.ids) if id_ in ids}
        found = {id_: image for id_, image in found.items() if image is not None}
    else:
        return {}
    if not found:
        raise ValueError(
            f"{image_dir or data_dir} holds no picture of any of the {len(ids)} tweets: give the place of "
            "their pictures and --split, or leave the argument out"
        )
    return found


def thumbnail(image: Any) -> str:
    """A small JPEG of the picture in base64."""
    picture = read_image(image)
    picture.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=75, optimize=True)
    return base64.b64encode(file.getvalue()).decode()


def read_thumbnails(sources: Mapping[str, Any]) -> tuple[dict[str, str], dict[str, str]]:
    """By image id: the pictures, small, and what is wrong with those that cannot be read."""
    pictures, broken = {}, {}
    for id_, source in sources.items():
        try:
            pictures[id_] = thumbnail(source)
        except ImageError as error:
            broken[id_] = str(error)
    return pictures, broken
