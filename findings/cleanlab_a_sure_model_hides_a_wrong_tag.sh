#!/usr/bin/env bash
# cleanlab 2.9.0, token_classification: a tag to which the model gives 0.01 is no issue, if the model is sure elsewhere.
#
# `find_label_issues` counts a word as evidence for another tag only where the tag's probability reaches the mean that
# the tag has at the words labelled so. Where a model gives its names 0.995, a word that is labelled O and is a name with
# 0.99 is not found, and with 0.996 it is: the surer the model, the less it finds. `get_label_quality_scores` has no such
# bound, and puts the sentence first with 0.01 in both cases.
#
# Seen with Python 3.11:
#   name with 0.99: issues [] worst sentence 7 with 0.01
#   name with 0.996: issues [(7, 1)] worst sentence 7 with 0.004
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet cleanlab==2.9.0 numpy==2.4.6 scikit-learn==1.9.1 pandas==3.1.1

"$folder/venv/bin/python" - <<'PYTHON' | tee "$folder/said"
import numpy as np
from cleanlab.token_classification.filter import find_label_issues
from cleanlab.token_classification.rank import get_label_quality_scores

O, NAME = 0, 1
probabilities = [np.array([[0.999, 0.001], [0.005, 0.995], [0.999, 0.001]]) for _ in range(50)]
labels = [[O, NAME, O] for _ in range(50)]
labels[7][1] = O  # wrong
for of_name in (0.99, 0.996):
    probabilities[7][1] = [1 - of_name, of_name]
    issues = [tuple(map(int, issue)) for issue in find_label_issues(labels, probabilities)]
    scores, _ = get_label_quality_scores(labels, probabilities)
    print(f"name with {of_name}: issues {issues} worst sentence {np.argmin(scores)} with {scores.min():.2}")
PYTHON

diff "$folder/said" - <<'SAID'
name with 0.99: issues [] worst sentence 7 with 0.01
name with 0.996: issues [(7, 1)] worst sentence 7 with 0.004
SAID
