#!/usr/bin/env bash
# supervision 0.31.2: read from Pascal VOC, a class has the number of its first appearance, another one in each folder.
#
# The files name the classes; `from_pascal_voc` numbers them as it meets them. So class 0 of the training folder is class 1
# of the test folder, where a detector's class ids are compared with `detections.class_id`: each right box counts as a
# confusion. It has no argument for the classes' order. From COCO and YOLO they are in the file's order.
#
# Seen with Python 3.11 (each folder has a picture of a dog and one of a cat, in this order and in the other)
#   train: ['dog', 'cat'], dog is 0
#   test: ['cat', 'dog'], dog is 1
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet supervision==0.31.2 pillow==12.3.0

cd "$folder"
venv/bin/python - 2>log <<'PYTHON' | tee said
from pathlib import Path

import supervision
from PIL import Image

OBJECT = "<object><name>{}</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox></object>"

for part, names in (("train", ("dog", "cat")), ("test", ("cat", "dog"))):
    Path(part).mkdir()
    for number, name in enumerate(names):
        Image.new("RGB", (20, 20)).save(f"{part}/{number}.png")
        Path(part, f"{number}.xml").write_text(f"<annotation>{OBJECT.format(name)}</annotation>")
    data = supervision.DetectionDataset.from_pascal_voc(part, part)
    numbers = {name: int(detections.class_id[0]) for name, (_, _, detections) in zip(names, data)}
    print(f"{part}: {data.classes}, dog is {numbers['dog']}")
PYTHON

diff said - <<'SAID'
train: ['dog', 'cat'], dog is 0
test: ['cat', 'dog'], dog is 1
SAID
