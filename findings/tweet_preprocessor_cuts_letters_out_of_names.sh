#!/usr/bin/env bash
# tweet-preprocessor 0.6.0: `clean` takes letters out of the middle of words, names among them.
#
# Its words of Twitter's own, "RT" and "FAV", are cut off any word that begins with them, a number off what follows it, and
# a smiley is seen without a look at what stands beside it: ":D" in "Ana:Dee". The rest of the word stays as a word of its own.
# `tokenize`, which puts marks in place of what it finds, does the same.
#
# Seen with Python 3.11:
#   'RTL films Ana' -> 'L films Ana'
#   'Ana:Dee sings' -> 'Anaee sings'
#   'the 3D film of Bo' -> 'the D film of Bo'
#   'RTL films Ana' -> '$RESERVED$L films Ana' (tokenize)
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet tweet-preprocessor==0.6.0

cd "$folder"
venv/bin/python - <<'PYTHON' | tee said
import preprocessor

for tweet in ("RTL films Ana", "Ana:Dee sings", "the 3D film of Bo"):
    print(f"{tweet!r} -> {preprocessor.clean(tweet)!r}")
print(f"'RTL films Ana' -> {preprocessor.tokenize('RTL films Ana')!r} (tokenize)")
PYTHON

diff said - <<'SAID'
'RTL films Ana' -> 'L films Ana'
'Ana:Dee sings' -> 'Anaee sings'
'the 3D film of Bo' -> 'the D film of Bo'
'RTL films Ana' -> '$RESERVED$L films Ana' (tokenize)
SAID
