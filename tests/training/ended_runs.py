"""Runs that somebody ends: children of a server that has imported `run_mner`, which saves them the importing."""

import multiprocessing
import os
import signal
import sys
import time
from pathlib import Path

from hamlearning.training.run import main as run_mner
from hamlearning.training.signals import run_from_terminal


def run(arguments: list[str], log: Path):
    """What `python run_mner.py` does."""
    descriptor = os.open(log, os.O_CREAT | os.O_APPEND | os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(descriptor, stream)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    multiprocessing.set_start_method(None, force=True)  # its own processes are made as a user's are
    sys.argv = ["run_mner.py", *arguments]
    sys.exit(run_from_terminal(run_mner))


def start(arguments: list[str], log: Path) -> multiprocessing.Process:
    """Starts such a run."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["ended_runs"])
    process = context.Process(target=run, args=(arguments, log))
    process.start()
    return process


def wait_for(condition, process, seconds: float = 300):
    """Waits until a condition holds, or the process has ended; returns whether it held."""
    end = time.monotonic() + seconds
    while process.is_alive():
        if condition():
            return True
        if time.monotonic() > end:
            raise TimeoutError(f"{condition} did not come true in {seconds} s")
        time.sleep(0.0005)
    return condition()
