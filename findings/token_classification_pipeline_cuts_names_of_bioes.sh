#!/usr/bin/env bash
# transformers 5.24.0: the token-classification pipeline, aggregating tags of BIOES, cuts long names and glues short ones.
#
# It knows "B-" and "I-" alone. "E-PER" is to it a type of its own, so a name of three tokens comes back as two names of
# the type PER; two names of one token side by side, S-PER S-PER, come back as one. No word is said: the answer looks as
# that of a model that is wrong.
#
# Seen with Python 3.11 (tagged: "Ana Maria Sol" B I E, then "Bo" and "Cy", S each)
#   [('Ana Maria', 'PER'), ('Sol', 'PER'), ('Bo Cy', 'PER')]
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet transformers==5.24.0 tokenizers==0.23.3 torch==2.14.1

HF_HUB_OFFLINE=1 "$folder/venv/bin/python" - 2>"$folder/log" <<'PYTHON' | tee "$folder/said"
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BertConfig, BertForTokenClassification, PreTrainedTokenizerFast, pipeline

TAGS = {"[UNK]": "O", "Ana": "B-PER", "Maria": "I-PER", "Sol": "E-PER", "saw": "O", "Bo": "S-PER", "Cy": "S-PER"}
words = Tokenizer(models.WordLevel({word: number for number, word in enumerate(TAGS)}, unk_token="[UNK]"))
words.pre_tokenizer = pre_tokenizers.Whitespace()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[UNK]")

# A network that tags each word as the table does: a word's vector is its own axis, which the head turns into its tag.
labels = sorted(set(TAGS.values()))
config = BertConfig(
    vocab_size=len(TAGS), hidden_size=len(TAGS), num_hidden_layers=0, num_attention_heads=1,
    id2label=dict(enumerate(labels)), label2id={label: number for number, label in enumerate(labels)},
)
network = BertForTokenClassification(config).eval()
with torch.no_grad():
    for parameter in network.parameters():
        parameter.zero_()
    network.bert.embeddings.word_embeddings.weight.copy_(torch.eye(len(TAGS)))
    network.bert.embeddings.LayerNorm.weight.fill_(1)
    for number, tag in enumerate(TAGS.values()):
        network.classifier.weight[labels.index(tag), number] = 1
tagger = pipeline("token-classification", model=network, tokenizer=tokenizer, aggregation_strategy="simple")
text = "Ana Maria Sol saw Bo Cy"
print([(text[found["start"] : found["end"]], found["entity_group"]) for found in tagger(text)])
PYTHON

diff "$folder/said" - <<'SAID'
[('Ana Maria', 'PER'), ('Sol', 'PER'), ('Bo Cy', 'PER')]
SAID
