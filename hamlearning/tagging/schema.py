"""What a tweet becomes: the columns of every table of entities."""

import pyarrow as pa


ENTITY = pa.struct(
    [
        ("entity_group", pa.string()),
        ("word", pa.string()),
        ("start", pa.int32()),
        ("end", pa.int32()),
        ("score", pa.float32()),
        ("word_start", pa.int32()),
        ("word_end", pa.int32()),
    ]
)
SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("entities", pa.list_(ENTITY)),
        ("relevance", pa.list_(pa.float32())),
        ("image_error", pa.string()),
        ("text_error", pa.string()),
    ]
)
