"""What a tag is in each tag scheme, how all become IOB2, and which entities a sequence of tags makes."""

import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

from seqeval.scheme import IOB2, Entities

from words_hamlearning import entity_spans


Tags = Sequence[Sequence[str]]  # one list a tweet, one tag a word
Entity = tuple[str, int, int]  # type, first word, last word

TAG = re.compile(r"O|[BI]-\S+")
TYPES_READ_AS = {"OTHER": "MISC"}  # Twitter-2015 says OTHER where the literature, and Twitter-2017, say MISC

# What a scheme may write before a type, but for `none`, which writes the type alone. Two that differ in letters alone
# are read alike: what begins an entity (B), goes on with it (I, M), ends it (E, L) and is one by itself (S, U, W).
SCHEMES = {
    "iob2": "BI",
    "iob1": "BI",
    "io": "I",
    "bioes": "BIES",
    "bmes": "BMES",
    "bilou": "BILU",
    "bmewo": "BMEW",
    "none": "",
}
_PREFIXED = re.compile(r"[BIESMLUW]-\S+")
_NO_TYPE = re.compile(r"[BIESMLUW]-?")
# A prefix that no scheme writes so: these are no types, though each might be one.
_OTHER_PREFIXES = {
    "an underscore behind the prefix": re.compile(r"[BIESMLUW]_\S+"),
    "a prefix in lower case": re.compile(r"[biesmluw][-_]\S+"),
    "the prefix behind the type": re.compile(r"\S+[-_][BIESMLUW]"),
}


def is_tag(text: Any) -> bool:
    """Whether it is O, B-TYPE or I-TYPE."""
    return isinstance(text, str) and TAG.fullmatch(text) is not None


def canonical_tag(tag: str) -> str:
    """A tag of the type that is scored: see `TYPES_READ_AS`."""
    return mapped_tag(tag, TYPES_READ_AS)


class SchemeError(ValueError):
    """A tag, `tag`, is of no scheme, or not of that of the others; what is said has no place in it."""

    def __init__(self, tag: str, message: str):
        super().__init__(message)
        self.tag = tag


def could_be_tag(text: str) -> bool:
    """Whether it is a tag of any scheme."""
    return text == "O" or (bool(text) and not re.search(r"\s", text) and _NO_TYPE.fullmatch(text) is None)


def type_of(tag: str) -> str | None:
    """The type that a tag of any scheme names; None for O."""
    if tag == "O":
        return None
    return tag[2:] if _PREFIXED.fullmatch(tag) else tag


def tag_pairs(tags: Iterable[Sequence[str]]) -> set[tuple[str, str]]:
    """Which tags stand behind which: ("O", first) for the first of each text."""
    return {pair for sequence in tags for pair in pairwise(["O", *sequence])}


def find_scheme(pairs: set[tuple[str, str]], names: Iterable[str] = ()) -> str:
    """The scheme of a data set, found from all of its tags.

    ```python
    >>> find_scheme(tag_pairs([["S-PER", "O", "B-LOC", "E-LOC"]]))
    'bioes'
    ```

    Where several fit, it is the first of `SCHEMES`. Of B- and I- alone, IOB1 is what has an I- that begins an entity,
    and B- nowhere but behind another entity of its type; without any B- it is IO.

    Args:
        pairs: See `tag_pairs`, of all splits together.
        names: Tags that need not occur.

    Raises:
        SchemeError: The tags fit none.
    """
    known_tags = {*names, *(tag for _, tag in pairs)}
    tags = sorted(known_tags - {"O"})
    prefixed = [tag for tag in tags if _PREFIXED.fullmatch(tag)]
    if not tags:
        return "iob2"
    if not prefixed:
        return _check_bare_types(tags, has_o="O" in known_tags)
    if len(prefixed) < len(tags):
        other = next(tag for tag in tags if tag not in prefixed)
        raise SchemeError(
            other, f"the tag {other!r} is a type alone, and {prefixed[0]!r} has a prefix: write O, B-TYPE or I-TYPE"
        )
    letters = {tag[0] for tag in tags}
    if letters == {"I"}:
        return "io"
    if letters == {"B", "I"} or letters == {"B"}:
        begins_inside = any(tag[0] == "I" and type_of(before) != tag[2:] for before, tag in pairs)
        after_its_type = all(type_of(before) == tag[2:] for before, tag in pairs if tag[0] == "B")
        return "iob1" if begins_inside and after_its_type else "iob2"
    found = next((name for name, known in SCHEMES.items() if letters <= set(known)), None)
    if found is None:
        raise SchemeError(
            tags[-1],
            f"the prefixes {', '.join(sorted(letters))} are of no one tag scheme ({', '.join(SCHEMES)}): write the "
            "tags in one of them, such as O, B-TYPE and I-TYPE",
        )
    return found


def _check_bare_types(tags: Sequence[str], has_o: bool) -> str:
    if not has_o:
        raise SchemeError(
            tags[0],
            f"{tags[0]!r} would be a type, as no word has the tag O: write O, B-TYPE or I-TYPE, and if the tags stand "
            "in another column, name it with --tag_column",
        )
    for description, pattern in _OTHER_PREFIXES.items():
        if all(map(pattern.fullmatch, tags)):
            raise SchemeError(
                tags[0],
                f"the tag {tags[0]!r} has {description}: write B-TYPE and I-TYPE, or give --tag_scheme none if "
                "it is a type",
            )
    return "none"


def check_scheme(tag: str, scheme: str) -> None:
    """See that a tag is one of a scheme that was named.

    Raises:
        SchemeError: It is none.
    """
    fits = (
        could_be_tag(tag)
        if scheme == "none"
        else tag == "O" or (_PREFIXED.fullmatch(tag) and tag[0] in SCHEMES[scheme])
    )
    if not fits:
        known = "a type alone" if scheme == "none" else " and ".join(f"{letter}-TYPE" for letter in SCHEMES[scheme])
        raise SchemeError(
            tag, f"the tag {tag!r} is not of the scheme {scheme}: write O, {known}, or leave --tag_scheme out"
        )


def to_iob2(sequence: Sequence[str], scheme: str) -> list[str]:
    """Write the tags of one text as IOB2 does: the same entities.

    ```python
    >>> to_iob2(["B-LOC", "E-LOC", "S-PER", "O"], "bioes")
    ['B-LOC', 'I-LOC', 'B-PER', 'O']
    ```

    Tags that break their scheme make the entities that seqeval's default mode finds in them: an entity that no B-
    opens keeps its I-, unless the one before it, of the same type, would swallow it.

    Args:
        sequence: Tags of the scheme.
        scheme: A name in `SCHEMES`.
    """
    if scheme == "iob2":
        return list(sequence)
    found: list[str] = []
    open_type = last_type = None  # of the entity that may go on, and of the word before
    for tag in sequence:
        type_ = type_of(tag) if scheme != "none" else None if tag == "O" else tag
        letter = "I" if scheme == "none" else tag[0]
        if type_ is None:
            found.append("O")
        elif letter in "IMEL" and type_ == open_type:
            found.append(f"I-{type_}")
        elif letter in "BSUW" or scheme in ("iob1", "io", "none") or type_ == last_type:
            found.append(f"B-{type_}")
        else:
            found.append(f"I-{type_}")
        open_type = None if letter in "ELSUW" else type_
        last_type = type_
    return found


def mapped_tag(tag: str, types: Mapping[str, str]) -> str:
    """An IOB2 tag whose type is read as another one; of a type that is read as O nothing is left."""
    if tag == "O":
        return tag
    type_ = types.get(tag[2:], tag[2:])
    return "O" if type_ == "O" else f"{tag[:2]}{type_}"


def types_alike(types: Iterable[str]) -> list[list[str]]:
    """The types that differ in case alone, those of one group together."""
    groups: dict[str, list[str]] = {}
    for type_ in sorted(types):
        groups.setdefault(type_.casefold(), []).append(type_)
    return [group for group in groups.values() if len(group) > 1]


def entities_of(tags: Tags, strict: bool = False) -> list[set[Entity]]:
    """The entities of each tweet, as seqeval's default mode finds them, or as strict IOB2 does."""
    if strict:
        found = Entities([list(sequence) for sequence in tags], IOB2).entities
        return [{(entity.tag, entity.start, entity.end - 1) for entity in entities} for entities in found]
    return [{(type_, first, end - 1) for type_, first, end in entity_spans(sequence)} for sequence in tags]


def orphan_i_tags(tags: Tags) -> int:
    """How many entities of seqeval's default mode open with an I- tag: strict IOB2 does not know them."""
    return sum(
        sequence[first].startswith("I-")
        for sequence, entities in zip(tags, entities_of(tags), strict=True)
        for _, first, _ in entities
    )
