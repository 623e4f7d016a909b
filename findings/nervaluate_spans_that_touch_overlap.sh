#!/usr/bin/env bash
# nervaluate 1.2.1: spans in Prodigy's style that only touch, [0, 4) and [4, 6), are counted as overlapping.
#
# The loader "dict" takes spans with `start` and `end` in characters, which it calls Prodigy's; there, as in spaCy and in
# the pipelines of transformers, `end` is the first character behind a span. nervaluate takes it for the last one inside.
# So a prediction directly behind the gold span, without one character of it, has a perfect score for its type, and half
# of one for its place. A gap of one character, which is what a blank between two names makes, gives 0.
# Subtract 1 from each end before scoring.
#
# Seen with Python 3.11:
#   gold [0, 4), found [4, 6): ent_type F1 1.0, partial F1 0.5
#   gold [0, 4), found [5, 7): ent_type F1 0.0, partial F1 0.0
#   the same two that touch, ends inclusive: ent_type F1 0.0, partial F1 0.0
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet nervaluate==1.2.1

"$folder/venv/bin/python" - <<'PYTHON' | tee "$folder/said"
from nervaluate import Evaluator


def score(gold: tuple[int, int], found: tuple[int, int]) -> str:
    spans = [[[{"label": "PER", "start": start, "end": end}]] for start, end in (gold, found)]
    overall = Evaluator(*spans, tags=["PER"], loader="dict").evaluate()["overall"]
    return ", ".join(f"{name} F1 {float(overall[name].f1)}" for name in ("ent_type", "partial"))


print("gold [0, 4), found [4, 6):", score((0, 4), (4, 6)))
print("gold [0, 4), found [5, 7):", score((0, 4), (5, 7)))
print("the same two that touch, ends inclusive:", score((0, 3), (4, 5)))
PYTHON

diff "$folder/said" - <<'SAID'
gold [0, 4), found [4, 6): ent_type F1 1.0, partial F1 0.5
gold [0, 4), found [5, 7): ent_type F1 0.0, partial F1 0.0
the same two that touch, ends inclusive: ent_type F1 0.0, partial F1 0.0
SAID
