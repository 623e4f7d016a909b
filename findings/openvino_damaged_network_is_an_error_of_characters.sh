#!/usr/bin/env bash
# OpenVINO 2026.4.1: a damaged network is a RuntimeError or a UnicodeDecodeError, by what the damage is.
#
# The message of an exception of `read_model` or `import_model` quotes what was read. Where that is no UTF-8, what arrives
# is that it cannot be decoded: a ValueError, which says nothing of OpenVINO or of the file. A cache of compiled networks
# that catches RuntimeError and compiles anew survives a file that was cut off, and stops at one with other bytes in it.
#
# Seen with Python 3.11 on x86-64:
#   compiled, cut off after 100 bytes: RuntimeError
#   compiled, bytes 100 to 400 are 0x93: UnicodeDecodeError
#   not compiled, an operation named ReL: RuntimeError
#   not compiled, an operation named 0x93 eLU: UnicodeDecodeError
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet openvino==2026.4.1 numpy==2.4.6

# CI: else OpenVINO tells a server of its makers that it was imported.
CI=true "$folder/venv/bin/python" - "$folder" <<'PYTHON' | tee "$folder/said"
import sys
from pathlib import Path

import numpy as np
import openvino
from openvino import opset15

pixels = opset15.parameter([1, 2], np.float32)
core = openvino.Core()
model = openvino.Model([opset15.relu(pixels)], [pixels])
whole = core.compile_model(model, "CPU").export_model().getvalue()
path = Path(sys.argv[1], "network.xml")
openvino.save_model(model, path)
written = path.read_bytes()


def read(content: bytes) -> None:
    path.write_bytes(content)
    core.read_model(path)


damaged = {
    "compiled, cut off after 100 bytes": lambda: core.import_model(whole[:100], "CPU"),
    "compiled, bytes 100 to 400 are 0x93": lambda: core.import_model(
        whole[:100] + 300 * b"\x93" + whole[400:], "CPU"
    ),
    "not compiled, an operation named ReL": lambda: read(written.replace(b'"ReLU"', b'"ReL"')),
    "not compiled, an operation named 0x93 eLU": lambda: read(written.replace(b'"ReLU"', b'"\x93eLU"')),
}
for name, damage in damaged.items():
    try:
        damage()
        print(f"{name}: read")
    except Exception as error:
        print(f"{name}: {type(error).__name__}")
PYTHON

diff "$folder/said" - <<'SAID'
compiled, cut off after 100 bytes: RuntimeError
compiled, bytes 100 to 400 are 0x93: UnicodeDecodeError
not compiled, an operation named ReL: RuntimeError
not compiled, an operation named 0x93 eLU: UnicodeDecodeError
SAID
