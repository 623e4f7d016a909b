#!/usr/bin/env bash
# spacy 3.8.18: `spacy.blank("en")` imports the module of every component that is installed, used or not.
#
# A package offers its component by an entry point. spaCy reads all of them with the first pipeline of a process, so each
# program waits for the imports of packages that it never names, and where one lacks a dependency of its own, no
# pipeline can be made at all: the error is that import's. A component should import what is heavy in its factory.
#
# Seen with Python 3.11 (an invented package, of which no pipeline makes use)
#   imported: ['invented_tagger']
#   where it lacks a dependency: ModuleNotFoundError: No module named 'what_it_lacks'
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet spacy==3.8.18

cd "$folder"
mkdir invented_tagger-1.dist-info
printf 'Metadata-Version: 2.1\nName: invented-tagger\nVersion: 1\n' > invented_tagger-1.dist-info/METADATA
printf '[spacy_factories]\ninvented = invented_tagger:make\n' > invented_tagger-1.dist-info/entry_points.txt

make_a_pipeline() {
    PYTHONPATH=. PYTHONDONTWRITEBYTECODE=1 venv/bin/python - <<'PYTHON'
import sys

import spacy

try:
    spacy.blank("en")
    print("imported:", [name for name in sys.modules if name.startswith("invented")])
except ImportError as error:
    print(f"where it lacks a dependency: {type(error).__name__}: {error}")
PYTHON
}
{
    printf 'def make(nlp, name):\n    return lambda doc: doc\n' > invented_tagger.py
    make_a_pipeline
    printf 'import what_it_lacks\n' > invented_tagger.py
    make_a_pipeline
} | tee said

diff said - <<'SAID'
imported: ['invented_tagger']
where it lacks a dependency: ModuleNotFoundError: No module named 'what_it_lacks'
SAID
