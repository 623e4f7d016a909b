#!/usr/bin/env bash
# brat-peek 0.1.2.1: by the columns that it recommends, annotators who mark different mentions of a name agree wholly.
#
# For agreement it says always to compare "filename", "label" and "offset", and "offset" is the column of the name's
# words; where the name stands is "span".
#
# Seen with Python 3.11 ("Ana met Bo. Ana sang.": one has the first "Ana", the other the second)
#   filename, label, offset: 1.0
#   filename, label, span: 0.0
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet brat-peek==0.1.2.1 pandas==3.1.1 seaborn==0.13.2 unidecode==1.4.0

cd "$folder"
mkdir one two
for annotator in one two; do printf 'Ana met Bo. Ana sang.\n' > $annotator/1.txt; done
printf 'T1\tPER 0 3\tAna\n' > one/1.ann
printf 'T1\tPER 12 15\tAna\n' > two/1.ann
venv/bin/python - 2>log <<'PYTHON' | tee said
import contextlib
import io

from peek import ann_structure, metrics

annotators = [ann_structure.AnnCorpus(folder, txt=True) for folder in ("one", "two")]
for place in ("offset", "span"):
    with contextlib.redirect_stdout(io.StringIO()) as report:
        metrics.show_iaa(annotators, ["filename", "label", place], ["PER"])
    rows = [row for row in report.getvalue().splitlines() if row.strip("- ")]
    print(f"filename, label, {place}:", rows[rows.index("1. IAA all vs all") + 1])
PYTHON

diff said - <<'SAID'
filename, label, offset: 1.0
filename, label, span: 0.0
SAID
