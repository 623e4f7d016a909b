#!/usr/bin/env bash
# label-studio-sdk 2.1.2: a task that nobody has annotated yet is a text without a name in its CoNLL file.
#
# The converter writes what it is given, such as all tasks of a project. A task that an annotator skipped is left out; one
# that still waits is written with O at each word, and nothing tells it from one in which somebody looked and found
# nothing. Who trains on the export of a project that is half done teaches the model that names are none. The
# project's JSON tells the two apart: there `annotations` is empty.
#
# Seen with Python 3.11 (the first is annotated, the second was looked at and has no name, the third waits, the fourth
# was skipped):
#   -DOCSTART- -X- O
#   Anna -X- _ B-PER
#   waits -X- _ O
#
#   nobody -X- _ O
#
#   Bonn -X- _ O
#   waits -X- _ O
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet label-studio-sdk==2.1.2

"$folder/venv/bin/python" - "$folder" <<'PYTHON' | tee "$folder/said"
import json
import sys
from pathlib import Path

from label_studio_sdk.converter import Converter

CONFIG = """<View><Labels name="label" toName="text"><Label value="PER"/><Label value="LOC"/></Labels>
<Text name="text" value="$text"/></View>"""


def region(start: int, end: int, label: str) -> dict:
    value = {"start": start, "end": end, "labels": [label]}
    return {"id": f"{start}", "from_name": "label", "to_name": "text", "type": "labels", "value": value}


tasks = [
    {"id": 1, "data": {"text": "Anna waits"}, "annotations": [{"id": 1, "result": [region(0, 4, "PER")]}]},
    {"id": 2, "data": {"text": "nobody"}, "annotations": [{"id": 2, "result": []}]},
    {"id": 3, "data": {"text": "Bonn waits"}, "annotations": []},
    {"id": 4, "data": {"text": "Essen"}, "annotations": [{"id": 3, "result": [], "was_cancelled": True}]},
]
folder = Path(sys.argv[1])
exported = folder / "project.json"
exported.write_text(json.dumps(tasks))
Converter(CONFIG, str(folder)).convert_to_conll2003(str(exported), str(folder / "conll"), is_dir=False)
print((folder / "conll" / "result.conll").read_text().strip())
PYTHON

diff "$folder/said" - <<'SAID'
-DOCSTART- -X- O
Anna -X- _ B-PER
waits -X- _ O

nobody -X- _ O

Bonn -X- _ O
waits -X- _ O
SAID
