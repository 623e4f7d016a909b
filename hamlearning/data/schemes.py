"""What a tag is (O, B-TYPE and I-TYPE, as IOB2 writes them), and which entities a sequence of tags makes."""

import re
from collections.abc import Sequence
from typing import Any

from seqeval.scheme import IOB2, Entities

from words_hamlearning import entity_spans


Tags = Sequence[Sequence[str]]  # one list a tweet, one tag a word
Entity = tuple[str, int, int]  # type, first word, last word

TAG = re.compile(r"O|[BI]-\S+")


def is_tag(text: Any) -> bool:
    """Whether it is O, B-TYPE or I-TYPE."""
    return isinstance(text, str) and TAG.fullmatch(text) is not None


def canonical_tag(tag: str) -> str:
    """Twitter-2015 says OTHER where the literature, and Twitter-2017, say MISC."""
    return tag[:2] + "MISC" if tag[1:] == "-OTHER" else tag


def entities_of(tags: Tags, strict: bool = False) -> list[set[Entity]]:
    """The entities of each tweet, as seqeval's default mode finds them, or as strict IOB2 does."""
    if strict:
        found = Entities([list(sequence) for sequence in tags], IOB2).entities
        return [{entity.to_tuple()[1:] for entity in entities} for entities in found]
    return [{(type_, first, end - 1) for type_, first, end in entity_spans(sequence)} for sequence in tags]


def orphan_i_tags(tags: Tags) -> int:
    """How many entities of seqeval's default mode open with an I- tag: strict IOB2 does not know them."""
    return sum(
        sequence[first].startswith("I-")
        for sequence, entities in zip(tags, entities_of(tags), strict=True)
        for _, first, _ in entities
    )
