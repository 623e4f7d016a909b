"""A model as a component of spaCy: `nlp.add_pipe("hamlearning", config={"model": "outputs/demo"})`."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from spacy.language import Language  # pyright: ignore[reportMissingImports]  # an extra
from spacy.tokens import Doc, Span  # pyright: ignore[reportMissingImports]  # an extra
from spacy.util import minibatch  # pyright: ignore[reportMissingImports]  # an extra


if TYPE_CHECKING:
    from hamlearning.tagging.tagger import Tagger


logger = logging.getLogger(__name__)

# What a `doc._` and a `span._` hold.
EXTENSIONS: tuple[tuple[Any, str], ...] = (
    (Doc, "image"),
    (Doc, "relevance"),
    (Doc, "image_error"),
    (Doc, "text_error"),
    (Span, "score"),
)
DEFAULTS = {"batch_size": 32, "device": None, "threads": None, "dtype": "float32", "threshold": 0.0}


class HamLearningComponent:
    """Sets `doc.ents`, with `span._.score`, `doc._.relevance`, `doc._.image_error` and `doc._.text_error`.

    ```python
    >>> nlp = spacy.blank("en")
    >>> nlp.add_pipe("hamlearning", config={"model": "outputs/demo"})
    >>> doc = nlp("had lunch with Maria Lopez")
    >>> [(span.text, span.label_, span._.score) for span in doc.ents]
    [('Maria Lopez', 'PER', 0.9902483820915222)]
    >>> tweets = [("good morning from Austin", {"image": "austin.png"}), ("so tired", {})]
    >>> [doc.ents for doc, context in nlp.pipe(tweets, as_tuples=True)]
    [(Austin,), ()]
    ```

    The text is read, not spaCy's tokens. An entity that begins or ends within a token is widened to it; of two that
    would then share one, the surer stays. Entities that are there are replaced. A picture is `doc._.image`, or `image`
    of a context that is a dict: a path, a URL, bytes, ...; a PIL image cannot go to another process.

    Args:
        tagger: Which model, and how.
        threshold: Entities with a lower score are left out.
    """

    def __init__(self, tagger: Tagger, threshold: float = 0.0):
        _add_extensions()
        self.tagger, self.threshold = tagger, threshold

    def __setstate__(self, state: dict[str, Any]) -> None:
        _add_extensions()  # in another process
        self.__dict__ |= state

    def __call__(self, doc: Doc) -> Doc:
        """Find the entities of one text."""
        self._tag([doc])
        return doc

    def pipe(self, stream: Iterable[Doc], *, batch_size: int = 128) -> Iterator[Doc]:
        """Find those of many, some at a time."""
        for docs in minibatch(stream, batch_size):
            self._tag(docs)
            yield from docs

    def _tag(self, docs: list[Doc]) -> None:
        found = self.tagger({"text": [doc.text for doc in docs], "image": [_image(doc) for doc in docs]})
        for place, doc in enumerate(docs):
            doc.ents = self._spans(doc, found["entities"][place] or ())
            doc._.relevance = found["relevance"][place]
            for name in ("image_error", "text_error"):
                reason = found[name][place]
                setattr(doc._, name, reason)
                if reason is not None:
                    logger.warning(f"{doc.text!r:.60}: {reason}")

    def _spans(self, doc: Doc, entities: Iterable[Mapping[str, Any]]) -> list[Span]:
        """Entities as spans of whole tokens, none of which overlap."""
        taken: set[int] = set()
        spans = []
        for entity in sorted(entities, key=lambda entity: -entity["score"]):
            place = entity["start"], entity["end"]
            span = doc.char_span(*place, label=entity["entity_group"], alignment_mode="expand")
            if span is None or entity["score"] < self.threshold or not taken.isdisjoint(range(span.start, span.end)):
                continue
            taken |= {*range(span.start, span.end)}
            span._.score = entity["score"]
            spans.append(span)
        return sorted(spans)


@Language.factory("hamlearning", assigns=["doc.ents"], default_config=DEFAULTS)
def make_component(
    nlp: Language,
    name: str,
    model: str,
    batch_size: int,
    device: str | None,
    threads: int | None,
    dtype: str,
    threshold: float,
) -> HamLearningComponent:
    """What `nlp.add_pipe("hamlearning", config=...)` adds; see `HamLearningComponent` and `Tagger`."""
    if not 0 <= threshold <= 1:
        raise ValueError(f"threshold={threshold!r}: must be a probability, in [0, 1]")
    # Here, not above: spaCy imports each installed factory with anyone's first pipeline, and this takes seconds.
    from hamlearning.tagging.tagger import Tagger

    tagger = Tagger(model, batch_size=batch_size, device=device, threads=threads, dtype=dtype)
    return HamLearningComponent(tagger, threshold)


def _add_extensions() -> None:
    for of, name in EXTENSIONS:
        if not of.has_extension(name):
            of.set_extension(name, default=None)


def _image(doc: Doc) -> Any:
    context = getattr(doc, "_context", None)
    if doc._.image is not None or not isinstance(context, Mapping):
        return doc._.image
    return context.get("image")
