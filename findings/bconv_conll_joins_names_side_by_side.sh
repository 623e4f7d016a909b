#!/usr/bin/env bash
# bconv 1.2.1: written as CoNLL, two names of one type side by side become one, though each tag set has a B for this.
#
# The writer gives each token the type that covers it, and ends a name where the type changes. So the schemes IOB and IOBES
# say no more than IO. Its own reader then has a name less, with the extent of both.
#
# Seen with Python 3.11 ("Ana", "Bo" and "Cy" are three names)
#   IOB: Ana B-PER, Bo I-PER, met O, Cy B-PER, . O
#   IOBES: Ana B-PER, Bo E-PER, met O, Cy S-PER, . O
#   read again: ['Ana Bo', 'Cy']
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet bconv==1.2.1

cd "$folder"
venv/bin/python - <<'PYTHON' | tee said
import json

import bconv

TEXT = "Ana Bo met Cy."
NAMES = [
    {"id": f"T{number}", "span": {"begin": TEXT.index(name), "end": TEXT.index(name) + len(name)}, "obj": "PER"}
    for number, name in enumerate(("Ana", "Bo", "Cy"), 1)
]
document = bconv.loads(json.dumps({"text": TEXT, "sourceid": "1", "denotations": NAMES}), fmt="pubanno_json")
for tagset in ("IOB", "IOBES"):
    written = bconv.dumps(document, fmt="conll", tagset=tagset)
    rows = [row.split("\t") for row in written.splitlines() if "\t" in row]
    print(f"{tagset}:", ", ".join(f"{token} {tag}" for token, _, _, tag in rows))
print("read again:", [name.text for name in bconv.loads(written, fmt="conll").iter_entities()])
PYTHON

diff said - <<'SAID'
IOB: Ana B-PER, Bo I-PER, met O, Cy B-PER, . O
IOBES: Ana B-PER, Bo E-PER, met O, Cy S-PER, . O
read again: ['Ana Bo', 'Cy']
SAID
