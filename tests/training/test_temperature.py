"""The temperature of scores: fitted on the dev split, it makes them probabilities and moves no tag."""

import json
import math
import shutil

import numpy as np
import pytest
import torch

from hamlearning.cli import main as hamlearning
from hamlearning.data.tweets import load_tweets, tag_names
from hamlearning.scores.calibration import calibration
from hamlearning.training import temperature as module
from hamlearning.training.run import main as run_mner
from hamlearning.training.temperature import MIN_ENTITIES, fit_temperature, log_loss, minimum
from modeling_hamlearning import HamLearningForTokenClassification
from pipeline_hamlearning import HamLearningPipeline
from processing_hamlearning import HamLearningProcessor
from tiny_world import flags, results_of
from words_hamlearning import entity_spans


@pytest.fixture
def copied(trained_folder, tmp_path):
    """A trained model that a test may write to."""
    return shutil.copytree(trained_folder, tmp_path / "model")


@pytest.fixture
def few_are_enough(monkeypatch):
    """The tiny world has twelve dev tweets."""
    monkeypatch.setattr(module, "MIN_ENTITIES", 1)


@pytest.fixture(scope="session")
def noisy(world, tmp_path_factory):
    """The tiny world with another type for every third entity of its dev split: what no model can be sure of."""
    folder = tmp_path_factory.mktemp("noisy") / "tweets"
    shutil.copytree(world / "tweets", folder)
    lines = (folder / "valid.txt").read_text().split("\n")
    begun = [place for place, line in enumerate(lines) if line.endswith(("\tB-PER", "\tB-LOC"))]
    for place in begun[::3]:
        lines[place] = lines[place][:-3] + ("LOC" if lines[place].endswith("PER") else "PER")
    (folder / "valid.txt").write_text("\n".join(lines))
    return folder


def entities_of(folder, **fields):
    """What a pipeline of the folder finds in the dev tweets, with these fields of its config."""
    model = HamLearningForTokenClassification.from_pretrained(folder).eval()
    for name, value in fields.items():
        setattr(model.config, name, value)
    return HamLearningPipeline(model=model, processor=HamLearningProcessor.from_pretrained(folder))


def calibrate(folder, data):
    return hamlearning(
        ["calibrate", str(folder), "--data_dir", str(data), "--use_cpu", "True", "--disable_tqdm", "True"]
    )


# -------------------------------------------------------------------------------------------------------- the fit


def test_the_fit_finds_the_temperature_that_scores_were_made_with():
    rng = np.random.default_rng(0)
    logits = torch.tensor(rng.normal(1, 2, 20_000))
    is_right = torch.tensor(rng.random(20_000)) < torch.sigmoid(logits)

    def score(temperature):  # of a model that is twice as sure as it should be
        return torch.nn.functional.logsigmoid(2 * logits / temperature)

    assert fit_temperature(score, is_right) == pytest.approx(2, rel=0.05)


def test_the_fit_has_the_least_log_loss():
    logits, is_right = torch.tensor([3.0, 1.0, -1.0, 2.0]), torch.tensor([True, False, False, True])

    def score(temperature):
        return torch.nn.functional.logsigmoid(logits / temperature)

    best = log_loss(score(fit_temperature(score, is_right)), is_right)
    assert all(best <= log_loss(score(other), is_right) + 1e-9 for other in np.geomspace(0.05, 20, 400))


def test_the_minimum_of_a_function_is_found_to_four_digits():
    assert minimum(lambda x: (x - 0.3) ** 2, -1, 1) == pytest.approx(0.3, abs=1e-4)


def test_the_log_loss_is_of_what_happened():
    found = log_loss(torch.tensor([0.8, 0.3]).log(), [True, False])
    assert found == pytest.approx(-(math.log(0.8) + math.log(0.7)) / 2)


# -------------------------------------------------------------------------------------------- in a run, and the verb


def test_a_trained_model_has_the_temperature_that_its_results_tell_of(world, noisy, tmp_path, few_are_enough):
    run_mner(flags(world, tmp_path / "out", data_dir=noisy))
    found = results_of(tmp_path / "out")["calibration"]
    assert json.loads((tmp_path / "out" / "config.json").read_text())["score_temperature"] == found["temperature"] != 1
    assert found["after"]["log_loss"] < found["before"]["log_loss"]
    written = [json.loads(line) for line in (tmp_path / "out" / "predictions_validation.jsonl").open()]
    gold = tag_names(load_tweets(noisy)["validation"])
    pairs = [
        (entity["score"], (entity["type"], entity["start"], entity["end"]) in entity_spans(tags))
        for line, tags in zip(written, gold, strict=True)
        for entity in line["entities"]
    ]
    figures = calibration(*zip(*pairs, strict=True))
    assert figures["number"] == found["entities"]
    assert figures["brier"] == pytest.approx(found["after"]["brier"], abs=1e-3)


def test_the_verb_writes_it_into_the_models_folder_and_moves_no_tag(copied, noisy, capsys, few_are_enough):
    texts = [" ".join(words) for words in load_tweets(noisy)["validation"]["tokens"]]
    before = entities_of(copied)(texts)
    weights = (copied / "model.safetensors").read_bytes()
    assert calibrate(copied, noisy) == 0
    assert "Score temperature" in capsys.readouterr().out
    after = entities_of(copied)(texts)
    spans = [[(e["entity_group"], e["start"], e["end"]) for e in tweet] for tweet in before]
    assert [[(e["entity_group"], e["start"], e["end"]) for e in tweet] for tweet in after] == spans
    assert [e["score"] for tweet in before for e in tweet] != [e["score"] for tweet in after for e in tweet]
    assert (copied / "model.safetensors").read_bytes() == weights
    assert results_of(copied)["calibration"]["temperature"] != 1
    assert entities_of(copied, score_temperature=1.0)(texts) == before


def test_calibrating_twice_gives_the_same_temperature(copied, noisy, few_are_enough):
    found = []
    for _ in range(2):
        assert calibrate(copied, noisy) == 0
        found.append(json.loads((copied / "config.json").read_text())["score_temperature"])
    assert found[0] == found[1]


def test_code_that_is_older_than_temperatures_is_replaced(copied, noisy, few_are_enough):
    code = copied / "configuration_hamlearning.py"
    code.write_text(code.read_text().replace("score_temperature", "other"))
    assert calibrate(copied, noisy) == 0
    assert "score_temperature" in code.read_text()


def test_of_too_few_entities_nothing_is_fitted(copied, world, capsys):
    assert calibrate(copied, world / "tweets") == 0
    assert json.loads((copied / "config.json").read_text())["score_temperature"] == 1
    assert "entities are wrong" in capsys.readouterr().out
    assert MIN_ENTITIES > 1


def test_what_is_no_folder_of_a_model_is_refused(world, tmp_path, capsys):
    assert calibrate(tmp_path / "none", world / "tweets") == 1
    assert "is no folder of a trained model" in capsys.readouterr().err


def test_training_goes_on_without_the_temperature_of_before(copied, world, tmp_path):
    config = json.loads((copied / "config.json").read_text())
    (copied / "config.json").write_text(json.dumps(config | {"score_temperature": 3.0}))
    more = {"model_name_or_path": copied, "text_model": None, "num_semantic_layers": None, "num_train_epochs": 1}
    run_mner(flags(world, tmp_path / "on", calibrate=False, do_eval=None, do_predict=None, **more))
    assert json.loads((tmp_path / "on" / "config.json").read_text())["score_temperature"] == 1


def test_a_model_without_a_crf_is_not_calibrated(world, tmp_path):
    of_words = {"architecture": "mrc_mner", "num_semantic_layers": None, "num_train_epochs": 1, "do_predict": None}
    with pytest.raises(ValueError, match="MRCMNERForTokenClassification has no CRF"):
        run_mner(flags(world, tmp_path / "out", calibrate=True, **of_words))
