#!/usr/bin/env bash
# seqeval 1.2.2: to list the entities of a tag sequence imports scikit-learn and SciPy, strict mode does not.
#
# `get_entities`, the chunks of the default mode, lives in `seqeval.metrics`, whose package imports scikit-learn for the
# class of one warning. `Entities` of `seqeval.scheme`, the chunks of the strict mode, needs NumPy at most. Who scores a
# file of predictions pays seconds and 150 MB for the first and hardly anything for the second.
#
# Seen with Python 3.11:
#   default: [('PER', 0, 1)] imported scikit-learn: True SciPy: True
#   strict: [('PER', 0, 2)] imported scikit-learn: False SciPy: False
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet seqeval==1.2.2 scikit-learn==1.9.1 numpy==2.4.6 scipy==1.17.1

"$folder/venv/bin/python" - <<'PYTHON' | tee "$folder/said"
import sys

from seqeval.metrics.sequence_labeling import get_entities

found = get_entities(["B-PER", "I-PER", "O"])
print("default:", found, "imported scikit-learn:", "sklearn" in sys.modules, "SciPy:", "scipy" in sys.modules)
PYTHON
"$folder/venv/bin/python" - <<'PYTHON' | tee -a "$folder/said"
import sys

from seqeval.scheme import IOB2, Entities

[[entity]] = Entities([["B-PER", "I-PER", "O"]], IOB2).entities
found = [(entity.tag, entity.start, entity.end)]
print("strict:", found, "imported scikit-learn:", "sklearn" in sys.modules, "SciPy:", "scipy" in sys.modules)
PYTHON

diff "$folder/said" - <<'SAID'
default: [('PER', 0, 1)] imported scikit-learn: True SciPy: True
strict: [('PER', 0, 2)] imported scikit-learn: False SciPy: False
SAID
