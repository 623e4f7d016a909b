#!/usr/bin/env bash
# conlleval 0.2: a type of which nothing was found has a precision of 100%, and a model that finds nothing has one too.
#
# The script of CoNLL, which it is said to equal, gives 0 there, as seqeval does. A table of precision by type is wrong in
# its rare types, and a mean over the types ("macro") is too high; F1 is 0 all the same.
#
# Seen with Python 3.11 (gold: one PER, one LOC; found: the PER alone)
#   LOC: precision 100%, recall 0%, F1 0%
#   PER: precision 100%, recall 100%, F1 100%
#   all, nothing found: precision 100%, recall 0%, F1 0%
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet conlleval==0.2

cd "$folder"
venv/bin/python - <<'PYTHON' | tee said
from conlleval import evaluate


def show(name: str, scores: dict) -> None:
    precision, recall, f1 = (scores["evals"][key] for key in ("prec", "rec", "f1"))
    print(f"{name}: precision {precision:.0%}, recall {recall:.0%}, F1 {f1:.0%}")


scores = evaluate(["Ana B-PER B-PER", "in O O", "Bonn B-LOC O"])
for name, of_type in sorted(scores["slots"]["chunks"].items()):
    show(name, of_type)
show("all, nothing found", evaluate(["Ana B-PER O", "in O O", "Bonn B-LOC O"])["overall"]["chunks"])
PYTHON

diff said - <<'SAID'
LOC: precision 100%, recall 0%, F1 0%
PER: precision 100%, recall 100%, F1 100%
all, nothing found: precision 100%, recall 0%, F1 0%
SAID
