"""Run by torchrun: the gradient of two processes with half a batch each, beside that of one with the whole batch."""

import sys

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from modeling_hamlearning import HamLearningForTokenClassification


def main():
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    batch = torch.load(f"{sys.argv[1]}/batch.pt", weights_only=True)
    halves = [{name: value[half::2] for name, value in batch.items()} for half in (0, 1)]
    model = HamLearningForTokenClassification.from_pretrained(sys.argv[1]).train()
    parallel = DistributedDataParallel(model)  # find_unused_parameters is off
    parallel(**halves[rank]).loss.backward()
    shared = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    model(**batch).loss.backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(
            shared[name], parameter.grad, atol=1e-5, rtol=1e-4, msg=lambda m, n=name: f"{n}: {m}"
        )
    print(f"rank {rank}: {len(shared)} equal gradients")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
