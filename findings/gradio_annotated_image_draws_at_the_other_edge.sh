#!/usr/bin/env bash
# gradio 6.31.0: AnnotatedImage draws a box that begins left of the picture at the picture's right edge.
#
# Detectors give such boxes: their regressed corners lie a few pixels outside unless they are clipped. A negative corner
# is taken for an index from the end: the box is not filled, its left border appears at the other side. A corner beyond
# the right edge is clipped, as one would expect of both. (Corners that are floats are a TypeError.)
#
# Seen with Python 3.11 (a picture 30 wide; the columns of row 7 in which something is drawn)
#   box 4 to 10: [4, 5, 6, 7, 8, 9]
#   box 24 to 40: [24, 25, 26, 27, 28, 29]
#   box -5 to 10: [7, 8, 9, 25, 26, 27]
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet gradio==6.31.0

GRADIO_ANALYTICS_ENABLED=False GRADIO_TEMP_DIR="$folder/drawn" "$folder/venv/bin/python" - <<'PYTHON' | tee "$folder/said"
import gradio
import numpy as np
from PIL import Image

picture = np.zeros((20, 30, 3), np.uint8)
for left, right in ((4, 10), (24, 40), (-5, 10)):
    drawn = gradio.AnnotatedImage().postprocess((picture, [((left, 2, right, 12), "dog")]))
    opacity = np.array(Image.open(drawn.annotations[0].image.path))[7, :, 3]
    print(f"box {left} to {right}:", opacity.nonzero()[0].tolist())
PYTHON

diff "$folder/said" - <<'SAID'
box 4 to 10: [4, 5, 6, 7, 8, 9]
box 24 to 40: [24, 25, 26, 27, 28, 29]
box -5 to 10: [7, 8, 9, 25, 26, 27]
SAID
