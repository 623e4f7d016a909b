#!/usr/bin/env python
"""What it gains that PyTorch computes a global backbone with its batch norms folded into the convolutions' weights.

```bash
python benchmarks/folded_norms.py --backbones tf_efficientnet_lite0 resnet152
```

Processor time of the square crops by themselves, one thread: the backbone as it is and folded take turns, and the
ratio is the median of those within a round. To fold also lays the weights out as the pictures are (channels last).
Weights are drawn; features are compared relative to the largest. Drawn weights round more than trained ones, so what
the model allows between the two is raised here.
"""

import argparse
import statistics
import time

import torch

import networks_hamlearning
from configuration_hamlearning import HamLearningVisionConfig
from modeling_hamlearning_vision import HamLearningVisionModel
from pictures_speed import draw_weights
from workload import print_table, write_figures


ALLOWED = 1e-4  # the model folds what stays within 1e-5


@torch.no_grad()
def measure(architecture: str, batch_size: int, rounds: int) -> dict[str, float]:
    """Milliseconds a picture of both, their ratio, and how far their features are apart."""
    config = HamLearningVisionConfig(global_backbone_config={"architecture": architecture}, detector="grid")
    vision_model = HamLearningVisionModel(config).eval()
    draw_weights(vision_model.global_backbone.timm_model)
    modules = {"as it is": vision_model._backbone_states(), "folded": vision_model._folded_states()}
    if any(isinstance(module, torch.nn.BatchNorm2d) for module in modules["folded"].modules()):
        raise ValueError(f"{architecture}: not every batch norm can be folded, so there is nothing to compare.")
    crops = torch.randint(0, 256, (batch_size, 3, config.crop_size, config.crop_size), dtype=torch.uint8)
    crops = crops.contiguous(memory_format=torch.channels_last)
    (plain, *_), (folded, *_) = (module(crops) for module in modules.values())  # the first call is not counted

    times: dict[str, list[float]] = {name: [] for name in modules}
    for _ in range(rounds):
        for name, module in modules.items():
            start = time.process_time()
            module(crops)
            times[name].append(1000 * (time.process_time() - start) / batch_size)
    ratios = [before / after for before, after in zip(times["as it is"], times["folded"], strict=True)]
    return {f"{name}, ms": statistics.median(values) for name, values in times.items()} | {
        "times as fast": statistics.median(ratios),
        "features apart": float((plain - folded).abs().max() / plain.abs().max()),
    }


def main() -> None:
    """Prints a table, and writes it as JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbones", nargs="+", default=["tf_efficientnet_lite0"], help="models of timm")
    parser.add_argument("--batch_sizes", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", help="also write the figures here")
    options = parser.parse_args()

    torch.set_num_threads(1)
    torch.manual_seed(1)
    networks_hamlearning.MAX_FOLDING_ERROR = ALLOWED
    found = {
        f"{architecture}, batch {batch_size}": measure(architecture, batch_size, options.rounds)
        for architecture in options.backbones
        for batch_size in options.batch_sizes
    }
    rows = [[name, *(f"{value:.3g}" for value in figures.values())] for name, figures in found.items()]
    print_table(["a picture, one thread", *next(iter(found.values()))], rows)
    write_figures(found, options)


if __name__ == "__main__":
    main()
