"""The threshold of scores from which on what is found has a wanted precision."""

import json

import numpy as np
import pytest

from hamlearning.cli import main as hamlearning
from hamlearning.scores.score import evaluate_files
from hamlearning.scores.thresholds import threshold_for, threshold_sentence


def tweets_of(*entities):
    """Gold tags and scores of tweets of one word: an entity that is right (True) or not (False), with its score."""
    gold = [["B-PER" if is_right else "O"] for _, is_right in entities]
    return gold, [{("PER", 0, 1): score} for score, _ in entities]


def write_run(path, entities):
    lines = [
        {
            "id": str(number),
            "tokens": ["ada"],
            "ner_tags": ["B-PER" if is_right else "O"],
            "predictions": ["B-PER"],
            "entities": [{"type": "PER", "start": 0, "end": 1, "score": score}],
        }
        for number, (score, is_right) in enumerate(entities)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(path)


MIXED = [(0.9, True), (0.8, True), (0.7, False), (0.6, True), (0.5, True), (0.4, False), (0.3, False)]


def test_the_lowest_threshold_with_the_precision_is_found():
    found = threshold_for(0.8, *tweets_of(*MIXED), samples=10)
    assert found["threshold"] == pytest.approx(0.45)
    assert (found["kept"], found["precision"], found["recall"], found["entities"]) == (5, 0.8, 1.0, 7)


def test_every_precision_is_reached_by_its_threshold_and_by_none_below_it():
    rng = np.random.default_rng(0)
    entities = [(round(float(score), 2), bool(rng.random() < score)) for score in rng.random(300)]

    def precision_at(threshold):
        kept = [is_right for score, is_right in entities if score >= threshold]
        return sum(kept) / len(kept)

    for wanted in (0.5, 0.6, 0.75, 0.9):
        found = threshold_for(wanted, *tweets_of(*entities), samples=10)
        assert precision_at(found["threshold"]) == pytest.approx(found["precision"]) and found["precision"] >= wanted
        assert all(precision_at(score) < wanted for score, _ in entities if score < found["threshold"])
    assert found["threshold"] > 0


def test_entities_of_one_score_are_kept_together():
    found = threshold_for(1, *tweets_of((0.9, True), (0.5, True), (0.5, False)), samples=10)
    assert found["kept"] == 1 and found["threshold"] == pytest.approx(0.7)


def test_where_all_may_be_kept_the_threshold_is_0():
    found = threshold_for(0.5, *tweets_of((0.9, True), (0.2, True), (0.1, False)), samples=10)
    assert (found["threshold"], found["kept"]) == (0, 3)


def test_recall_is_of_all_gold_entities_also_of_those_that_were_not_found():
    gold, scores = tweets_of((0.9, True), (0.1, False))
    found = threshold_for(0.9, [*gold, ["B-LOC", "I-LOC"]], [*scores, {}], samples=10)
    assert found["recall"] == 0.5


def test_the_intervals_hold_what_they_are_of():
    rng = np.random.default_rng(1)
    scores = rng.random(400)
    entities = [(float(score), bool(rng.random() < score)) for score in scores]
    found = threshold_for(0.8, *tweets_of(*entities), samples=300)
    low, high = found["precision_interval"]
    assert low < found["precision"] < high
    # A sum of as many draws as were kept has this spread.
    width = 2 * 1.96 * np.sqrt(found["precision"] * (1 - found["precision"]) / found["kept"])
    assert high - low == pytest.approx(width, rel=0.3)
    low, high = found["threshold_interval"]
    assert 0 < low < found["threshold"] < high < 1
    # Those who are right as often as their score says have 80 % above 0.6.
    assert low < 0.6 < high


def test_where_no_threshold_has_it_a_sentence_says_so():
    found = threshold_for(0.99, *tweets_of((0.9, False), (0.8, True), (0.7, True), (0.6, False)), samples=10)
    assert found["threshold"] is None
    sentence = threshold_sentence(found)
    assert "No threshold gives a precision of 99 % here: the highest is 66.67, of the 3 of 4 entities" in sentence


def test_the_command_prints_it_and_writes_it(tmp_path, capsys):
    run = write_run(tmp_path / "run.jsonl", MIXED)
    assert hamlearning(["score", run, "--precision", "0.8", "--json", str(tmp_path / "scores.json")]) == 0
    printed = capsys.readouterr().out
    assert "`threshold=0.45` (95 % interval" in printed and "it keeps 5 of 7 entities, precision 80.00" in printed
    assert json.loads((tmp_path / "scores.json").read_text())["threshold"]["threshold"] == pytest.approx(0.45)


def test_without_the_flag_nothing_is_said_of_it(tmp_path):
    assert "threshold" not in evaluate_files(write_run(tmp_path / "run.jsonl", MIXED), samples=10)


@pytest.mark.parametrize("precision", ["0", "95", "-0.5", "nan"])
def test_what_is_no_share_is_refused(precision, tmp_path, capsys):
    assert hamlearning(["score", write_run(tmp_path / "run.jsonl", MIXED), "--precision", precision]) == 1
    assert f"--precision {float(precision)}: give a share in (0, 1], as 0.95" in capsys.readouterr().err


def test_files_without_scores_are_refused(tmp_path, capsys):
    (tmp_path / "theirs.txt").write_text("ada\tB-PER\tB-PER\n")
    run = write_run(tmp_path / "run.jsonl", [(0.9, True)])
    assert hamlearning(["score", run, str(tmp_path / "theirs.txt"), "--precision", "0.9"]) == 1
    assert "theirs.txt holds no scores of entities" in capsys.readouterr().err
    write_run(tmp_path / "run.jsonl", [(1.5, True)])
    assert hamlearning(["score", run, "--precision", "0.9"]) == 1
    assert "run.jsonl, line 1: 'entities' is" in capsys.readouterr().err


def test_a_run_that_found_nothing_is_refused():
    with pytest.raises(ValueError, match="no entity has a score"):
        threshold_for(0.9, [["O"]], [{}])
