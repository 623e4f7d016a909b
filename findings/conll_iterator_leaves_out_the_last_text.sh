#!/usr/bin/env bash
# conll-iterator 0.0.1: the last text of a file is left out, unless an empty line follows it.
#
# A text is given away when its empty line is read, and that line may stand between texts alone. `len` does not count the
# last text either.
#
# Seen with Python 3.11 (two texts)
#   texts: [[('Ana', 'B-PER'), ('sings', 'O')]], len 1
#   an empty line at the end: 2 texts
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet conll-iterator==0.0.1 nltk==3.10.4

cd "$folder"
venv/bin/python - <<'PYTHON' | tee said
from pathlib import Path

from conll_iterator import ConllIterator

ROWS = "Ana\tB-PER\nsings\tO\n\nBo\tB-PER\nsings\tO\n"
Path("one.conll").write_text(ROWS)
Path("two.conll").write_text(ROWS + "\n")
corpus = ConllIterator("one.conll", fields=["form", "tag"], columns=["form", "tag"])
print(f"texts: {list(corpus)}, len {len(corpus)}")
corpus = ConllIterator("two.conll", fields=["form", "tag"], columns=["form", "tag"])
print(f"an empty line at the end: {sum(1 for _ in corpus)} texts")
PYTHON

diff said - <<'SAID'
texts: [[('Ana', 'B-PER'), ('sings', 'O')]], len 1
an empty line at the end: 2 texts
SAID
