"""Parquet and Arrow files, whatever wrote them: pandas, polars, DuckDB, `datasets` or another."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import ClassLabel, Dataset, Features, List, Value
from pyarrow import compute

from hamlearning.data.parquet import damage_named, shortened
from hamlearning.data.reading import Reading, ReadingOptions
from hamlearning.data.text_rows import (
    ID_KEYS,
    IMAGE_KEYS,
    SPAN_KEYS,
    TAG_KEYS,
    TEXT_KEYS,
    TOKEN_KEYS,
    Row,
    beside,
    read_rows,
    tag_name,
)


pc: Any = compute  # most of its functions are made when it is imported, so no type checker sees them
REMEDY = "give the tweets as Parquet"
OF_PRODIGY = ("answer", "_annotator_id", "_session_id", "_input_hash")
MAX_PATH = 4096  # characters


def read_parquet(files: Sequence[Path], options: ReadingOptions) -> Reading:
    """Read the Parquet files of a split, in the order given; their pictures stay on the disk.

    Raises:
        ValueError: A file is damaged, or all are empty; or see `read_table`.
    """
    num_rows, schemas = 0, []
    for file in files:
        with damage_named(file, REMEDY):
            found = pq.read_metadata(file)
            num_rows += found.num_rows
            schemas.append(found.schema.to_arrow_schema())
        _check_features(file, schemas[-1])
    if num_rows == 0:
        raise ValueError(f"{files[0]} is empty: fill the file or remove it")
    _check_tag_names(files, schemas)
    names = [str(file) for file in files]
    with damage_named(", ".join(names), REMEDY):
        cache_dir: Any = options.cache_dir  # None is its default, whatever its annotation says
        dataset = Dataset.from_parquet([*names], cache_dir=cache_dir)
    return read_table(dataset, files[0], options, "Parquet")


def read_arrow(files: Sequence[Path], options: ReadingOptions) -> Reading:
    """Read the Arrow files (IPC, stream or file, also called Feather) of a split; their pictures stay on the disk.

    Raises:
        ValueError: A file is damaged, or all are empty; or see `read_table`.
    """
    tables = []
    for file in files:
        with damage_named(file, REMEDY, "an Arrow file"), pa.memory_map(str(file)) as source:
            is_file = source.read(6) == b"ARROW1"
            source.seek(0)
            table = (pa.ipc.open_file(source) if is_file else pa.ipc.open_stream(source)).read_all()
            for name, column in zip(table.column_names, table.columns, strict=True):
                _check_sound(file, name, column)
        _check_features(file, table.schema)
        tables.append(table)
    _check_tag_names(files, [table.schema for table in tables])
    if not any(len(table) for table in tables):
        raise ValueError(f"{files[0]} is empty: fill the file or remove it")
    try:
        table = pa.concat_tables([tables[0], *(table.cast(tables[0].schema) for table in tables[1:])])
    except (pa.ArrowException, ValueError) as error:
        names = ", ".join(str(file) for file in files)
        raise ValueError(f"{names} have different columns ({shortened(error)}): write them alike") from None
    return read_table(Dataset(table), files[0], options, "Arrow")


def read_table(dataset: Dataset, file: Path, options: ReadingOptions, format: str) -> Reading:
    """Give a table the columns `id`, `tokens`, `ner_tags` and `image`, of the types that everybody reads.

    Other names of these columns, and raw text with spans, are those of `read_rows`.

    Args:
        dataset: The table. Its pictures are not read.
        file: Where it is from, for ids of texts that have none, and for errors.
        options: `token_column`, `tag_column`, `tag_names` and `word_splitting` are used.
        format: What the file is.

    Raises:
        ValueError: A row is malformed; the message names its number, from 0.
    """
    dataset, reading = _with_words(dataset, file, options, format)
    names = dataset.column_names
    if "id" not in names:
        own = next((name for name in ID_KEYS if name in names), None)
        if own is not None:
            dataset = dataset.rename_column(own, "id")
        else:
            ids = pa.array([f"{file.stem}-{number}" for number in range(1, len(dataset) + 1)])
            dataset = dataset.add_column("id", ids, feature=Value("string"))
    dataset = _with_types(dataset, file, options)
    if "image" not in names and (own := next((name for name in IMAGE_KEYS if name in names), None)):
        dataset = dataset.rename_column(own, "image")
    if "image" in dataset.column_names:
        dataset = _with_pictures(dataset, file)
    return replace(reading, columns=dataset)


def _check_sound(file: Path, name: str, column: pa.ChunkedArray):
    """Refuse offsets that lead out of a column, which Arrow would follow out of its memory."""
    try:
        column.validate(full=True)
    except pa.ArrowException as error:
        raise ValueError(
            f"{file} has a column {name} that is damaged, or whose text is not UTF-8 ({shortened(error)}): write the "
            "file anew"
        ) from None


def _check_features(path: str | Path, schema: pa.Schema):
    """Refuse types, or the metadata that name others, of which `datasets` says what is wrong but not where."""
    try:
        Features.from_arrow_schema(schema)
    # What it raises for JSON that is not what it wrote; RecursionError: brackets in brackets.
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        raise ValueError(
            f"{path} has a type, or metadata 'huggingface' in its schema, that `datasets` cannot read "
            f"({shortened(error)}): store the tweets as strings and lists of strings, and leave the metadata out"
        ) from None


def check_shards(shards: Sequence[str]) -> None:
    """See that Parquet shards, which others read together, number their tags alike; their footers alone are read.

    Args:
        shards: Paths or URLs that fsspec opens, `hf://` among them.

    Raises:
        ValueError: They do not, or one is damaged.
    """

    def schema_of(shard: str) -> pa.Schema:
        opened: Any = fsspec.open(shard, "rb")
        with damage_named(shard, REMEDY), opened as file:
            return pq.read_schema(file)

    with ThreadPoolExecutor(8) as pool:  # of far ones most of the time is waiting
        schemas = list(pool.map(schema_of, shards))
    for shard, schema in zip(shards, schemas, strict=True):
        _check_features(shard, schema)
    _check_tag_names(shards, schemas)


def _check_tag_names(files: Sequence[str | Path], schemas: Sequence[pa.Schema]):
    """Refuse files whose numbers mean other tags: read together, `datasets` takes all of them by the first one's."""

    def names_of(schema: pa.Schema) -> dict[str, list[str]]:
        columns = Features.from_arrow_schema(schema)
        labels = {name: getattr(feature, "feature", None) for name, feature in columns.items()}
        return {name: label.names for name, label in labels.items() if isinstance(label, ClassLabel)}

    first = names_of(schemas[0])
    for file, schema in zip(files, schemas, strict=True):
        for name, names in names_of(schema).items():
            if names != first.get(name, names):
                raise ValueError(
                    f"{file} numbers the tags of its column {name} as {shortened(names)}, but {files[0]} as "
                    f"{shortened(first[name])}: write them alike, or as strings"
                )


def _with_words(dataset: Dataset, file: Path, options: ReadingOptions, format: str) -> tuple[Dataset, Reading]:
    """The table with its tokens and tags under these names; of raw text and spans they are made here."""
    names, types = dataset.column_names, dataset.data.schema
    found = Reading(dataset, format)
    words = options.token_column or next((name for name in (*TOKEN_KEYS, *TEXT_KEYS) if name in names), "")
    if words not in names or (words in TOKEN_KEYS and not _is_list(types.field(words).type)):
        return dataset, found  # what is wrong is said later, as for any table
    tags = [options.tag_column] if options.tag_column else [name for name in TAG_KEYS if name in names]
    tags = ["ner_tags"] if tags[:1] == ["ner_tags"] else tags
    lists = [name for name in {*SPAN_KEYS, *TAG_KEYS, *tags} & {*names} if _is_list(types.field(name).type)]
    plain = [name for name in tags if name in lists and _is_list_of_tags(types.field(name).type)]
    is_plain = _is_list(types.field(words).type) and words != "tokenized_text" and len(plain) <= 1
    if is_plain and (plain or not lists):
        renamed = {words: "tokens"} | ({plain[0]: "ner_tags"} if plain else {})
        for old, new in renamed.items():
            if old != new:
                dataset = dataset.rename_column(old, new)
        return dataset, found
    if _is_list(types.field(words).type) and "ner_tags" in lists:
        return dataset, found
    used = [name for name in dict.fromkeys((words, *lists, *ID_KEYS, *OF_PRODIGY)) if name in names]
    values = dataset.select_columns(used).with_format(None)
    rows = [Row(file, f"{file}, row {number}", number + 1, value) for number, value in enumerate(values)]
    found = read_rows(rows, options, format)
    columns: Any = found.columns
    number_of = {row.place: row.number - 1 for row in rows}
    if len(found.places) < len(rows):
        dataset = dataset.select([number_of[place] for place in found.places])
    dataset = dataset.remove_columns([name for name in (words, *lists, "tokens", "ner_tags") if name in names])
    for name in ("tokens", "ner_tags"):
        if name in columns:
            texts = pa.array(columns[name], pa.list_(pa.string()))
            dataset = dataset.add_column(name, texts, feature=List(Value("string")))
    return dataset, found


def _with_types(dataset: Dataset, file: Path, options: ReadingOptions) -> Dataset:
    """The table with ids and words of the types that are read everywhere; what is no such is refused later."""
    schema = dataset.data.schema
    type_ = schema.field("id").type
    if pa.types.is_floating(type_):  # as pandas writes whole numbers of which one was missing
        with suppress(pa.ArrowInvalid):
            whole = _column(dataset, "id").cast(pa.int64()).cast(pa.string())
            dataset = _replaced(dataset, "id", whole, Value("string"))
    elif pa.types.is_integer(type_) or pa.types.is_string_view(type_) or pa.types.is_dictionary(type_):
        dataset = _replaced(dataset, "id", _column(dataset, "id").cast(pa.string()), Value("string"))
    for name in ("tokens", "ner_tags"):
        if name not in dataset.column_names:
            continue
        type_ = schema.field(name).type
        if not _is_list(type_):
            continue
        if _is_text(type_.value_type) and type_ != pa.list_(pa.string()):
            texts = _column(dataset, name).cast(pa.list_(pa.string()))
            dataset = _replaced(dataset, name, texts, List(Value("string")))
        elif name == "ner_tags" and options.tag_names:
            if isinstance(getattr(dataset.features[name], "feature", None), ClassLabel):
                raise ValueError(f"{file} names its tags itself: leave --tag_names out")
            tags = [
                tags and [tag_name(tag, options.tag_names, f"{file}, row {row}") for tag in tags]
                for row, tags in enumerate(_column(dataset, name).to_pylist())
            ]
            texts = pa.array(tags, pa.list_(pa.string()))
            dataset = _replaced(dataset, name, texts, List(Value("string")))
    return dataset


def _with_pictures(dataset: Dataset, file: Path) -> Dataset:
    """The table with the paths of pictures that lie beside the file as they are to be opened."""
    column = _column(dataset, "image")
    type_ = column.type
    if pa.types.is_binary_view(type_):
        return _replaced(dataset, "image", column.cast(pa.large_binary()), Value("large_binary"))
    if pa.types.is_struct(type_) and {field.name for field in type_} == {"bytes", "path"}:
        bytes_, paths = (pc.struct_field(column, name) for name in ("bytes", "path"))
        if not _is_text(paths.type) or bytes_.null_count == 0:
            return dataset
    elif _is_text(type_):
        bytes_, paths = None, column
    else:
        return dataset
    shortest = pc.min(pc.binary_length(paths.cast(pa.large_string()))).as_py()
    if shortest is None or shortest >= MAX_PATH:  # none at all, or base64
        return dataset
    found = [path and beside(file, path) for path in paths.to_pylist()]
    if bytes_ is None:
        return _replaced(dataset, "image", pa.array(found, pa.large_string()), Value("large_string"))
    column, bytes_ = column.combine_chunks(), bytes_.combine_chunks()
    parts = [bytes_, pa.array(found, pa.string())]
    pictures = pa.StructArray.from_arrays(parts, ["bytes", "path"], mask=pc.is_null(column))
    return _replaced(dataset, "image", pictures, {"bytes": Value(str(bytes_.type)), "path": Value("string")})


def _column(dataset: Dataset, name: str) -> pa.ChunkedArray:
    table: Any = dataset.select_columns([name]).with_format("arrow")[:]
    return table[name]


def _replaced(dataset: Dataset, name: str, column: Any, feature: Any) -> Dataset:
    names = dataset.column_names
    return dataset.remove_columns(name).add_column(name, column, feature=feature).select_columns(names)


def _is_text(type_: pa.DataType) -> bool:
    if pa.types.is_dictionary(type_):
        return _is_text(type_.value_type)
    return pa.types.is_string(type_) or pa.types.is_large_string(type_) or pa.types.is_string_view(type_)


def _is_list(type_: pa.DataType) -> bool:
    kinds = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    return any(is_kind(type_) for is_kind in kinds)


def _is_list_of_tags(type_: pa.DataType) -> bool:
    return _is_text(type_.value_type) or pa.types.is_integer(type_.value_type)
