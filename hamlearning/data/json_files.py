"""JSON lines and JSON, whatever wrote them."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hamlearning.data.annotation_tools import read_tool_rows
from hamlearning.data.files import read_utf8
from hamlearning.data.label_studio import is_task
from hamlearning.data.reading import Reading, ReadingOptions
from hamlearning.data.spans import cut
from hamlearning.data.text_rows import TEXT_KEYS, TOKEN_KEYS, Row


def read_json(files: Sequence[Path], options: ReadingOptions) -> Reading:
    """Read the files of a split that hold JSON lines, or JSON as a whole.

    ```python
    >>> read_json([Path("train.jsonl")], ReadingOptions()).format
    'JSON lines, text with spans (label)'
    ```

    What a row may be: see `read_tool_rows`. A file of JSON is a list of rows, one row, or a table as pandas and
    `datasets` write one.

    Raises:
        OSError: A file cannot be read.
        ValueError: A file holds no JSON or no rows, or a row is none of these; the message names file and line or row.
    """
    rows, formats = [], []
    for file in files:
        found, format = load_rows(file)
        rows += found
        formats.append(format)
    return read_tool_rows(rows, options, formats[0])


def load_rows(file: Path) -> tuple[list[Row], str]:
    """The rows of a file, and whether it is "JSON" or "JSON lines".

    Raises:
        ValueError: It is neither, or empty.
    """
    text = read_utf8(file)
    if not text.strip():
        raise ValueError(f"{file} is empty: fill the file or remove it")
    lines = text.split("\n")
    first = next(number for number, line in enumerate(lines, start=1) if line.strip())
    is_json = file.suffix.lower() == ".json"
    if is_json or not _is_whole(lines[first - 1]):
        try:
            return _rows_of(file, _parsed(text)), "JSON"
        except json.JSONDecodeError as error:
            # Many tools name JSON lines so, too: there the first line is whole, and more follows.
            if not error.msg.startswith("Extra data") and (is_json or error.lineno > first):
                raise _not_json(file, text, error) from None
    rows = []
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                rows.append(Row(file, f"{file}, line {number}", len(rows) + 1, _parsed(line)))
            except json.JSONDecodeError as error:
                raise _not_json(file, line, error, number) from None
    if len(rows) == 1 and (isinstance(rows[0].value, list) or _table(rows[0].value) is not None):
        return _rows_of(file, rows[0].value), "JSON"
    return rows, "JSON lines"


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except RecursionError:
        raise json.JSONDecodeError("brackets in brackets, too many of them", text, 0) from None
    except ValueError as error:
        if isinstance(error, json.JSONDecodeError):
            raise
        raise json.JSONDecodeError("a number of too many digits", text, 0) from None  # Python reads 4300


def _is_whole(line: str) -> bool:
    """Whether a line is JSON by itself. A list may be laid out over lines in a file of any name: `[{...},`."""
    try:
        _parsed(line)
    except json.JSONDecodeError:
        return False
    return True


def _not_json(file: Path, text: str, error: json.JSONDecodeError, line: int | None = None) -> ValueError:
    at = text.split("\n")[error.lineno - 1][max(error.colno - 21, 0) : error.colno + 19].strip()
    return ValueError(
        f"{file}, line {line or error.lineno}: {cut(at)} is no JSON ({error.msg}): write an object a line, or one list"
    )


def _rows_of(file: Path, value: Any) -> list[Row]:
    """The rows of a file that is JSON as a whole.

    Raises:
        ValueError: It has none.
    """
    found = value if isinstance(value, list) else _table(value)
    if found is None and isinstance(value, dict):
        found = [value]  # a single one
    # ["text", {"entities": ...}]: one row of two parts, not two rows
    if isinstance(found, list) and len(found) == 2 and isinstance(found[0], str) and isinstance(found[1], dict):
        found = [found]
    if not found:
        raise ValueError(f"{file} holds {cut(value)}: expected a list of rows")
    return [Row(file, f"{file}, row {number}", number, row) for number, row in enumerate(found, start=1)]


def _table(value: Any) -> list[Any] | None:
    """The rows of what pandas (any `orient`), `datasets` and annotators write as one object; None for any other."""
    if not isinstance(value, dict) or is_task(value):
        return None
    names = {*TOKEN_KEYS, *TEXT_KEYS}
    for key in ("data", "annotations", "rows"):
        rows = value.get(key)
        if isinstance(rows, list) and rows and not names & value.keys():
            columns = value.get("columns")
            if isinstance(columns, list) and all(isinstance(row, list) and len(row) == len(columns) for row in rows):
                return [dict(zip(map(str, columns), row, strict=True)) for row in rows]
            return rows
    parts = list(value.values())
    if parts and all(isinstance(part, dict) for part in parts):
        if names & value.keys():  # a column each, by row
            return [{name: column.get(row) for name, column in value.items()} for row in parts[0]]
        if all(names & part.keys() for part in parts):  # a row each, by its name
            return [{"id": name, **row} for name, row in value.items()]
    lists = [part for part in parts if isinstance(part, list)]
    # Tokens and tags of one row are lists, too: in columns they are lists of lists.
    texts = next((value[name] for name in (*TOKEN_KEYS, *TEXT_KEYS) if isinstance(value.get(name), list)), [])
    is_columns = texts and (all(isinstance(text, list) for text in texts) or not set(TOKEN_KEYS) & value.keys())
    if is_columns and len(lists) == len(parts) and len({len(part) for part in parts}) == 1:
        return [dict(zip(value, row, strict=True)) for row in zip(*parts, strict=True)]
    return None
