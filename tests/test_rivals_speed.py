"""The benchmarks of all systems: one command each, tiny on a CPU."""

import json
import sys

import pytest
import torch
from transformers import BertConfig

from conftest import ROOT


sys.path.append(str(ROOT / "benchmarks"))
import gpu
import rivals_speed


@pytest.fixture
def command(make_model, tmp_path, monkeypatch, capsys):
    """`command(module, *arguments)` runs a benchmark of a tiny network; returns what it prints and its file."""

    def run(module, *arguments):
        make_model(num_semantic_layers=1, dropout=0.1).config.save_pretrained(tmp_path / "config")
        file = tmp_path / "figures.json"
        argv = [module.__name__, tmp_path / "config", "--seconds", 0.01, *arguments, "--json", file]
        monkeypatch.setattr(sys, "argv", list(map(str, argv)))
        module.main()
        return capsys.readouterr().out, json.loads(file.read_text())

    return run


def test_each_system_has_its_speeds_and_its_parameters(command):
    systems = list(rivals_speed.SYSTEMS)
    printed, figures = command(rivals_speed, "--systems", *systems, "--batch_sizes", 2, "--precisions", "fp32")
    assert [entry["system"] for entry in figures["systems"]] == systems
    assert all(entry["train"] > 0 and entry["predict"] > 0 for entry in figures["systems"])
    parameters = {entry["system"]: entry["new_parameters"] for entry in figures["systems"]}
    assert parameters["plain"] == 32 * 9 + 9 and parameters["bert_crf"] == parameters["ita"] == 32 * 9 + 9 + 99
    assert "| mrc_mner |" in printed


def test_gpu_names_what_fails_and_goes_on(command):
    printed, figures = command(
        gpu, "--systems", "plain", "hamlearning", "umt", "--batch_sizes", 2, "--precisions", "bf16",
        "--detectors", "grid", "nothing", "--backbone", "test_resnet", "--pictures", 1, "--no_compile",
    )  # fmt: skip
    by_name = {entry.get("system", entry.get("detector")): entry for entry in figures["figures"]}
    assert by_name["umt"]["train"] > 0 and by_name["grid"]["pictures"] > 0
    assert "nothing" in by_name["nothing"]["problem"] and "umt" in printed
    assert "| tag | 2 |" in printed and figures["device"] == "cpu"


def test_behind_the_limit_nothing_begins(command):
    printed, figures = command(gpu, "--systems", "umt", "--batch_sizes", 2, "--detectors", "--limit", -1)
    assert {entry["problem"] for entry in figures["figures"]} == {"no time was left"}
    assert "no time was left" in printed


def test_what_the_docs_predict_is_found():
    assert gpu.predicted("bert-base", "train", 256) == "8,310" and gpu.predicted("bert-base", "train", 7) == ""


def test_the_text_encoder_is_not_counted():
    with torch.device("meta"):
        model = rivals_speed.class_of("umt")(rivals_speed.class_of("umt").config_class(text_config=BertConfig()))
    assert rivals_speed.new_parameters(model) == 39_783_294 - 5 * 768
