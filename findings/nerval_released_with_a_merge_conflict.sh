#!/usr/bin/env bash
# nerval 1.1.2, the newest, cannot be imported: its module was released with the marks of a merge conflict. 1.1.1 can.
#
# `pip install nerval` takes 1.1.2 and reports success. A script that scores by it fails at `import nerval`: name 1.1.1.
#
# Seen with Python 3.11:
#   1.1.1: its modules compile
#   1.1.2: SyntaxError at "<<<<<<< HEAD"
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"

compiled() { # whether the modules of the version that is installed compile
    "$folder/venv/bin/python" - "$1" <<'PYTHON'
import sys
from importlib.util import find_spec
from pathlib import Path

for path in Path(find_spec("nerval").origin).parent.glob("*.py"):
    try:
        compile(path.read_text(encoding="utf-8"), path.name, "exec")
    except SyntaxError as error:
        print(f'{sys.argv[1]}: {type(error).__name__} at "{error.text.strip()}"')
        break
else:
    print(f"{sys.argv[1]}: its modules compile")
PYTHON
}

{
    "$folder/venv/bin/python" -m pip install --quiet --no-deps --no-compile nerval==1.1.1
    compiled 1.1.1
    "$folder/venv/bin/python" -m pip install --quiet --no-deps --no-compile nerval==1.1.2
    compiled 1.1.2
} | tee "$folder/said"

diff "$folder/said" - <<'SAID'
1.1.1: its modules compile
1.1.2: SyntaxError at "<<<<<<< HEAD"
SAID
