"""Rows that an annotation tool, a table or a program wrote: which of them it was, and its reader."""

from collections.abc import Callable, Sequence
from typing import Any

from hamlearning.data.label_studio import is_short_row, is_task, read_short_rows, read_tasks
from hamlearning.data.reading import Reading, ReadingOptions
from hamlearning.data.spacy_json import is_document, read_documents
from hamlearning.data.text_rows import Row, read_rows


# What tells a format by its first row, its reader, and its name; all others are rows of tokens or text.
FORMATS: tuple[tuple[Callable[[Any], bool], Callable[..., Reading], str], ...] = (
    (is_task, read_tasks, "Label Studio's JSON"),
    (is_short_row, read_short_rows, "Label Studio's {}"),
    (is_document, read_documents, "spaCy's training JSON"),
)


def read_tool_rows(rows: Sequence[Row], options: ReadingOptions, format: str) -> Reading:
    """Read rows of Label Studio, of spaCy's training JSON, or of tokens or text (see `read_rows`).

    Args:
        rows: At least one.
        options: What the user says of them.
        format: What the file is: "JSON".

    Raises:
        ValueError: A row is none of these; the message names its place.
    """
    for is_format, read, name in FORMATS:
        if is_format(rows[0].value):
            return read(rows, options, name.format(format))
    return read_rows(rows, options, format)
