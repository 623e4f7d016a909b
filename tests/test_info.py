"""`hamlearning info`: the machine, and a model, without loading weights."""

import json

import pytest

from hamlearning.cli import main
from hub_server import HubServer, run_client


def facts(capsys, *arguments):
    assert main(["info", "--json", *map(str, arguments)]) == 0
    return json.loads(capsys.readouterr().out)


def test_the_machine_is_described_for_a_report_of_a_fault(capsys):
    found = facts(capsys)
    assert found["versions"]["torch"] and found["versions"]["python"]
    assert found.keys() >= {"device", "bf16", "PyTorch's threads", "Hub's cache", "exported models", "CPU cores"}


def test_a_token_is_never_shown(capsys, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("HAMLEARNING_BATCH_SIZE", "3")
    assert main(["info"]) == 0
    said = capsys.readouterr().out
    assert "hf_secret" not in said and "HAMLEARNING_BATCH_SIZE: 3" in said


def test_a_model_is_described_by_its_files(capsys, trained_folder):
    found = facts(capsys, trained_folder)
    results = json.loads((trained_folder / "results.json").read_text())
    assert found["types"] == results["types"]
    assert found["parameters"] == results["parameters"]
    assert f"F1 {100 * results['test']['f1']:.2f}" in found["scores"]["test"]
    assert found["trained on"]["name"] == results["data_name"]
    assert found["bytes"] == (trained_folder / "model.safetensors").stat().st_size


def test_a_model_of_the_hub_is_described_without_its_weights(trained_folder, tmp_path):
    with HubServer() as hub:
        hub.add_repo("org/model", trained_folder)
        code = "from hamlearning.cli import main\nassert main(['info', 'org/model']) == 0"
        said = run_client(hub, code, tmp_path)
        assert not [path for _, path in hub.requests if path.endswith(".safetensors")]
    assert "model: org/model" in said


@pytest.mark.parametrize("content, message", [(None, "has no config.json"), ('{"model_type": "bert"}', "'bert'")])
def test_what_is_no_model_is_one_sentence(content, message, capsys, tmp_path):
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    assert main(["info", str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error and error.count("\n") == 1
