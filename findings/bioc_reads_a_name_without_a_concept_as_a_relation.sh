#!/usr/bin/env bash
# bioc 2.1: from a PubTator file, a name that has no concept comes back as a relation.
#
# The last column of such a row, the concept's identifier, is empty: files for recognition alone have none. The reader
# strips the row, counts five columns, and five are a relation to it, whose type is the offset where the name begins.
# Nothing is said; the text has a name less. A "-" in the last column keeps it. The writer writes a name whose
# identifier is "" in this very form.
#
# Seen with Python 3.11 (two names, the second without a concept)
#   names: ['Ana'], relations: [('7', '11', 'Bonn')]
#   with "-": names: ['Ana', 'Bonn'], relations: []
#   its own writing of both, read again: names: ['Ana'], relations: [('7', '11', 'Bonn')]
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet bioc==2.1

cd "$folder"
venv/bin/python - <<'PYTHON' | tee said
from bioc import pubtator

ROWS = "1|t|Ana in Bonn\n1|a|\n1\t0\t3\tAna\tPER\tQ1\n1\t7\t11\tBonn\tLOC\t\n\n"


def show(document) -> str:
    relations = [(relation.type, relation.id1, relation.id2) for relation in document.relations]
    return f"names: {[name.text for name in document.annotations]}, relations: {relations}"


[document] = pubtator.loads(ROWS)
print(show(document))
[document] = pubtator.loads(ROWS.replace("LOC\t", "LOC\t-"))
print('with "-":', show(document))
made = pubtator.PubTator("1", "Ana in Bonn", "")
made.add_annotation(pubtator.PubTatorAnn("1", 0, 3, "Ana", "PER", "Q1"))
made.add_annotation(pubtator.PubTatorAnn("1", 7, 11, "Bonn", "LOC", ""))
[again] = pubtator.loads(pubtator.dumps([made]))
print("its own writing of both, read again:", show(again))
PYTHON

diff said - <<'SAID'
names: ['Ana'], relations: [('7', '11', 'Bonn')]
with "-": names: ['Ana', 'Bonn'], relations: []
its own writing of both, read again: names: ['Ana'], relations: [('7', '11', 'Bonn')]
SAID
