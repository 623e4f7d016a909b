#!/usr/bin/env bash
# dkpro-cassis 0.12.0: a name whose quotation marks were trimmed off is still found, but can no longer be removed.
#
# A CAS keeps its annotations sorted by begin and end, and looks up there what is to be removed. Setting `begin` does not
# sort anew. So tidying an INCEpTION export, trim and then drop what is short, ends with "not in list", of an annotation
# that `select` has just given. Removed first and added again with its new ends, it can be.
#
# Seen with Python 3.11
#   before: ['"Bo"', 'Ana']
#   trimmed: ['Bo', 'Ana']
#   remove: ValueError, not in list
#   taken out, trimmed, put back, removed: ['Ana']
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet dkpro-cassis==0.12.0

cd "$folder"
venv/bin/python - <<'PYTHON' | tee said
from cassis import Cas, TypeSystem


def annotated():
    types = TypeSystem()
    name_type = types.create_type("Name", "uima.tcas.Annotation")
    cas = Cas(types)
    cas.sofa_string = '"Bo" met Ana.'
    names = [name_type(begin=0, end=4), name_type(begin=9, end=12)]
    cas.add_all(names)
    return cas, names[0]


def names_of(cas):
    return [name.get_covered_text() for name in cas.select("Name")]


cas, bo = annotated()
print("before:", names_of(cas))
bo.begin, bo.end = 1, 3
print("trimmed:", names_of(cas))
try:
    cas.remove(bo)
    print("removed:", names_of(cas))
except ValueError as error:
    print("remove: ValueError,", str(error)[-len("not in list"):])

cas, bo = annotated()
cas.remove(bo)
bo.begin, bo.end = 1, 3
cas.add(bo)
cas.remove(bo)
print("taken out, trimmed, put back, removed:", names_of(cas))
PYTHON

diff said - <<'SAID'
before: ['"Bo"', 'Ana']
trimmed: ['Bo', 'Ana']
remove: ValueError, not in list
taken out, trimmed, put back, removed: ['Ana']
SAID
