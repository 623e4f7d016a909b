#!/usr/bin/env python
"""What one GPU does, in one command and under 8 minutes: every system, the vision model, torch.compile.

```bash
python benchmarks/gpu.py bert-base --json gpu.json
```

Measured with random weights (`rivals_speed.py`): training and prediction tweets/s of transformers' own token
classifier, BERT-CRF, HamLearning and every rival, in fp32 and bf16, at batches of 32 and 256; HamLearning compiled;
the vision model's pictures/s (ResNet-152 with `faster_rcnn_vg`). Peak memory is that of training. Beside HamLearning's
figures stands what docs/scaling.md predicts of an H100 for it. What no time is left for (`--limit`, seconds), and what
fails, is named with its reason. Without a GPU it runs on the CPU: name a tiny config and few systems there.
"""

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from hamlearning.rivals.architectures import HAMLEARNING
from modeling_hamlearning_vision import HamLearningVisionConfig, HamLearningVisionModel
from operations import PRESETS
from rivals_speed import PLAIN, SYSTEMS, measure, table
from workload import PRECISIONS, markdown_table, write_figures


PREDICTIONS = Path(__file__).parents[1] / "docs" / "scaling.md"


def predicted(source: str, task: str, tweets: int) -> str:
    """Tweets/s of an H100 in docs/scaling.md, with 15 regions in bf16; nothing where it predicts none."""
    for line in PREDICTIONS.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if cells[:3] == [f"{source}, regions", task, str(tweets)]:
            return cells[9]
    return ""


def measure_vision(detector: str, backbone: str, device: torch.device, pictures: int, seconds: float) -> dict:
    """Pictures a second that a vision model with random weights reads, decoded already."""
    config = HamLearningVisionConfig(global_backbone_config={"architecture": backbone}, detector=detector)
    model = HamLearningVisionModel(config).to(device).eval()
    rng = np.random.default_rng(1)
    images = [Image.fromarray(rng.integers(0, 256, (480, 640, 3), np.uint8)) for _ in range(pictures)]
    times, start = [], time.perf_counter()
    while len(times) < 2 or time.perf_counter() - start < seconds:
        begin = time.perf_counter()
        model.extract_images(images, 0)
        times.append(time.perf_counter() - begin)
    figures = {"detector": detector, "backbone": backbone, "batch": pictures}
    return figures | {"pictures": pictures / statistics.median(times[1:])}


def within(limit: float, jobs: list[tuple[dict, Any]]) -> list[dict]:
    """What each job gives, or why it gave nothing; none begins behind the limit."""
    start, figures = time.perf_counter(), []
    for what, job in jobs:
        if time.perf_counter() - start > limit:
            figures.append(what | {"problem": "no time was left"})
            continue
        try:
            figures.append(job())
        except Exception as error:  # what one system lacks, memory perhaps, is no reason to lose all others
            figures.append(what | {"problem": f"{type(error).__name__}: {error}".splitlines()[0][:200]})
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
        print({name: value for name, value in figures[-1].items() if name != "new_parameters"}, flush=True)
    return figures


def main():
    """Prints tables, and writes the figures as JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", help=f"{', '.join(PRESETS)}, or a folder with config.json; its weights are not read")
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, default=list(SYSTEMS))
    parser.add_argument("--batch_sizes", nargs="+", type=int, default=[32, 256])
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=list(PRECISIONS))
    parser.add_argument("--detectors", nargs="*", default=["grid", "faster_rcnn_vg"])
    parser.add_argument("--backbone", default="resnet152", help="of the vision model, a name in timm")
    parser.add_argument("--pictures", type=int, default=16, help="so many at a time")
    parser.add_argument("--no_compile", action="store_true", help="leave out torch.compile")
    parser.add_argument("--seconds", type=float, default=1.0, help="so long each is repeated")
    parser.add_argument("--limit", type=float, default=400, help="seconds behind which nothing new begins")
    parser.add_argument("--json", metavar="FILE", help="also write the figures here, as JSON")
    options = parser.parse_args()
    device = torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")

    def job(system: str, precision: str, tweets: int, compiled: bool = False) -> tuple[dict, Any]:
        what = {"system": system, "precision": precision, "batch": tweets, "compiled": compiled}
        return what, lambda: measure(system, options.config, device, precision, tweets, options.seconds, compiled)

    first = [system for system in options.systems if system in (PLAIN, HAMLEARNING)]  # told in any case
    systems = [*first, *(system for system in options.systems if system not in first)]
    points = [(precision, tweets) for tweets in options.batch_sizes for precision in reversed(options.precisions)]
    jobs = [job(system, *point) for system in first for point in points]
    jobs += [
        (
            {"detector": detector, "backbone": options.backbone, "batch": options.pictures},
            lambda detector=detector: measure_vision(
                detector, options.backbone, device, options.pictures, options.seconds
            ),
        )
        for detector in options.detectors
    ]
    if not options.no_compile and HAMLEARNING in first:
        jobs.append(job(HAMLEARNING, options.precisions[-1], options.batch_sizes[-1], compiled=True))
    jobs += [job(system, *point) for point in points for system in systems if system not in first]
    figures = within(options.limit, jobs)

    name = torch.cuda.get_device_name() if device.type == "cuda" else device.type
    print(f"\n{name}, PyTorch {torch.__version__}\n")
    networks, visions = [e for e in figures if "system" in e], [e for e in figures if "detector" in e]
    print("\n".join(table(networks)), end="\n\n")
    if visions:
        rows = [[e["detector"], e["backbone"], e.get("problem") or f"{e['pictures']:,.1f}"] for e in visions]
        print("\n".join(markdown_table(["detector", "backbone", "pictures/s"], rows)), end="\n\n")
    rows = [
        [task, str(e["batch"]), f"{e[key]:,.0f}", predicted(options.config, task, e["batch"]) or "none"]
        for e in networks
        if e["system"] == HAMLEARNING and e["precision"] == "bf16" and "train" in e and not e["compiled"]
        for task, key in (("train", "train"), ("tag", "predict"))
    ]
    print("\n".join(markdown_table(["HamLearning, bf16", "batch", "tweets/s", "predicted, H100"], rows)))
    write_figures({"device": name, "torch": torch.__version__, "figures": figures}, options)


if __name__ == "__main__":
    main()
