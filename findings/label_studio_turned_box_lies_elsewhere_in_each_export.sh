#!/usr/bin/env bash
# label-studio-sdk 2.1.2: a box that was turned lies in none of three exports where it was drawn.
#
# YOLO and Pascal VOC leave `rotation` out and write the box as if it had not been turned. COCO turns it, in percent of
# width and height, which are not of one length: here it gets beyond the picture's edge. No word is said by any of them.
# (YOLO's OBB export, polygons of four corners, is another one.)
#
# Seen with Python 3.11: a picture of 200 x 100, a box 20 wide and 60 high whose corner at (100, 20) was the pivot of 90
# degrees, so that it covers 40 to 100, 20 to 40
#   COCO: x -20 to 100, y 20 to 30
#   YOLO: x 100 to 120, y 20 to 80
#   VOC: x 100 to 120, y 20 to 80
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet label-studio-sdk==2.1.2 pillow==12.3.0

cd "$folder"
venv/bin/python - 2>log <<'PYTHON' | tee said
import json
from pathlib import Path
from xml.etree import ElementTree

from label_studio_sdk.converter import Converter
from PIL import Image

CONFIG = """<View><Image name="image" value="$image"/>
<RectangleLabels name="label" toName="image"><Label value="dog"/></RectangleLabels></View>"""
Image.new("RGB", (200, 100)).save("dog.png")
box = {"x": 50, "y": 20, "width": 10, "height": 60, "rotation": 90, "rectanglelabels": ["dog"]}  # percent
region = {"id": "a", "from_name": "label", "to_name": "image", "type": "rectanglelabels", "value": box}
region |= {"original_width": 200, "original_height": 100, "image_rotation": 0}
Path("project.json").write_text(
    json.dumps([{"id": 1, "data": {"image": "dog.png"}, "annotations": [{"id": 1, "result": [region]}]}])
)


def show(export: str, left: float, top: float, right: float, bottom: float) -> None:
    print(f"{export}: x {left:.0f} to {right:.0f}, y {top:.0f} to {bottom:.0f}")


converter = Converter(CONFIG, ".", download_resources=False)
converter.convert_to_coco("project.json", "coco", is_dir=False)
left, top, width, height = json.loads(Path("coco/result.json").read_text())["annotations"][0]["bbox"]
show("COCO", left, top, left + width, top + height)
converter.convert_to_yolo("project.json", "yolo", is_dir=False)
_, x, y, width, height = map(float, next(Path("yolo/labels").glob("*.txt")).read_text().split())
show("YOLO", 200 * (x - width / 2), 100 * (y - height / 2), 200 * (x + width / 2), 100 * (y + height / 2))
converter.convert_to_voc("project.json", "voc", is_dir=False)
corners = ElementTree.parse(next(Path("voc/Annotations").glob("*.xml"))).find(".//bndbox")
show("VOC", *(float(corners.findtext(name)) for name in ("xmin", "ymin", "xmax", "ymax")))
PYTHON

diff said - <<'SAID'
COCO: x -20 to 100, y 20 to 30
YOLO: x 100 to 120, y 20 to 80
VOC: x 100 to 120, y 20 to 80
SAID
