"""What the page of `hamlearning serve` (`/docs`) says of a request and its answers."""

from typing import Any


DESCRIPTION = (
    "Named entities of tweets, with their pictures or without. Tweets of several requests go through the network "
    "together. No URL and no file is ever opened for a request."
)

_TWEET = {
    "oneOf": [
        {"type": "string", "example": "had lunch with Maria Lopez at Lake Geneva"},
        {
            "type": "object",
            "properties": {
                "text": {"type": "string"},
                "tokens": {"type": "array", "items": {"type": "string"}, "description": "words, in place of text"},
                "image": {
                    "type": "string",
                    "nullable": True,
                    "description": "base64 of a picture's file, bare or behind `data:image/png;base64,`",
                },
            },
        },
    ]
}
_PARAMETERS = {
    "type": "object",
    "properties": {
        "aggregation_strategy": {"type": "string", "enum": ["simple", "none", "first", "average", "max"]},
        "threshold": {"type": "number", "minimum": 0, "maximum": 1},
        "ignore_labels": {"type": "array", "items": {"type": "string"}},
        "is_split_into_words": {"type": "boolean"},
        "stride": {"type": "integer"},
    },
}
_FORM = {
    "type": "object",
    "required": ["text"],
    "properties": {
        "text": {"type": "string"},
        "image": {"type": "string", "format": "binary", "description": "a picture's file"},
        "parameters": {"type": "string", "description": "as in a JSON request, as JSON"},
    },
}
REQUEST: dict[str, Any] = {
    "required": True,
    "content": {
        "application/json": {
            "schema": {
                "type": "object",
                "required": ["inputs"],
                "properties": {
                    "inputs": {"anyOf": [_TWEET, {"type": "array", "items": _TWEET}]},
                    "parameters": _PARAMETERS,
                },
            },
            "example": {"inputs": "had lunch with Maria Lopez at Lake Geneva"},
        },
        "multipart/form-data": {"schema": _FORM},
    },
}

_ENTITY = {
    "type": "object",
    "properties": {
        "entity_group": {"type": "string"},
        "word": {"type": "string"},
        "start": {"type": "integer"},
        "end": {"type": "integer"},
        "score": {"type": "number"},
        "word_start": {"type": "integer"},
        "word_end": {"type": "integer"},
        "relevance": {"type": "array", "items": {"type": "number"}, "nullable": True},
    },
}
_ENTITIES = {"type": "array", "items": _ENTITY}
_REFUSAL = {
    "application/json": {"schema": {"type": "object", "properties": {"error": {"type": "string"}}}},
}
_REASONS = {
    400: "What was sent cannot be answered: no JSON, no tweet, a picture that cannot be read, ...",
    408: "The body did not come in time.",
    413: "A text, a picture, a list or the body is larger than its limit.",
    429: "Too many requests wait: ask again after `Retry-After` seconds.",
    500: "A fault of the server, whose log says more.",
    503: "The server is about to stop, or has no replica.",
}
ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "Entities of the tweet, or a list of them for each tweet of a list",
        "content": {"application/json": {"schema": {"anyOf": [_ENTITIES, {"type": "array", "items": _ENTITIES}]}}},
    },
    **{status: {"description": reason, "content": _REFUSAL} for status, reason in _REASONS.items()},
}
