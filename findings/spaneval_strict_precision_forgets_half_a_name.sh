#!/usr/bin/env bash
# spaneval 0.2.1: by its `Strict`, two wrong names in place of one right are one error, and one over two is two.
#
# Precision is divided by the gold names that a prediction touches, plus the predictions that touch none, and not by the number
# of predictions. So "Ana" and "Sol" for "Ana Sol" cost as much as either alone, and its strict precision is not that of others.
#
# Seen with Python 3.11 (gold: "Bo" and "Ana Sol"; "Bo" is found)
#   Bo, Ana, Sol: 3 predictions, counted 2, precision 0.500
#   Bo, Ana: 2 predictions, counted 2, precision 0.500
#   Bo met Ana Sol: 1 predictions, counted 2, precision 0.000
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet spaneval==0.2.1

cd "$folder"
venv/bin/python - <<'PYTHON' | tee said
from spaneval import Entity, evaluate
from spaneval.strategies import Strict

TEXT = "Bo met Ana Sol"


def names(*found: str) -> list[Entity]:
    return [Entity("PER", TEXT.index(name), TEXT.index(name) + len(name)) for name in found]


gold = names("Bo", "Ana Sol")
for predicted in (names("Bo", "Ana", "Sol"), names("Bo", "Ana"), names(TEXT)):
    scores = evaluate(gold, predicted).metrics(Strict())
    found = ", ".join(TEXT[name.start : name.end] for name in predicted)
    print(f"{found}: {len(predicted)} predictions, counted {scores.actual:.0f}, precision {scores.precision:.3f}")
PYTHON

diff said - <<'SAID'
Bo, Ana, Sol: 3 predictions, counted 2, precision 0.500
Bo, Ana: 2 predictions, counted 2, precision 0.500
Bo met Ana Sol: 1 predictions, counted 2, precision 0.000
SAID
