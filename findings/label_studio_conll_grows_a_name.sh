#!/usr/bin/env bash
# label-studio-sdk 2.1.2: in its CoNLL file a name grows to the end of the token that it ends in.
#
# The converter does not split a token at a hyphen, and tags each token that a region touches. What an annotator marked as
# "St. Gallen", of "St. Gallen-based", comes back as "St. Gallen-based", without a word. A region that begins inside a
# token takes all of it likewise.
#
# Seen with Python 3.11 (marked: "St. Gallen" and "Bonn"):
#   -DOCSTART- -X- O
#   St. -X- _ B-LOC
#   Gallen-based -X- _ I-LOC
#   firm -X- _ O
#   in -X- _ O
#   pre-Bonn -X- _ B-LOC
#   days -X- _ O
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

CONFIG = """<View><Labels name="label" toName="text"><Label value="LOC"/></Labels>
<Text name="text" value="$text"/></View>"""
TEXT = "St. Gallen-based firm in pre-Bonn days"

regions = []
for name in ("St. Gallen", "Bonn"):
    start = TEXT.index(name)
    value = {"start": start, "end": start + len(name), "text": name, "labels": ["LOC"]}
    regions.append({"id": name, "from_name": "label", "to_name": "text", "type": "labels", "value": value})
folder = Path(sys.argv[1])
exported = folder / "project.json"
exported.write_text(json.dumps([{"id": 1, "data": {"text": TEXT}, "annotations": [{"id": 1, "result": regions}]}]))
Converter(CONFIG, str(folder)).convert_to_conll2003(str(exported), str(folder / "conll"), is_dir=False)
print((folder / "conll" / "result.conll").read_text().strip())
PYTHON

diff "$folder/said" - <<'SAID'
-DOCSTART- -X- O
St. -X- _ B-LOC
Gallen-based -X- _ I-LOC
firm -X- _ O
in -X- _ O
pre-Bonn -X- _ B-LOC
days -X- _ O
SAID
