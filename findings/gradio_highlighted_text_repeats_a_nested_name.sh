#!/usr/bin/env bash
# gradio 6.31.0: HighlightedText, given a name within a name, shows the inner one a second time, behind the outer one.
#
# The text that the visitor sees is longer than the one that was tagged. Nothing is said. Nested entities are valid
# output of span models, and of two annotators' files laid together.
#
# Seen with Python 3.11 (tagged: "Bank of Ana City", all of it as ORG and "Ana" as PER)
#   shown: [('Bank of Ana City', 'ORG'), ('Ana', 'PER'), (' City', None)]
#   its text: Bank of Ana CityAna City
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet gradio==6.31.0

GRADIO_ANALYTICS_ENABLED=False "$folder/venv/bin/python" - <<'PYTHON' | tee "$folder/said"
import gradio

TEXT = "Bank of Ana City"
entities = [{"entity": "ORG", "start": 0, "end": 16}, {"entity": "PER", "start": 8, "end": 11}]
shown = gradio.HighlightedText().postprocess({"text": TEXT, "entities": entities})
parts = [(part.token, part.class_or_confidence) for part in shown.root if part.token]
print("shown:", parts)
print("its text:", "".join(text for text, _ in parts))
PYTHON

diff "$folder/said" - <<'SAID'
shown: [('Bank of Ana City', 'ORG'), ('Ana', 'PER'), (' City', None)]
its text: Bank of Ana CityAna City
SAID
