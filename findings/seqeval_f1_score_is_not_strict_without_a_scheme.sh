#!/usr/bin/env bash
# seqeval 1.2.2: f1_score(gold, found, mode="strict") is not strict, and says nothing, unless `scheme` is given too.
#
# `classification_report` of the same arguments detects the scheme and is strict. So the F1 in a log and the micro
# average in the report below it differ for the same tags, and the wrong one is the higher: a name that begins with "I-"
# counts as found. `scheme` alone, without the mode, is not read either. precision_score and recall_score do the same.
#
# Seen with Python 3.11 (gold: B-PER I-PER O; found: I-PER I-PER O)
#   f1_score: 1.0
#   f1_score, mode strict: 1.0
#   f1_score, scheme IOB2: 1.0
#   f1_score, mode strict, scheme IOB2: 0.0
#   classification_report, mode strict: 0.0
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet seqeval==1.2.2

"$folder/venv/bin/python" - <<'PYTHON' | tee "$folder/said"
from seqeval.metrics import classification_report, f1_score
from seqeval.scheme import IOB2

tags = [["B-PER", "I-PER", "O"]], [["I-PER", "I-PER", "O"]]
print("f1_score:", float(f1_score(*tags)))
print("f1_score, mode strict:", float(f1_score(*tags, mode="strict")))
print("f1_score, scheme IOB2:", float(f1_score(*tags, scheme=IOB2)))
print("f1_score, mode strict, scheme IOB2:", float(f1_score(*tags, mode="strict", scheme=IOB2)))
report = classification_report(*tags, mode="strict", output_dict=True)
print("classification_report, mode strict:", float(report["micro avg"]["f1-score"]))
PYTHON

diff "$folder/said" - <<'SAID'
f1_score: 1.0
f1_score, mode strict: 1.0
f1_score, scheme IOB2: 1.0
f1_score, mode strict, scheme IOB2: 0.0
classification_report, mode strict: 0.0
SAID
