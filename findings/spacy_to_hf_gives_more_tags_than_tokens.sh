#!/usr/bin/env bash
# spacy-to-hf 0.0.4: where a token of the transformer covers two of spaCy's, it gets two tags, and all behind it shift.
#
# spaCy cuts "cannot" in two, which a vocabulary may have whole, as BERT's has. The answer's lists of tokens and tags then
# differ in length, and the name stands a token too late. No word is said.
#
# Seen with Python 3.11 (spaCy 3.8.18, a tokenizer of six words), "Ana cannot see Bonn"
#   tokens: ['Ana', 'cannot', 'see', 'Bo', '##nn']
#   tags: ['U-PER', 'O', 'O', 'O', 'B-LOC', 'L-LOC']
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
words = ["[UNK]", "Ana", "cannot", "see", "Bo", "##nn"]
tokenizer = Tokenizer(models.WordPiece({word: row for row, word in enumerate(words)}, unk_token="[UNK]"))
tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]").save_pretrained("tokenizer")

names = [{"start": 0, "end": 3, "label": "PER"}, {"start": 15, "end": 19, "label": "LOC"}]
answer = spacy_to_hf([{"text": "Ana cannot see Bonn", "spans": names}], "tokenizer")
print("tokens:", answer["tokens"][0])
print("tags:", answer["ner_tags"][0])
PYTHON

diff said - <<'SAID'
tokens: ['Ana', 'cannot', 'see', 'Bo', '##nn']
tags: ['U-PER', 'O', 'O', 'O', 'B-LOC', 'L-LOC']
SAID
