#!/usr/bin/env bash
# spacy 3.8.18: the scorer leaves out each gold text whose `ents` were never set, and with it every name found in it.
#
# The usual loop, `if names: doc.ents = names`, makes such texts of all that have no names. What a model makes up in them
# costs nothing, so precision is too high by as much as such texts are of the file; a DocBin and to_json keep the
# difference. `doc.ents = []` mends it. `spacy evaluate` calls the same scorer.
#
# Seen with Python 3.11 (one name found rightly, one made up in a text without names)
#   ents of the second text never set: precision 1.0
#   ents of the second text set to []: precision 0.5
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet spacy==3.8.18

cd "$folder"
venv/bin/python - <<'PYTHON' | tee said
import spacy
from spacy.scorer import Scorer
from spacy.tokens import DocBin, Span
from spacy.training import Example

english = spacy.blank("en")


def with_a_name(text: str):
    doc = english(text)
    doc.ents = [Span(doc, 0, 1, label="PER")]
    return doc


def precision(without_names) -> float:
    gold = [with_a_name("Ana sings"), without_names]
    gold = DocBin(docs=gold).get_docs(english.vocab)
    found = [with_a_name("Ana sings"), with_a_name("Nobody sings")]
    return Scorer().score([Example(*pair) for pair in zip(found, gold)])["ents_p"]


never_set, set_to_none = english("Nobody sings"), english("Nobody sings")
set_to_none.ents = []
print("ents of the second text never set: precision", precision(never_set))
print("ents of the second text set to []: precision", precision(set_to_none))
PYTHON

diff said - <<'SAID'
ents of the second text never set: precision 1.0
ents of the second text set to []: precision 0.5
SAID
