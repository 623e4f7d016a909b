"""The temperature of scores: what it moves, what it does not, and that it is the same wherever a score comes out."""

import json
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from test_windows import long_batch  # noqa: F401
from transformers import pipeline

from configuration_hamlearning import HamLearningConfig
from hamlearning.tagging.tagger import Tagger
from hamlearning.training.run import main as run_mner
from serving_hamlearning import EndpointHandler


TEXT = "i met ann today"


@pytest.fixture(scope="module")
def tempered(trained_folder, tmp_path_factory):
    """A trained model whose config says temperature 3."""
    folder = shutil.copytree(trained_folder, tmp_path_factory.mktemp("tempered") / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"score_temperature": 3.0}))
    return folder


def at(model, temperature):
    model.config.score_temperature = temperature
    return model


def test_temperature_1_is_what_a_model_without_one_says_bit_for_bit(make_model, batch):
    plain = make_model()(**batch, output_probabilities=True)
    given = make_model(score_temperature=1)(**batch, output_probabilities=True)
    assert all(torch.equal(given[name], plain[name]) for name in plain)
    mask = plain.predictions != -100
    mask[:, 0] = True
    crf = make_model().crf
    alpha, beta, _, _ = crf.forward_backward(plain.logits, mask)
    assert torch.equal(plain.probabilities, (alpha + beta).exp() * (plain.predictions != -100)[..., None])


@pytest.mark.parametrize("temperature", [0.3, 4.0])
def test_scores_move_and_tags_and_emissions_do_not(make_model, batch, temperature):
    model = make_model()
    plain, other = model(**batch), at(model, temperature)(**batch)
    assert torch.equal(other.predictions, plain.predictions) and torch.equal(other.logits, plain.logits)
    is_entity = plain.scores > 0
    assert is_entity.any() and torch.equal(other.scores > 0, is_entity)
    assert (other.scores != plain.scores)[is_entity].all()


def test_the_loss_does_not_depend_on_it(make_model, make_batch):
    model, batch = make_model(), make_batch()
    assert torch.equal(model(**batch).loss, at(model, 4.0)(**batch).loss)


def test_an_entity_is_no_surer_than_its_first_tag(make_model, batch):
    outputs = make_model(score_temperature=4)(**batch, output_probabilities=True)
    first = outputs.probabilities.gather(2, outputs.predictions.clamp(min=0)[..., None])[..., 0]
    assert (outputs.scores <= first + 1e-6).all()


def test_an_explanation_is_of_the_tempered_scores(make_model, batch):
    model = make_model(score_temperature=4)
    explanation = model.explain(**batch)
    torch.testing.assert_close(explanation.scores, model(**batch).scores, atol=1e-5, rtol=0)
    assert (explanation.region_effects != at(model, 1.0).explain(**batch).region_effects).any()


def test_a_text_in_windows_has_it(make_model, long_batch):  # noqa: F811
    batch = {name: value for name, value in long_batch().items() if name != "labels"}
    model = make_model()
    plain, other = model(**batch), at(model, 4.0)(**batch)
    assert torch.equal(other.predictions, plain.predictions) and (other.scores != plain.scores).any()


def test_who_gives_no_word_ids_gets_tempered_tags_in_the_same_order(make_model, batch):
    model = make_model()
    pieces = {name: batch[name] for name in ("input_ids", "attention_mask")}
    plain, other = model(**pieces), at(model, 4.0)(**pieces)
    assert torch.equal(other.predictions, plain.predictions) and (other.scores != plain.scores).any()


def test_another_system_with_a_crf_has_it(make_rival, batch):
    model = make_rival("umt")
    plain, other = model(**batch), at(model, 4.0)(**batch)
    assert torch.equal(other.predictions, plain.predictions) and (other.scores != plain.scores).any()


@pytest.mark.parametrize("temperature", [0, -1.0, float("nan"), float("inf"), 1e-30])
def test_a_temperature_that_is_none_is_refused(temperature):
    with pytest.raises(ValueError, match=r"score_temperature=.*: must be in \[0.05, 20\]"):
        HamLearningConfig(score_temperature=temperature)


# ---------------------------------------------------------------------------------------- wherever a score comes out


def score_of(entities):
    [entity] = entities
    return entity["score"]


def test_pipeline_handler_and_tagger_say_the_same_score(tempered, trained_folder):
    ner = pipeline(model=str(tempered), trust_remote_code=True)
    expected = score_of(ner(TEXT))
    assert expected != pytest.approx(
        score_of(pipeline(model=str(trained_folder), trust_remote_code=True)(TEXT)), abs=1e-3
    )
    assert score_of(EndpointHandler(str(tempered))({"inputs": TEXT})) == pytest.approx(expected, abs=1e-4)
    assert score_of(Tagger(tempered)({"text": [TEXT]})["entities"][0]) == pytest.approx(expected, abs=1e-4)
    [word] = [word for word in ner(TEXT, aggregation_strategy="none") if word["entity"] != "O"]
    assert word["score"] == pytest.approx(expected, abs=1e-4)


def test_streamed_prediction_says_it_too(tempered, tmp_path):
    (tmp_path / "shards").mkdir()
    pq.write_table(pa.table({"id": ["1"], "tokens": [TEXT.split()]}), tmp_path / "shards" / "test.parquet")
    asked = {"model_name_or_path": tempered, "data_dir": tmp_path / "shards", "output_dir": tmp_path / "out"}
    asked |= {"do_predict": True, "streaming": True, "bf16": False, "disable_tqdm": True}
    run_mner([str(part) for name, value in asked.items() for part in (f"--{name}", value)])
    [path] = (tmp_path / "out").glob("*.parquet")
    [row] = pq.read_table(path).to_pylist()
    expected = score_of(pipeline(model=str(tempered), trust_remote_code=True)(TEXT))
    assert score_of(row["entities"]) == pytest.approx(expected, abs=1e-4)


@pytest.mark.slow
def test_an_exported_model_has_it(trained_folder, tempered, tmp_path):
    pytest.importorskip("openvino", reason='needs openvino: pip install "hamlearning[export]"')
    from exported_hamlearning import export_model

    export_model(tempered, tmp_path / "exported", precision="fp32")
    expected = score_of(pipeline(model=str(tempered), trust_remote_code=True)(TEXT))
    found = score_of(pipeline(model=str(tmp_path / "exported"), trust_remote_code=True)(TEXT))
    assert found == pytest.approx(expected, abs=1e-4)
