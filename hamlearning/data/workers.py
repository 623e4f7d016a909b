"""Processes that load data: which signals they outlive, and how it shows that one has died."""

import os
import signal
import threading


def outlive_a_signal(worker_id: int = 0) -> None:
    """Lets SIGINT, and the first SIGTERM, pass in a process that loads data; it ends with the run.

    A terminal and some clusters send them to these processes too. But the running step may need their batch, and
    PyTorch takes their end for a failure. It is a `worker_init_fn`: PyTorch sets another handler before.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # else PyTorch's own handler stays: macOS does not say who has sent a signal
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_await_the_end, daemon=True).start()


def _await_the_end() -> None:
    """Ends this process at SIGTERM of its parent, which ends so what it has started, or at the second of another."""
    for is_last in (False, True):
        if signal.sigwaitinfo({signal.SIGTERM}).si_pid == os.getppid() or is_last:
            os._exit(0)


def lost_process(error: BaseException, num_workers: int) -> str | None:
    """What shows that a process that loads data has died, in whichever way PyTorch met with it; None if none has."""
    if num_workers and isinstance(error, EOFError | ConnectionError):  # while it handed a batch over
        return type(error).__name__
    text = str(error).partition("\n")[0].strip()
    return text if isinstance(error, RuntimeError) and text.startswith("DataLoader worker") else None
