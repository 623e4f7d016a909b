#!/usr/bin/env bash
# nlpaug 1.1.11: a word augmenter cuts and joins words that it does not touch, so tags by word no longer fit.
#
# It takes the text apart with a tokenizer of its own, for which "@" and "#" are words, and puts it together by rules for
# punctuation. Here it may delete "today" alone: of eight words seven should stay, and ten come back. Tags by word
# then stand on others; a mention and a hashtag are none any more.
#
# Seen with Python 3.11:
#   'Ana met @bo in #Bonn at 10:30 today' -> 'Ana met @ bo in # Bonn at 10: 30'
#   words: 8 -> 10
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet nlpaug==1.1.11

cd "$folder"
venv/bin/python - 2>log <<'PYTHON' | tee said
from nlpaug.augmenter.word import RandomWordAug

tweet = "Ana met @bo in #Bonn at 10:30 today"
kept = ["Ana", "met", "@", "bo", "in", "#", "Bonn", "at", "10", ":", "30"]
[augmented] = RandomWordAug(action="delete", stopwords=kept).augment(tweet)
print(f"{tweet!r} -> {augmented!r}")
print(f"words: {len(tweet.split())} -> {len(augmented.split())}")
PYTHON

diff said - <<'SAID'
'Ana met @bo in #Bonn at 10:30 today' -> 'Ana met @ bo in # Bonn at 10: 30'
words: 8 -> 10
SAID
