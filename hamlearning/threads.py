"""How our programs share a machine: settings of the threads, which PyTorch reads when it is imported.

PyTorch's threads turn in circles for milliseconds when they have nothing to do, on cores that another program, or the
very thread that they wait for, could use. `hamlearning info` says what is set here.
"""

import math
import os
from pathlib import Path


# Some microseconds of turning, as between two operations of a step; then a thread sleeps. Unset: 300,000 turns.
SPINS = "1000"
USERS_OWN = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")


def share_the_machine() -> None:
    """Sets how threads wait, and how many there are at most where a container has a share of the cores.

    Before PyTorch is imported. What the user has set stays.
    """
    if not any(name in os.environ for name in USERS_OWN):
        os.environ["GOMP_SPINCOUNT"] = SPINS  # of GNU's OpenMP
        os.environ["KMP_BLOCKTIME"] = "1"  # of Intel's and LLVM's, in milliseconds
    share = core_share()
    if share is not None and share < usable_cores():
        os.environ.setdefault("OMP_NUM_THREADS", str(max(math.floor(share), 1)))


def usable_cores() -> int:
    """The cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def core_share(root: Path = Path("/sys/fs/cgroup"), process: Path = Path("/proc/self/cgroup")) -> float | None:
    """How many cores' time the container may take; None where nothing limits it.

    Args:
        root: where the control groups are.
        process: the file that names those of this process.
    """
    shares = []
    for folder in _groups(root, process):
        quota, period = _read(folder / "cpu.max"), []
        if not quota:
            quota, period = _read(folder / "cpu.cfs_quota_us"), _read(folder / "cpu.cfs_period_us")
        numbers = [int(text) for text in (quota + period)[:2] if text.isdigit()]
        if len(numbers) == 2 and min(numbers) > 0:  # "max", or -1: no limit
            shares.append(numbers[0] / numbers[1])
    return min(shares, default=None)


def _groups(root: Path, process: Path) -> list[Path]:
    """The folders of this process' group, and of those around it, in both versions of control groups."""
    folders = [root, root / "cpu"]
    for line in _read_lines(process):
        _, controllers, path = (line.split(":", 2) + ["", ""])[:3]
        base = root if controllers == "" else root / "cpu"
        if controllers == "" or "cpu" in controllers.split(","):
            parts = [part for part in path.split("/") if part not in ("", "..")]
            folders += [base.joinpath(*parts[: depth + 1]) for depth in range(len(parts))]
    return folders


def _read(path: Path) -> list[str]:
    return " ".join(_read_lines(path)).split()


def _read_lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return []
