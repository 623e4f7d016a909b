"""Parquet files, whatever wrote them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset, Features

from hamlearning.data.parquet import damage_named, shortened
from hamlearning.data.reading import Reading, ReadingOptions


def read_parquet(files: Sequence[Path], options: ReadingOptions) -> Reading:
    """Read the Parquet files of a split, in the order given; their pictures stay on the disk.

    Raises:
        ValueError: A file is damaged, or all are empty.
    """
    num_rows = 0
    for file in files:
        with damage_named(file, "give the tweets as Parquet"):
            found = pq.read_metadata(file)
            num_rows += found.num_rows
            schema = found.schema.to_arrow_schema()
        _check_features(file, schema)
    if num_rows == 0:
        raise ValueError(f"{files[0]} is empty: fill the file or remove it")
    # One call a split: files read together share the first one's label names, whatever the others say.
    names = [str(file) for file in files]
    with damage_named(", ".join(names), "give the tweets as Parquet"):
        cache_dir: Any = options.cache_dir  # None is its default, whatever its annotation says
        return Reading(Dataset.from_parquet([*names], cache_dir=cache_dir), "Parquet")


def _check_features(path: Path, schema: pa.Schema):
    """Refuse types, or the metadata that name others, of which `datasets` says what is wrong but not where."""
    try:
        Features.from_arrow_schema(schema)
    # What it raises for JSON that is not what it wrote; RecursionError: brackets in brackets.
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        raise ValueError(
            f"{path} has a type, or metadata 'huggingface' in its schema, that `datasets` cannot read "
            f"({shortened(error)}): store the tweets as strings and lists of strings, and leave the metadata out"
        ) from None
