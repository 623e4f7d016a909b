"""Which word splitting a data set asks for, and how often raw text gives its words back."""

import re

import pytest

from hamlearning.data.splitting import splitting_of, splitting_problem, words_given_back
from hamlearning.data.tweets import load_tweets


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


@pytest.mark.parametrize("name, splitting", [("twitter2017", "punctuation"), ("twitter2015", "tweet")])
def test_the_words_of_the_public_tweets_come_back(name, splitting, shared_folder):
    tweets = load_tweets(shared_folder / "data" / name)["validation"]["tokens"][:]
    assert words_given_back(tweets)["same_words"][splitting] > 0.95
