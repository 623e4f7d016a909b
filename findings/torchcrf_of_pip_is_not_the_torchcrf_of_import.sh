#!/usr/bin/env bash
# torchcrf 1.1.0, pytorch-crf 0.7.2: `pip install torchcrf` does not give the package that `import torchcrf` needs.
#
# The field's taggers say `from torchcrf import CRF` and mean pytorch-crf. The package of the name torchcrf is another
# one, whose module is `TorchCRF`: the import fails beside it where file names have cases. Its class has the same name, other
# arguments, other parameters (a checkpoint of the one does not load into the other) and `viterbi_decode`, not `decode`.
#
# Seen with Python 3.11 (without their dependencies, read and not run)
#   torchcrf installs TorchCRF: CRF(num_labels, pad_idx, use_gpu), forward, viterbi_decode
#   pytorch-crf installs torchcrf: CRF(num_tags, batch_first), decode, forward, reset_parameters
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --no-deps torchcrf==1.1.0 --target "$folder/torchcrf"
"$folder/venv/bin/python" -m pip install --quiet --no-deps pytorch-crf==0.7.2 --target "$folder/pytorch-crf"

"$folder/venv/bin/python" - "$folder" <<'PYTHON' | tee "$folder/said"
import ast
import sys
from pathlib import Path

for package, module in (("torchcrf", "TorchCRF"), ("pytorch-crf", "torchcrf")):
    tree = ast.parse((Path(sys.argv[1]) / package / module / "__init__.py").read_text())
    crf = next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "CRF")
    methods = {node.name: node for node in crf.body if isinstance(node, ast.FunctionDef)}
    arguments = ", ".join(argument.arg for argument in methods["__init__"].args.args[1:])
    public = ", ".join(sorted(name for name in methods if not name.startswith("_")))
    print(f"{package} installs {module}: CRF({arguments}), {public}")
PYTHON

diff "$folder/said" - <<'SAID'
torchcrf installs TorchCRF: CRF(num_labels, pad_idx, use_gpu), forward, viterbi_decode
pytorch-crf installs torchcrf: CRF(num_tags, batch_first), decode, forward, reset_parameters
SAID
