"""Run by torchrun: three steps of two processes, in the second of which the last process's loss is no number."""

import os

import torch
import torch.distributed as dist
from transformers import TrainerControl, TrainerState

from hamlearning.training.watch import StepWatch


def main():
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    watch, state, control = StepWatch(world_size=2), TrainerState(epoch=0.5), TrainerControl()
    try:
        for step in (1, 2, 3):
            state.global_step = step
            watch.see(torch.tensor(float("nan") if (step, rank) == (2, 1) else float(step)), [f"tweet{rank}"])
            watch.on_step_end(None, state, control)
    except FloatingPointError as error:
        # One write: a line and its end by themselves may have those of the other process between them.
        os.write(1, f"rank {rank}, step {state.global_step}: {error}.\n".encode())
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
