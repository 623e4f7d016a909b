#!/usr/bin/env bash
# nereval 0.2.5: one predicted span over three gold names has an F1 of 0.75, one gold name found as three pieces 0.25.
#
# An entity counts twice, half for its words and half for its type, and the type is right where a span of it overlaps.
# For each gold entity the first prediction that fits is taken, but not used up: one long span is the right type of
# every name under it. So "correct" can exceed what was predicted, precision exceed 1, and gold and prediction in each
# other's place have another F1. By exact match, as in conlleval or seqeval, both are 0.
#
# Seen with Python 3.11:
#   three names, found as one: F1 0.75
#   one name, found as three: F1 0.25
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet nereval==0.2.5

"$folder/venv/bin/python" - <<'PYTHON' | tee "$folder/said"
from nereval import Entity, evaluate

ONE = [[Entity("Ana Ben Cleo", "PER", 0)]]
THREE = [[Entity("Ana", "PER", 0), Entity("Ben", "PER", 4), Entity("Cleo", "PER", 8)]]
print("three names, found as one: F1", evaluate(THREE, ONE))
print("one name, found as three: F1", evaluate(ONE, THREE))
PYTHON

diff "$folder/said" - <<'SAID'
three names, found as one: F1 0.75
one name, found as three: F1 0.25
SAID
