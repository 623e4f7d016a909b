"""What ends a program: signals, and errors that its user can mend."""

import difflib
import dis
import errno
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from types import FrameType
from typing import Any

from hamlearning.data.workers import lost_process


class Stopped(KeyboardInterrupt):
    """The run was asked to stop by a signal, and has.

    Args:
        signum: the signal.
        message: where it stopped, and how to go on.
    """

    def __init__(self, signum: int, message: str):
        super().__init__(message)
        self.signum = signum


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


def run_from_terminal(main: Callable[[], Any], any_error: bool = False) -> int:
    """Runs a program so that what its user can mend is one sentence, and returns the exit code.

    An error that this project raised itself (with a remedy), and one of the system that names its file, is printed
    behind `error:`; whatever else happens keeps its traceback.

    Args:
        main: the program.
        any_error: whether OSError and ValueError of other libraries are printed in this way too, where little of ours
            stands between what the user gave and them. Such a program has no checkpoints to go on from.
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
        if where == "Stopped." and not any_error:
            where += (
                " Checkpoints and extracted features stay: go on with the same command, a training with "
                "--resume_from_checkpoint True."
            )
        print(where, file=sys.stderr)
        return 128 + signum
    except Exception as error:
        try:
            sentence = remedied(error)
        except RuntimeError as late:  # PyTorch's, that a process has died: it is raised at any moment, so in there too
            sentence = remedied(late)
        if sentence is None and any_error and isinstance(error, OSError | ValueError):
            sentence = str(error)
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
    # A `raise` of our own, not something that a call on that line raised.
    is_raised = dis.opname[code.co_code[trace.tb_lasti]] == "RAISE_VARARGS"
    return str(error) if is_raised and _is_ours(Path(code.co_filename).resolve()) else None


def _is_ours(path: Path) -> bool:
    """Whether a file of code is one of the package, or of the model's files beside it."""
    package = Path(__file__).resolve().parents[1]
    is_of_model = "hamlearning" in path.stem or path.stem == "modeling_faster_rcnn_vg"
    return path.is_relative_to(package) or path.parent == package.parent and is_of_model


def proposal(given: str, known: Iterable[str]) -> str:
    """The end of a sentence on what is not known: the nearest of what is, if any is near."""
    given, known = given.partition("=")[0], list(known)
    near = [name for name in known if name.startswith(given)] or difflib.get_close_matches(given, known, n=1)
    return f": did you mean {near[0]}?" if near else "."
