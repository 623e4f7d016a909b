#!/usr/bin/env python
"""Whether `faster_rcnn_vg` finds the same regions where it chooses them in bfloat16.

```bash
python benchmarks/region_agreement.py unc-nlp/frcnn-vg-finetuned --pictures my/pictures --count 40
```

The first argument is the published checkpoint, a Hub id or a folder. Of each picture the 15 best regions are found in
float32 and in bfloat16; one of float32 is found again where bfloat16 has one of its class with an IoU of 0.9 or more.
At least 95% must be. A region that is found again has float32's features, of which the largest difference is printed.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import numpy as np
import torch
from torchvision.ops import box_convert, box_iou

from configuration_hamlearning import HamLearningVisionConfig
from image_processing_hamlearning import read_image
from modeling_faster_rcnn_vg import load_published_checkpoint
from modeling_hamlearning_vision import HamLearningVisionModel, PreparedImage, prepare_image
from networks_hamlearning import RUNTIMES


IOU = 0.9


def load_detector(checkpoint: str, runtime: str | None) -> HamLearningVisionModel:
    """A vision model with this detector; its global backbone, which nobody reads here, is a small random one."""
    settings, weights = load_published_checkpoint(checkpoint)
    config = HamLearningVisionConfig(
        global_backbone_config={"architecture": "test_resnet"},
        detector="faster_rcnn_vg",
        detector_settings=settings.to_dict(),
    )
    vision_model = HamLearningVisionModel(config)
    vision_model.detector.load_state_dict(weights)
    vision_model.runtime = runtime
    return vision_model


def find_regions(
    vision_model: HamLearningVisionModel, picture: PreparedImage, parts: list[str] | None
) -> tuple[dict[str, np.ndarray], float]:
    """The best regions of a picture, and the seconds that they took."""
    vision_model.config.bfloat16_parts = parts
    start = time.perf_counter()
    (row,) = vision_model.extract([picture])
    assert row is not None
    return row, time.perf_counter() - start


def found_again(exact: dict[str, np.ndarray], rough: dict[str, np.ndarray]) -> tuple[list[bool], float]:
    """Which regions of float32 bfloat16 has too, and the largest difference of their features, over the largest."""
    corners = [
        box_convert(torch.from_numpy(row["boxes"][:, [0, 1, 3, 2]]), "cxcywh", "xyxy") for row in (exact, rough)
    ]
    overlap = box_iou(corners[0], corners[1]).numpy() * (exact["class_ids"][:, None] == rough["class_ids"][None])
    is_same, best = overlap.max(axis=1) >= IOU, overlap.argmax(axis=1)
    differences = np.abs(exact["features"] - rough["features"][best])[is_same]
    return is_same.tolist(), float(differences.max(initial=0) / np.abs(exact["features"]).max())


def main() -> None:
    """Prints the shares, and writes them as JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", help="folder or Hub id of the published checkpoint")
    parser.add_argument("--pictures", nargs="+", type=Path, required=True, help="folders of pictures")
    parser.add_argument(
        "--count", type=int, default=40, help="pictures a folder at most, evenly spread over their names"
    )
    parser.add_argument("--runtime", choices=RUNTIMES, help="default: as a user has it")
    parser.add_argument("--json", help="also write the figures here")
    options = parser.parse_args()

    vision_model = load_detector(options.checkpoint, options.runtime)
    same: dict[str, list[bool]] = {}
    seconds: dict[str, list[float]] = {"float32": [], "bfloat16": []}
    largest = 0.0
    for folder in options.pictures:
        paths = sorted(path for path in folder.iterdir() if path.is_file())
        for path in paths[:: -(-len(paths) // options.count)]:
            picture = prepare_image(read_image(str(path)), vision_model.config)
            exact, of_exact = find_regions(vision_model, picture, None)
            rough, of_rough = find_regions(vision_model, picture, ["detector"])
            same[str(path)], difference = found_again(exact, rough)
            largest = max(largest, difference)
            seconds["float32"].append(of_exact)
            seconds["bfloat16"].append(of_rough)
            print(f"{path}: {sum(same[str(path)])} of {len(same[str(path)])}", flush=True)
    share = statistics.mean(is_same for regions in same.values() for is_same in regions)
    middle = {name: statistics.median(values) for name, values in seconds.items()}
    print(f"\n{len(same)} pictures: {share:.1%} of the regions are the same; features of these {largest:.0e} apart")
    print(f"seconds a picture: {middle['float32']:.2f} in float32, {middle['bfloat16']:.2f} in bfloat16")
    if options.json:
        figures = {"share": share, "same": same, "largest_difference": largest, "seconds": seconds}
        Path(options.json).write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
