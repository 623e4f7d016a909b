"""CSV, whatever wrote it: a text a row, its lists as JSON, Python, NumPy or DuckDB write them, or a token a row."""

import ast
import csv
import io
import itertools
import json
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hamlearning.data.annotation_tools import read_tool_rows
from hamlearning.data.columns import SENTENCE_NAMES, read_columns
from hamlearning.data.files import read_utf8
from hamlearning.data.reading import Reading, ReadingOptions
from hamlearning.data.spans import cut
from hamlearning.data.text_rows import ID_KEYS, IMAGE_KEYS, SPAN_KEYS, TAG_KEYS, TEXT_KEYS, TOKEN_KEYS, Row


SEPARATORS = (",", ";", "\t", "|")
WORD_KEYS = ("token", "word")  # of a token a row
TAG_OF_WORD_KEYS = ("tag", "ner_tag", "label")
KNOWN = {*ID_KEYS, *IMAGE_KEYS, *TOKEN_KEYS, *TEXT_KEYS, *TAG_KEYS, *SPAN_KEYS, *WORD_KEYS, *TAG_OF_WORD_KEYS}
KNOWN |= {*SENTENCE_NAMES}

NESTED = re.compile(r"\s*\[\s*[\[({]")
QUOTED = re.compile(r"'((?:[^'\\]|\\.)*+)'|\"((?:[^\"\\]|\\.)*+)\"", re.DOTALL)
BARE = re.compile(r"[^,'\"\[\]{}()]+")
ESCAPED = re.compile(r"\\(?:x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U(0[0-9a-fA-F]{7})|(.))", re.DOTALL)
CONTROLS = {"n": "\n", "r": "\r", "t": "\t", "0": "\0"}
NULLS = {"None", "nan", "NaN", "NULL", "null", "<NA>"}


def read_csv(files: Sequence[Path], options: ReadingOptions) -> Reading:
    """Read the CSV files of a split; the separator (comma, semicolon, tab or |) is found by the line of names.

    ```python
    >>> read_csv([Path("train.csv")], ReadingOptions()).format
    'CSV, tokens with tags (ner_tags)'
    ```

    A row is a text, with lists as JSON, Python (pandas), NumPy (`datasets`) or DuckDB write them, or with tokens and
    tags that have spaces between them; see `read_tool_rows`. Or it is a token, and a column says which sentence it is
    of (`sentence_id`, `sentence #`, `id`, ...; it may be empty behind a sentence's first token).

    Raises:
        OSError: A file cannot be read.
        ValueError: It is no such CSV; the message names file and line.
    """
    rows: list[Row] = []
    format, form = "CSV", None
    for file in files:
        separator, found = _load(file)
        format = "CSV" if separator == "," else f"CSV separated by {separator!r}"
        form = _find_token_rows(found, options)
        rows += [_with_lists(row, options) for row in found] if form is None else _sentences(found, *form)
    if form is not None:
        format += ", a token a row"
        options = options._replace(token_column=None, tag_column=None)  # their columns have other names now
    return read_tool_rows(rows, options, format)


def read_tsv(files: Sequence[Path], options: ReadingOptions) -> Reading:
    """Read the `.tsv` files of a split: a table as `read_csv` takes it, or columns as `read_columns` does.

    ```python
    >>> read_tsv([Path("train.tsv")], ReadingOptions()).format
    '2 columns separated by a tab'
    ```

    It is a table where its first line names columns, one of sentences, tokens or texts, and no blank line parts the
    texts. A column of ids that stay the same from line to line is one of sentences.

    Raises:
        OSError: A file cannot be read.
        ValueError: See `read_csv` and `read_columns`.
    """
    return read_csv(files, options) if _is_table(files[0]) else read_columns(files, options)


def _is_table(file: Path) -> bool:
    first, *lines = read_utf8(file).rstrip().split("\n")
    names = [name.strip().lower() for name in first.split("\t")]
    if len(names) < 2 or not KNOWN.issuperset(names) or not all(line.strip() for line in lines):
        return False
    if not {*SENTENCE_NAMES, *TOKEN_KEYS, *TEXT_KEYS}.isdisjoint(names):
        return True
    place = next((names.index(key) for key in ID_KEYS if key in names), None)
    ids = [] if place is None else [line.split("\t")[place : place + 1] for line in lines]
    return any(before == after for before, after in itertools.pairwise(ids))


def parse_list(cell: str, place: str) -> list[Any]:
    r"""The list that a cell holds, as JSON, Python's `repr`, NumPy's `str` or DuckDB write lists of text.

    ```python
    >>> parse_list("['Ada', \"it's\"]", "here") == parse_list("['Ada' \"it's\"]", "here") == ["Ada", "it's"]
    True
    ```

    Numbers come as they are written, as text: a token may be one.

    Raises:
        ValueError: It is none, holds nulls, or was cut by NumPy.
    """
    try:
        value = json.loads(cell)
        if isinstance(value, list) and all(isinstance(item, str | list | dict) for item in value):
            return value
    except (ValueError, RecursionError):
        pass
    if NESTED.match(cell):
        return _python_list(cell, place)
    items: list[str] = []
    bare: list[str] = []
    separators = set()
    inside, at = cell.strip()[1:-1].strip(), 0
    if re.fullmatch(r"-?\d+(\s+-?\d+)+", inside):  # NumPy's whole numbers
        return inside.split()
    while at < len(inside):
        found = QUOTED.match(inside, at)
        if found is not None:
            items.append(_unescaped(found[1] if found[1] is not None else found[2]))
        elif (found := BARE.match(inside, at)) is not None and found[0].strip():
            items.append(found[0].strip())
            bare.append(items[-1])
        else:
            raise ValueError(f"{place} has {cut(cell)}, which is no list: write it as JSON")
        rest = re.compile(r"\s*(,?)\s*").match(inside, found.end())
        assert rest is not None  # it matches nothing, too
        if rest.end() < len(inside):
            separators.add(rest[1])
        at = rest.end()
    if "" in separators and bare:
        cause = "NumPy has cut it" if any("..." in word for word in bare) else "it is no list"
        raise ValueError(f"{place} has {cut(cell)}: {cause}: write it as JSON")
    if len(separators) > 1:
        raise ValueError(f"{place} has {cut(cell)}, with and without commas: write it as JSON")
    if "NULL" in bare or (bare and set(bare) <= NULLS):
        raise ValueError(f"{place} has {cut(cell)}, with a null: write a text there")
    return items


def _python_list(cell: str, place: str) -> list[Any]:
    """The list of lists, tuples or objects that Python's `repr` has written: the spans of a text.

    Raises:
        ValueError: It is none.
    """
    try:
        value = ast.literal_eval(cell.strip())
        return json.loads(json.dumps(value))  # tuples become lists
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        raise ValueError(f"{place} has {cut(cell)}, which is no list: write it as JSON") from None


def _unescaped(text: str) -> str:
    def plain(found: re.Match) -> str:
        code = found[1] or found[2] or found[3]
        if code is not None:
            return chr(int(code, 16)) if int(code, 16) <= sys.maxunicode else found[0]
        return CONTROLS.get(found[4]) or str(found[4])

    return ESCAPED.sub(plain, text)


def _load(file: Path) -> tuple[str, list[Row]]:
    """The separator of a file, and its rows by the names of the columns, all cells as text."""
    text = read_utf8(file)
    if not text.strip():
        raise ValueError(f"{file} is empty: fill the file or remove it")
    limit = csv.field_size_limit(sys.maxsize)  # a picture as base64 is longer than the csv module allows
    try:
        separator, names = _header(text)
        twice = next((name for name in names if name and names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"{file}, line 1 names the column {twice!r} twice: rename one of them")
        rows = []
        for line, record in list(_records(file, text, separator))[1:]:
            if len(record) != len(names):
                raise ValueError(
                    f"{file}, line {line}: {cut(separator.join(record))} has {len(record)} cells, but the first line "
                    f"names {len(names)} columns: quote cells that hold a {separator!r}"
                )
            rows.append(Row(file, f"{file}, line {line}", len(rows) + 1, dict(zip(names, record, strict=True))))
    finally:
        csv.field_size_limit(limit)
    if not rows:
        raise ValueError(f"{file} has no row behind the names of its columns: fill the file or remove it")
    return separator, rows


def _header(text: str) -> tuple[str, list[str]]:
    """The separator by which most names are known, or else most are found; and the names, known ones in lower case."""

    def names_by(separator: str) -> list[str]:
        lines = (line for line in csv.reader(io.StringIO(text, newline=""), delimiter=separator) if line)
        names = next(lines, [])
        return [name.strip().lower() if name.strip().lower() in KNOWN else name for name in names]

    found = {separator: names_by(separator) for separator in SEPARATORS}
    separator = max(SEPARATORS, key=lambda separator: (len(KNOWN & {*found[separator]}), len(found[separator])))
    return separator, found[separator]


def _records(file: Path, text: str, separator: str) -> Iterator[tuple[int, list[str]]]:
    """The records that are not empty, each with the number of its first line."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    line = 1
    try:
        for record in reader:
            if record:
                yield line, record
            line = reader.line_num + 1
    except csv.Error as error:
        raise ValueError(f"{file}, line {line} is no CSV ({error}): quote cells, and double a quote in them") from None


def _with_lists(row: Row, options: ReadingOptions) -> Row:
    """A row whose cells are values: lists where they are such, None where they are empty."""
    lists = {*TOKEN_KEYS, *TAG_KEYS, *SPAN_KEYS, options.token_column, options.tag_column}
    value: dict[str, Any] = {}
    for name, cell in row.value.items():
        is_list = cell.lstrip().startswith("[") and cell.rstrip().endswith("]")
        if not cell:
            value[name] = None
        elif is_list and name in lists:
            value[name] = parse_list(cell, row.place)
        elif is_list and name not in TEXT_KEYS:
            value[name] = _json_or_text(cell)
        else:
            value[name] = cell
    return row._replace(value=_words_apart(value, options))


def _json_or_text(cell: str) -> Any:
    try:
        return json.loads(cell)
    except (ValueError, RecursionError):
        return cell


def _words_apart(value: dict[str, Any], options: ReadingOptions) -> dict[str, Any]:
    """Tokens, and tags beside them, that are one text with spaces between are taken apart, and numbers made of ids."""
    names = (options.token_column, *TOKEN_KEYS) if options.token_column else (*TOKEN_KEYS, *TEXT_KEYS)
    words = next((name for name in names if value.get(name)), None)
    tag_names = (options.tag_column,) if options.tag_column else TAG_KEYS
    tags = next((name for name in tag_names if value.get(name)), None)
    if words is not None and isinstance(value[words], str) and tags is not None and isinstance(value[tags], str):
        split = {words: _apart(value[words]), tags: _apart(value[tags])}
        if words in TEXT_KEYS:  # else it would be taken for raw text
            split = {"tokens": split[words], tags: split[tags]}
            value.pop(words)
        value |= split
    elif words is not None and words in TOKEN_KEYS and isinstance(value[words], str):
        value[words] = _apart(value[words])
    if tags is not None and isinstance(value[tags], list):
        value[tags] = [int(t) if isinstance(t, str) and t.isascii() and t.isdigit() else t for t in value[tags]]
    return value


def _apart(cell: str) -> list[str]:
    return [word for word in re.split("[ \t\r\n]+", cell) if word]  # other spaces may be in a token, or be one


def _find_token_rows(rows: Sequence[Row], options: ReadingOptions) -> tuple[str, str, str | None] | None:
    """The columns of sentence, token and tag, where each row is a token; None where it is a text.

    Raises:
        ValueError: A row is a token, and none says of which sentence.
    """
    names = list(rows[0].value)
    token = options.token_column or next((name for name in (*WORD_KEYS, *TOKEN_KEYS) if name in names), None)
    if token is None or token in TEXT_KEYS or token not in names:
        return None
    cells = [row.value[token] for row in rows]
    tag = options.tag_column or next((name for name in (*TAG_OF_WORD_KEYS, *TAG_KEYS) if name in names), None)
    if tag is not None and tag in names:
        cells += [row.value[tag] for row in rows]
    if any(len(_apart(cell)) > 1 or cell.startswith("[") and cell.endswith("]") and len(cell) > 2 for cell in cells):
        return None
    sentence = next((name for name in (*SENTENCE_NAMES, *ID_KEYS) if name in names and name != token), None)
    if sentence is None and token in WORD_KEYS:
        raise ValueError(
            f"{rows[0].file} has a token a row, and none of its columns, {cut(names)}, says of which sentence: add "
            "one called sentence_id"
        )
    if sentence is None or (token not in WORD_KEYS and len({row.value[sentence] for row in rows}) == len(rows)):
        return None
    return sentence, token, tag


def _sentences(rows: Sequence[Row], sentence: str, token: str, tag: str | None) -> list[Row]:
    """A row a sentence, of rows that are a token each.

    Raises:
        ValueError: A token or a tag is missing, or a sentence begins twice.
    """
    found: list[Row] = []
    begun: set[str] = set()
    name = ""
    for row in rows:
        given = row.value[sentence].strip()
        if not found or (given and given != name):
            name = given
            if not name or name in begun:
                said = "names no sentence" if not name else f"begins the sentence {cut(name)} again"
                raise ValueError(f"{row.place} {said}: write the tokens of each sentence one behind the other")
            begun.add(name)
            images = {key: row.value[key] or None for key in IMAGE_KEYS if key in row.value}
            content: dict[str, Any] = {"id": name, "tokens": [], **images}
            found.append(row._replace(number=len(found) + 1, value=content | ({"ner_tags": []} if tag else {})))
        if not row.value[token] or (tag is not None and not row.value[tag]):
            raise ValueError(f"{row.place} has no {tag if row.value[token] else token}: write one, or leave it out")
        found[-1].value["tokens"].append(row.value[token])
        if tag is not None:
            value = row.value[tag]
            found[-1].value["ner_tags"].append(int(value) if value.isascii() and value.isdigit() else value)
    return found
