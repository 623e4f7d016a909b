"""What holds for whatever comes in: any Unicode, any tags, any boxes, any company in a batch, any JSON.

`make test` draws few examples, always the same ones; the last test, or

    pytest --hypothesis-profile thorough tests/test_properties.py

draws many, and others each time.
"""

import base64
import itertools
import json
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from datasets import config as datasets_config
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from seqeval.metrics import f1_score
from seqeval.metrics.sequence_labeling import get_entities
from transformers import BertConfig, BertTokenizer

from configuration_hamlearning import HamLearningConfig
from hamlearning.data.columns import read_columns
from hamlearning.data.features import VisualFeatures, write_visual_features
from hamlearning.data.reading import ReadingOptions
from hamlearning.data.released import read_tweets
from hamlearning.data.tweets import load_tweets
from hamlearning.scores.counts import entity_counts
from hamlearning.scores.evaluation import evaluate_tags
from hamlearning.scores.predictions import read_gold, read_predictions
from modeling_hamlearning import (
    SPATIAL_RELATIONS,
    HamLearningCRF,
    HamLearningForTokenClassification,
    spatial_relations,
)
from pipeline_hamlearning import HamLearningPipeline
from processing_hamlearning import HamLearningProcessor
from serving_hamlearning import EndpointHandler
from words_hamlearning import WORD_SPLITTINGS, entity_spans, split_words


EXAMPLES = settings.default.max_examples  # of the profile; what takes longer takes a share of them
SPLITTINGS = WORD_SPLITTINGS
SIZES = {"image_feature_size": 6, "region_feature_size": 5, "num_classes": 3}

# Right to left and overrides, zero width, combining, emoji of several characters, halves of pairs, NUL, odd spaces,
# and what tweets are made of.
PIECES = [
    *("\u202eabc\u202c", "\u05e9\u05dc\u05d5\u05dd", "\u0627\u0644\u0639", "\u2067", "\u200f", "\u061c"),
    *("\u200b", "\u200d", "\u200c", "\u2060", "\ufeff", "\u00ad", "\ufe0f", "\U000e0041"),
    *(
        "e\u0301",
        "\u0301",
        "Z\u0351\u036b\u0343",
        "\u1112\u1161\u11ab",
        "\u0915\u094d\u0937\u093f",
        "\u0130",
        "\ufb01",
    ),
    *("\U0001f469\u200d\U0001f469\u200d\U0001f467", "\U0001f1e9\U0001f1ea", "\U0001f44d\U0001f3fd", "1\ufe0f\u20e3"),
    *("\ud800", "\udfff", "\udfff\ud800", "\0", "\x7f", "\x85", "\x1b[31m", "\x1c"),
    *(" ", "\t", "\n", "\r", "\u00a0", "\u2028", "\u3000"),
    *(
        "rome",
        "Ann",
        "@ann_",
        "#rome",
        "http://t.co/x",
        "htt\u2026",
        "&amp;",
        ":-)",
        "<3",
        "...",
        "don't",
        "50%",
        "$TSLA",
    ),
]
characters = st.characters(exclude_categories=())  # halves of pairs too, which JSON can hold
texts = st.one_of(
    st.lists(st.sampled_from(PIECES), max_size=12).map("".join),
    st.lists(st.text(characters, max_size=8)).map(" ".join),
)
lines = st.text(st.characters(exclude_characters="\t\n", exclude_categories=("Cs",)), max_size=8)
types = st.text(st.characters(exclude_categories=("Cs", "Cc", "Zs", "Zl", "Zp")), min_size=1, max_size=4).filter(
    lambda name: not any(map(str.isspace, name))
)
tags = st.one_of(
    st.just("O"), st.tuples(st.sampled_from("BI"), st.one_of(st.sampled_from(["X", "Y"]), types)).map("-".join)
)


def make_tokenizer():
    letters = "abcdefghijklmnopqrstuvwxyz"
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{letter}" for letter in letters)]
    return BertTokenizer(vocab={piece: index for index, piece in enumerate(pieces)})


def make_pipeline(**config) -> HamLearningPipeline:
    """A tiny network with random weights, which finds something in most tweets."""
    torch.manual_seed(0)
    text_config = BertConfig(
        vocab_size=100, hidden_size=32, num_hidden_layers=1, num_attention_heads=4, intermediate_size=64
    )
    fields = {"class_embedding_size": 4, "num_semantic_layers": 1, "num_interaction_layers": 2, **SIZES, **config}
    model = HamLearningForTokenClassification(HamLearningConfig(text_config=text_config, **fields)).eval()
    with torch.no_grad():  # else all tags are nearly alike, and nearly anything might pass for the same
        model.classifier.weight.mul_(20)
    return HamLearningPipeline(model=model, processor=HamLearningProcessor(make_tokenizer(), max_length=48, **SIZES))


@pytest.fixture(scope="module")
def ner():
    return make_pipeline()


# ---------------------------------------------------------------------------------------------------------- processor


@pytest.mark.parametrize("splitting", SPLITTINGS)
@given(text=texts)
def test_words_lie_in_the_text_one_behind_the_other_and_only_space_is_between_them(splitting, text):
    spans = split_words(text, splitting)
    ends = [0, *itertools.chain.from_iterable(spans), len(text)]
    assert ends == sorted(ends) and all(start < end for start, end in spans)
    between = "".join(text[start:end] for start, end in zip(ends[::2], ends[1::2], strict=True))
    assert between == "" or between.isspace()


@pytest.mark.slow
@pytest.mark.parametrize("splitting", SPLITTINGS)
@pytest.mark.parametrize("piece", PIECES)
def test_a_hundred_thousand_times_the_same_is_split_in_seconds(splitting, piece):
    started = time.process_time()
    spans = split_words((piece * 100_000)[:100_000], splitting)
    assert time.process_time() - started < 5
    assert spans == sorted(spans)


@pytest.mark.slow
def test_a_hundred_thousand_characters_are_answered_in_seconds(ner):
    text = (" ".join(PIECES) * 1000)[:100_000]
    started = time.process_time()
    words = ner(text, aggregation_strategy="none")
    assert time.process_time() - started < 40
    assert len(words) > 30_000 and all(text[word["start"] : word["end"]] == word["word"] for word in words)


@settings(max_examples=EXAMPLES // 4)
@given(text=texts)
def test_an_entity_is_its_place_in_the_text_and_its_words(ner, text):
    inputs = ner.processor(text=text)
    with torch.no_grad():
        [entities] = ner.processor.post_process_entities(ner.model(**inputs), inputs)
    words, offsets = inputs.words[0], inputs.offsets[0]
    assert words == [text[start:end] for start, end in offsets]
    for entity in entities:
        assert text[entity["start"] : entity["end"]] == entity["word"] != ""
        first, last = offsets[entity["word_start"]], offsets[entity["word_end"] - 1]
        assert (entity["start"], entity["end"]) == (first[0], last[1])
        assert 0 <= entity["score"] <= 1 and entity["word_end"] <= len(words)
    spans = [(entity["word_start"], entity["word_end"]) for entity in entities]
    assert list(itertools.chain.from_iterable(spans)) == sorted(itertools.chain.from_iterable(spans))


@given(words=st.lists(st.text(characters, max_size=6), max_size=8), data=st.data())
def test_words_that_come_split_keep_their_text_and_their_tags(ner, words, data):
    tag_ids = data.draw(st.lists(st.integers(0, 8), min_size=len(words), max_size=len(words)))
    inputs = ner.processor(text=[words], word_labels=[tag_ids])
    assert inputs.words == [words] and inputs["labels"][0, : len(words)].tolist() == tag_ids
    assert [inputs.texts[0][start:end] for start, end in inputs.offsets[0]] == words
    assert sorted(set(inputs["word_ids"][0].tolist())) == list(range(-1, len(words) + 1))


@settings(max_examples=EXAMPLES // 4)
@given(text=texts, threshold=st.floats(0, 1))
def test_the_pipeline_says_of_each_word_what_it_says_of_its_entity(ner, text, threshold):
    entities = ner(text, threshold=threshold)
    words = ner(text, threshold=threshold, aggregation_strategy="none")
    assert [word["word"] for word in words] == [text[word["start"] : word["end"]] for word in words]
    tagged = [word["index"] - 1 for word in words if word["entity"] != "O"]
    assert tagged == [place for entity in entities for place in range(entity["word_start"], entity["word_end"])]
    json.dumps([entities, words], allow_nan=False)


# ------------------------------------------------------------------------------------------------------------- batches

shares = st.floats(0.125, 0.875, width=32)
regions = st.tuples(shares, shares, st.integers(0, 2), st.integers(0, 99))


@st.composite
def pictures(draw):
    """A row of a visual feature file, with regions or without; or none."""
    if draw(st.booleans()):
        return None
    found = draw(st.lists(regions, max_size=4))
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    return {
        "image_size": draw(st.tuples(st.integers(1, 2000), st.integers(1, 2000))),
        "image_features": rng.normal(size=SIZES["image_feature_size"]),
        "boxes": [[x, y, 2 * min(y, 1 - y) * 0.9, 2 * min(x, 1 - x) * 0.9] for x, y, _, _ in found],
        "class_ids": [class_id for _, _, class_id, _ in found],
        "features": [np.random.default_rng(seed).normal(size=SIZES["region_feature_size"]) for *_, seed in found],
    }


def read(ner, tweets):
    """What the network says of some tweets together: emissions of the words, scores, entities, of each."""
    inputs = ner.processor(text=[text for text, _ in tweets], visual_features=[picture for _, picture in tweets])
    with torch.no_grad():
        outputs = ner.model(**inputs)
    entities = ner.processor.post_process_entities(outputs, inputs)
    kept = [len(words) for words in inputs.words]
    return [(outputs.logits[row, : kept[row]], entities[row]) for row in range(len(tweets))]


def assert_alike(one, other):
    assert one[0].shape == other[0].shape
    torch.testing.assert_close(one[0], other[0], atol=2e-4, rtol=2e-4)
    for a, b in zip(one[1], other[1], strict=True):
        assert a.keys() == b.keys()
        assert all(a[key] == b[key] for key in a if key not in ("score", "relevance"))
        assert a["score"] == pytest.approx(b["score"], abs=1e-3)
        assert a["relevance"] == pytest.approx(b["relevance"], abs=1e-4)


tweets = st.tuples(texts, pictures())


@settings(max_examples=EXAMPLES // 8)
@given(batch=st.lists(tweets, min_size=1, max_size=5))
def test_what_is_said_of_a_tweet_does_not_depend_on_its_company(ner, batch):
    for alone, together in zip(batch, read(ner, batch), strict=True):
        assert_alike(read(ner, [alone])[0], together)


@settings(max_examples=EXAMPLES // 8)
@given(batch=st.lists(tweets, min_size=2, max_size=5), data=st.data())
def test_tweets_in_another_order_get_the_same_answers_in_that_order(ner, batch, data):
    order = data.draw(st.permutations(range(len(batch))))
    answers = read(ner, batch)
    for place, answer in zip(order, read(ner, [batch[place] for place in order]), strict=True):
        assert_alike(answers[place], answer)


@settings(max_examples=EXAMPLES // 10)
@given(batch=st.lists(texts, max_size=6), batch_size=st.integers(1, 4))
def test_the_pipeline_answers_in_order_whatever_the_batch_size(ner, batch, batch_size):
    answers = ner(batch, batch_size=batch_size)
    assert len(answers) == len(batch)
    for text, answer in zip(batch, answers, strict=True):
        alone = ner(text)
        assert [entity["word"] for entity in answer] == [entity["word"] for entity in alone]
        assert [entity["score"] for entity in answer] == pytest.approx([e["score"] for e in alone], abs=1e-3)


# -------------------------------------------------------------------------------------------------------- data reader


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("properties")


ids = lines.filter(lambda line: line and not line.endswith("\r"))
untagged = lines.filter(
    lambda line: (
        line and not line.startswith("IMGID:") and line[-2:] != " O" and " B-" not in line and " I-" not in line
    )
)


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@given(
    tweets=st.lists(st.tuples(ids, st.lists(st.tuples(lines, tags), min_size=1, max_size=4)), min_size=1, max_size=4)
)
def test_tagged_tweets_are_read_as_they_were_written(folder, newline, tweets):
    blocks = [[f"IMGID:{id_}", *(f"{token}\t{tag}" for token, tag in rows), ""] for id_, rows in tweets]
    path = folder / "tagged.txt"
    path.write_bytes("".join(line + newline for block in blocks for line in block).encode())
    assert read_columns([path], ReadingOptions()).columns == {
        "id": [id_ for id_, _ in tweets],
        "tokens": [[token for token, _ in rows] for _, rows in tweets],
        "ner_tags": [[tag for _, tag in rows] for _, rows in tweets],
    }


@given(tweets=st.lists(st.tuples(ids, st.lists(untagged, min_size=1, max_size=4)), min_size=1, max_size=4))
def test_tweets_without_tags_are_read_as_they_were_written(folder, tweets):
    path = folder / "untagged.txt"
    path.write_bytes("".join(f"{line}\n" for id_, rows in tweets for line in (f"IMGID:{id_}", *rows, "")).encode())
    assert read_tweets(path) == {"id": [id_ for id_, _ in tweets], "tokens": [rows for _, rows in tweets]}


LINES = [
    b"IMGID:1\n",
    b"a\tO\n",
    b"\n",
    b"\t",
    b"a O\n",
    b"b S-X\n",
    b" \n",
    b"# id = 1\n",
    b"-DOCSTART- O\n",
    b"1\ta\tX\n",
]


@given(data=st.lists(st.one_of(st.binary(max_size=9), st.sampled_from(LINES))))
def test_any_bytes_are_tweets_or_a_value_error_that_names_the_file(folder, data):
    path = folder / "any.txt"
    path.write_bytes(b"".join(data))
    try:
        columns = read_tweets(path)
    except ValueError as error:
        assert str(path) in str(error)
    else:
        assert list(map(len, columns["tokens"])) == list(map(len, columns.get("ner_tags", columns["tokens"])))


@st.composite
def changes(draw):
    """A change of bytes: what is put where, in place of how many."""
    return draw(st.floats(0, 1)), draw(st.integers(0, 8)), draw(st.binary(max_size=8))


def changed(data: bytes, edits) -> bytes:
    for share, length, new in edits:
        place = round(share * len(data))
        data = data[:place] + new + data[place + length :]
    return data


@settings(max_examples=EXAMPLES // 2, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(edits=st.lists(changes(), min_size=1, max_size=3))
def test_a_changed_parquet_of_tweets_is_tweets_or_a_value_error(folder, monkeypatch, edits):
    monkeypatch.setattr(datasets_config, "HF_DATASETS_CACHE", folder / "cache")
    path = folder / "tweets" / "train.parquet"
    if not (folder / "sound.parquet").is_file():
        path.parent.mkdir()
        from datasets import Dataset

        rows = {"id": ["1", "2"], "tokens": [["a", "b"], ["c"]], "ner_tags": [["O", "B-PER"], ["I-LOC"]]}
        Dataset.from_dict(rows).to_parquet(str(folder / "sound.parquet"))
    path.write_bytes(changed((folder / "sound.parquet").read_bytes(), edits))
    try:
        columns = load_tweets(path.parent)["train"]
    except ValueError:
        return
    assert list(map(len, columns["tokens"])) == list(map(len, columns["ner_tags"]))


@given(edits=st.lists(changes(), min_size=1, max_size=3))
def test_a_changed_feature_file_is_one_or_a_value_error_that_names_it(folder, edits):
    path, sound = folder / "features.parquet", folder / "sound_features.parquet"
    if not sound.is_file():
        row = {"image_size": [4, 3], "image_features": [1, 2], "class_ids": [0], "scores": [1.0], "features": [[1.0]]}
        sizes = {"image_feature_size": 2, "region_feature_size": 1, "class_names": ["cat"]}
        write_visual_features(sound, [{"id": "1", "boxes": [[0.5, 0.5, 0.5, 0.5]], **row}], sizes)
    path.write_bytes(changed(sound.read_bytes(), edits))
    try:
        vision = VisualFeatures(path)
    except ValueError as error:
        assert str(path) in str(error)
    else:
        assert all(np.isfinite(vision[id_]["features"]).all() for id_ in vision)


# ---------------------------------------------------------------------------------------------------------- evaluation


pairs_of_tags = st.lists(st.lists(st.tuples(tags, tags), min_size=1, max_size=8), min_size=1, max_size=5)


@given(pairs=pairs_of_tags)
def test_scores_and_counts_are_those_of_seqeval_for_any_tags(pairs):
    gold, predicted = ([[pair[side] for pair in tweet] for tweet in pairs] for side in (0, 1))
    counts = entity_counts(gold, predicted)
    for tweet, (there, found) in enumerate(zip(gold, predicted, strict=True)):
        there, found = set(get_entities(there)), set(get_entities(found))
        assert counts[tweet].tolist() == [len(there & found), len(found), len(there)]
    right, found, there = counts.sum(axis=0)
    assert 2 * right / max(found + there, 1) == pytest.approx(f1_score(gold, predicted, zero_division=0))


@settings(max_examples=EXAMPLES // 10)
@given(pairs=pairs_of_tags)
def test_all_scores_of_any_tags_are_shares(pairs):
    gold, predicted = ([[pair[side] for pair in tweet] for tweet in pairs] for side in (0, 1))
    scores = evaluate_tags(gold, predicted, samples=10)
    assert scores["f1"] == pytest.approx(f1_score(gold, predicted, zero_division=0))
    assert all(0 <= scores[name] <= 1 for name in ("precision", "recall", "f1", "strict_f1"))
    json.dumps(scores, allow_nan=False)


@given(tags=st.lists(tags, max_size=12))
def test_the_processors_entities_are_those_of_seqeval_for_any_tags(tags):
    assert [(type_, first, end - 1) for type_, first, end in entity_spans(tags)] == get_entities(tags)


GOLD = {
    "id": ["1", "2"],
    "tokens": [["Ann", "sings"], ["Rome"]],
    "ner_tags": [["B-PER", "O"], ["B-LOC"]],
    "sha256": "",
}
FRAGMENTS = [
    *("Ann", "sings", "Rome", "IMGID:1", "IMGID:2", "B-PER", "O", "B-LOC", "X", "[CLS]", "[SEP]", "##s", "##"),
    *(
        " ",
        "\t",
        "\n",
        "\n\n",
        "\r\n",
        "\u00a0",
        '{"id": "1", "tokens": ["Rome"], "predictions": ["O"]}',
        "{",
        "[" * 9,
    ),
]


@pytest.mark.parametrize("suffix", ["txt", "jsonl"])
@given(parts=st.lists(st.one_of(st.sampled_from(FRAGMENTS), lines), max_size=20), fill=st.booleans())
@example(parts=["[" * 100_000], fill=False)
@example(parts=["Ann\tB-PER\nsings\tO\n\nRome\tB-LOC\n"], fill=False)
def test_any_text_of_a_peer_is_predictions_or_a_value_error_that_names_the_file(folder, suffix, parts, fill):
    path = folder / f"peer.{suffix}"
    path.write_bytes("".join(parts).encode())
    for read_file in (lambda: read_predictions(path, GOLD, fill)[0], lambda: read_gold(path)["ner_tags"]):
        try:
            found = read_file()
        except ValueError as error:
            assert str(path) in str(error)
        else:
            assert found and all(tag == "O" or tag[:2] in ("B-", "I-") for tweet in found for tag in tweet)


# ----------------------------------------------------------------------------------------------------------- relations

SWAPPED = {"none": "none", "inside": "cover", "cover": "inside", "overlap": "overlap"}
SWAPPED |= {f"class{k}": f"class{(k + 3) % 8 + 1}" for k in range(1, 9)}
# Eighths put centres on the sectors' borders, and edges on each other.
on_borders = st.integers(-8, 16).map(lambda eighths: eighths / 8)
hostile = st.one_of(
    on_borders, st.floats(width=32), st.floats(-2, 2, width=32), st.sampled_from([0.0, -0.0, 1e-7, 1e38])
)


@given(
    boxes=st.lists(st.tuples(hostile, hostile, hostile, hostile), max_size=6),
    size=st.tuples(st.integers(1, 10**6), st.integers(1, 10**6)),
    data=st.data(),
)
def test_a_pair_of_any_boxes_has_one_relation_its_swap_the_reverse_and_padding_none(boxes, size, data):
    mask = data.draw(st.lists(st.booleans(), min_size=len(boxes), max_size=len(boxes)))
    ids = spatial_relations(torch.tensor(boxes).view(1, -1, 4), torch.tensor([size]), torch.tensor([mask]))
    table = [[SPATIAL_RELATIONS[id_] for id_ in row] for row in ids[0].tolist()]  # IndexError: not one of them
    there = [True, *mask]
    for i, j in itertools.product(range(len(there)), repeat=2):
        assert table[j][i] == SWAPPED[table[i][j]]
        if i == j or not (there[i] and there[j]):
            assert table[i][j] == "none"
        elif i == 0:
            assert table[i][j] == "inside"


# ----------------------------------------------------------------------------------------------------------------- CRF

TAGS = ("O", "B-X", "I-X")
IS_ENTITY = torch.tensor([False, True, True])
CONTINUES = torch.tensor([[after == 2 and before != 0 for after in range(3)] for before in range(3)])
scores_of_tags = st.floats(-60, 60, width=32)


def make_crf(data) -> HamLearningCRF:
    crf = HamLearningCRF(3)
    with torch.no_grad():
        for parameter in crf.parameters():
            values = data.draw(st.lists(scores_of_tags, min_size=parameter.numel(), max_size=parameter.numel()))
            parameter.copy_(torch.tensor(values).view_as(parameter))
    return crf


def all_paths(crf, emissions):
    """Every tag sequence and its score in float64, for emissions (W, 3)."""
    paths = torch.tensor(list(itertools.product(range(3), repeat=len(emissions))))
    emissions, transitions = emissions.double(), crf.transitions.detach().double()
    total = crf.start_transitions.detach().double()[paths[:, 0]] + crf.end_transitions.detach().double()[paths[:, -1]]
    total = total + sum(emissions[t, paths[:, t]] for t in range(len(emissions)))
    return paths, total + sum(transitions[paths[:, t - 1], paths[:, t]] for t in range(1, len(emissions)))


@settings(max_examples=EXAMPLES // 4)
@given(data=st.data(), lengths=st.lists(st.integers(1, 4), min_size=1, max_size=3))
def test_the_crf_agrees_with_all_paths_written_out(data, lengths):
    crf, width = make_crf(data), max(lengths)
    numbers = data.draw(st.lists(scores_of_tags, min_size=len(lengths) * width * 3, max_size=len(lengths) * width * 3))
    emissions = torch.tensor(numbers).view(len(lengths), width, 3)
    mask = torch.arange(width) < torch.tensor(lengths)[:, None]
    with torch.no_grad():
        best = crf.viterbi(emissions, mask)
        marginals = crf.marginals(emissions, mask)
        _, _, scale, end_scale = crf.forward_backward(emissions, mask)
        spans = crf.span_probabilities(emissions, best, mask, CONTINUES, IS_ENTITY)
        gold = crf(emissions, best, mask, reduction="none")
    for row, length in enumerate(lengths):
        paths, total = all_paths(crf, emissions[row, :length])
        partition = torch.logsumexp(total, 0)
        probability = (total - partition).exp()
        assert (scale[row].sum() + end_scale[row]).item() == pytest.approx(partition.item(), abs=2e-3)
        [found] = (paths == best[row, :length]).all(dim=1).nonzero()
        assert total[found].item() == pytest.approx(total.max().item(), abs=1e-3)
        assert gold[row].item() == pytest.approx((total[found] - partition).item(), abs=2e-3)
        expected = torch.stack([(probability[:, None] * (paths == tag)).sum(0) for tag in range(3)], dim=1)
        torch.testing.assert_close(marginals[row, :length].double(), expected, atol=2e-3, rtol=0)
        assert (marginals[row, length:] == 0).all() and (spans[row, length:] == 0).all()
        assert ((0 <= spans) & (spans <= 1)).all()
        entities = dict.fromkeys(range(length), 0.0)
        for _, first, last in get_entities([TAGS[tag] for tag in best[row, :length]]):
            same = (paths[:, first : last + 1] == best[row, first : last + 1]).all(dim=1)
            ends = torch.tensor([last + 1 == length or path[last + 1] != 2 for path in paths])
            opens = torch.tensor([first == 0 or path[first] == 1 or path[first - 1] == 0 for path in paths])
            entities[first] = probability[same & ends & opens].sum().item()
        assert spans[row, :length].tolist() == pytest.approx(list(entities.values()), abs=2e-3)


@settings(max_examples=EXAMPLES // 4)
@given(data=st.data(), length=st.integers(1, 4))
def test_a_word_is_outside_or_in_exactly_one_of_all_entities_that_there_could_be(data, length):
    crf = make_crf(data)
    numbers = data.draw(st.lists(scores_of_tags, min_size=length * 3, max_size=length * 3))
    emissions = torch.tensor(numbers).view(1, length, 3)
    paths, _ = all_paths(crf, emissions[0])
    mask = torch.ones(1, length, dtype=torch.bool)
    with torch.no_grad():
        spans = crf.span_probabilities(
            emissions.expand(len(paths), -1, -1), paths, mask.expand(len(paths), -1), CONTINUES, IS_ENTITY
        )
        outside = crf.marginals(emissions, mask)[0, :, 0]
    possible = {}
    for path, probabilities in zip(paths.tolist(), spans.tolist(), strict=True):
        for _, first, last in get_entities([TAGS[tag] for tag in path]):
            possible[first, tuple(path[first : last + 1])] = probabilities[first]
    for word in range(length):
        inside = sum(p for (first, own), p in possible.items() if first <= word < first + len(own))
        assert inside + outside[word].item() == pytest.approx(1, abs=5e-3)


# ------------------------------------------------------------------------------------------------------------- handler


@pytest.fixture(scope="module")
def handler(tmp_path_factory):
    folder = tmp_path_factory.mktemp("endpoint") / "model"
    make_pipeline(use_vision=False).save_pretrained(folder)
    return EndpointHandler(str(folder))


scalars = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), texts, st.binary(max_size=9).map(repr))
keys = st.one_of(
    st.sampled_from(["inputs", "parameters", "text", "image", "threshold", "aggregation_strategy"]), texts
)
anything = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(keys, inner, max_size=4)),
    max_leaves=9,
)
images = st.one_of(st.none(), st.binary(max_size=40).map(lambda data: base64.b64encode(data).decode()), texts)
requested = st.one_of(texts, st.fixed_dictionaries({"text": texts}, optional={"image": images}), anything)
requests = st.one_of(
    anything,
    st.fixed_dictionaries(
        {"inputs": st.one_of(requested, st.lists(requested, max_size=3))}, optional={"parameters": anything}
    ),
)


@given(request=requests)
def test_whatever_json_asks_is_answered_with_a_list_or_an_error(handler, request):
    answer = handler(request)
    if isinstance(answer, dict):
        assert list(answer) == ["error"] and answer["error"].endswith(".")
        assert not answer["error"].startswith("The server failed")
    else:
        assert isinstance(answer, list)
    json.dumps(answer, allow_nan=False)


# ------------------------------------------------------------------------------------------------------- many examples


@pytest.mark.slow
def test_all_of_this_holds_for_many_more_examples():
    command = [sys.executable, "-m", "pytest", "-q", "-m", "not slow", "--hypothesis-profile", "thorough", __file__]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout[-5000:]
