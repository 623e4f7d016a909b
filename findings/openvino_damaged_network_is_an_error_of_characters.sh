#!/usr/bin/env bash
# OpenVINO 2026.4.1: `import_model` of a damaged file raises RuntimeError or UnicodeDecodeError, by what the damage is.
#
# The message of the C++ exception quotes what was read. Where that is no UTF-8, making a Python string of the message
# fails, and this failure is what arrives: a ValueError, which says nothing of OpenVINO or of the file. A cache of
# compiled networks that catches RuntimeError and compiles anew survives a file that was cut off, and stops at one with
# other bytes in it. Catch both.
#
# Seen with Python 3.11 on x86-64:
#   cut off after 100 bytes: RuntimeError
#   bytes 100 to 400 are 0x93: UnicodeDecodeError
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet openvino==2026.4.1 numpy==2.4.6

"$folder/venv/bin/python" - <<'PYTHON' | tee "$folder/said"
import numpy as np
import openvino
from openvino import opset15

pixels = opset15.parameter([1, 2], np.float32)
core = openvino.Core()
compiled = core.compile_model(openvino.Model([opset15.relu(pixels)], [pixels]), "CPU")
whole = compiled.export_model().getvalue()
damaged = {
    "cut off after 100 bytes": whole[:100],
    "bytes 100 to 400 are 0x93": whole[:100] + 300 * b"\x93" + whole[400:],
}
for name, content in damaged.items():
    try:
        core.import_model(content, "CPU")
        print(f"{name}: read")
    except Exception as error:
        print(f"{name}: {type(error).__name__}")
PYTHON

diff "$folder/said" - <<'SAID'
cut off after 100 bytes: RuntimeError
bytes 100 to 400 are 0x93: UnicodeDecodeError
SAID
