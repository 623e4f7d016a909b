"""Visual feature files: what a frozen vision model computed of a data set's pictures, kept as Parquet."""

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import compute

from hamlearning.data.parquet import damage_named


pc: Any = compute  # most of its functions are made when it is imported, so no type checker sees them
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
# Columns that a file may have beside these, of an architecture that asks for them: a few vectors a picture, or a text.
_VECTORS = pa.list_(pa.list_(pa.float16()))
_MORE_SCHEMA = pa.schema({"grid_features": _VECTORS, "pyramid_features": _VECTORS, "caption": pa.string()})
_TEXT_KINDS = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
_REGION_COLUMNS = ("boxes", "class_ids", "scores", "features")


class VisualFeatures(Mapping):
    """The visual features of a data set, by image id.

    ```python
    >>> features = VisualFeatures("features.parquet")
    >>> features["game"]["features"].shape
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
        path: The Parquet file. Columns other than `id` and the six above are not read, but by `read_more`.

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
        with damage_named(self.path), pq.ParquetFile(self.path) as file:
            self.metadata = _read_metadata(self.path, file.schema_arrow)
            _check_schema(self.path, file.schema_arrow)
            batches = _batches(self.path, file, _VISUAL_SCHEMA.names)
            blocks = [_flat_arrays(self.path, batch, self.metadata) for batch in batches]
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
        self._more: dict[str, tuple[np.ndarray, np.ndarray]] = {}  # offsets (n + 1,) and vectors
        self._texts: dict[str, list[str]] = {}
        self._has_names = False

    def read_more(self, columns: Mapping[str, int | None]) -> None:
        """Has the entries hold further columns: some vectors a picture, (P, width) float32, P at least 1, or a text.

        `class_names`, the names of the regions' classes, are no column of the file; they can be asked for as well.

        Args:
            columns: Names, with the widths that are expected, None for a text. One that is read already is not read
                again.

        Raises:
            ValueError: The file lacks a column, or a row of it has no vector, another width or a number that is none;
                the message names file, image id and value.
        """
        for name, width in columns.items():
            if name == "class_names":
                self._has_names = True
                continue
            if name in self._more or name in self._texts:
                continue
            with damage_named(self.path), pq.ParquetFile(self.path) as file:
                if name not in file.schema_arrow.names:
                    raise ValueError(
                        f"{self.path} has no column {name!r}, which this architecture reads: give a file that has it"
                    )
                _check_type(self.path, file.schema_arrow, _MORE_SCHEMA.field(name))
                batches = _batches(self.path, file, ["id", name])
                if width is None:
                    self._texts[name] = [text or "" for batch in batches for text in batch.column(name).to_pylist()]
                    continue
                blocks = [_flat_vectors(self.path, batch, name, width) for batch in batches]
            counts, vectors = zip(*blocks, strict=True)
            offsets = np.concatenate([[0], np.cumsum(np.concatenate(counts))])
            self._more[name] = offsets, np.concatenate(vectors)

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

    def __getitem__(self, image_id: str) -> dict[str, Any]:
        row = self._row_of[image_id]
        regions = slice(self._offsets[row], self._offsets[row + 1])
        entry: dict[str, Any] = {
            name: array[regions if name in _REGION_COLUMNS else row] for name, array in self._arrays.items()
        }
        entry |= {name: texts[row] for name, texts in self._texts.items()}
        if self._has_names:
            entry["class_names"] = [self.class_names[number] for number in entry["class_ids"]]
        for name, (offsets, vectors) in self._more.items():
            entry[name] = vectors[offsets[row] : offsets[row + 1]]
        for name in ("image_features", "features", *self._more):
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
    with damage_named(path):
        return _read_metadata(Path(path), pq.read_schema(path))


def write_visual_features(
    path: str | os.PathLike,
    rows: Iterable[Mapping[str, Any]],
    metadata: Mapping[str, Any],
    more: Mapping[str, int] | None = None,
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
        more: Further columns that every row has, with their widths, see `VisualFeatures.read_more`:
            `{"pyramid_features": 15360}` or none.

    Returns:
        The number of rows.

    Raises:
        ValueError: The metadata or a row breaks what `VisualFeatures` promises, or there is no row; the message names
            file, image id and value.
    """
    path = Path(path)
    _check_metadata(path, metadata)
    more = more or {}
    schema = pa.schema([*_VISUAL_SCHEMA, *(_MORE_SCHEMA.field(name) for name in more)])
    schema = schema.with_metadata({_METADATA_KEY: json.dumps(dict(metadata)).encode()})
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
                for name, width in more.items():
                    _flat_vectors(path, batch, name, width)
                writer.write_batch(batch)
                group.clear()

            for number, row in enumerate(rows):
                group.append(_row_arrays(path, number, row, schema))
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


def _row_arrays(path: Path, number: int, row: Mapping[str, Any], schema: pa.Schema) -> dict[str, Any]:
    """Turn one row into the arrays of the schema; their sizes and values are checked a group at a time."""
    if set(row) != set(schema.names):
        raise ValueError(f"{path}, row {number} has the keys {sorted(row)}: give {sorted(schema.names)}")
    if not isinstance(row["id"], str):
        raise ValueError(f"{path}, row {number} has the id {row['id']!r}: give a string")
    arrays: dict[str, Any] = {"id": row["id"]}
    for field in schema:
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


def _batches(path: Path, file: pq.ParquetFile, columns: list[str]) -> Iterator[pa.RecordBatch]:
    """The rows of a file, some at a time, with these columns."""
    unfolded, size = 0, path.stat().st_size
    try:
        # One row group at a time: over several, `iter_batches` keeps what it has read of all of them.
        for group in range(file.num_row_groups):
            for batch in file.iter_batches(_ROW_GROUP, row_groups=[group], columns=columns):
                unfolded += batch.nbytes
                # Parquet's index says so before, but Arrow aborts the process where that is damaged.
                if unfolded > max(_MAX_UNFOLDING * size, _ALWAYS_ALLOWED):
                    raise ValueError(
                        f"{path} has {size} bytes and stands for {unfolded // 2**20} MiB or more, the same numbers "
                        "again and again, as no vision model gives them: give another file"
                    )
                yield batch
    except OSError as error:
        if error.errno is None:  # what Arrow says of damage, not what the system says of the disk
            raise
        raise ValueError(f"{path} cannot be read ({error}): copy or make it anew") from error


def _flat_vectors(path: Path, batch: pa.RecordBatch, name: str, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Of a further column of n rows: how many vectors each has, (n,), and all of them, (V, width)."""
    ids = batch.column("id").to_pylist()
    column = _stored(batch.column(name))
    counts = pc.fill_null(pc.list_value_length(column), 0).to_numpy().astype(np.int64)
    vectors = column.flatten()
    widths = pc.fill_null(pc.list_value_length(vectors), 0).to_numpy()
    numbers = vectors.flatten()
    owners = np.repeat(np.arange(len(ids)), counts)
    bad, values = [*np.flatnonzero(counts == 0)[:1], *owners[widths != width][:1]], np.empty((0, width))
    if not bad:
        values = numbers.to_numpy(zero_copy_only=False).reshape(-1, width)  # null is NaN
        bad = [*owners[~np.isfinite(values).all(axis=1)][:1]]
    if bad:
        sizes = sorted(set(widths[owners == bad[0]].tolist()))
        raise ValueError(
            f"{path}, image {ids[bad[0]]!r}: {name} has {counts[bad[0]]} vectors, of {sizes} numbers: give one vector "
            f"or more of {width} finite numbers"
        )
    return counts, values


def _stored(column: pa.Array) -> pa.Array:
    """A column as plain lists: `Array2D` is a type of its own once `datasets` is imported, and lists before."""
    return column.storage if isinstance(column, pa.ExtensionArray) else column


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
        _check_type(path, schema, field)


def _check_type(path: Path, schema: pa.Schema, field: pa.Field) -> None:
    """Refuse a column that is there twice, or is of another kind than it has to be."""
    if schema.names.count(field.name) > 1:
        raise ValueError(f"{path} has the column {field.name!r} more than once: keep one of them")
    found = schema.field(field.name).type
    found = found.storage_type if isinstance(found, pa.BaseExtensionType) else found
    dims, number_type = _dims_and_number_type(field.type)
    found_dims, found_number_type = _dims_and_number_type(found)
    same_kind = (
        pa.types.is_floating(found_number_type)
        if pa.types.is_floating(number_type)
        else pa.types.is_integer(found_number_type)
        if pa.types.is_integer(number_type)
        else any(is_kind(found_number_type) for is_kind in _TEXT_KINDS)
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
        column = _stored(batch.column(name))
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
    _check_values(arrays, np.repeat(np.arange(len(ids)), counts), len(metadata["class_names"]), fail)
    return {"id": ids, "counts": counts, **arrays}


def _check_values(
    arrays: Mapping[str, np.ndarray], region_rows: np.ndarray, num_classes: int, fail: Callable[[Any, str], NoReturn]
) -> None:
    """Refuse numbers that are none, sizes, boxes and class ids that cannot be; `fail` is told the row and why."""
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
    for region in np.flatnonzero((arrays["class_ids"] < 0) | (arrays["class_ids"] >= num_classes))[:1]:
        fail(
            region_rows[region],
            f"the class id {arrays['class_ids'][region]} is not in [0, {num_classes}): the metadata's class_names has "
            f"{num_classes} names, name every class",
        )
