#!/usr/bin/env bash
# bratiaa 0.1.4: where two of the annotators marked nothing of a type, the agreement of all on that type is nan.
#
# It takes the mean over the pairs of annotators, and a pair of which neither used the type has 0 / 0. The other pairs,
# which disagree, are lost in it, so the types (and the texts: short ones often have no names) that most need a look have
# no figure, and a mean over the table's rows has none either. NumPy's warning is switched off by the library.
#
# Seen with Python 3.11 (three annotators marked Ana as PER, the third alone Bonn as LOC too)
#   LOC: nan
#   PER: 1.0
#   LOC, of the first and the third alone: 0.0
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet bratiaa==0.1.4 numpy==2.4.6 scipy==1.17.1

cd "$folder"
for annotator in {three,two}/{first,third} three/second; do
    mkdir -p $annotator
    printf 'Ana in Bonn' > $annotator/1.txt
    printf 'T1\tPER 0 3\tAna\n' > $annotator/1.ann
done
for project in three two; do
    printf '[entities]\nPER\nLOC\n[relations]\n[events]\n[attributes]\n' > $project/annotation.conf
    printf 'T2\tLOC 7 11\tBonn\n' >> $project/third/1.ann
done

venv/bin/python - <<'PYTHON' | tee said
import bratiaa

agreement = bratiaa.compute_f1_agreement("three")
for label, f1 in zip(agreement.labels, agreement.mean_sd_per_label()[0]):
    print(f"{label}: {f1}")
agreement = bratiaa.compute_f1_agreement("two")
f1 = dict(zip(agreement.labels, agreement.mean_sd_per_label()[0]))["LOC"]
print(f"LOC, of the first and the third alone: {f1}")
PYTHON

diff said - <<'SAID'
LOC: nan
PER: 1.0
LOC, of the first and the third alone: 0.0
SAID
