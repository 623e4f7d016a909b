#!/usr/bin/env bash
# nervaluate 1.2.1: the same predicted spans in another order have another score, also in the strict mode.
#
# Predictions are taken as they come, and each takes the first gold span that it overlaps: a wrong one that comes first
# uses up the gold span of a right one behind it, which then is spurious. An exact match is looked for among what the
# predictions before have left over. Spans like these are those of nested names, and of several models put together.
#
# Seen with Python 3.11:
#   right one first: strict P 0.5 R 1.0 F1 0.67
#   wrong one first: strict P 0.0 R 0.0 F1 0.0
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet nervaluate==1.2.1

"$folder/venv/bin/python" - <<'PYTHON' | tee "$folder/said"
from nervaluate import Evaluator

GOLD = {"label": "LOC", "start": 10, "end": 20}
WRONG = {"label": "ORG", "start": 10, "end": 31}

for name, found in {"right one first": [GOLD, WRONG], "wrong one first": [WRONG, GOLD]}.items():
    evaluator = Evaluator([[GOLD]], [found], tags=["LOC", "ORG"], loader="dict")
    strict = evaluator.evaluate()["overall"]["strict"]
    values = {"P": strict.precision, "R": strict.recall, "F1": strict.f1}
    print(f"{name}: strict", *(f"{key} {round(float(value), 2)}" for key, value in values.items()))
PYTHON

diff "$folder/said" - <<'SAID'
right one first: strict P 0.5 R 1.0 F1 0.67
wrong one first: strict P 0.0 R 0.0 F1 0.0
SAID
