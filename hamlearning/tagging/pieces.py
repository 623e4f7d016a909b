"""Parquet in, Parquet out, a piece at a time: what is done is told by the names that are there."""

import hashlib
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.core import url_to_fs
from tqdm import tqdm

from hamlearning.data.files import write_bytes
from hamlearning.data.ray_cluster import load_ray, share_with_ray
from hamlearning.tagging.shards import ShardError, named
from hamlearning.tagging.tagger import Tagger


ROWS_OF_A_PIECE = 4096
ROWS_OF_A_BATCH = 256  # that are unpacked together
ENGINES = ("local", "ray")
MANIFEST = "_hamlearning.json"  # who reads a folder of Parquet passes over such a name


@dataclass(frozen=True)
class Piece:
    """Some rows of a file, and the name that their entities get: the same whoever tags them, and however often."""

    path: str
    row_group: int
    first: int  # of the row group
    rows: int
    name: str


def find_files(data: str) -> list[str]:
    """The Parquet files of a folder, a glob or a single file; of this machine or behind what fsspec knows.

    Raises:
        FileNotFoundError: There are none.
    """
    files, path = url_to_fs(data)
    with named(data, "read"):
        if files.isdir(path):
            path = f"{path.rstrip('/')}/**/*.parquet"
        paths = sorted(place for place in files.glob(path) if not PurePosixPath(place).name.startswith(("_", ".")))
    if not paths:
        raise FileNotFoundError(
            f"--data {data} has no Parquet file: give a folder, a file or a pattern like 'x/*.parquet'"
        )
    return [str(files.unstrip_protocol(place)) for place in paths]


def find_pieces(paths: Sequence[str], tagger: Tagger, rows: int = ROWS_OF_A_PIECE) -> list[Piece]:
    """All pieces of some files, in order of their names.

    Raises:
        ShardError: A file is no Parquet, or cannot be read.
        ValueError: It lacks a column.
    """
    pieces = []
    for number, path in enumerate(paths):
        with named(path, "read"), _opened(path) as file:
            parquet = pq.ParquetFile(file)
            _columns_of(path, parquet, tagger)
            place = 0
            for group in range(parquet.num_row_groups):
                count = parquet.metadata.row_group(group).num_rows
                for first in range(0, count, rows):
                    name = f"predictions-{number:05d}-{place:05d}.parquet"
                    pieces.append(Piece(path, group, first, min(rows, count - first), name))
                    place += 1
    return pieces


def tag_piece(tagger: Tagger, output: str, piece: Piece) -> dict[str, int]:
    """Write the entities of a piece, all of them or nothing, in place of what is there under its name.

    Returns:
        `tweets`, `image_errors` and `text_errors`, how many there are.

    Raises:
        ShardError: It cannot be read or written.
    """
    with named(piece.path, "read"):
        found = tagger.tag_batches(_batches(tagger, piece))
    content = io.BytesIO()
    pq.write_table(found, content)
    files, folder = url_to_fs(output)
    place = f"{folder.rstrip('/')}/{piece.name}"
    with named(place, "written"):
        _write(files, place, content.getvalue())
    errors = {name: len(found) - found[name[:-1]].null_count for name in ("image_errors", "text_errors")}
    return {"tweets": len(found), **errors}


def _write(files: Any, place: str, content: bytes) -> None:
    """A file that is there whole or not at all."""
    if "file" in (files.protocol if isinstance(files.protocol, tuple | list) else [files.protocol]):
        write_bytes(Path(place), content)
    else:  # what stores objects shows one when it is closed
        files.pipe_file(place, content)


def _batches(tagger: Tagger, piece: Piece) -> Iterator[pa.RecordBatch]:
    """The rows of a piece, some at a time."""
    with _opened(piece.path) as file:
        parquet = pq.ParquetFile(file, pre_buffer=False, buffer_size=2**20)
        columns = _columns_of(piece.path, parquet, tagger)
        skipped, left = piece.first, piece.rows
        for batch in parquet.iter_batches(ROWS_OF_A_BATCH, row_groups=[piece.row_group], columns=columns):
            before = min(skipped, len(batch))
            skipped -= before
            batch = batch.slice(before, left)
            left -= len(batch)
            if len(batch):
                yield batch
            if not left:
                return


def _opened(path: str) -> Any:
    return fsspec.open(path, "rb")


def _columns_of(path: str, parquet: pq.ParquetFile, tagger: Tagger) -> list[str]:
    try:
        return tagger.columns_read(parquet.schema_arrow.names)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def begin(tagger: Tagger, paths: Sequence[str], pieces: Sequence[Piece], output: str) -> list[Piece]:
    """Those pieces that are still to be tagged; says in the output what it is of.

    Raises:
        ValueError: The output is of other data, another model or other settings.
    """
    facts = {"data": [_identity(path) for path in paths], "tagger": asdict(tagger.settings), "columns": tagger.names}
    for name in ("batch_size", "extraction_batch_size", "device", "threads"):  # no row depends on them
        del facts["tagger"][name]
    facts["pieces"] = hashlib.sha256(json.dumps([asdict(piece) for piece in pieces]).encode()).hexdigest()
    files, folder = url_to_fs(output)
    place = f"{folder.rstrip('/')}/{MANIFEST}"
    with named(output, "written"):
        files.makedirs(folder, exist_ok=True)
        if files.exists(place):
            before = json.loads(files.cat_file(place))
            other = [name for name in facts if before.get(name) != json.loads(json.dumps(facts[name]))]
            if other:
                raise ValueError(
                    f"--output {output} is of another run ({', '.join(other)} were others): give another folder, or "
                    "remove it"
                )
        else:
            _write(files, place, json.dumps(facts, indent=1).encode())
    done = _written(output)
    return [piece for piece in pieces if piece.name not in done]


def _written(output: str) -> set[str]:
    """The names of the pieces that are there."""
    files, folder = url_to_fs(output)
    files.invalidate_cache()
    return {PurePosixPath(place).name for place in files.ls(folder, detail=False)}


def _identity(path: str) -> dict[str, Any]:
    """What tells a file from another one that lies there later."""
    files, place = url_to_fs(path)
    info = files.info(place)
    known = {name: str(info[name]) for name in ("mtime", "ETag", "etag", "blob_id") if info.get(name) is not None}
    return {"path": path, "bytes": info["size"], **known}


def tag_files(
    tagger: Tagger, data: str, output: str, engine: str = "local", workers: int | None = None, gpus: float = 0
) -> dict[str, int]:
    """Write the entities of Parquet files, piece by piece, and go on where another run has ended.

    ```python
    >>> tag_files(Tagger("outputs/demo"), "my/shards", "outputs/found")
    {'pieces': 2, 'kept': 0, 'tweets': 8, 'image_errors': 0, 'text_errors': 0}
    ```

    Args:
        tagger: The model.
        data: Parquet: a folder, a file or a pattern, of this machine or behind what fsspec knows (`hf://`, `s3://`).
        output: A folder, likewise. With an engine of many machines, one that all of them reach.
        engine: `local`, this process; or `ray`, as many processes as a cluster of Ray has room for.
        workers: Of Ray, at most.
        gpus: Of Ray: GPUs of a worker, or a share of one. A worker takes as many cores as the tagger has threads, or
            one.

    Returns:
        What there was to do, what was `kept` of it, and what this run has counted.

    Raises:
        FileNotFoundError: There is no Parquet file.
        ValueError: The output is of another run, or there is no such engine.
        ShardError: A file cannot be read or written; or what workers have written is not there.
        ImportError: Ray is not installed.
        RuntimeError: A piece has ended each worker of Ray that had it.
    """
    if engine not in ENGINES:
        raise ValueError(f"engine={engine!r}: must be one of {', '.join(ENGINES)}")
    if engine == "ray":
        load_ray()
    paths = find_files(data)
    pieces = find_pieces(paths, tagger)
    left = begin(tagger, paths, pieces, output)
    total = {"pieces": len(pieces), "kept": len(pieces) - len(left), "tweets": 0, "image_errors": 0, "text_errors": 0}
    work = partial(tag_piece, tagger, output)
    results = map(work, left)
    if engine == "ray":
        results = share_with_ray(work, left, workers, tagger.settings.threads or 1, gpus)
    for counts in tqdm(results, desc="pieces", total=len(pieces), initial=total["kept"]):
        total |= {name: total[name] + count for name, count in counts.items()}
    missing = sorted({piece.name for piece in pieces} - _written(output))
    if missing:
        raise ShardError(
            f"{len(missing)} of {len(pieces)} pieces are not in {output}, {missing[0]} the first: give a folder that "
            "all machines reach, or, if another program has removed them, start again"
        )
    return total
