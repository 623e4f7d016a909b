#!/usr/bin/env python
"""Where the time of a picture goes, from its JPEG file to its row of features, and how far that is from the limit.

```bash
python benchmarks/picture_parts.py --cases lite0_grid resnet152_grid --pictures 16
python benchmarks/picture_parts.py --cases resnet152_vg --pictures 2
```

Processor time of each part by itself, one thread, medians of `--rounds`: to read and decode, to resize (the square and
the whole picture), the backbone on both, the detector, the rest (pooling, a row of numbers), and to write the file.
The networks' products are counted by PyTorch's counter, and the rate at which this processor multiplies is that of a
large product of matrices: the networks' time over that of the products alone is how far they are from the limit.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from configuration_hamlearning import HamLearningVisionConfig
from extraction_speed import write_pictures
from hamlearning.data.features import write_visual_features
from image_processing_hamlearning import read_image
from modeling_hamlearning_vision import HamLearningVisionModel, PreparedImage, prepare_image
from networks_hamlearning import PRECISIONS
from pictures_speed import CASES, draw_weights
from workload import print_table, products_a_second, write_figures


def milliseconds(part: Callable[[], Any], pictures: int, rounds: int) -> float:
    """Of processor time a picture; the first call is not counted."""
    part()
    times = []
    for _ in range(rounds):
        start = time.process_time()
        part()
        times.append(time.process_time() - start)
    return 1000 * statistics.median(times) / pictures


def multiply_adds(vision_model: HamLearningVisionModel, prepared: list[PreparedImage]) -> float:
    """Of all networks, a picture's mean, as PyTorch computes them."""
    vision_model.runtime = "torch"
    vision_model.extract(prepared[:1])  # folds the batch norms, which is not to be counted
    with FlopCounterMode(display=False) as counter:
        vision_model.extract(prepared)
    return counter.get_total_flops() / 2 / len(prepared)


def measure(case: str, precision: str, count: int, rounds: int) -> dict[str, float]:
    """Milliseconds of each part, products of the backbone and their rate."""
    architecture, detector = CASES[case]
    fields: dict[str, Any] = {"global_backbone_config": {"architecture": architecture}, "detector": detector}
    vision_model = HamLearningVisionModel(HamLearningVisionConfig(**fields)).eval()
    draw_weights(vision_model.global_backbone.timm_model)
    if precision != "float32":
        vision_model.settle_precision(precision)
    config = vision_model.config
    with tempfile.TemporaryDirectory() as folder:
        write_pictures(Path(folder), count, seed=1)
        files = sorted(Path(folder).iterdir())
        images = [read_image(file) for file in files]
        prepared = [prepare_image(image, config) for image in images]
        rows = [{"id": str(place), **row} for place, row in enumerate(vision_model.extract(prepared)) if row]
        crops = [picture.crop for picture in prepared]
        wholes = [picture.whole for picture in prepared if picture.whole is not None]
        sizes = {"image_feature_size": vision_model.image_feature_size}
        metadata = sizes | {"region_feature_size": vision_model.region_feature_size, "class_names": config.class_names}

        def detect() -> None:
            for picture in prepared:
                vision_model.detector(picture.detector_inputs, picture.size)

        parts = {
            "read, decode": lambda: [read_image(file) for file in files],
            "resize": lambda: [prepare_image(image, config) for image in images],
            "backbone": lambda: [vision_model.feature_map(picture[None]) for picture in [*crops, *wholes]],
            "detector": detect,
            "all of extract": lambda: vision_model.extract(prepared),
            "write": lambda: write_visual_features(Path(folder, "features.parquet"), rows, metadata),
        }
        with torch.no_grad():
            found = {name: milliseconds(part, count, rounds) for name, part in parts.items()}
    found["rest"] = found.pop("all of extract") - found["backbone"] - found["detector"]
    found["products, G"] = multiply_adds(vision_model, prepared) / 1e9
    found["rate, G/s"] = products_a_second("bf16" if precision == "bfloat16" else "fp32") / 1e9
    limit = 1000 * found["products, G"] / found["rate, G/s"]
    found["networks over limit"] = (found["backbone"] + found["detector"]) / limit
    return found


def main() -> None:
    """Prints a table, and writes it as JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=["lite0_grid"])
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=["float32"])
    parser.add_argument("--pictures", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", help="also write the figures here")
    options = parser.parse_args()
    torch.set_num_threads(1)
    figures = {
        f"{case}, {precision}": measure(case, precision, options.pictures, options.rounds)
        for case in options.cases
        for precision in options.precisions
    }
    names = list(next(iter(figures.values())))
    print_table(["", *names], [[case, *(f"{found[name]:.3g}" for name in names)] for case, found in figures.items()])
    write_figures(figures, options)


if __name__ == "__main__":
    main()
