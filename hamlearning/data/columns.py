r"""Text files with a token a line and its tag in another column, as the field has written them since CoNLL-2003.

    IMGID:17            # id = 17
    Ada     B-PER       1   Ada     PROPN   B-PER
    sings   O           2   sings   VERB    O
    (blank line)

Columns are separated by tabs or by spaces, which is found once a file.
"""

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, NoReturn

from hamlearning.data.files import read_utf8
from hamlearning.data.reading import Reading, ReadingOptions
from hamlearning.data.schemes import could_be_tag


# What the first line of a file may call its columns.
TOKEN_NAMES = ("token", "tokens", "word", "words", "text", "form")
SENTENCE_NAMES = ("sentence_id", "sentence #", "sentence_idx", "sent_id", "sentence", "doc_id")
TAG_NAMES = ("tag", "tags", "ner_tag", "ner_tags", "ner", "label", "labels")
_ID_COMMENT = re.compile(
    r"#\s*(id|sent_id|image|image_id|imgid|img_id|tweet_id)(?:\s*=\s*|\s+)(\S+)(?:\s+\S+=\S*)*\s*"
)
_ID_AND_MORE = re.compile(r"#\s*(?:id|sent_id|image_id|img_id|tweet_id)\s+\S+(?:\s+\w+=\S*)+\s*")  # MultiCoNER
_VALUE_COMMENT = re.compile(r"#\s*[\w.]+(?: id)? =(?: .*)?")
_TAG_BEHIND_A_SPACE = re.compile(r" (O|[BIESMLUW]-\S+)$")
_NOT_A_WORD = re.compile(r"\d+[-.]\d+")  # of CoNLL-U: a word that is written as two, one that is left out
_LOOKS_LIKE_A_TAG = re.compile(r"O|[BIESMLUW]-\S+")


class Form(NamedTuple):
    """How the lines of one file are to be read."""

    separator: str | None  # "\t" or " "; None: a token a line, without tags
    width: int  # columns
    example: int  # a line that has so many
    is_released: bool  # each tweet begins with an IMGID line
    header: list[str] | None
    token: int  # place of the token among the columns
    tag: int
    is_numbered: bool  # the first column counts the words

    def __str__(self) -> str:
        if self.separator is None:
            return "a token a line, untagged"
        said = f"{self.width} columns separated by a {'tab' if self.separator == chr(9) else 'space'}"
        is_usual = (self.token, self.tag) == (0, self.width - 1)
        said += "" if is_usual else f", of which {self.token + 1} is the token and {self.tag + 1} the tag"
        return said + (", the first line their names" if self.header else "")


def read_columns(files: Sequence[Path], options: ReadingOptions) -> Reading:
    r"""Read the column files of one split.

    ```python
    >>> read_columns([Path("train.txt")], ReadingOptions()).columns
    {'id': ['1', ...], 'tokens': [['Ada', 'sings'], ...], 'ner_tags': [['B-PER', 'O'], ...]}
    ```

    A blank line, or one of spaces, ends a text. What names it is a line `IMGID:<id>`, or a comment `# id = <id>` (also
    `sent_id`, `image_id` and the like); where the file has neither, texts are numbered: `train-1`. With IMGID lines
    every text needs one. Lines end at `"\n"` and nowhere else, and no token is stripped: `"\xa0"` is one. A file whose
    first line ends in `"\r\n"` was saved on Windows: there one `"\r"` is dropped from the end of each line.

    The token is the first column and the tag the last, but where the first counts the words of each text, as in
    CoNLL-U: there it is the second. A first line `token<TAB>tag`, or with names like these, is a header. Tags stay as
    written.

    Args:
        files: UTF-8.
        options: `token_column` and `tag_column` are used: a number from 1, from -1 for the last, or a header's name.

    Raises:
        OSError: A file cannot be read.
        ValueError: One holds no text or is malformed; the message names file, line, the text and the remedy.
    """
    columns: dict[str, list] = {"id": [], "tokens": []}
    places: list[str] = []
    tags: list[list[str]] = []
    forms: list[str] = []
    for path in files:
        file = _ColumnFile(path, options)
        columns["id"] += file.ids
        columns["tokens"] += file.tokens
        places += [f"{path}, line {line}" for line in file.opened_at]
        tags += file.tags
        if (file.form.separator is None) != (len(tags) == 0):
            raise ValueError(f"{path} is {file.form}, unlike {files[0]}: tag both, or neither")
        forms += [str(file.form)] if str(file.form) not in forms else []
    if tags:
        columns["ner_tags"] = tags
    return Reading(columns, "; ".join(forms), places)


def read_lines(path: Path) -> list[str]:
    """The lines of a UTF-8 file, without what ends them.

    Raises:
        OSError: It cannot be read.
        ValueError: It is not UTF-8; the line is named.
    """
    lines = read_utf8(path).split("\n")
    return [line.removesuffix("\r") for line in lines] if lines[0].endswith("\r") else lines


class _ColumnFile:
    """One file: `form`, and `ids`, `tokens`, `tags` (none where it is untagged) and `opened_at` of its texts."""

    def __init__(self, path: Path, options: ReadingOptions):
        self.path = path
        self.ids: list[str] = []
        self.tokens: list[list[str]] = []
        self.tags: list[list[str]] = []
        self.opened_at: list[int] = []
        lines = read_lines(path)
        self.form = self._find_form(lines, options)
        self._read(lines)
        if not self.ids:
            raise ValueError(f"{path} holds no tweet: expected lines IMGID:<id> and token<TAB>tag")

    def fail(self, number: int, problem: str) -> NoReturn:
        raise ValueError(f"{self.path}, line {number}: {problem}")

    # ------------------------------------------------------------------------------------------------------ the form

    def _find_form(self, lines: list[str], options: ReadingOptions) -> Form:
        is_released = any(line.startswith("IMGID:") and "\t" not in line for line in lines)
        rows = [  # those that hold a token
            (number, line)
            for number, line in enumerate(lines, start=1)
            if line.strip(" \t")
            and not (line.startswith("IMGID:") and "\t" not in line)
            and not _ID_COMMENT.fullmatch(line)
            and not (_VALUE_COMMENT.fullmatch(line) and "\t" not in line)
            and (is_released or not line.startswith("-DOCSTART-"))
        ]
        separator = _find_separator([line for _, line in rows], is_released)
        if separator is None:
            if options.token_column or options.tag_column:
                flag = "--tag_column" if options.tag_column else "--token_column"
                raise ValueError(f"{self.path} has one column, a token a line: leave {flag} out, or tag the file")
            return Form(None, 1, 0, is_released, None, 0, 0, False)
        split = [(number, _fields(line, separator)) for number, line in rows]
        width = Counter(len(fields) for _, fields in split).most_common(1)[0][0]
        example = next(number for number, fields in split if len(fields) == width)
        header = None if is_released else _header(split[0][1])
        named = {name.lower() for name in header or ()}
        if header and not named.isdisjoint(SENTENCE_NAMES) and all(line.strip() for line in lines[:-1]):
            raise ValueError(
                f"{self.path} names a column of sentences, {' '.join(header)}, and no blank line parts them: give the "
                "file the suffix .tsv, which is read as a table"
            )
        numbered = width > 2 and _is_numbered(
            [(number, fields[0]) for number, fields in split if len(fields) == width and fields != header]
        )
        token = self._place("--token_column", options.token_column, header, width, TOKEN_NAMES, int(numbered))
        tag = self._place("--tag_column", options.tag_column, header, width, TAG_NAMES, width - 1)
        if token == tag:
            raise ValueError(
                f"{self.path}: column {token + 1} of {width} cannot be both token and tag: give --token_column and "
                "--tag_column"
            )
        return Form(separator, width, example, is_released, header, token, tag, numbered)

    def _place(
        self, flag: str, given: str | None, header: list[str] | None, width: int, names: Sequence[str], usual: int
    ) -> int:
        """The place, from 0, of the column that a flag or the header names."""
        if given is None:
            return next((place for place, name in enumerate(header or []) if name.lower() in names), usual)
        if header is not None and given in header:
            return header.index(given)
        known = f"1 to {width}" + (f", or one of {', '.join(header)}" if header else "")
        if not re.fullmatch(r"-?[0-9]{1,9}", given) or not 1 <= abs(int(given)) <= width:
            raise ValueError(f"{flag} {given}: {self.path} has no such column: give {known}")
        return int(given) - 1 if int(given) > 0 else width + int(given)

    # ----------------------------------------------------------------------------------------------------- the texts

    def _read(self, lines: list[str]) -> None:
        """One pass over the lines; `in_text` is whether the last of `ids` may get more tokens."""
        form = self.form
        in_text = False
        comment_id: tuple[int, str] | None = None
        for number, line in enumerate(lines, start=1):
            is_blank = line == "" or (not line.strip(" \t") and (form.separator is not None or not form.is_released))
            if is_blank or (line.startswith("-DOCSTART-") and not form.is_released):
                self._close(in_text)
                if comment_id is not None:
                    self.fail(
                        comment_id[0], f"the text {comment_id[1]!r} has no tokens: add its token lines or remove it"
                    )
                in_text = False
            elif line.startswith("IMGID:") and "\t" not in line:
                self._close(in_text)
                if line == "IMGID:":
                    self.fail(number, "'IMGID:' names no image: write IMGID:<id>")
                self._open(number, line.removeprefix("IMGID:"))
                in_text = True
            elif self._is_comment(line, is_first=not in_text or not self.tokens[-1]):
                named = None if form.is_released else _ID_COMMENT.fullmatch(line)
                if named is not None and in_text:
                    self.fail(number, f"{line!r} stands within a text: put a blank line before it")
                if named is not None and (comment_id is None or named[1] != "sent_id"):
                    comment_id = (number, named[2])
            elif form.header is not None and not self.ids and _fields(line, str(form.separator)) == form.header:
                continue
            else:
                if not in_text and form.is_released:
                    self.fail(
                        number,
                        f"{line!r} belongs to no tweet: put a line IMGID:<id> before the first token of each tweet",
                    )
                if not in_text:
                    self._open(
                        number, f"{self.path.stem}-{len(self.ids) + 1}" if comment_id is None else comment_id[1]
                    )
                    in_text, comment_id = True, None
                self._read_token(number, line)
        self._close(in_text)

    def _is_comment(self, line: str, is_first: bool) -> bool:
        """Whether a line says something about a text; `is_first`: none of its tokens came before."""
        form = self.form
        if not line.startswith(("# ", "#\t")) or (form.separator is None and form.is_released):
            return False
        if _VALUE_COMMENT.fullmatch(line) and (form.separator != "\t" or "\t" not in line):
            return True
        if is_first and _ID_AND_MORE.fullmatch(line):  # it may have as many columns as a token
            return not form.is_released
        width = 1 if form.separator is None else len(_fields(line, form.separator))
        return is_first and (
            width != form.width or (form.separator is None and _ID_COMMENT.fullmatch(line) is not None)
        )

    def _open(self, number: int, id_: str) -> None:
        self.ids.append(id_)
        self.tokens.append([])
        self.opened_at.append(number)
        if self.form.separator is not None:
            self.tags.append([])

    def _close(self, in_text: bool) -> None:
        if in_text and not self.tokens[-1]:
            name = f"IMGID:{self.ids[-1]}" if self.form.is_released else self.ids[-1]
            self.fail(self.opened_at[-1], f"the tweet {name!r} has no tokens: add its token lines or remove it")

    def _read_token(self, number: int, line: str) -> None:
        form = self.form
        if form.separator is None:
            if "\t" in line or _TAG_BEHIND_A_SPACE.search(line):
                self.fail(
                    number,
                    f"{line!r} has a tag, but most lines have none: tag every line, or none",
                )
            self.tokens[-1].append(line)
            return
        fields = _fields(line, form.separator)
        if len(fields) != form.width:
            self.fail(number, self._other_width(line, len(fields)))
        if form.is_numbered and _NOT_A_WORD.fullmatch(fields[0]):
            return
        tag = fields[form.tag]
        if not could_be_tag(tag):
            self.fail(number, f"{line!r} has the tag {tag!r}: write O, B-TYPE or I-TYPE, such as B-PER")
        self.tokens[-1].append(fields[form.token])
        self.tags[-1].append(tag)

    def _other_width(self, line: str, width: int) -> str:
        """What is wrong with a line of `width` columns, where the file has another number."""
        name = "tab" if self.form.separator == "\t" else "space"
        if self.form.width == 2:
            found = f"no {name}" if width == 1 else f"{width - 1} {name}s"
            return f"{line!r} has {found}: write token<{name.upper()}>tag"
        return (
            f"{line!r} has {width} columns separated by a {name}, and line {self.form.example} has "
            f"{self.form.width}: give every line as many"
        )


def _fields(line: str, separator: str) -> list[str]:
    r"""The columns of a line. Where spaces separate them, a token may still be a space: `"  O"`."""
    if separator == "\t":
        return line.split("\t")
    line = line.rstrip(" \t")
    if line.startswith(" "):
        first = line[: len(line) - len(line.lstrip(" \t"))]
        return [first[:-1], *re.split("[ \t]+", line[len(first) :])]
    return re.split("[ \t]+", line)


def _find_separator(lines: Sequence[str], is_released: bool) -> str | None:
    """What separates the columns of most lines; None if most have but one.

    In the released format a token that no tag follows may have spaces in it.
    """

    def are_most(having: int, first: bool) -> bool:
        return having > 0 and (2 * having > len(lines) or (2 * having == len(lines) and first))

    if are_most(sum("\t" in line for line in lines), first="\t" in lines[0] if lines else False):
        return "\t"
    fields = [_fields(line, " ") for line in lines]
    several = [found for found in fields if len(found) > 1]
    has_tags = not is_released or any(_LOOKS_LIKE_A_TAG.fullmatch(field) for found in several for field in found[1:])
    return " " if has_tags and are_most(len(several), first=len(fields[0]) > 1 if fields else False) else None


def _header(fields: Sequence[str]) -> list[str] | None:
    """The fields of a file's first line if they are names of columns."""
    names = [field.lower() for field in fields]
    is_header = any(name in TOKEN_NAMES for name in names) and any(name in TAG_NAMES for name in names)
    return list(fields) if is_header and len(set(fields)) == len(fields) else None


def _is_numbered(cells: Sequence[tuple[int, str]]) -> bool:
    """Whether the first column counts: each cell, on its line, is one more than that on the line before, or 1."""
    before, counted = (0, 0), False
    for line, cell in cells:
        if _NOT_A_WORD.fullmatch(cell):
            before = (line, before[1])
            continue
        if not re.fullmatch("[0-9]{1,6}", cell):
            return False
        follows = line == before[0] + 1 and int(cell) == before[1] + 1
        if not follows and int(cell) != 1:
            return False
        counted |= int(cell) > 1
        before = (line, int(cell))
    return counted
