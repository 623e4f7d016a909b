#!/usr/bin/env bash
# nltk 3.10.4: TweetTokenizer shortens runs of punctuation and undoes HTML, also with its default reduce_len=False.
#
# Its tokens are then not those of the text: from the fourth equal mark on they are dropped, within a handle too,
# which becomes another's. It has no span_tokenize, and `align_tokens`, given such tokens, either raises a
# ValueError or answers wrongly without a word: the token "a", which follows "&amp;", is found inside it.
#
# Seen with Python 3.11
#   'yes!!!!!!! Ana' -> ['yes', '!', '!', '!', 'Ana']
#   '@Ana____Bo sings' -> ['@Ana___Bo', 'sings']
#   'Ana &amp; a dog' -> ['Ana', '&', 'a', 'dog']
#   "a" of the last is at (5, 6): '&amp;' is at (4, 9)
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet nltk==3.10.4

"$folder/venv/bin/python" - <<'PYTHON' | tee "$folder/said"
from nltk.tokenize import TweetTokenizer
from nltk.tokenize.util import align_tokens

for text in ("yes!!!!!!! Ana", "@Ana____Bo sings", "Ana &amp; a dog"):
    tokens = TweetTokenizer().tokenize(text)
    print(repr(text), "->", tokens)
start = text.index("&amp;")
print(f'"a" of the last is at {align_tokens(tokens, text)[2]}: {"&amp;"!r} is at {(start, start + len("&amp;"))}')
PYTHON

diff "$folder/said" - <<'SAID'
'yes!!!!!!! Ana' -> ['yes', '!', '!', '!', 'Ana']
'@Ana____Bo sings' -> ['@Ana___Bo', 'sings']
'Ana &amp; a dog' -> ['Ana', '&', 'a', 'dog']
"a" of the last is at (5, 6): '&amp;' is at (4, 9)
SAID
