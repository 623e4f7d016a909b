"""The workshop around the model: train, read, score, compare, publish, serve. The model itself is the files beside it.

$ hamlearning --help
"""

import importlib
from typing import Any


ROOM_OF = {"Tagger": "hamlearning.tagging.tagger", "tag_frame": "hamlearning.tagging.frames"}


def __getattr__(name: str) -> Any:
    """`hamlearning.tag_frame`, `hamlearning.Tagger`: imported when they are asked for, with PyTorch behind them."""
    if name not in ROOM_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(ROOM_OF[name]), name)
