"""A model as one callable: tables of tweets in, tables of entities out, in whatever program."""

import hashlib
import json
import os
import threading
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from filelock import FileLock
from transformers import pipeline
from transformers.utils import HF_MODULES_CACHE

from hamlearning.data.downloads import wanted_of_hub
from hamlearning.data.features import VisualFeatures
from hamlearning.tagging.reader import TweetReader
from hamlearning.tagging.rows import (
    PICTURE_BYTES,
    ROWS,
    ROWS_AT_ONCE,
    ROWS_WITH_FEATURES,
    ROWS_WITH_PICTURES,
    WORD_BYTES,
)
from hamlearning.tagging.schema import SCHEMA
from hamlearning.tagging.tables import Column, Unreadable, columns_of, like
from pipeline_hamlearning import is_missing


FEATURE_COLUMNS = ("image_size", "image_features", "boxes", "class_ids", "features")  # of a visual feature file
DTYPES = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Settings:
    """What a reader is made of: two taggers with the same ones share it."""

    model: str
    stamp: str | None  # of the model's files, so that what a program keeps of one model is not taken for another's
    batch_size: int
    extraction_batch_size: int
    device: str | None
    threads: int | None
    dtype: str
    visual_features: str | None
    opens_urls: bool


class Tagger:
    """A model as one callable: a table of tweets in, a table of their entities out.

    ```python
    >>> tagger = Tagger("outputs/demo")
    >>> tagger(pa.table({"id": ["1"], "text": ["had lunch with Maria Lopez"]}))
    pyarrow.Table
    id: string
    entities: list<...>
    ...
    >>> data_set.map(tagger, batched=True)  # also pandas, polars, Spark and Ray: docs/scaling.md
    ```

    A table is one of Arrow (also a batch), pandas or polars, or a dict of columns, as `datasets` has them; an iterator
    of such gives an iterator. Columns:

    - `tokens`, words, or else `text`, raw;
    - `id`, perhaps: a string or a number;
    - `image`, perhaps: whatever `read_image` takes, or a URL of http or https; or, in its place, `image_size`,
      `image_features`, `boxes`, `class_ids` and `features`, as a visual feature file has them.

    Others are not read. A table of the same kind comes back, a row a tweet in the same order, see `schema`: `id`;
    `entities`, as the pipeline returns them, null where the text cannot be read; `relevance`, |C^r| a view, null
    without a picture; `image_error` and `text_error`, why the picture or the text cannot be read, else null.

    A row that cannot be read is a reason in its row, and never an error of the others. What is wrong with the whole
    table is an error.

    It can be pickled and copied to other processes. The model is loaded with the first tweets, once a process, however
    many copies there are.

    Args:
        model: A trained or exported model, a folder or Hub id. Its code is run.
        batch_size: Tweets that go through the network together.
        extraction_batch_size: Pictures that go through the vision model together.
        device: `cpu`, `cuda`, `cuda:1`, ...; a GPU where there is one if None.
        threads: Of PyTorch on a CPU, for the whole process; as many as it has set if None.
        dtype: `float32`, or `bfloat16` or `float16` for autocast.
        visual_features: A visual feature file, by `id`, in place of pictures.
        text: The column of raw text, where it is not called so.
        tokens: That of words.
        image: That of pictures.
        id: That of ids.
        opens_urls: Whether pictures are downloaded.

    Raises:
        ValueError: The dtype is unknown, a size is below 1, or a table lacks a column, has one twice, or is none.
        OSError: The model cannot be loaded (with the first tweets).
    """

    schema = SCHEMA

    def __init__(
        self,
        model: str | os.PathLike,
        *,
        batch_size: int = 32,
        extraction_batch_size: int = 8,
        device: str | torch.device | None = None,
        threads: int | None = None,
        dtype: str = "float32",
        visual_features: str | os.PathLike | None = None,
        text: str | None = None,
        tokens: str | None = None,
        image: str | None = None,
        id: str | None = None,
        opens_urls: bool = True,
    ):
        if dtype not in DTYPES:
            raise ValueError(f"dtype={dtype!r}: must be one of {', '.join(DTYPES)}")
        sizes = {"batch_size": batch_size, "extraction_batch_size": extraction_batch_size, "threads": threads}
        for name, size in sizes.items():
            if not (isinstance(size, int) and size > 0 or name == "threads" and size is None):
                raise ValueError(f"{name}={size!r}: must be a whole number, at least 1")
        place = str(model)
        self.settings = Settings(
            model=os.path.abspath(place) if os.path.isdir(place) else place,  # for a process in another folder
            stamp=stamp_of(Path(place)),
            batch_size=batch_size,
            extraction_batch_size=extraction_batch_size,
            device=None if device is None else str(device),
            threads=threads,
            dtype=dtype,
            visual_features=None if visual_features is None else os.path.abspath(visual_features),
            opens_urls=opens_urls,
        )
        self.names = {"text": text, "tokens": tokens, "image": image, "id": id}
        self._reader: TweetReader | None = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_reader": None}

    def __call__(self, tweets: Any) -> Any:
        """The entities of a table of tweets, or of each of an iterator of tables."""
        if isinstance(tweets, Iterator):
            return map(self, tweets)
        return like(tweets, self.tag_batches([tweets]))

    def tag_batches(self, tables: Iterable[Any]) -> pa.Table:
        """The entities of all tweets of some tables, in one table: those of like length are read together."""
        found: list[dict[str, Any]] = []
        rows: list[dict[str, Any]] = []
        share = 0.0
        for row in chain.from_iterable(map(self._rows, tables)):
            more = _share(row)
            if rows and share + more > 1:
                found += self._read(rows)
                rows, share = [], 0.0
            rows.append(row)
            share += more
        if rows:
            found += self._read(rows)
        return pa.Table.from_pylist(found, SCHEMA)

    @property
    def reader(self) -> TweetReader:
        """What reads the tweets: model and processor, loaded now if they were not."""
        if self._reader is None:
            with _loading:
                self._reader = load_reader(self.settings)
        return self._reader

    def columns_read(self, columns: Sequence[str]) -> list[str]:
        """Those of a table's columns that are read.

        Raises:
            ValueError: It lacks one.
        """
        return list(dict.fromkeys(self._names_in(columns).values()))

    def _names_in(self, columns: Collection[str]) -> dict[str, str]:
        """The columns of a table that are read, by what they hold."""
        named = {kind: name for kind, name in self.names.items() if name is not None}
        for kind, name in named.items():
            if name not in columns:
                raise ValueError(f"{kind}={name!r}, but the table has the columns {list(columns)}: name one of them")
        names = named | {kind: kind for kind in self.names if kind not in named and kind in columns}
        if "text" in named and "tokens" not in named:
            names.pop("tokens", None)
        if "tokens" not in names and "text" not in names:
            raise ValueError(f"the table has the columns {list(columns)}: it needs `tokens` (words) or `text`")
        features = [name for name in FEATURE_COLUMNS if name in columns]
        if "image_features" in features:
            missing = sorted({*FEATURE_COLUMNS} - {*features})
            if missing:
                raise ValueError(f"the table has `image_features`, but not {', '.join(missing)}: give these, too")
            names |= {name: name for name in features}
        return names

    def _rows(self, tweets: Any) -> Iterator[dict[str, Any]]:
        """What is read of each tweet: `id`, `words`, `image` or `visual_features`, and the errors that are known."""
        columns: Mapping[str, Column] = columns_of(tweets)
        names = self._names_in(columns)
        count = len(columns[next(iter(names.values()))])
        for first in range(0, count, ROWS_AT_ONCE):
            some = {kind: columns[name].values(first, first + ROWS_AT_ONCE) for kind, name in names.items()}
            for values in zip(*some.values(), strict=True):
                yield _row(dict(zip(some, values, strict=True)))

    def _read(self, rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """The output of some rows."""
        reader, remarks = self.reader, [self._without_pictures(row) for row in rows]
        with _reading:
            found = _read_all(reader, rows)
        return [
            {name: row.get(name) or answer.get(name) or remark.get(name) for name in ("image_error", "text_error")}
            | {name: answer.get(name) for name in ("id", "entities", "relevance")}
            for row, remark, answer in zip(rows, remarks, found, strict=True)
        ]

    def _without_pictures(self, row: dict[str, Any]) -> dict[str, str]:
        """Why a picture of a tweet is not read, where the model reads none; it is taken out."""
        has_features, has_image = row.get("visual_features") is not None, row.get("image") is not None
        reader = self.reader
        if not reader.model.config.use_vision:
            reason = "the model was trained on text alone and reads no pictures"
        elif has_image and not has_features and reader.pictures == "none":
            reason = "the model has no vision model: give visual features"
        else:
            return {}
        row["image"] = row["visual_features"] = None
        return {"image_error": reason} if has_features or has_image else {}


_loading, _reading = threading.Lock(), threading.Lock()


@lru_cache(maxsize=1)  # that of the last tagger stays, since an engine may bring a new copy with each batch
def load_reader(settings: Settings) -> TweetReader:
    """The reader of some settings, the same one for all taggers of this process that have them."""
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    device = settings.device or ("cuda" if torch.cuda.is_available() else "cpu")
    with wanted_of_hub(settings.model), _one_process():
        options = {"trust_remote_code": True, "device": device, "dtype": torch.float32}
        ner: Any = pipeline(model=settings.model, **options)
    features = None if settings.visual_features is None else VisualFeatures(settings.visual_features)
    if features is not None:
        features.read_more(getattr(ner.model.config, "visual_columns", {}))
    return TweetReader(
        ner.model.eval(),
        ner.processor,
        settings.batch_size,
        features,
        extraction_batch_size=settings.extraction_batch_size,
        dtype=DTYPES[settings.dtype],
        opens_urls=settings.opens_urls,
    )


@contextmanager
def _one_process() -> Iterator[None]:
    """One process of a machine at a time.

    A model's code is copied to a folder that they share, and run there: of workers that start together, one would run
    what another has half written.
    """
    folder = Path(HF_MODULES_CACHE)
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / "hamlearning.lock") if os.access(folder, os.W_OK) else nullcontext():
        yield


def stamp_of(folder: Path) -> str | None:
    """Tells the model in a folder from one that is there later; None where it is no folder."""
    if not folder.is_dir():
        return None
    files = sorted(path for path in folder.glob("*") if path.suffix in (".json", ".safetensors", ".bin", ".xml"))
    status = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    return hashlib.sha256(json.dumps(status).encode()).hexdigest()


def _row(values: Mapping[str, Any]) -> dict[str, Any]:
    """One tweet as a reader takes it, with `text_error` where it cannot be read."""
    row: dict[str, Any] = {"id": None, "words": None, "image": None}
    try:
        row["id"] = _read_id(values.get("id"))
        row["words"] = _read_words(values)
    except ValueError as error:
        row["text_error"] = str(error)
    image = values.get("image")
    if isinstance(image, Unreadable):
        row["image_error"] = image.reason
    elif not is_missing(image) and not _is_no_picture(image):
        row["image"] = image
    if "image_features" in values:
        features = {name: values[name] for name in FEATURE_COLUMNS}
        unreadable = next((value for value in features.values() if isinstance(value, Unreadable)), None)
        if unreadable is not None:
            row["image_error"] = unreadable.reason
        elif not is_missing(features["image_features"]):
            row["visual_features"] = features
    return row


def _is_no_picture(image: Any) -> bool:
    """Whether it is what a table has in place of None: a struct of nothing."""
    return isinstance(image, Mapping) and all(image.get(name) is None for name in ("bytes", "path"))


def _read_id(id_: Any) -> str | None:
    if isinstance(id_, Unreadable):
        raise ValueError(f"its id: {id_.reason}")
    if is_missing(id_):
        return None
    return str(id_).encode("utf-8", "backslashreplace").decode()


def _read_words(values: Mapping[str, Any]) -> str | list[str] | None:
    """A text or words, None where there are none.

    Raises:
        ValueError: Says why it is none.
    """
    name = "tokens" if "tokens" in values and not (is_missing(values["tokens"]) and "text" in values) else "text"
    words: Any = values[name]
    if isinstance(words, Unreadable):
        raise ValueError(f"{name}: {words.reason}")
    if is_missing(words):
        return None
    if name == "tokens":
        if isinstance(words, str | bytes | Mapping) or not isinstance(words, Iterable):
            raise ValueError(f"tokens is {words!r:.100}: give a list of words")
        words = [word if type(word) is str else "" if is_missing(word) else word for word in words]
    parts: list[Any] = [words] if name == "text" else words
    wrong = next((part for part in parts if not isinstance(part, str)), None)
    if wrong is not None:
        raise ValueError(f"{name}: {wrong!r:.100} is no string")
    try:
        size = len("".join(parts).encode())
    except UnicodeEncodeError as error:
        raise ValueError(f"{name} is no text ({error})") from None
    if size > WORD_BYTES:
        raise ValueError(f"{name} has {size / 2**20:.1f} MiB, more than a tweet may have ({WORD_BYTES // 2**20} MiB)")
    return words


def _share(row: Mapping[str, Any]) -> float:
    """How much of the memory that is there for rows it takes; with a picture or features, which are to come, more."""
    words, image = row["words"] or "", row["image"]
    most = ROWS if image is None else ROWS_WITH_PICTURES
    if row.get("visual_features") is not None:
        most = min(most, ROWS_WITH_FEATURES)
    if isinstance(image, Mapping):
        image = image.get("bytes")
    size = len(image) if isinstance(image, bytes | str) else 0
    word_size = sum(4 * len(word) for word in ([words] if isinstance(words, str) else words))
    return max(1 / most, word_size / WORD_BYTES + size / PICTURE_BYTES)


def _read_all(reader: TweetReader, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What a reader says of each row; a row that it refuses is searched for, and has the reason."""
    try:
        return reader.read(rows)
    except ValueError as error:
        if len(rows) > 1:
            half = len(rows) // 2
            return _read_all(reader, rows[:half]) + _read_all(reader, rows[half:])
        if rows[0].get("visual_features") is not None:
            [found] = _read_all(reader, [{**rows[0], "visual_features": None}])
            return [found | {"image_error": str(error).removeprefix("visual_features: tweet 0: ")}]
        return [{"id": rows[0]["id"], "text_error": str(error)}]
