"""Tagged tweets and their pictures as a data set that `datasets.load_dataset` reads.

A data set is a folder with a card and, for each configuration, Parquet files:

    text             the tweets, one file a split
    pictures         the tweets with their pictures in the files; with --images
    visual_features  a copy of the visual feature file, split "features"; with --visual_features
"""

import shutil
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset, DatasetDict, Features, Image
from PIL import Image as Picture
from PIL.Image import DecompressionBombError

from hamlearning.data.card import FEATURES_FILE, data_set_card
from hamlearning.data.features import VisualFeatures
from hamlearning.data.picture_files import find_images
from hamlearning.data.schemes import entities_of, orphan_i_tags
from hamlearning.data.tweets import SPLITS, load_tweets, tag_names


CONFIGS = ("text", "pictures", "visual_features")  # each a folder of the data set
ROW_GROUP = 100  # pictures of about 100 KB: 10 MB that a reader loads at once


@dataclass
class DataSet:
    """A data set on its way from the files of others to a folder of our own.

    ```python
    >>> data_set = read_data_set(Path("released/twitter2017"), images=Path("released/twitter2017_images"))
    >>> data_set.write(Path("prepared/twitter2017"))
    train: 3373 tweets, 6049 entities, 3373 pictures
    ...
    ```
    """

    name: str
    files: dict[str, Path]  # the text file of each split
    splits: DatasetDict
    images: Path | None = None
    pictures: dict[str, Path] | None = None  # by image id
    features: VisualFeatures | None = None
    counts: dict[str, dict[str, Any]] = field(default_factory=dict)  # of each split, once it is written

    @property
    def configs(self) -> list[str]:
        """Those of `CONFIGS` that the data set has."""
        given = {"text": True, "pictures": self.pictures is not None, "visual_features": self.features is not None}
        return [config for config in CONFIGS if given[config]]

    def card(self, address: str, configs: list[str]) -> str:
        """The card; `address` is what `load_dataset` is to be given."""
        return data_set_card(address, configs, self.name, self.files, self.splits, self.counts, self.features)

    def write(self, folder: Path) -> None:
        """Replace the data set that a folder holds, and say what was written.

        Raises:
            ValueError: no picture can be read.
        """
        remove_data_set(folder)
        for config in ("text", "pictures") if self.pictures is not None else ("text",):
            (folder / config).mkdir(parents=True, exist_ok=True)
        for split, dataset in self.splits.items():
            self.counts[str(split)] = counts = self._write_split(folder, f"{split}-00000-of-00001.parquet", dataset)
            print("{0}: {tweets} tweets, {entities} entities, {pictures} pictures".format(split, **counts))
            for picture in counts["unreadable"]:
                print(f"  {self.images}/{picture} cannot be read: its tweet is left without a picture")
        if self.pictures is not None and not any(count["pictures"] for count in self.counts.values()):
            raise ValueError(f"{self.images} has no picture that can be read: get it anew, or leave out --images")
        if self.features is not None:
            (folder / "visual_features").mkdir(exist_ok=True)
            shutil.copyfile(self.features.path, folder / FEATURES_FILE)
            unused = len(set(self.features) - self.ids)
            print(f"visual features: {len(self.features)} rows, {unused} of them of no tweet here")
        card = self.card(f"path/to/{folder.resolve().name}", self.configs)
        (folder / "README.md").write_text(card, encoding="utf-8")
        print(f"{folder} is ready for load_dataset")

    @property
    def ids(self) -> set[str]:
        """The image ids of all tweets."""
        return {image_id for dataset in self.splits.values() for image_id in dataset["id"]}

    def _write_split(self, folder: Path, file_name: str, dataset: Dataset) -> dict[str, Any]:
        table = pa.table(dataset[:], schema=dataset.features.arrow_schema)
        pq.write_table(table, folder / "text" / file_name)
        counts = count_entities(dataset) | {"pictures": 0, "unreadable": []}
        if self.pictures is not None:
            counts |= write_pictures(folder / "pictures" / file_name, dataset, self.pictures)
        return counts


def read_data_set(
    source: Path, images: Path | None = None, visual_features: Path | None = None, name: str | None = None
) -> DataSet:
    """Read and check what a data set is to be made of.

    Args:
        source: The folder of the text files.
        images: The folder of the pictures, `<id>.jpg` or with another suffix of a picture. A tweet whose picture is
            missing or unreadable has a null image.
        visual_features: A visual feature file (see `VisualFeatures`) of these tweets.
        name: The data set's name in its card; that of `source` if None.

    Raises:
        FileNotFoundError: `source`, `images` or `visual_features` is missing.
        ValueError: A file of `source` is malformed or without tags; the message names file and line. `images` or
            `visual_features` has none of the tweets.
    """
    splits, files = read_source(source)
    pictures = None if images is None else find_images(images)
    features = None if visual_features is None else VisualFeatures(visual_features)
    data_set = DataSet(name or source.resolve().name, files, splits, images, pictures, features)
    for place, found in ((images, pictures), (visual_features, features)):
        if found is not None and data_set.ids.isdisjoint(found):
            raise ValueError(
                f"{place} has none of the tweets of {source}: an id there is {next(iter(found), None)!r}, one of the "
                f"tweets' is {next(iter(splits.values()))['id'][0]!r}"
            )
    return data_set


def check_target(source: Path, folder: Path, visual_features: Path | None, overwrite: bool) -> None:
    """See that nothing is lost if a data set is written to a folder.

    Raises:
        FileExistsError: `folder` is `source`, or holds something and `overwrite` is False.
    """
    if folder.resolve() == source.resolve():
        raise FileExistsError(f"SOURCE and TARGET are both {folder}: choose another folder for the data set")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())) and not overwrite:
        raise FileExistsError(f"{folder} is not an empty folder: choose another one, or add --overwrite")
    if visual_features is not None and visual_features.resolve() == (folder / FEATURES_FILE).resolve():
        raise FileExistsError(f"{visual_features} is in TARGET and would be replaced: give --visual_features a copy")


def read_source(source: Path) -> tuple[DatasetDict, dict[str, Path]]:
    """Read the splits of the text files, and say which file each is from."""
    splits = load_tweets(source)
    files = {
        split: source / f"{alias}.txt"
        for split, aliases in SPLITS.items()
        for alias in aliases
        if (source / f"{alias}.txt").is_file()
    }
    for split, dataset in ((str(split), dataset) for split, dataset in splits.items()):
        if split not in files:
            raise ValueError(f"{source} holds the {split} split as Parquet: give a folder of text files")
        if "ner_tags" not in dataset.column_names:
            raise ValueError(f"{files[split]} has no tags: add them, or take the file out of {source}")
    return splits, files


def data_files(output: Path, config: str) -> list[Path]:
    """The Parquet files of a configuration, as this module names them."""
    if config == "visual_features":
        return [output / FEATURES_FILE] if (output / FEATURES_FILE).is_file() else []
    return [file for split in SPLITS for file in (output / config).glob(f"{split}-*.parquet")]


def remove_data_set(output: Path) -> None:
    """Remove what an earlier run wrote to `output`; `data/` is where the tweets used to be."""
    for folder in (*CONFIGS, "data"):
        for file in data_files(output, folder):
            file.unlink()
        if (output / folder).is_dir() and not any((output / folder).iterdir()):
            (output / folder).rmdir()


def write_pictures(target: Path, dataset: Dataset, pictures: dict[str, Path]) -> dict:
    """Write one split with the bytes of its pictures in it, and count them."""
    features = Features({**dataset.features, "image": Image()})
    unreadable: list[str] = []
    found, first = 0, None
    with pq.ParquetWriter(target, features.arrow_schema) as writer:
        for start in range(0, dataset.num_rows, ROW_GROUP):
            rows = dataset[start : start + ROW_GROUP]
            rows["image"] = []
            for row, image_id in enumerate(rows["id"], start):
                path = pictures.get(image_id)
                image = None
                if path is not None and is_readable(path):
                    image = {"bytes": path.read_bytes(), "path": path.name}
                    first = first or (row, Image().decode_example(image).size)
                elif path is not None:
                    unreadable.append(path.name)
                rows["image"].append(image)
                found += image is not None
            writer.write_table(pa.table(rows, schema=features.arrow_schema))
    missing = dataset.num_rows - found - len(unreadable)
    return {"pictures": found, "missing": missing, "unreadable": unreadable, "first": first}


def is_readable(path: Path) -> bool:
    """Decode the whole picture: published folders hold a few that are cut short."""
    try:
        with Picture.open(path) as picture:
            picture.load()
    except (OSError, SyntaxError, ValueError, DecompressionBombError):
        return False
    return True


def count_entities(dataset: Dataset) -> dict[str, Any]:
    """Count tweets, tokens and gold entities of one split."""
    gold = tag_names(dataset)
    entities = [entity for found in entities_of(gold) for entity in found]
    return {
        "tweets": len(gold),
        "tokens": sum(map(len, gold)),
        "entities": len(entities),
        "strict_entities": sum(map(len, entities_of(gold, strict=True))),
        "orphan_i_tags": orphan_i_tags(gold),
        "types": dict(sorted(Counter(type_ for type_, _, _ in entities).items())),
    }
