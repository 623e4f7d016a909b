"""Rows that hold a text each: tokens with tags, or raw text with spans, as annotation tools and tables write them."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PureWindowsPath
from typing import Any, NamedTuple, TypeGuard

from hamlearning.data.picture_files import is_file
from hamlearning.data.reading import Reading, ReadingOptions
from hamlearning.data.spans import checked_text, cut, is_span, tag_tokens, tag_words
from hamlearning.data.splitting import splitting_of_raw
from words_hamlearning import split_words


ID_KEYS = ("id", "image_id", "img_id", "tweet_id")
IMAGE_KEYS = ("image", "img", "image_path", "picture", "file_name")
TOKEN_KEYS = ("tokens", "words", "tokenized_text")  # the last one is GLiNER's
TEXT_KEYS = ("text", "sentence", "content")
TAG_KEYS = ("ner_tags", "tags", "labels", "ner")
SPAN_KEYS = ("entities", "spans", "label", "labels", "ents", "annotations", "ner")


class Row(NamedTuple):
    """One row of a file: the file, how an error names its place, its number from 1, and what it holds."""

    file: Path
    place: str
    number: int
    value: Any


@dataclass
class Texts:
    """The texts of a split on their way into a `Reading`."""

    ids: list[str] = field(default_factory=list)
    tokens: list[list[str]] = field(default_factory=list)
    tags: list[list[str] | None] = field(default_factory=list)
    images: list[dict[str, Any] | None] = field(default_factory=list)
    places: list[str] = field(default_factory=list)
    widened: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    word_splitting: str | None = None  # of raw text

    def add(
        self,
        place: str,
        id_: str,
        tokens: list[str],
        tags: list[str] | None,
        image: dict[str, Any] | None = None,
    ) -> None:
        """Take one more text. Tags are names, in any scheme; None: nobody has tagged it."""
        if not tokens:
            raise ValueError(f"{place} has no tokens: remove the tweet")
        if tags is not None and len(tags) != len(tokens):
            raise ValueError(
                f"{place} has {len(tokens)} tokens but {len(tags)} tags: give each token one tag, or remove the tags "
                "to predict"
            )
        self.places.append(place)
        self.ids.append(checked_text(id_, place))
        self.tokens.append(tokens)
        self.tags.append(tags)
        self.images.append(image)

    def reading(self, format: str) -> Reading:
        """All of them.

        Raises:
            ValueError: There are none, or some are tagged and others are not.
        """
        if not self.ids:
            raise ValueError(f"no text is left: {self.left_out[0]}, and so on: give a file with annotated texts")
        columns: dict[str, list] = {"id": self.ids, "tokens": self.tokens}
        tagged = [tags is not None for tags in self.tags]
        if any(tagged):
            if not all(tagged):
                raise ValueError(
                    f"{self.places[tagged.index(False)]} has no tags, but {self.places[tagged.index(True)]} has: tag "
                    "every text (an empty list of spans says that there is no entity), or leave it out"
                )
            columns["ner_tags"] = self.tags
        if any(image is not None for image in self.images):
            columns["image"] = self.images
        return Reading(columns, format, self.places, self.widened, self.left_out, self.word_splitting)


def read_rows(rows: Sequence[Row], options: ReadingOptions, format: str) -> Reading:
    """Read rows that are objects, of one of these kinds (which columns there are decides, once for all rows).

    - `tokens` (or `words`) with `ner_tags`, `tags`, `labels` or `ner`: names, or ids of `options.tag_names`
    - `tokenized_text` with `ner`, [first token, last token, type] each (GLiNER)
    - `text` with `entities`, `spans`, `label`, `labels` or `ents`: see `spans.read_span` (doccano, Prodigy, spaCy)
    - [text, {"entities": ...}] (spaCy's training examples)

    Args:
        rows: At least one.
        options: `token_column` and `tag_column` name other columns.
        format: What the file is, without its columns.

    Raises:
        ValueError: A row is none of these; the message names its place.
    """
    rows = [row._replace(value=_as_mapping(row)) for row in rows]
    texts = Texts()
    rows = _accepted(rows, texts)
    if not rows:
        return texts.reading(format)
    layout = _find_layout(rows, options)
    if layout.is_text and options.word_splitting is None:
        raw = (row.value.get(layout.words) for row in rows)
        options = options._replace(word_splitting=splitting_of_raw(text for text in raw if isinstance(text, str)))
    texts.word_splitting = options.word_splitting if layout.is_text else None
    for row in _of_one_annotator(rows, options.annotator, texts):
        _read_row(row, layout, options, texts)
    return texts.reading(f"{format}, {layout}")


class _Layout(NamedTuple):
    """Which columns are read, and as what."""

    words: str
    tags: str | None
    is_text: bool
    has_spans: bool

    def __str__(self) -> str:
        what = "text" if self.is_text else "tokens"
        named = what if self.words == what else f"{what} ({self.words})"
        return named if self.tags is None else f"{named} with {'spans' if self.has_spans else 'tags'} ({self.tags})"


def _find_layout(rows: Sequence[Row], options: ReadingOptions) -> _Layout:
    values = [row.value for row in rows]
    words = options.token_column or _words_column(values)
    if words is None or not any(words in value for value in values):
        raise ValueError(
            f"{rows[0].place} has no column {words or 'tokens or text'}, only {cut(list(values[0]))}: say which holds "
            "the tokens or the text, --token_column"
        )
    is_text = any(isinstance(value.get(words), str) for value in values)
    tags = _tags_column(rows, words, is_text, options.tag_column)
    return _Layout(words, tags, is_text, has_spans=is_text or words == "tokenized_text")


def text_id(row: Row, value: Mapping[str, Any]) -> str:
    """The id of a row; that of its picture, or of its place in the file, where it has none."""
    key = next((key for key in ID_KEYS if value.get(key) not in (None, "")), None)
    if key is None:
        picture = next((value[key] for key in IMAGE_KEYS if isinstance(value.get(key), str)), "")
        return file_name(picture) or f"{row.file.stem}-{row.number}"
    id_ = value[key]
    if isinstance(id_, float) and id_.is_integer():
        id_ = int(id_)
    if isinstance(id_, bool) or not isinstance(id_, str | int):
        raise ValueError(f"{row.place} has the id {cut(id_)}: write a text or a whole number")
    return str(id_)


def text_image(row: Row, value: Mapping[str, Any]) -> dict[str, Any] | None:
    """The picture of a row: bytes, or a path (one beside the file is found there), or base64. URLs are not opened."""
    key = next((key for key in IMAGE_KEYS if value.get(key) not in (None, "")), None)
    image = None if key is None else value[key]
    if isinstance(image, Mapping) and image.keys() <= {"bytes", "path"}:
        if isinstance(image.get("bytes"), bytes):
            return {"bytes": image["bytes"], "path": image.get("path")}
        image = image.get("bytes") or image.get("path")
    if image is None:
        return None
    if isinstance(image, bytes):
        return {"bytes": image, "path": None}
    if not isinstance(image, str):
        raise ValueError(f"{row.place} has {cut(image)} as {key}: write the path of a picture, base64, or null")
    return {"bytes": None, "path": beside(row.file, checked_text(image, row.place))}


def beside(file: Path, path: str) -> str:
    """A path as it is to be opened: beside the file that names it, if there is such a file, else as it is written."""
    found = file.parent / path
    return str(found) if is_file(found) else path


def file_name(picture: str) -> str:
    """The last part of a picture's path or URL; "" if it is no such."""
    path = picture.partition("?")[0].partition("#")[0]
    name = PureWindowsPath(path).name if len(picture) < 4096 and not picture.startswith("data:") else ""
    return name if PureWindowsPath(name).suffix else ""


def _as_mapping(row: Row) -> Mapping[str, Any]:
    value = row.value
    if isinstance(value, list) and len(value) == 2 and isinstance(value[0], str):
        value = {"text": value[0], **(value[1] if isinstance(value[1], dict) else {"entities": value[1]})}
    if not isinstance(value, Mapping):
        raise ValueError(f"{row.place}: {cut(value)} is no object with a text: write one with tokens or text")
    return value


def _accepted(rows: Sequence[Row], texts: Texts) -> list[Row]:
    """Those that the annotator, who may reject a text or pass it over in Prodigy, has accepted."""
    kept = []
    for row in rows:
        if row.value.get("answer") in ("reject", "ignore"):
            texts.left_out.append(f"{row.place}: its answer is {row.value['answer']!r}")
        else:
            kept.append(row)
    return kept


def _of_one_annotator(rows: list[Row], annotator: str | None, texts: Texts) -> list[Row]:
    """The rows of one person, where several have worked on the same texts in Prodigy.

    Raises:
        ValueError: Nobody is chosen, or somebody who has none.
    """
    workers = [_worker(row) for row in rows]
    if annotator is not None and rows:
        if annotator not in workers:
            known = ", ".join(sorted({worker for worker in workers if worker is not None}))
            said = f"only of {known}" if known else "nor of anybody: leave --annotator out"
            raise ValueError(f"{rows[0].file} has nothing of the annotator {annotator!r}, {said}")
        others = [row for row, worker in zip(rows, workers, strict=True) if worker != annotator]
        texts.left_out += [f"{row.place}: {annotator} has not annotated it" for row in others]
        return [row for row, worker in zip(rows, workers, strict=True) if worker == annotator]
    by_text: dict[Any, list[Row]] = defaultdict(list)
    for row, worker in zip(rows, workers, strict=True):
        if worker is not None:
            by_text[str(row.value.get("_input_hash"))].append(row)
    for several in by_text.values():
        if len({_worker(row) for row in several}) > 1:
            names = ", ".join(str(_worker(row)) for row in several)
            raise ValueError(
                f"{several[1].place} is the text of {several[0].place} again, annotated by {names}: choose one of "
                "them, --annotator"
            )
    return rows


def _worker(row: Row) -> str | None:
    """Who made a row in Prodigy; older exports say it by the session alone."""
    worker = row.value.get("_annotator_id") or row.value.get("_session_id")
    return None if worker is None else str(worker)


def _words_column(values: Sequence[Mapping[str, Any]]) -> str | None:
    for key in TOKEN_KEYS:  # of Prodigy and spaCy the tokens are objects: there the text is read
        lists = [value[key] for value in values if _is_list(value.get(key))]
        if any(key in value for value in values) and not any(isinstance(token, Mapping) for t in lists for token in t):
            return key
    return next((key for key in TEXT_KEYS if any(isinstance(value.get(key), str) for value in values)), None)


def _tags_column(rows: Sequence[Row], words_column: str, is_text: bool, wanted: str | None) -> str | None:
    """The column of the tags or spans; None if there is none.

    Raises:
        ValueError: There are several, or none that can be read.
    """
    if wanted is not None:
        if not any(wanted in row.value for row in rows):
            raise ValueError(f"{rows[0].place} has no column {wanted!r}, only {cut(list(rows[0].value))}")
        return wanted
    has_spans = is_text or words_column == "tokenized_text"
    lists: dict[str, list[Any]] = {}  # of each column that holds lists, all that is in them
    for key in SPAN_KEYS if is_text else TAG_KEYS:
        values = [row.value[key] for row in rows if key != words_column and _is_list(row.value.get(key))]
        if values:
            lists[key] = [item for value in values for item in value]
    good = [key for key, items in lists.items() if not items or any(_fits(item, has_spans) for item in items)]
    filled = [key for key in good if lists[key]]
    if len(filled) > 1 and filled[0] != "ner_tags":
        raise ValueError(
            f"{rows[0].file} has tags in the columns {' and '.join(filled)}: say which are those of the entities, "
            "--tag_column"
        )
    if filled or good:
        return (filled or good)[0]
    others = [key for key in (*SPAN_KEYS, *TAG_KEYS) if any(_is_list(row.value.get(key)) for row in rows)]
    others = [key for key in others if key != words_column and any(row.value.get(key) for row in rows)]
    if others:  # else they would be taken for texts that nobody has tagged
        row = next(row for row in rows if row.value.get(others[0]))
        expected = "spans [start, end, type]" if has_spans else "one tag for each token"
        raise ValueError(f"{row.place}: {others[0]} is {cut(row.value[others[0]])}: write {expected}")
    return None


def _fits(item: Any, has_spans: bool) -> bool:
    return is_span(item) if has_spans else isinstance(item, str | int | float)


def _read_row(row: Row, layout: _Layout, options: ReadingOptions, texts: Texts) -> None:
    value, place = row.value, row.place
    content = value.get(layout.words)
    said = None if layout.tags is None else _tags_of(row, layout.tags)
    if layout.is_text:
        if not isinstance(content, str):
            raise ValueError(f"{place} has {cut(content)} as {layout.words}: write a text")
        tokens, tags, widened = tag_words(
            content, said or (), split_words(content, str(options.word_splitting)), place
        )
        texts.widened += widened
        texts.add(place, text_id(row, value), tokens, None if said is None else tags, text_image(row, value))
        return
    if not _is_list(content):
        raise ValueError(f"{place} has {cut(content)} as {layout.words}: write a list of tokens")
    for token in content:
        if not isinstance(token, str):
            raise ValueError(f"{place} has the token {cut(token)}, which is no text: write it as a string")
        checked_text(token, place)
    if said is None:
        tags = None
    elif layout.has_spans:
        tags = tag_tokens(content, said, place)
    else:
        tags = [tag_name(tag, options.tag_names, place) for tag in said]
    texts.add(place, text_id(row, value), list(content), tags, text_image(row, value))


def tag_name(tag: Any, names: Sequence[str], place: str) -> str:
    """A tag by name, whether it is written so or as an id, its place in `names`.

    Raises:
        ValueError: It is neither, or nobody has said the names, or there are not so many.
    """
    if isinstance(tag, str):
        return checked_text(tag, place)
    if isinstance(tag, float) and tag.is_integer():
        tag = int(tag)
    if isinstance(tag, bool) or not isinstance(tag, int):
        raise ValueError(f"{place} has the tag {cut(tag)}: write a name, such as B-PER")
    if not names:
        raise ValueError(f"{place} has the tag {tag}, a number: say the names, --tag_names O,B-PER,I-PER and so on")
    if not 0 <= tag < len(names):
        raise ValueError(
            f"{place} has the tag {tag}, but --tag_names has {len(names)} names, of 0 to {len(names) - 1}: give every "
            "token one of them"
        )
    return names[tag]


def _tags_of(row: Row, column: str) -> Sequence[Any]:
    value = row.value.get(column)
    if value is None and "_input_hash" in row.value:  # Prodigy leaves out what is empty
        return ()
    if not _is_list(value):
        raise ValueError(
            f"{row.place} has {cut(value)} as {column}: write a list, an empty one where a text has no entity"
        )
    return value


def _is_list(value: Any) -> TypeGuard[Sequence[Any]]:
    return isinstance(value, list | tuple)
