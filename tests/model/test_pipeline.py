"""The `transformers` pipeline: tweets in whatever form, entities out, the same one by one as in batches."""

import io
import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from transformers import BertConfig, BertTokenizer, pipeline
from transformers.pipelines.pt_utils import KeyDataset

from configuration_hamlearning import HamLearningConfig, HamLearningVisionConfig
from image_processing_hamlearning import ImageError
from modeling_hamlearning import HamLearningForTokenClassification
from modeling_hamlearning_vision import HamLearningVisionModel
from pipeline_hamlearning import HamLearningPipeline
from processing_hamlearning import HamLearningProcessor
from tiny_world import rounded


LETTERS = "abcdefghijklmnopqrstuvwxyz"
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *LETTERS, *(f"##{letter}" for letter in LETTERS)]
VISION = {"image_feature_size": 96, "region_feature_size": 96, "num_classes": 1}
TEXT = "Loved watching the Huskies, in Rome!"
PICTURES = [
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8))
    for seed, size in enumerate([(40, 60), (50, 20), (30, 30)])
]


def make_processor(**settings) -> HamLearningProcessor:
    return HamLearningProcessor(BertTokenizer(vocab={piece: i for i, piece in enumerate(VOCABULARY)}), **settings)


@pytest.fixture(scope="module")
def vision():
    torch.manual_seed(0)
    backbone = {"architecture": "test_resnet"}
    return HamLearningVisionModel(
        HamLearningVisionConfig(global_backbone_config=backbone, detector="grid", resize_size=72, crop_size=64)
    )


@pytest.fixture
def ner(make_model, vision):
    """A tiny network with random weights, which finds something in most tweets."""
    processor = make_processor(**VISION, max_length=64)
    processor.vision_model = vision
    return HamLearningPipeline(model=make_model(**VISION), processor=processor)


@pytest.fixture
def folder(ner, tmp_path):
    ner.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def tweets(count: int) -> list:
    """Strings, dicts without and dicts with a picture, of different lengths."""
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(TEXT.split(), rng.integers(1, 12))) for _ in range(count)]
    kinds = [str, lambda text: {"text": text}, lambda text: {"text": text, "image": PICTURES[len(text) % 3]}]
    return [kinds[i % 3](text) for i, text in enumerate(texts)]


def same(one: list[dict], other: list[dict]) -> bool:
    """Whether the entities are the same but for rounding."""
    return json.dumps(rounded(one)) == json.dumps(rounded(other))


# ------------------------------------------------------------------------------------------------------ what comes out


def test_a_text_gives_what_processor_and_model_give(ner):
    inputs = ner.processor(text=TEXT)
    [expected] = ner.processor.post_process_entities(ner.model(**inputs.to(ner.device)), inputs)
    assert expected and same(ner(TEXT), expected) and same(ner({"text": TEXT}), expected)


def test_a_picture_gives_what_processor_and_model_give(ner):
    inputs = ner.processor(text=TEXT, images=PICTURES[0])
    [expected] = ner.processor.post_process_entities(ner.model(**inputs.to(ner.device)), inputs)
    found = ner({"text": TEXT, "image": PICTURES[0]})
    assert same(found, expected) and len(found[0]["relevance"]) == 2
    assert not same(found, ner(TEXT))


@pytest.mark.parametrize("kind", ["path", "bytes", "data set"])
def test_a_picture_is_whatever_the_processor_takes(ner, kind, tmp_path):
    path = tmp_path / "picture.png"
    PICTURES[0].save(path)
    forms = {"path": str(path), "bytes": path.read_bytes(), "data set": {"bytes": path.read_bytes(), "path": None}}
    expected = ner({"text": TEXT, "image": PICTURES[0]})
    assert same(ner({"text": TEXT, "image": forms[kind]}), expected)


@pytest.mark.parametrize("text", ["", " \n"])
def test_a_text_without_words_has_no_entities(ner, text):
    assert ner(text) == ner({"text": text, "image": PICTURES[0]}) == ner(text, aggregation_strategy="none") == []


def test_none_gives_one_tag_a_word(ner):
    words = ner({"text": TEXT, "image": PICTURES[0]}, aggregation_strategy="none")
    inputs = ner.processor(text=TEXT, images=PICTURES[0])
    outputs = ner.model(**inputs.to(ner.device))
    assert [word["word"] for word in words] == inputs.words[0]
    assert [word["index"] for word in words] == list(range(1, len(words) + 1))
    assert all(TEXT[word["start"] : word["end"]] == word["word"] for word in words)
    tags = [ner.processor.tags[tag] for tag in outputs.predictions[0].tolist()]
    assert [word["entity"] for word in words] == tags
    outside = [word for word in words if word["entity"] == "O"]
    assert all(word["score"] == word["probabilities"]["O"] for word in outside)
    [relevance] = ner.processor.post_process_relevance(outputs, inputs)
    assert rounded([word["relevance"] for word in words]) == rounded([relevance] * len(words))


def test_none_gives_the_probability_of_every_tag_at_each_word(ner):
    words = ner({"text": TEXT, "image": PICTURES[0]}, aggregation_strategy="none")
    inputs = ner.processor(text=TEXT, images=PICTURES[0])
    emissions = ner.model(**inputs.to(ner.device)).logits
    mask = torch.ones(emissions.shape[:2], dtype=torch.bool)
    [marginals] = ner.model.crf.marginals(emissions, mask).tolist()
    assert [list(word["probabilities"]) for word in words] == [ner.processor.tags] * len(words)
    assert rounded([list(word["probabilities"].values()) for word in words]) == rounded(marginals)
    assert all(abs(sum(word["probabilities"].values()) - 1) < 1e-5 for word in words)


def test_words_beyond_the_length_limit_have_their_tags_too(ner):
    words = ner("word " * 40, aggregation_strategy="none")  # of four sub-tokens each; the limit is 64
    assert len(words) == 40 and all(abs(sum(word["probabilities"].values()) - 1) < 1e-5 for word in words)
    assert {word["entity"] for word in words[20:]} != {"O"}


def test_a_threshold_leaves_out_what_scores_less(ner):
    entities = ner(TEXT)
    middle = sorted(entity["score"] for entity in entities)[len(entities) // 2]
    kept = ner(TEXT, threshold=middle)
    assert kept == [entity for entity in entities if entity["score"] >= middle] and len(kept) < len(entities)
    words = ner(TEXT, threshold=middle, aggregation_strategy="none")
    assert sum(word["entity"] != "O" for word in words) == sum(e["word_end"] - e["word_start"] for e in kept)


def test_what_is_said_when_it_is_made_holds_until_a_call_says_otherwise(ner):
    strict = HamLearningPipeline(model=ner.model, processor=ner.processor, threshold=1.0)
    assert strict(TEXT) == [] and strict(TEXT, threshold=0.0) == ner(TEXT)


@given(text=st.text())
def test_every_entity_stands_where_it_says(text, module_ner):
    for entity in module_ner(text):
        assert text[entity["start"] : entity["end"]] == entity["word"] != ""
        assert 0 <= entity["score"] <= 1


@pytest.fixture(scope="module")
def module_ner():
    torch.manual_seed(0)
    text_config = BertConfig(
        vocab_size=100, hidden_size=32, num_hidden_layers=1, num_attention_heads=4, intermediate_size=64
    )
    config = HamLearningConfig(text_config=text_config, use_vision=False)
    return HamLearningPipeline(model=HamLearningForTokenClassification(config).eval(), processor=make_processor())


# ----------------------------------------------------------------------------------------------------- several tweets


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_a_batch_gives_what_single_calls_give(ner, batch_size):
    several = tweets(64)
    singly = [ner(tweet) for tweet in several]
    together = ner(several, batch_size=batch_size)
    assert sum(map(len, singly)) > 64
    assert all(same(one, other) for one, other in zip(singly, together, strict=True))


def test_a_generator_is_read_as_it_goes(ner):
    read = []

    def source():
        for tweet in tweets(6):
            read.append(tweet)
            yield tweet

    answers = ner(source(), batch_size=2)
    first = next(iter(answers))
    assert same(first, ner(tweets(6)[0])) and len(read) < 6


def test_a_generator_gives_what_a_list_gives(ner):
    assert list(ner((tweet for tweet in tweets(5)), batch_size=2)) == ner(tweets(5), batch_size=2)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_column_of_a_data_set_gives_what_a_list_gives(ner, num_workers):
    texts = [tweet if isinstance(tweet, str) else tweet["text"] for tweet in tweets(6)]
    column = KeyDataset(Dataset.from_dict({"text": texts}), "text")
    answers = ner(column, batch_size=4, num_workers=num_workers)
    assert len(answers) == 6
    assert list(answers) == ner(texts, batch_size=4)


def test_a_column_of_tweets_with_pictures_gives_what_a_list_gives(ner):
    several = [{"text": TEXT, "image": {"bytes": encoded(picture), "path": None}} for picture in PICTURES]
    column = KeyDataset(Dataset.from_dict({"tweet": several}), "tweet")
    assert list(ner(column)) == ner(several)


def encoded(picture) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, "PNG")
    return stream.getvalue()


def columns() -> dict:
    texts = [tweet if isinstance(tweet, str) else tweet["text"] for tweet in tweets(5)]
    return {
        "tuple": tuple(texts),
        "numpy": np.array(texts),
        "pandas": pd.Series(texts),
        "arrow": pa.chunked_array([texts[:2], texts[2:]]),
        "data set": Dataset.from_dict({"text": texts})["text"],
        "rows": Dataset.from_dict({"id": [*"abcde"], "text": texts, "label": [0] * 5}),
        "records": pd.DataFrame({"text": texts, "image": [float("nan")] * 5}).to_dict("records"),
        "dict": dict.fromkeys(texts).keys(),
    }


@pytest.mark.parametrize("kind", columns())
def test_a_column_of_any_library_gives_a_list(ner, kind):
    column = columns()[kind]
    answers = ner(column, batch_size=2)
    assert isinstance(answers, list) and answers == ner(columns()["records"], batch_size=2)


def test_what_is_read_as_it_goes_may_be_any_iterator(ner):
    texts = list(columns()["tuple"])
    assert list(ner(map(str, texts), batch_size=2)) == ner(texts, batch_size=2)
    assert list(ner(iter(texts), batch_size=2)) == ner(texts, batch_size=2)


def test_a_whole_table_is_refused(ner):
    """By itself a table of pandas would give its columns' names as texts."""
    with pytest.raises(ValueError, match=r"a table of the columns \['text'\]: give one of them, as in"):
        ner(pd.DataFrame({"text": ["a"]}))


@pytest.mark.parametrize("image", [None, float("nan"), np.float32("nan"), pd.NA, pd.NaT], ids=repr)
def test_a_missing_picture_is_none(ner, image):
    assert ner({"text": TEXT, "image": image}) == ner(TEXT)


def test_other_keys_of_a_record_are_not_read(ner):
    record = {"id": 7, "text": TEXT, "image": PICTURES[0], "label": [0], "picture": "of another tool"}
    assert ner(record) == ner({"text": TEXT, "image": PICTURES[0]})


def test_words_give_what_the_processor_gives(ner):
    words = ["Loved", "New", "York", "!"]
    inputs = ner.processor(text=words, is_split_into_words=True)
    [expected] = ner.processor.post_process_entities(ner.model(**inputs.to(ner.device)), inputs)
    assert expected and same(ner(words, is_split_into_words=True), expected)
    assert same(ner([words, ["a"]], is_split_into_words=True)[0], expected)
    assert same(ner({"id": 3, "tokens": np.array(words), "ner_tags": [0] * 4}), expected)
    split = HamLearningPipeline(model=ner.model, processor=ner.processor, is_split_into_words=True)
    assert same(split(words), expected)
    with pytest.raises(ValueError, match="'Loved New' is a text, but is_split_into_words=True"):
        split("Loved New")


@pytest.mark.parametrize("word_splitting", ["punctuation", "characters"])
@pytest.mark.parametrize("delimiter", ["", " ", "--"])
def test_places_of_words_are_in_the_text_that_the_delimiter_makes(ner, monkeypatch, delimiter, word_splitting):
    monkeypatch.setattr(ner.processor, "word_splitting", word_splitting)
    words = [*TEXT.split(), "end"]
    text = delimiter.join(words)
    entities = ner(words, is_split_into_words=True, delimiter=delimiter)
    assert entities and all(text[entity["start"] : entity["end"]] == entity["word"] for entity in entities)
    each = ner(words, is_split_into_words=True, delimiter=delimiter, aggregation_strategy="none")
    assert [text[word["start"] : word["end"]] for word in each] == words


def test_without_a_delimiter_words_are_joined_as_the_script_of_the_model_is(ner, monkeypatch):
    monkeypatch.setattr(ner.processor, "word_splitting", "characters")
    each = ner(["北", "京", "Ada"], is_split_into_words=True, aggregation_strategy="none")
    assert [(word["start"], word["end"]) for word in each] == [(0, 1), (1, 2), (2, 5)]


@pytest.mark.parametrize("delimiter", ["", " ", "--"])
def test_places_of_characters_are_in_the_text_that_the_delimiter_makes(ner, monkeypatch, delimiter):
    monkeypatch.setattr(ner.processor, "word_splitting", "characters")
    words = [*"北京NBA很好"]
    text = delimiter.join(words)
    entities = ner(words, is_split_into_words=True, delimiter=delimiter)
    assert entities and all(text[entity["start"] : entity["end"]] == entity["word"] for entity in entities)
    each = ner(words, is_split_into_words=True, delimiter=delimiter, aggregation_strategy="none")
    assert [text[word["start"] : word["end"]] for word in each] == words


# ---------------------------------------------------------------------------- what callers of transformers' class send


@pytest.mark.parametrize("strategy", ["first", "average", "max"])
def test_no_word_is_cut_so_what_is_done_with_pieces_means_simple(ner, strategy):
    assert ner(TEXT, aggregation_strategy=strategy, stride=16) == ner(TEXT)


def test_labels_to_ignore_are_types_of_entities_or_tags_of_words(ner):
    entities = ner(TEXT)
    first = entities[0]["entity_group"]
    kept = [entity for entity in entities if entity["entity_group"] != first]
    assert ner(TEXT, ignore_labels=[first]) == ner(TEXT, ignore_labels=["O", first], aggregation_strategy="max")
    assert ner(TEXT, ignore_labels=first, aggregation_strategy="simple") == kept
    words = ner(TEXT, aggregation_strategy="none")
    named = [word for word in words if word["entity"] != "O"]
    assert ner(TEXT, aggregation_strategy="none", ignore_labels=["O"]) == named


def test_to_ignore_no_label_asks_for_words_as_in_transformers(ner):
    assert ner(TEXT, ignore_labels=[]) == ner(TEXT, aggregation_strategy="none")
    assert ner(TEXT, ignore_labels=[], aggregation_strategy="simple") == ner(TEXT)
    assert ner(TEXT, ignore_labels=["O"]) == ner(TEXT)


@pytest.mark.parametrize("strategy", ["simple", "none"])
def test_what_comes_out_is_of_plain_numbers(ner, strategy):
    for found in ner({"text": TEXT, "image": PICTURES[0]}, aggregation_strategy=strategy):
        assert {type(found[name]) for name in ("start", "end")} == {int} and type(found["score"]) is float


def test_no_tweets_give_no_answers(ner):
    assert ner([]) == []
    assert list(ner(tweet for tweet in ())) == []


# ------------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    "tweet, message",
    [
        (17, "17 is no tweet: give a string, or a dict with `text`"),
        (b"a", "b'a' is no tweet: give a string, or a dict"),
        ({"image": "game.jpg"}, "{'image': 'str'} is no tweet: give `text`, a string, or `tokens`"),
        ({"text": ["a"]}, "{'text': 'list'} is no tweet: give `text`, a string"),
        ({"text": float("nan")}, "{'text': 'float'} is no tweet: give `text`, a string"),
        ({"tokens": ["a", 3]}, "{'tokens': 'list'} is no tweet: give `text`, a string, or `tokens`"),
        ({"tokens": "a b"}, "{'tokens': 'str'} is no tweet"),
        ({"text": "a", "picture": "b"}, "has no `image`, but 'picture', which is not read: call the picture `image`"),
    ],
)
def test_what_is_no_tweet_is_refused(ner, tweet, message):
    with pytest.raises(ValueError, match=message.replace("{", r"\{")):
        ner(tweet)


def test_of_several_tweets_the_message_names_the_one(ner):
    with pytest.raises(ImageError, match="tweet 2: 'gone.jpg' is neither a file"):
        ner(["a", "b", {"text": "c", "image": "gone.jpg"}], batch_size=2)
    with pytest.raises(ValueError, match="tweet 1: 5 is no tweet"):
        list(ner(tweet for tweet in ("a", 5)))


@pytest.mark.parametrize(
    "setting, message",
    [
        ({"aggregation_strategy": "last"}, "aggregation_strategy='last': must be 'none' or 'simple', which 'first'"),
        ({"ignore_labels": 3}, "ignore_labels=3: must be a list of types or tags"),
        ({"stride": -1}, "stride=-1: must be a whole number; it is not needed"),
        ({"delimiter": 3}, "delimiter=3: must be a string"),
        ({"threshold": 1.5}, "threshold=1.5: must be a probability"),
        ({"threshold": float("nan")}, "threshold=nan: must be a probability"),
        ({"threshold": "0.5"}, "threshold='0.5': must be a probability"),
        ({"threshold": True}, "threshold=True: must be a probability"),
        ({"max_pixels": 0}, "max_pixels=0: must be a whole number, at least 1"),
        ({"max_pixels": "10"}, "max_pixels='10': must be a whole number"),
    ],
)
def test_settings_out_of_range_are_refused(ner, setting, message):
    with pytest.raises(ValueError, match=message):
        ner(TEXT, **setting)


def test_an_unknown_setting_is_refused(ner):
    with pytest.raises(TypeError, match="top_k"):
        ner(TEXT, top_k=3)


def test_a_picture_of_too_many_pixels_is_refused(ner):
    with pytest.raises(ImageError, match="60 x 40 pixels, the limit is 100"):
        ner({"text": TEXT, "image": PICTURES[0]}, max_pixels=100)


def test_a_model_of_text_alone_refuses_a_picture(make_model):
    blind = HamLearningPipeline(model=make_model(use_vision=False), processor=make_processor())
    assert blind({"text": TEXT, "image": None}) == blind(TEXT)
    with pytest.raises(ValueError, match="trained on text alone and reads no pictures"):
        blind({"text": TEXT, "image": PICTURES[0]})


# ---------------------------------------------------------------------------------------------------- saved and loaded


@pytest.mark.parametrize("task", [[], ["token-classification"]], ids=str)
def test_the_pipeline_function_finds_it(ner, folder, task):
    loaded = pipeline(*task, model=str(folder), trust_remote_code=True)
    assert type(loaded).__name__ == "HamLearningPipeline" and loaded.task == "token-classification"
    tweet = {"text": TEXT, "image": PICTURES[0]}
    assert same(loaded(tweet), ner(tweet))


def test_a_pipeline_that_was_loaded_can_be_saved_again(ner, folder, tmp_path):
    pipeline(model=str(folder), trust_remote_code=True).save_pretrained(tmp_path / "again")
    assert same(pipeline(model=str(tmp_path / "again"), trust_remote_code=True)(TEXT), ner(TEXT))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_loads_find_nearly_the_same(ner, folder, dtype):
    half = pipeline(model=str(folder), trust_remote_code=True, dtype=dtype)
    assert half.model.dtype == dtype and half.model.crf.transitions.dtype == torch.float32
    several = tweets(30)
    tags = [
        [word["entity"] for words in one(several, aggregation_strategy="none", batch_size=8) for word in words]
        for one in (ner, half)
    ]
    agreement = np.mean([one == other for one, other in zip(*tags, strict=True)])
    assert agreement > 0.9


def test_a_processor_of_other_tags_than_the_model_s_is_refused(make_model, ner):
    with pytest.raises(
        ValueError, match=r"The processor has the tags \['O'\], the model \['O', 'B-PER'.* saved together"
    ):
        HamLearningPipeline(model=ner.model, processor=make_processor(tags=["O"]))


def test_without_trust_the_pipeline_says_what_is_missing(folder):
    with pytest.raises(ValueError, match="trust_remote_code=True"):
        pipeline("token-classification", model=str(folder), trust_remote_code=False)
