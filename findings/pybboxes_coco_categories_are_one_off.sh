#!/usr/bin/env bash
# pybboxes 0.2.0: read from COCO and written as Pascal VOC, each box has the name of the category after its own.
#
# Categories of COCO have ids, mostly from 1; the names are looked up by place, from 0, and nothing is said. `save_as_yolo` writes
# the id, which its classes.txt counts from 0, too.
#
# Seen with Python 3.11 (1 is dog, 2 is cat, 3 is bird; a dog and a cat in one picture)
#   COCO: dog, cat
#   Pascal VOC: cat, bird
#   YOLO: cat, bird
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet pybboxes==0.2.0

cd "$folder"
venv/bin/python - <<'PYTHON' | tee said
import contextlib
import io
import json
import xml.etree.ElementTree as ET
from pathlib import Path

from pybboxes.annotations import Annotations

NAMES = ("dog", "cat", "bird")
image = {"id": 1, "file_name": "street.jpg", "width": 100, "height": 80}
boxes = [
    {"id": number, "image_id": 1, "category_id": number, "bbox": [10, 20, 30, 40], "area": 1200, "iscrowd": 0}
    for number in (1, 2)
]
categories = [{"id": number, "name": name} for number, name in enumerate(NAMES, 1)]
Path("coco.json").write_text(json.dumps({"images": [image], "categories": categories, "annotations": boxes}))

found = Annotations(annotation_type="coco")
with contextlib.redirect_stdout(io.StringIO()):  # its progress, with times
    found.load_from_coco("coco.json")
found.save_as_voc("voc")
found.save_as_yolo("yolo")
print("COCO:", ", ".join(NAMES[box["category_id"] - 1] for box in boxes))
print("Pascal VOC:", ", ".join(name.text for name in ET.parse("voc/street.xml").findall("object/name")))
classes = Path("yolo/classes.txt").read_text().split()
lines = Path("yolo/street.txt").read_text().splitlines()
print("YOLO:", ", ".join(classes[int(line.split()[0])] for line in lines))
PYTHON

diff said - <<'SAID'
COCO: dog, cat
Pascal VOC: cat, bird
YOLO: cat, bird
SAID
