#!/usr/bin/env bash
# globox 2.9.0, supervision 0.31.2: through a Pascal VOC file a box's upper left corner moves by a pixel.
#
# globox (and Label Studio's export) writes the corners as they are, from 0. supervision takes them for VOC's own, from 1,
# and takes one off the upper left corner alone: each box grows, and one at the edge begins at -1. COCO keeps them.
#
# Seen with Python 3.11
#   globox: 10, 20, 40, 60 and 0, 0, 5, 5
#   by VOC in supervision: [[9.0, 19.0, 40.0, 60.0], [-1.0, -1.0, 5.0, 5.0]]
#   by COCO in supervision: [[10.0, 20.0, 40.0, 60.0], [0.0, 0.0, 5.0, 5.0]]
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet globox==2.9.0 supervision==0.31.2 pillow==12.3.0

cd "$folder"
venv/bin/python - 2>log <<'PYTHON' | tee said
from pathlib import Path

import supervision
from globox import Annotation, AnnotationSet, BoundingBox
from PIL import Image

Path("pictures").mkdir()
Image.new("RGB", (200, 100)).save("pictures/1.png")
corners = [(10, 20, 40, 60), (0, 0, 5, 5)]
boxes = [BoundingBox(label="dog", xmin=x1, ymin=y1, xmax=x2, ymax=y2) for x1, y1, x2, y2 in corners]
made = AnnotationSet([Annotation("1.png", (200, 100), boxes)])
print("globox:", " and ".join(", ".join(map(str, box)) for box in corners))
made.save_pascal_voc(Path("voc"))
[(_, _, read)] = supervision.DetectionDataset.from_pascal_voc("pictures", "voc")
print("by VOC in supervision:", read.xyxy.tolist())
made.save_coco(Path("coco.json"), auto_ids=True)
[(_, _, read)] = supervision.DetectionDataset.from_coco("pictures", "coco.json")
print("by COCO in supervision:", read.xyxy.tolist())
PYTHON

diff said - <<'SAID'
globox: 10, 20, 40, 60 and 0, 0, 5, 5
by VOC in supervision: [[9.0, 19.0, 40.0, 60.0], [-1.0, -1.0, 5.0, 5.0]]
by COCO in supervision: [[10.0, 20.0, 40.0, 60.0], [0.0, 0.0, 5.0, 5.0]]
SAID
