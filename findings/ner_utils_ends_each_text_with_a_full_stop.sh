#!/usr/bin/env bash
# ner-utils 0.1: from doccano to CoNLL, a text that does not end with the token "." is given one.
#
# `convert_doccano2conll` adds a word that nobody wrote to nearly every tweet; the text in the CoNLL file is no longer that
# of the project, and a tagger learns that a text ends so. It cuts at each "." token, too, so a row of the one is
# several texts of the other. And two marked names of one type side by side come out as one.
#
# Seen with Python 3.11 (marked in "Ana Bo sing": "Ana" and "Bo", each as PER)
#   Ana B-PER
#   Bo I-PER
#   sing O
#   . O
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet ner-utils==0.1

cd "$folder"
printf '{"data": "Ana Bo sing", "label": [[0, 3, "PER"], [4, 6, "PER"]]}\n' > doccano.jsonl
venv/bin/python - <<'PYTHON'
from ner_utils.ner_utils import convert_doccano2conll

convert_doccano2conll("doccano.jsonl", "conll.txt")
PYTHON
tr '\t' ' ' < conll.txt | sed '/^$/d' | tee said

diff said - <<'SAID'
Ana B-PER
Bo I-PER
sing O
. O
SAID
