#!/usr/bin/env bash
# mean-average-precision 2024.1.5.0: a box that is marked difficult counts as missed, whether it was found or not.
#
# Pascal VOC leaves difficult boxes out: found or not, they change nothing. The package takes the mark in a column of its own
# and leaves a detection of such a box out, but keeps the box among those that were to be found. So nobody reaches 1.
#
# Seen with Python 3.11, numpy 1.26.4, pandas 2.1.4 (one plain and one difficult box of one class, mAP at IoU 0.5)
#   the plain one found, the difficult one not: 0.5
#   both found: 0.5
#   without the difficult one in the gold boxes: 1.0
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet mean-average-precision==2024.1.5.0 numpy==1.26.4 pandas==2.1.4

cd "$folder"
venv/bin/python -W ignore - <<'PYTHON' | tee said
import numpy as np
from mean_average_precision import MetricBuilder

PLAIN, DIFFICULT = [10, 10, 50, 50, 0, 0, 0], [60, 60, 90, 90, 0, 1, 0]  # corners, class, difficult, crowd
ON_PLAIN, ON_DIFFICULT = [10, 10, 50, 50, 0, 0.9], [60, 60, 90, 90, 0, 0.8]  # corners, class, score


def mean_ap(found, gold):
    metric = MetricBuilder.build_evaluation_metric("map_2d", async_mode=False, num_classes=1)
    metric.add(np.array(found), np.array(gold))
    return round(float(metric.value(iou_thresholds=0.5)["mAP"]), 3)


print("the plain one found, the difficult one not:", mean_ap([ON_PLAIN], [PLAIN, DIFFICULT]))
print("both found:", mean_ap([ON_PLAIN, ON_DIFFICULT], [PLAIN, DIFFICULT]))
print("without the difficult one in the gold boxes:", mean_ap([ON_PLAIN], [PLAIN]))
PYTHON

diff said - <<'SAID'
the plain one found, the difficult one not: 0.5
both found: 0.5
without the difficult one in the gold boxes: 1.0
SAID
