"""What Arrow and `datasets` say of damage, as a sentence that names the file."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import pyarrow as pa
from datasets.exceptions import DatasetGenerationError


@contextmanager
def damage_named(
    path: str | os.PathLike, remedy: str = "give a visual feature file", what: str = "a Parquet file"
) -> Iterator[None]:
    """What Arrow and `datasets` say of bytes that are not `what` as a ValueError with the file's name."""
    try:
        yield
    # RuntimeError: what Arrow has no name for
    except (pa.ArrowException, OSError, UnicodeDecodeError, RuntimeError, DatasetGenerationError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # it is the disk's or the system's, no such file
            raise
        reason = error.__cause__ if isinstance(error, DatasetGenerationError) else error
        said = shortened(reason)
        raise ValueError(f"{path} is not {what}, or it is damaged ({said}): {remedy}") from None


def shortened(reason: object) -> str:
    """What another library says, on one line and no longer than is read: some repeat the whole schema."""
    said = " ".join(str(reason).split())
    return said if len(said) <= 300 else said[:300] + "..."
