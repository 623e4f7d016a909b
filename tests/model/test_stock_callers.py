"""What callers get that were made for any token classifier: whole words and the model's own path, or one sentence."""

import itertools
import logging

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertTokenizer, PreTrainedTokenizerFast, TokenClassificationPipeline, pipeline

import modeling_hamlearning
from marks_hamlearning import BEGINS, ENDS, NO_WORD, pack_marks, unpack_marks
from pipeline_hamlearning import HamLearningPipeline
from processing_hamlearning import HamLearningProcessor
from words_hamlearning import entity_spans


LETTERS = "abcdefghijklmnopqrstuvwxyz"
MARKS = ".,!?:;#@'-_/()&"
VOCABULARY = [
    *("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"),
    *LETTERS,
    *(f"##{letter}" for letter in LETTERS),
    *MARKS,
]
TEXTS = [
    "Loved watching the Huskies, in Rome!",
    "@nasa is live: #artemis don't miss o'neil (so good)",
    "a",
    "jjb xxq zz, kkb-ff gg: aab",
    "so   many\tspaces , and a \U0001f600",
]


def make_processor(**settings) -> HamLearningProcessor:
    return HamLearningProcessor(BertTokenizer(vocab={piece: i for i, piece in enumerate(VOCABULARY)}), **settings)


@pytest.fixture
def processor():
    return make_processor(max_length=100)


@pytest.fixture
def model(make_model, processor):
    """A tiny network with random weights, which finds something in most tweets, with its tokenizer's marks."""
    model = make_model(use_vision=False)
    torch.nn.init.normal_(model.classifier.weight, std=1.0, generator=torch.Generator().manual_seed(1))
    torch.nn.init.normal_(model.crf.transitions, generator=torch.Generator().manual_seed(2))
    model.config.word_marks = processor.word_marks()
    return model


@pytest.fixture
def stock(model, processor):
    return TokenClassificationPipeline(model=model, tokenizer=processor.tokenizer)


@pytest.fixture
def ner(model, processor):
    return HamLearningPipeline(model=model, processor=processor)


def spans(entities: list[dict]) -> list[tuple]:
    return [(entity["entity_group"], entity["start"], entity["end"]) for entity in entities]


def random_texts(count: int) -> list[str]:
    rng = np.random.default_rng(0)
    return ["".join(rng.choice([*LETTERS, *" " * 8, *MARKS], rng.integers(3, 60))) for _ in range(count)]


@pytest.fixture
def warned(caplog, monkeypatch):
    """What the model has warned of, each thing once."""
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    modeling_hamlearning.logger.warning_once.cache_clear()
    return lambda: [record.message for record in caplog.records if "word_ids" in record.message]


# --------------------------------------------------------------------------------------- transformers' own pipeline


@pytest.mark.parametrize("strategy", ["simple", "first", "max"])
def test_the_stock_class_finds_what_the_own_one_finds(stock, ner, strategy):
    for text in [*TEXTS, *random_texts(40)]:
        assert spans(stock(text, aggregation_strategy=strategy)) == spans(ner(text)), text


def test_entities_of_a_type_side_by_side_stay_two_where_pieces_are_averaged(stock, ner, model):
    """Of a model that is sure: else transformers' mean over B-X and I-X of a word can be below that of a third tag."""
    with torch.no_grad():
        model.classifier.weight *= 3000
    texts, side_by_side = 0, 0
    for text in random_texts(60):
        words = ner(text, aggregation_strategy="none")
        if all(max(word["probabilities"].values()) > 0.8 for word in words):
            texts += 1
            side_by_side += sum(
                one["entity"][2:] == other["entity"][2:] and other["entity"][0] == "B" and len(other["word"]) > 1
                for one, other in itertools.pairwise(words)
            )
            assert spans(stock(text, aggregation_strategy="average")) == spans(ner(text))
    assert texts > 20 and side_by_side > 2


def test_without_aggregation_every_sub_token_has_the_tag_of_its_word(stock, ner):
    for text in TEXTS:
        tags = {}  # of each word, by where it starts
        for word in ner(text, aggregation_strategy="none"):
            further = range(word["start"] + 1, word["end"])
            tags |= {word["start"]: word["entity"], **dict.fromkeys(further, word["entity"].replace("B-", "I-"))}
        pieces = stock(text, ignore_labels=[])
        assert len(pieces) > 0 and all(piece["entity"] == tags[piece["start"]] for piece in pieces)


def test_its_scores_are_the_probabilities_of_the_tags(stock, ner):
    [words] = ner([TEXTS[0]], aggregation_strategy="none")
    probabilities = {word["start"]: word["probabilities"] for word in words}
    pieces = [piece for piece in stock(TEXTS[0], ignore_labels=[]) if piece["start"] in probabilities]
    assert len(pieces) == len(words)
    for piece in pieces:
        at_word = probabilities[piece["start"]]
        is_likeliest = at_word[piece["entity"]] == max(at_word.values())
        # Where another tag is likelier at this word alone, the path's is lifted over it.
        assert piece["score"] == pytest.approx(at_word[piece["entity"]], abs=1e-4) or not is_likeliest


def test_a_batch_gives_what_single_texts_give(stock):
    together = stock(TEXTS, aggregation_strategy="simple", batch_size=5)
    assert [spans(found) for found in together] == [
        spans(stock(text, aggregation_strategy="simple")) for text in TEXTS
    ]


def test_words_that_were_split_before_are_read_as_they_are(stock, ner):
    words = ["loved", "watching", "the", "huskies", "in", "rome"]
    [found] = stock(words, is_split_into_words=True, aggregation_strategy="simple")
    assert spans(found) == spans(ner(words, is_split_into_words=True))


@pytest.mark.parametrize("task", ["ner", "token-classification", None])
def test_every_name_of_the_task_gives_the_own_class(ner, tmp_path, task):
    ner.save_pretrained(tmp_path / "model")
    loaded = pipeline(task, model=str(tmp_path / "model"), trust_remote_code=True)
    assert type(loaded).__name__ == "HamLearningPipeline"
    assert spans(loaded(TEXTS[0])) == spans(ner(TEXTS[0]))


def test_a_task_that_is_none_of_its_own_is_not_found(model):
    assert "fill-mask" not in model.config.custom_pipelines
    with pytest.raises(KeyError):
        model.config.custom_pipelines["fill-mask"]


def test_a_saved_folder_serves_the_stock_class(ner, tmp_path):
    """The marks are in the config, also of a model that was made without them."""
    ner.model.config.word_marks = None
    ner.save_pretrained(tmp_path)
    ner.processor.tokenizer.save_pretrained(tmp_path)
    stock = pipeline(
        "ner", model=str(tmp_path), trust_remote_code=True, pipeline_class=TokenClassificationPipeline
    )  # fmt: skip
    assert type(stock) is TokenClassificationPipeline
    assert spans(stock(TEXTS[0], aggregation_strategy="simple")) == spans(ner(TEXTS[0])) != []


# ------------------------------------------------------------------------------------------------- what forward gives


def test_words_are_found_as_the_processor_finds_them(model, processor):
    for text in TEXTS:
        inputs = processor(text=text)
        found = model._find_words(inputs["input_ids"], inputs["attention_mask"])
        assert found.tolist() == inputs["word_ids"].tolist()


def test_predictions_of_sub_tokens_make_the_same_entities(model, processor):
    inputs = processor(text=TEXTS)
    by_words = model(**inputs)
    word_ids = inputs.pop("word_ids")
    by_pieces = model(**inputs)
    assert by_pieces.logits.shape[:2] == by_pieces.predictions.shape == word_ids.shape
    tags = model.config.tags
    for row, (words, pieces) in enumerate(zip(by_words.predictions, by_pieces.predictions, strict=True)):
        of_words = entity_spans([tags[tag] for tag in words if tag != -100])
        kept = pieces != -100
        owner = word_ids[row][kept] - 1
        found = entity_spans([tags[tag] for tag in pieces[kept]])
        assert [(type_, int(owner[first]), int(owner[end - 1]) + 1) for type_, first, end in found] == of_words
        assert (by_pieces.logits[row].argmax(-1) == pieces)[kept].all()
        torch.testing.assert_close(by_pieces.scores[row].sum(), by_words.scores[row].sum())


def test_the_probabilities_of_sub_tokens_are_those_of_their_words(model, processor):
    inputs = processor(text=TEXTS)
    by_words = model(**inputs, output_probabilities=True).probabilities
    word_ids = inputs.pop("word_ids")
    by_pieces = model(**inputs, output_probabilities=True).probabilities
    for row, column in (word_ids > 0).nonzero().tolist():
        torch.testing.assert_close(by_pieces[row, column], by_words[row, word_ids[row, column] - 1])
    assert (by_pieces[word_ids <= 0] == 0).all()


def test_a_text_that_begins_within_a_word_begins_with_one(model, processor):
    """As what transformers makes of a long text does, where a `stride` is given."""
    ids = processor.tokenizer.convert_tokens_to_ids(["[CLS]", "##b", "##c", "a", "[SEP]", "[PAD]"])
    assert model._find_words(torch.tensor([ids]), None).tolist() == [[0, 1, 1, 2, -1, -1]]


def test_an_id_beyond_the_marks_is_a_word(model):
    model.config.word_marks = {"is_exact": True, "pieces": pack_marks([NO_WORD, BEGINS])}
    assert model._find_words(torch.tensor([[0, 1, 7, 9]]), None).tolist() == [[0, 1, 2, 3]]


# ----------------------------------------------------------------------------------------------------------- training


def labelled(model, processor, label_all: bool = False) -> tuple[dict, dict]:
    """The same labels a word, with `word_ids`, and a sub-token, without."""
    inputs = processor(text=TEXTS)
    generator = torch.Generator().manual_seed(0)
    of_words = torch.full((len(TEXTS), int(inputs["word_ids"].max())), -100)
    for row, words in enumerate(inputs.words):
        of_words[row, : len(words)] = torch.randint(9, (len(words),), generator=generator)
    word_ids = inputs["word_ids"]
    is_word = word_ids > 0
    if not label_all:
        is_word = is_word & (word_ids != torch.nn.functional.pad(word_ids[:, :-1], (1, 0), value=-1))
    of_pieces = torch.where(is_word, of_words.gather(1, (word_ids - 1).clamp(min=0)), -100)
    text = {name: inputs[name] for name in ("input_ids", "attention_mask")}
    return {**text, "word_ids": word_ids, "labels": of_words}, {**text, "labels": of_pieces}


@pytest.mark.parametrize("label_all", [False, True])
@pytest.mark.parametrize("is_training", [False, True])
def test_loss_and_gradients_are_those_of_the_words(model, processor, label_all, is_training):
    gradients = []
    for batch in labelled(model, processor, label_all):
        model.train(is_training)
        model.zero_grad()
        loss = model(**batch).loss
        loss.backward()
        gradients.append([loss, *(p.grad.clone() for p in model.parameters() if p.grad is not None)])
    assert len(gradients[0]) > 10
    torch.testing.assert_close(*gradients)


def test_in_training_the_logits_are_the_emissions_of_the_words(model, processor):
    by_words, by_pieces = labelled(model, processor)
    model.train()
    emissions, spread = model(**by_words).logits, model(**by_pieces).logits
    for row, column in (by_words["word_ids"] > 0).nonzero().tolist():
        word = by_words["word_ids"][row, column] - 1
        torch.testing.assert_close(spread[row, column], emissions[row, word])


def test_a_label_within_a_word_that_is_not_the_word_s_is_refused(model, processor):
    """A tokenizer that glues words loses labels otherwise, and nobody sees it."""
    ids = processor.tokenizer.convert_tokens_to_ids(["[CLS]", "a", "##b", "[SEP]"])
    with pytest.raises(ValueError, match="has a label of its own: tokenize words with add_prefix_space=True"):
        model(input_ids=torch.tensor([ids]), labels=torch.tensor([[-100, 1, 5, -100]]))
    with pytest.raises(ValueError, match="has a label of its own"):
        model(input_ids=torch.tensor([ids]), labels=torch.tensor([[-100, -100, 5, -100]]))


# ------------------------------------------------------------------------------------------------ what is not known


def test_exact_marks_are_used_without_a_word(stock, warned):
    stock(TEXTS[0])
    assert warned() == []


def test_without_marks_one_warning_says_what_to_do(stock, ner, warned):
    stock.model.config.word_marks = None
    stock(TEXTS[0])
    stock(TEXTS[1])
    assert len(warned()) == 1 and "pipeline(model=..., trust_remote_code=True)" in warned()[0]
    ner(TEXTS[0])  # which gives word_ids
    assert len(warned()) == 1


def test_a_splitting_that_the_marks_do_not_tell_warns(stock, warned):
    stock.model.config.word_marks = make_processor(word_splitting="tweet").word_marks()
    stock(TEXTS[1])
    assert len(warned()) == 1 and "which do not tell them all" in warned()[0]


def test_marks_that_are_none_are_refused(model, processor):
    for pieces in ("?", "", "aGFsbG8="):
        model.config.word_marks = {"is_exact": True, "pieces": pieces}
        with pytest.raises(ValueError, match="word_marks: pieces="):
            model(input_ids=torch.tensor([[2, 5, 3]]))
    with pytest.raises(ValueError, match=r"must be what `processor.word_marks\(\)` returns"):
        type(model.config)(word_marks={"pieces": ""})


# ----------------------------------------------------------------------------------------------- marks of tokenizers


def fast(model, pre_tokenizer) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.post_processor = processors.BertProcessing(("</s>", 2), ("<s>", 1))
    names = {"bos_token": "<s>", "eos_token": "</s>", "cls_token": "<s>", "sep_token": "</s>"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", pad_token="<pad>", **names)


SPECIAL = ("<pad>", "<s>", "</s>", "<unk>")


@pytest.mark.parametrize(
    "space, make",
    [
        (
            "\u2581",
            lambda pieces: fast(
                models.Unigram([(piece, -1.0) for piece in pieces], unk_id=3), pre_tokenizers.Metaspace()
            ),
        ),
        (
            "\u0120",
            lambda pieces: fast(
                models.BPE({piece: i for i, piece in enumerate(pieces)}, [], unk_token="<unk>"),
                pre_tokenizers.ByteLevel(),
            ),
        ),
    ],
    ids=["SentencePiece", "byte-level"],
)
def test_a_mark_of_the_space_begins_a_word_and_punctuation_stands_alone(space, make):
    pieces = [*SPECIAL, *LETTERS, *(space + letter for letter in LETTERS), ",", "'s", space]
    marks = HamLearningProcessor(make(pieces)).word_marks()
    assert not marks["is_exact"]
    found = dict(zip(pieces, unpack_marks(marks["pieces"]), strict=True))
    assert [found[piece] for piece in SPECIAL] == [NO_WORD, NO_WORD, NO_WORD, 0]
    assert (found["a"], found[f"{space}a"], found[space]) == (0, BEGINS, BEGINS)
    assert (found[","], found["'s"]) == (BEGINS | ENDS, BEGINS)


def test_a_tokenizer_without_marks_has_none():
    pieces = {piece: i for i, piece in enumerate([*SPECIAL, *LETTERS])}
    tokenizer = fast(models.WordLevel(pieces, unk_token="<unk>"), pre_tokenizers.Whitespace())
    assert HamLearningProcessor(tokenizer).word_marks() is None


def test_wordpiece_marks_are_exact_for_punctuation_alone(processor):
    assert processor.word_marks()["is_exact"]
    assert not make_processor(word_splitting="tweet").word_marks()["is_exact"]
