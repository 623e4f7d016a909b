"""Tagged tweets and their pictures as a data set that `datasets.load_dataset` reads.

A data set is a folder with a card and, for each configuration, Parquet files:

    text             the tweets, one file a split
    pictures         the tweets with their pictures in the files; with --images, or where the source holds pictures
    visual_features  a copy of the visual feature file, split "features"; with --visual_features
"""

import io
import os
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset, DatasetDict, Features, Image
from PIL import Image as Picture
from PIL.Image import DecompressionBombError

from hamlearning.data.card import FEATURES_FILE, data_set_card, repeats
from hamlearning.data.dividing import divide
from hamlearning.data.features import VisualFeatures
from hamlearning.data.files import move_into
from hamlearning.data.parquet import shortened
from hamlearning.data.picture_files import find_images, is_file, picture_bytes, picture_of
from hamlearning.data.reading import FORMATS, READERS, ReadingOptions, read_files
from hamlearning.data.schemes import entities_of, orphan_i_tags
from hamlearning.data.tweets import SPLITS, TweetData, find_split_files, read_data, tag_names, unified


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
    files: dict[str, list[Path]]  # of each split
    splits: DatasetDict
    found: TweetData  # how the files were read
    images: Path | None = None
    pictures: dict[str, Path] | None = None  # by image id; None: those that the source holds itself, if it does
    features: VisualFeatures | None = None
    counts: dict[str, dict[str, Any]] = field(default_factory=dict)  # of each split, once it is written

    @property
    def configs(self) -> list[str]:
        """Those of `CONFIGS` that the data set has."""
        given = {"text": True, "pictures": self.has_pictures, "visual_features": self.features is not None}
        return [config for config in CONFIGS if given[config]]

    @property
    def has_pictures(self) -> bool:
        """Whether there are pictures to be written, in a folder or in the source itself."""
        return self.pictures is not None or any("image" in dataset.column_names for dataset in self.splits.values())

    def card(self, address: str, configs: list[str]) -> str:
        """The card; `address` is what `load_dataset` is to be given."""
        return data_set_card(address, configs, self.name, self.files, self.splits, self.counts, self.features)

    def write(self, folder: Path) -> None:
        """Replace the data set that a folder holds, and say what was written.

        Raises:
            ValueError: no picture can be read.
        """
        folder = folder.resolve()
        staged = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
        try:
            self._write_files(staged, folder.name)
            remove_data_set(folder)
            move_into(staged, folder)
        finally:
            shutil.rmtree(staged, ignore_errors=True)

    def _write_files(self, folder: Path, name: str) -> None:
        for config in ("text", "pictures") if self.has_pictures else ("text",):
            (folder / config).mkdir(parents=True, exist_ok=True)
        for split, dataset in self.splits.items():
            self.counts[str(split)] = counts = self._write_split(folder, f"{split}-00000-of-00001.parquet", dataset)
            print("{0}: {tweets} tweets, {entities} entities, {pictures} pictures".format(split, **counts))
            for picture in counts["unreadable"]:
                print(f"  {picture} cannot be read: its tweet is left without a picture")
            print(*said_absent(counts["absent"]), sep="\n", end="\n" if counts["absent"] else "")
        if not any(count["pictures"] for count in self.counts.values()):
            if self.images is not None:
                raise ValueError(f"{self.images} has no picture that can be read: get it anew, or leave out --images")
            self._leave_out_pictures(folder)
        if self.features is not None:
            (folder / "visual_features").mkdir(exist_ok=True)
            shutil.copyfile(self.features.path, folder / FEATURES_FILE)
            unused = len(set(self.features) - self.ids)
            print(f"visual features: {len(self.features)} rows, {unused} of them of no tweet here")
        card = self.card(f"path/to/{name}", self.configs)
        (folder / "README.md").write_text(card, encoding="utf-8")

    def _leave_out_pictures(self, folder: Path) -> None:
        """The source says where its pictures are, and none of them is there: a data set of text is left."""
        shutil.rmtree(folder / "pictures", ignore_errors=True)
        columns = {split: [name for name in own.column_names if name != "image"] for split, own in self.splits.items()}
        self.splits = DatasetDict({split: own.select_columns(columns[split]) for split, own in self.splits.items()})

    @property
    def ids(self) -> set[str]:
        """The image ids of all tweets."""
        return {image_id for dataset in self.splits.values() for image_id in dataset["id"]}

    def _write_split(self, folder: Path, file_name: str, dataset: Dataset) -> dict[str, Any]:
        text = dataset.select_columns(["id", "tokens", "ner_tags"])
        table = pa.table(text[:], schema=text.features.arrow_schema)
        pq.write_table(table, folder / "text" / file_name)
        counts = count_entities(text) | {"pictures": 0, "unreadable": [], "absent": []}
        if self.has_pictures:
            counts |= write_pictures(folder / "pictures" / file_name, text, self.pictures_of(dataset))
        return counts

    def pictures_of(self, dataset: Dataset) -> Iterator["Found"]:
        """For each text of a split its picture. One of the folder goes before one of the source."""
        own: Any = None
        if self.pictures is None and "image" in dataset.column_names:
            own = dataset.select_columns(["image"]).cast_column("image", Image(decode=False))
        for row, image_id in enumerate(dataset["id"]):
            path = None if self.pictures is None else picture_of(image_id, self.pictures)
            image: Any = {"bytes": None, "path": str(path)} if path is not None else own and own[row]["image"]
            if image is None or (image["bytes"] is None and image["path"] is None):
                yield Found(None)
                continue
            place = image["path"] or ""
            content = image["bytes"] or picture_bytes(place)
            name = Path(place).name
            if content is not None and is_readable(content):
                has_name = image["bytes"] or is_file(place)  # else it is base64
                yield Found({"bytes": content, "path": name if has_name and name else None})
            else:
                yield Found(None, shortened(path or name or image_id), is_there=content is not None)

    def report(self, max_length: int = 128) -> list[str]:
        """What was seen in the source, a line each: formats, scheme, and what each split holds.

        Args:
            max_length: Of texts with more words it is said how many there are: each word is a sub-token at least.
        """
        lines = [*self.found.described()]
        if self.found.labels.scheme == "iob2":
            lines.append("tag scheme iob2")
        for split, dataset in self.splits.items():
            counts, lengths = count_entities(dataset), [len(tokens) for tokens in dataset["tokens"]]
            types = ", ".join(f"{type_} {count}" for type_, count in counts["types"].items())
            too_long = sum(length > max_length for length in lengths)
            lines.append(
                f"{split}: {len(lengths)} texts of {sum(lengths)} words, {too_long} of them "
                f"longer than {max_length}; {counts['entities']} entities{': ' if types else ''}{types}"
            )
            same = [
                repeats(*(2 * [list(map(tuple, dataset["tokens"]))]), within=True),
                repeats(*(2 * [dataset["id"]]), within=True),
            ]
            lines += [f"  duplicates: {same[0]} with the words, {same[1]} with the id of another"] if any(same) else []
            for other in list(self.splits)[: list(self.splits).index(split)]:
                shared = repeats(map(tuple, self.splits[other]["tokens"]), map(tuple, dataset["tokens"]), within=False)
                lines += [f"  duplicates: {shared} with the words of one in {other}"] if shared else []
        missing = [split for split in SPLITS if split not in self.splits]
        if missing:
            remedy = "; --split 80/10/10 makes all three of one file" if len(self.splits) == 1 else ""
            lines.append(f"no {' and no '.join(missing)} split: training needs train and validation{remedy}")
        return [*lines, *self.found.remarks()]

    def report_pictures(self) -> list[str]:
        """How many pictures each split has, and which cannot be read: all of them are decoded."""
        lines = []
        for split, dataset in self.splits.items() if self.has_pictures else ():
            pictures = [found._replace(image=found.image and {}) for found in self.pictures_of(dataset)]
            count = sum(found.image is not None for found in pictures)
            lines.append(f"{split}: {count} pictures of {len(pictures)} texts")
            lines += [f"  {found.lost} cannot be read" for found in pictures if found.lost and found.is_there]
            lines += said_absent([found.lost for found in pictures if found.lost and not found.is_there])
        return lines


class Found(NamedTuple):
    """A text's picture as `Image` stores it; or the name of the one that it should have and has not."""

    image: dict[str, Any] | None
    lost: str | None = None
    is_there: bool = True  # the lost one, but it cannot be read


def said_absent(names: Sequence[str]) -> list[str]:
    """The pictures that are not where their texts say, which are all or none as a rule: in one line."""
    if not names:
        return []
    return [
        f"  {len(names)} pictures are not where the source says, {names[0]} the first: give their folder, --images"
    ]


def read_data_set(
    source: Path,
    images: Path | None = None,
    visual_features: Path | None = None,
    name: str | None = None,
    image_subfolders: bool = False,
    options: ReadingOptions | None = None,
    shares: Sequence[int] | None = None,
    seed: int = 1,
) -> DataSet:
    """Read and check what a data set is to be made of.

    Args:
        source: A folder that `load_tweets` reads, or one file of any of its formats.
        images: The folder of the pictures, `<id>.jpg` or with another suffix of a picture. A tweet whose picture is
            missing or unreadable has a null image.
        visual_features: A visual feature file (see `VisualFeatures`) of these tweets.
        name: The data set's name in its card; that of `source` if None.
        image_subfolders: Whether pictures in the folders of `images` are read as well.
        options: What the files do not say of themselves.
        shares: How one file is divided into splits, see `divide`.
        seed: Of that.

    Raises:
        FileNotFoundError: `source`, `images` or `visual_features` is missing.
        ValueError: A file of `source` is malformed or without tags; the message names file and line. `images` or
            `visual_features` has none of the tweets.
    """
    found, files = read_source(source, options or ReadingOptions())
    splits = found.splits
    if shares is not None:
        if len(splits) > 1:
            raise ValueError(
                f"{source} has {', '.join(map(str, splits))} already: leave --split out, or give one file"
            )
        (own,) = files.values()
        splits = divide(next(iter(splits.values())), shares, seed)
        files = {str(split): own for split in splits}
    pictures = None if images is None else find_images(images, image_subfolders)
    features = None if visual_features is None else VisualFeatures(visual_features)
    name = name or (source.resolve().stem if source.is_file() else source.resolve().name)
    data_set = DataSet(name, files, splits, found, images, pictures, features)
    pictured = {image_id for image_id in data_set.ids if picture_of(image_id, pictures or {}) is not None}
    described = data_set.ids.intersection(features or ())
    for place, known, fitting in ((images, pictures, pictured), (visual_features, features, described)):
        if known is not None and not fitting:
            raise ValueError(
                f"{place} has none of the tweets of {source}: an id there is {next(iter(known), None)!r}, one of the "
                f"tweets' is {next(iter(splits.values()))['id'][0]!r}"
            )
    return data_set


def check_target(source: Path, folder: Path, visual_features: Path | None, overwrite: bool) -> None:
    """See that nothing is lost if a data set is written to a folder.

    Raises:
        FileExistsError: `folder` is `source`, or holds something and `overwrite` is False.
    """
    if folder.resolve() in (source.resolve(), source.resolve().parent if source.is_file() else None):
        raise FileExistsError(f"SOURCE and TARGET are both {folder}: choose another folder for the data set")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())) and not overwrite:
        raise FileExistsError(f"{folder} is not an empty folder: choose another one, or add --overwrite")
    if visual_features is not None and visual_features.resolve() == (folder / FEATURES_FILE).resolve():
        raise FileExistsError(f"{visual_features} is in TARGET and would be replaced: give --visual_features a copy")


def read_source(source: Path, options: ReadingOptions) -> tuple[TweetData, dict[str, list[Path]]]:
    """Read the splits of a folder, or one file as a train split, and say which files each is from."""
    if source.is_file():
        if source.suffix.lower() not in READERS:
            raise ValueError(f"{source} has a suffix of no format that is read: expected one of {' '.join(FORMATS)}")
        found, files = unified({"train": read_files([source], options)}, options), {"train": [source]}
    else:
        found = read_data(source, options=options)
        files = {split: find_split_files(source, split) for split in SPLITS if split in found.splits}
    for split, dataset in ((str(split), dataset) for split, dataset in found.splits.items()):
        if "ner_tags" not in dataset.column_names:
            begins = " ".join(map(repr, dataset[0]["tokens"][:3]))
            raise ValueError(
                f"{files[split][0]} has no tags ({found.readings[split].format}; its first text begins {begins}): add "
                f"them, or take the file out of {source}"
            )
    return found, files


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


def write_pictures(target: Path, dataset: Dataset, pictures: Iterator[Found]) -> dict[str, Any]:
    """Write one split with the bytes of its pictures (see `DataSet.pictures_of`) in it, and count them."""
    features = Features({**dataset.features, "image": Image()})
    lost: dict[bool, list[str]] = {True: [], False: []}  # those that are there, and others
    found, first = 0, None
    with pq.ParquetWriter(target, features.arrow_schema) as writer:
        for start in range(0, dataset.num_rows, ROW_GROUP):
            rows = dataset[start : start + ROW_GROUP]
            rows["image"] = []
            for row in range(start, start + len(rows["id"])):
                image, name, is_there = next(pictures)
                if image is not None:
                    first = first or (row, Image().decode_example(image).size)
                if name is not None:
                    lost[is_there].append(name)
                rows["image"].append(image)
                found += image is not None
            writer.write_table(pa.table(rows, schema=features.arrow_schema))
    missing = dataset.num_rows - found - len(lost[True])
    return {"pictures": found, "missing": missing, "unreadable": lost[True], "absent": lost[False], "first": first}


def is_readable(content: bytes) -> bool:
    """Decode the whole picture: published folders hold a few that are cut short."""
    try:
        with Picture.open(io.BytesIO(content)) as picture:
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
