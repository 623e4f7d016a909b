"""The three LSTM taggers: vocabulary, word vectors, characters, and LSTMs that see no padding."""

import pytest
import torch
from transformers import AutoModelForTokenClassification, AutoProcessor, BertConfig

from hamlearning.rivals.architectures import class_of
from hamlearning.rivals.lstm_taggers import BiLSTM, CharacterProcessor, WordVectorsConfig, read_word_vectors
from hamlearning.training.run import main as run_mner
from tiny_world import flags


TWEETS = [["Ann", "met", "ann", "today"], ["Met", "Bob", "today"]]
WITH_CHARACTERS = ["cnn_bilstm_crf", "hbilstm_crf"]
ALL = ["bilstm_crf", *WITH_CHARACTERS]


@pytest.fixture
def made():
    """`made("hbilstm_crf")`: a tiny tagger of some words and its processor."""

    def make(architecture, word_vectors=None, **fields):
        torch.manual_seed(0)
        fields = {"lstm_size": 8, "num_labels": 9, **fields}
        model, tokenizer, options = class_of(architecture).from_words(TWEETS, word_vectors, **fields)
        return model.eval(), model.processor_class(tokenizer, tags=model.config.tags, **options)

    return make


def logits(model, inputs):
    with torch.no_grad():
        return model(**inputs).logits


def test_its_vocabulary_is_of_words_that_occur_twice_in_small_letters(made):
    model, processor = made("bilstm_crf")
    assert sorted(processor.tokenizer.get_vocab()) == sorted(
        ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "ann", "met", "today"]
    )
    ids = processor(text=[["ANN", "met", "Zoe"]])["input_ids"][0].tolist()
    assert processor.tokenizer.convert_ids_to_tokens(ids) == ["[CLS]", "ann", "met", "[UNK]", "[SEP]"]
    assert model.config.text_config.vocab_size == 7 == len(model.model.text_model.embedding.weight)


def test_words_of_a_file_are_known_with_its_vectors(made, tmp_path):
    path = tmp_path / "vectors.txt"
    path.write_text("3 4\nRome 1 2 3 4\nann 5 6 7 8\nann 0 0 0 0\n")
    model, processor = made("bilstm_crf", str(path))
    table, ids = model.model.text_model.embedding.weight, processor.tokenizer.get_vocab()
    assert table[ids["rome"]].tolist() == [1, 2, 3, 4] and table[ids["ann"]].tolist() == [5, 6, 7, 8]
    assert table[ids["met"]].abs().max() <= 0.25 and model.config.hidden_size == 4
    assert table.requires_grad


@pytest.mark.parametrize(
    "text, problem",
    [
        ("ann 1 2\nbob 1\n", "line 2: 'bob 1"),
        ("ann 1 2\nbob 1 x\n", "line 2: 'bob 1 x"),
        ("ann 1 nan\n", "line 1: 'ann 1 nan"),
        ("ann\n", "line 1: 'ann"),
        ("", "holds no word"),
    ],
)
def test_a_file_of_no_vectors_is_refused_with_its_line(tmp_path, text, problem):
    path = tmp_path / "vectors.txt"
    path.write_text(text)
    with pytest.raises(ValueError, match=problem):
        read_word_vectors(path)


def test_a_word_of_a_file_may_have_spaces(tmp_path):
    path = tmp_path / "vectors.txt"
    path.write_text("ann 1 2\n. . . 3 4\n")
    assert read_word_vectors(path)[". . ."].tolist() == [3, 4]


def test_characters_have_their_case_and_those_that_occur_once_are_unknown(made):
    _, processor = made("hbilstm_crf")
    assert set(processor.characters) == set("ntoadye")
    inputs = processor(text=[["nB"], ["not", "Q"]])
    ids = {c: i for i, c in enumerate(processor.characters, start=2)}
    assert inputs["character_ids"].tolist() == [
        [[ids["n"], 1, 0], [0, 0, 0]],
        [[ids["n"], ids["o"], ids["t"]], [1, 0, 0]],
    ]


@pytest.mark.parametrize("architecture", WITH_CHARACTERS)
def test_words_that_nobody_knows_are_told_apart_by_their_characters(made, architecture):
    model, processor = made(architecture)
    found = logits(model, processor(text=[["mane"], ["deny"]]))
    assert (found[0] - found[1]).abs().max() > 1e-5


def test_without_characters_words_that_nobody_knows_are_one(made):
    model, processor = made("bilstm_crf")
    found = logits(model, processor(text=[["mane"], ["deny"]]))
    torch.testing.assert_close(found[0], found[1])


@pytest.mark.parametrize("architecture", ALL)
def test_longer_tweets_and_words_beside_it_change_nothing(made, architecture):
    model, processor = made(architecture)
    tweet = ["Ann", "met", "Zoe"]
    alone = logits(model, processor(text=[tweet]))
    beside = logits(model, processor(text=[tweet, ["today", "incomprehensibilities", "and", "more", "of", "it"]]))
    torch.testing.assert_close(beside[0, :3], alone[0])


@pytest.mark.parametrize("architecture", ALL)
def test_a_window_has_the_characters_of_its_own_words(made, architecture):
    model, processor = made(architecture)
    words = ["Ann", "met", "Zoe", "today", "not", "yet"]
    inputs = processor(text=[words])
    read = logits(model, inputs | {"windows": torch.tensor([[[0, 4], [2, 6]]])})
    first, second = (logits(model, processor(text=[part])) for part in (words[:4], words[2:]))
    torch.testing.assert_close(read[0], torch.cat([first[0, :3], second[0, 1:]]))


@pytest.mark.parametrize("architecture", WITH_CHARACTERS)
def test_every_parameter_has_a_gradient(made, architecture):
    model, processor = made(architecture)
    inputs = processor(text=TWEETS, word_labels=[["B-PER", "O", "B-PER", "O"], ["O", "B-PER", "O"]])
    model.train()(**inputs).loss.backward()
    assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum()] == []


def test_both_directions_are_those_of_torch():
    torch.manual_seed(0)
    ours, theirs = BiLSTM(4, 3), torch.nn.LSTM(4, 3, bidirectional=True, batch_first=True)
    weights = {f"{name}_l0": w for name, w in ours.onward.named_parameters()}
    weights = {name.removesuffix("_l0"): w for name, w in weights.items()}
    weights |= {f"{name}_reverse": w for name, w in ours.backward.named_parameters()}
    theirs.load_state_dict(weights)
    states, lengths = torch.randn(3, 5, 4), torch.tensor([5, 2, 3])
    packed = torch.nn.utils.rnn.pack_padded_sequence(states, lengths, batch_first=True, enforce_sorted=False)
    expected, (ends, _) = theirs(packed)
    expected, _ = torch.nn.utils.rnn.pad_packed_sequence(expected, batch_first=True)
    found, found_ends = ours(states, lengths)
    mask = (torch.arange(5) < lengths[:, None])[..., None]
    torch.testing.assert_close(found * mask, expected)
    torch.testing.assert_close(found_ends, torch.cat([*ends], dim=-1))


def test_a_tweet_and_a_word_without_anything_are_no_trouble(made):
    for architecture in ALL:
        model, processor = made(architecture)
        assert logits(model, processor(text=[["", "ann"], []])).isfinite().all()


@pytest.mark.parametrize(
    "fields, problem",
    [
        ({"use_vision": True}, "use_vision=True: HBiLSTMCRFConfig is of a tagger that reads words alone"),
        ({"lstm_size": 0}, "lstm_size=0: must be at least 1"),
        ({"character_size": 0}, "character_size=0: must be at least 1"),
        ({"text_config": BertConfig()}, "text_config is of the type 'bert': HBiLSTMCRFConfig is of a tagger without"),
    ],
)
def test_a_config_that_cannot_be_is_refused(fields, problem):
    with pytest.raises(ValueError, match=problem):
        class_of("hbilstm_crf").config_class(**{"text_config": WordVectorsConfig(), **fields})


def test_a_run_learns_from_words_and_a_file_of_vectors(world, tmp_path):
    vectors = tmp_path / "vectors.txt"
    vectors.write_text("ann 0.5 -0.5 0.1\nrome -0.5 0.5 0.2\n")
    settings = {
        "architecture": "hbilstm_crf", "text_model": None, "num_semantic_layers": None, "word_vectors": vectors,
        "num_train_epochs": 6, "learning_rate": 2e-2,
    }  # fmt: skip
    results = run_mner(flags(world, tmp_path / "model", **settings))
    assert results["test"]["f1"] > 0.9
    assert results["starts_from"]["origin"] == "vectors.txt"
    processor = AutoProcessor.from_pretrained(tmp_path / "model", trust_remote_code=True)
    assert type(processor).__name__ == CharacterProcessor.__name__ and processor.characters
    model = AutoModelForTokenClassification.from_pretrained(tmp_path / "model", trust_remote_code=True)
    inputs = processor(text="flying to rome with ann bob !")
    entities = processor.post_process_entities(model.eval()(**inputs), inputs)
    assert [entity["word"] for entity in entities[0]] == ["rome", "ann bob"]


@pytest.mark.parametrize(
    "settings, problem",
    [
        ({"architecture": "bilstm_crf"}, "--text_model .*: bilstm_crf has no text encoder, but vectors of words"),
        ({"word_vectors": "glove.txt"}, "--word_vectors glove.txt: a new model of bilstm_crf, cnn_bilstm_crf, hbil"),
        ({"architecture": "bilstm_crf", "text_model": None, "use_vision": True}, "use_vision=True: BiLSTMCRFConfig"),
    ],
)
def test_flags_of_another_kind_of_model_are_refused(world, tmp_path, settings, problem):
    with pytest.raises(ValueError, match=problem):
        run_mner(flags(world, tmp_path / "model", num_semantic_layers=None, **settings))
