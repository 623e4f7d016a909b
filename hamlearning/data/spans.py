"""Raw text with typed spans to words with tags."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple


START_KEYS = ("start", "start_offset", "start_char", "begin")
END_KEYS = ("end", "end_offset", "end_char")
TYPE_KEYS = ("label", "labels", "type", "entity_group", "entity", "entity_type", "tag")


class Span(NamedTuple):
    """A named entity in a raw text: characters `start` to `end`, counted in code points, `end` not among them."""

    start: int
    end: int
    type: str


class TaggedWords(NamedTuple):
    """The words of a text, a tag each, and the spans that were widened to words, as they are said to the user."""

    tokens: list[str]
    tags: list[str]
    widened: list[str]


def tag_words(text: str, spans: Sequence[Any], words: Sequence[tuple[int, int]], place: str) -> TaggedWords:
    """Tag the words of a text in IOB2, as its spans say.

    ```python
    >>> text = "Ada Lovelace sings"
    >>> tag_words(text, [[0, 12, "PER"]], split_words(text, "punctuation"), "train.jsonl, line 1")
    TaggedWords(tokens=['Ada', 'Lovelace', 'sings'], tags=['B-PER', 'I-PER', 'O'], widened=[])
    ```

    A span that begins or ends within a word is widened to the whole word. White space at its edges is no part of it.
    The same span twice is one.

    Args:
        text: The raw text.
        spans: Each [start, end, type], or an object with such fields, see `read_span`.
        words: (start, end) of each word, in order, as `split_words` gives them.
        place: Where the text stands, for errors.

    Raises:
        ValueError: A span is none, is outside the text, holds no word, or shares a word with another one.
    """
    checked_text(text, place)
    if not words:
        raise ValueError(f"{place}: {text!r} has no words: leave it out")
    found = sorted({read_span(span, text, place) for span in spans})
    tags = ["O"] * len(words)
    owner: dict[int, Span] = {}
    widened = []
    previous: Span | None = None
    first_free = 0
    for span in found:
        if previous is not None and span.start < previous.end:
            raise ValueError(f"{place}: {shown(previous, text)} and {shown(span, text)} overlap: keep one of them")
        start, end = _without_space(span, text)
        while first_free < len(words) and words[first_free][1] <= start:
            first_free += 1
        last = first_free
        while last < len(words) and words[last][0] < end:
            last += 1
        if first_free == last:
            raise ValueError(f"{place}: {shown(span, text)} holds no word: mend it or leave it out")
        if first_free in owner:
            word = text[slice(*words[first_free])]
            raise ValueError(
                f"{place}: {shown(owner[first_free], text)} and {shown(span, text)} share the word {word!r}: choose "
                "another --word_splitting (characters where words have no spaces between them), or keep one of them"
            )
        if words[first_free][0] < start or words[last - 1][1] > end:
            whole = text[words[first_free][0] : words[last - 1][1]]
            widened.append(f"{place}: {shown(span, text)} became {whole!r}")
        for index in range(first_free, last):
            tags[index] = f"{'B' if index == first_free else 'I'}-{span.type}"
            owner[index] = span
        previous = span
    return TaggedWords([text[start:end] for start, end in words], tags, widened)


def tag_tokens(tokens: Sequence[str], spans: Sequence[Any], place: str) -> list[str]:
    """The IOB2 tags of tokens whose entities are counted in tokens, as GLiNER writes them.

    ```python
    >>> tag_tokens(["Ada", "Lovelace", "sings"], [[0, 1, "PER"]], "train.json, row 1")
    ['B-PER', 'I-PER', 'O']
    ```

    Args:
        tokens: The tokens.
        spans: Each [first token, last token, type], the last one among them.
        place: Where they stand, for errors.

    Raises:
        ValueError: A span is none, is not among the tokens, or overlaps another one.
    """
    found = set()
    for span in spans:
        if not isinstance(span, list | tuple) or len(span) != 3:
            raise ValueError(f"{place}: {cut(span)} is no span of tokens: write [first token, last token, type]")
        first, last = (_whole(number, span, place) for number in span[:2])
        if not 0 <= first <= last < len(tokens):
            raise ValueError(
                f"{place}: the span {cut(span)} is not among its {len(tokens)} tokens, 0 to {len(tokens) - 1}: give "
                "the first and the last token of each entity"
            )
        found.add((first, last, type_name(span[2], place)))
    tags = ["O"] * len(tokens)
    for first, last, type_ in sorted(found):
        if any(tag != "O" for tag in tags[first : last + 1]):
            entity = cut(" ".join(tokens[first : last + 1]))
            raise ValueError(f"{place}: the span {first}:{last} {entity} ({type_}) overlaps another one: keep one")
        tags[first : last + 1] = [f"B-{type_}", *[f"I-{type_}"] * (last - first)]
    return tags


def is_span(value: Any) -> bool:
    """Whether it looks like one: [start, end, type], or an object with a start, an end and a type."""
    if isinstance(value, Mapping):
        return all(any(key in value for key in keys) for keys in (START_KEYS, END_KEYS, TYPE_KEYS))
    return isinstance(value, list | tuple) and len(value) == 3 and not isinstance(value[0], str)


def read_span(value: Any, text: str, place: str) -> Span:
    """The span that a tool wrote of a text.

    Args:
        value: [start, end, type], or an object: `start`, `start_offset`, `start_char` or `begin`, likewise `end`, and
            `label`, `labels`, `type`, `entity_group`, `entity`, `entity_type` or `tag`. Where it has a `text`, that is
            compared with what stands there.
        text: The text.
        place: Where it stands, for errors.

    Raises:
        ValueError: It is no span of this text.
    """
    if isinstance(value, Mapping):
        start, end, type_ = (
            next((value[key] for key in keys if value.get(key) is not None), None)
            for keys in (START_KEYS, END_KEYS, TYPE_KEYS)
        )
    elif isinstance(value, list | tuple) and len(value) == 3:
        start, end, type_ = value
    else:
        raise ValueError(f"{place}: {cut(value)} is no span: write [start, end, type]")
    if isinstance(type_, list | tuple):
        if len(type_) != 1:
            raise ValueError(f"{place}: the span {cut(value)} has {len(type_)} types: give it one")
        type_ = type_[0]
    span = Span(_whole(start, value, place), _whole(end, value, place), type_name(type_, place))
    if not 0 <= span.start < span.end <= len(text):
        raise ValueError(
            f"{place}: the span {cut(value)} is not within its text of {len(text)} characters: give start and end as "
            "numbers of code points, end behind the last one"
        )
    said = value.get("text") if isinstance(value, Mapping) else None
    if isinstance(said, str):
        _check_said(span, said, text, place)
    return span


def type_name(type_: Any, place: str) -> str:
    """The type of an entity as a tag holds it: white space within becomes `_`.

    Raises:
        ValueError: It is no text, or empty.
    """
    name = "_".join(type_.split()) if isinstance(type_, str) else ""
    if not name:
        raise ValueError(f"{place}: {cut(type_)} is no type of an entity: write a name, such as PER")
    return checked_text(name, place)


def checked_text(text: str, place: str) -> str:
    """The text itself.

    Raises:
        ValueError: It holds half a character, which no file of UTF-8 can.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{place}: {cut(text)} has {text[error.start]!r}, half of a character that was cut in two: mend it"
        ) from None
    return text


def shown(span: Span, text: str) -> str:
    """A span as errors and counts name it."""
    return f"the span {span.start}:{span.end} {cut(text[span.start : span.end])} ({span.type})"


def cut(value: object) -> str:
    """A value as it is written in an error, no longer than is read."""
    said = repr(value)
    return said if len(said) <= 100 else said[:100] + "..."


def _whole(number: Any, value: Any, place: str) -> int:
    # Tools that keep rows in tables write whole numbers as 3.0.
    if isinstance(number, float) and number.is_integer():
        number = int(number)
    if not isinstance(number, int) or isinstance(number, bool):
        raise ValueError(f"{place}: the span {cut(value)} has {cut(number)} for a start or an end: write a number")
    return number


def _without_space(span: Span, text: str) -> tuple[int, int]:
    inside = text[span.start : span.end]
    start = span.start + len(inside) - len(inside.lstrip())
    return start, max(start, span.end - len(inside) + len(inside.rstrip()))


def _check_said(span: Span, said: str, text: str, place: str):
    """Offsets of another unit, or of another text, fall somewhere else, and nobody would see it."""

    def plain(part: str) -> str:
        return "".join(part.replace("\\n", "\n").split())  # Label Studio writes a line's end as \n

    if plain(said) == plain(text[span.start : span.end]):
        return
    units = text.encode("utf-16-le")[2 * span.start : 2 * span.end].decode("utf-16-le", "replace")
    remedy = (
        "they count UTF-16 units, as JavaScript does: count code points, as Python does"
        if plain(said) == plain(units)
        else "give the offsets of this text"
    )
    raise ValueError(f"{place}: {shown(span, text)} is said to be {cut(said)}: {remedy}")
