"""What HamLearning reads: tagged tweets, and what the frozen eyes saw in their pictures.

Tweets come as the released text files, as Parquet or from the Hub, and leave as one `DatasetDict`. Visual features are
computed once per data set and kept as Parquet: `write_visual_features` makes such a file, `VisualFeatures` reads it.
"""

import errno
import hashlib
import json
import logging
import os
import re
import socket
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from ssl import SSLError
from typing import Any, NoReturn

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import (
    ClassLabel,
    Dataset,
    DatasetDict,
    Features,
    Image,
    IterableDataset,
    LargeList,
    List,
    Value,
    get_dataset_config_names,
    load_dataset,
    load_dataset_builder,
)
from datasets.exceptions import DatasetGenerationError
from huggingface_hub import get_session
from huggingface_hub.utils import httpx
from pyarrow import compute

from configuration_hamlearning import TAGS


logger = logging.getLogger(__name__)

pc: Any = compute  # most of its functions are made when it is imported, so no type checker sees them
SILENCE = 100  # seconds that a silent Hub is waited for
# Those of the network that have no class of their own.
NETWORK_ERRNOS = {errno.ENETDOWN, errno.ENETUNREACH, errno.ENETRESET, errno.EHOSTDOWN, errno.EHOSTUNREACH}
SPLITS = {"train": ("train",), "validation": ("validation", "valid", "dev"), "test": ("test",)}

_TAG = re.compile(r"O|[BI]-\S+")
_TAG_BEHIND_A_SPACE = re.compile(r" (O|[BI]-\S+)$")


def _is_tag(text: Any) -> bool:
    return isinstance(text, str) and _TAG.fullmatch(text) is not None


def _canonical(tag: str) -> str:
    """Twitter-2015 says OTHER where the literature, and Twitter-2017, say MISC."""
    return tag[:2] + "MISC" if tag[1:] == "-OTHER" else tag


@contextmanager
def _damage_named(path: str | os.PathLike, remedy: str = "give a visual feature file") -> Iterator[None]:
    """What Arrow and `datasets` say of bytes that are no Parquet as a ValueError with the file's name."""
    try:
        yield
    # RuntimeError: what Arrow has no name for
    except (pa.ArrowException, OSError, UnicodeDecodeError, RuntimeError, DatasetGenerationError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # it is the disk's or the system's, no such file
            raise
        reason = error.__cause__ if isinstance(error, DatasetGenerationError) else error
        said = _shortened(reason)
        raise ValueError(f"{path} is not a Parquet file, or it is damaged ({said}): {remedy}") from None


def _shortened(reason: object) -> str:
    """What another library says, on one line and no longer than is read: some repeat the whole schema."""
    said = " ".join(str(reason).split())
    return said if len(said) <= 300 else said[:300] + "..."


# ----------------------------------------------------------------------------------------------------------- tweets


def read_tweets(path: str | os.PathLike) -> dict[str, list]:
    r"""Read one file of the released text format.

    ```python
    >>> read_tweets("train.txt")
    {'id': ['1', ...], 'tokens': [['Ada', 'sings'], ...], 'ner_tags': [['B-PER', 'O'], ...]}
    ```

    A tweet is a line `IMGID:<id>`, then a line `token<TAB>tag` for each token, then a blank line. Lines end at `"\n"`
    and nowhere else, and no token is stripped: `"\xa0"` is one. A file whose first line ends in `"\r\n"` was saved on
    Windows: there, and only there, one `"\r"` is dropped from the end of each line. OTHER becomes MISC; an I- tag that
    no B- opens stays as it is. A file in which no line has a tag is read as tokens alone.

    Args:
        path: The text file, UTF-8.

    Returns:
        `id` (one string a tweet), `tokens` (a list of strings each) and, if the file is tagged, `ner_tags` (a list of
        strings each, as long as its tokens).

    Raises:
        ValueError: The file is empty or malformed; the message names file, line and text.
    """
    path = Path(path)
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise OSError(f"{path} cannot be read: {error.strerror}") from error
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"{path}, line {line}: the byte 0x{raw[error.start]:02x} is not UTF-8: save the file as UTF-8"
        ) from None
    lines = text.split("\n")
    if lines[0].endswith("\r"):
        lines = [line.removesuffix("\r") for line in lines]

    ids: list[str] = []
    tokens: list[list[str]] = []
    tags: list[list[str]] = []
    first_token: tuple[int, str] | None = None  # the first token line decides whether the file is tagged
    tagged = in_tweet = False
    opened_at = 0

    def fail(number: int, problem: str) -> None:
        raise ValueError(f"{path}, line {number}: {problem}")

    def close_tweet() -> None:
        if in_tweet and not tokens[-1]:
            fail(opened_at, f"the tweet {'IMGID:' + ids[-1]!r} has no tokens: add its token lines or remove it")

    for number, line in enumerate(lines, start=1):
        if line == "":
            close_tweet()
            in_tweet = False
        elif line.startswith("IMGID:") and "\t" not in line:
            close_tweet()
            if line == "IMGID:":
                fail(number, "'IMGID:' names no image: write IMGID:<id>")
            ids.append(line.removeprefix("IMGID:"))
            tokens.append([])
            tags.append([])
            in_tweet, opened_at = True, number
        elif not in_tweet:
            fail(number, f"{line!r} belongs to no tweet: put a line IMGID:<id> before the first token of each tweet")
        else:
            if first_token is None:
                first_token, tagged = (number, line), "\t" in line
            fields = line.split("\t")
            if tagged and len(fields) != 2:
                found = "no tab" if len(fields) == 1 else f"{len(fields) - 1} tabs"
                fail(number, f"{line!r} has {found}: write token<TAB>tag")
            if not tagged and len(fields) > 1:
                fail(
                    number,
                    f"{line!r} has a tag, but line {first_token[0]}, {first_token[1]!r}, has none: write "
                    "token<TAB>tag on every line, or tokens alone on every line",
                )
            if not tagged and _TAG_BEHIND_A_SPACE.search(line):
                fail(number, f"{line!r} has a space between token and tag: write a tab there")
            if tagged and not _is_tag(fields[1]):
                fail(number, f"{line!r} has the tag {fields[1]!r}: write O, B-TYPE or I-TYPE, such as B-PER")
            tokens[-1].append(fields[0])
            if tagged:
                tags[-1].append(_canonical(fields[1]))
    close_tweet()
    if not ids:
        raise ValueError(f"{path} holds no tweet: expected lines IMGID:<id> and token<TAB>tag")
    return {"id": ids, "tokens": tokens, "ner_tags": tags} if tagged else {"id": ids, "tokens": tokens}


def load_tweets(
    data_dir: str | os.PathLike | None = None,
    dataset_name: str | None = None,
    dataset_config_name: str | None = None,
    revision: str | None = None,
    cache_dir: str | None = None,
    splits: Sequence[str] = tuple(SPLITS),
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

    A folder holds `train.txt`, `valid.txt` (or `validation.txt`, `dev.txt`) and `test.txt` in the released text format
    (see `read_tweets`), or Parquet files of those names (`train.parquet`, `train-00000-of-00001.parquet`), in the
    folder itself or in its subfolder `data/`, or it is one that `datasets/prepare.py` made: `pictures/` is read, and
    where there is none, `text/`. The splits that exist are returned, as `train`, `validation` and `test`.

    Columns: `id` (string), `tokens` (list of strings), `ner_tags` (list of `ClassLabel`; absent where a split has no
    tags), `image` where there is one, and whatever else a Parquet file holds. All splits share one list of labels:
    `TAGS` if it holds every tag of the data, else O and then B-X, I-X for each type X in alphabetical order. Tags may
    be stored as strings; OTHER becomes MISC.

    Args:
        data_dir: The folder. Either this or `dataset_name`.
        dataset_name: A data set on the Hub, or what else `datasets.load_dataset` takes.
        dataset_config_name: Its configuration, if it has several; `pictures` if None and there is one of this name,
            else the data set's own default.
        revision: Its branch, tag or commit.
        cache_dir: Where `datasets` keeps what it converts; its default if None.
        splits: Those to load, where they exist. Some alone are loaded from the Hub only if they are Parquet.

    Raises:
        FileNotFoundError: The folder or every split file is missing, or the Hub has no such data set.
        ConnectionError: The Hub is down, silent or busy, or refuses.
        ValueError: Not exactly one source was given, or a split is empty or malformed; the message names split, row
            and id, or file and line.
    """
    if (data_dir is None) == (dataset_name is None):
        raise ValueError(
            f"data_dir is {data_dir!r} and dataset_name is {dataset_name!r}: give exactly one of them, a folder or a "
            "data set of the Hub"
        )
    if dataset_name is None:
        assert data_dir is not None  # for type checkers: exactly one of them is there
        if dataset_config_name is not None or revision is not None:
            raise ValueError(
                f"dataset_config_name is {dataset_config_name!r} and revision is {revision!r}, but a folder "
                f"(data_dir={str(data_dir)!r}) has neither: leave both out, or give dataset_name"
            )
        loaded = _load_folder(Path(data_dir), cache_dir, splits)
    else:
        names = {alias: split for split, aliases in SPLITS.items() for alias in aliases}
        with wanted_of_hub(dataset_name):
            if dataset_config_name is None and "pictures" in get_dataset_config_names(
                dataset_name, revision=revision, cache_dir=cache_dir
            ):
                dataset_config_name = "pictures"
            if set(splits) == set(SPLITS):
                found = load_dataset(dataset_name, dataset_config_name, revision=revision, cache_dir=cache_dir)
            else:  # asked for a split, `datasets` downloads all of them
                files = (
                    load_dataset_builder(dataset_name, dataset_config_name, revision=revision).config.data_files or {}
                )
                files = {split: list(files[split]) for split in files if names.get(split, split) in splits}
                found = load_dataset("parquet", data_files=files, cache_dir=cache_dir)
        loaded = {names.get(str(split), str(split)): dataset for split, dataset in found.items()}

    tables = {split: _check_split(split, dataset) for split, dataset in loaded.items()}
    tags = {split: _tag_names(split, loaded[split], table) for split, table in tables.items()}
    seen = {_canonical(name) for names, _ in tags.values() for name in names}
    if seen <= set(TAGS):
        labels: list[str] = list(TAGS)
    else:
        types = sorted({tag[2:] for tag in seen - {"O"}})
        labels = ["O", *(f"{prefix}-{type_}" for type_ in types for prefix in "BI")]

    tweets = {}
    for split, dataset in loaded.items():
        columns = dataset.column_names
        if "ner_tags" in columns:
            names, indices = tags[split]
            label_of = np.array([labels.index(_canonical(name)) for name in names], dtype=np.int64)
            lengths = pc.list_value_length(tables[split]["tokens"]).to_numpy()
            offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
            tag_lists = pa.ListArray.from_arrays(offsets, label_of[indices])
            dataset = dataset.remove_columns("ner_tags")
            dataset = dataset.add_column("ner_tags", tag_lists, feature=List(ClassLabel(names=labels)))
            dataset = dataset.select_columns(columns)
        if dataset.features["id"].dtype != "string":
            dataset = dataset.cast_column("id", Value("string"))
        if "image" in columns and not isinstance(dataset.features["image"], Image):
            try:
                dataset = dataset.cast_column("image", Image())
            except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
                type_ = _shortened(dataset.features["image"])
                raise ValueError(
                    f"the {split} split has image of type {type_}, which is no picture "
                    f"({_shortened(error)}): store pictures as datasets.Image does, as {{bytes, path}}"
                ) from None
        tweets[split] = dataset
    return DatasetDict(tweets)


def limit_silence() -> None:
    """Has a silent Hub end in a timeout; for some requests (commits, lists of files) its client would wait for ever.

    It holds for this process and all requests without a limit of their own: those obey the `HF_HUB_*_TIMEOUT`.
    """
    session = get_session()
    hooks = session.event_hooks
    if _limit_silence not in hooks["request"]:
        session.event_hooks = hooks | {"request": [*hooks["request"], _limit_silence]}


def _limit_silence(request: httpx.Request) -> None:
    limits = request.extensions.get("timeout") or {}
    if not any(limits.values()):
        request.extensions["timeout"] = httpx.Timeout(SILENCE).as_dict()


@contextmanager
def wanted_of_hub(name: str) -> Iterator[None]:
    """Says what was wanted, and what to do, where the Hub does not give it.

    Raises:
        ConnectionError: The Hub is down, silent or busy, or refuses. Errors that name the thing stay as they are, and
            so do those of a path of this machine and of its own disk.
    """
    limit_silence()
    try:
        yield
    except (httpx.HTTPError, OSError) as error:
        said = " ".join(str(error).split()) or type(error).__name__
        is_of_network = isinstance(error, (httpx.HTTPError, ConnectionError, TimeoutError, socket.gaierror, SSLError))
        is_of_disk = not is_of_network and error.errno is not None and error.errno not in NETWORK_ERRNOS
        if os.path.exists(name) or is_of_disk or (name in said and not isinstance(error, httpx.HTTPError)):
            raise
        raise ConnectionError(
            f"{name} cannot be had from the Hub ({said[:500]}): try again later, and where it refuses, log in with "
            "`hf auth login`"
        ) from error


def picture_files(folder: Path, suffixes: Sequence[str]) -> list[Path]:
    """The pictures that a folder lists, by name: no other name is ever to be opened.

    A link that leads out of the folder is left out, with a warning: what lies there may be nobody's to look at. In a
    repo of the Hub's cache every file is a link, into the `blobs` of the same repo: there they are followed.

    Args:
        folder: The folder.
        suffixes: Those of pictures, in lower case.

    Raises:
        ValueError: All of its pictures are links out of it.
    """
    home = Path(os.path.realpath(folder))
    homes = [home]
    for place in (home, *home.parents):
        if place.parent.name == "snapshots" and place.parent.parent.name.startswith(("models--", "datasets--")):
            homes.append(place.parent.parent / "blobs")
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in suffixes)
    found = [path for path in paths if any(Path(os.path.realpath(path)).is_relative_to(place) for place in homes)]
    left_out = [path.name for path in paths if path not in found]
    if left_out and not found:
        raise ValueError(
            f"{folder} has no picture but {len(left_out)} links that lead out of it, {left_out[0]} the first: they "
            "are not followed, give a copy that holds the pictures (`cp -rL`)."
        )
    if left_out:
        logger.warning(
            f"{folder} has {len(left_out)} links that lead out of it, {left_out[0]} the first: they are not followed, "
            "copy the pictures in their place."
        )
    return found


def stream_tweets(shards: Sequence[str], tags: Sequence[str], seed: int, buffer_size: int) -> IterableDataset:
    """Stream tagged tweets from Parquet shards, shuffled and without end: behind the last the first come again.

    ```python
    >>> next(iter(stream_tweets(["train-00000-of-00001.parquet"], TAGS, seed=1, buffer_size=1000)))
    {'id': '17', 'tokens': ['Ada', 'sings'], 'ner_tags': ['B-PER', 'O']}
    ```

    Shards come in random order, their tweets through a buffer of which the next ones are drawn. A tweet may so come
    again before another has come once, near the end of a pass, or throughout if the buffer holds more than there are.

    Args:
        shards: Paths or URLs that fsspec opens, `hf://` among them, with the columns `id`, `tokens` and `ner_tags`.
        tags: All tags that a model of them knows.
        seed: Of the shuffling.
        buffer_size: Tweets of the buffer.

    Raises:
        ValueError: The shards lack a column, their `ner_tags` are no `ClassLabel`, or not among `tags`.
    """
    columns = ["id", "tokens", "ner_tags"]  # no others are read: pictures would be most of the bytes
    files = {"train": list(shards)}
    stream = load_dataset("parquet", data_files=files, columns=columns, split="train", streaming=True)
    names_there, types = stream.column_names or [], stream.features or {}
    missing = [name for name in columns if name not in names_there]
    if missing:
        raise ValueError(f"{shards[0]} has no column {missing[0]!r}, only {names_there}: write it there")
    label = getattr(types["ner_tags"], "feature", None)
    if not isinstance(label, ClassLabel):
        raise ValueError(
            f"{shards[0]} has ner_tags of type {types['ner_tags']}: a stream needs lists of ClassLabel, "
            "which say what tags will come, as `datasets/prepare.py` writes them"
        )
    names = [_canonical(name) for name in label.names]
    unknown = sorted(set(names) - set(tags))
    if unknown:
        raise ValueError(f"{shards[0]} names the tags {unknown}, which are not among {list(tags)}")

    def read(tweet: dict[str, Any]) -> dict[str, Any]:
        return {"id": str(tweet["id"]), "ner_tags": [names[tag] for tag in tweet["ner_tags"]]}

    # Tags by name, as the numbers are those of this file.
    features = Features(id=Value("string"), tokens=types["tokens"], ner_tags=List(Value("string")))
    stream = stream.select_columns(columns).map(read, features=features)
    return stream.repeat(None).shuffle(seed=seed, buffer_size=buffer_size)


def find_split_files(folder: Path, split: str) -> list[Path]:
    """The files of a split in a folder, as `load_tweets` takes them: one text file, Parquet files in order, or none.

    Raises:
        ValueError: The folder holds the split more than once.
    """
    # A prepared folder holds every tweet twice, with its picture and without.
    prepared = folder / ("pictures" if any((folder / "pictures").glob("*.parquet")) else "text")
    sources = []  # each a list of files; a second source would leave open which one is meant
    for alias in SPLITS[split]:
        text = folder / f"{alias}.txt"
        sources += [[text]] if text.is_file() else []
        for place in (folder, folder / "data", prepared):
            parquet = [*place.glob(f"{alias}.parquet"), *sorted(place.glob(f"{alias}[-_][0-9]*.parquet"))]
            sources += [parquet] if parquet else []
    if len(sources) > 1:
        names = ", ".join(str(files[0].relative_to(folder)) for files in sources)
        raise ValueError(f"{folder} holds the {split} split more than once ({names}): keep one of them")
    return sources[0] if sources else []


def _load_folder(folder: Path, cache_dir: str | None, wanted: Sequence[str]) -> dict[str, Dataset]:
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is not a folder: give the folder that holds train.txt or the Parquet files")
    splits = {}
    for split in wanted:
        files = find_split_files(folder, split)
        if files and files[0].suffix == ".txt":
            columns = read_tweets(files[0])
            features = {name: Value("string") if name == "id" else List(Value("string")) for name in columns}
            splits[split] = Dataset.from_dict(columns, features=Features(features))
        elif files:
            num_rows = 0
            for file in files:
                with _damage_named(file, "give the tweets as Parquet"):
                    found = pq.read_metadata(file)
                    num_rows += found.num_rows
                    schema = found.schema.to_arrow_schema()
                _check_features(file, schema)
            if num_rows == 0:
                raise ValueError(f"the {split} split, {files[0]}, is empty: fill the file or remove it")
            # One call a split: files read together share the first one's label names, whatever the others say.
            names = [str(file) for file in files]
            with _damage_named(", ".join(names), "give the tweets as Parquet"):
                where: dict[str, Any] = {"split": split, "cache_dir": cache_dir}
                splits[split] = Dataset.from_parquet([*names], **where)
    if not splits:
        raise FileNotFoundError(
            f"{folder} holds no split: expected train.txt, valid.txt and test.txt, or train.parquet or "
            "text/train-00000-of-00001.parquet and so on"
        )
    return splits


def _check_features(path: Path, schema: pa.Schema):
    """Refuse types, or the metadata that name others, of which `datasets` says what is wrong but not where."""
    try:
        Features.from_arrow_schema(schema)
    # What it raises for JSON that is not what it wrote; RecursionError: brackets in brackets.
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        raise ValueError(
            f"{path} has a type, or metadata 'huggingface' in its schema, that `datasets` cannot read "
            f"({_shortened(error)}): store the tweets as strings and lists of strings, and leave the metadata out"
        ) from None


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
            f"the {split} split has ner_tags of type {_shortened(dataset.features['ner_tags'])}: store them as lists "
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
            f"the {split} split has a column {name} that is damaged ({_shortened(error)}): write the file anew"
        ) from None


def _place(split: str, row: int, table: pa.Table) -> str:
    return f"the {split} split, row {row} (id {table['id'][row].as_py()!r})"


def _tag_names(split: str, dataset: Dataset, table: pa.Table) -> tuple[list[str], np.ndarray]:
    """Return the names of the tags as the split stores them, and for each token of the split the index of its name."""
    if "ner_tags" not in table.column_names:
        return [], np.zeros(0, dtype=np.int64)
    values = pc.list_flatten(table["ner_tags"]).combine_chunks()
    rows = pc.list_parent_indices(table["ner_tags"]).to_numpy()
    feature = dataset.features["ner_tags"].feature
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
        unknown = [name for name in names if not _is_tag(name)]
        if unknown:
            raise ValueError(f"the {split} split names the tag {unknown[0]!r} in its column ner_tags: {remedy}")
        return names, indices
    if getattr(feature, "dtype", None) not in ("string", "large_string"):
        raise ValueError(
            f"the {split} split has ner_tags of type {_shortened(feature)}, which says nothing of their names: store "
            "the tags as strings, or as datasets.ClassLabel"
        )
    encoded = values.dictionary_encode()
    names, indices = encoded.dictionary.to_pylist(), encoded.indices.to_numpy()
    for index, name in enumerate(names):
        if not _is_tag(name):
            row = int(rows[np.flatnonzero(indices == index)[0]])
            raise ValueError(f"{_place(split, row, table)} has the tag {name!r}: {remedy}")
    return names, indices


def split_sha256(dataset: Dataset) -> str:
    r"""Hash a split as it would stand in the released text format, so that it has one hash however it is stored.

    ```python
    >>> split_sha256(load_tweets("twitter2017")["test"])[:12]
    'a7d9e172ae85'
    ```

    What is hashed: for each tweet `"IMGID:<id>\n"`, `"<token>\t<tag>\n"` for each token (`"<token>\n"` in a split
    without tags) and `"\n"`, in UTF-8. For Twitter-2017 these are the bytes of the released files, so `sha256sum`
    prints the same. For Twitter-2015 it does not: those files say OTHER for MISC, and lack the last blank line.

    Args:
        dataset: One split, as `load_tweets` returns it.

    Returns:
        64 hexadecimal digits.
    """
    digest = hashlib.sha256()
    columns = [name for name in ("id", "tokens", "ner_tags") if name in dataset.column_names]
    names = dataset.features["ner_tags"].feature.names if "ner_tags" in columns else []
    tweets: Any = dataset.select_columns(columns).with_format(None)
    for tweet in tweets:
        lines = [f"IMGID:{tweet['id']}", *tweet["tokens"], "", ""]
        for position, tag in enumerate(tweet.get("ner_tags", []), start=1):
            lines[position] += "\t" + names[tag]
        digest.update("\n".join(lines).encode())
    return digest.hexdigest()


# -------------------------------------------------------------------------------------------------- visual features

_METADATA_KEY = b"hamlearning"
_ROW_GROUP = 256  # at 15 regions of 2048 half floats, 16 MB
_BOX_TOLERANCE = 1e-4
_MAX_SIDE = 2**31 - 1  # what 32 bits hold, as sizes are stored and computed with
_MAX_UNFOLDING = 100  # times the file's own size; features of real pictures: hardly 2
_ALWAYS_ALLOWED = 2**27  # bytes
_VISUAL_SCHEMA = pa.schema(
    {
        "id": pa.string(),
        "image_size": pa.list_(pa.int32()),
        "image_features": pa.list_(pa.float16()),
        "boxes": pa.list_(pa.list_(pa.float32())),
        "class_ids": pa.list_(pa.int32()),
        "scores": pa.list_(pa.float32()),
        "features": pa.list_(pa.list_(pa.float16())),
    }
)
_REGION_COLUMNS = ("boxes", "class_ids", "scores", "features")


class VisualFeatures(Mapping):
    """The visual features of a data set, by image id.

    ```python
    >>> eyes = VisualFeatures("features.parquet")
    >>> eyes["game"]["features"].shape
    (15, 2048)
    ```

    Opening reads the whole file into flat arrays and checks every row, so that training meets no surprise. An entry is
    a dict of NumPy arrays, N regions with the best score first, N possibly 0:

    - `image_size` (2,) integer, width and height in pixels
    - `image_features` (D_i,) float32
    - `boxes` (N, 4) float32, each (x_c, y_c, h, w) as shares of the picture's height and width, in [0, 1]
    - `class_ids` (N,) integer, in [0, num_classes)
    - `scores` (N,) float32
    - `features` (N, D_f) float32

    What the file stores as half floats stays so in memory and is widened in the entry; all else is a view of the flat
    arrays, not to be written into. A picture that the file lacks raises KeyError; `get` returns None for it.

    Args:
        path: The Parquet file. Columns other than `id` and the six above are not read.

    Attributes:
        path: The file.
        metadata: What the file says of its making: `image_feature_size`, `region_feature_size`, `class_names` and
            whatever its writer added.
        image_feature_size: D_i.
        region_feature_size: D_f.
        class_names: The detector's classes, by class id.
        num_classes: Their number.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is no Parquet, lacks columns or metadata, or a row breaks the above; the message names
            file, image id and value.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = Path(path)
        with _damage_named(self.path), pq.ParquetFile(self.path) as file:
            self.metadata = _read_metadata(self.path, file.schema_arrow)
            _check_schema(self.path, file.schema_arrow)
            # One row group at a time: over several, `iter_batches` keeps what it has read of all of them.
            try:
                blocks, unfolded, size = [], 0, self.path.stat().st_size
                for group in range(file.num_row_groups):
                    for batch in file.iter_batches(_ROW_GROUP, row_groups=[group], columns=_VISUAL_SCHEMA.names):
                        unfolded += batch.nbytes
                        # Parquet's index says so before, but Arrow aborts the process where that is damaged.
                        if unfolded > max(_MAX_UNFOLDING * size, _ALWAYS_ALLOWED):
                            raise ValueError(
                                f"{self.path} has {size} bytes and stands for {unfolded // 2**20} MiB or more, the "
                                "same numbers again and again, which no eyes see: give another visual feature file"
                            )
                        blocks.append(_flat_arrays(self.path, batch, self.metadata))
            except OSError as error:
                if error.errno is None:  # what Arrow says of damage, not what the system says of the disk
                    raise
                raise ValueError(f"{self.path} cannot be read ({error}): copy or make it anew") from error
        if not blocks:
            raise ValueError(f"{self.path} holds no row: write one row for each picture")
        self.class_names: tuple[str, ...] = tuple(self.metadata["class_names"])

        ids = [id_ for block in blocks for id_ in block["id"]]
        self._row_of = {id_: row for row, id_ in enumerate(ids)}
        if len(self._row_of) != len(ids):
            twice = next(id_ for row, id_ in enumerate(ids) if self._row_of[id_] != row)
            raise ValueError(f"{self.path}, image {twice!r}: more than one row has this id: keep one row an image")
        counts = np.concatenate([block["counts"] for block in blocks])
        self._offsets = np.concatenate([[0], np.cumsum(counts)])
        # Popped, so that only one column at a time is in memory twice.
        self._arrays = {name: np.concatenate([b.pop(name) for b in blocks]) for name in _VISUAL_SCHEMA.names[1:]}

    @property
    def image_feature_size(self) -> int:
        """D_i, the width of `image_features`."""
        return self.metadata["image_feature_size"]

    @property
    def region_feature_size(self) -> int:
        """D_f, the width of `features`."""
        return self.metadata["region_feature_size"]

    @property
    def num_classes(self) -> int:
        """How many classes the detector tells apart."""
        return len(self.class_names)

    def __getitem__(self, image_id: str) -> dict[str, np.ndarray]:
        row = self._row_of[image_id]
        regions = slice(self._offsets[row], self._offsets[row + 1])
        entry = {name: array[regions if name in _REGION_COLUMNS else row] for name, array in self._arrays.items()}
        for name in ("image_features", "features"):
            entry[name] = entry[name].astype(np.float32, copy=False)
        return entry

    def __contains__(self, image_id: object) -> bool:
        return image_id in self._row_of

    def __iter__(self) -> Iterator[str]:
        return iter(self._row_of)

    def __len__(self) -> int:
        return len(self._row_of)


def read_visual_metadata(path: str | os.PathLike) -> dict[str, Any]:
    """The `metadata` of a visual feature file, without reading its rows.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is no visual feature file.
    """
    with _damage_named(path):
        return _read_metadata(Path(path), pq.read_schema(path))


def write_visual_features(
    path: str | os.PathLike, rows: Iterable[Mapping[str, Any]], metadata: Mapping[str, Any]
) -> int:
    """Write a visual feature file, checked as `VisualFeatures` checks it.

    ```python
    >>> metadata = {"image_feature_size": 2048, "region_feature_size": 2048, "class_names": ["person", "ball"]}
    >>> write_visual_features("features.parquet", rows, metadata)
    4819
    ```

    Rows are taken as they come and written in groups of 256, so that a generator never fills the memory. The file
    appears under its name once it is complete; a failure leaves whatever stood there. `image_features` and `features`
    are stored as half floats (about 3 digits, at most 65504), the other numbers as 32 bits.

    Args:
        path: Where the file goes. Its folder exists.
        rows: One dict a picture: `id` (a string, in no other row) and the six arrays of a `VisualFeatures` entry.
            A picture without regions has empty lists.
        metadata: `image_feature_size`, `region_feature_size`, `class_names`, and what tells how the features were
            made: the vision config, the hash of its weights. JSON values.

    Returns:
        The number of rows.

    Raises:
        ValueError: The metadata or a row breaks what `VisualFeatures` promises, or there is no row; the message names
            file, image id and value.
    """
    path = Path(path)
    _check_metadata(path, metadata)
    schema = _VISUAL_SCHEMA.with_metadata({_METADATA_KEY: json.dumps(dict(metadata)).encode()})
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    seen: set[str] = set()
    group: list[dict[str, Any]] = []
    written = 0
    try:
        # Features hardly repeat: a dictionary of their values would be built in vain.
        settings: dict[str, Any] = {"compression": "zstd", "use_dictionary": ["id"]}
        with pq.ParquetWriter(partial, schema, **settings) as writer:

            def flush() -> None:
                batch = _record_batch(group, schema)
                _flat_arrays(path, batch, metadata)
                writer.write_batch(batch)
                group.clear()

            for number, row in enumerate(rows):
                group.append(_row_arrays(path, number, row))
                if group[-1]["id"] in seen:
                    raise ValueError(
                        f"{path}, image {group[-1]['id']!r}: more than one row has this id: keep one row an image"
                    )
                seen.add(group[-1]["id"])
                written += 1
                if len(group) == _ROW_GROUP:
                    flush()
            if group:
                flush()
            if not written:
                raise ValueError(f"{path} would hold no row: give one row for each picture")
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return written


def _row_arrays(path: Path, number: int, row: Mapping[str, Any]) -> dict[str, Any]:
    """Turn one row into the arrays of the schema; their sizes and values are checked a group at a time."""
    if set(row) != set(_VISUAL_SCHEMA.names):
        raise ValueError(f"{path}, row {number} has the keys {sorted(row)}: give {sorted(_VISUAL_SCHEMA.names)}")
    if not isinstance(row["id"], str):
        raise ValueError(f"{path}, row {number} has the id {row['id']!r}: give a string")
    arrays: dict[str, Any] = {"id": row["id"]}
    for field in _VISUAL_SCHEMA:
        if field.name == "id":
            continue
        dims, number_type = _dims_and_number_type(field.type)
        dtype = number_type.to_pandas_dtype()
        try:
            given = np.asarray(row[field.name])
            if given.size == 0:
                given = np.zeros((0,) * dims, dtype)
            with np.errstate(over="ignore", invalid="ignore"):
                array = given.astype(dtype)
            if given.ndim != dims:
                raise ValueError(f"its shape is {given.shape}")
            if pa.types.is_integer(number_type) and not np.array_equal(array, given):
                raise ValueError(f"{given.tolist()} are not 32-bit integers")
        except (ValueError, TypeError) as error:
            raise ValueError(
                f"{path}, image {row['id']!r}: {field.name} is not an array of {dims} dimension{'s' * (dims > 1)} of "
                f"{number_type} ({error}): give one"
            ) from None
        arrays[field.name] = array
    return arrays


def _record_batch(group: list[dict[str, Any]], schema: pa.Schema) -> pa.RecordBatch:
    def lists_of(values: pa.Array, lengths: Any) -> pa.Array:
        return pa.ListArray.from_arrays(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32), values)

    columns = [pa.array([row["id"] for row in group])]
    for name in schema.names[1:]:
        arrays = [row[name] for row in group]
        lengths = [len(array) for array in arrays]
        column = pa.array(np.concatenate([array.ravel() for array in arrays]))
        if arrays[0].ndim == 2:
            column = lists_of(column, np.repeat([array.shape[1] for array in arrays], lengths))
        columns.append(lists_of(column, lengths))
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def _dims_and_number_type(type_: pa.DataType) -> tuple[int, pa.DataType]:
    dims = 0
    while pa.types.is_list(type_) or pa.types.is_large_list(type_) or pa.types.is_fixed_size_list(type_):
        dims, type_ = dims + 1, type_.value_type
    return dims, type_


def _read_metadata(path: Path, schema: pa.Schema) -> dict[str, Any]:
    stored = (schema.metadata or {}).get(_METADATA_KEY)
    if stored is None:
        raise ValueError(
            f"{path} has no metadata {_METADATA_KEY.decode()!r} in its schema: write the file with "
            "write_visual_features"
        )
    try:
        metadata = json.loads(stored)
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{path} has metadata {_METADATA_KEY.decode()!r} that is not JSON ({error}): write the file with "
            "write_visual_features"
        ) from None
    _check_metadata(path, metadata)
    return metadata


def _check_metadata(path: Path, metadata: Any) -> None:
    if not isinstance(metadata, Mapping):
        raise ValueError(f"{path} has the metadata {metadata!r}: give a dict")
    for key in ("image_feature_size", "region_feature_size"):
        size = metadata.get(key)
        if not isinstance(size, int) or isinstance(size, bool) or size < 1:
            raise ValueError(f"{path} has {key} = {size!r} in its metadata: give the number of features, at least 1")
    names = metadata.get("class_names")
    if not isinstance(names, list | tuple) or not names or not all(isinstance(name, str) for name in names):
        raise ValueError(
            f"{path} has class_names = {names!r} in its metadata: give a list of strings, one for each class id"
        )


def _check_schema(path: Path, schema: pa.Schema) -> None:
    missing = [name for name in _VISUAL_SCHEMA.names if name not in schema.names]
    if missing:
        raise ValueError(
            f"{path} lacks the columns {missing}, it has {schema.names}: write the file with write_visual_features"
        )
    for field in _VISUAL_SCHEMA:
        if schema.names.count(field.name) > 1:
            raise ValueError(f"{path} has the column {field.name!r} more than once: keep one of them")
        found = schema.field(field.name).type
        dims, number_type = _dims_and_number_type(field.type)
        found_dims, found_number_type = _dims_and_number_type(found)
        same_kind = (
            pa.types.is_floating(found_number_type)
            if pa.types.is_floating(number_type)
            else pa.types.is_integer(found_number_type)
            if pa.types.is_integer(number_type)
            else pa.types.is_string(found_number_type) or pa.types.is_large_string(found_number_type)
        )
        if found_dims != dims or not same_kind:
            raise ValueError(f"{path} has a column {field.name!r} of type {found}: store it as {field.type}")


def _flat_arrays(path: Path, batch: pa.RecordBatch, metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Check a batch of rows, and return its columns flat: n rows, and R regions in all.

    `id` (n strings), `counts` (n,), `image_size` (n, 2), `image_features` (n, D_i), `boxes` (R, 4), `class_ids` (R,),
    `scores` (R,), `features` (R, D_f).
    """
    ids = batch.column("id").to_pylist()

    def fail(row: Any, problem: str) -> NoReturn:
        raise ValueError(f"{path}, image {ids[row]!r}: {problem}")

    def lengths_of(name: str, lists: pa.Array, owners: np.ndarray) -> np.ndarray:
        if lists.null_count:
            first = int(np.flatnonzero(lists.is_null().to_numpy(zero_copy_only=False))[0])
            fail(owners[first], f"{name} has a list that is null: write an empty one for no region")
        return pc.list_value_length(lists).to_numpy().astype(np.int64)

    def flat(name: str, width: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Return the column's numbers, in lines of `width`, and how many entries each row has."""
        column = batch.column(name)
        owners = np.arange(len(ids))  # the row that each list belongs to
        counts = lengths = lengths_of(name, column, owners)
        two_dims = _dims_and_number_type(column.type)[0] == 2
        column = column.flatten()
        if two_dims:
            owners = np.repeat(owners, counts)
            lengths = lengths_of(name, column, owners)
            column = column.flatten()
        if column.null_count:
            first = int(np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False))[0])
            fail(np.repeat(owners, lengths)[first], f"{name} has a number that is null: write a number")
        numbers = column.to_numpy(zero_copy_only=False)
        if width is None:
            return numbers, counts
        if (lengths != width).any():
            first = int(np.flatnonzero(lengths != width)[0])
            fail(owners[first], f"{name} has {lengths[first]} numbers where {width} belong: {sizes_remedy}")
        return numbers.reshape(-1, width), counts

    sizes_remedy = (
        "an image_size has 2 numbers, a box 4, image_features and features as many as the metadata's "
        f"image_feature_size ({metadata['image_feature_size']}) and region_feature_size "
        f"({metadata['region_feature_size']}) say"
    )
    if None in ids:
        raise ValueError(f"{path} has a row whose id is null: give every row the id of its image")
    arrays: dict[str, np.ndarray] = {}
    arrays["image_size"], _ = flat("image_size", 2)
    arrays["image_features"], _ = flat("image_features", metadata["image_feature_size"])
    arrays["boxes"], counts = flat("boxes", 4)
    for name, width in (("class_ids", None), ("scores", None), ("features", metadata["region_feature_size"])):
        arrays[name], others = flat(name, width)
        if (others != counts).any():
            row = int(np.flatnonzero(others != counts)[0])
            fail(row, f"{counts[row]} boxes but {others[row]} {name}: write one of each for every region")

    # What is stored wider than need be is narrowed here; half floats stay. Below it is seen whether it was too large.
    for name in ("image_features", "boxes", "scores", "features"):
        if arrays[name].dtype == np.float64:
            with np.errstate(over="ignore"):
                arrays[name] = arrays[name].astype(np.float32)

    region_rows = np.repeat(np.arange(len(ids)), counts)
    for name, array in arrays.items():
        if np.issubdtype(array.dtype, np.floating) and not np.isfinite(array).all():
            first = tuple(np.argwhere(~np.isfinite(array))[0])
            row = region_rows[first[0]] if name in _REGION_COLUMNS else first[0]
            fail(
                row,
                f"{name} holds {array[first]}: compute it anew, NaN and infinity cannot be learned from (a half float "
                "holds at most 65504)",
            )
    sizes = arrays["image_size"]
    for row in np.flatnonzero(((sizes < 1) | (sizes > _MAX_SIDE)).any(axis=1))[:1]:
        fail(row, f"image_size is {sizes[row].tolist()}: give width and height in pixels, from 1 to {_MAX_SIDE}")
    x, y, h, w = arrays["boxes"].T
    reaches = np.stack([x, y, h, w, x - w / 2, x + w / 2, y - h / 2, y + h / 2])
    outside = ((reaches < -_BOX_TOLERANCE) | (reaches > 1 + _BOX_TOLERANCE)).any(axis=0)
    for region in np.flatnonzero(outside)[:1]:
        fail(
            region_rows[region],
            f"the box {arrays['boxes'][region].tolist()} is not within [0, 1]: give (x_c, y_c, h, w) as shares of the "
            "picture, and clamp the box to the picture first",
        )
    for region in np.flatnonzero((h <= 0) | (w <= 0))[:1]:
        fail(region_rows[region], f"the box {arrays['boxes'][region].tolist()} has no area: drop the region")
    num_classes = len(metadata["class_names"])
    for region in np.flatnonzero((arrays["class_ids"] < 0) | (arrays["class_ids"] >= num_classes))[:1]:
        fail(
            region_rows[region],
            f"the class id {arrays['class_ids'][region]} is not in [0, {num_classes}): the metadata's class_names has "
            f"{num_classes} names, name every class",
        )
    return {"id": ids, "counts": counts, **arrays}
