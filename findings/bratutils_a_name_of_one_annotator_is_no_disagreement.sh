#!/usr/bin/env bash
# bratutils 0.2.2: comparing two folders of brat files, names that only the second annotator marked cost nothing.
#
# It marks the second folder's names as "missing until found" and then counts those that have no mark yet: none. So F1
# depends on the order of the folders, and is 1 where the first is a part of the second. Two single documents are
# compared rightly, unless `make_gold()` is called first, as the example of its README does.
#
# Seen with Python 3.11 (one text; the one annotator marked Ana, the other Ana and Bonn)
#   folders, less against more: precision 1.0, recall 1.0, F1 1.00
#   folders, more against less: precision 1.0, recall 0.5, F1 0.67
#   documents, less against more: precision 0.5, recall 1.0, F1 0.67
#   documents, less against more, after make_gold: precision 1.0, recall 1.0, F1 1.00
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet bratutils==0.2.2

cd "$folder"
mkdir less more
printf 'T1\tPER 0 3\tAna\n' | tee less/1.ann > more/1.ann
printf 'T2\tLOC 7 11\tBonn\n' >> more/1.ann
venv/bin/python - 2>log <<'PYTHON' | tee said
from bratutils.agreement import Document, DocumentCollection


def show(compared: str, table) -> None:
    print(f"{compared}: precision {table.pre}, recall {table.rec}, F1 {table.fsc:.2f}")


less, more = (DocumentCollection(folder) for folder in ("less", "more"))
show("folders, less against more", less.compare_to_gold(more))
less, more = (DocumentCollection(folder) for folder in ("less", "more"))
show("folders, more against less", more.compare_to_gold(less))
less, more = (Document(f"{folder}/1.ann") for folder in ("less", "more"))
show("documents, less against more", less.compare_to_gold(more))
less, more = (Document(f"{folder}/1.ann") for folder in ("less", "more"))
more.make_gold()
show("documents, less against more, after make_gold", less.compare_to_gold(more))
PYTHON

diff said - <<'SAID'
folders, less against more: precision 1.0, recall 1.0, F1 1.00
folders, more against less: precision 1.0, recall 0.5, F1 0.67
documents, less against more: precision 0.5, recall 1.0, F1 0.67
documents, less against more, after make_gold: precision 1.0, recall 1.0, F1 1.00
SAID
