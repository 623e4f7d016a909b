"""`hamlearning predict` and `hamlearning extract`: runs of which one thing is asked, by the flags of all runs."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from accelerate import PartialState

from hamlearning.tagging.formats import write_format
from hamlearning.training.arguments import MNERTrainingArguments
from hamlearning.training.run import main


def predict(options: Mapping[str, Any], flags: Sequence[str]) -> dict[str, Any]:
    """Predicts the test split with a trained model.

    Args:
        options: flags of `hamlearning.training.arguments`, by name; and `format`, one of `formats.FORMATS`.
        flags: further ones, as they were typed.

    Returns:
        What `results.json` holds.

    Raises:
        ValueError: `format` is to be written of a stream.
    """
    options = dict(options)
    format = options.pop("format", None)
    if format is not None and "streaming" in options:
        raise ValueError(
            f"--format {format} is of predictions_test.jsonl, which --streaming does not write: leave one out"
        )
    results = main(["--do_predict", "True", *typed(options), *flags])
    if format is not None and PartialState().is_main_process:
        written = write_format(
            Path(str(options.get("output_dir", MNERTrainingArguments.output_dir))) / "predictions_test.jsonl",
            format,
            options.get("image_dir"),
            options.get("image_subfolders") in ("True", "true", "1"),
            Path(str(options["model_name_or_path"])).name,
        )
        print(f"{format}: {written}")
    return results


def extract(options: Mapping[str, Any], flags: Sequence[str]) -> dict[str, Any]:
    """Computes the visual features of a data set's pictures; takes what `predict` takes."""
    return main(["--do_extract", "True", *typed(options), *flags])


def typed(options: Mapping[str, Any]) -> list[str]:
    """The flags as they would be typed."""
    return [part for name, value in options.items() for part in (f"--{name}", str(value))]
