"""Processes that load data: what they outlive, and that they end with the program."""

import os
import signal
import subprocess
import sys
import time

import pytest


if not hasattr(signal, "sigwaitinfo"):
    pytest.skip("this system does not say who has sent a signal", allow_module_level=True)

# Says the worker's process, and holds the iterator to the end, as a traceback does.
PROGRAM = """
import os, sys, time
import torch
from torch.utils.data import DataLoader
from hamlearning.data.workers import outlive_a_signal

class Processes(torch.utils.data.Dataset):
    def __len__(self):
        return 100

    def __getitem__(self, index):
        return os.getpid()

loader = iter(DataLoader(Processes(), batch_size=1, num_workers=1, worker_init_fn=outlive_a_signal))
print(int(next(loader)), flush=True)
"""


@pytest.fixture
def start():
    processes = []

    def start(rest: str) -> subprocess.Popen:
        command = [sys.executable, "-c", PROGRAM + rest]
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        processes.append(subprocess.Popen(command, text=True, start_new_session=True, **pipes))
        return processes[-1]

    yield start
    for process in processes:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)  # its worker too


def test_an_error_ends_the_program_and_its_worker(start):
    process = start("sys.last_frame = loader; raise OSError('No space left')")
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 1 and "No space left" in errors
    with pytest.raises(ProcessLookupError):
        os.kill(int(output), 0)


def test_a_worker_outlives_one_signal_of_a_stranger_and_not_the_second(start):
    process = start("input(); print(int(next(loader)), flush=True); input()")
    worker = int(process.stdout.readline())
    os.kill(worker, signal.SIGTERM)
    os.kill(worker, signal.SIGINT)
    time.sleep(0.5)
    process.stdin.write("\n")
    process.stdin.flush()
    assert int(process.stdout.readline()) == worker
    os.kill(worker, signal.SIGTERM)
    process.stdin.write("\n")
    process.communicate(timeout=60)
    assert process.returncode == 0
