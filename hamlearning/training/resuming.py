"""What a run is, and whether the one that goes on is the one that was begun."""

import json
import logging
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import PreTrainedConfig, TrainingArguments

from hamlearning.data.files import write_text, writing
from hamlearning.training.checkpoints import (
    checkpoints,
    last_whole_checkpoint,
    what_is_missing,
    what_is_missing_of_best,
)


logger = logging.getLogger(__name__)

RUN_FILE = "run.json"  # of the output folder: what the run is
# Of the training arguments, what decides about the weights, and about which of them are kept.
DECISIVE_SETTINGS = (
    "seed",
    "data_seed",
    "learning_rate",
    "text_learning_rate",
    "crf_learning_rate",
    "lr_scheduler_type",
    "lr_scheduler_kwargs",
    "warmup_steps",
    "num_train_epochs",
    "max_steps",
    "optim",
    "optim_args",
    "adam_beta1",
    "adam_beta2",
    "adam_epsilon",
    "weight_decay",
    "max_grad_norm",
    "label_smoothing_factor",
    "neftune_noise_alpha",
    "per_device_train_batch_size",
    "tokens_per_batch",
    "gradient_accumulation_steps",
    "world_size",
    "train_sampling_strategy",
    "dataloader_drop_last",
    "bf16",
    "fp16",
    "eval_strategy",
    "eval_steps",
    "save_strategy",
    "save_steps",
    "load_best_model_at_end",
    "metric_for_best_model",
    "greater_is_better",
    "early_stopping_patience",
)
# Of a config, what says nothing about the network.
UNDECISIVE_CONFIG = (
    "_name_or_path", "architectures", "auto_map", "dtype", "transformers_version", "word_marks",
    "score_temperature",
)  # fmt: skip


def describe_config(config: PreTrainedConfig) -> dict[str, Any]:
    """What of a model's config makes the network."""

    def pruned(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: pruned(item) for name, item in value.items() if name not in UNDECISIVE_CONFIG}
        return value

    return pruned(json.loads(config.to_json_string(use_diff=False)))


def differences(was: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> list[str]:
    """A phrase for each fact that is not what it was, such as `settings.seed is 2, was 1`."""
    found = []
    for name in sorted(was.keys() | now.keys()):
        before, after = was.get(name), now.get(name)
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            found += differences(before, after, f"{prefix}{name}.")
        elif before != after:
            found.append(f"{prefix}{name} is {json.dumps(after)}, was {json.dumps(before)}")
    return found


def check_same_run(was: Mapping[str, Any], now: Mapping[str, Any], checkpoint: Path) -> list[str]:
    """Refuses to go on with another run than the one that was begun.

    Another number of steps or epochs is the same run only where the learning rate does not depend on it.

    Returns:
        What is not the same and may be so.

    Raises:
        ValueError: names what differs, and the remedy.
    """
    found = differences(was, now)
    settings = now["settings"]
    of_length = [phrase for phrase in found if re.match(r"settings\.(num_train_epochs|max_steps) ", phrase)]
    is_constant = settings["lr_scheduler_type"] == "constant" or (
        settings["lr_scheduler_type"] == "constant_with_warmup" and not 0 < settings["warmup_steps"] < 1
    )
    remedy = (
        "give what it was begun with, or begin a run of its own from these weights: --model_name_or_path "
        f"{checkpoint} and another --output_dir, without --resume_from_checkpoint."
    )
    if found and found == of_length and is_constant:
        return found
    if found and found == of_length:
        raise ValueError(
            f"--resume_from_checkpoint: the run of {checkpoint} cannot change its length ({'; '.join(found)}), "
            f"as its learning rate (--lr_scheduler_type {settings['lr_scheduler_type']}) falls with the share of "
            f"the steps that are done: {remedy}"
        )
    if found:
        raise ValueError(f"--resume_from_checkpoint: {checkpoint} is of another run ({'; '.join(found)}): {remedy}")
    return []


def begin_run(args: TrainingArguments, facts: Mapping[str, Any]) -> Path | None:
    """Finds the checkpoint to go on from, if any, and writes down what the run is.

    With `--resume_from_checkpoint True` that is the last whole one of the output folder; a run that was ended before
    its first checkpoint begins again. What the output folder's `run.json` does not say, because an earlier version of
    this project wrote it, is not compared.

    Args:
        args: with `output_dir` and `resume_from_checkpoint`: "True", a checkpoint, or None.
        facts: what the run is, JSON values; `settings` among them.

    Raises:
        FileNotFoundError: there is no run to go on with.
        ValueError: the checkpoint is not whole, of another run, or in FSDP's shards; or the best one, whose weights
            the run would end with, is not whole.
        OSError: the output folder cannot be written.
    """
    folder, wanted = Path(str(args.output_dir)), args.resume_from_checkpoint
    checkpoint, notes = None, []
    if wanted == "True":
        checkpoint, notes = last_whole_checkpoint(folder)
        if checkpoint is None and not (folder / RUN_FILE).is_file():
            raise FileNotFoundError(
                f"--resume_from_checkpoint True, but {folder} holds no checkpoint that could be used"
                f"{': ' if notes else ''}{'; '.join(notes)}: {_other_beginning(folder)}."
            )
        notes = [f"{note}: it is not used." for note in notes]
        if checkpoint is None:
            notes.append("There is no checkpoint yet: the run begins again.")
    elif wanted is not None:
        checkpoint = Path(wanted)
        if not checkpoint.is_dir():
            raise FileNotFoundError(f"--resume_from_checkpoint {checkpoint} is no folder: give one, or True.")
        missing = what_is_missing(checkpoint)
        if missing is not None:
            raise ValueError(
                f"--resume_from_checkpoint {checkpoint} is not whole: {missing}. Give another, or True for the last "
                "whole one."
            )
    if checkpoint is not None:
        _refuse_shards(checkpoint)
    if checkpoint is not None or notes:
        begun = folder if checkpoint is None else checkpoint.parent
        if (begun / RUN_FILE).is_file():
            was = json.loads((begun / RUN_FILE).read_text(encoding="utf-8"))
            unknown = sorted(facts.keys() - was.keys())
            changed = check_same_run(was | {name: facts[name] for name in unknown}, facts, checkpoint or begun)
            if unknown:
                of = f"{begun / RUN_FILE} is of an earlier version and has no {', '.join(unknown)}"
                notes.append(f"{of}: whether that is the same was not compared.")
            notes += [f"{phrase}: the learning rate is the same." for phrase in changed]
        else:
            notes.append(f"There is no {begun / RUN_FILE}: whether it is the same run was not compared.")
    if checkpoint is not None and args.load_best_model_at_end:
        _refuse_without_best(checkpoint)
    if args.process_index == 0:
        for note in notes:
            logger.warning(note)
        if checkpoint is not None:
            logger.info(f"Goes on from {checkpoint}.")
        claim_folder(folder)
        with writing(RUN_FILE, folder, "Make room, or give another --output_dir."):
            write_text(folder / RUN_FILE, json.dumps(facts, indent=2) + "\n")
    return checkpoint


def _refuse_shards(checkpoint: Path):
    """What FSDP wrote in shards has an index that PyTorch unpickles without restriction: it could run any code."""
    index = next(checkpoint.rglob(".metadata"), None)
    if index is not None:
        raise ValueError(
            f"--resume_from_checkpoint {checkpoint} was written by FSDP with SHARDED_STATE_DICT ({index} is there), "
            "which is read by unpickling and could run any code: begin the run anew with fsdp_state_dict_type "
            "FULL_STATE_DICT, as configs/accelerate/fsdp.yaml has it."
        )


def _refuse_without_best(checkpoint: Path):
    """The run would end with the best checkpoint's weights: without them it would fail, or keep others, at its end."""
    found = what_is_missing_of_best(checkpoint)
    if found is None:
        return
    best, reason = found
    others = [path for path in checkpoints(checkpoint.parent) if what_is_missing(path) is None]
    others = [path for path in others if what_is_missing_of_best(path) is None]
    raise ValueError(
        f"--resume_from_checkpoint: the run of {checkpoint} would end with the weights of its best checkpoint, "
        f"{best}, which {reason}. Put it back from a copy, "
        + "".join(f"go on from one whose best is there with --resume_from_checkpoint {path}, " for path in others[:1])
        + "or leave --resume_from_checkpoint out and begin the run anew in another --output_dir."
    )


def _other_beginning(folder: Path) -> str:
    """The remedy where a folder has nothing to go on with."""
    found = next(iter(checkpoints(folder)), None)
    if found is None:
        return "leave --resume_from_checkpoint out"
    return (
        "leave --resume_from_checkpoint out and give another --output_dir, with --model_name_or_path "
        f"{found} to begin from its weights"
    )


def claim_folder(folder: Path):
    """Makes the output folder, and sees that it can be written: now, not after hours.

    Raises:
        OSError: it cannot.
    """
    with writing("Results", folder, "Give an --output_dir that can be."):
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".{os.getpid()}.probe"
        probe.touch()
        probe.unlink()
