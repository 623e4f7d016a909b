#!/usr/bin/env bash
# nltk 3.10.4: `conllstr2tree` reads a file of named entities as one without any.
#
# It keeps chunks of the types NP, PP and VP alone and takes each other tag for outside, without a word: B-PER is no name
# and no error. `conlltags2tree`, of the same module and the same tags, keeps every type. (`chunk_types` must list them.)
#
# Seen with Python 3.11
#   conllstr2tree: []
#   conllstr2tree, chunk_types named: ['PER', 'LOC']
#   conlltags2tree: ['PER', 'LOC']
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet nltk==3.10.4

"$folder/venv/bin/python" - <<'PYTHON' | tee "$folder/said"
from nltk.chunk import conllstr2tree, conlltags2tree

ROWS = "Ana NNP B-PER\nsings VBZ O\nin IN O\nBonn NNP B-LOC\n"


def names(tree) -> list[str]:
    return [part.label() for part in tree if not isinstance(part, tuple)]


print("conllstr2tree:", names(conllstr2tree(ROWS)))
print("conllstr2tree, chunk_types named:", names(conllstr2tree(ROWS, chunk_types=("PER", "LOC"))))
print("conlltags2tree:", names(conlltags2tree([tuple(row.split()) for row in ROWS.splitlines()])))
PYTHON

diff "$folder/said" - <<'SAID'
conllstr2tree: []
conllstr2tree, chunk_types named: ['PER', 'LOC']
conlltags2tree: ['PER', 'LOC']
SAID
