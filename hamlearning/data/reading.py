"""What every reader of tagged texts takes and gives, and which reader the suffix of a file stands for.

A new format is a module with one function, `read(files, options) -> Reading`, and a line in `READERS`.
"""

import importlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from words_hamlearning import WORD_SPLITTINGS


if TYPE_CHECKING:
    from datasets import Dataset


class ReadingOptions(NamedTuple):
    """What a user may say of files that do not say it themselves.

    ```python
    >>> load_tweets("my/tweets", options=ReadingOptions(tag_column="4", type_map={"per": "PER"}))
    ```

    Every field is a flag of `hamlearning train` and `hamlearning prepare`, but `cache_dir`.

    Attributes:
        token_column: The column of the tokens, or of the raw text: a name where the format has names, else a number
            from 1, or from -1, the last. Found if None.
        tag_column: That of the tags, or of the spans. Found if None.
        annotator: Whose annotations of a task are read, where it has several.
        word_splitting: How raw text with spans is split into words, as `split_words` takes it; `characters` or
            `punctuation` by the script of a file's texts if None.
        tag_scheme: A name in `schemes.SCHEMES`; found from all tags of the data set if None.
        type_map: The types that are read as another one. OTHER is read as MISC unless it is named here.
        tag_names: The names of tags that are numbers, from 0, where the file does not say them.
        cache_dir: Where `datasets` keeps what it converts; its default if None.
    """

    token_column: str | None = None
    tag_column: str | None = None
    annotator: str | None = None
    word_splitting: str | None = None
    tag_scheme: str | None = None
    type_map: Mapping[str, str] = {}
    tag_names: Sequence[str] = ()
    cache_dir: str | None = None


def parse_type_map(text: str) -> dict[str, str]:
    """The types of `--type_map`.

    ```python
    >>> parse_type_map("OTHER=MISC,per=PER")
    {'OTHER': 'MISC', 'per': 'PER'}
    ```

    A settings file may give a mapping, which comes here as JSON.

    Raises:
        ValueError: It is no list of OLD=NEW, or names a type twice.
    """
    remedy = "write OLD=NEW,OLD=NEW, types without spaces"
    if text.lstrip().startswith("{"):
        pairs: Any = json.loads(text, object_pairs_hook=list)
    else:
        pairs = [part.strip().split("=") for part in text.split(",") if part.strip()]
    found: dict[str, str] = {}
    for pair in pairs:
        if len(pair) != 2 or not all(isinstance(type_, str) and re.fullmatch(r"\S+", type_) for type_ in pair):
            raise ValueError(f"--type_map {text!r} has {pair!r}: {remedy}")
        if pair[0] in found:
            raise ValueError(f"--type_map {text!r} has {pair[0]!r} twice: {remedy}")
        found[pair[0]] = pair[1]
    return found


def parse_tag_names(text: str) -> tuple[str, ...]:
    """The names of `--tag_names`.

    ```python
    >>> parse_tag_names("O,B-PER,I-PER")
    ('O', 'B-PER', 'I-PER')
    ```

    Raises:
        ValueError: One is empty, or stands there twice.
    """
    names = tuple(name.strip() for name in text.split(",")) if text else ()
    if "" in names or len(set(names)) < len(names):
        raise ValueError(f"--tag_names {text!r} has an empty name or one twice: write O,B-PER,I-PER and so on")
    return names


def parse_options(typed: Mapping[str, str | None]) -> ReadingOptions:
    """The options as flags give them, by name; None for a flag that was not given.

    ```python
    >>> parse_options({"tag_column": "4", "type_map": "per=PER", "annotator": None}).type_map
    {'per': 'PER'}
    ```

    Raises:
        ValueError: See `parse_type_map` and `parse_tag_names`; or there is no word splitting of that name.
    """
    splitting = typed.get("word_splitting")
    if splitting is not None and splitting not in WORD_SPLITTINGS:
        raise ValueError(f"--word_splitting {splitting} is none: choose from {', '.join(WORD_SPLITTINGS)}")
    parsers: dict[str, Any] = {"type_map": parse_type_map, "tag_names": parse_tag_names}
    return ReadingOptions(
        **{name: parsers.get(name, str)(value) for name, value in typed.items() if value is not None}
    )


@dataclass
class Reading:
    """What a reader found in the files of one split.

    Attributes:
        columns: `id` (strings), `tokens` (lists of strings) and, where the split is tagged, `ner_tags` (lists of names
            as written, in any scheme, one a token); perhaps `image`, each {"bytes", "path"} or None. Or a `Dataset`
            with these columns, whose pictures stay where they are; its tags may be a `ClassLabel`, too.
        format: What the files turned out to be, as it is said to the user: "columns separated by a space".
        places: Where each row begins in its file, as an error names it ("train.txt, line 7"); empty if a row's number
            says it.
        widened: Spans that did not fall on words and were widened, each with its place and text.
        left_out: Tasks and rows that were not read, each with its place and the reason.
        word_splitting: How raw text was split into the tokens; None where the files have tokens.
    """

    columns: "dict[str, list] | Dataset"
    format: str
    places: list[str] = field(default_factory=list)
    widened: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    word_splitting: str | None = None


READERS = {
    **dict.fromkeys(
        (".txt", ".conll", ".conllu", ".conllup", ".bio", ".bio2", ".iob", ".iob2", ".bioes", ".bmes"),
        "hamlearning.data.columns:read_columns",
    ),
    **dict.fromkeys((".train", ".testa", ".testb"), "hamlearning.data.columns:read_columns"),  # CoNLL-2002 and 2003
    ".tsv": "hamlearning.data.csv_files:read_tsv",
    ".parquet": "hamlearning.data.tables:read_parquet",
    ".jsonl": "hamlearning.data.json_files:read_json",
    ".ndjson": "hamlearning.data.json_files:read_json",
    ".json": "hamlearning.data.json_files:read_json",
    **dict.fromkeys((".arrow", ".feather", ".ipc"), "hamlearning.data.tables:read_arrow"),
    ".spacy": "hamlearning.data.spacy_json:refuse_docbin",
    ".csv": "hamlearning.data.csv_files:read_csv",
}


# What is named where a format is expected: not what is refused with a reason of its own.
FORMATS = tuple(suffix for suffix, reader in READERS.items() if not reader.rpartition(":")[2].startswith("refuse"))


def read_files(files: Sequence[Path], options: ReadingOptions) -> Reading:
    """Read the files of one split, all of one format, by the reader of their suffix.

    Args:
        files: At least one.
        options: What the user says of them.

    Raises:
        OSError: A file cannot be read.
        ValueError: One is malformed; the message names file, line or row, the text and the remedy.
    """
    module, _, function = READERS[files[0].suffix.lower()].partition(":")
    return getattr(importlib.import_module(module), function)(files, options)
