#!/usr/bin/env bash
# pylabel 0.1.55: in the COCO file that it writes, a picture without objects adds the box before it once more, with its id.
#
# COCO read and written again, nothing changed: the box of the first picture, which has one, is there twice, and counts twice in
# what a detector is trained and measured on. Two empty pictures after it add it twice.
#
# Seen with Python 3.11, pandas 2.3.3 (file, id and box of each annotation)
#   read: [('street.png', 1, [10, 20, 30, 40])]
#   written: [('street.png', 0, [10, 20, 30, 40]), ('street.png', 0, [10, 20, 30, 40])]
#   written, of two empty pictures: 3 annotations
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet pylabel==0.1.55 pandas==2.3.3

cd "$folder"
venv/bin/python - <<'PYTHON' 2>/dev/null | tee said
import json
from pathlib import Path

from pylabel import importer


def coco(*empty):
    names = ["street.png", *empty]
    images = [{"id": number, "file_name": name, "width": 100, "height": 80} for number, name in enumerate(names, 1)]
    box = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [10, 20, 30, 40], "area": 1200, "iscrowd": 0}
    return {"images": images, "categories": [{"id": 1, "name": "dog"}], "annotations": [box]}


def boxes_in(found):
    files = {image["id"]: image["file_name"] for image in found["images"]}
    return [(files[one["image_id"]], one["id"], list(map(int, one["bbox"]))) for one in found["annotations"]]


def written_again(given):
    Path("given.json").write_text(json.dumps(given))
    importer.ImportCoco("given.json").export.ExportToCoco("written.json")
    return json.loads(Path("written.json").read_text())


print("read:", boxes_in(coco("sky.png")))
print("written:", boxes_in(written_again(coco("sky.png"))))
print("written, of two empty pictures:", len(written_again(coco("sky.png", "sea.png"))["annotations"]), "annotations")
PYTHON

diff said - <<'SAID'
read: [('street.png', 1, [10, 20, 30, 40])]
written: [('street.png', 0, [10, 20, 30, 40]), ('street.png', 0, [10, 20, 30, 40])]
written, of two empty pictures: 3 annotations
SAID
