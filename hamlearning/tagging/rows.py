"""The rows of a shard, some at a time, in bounded memory whatever the shard holds."""

from collections.abc import Iterator
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from hamlearning.tagging.reader import TweetReader
from hamlearning.tagging.shards import ShardError, named, shard_identity


ROWS = 1024  # tweets that are in memory together; among them, those of like length make a batch
ROWS_WITH_PICTURES = 64
ROWS_WITH_FEATURES = 256
BUFFER_BYTES = 2**20  # of a column that is being read
# A file of 500 bytes may stand for gigabytes, the same word again and again, which shows only when it is unpacked.
ROWS_AT_ONCE = 32  # that are unpacked
WORD_BYTES = 2**22  # that are in memory together, ten times those of `ROWS` tweets; a tokenizer takes a hundredfold
PICTURE_BYTES = 2**27  # as they are stored


class Shard:
    """A shard that is open: `identity`, `has_pictures`, and its rows, some at a time, with the columns needed."""

    def __init__(self, shard: str, reader: TweetReader):
        self.shard, self.reader = shard, reader

    def __enter__(self) -> "Shard":
        with named(self.shard, "read"):
            self.identity = shard_identity(self.shard)
            opened: Any = fsspec.open(self.shard, "rb")
            self.file = opened.open()
        try:
            with named(self.shard, "read"):
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
        self.has_pictures = self.reader.extracts and (self.reader.image_dir is not None or "image" in schema.names)
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
        with named(self.shard, "read"):
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
                    with named(f"{self.shard}, rows {first} to {first + len(batch) - 1}: {name}", "read"):
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
