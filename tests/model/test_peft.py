"""Low-rank adapters of `peft` on a model: trained, saved, read again, merged."""

import json

import pytest
import torch
from transformers import BertTokenizer

from processing_hamlearning import HamLearningProcessor


PEFT = "peft==0.21.2"
# Trains two steps on a tweet with its picture; prints what must be equal, and what must have moved.
TRAINS = """
import json, sys
import torch
from peft import AutoPeftModelForTokenClassification, LoraConfig, PeftModel, TaskType, get_peft_model
from modeling_hamlearning import HamLearningForTokenClassification as Model

folder, batch = sys.argv[1], torch.load(sys.argv[2])
tweets = {name: tensor for name, tensor in batch.items() if name != "labels"}

def base():
    return Model.from_pretrained(f"{folder}/base")

def said(model):
    with torch.no_grad():
        return model.eval()(**tweets)

config = LoraConfig(
    task_type=TaskType.TOKEN_CLS, r=4, target_modules=["query", "value", "local_global"], modules_to_save=["crf"],
)
model = get_peft_model(base(), config)
before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=0.05)
losses = []
for _ in range(2):
    loss = model.train()(**batch).loss
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    losses.append(float(loss.detach()))
moved = sorted(name for name, weight in model.named_parameters() if not torch.equal(weight, before[name]))
trained = said(model)
model.save_pretrained(f"{folder}/adapter")

read = said(PeftModel.from_pretrained(base(), f"{folder}/adapter"))
of_auto = said(AutoPeftModelForTokenClassification.from_pretrained(f"{folder}/adapter", trust_remote_code=True))
merged = PeftModel.from_pretrained(base(), f"{folder}/adapter").merge_and_unload()
merged.save_pretrained(f"{folder}/merged")
again = said(Model.from_pretrained(f"{folder}/merged"))
differences = {
    name: max(float((trained[field] - other[field]).abs().max()) for field in ("logits", "scores"))
    for name, other in {"read": read, "auto": of_auto, "merged": said(merged), "again": again}.items()
}
same_path = all(torch.equal(trained.predictions, other.predictions) for other in (read, of_auto, again))
print(json.dumps({
    "losses": losses, "moved": moved, "differences": differences, "same_path": same_path,
    "changed": float((trained.logits - said(base()).logits).abs().max()),
}))
"""
PROMPTS = """
import sys
import torch
from peft import PromptTuningConfig, TaskType, get_peft_model
from modeling_hamlearning import HamLearningForTokenClassification as Model

config = PromptTuningConfig(
    task_type=TaskType.TOKEN_CLS, num_virtual_tokens=3, token_dim=32, num_transformer_submodules=1,
    num_attention_heads=4, num_layers=2,
)
batch = torch.load(sys.argv[2])
model = get_peft_model(Model.from_pretrained(f"{sys.argv[1]}/base"), config)
try:
    model(**batch)
except ValueError as error:
    print(error)
"""


@pytest.fixture
def folder(make_model, make_batch, tmp_path):
    """Where a model and a batch lie."""
    pieces = "[PAD] [UNK] [CLS] [SEP] [MASK] ann in rome met".split()
    model = make_model()
    model.save_pretrained(tmp_path / "base")
    HamLearningProcessor(BertTokenizer(vocab={piece: i for i, piece in enumerate(pieces)})).save_pretrained(
        tmp_path / "base"
    )
    torch.save(make_batch(), tmp_path / "batch.pt")
    return tmp_path


@pytest.mark.slow
def test_an_adapter_is_trained_saved_read_again_and_merged(folder, own_environment):
    lines = own_environment(PEFT).run(TRAINS, folder, folder / "batch.pt").splitlines()
    found = json.loads(lines[-1])
    assert found["losses"][1] < found["losses"][0]
    assert found["changed"] > 0.01 and found["same_path"]
    assert all(difference < 1e-4 for difference in found["differences"].values()), found["differences"]
    parts = ("lora_A", "lora_B", "modules_to_save")
    assert all(any(part in name for part in parts) for name in found["moved"]), "a frozen weight has moved"
    for part in ("text_model.*lora_B", "local_global.lora_B", "classifier.modules_to_save", "crf.modules_to_save"):
        first, _, last = part.partition(".*")
        assert any(first in name and last in name for name in found["moved"]), part


@pytest.mark.slow
def test_prompts_before_a_text_are_refused_with_a_sentence(folder, own_environment):
    said = own_environment(PEFT).run(PROMPTS, folder, folder / "batch.pt")
    assert "expected (4, 13): give an entry a sub-token. (Prompts put before a text" in said
