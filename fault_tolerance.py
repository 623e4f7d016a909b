"""What keeps a training whole when something goes wrong around it.

- A checkpoint is written in the folder `unfinished`, with the size of each of its files, and takes its place once all
  of it is on the disk; only then are older ones removed. Whatever the moment of a kill, a whole one is left.
- `run.json` says what the run is: a run that goes on is compared with it.
- A loss that is no number ends the run, SIGINT (Ctrl-C) and SIGTERM (a cluster that wants its machine back) end it
  with a checkpoint behind the running step.
- Every random choice of a training is the same behind a checkpoint as it would have been without the interruption.
"""

import dis
import errno
import hashlib
import json
import logging
import math
import os
import re
import shutil
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist
from safetensors import SafetensorError
from torch.utils.data import DataLoader, Sampler, SequentialSampler, get_worker_info
from transformers import (
    EarlyStoppingCallback,
    PreTrainedConfig,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, TrainOutput


logger = logging.getLogger("run_mner")

UNFINISHED = "unfinished"  # what is being written, and what a kill has left of it
FILES_FILE = "files.json"  # of a checkpoint: its files' sizes, written last
PROGRESS_FILE = "progress.json"  # of a checkpoint: what Trainer forgets
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
UNDECISIVE_CONFIG = ("_name_or_path", "architectures", "auto_map", "dtype", "transformers_version")


class Stopped(KeyboardInterrupt):
    """The run was asked to stop by a signal, and has.

    Args:
        signum: the signal.
        message: where it stopped, and how to go on.
    """

    def __init__(self, signum: int, message: str):
        super().__init__(message)
        self.signum = signum


# ------------------------------------------------------------------------------------------------- files and folders


def write_text(path: Path, text: str):
    """Writes a file that is there, whole and on the disk, or not at all; until then its predecessor stays."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.write_text(text, encoding="utf-8")
        sync(partial)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def move_into(staged: Path, folder: Path):
    """Moves the files of one folder into another, each in place of its predecessor at one stroke."""
    for path in sorted(path for path in staged.rglob("*") if path.is_file()):
        target = folder / path.relative_to(staged)
        target.parent.mkdir(parents=True, exist_ok=True)
        sync(path)
        os.replace(path, target)
    shutil.rmtree(staged, ignore_errors=True)  # NFS keeps names of what is open


@contextmanager
def writing(what: str, folder: Path, remedy: str) -> Iterator[None]:
    """Turns what the libraries raise when they cannot write (each something else) into one sentence.

    Raises:
        OSError: says what could not be written, where, why, and the remedy.
    """
    try:
        yield
    except Exception as error:
        text = str(error).strip().partition("\n")[0]
        libraries = ("os error", "PytorchStreamWriter", "inline_container")
        if not isinstance(error, OSError | SafetensorError) and not any(word in text for word in libraries):
            raise
        existing = next(place for place in (folder, *folder.absolute().parents) if place.is_dir())
        is_full = shutil.disk_usage(existing).free < 2**20
        reason = getattr(error, "strerror", None) or ("No space left on device" if is_full else text)
        raise OSError(f"{what} could not be written to {folder}: {reason}. {remedy}") from error


def sync(path: Path):
    """Waits until a file, or a folder's list of names, is on the disk."""
    if os.name == "nt":  # which opens no folder, and waits only for what may be written
        if path.is_file():
            with path.open("r+b") as file:
                os.fsync(file.fileno())
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# ------------------------------------------------------------------------------------------------------- checkpoints


def finish_checkpoint(staged: Path, final: Path):
    """Gives a checkpoint the list of its files, waits until they are on the disk, and moves it to its place."""
    files = sorted(path for path in staged.rglob("*") if path.is_file())
    sizes = {path.relative_to(staged).as_posix(): path.stat().st_size for path in files}
    (staged / FILES_FILE).write_text(json.dumps(sizes, indent=2) + "\n", encoding="utf-8")
    for path in (*files, staged / FILES_FILE, *(path for path in staged.rglob("*") if path.is_dir()), staged):
        sync(path)
    if final.exists():  # the run went on from an earlier one
        final.rename(staged.with_name(f"{final.name} before"))
    staged.rename(final)
    sync(final.parent)
    shutil.rmtree(staged.parent, ignore_errors=True)  # NFS keeps names of what is open


def what_is_missing(checkpoint: Path) -> str | None:
    """What a checkpoint lacks of what it was when it was finished; None if it is whole."""
    try:
        sizes = json.loads((checkpoint / FILES_FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return f"it has no {FILES_FILE}, which is written last"
    except (OSError, ValueError) as error:
        return f"its {FILES_FILE} cannot be read ({error})"
    for name, size in sizes.items():
        path = checkpoint / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != size:
            return f"{name} has {path.stat().st_size} of {size} bytes"
    return None


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints of a folder, whole or not, the last first."""
    found = {path: re.fullmatch(rf"{PREFIX_CHECKPOINT_DIR}-(\d+)", path.name) for path in folder.glob("*")}
    return sorted((path for path, match in found.items() if match and path.is_dir()), key=_step, reverse=True)


def _step(checkpoint: Path) -> int:
    """The step that a checkpoint was written behind."""
    return int(checkpoint.name.rpartition("-")[2])


def last_whole_checkpoint(folder: Path) -> tuple[Path | None, list[str]]:
    """The last checkpoint that is whole, and a sentence for each later one that is not."""
    left_out = [f"{path} was being written when the run ended" for path in checkpoints(folder / UNFINISHED)]
    for path in checkpoints(folder):
        missing = what_is_missing(path)
        if missing is None:
            return path, left_out
        left_out.append(f"{path} is not whole: {missing}")
    return None, left_out


def best_checkpoint(checkpoint: Path) -> Path | None:
    """The best checkpoint that the run knew when it wrote this one, whole or not; None if it knew none.

    It lies beside this one, wherever the two have been moved to: the path that was written down may be of another
    folder. A run that went on in another folder has left it in the first, where it is this run's if its history is.
    """
    state = json.loads((checkpoint / TRAINER_STATE_NAME).read_text(encoding="utf-8"))
    if state["best_model_checkpoint"] is None:
        return None
    written = Path(state["best_model_checkpoint"])
    if written.name == f"{PREFIX_CHECKPOINT_DIR}-{state['global_step']}":
        return checkpoint  # whatever a copy of it is called
    beside = checkpoint.parent / written.name
    if what_is_missing(beside) is None or what_is_missing(written) is not None:
        return beside
    history = json.loads((written / TRAINER_STATE_NAME).read_text(encoding="utf-8"))["log_history"]
    return written if state["log_history"][: len(history)] == history else beside


def _what_is_missing_of_best(checkpoint: Path) -> tuple[Path, str] | None:
    """The best checkpoint that a checkpoint names, and what it lacks; None if it lacks nothing, or there is none."""
    best = best_checkpoint(checkpoint)
    missing = None if best is None else what_is_missing(best)
    if best is None or missing is None:
        return None
    return best, f"is not whole: {missing}" if best.is_dir() else "is not there"


def _is_regular(checkpoint: Path) -> bool:
    """Whether the run would have this checkpoint had nobody stopped it, so that it may be chosen as the best."""
    if not (checkpoint / PROGRESS_FILE).is_file():
        return False
    return json.loads((checkpoint / PROGRESS_FILE).read_text(encoding="utf-8"))["is_regular"]


# ---------------------------------------------------------------------------------------------------- what a run is


def describe_config(config: PreTrainedConfig) -> dict[str, Any]:
    """What of a model's config makes the network."""

    def pruned(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: pruned(item) for name, item in value.items() if name not in UNDECISIVE_CONFIG}
        return value

    return pruned(json.loads(config.to_json_string(use_diff=False)))


def file_sha256(path: str | os.PathLike) -> str:
    """SHA-256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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
    found = _what_is_missing_of_best(checkpoint)
    if found is None:
        return
    best, reason = found
    others = [path for path in checkpoints(checkpoint.parent) if what_is_missing(path) is None]
    others = [path for path in others if _what_is_missing_of_best(path) is None]
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


# ------------------------------------------------------------------------------------------------------------ signals


class StopSignals:
    """Within it, SIGINT and SIGTERM are noted, for a training to look at.

    A second Ctrl-C ends a program (`run_from_terminal`) at once; elsewhere, as in a notebook, it is handled as it was
    before, so that the process goes on.

    Attributes:
        signum: the signal that came, 0 if none did.
        in_a_program: whether the process is a program, and has nothing to lose but the training.
    """

    in_a_program = False

    def __init__(self):
        self.signum = 0
        self._before: dict[int, Any] = {}
        self._process = os.getpid()

    def __enter__(self) -> "StopSignals":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                # None is another language's. Ignored is as shells want it of what runs in the background.
                if signal.getsignal(number) not in (None, signal.SIG_IGN):
                    self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_):
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _: FrameType | None):
        if os.getpid() != self._process:  # one that loads data, and ends with this one
            return
        self.signum = number
        if signal.SIGINT in self._before:
            again = signal.SIG_DFL if self.in_a_program else self._before[signal.SIGINT]
            signal.signal(signal.SIGINT, again)
        name = signal.Signals(number).name
        message = f"\n{name}: stops behind this step, with a checkpoint. Ctrl-C (again) ends at once, without.\n"
        os.write(2, message.encode())  # print may be what was interrupted


def run_from_terminal(main: Callable[[], Any]) -> int:
    """Runs a program so that what its user can mend is one sentence, and returns the exit code.

    An error that this project raised itself (with a remedy), and one of the system that names its file, is printed
    behind `error:`; whatever else happens keeps its traceback.
    """
    process, has_timer = os.getpid(), hasattr(signal, "setitimer")  # Windows has none

    def stop(number: int, _: FrameType | None):
        nonlocal has_timer
        if os.getpid() != process:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        if has_timer:  # Python drops what is raised in a destructor or around a fork: then once more, not again
            has_timer = False
            signal.signal(signal.SIGALRM, raise_again)
            signal.setitimer(signal.ITIMER_REAL, 1)
        raise Stopped(number, "Stopped.")

    def raise_again(*_: Any):
        if not isinstance(sys.exception(), Stopped):  # else it is on its way, and what it passes may take its time
            raise Stopped(signal.SIGTERM, "Stopped.")

    before = signal.signal(signal.SIGTERM, stop)
    StopSignals.in_a_program = not hasattr(sys, "ps1")
    try:
        try:
            main()
        finally:
            if hasattr(signal, "setitimer"):
                signal.setitimer(signal.ITIMER_REAL, 0)
    except KeyboardInterrupt as error:
        _let_go(error)
        signum = getattr(error, "signum", signal.SIGINT)
        where = str(error) if isinstance(error, Stopped) else "Stopped."
        if where == "Stopped.":
            where += (
                " Checkpoints and pictures that were looked at stay: go on with the same command, a training with "
                "--resume_from_checkpoint True."
            )
        print(where, file=sys.stderr)
        return 128 + signum
    except Exception as error:
        try:
            sentence = remedied(error)
        except RuntimeError as late:  # PyTorch's, that a process has died: it is raised at any moment, so in there too
            sentence = remedied(late)
        if sentence is None:
            raise
        print(f"error: {sentence}", file=sys.stderr)
        return 1
    finally:
        StopSignals.in_a_program = False
        signal.signal(signal.SIGTERM, signal.SIG_DFL if before is None else before)
    return 0


def _let_go(error: BaseException) -> None:
    """Ends what a run that was stopped still holds, in silence.

    Destructors of PyTorch's data loaders print a traceback where a process of theirs was ended by the same signal, or
    where the loader was only half made.
    """
    hook, sys.unraisablehook = sys.unraisablehook, lambda unraisable: None
    try:
        traceback.clear_frames(error.__traceback__)
    finally:
        sys.unraisablehook = hook


def remedied(error: BaseException) -> str | None:
    """What a user should read of an error in place of its traceback; None if nobody has foreseen it."""
    if isinstance(error, OSError) and error.strerror and error.filename:
        names = [str(name) for name in (error.filename, error.filename2) if name is not None]  # a copy has both
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
            names = names[-1:]  # where to, as nothing is written to where it comes from
        return f"{' to '.join(names)}: {error.strerror}"
    lost = lost_process(error, num_workers=0)
    if lost is not None:  # PyTorch raises it at any moment, also while another error is on its way
        return (
            f"A process that loads data has ended ({lost}), often for lack of memory: give fewer, "
            "--dataloader_num_workers or --extraction_workers, and go on with the same command, a training with "
            "--resume_from_checkpoint True."
        )
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None or not isinstance(error, ValueError | OSError | ArithmeticError | RuntimeError | ImportError):
        return None
    code = trace.tb_frame.f_code
    is_ours = Path(code.co_filename).resolve().parent == Path(__file__).resolve().parent
    # A `raise` of our own, not something that a call on that line raised.
    return str(error) if is_ours and dis.opname[code.co_code[trace.tb_lasti]] == "RAISE_VARARGS" else None


def lost_process(error: BaseException, num_workers: int) -> str | None:
    """What shows that a process that loads data has died, in whichever way PyTorch met with it; None if none has."""
    if num_workers and isinstance(error, EOFError | ConnectionError):  # while it handed a batch over
        return type(error).__name__
    text = str(error).partition("\n")[0].strip()
    return text if isinstance(error, RuntimeError) and text.startswith("DataLoader worker") else None


# ----------------------------------------------------------------------------------------------------------- training


class SeededByEpoch(Sampler):
    """Another sampler's order, decided by seed and epoch alone, whatever else has drawn random numbers before.

    So it is the same in an epoch that goes on from a checkpoint, and on all processes.
    """

    def __init__(self, sampler: Sampler, seed: int):
        self.sampler: Any = sampler  # with a length and a generator, which not every one has
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int):
        """Which epoch comes next."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[int]:
        digest = hashlib.sha256(f"{self.seed} {self.epoch}".encode()).digest()
        self.sampler.generator = torch.Generator().manual_seed(int.from_bytes(digest[:7]))
        return iter(self.sampler)


def outlive_a_signal(worker_id: int = 0) -> None:
    """Lets SIGINT, and the first SIGTERM, pass in a process that loads data; it ends with the run.

    A terminal and some clusters send them to these processes too. But the running step may need their batch, and
    PyTorch takes their end for a failure. It is a `worker_init_fn`: PyTorch sets another handler before.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, _: signal.signal(number, signal.SIG_DFL))


class WithIds:
    """A collator whose batches have the tweets' `ids` beside what the network takes.

    In a process that loads data its first batch is also where `outlive_a_signal` is called: `Trainer` has a
    `worker_init_fn` of its own.
    """

    def __init__(self, collate: Callable[[list[dict[str, Any]]], dict[str, Any]]):
        self.collate = collate
        self._process = os.getpid()

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """A batch of rows."""
        if os.getpid() != self._process and get_worker_info() is not None:
            self._process = os.getpid()
            outlive_a_signal()
        batch = dict(self.collate(rows))
        return batch | {"ids": [str(row["id"]) for row in rows]}


@dataclass
class Losses:
    """Those of a step, on their way to the host."""

    step: int
    ids: Sequence[Sequence[str]]  # of each batch
    values: torch.Tensor  # (batches,)
    flags: torch.Tensor | None = None  # (2,): whether any process has one that is not finite; a signal
    pending: Any = None
    copied: Any = None


class StepWatch(TrainerCallback):
    """Sees, one step late, whether losses are finite, and whether any process was asked to stop.

    One step late, so that the host never waits for the step that the device is computing; at a log, an evaluation or a
    checkpoint, which wait anyway, at once. With several processes the two questions are one small all-reduce a step,
    so that all of them stop at the same step.

    Args:
        world_size: number of processes.
    """

    def __init__(self, world_size: int):
        self.world_size = world_size
        self.signals = StopSignals()
        self.stop_signal = 0  # the one that all processes know of
        self.epoch_end_is_due = False
        self._save_is_due = False
        self._batches: list[tuple[torch.Tensor, Sequence[str]]] = []
        self._posted: Losses | None = None
        self._last: tuple[int, float] | None = None

    @property
    def finite_until(self) -> int:
        """The last step whose losses were seen to be finite."""
        return 0 if self._last is None else self._last[0]

    def see(self, loss: torch.Tensor, ids: Sequence[str]):
        """Takes the loss of a batch, which stays where it is."""
        self._batches.append((loss, ids))

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Looks at the step before, and keeps this one's losses."""
        before, self._posted = self._posted, self._post(state.global_step)
        self._read(before)
        if self.world_size == 1:
            self.stop_signal = self.signals.signum
        # A checkpoint holds what the end of its epoch brings, or that would be missing where a run goes on from it.
        self.epoch_end_is_due = float(state.epoch).is_integer() or control.should_training_stop
        if self.epoch_end_is_due:
            self._save_is_due, control.should_save = control.should_save, False

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Has written what was put off until now."""
        control.should_save = control.should_save or self._save_is_due
        self.epoch_end_is_due = self._save_is_due = False

    def check(self):
        """Looks at all losses until now.

        Raises:
            FloatingPointError: names the step, the tweets of the batch, and the last finite loss.
        """
        posted, self._posted = self._posted, None
        self._read(posted)

    def _post(self, step: int) -> Losses:
        values = torch.stack([loss.detach().float() for loss, _ in self._batches])
        posted = Losses(step, [ids for _, ids in self._batches], values)
        self._batches = []
        if self.world_size > 1:
            is_bad = (~torch.isfinite(values)).any().float()
            posted.flags = torch.stack([is_bad, torch.full_like(is_bad, float(self.signals.signum))])
            posted.pending = dist.all_reduce(posted.flags, dist.ReduceOp.MAX, async_op=True)
        if values.device.type != "cpu":
            if posted.pending is not None:
                posted.pending.wait()  # the device does, not the host
                posted.pending = None
            posted.values = _to_host(values)
            posted.flags = None if posted.flags is None else _to_host(posted.flags)
            posted.copied = torch.Event(device=values.device)
            posted.copied.record()
        return posted

    def _read(self, posted: Losses | None):
        if posted is None:
            return
        if posted.pending is not None:
            posted.pending.wait()
        if posted.copied is not None:
            posted.copied.synchronize()
        if posted.flags is not None:
            self.stop_signal = max(self.stop_signal, int(posted.flags[1]))
        for loss, ids in zip(posted.values.tolist(), posted.ids, strict=True):
            if not math.isfinite(loss):
                raise FloatingPointError(f"The loss is {loss} at step {posted.step}, {self.tweets(ids)}")
            self._last = (posted.step, loss)
        if posted.flags is not None and posted.flags[0]:
            raise FloatingPointError(f"The loss of another process is not finite at step {posted.step}{self.tweets()}")

    def tweets(self, ids: Sequence[str] = ()) -> str:
        """The end of a sentence about a loss."""
        batch = f"in the batch of the tweets {', '.join(ids)}" if ids else ""
        if self._last is None:
            return f"{batch}; no loss was finite"
        return f"{batch}; the last finite one was {self._last[1]:.6g} at step {self._last[0]}"


def _to_host(tensor: torch.Tensor) -> torch.Tensor:
    """A copy that the device makes in its time."""
    host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.device.type == "cuda")
    return host.copy_(tensor, non_blocking=True)


class FaultTolerantTrainer(Trainer):
    """`Trainer` whose runs survive being ended at any moment; see the top of this file."""

    model: Any
    _tr_loss: torch.Tensor

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.watch = StepWatch(self.args.world_size)
        self.add_callback(self.watch)
        self._writes_to: Path | None = None
        self._rotates_behind: int | None = None
        self._is_over = False
        self._saved_step: int | None = None

    def train(  # pyright: ignore[reportIncompatibleMethodOverride]  # takes the path that `begin_run` found
        self, resume_from_checkpoint: str | None = None, **kwargs: Any
    ) -> TrainOutput:
        """As `Trainer.train`; SIGINT and SIGTERM end it behind the running step.

        Raises:
            Stopped: such a signal came, and a checkpoint was written.
            FloatingPointError: a loss, or a weight, is not finite.
            OSError: a checkpoint could not be written.
            RuntimeError: a process that loads data has ended.
        """
        self._resumed = None if resume_from_checkpoint is None else Path(resume_from_checkpoint)
        try:
            with self.watch.signals:
                output = super().train(resume_from_checkpoint=resume_from_checkpoint, **kwargs)
        except FloatingPointError as error:
            raise FloatingPointError(f"{error}. {self._way_out()}") from None
        except (RuntimeError, EOFError, ConnectionError) as error:
            reason = lost_process(error, self.args.dataloader_num_workers)
            if reason is None:
                raise
            if self.watch.signals.signum:  # sent to those processes too, while they loaded something else
                self.watch.stop_signal = self.watch.signals.signum
                self._stop()
            raise RuntimeError(
                f"A process that loads data has ended ({reason}), often for lack of memory: give fewer, "
                "--dataloader_num_workers, and go on with --resume_from_checkpoint True."
            ) from error
        if self.watch.signals.signum:  # it came when all was done
            self.watch.stop_signal = self.watch.signals.signum
            self._stop()
        return output

    def _way_out(self) -> str:
        rates = "--learning_rate, --text_learning_rate or --crf_learning_rate"
        remedy = f"Lower {rates}, or train without --fp16"
        whole = [path for path in checkpoints(Path(str(self.args.output_dir))) if what_is_missing(path) is None]
        if not whole:
            return f"{remedy}; no checkpoint had been written yet."
        return (
            f"{remedy}. From before it there is {' and '.join(map(str, whole))}: begin a run of its own from one with "
            "--model_name_or_path and another --output_dir."
        )

    # What a batch is made of, and in which order they come.

    def get_train_dataloader(self) -> DataLoader:
        """As in `Trainer`, with the ids of each batch's tweets."""
        loader: Any
        sampler: Any
        collate, self.data_collator = self.data_collator, WithIds(self.data_collator)
        try:
            loader, sampler = self.make_train_dataloader()
        finally:
            self.data_collator = collate
        if sampler is not None:
            # With several processes this is accelerate's wrapper, and an epoch that goes on from a checkpoint has one
            # more around it, which Trainer looks through: it looks through one.
            loader.batch_sampler.set_epoch = sampler.set_epoch
        return loader

    def make_train_dataloader(self) -> tuple[DataLoader, Sampler | None]:
        """The loader, and what in it has to know the epoch."""
        self._sampler = None
        return super().get_train_dataloader(), self._sampler

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler | None:
        sampler = super()._get_train_sampler(train_dataset)
        if sampler is None or isinstance(sampler, SequentialSampler) or not hasattr(sampler, "generator"):
            return sampler
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        self._sampler = SeededByEpoch(sampler, seed)
        return self._sampler

    def training_step(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor:
        """As in `Trainer`; the loss of the batch is watched."""
        ids = inputs.pop("ids", ())
        loss = super().training_step(model, inputs, num_items_in_batch)
        self.watch.see(loss * self.current_gradient_accumulation_steps, ids)
        return loss

    # Where a run goes on.

    def _init_training_state(self, *args, **kwargs):
        found = super()._init_training_state(*args, **kwargs)
        if self._resumed is not None:
            self._find_best(self._resumed)
        return found

    def _find_best(self, checkpoint: Path):
        """The best checkpoint lies beside the one to go on from, wherever the two have been moved to.

        The path that was written down may be of another folder, or of another one to start from; Trainer would take
        it, or forget the best one, which would then be removed.
        """
        best, output_dir = best_checkpoint(checkpoint), Path(str(self.args.output_dir))
        if best is None or what_is_missing(best) is not None:
            return
        if best.parent.resolve() == output_dir.resolve():
            best = output_dir / best.name  # as the paths are spelled when older ones are removed
        self.state.best_model_checkpoint = str(best)

    def _run_epoch(self, *args, **kwargs):
        if self._resumed is not None:
            self._restore(self._resumed)
            self._resumed = None
        # Trainer would take one more step.
        if self._is_over or self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
            return
        super()._run_epoch(*args, **kwargs)

    def _progress(self) -> dict[str, Any]:
        counters = [
            callback.early_stopping_patience_counter
            for callback in self.callback_handler.callbacks
            if isinstance(callback, EarlyStoppingCallback)
        ]
        losses: Any = self.accelerator.gather(self._tr_loss.reshape(1))
        return {
            "loss_since_last_log": losses.tolist(),  # of each process
            "step_of_last_log": self._globalstep_last_logged,
            "evaluations_without_gain": counters,
            "is_over": self.control.should_training_stop,
            "is_regular": self.control.should_save,
        }

    def _restore(self, checkpoint: Path):
        progress = json.loads((checkpoint / PROGRESS_FILE).read_text(encoding="utf-8"))
        self._tr_loss += progress["loss_since_last_log"][self.args.process_index]
        self._globalstep_last_logged = progress["step_of_last_log"]
        self._is_over = progress["is_over"]
        stoppers = [c for c in self.callback_handler.callbacks if isinstance(c, EarlyStoppingCallback)]
        for callback, counter in zip(stoppers, progress["evaluations_without_gain"], strict=True):
            callback.early_stopping_patience_counter = counter

    # What is written.

    def _maybe_log_save_evaluate(
        self,
        tr_loss: torch.Tensor,
        grad_norm: torch.Tensor | float | None,
        model: torch.nn.Module,
        trial: Any,
        *args: Any,
        **kwargs: Any,
    ) -> None:
        control = self.control
        if control.should_log or control.should_evaluate or control.should_save:
            self.watch.check()
        if self._rotates_behind is not None and self.watch.finite_until > self._rotates_behind:
            self._rotate(trial)
        super()._maybe_log_save_evaluate(tr_loss, grad_norm, model, trial, *args, **kwargs)
        if self.args.world_size == 1:
            self.watch.stop_signal = self.watch.signals.signum
        if self.watch.stop_signal and not self.watch.epoch_end_is_due:
            if self._saved_step != self.state.global_step:
                self._save_checkpoint(model, trial)
            self._stop()

    def _stop(self):
        """Ends the run as it was asked to."""
        step, name = self.state.global_step, signal.Signals(self.watch.stop_signal).name
        raise Stopped(
            self.watch.stop_signal,
            f"{name}: stopped behind step {step} of {self.state.max_steps}; {self.args.output_dir} has what "
            "it takes to go on with the same command and --resume_from_checkpoint True.",
        )

    def _get_output_dir(self, trial: Any) -> str:
        return super()._get_output_dir(trial) if self._writes_to is None else str(self._writes_to)

    def _save_checkpoint(self, model: torch.nn.Module, trial: Any) -> None:
        self.watch.check()
        self._check_weights()
        folder, state = Path(self._get_output_dir(trial)), self.state
        name, is_writer = f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}", self.args.should_save
        staged = folder / UNFINISHED / name
        best_before = state.best_model_checkpoint
        last, _ = last_whole_checkpoint(folder)
        remedy = "Make room, and go on with --resume_from_checkpoint True" + (f": {last} is whole." if last else ".")
        with writing(name, folder, remedy):
            if is_writer:
                shutil.rmtree(staged.parent, ignore_errors=True)
                staged.mkdir(parents=True)
            self.accelerator.wait_for_everyone()
            self._writes_to = staged.parent
            try:
                super()._save_checkpoint(model, trial)
            except BaseException:
                shutil.rmtree(staged.parent, ignore_errors=True)  # gives the room back
                raise
            finally:
                self._writes_to = None
            # Trainer has looked for the best one where it wrote.
            progress = self._progress()
            state.best_model_checkpoint = best_before
            best = folder / f"{PREFIX_CHECKPOINT_DIR}-{state.best_global_step}"
            if progress["is_regular"] if best.name == name else _is_regular(best):
                state.best_model_checkpoint = str(best)
            if is_writer:
                state.save_to_json(str(staged / TRAINER_STATE_NAME))
                (staged / PROGRESS_FILE).write_text(json.dumps(progress, indent=2) + "\n", encoding="utf-8")
            self.accelerator.wait_for_everyone()
            if is_writer:
                finish_checkpoint(staged, folder / name)
        # The one before it goes when the step behind it was seen to have a finite loss: until then it may be the last
        # of use.
        self._saved_step = self._rotates_behind = state.global_step
        self.accelerator.wait_for_everyone()

    def _rotate(self, trial: Any):
        """Removes the oldest checkpoints, but neither the best nor the one that was saved last.

        By their steps, as a clock that was ahead would make an old one the last. Those of later steps are of before
        the run went back to an earlier one. They go first, the last of them before the others, one of which may be
        its best.
        """
        self._rotates_behind = None
        limit, best = self.args.save_total_limit, self.state.best_model_checkpoint
        found = checkpoints(Path(self._get_output_dir(trial)))
        if not self.args.should_save or not limit or limit < 0 or len(found) <= limit:
            return
        last_step = self.state.global_step if self._saved_step is None else self._saved_step
        later = [path for path in found if _step(path) > last_step]
        in_order = later + found[len(later) :][::-1]
        old = [path for path in in_order[:-1] if best is None or path != Path(best)]
        for path in old[: len(found) - limit]:
            shutil.rmtree(path, ignore_errors=True)

    def _finalize_training(self, trial: Any, *args: Any, **kwargs: Any) -> TrainOutput:
        self.watch.check()  # of the last step, where nothing was logged or saved behind it
        self._check_weights()
        self._rotate(trial)
        return super()._finalize_training(trial, *args, **kwargs)

    def _check_weights(self):
        """A checkpoint of weights that are no numbers must not take a good one's place."""
        parameters: list[Any] = [p.detach() for p in self.model.parameters()]
        local = [p.to_local() if hasattr(p, "to_local") else p for p in parameters]
        is_bad = ~torch.stack([torch.isfinite(p).all() for p in local]).all()
        if self.args.world_size > 1:
            is_bad = is_bad.float()
            dist.all_reduce(is_bad, dist.ReduceOp.MAX)
        if is_bad:
            step = self.state.global_step
            raise FloatingPointError(f"Weights are not finite behind step {step}{self.watch.tweets()}")
