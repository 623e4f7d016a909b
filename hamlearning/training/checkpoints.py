"""Checkpoints that are whole, whatever the moment of a kill."""

import json
import re
import shutil
from pathlib import Path

from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from hamlearning.data.files import sync


UNFINISHED = "unfinished"  # what is being written, and what a kill has left of it
FILES_FILE = "files.json"  # of a checkpoint: its files' sizes, written last
PROGRESS_FILE = "progress.json"  # of a checkpoint: what Trainer forgets


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
    return sorted((path for path, match in found.items() if match and path.is_dir()), key=step_of, reverse=True)


def step_of(checkpoint: Path) -> int:
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


def what_is_missing_of_best(checkpoint: Path) -> tuple[Path, str] | None:
    """The best checkpoint that a checkpoint names, and what it lacks; None if it lacks nothing, or there is none."""
    best = best_checkpoint(checkpoint)
    missing = None if best is None else what_is_missing(best)
    if best is None or missing is None:
        return None
    return best, f"is not whole: {missing}" if best.is_dir() else "is not there"


def is_regular(checkpoint: Path) -> bool:
    """Whether the run would have this checkpoint had nobody stopped it, so that it may be chosen as the best."""
    if not (checkpoint / PROGRESS_FILE).is_file():
        return False
    return json.loads((checkpoint / PROGRESS_FILE).read_text(encoding="utf-8"))["is_regular"]
