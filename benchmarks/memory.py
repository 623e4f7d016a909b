#!/usr/bin/env python
"""Peak memory of a training step beside what it must hold, by batch size.

```bash
python benchmarks/memory.py bert-base --json memory.json
python benchmarks/memory.py minilm --kinds captions --precisions bf16 --batch_sizes 32 64
```

A step is that of `training_step.py`, on the longest tweets, which need the most. Each point has a process of its own:
what one point has freed a process may keep for the next.

The peak is of the bytes in tensors: `torch.cuda.max_memory_allocated`, and on a CPU the same figure from the
allocations that PyTorch's profiler records. It is what the step asks for, the same on every run. `resident` is what
the system gave to the process on a CPU beyond what it had before the network was made: with the matrix library's
buffers and what the allocator holds back, so it varies with the machine.

What a step must hold: parameters, gradients, the optimiser's states and the text encoder's activations, which are the
tensors that autograd saved there for the backward pass, every storage once. `ratio` is the peak over their sum, and up
to 1.3 is good. It may be below 1: at the optimiser's step the activations are gone, and when they are most there are
no gradients yet. In bf16 autograd also keeps a copy of the weights in bfloat16. It is no activation: see `copies`.
"""

import argparse
import json
import tempfile
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

from hamlearning.training.trainer import MNERTrainer
from training_step import Clock, train_epoch
from workload import KINDS, add_workload_arguments, make_trainer, print_table, read_tweets, write_figures


GOOD = 1.3


class SavedBytes(TorchDispatchMode):
    """Bytes saved for a model's backward pass: in its text encoder, elsewhere, and in copies of weights."""

    def __init__(self, model: torch.nn.Module):
        super().__init__()
        self.encoder = self.other = self.copies = 0
        self._place = "other"
        self._parameters = {p.untyped_storage()._cdata for p in model.parameters()}
        self._copied: set[int] = set()
        self._seen: set[int] = (
            set()
        )  # alive until the backward pass, so none comes twice; a fake one has no other address
        encoder = model.model.text_model
        self._hooks = [
            encoder.register_forward_pre_hook(lambda *_: setattr(self, "_place", "encoder")),
            encoder.register_forward_hook(lambda *_: setattr(self, "_place", "other")),
        ]
        self._saved = torch.autograd.graph.saved_tensors_hooks(self._pack, lambda tensor: tensor)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if func is torch.ops.aten._to_copy.default and args[0].untyped_storage()._cdata in self._parameters:
            self._copied.add(out.untyped_storage()._cdata)
        return out

    def _pack(self, tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        address = storage._cdata
        if address not in self._seen | self._parameters:
            self._seen.add(address)
            place = "copies" if address in self._copied else self._place
            setattr(self, place, getattr(self, place) + storage.nbytes())
        return tensor

    def __enter__(self):
        self._saved.__enter__()
        return super().__enter__()

    def __exit__(self, *error):
        super().__exit__(*error)
        self._saved.__exit__(*error)
        for hook in self._hooks:
            hook.remove()


def resident_bytes(peak: bool = False) -> int:
    """What this process holds of the machine's memory, or the most since `reset_resident_peak`."""
    field = "VmHWM:" if peak else "VmRSS:"
    status = Path("/proc/self/status").read_text()
    return 1024 * next(int(line.split()[1]) for line in status.splitlines() if line.startswith(field))


def reset_resident_peak():
    Path("/proc/self/clear_refs").write_text("5")


def peak_bytes(trainer: MNERTrainer, precision: str, held: int) -> int:
    """Most bytes in tensors during one step that begins with `held` of them."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        train_epoch(trainer, precision, Clock())
        return torch.cuda.max_memory_allocated()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        train_epoch(trainer, precision, Clock())
    trace = Path(trainer.args.output_dir, "trace.json")
    profiler.export_chrome_trace(str(trace))
    events = json.loads(trace.read_text())["traceEvents"]
    return held + max(event["args"]["Total Allocated"] for event in events if event.get("name") == "[memory]")


def measure(precision: str, *of_trainer) -> dict[str, float]:
    """Bytes at the peak of a training step on the longest tweets, and what it must hold."""
    before = resident_bytes()
    trainer = make_trainer(*of_trainer)
    size = trainer.args.per_device_train_batch_size
    longest_first = np.argsort(trainer.train_dataset["length"])[::-1]
    trainer.train_dataset = trainer.train_dataset.select(longest_first[:size])
    model = trainer.model

    train_epoch(trainer, precision, Clock())  # makes the optimiser's states
    parameters = sum(p.numel() * p.element_size() for p in model.parameters())
    states = sum(
        value.numel() * value.element_size()
        for state in trainer.optimizer.state.values()
        for value in state.values()
        if isinstance(value, torch.Tensor)
    )
    reset_resident_peak()
    train_epoch(trainer, precision, Clock())
    resident = resident_bytes(peak=True) - before
    peak = peak_bytes(trainer, precision, parameters + states)
    with SavedBytes(model) as saved:
        train_epoch(trainer, precision, Clock())
    return {
        "peak": peak,
        "parameters": parameters,
        "gradients": parameters,
        "states": states,
        "encoder_activations": saved.encoder,
        "ratio": peak / (2 * parameters + states + saved.encoder),
        "other_activations": saved.other,
        "copies": saved.copies,
        "resident": resident,
    }


def main():
    """Prints a table, and writes it as JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_workload_arguments(parser)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS), help="of tweets")
    parser.add_argument("--batch_sizes", type=int, nargs="+", default=[8, 16, 32, 64])
    options = parser.parse_args()
    if max(options.batch_sizes) > options.tweets:
        raise ValueError(f"--batch_sizes {max(options.batch_sizes)} of --tweets {options.tweets}: give more tweets.")

    tweets, tokenizer = read_tweets(options)
    figures = {"config": options.config, "tweets": len(tweets), "torch": torch.__version__, "bytes": {}}
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for kind, precision, size in product(options.kinds, options.precisions, options.batch_sizes):
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
                of_trainer = (options.config, kind, tweets, tokenizer, size, folder)
                found = process.submit(measure, precision, *of_trainer).result()
            case = f"{kind} {precision}"
            figures["bytes"][f"{case} {size}"] = found
            print(f"{case}, batch {size}: {found['ratio']:.2f}", flush=True)
            cells = [f"{value:.2f}" if name == "ratio" else f"{value / 1e6:.1f}" for name, value in found.items()]
            rows.append([case, str(size), *cells])
    print("\nMB, and the ratio of the peak to what a step must hold\n")
    print_table(["tweets", "batch", *(name.replace("_", " ") for name in found)], rows)
    worst = max(figures["bytes"].items(), key=lambda item: item[1]["ratio"])
    is_good = "good" if worst[1]["ratio"] <= GOOD else f"more than {GOOD}"
    print(f"\nlargest ratio: {worst[1]['ratio']:.2f} ({worst[0]}), {is_good}")
    write_figures(figures, options)


if __name__ == "__main__":
    main()
