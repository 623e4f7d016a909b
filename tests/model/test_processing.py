"""The processor: tweets, pictures and visual features in, model inputs out; model outputs in, entities out."""

import contextlib
import copy
import inspect
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from seqeval.metrics.sequence_labeling import get_entities
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import (
    AutoTokenizer,
    BertTokenizer,
    BertweetTokenizer,
    DistilBertTokenizer,
    MPNetTokenizer,
    PreTrainedTokenizerFast,
    RobertaTokenizer,
)

from configuration_hamlearning import HamLearningVisionConfig
from hub_server import HubServer, run_client, stranger
from image_processing_hamlearning import ImageError
from modeling_hamlearning import HamLearningForTokenClassification
from modeling_hamlearning_vision import HamLearningVisionModel
from processing_hamlearning import HamLearningDataCollator, HamLearningProcessor
from words_hamlearning import TAGS, WORD_SPLITTINGS, entity_spans, join_words, split_words


LINES = [
    "Loved watching the Huskies warm up",
    "the Huskies warm up in Rome",
    "Don't stop: Rome is live @NASA #Artemis",
]
LETTERS = "abcdefghijklmnopqrstuvwxyz"
WORD_PIECES = ["hu", "##skies", "warm", "up", *LETTERS, *(f"##{letter}" for letter in LETTERS), "@", "#", "'", ":"]
# Words that BERT's tokenizer cleans away, whole.
NOTHING = ["\u00a0", "\ufe0f", "\u200b", "\xad", "\x92", "\ufffd", "\ud800", " ", ""]

IMAGE_SIZE, REGION_SIZE, NUM_CLASSES = 12, 10, 7  # D_i, D_f and classes of the tiny network
TENSORS = {"input_ids", "attention_mask", "word_ids"}
VISUAL_TENSORS = {
    "image_features", "image_mask", "image_sizes",
    "region_features", "region_boxes", "region_class_ids", "region_mask",
}  # fmt: skip


# ------------------------------------------------------------------------------------------------------- tokenizers


def numbered(*pieces):
    return {piece: index for index, piece in enumerate(dict.fromkeys(pieces))}


def bert():
    return BertTokenizer(vocab=numbered("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORD_PIECES))


def distilbert():
    return DistilBertTokenizer(vocab=numbered("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORD_PIECES))


def mpnet():
    return MPNetTokenizer(vocab=numbered("<s>", "<pad>", "</s>", "[UNK]", *WORD_PIECES, "<mask>"))


def byte_level_bpe(special_tokens):
    """A byte-level BPE trained on a few lines, and its model as JSON has it."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=special_tokens, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator(LINES, trainer)
    return tokenizer, json.loads(tokenizer.to_str())["model"]


def roberta(add_prefix_space):
    _, model = byte_level_bpe(["<s>", "<pad>", "</s>", "<unk>", "<mask>"])
    merges = [tuple(merge) for merge in model["merges"]]
    return RobertaTokenizer(vocab=model["vocab"], merges=merges, add_prefix_space=add_prefix_space)


def modernbert(add_prefix_space):
    names = {"unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]"}
    tokenizer, _ = byte_level_bpe(list(names.values()))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)


def bertweet(folder):
    """The slow tokenizer, and a fast one with its vocabulary and its ids."""
    trained = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    trained.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    trained.train_from_iterator(LINES, trainers.BpeTrainer(vocab_size=120, end_of_word_suffix="</w>"))
    model = json.loads(trained.to_str())["model"]
    merges = [tuple(merge) for merge in model["merges"]]

    def name_in_vocab_txt(piece):
        return piece.removesuffix("</w>") if piece.endswith("</w>") else f"{piece}@@"

    vocab_txt, bpe_codes = folder / "vocab.txt", folder / "bpe.codes"
    vocab_txt.write_text("".join(f"{name_in_vocab_txt(piece)} 1\n" for piece in model["vocab"]), encoding="utf-8")
    bpe_codes.write_text("".join(f"{first} {second} 1\n" for first, second in merges), encoding="utf-8")
    slow = BertweetTokenizer(str(vocab_txt), str(bpe_codes))

    ids = {piece: slow.convert_tokens_to_ids(name_in_vocab_txt(piece)) for piece in model["vocab"]}
    special = {name: getattr(slow, name) for name in ("cls_token", "sep_token", "pad_token", "unk_token")}
    ids |= {token: slow.convert_tokens_to_ids(token) for token in special.values()}
    same = Tokenizer(models.BPE(vocab=ids, merges=merges, unk_token="<unk>", end_of_word_suffix="</w>"))
    same.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return slow, PreTrainedTokenizerFast(tokenizer_object=same, **special)


@pytest.fixture(scope="module")
def bertweets(tmp_path_factory):
    return bertweet(tmp_path_factory.mktemp("bertweet"))


@pytest.fixture(scope="module")
def tokenizers(bertweets, tmp_path_factory):
    """One of each kind; the byte-level ones as they come back from disk."""
    kinds = {"bert": bert(), "distilbert": distilbert(), "mpnet": mpnet(), "bertweet": bertweets[0]}
    for name, make in (("roberta", roberta), ("modernbert", modernbert)):
        for add_prefix_space in (False, True):
            folder = tmp_path_factory.mktemp(name)
            make(add_prefix_space).save_pretrained(folder)
            kinds[f"{name} {add_prefix_space}"] = AutoTokenizer.from_pretrained(folder)
    return kinds


FAST = ["bert", "distilbert", "mpnet", "roberta True", "modernbert True"]
KINDS = [*FAST, "roberta False", "modernbert False", "bertweet"]


@pytest.fixture(scope="module")
def processor():
    return HamLearningProcessor(
        bert(), image_feature_size=IMAGE_SIZE, region_feature_size=REGION_SIZE, num_classes=NUM_CLASSES
    )


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def pieces_of_word(inputs, row, word):
    """The sub-tokens' ids of word 1, 2, ... of a tweet."""
    return inputs["input_ids"][row][inputs["word_ids"][row] == word].tolist()


def a_picture(num_regions=2, **changes):
    """A row of a visual feature file."""
    generator = np.random.default_rng(num_regions)
    return {
        "image_size": [640, 480],
        "image_features": generator.normal(size=IMAGE_SIZE).astype(np.float32),
        "boxes": np.tile(np.float32([0.5, 0.5, 0.25, 0.5]), (num_regions, 1)),
        "class_ids": np.arange(num_regions) % NUM_CLASSES,
        "scores": np.linspace(0.9, 0.1, num_regions),
        "features": generator.normal(size=(num_regions, REGION_SIZE)).astype(np.float32),
        **changes,
    }


# ------------------------------------------------------------------------------------------------- what can be given


def test_words_or_raw_text_give_the_same(processor):
    assert same(processor(text="Huskies warm up"), processor(text=[["Huskies", "warm", "up"]]))


def test_one_tweet_is_a_batch_of_one(processor):
    assert same(processor(text="Huskies warm up"), processor(text=["Huskies warm up"]))
    words = ["Huskies", "warm", "up"]
    assert same(processor(text=words, is_split_into_words=True), processor(text=[words]))


def test_strings_are_raw_texts_unless_they_are_said_to_be_words(processor):
    assert processor(text=["warm up", "Rome"]).words == [["warm", "up"], ["Rome"]]
    assert processor(text=["warm up", "Rome"], is_split_into_words=True).words == [["warm up", "Rome"]]


def test_word_splitting_says_how_raw_text_is_split():
    text = "@NASA is live: #Artemis http://t.co/x :)"
    assert HamLearningProcessor(bert(), word_splitting="punctuation")(text=text).words[0][:7] == [
        "@", "NASA", "is", "live", ":", "#", "Artemis",
    ]  # fmt: skip
    assert HamLearningProcessor(bert(), word_splitting="tweet")(text=text).words[0] == [
        "@NASA", "is", "live", ":", "#Artemis", "http://t.co/x", ":)",
    ]  # fmt: skip


def test_an_unknown_word_splitting_is_refused():
    with pytest.raises(ValueError, match="word_splitting='spaces'.*'punctuation', 'tweet' or 'characters'"):
        HamLearningProcessor(bert(), word_splitting="spaces")


def test_a_tokenizer_without_special_tokens_is_refused():
    tokenizer, _ = byte_level_bpe(["<pad>"])
    with pytest.raises(ValueError, match="no cls_token and no sep_token and no unk_token: set it"):
        HamLearningProcessor(PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>"))


def test_only_pytorch_tensors_are_made(processor):
    with pytest.raises(ValueError, match="return_tensors='np'"):
        processor(text="warm", return_tensors="np")


def test_without_pictures_and_tags_there_are_only_the_tensors_of_the_text(processor):
    assert set(processor(text="warm up")) == TENSORS
    assert set(processor(text=["warm", "up"], visual_features=[None, None])) == TENSORS


def test_items_are_what_the_network_takes_and_texts_words_and_offsets_are_attributes(processor):
    inputs = processor(text=[["warm", "up"]], visual_features=[a_picture()], word_labels=[["O", "O"]])
    assert set(inputs) == TENSORS | VISUAL_TENSORS | {"labels"} == set(processor.model_input_names) - {"windows"}
    assert set(inputs) <= set(inspect.signature(HamLearningForTokenClassification.forward).parameters)
    assert all(isinstance(item, torch.Tensor) for item in inputs.values())
    assert (inputs.texts, inputs.words, inputs.offsets) == (["warm up"], [["warm", "up"]], [[(0, 4), (5, 7)]])


def test_attributes_survive_the_move_to_a_device(processor):
    inputs = processor(text="warm up").to("cpu")
    assert (inputs.texts, inputs.words, inputs.offsets, inputs.num_windows) == (
        ["warm up"], [["warm", "up"]], [[(0, 4), (5, 7)]], [1],
    )  # fmt: skip


@pytest.mark.parametrize("text", ["", " \u00a0\n", []])
def test_a_tweet_without_words_is_cls_and_sep(processor, text):
    inputs = processor(text=[text])
    assert inputs["input_ids"].tolist() == [[processor.tokenizer.cls_token_id, processor.tokenizer.sep_token_id]]
    assert inputs["word_ids"].tolist() == [[0, -1]]
    assert (inputs.words, inputs.offsets, inputs.num_windows) == ([[]], [[]], [1])


def test_no_tweet_gives_tensors_without_rows_and_columns(processor):
    inputs = processor(text=[])
    assert {inputs[name].shape for name in ("input_ids", "attention_mask", "word_ids")} == {(0, 0)}


def test_one_empty_list_of_words_is_one_tweet_without_words(processor):
    assert processor(text=[], is_split_into_words=True).words == [[]]


# --------------------------------------------------------------------------------------------- sub-tokens and words


def test_word_ids_are_0_for_cls_k_for_word_k_and_minus_1_for_the_rest(processor):
    inputs = processor(text=[["Huskies", "warm"], ["up"]])
    tokens = [processor.tokenizer.convert_ids_to_tokens(row.tolist()) for row in inputs["input_ids"]]
    assert tokens == [["[CLS]", "hu", "##skies", "warm", "[SEP]"], ["[CLS]", "up", "[SEP]", "[PAD]", "[PAD]"]]
    assert inputs["word_ids"].tolist() == [[0, 1, 1, 2, -1], [0, 1, -1, -1, -1]]
    assert inputs["attention_mask"].tolist() == [[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_is_padded_to_its_longest_tweet_and_no_further(tokenizers, kind):
    processor = HamLearningProcessor(tokenizers[kind])
    long, short = "the Huskies warm up in Rome", "Rome"
    alone, together = processor(text=short), processor(text=[short, long])
    width = alone["input_ids"].shape[1]
    assert together["input_ids"].shape[1] == processor(text=long)["input_ids"].shape[1] > width
    for name, padding in (("input_ids", tokenizers[kind].pad_token_id), ("attention_mask", 0), ("word_ids", -1)):
        assert torch.equal(together[name][0, :width], alone[name][0])
        assert (together[name][0, width:] == padding).all()


@pytest.mark.parametrize("kind", FAST)
def test_words_are_aligned_as_a_fast_tokenizer_aligns_them_by_itself(tokenizers, kind):
    tokenizer = tokenizers[kind]
    for line in LINES:
        words = line.split()
        expected = tokenizer(words, is_split_into_words=True, add_special_tokens=False)
        inputs = HamLearningProcessor(tokenizer)(text=[words])
        assert inputs["input_ids"][0, 1:-1].tolist() == expected["input_ids"]
        assert (inputs["word_ids"][0, 1:-1] - 1).tolist() == expected.word_ids()


def test_a_slow_tokenizer_is_aligned_as_a_fast_one_with_its_vocabulary(bertweets):
    tweets = [line.split() for line in LINES] + [["Huskies\u2713", "\u00a0", "xyz", "\u200b"]]
    slow, fast = (HamLearningProcessor(tokenizer)(text=tweets) for tokenizer in bertweets)
    assert not bertweets[0].is_fast and bertweets[1].is_fast
    assert same(slow, fast)
    assert len(pieces_of_word(slow, row=3, word=1)) > 1  # "Huskies\u2713" is no single piece


@pytest.mark.parametrize("kind", KINDS)
@given(words=st.lists(st.text(st.characters(exclude_categories=()), max_size=4), max_size=5))
def test_every_word_has_a_sub_token_whatever_it_is(tokenizers, kind, words):
    inputs = HamLearningProcessor(tokenizers[kind])(text=[words])
    word_ids = inputs["word_ids"][0].tolist()
    assert sorted(set(word_ids)) == list(range(-1, len(words) + 1))
    assert word_ids[:-1] == sorted(word_ids[:-1])


@pytest.mark.parametrize("nothing", NOTHING)
def test_a_word_without_sub_token_is_the_unknown_token_and_no_tag_slides(processor, nothing):
    inputs = processor(text=[["warm", nothing, "up"]], word_labels=[["O", "B-PER", "B-LOC"]])
    assert pieces_of_word(inputs, row=0, word=2) == [processor.tokenizer.unk_token_id]
    assert pieces_of_word(inputs, row=0, word=3) == [processor.tokenizer.convert_tokens_to_ids("up")]
    assert inputs["labels"].tolist() == [[TAGS.index("O"), TAGS.index("B-PER"), TAGS.index("B-LOC")]]


@pytest.mark.parametrize("kind", ["roberta False", "roberta True", "modernbert False", "modernbert True"])
def test_a_byte_level_tokenizer_gives_every_word_its_space(tokenizers, kind):
    inputs = HamLearningProcessor(tokenizers[kind])(text=[["Huskies", "Huskies"]])
    behind_a_space = tokenizers[kind](" Huskies", add_special_tokens=False)["input_ids"]
    assert pieces_of_word(inputs, 0, word=1) == pieces_of_word(inputs, 0, word=2) == behind_a_space


@pytest.mark.parametrize("name", ["roberta", "modernbert"])
def test_a_byte_level_tokenizer_gives_the_same_however_it_was_saved(tokenizers, name):
    tweets = [line.split() for line in LINES] + [["\u00a0", "\ufe0f", "\u200b", "xyz"]]
    without, with_space = (HamLearningProcessor(tokenizers[f"{name} {saved}"])(text=tweets) for saved in (False, True))
    assert same(without, with_space)


@pytest.mark.parametrize("name", ["roberta", "modernbert"])
@pytest.mark.parametrize("word", ["", " ", " Rome"])
def test_a_byte_level_tokenizer_gives_the_same_for_words_that_open_with_a_space(tokenizers, name, word):
    without, with_space = (
        HamLearningProcessor(tokenizers[f"{name} {saved}"])(text=[[word]]) for saved in (False, True)
    )
    assert same(without, with_space)


# ------------------------------------------------------------------------------------------------------------- tags


def test_tags_are_given_by_name_or_by_id_and_padded_with_minus_100(processor):
    words = [["Huskies", "warm", "up"], ["up"]]
    by_name = processor(text=words, word_labels=[["B-ORG", "O", "I-PER"], ["B-MISC"]])["labels"]
    by_id = processor(text=words, word_labels=[[5, 0, 2], [7]])["labels"]
    assert by_name.tolist() == by_id.tolist() == [[5, 0, 2], [7, -100, -100]]


def test_the_tags_of_one_tweet_need_no_batch(processor):
    words, tags = ["Huskies", "warm"], ["B-ORG", "O"]
    assert processor(text=words, word_labels=tags, is_split_into_words=True)["labels"].tolist() == [[5, 0]]


def test_the_tags_are_those_of_the_processor():
    processor = HamLearningProcessor(bert(), tags=["O", "B-TEAM", "I-TEAM"])
    assert processor(text=[["Huskies"]], word_labels=[["B-TEAM"]])["labels"].tolist() == [[1]]


def test_a_tweet_without_words_has_a_column_of_padding_for_a_tag(processor):
    assert processor(text=[[]], word_labels=[[]])["labels"].tolist() == [[-100]]


@pytest.mark.parametrize("tag", ["B-TEAM", "", 9, -1, -100])
def test_an_unknown_tag_names_tweet_word_and_tag(processor, tag):
    with pytest.raises(ValueError, match=rf"tweet 1, word 1 \('up'\) has the tag {tag!r}"):
        processor(text=[["warm"], ["warm", "up"]], word_labels=[["O"], ["O", tag]])


def test_an_unknown_tag_is_found_behind_the_length_limit():
    processor = HamLearningProcessor(bert(), max_length=3)
    with pytest.raises(ValueError, match=r"tweet 0, word 1 \('up'\) has the tag 'B-TEAM'"):
        processor(text=[["warm", "up"]], word_labels=[["O", "B-TEAM"]])


def test_differing_counts_of_words_and_tags_name_the_tweet(processor):
    with pytest.raises(ValueError, match="word_labels: tweet 1 has 1 tags for 2 words"):
        processor(text=[["up"], ["warm", "up"]], word_labels=[["O"], ["O"]])


def test_tags_for_another_number_of_tweets_are_refused(processor):
    with pytest.raises(ValueError, match="word_labels are for 1 tweets, text is 2"):
        processor(text=[["up"], ["warm"]], word_labels=[["O"]])


# ---------------------------------------------------------------------------------------------------------- offsets

ANY_CHARACTER = st.characters(exclude_categories=())  # lone surrogates too
TWEET_LIKE = st.sampled_from(["#", "@", "http://", "//", "www.", ":", ")", " ", "a", "_", "w/", "&amp", "\u0301", "…"])
ANY_TEXT = st.lists(ANY_CHARACTER | TWEET_LIKE, max_size=20).map("".join)


@pytest.mark.parametrize("word_splitting", WORD_SPLITTINGS)
@given(text=ANY_TEXT)
def test_offsets_of_raw_text_cut_its_words_out_and_lose_nothing_but_spaces(word_splitting, text):
    inputs = HamLearningProcessor(bert(), word_splitting=word_splitting)(text=text)
    words, offsets = inputs.words[0], inputs.offsets[0]
    assert [text[start:end] for start, end in offsets] == words
    assert all(words)
    covered = [position for start, end in offsets for position in range(start, end)]
    assert covered == sorted(set(covered))
    assert all(text[position].isspace() for position in set(range(len(text))) - set(covered))


@given(words=st.lists(ANY_TEXT, max_size=6))
def test_offsets_of_words_cut_them_out_of_the_words_joined_by_spaces(words):
    inputs = HamLearningProcessor(bert())(text=[words])
    assert inputs.texts == [" ".join(words)]
    assert [inputs.texts[0][start:end] for start, end in inputs.offsets[0]] == words == inputs.words[0]


@pytest.mark.parametrize(
    "text, words",
    [
        ("@NASA: #Artemis", ["@NASA", ":", "#Artemis"]),
        ("see http://t.co/a?b=1 www.x.org", ["see", "http://t.co/a?b=1", "www.x.org"]),
        ("cut off http://t.co… htt… oh…", ["cut", "off", "http://t.co…", "htt…", "oh", "…"]),
        ("nice :) :-( <3 :D", ["nice", ":)", ":-(", "<3", ":D"]),
        ("Name:David (at:Paul) 10:30", ["Name", ":", "David", "(", "at", ":", "Paul", ")", "10", ":", "30"]),
        ("no!!! wait...", ["no", "!", "!", "!", "wait", ".", ".", "."]),
        ("a -- b ***", ["a", "--", "b", "***"]),
        ("$AAPL costs $5", ["$AAPL", "costs", "$", "5"]),
        ("R&amp;B --&gt; w/ me w/o you", ["R&amp", ";", "B", "--&gt", ";", "w/", "me", "w/o", "you"]),
        ("Obama's B-52 in 2014/15, U.S.", ["Obama's", "B-52", "in", "2014/15", ",", "U.S", "."]),
        ("#no-hitter RT@NASA @_ @_a_", ["#no-hitter", "RT@NASA", "@", "_", "@_a_"]),
        ("Beyonce\u0301 sang", ["Beyonce\u0301", "sang"]),
    ],
)
def test_words_of_a_tweet(text, words):
    assert [text[start:end] for start, end in split_words(text, "tweet")] == words


@pytest.mark.parametrize(
    "text, words",
    [
        ("郑重降龙，画于2020年。", [*"郑重降龙，画于2020年。"]),
        ("《太阳报》60cm×18cm", [*"《太阳报》60", "cm", "×", "1", "8", "cm"]),
        ("ラーメンとAda Lovelace", [*"ラーメンと", "Ada", "Lovelace"]),
        ("ภาษาไทยน้ำ", [*"ภาษาไทย", "น้ำ"]),  # a consonant with its tone and vowel sign is one character
        ("한국어 कि Beyoncé", ["한국어", "कि", "Beyoncé"]),  # scripts with spaces
        ("葛󠄀城ｶﾞ", ["葛󠄀", "城", "ｶﾞ"]),
        ("〇々ー・", [*"〇々ー・"]),
        ("don't 3.14", ["don", "'", "t", "3", ".", "1", "4"]),
        ("👩‍👩‍👧🇩🇪🇫🇷🇬👍🏽", ["👩‍👩‍👧", "🇩🇪", "🇫🇷", "🇬", "👍🏽"]),
    ],
)
def test_words_of_a_text_that_is_split_into_characters(text, words):
    assert [text[start:end] for start, end in split_words(text, "characters")] == words


@pytest.mark.parametrize(
    "words, text",
    [
        ([*"画于2020年", "NASA", "Ames", "。"], "画于2020年NASA Ames。"),
        (["6", "0", "c", "m"], "60cm"),
        (["", "I", "am", ""], "I am"),
        ([], ""),
    ],
)
def test_words_of_a_script_without_spaces_are_joined_without(words, text):
    joined, spans = join_words(words, "characters")
    assert joined == text
    assert [joined[start:end] for start, end in spans] == words


def test_an_entity_of_words_that_are_split_already_is_written_as_its_script_is():
    inputs = HamLearningProcessor(bert(), word_splitting="characters")(text=[[*"在北京。"]])
    outputs = SimpleNamespace(
        predictions=torch.tensor([[0, 3, 4, 0]]), scores=torch.tensor([[0.0, 0.9, 0, 0]]), relevance=None
    )
    [[entity]] = HamLearningProcessor(bert(), word_splitting="characters").post_process_entities(outputs, inputs)
    assert (entity["word"], entity["start"], entity["end"]) == ("北京", 1, 3)


@pytest.mark.parametrize(
    "unit", ["a-", "@_", ":(", "-=", "&", "#a/", "http:", "www.", "#_", "$", "\u0301", "h", ".", "🇩"]
)
@pytest.mark.parametrize("word_splitting", ["tweet", "characters"])
def test_splitting_takes_time_in_proportion_to_the_text(unit, word_splitting):
    text = unit * 50_000
    start = time.process_time()
    assert "".join(text[i:j] for i, j in split_words(text, word_splitting)) == text
    assert time.process_time() - start < 5  # a fraction of a second; 20 s where the time is quadratic


# --------------------------------------------------------------------------------------------------------- entities


@given(tags=st.lists(st.sampled_from(TAGS), max_size=12))
def test_entities_of_tags_are_those_of_seqeval(tags):
    assert entity_spans(tags) == [(entity_type, first, last + 1) for entity_type, first, last in get_entities(tags)]


@given(tags=st.lists(st.sampled_from(["O", "B-a-b", "I-a-b", "B-a", "I-a"]), max_size=8))
def test_types_may_hold_a_hyphen(tags):
    assert entity_spans(tags) == [(entity_type, first, last + 1) for entity_type, first, last in get_entities(tags)]


def always(model, tag):
    """The network, its mind made up: every word has this tag."""
    with torch.no_grad():
        model.classifier.weight.zero_()
        model.classifier.bias.zero_()
        model.classifier.bias[TAGS.index(tag)] = 30.0
    return model


def test_each_entity_has_type_text_place_score_and_words(processor, make_model):
    inputs = processor(text=["Huskies,  up", ""])
    entities = processor.post_process_entities(always(make_model(), "B-ORG")(**inputs), inputs)
    assert entities[1] == []
    assert [entity.pop("score") for entity in entities[0]] == pytest.approx([1.0, 1.0, 1.0], abs=1e-4)
    shared = {"entity_group": "ORG", "relevance": None}
    assert entities[0] == [
        {"word": "Huskies", "start": 0, "end": 7, "word_start": 0, "word_end": 1, **shared},
        {"word": ",", "start": 7, "end": 8, "word_start": 1, "word_end": 2, **shared},
        {"word": "up", "start": 10, "end": 12, "word_start": 2, "word_end": 3, **shared},
    ]


def test_an_entity_of_several_words_is_the_text_from_first_to_last(processor, make_model):
    inputs = processor(text=["Huskies,  up", [" Hu", "up"]])
    entities = processor.post_process_entities(always(make_model(), "I-ORG")(**inputs), inputs)
    spans = [[(e["word"], e["start"], e["end"], e["word_start"], e["word_end"]) for e in row] for row in entities]
    assert spans == [[("Huskies,  up", 0, 12, 0, 3)], [(" Hu up", 0, 6, 0, 2)]]


def test_entities_are_seqevals_chunks_of_the_predictions_with_the_scores_of_their_first_words(processor, make_model):
    model = make_model(initializer_range=1.0)
    inputs = processor(text=LINES)
    outputs = model(**inputs)
    found = processor.post_process_entities(outputs, inputs)
    assert sum(map(len, found)) > 5
    for row, entities in enumerate(found):
        tags = [TAGS[tag] for tag in outputs.predictions[row].tolist() if tag != -100]
        expected = [(entity_type, first, last + 1) for entity_type, first, last in get_entities(tags)]
        assert [(e["entity_group"], e["word_start"], e["word_end"]) for e in entities] == expected
        for entity in entities:
            assert LINES[row][entity["start"] : entity["end"]] == entity["word"]
            assert entity["score"] == outputs.scores[row, entity["word_start"]].item()


def test_entities_can_be_written_as_json(processor, make_model):
    inputs = processor(text=["Huskies"], visual_features=[a_picture()])
    entities = processor.post_process_entities(always(make_model(), "B-ORG")(**inputs), inputs)
    assert json.loads(json.dumps(entities)) == entities


def test_relevance_is_the_absolute_value_of_each_view_and_none_without_a_picture(processor, make_model):
    model = always(make_model(initializer_range=0.5), "B-ORG")
    inputs = processor(text=["up", "Huskies", "warm"], visual_features=[a_picture(1), None, a_picture(3)])
    outputs = model(**inputs)
    relevances = [entities[0]["relevance"] for entities in processor.post_process_entities(outputs, inputs)]
    assert relevances[1] is None
    for row in (0, 2):
        assert relevances[row] == outputs.relevance[row].abs().tolist()
        assert len(relevances[row]) == 2 and min(relevances[row]) > 0
    outputs.relevance = -outputs.relevance
    negated = [entities[0]["relevance"] for entities in processor.post_process_entities(outputs, inputs)]
    assert negated == relevances


@pytest.mark.parametrize("switch", ["use_vision", "use_relevance"])
def test_a_network_that_measures_no_relevance_reports_none(processor, make_model, switch):
    inputs = processor(text=["up"], visual_features=[a_picture()])
    outputs = always(make_model(**{switch: False}), "B-ORG")(**inputs)
    assert processor.post_process_entities(outputs, inputs)[0][0]["relevance"] is None


def test_outputs_of_training_mode_hold_no_entities(processor, make_model):
    inputs = processor(text=["up"])
    with pytest.raises(ValueError, match=re.escape("call `model.eval()` first")):
        processor.post_process_entities(make_model().train()(**inputs), inputs)


# -------------------------------------------------------------------------------------------------- visual features


def test_visual_features_of_one_tweet_need_no_list(processor):
    one, batch = a_picture(), [a_picture()]
    assert same(processor(text="up", visual_features=one), processor(text=["up"], visual_features=batch))


def test_visual_features_come_out_as_they_went_in(processor):
    picture = a_picture(3)
    inputs = processor(text=["up"], visual_features=[picture])
    assert inputs["image_features"][0].tolist() == picture["image_features"].tolist()
    assert inputs["region_features"][0].tolist() == picture["features"].tolist()
    assert inputs["region_boxes"][0].tolist() == picture["boxes"].tolist()
    assert inputs["region_class_ids"][0].tolist() == picture["class_ids"].tolist()
    assert inputs["region_mask"].tolist() == [[1, 1, 1]]
    assert inputs["image_mask"].tolist() == [1]
    assert inputs["image_sizes"].tolist() == [[640, 480]]


def test_plain_lists_do_as_well_as_arrays(processor):
    picture = a_picture(2)
    lists = {name: np.asarray(value).tolist() for name, value in picture.items()}
    assert same(processor(text=["up"], visual_features=[lists]), processor(text=["up"], visual_features=[picture]))


def test_tweets_with_and_without_a_picture_mix(processor, make_model):
    inputs = processor(text=["up", "warm", "Rome"], visual_features=[None, a_picture(1), a_picture(3)])
    assert inputs["image_mask"].tolist() == [0, 1, 1]
    assert inputs["region_mask"].tolist() == [[0, 0, 0], [1, 0, 0], [1, 1, 1]]
    alone = processor(text=["warm"], visual_features=[a_picture(1)])
    model = make_model()
    assert torch.allclose(model(**inputs).logits[1], model(**alone).logits[0], atol=1e-5)


def test_a_picture_may_have_no_region(processor, make_model):
    for pictures in ([a_picture(0)], [a_picture(0), a_picture(2)], [a_picture(2), a_picture(0)]):
        inputs = processor(text=["up"] * len(pictures), visual_features=pictures)
        assert inputs["image_mask"].all()
        assert inputs["region_mask"].sum(1).tolist() == [len(picture["boxes"]) for picture in pictures]
        assert make_model()(**inputs).logits.isfinite().all()


def test_a_picture_whose_lists_of_regions_are_empty_has_none_whatever_the_processor_knows():
    picture = a_picture(0, boxes=[], class_ids=[], features=[])
    inputs = HamLearningProcessor(bert())(text=["up", "warm"], visual_features=[picture, a_picture(2)])
    assert inputs["region_mask"].tolist() == [[0, 0], [1, 1]]
    assert inputs["region_features"].shape == (2, 2, REGION_SIZE)


def test_only_the_first_regions_are_kept():
    picture = a_picture(5)
    inputs = HamLearningProcessor(bert(), max_regions=3)(text=["up"], visual_features=[picture])
    assert inputs["region_features"][0].tolist() == picture["features"][:3].tolist()
    assert inputs["region_class_ids"].tolist() == [[0, 1, 2]]
    assert inputs["region_boxes"].shape == (1, 3, 4)


def test_the_class_id_behind_the_last_means_no_class(processor):
    inputs = processor(text=["up"], visual_features=[a_picture(1, class_ids=[NUM_CLASSES])])
    assert inputs["region_class_ids"].tolist() == [[NUM_CLASSES]]


def test_a_box_may_reach_over_the_edge_by_rounding(processor):
    inputs = processor(text=["up"], visual_features=[a_picture(1, boxes=[[0.5, 0.5, 1.00001, 1.0]])])
    assert inputs["region_mask"].tolist() == [[1]]


@pytest.mark.parametrize(
    "box", [[0.5, 0.1, 0.1, 0.9], [0.1, 0.5, 0.9, 0.1], [0.5, 0.9, 0.1, 0.9], [0.9, 0.5, 0.9, 0.1]]
)
def test_a_long_box_may_lie_along_an_edge(processor, box):
    assert processor(text=["up"], visual_features=[a_picture(1, boxes=[box])])["region_mask"].tolist() == [[1]]


@pytest.mark.parametrize(
    "box", [[0.1, 0.5, 0.1, 0.4], [0.5, 0.1, 0.4, 0.1], [0.9, 0.5, 0.1, 0.4], [0.5, 0.9, 0.4, 0.1]]
)
def test_a_box_over_any_edge_is_refused(processor, box):
    with pytest.raises(ValueError, match=r"tweet 0: box \[.*inside \[0, 1\]"):
        processor(text=["up"], visual_features=[a_picture(1, boxes=[box])])


NAN_FEATURES = np.full((2, REGION_SIZE), np.nan)
BAD_PICTURES = {
    "image_features of another size": ({"image_features": np.ones(5)}, "image_features of size 5, the model takes 12"),
    "features of another size": ({"features": np.ones((2, 3))}, "features of size 3, the model takes 10"),
    "image_features that are NaN": ({"image_features": np.full(IMAGE_SIZE, np.nan)}, "image_features hold NaN"),
    "image_features that are infinite": ({"image_features": np.full(IMAGE_SIZE, np.inf)}, "NaN or infinite"),
    "features that are NaN": ({"features": NAN_FEATURES}, "features hold NaN"),
    "a box outside": ({"boxes": [[0.5, 0.5, 1, 1], [0.9, 0.5, 0.1, 0.4]]}, r"box \[0.89.*0.4.*inside \[0, 1\]"),
    "a box without area": ({"boxes": [[0.5, 0.5, 0.0, 0.5]] * 2}, r"box \[0.5, 0.5, 0.0, 0.5\] .* with an area"),
    "a box that is NaN": ({"boxes": [[0.5, 0.5, np.nan, 0.5]] * 2}, "box .*nan"),
    "class ids too high": ({"class_ids": [0, NUM_CLASSES + 1]}, r"class id 8 is outside 0\.\.7"),
    "class ids below 0": ({"class_ids": [-1, 0]}, r"class id -1 is outside 0\.\.7"),
    "more boxes than features": ({"features": np.ones((1, REGION_SIZE))}, "2 boxes, 2 class_ids, 1 features"),
    "features without boxes": ({"boxes": [], "class_ids": []}, "0 boxes, 0 class_ids, 2 features"),
    "more boxes than class ids": ({"class_ids": [0]}, "2 boxes, 1 class_ids, 2 features"),
    "two boxes of two numbers, not one of four": (
        {"boxes": [[0.5, 0.5], [0.1, 0.1]], "class_ids": [0], "features": np.ones((1, REGION_SIZE))},
        "boxes",
    ),
    "boxes of three numbers": ({"boxes": [[0.5, 0.5, 0.1]] * 2}, "boxes"),
    "boxes of different sizes": ({"boxes": [[0.5, 0.5, 0.1], [0.5, 0.5, 0.1, 0.1]]}, "boxes"),
    "features of different sizes": ({"features": [[1.0] * REGION_SIZE, [1.0]]}, "features"),
    "image_features of two dimensions": ({"image_features": np.ones((7, IMAGE_SIZE))}, "image_features"),
    "an image_size of three numbers": ({"image_size": [640, 480, 3]}, "image_size"),
    "an image_size of no pixel": ({"image_size": [0, 480]}, "image_size"),
}


@pytest.mark.parametrize("changes, message", BAD_PICTURES.values(), ids=BAD_PICTURES.keys())
def test_bad_visual_features_name_the_tweet(processor, changes, message):
    with pytest.raises(ValueError, match=f"visual_features: tweet 1: .*{message}"):
        processor(text=["warm", "up"], visual_features=[a_picture(), a_picture(**changes)])


@pytest.mark.parametrize("changes, message", BAD_PICTURES.values(), ids=BAD_PICTURES.keys())
def test_bad_visual_features_of_a_single_tweet_are_refused_too(processor, changes, message):
    with pytest.raises(ValueError, match=f"visual_features: tweet 0: .*{message}"):
        processor(text=["up"], visual_features=[a_picture(**changes)])


@pytest.mark.parametrize("missing", ["image_features", "boxes", "class_ids", "features"])
def test_visual_features_that_lack_a_column_name_it_and_the_tweet(processor, missing):
    picture = {name: value for name, value in a_picture().items() if name != missing}
    with pytest.raises(ValueError, match=f"visual_features: tweet 1: .*{missing}"):
        processor(text=["warm", "up"], visual_features=[a_picture(), picture])


@pytest.mark.parametrize("name, size", [("image_features", (5,)), ("image_features", (1,)), ("features", (2, 1))])
def test_sizes_that_differ_within_a_batch_name_the_tweet_when_the_processor_knows_none(name, size):
    with pytest.raises(ValueError, match=f"visual_features: tweet 1: .*{name}"):
        HamLearningProcessor(bert())(
            text=["warm", "up"], visual_features=[a_picture(), a_picture(**{name: np.ones(size)})]
        )


def test_differing_counts_of_regions_are_found_behind_the_limit():
    picture = a_picture(5, features=np.ones((4, REGION_SIZE)))
    with pytest.raises(ValueError, match="visual_features: tweet 0: 5 boxes, 5 class_ids, 4 features"):
        HamLearningProcessor(bert(), max_regions=3)(text=["up"], visual_features=[picture])


def test_visual_features_for_another_number_of_tweets_are_refused(processor):
    with pytest.raises(ValueError, match="visual_features are for 1 tweets, text is 2: give one entry a tweet"):
        processor(text=["warm", "up"], visual_features=[a_picture()])


# -------------------------------------------------------------------------------------------------------- save, load


def test_saved_and_loaded_without_a_question_asked(tmp_path, monkeypatch):
    def nobody_is_there(*_):
        pytest.fail("asked at the terminal")

    monkeypatch.setattr("builtins.input", nobody_is_there)
    fields = {
        "tags": ["O", "B-TEAM", "I-TEAM"],
        "word_splitting": "tweet",
        "max_length": 20,
        "max_regions": 4,
        "image_feature_size": 5,
        "region_feature_size": 6,
        "num_classes": 7,
    }
    processor = HamLearningProcessor(bert(), **fields)
    processor.save_pretrained(tmp_path)
    loaded = HamLearningProcessor.from_pretrained(tmp_path)
    assert {name: getattr(loaded, name) for name in fields} == fields
    assert same(loaded(text=LINES), processor(text=LINES))


def test_a_byte_level_processor_gives_the_same_after_saving(tmp_path):
    processor = HamLearningProcessor(roberta(add_prefix_space=False))
    processor.save_pretrained(tmp_path)
    assert same(HamLearningProcessor.from_pretrained(tmp_path)(text=LINES), processor(text=LINES))


def test_the_code_that_serves_the_model_is_saved_beside_the_processor(tmp_path, processor):
    processor.save_pretrained(tmp_path)
    assert SERVING_CODE <= set(os.listdir(tmp_path))


def test_auto_processor_loads_it_from_its_folder_alone(tmp_path, processor):
    repo, elsewhere = tmp_path / "repo", tmp_path / "elsewhere"
    elsewhere.mkdir()
    processor.save_pretrained(repo)
    script = (
        "import json, sys\n"
        "from transformers import AutoProcessor\n"
        "processor = AutoProcessor.from_pretrained(sys.argv[1], trust_remote_code=True)\n"
        "inputs = processor(text=json.loads(sys.argv[2]))\n"
        "print(json.dumps([type(processor).__module__, inputs['input_ids'].tolist(), inputs.words]))\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    finished = subprocess.run(
        [sys.executable, "-c", script, str(repo), json.dumps(LINES)],
        cwd=elsewhere,
        env={**environment, "HF_MODULES_CACHE": str(tmp_path / "modules")},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert finished.returncode == 0, finished.stderr
    module, input_ids, words = json.loads(finished.stdout.splitlines()[-1])
    expected = processor(text=LINES)
    assert module.startswith("transformers_modules.")
    assert (input_ids, words) == (expected["input_ids"].tolist(), expected.words)


# ------------------------------------------------------------------------------------------------------------ pictures

VISION = {"image_feature_size": 96, "region_feature_size": 96, "num_classes": 1}  # what this vision model gives
PICTURES = [
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8))
    for seed, size in enumerate([(40, 60), (50, 20), (30, 30)])
]


def make_vision_model(seed=0, **fields):
    """A tiny backbone and a grid of regions."""
    torch.manual_seed(seed)
    config = HamLearningVisionConfig(
        global_backbone_config={"architecture": "test_resnet"}, detector="grid", resize_size=72, crop_size=64, **fields
    )
    return HamLearningVisionModel(config)


@pytest.fixture(scope="module")
def vision():
    return make_vision_model()


@pytest.fixture
def seeing(vision):
    """A processor with a vision model."""
    processor = HamLearningProcessor(bert(), **VISION)
    processor.vision_model = vision
    return processor


@pytest.fixture
def repo(seeing, tmp_path):
    """A processor that was saved with its vision model."""
    seeing.save_pretrained(tmp_path / "repo")
    return tmp_path / "repo"


def test_images_give_what_their_visual_features_give(seeing):
    text, images = ["up", "warm", "Rome"], [PICTURES[0], None, PICTURES[1]]
    rows = seeing.extract_visual_features(images)
    assert rows[1] is None
    inputs = seeing(text=text, images=images)
    assert set(inputs) == TENSORS | VISUAL_TENSORS
    assert same(inputs, seeing(text=text, visual_features=rows))


def test_images_give_what_the_vision_model_computes(seeing, vision):
    inputs, seen = seeing(text=["up"] * 4, images=[*PICTURES, None]), vision([*PICTURES, None])
    assert inputs["image_features"].abs().max() > 0
    for name in VISUAL_TENSORS:
        assert torch.equal(inputs[name], seen[name])


@pytest.mark.parametrize("text", ["warm up", ["warm up"]], ids=["one text", "a list of one"])
def test_one_picture_of_one_tweet_needs_no_list(seeing, text, tmp_path):
    image, path = PICTURES[0], tmp_path / "picture.png"
    image.save(path)
    expected = seeing(text=["warm up"], images=[image])
    for one in (image, path, str(path), path.read_bytes(), {"bytes": path.read_bytes(), "path": None}):
        assert same(seeing(text=text, images=one), expected)


def test_one_array_of_one_raw_text_is_one_picture(seeing):
    expected = seeing(text="up", images=[PICTURES[0]])
    assert same(seeing(text="up", images=np.asarray(PICTURES[0])), expected)
    assert same(seeing(text=["up"], images=np.asarray(PICTURES[0]), is_split_into_words=True), expected)


def test_images_for_another_number_of_tweets_are_refused(seeing):
    for images in ([PICTURES[0]], PICTURES[0], "game.jpg"):
        with pytest.raises(ValueError, match="images are for 1 tweets, text is 2: give one entry a tweet"):
            seeing(text=["up", "warm"], images=images)


def test_images_and_visual_features_together_are_refused(seeing):
    rows = seeing.extract_visual_features(PICTURES[:1])
    with pytest.raises(ValueError, match="images and visual_features were both given"):
        seeing(text=["up"], images=PICTURES[:1], visual_features=rows)


def test_the_size_of_a_batch_of_pictures_changes_rounding_at_most(seeing):
    images = [PICTURES[0], None, PICTURES[1], PICTURES[2], None]
    for one, other in zip(*(seeing.extract_visual_features(images, size) for size in (2, 5)), strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            assert one.keys() == other.keys()
            for name in one:
                np.testing.assert_allclose(one[name], other[name], rtol=1e-4)


def test_a_picture_that_cannot_be_read_is_named_by_its_place(seeing):
    with pytest.raises(ImageError, match="images: picture 9: 'gone.jpg'"):
        seeing(text=["up"] * 10, images=[PICTURES[0]] * 2 + [None] * 7 + ["gone.jpg"])


def test_features_can_be_extracted_on_a_named_device(seeing):
    expected = seeing(text=["up"], images=PICTURES[:1])
    assert same(seeing(text=["up"], images=PICTURES[:1], device="cpu"), expected)


def test_the_vision_model_move_to_the_named_device(vision):
    processor = HamLearningProcessor(bert())
    processor.vision_model = copy.deepcopy(vision)
    with contextlib.suppress(Exception):  # nothing can be computed there
        processor(text=["up"], images=PICTURES[:1], device="meta")
    assert processor.vision_model.device.type == "meta"


def test_without_vision_model_a_picture_is_refused_and_no_picture_is_none(processor):
    for look in (lambda: processor(text="up", images=PICTURES[0]), lambda: processor.vision_model):
        with pytest.raises(ValueError, match=r"no vision model \(vision_source=None\).*give `visual_features`"):
            look()
    assert same(processor(text=["up", "warm"], images=[None, None]), processor(text=["up", "warm"]))
    assert same(processor(text="up", images=None), processor(text="up"))


@pytest.mark.parametrize("name", VISION)
def test_vision_model_of_other_sizes_than_the_models_are_refused(vision, name):
    processor = HamLearningProcessor(bert(), **VISION | {name: 5})
    with pytest.raises(ValueError, match=f"The vision model has {name} {VISION[name]}, the model takes 5"):
        processor.vision_model = vision


def test_vision_model_of_other_sizes_are_refused_when_they_are_loaded(vision, tmp_path):
    vision.save_pretrained(tmp_path)
    source = {"pretrained_model_name_or_path": str(tmp_path)}
    processor = HamLearningProcessor(bert(), image_feature_size=5, vision_source=source)
    with pytest.raises(ValueError, match="The vision model has image_feature_size 96, the model takes 5"):
        processor(text="up", images=PICTURES[0])


def test_the_vision_model_is_not_even_imported_before_the_first_picture(repo):
    script = """
import sys
from processing_hamlearning import HamLearningProcessor
processor = HamLearningProcessor.from_pretrained(sys.argv[1])
def vision_model_are_imported():
    return sorted({"modeling_hamlearning_vision", "modeling_faster_rcnn_vg", "timm"} & set(sys.modules))
processor(text="warm up"), processor(text=["warm", "up"], images=[None, None]), processor.to_dict()
print(vision_model_are_imported())
print(processor(text="up", images=sys.argv[2])["image_mask"].tolist(), vision_model_are_imported())
"""
    PICTURES[0].save(repo / "picture.png")
    finished = subprocess.run(
        [sys.executable, "-c", script, str(repo), str(repo / "picture.png")],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.splitlines() == [
        "[]",
        "[1] ['modeling_faster_rcnn_vg', 'modeling_hamlearning_vision', 'timm']",
    ]


def test_the_vision_model_is_loaded_once_when_the_first_picture_comes(repo, monkeypatch):
    loads = []
    load = HamLearningVisionModel.from_pretrained.__func__

    def counted(cls, *args, **kwargs):
        loads.append(kwargs)
        return load(cls, *args, **kwargs)

    monkeypatch.setattr(HamLearningVisionModel, "from_pretrained", classmethod(counted))
    processor = HamLearningProcessor.from_pretrained(repo)
    processor(text="up", images=None)
    assert not loads
    for _ in range(2):
        processor(text="up", images=PICTURES[0])
    assert loads == [{"pretrained_model_name_or_path": str(repo), "subfolder": "vision"}]


def test_a_loaded_vision_model_is_saved_and_found_wherever_the_folder_goes(seeing, repo, tmp_path):
    assert sorted(path.name for path in (repo / "vision").iterdir()) == ["config.json", "model.safetensors"]
    assert json.loads((repo / "processor_config.json").read_text())["vision_source"] == {"subfolder": "vision"}
    repo.rename(tmp_path / "elsewhere")
    loaded = HamLearningProcessor.from_pretrained(tmp_path / "elsewhere")
    assert same(loaded(text=["up"], images=PICTURES[:1]), seeing(text=["up"], images=PICTURES[:1]))


def test_saving_leaves_the_vision_model_loaded(seeing, vision, tmp_path):
    seeing.save_pretrained(tmp_path)
    assert seeing.vision_model is vision


def test_a_vision_model_that_is_not_loaded_is_found_where_it_was(seeing, repo, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    HamLearningProcessor.from_pretrained("repo").save_pretrained("copy")
    assert not (tmp_path / "copy" / "vision").exists()
    (tmp_path / "deep").mkdir()
    monkeypatch.chdir("deep")
    again = HamLearningProcessor.from_pretrained("../copy")
    assert same(again(text=["up"], images=PICTURES[:1]), seeing(text=["up"], images=PICTURES[:1]))


def test_a_processor_saved_into_its_own_folder_can_still_be_moved(seeing, repo, tmp_path):
    HamLearningProcessor.from_pretrained(repo).save_pretrained(repo)
    repo.rename(tmp_path / "elsewhere")
    loaded = HamLearningProcessor.from_pretrained(tmp_path / "elsewhere")
    assert same(loaded(text=["up"], images=PICTURES[:1]), seeing(text=["up"], images=PICTURES[:1]))


def test_how_this_machine_reaches_the_hub_is_never_saved(repo, tmp_path):
    options = {"token": "hf_secret", "cache_dir": str(tmp_path / "cache")}
    processor = HamLearningProcessor.from_pretrained(repo, **options)
    assert processor.vision_model is not None
    processor.save_pretrained(tmp_path / "loaded")
    HamLearningProcessor.from_pretrained(repo, **options).save_pretrained(tmp_path / "not_loaded")
    for folder in ("loaded", "not_loaded"):
        saved = "".join(path.read_text() for path in (tmp_path / folder).rglob("*.json"))
        assert "vision_source" in saved
        assert not any(value in saved for value in options.values())


def test_what_is_saved_as_json_holds_no_weights(seeing, vision, monkeypatch):
    blind = HamLearningProcessor(bert(), **VISION)
    monkeypatch.setattr(vision, "__deepcopy__", lambda memo: pytest.fail("copied the weights"), raising=False)
    assert seeing.to_dict() == blind.to_dict()
    assert seeing.to_json_string() == blind.to_json_string()
    assert "HamLearningVisionModel" not in repr(seeing)


# ------------------------------------------------------------------------------------------------ pictures, on the Hub

CODE = {
    "configuration_hamlearning.py",
    "image_processing_hamlearning.py",
    "marks_hamlearning.py",
    "modeling_faster_rcnn_vg.py",
    "modeling_hamlearning.py",
    "modeling_hamlearning_vision.py",
    "networks_hamlearning.py",
    "processing_hamlearning.py",
    "windows_hamlearning.py",
    "words_hamlearning.py",
}
SERVING_CODE = {"handler.py", "pipeline_hamlearning.py", "serving_hamlearning.py"}
VISION_FILES = {"vision/config.json", "vision/model.safetensors"}


@pytest.fixture
def on_the_hub(seeing, make_model, tmp_path):
    """`hub, client, revision`: a Hub with the repo org/model; `client(code, hidden)` is the JSON that code prints."""
    home, folder = tmp_path / "home", tmp_path / "model"
    home.mkdir()
    PICTURES[0].save(home / "picture.png")
    always(make_model(**VISION), "B-ORG").save_pretrained(folder)
    seeing.save_pretrained(folder)
    with HubServer() as hub:

        def client(code, hidden=()):
            return json.loads(run_client(hub, stranger(code, hidden), home).splitlines()[-1])

        yield hub, client, hub.add_repo("org/model", folder)


def vision_requests(hub):
    return {path for _, path in hub.requests if "/vision/" in path}


def test_a_text_needs_neither_the_vision_model_nor_their_libraries(on_the_hub):
    hub, client, _ = on_the_hub
    assert CODE | SERVING_CODE | VISION_FILES <= set(hub.files("org/model"))
    code = """
processor = AutoProcessor.from_pretrained("org/model", trust_remote_code=True)
model = AutoModelForTokenClassification.from_pretrained("org/model", trust_remote_code=True)
inputs = processor(text=["Huskies", "up"], images=[None, None])
entities = processor.post_process_entities(model(**inputs), inputs)
try:
    processor(text="up", images="picture.png")
except ImportError as error:
    print(json.dumps([[entity["word"] for row in entities for entity in row], str(error)]))
"""
    words, error = client(code, hidden=["timm", "torchvision", "PIL"])
    assert words == ["Huskies", "up"]
    assert "pip install torchvision timm" in error
    assert vision_requests(hub) == set()


def test_the_first_picture_fetches_the_vision_model_of_the_processors_revision(on_the_hub, seeing, tmp_path):
    hub, client, revision = on_the_hub
    make_vision_model(seed=1).save_pretrained(tmp_path / "model" / "vision")
    assert hub.add_repo("org/model", tmp_path / "model") != revision
    code = f"""
processor = AutoProcessor.from_pretrained(
    "org/model", trust_remote_code=True, revision={revision!r}, cache_dir="cache"
)
model = AutoModelForTokenClassification.from_pretrained("org/model", trust_remote_code=True, revision={revision!r})
inputs = processor(text=["Huskies", "up"], images=["picture.png", None])
entities = processor.post_process_entities(model(**inputs), inputs)
ours = sorted(name for name in sys.modules if name.endswith(("_hamlearning", "_hamlearning_vision", "_vg")))
print(json.dumps([inputs["image_features"].tolist(), [row[0]["relevance"] for row in entities], ours]))
"""
    features, relevances, modules = client(code)
    assert features == seeing(text=["Huskies", "up"], images=[PICTURES[0], None])["image_features"].tolist()
    assert len(relevances[0]) == 2 and relevances[1] is None
    assert len(modules) == len(CODE) and all(name.startswith("transformers_modules.") for name in modules)
    assert vision_requests(hub) == {f"/org/model/resolve/{revision}/{name}" for name in VISION_FILES}
    assert list((tmp_path / "home" / "cache").rglob("vision/model.safetensors"))


@pytest.mark.slow
def test_whatever_way_it_is_pushed_its_vision_model_come_along(on_the_hub, tmp_path):
    hub, client, _ = on_the_hub
    code = f"""
from huggingface_hub import HfApi
HfApi().create_repo("org/uploaded")
revision = HfApi().upload_folder(repo_id="org/uploaded", folder_path={str(tmp_path / "model")!r}).oid
processor = AutoProcessor.from_pretrained("org/uploaded", trust_remote_code=True)
processor.save_pretrained("pointer")
processor(text="up", images="picture.png")
processor.push_to_hub("org/pushed")
processor.save_pretrained("saved", push_to_hub=True, repo_id="org/saved")
print(json.dumps([json.load(open("pointer/processor_config.json"))["vision_source"], revision]))
"""
    pointer, revision = client(code)
    assert pointer == {"pretrained_model_name_or_path": "org/uploaded", "revision": revision, "subfolder": "vision"}
    for repo in ("org/uploaded", "org/pushed", "org/saved"):
        files = hub.files(repo)
        assert CODE | SERVING_CODE | VISION_FILES <= set(files)
        assert files["vision/model.safetensors"] == hub.files("org/model")["vision/model.safetensors"]
        assert json.loads(files["processor_config.json"])["vision_source"] == {"subfolder": "vision"}


@pytest.mark.slow
def test_auto_model_loads_the_vision_model_alone(on_the_hub, vision):
    _, client, _ = on_the_hub
    code = """
vision = AutoModel.from_pretrained("org/model", subfolder="vision", trust_remote_code=True)
print(json.dumps([type(vision).__name__, vision.fingerprint()]))
"""
    assert client(code) == ["HamLearningVisionModel", vision.fingerprint()]


# ---------------------------------------------------------------------------------------------------------- collator

ROWS = [
    {"id": "1", "tokens": ["Huskies", "warm"], "ner_tags": [5, 0]},
    {"id": "2", "tokens": ["up"], "ner_tags": [0]},
]


def test_rows_with_tags_become_what_the_processor_makes_of_them(processor):
    batch = HamLearningDataCollator(processor)(ROWS)
    assert type(batch) is dict
    assert same(batch, dict(processor(text=[["Huskies", "warm"], ["up"]], word_labels=[[5, 0], [0]])))


def test_rows_without_tags_have_no_labels(processor):
    batch = HamLearningDataCollator(processor)([{"id": row["id"], "tokens": row["tokens"]} for row in ROWS])
    assert set(batch) == TENSORS


def test_a_tweet_whose_id_has_no_visual_features_has_no_picture(processor):
    batch = HamLearningDataCollator(processor, {"2": a_picture(3)})(ROWS)
    assert batch["image_mask"].tolist() == [0, 1]
    assert batch["region_mask"].tolist() == [[0, 0, 0], [1, 1, 1]]


def test_a_row_whose_picture_is_not_that_of_its_id_is_looked_up_by_its_key():
    processor = HamLearningProcessor(bert())
    rows = [row | {"picture_key": key} for row, key in zip(ROWS, (None, "1"), strict=True)]
    batch = HamLearningDataCollator(processor, {"1": a_picture(3)})(rows)
    assert batch["image_mask"].tolist() == [0, 1]


def test_a_batch_none_of_whose_ids_has_visual_features_trains(processor, make_model):
    batch = HamLearningDataCollator(processor, {"3": a_picture()})(ROWS)
    assert set(batch) == TENSORS | {"labels"}
    assert make_model().train()(**batch).loss.isfinite()


@pytest.mark.parametrize(
    "changes",
    [
        {"class_ids": [-0.7, 2.2]},
        {"class_ids": ["1", "2"]},
        {"class_ids": [2**65, 1]},
        {"image_size": [10.9, 3.2]},
        {"image_size": [float("inf"), 3]},
        {"features": [["1", "2"]] * 2},
    ],
    ids=str,
)
def test_visual_features_of_another_kind_of_number_are_refused_by_their_tweet(changes):
    picture = {
        "image_size": [64, 48],
        "image_features": [1.0, 2.0],
        "boxes": [[0.5, 0.5, 0.5, 0.5]] * 2,
        "class_ids": [0, 1],
        "features": [[1.0, 2.0]] * 2,
    }
    processor = HamLearningProcessor(bert())
    processor(text=["Huskies"], visual_features=[picture])
    with pytest.raises(ValueError, match=f"visual_features: tweet 0: {next(iter(changes))}"):
        processor(text=["Huskies"], visual_features=[picture | changes])


@pytest.mark.parametrize("labels", [[None], [[[1]]]], ids=["none", "nested"])
def test_labels_that_are_no_lists_of_tags_are_refused(labels):
    with pytest.raises(ValueError, match="word_labels are no lists of tags .* give a list a tweet, a tag a word"):
        HamLearningProcessor(bert())(text=[["Huskies"]], word_labels=labels)


def test_rows_of_which_some_have_tags_are_refused():
    rows = [{"id": "1", "tokens": ["Huskies"]}, {"id": "2", "tokens": ["Huskies"], "ner_tags": [0]}]
    with pytest.raises(ValueError, match="1 of 2 rows have ner_tags"):
        HamLearningDataCollator(HamLearningProcessor(bert()))(rows)


def test_a_limit_without_room_for_a_word_is_refused():
    with pytest.raises(ValueError, match="max_length=2: must be a whole number, at least 3"):
        HamLearningProcessor(bert(), max_length=2)


@pytest.mark.parametrize(
    "setting, message",
    [
        ({"max_length": "128"}, "max_length='128': must be a whole number"),
        ({"max_length": 128.5}, "max_length=128.5: must be a whole number"),
        ({"max_length": None}, "max_length=None: must be a whole number"),
        ({"max_regions": 0}, "max_regions=0: must be a whole number, at least 1"),
        ({"max_regions": None}, "max_regions=None: must be a whole number"),
        ({"image_feature_size": "x"}, "image_feature_size='x': must be a whole number"),
        ({"region_feature_size": True}, "region_feature_size=True: must be a whole number"),
        ({"num_classes": -1}, "num_classes=-1: must be a whole number"),
        ({"tags": 5}, "tags=5: must be a list of names"),
        ({"tags": "OBI"}, "tags='OBI': must be a list of names"),
        ({"tags": ["O", None]}, r"tags\[1\]=None: must be a name"),
        ({"tags": ["O", "B-"]}, r"tags\[1\]='B-': must be a name"),
        ({"tags": ["O", "B-PER", "O"]}, r"tags\[2\]='O' is there twice"),
        ({"vision_source": "vision"}, "vision_source='vision': must be an object of"),
        ({"vision_source": ["vision"]}, r"vision_source=\['vision'\]: must be an object of"),
        ({"vision_source": {"subfolder": 5}}, "vision_source: subfolder=5: must be a string"),
        ({"vision_source": {"dtype": "auto"}}, "vision_source has 'dtype': it takes"),
    ],
)
def test_a_setting_of_a_wrong_type_is_refused_by_its_name(repo, setting, message):
    config = repo / "processor_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | setting))
    with pytest.raises(ValueError, match=message):
        HamLearningProcessor.from_pretrained(repo)


def test_a_setting_may_come_as_numpy_path_or_iterator_and_is_saved_like_any(tmp_path):
    given = {"max_length": np.int64(64), "num_classes": np.int32(7), "vision_source": {"subfolder": Path("vision")}}
    HamLearningProcessor(bert(), tags=iter(TAGS), **given).save_pretrained(tmp_path)
    loaded = HamLearningProcessor.from_pretrained(tmp_path)
    assert (loaded.tags, loaded.max_length, loaded.num_classes) == (list(TAGS), 64, 7)
    assert loaded.vision_source["subfolder"] == "vision"


@pytest.mark.parametrize("content", ["[]", "", "\0", "[" * 100_000, '{"tags": '])
def test_a_config_that_is_no_json_object_is_refused_by_its_file(repo, content):
    config = repo / "processor_config.json"
    config.write_text(content)
    with pytest.raises(ValueError, match=f"^{config} holds no JSON object: copy or download it again"):
        HamLearningProcessor.from_pretrained(repo)


@pytest.mark.parametrize(
    "text, message",
    [
        (None, "text is None: give a string, or a list"),
        (5, "text is 5: give a string, or a list"),
        (b"Huskies", "text is b'Huskies': give a string, or a list"),
        ({"text": "Huskies", "image": None}, "text is {'text': 'Huskies', 'image': None}: give a string"),
        (["up", None], "tweet 1 is None: give a string or a list of words"),
        ([{"text": "up"}], "tweet 0 is {'text': 'up'}: give a string or a list of words"),
        (["up", b"warm"], "word 0 of tweet 1 is 119: give a string a word"),
        ([["up"], ["warm", None]], "word 1 of tweet 1 is None: give a string a word"),
    ],
)
def test_what_is_no_text_is_refused_by_its_place(text, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        HamLearningProcessor(bert())(text=text)


def test_texts_may_come_one_by_one():
    assert HamLearningProcessor(bert())(text=(text for text in ["warm up", "Rome"])).words == [
        ["warm", "up"],
        ["Rome"],
    ]
