"""Losses and signals of all processes, seen one step late."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from hamlearning.training.signals import StopSignals


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
