#!/usr/bin/env bash
# imantics 0.1.12: in the YOLO lines that it writes, a box's upper left corner stands where its centre belongs.
#
# A line of YOLO is class, centre and size, as shares of the picture. The COCO export of the same box is right; read as YOLO the
# other one lies half a width further left and half a height higher, here with a part outside of the picture.
#
# Seen with Python 3.11, numpy 1.26.4 (a box from 10, 20 to 40, 60 in a picture of 100 x 80)
#   COCO: corner and size 10 20 30 40
#   YOLO: centre 0.10000 0.25000, size 0.30000 0.50000
#   YOLO in pixels: from -5, 0 to 25, 40
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet imantics==0.1.12 numpy==1.26.4 opencv-python==4.10.0.84

cd "$folder"
venv/bin/python -W ignore - <<'PYTHON' | tee said
from imantics import Annotation, BBox, Category, Image

WIDTH, HEIGHT = 100, 80
image = Image.empty(WIDTH, HEIGHT)
image.add(Annotation(image, Category("dog"), bbox=BBox([10, 20, 30, 40], style="widthheight")))

print("COCO: corner and size", *image.export(style="coco")["annotations"][0]["bbox"])
[line] = image.export(style="yolo")
_, x, y, width, height = line.split()
print(f"YOLO: centre {x} {y}, size {width} {height}")
x, width = float(x) * WIDTH, float(width) * WIDTH
y, height = float(y) * HEIGHT, float(height) * HEIGHT
left, top, right, bottom = map(round, (x - width / 2, y - height / 2, x + width / 2, y + height / 2))
print(f"YOLO in pixels: from {left}, {top} to {right}, {bottom}")
PYTHON

diff said - <<'SAID'
COCO: corner and size 10 20 30 40
YOLO: centre 0.10000 0.25000, size 0.30000 0.50000
YOLO in pixels: from -5, 0 to 25, 40
SAID
