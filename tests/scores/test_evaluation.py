"""The evaluation of predictions: a file with known scores, seqeval's own figures, statistics with known answers."""

import itertools
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from seqeval.metrics import f1_score, precision_score, recall_score
from seqeval.scheme import IOB2

from hamlearning.cli import main
from hamlearning.data.tweets import load_tweets, split_sha256
from hamlearning.scores.counts import entity_counts, mentions
from hamlearning.scores.evaluation import evaluate_tags
from hamlearning.scores.predictions import read_gold, read_predictions
from hamlearning.scores.score import comparison_sentence
from hamlearning.scores.significance import compare, compare_counts


ROOT = Path(__file__).parents[2]
GOLD = ROOT / "tests" / "fixtures" / "evaluation_gold.txt"
PEER = ROOT / "tests" / "fixtures" / "evaluation_predictions.txt"

# What the peer's file says word by word, worked out by hand.
PEER_TAGS = [
    ["B-PER", "I-PER", "O", "B-LOC"],  # as gold
    ["O", "B-MISC"],  # as gold, which writes OTHER
    ["B-LOC", "I-LOC", "O"],  # gold opens New York with an I-
    ["B-ORG", "I-ORG", "O", "B-LOC"],  # gold has one ORG of four words
    ["I-PER"],  # gold has B-PER
    ["O", "B-PER"],  # gold has nothing
]

TWEETS = """IMGID:1
Ada\tB-PER
sings\tO

IMGID:2
in\tO
New\tB-LOC
York\tI-LOC

"""


@pytest.fixture
def gold(tmp_path):
    """Two tweets, of two and three words."""
    (tmp_path / "gold.txt").write_text(TWEETS)
    return read_gold(tmp_path / "gold.txt")


@pytest.fixture
def predict(tmp_path, gold):
    """`predict(text)`: what a file of this text predicts for the two tweets."""

    def predict(text, name="predictions.txt", **flags):
        (tmp_path / name).write_text(text)
        return read_predictions(tmp_path / name, gold, **flags)

    return predict


def jsonl(*tweets):
    return "".join(json.dumps(tweet) + "\n" for tweet in tweets)


def printed(capsys, *command_line):
    assert main(["score", *map(str, command_line)]) == 0
    return capsys.readouterr().out


def error_of(capsys, *command_line):
    assert main(["score", *map(str, command_line)]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    return captured.err


# ---------------------------------------------------------------------------------------------- a file, known scores


@pytest.fixture(scope="module")
def known_scores():
    gold = read_gold(GOLD)
    predicted, _ = read_predictions(PEER, gold)
    # Oscars is known, but as another type; the second Rome of the predictions is known although gold has none there.
    known = {("PER", "Ada"), ("LOC", "Rome"), ("PER", "Oscars")}
    return evaluate_tags(gold["ner_tags"], predicted, gold["tokens"], known)


def prf(scores, prefix=""):
    return tuple(scores[prefix + name] for name in ("precision", "recall", "f1"))


def test_a_peers_word_pieces_become_tags_of_words():
    predicted, notes = read_predictions(PEER, read_gold(GOLD))
    assert predicted == PEER_TAGS
    # Dropped: six [CLS], six [SEP], one <pad>, three word pieces. wins has X predicted.
    assert notes == {"dropped": 16, "no_tag": 1, "filled": 0, "other_gold": 0}


def test_known_default_scores(known_scores):
    # Gold: Ada Lovelace, Rome, Oscars, New York, Acme Corp of Rome, Ada. Predicted: the first four and the last of
    # them, Acme Corp, Rome, well.
    assert (known_scores["gold_entities"], known_scores["predicted_entities"]) == (6, 8)
    assert prf(known_scores) == pytest.approx((5 / 8, 5 / 6, 10 / 14))


def test_known_strict_scores(known_scores):
    # Without the I- that opens New York in gold and Ada in the predictions: 5 gold, 7 predicted, 3 right.
    assert known_scores["strict_gold_entities"] == 5
    assert prf(known_scores, "strict_") == pytest.approx((3 / 7, 3 / 5, 6 / 12))


def test_known_orphans(known_scores):
    assert (known_scores["orphan_i_tags"], known_scores["predicted_orphan_i_tags"]) == (1, 1)


def test_known_scores_by_type(known_scores):
    # LOC: 2 of 3 right, none missed; MISC: the one; ORG: none of one; PER: 2 of 3 right, none missed.
    f1 = {type_: scores["f1"] for type_, scores in known_scores["types"].items()}
    assert f1 == pytest.approx({"LOC": 4 / 5, "MISC": 1, "ORG": 0, "PER": 4 / 5})


def test_known_scores_by_length(known_scores):
    # One word: Rome, Oscars and Ada right, Rome and well wrong. Two: Acme Corp wrong. Four: missed.
    words = known_scores["words"]
    assert prf(words["1"]) == pytest.approx((3 / 5, 1, 6 / 8))
    assert prf(words["2"]) == pytest.approx((2 / 3, 1, 4 / 5))
    assert prf(words["3+"]) == (0, 0, 0)
    assert [words[length]["number"] for length in ("1", "2", "3+")] == [3, 2, 1]


def test_known_scores_of_seen_and_unseen(known_scores):
    # Seen: Rome and Ada right, Rome wrong. Unseen: Ada Lovelace, Oscars and New York right, two wrong, one missed.
    seen, unseen = known_scores["mentions"]["seen"], known_scores["mentions"]["unseen"]
    assert prf(seen) == pytest.approx((2 / 3, 1, 4 / 5))
    assert prf(unseen) == pytest.approx((3 / 5, 3 / 4, 6 / 9))
    assert (seen["number"], unseen["number"]) == (2, 4)


def test_mentions_are_type_and_text():
    assert mentions([["Rome", "or", "New", "York"]], [["B-PER", "O", "I-LOC", "I-LOC"]]) == {
        ("PER", "Rome"),
        ("LOC", "New York"),
    }


# -------------------------------------------------------------------------------------------------- seqeval's figures


tags = st.sampled_from(["O", "O", "B-PER", "I-PER", "B-LOC", "I-LOC", "B-A-B", "I-A-B"])
tweet_pairs = st.lists(st.lists(st.tuples(tags, tags), min_size=1, max_size=8), min_size=1, max_size=6)


@given(tweet_pairs)
def test_agrees_with_seqeval(pairs):
    gold = [[tag for tag, _ in tweet] for tweet in pairs]
    predicted = [[tag for _, tag in tweet] for tweet in pairs]
    scores = evaluate_tags(gold, predicted, samples=1)
    for prefix, mode in (("", {}), ("strict_", {"mode": "strict", "scheme": IOB2})):
        expected = [
            score(gold, predicted, zero_division=0, **mode) for score in (precision_score, recall_score, f1_score)
        ]
        assert prf(scores, prefix) == pytest.approx(expected)
        right, found, there = entity_counts(gold, predicted, strict=bool(prefix)).sum(axis=0)
        assert 2 * right / max(found + there, 1) == pytest.approx(expected[2])


@given(tweet_pairs)
def test_groups_share_out_all_entities(pairs):
    gold = [[tag for tag, _ in tweet] for tweet in pairs]
    predicted = [[tag for _, tag in tweet] for tweet in pairs]
    tokens = [[str(position % 2) for position in range(len(tweet))] for tweet in pairs]
    scores = evaluate_tags(gold, predicted, tokens, {("PER", "0"), ("LOC", "1 0")}, samples=1)
    right = scores["recall"] * scores["gold_entities"]
    for groups in (scores["words"], scores["mentions"]):
        assert sum(group["number"] for group in groups.values()) == scores["gold_entities"]
        assert sum(group["number"] * group["recall"] for group in groups.values()) == pytest.approx(right)


def test_scores_are_plain_numbers(known_scores):
    assert json.loads(json.dumps(known_scores)) == known_scores


def test_differing_lengths_name_the_tweet():
    with pytest.raises(ValueError, match="tweet 1 has 1 predictions but 2 gold tags"):
        compare([["O"], ["O", "O"]], [["O"], ["O", "O"]], [["O"], ["O"]])


def test_differing_numbers_of_tweets_are_refused():
    with pytest.raises(ValueError, match="2 tweets with gold tags, 1 with predictions"):
        compare([["O"], ["O"]], [["O"], ["O"]], [["O"]])


# --------------------------------------------------------------------------------------------------------- statistics


def test_the_bootstrap_of_right_and_wrong_tweets_is_binomial():
    # One entity a tweet, 80 of 100 of the right type: F1 is the share of right ones, 95 % of Binomial(100, 0.8) / 100.
    gold = [["B-PER"]] * 100
    predicted = [["B-PER"]] * 80 + [["B-LOC"]] * 20
    low, high = evaluate_tags(gold, predicted, samples=20000)["intervals"]["f1"]
    assert low == pytest.approx(0.72, abs=0.011)
    assert high == pytest.approx(0.87, abs=0.011)


def test_the_strict_interval_is_of_strict_scores():
    gold = [["B-PER"]] * 10
    intervals = evaluate_tags(gold, [["I-PER"]] * 10)["intervals"]
    assert intervals == {"f1": [1.0, 1.0], "strict_f1": [0.0, 0.0]}


def all_swaps(gold, one, other):
    """The exact p-value: all ways to swap tweets, by seqeval's F1."""

    def difference(swaps):
        pairs = [(b, a) if swap else (a, b) for swap, a, b in zip(swaps, one, other, strict=True)]
        return f1_score(gold, [a for a, _ in pairs]) - f1_score(gold, [b for _, b in pairs])

    observed = abs(difference([False] * len(gold)))
    differences = [abs(difference(swaps)) for swaps in itertools.product([False, True], repeat=len(gold))]
    return sum(value >= observed - 1e-12 for value in differences) / len(differences)


def test_the_p_value_is_that_of_all_swaps():
    generator = np.random.default_rng(3)
    gold, one, other = (
        [generator.choice(["O", "B-PER", "I-PER", "B-LOC"], size=4).tolist() for _ in range(8)] for _ in range(3)
    )
    one[:3], other[2:4] = gold[:3], gold[2:4]
    expected = all_swaps(gold, one, other)
    assert 0.05 < expected < 0.95
    assert compare(gold, one, other, samples=20000)["p_value"] == pytest.approx(expected, abs=0.015)


def test_the_difference_is_signed_and_its_interval_around_it():
    gold = [["B-PER"]] * 100
    one, other = [["B-PER"]] * 90 + [["B-LOC"]] * 10, [["B-PER"]] * 70 + [["B-LOC"]] * 30
    better, worse = compare(gold, one, other), compare(gold, other, one)
    assert (better["f1"], better["other_f1"]) == (0.9, 0.7)
    assert better["difference"] == pytest.approx(0.2)
    assert worse["difference"] == pytest.approx(-0.2)
    # The same tweets for both: 20 of 100 differ, Binomial(100, 0.2) / 100. Independent ones would give 0.09 to 0.31.
    assert better["interval"] == pytest.approx([0.12, 0.28], abs=0.011)
    assert worse["interval"] == pytest.approx([-0.28, -0.12], abs=0.011)


def test_equal_predictions_have_p_one():
    gold = [["B-PER"], ["B-LOC"]]
    assert compare(gold, [["B-PER"], ["O"]], [["B-PER"], ["O"]])["p_value"] == 1.0


def test_no_p_value_is_below_one_in_samples_plus_one():
    gold = [["B-PER"]] * 200
    assert compare(gold, gold, [["O"]] * 200, samples=99)["p_value"] == 1 / 100


def test_samples_beyond_a_chunk_all_count():
    gold = [["B-PER"]] * 200
    assert compare(gold, gold, [["O"]] * 200, samples=999)["p_value"] == 1 / 1000


def test_a_seed_gives_its_samples_again():
    gold = [["B-PER"]] * 50
    predicted = [["B-PER"]] * 20 + [["O"]] * 30
    other = [["O"]] * 12 + [["B-PER"]] * 20 + [["O"]] * 18
    first, again, another = (compare(gold, predicted, other, seed=seed) for seed in (1, 1, 2))
    assert first == again != another


def test_seeds_are_compared_by_the_mean_of_their_f1():
    good, fair, bad = ([[right, 4, 4]] * 12 for right in (4, 3, 2))
    compared = compare_counts([good, bad], [fair, fair])
    assert (compared["f1"], compared["other_f1"]) == (0.75, 0.75)
    assert compared["difference"] == 0 and compared["p_value"] == 1
    compared = compare_counts([good, fair], [fair, bad])
    assert compared["difference"] == 0.25 and compared["p_value"] < 0.01


def test_all_seeds_of_a_tweet_are_swapped_together():
    # One tweet is no evidence, with however many seeds.
    assert compare_counts([[[4, 4, 4]]] * 8, [[[0, 4, 4]]] * 8)["p_value"] == 1


def test_counts_of_other_seeds_or_tweets_are_refused():
    with pytest.raises(ValueError, match=r"\(1, 2, 3\) and \(2, 2, 3\)"):
        compare_counts([[[1, 1, 1]] * 2], [[[1, 1, 1]] * 2] * 2)


# ---------------------------------------------------------------------------------------------------- files: readings

EXPECTED = [["B-PER", "O"], ["O", "B-LOC", "O"]]


@pytest.mark.parametrize(
    "text",
    [
        "Ada\tB-PER\nsings\tO\n\nin\tO\nNew\tB-LOC\nYork\tO\n",
        "Ada B-PER B-PER\nsings O O\n\nin O O\nNew B-LOC B-LOC\nYork I-LOC O\n\n",
        "Ada NNP B-PER\nsings VBZ O\n\nin IN O\nNew NNP B-LOC\nYork NNP O\n",
        "\ufeffAda  B-PER\r\nsings  O\r\n\r\n\r\nin O\r\nNew B-LOC\r\nYork O\r\n",
        "IMGID:1\nAda\tB-PER\nsings\tO\n\nIMGID:2\nin\tO\nNew\tB-LOC\nYork\tO\n\n",
        "IMGID:1\nB-PER\nO\nIMGID:2\nO\nB-LOC\nO\n",
        "B-PER\nO\n\nO\nB-LOC\nO\n",
        "B-PER B-PER\nO O\n\nO O\nB-LOC B-LOC\nI-LOC O\n",
        "[CLS] O\nAda B-PER\nsi O\n##ngs X\n[SEP] O\n\n[CLS] [CLS]\nin O\nne B-LOC\n##w X\n[UNK] O\n[SEP] [SEP]\n",
        "1.jpg\nAda sings\nB-PER O\nB-PER O\n\n2.jpg\nin New York\nO B-LOC O\nO B-LOC I-LOC\n\n",
        "\n\n \nB-PER\nO\n\n\nO\nB-LOC\nO\n\n\n",
        "Ada sings\nB-PER O\nB-PER O\n\nin New York\nO B-LOC X\nO B-LOC I-LOC\n",
    ],
    ids=[
        "word and tag",
        "word, gold and tag",
        "word, part of speech and tag",
        "saved on Windows",
        "released format",
        "tags below IMGID lines",
        "tags alone",
        "gold and tag",
        "word pieces",
        "lines with a picture",
        "more blank lines",
        "lines without",
    ],
)
def test_reads_a_peers_file(predict, text):
    assert predict(text)[0] == EXPECTED


def test_reads_a_run_s_own_file(predict):
    tweets = [
        {"id": "1", "tokens": ["Ada", "sings"], "ner_tags": ["B-PER", "O"], "predictions": EXPECTED[0]},
        {"id": "2", "tokens": ["in", "New", "York"], "predictions": EXPECTED[1]},
    ]
    assert predict(jsonl(*tweets), "predictions_test.jsonl")[0] == EXPECTED


def test_x_predicted_for_a_word_is_no_sub_token_where_words_are_whole(predict):
    predicted, notes = predict("Ada B-PER\nsings X\n\nin O\nNew B-LOC\nYork [SEP]\n")
    assert predicted == EXPECTED
    assert (notes["no_tag"], notes["dropped"]) == (2, 0)


def test_the_gold_column_says_what_is_a_sub_token(predict):
    predicted, notes = predict("B-PER B-PER\nX B-LOC\nO X\n\nO O\nB-LOC B-LOC\nI-LOC O\n")
    assert predicted == EXPECTED
    assert (notes["no_tag"], notes["dropped"]) == (1, 1)


def test_rows_of_special_tags_are_no_lines_of_tags(tmp_path):
    (tmp_path / "gold.txt").write_text("IMGID:1\nAda\tB-PER\n\n")
    (tmp_path / "predictions.txt").write_text("Ada B-PER I-PER\n[SEP] [SEP] [SEP]\n[PAD] [PAD] O\n")
    assert read_predictions(tmp_path / "predictions.txt", read_gold(tmp_path / "gold.txt"))[0] == [["I-PER"]]


def test_a_no_break_space_is_a_word(tmp_path):
    (tmp_path / "gold.txt").write_text("IMGID:1\nAda\tB-PER\n\xa0\tO\n\n", encoding="utf-8")
    (tmp_path / "predictions.txt").write_text("Ada B-PER\n\xa0 O\n", encoding="utf-8")
    assert read_predictions(tmp_path / "predictions.txt", read_gold(tmp_path / "gold.txt"))[0] == [["B-PER", "O"]]


def test_predictions_that_are_no_utf8_are_refused_with_the_place(tmp_path):
    (tmp_path / "gold.txt").write_text("IMGID:1\nAda\tB-PER\n\n")
    (tmp_path / "predictions.txt").write_bytes(b"Ada\xff B-PER\n")
    with pytest.raises(ValueError, match=r"predictions.txt is not UTF-8 \(byte 3\): save it as UTF-8"):
        read_predictions(tmp_path / "predictions.txt", read_gold(tmp_path / "gold.txt"))


def test_other_is_misc_in_a_peers_file(predict):
    assert predict("B-OTHER\nI-OTHER\n\nO\nO\nO\n")[0][0] == ["B-MISC", "I-MISC"]


def test_words_cut_off_count_as_o_where_asked(predict):
    predicted, notes = predict("Ada B-PER\n\nin O\nNew B-LOC\n", fill_with_o=True)
    assert predicted == EXPECTED
    assert notes["filled"] == 2


def test_tags_cut_off_below_all_words_count_as_o_where_asked(predict):
    text = "Ada sings\nB-PER O\nB-PER O\n\nin New York\nO B-LOC\nO B-LOC\n"
    assert predict(text, fill_with_o=True)[0] == EXPECTED


def test_gold_tags_behind_the_predicted_ones_are_no_perfect_score(predict):
    text = "Ada O B-PER\nsings O O\n\nin O O\nNew B-LOC B-LOC\nYork O I-LOC\n"
    with pytest.raises(ValueError, match="predictions.txt: the last column is the gold .*put the predicted tags last"):
        predict(text)


def test_other_gold_tags_than_the_gold_files_are_noticed(predict):
    _, notes = predict("Ada B-LOC B-PER\nsings O O\n\nin O O\nNew B-LOC B-LOC\nYork I-LOC O\n")
    assert notes["other_gold"] == 1


def test_gold_is_read_alike_from_text_folder_and_predictions(tmp_path, gold):
    (tmp_path / "test.txt").write_text(TWEETS)
    rows = [
        {"id": id_, "tokens": tokens, "ner_tags": tags, "predictions": tags}
        for id_, tokens, tags in zip(gold["id"], gold["tokens"], gold["ner_tags"], strict=True)
    ]
    (tmp_path / "predictions.jsonl").write_text(jsonl(*rows))
    assert read_gold(tmp_path) == read_gold(tmp_path / "predictions.jsonl") == gold
    assert gold["sha256"] == split_sha256(load_tweets(tmp_path)["test"])
    assert gold["ner_tags"][1] == ["O", "B-LOC", "I-LOC"]


@pytest.mark.parametrize("key", ["id", "tokens", "ner_tags", "predictions"])
def test_half_a_surrogate_pair_is_read_as_the_replacement_character(tmp_path, key):
    tweet = {"id": "1", "tokens": ["Ada"], "ner_tags": ["B-PER"], "predictions": ["B-PER"]}
    read = []
    for part in ("\ud83d", "\udfff", "\ufffd"):
        value = tweet[key] + part if key == "id" else [tweet[key][0] + part]
        (tmp_path / "tweets.jsonl").write_text(jsonl(tweet | {key: value}))
        gold = read_gold(tmp_path / "tweets.jsonl")
        read.append((gold, read_predictions(tmp_path / "tweets.jsonl", gold)))
    assert read[0] == read[1] == read[2]


@pytest.mark.parametrize("other", ["\ud800", "\ufffd"])
def test_gold_and_predictions_with_half_a_surrogate_pair_are_of_the_same_tweet(tmp_path, other):
    (tmp_path / "gold.jsonl").write_text(
        jsonl({"id": "\ud800", "tokens": ["Ada\ud800"], "ner_tags": ["B-PER"], "predictions": ["O"]})
    )
    (tmp_path / "other.jsonl").write_text(
        jsonl({"id": other, "tokens": ["Ada" + other], "ner_tags": ["B-PER"], "predictions": ["B-PER"]})
    )
    gold = read_gold(tmp_path / "gold.jsonl")
    assert read_predictions(tmp_path / "other.jsonl", gold)[0] == [["B-PER"]]


# ------------------------------------------------------------------------------------------------------ files: errors


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Ada O\nsings O\n", r"line 1: the file holds 1 tweets and the gold file 2, which agree up to tweet 1"),
        (
            "Ada O\nsings O\n\nin O\nNew O\nYork O\n\nso O\n\nfar O\n",
            r"line 8: the file holds 4 tweets and the gold file 2, which agree up to tweet 2",
        ),
        ("Ada O\nsings O\n\nin O\nOld O\nYork O\n", r"line 4: tweet 2 \('2' .*\) has 'Old' where .* 'New' \(word 2\)"),
        ("Ada O\nsings O\n\nin O\nold O\n##er X\nYork O\n", r"tweet 2 .* has 'older' where .* 'New'"),
        ("Ada O\nsings O\n\nin O\nNew O\n", r"line 4: tweet 2 .* 2 predictions for 3 words: .* --fill_with_o"),
        ("O\nO\nO\n\nO\nO\nO\n", r"line 1: tweet 1 .* 3 predictions for 2 words: .* mark other sub-tokens X"),
        ("IMGID:2\nO\nO\n\nIMGID:1\nO\nO\nO\n", r"line 1: tweet 1 \('1' in the gold file\) is '2' here"),
        ("Ada O\nsings O\n\nin O\nNew O O\n", r"line 5: tweet 2 has 3 columns here, 'New O O', and .* row 2"),
        ("Ada O\nsings O\n\nin O\nNew S-LOC\nYork O\n", r"line 5: tweet 2 has the tag 'S-LOC'"),
        ("Ada sings\nO O\nO O\n\nin New York\nO S-LOC O\nO O O\n", r"line 6: tweet 2 has the tag 'S-LOC'"),
        ("Ada sings\nO O\nO O\n\nin New York\nO O\nO O O\n", r"line 5: tweet 2 has lines of 3, 2, 3 words"),
        ("Ada sings on\nO O\nO O\n\nin New York\nO O O\nO O O\n", r"line 1: tweet 1 .* has 3 words, the gold file 2"),
        ("\n \n", "holds no tweet"),
        ("IMGID:1\n\n", "holds no tag"),
    ],
)
def test_what_does_not_line_up_is_an_error_with_its_place(predict, text, message):
    with pytest.raises(ValueError, match=rf"predictions\.txt.*{message}"):
        predict(text)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "this is no JSON"),
        ("[]", "no JSON object"),
        ('{"id": "1", "tokens": ["Ada"]}', "'predictions' is None, no list of strings"),
        ('{"id": "1", "tokens": ["Ada"], "predictions": [1]}', "'predictions' is \\[1\\], no list of strings"),
        ('{"id": "1", "tokens": ["Ada"], "predictions": []}', "1 tokens but 0 predictions"),
        ('{"id": "1", "tokens": ["Ada"], "predictions": ["X"]}', "'predictions' holds 'X'"),
    ],
)
def test_a_malformed_line_of_json_is_named(predict, line, message):
    good = {"id": "1", "tokens": ["Ada", "sings"], "predictions": ["O", "O"]}
    with pytest.raises(ValueError, match=rf"predictions\.jsonl, line 2: .*{message}"):
        predict(jsonl(good) + line + "\n", "predictions.jsonl")


def test_gold_without_tags_is_refused(tmp_path):
    (tmp_path / "words.txt").write_text("IMGID:1\nAda\n\n")
    with pytest.raises(ValueError, match="words.txt holds tweets without gold tags"):
        read_gold(tmp_path / "words.txt")


def test_a_split_that_a_folder_lacks_is_named(tmp_path):
    (tmp_path / "test.txt").write_text(TWEETS)
    with pytest.raises(ValueError, match="holds no split 'train', only test"):
        read_gold(tmp_path, "train")


# --------------------------------------------------------------------------------------------------------- the command


def test_a_run_s_own_file_is_enough(tmp_path, capsys):
    rows = [{"id": "1", "tokens": ["Ada", "sings"], "ner_tags": ["B-PER", "O"], "predictions": ["B-PER", "B-LOC"]}]
    (tmp_path / "predictions_test.jsonl").write_text(jsonl(*rows))
    assert "| all | 50.00 | 100.00 | 66.67 | 1 |" in printed(capsys, tmp_path / "predictions_test.jsonl")


def test_the_page_gives_scores_and_how_they_were_made(tmp_path, capsys):
    (tmp_path / "train.txt").write_text("IMGID:1\nAda\tB-PER\nRome\tB-LOC\n\n")
    page = printed(capsys, GOLD, PEER, "--train", tmp_path / "train.txt")
    assert "F1 **71.43** (95 % interval " in page
    for row in (
        "| all | 62.50 | 83.33 | 71.43 | 6 |",
        "| all, strict IOB2 | 42.86 | 60.00 | 50.00 | 5 |",
        "| of 1 word | 60.00 | 100.00 | 75.00 | 3 |",
        "| of 3 words and more | 0.00 | 0.00 | 0.00 | 1 |",
        "| seen in training | 66.67 | 100.00 | 80.00 | 2 |",
        "| unseen in training | 60.00 | 75.00 | 66.67 | 4 |",
    ):
        assert f"\n{row}\n" in page
    for choice in (
        "seqeval 1",
        "1 of the 6 gold entities begin so, and 1 of the 8 predicted ones",
        f"6 tweets, 6 entities, SHA-256 {read_gold(GOLD)['sha256']}",
        "OTHER of Twitter-2015 counts as MISC",
        "Every tweet counts, 0 of them with the words of an earlier one",
        f"{PEER}: 16 rows of sub-tokens, [CLS], [SEP] or padding were dropped",
        "1 with X or the like predicted, 0 cut off",
        f"train.txt (1 tweets, SHA-256 {read_gold(tmp_path / 'train.txt')['sha256']})",
        "1000 samples of the tweets, seed 0",
    ):
        assert choice in page
    assert "unseen" not in printed(capsys, GOLD, PEER)


def test_of_folders_gold_is_the_test_split_unless_told_and_train_the_training_split(tmp_path, capsys):
    (tmp_path / "train.txt").write_text("IMGID:1\nAda\tB-PER\n\n")
    (tmp_path / "dev.txt").write_text("IMGID:1\nRome\tB-LOC\n\n")
    (tmp_path / "test.txt").write_text("IMGID:1\nAda\tB-PER\nand\tO\nBob\tB-PER\n\n")
    page = printed(capsys, tmp_path, tmp_path / "test.txt", "--train", tmp_path)
    for group in ("seen", "unseen"):
        assert f"\n| {group} in training | 100.00 | 100.00 | 100.00 | 1 |\n" in page
    page = printed(capsys, tmp_path, tmp_path / "dev.txt", "--split", "validation")
    assert "| LOC | 100.00 | 100.00 | 100.00 | 1 |" in page


def test_other_gold_tags_stand_on_the_page(tmp_path, capsys):
    (tmp_path / "gold.txt").write_text(TWEETS)
    (tmp_path / "peer.txt").write_text("Ada B-LOC O\nsings O O\n\nin O O\nNew O O\nYork O O\n")
    page = printed(capsys, tmp_path / "gold.txt", tmp_path / "peer.txt")
    assert "peer.txt holds other gold tags than the gold file for 2 tweets" in page


def test_repeated_tweets_are_kept_and_counted(tmp_path, capsys):
    (tmp_path / "gold.txt").write_text(TWEETS + TWEETS)
    page = printed(capsys, tmp_path / "gold.txt", tmp_path / "gold.txt")
    assert "Every tweet counts, 2 of them with the words of an earlier one" in page
    assert "| all | 100.00 | 100.00 | 100.00 | 4 |" in page


def test_two_systems_are_compared(tmp_path, capsys):
    page = printed(capsys, GOLD, "--against", GOLD, PEER, "--samples", 200, "--json", tmp_path / "scores.json")
    result = json.loads((tmp_path / "scores.json").read_text())
    comparison = result["comparison"]
    assert (comparison["f1"], comparison["other_f1"]) == (pytest.approx(10 / 14), 1.0)
    assert comparison["predictions"] == str(GOLD)
    assert f"## Against {GOLD}\n\nF1 71.43 against 100.00: difference -28.57 (95 % interval -" in page
    low, high = (100 * end for end in comparison["interval"])
    assert f"(95 % interval {low:+.2f} to {high:+.2f}), p = {comparison['p_value']:.4g}\n" in page


def test_json_holds_what_the_page_says(tmp_path, capsys, known_scores):
    printed(capsys, GOLD, PEER, "--json", tmp_path / "scores.json")
    result = json.loads((tmp_path / "scores.json").read_text())
    assert result["scores"] == {key: value for key, value in known_scores.items() if key != "mentions"}
    assert result["gold"] == {"path": str(GOLD), "tweets": 6, "sha256": read_gold(GOLD)["sha256"]}
    assert result["notes"] == {str(PEER): {"dropped": 16, "no_tag": 1, "filled": 0, "other_gold": 0}}
    assert len(result["choices"]) > 5


def test_cut_off_words_need_the_flag(tmp_path, capsys):
    (tmp_path / "gold.txt").write_text(TWEETS)
    (tmp_path / "cut.txt").write_text("B-PER\n\nO\nB-LOC\nI-LOC\n")
    assert "--fill_with_o" in error_of(capsys, tmp_path / "gold.txt", tmp_path / "cut.txt")
    assert "0 with X or the like predicted, 1 cut off" in printed(
        capsys, tmp_path / "gold.txt", tmp_path / "cut.txt", "--fill_with_o"
    )


def test_mistakes_are_one_line_and_status_one(tmp_path, capsys):
    assert "give GOLD before it" in error_of(capsys, PEER)
    assert "nowhere.txt" in error_of(capsys, tmp_path / "nowhere.txt", PEER)
    assert "--samples is 0" in error_of(capsys, GOLD, PEER, "--samples", 0)
    assert "no_folder" in error_of(capsys, GOLD, PEER, "--json", tmp_path / "no_folder" / "scores.json")


def test_the_page_prints_the_intervals_that_were_computed(tmp_path, capsys):
    page = printed(capsys, GOLD, PEER, "--against", PEER, "--json", tmp_path / "scores.json")
    found = json.loads((tmp_path / "scores.json").read_text())
    for name in ("f1", "strict_f1"):
        low, high = found["scores"]["intervals"][name]
        assert f"{100 * low:.2f} to {100 * high:.2f}" in page
    difference = {"f1": 0.5, "other_f1": 0.25, "difference": 0.25, "interval": [0.125, 0.375], "p_value": 0.01}
    assert comparison_sentence(difference) == (
        "F1 50.00 against 25.00: difference +25.00 (95 % interval +12.50 to +37.50), p = 0.01"
    )


def test_runs_as_a_command():
    command = [sys.executable, "-m", "hamlearning", "score", GOLD, PEER]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "| all | 62.50 | 83.33 | 71.43 | 6 |" in done.stdout


def test_agrees_with_the_published_counts(shared_folder, capsys):
    test = shared_folder / "data" / "twitter2017" / "test.txt"
    page = printed(capsys, test, test)
    assert "| all | 100.00 | 100.00 | 100.00 | 1351 |" in page
    assert "0 of the 1351 gold entities begin so" in page
