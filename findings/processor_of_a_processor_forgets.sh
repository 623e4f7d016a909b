#!/usr/bin/env bash
# transformers 5.24.0, ProcessorMixin: a subclass that hands its parent's settings on by **kwargs saves none of them.
#
# `save_pretrained` writes what the subclass's own __init__ names, and no setting of the parent, though it is set and in
# use. `from_pretrained` then makes the processor with the parent's defaults and says nothing: the same text is cut
# elsewhere. A PreTrainedConfig that is made in the same way keeps all its fields.
#
# Seen with Python 3.11:
#   set: longest 4, mark <s>
#   in the file: ['mark']
#   loaded: longest 128, mark <s>
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet transformers==5.24.0 tokenizers==0.23.3

(cd "$folder" && venv/bin/python - 2>"$folder/log") <<'PYTHON' | tee "$folder/said"
import json

from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast, ProcessorMixin


class Parent(ProcessorMixin):
    def __init__(self, tokenizer, longest=128):
        super().__init__(tokenizer)
        self.longest = longest


class Child(Parent):
    def __init__(self, tokenizer, mark="", **kwargs):
        super().__init__(tokenizer, **kwargs)
        self.mark = mark


words = Tokenizer(models.WordLevel({"[UNK]": 0, "Lima": 1}, unk_token="[UNK]"))
made = Child(PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[UNK]"), mark="<s>", longest=4)
print(f"set: longest {made.longest}, mark {made.mark}")
made.save_pretrained("saved")
saved = json.load(open("saved/processor_config.json"))
print("in the file:", sorted(name for name in saved if name in ("longest", "mark")))
loaded = Child.from_pretrained("saved")
print(f"loaded: longest {loaded.longest}, mark {loaded.mark}")
PYTHON

diff "$folder/said" - <<'SAID'
set: longest 4, mark <s>
in the file: ['mark']
loaded: longest 128, mark <s>
SAID
