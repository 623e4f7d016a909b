#!/usr/bin/env bash
# spacy-to-hf 0.0.4: of a type with a hyphen the first part stays, where the tokenizer cuts the name, and the whole elsewhere.
#
# "geo-loc" is a type of W-NUT's tweets. One type becomes two, by the length of the names, and nothing is said.
#
# Seen with Python 3.11 (spaCy 3.8.18, a tokenizer of five words), "Ulm and Bonn"
#   tokens: ['Ulm', 'and', 'Bo', '##nn']
#   tags: ['U-geo-loc', 'O', 'B-geo', 'L-geo']
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet spacy-to-hf==0.0.4 spacy==3.8.18 transformers==5.24.0 datasets==5.2.0

cd "$folder"
HF_HUB_OFFLINE=1 venv/bin/python - 2>log <<'PYTHON' | tee said
import spacy
from spacy_to_hf import spacy_to_hf
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

# The package loads a pipeline of this name for its words; those of a blank one are the same.
spacy.blank("en").to_disk("en_core_web_sm")
words = ["[UNK]", "Ulm", "and", "Bo", "##nn"]
tokenizer = Tokenizer(models.WordPiece({word: row for row, word in enumerate(words)}, unk_token="[UNK]"))
tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]").save_pretrained("tokenizer")

names = [{"start": 0, "end": 3, "label": "geo-loc"}, {"start": 8, "end": 12, "label": "geo-loc"}]
answer = spacy_to_hf([{"text": "Ulm and Bonn", "spans": names}], "tokenizer")
print("tokens:", answer["tokens"][0])
print("tags:", answer["ner_tags"][0])
PYTHON

diff said - <<'SAID'
tokens: ['Ulm', 'and', 'Bo', '##nn']
tags: ['U-geo-loc', 'O', 'B-geo', 'L-geo']
SAID
