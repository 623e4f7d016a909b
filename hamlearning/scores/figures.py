"""matplotlib's `Figure`: here figures become files, and no backend shows them."""

import os
from importlib.util import find_spec


# A notebook names its own backend to the programs that it starts, also to those of another environment, which may lack
# it; then matplotlib cannot be imported there.
_backend = os.environ.get("MPLBACKEND", "")
if _backend.startswith("module://") and find_spec(_backend.removeprefix("module://").partition(".")[0]) is None:
    del os.environ["MPLBACKEND"]

from matplotlib import rc_context  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402


__all__ = ["Figure", "rc_context"]
