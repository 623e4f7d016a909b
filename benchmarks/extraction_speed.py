#!/usr/bin/env python
"""Time of extracting visual features: by PyTorch and by OpenVINO, beside the bare forward passes, in two processes.

```bash
python benchmarks/extraction_speed.py --backbone tf_efficientnet_lite0 --runtimes torch openvino
python benchmarks/extraction_speed.py --detector grid --pictures 64
python benchmarks/extraction_speed.py --detector faster_rcnn_vg --pictures 4
python benchmarks/extraction_speed.py --detector grid --pictures 128 --processes 2
```

With `--runtimes` the same extraction is timed by each of them in turn; what is compiled is compiled before.

The vision model is ResNet-152 (or `--backbone`) and the detector, with random weights: time does not depend on them,
but for the number of regions. Extraction reads and decodes JPEG files in a worker process, computes the features of
the pictures and writes the visual feature file. The bare forward passes are those of the same networks on the same
tensors, prepared beforehand: of the global backbone on batches of crops and on each whole picture, and of the detector
on each picture. Rounds alternate; reported are the medians. With `--processes` the same extraction is timed in one
process and in several, one thread each, and in one with as many threads.
"""

import argparse
import functools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from accelerate import PartialState
from datasets import Dataset, DatasetDict
from PIL import Image

from configuration_hamlearning import HamLearningVisionConfig
from hamlearning.pictures.extraction import extract_visual_features
from hamlearning.pictures.tweet_images import TweetImages
from image_processing_hamlearning import read_image
from modeling_hamlearning_vision import HamLearningVisionModel, prepare_image
from networks_hamlearning import RUNTIMES


SIZES = ((1200, 675), (680, 510), (598, 337), (1024, 1024), (600, 900), (1200, 800), (440, 220), (2048, 1536))
BATCH = 8


def write_pictures(folder: Path, count: int, seed: int) -> None:
    """JPEG files of the sizes that tweets have, smooth with some noise, as photographs are."""
    rng = np.random.default_rng(seed)
    for number in range(count):
        width, height = SIZES[number % len(SIZES)]
        coarse = Image.fromarray(rng.integers(0, 256, (9, 12, 3), dtype=np.uint8)).resize((width, height))
        noisy = np.asarray(coarse, np.int16) + rng.integers(-12, 13, (height, width, 3))
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(folder / f"{number}.jpg", quality=88)


def bare_seconds(vision_model: HamLearningVisionModel, prepared) -> float:
    """The forward passes alone."""
    start = time.perf_counter()
    with torch.no_grad():
        for first in range(0, len(prepared), BATCH):
            vision_model.feature_map(torch.stack([picture.crop for picture in prepared[first : first + BATCH]]))
        for picture in prepared:
            if picture.whole is not None:
                vision_model.feature_map(picture.whole[None])
            vision_model.detector(picture.detector_inputs, picture.size)
    return time.perf_counter() - start


def extraction_seconds(vision_model: HamLearningVisionModel, images: TweetImages, folder: Path | None = None) -> float:
    """The whole way from files to a file; all processes of the run together, into the same `folder`."""
    with tempfile.TemporaryDirectory() as own_folder:
        PartialState().wait_for_everyone()
        start = time.perf_counter()
        extract_visual_features(images, vision_model, folder or own_folder, BATCH)
        return time.perf_counter() - start


def runtime_seconds(vision_model: HamLearningVisionModel, images: TweetImages, runtime: str) -> float:
    """`extraction_seconds` by one runtime."""
    vision_model.runtime = runtime
    return extraction_seconds(vision_model, images)


def process_seconds(options: argparse.Namespace, pictures: Path, processes: int, threads: int) -> float:
    """`extraction_seconds` in a run of its own."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
        command += [__file__, "--detector", options.detector, "--backbone", options.backbone]
        command += ["--extract", str(pictures), folder]
        environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
        run = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    return float(run.stdout.split()[-1])


def main() -> None:
    """Prints a table, and writes it as JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--detector", default="grid", choices=("grid", "faster_rcnn_vg"))
    parser.add_argument("--backbone", default="resnet152", help="a model of timm [%(default)s]")
    parser.add_argument("--runtimes", nargs="+", choices=RUNTIMES, help="compare these, the first with the others")
    parser.add_argument("--pictures", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--processes", type=int, default=1, help="compare so many processes with one")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", help="also write the figures here")
    parser.add_argument("--extract", nargs=2, type=Path, help=argparse.SUPPRESS)  # a process of `process_seconds`
    options = parser.parse_args()

    PartialState(cpu=not torch.accelerator.is_available())  # without `cpu` it sees one process alone on a CPU
    torch.manual_seed(options.seed)
    backbone = {"architecture": options.backbone}
    config = HamLearningVisionConfig(global_backbone_config=backbone, detector=options.detector)
    vision_model = HamLearningVisionModel(config)
    if options.extract is not None:
        pictures, target = options.extract
        seconds = extraction_seconds(vision_model, tweet_images(pictures), target)
        if PartialState().is_main_process:
            print(seconds)
        return
    with tempfile.TemporaryDirectory() as folder:
        write_pictures(Path(folder), options.pictures, options.seed)
        images = tweet_images(Path(folder))
        if options.processes > 1:
            contestants = {
                "one process, one thread": lambda: process_seconds(options, Path(folder), 1, 1),
                f"one process, {options.processes} threads": lambda: process_seconds(
                    options, Path(folder), 1, options.processes
                ),
                f"{options.processes} processes, one thread each": lambda: process_seconds(
                    options, Path(folder), options.processes, 1
                ),
            }
        elif options.runtimes:
            vision_model.extract_images([images[0]])
            contestants = {
                runtime: functools.partial(runtime_seconds, vision_model, images, runtime)
                for runtime in options.runtimes
            }
        else:
            prepared = [prepare_image(read_image(images[index]), vision_model.config) for index in range(len(images))]
            contestants = {
                "bare forward passes": lambda: bare_seconds(vision_model, prepared),
                "extraction": lambda: extraction_seconds(vision_model, images),
            }
        seconds: dict[str, list[float]] = {name: [] for name in contestants}
        for round_ in range(options.rounds):
            for name, contestant in contestants.items():
                seconds[name].append(contestant())
            print(f"round {round_ + 1}:", {name: round(values[-1], 2) for name, values in seconds.items()}, flush=True)
    first = next(iter(contestants))
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    print(
        f"\n{len(images)} pictures, {options.backbone} + {options.detector}, {torch.get_num_threads()} threads;",
        end="",
    )
    print(f" load of the machine {load}\n")
    print(f"| | seconds | pictures/s | time over {first} (median of rounds) |\n|---|---|---|---|")
    ratios = {}
    for name, values in seconds.items():
        ratios[name] = statistics.median(a / b for a, b in zip(values, seconds[first], strict=True))
        middle = statistics.median(values)
        print(f"| {name} | {middle:.2f} | {len(images) / middle:.2f} | {ratios[name]:.2f} |")
    if options.json:
        Path(options.json).write_text(json.dumps({"seconds": seconds, "ratio": ratios}, indent=2) + "\n")


def tweet_images(folder: Path) -> TweetImages:
    """The pictures of a folder, as those of tweets."""
    ids = sorted((path.stem for path in folder.glob("*.jpg")), key=int)
    return TweetImages(DatasetDict({"train": Dataset.from_dict({"id": ids})}), folder)


if __name__ == "__main__":
    main()
