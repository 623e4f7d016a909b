#!/usr/bin/env python
"""The most memory that extraction holds, by how many pictures there are.

```bash
python benchmarks/extraction_memory.py --pictures 1000 20000
```

Each count is a process of its own. EfficientNet-Lite0 of random weights and `grid` see small pictures (`--side`
pixels), so that thousands take minutes. The peak is that of the process that computes and of the one that decodes,
each by itself.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from datasets import Dataset, DatasetDict
from PIL import Image

from configuration_hamlearning import HamLearningVisionConfig
from hamlearning.pictures.extraction import extract_visual_features
from hamlearning.pictures.tweet_images import TweetImages
from modeling_hamlearning_vision import HamLearningVisionModel
from workload import print_table, write_figures


def write_small_pictures(folder: Path, count: int) -> None:
    """JPEG files, no two alike."""
    rng = np.random.default_rng(1)
    for number in range(count):
        pixels = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((96, 72)).save(folder / f"{number:06d}.jpg")


def extract(count: int, side: int) -> dict[str, float]:
    """Peaks in MB, and milliseconds a picture."""
    backbone = {"architecture": "tf_efficientnet_lite0"}
    sizes = {"crop_size": side, "resize_size": side, "detector": "grid"}
    vision_model = HamLearningVisionModel(HamLearningVisionConfig(global_backbone_config=backbone, **sizes)).eval()
    with tempfile.TemporaryDirectory() as folder:
        pictures, target = Path(folder, "pictures"), Path(folder, "features")
        pictures.mkdir()
        write_small_pictures(pictures, count)
        ids = sorted(path.stem for path in pictures.iterdir())
        images = TweetImages(DatasetDict({"train": Dataset.from_dict({"id": ids})}), pictures)
        start = time.perf_counter()
        extract_visual_features(images, vision_model, target, show_progress=False)
        seconds = time.perf_counter() - start
    peaks = [resource.getrusage(who).ru_maxrss / 1024 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return {"computes": peaks[0], "decodes": peaks[1], "milliseconds": 1000 * seconds / count}


def main() -> None:
    """Prints a table, and writes it as JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, nargs="+", default=[1000, 20000])
    parser.add_argument("--side", type=int, default=64)
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--json", help="also write the figures here")
    options = parser.parse_args()
    if options.one is not None:
        print(json.dumps(extract(options.one, options.side)))
        return
    figures = {}
    for count in options.pictures:
        command = [sys.executable, __file__, "--one", str(count), "--side", str(options.side)]
        figures[count] = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    first = figures[options.pictures[0]]
    names = ("computes", "decodes", "milliseconds")
    rows = [
        [f"{count:,}", *(f"{found[name]:.0f}" for name in names), f"{found['computes'] / first['computes']:.3f}"]
        for count, found in figures.items()
    ]
    print_table(["pictures", "computes, MB", "decodes, MB", "ms a picture", "over the first"], rows)
    write_figures(figures, options)


if __name__ == "__main__":
    main()
