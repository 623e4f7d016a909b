"""Run by torchrun: the gradients of two processes with half a batch each, beside those of one; of each model given.

What a system makes of a batch as a whole, as MAF's contrast, is made of a process's own tweets: so one process takes
the halves one after the other, and the mean of their gradients is compared.
"""

import sys

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from hamlearning.rivals.architectures import architecture_of, class_of


def check(folder: str, rank: int):
    batch = torch.load(f"{folder}/batch.pt", weights_only=True)
    halves = [{name: value[half::2] for name, value in batch.items()} for half in (0, 1)]
    model = class_of(architecture_of(folder)).from_pretrained(folder).train()
    for dropout in (module for module in model.modules() if isinstance(module, torch.nn.Dropout)):
        dropout.p = 0.0  # that of matching is no field of the config
    parallel = DistributedDataParallel(model)  # find_unused_parameters is off
    for _ in range(2):  # the second time it says which parameters had no gradient in the first
        model.zero_grad()
        parallel(**halves[rank]).loss.backward()
    shared = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    for half in halves:
        (model(**half).loss / 2).backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(
            shared[name], parameter.grad, atol=1e-5, rtol=1e-4, msg=lambda m, n=name: f"{folder}: {n}: {m}"
        )
    print(f"rank {rank}: {len(shared)} equal gradients of {architecture_of(folder)}.", flush=True)


def main():
    dist.init_process_group("gloo")
    for folder in sys.argv[1:]:
        check(folder, dist.get_rank())
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
