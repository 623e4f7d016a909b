"""`hamlearning predict` and `hamlearning extract`: runs of which one thing is asked, by the flags of all runs."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from accelerate import PartialState

from hamlearning.tagging.formats import write_format
from hamlearning.tagging.pieces import tag_files
from hamlearning.tagging.tagger import Tagger
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
        ValueError: `format` is to be written of a stream; or see `predict_files`.
    """
    options = dict(options)
    if OF_FILES & options.keys():
        return predict_files(options, flags)
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


# Flags of Parquet files of any number, and those that both ways take.
OF_FILES = {"data", "output", "engine", "workers", "gpus", "threads"}
OF_BOTH = {"model_name_or_path", "visual_features", "per_device_eval_batch_size", "bf16"}


def predict_files(options: Mapping[str, Any], flags: Sequence[str]) -> dict[str, Any]:
    """Tags Parquet files, see `tag_files`; prints what was done, and returns it.

    Raises:
        ValueError: a flag is missing, or one is given that has no meaning here.
    """
    for name in ("data", "output"):
        if name not in options:
            raise ValueError(f"--{min(OF_FILES & options.keys())} goes with --data and --output: give --{name}, too")
    engine, gpus = options.get("engine", "local"), options.get("gpus", 0)
    for name in ("workers", "gpus"):
        if engine == "local" and name in options:
            raise ValueError(f"--{name} goes with --engine ray, and this is one process: leave it out, or give both")
    others = [*(f"--{name}" for name in options.keys() - OF_FILES - OF_BOTH), *flags]
    if others:
        raise ValueError(f"{min(others)} does not go with --data: leave it out, or give --data_dir and --output_dir")
    tagger = Tagger(
        options["model_name_or_path"],
        batch_size=int(options.get("per_device_eval_batch_size", 32)),
        device=None if engine == "local" else "cuda" if gpus else "cpu",
        threads=options.get("threads", None if engine == "local" else 1),
        dtype="bfloat16" if str(options.get("bf16", "False")).lower() in ("true", "1", "yes") else "float32",
        visual_features=options.get("visual_features"),
    )
    done = tag_files(tagger, options["data"], options["output"], engine, options.get("workers"), gpus)
    print(f"{options['output']}: {', '.join(f'{name} {count}' for name, count in done.items())}")
    return done


def extract(options: Mapping[str, Any], flags: Sequence[str]) -> dict[str, Any]:
    """Computes the visual features of a data set's pictures; takes what `predict` takes."""
    return main(["--do_extract", "True", *typed(options), *flags])


def typed(options: Mapping[str, Any]) -> list[str]:
    """The flags as they would be typed."""
    return [part for name, value in options.items() for part in (f"--{name}", str(value))]
