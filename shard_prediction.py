"""Entities of data sets of any length: Parquet shards in, Parquet shards out, in constant memory.

```bash
python run_mner.py --do_predict --streaming True --model_name_or_path outputs/demo --data_dir shards --output_dir found
accelerate launch run_mner.py --do_predict --streaming True --model_name_or_path ORG/NAME --dataset_name ORG/TWEETS
```

A shard is read some rows at a time, never whole, and its output appears when all of it is done: what was killed goes
on with the shards that are missing. Each of several processes opens its own shards only, and waits for no other.
"""

import hashlib
import json
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from accelerate import PartialState
from datasets import get_dataset_config_names, load_dataset_builder
from filelock import FileLock, Timeout
from fsspec.core import url_to_fs
from tqdm import tqdm

from data_hamlearning import VisualFeatures, find_split_files, wanted_of_hub
from fault_tolerance import sync
from image_processing_hamlearning import ImageError, read_image
from modeling_hamlearning import HamLearningForTokenClassification
from modeling_hamlearning_vision import lasting_settings, prepare_image
from processing_hamlearning import HamLearningProcessor, split_words
from visual_extraction import find_images


logger = logging.getLogger(__name__)

ROWS = 1024  # tweets that are in memory together; among them, those of like length make a batch
ROWS_WITH_PICTURES = 64
BUFFER_BYTES = 2**20  # of a column that is being read
# A file of 500 bytes may stand for gigabytes, the same word again and again, which shows only when it is unpacked.
ROWS_AT_ONCE = 32  # that are unpacked
WORD_BYTES = 2**22  # that are in memory together, ten times those of `ROWS` tweets; a tokenizer takes a hundredfold
PICTURE_BYTES = 2**27  # as they are stored
ENTITY = pa.struct(
    [
        ("entity_group", pa.string()),
        ("word", pa.string()),
        ("start", pa.int32()),
        ("end", pa.int32()),
        ("score", pa.float32()),
        ("word_start", pa.int32()),
        ("word_end", pa.int32()),
    ]
)
SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("entities", pa.list_(ENTITY)),
        ("relevance", pa.list_(pa.float32())),
        ("image_error", pa.string()),
    ]
)
METADATA_KEY = b"hamlearning"
OUTPUT_NAME = re.compile(r"predictions-\d+-of-(\d+)\.parquet")
NO_PICTURES = "the shard has none"
# What the rows of an output depend on, as its metadata names it, and as a user does.
FACTS = {
    "shard": "the shard",
    "content": "its content",
    "model": "the model",
    "precision": "the precision (--bf16, --fp16)",
    "words": "what was read (--mask_words)",
    "pictures": "the source of pictures (--visual_features, --image_dir, --hide_pictures)",
    "eyes": "the fingerprint of the eyes",
}


class ShardError(OSError):
    """A shard cannot be read, or its output not be written; the message says which, and why."""


def find_shards(
    data_dir: str | None, dataset_name: str | None = None, config_name: str | None = None, split: str = "test"
) -> list[str]:
    """The Parquet files of a split, of a folder or of a data set of the Hub; nothing is downloaded.

    They are those that `load_tweets` would read, in its order: of a prepared data set those with pictures, where there
    are such. A folder that is laid out in another way is read as its card or `datasets` says.

    Args:
        data_dir: the folder. Either this or `dataset_name`.
        dataset_name: a data set of the Hub.
        config_name: its configuration, or that of the folder's card; `pictures` if None and there is one of this name,
            else the data set's own default.
        split: `train`, `validation` or `test`.

    Raises:
        FileNotFoundError: there is no such folder.
        ConnectionError: the Hub is down, silent or busy, or refuses.
        ValueError: not exactly one source was given; there is no such split, or it is not Parquet.
    """
    if (data_dir is None) == (dataset_name is None):
        raise ValueError(
            f"--data_dir is {data_dir} and --dataset_name is {dataset_name}: give exactly one of them, a folder or a "
            "data set of the Hub"
        )
    place = str(data_dir if dataset_name is None else dataset_name)
    shards: list[str] = []
    if data_dir is not None:
        if not Path(place).is_dir():
            raise FileNotFoundError(f"{place} is not a folder: give the folder that holds the Parquet files")
        if config_name is None:
            shards = [str(path) for path in find_split_files(Path(place), split)]
    if not shards:
        with wanted_of_hub(place):
            if config_name is None and "pictures" in get_dataset_config_names(place):
                config_name = "pictures"
            files = load_dataset_builder(place, config_name).config.data_files or {}
        if split not in files:
            raise ValueError(
                f"{place} has no split {split!r}, only {', '.join(map(str, files)) or 'none'}: name its files "
                f"{split}-*.parquet"
            )
        shards = list(files[split])
    for shard in shards:
        if not shard.endswith(".parquet"):
            raise ValueError(f"{shard} is no Parquet file: streaming reads Parquet alone, see `datasets/prepare.py`")
    return shards


@dataclass
class TweetReader:
    """Rows of a shard to rows of its output.

    Args:
        model: in eval mode, on its device.
        processor: its own.
        batch_size: tweets that go through the network together.
        visual_features: by tweet id, in place of pictures.
        image_dir: folder of pictures named by tweet id, in place of those of the shards. Its names are in memory.
        hide_pictures: no tweet has its picture.
        mask_words: every word is the mask token.
        extraction_batch_size: pictures that the eyes look at together.
        dtype: of autocast; None for float32.
    """

    model: HamLearningForTokenClassification
    processor: HamLearningProcessor
    batch_size: int = 32
    visual_features: VisualFeatures | None = None
    image_dir: str | None = None
    hide_pictures: bool = False
    mask_words: bool = False
    extraction_batch_size: int = 8
    dtype: torch.dtype | None = None

    @cached_property
    def pictures(self) -> str:
        """Where pictures come from."""
        if not self.model.config.use_vision:
            return "none"
        if self.hide_pictures:
            return "hidden"
        if self.visual_features is not None:
            return f"features {_sha256(str(self.visual_features.path))}"
        if self.processor.vision_source is None and self.processor._vision_model is None:
            return "none"
        return "column image" if self.image_dir is None else f"folder {self._folder_sha256}"

    @property
    def needs_ids(self) -> bool:
        """Whether a picture is found by its tweet's id."""
        return self.pictures.startswith(("features", "folder"))

    @property
    def looks(self) -> bool:
        """Whether the eyes look at pictures."""
        return self.pictures.startswith(("column", "folder"))

    @cached_property
    def eyes(self) -> str:
        """The fingerprint of the eyes, which are loaded now."""
        self.processor.vision_model.to(self.model.device)
        return self.processor.vision_model.fingerprint()

    @cached_property
    def facts(self) -> dict[str, Any]:
        """What the rows of every shard depend on, but for the eyes, which a shard without pictures does without."""
        precision = "float32" if self.dtype is None else str(self.dtype).removeprefix("torch.")
        words = "masked" if self.mask_words else "as they are"
        return {"model": self._model_sha256(), "precision": precision, "words": words, "pictures": self.pictures}

    @cached_property
    def _images(self) -> dict[str, Path]:
        return find_images(Path(str(self.image_dir)))

    @cached_property
    def _folder_sha256(self) -> str:
        digest = hashlib.sha256()
        for id_, path in self._images.items():
            status = path.stat()
            digest.update(json.dumps([id_, path.name, status.st_size, status.st_mtime_ns]).encode())
        return digest.hexdigest()

    def _model_sha256(self) -> str:
        """Of weights and settings of the network, and of what makes its inputs."""
        tokenizer, processor = self.processor.tokenizer, self.processor.to_dict()
        vocabulary = tokenizer.get_vocab()
        if tokenizer.is_fast:
            vocabulary = json.loads(tokenizer.backend_tokenizer.to_str())
            del vocabulary["truncation"], vocabulary["padding"]  # those of the last call
        processor.pop("vision_source", None)  # a folder, which may be moved
        config = lasting_settings(json.loads(self.model.config.to_json_string(use_diff=False)))
        digest = hashlib.sha256(json.dumps([config, processor, vocabulary], sort_keys=True, default=str).encode())
        for name, tensor in sorted(self.model.state_dict().items()):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
        return digest.hexdigest()

    @torch.inference_mode()
    def read(self, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """The output of some rows with `id`, `words` and `image`, in their order.

        Tweets of like length go together: padding costs time.
        """
        found = [{"id": row["id"]} for row in rows]
        by_length = [place for place, row in enumerate(rows) if row["words"] is not None]
        by_length.sort(key=lambda place: len(rows[place]["words"]))
        for first in range(0, len(by_length), self.batch_size):
            places = by_length[first : first + self.batch_size]
            features, errors = self._look([rows[place] for place in places])
            inputs = self.processor(
                text=[self._words(rows[place]["words"]) for place in places], visual_features=features
            )
            autocast = nullcontext() if self.dtype is None else torch.autocast(self.model.device.type, self.dtype)
            with autocast:
                outputs = self.model(**inputs.to(self.model.device))
            columns = {
                "entities": self.processor.post_process_entities(outputs, inputs),
                "relevance": self.processor.post_process_relevance(outputs, inputs),
                "image_error": errors,
                "has_picture": [picture is not None for picture in features],
            }
            for place, *values in zip(places, *columns.values(), strict=True):
                found[place] |= dict(zip(columns, values, strict=True))
        return found

    def _words(self, words: str | list[str | None]) -> str | list[str]:
        if not self.mask_words:
            return words if isinstance(words, str) else [word or "" for word in words]
        count = len(split_words(words, self.processor.word_splitting) if isinstance(words, str) else words)
        tokenizer = self.processor.tokenizer
        return [tokenizer.mask_token or tokenizer.unk_token] * count

    def _look(self, tweets: Sequence[Mapping[str, Any]]) -> tuple[list[Any], list[str | None]]:
        """What is to be seen of each tweet's picture, None where there is none, and why one cannot be looked at."""
        features: list[Any] = [None] * len(tweets)
        errors: list[str | None] = [None] * len(tweets)
        if self.visual_features is not None and self.pictures.startswith("features"):
            return [self.visual_features.get(tweet["id"]) for tweet in tweets], errors
        if not self.looks:
            return features, errors
        images = [tweet["image"] for tweet in tweets]
        if self.image_dir is not None:
            images = [self._images.get(tweet["id"]) for tweet in tweets]
            errors = [f"there is no picture of this name in {self.image_dir}" if i is None else None for i in images]
        if all(image is None for image in images):
            return features, errors
        eyes = self.processor.vision_model
        for first in range(0, len(images), self.extraction_batch_size):
            prepared = []
            for place, image in enumerate(images[first : first + self.extraction_batch_size], start=first):
                try:
                    prepared.append(None if image is None else prepare_image(read_image(image), eyes.config))
                except ImageError as error:
                    errors[place] = str(error)
                    prepared.append(None)
            features[first : first + len(prepared)] = eyes.extract(prepared)
        return features, errors


def predict_shards(
    shards: Sequence[str], reader: TweetReader, folder: Path, show_progress: bool = True
) -> dict[str, int]:
    """Writes the entities of each shard to `predictions-00000-of-00012.parquet` and so on.

    A shard has the columns `tokens` (words) or `text` (raw), perhaps `id`, and perhaps `image`, which is looked at if
    the model has eyes. Ids are compared, and written, as strings. A word that is null is an empty one.

    The output has a row a tweet, in its order: `id` (null where there was none), `entities` (as
    `HamLearningProcessor.post_process_entities` returns them; of `tokens`, places are in the words joined by spaces;
    null where the tweet is), `relevance` (|C^r| a view, null without a picture) and `image_error` (why the tweet's
    picture could not be used, null where there is none or it could).

    Its metadata hold what it depends on, see `FACTS`. Output that is there is kept if all of that is as it was: the
    content of a shard of the Hub is told by the hash that the Hub has of it, that of a file by size and time of change
    and, where the time is another, by its SHA-256. So a data set may be moved or get a commit that leaves it alone.

    Args:
        shards: paths or URLs that fsspec opens, `hf://` among them.
        reader: model and processor.
        folder: of the output.
        show_progress: a bar of the shards of this process.

    Returns:
        What this process counted: `shards` and those that were `kept`; and of those that it made `tweets`, their
        `pictures`, and `image_errors`.

    Raises:
        ValueError: a shard lacks a column, has one twice or a tweet that is too long, or the folder holds output that
            this call would not write.
        ShardError: a shard cannot be read, its output not be written, or another run is at it.
    """
    state = PartialState()
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.iterdir():
        named = OUTPUT_NAME.fullmatch(path.name)
        if named is not None and int(named[1]) != len(shards):
            raise ValueError(
                f"{path} is of {int(named[1])} shards, and these are {len(shards)}: give another --output_dir, or "
                "remove the predictions that are there"
            )
    digits = max(len(str(len(shards))), 5)  # so that the order of names is that of shards
    own = {
        folder / f"predictions-{place:0{digits}d}-of-{len(shards):0{digits}d}.parquet": shards[place]
        for place in range(state.process_index, len(shards), state.num_processes)
    }
    kept = [path for path in own if path.is_file()]
    for path in kept:  # before anything is computed
        _check_output(path, own[path], reader)
    total = {"shards": len(own), "kept": len(kept), "tweets": 0, "pictures": 0, "image_errors": 0}
    logger.info(f"process {state.process_index + 1} of {state.num_processes}: {len(own)} shards, {len(kept)} are done")
    show_progress = show_progress and state.is_local_main_process
    with tqdm(total=len(own), initial=len(kept), desc="shards", disable=not show_progress) as progress:
        for path, shard in own.items():
            if path in kept:
                continue
            counts = _predict_shard(path, shard, reader)
            done = (
                f"{counts['tweets']} tweets, {counts['pictures']} with a picture, {counts['image_errors']} pictures "
                "cannot be used"
            )
            done = "another run was faster" if counts["kept"] else done
            logger.info(f"process {state.process_index + 1}: {shard}: {done}: {path.name}")
            total |= {name: total[name] + count for name, count in counts.items()}
            progress.update()
    return total


def _predict_shard(path: Path, shard: str, reader: TweetReader) -> dict[str, int]:
    """Writes the output of one shard and counts its tweets; keeps what another run wrote meanwhile."""
    counts = {"kept": 0, "tweets": 0, "pictures": 0, "image_errors": 0}
    partial, lock = path.with_suffix(".partial"), FileLock(path.with_suffix(".lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise ShardError(
            f"{path} is being written by another run: wait for it, or give another --output_dir"
        ) from None
    try:
        if path.is_file():  # since this run began
            _check_output(path, shard, reader)
            return counts | {"kept": 1}
        with _Shard(shard, reader) as rows:
            facts = reader.facts | rows.identity | {"eyes": None}
            with _named(shard, "read"):
                facts["content"] = facts["content"] or _sha256(shard)
            if reader.looks:
                facts["eyes"] = reader.eyes if rows.has_pictures else NO_PICTURES
            schema = SCHEMA.with_metadata({METADATA_KEY: json.dumps(facts)})
            with _named(path, "written"), pq.ParquetWriter(partial, schema) as writer:
                for some in rows:
                    found = reader.read(some)
                    writer.write_table(pa.Table.from_pylist(found, schema))
                    counts["tweets"] += len(found)
                    counts["pictures"] += sum(row.get("has_picture", False) for row in found)
                    counts["image_errors"] += sum(row.get("image_error") is not None for row in found)
            with _named(path, "written"):
                sync(partial)
                partial.rename(path)
    finally:
        partial.unlink(missing_ok=True)
        Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()
    return counts


@contextmanager
def _named(place: str | Path, what: str) -> Iterator[None]:
    """Says which file it was that could not be read or written."""
    try:
        yield
    except ShardError:
        raise
    # The last two are what Arrow says of text that is not UTF-8 and of a time that Python has none for.
    except (pa.ArrowException, OSError, UnicodeDecodeError, OverflowError) as error:
        raise ShardError(
            f"{place} cannot be {what} ({error}): what is done is kept, so mend that and start again"
        ) from error


class _Shard:
    """A shard that is open: `identity`, `has_pictures`, and its rows, some at a time, with the columns needed."""

    def __init__(self, shard: str, reader: TweetReader):
        self.shard, self.reader = shard, reader

    def __enter__(self) -> "_Shard":
        with _named(self.shard, "read"):
            self.identity = shard_identity(self.shard)
            opened: Any = fsspec.open(self.shard, "rb")
            self.file = opened.open()
        try:
            with _named(self.shard, "read"):
                # Else a row group is read whole.
                self.parquet = pq.ParquetFile(self.file, pre_buffer=False, buffer_size=BUFFER_BYTES)
                schema = self.parquet.schema_arrow
                self.words = self._check_columns(schema)
            self.columns = [self.words, *(name for name in ("id", "image") if name in schema.names)]
            if self.reader.pictures != "column image" and "image" in self.columns:
                self.columns.remove("image")
            for name in self.columns:
                if schema.names.count(name) > 1:
                    raise ValueError(f"{self.shard} has the column {name!r} more than once: keep one of them")
        except BaseException:
            self.file.close()
            raise
        self.has_pictures = self.reader.looks and (self.reader.image_dir is not None or "image" in schema.names)
        return self

    def __exit__(self, *error) -> None:
        self.file.close()

    def _check_columns(self, schema: pa.Schema) -> str:
        """The column that is read as words."""
        words = next((name for name in ("tokens", "text") if name in schema.names), None)
        if words is None:
            raise ValueError(f"{self.shard} has the columns {schema.names}: it needs `tokens` (words) or `text`")
        type_ = schema.field(schema.names.index(words)).type  # by its place, as its name may be there twice
        if not _is_text(getattr(type_, "value_type", type_)):
            raise ValueError(f"{self.shard} has {words} of type {type_}: store it as strings, or as lists of strings")
        if "id" not in schema.names and self.reader.needs_ids:
            raise ValueError(
                f"{self.shard} has the columns {schema.names}: it needs `id`, by which --visual_features and "
                "--image_dir know whose picture one is"
            )
        type_ = schema.field(schema.names.index("id")).type if "id" in schema.names else pa.string()
        if pa.types.is_nested(type_):
            raise ValueError(f"{self.shard} has an id of type {type_}: store it as a string")
        return words

    def __iter__(self) -> Iterator[list[dict[str, Any]]]:
        most = ROWS_WITH_PICTURES if "image" in self.columns or self.reader.image_dir is not None else ROWS
        rows: list[dict[str, Any]] = []
        share, first = 0.0, 0
        with _named(self.shard, "read"):
            for piece in self._pieces():
                more = self._share(piece)
                if rows and (len(rows) + len(piece) > most or share + more > 1):
                    yield rows
                    rows, share = [], 0.0
                rows += self._rows(piece, first)
                share, first = share + more, first + len(piece)
            if rows:
                yield rows

    def _pieces(self) -> Iterator[pa.RecordBatch]:
        """All rows as `words`, `id` and `image`, a few at a time, or one by one where that is all memory is for.

        Raises:
            ValueError: a tweet has more words than memory is for.
        """
        first = 0
        for batch in self.parquet.iter_batches(ROWS_AT_ONCE, columns=self.columns):
            columns = {}
            for name in self.columns:
                column = batch.column(name)
                # What is stored once for all rows is told from what each row has of it only when it is copied to them.
                type_: pa.DataType = pa.string() if name == "id" else _without_dictionaries(column.type)
                if name == self.words:
                    type_ = pa.list_(pa.large_string()) if pa.types.is_nested(column.type) else pa.large_string()
                if column.type != type_:
                    with _named(f"{self.shard}, rows {first} to {first + len(batch) - 1}: {name}", "read"):
                        column = column.cast(type_)
                columns["words" if name == self.words else name] = column
            piece = pa.RecordBatch.from_pydict(columns)
            if self._share(piece) <= 1:
                yield piece
            else:
                for row in range(len(piece)):
                    alone = piece.slice(row, 1)
                    size = _word_bytes(alone)
                    if size > WORD_BYTES:
                        raise ValueError(
                            f"{self.shard}, row {first + row} has {size / 2**20:.1f} MiB of words, more than a tweet "
                            f"may have ({WORD_BYTES // 2**20} MiB): shorten it, or leave it out"
                        )
                    yield alone
            first += len(piece)

    def _share(self, piece: pa.RecordBatch) -> float:
        """How much of the memory that is there for rows they take."""
        pictures = piece.column("image").nbytes if "image" in self.columns else 0
        return _word_bytes(piece) / WORD_BYTES + pictures / PICTURE_BYTES

    def _rows(self, piece: pa.RecordBatch, first: int) -> list[dict[str, Any]]:
        columns = {}
        for name in ("words", "id", "image"):
            if name not in piece.schema.names:
                columns[name] = [None] * len(piece)
                continue
            try:
                columns[name] = piece.column(name).to_pylist()
            except (ValueError, LookupError, OverflowError):  # once more, to say where
                for row, value in enumerate(piece.column(name), start=first):
                    self._check_value(row, name, value)
                raise
        return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]

    def _check_value(self, row: int, name: str, value: pa.Scalar):
        """Raises ShardError for what Arrow can hold and Python cannot: bytes as text, times of no year or zone."""
        try:
            value.as_py()
        except (ValueError, LookupError, OverflowError) as error:
            column = self.words if name == "words" else name
            raise ShardError(
                f"{self.shard}, row {row}: {column} cannot be read ({error}): what is done is kept, so mend that and "
                "start again"
            ) from error


def _is_text(type_: pa.DataType) -> bool:
    kinds = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view, pa.types.is_null)
    return any(is_kind(type_) for is_kind in kinds)


def _without_dictionaries(type_: pa.DataType) -> pa.DataType:
    if pa.types.is_dictionary(type_):
        return type_.value_type
    if pa.types.is_struct(type_):
        return pa.struct([field.with_type(_without_dictionaries(field.type)) for field in type_])
    return type_


def _word_bytes(piece: pa.RecordBatch) -> int:
    return sum(piece.column(name).nbytes for name in ("words", "id") if name in piece.schema.names)


def shard_identity(shard: str) -> dict[str, Any]:
    """Name, size, time of change and content of a shard; no content where only reading all of it would tell."""
    files, path = url_to_fs(shard)
    info = files.info(path)
    content = None
    if info.get("lfs") is not None:
        content = f"sha256 {info['lfs']['sha256']}"
    elif info.get("blob_id") is not None:
        content = f"git {info['blob_id']}"
    name = PurePosixPath(path).name
    return {"shard": name, "bytes": info["size"], "modified": info.get("mtime"), "content": content}


def _sha256(shard: str) -> str:
    opened: Any = fsspec.open(shard, "rb")
    with opened as file:
        return f"sha256 {hashlib.file_digest(file, 'sha256').hexdigest()}"


def _check_output(path: Path, shard: str, reader: TweetReader):
    """Refuses output that this run would not write.

    Raises:
        ValueError: says in what it differs.
    """
    try:
        found = json.loads((pq.read_schema(path).metadata or {}).get(METADATA_KEY, b"{}"))
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path} cannot be read ({error}): remove it, and its shard is predicted again") from error
    with _named(shard, "read"):
        now = reader.facts | shard_identity(shard) | {"eyes": None}
        if now["content"] is None:
            is_untouched = all(found.get(name) == now[name] for name in ("shard", "bytes", "modified"))
            now["content"] = found.get("content") if is_untouched else _sha256(shard)
    if reader.looks:
        now["eyes"] = NO_PICTURES if found.get("eyes") == NO_PICTURES else reader.eyes
    others = [
        f"{description} was {str(found.get(name)):.40}, is {str(now[name]):.40}"
        for name, description in FACTS.items()
        if found.get(name) != now[name]
    ]
    if others:
        raise ValueError(
            f"{path} is the output of another run ({'; '.join(others)}): give another --output_dir, or remove it"
        )


__all__ = ["ShardError", "TweetReader", "find_shards", "predict_shards"]
