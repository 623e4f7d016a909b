"""The metric module: known answers, and seqeval's own."""

import json
import random
import shutil
import warnings
from pathlib import Path

import evaluate
import pytest
from seqeval.metrics import classification_report, f1_score, precision_score, recall_score
from seqeval.scheme import IOB2

from hamlearning.scores.mner_scores import MNERScores
from hub_server import HubServer, run_client


MODULE = Path(__file__).parents[2] / "hamlearning" / "scores" / "mner_scores.py"
TYPES = ("PER", "LOC", "ORG", "MISC")


@pytest.fixture(scope="module", params=["loaded", "imported"])
def metric(request):
    return evaluate.load(str(MODULE)) if request.param == "loaded" else MNERScores()


def score(metric, predictions, references):
    return metric.compute(predictions=predictions, references=references)


def random_tags(seed, tweets=60):
    generator = random.Random(seed)
    tags = ["O"] * 4 + [f"{prefix}-{type_}" for type_ in TYPES for prefix in "BI"]
    return [[generator.choice(tags) for _ in range(1 + tweet % 9)] for tweet in range(tweets)]


def test_loads_from_a_folder_of_its_name_as_from_a_space(tmp_path):
    space = tmp_path / "mner_scores"
    space.mkdir()
    shutil.copy(MODULE, space)
    assert score(evaluate.load(str(space)), [["B-PER"]], [["B-PER"]])["f1"] == 1.0


def test_one_of_two_entities_found(metric):
    result = score(metric, [["B-PER", "I-PER", "O", "O"]], [["B-PER", "I-PER", "O", "B-LOC"]])
    assert (result["precision"], result["recall"]) == (1.0, 0.5)
    assert result["f1"] == pytest.approx(2 / 3)
    assert (result["gold_entities"], result["predicted_entities"]) == (2, 1)


def test_an_entity_of_the_wrong_extent_is_wrong(metric):
    assert score(metric, [["B-PER", "O"]], [["B-PER", "I-PER"]])["f1"] == 0.0


def test_an_orphan_i_tag_opens_an_entity_in_default_mode_alone(metric):
    result = score(metric, [["O", "I-LOC", "B-PER"]], [["O", "I-LOC", "B-PER"]])
    assert (result["gold_entities"], result["strict_gold_entities"], result["orphan_i_tags"]) == (2, 1, 1)

    result = score(metric, [["O", "B-LOC", "B-PER"]], [["O", "I-LOC", "B-PER"]])
    assert result["f1"] == 1.0
    assert (result["strict_precision"], result["strict_recall"]) == (0.5, 1.0)


def test_an_i_tag_of_another_type_is_an_orphan(metric):
    assert score(metric, [["O", "O"]], [["B-PER", "I-LOC"]])["orphan_i_tags"] == 1


def test_entities_do_not_run_on_into_the_next_tweet(metric):
    result = score(metric, [["B-PER"], ["I-PER"]], [["B-PER"], ["I-PER"]])
    assert (result["gold_entities"], result["orphan_i_tags"]) == (2, 1)


def test_types_are_those_of_references_and_predictions(metric):
    result = score(metric, [["B-LOC", "I-MISC"]], [["B-PER", "I-MISC"]])
    assert set(result["types"]) == {"LOC", "MISC", "PER"}
    assert result["types"]["PER"]["number"] == 1
    assert result["types"]["LOC"]["number"] == 0
    assert result["types"]["MISC"]["f1"] == 1.0
    assert result["types"]["MISC"]["strict_f1"] == 0.0


@pytest.mark.parametrize("seed", range(3))
def test_agrees_with_seqeval(metric, seed):
    gold, predicted = random_tags(seed), random_tags(seed + 100)
    # A third right, so that scores are neither 0 nor 1.
    predicted[::3] = gold[::3]
    result = score(metric, predicted, gold)
    strict = {"mode": "strict", "scheme": IOB2}
    for name, function in (("precision", precision_score), ("recall", recall_score), ("f1", f1_score)):
        assert 0 < result[name] < 1
        assert result[name] == pytest.approx(function(gold, predicted))
        assert result[f"strict_{name}"] == pytest.approx(function(gold, predicted, **strict))
    default_report = classification_report(gold, predicted, output_dict=True)
    strict_report = classification_report(gold, predicted, output_dict=True, **strict)
    for type_ in TYPES:
        scores = result["types"][type_]
        assert scores["f1"] == pytest.approx(default_report[type_]["f1-score"])
        assert scores["precision"] == pytest.approx(default_report[type_]["precision"])
        assert scores["recall"] == pytest.approx(default_report[type_]["recall"])
        assert scores["strict_f1"] == pytest.approx(strict_report[type_]["f1-score"])
        assert scores["number"] == default_report[type_]["support"]
    assert result["strict_gold_entities"] == strict_report["micro avg"]["support"]
    assert result["gold_entities"] == default_report["micro avg"]["support"]


def test_returns_what_is_documented_and_no_more(metric):
    scores = {f"{kind}{name}" for kind in ("", "strict_") for name in ("precision", "recall", "f1")}
    counts = {"gold_entities", "predicted_entities", "strict_gold_entities", "orphan_i_tags"}
    result = score(metric, [["B-PER"]], [["B-PER"]])
    assert set(result) == {*scores, *counts, "types"}
    assert set(result["types"]["PER"]) == {*scores, "number"}


def test_returns_plain_numbers(metric):
    result = score(metric, random_tags(1), random_tags(2))
    assert json.loads(json.dumps(result)) == result


@pytest.mark.parametrize(
    ("predicted", "gold"), [("O", "O"), ("O", "B-PER"), ("B-PER", "O"), ("O", "I-PER"), ("I-PER", "O")]
)
def test_nothing_found_or_nothing_to_find_is_zero_without_a_warning(metric, predicted, gold):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = score(metric, [[predicted]], [[gold]])
    assert result["f1"] == result["strict_f1"] == 0.0


def test_differing_lengths_name_the_tweet_and_both(metric):
    with pytest.raises(ValueError, match="tweet 1 has 1 predictions but 2 references: give one prediction a token"):
        score(metric, [["O"], ["O"]], [["O"], ["O", "O"]])


def test_differing_numbers_of_tweets_are_refused():
    with pytest.raises(ValueError, match=r"predictions \(1\) and references \(2\)"):
        score(evaluate.load(str(MODULE)), [["O"]], [["O"], ["O"]])


@pytest.mark.parametrize("tag", ["PER", "B-", "S-PER", "", "o", "B-PER\n"])
def test_a_tag_of_another_scheme_is_named_with_its_place(metric, tag):
    with pytest.raises(ValueError, match="tweet 0 has .* at position 1 of its references"):
        score(metric, [["O", "O"]], [["O", tag]])


def test_no_tweet_at_all_is_refused(metric):
    with pytest.raises(ValueError, match="no tweet to score"):
        score(metric, [], [])


@pytest.mark.slow
def test_the_module_loads_from_a_space_of_the_hub(tmp_path):
    space, home = tmp_path / "space", tmp_path / "home"
    space.mkdir()
    home.mkdir()
    shutil.copy(MODULE, space)
    code = """
import evaluate
tags = [["B-PER", "I-PER", "O"]]
print(evaluate.load("org/mner_scores").compute(predictions=tags, references=tags)["f1"])
"""
    with HubServer() as hub:
        hub.add_repo("org/mner_scores", space, kind="space")
        assert run_client(hub, code, home).strip() == "1.0"
