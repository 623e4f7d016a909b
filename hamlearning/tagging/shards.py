"""Parquet shards of tweets: which there are, and what is known of each."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

import fsspec
import pyarrow as pa
from datasets import get_dataset_config_names, load_dataset_builder
from fsspec.core import url_to_fs

from hamlearning.data.downloads import wanted_of_hub
from hamlearning.data.tweets import find_split_files


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
            raise ValueError(
                f"{shard} is no Parquet file: streaming reads Parquet alone, which `hamlearning prepare` writes"
            )
    return shards


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


def content_sha256(shard: str) -> str:
    """SHA-256 of all its bytes."""
    opened: Any = fsspec.open(shard, "rb")
    with opened as file:
        return f"sha256 {hashlib.file_digest(file, 'sha256').hexdigest()}"


@contextmanager
def named(place: str | Path, what: str) -> Iterator[None]:
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
