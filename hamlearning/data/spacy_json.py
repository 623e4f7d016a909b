"""spaCy's training JSON: documents of paragraphs, as `spacy.training.docs_to_json` gives them; no DocBin."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from hamlearning.data.reading import Reading, ReadingOptions
from hamlearning.data.spans import cut
from hamlearning.data.text_rows import Row, read_rows


def is_document(value: Any) -> bool:
    """Whether a row is a document of this format."""
    return isinstance(value, Mapping) and isinstance(value.get("paragraphs"), list)


def read_documents(rows: Sequence[Row], options: ReadingOptions, format: str) -> Reading:
    """Read documents, each paragraph a text: its `raw` text and `entities`, or where there are none, its tokens.

    Raises:
        ValueError: A document or one of its paragraphs is none, or nobody annotated it; the message names its place.
    """
    paragraphs = [place for row in rows for place in _paragraphs(row)]
    if not paragraphs:
        raise ValueError(f"{rows[0].place}: its documents have no paragraph: give a file with texts")
    has_spans = all("raw" in row.value and "entities" in row.value for row in paragraphs)
    if has_spans:
        _refuse_unannotated(paragraphs)
    else:
        paragraphs = [row._replace(value=_tagged_tokens(row)) for row in paragraphs]
    return read_rows(paragraphs, options._replace(token_column="raw" if has_spans else "tokens"), format)


def _paragraphs(row: Row) -> Iterator[Row]:
    if not is_document(row.value):
        raise ValueError(f"{row.place}: {cut(row.value)} is no document: write one with paragraphs")
    for number, paragraph in enumerate(row.value["paragraphs"], start=1):
        place = f"{row.place}, paragraph {number}"
        if not isinstance(paragraph, Mapping):
            raise ValueError(f"{place}: {cut(paragraph)} is no paragraph: write raw and entities, or sentences")
        given = {key: value for key, value in paragraph.items() if key in ("raw", "entities", "sentences")}
        yield Row(row.file, place, number, {"id": f"{row.file.stem}-{row.number}-{number}", **given})


def _refuse_unannotated(paragraphs: Sequence[Row]) -> None:
    """A document whose `ents` were never set has no tags beside its empty `entities`: spaCy does not score it."""
    without_tags = [row for row in paragraphs if not _has_tags(row.value)]
    if len(without_tags) == len(paragraphs):
        return  # their writer gives spans alone
    for row in without_tags:
        if row.value["entities"] == []:
            raise ValueError(
                f"{row.place}: {cut(row.value['raw'])} has no entities and its tokens no tags, as other texts' have: "
                "nobody annotated it; set doc.ents = [] before it is written where it has no entity, or leave it out"
            )


def _has_tags(paragraph: Mapping[str, Any]) -> bool:
    try:
        return any("ner" in token for sentence in paragraph["sentences"] for token in sentence["tokens"])
    except (LookupError, TypeError):
        return False


def _tagged_tokens(row: Row) -> dict[str, Any]:
    try:
        tokens = [token for sentence in row.value["sentences"] for token in sentence["tokens"]]
        tokens = [(token["orth"], token.get("ner")) for token in tokens]
    except (LookupError, TypeError, AttributeError):
        raise ValueError(
            f"{row.place} is no paragraph: write raw and entities, or sentences, each with tokens of orth and ner"
        ) from None
    tags = [tag for _, tag in tokens]
    unknown = next((number for number, tag in enumerate(tags) if tag == "-"), None)
    if unknown is not None:
        raise ValueError(
            f"{row.place}: the token {cut(tokens[unknown][0])} has the tag '-', spaCy's sign for an entity that falls "
            "on no token: mend its offsets, or leave the text out"
        )
    tagged = any(tag is not None for tag in tags)
    return {"id": row.value["id"], "tokens": [orth for orth, _ in tokens]} | ({"ner_tags": tags} if tagged else {})


def refuse_docbin(files: Sequence[Path], options: ReadingOptions) -> NoReturn:
    """Say how a DocBin becomes JSON lines.

    Raises:
        ValueError: Always: the bytes are spaCy's own, and change with its versions.
    """
    raise ValueError(
        f"{files[0]} is a DocBin, which spaCy alone reads: write JSON lines of it, a line "
        "json.dumps(doc.to_json()) for each doc of DocBin().from_disk(...).get_docs(nlp.vocab)"
    )
