#!/usr/bin/env bash
# torchvision 0.29.1: `roi_pool` to 7 or 14 bins takes in a column beyond the region, at some widths.
#
# A bin ends at ceil((i + 1) * (width / bins)), in float32: 7 * (57 / 7) is 57.000004 there, so the last bin takes cell 58
# as well, which is outside of the region. Of the widths from the number of bins to 200 cells 57, 114 and 121 do it, with 7
# bins and with 14, the sizes that ResNet detectors use; 57 cells are a region of 912 pixels at their stride of 16. Another
# runtime that divides in another order has other features at least for these regions.
#
# Seen with Python 3.11 and torch 2.14.1 on x86-64:
#   7 bins: the column behind the region is read at the widths [57, 114, 121]
#   14 bins: the column behind the region is read at the widths [57, 114, 121]
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet torch==2.14.1 torchvision==0.29.1

"$folder/venv/bin/python" - <<'PYTHON' | tee "$folder/said"
import torch
from torchvision.ops import roi_pool

for bins in (7, 14):
    found = []
    for width in range(bins, 201):
        cells = torch.zeros(1, 1, bins, width + 1)
        cells[..., width] = 1  # the first column behind the region, whose last is width - 1
        region = torch.tensor([[0, 0, 0, width - 1, bins - 1.0]])
        if roi_pool(cells, region, bins).max() > 0:
            found.append(width)
    print(f"{bins} bins: the column behind the region is read at the widths {found}")
PYTHON

diff "$folder/said" - <<'SAID'
7 bins: the column behind the region is read at the widths [57, 114, 121]
14 bins: the column behind the region is read at the widths [57, 114, 121]
SAID
