"""Tagged tweets of a folder or of the Hub, checked, as one `DatasetDict`."""

import logging
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import (
    ClassLabel,
    Dataset,
    DatasetDict,
    Features,
    Image,
    LargeList,
    List,
    Value,
)
from pyarrow import compute

from hamlearning.data.hub_files import read_hub
from hamlearning.data.labels import Labels, SplitTags, place_of, unify
from hamlearning.data.parquet import shortened
from hamlearning.data.reading import FORMATS, READERS, Reading, ReadingOptions, read_files
from hamlearning.data.released import tweets_sha256
from hamlearning.data.schemes import SchemeError, could_be_tag


logger = logging.getLogger(__name__)
pc: Any = compute  # most of its functions are made when it is imported, so no type checker sees them
SHOWN = 5  # places of one kind that are listed
# Of CoNLL-2002 and 2003, behind the language: eng.train, eng.testa, eng.testb.
CONLL_NAMES = {"train": "train", "validation": "testa", "test": "testb"}
SPLITS = {"train": ("train",), "validation": ("validation", "valid", "dev"), "test": ("test",)}


def load_tweets(
    data_dir: str | os.PathLike | None = None,
    dataset_name: str | None = None,
    dataset_config_name: str | None = None,
    revision: str | None = None,
    cache_dir: str | None = None,
    splits: Sequence[str] = tuple(SPLITS),
    options: ReadingOptions | None = None,
) -> DatasetDict:
    """Load the splits of a data set, from a folder or from the Hub.

    ```python
    >>> load_tweets("twitter2017")
    DatasetDict({
        train: Dataset({
            features: ['id', 'tokens', 'ner_tags'],
            num_rows: 3373
        })
        ...
    ```

    A folder holds `train`, `valid` (or `validation`, `dev`) and `test`, each a file of a format in `reading.READERS`,
    told by its suffix: columns as text (see `read_columns`), Parquet (also `train-00000-of-00001.parquet`) and so on,
    in the folder itself or in its subfolder `data/`; or it is one that `hamlearning prepare` made: `pictures/` is
    read, and where there is none, `text/`. The splits that exist are returned, as `train`, `validation` and `test`.

    Columns: `id` (string), `tokens` (list of strings), `ner_tags` (list of `ClassLabel`; absent where a split has no
    tags), `image` where there is one, and whatever else a Parquet file holds. All splits share one list of labels:
    `TAGS` if it holds every tag of the data, else O and then B-X, I-X for each type X in alphabetical order. Tags may
    be stored as strings, in any scheme (`schemes.SCHEMES`): which one is found from all splits, and they become IOB2.
    OTHER becomes MISC. What was found is logged.

    Args:
        data_dir: The folder. Either this or `dataset_name`.
        dataset_name: A data set on the Hub, or what else `datasets.load_dataset` takes.
        dataset_config_name: Its configuration, if it has several; `pictures` if None and there is one of this name,
            else the data set's own default.
        revision: Its branch, tag or commit.
        cache_dir: Where `datasets` keeps what it converts; its default if None.
        splits: Those to load, where they exist.
        options: What files do not say of themselves.

    Raises:
        FileNotFoundError: The folder or every split file is missing, or the Hub has no such data set.
        ConnectionError: The Hub is down, silent or busy, or refuses.
        ValueError: Not exactly one source was given, or a split is empty or malformed; the message names split, row
            and id, or file and line.
    """
    found = read_data(data_dir, dataset_name, dataset_config_name, revision, splits, options, cache_dir)
    found.log()
    return found.splits


@dataclass
class TweetData:
    """The tweets of a data set, and how its files were read."""

    splits: DatasetDict
    readings: dict[str, Reading]  # of each split
    labels: Labels

    def log(self) -> None:
        """Say how the files were read."""
        for line in self.described():
            logger.info(line)
        for remark in self.remarks():
            logger.warning(remark)

    def described(self) -> list[str]:
        """What the files turned out to be, a line each."""
        by_format: dict[str, list[str]] = {}
        for split, reading in self.readings.items():
            by_format.setdefault(reading.format, []).append(split)
        lines = [f"{', '.join(splits)}: {format_}" for format_, splits in by_format.items()]
        if self.labels.scheme != "iob2":
            lines.append(f"tag scheme {self.labels.scheme}, read as IOB2 (--tag_scheme names another)")
        return lines

    def remarks(self) -> list[str]:
        """What was read otherwise than it stands there, or not at all, and what a user should look at."""
        lines = []
        for split, reading in self.readings.items():
            kinds = (("spans do not fall on words and were widened", reading.widened), ("left out", reading.left_out))
            for what, places in kinds:
                more = "; ..." if len(places) > SHOWN else ""
                lines += [f"{split}: {len(places)} {what}: {'; '.join(places[:SHOWN])}{more}"] if places else []
        if len(self.word_splittings) > 1:
            lines.append(
                f"the raw texts of the splits are split by {' and '.join(self.word_splittings)}: --word_splitting "
                "names one for all"
            )
        return lines + self.labels.remarks

    @property
    def word_splittings(self) -> list[str]:
        """How raw text was split into words, in whichever split it was."""
        found = (reading.word_splitting for reading in self.readings.values())
        return sorted({splitting for splitting in found if splitting is not None})


def read_data(
    data_dir: str | os.PathLike | None = None,
    dataset_name: str | None = None,
    dataset_config_name: str | None = None,
    revision: str | None = None,
    splits: Sequence[str] = tuple(SPLITS),
    options: ReadingOptions | None = None,
    cache_dir: str | None = None,
) -> TweetData:
    """Load the splits of a data set as `load_tweets` does, with what there is to say of their files."""
    if (data_dir is None) == (dataset_name is None):
        raise ValueError(
            f"data_dir is {data_dir!r} and dataset_name is {dataset_name!r}: give exactly one of them, a folder or a "
            "data set of the Hub"
        )
    options = (options or ReadingOptions())._replace(cache_dir=cache_dir)
    if dataset_name is None:
        assert data_dir is not None  # for type checkers: exactly one of them is there
        if dataset_config_name is not None or revision is not None:
            raise ValueError(
                f"dataset_config_name is {dataset_config_name!r} and revision is {revision!r}, but a folder "
                f"(data_dir={str(data_dir)!r}) has neither: leave both out, or give dataset_name"
            )
        readings = _load_folder(Path(data_dir), options, splits)
    else:
        readings = _load_hub(dataset_name, dataset_config_name, revision, splits, options)
    return unified(readings, options)


def unified(readings: dict[str, Reading], options: ReadingOptions) -> TweetData:
    """Check what readers found in each split, and give all splits the same labels.

    Raises:
        ValueError: A split is malformed; the message names split, row and id, or file and line.
    """
    loaded = {split: _as_dataset(reading) for split, reading in readings.items()}
    tables = {split: _check_split(split, dataset) for split, dataset in loaded.items()}
    tags = {
        split: _split_tags(split, loaded[split], table)
        for split, table in tables.items()
        if "ner_tags" in table.column_names
    }
    try:
        numbered, labels = unify(tags, options)
    except SchemeError as error:
        raise _placed(error, tags, tables, readings) from None
    return TweetData(
        DatasetDict({split: _with_labels(split, dataset, numbered.get(split)) for split, dataset in loaded.items()}),
        readings,
        labels,
    )


def _load_hub(
    name: str, config_name: str | None, revision: str | None, splits: Sequence[str], options: ReadingOptions
) -> dict[str, Reading]:
    """The splits of a data set of the Hub, by the names that they have here."""
    wanted = {split: SPLITS[split] for split in splits}
    return read_hub(name, config_name, revision, wanted, set(splits) == set(SPLITS), options)


def _with_labels(split: str, dataset: Dataset, tags: SplitTags | None) -> Dataset:
    """A split whose columns have the types that `load_tweets` promises."""
    columns = dataset.column_names
    if tags is not None:
        offsets = np.concatenate([tags.starts, [len(tags.indices)]]).astype(np.int32)
        tag_lists = pa.ListArray.from_arrays(offsets, tags.indices)
        dataset = dataset.remove_columns("ner_tags")
        dataset = dataset.add_column("ner_tags", tag_lists, feature=List(ClassLabel(names=tags.names)))
        dataset = dataset.select_columns(columns)
    if dataset.features["id"].dtype != "string":
        dataset = dataset.cast_column("id", Value("string"))
    if "image" in columns and not isinstance(dataset.features["image"], Image):
        try:
            dataset = dataset.cast_column("image", Image())
        except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
            type_ = shortened(dataset.features["image"])
            raise ValueError(
                f"the {split} split has image of type {type_}, which is no picture "
                f"({shortened(error)}): store pictures as datasets.Image does, as {{bytes, path}}"
            ) from None
    return dataset


def find_split_files(folder: Path, split: str) -> list[Path]:
    """The files of a split in a folder, as `load_tweets` takes them: one file, shards in their order, or none.

    Raises:
        ValueError: The folder holds the split more than once.
    """
    # A prepared folder holds every tweet twice, with its picture and without.
    prepared = folder / ("pictures" if any((folder / "pictures").glob("*.parquet")) else "text")
    sources = []  # each a list of files; a second source would leave open which one is meant
    for place in (folder, folder / "data", prepared):
        listed = [path for path in sorted(place.iterdir()) if path.is_file()] if place.is_dir() else []
        for alias in SPLITS[split]:
            for suffix in [".parquet"] if place == prepared else READERS:
                # Beside train.jsonl, train_10.jsonl may well be a tenth of it.
                shard = "[-_][0-9].*" if suffix == ".parquet" else "-[0-9]{5,}-of-[0-9]{5,}"
                own = [path for path in listed if re.fullmatch(f"{alias}({shard})?{re.escape(suffix)}", path.name)]
                sources += [sorted(own, key=lambda path: path.stem != alias)] if own else []
        sources += [[path] for path in listed if re.fullmatch(rf"[a-z]{{3}}\.{CONLL_NAMES[split]}", path.name)]
    if len(sources) > 1:
        names = ", ".join(str(files[0].relative_to(folder)) for files in sources)
        raise ValueError(f"{folder} holds the {split} split more than once ({names}): keep one of them")
    return sources[0] if sources else []


def _load_folder(folder: Path, options: ReadingOptions, wanted: Sequence[str]) -> dict[str, Reading]:
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is not a folder: give the folder that holds train.txt or the Parquet files")
    files = {split: find_split_files(folder, split) for split in wanted}
    readings = {split: read_files(found, options) for split, found in files.items() if found}
    if not readings:
        there = sorted(path.name for path in folder.iterdir())
        named = f", only {', '.join(there[:5])}{', ...' if len(there) > 5 else ''}" if there else ", it is empty"
        raise FileNotFoundError(
            f"{folder} holds no split{named}: expected train, valid and test, each a file of one of the formats "
            f"{' '.join(FORMATS)}, or text/train-00000-of-00001.parquet and so on"
        )
    return readings


def _as_dataset(reading: Reading) -> Dataset:
    """What a reader found as a `Dataset`, its types as the reader gave them."""
    columns = reading.columns
    if isinstance(columns, Dataset):
        return columns
    types = {"id": Value("string"), "image": Image()}
    features = {name: types.get(name, List(Value("string"))) for name in columns}
    return Dataset.from_dict(columns, features=Features(features))


def _check_split(split: str, dataset: Dataset) -> pa.Table:
    """Check columns and lengths, and return `id`, `tokens` and `ner_tags` (where there) as an Arrow table."""
    missing = [name for name in ("id", "tokens") if name not in dataset.column_names]
    if missing:
        raise ValueError(
            f"the {split} split has no column {' and no column '.join(map(repr, missing))}, only "
            f"{dataset.column_names}: rename its columns to id, tokens, ner_tags and image"
        )
    if getattr(dataset.features["id"], "dtype", None) not in ("string", "large_string", "int32", "int64"):
        raise ValueError(f"the {split} split has ids of type {dataset.features['id']}: store them as strings")
    if getattr(getattr(dataset.features["tokens"], "feature", None), "dtype", None) not in ("string", "large_string"):
        raise ValueError(
            f"the {split} split has tokens of type {dataset.features['tokens']}: store them as lists of strings"
        )
    columns = [name for name in ("id", "tokens", "ner_tags") if name in dataset.column_names]
    if "ner_tags" in columns and not isinstance(dataset.features["ner_tags"], List | LargeList):
        raise ValueError(
            f"the {split} split has ner_tags of type {shortened(dataset.features['ner_tags'])}: store them as lists "
            "of strings, or of datasets.ClassLabel, one for each token"
        )
    table: Any = dataset.select_columns(columns).with_format("arrow")[:]
    table = table.combine_chunks()
    for name in columns:
        _check_text(split, name, table[name])

    token_counts = pc.fill_null(pc.list_value_length(table["tokens"]), 0).to_numpy()
    if table["id"].null_count:
        row = int(np.flatnonzero(table["id"].is_null().to_numpy())[0])
        raise ValueError(f"the {split} split, row {row} has no id: give the tweet one, it names its picture")
    if (token_counts == 0).any():
        row = int(np.flatnonzero(token_counts == 0)[0])
        raise ValueError(f"{_place(split, row, table)} has no tokens: remove the tweet")
    if pc.list_flatten(table["tokens"]).null_count:
        row = int(np.flatnonzero([None in tokens for tokens in table["tokens"].to_pylist()])[0])
        raise ValueError(f"{_place(split, row, table)} has a token that is null: store it as a string")
    if "ner_tags" in columns:
        tag_counts = pc.fill_null(pc.list_value_length(table["ner_tags"]), 0).to_numpy()
        if (tag_counts != token_counts).any():
            row = int(np.flatnonzero(tag_counts != token_counts)[0])
            raise ValueError(
                f"{_place(split, row, table)} has {token_counts[row]} tokens but {tag_counts[row]} tags: give each "
                "token one tag, or remove the column ner_tags to predict"
            )
    return table


def _check_text(split: str, name: str, column: pa.ChunkedArray):
    """Refuse bytes that are not UTF-8, which Arrow passes on until somebody asks for the text."""
    try:
        column.validate(full=True)
    except pa.ArrowException as error:
        for row, value in enumerate(column):
            try:
                value.as_py()
            except UnicodeDecodeError as damage:
                byte = damage.object[damage.start]
                raise ValueError(
                    f"the {split} split, row {row}: {name} has the byte 0x{byte:02x}, which is not UTF-8: write the "
                    "text as UTF-8"
                ) from None
        raise ValueError(
            f"the {split} split has a column {name} that is damaged ({shortened(error)}): write the file anew"
        ) from None


def _place(split: str, row: int, table: pa.Table) -> str:
    return f"the {split} split, row {row} (id {table['id'][row].as_py()!r})"


def _placed(
    error: SchemeError, tags: Mapping[str, SplitTags], tables: Mapping[str, pa.Table], readings: Mapping[str, Reading]
) -> ValueError:
    """An error about a tag that says where it stands."""
    place = place_of(error, tags)
    if place is None:
        return ValueError(f"the column ner_tags names its tags: {error}")
    split, row, word = place
    where = readings[split].places[row : row + 1] or [f"the {split} split, row {row}"]
    id_, tokens = (tables[split][name][row].as_py() for name in ("id", "tokens"))
    return ValueError(f"{where[0]} (id {id_!r}), word {word + 1}, {tokens[word]!r}: {error}")


def _split_tags(split: str, dataset: Dataset, table: pa.Table) -> SplitTags:
    """The tags of a split as it stores them, in whichever scheme."""
    values = pc.list_flatten(table["ner_tags"]).combine_chunks()
    rows = pc.list_parent_indices(table["ner_tags"]).to_numpy()
    feature = dataset.features["ner_tags"].feature
    lengths = pc.list_value_length(table["ner_tags"]).to_numpy()
    remedy = "write O, B-TYPE or I-TYPE, such as B-PER"
    if values.null_count:
        row = int(rows[np.flatnonzero(values.is_null().to_numpy(zero_copy_only=False))[0]])
        raise ValueError(f"{_place(split, row, table)} has a tag that is null: {remedy}")
    if isinstance(feature, ClassLabel):
        names, indices = feature.names, values.to_numpy()
        outside = (indices < 0) | (indices >= len(names))
        if outside.any():
            first = int(np.flatnonzero(outside)[0])
            raise ValueError(
                f"{_place(split, int(rows[first]), table)} has the tag {indices[first]}, but the column names "
                f"{len(names)} tags, 0 to {len(names) - 1}: give every token one of them"
            )
        unknown = [name for name in names if not could_be_tag(name)]
        if unknown:
            raise ValueError(f"the {split} split names the tag {unknown[0]!r} in its column ner_tags: {remedy}")
        return SplitTags(names, indices, lengths)
    if getattr(feature, "dtype", None) not in ("string", "large_string"):
        raise ValueError(
            f"the {split} split has ner_tags of type {shortened(feature)}, which says nothing of their names: store "
            "the tags as strings or as datasets.ClassLabel, or say the names, --tag_names"
        )
    encoded = values.dictionary_encode()
    names, indices = encoded.dictionary.to_pylist(), encoded.indices.to_numpy()
    for index, name in enumerate(names):
        if not could_be_tag(name):
            row = int(rows[np.flatnonzero(indices == index)[0]])
            raise ValueError(f"{_place(split, row, table)} has the tag {name!r}: {remedy}")
    return SplitTags(names, indices, lengths)


def tag_names(dataset: Dataset) -> list[list[str]]:
    """The tags of a split by name."""
    names = dataset.features["ner_tags"].feature.names
    return [[names[tag] for tag in tags] for tags in dataset["ner_tags"]]


def with_tags(dataset: Dataset, tags: Sequence[str]) -> Dataset:
    """A split whose labels are numbered as a model numbers them: the same names, other ids.

    Raises:
        ValueError: a tag that occurs is not among them.
    """
    if "ner_tags" not in dataset.column_names or dataset.features["ner_tags"].feature.names == list(tags):
        return dataset
    number_of = {tag: number for number, tag in enumerate(tags)}
    unknown = sorted({tag for sentence in tag_names(dataset) for tag in sentence} - number_of.keys())
    if unknown:
        raise ValueError(f"the tags {unknown} are not among those of the model, {list(tags)}")
    columns = dataset.column_names
    numbers = [[number_of[tag] for tag in sentence] for sentence in tag_names(dataset)]
    lists = pa.array(numbers, pa.list_(pa.int64()))
    dataset = dataset.remove_columns("ner_tags")
    dataset = dataset.add_column("ner_tags", lists, feature=List(ClassLabel(names=list(tags))))
    return dataset.select_columns(columns)


def split_sha256(dataset: Dataset) -> str:
    """The `tweets_sha256` of a split, as `load_tweets` returns it.

    ```python
    >>> split_sha256(load_tweets("twitter2017")["test"])[:12]
    'a7d9e172ae85'
    ```
    """
    columns = [name for name in ("id", "tokens", "ner_tags") if name in dataset.column_names]
    tweets: Any = dataset.select_columns(columns).with_format(None)
    if "ner_tags" in columns:
        names = dataset.features["ner_tags"].feature.names
        tweets = (tweet | {"ner_tags": [names[tag] for tag in tweet["ner_tags"]]} for tweet in tweets)
    return tweets_sha256(tweets)
