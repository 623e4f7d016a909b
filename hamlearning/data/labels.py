"""The tags of all splits as one list of labels: their scheme is found, and they become IOB2 of the types wanted."""

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import NamedTuple

import numpy as np

from hamlearning.data.reading import ReadingOptions
from hamlearning.data.schemes import (
    SCHEMES,
    TYPES_READ_AS,
    SchemeError,
    check_scheme,
    find_scheme,
    mapped_tag,
    to_iob2,
    type_of,
    types_alike,
)
from words_hamlearning import TAGS


class SplitTags(NamedTuple):
    """The tags of one split: the names that it knows, which of them each token has, and the tokens of each text."""

    names: list[str]
    indices: np.ndarray
    lengths: np.ndarray

    @property
    def starts(self) -> np.ndarray:
        """Where each text begins among the tokens."""
        return np.concatenate([[0], np.cumsum(self.lengths)])[:-1]

    @property
    def pairs(self) -> set[tuple[str, str]]:
        """See `schemes.tag_pairs`."""
        if len(self.indices) == 0:
            return set()
        names = [*self.names, "O"]
        before = np.roll(self.indices, 1)
        before[self.starts] = len(names) - 1
        codes = np.unique(before.astype(np.int64) * len(names) + self.indices)
        return {(names[code // len(names)], names[code % len(names)]) for code in codes.tolist()}

    def sequences(self) -> Iterable[list[str]]:
        """The tags of each text by name."""
        names = np.array(self.names, dtype=object)
        return (names[part].tolist() for part in np.split(self.indices, self.starts[1:]))

    def first_with(self, tag: str) -> tuple[int, int] | None:
        """Text and word of the first token that has a tag."""
        found = np.flatnonzero(self.indices == self.names.index(tag)) if tag in self.names else []
        if len(found) == 0:
            return None
        row = int(np.searchsorted(self.starts, found[0], side="right")) - 1
        return row, int(found[0] - self.starts[row])


class Labels(NamedTuple):
    """What all splits share: the scheme that their tags were in, the labels, and what is to be said of them."""

    scheme: str
    names: list[str]
    remarks: list[str]


def unify(tags: Mapping[str, SplitTags], options: ReadingOptions) -> tuple[dict[str, SplitTags], Labels]:
    """The tags of all splits as labels: IOB2, numbered alike.

    Args:
        tags: Of each split that is tagged.
        options: `tag_scheme` and `type_map` are used.

    Raises:
        SchemeError: A tag does not fit the others, or the scheme named.
        ValueError: There is no scheme of the name given, or a type is mapped to what is none.
    """
    _check_options(options)
    names = {name for own in tags.values() for name in own.names}
    remarks: list[str] = []
    if options.tag_scheme is None:
        scheme = find_scheme({pair for own in tags.values() for pair in own.pairs}, names)
        remarks = _split_remarks(tags, scheme)
    else:
        scheme = options.tag_scheme
        for name in sorted(names):
            check_scheme(name, scheme)
    types = {type_ for name in names if (type_ := name if scheme == "none" else type_of(name)) not in (None, "O")}
    types_read_as = TYPES_READ_AS | dict(options.type_map)
    written = {split: _as_iob2(own, scheme) for split, own in tags.items()}
    mapped = {
        split: own._replace(names=[mapped_tag(name, types_read_as) for name in own.names])
        for split, own in written.items()
    }
    labels = _label_names({name for own in mapped.values() for name in own.names})
    remarks += _unlearned(mapped)
    number_of = {label: number for number, label in enumerate(labels)}
    numbered = {
        split: own._replace(
            names=labels, indices=np.array([number_of[name] for name in own.names], np.int64)[own.indices]
        )
        for split, own in mapped.items()
    }
    return numbered, Labels(scheme, labels, remarks + _remarks(types, types_read_as, options))


def _check_options(options: ReadingOptions) -> None:
    if options.tag_scheme is not None and options.tag_scheme not in SCHEMES:
        raise ValueError(f"--tag_scheme {options.tag_scheme} is none: choose from {', '.join(SCHEMES)}")


def _as_iob2(tags: SplitTags, scheme: str) -> SplitTags:
    """The same entities in IOB2. Names that do not occur become B- and I- of their types."""
    if scheme == "iob2":
        return tags
    types = sorted({name if scheme == "none" else str(type_of(name)) for name in tags.names if name != "O"})
    names = ["O", *(f"{letter}-{type_}" for type_ in types for letter in "BI")]
    number_of = {name: number for number, name in enumerate(names)}
    indices = [number_of[tag] for sequence in tags.sequences() for tag in to_iob2(sequence, scheme)]
    return tags._replace(names=names, indices=np.array(indices, np.int64))


def _split_remarks(tags: Mapping[str, SplitTags], scheme: str) -> list[str]:
    """The splits that write an entity's begin otherwise than the others, where that cannot be seen of all tags."""
    if scheme != "iob2":
        return []
    return [
        f"{split}: its entities begin with I-, as in the scheme {own}, and those of another split with B-: "
        "--tag_scheme iob1 reads all of them alike"
        for split, own_tags in tags.items()
        if (own := find_scheme(own_tags.pairs)) in ("iob1", "io")
    ]


def _unlearned(tags: Mapping[str, SplitTags]) -> list[str]:
    """The types of other splits that no model learns, as the train split has none: slips of the pen, as a rule."""
    types = {split: {tag[2:] for _, tag in own.pairs if tag != "O"} for split, own in tags.items()}
    learned = types.get("train")
    remarks = []
    for split, own in types.items():
        slips = sorted(own - learned) if learned else []
        if learned and slips:
            flag = ",".join(f"{slip}={get_close_matches(slip, sorted(learned), n=1, cutoff=0)[0]}" for slip in slips)
            remarks.append(
                f"{split}: the train split has no entity of the type {', '.join(slips)}: --type_map {flag} reads it "
                "as another one, if it is misspelt"
            )
    return remarks


def _label_names(found: set[str]) -> list[str]:
    """The labels of all splits: `TAGS` if it holds every tag of the data, else those of the data's own types."""
    if found <= set(TAGS):
        return list(TAGS)
    types = sorted({tag[2:] for tag in found - {"O"}})
    return ["O", *(f"{prefix}-{type_}" for type_ in types for prefix in "BI")]


def _remarks(types: set[str], types_read_as: Mapping[str, str], options: ReadingOptions) -> list[str]:
    """What a user should look at: types that may be one, and those of `--type_map` that do not occur."""
    remarks = []
    for group in types_alike({types_read_as.get(type_, type_) for type_ in types}):
        flag = ",".join(f"{type_}={group[0]}" for type_ in group[1:])
        remarks.append(
            f"the types {' and '.join(group)} differ in case alone: --type_map {flag} reads them as one, if they are"
        )
    if {"OTHER", "MISC"} <= types and "OTHER" not in options.type_map:
        remarks.append("the type OTHER is read as MISC, which there is too: --type_map OTHER=OTHER keeps them apart")
    unknown = [type_ for type_ in options.type_map if type_ not in types]
    if unknown:
        remarks.append(
            f"--type_map names {', '.join(unknown)}, which no tag has: there are {', '.join(sorted(types))}"
        )
    return remarks


def place_of(error: SchemeError, tags: Mapping[str, SplitTags]) -> tuple[str, int, int] | None:
    """Split, text and word where the tag that an error is about stands first; None if it stands nowhere."""
    for split, own in tags.items():
        found = own.first_with(error.tag)
        if found is not None:
            return split, *found
    return None
