"""Tables of Arrow, pandas, polars and `datasets`: their columns, and tables of the same kind."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa


@dataclass
class Unreadable:
    """What stands in place of a value that Arrow can hold and Python cannot: bytes as text, times of no year."""

    reason: str


class Column:
    """A column of a table; its values become Python's when they are asked for."""

    def __init__(self, column: Any):
        self.column = column

    def __len__(self) -> int:
        return len(self.column)

    def values(self, first: int, end: int) -> list[Any]:
        """Those of some rows, `Unreadable` among them."""
        some = self.column[first:end]
        if not isinstance(some, pa.Array | pa.ChunkedArray):
            return list(some)
        try:
            return some.to_pylist()
        except (ValueError, LookupError, OverflowError):  # once more, value by value
            return [_value(scalar) for scalar in some]


class TypedList(list):
    """Values with the type that Arrow gives them: who takes a type of the first ones finds none in nulls alone."""

    def __init__(self, column: pa.ChunkedArray):
        super().__init__(column.to_pylist())
        self.type = column.type

    def __arrow_array__(self, type: pa.DataType | None = None) -> pa.Array:
        return pa.array([*self], type or self.type)


def _value(scalar: pa.Scalar) -> Any:
    try:
        return scalar.as_py()
    except (ValueError, LookupError, OverflowError) as error:
        return Unreadable(f"it cannot be read ({error})")


def columns_of(table: Any) -> dict[str, Column]:
    """The columns of a table, by name.

    Raises:
        ValueError: It is no table, has a column more than once, or columns of several lengths.
    """
    if isinstance(getattr(table, "pa_table", None), pa.Table):  # of `datasets`, which would decode all pictures
        table = table.pa_table
    if isinstance(table, Mapping):
        columns = {name: table[name] for name in table}
        columns = {n: column.to_list() if hasattr(column, "to_list") else column for n, column in columns.items()}
        for name, column in columns.items():
            if isinstance(column, str | bytes | Mapping) or not hasattr(column, "__getitem__"):
                raise ValueError(
                    f"{name} is {column!r:.100}, no column: give lists, as `data_set.map(tagger, batched=True)` does"
                )
        if len({len(column) for column in columns.values()}) > 1:
            lengths = ", ".join(f"{name} {len(column)}" for name, column in columns.items())
            raise ValueError(f"the columns differ in length ({lengths}): give a row a tweet")
        return {name: Column(column) for name, column in columns.items()}
    names, kind = _names(table), kind_of(table)
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"the table has the column {twice!r} more than once: keep one of them")
    if kind == "arrow":
        return {name: Column(table.column(place)) for place, name in enumerate(names)}
    if kind == "pandas":  # its missing values are told by `is_missing`
        return {name: Column(table[name].tolist()) for name in names}
    return {name: Column(table.get_column(name).to_list()) for name in names}


def kind_of(table: Any) -> str:
    """`arrow`, `pandas`, `polars`, or `dict`.

    Raises:
        ValueError: It is none of them.
    """
    if isinstance(table, pa.Table | pa.RecordBatch):
        return "arrow"
    if isinstance(table, Mapping):
        return "dict"
    library = type(table).__module__.partition(".")[0]
    if library in ("pandas", "polars") and type(table).__name__ == "DataFrame":
        return library
    raise ValueError(f"{type(table).__name__} is no table: give one of Arrow, pandas or polars, or a dict of columns")


def _names(table: Any) -> Sequence[str]:
    return list(table.schema.names if kind_of(table) == "arrow" else table.columns)


def like(table: Any, result: pa.Table) -> Any:
    """A result as a table of the same kind as another; of pandas with its index."""
    kind = kind_of(table)
    if isinstance(table, pa.RecordBatch):
        batches = result.combine_chunks().to_batches()
        return batches[0] if batches else pa.RecordBatch.from_pylist([], result.schema)
    if kind == "arrow":
        return result
    if kind == "polars":
        return sys.modules[kind].from_arrow(result)
    columns = {name: TypedList(result.column(name)) for name in result.schema.names}
    if kind == "dict":
        return columns
    pandas = sys.modules[kind]
    series = {name: pandas.Series(list(column), table.index, dtype=object) for name, column in columns.items()}
    return pandas.DataFrame(series, table.index)
