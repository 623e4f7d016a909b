#!/usr/bin/env bash
# flair 0.15.1: of a column file in BILOU, spaCy's scheme, the first name decides whether there are names at all.
#
# Of the first five texts it guesses whether a column holds spans: a tag that begins with B, I, E or S says so, any other
# says that it tags single words. Where the first name is one word, "U-PER", the file has no span then, and a tagger learns
# nothing of extents. Where it is longer, names are read, but two of one word side by side are one. No word is said.
#
# Seen with Python 3.11 (the same two texts in either order)
#   "Ana Sol sings" first: [['Ana Sol'], ['Bo Cy']]
#   "Bo Cy sing" first: [[], []]
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet flair==0.15.1

cd "$folder"
HF_HUB_OFFLINE=1 FLAIR_CACHE_ROOT=$folder/cache venv/bin/python - 2>log <<'PYTHON' | tee said
from pathlib import Path

from flair.datasets.sequence_labeling import ColumnDataset

LONG = "Ana B-PER\nSol L-PER\nsings O\n\n"
SHORT = "Bo U-PER\nCy U-PER\nsing O\n\n"

for first, rows in (("Ana Sol sings", LONG + SHORT), ("Bo Cy sing", SHORT + LONG)):
    Path("train.txt").write_text(rows)
    texts = ColumnDataset("train.txt", {0: "text", 1: "ner"})
    print(f'"{first}" first:', [[span.text for span in text.get_spans("ner")] for text in texts])
PYTHON

diff said - <<'SAID'
"Ana Sol sings" first: [['Ana Sol'], ['Bo Cy']]
"Bo Cy sing" first: [[], []]
SAID
