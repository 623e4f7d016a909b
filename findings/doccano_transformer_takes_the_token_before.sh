#!/usr/bin/env bash
# doccano-transformer 1.0.2: the token that touches a name from the left becomes the name's first token.
#
# `create_bio_tags`, which writes its CoNLL files, takes a token that ends where the name begins for a part of it. A
# tokenizer that splits "@Ana" and "(Bonn)", as those of tweets do, makes names of "@ Ana" and "( Bonn": every handle and
# every place in brackets has the wrong extent, and no model is scored right on them. The other side is not touched.
#
# Seen with Python 3.11 (marked in "by @Ana (Bonn) now": "Ana" as PER, "Bonn" as LOC)
#   by O
#   @ B-PER
#   Ana I-PER
#   ( B-LOC
#   Bonn I-LOC
#   ) O
#   now O
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --no-deps doccano-transformer==1.0.2

"$folder/venv/bin/python" - <<'PYTHON' | tee "$folder/said"
from doccano_transformer.utils import create_bio_tags, get_offsets

text = "by @Ana (Bonn) now"
tokens = ["by", "@", "Ana", "(", "Bonn", ")", "now"]
marked = [(text.index(name), text.index(name) + len(name), type_) for name, type_ in (("Ana", "PER"), ("Bonn", "LOC"))]
for token, tag in zip(tokens, create_bio_tags(tokens, get_offsets(text, tokens), marked)):
    print(token, tag)
PYTHON

diff "$folder/said" - <<'SAID'
by O
@ B-PER
Ana I-PER
( B-LOC
Bonn I-LOC
) O
now O
SAID
