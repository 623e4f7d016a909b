"""Which word splitting a data set asks for, and how often raw text gives its words back."""

import json
import re

import pytest

from hamlearning.data.reading import ReadingOptions, parse_options
from hamlearning.data.splitting import splitting_of, splitting_problem, words_given_back
from hamlearning.data.tweets import load_tweets
from words_hamlearning import split_words


@pytest.mark.parametrize(
    "tweets, splitting, share",
    [
        ([[*"画于北京", "2"]], "characters", 0.8),
        ([["น้ำ", "ก"], ["ラ", "ー"]], "characters", 1.0),
        ([["北京", "大学", "的"]], "punctuation", 1 / 3),
        ([["i", "met", "北"]], "punctuation", 1 / 3),
        ([["。", "，", "1", "京"]], "punctuation", 1 / 4),  # marks alone are no script
        ([["한", "국"]], "punctuation", 0.0),  # a script with spaces
        ([], "punctuation", 0.0),
    ],
)
def test_single_characters_of_scripts_without_spaces_ask_for_characters(tweets, splitting, share):
    assert splitting_of(tweets) == (splitting, share)


def test_each_splitting_has_its_share_of_texts_whose_words_come_back():
    found = words_given_back([["i", "met", "@ada"], ["i", "met", "@", "ada"], ["hi"], ["don't"]])
    assert found == {"texts": 4, "same_words": {"punctuation": 0.5, "tweet": 1.0, "characters": 0.5}}


def test_words_of_a_script_without_spaces_are_looked_for_in_text_without_spaces():
    found = words_given_back([[*"画于2020年"], ["北京", "大学"]])
    assert found["same_words"] == {"punctuation": 0.0, "tweet": 0.0, "characters": 0.5}


def test_of_many_texts_some_are_split_evenly_spaced():
    found = words_given_back([["a"], ["don't"]] * 10_001)
    assert found["texts"] == 6668  # each third
    assert found["same_words"]["tweet"] == 1 and 0.49 < found["same_words"]["punctuation"] < 0.51


@pytest.mark.parametrize(
    "share, of_others, problem",
    [
        (0.95, 1.0, None),
        (0.949, 0.99, "in 94.9% of 7 texts.*`tweet` gives 99.0%: train with --word_splitting tweet"),
        (0.5, 0.5, "in 50.0% of 7 texts.*no other splitting gives more: give the model words"),
    ],
)
def test_a_share_below_95_percent_is_a_problem_with_its_remedy(share, of_others, problem):
    shares = {"punctuation": share, "tweet": of_others, "characters": 0.0}
    said = splitting_problem({"texts": 7, "same_words": shares}, "punctuation")
    if problem is None:
        assert said is None
    else:
        assert said is not None and re.search(problem, said)


SPANS = {"text": "龙画于北京，2020年。", "spans": [[3, 5, "LOC"]]}
TASK = {
    "id": 1,
    "data": {"text": SPANS["text"], "image": "https://example.org/a-long-name-of-a-picture.jpg"},
    "annotations": [
        {
            "id": 1,
            "completed_by": 1,
            "result": [
                {
                    "type": "labels",
                    "from_name": "label",
                    "to_name": "text",
                    "value": {"start": 3, "end": 5, "text": "北京", "labels": ["LOC"]},
                }
            ],
        }
    ],
}


@pytest.mark.parametrize("name, content", [("train.jsonl", SPANS), ("train.json", [TASK])])
@pytest.mark.parametrize("asked, first", [(None, "龙"), ("punctuation", "龙画于北京")])
def test_raw_text_with_spans_is_split_by_its_script_unless_a_splitting_is_given(name, content, asked, first, tmp_path):
    (tmp_path / name).write_text(json.dumps(content), encoding="utf-8")
    tweet = load_tweets(tmp_path, options=ReadingOptions(word_splitting=asked))["train"].select_columns(
        ["tokens", "ner_tags"]
    )[0]
    assert tweet["tokens"][0] == first
    if asked is None:
        assert tweet["tokens"] == [*SPANS["text"]]
        assert [n for n, tag in enumerate(tweet["ner_tags"]) if tag] == [3, 4]


def test_texts_of_a_script_with_spaces_are_split_at_punctuation(tmp_path):
    lines = [{"text": "i met Ada in 北京 !", "spans": []}, {"text": "好", "spans": []}]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    assert load_tweets(tmp_path)["train"]["tokens"][0] == ["i", "met", "Ada", "in", "北京", "!"]


@pytest.mark.parametrize("name, splitting", [("twitter2017", "punctuation"), ("twitter2015", "tweet")])
def test_the_words_of_the_public_tweets_come_back(name, splitting, shared_folder):
    tweets = load_tweets(shared_folder / "data" / name)["validation"]["tokens"][:]
    assert words_given_back(tweets)["same_words"][splitting] > 0.95


def test_a_splitting_of_another_name_is_refused():
    with pytest.raises(ValueError, match="word_splitting='tweets': must be 'punctuation', 'tweet' or 'characters'"):
        split_words("Ada", "tweets")
    with pytest.raises(ValueError, match="--word_splitting tweets is none: choose from punctuation, tweet, char"):
        parse_options({"word_splitting": "tweets"})
