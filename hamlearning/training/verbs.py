"""`hamlearning predict` and `hamlearning extract`: runs of which one thing is asked, by the flags of all runs."""

from collections.abc import Mapping, Sequence
from typing import Any

from hamlearning.training.run import main


def predict(options: Mapping[str, Any], flags: Sequence[str]) -> dict[str, Any]:
    """Predicts the test split with a trained model.

    Args:
        options: flags of `hamlearning.training.arguments`, by name.
        flags: further ones, as they were typed.

    Returns:
        What `results.json` holds.
    """
    return main(["--do_predict", "True", *typed(options), *flags])


def extract(options: Mapping[str, Any], flags: Sequence[str]) -> dict[str, Any]:
    """Computes the visual features of a data set's pictures; takes what `predict` takes."""
    return main(["--do_extract", "True", *typed(options), *flags])


def typed(options: Mapping[str, Any]) -> list[str]:
    """The flags as they would be typed."""
    return [part for name, value in options.items() for part in (f"--{name}", str(value))]
