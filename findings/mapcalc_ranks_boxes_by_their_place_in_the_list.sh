#!/usr/bin/env bash
# mapcalc 0.2.2: the scores of detections are asked for and not looked at: average precision goes by the order of the list.
#
# Average precision is of detections from the surest to the least sure. Here the same two boxes with the same scores have 1.0 or
# 0.5, as they come, and a detector whose boxes are not sorted (by class, by place) is compared by chance. Sort them first.
#
# Seen with Python 3.11 (one dog; a right box with score 0.9, a wrong one with 0.3)
#   right one first: 1.0
#   wrong one first: 0.5
#   wrong one first, scores left out: 0.5
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet mapcalc==0.2.2

cd "$folder"
venv/bin/python - <<'PYTHON' | tee said
from mapcalc import calculate_map

GOLD = {"boxes": [[10, 10, 50, 50]], "labels": ["dog"]}
RIGHT, WRONG = ([10, 10, 50, 50], 0.9), ([60, 60, 90, 90], 0.3)


def average_precision(*found, has_scores=True):
    boxes, scores = map(list, zip(*found, strict=True))
    result = {"boxes": boxes, "labels": ["dog"] * len(boxes)} | ({"scores": scores} if has_scores else {})
    return round(float(calculate_map(GOLD, result, 0.5)), 3)


print("right one first:", average_precision(RIGHT, WRONG))
print("wrong one first:", average_precision(WRONG, RIGHT))
print("wrong one first, scores left out:", average_precision(WRONG, RIGHT, has_scores=False))
PYTHON

diff said - <<'SAID'
right one first: 1.0
wrong one first: 0.5
wrong one first, scores left out: 0.5
SAID
