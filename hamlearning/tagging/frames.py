"""A frame of tweets to a frame of entities, one a row."""

import logging
import os
import sys
from typing import Any

from hamlearning.tagging.tables import kind_of
from hamlearning.tagging.tagger import Tagger


logger = logging.getLogger(__name__)

SHOWN = 3  # rows that could not be read whole and are listed


def tag_frame(
    df: Any, model: str | os.PathLike | Tagger, text: str = "text", image: str | None = None, **settings: Any
) -> Any:
    """The entities of a frame of pandas or polars, one a row.

    ```python
    >>> import hamlearning
    >>> hamlearning.tag_frame(df, "outputs/demo", text="tweet", image="photo")
       row entity_group         word  start  end     score  word_start  word_end relevance
    7    0          PER  Maria Lopez     15   26  0.990248           3         5      None
    ```

    `row` is the place of the tweet in the frame, from 0. Of pandas the index is that of the tweet, so that
    `df.join(entities)` sets each beside its tweet; of polars `df.with_row_index("row").join(entities, on="row")` does.
    Texts and pictures that cannot be read are counted and shown in a warning; `Tagger` gives the reason of every one.

    Args:
        df: The frame.
        model: A trained or exported model, a folder or Hub id, whose code is run; or a `Tagger`, which is loaded once
            for many frames, and whose own columns are read.
        text: Its column of texts.
        image: Its column of pictures: paths, URLs, bytes, ...; None to read none.
        **settings: Of `Tagger`.

    Returns:
        A frame of the same library.

    Raises:
        ValueError: It is no frame, or lacks the column.
    """
    kind = kind_of(df)
    if kind not in ("pandas", "polars"):
        raise ValueError(f"{type(df).__name__} is no frame of pandas or polars: call a Tagger with it")
    tagger = model if isinstance(model, Tagger) else Tagger(model, text=text, image=image, **settings)
    columns = [name for name in ("id",) if name in df.columns] + [name for name in (text, image) if name is not None]
    found = tagger(df if tagger is model else df[list(dict.fromkeys(columns))])
    rows = found.to_dict("records") if kind == "pandas" else found.to_dicts()
    entities = [
        {"row": place, **entity, "relevance": row["relevance"]}
        for place, row in enumerate(rows)
        for entity in row["entities"] or []
    ]
    _warn([(place, row["text_error"] or row["image_error"]) for place, row in enumerate(rows)])
    names = ["row", *(field.name for field in tagger.schema.field("entities").type.value_type), "relevance"]
    library: Any = sys.modules[kind]  # that of the frame
    if kind == "pandas":
        index = df.index[[entity["row"] for entity in entities]]
        return library.DataFrame({name: [entity[name] for entity in entities] for name in names}, index)
    types = library.from_arrow(tagger.schema.empty_table()).schema
    entity = types["entities"].inner.to_schema()
    schema = {"row": library.get_index_type(), **entity, "relevance": types["relevance"]}
    return library.DataFrame(entities, schema)


def _warn(reasons: list[tuple[int, str | None]]) -> None:
    unread = [(place, reason) for place, reason in reasons if reason is not None]
    if unread:
        shown = "; ".join(f"row {place}: {reason}" for place, reason in unread[:SHOWN])
        more = "; ..." if len(unread) > SHOWN else ""
        logger.warning(f"{len(unread)} of {len(reasons)} rows could not be read whole: {shown}{more}")
