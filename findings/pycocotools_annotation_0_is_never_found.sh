#!/usr/bin/env bash
# pycocotools 2.0.11: the annotation whose id is 0 counts as missed, and what finds it as a false alarm.
#
# The evaluator notes for each detection the id of the annotation that it matches, and 0 stands for none there. A writer
# that counts annotations from 0 loses one: with two pictures, both boxes found to the pixel, half of the recall and three
# quarters of the average precision are gone. Nothing is said. The ids of pictures and of
# categories may be 0.
#
# Seen with Python 3.11 (two pictures, a box in each, both found exactly)
#   ids from 0: AP 0.252, recall 0.500
#   ids from 1: AP 1.000, recall 1.000
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet pycocotools==2.0.11 numpy==2.4.6

cd "$folder"
venv/bin/python - <<'PYTHON' | tee said
import contextlib
import io

from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

BOX = [10, 10, 50, 50]


def evaluate(first: int) -> str:
    gold = COCO()
    gold.dataset = {
        "images": [{"id": picture, "width": 100, "height": 100} for picture in range(2)],
        "categories": [{"id": 0, "name": "PER"}],
        "annotations": [
            {"id": first + picture, "image_id": picture, "category_id": 0, "bbox": BOX, "area": 2500, "iscrowd": 0}
            for picture in range(2)
        ],
    }
    gold.createIndex()
    found = gold.loadRes([{"image_id": picture, "category_id": 0, "bbox": BOX, "score": 0.9} for picture in range(2)])
    evaluation = COCOeval(gold, found, "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return f"AP {evaluation.stats[0]:.3f}, recall {evaluation.stats[8]:.3f}"


for first in (0, 1):
    with contextlib.redirect_stdout(io.StringIO()):
        scores = evaluate(first)
    print(f"ids from {first}: {scores}")
PYTHON

diff said - <<'SAID'
ids from 0: AP 0.252, recall 0.500
ids from 1: AP 1.000, recall 1.000
SAID
