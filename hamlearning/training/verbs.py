"""`hamlearning predict`, `extract` and `calibrate`: runs of which one thing is asked, by the flags of all runs."""

import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from accelerate import PartialState
from transformers.dynamic_module_utils import get_relative_import_files

import modeling_hamlearning
from hamlearning.data.files import write_text
from hamlearning.hub.model_card import RESULTS_FILE
from hamlearning.tagging.formats import write_format
from hamlearning.tagging.pieces import tag_files
from hamlearning.tagging.tagger import Tagger
from hamlearning.training.arguments import MNERTrainingArguments
from hamlearning.training.run import main
from hamlearning.training.temperature import describe


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
    check_ray_flags(options, ("workers", "gpus"))
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


def check_ray_flags(options: Mapping[str, Any], names: Sequence[str]) -> None:
    """Refuses flags of Ray's workers where there is no Ray."""
    for name in names:
        if options.get("engine", "local") == "local" and name in options:
            raise ValueError(f"--{name} goes with --engine ray, and this is one process: leave it out, or give both")


RAY_FLAGS = {"engine": "extraction_engine", "workers": "ray_workers", "threads": "ray_threads", "gpus": "ray_gpus"}


def extract(options: Mapping[str, Any], flags: Sequence[str]) -> dict[str, Any]:
    """Computes the visual features of a data set's pictures; takes what `predict` takes.

    Raises:
        ValueError: a flag of Ray's workers is given without Ray.
    """
    check_ray_flags(options, ("workers", "gpus", "threads"))
    options = dict(options)
    for name, flag in RAY_FLAGS.items():
        if name in options:
            options[flag] = options.pop(name)
    return main(["--do_extract", "True", *typed(options), *flags])


def calibrate(options: Mapping[str, Any], flags: Sequence[str]) -> dict[str, Any]:
    """Fits the temperature of a trained model's scores on the dev split, and writes it into the model's folder.

    No tag changes, and no weight: `score_temperature` of its `config.json` does, and code that is older than this
    field is replaced.

    Args:
        options: flags of `hamlearning.training.arguments`, by name.
        flags: further ones, as they were typed.

    Returns:
        What `temperature.calibrate` returns.

    Raises:
        ValueError: the model is no folder; or see `hamlearning.training.temperature`.
    """
    folder = Path(str(options["model_name_or_path"]))
    if not (folder / "config.json").is_file():
        raise ValueError(f"{folder} is no folder of a trained model: give one, which the temperature is written into.")
    with tempfile.TemporaryDirectory() as scratch:
        asked = ["--calibrate", "True", "--do_eval", "True", "--output_dir", scratch]
        found = main([*typed(options), *flags, *asked])["calibration"]
    if PartialState().is_main_process:
        for name, key, value in (
            ("config.json", "score_temperature", found["temperature"]),
            (RESULTS_FILE, "calibration", found),
        ):
            if (folder / name).is_file():
                kept = json.loads((folder / name).read_text(encoding="utf-8"))
                write_text(folder / name, json.dumps(kept | {key: value}, indent=2) + "\n")
        renew_code(folder)
        print(f"{folder}: {describe(found)}")
    return found


def renew_code(folder: Path) -> None:
    """Replaces the code that a model's folder carries, if it does not know of temperatures."""
    config_code = folder / "configuration_hamlearning.py"
    if not config_code.is_file() or "score_temperature" in config_code.read_text(encoding="utf-8"):
        return
    home = Path(modeling_hamlearning.__file__).parent
    for path in [home / file.name for file in folder.glob("*.py") if (home / file.name).is_file()]:
        for file in (path, *map(Path, get_relative_import_files(path))):
            shutil.copy(file, folder)


def typed(options: Mapping[str, Any]) -> list[str]:
    """The flags as they would be typed."""
    return [part for name, value in options.items() for part in (f"--{name}", str(value))]
