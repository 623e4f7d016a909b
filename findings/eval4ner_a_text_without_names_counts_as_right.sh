#!/usr/bin/env bash
# eval4ner 0.1.0: a model that finds no name and makes one up has a strict F1 of 0.75, if three of four texts have none.
#
# `evaluate_all` is a mean over texts, not over entities, and a text with neither a name nor a prediction counts as one
# with precision, recall and F1 of 1. Many tweets hold no name, so every system's F1 is lifted, and one that tags nothing
# at all is not at 0. Scores of entities put together (conlleval, seqeval) are 0 here.
#
# Seen with Python 3.11:
#   nothing right, one made up: strict F1 0.75
#   nothing right, the texts without names left out: strict F1 0.0
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet eval4ner==0.1.0

"$folder/venv/bin/python" - <<'PYTHON' | tee "$folder/said"
from contextlib import redirect_stdout
from io import StringIO

from eval4ner import muc

TEXTS = ["Ben waited for Ana", "rain again", "so tired", "mondays"]
GOLD = [[("PER", "Ana")], [], [], []]
FOUND = [[("LOC", "Ben")], [], [], []]


def strict_f1(texts: int) -> float:
    with redirect_stdout(StringIO()):  # it prints a table of its own
        return muc.evaluate_all(FOUND[:texts], GOLD[:texts], TEXTS[:texts])["strict"]["f1_score"]


print(f"nothing right, one made up: strict F1 {strict_f1(4)}")
print(f"nothing right, the texts without names left out: strict F1 {strict_f1(1):.1f}")
PYTHON

diff "$folder/said" - <<'SAID'
nothing right, one made up: strict F1 0.75
nothing right, the texts without names left out: strict F1 0.0
SAID
