#!/usr/bin/env bash
# datasets 5.2.0: `Dataset.to_csv` writes lists of tokens as NumPy prints them, which Python's literals read as one word.
#
# A cell is ['Ada' 'sings'], without a comma (pandas writes a list of its own as ['Ada', 'sings']). `ast.literal_eval`,
# which everybody reads such cells with, joins neighbouring strings: one token 'Adasings', and its tags B-PER and O are
# one tag 'B-PERO', so that not even the counts tell. Of more than 1,000 tokens only the first and last three are written.
#
# Seen with Python 3.11, pandas 3.1.1, NumPy 2.4.6:
#   cells: ['Ada' 'sings'] ['B-PER' 'O']
#   literal_eval: ['Adasings'] ['B-PERO']
#   1001 tokens: ['a' 'a' 'a' ... 'a' 'a' 'a']
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet datasets==5.2.0 pandas==3.1.1 numpy==2.4.6 pyarrow==26.0.1

cd "$folder"
HF_HOME="$folder/home" HF_DATASETS_OFFLINE=1 "$folder/venv/bin/python" - <<'PYTHON' | tee "$folder/said"
import ast

import datasets
import pandas as pd

datasets.disable_progress_bars()
rows = {"tokens": [["Ada", "sings"], ["a"] * 1001], "tags": [["B-PER", "O"], ["O"] * 1001]}
datasets.Dataset.from_dict(rows).to_csv("tweets.csv")
found = pd.read_csv("tweets.csv")
print("cells:", found.tokens[0], found.tags[0])
print("literal_eval:", ast.literal_eval(found.tokens[0]), ast.literal_eval(found.tags[0]))
print("1001 tokens:", found.tokens[1])
PYTHON

diff "$folder/said" - <<'SAID'
cells: ['Ada' 'sings'] ['B-PER' 'O']
literal_eval: ['Adasings'] ['B-PERO']
1001 tokens: ['a' 'a' 'a' ... 'a' 'a' 'a']
SAID
