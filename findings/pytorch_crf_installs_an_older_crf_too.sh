#!/usr/bin/env bash
# pytorch-crf 0.7.2: its wheel installs a second package, `crf`, with the class as it was years before.
#
# `from crf import CRF` works wherever pytorch-crf is installed, also where a repository's own crf.py was forgotten or is
# not on the path. That class knows neither batch_first nor reduction. Its parameters have the same names, so a checkpoint
# loads. The sdist has no such folder.
#
# Seen with Python 3.11 (without PyTorch, read and not run)
#   wheel: crf, torchcrf
#   sdist: torchcrf
#   crf: CRF(num_tags), forward(emissions, tags, mask, summed)
#   torchcrf: CRF(num_tags, batch_first), forward(emissions, tags, mask, reduction)
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
pip() { "$folder/venv/bin/python" -m pip "$@" --quiet --no-deps pytorch-crf==0.7.2; }
pip install --only-binary :all: --target "$folder/wheel"
pip install --no-binary :all: --target "$folder/sdist"

"$folder/venv/bin/python" - "$folder" <<'PYTHON' | tee "$folder/said"
import ast
import sys
from pathlib import Path

folder = Path(sys.argv[1])
for kind in ("wheel", "sdist"):
    print(f"{kind}:", ", ".join(sorted(path.parent.name for path in (folder / kind).glob("*/__init__.py"))))
for module in ("crf", "torchcrf"):
    tree = ast.parse((folder / "wheel" / module / "__init__.py").read_text())
    crf = next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "CRF")
    methods = {node.name: node for node in crf.body if isinstance(node, ast.FunctionDef)}
    said = [", ".join(argument.arg for argument in methods[name].args.args[1:]) for name in ("__init__", "forward")]
    print(f"{module}: CRF({said[0]}), forward({said[1]})")
PYTHON

diff "$folder/said" - <<'SAID'
wheel: crf, torchcrf
sdist: torchcrf
crf: CRF(num_tags), forward(emissions, tags, mask, summed)
torchcrf: CRF(num_tags, batch_first), forward(emissions, tags, mask, reduction)
SAID
