"""What a trained model makes of raw text: how it is split, and that this is said."""

import json
import logging

import pytest
from transformers import pipeline

from hamlearning.cli import main
from hamlearning.data.tweets import read_data
from hamlearning.hub.model_card import model_card
from hamlearning.info import describe_model
from hamlearning.training.arguments import ModelArguments
from hamlearning.training.data import Data, look_at_words
from hamlearning.training.run import main as run_mner
from pipeline_hamlearning import HamLearningPipeline  # noqa: F401  # registers it
from tiny_world import flags, results_of


FRAMES = ["<龙>画于[北京]，1999年。", "[上海]有<马>3匹！", "我在[南京]画<凤>。", "好大的雪，好。"]
KINDS = {"<": "WORK", "[": "LOC"}


def tagged(frame: str) -> list[tuple[str, str]]:
    """Characters and tags; <...> is a WORK, [...] a LOC."""
    rows, kind, is_first = [], None, False
    for character in frame:
        if character in KINDS:
            kind, is_first = KINDS[character], True
        elif character in ">]":
            kind = None
        else:
            rows.append((character, f"{'B' if is_first else 'I'}-{kind}" if kind else "O"))
            is_first = False
    return rows


@pytest.fixture(scope="module")
def paintings(tmp_path_factory):
    """Short Chinese texts, a character a token, with an encoder of their own."""
    folder = tmp_path_factory.mktemp("paintings")
    (folder / "texts").mkdir()
    for split, times in (("train", 16), ("valid", 1), ("test", 1)):
        blocks = [
            f"IMGID:{split}{number}\n" + "".join(f"{token}\t{tag}\n" for token, tag in tagged(frame))
            for number, frame in enumerate(FRAMES * times)
        ]
        (folder / "texts" / f"{split}.txt").write_text("\n".join(blocks) + "\n", encoding="utf-8")
    sizes = ["--layers", "1", "--width", "32", "--positions", "128"]
    assert main(["encoder", str(folder / "texts"), str(folder / "encoder"), *sizes]) == 0
    return folder


def run(paintings, output_dir, **more):
    places = {"data_dir": paintings / "texts", "text_model": paintings / "encoder", "visual_features": None}
    run_mner(flags(paintings, output_dir, **places | more))
    return results_of(output_dir)


@pytest.fixture(scope="module")
def trained(paintings, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained") / "model"
    run(paintings, folder, num_train_epochs=12)
    return folder


def test_raw_text_gives_what_the_token_file_gives(trained):
    ner = pipeline(model=str(trained), trust_remote_code=True)
    lines = [
        json.loads(line) for line in (trained / "predictions_test.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    assert sum(len(line["entities"]) for line in lines) >= 6  # it has learned
    for line in lines:
        text = "".join(line["tokens"])
        found = [(entity["entity_group"], entity["start"], entity["end"]) for entity in ner(text)]
        assert found == [(entity["type"], entity["start"], entity["end"]) for entity in line["entities"]]
    [_, place] = ner("龙画于北京，1999年。")
    assert (place["entity_group"], place["word"]) == ("LOC", "北京")


def test_the_data_choose_the_splitting_and_the_results_say_it(trained):
    raw_text = results_of(trained)["raw_text"]
    assert raw_text == {
        "word_splitting": "characters",
        "texts": 64,
        "same_words": {"punctuation": 0.0, "tweet": 0.0, "characters": 1.0},
    }
    assert json.loads((trained / "processor_config.json").read_text())["word_splitting"] == "characters"


def test_card_and_info_say_it_too(trained):
    row = "| raw text | split by `characters`: that gives the words of the training data in 100.0% of 64 texts |"
    assert row in model_card(results_of(trained), "org/model", "mit", None)
    assert describe_model(str(trained))["raw text"]["texts whose words come back"] == "100.0%"


def test_results_of_before_have_a_card_without_it(trained):
    results = {name: value for name, value in results_of(trained).items() if name != "raw_text"}
    assert "raw text |" not in model_card(results, "org/model", "mit", None)


def test_a_flag_overrides_the_data_and_a_splitting_that_does_not_fit_is_a_warning(paintings, tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        results = run(paintings, tmp_path / "out", num_train_epochs=1, word_splitting="punctuation")
    assert results["raw_text"]["word_splitting"] == "punctuation"
    [warning] = [record for record in caplog.records if "Raw text, split by" in record.message]
    assert warning.levelname == "WARNING"
    assert "in 0.0% of 64 texts" in warning.message and "`characters` gives 100.0%" in warning.message
    assert warning.message in model_card(results, "org/model", "mit", None)


def test_a_model_that_learns_further_keeps_its_splitting_unless_a_flag_changes_it(trained, paintings, tmp_path):
    further = {"text_model": None, "num_semantic_layers": None, "model_name_or_path": trained, "num_train_epochs": 1}
    assert run(paintings, tmp_path / "kept", **further)["raw_text"]["word_splitting"] == "characters"
    changed = run(paintings, tmp_path / "changed", **further, word_splitting="tweet")
    assert changed["raw_text"]["word_splitting"] == "tweet"
    assert json.loads((tmp_path / "changed" / "processor_config.json").read_text())["word_splitting"] == "tweet"


def write_raw(folder, **texts):
    for split, text in texts.items():
        (folder / f"{split}.jsonl").write_text(json.dumps({"id": split, "text": text, "label": [[0, 2, "LOC"]]}))
    return read_data(folder)


def test_a_model_splits_raw_text_as_that_of_its_data_was_split(tmp_path):
    """Most letters are of such a script, and most words are digits."""
    found = write_raw(tmp_path, train="北京2020年10月12日")
    data = Data("mine", found.splits, {}, None, set(), word_splittings=found.word_splittings)
    model_args = ModelArguments()
    look_at_words(data, model_args)
    assert (model_args.word_splitting, data.raw_text["same_words"]["characters"]) == ("characters", 1.0)


def test_splits_whose_raw_text_is_split_differently_are_said(tmp_path):
    found = write_raw(tmp_path, train="北京。", valid="in Rome")
    assert found.remarks() == [
        "the raw texts of the splits are split by characters and punctuation: --word_splitting names one for all"
    ]


def test_an_unknown_splitting_is_refused_with_the_known_ones(capsys):
    with pytest.raises(SystemExit):
        run_mner(["--word_splitting", "words", "--do_train", "True"])
    assert "'punctuation', 'tweet', 'characters'" in capsys.readouterr().err.replace("punctuation, tweet", "")
