#!/usr/bin/env bash
# mean-average-precision 2024.1.5.0: a class that no picture shows and nobody predicts counts with 0 in the mean.
#
# COCO's own tool leaves such a class out. Here a detector that finds everything has 1 only where each class of its vocabulary
# is in the split. Two vocabularies, or two splits, are not to be compared so.
#
# Seen with Python 3.11, numpy 1.26.4, pandas 2.1.4 (one box, found exactly; mAP at IoU 0.5)
#   vocabulary of 1: 1.0
#   vocabulary of 2: 0.5
#   vocabulary of 10: 0.1
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet mean-average-precision==2024.1.5.0 numpy==1.26.4 pandas==2.1.4

cd "$folder"
venv/bin/python -W ignore - <<'PYTHON' | tee said
import numpy as np
from mean_average_precision import MetricBuilder

for classes in (1, 2, 10):
    metric = MetricBuilder.build_evaluation_metric("map_2d", async_mode=False, num_classes=classes)
    metric.add(np.array([[10, 10, 50, 50, 0, 0.9]]), np.array([[10, 10, 50, 50, 0, 0, 0]]))
    print(f"vocabulary of {classes}:", round(float(metric.value(iou_thresholds=0.5)["mAP"]), 3))
PYTHON

diff said - <<'SAID'
vocabulary of 1: 1.0
vocabulary of 2: 0.5
vocabulary of 10: 0.1
SAID
