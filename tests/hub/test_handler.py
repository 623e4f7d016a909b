"""The endpoint's handler: JSON in, JSON out, whatever a client sends."""

import base64
import io
import json
import logging
import os
import subprocess
import sys
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import orjson
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image
from transformers import BertConfig, BertTokenizer

from configuration_hamlearning import HamLearningConfig, HamLearningVisionConfig
from conftest import ROOT
from hub_server import stranger
from modeling_hamlearning import HamLearningForTokenClassification
from modeling_hamlearning_vision import HamLearningVisionModel
from pipeline_hamlearning import HamLearningPipeline
from processing_hamlearning import HamLearningProcessor
from serving_hamlearning import EndpointHandler
from tiny_world import rounded


sys.path.append(str(ROOT / "benchmarks"))
import hostile
import load
import memory


LETTERS = "abcdefghijklmnopqrstuvwxyz"
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *LETTERS, *(f"##{letter}" for letter in LETTERS)]
VISION = {"image_feature_size": 96, "region_feature_size": 96, "num_classes": 1}
TEXT = "Loved watching the Huskies, in Rome!"
LIMITS = {
    "max_text_length": 10_000,
    "max_image_bytes": 10 * 2**20,
    "max_total_image_bytes": 64 * 2**20,
    "max_pixels": 25_000_000,
    "max_tweets": 64,
    "batch_size": 8,
}


def encoded(picture: Image.Image, format: str = "PNG") -> bytes:
    stream = io.BytesIO()
    picture.save(stream, format)
    return stream.getvalue()


PICTURE = encoded(Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)))
BASE64 = base64.b64encode(PICTURE).decode()
NO_BASE64 = (
    "which is no base64: give the base64 of a picture's file, bare or behind data:image/png;base64, "
    "(no URL and no path)."
)


def make_model(**fields) -> HamLearningForTokenClassification:
    torch.manual_seed(0)
    text_config = BertConfig(
        vocab_size=100, hidden_size=32, num_hidden_layers=1, num_attention_heads=4, intermediate_size=64
    )
    return HamLearningForTokenClassification(HamLearningConfig(text_config=text_config, **fields)).eval()


def make_processor(**settings) -> HamLearningProcessor:
    return HamLearningProcessor(BertTokenizer(vocab={piece: i for i, piece in enumerate(VOCABULARY)}), **settings)


@pytest.fixture(scope="module")
def ner():
    """A tiny network with random weights, which finds something in most tweets."""
    processor = make_processor(**VISION, max_length=64)
    torch.manual_seed(0)
    backbone = {"architecture": "test_resnet"}
    processor.vision_model = HamLearningVisionModel(
        HamLearningVisionConfig(global_backbone_config=backbone, detector="grid", resize_size=72, crop_size=64)
    )
    model = make_model(**VISION, class_embedding_size=6, num_semantic_layers=1)
    return HamLearningPipeline(model=model, processor=processor)


@pytest.fixture(scope="module")
def folder(ner, tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("repo") / "model"
    ner.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def handler(folder):
    return EndpointHandler(folder)


def post(handler, body):
    """The answer to a body that came as JSON, as it arrives as JSON."""
    return json.loads(json.dumps(handler(json.loads(json.dumps(body))), allow_nan=False))


def ask(handler, inputs, **parameters):
    return post(handler, {"inputs": inputs, "parameters": parameters})


# ---------------------------------------------------------------------------------------------------------- the answer


def test_a_text_gives_what_the_pipeline_gives(handler, ner):
    expected = rounded(ner(TEXT))
    assert expected
    assert rounded(post(handler, {"inputs": TEXT})) == rounded(ask(handler, {"text": TEXT})) == expected


@pytest.mark.parametrize("inputs", [TEXT, {"text": TEXT}, [TEXT], [{"text": TEXT, "image": None}]], ids=str)
def test_parameters_may_be_null_or_missing(handler, inputs):
    without = post(handler, {"inputs": inputs})
    assert without == post(handler, {"inputs": inputs, "parameters": None})
    assert without == ask(handler, inputs, threshold=None, aggregation_strategy=None)


@pytest.mark.parametrize("prefix", ["", "data:image/png;base64,", "DATA:image/jpeg;charset=x;BASE64,"])
def test_a_picture_gives_what_the_pipeline_gives(handler, ner, prefix):
    found = ask(handler, {"text": TEXT, "image": prefix + BASE64})
    assert rounded(found) == rounded(ner({"text": TEXT, "image": PICTURE}))
    assert len(found[0]["relevance"]) == 2


def test_base64_may_come_in_lines(handler):
    lines = base64.encodebytes(PICTURE).decode().replace("\n", "\r\n")
    assert ask(handler, {"text": TEXT, "image": lines}) == ask(handler, {"text": TEXT, "image": BASE64})


def test_a_list_gives_a_list_of_what_single_tweets_give(handler):
    tweets = [TEXT, {"text": "in Rome"}, {"text": TEXT, "image": None}, {"text": TEXT, "image": BASE64}, ""] * 4
    answers = ask(handler, tweets)
    assert len(answers) == 20 and any(answers)
    assert rounded(answers) == rounded([ask(handler, tweet) for tweet in tweets])


def test_a_list_of_one_gives_a_list_of_one(handler):
    assert ask(handler, [TEXT]) == [ask(handler, TEXT)]


def test_an_empty_list_gives_an_empty_list(handler):
    assert ask(handler, []) == []


def test_an_empty_text_has_no_entities(handler):
    assert ask(handler, "") == ask(handler, {"text": "", "image": BASE64}) == []


def test_parameters_do_what_they_do_in_the_pipeline(handler, ner):
    middle = sorted(entity["score"] for entity in ner(TEXT))[1]
    for parameters in ({"threshold": middle}, {"aggregation_strategy": "none"}, {"threshold": 1}):
        assert rounded(ask(handler, TEXT, **parameters)) == rounded(ner(TEXT, **parameters))
    assert 0 < len(ask(handler, TEXT, threshold=middle)) < len(ask(handler, TEXT))


def test_a_text_may_hold_nul_and_lone_surrogates(handler):
    text = "Loved \0 and \ud800 in\udfff Rome"
    words = ask(handler, text, aggregation_strategy="none")
    assert words and all(text[word["start"] : word["end"]] == word["word"] for word in words)


# --------------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    "body, error",
    [
        (None, 'the request is null or missing: give {"inputs": ..., "parameters": ...}.'),
        ([TEXT], 'the request is a list of 1: give {"inputs": ..., "parameters": ...}.'),
        (TEXT, f'the request is {TEXT!r}: give {{"inputs": ..., "parameters": ...}}.'),
        ({}, 'inputs is null or missing: give {"text": ..., "image": ...}.'),
        (
            {"inputs": TEXT, "options": {}},
            'the request has the unknown key \'options\': give {"inputs": ..., "parameters": ...}.',
        ),
        ({"inputs": TEXT, "parameters": [1]}, "parameters is a list of 1: give "),
        (
            {"inputs": TEXT, "parameters": {"top_k": 1}},
            'parameters has the unknown key \'top_k\': give {"aggregation_strategy": ..., "threshold": ..., ',
        ),
    ],
)
def test_a_request_of_another_form_is_refused(handler, body, error):
    answer = post(handler, body)
    assert list(answer) == ["error"] and answer["error"].startswith(error)


@pytest.mark.parametrize(
    "inputs, error",
    [
        (5, 'inputs is 5: give {"text": ..., "image": ...}.'),
        (True, "inputs is true: give "),
        (10**400, f"inputs is 1{'0' * 39}: give "),
        (10**4000, "inputs is a number of more than 3,000 digits: give "),
        ([TEXT, [TEXT]], 'inputs[1] is a list of 1: give {"text": ..., "image": ...}.'),
        ([TEXT, None], "inputs[1] is null or missing: give "),
        ({"text": TEXT, "picture": BASE64}, "inputs has no image, but 'picture': call the picture image."),
        ({"tokens": ["a", 1]}, "inputs.text is null or missing: give a string."),
        ({"tokens": ["a" * 5000] * 3}, "inputs.tokens has 15002 characters, the limit is 10000."),
        ({"image": BASE64}, "inputs.text is null or missing: give a string."),
        ([{"text": 1.5}], "inputs[0].text is 1.5: give a string."),
        ({"text": ["a", "b"]}, "inputs.text is a list of 2: give a string."),
        ({"text": {"a": "b"}}, "inputs.text is an object of 1: give a string."),
    ],
)
def test_what_is_no_tweet_is_refused(handler, inputs, error):
    assert ask(handler, inputs)["error"].startswith(error)


@pytest.mark.parametrize(
    "image, error",
    [
        (7, "inputs[1].image is 7: give the base64 of a picture's file"),
        ([BASE64], "inputs[1].image is a list of 1: give the base64"),
        (False, "inputs[1].image is false: give the base64"),
        ("game.jpg", f"inputs[1].image is 'game.jpg', {NO_BASE64}"),
        (f"{BASE64}!", f"inputs[1].image is {BASE64[:40]!r}... ({len(BASE64) + 1} characters), {NO_BASE64}"),
        (f"{BASE64[:80]}=={BASE64[80:]}", f"inputs[1].image is {BASE64[:40]!r}... ({len(BASE64) + 2} characters)"),
        ("QUJ", f"inputs[1].image is 'QUJ', {NO_BASE64}"),
        ("-_-_", f"inputs[1].image is '-_-_', {NO_BASE64}"),
        ("ééé\ud800", f"inputs[1].image is 'ééé\\ud800', {NO_BASE64}"),
        ("QUJD\0QUJ", f"inputs[1].image is 'QUJD\\x00QUJ', {NO_BASE64}"),
        (f"a data:image/png;base64,{BASE64}", "inputs[1].image is 'a data:image/png;base64,"),
        (f"data:image/png,{BASE64}", f"inputs[1].image is 'data:image/png,{BASE64[:25]}'..."),
        ("", "inputs[1].image: the picture given as bytes is empty"),
        ("QUJD", "inputs[1].image: the picture given as bytes is no JPEG, PNG, GIF, WebP"),
        (BASE64[:200], "inputs[1].image: the picture given as bytes cannot be decoded ("),
    ],
)
def test_what_is_no_picture_is_refused(handler, image, error):
    assert ask(handler, [TEXT, {"text": TEXT, "image": image}, TEXT])["error"].startswith(error)


@pytest.mark.parametrize("image", [None, float("nan")])
def test_other_keys_of_a_record_are_not_read(handler, image):
    record = {"text": TEXT, "image": image, "id": 7, "url": "http://127.0.0.1/", "x" * 99: [1]}
    assert post(handler, {"inputs": record}) == post(handler, {"inputs": TEXT})


def test_words_give_what_the_pipeline_gives(handler, ner):
    words = ["Loved", "watching", "Rome!"]
    expected = rounded(ner(words, is_split_into_words=True))
    assert expected and rounded(ask(handler, {"tokens": words})) == expected
    assert rounded(ask(handler, words, is_split_into_words=True)) == expected
    assert rounded(ask(handler, [words, "a"], is_split_into_words=True)[0]) == expected


@pytest.mark.parametrize(
    "parameters",
    [
        {"aggregation_strategy": "average", "stride": 16, "ignore_labels": ["O"]},
        {"aggregation_strategy": "simple", "ignore_labels": []},
        {"ignore_labels": []},
        {"ignore_labels": ["PER", "LOC"]},
        {"aggregation_strategy": "none", "ignore_labels": ["O"]},
    ],
    ids=str,
)
def test_what_callers_of_other_models_send_is_answered_as_by_the_pipeline(handler, ner, parameters):
    assert rounded(ask(handler, TEXT, **parameters)) == rounded(ner(TEXT, **parameters))


@pytest.mark.parametrize(
    "parameters, error",
    [
        ({"ignore_labels": "O"}, "parameters.ignore_labels is 'O': give a list of types or tags"),
        ({"ignore_labels": [1]}, "parameters.ignore_labels is a list of 1: give a list of types or tags"),
        ({"stride": "16"}, "parameters.stride is '16': give a whole number"),
        ({"is_split_into_words": 1}, "parameters.is_split_into_words is 1: give true."),
    ],
)
def test_such_parameters_of_another_kind_are_refused(handler, parameters, error):
    assert ask(handler, TEXT, **parameters)["error"].startswith(error)


@pytest.mark.parametrize("strategy", ["last", "", 1, True, [], {}])
def test_an_unknown_strategy_is_refused(handler, strategy):
    error = ask(handler, TEXT, aggregation_strategy=strategy)["error"]
    assert error.startswith("parameters.aggregation_strategy is ") and error.endswith(': give "simple" or "none".')


@pytest.mark.parametrize("threshold", [-0.1, 1.01, float("nan"), float("inf"), 10**400, 10**4000, "0.5", True, [0.5]])
def test_a_threshold_that_is_no_probability_is_refused(handler, threshold):
    error = ask(handler, TEXT, threshold=threshold)["error"]
    assert error.startswith("parameters.threshold is ") and error.endswith(": give a number from 0 to 1.")
    assert len(error) < 120


@pytest.fixture(scope="module")
def blind_folders(tmp_path_factory, ner):
    """A model of text alone beside a vision model, and one that learned from a visual feature file and has none."""
    pipelines = {
        "text alone": HamLearningPipeline(model=make_model(use_vision=False), processor=ner.processor),
        "features": HamLearningPipeline(model=ner.model, processor=make_processor()),
    }
    folders = {name: tmp_path_factory.mktemp("blind") / "model" for name in pipelines}
    for name, folder in folders.items():
        pipelines[name].save_pretrained(folder)
    return folders


@pytest.mark.parametrize("name", ["text alone", "features"])
def test_a_model_without_vision_model_answers_texts_and_refuses_pictures(blind_folders, name):
    blind = EndpointHandler(str(blind_folders[name]))
    assert isinstance(ask(blind, {"text": TEXT, "image": None}), list)
    error = "inputs.image: this model takes text alone and reads no pictures: leave it out."
    assert ask(blind, {"text": TEXT, "image": BASE64}) == {"error": error}


# -------------------------------------------------------------------------------------------- nothing else is opened


@pytest.fixture
def web():
    """A server on loopback that has a picture for whoever asks: its address, and the list of what was asked."""
    asked = []

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(PICTURE)

        def log_message(self, *args):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_port}/", asked
        server.shutdown()


@pytest.mark.parametrize("form", ["http://{}game.png", " HTTP://{}game.png", "//{}game.png", "{}game.png"])
def test_no_url_is_opened(handler, web, form):
    address, asked = web
    url = form.format(address)
    assert ask(handler, {"text": TEXT, "image": url}) == {"error": f"inputs.image is {url!r}, {NO_BASE64}"}
    assert isinstance(ask(handler, url), list)
    assert asked == []


def test_no_file_of_a_picture_is_opened(handler, tmp_path, monkeypatch):
    (tmp_path / "pictures").write_bytes(PICTURE)  # a path that is base64 too
    monkeypatch.chdir(tmp_path)
    error = ask(handler, {"text": TEXT, "image": "pictures"})["error"]
    assert error.startswith("inputs.image: the picture given as bytes is no JPEG")
    for path in (tmp_path / "pictures", (tmp_path / "pictures").as_uri(), "./pictures", f"data:;base64,{tmp_path}"):
        assert NO_BASE64 in ask(handler, {"text": TEXT, "image": str(path)})["error"]


@pytest.mark.parametrize("path", ["/etc/passwd", "file:///etc/passwd", "../../../../../etc/passwd", "/dev/stdin"])
def test_no_file_of_the_server_shows_in_a_message(handler, path):
    error = ask(handler, {"text": TEXT, "image": path})["error"]
    assert error == f"inputs.image is {path!r}, {NO_BASE64}"


def test_a_form_that_names_bytes_and_a_path_is_refused(handler):
    error = ask(handler, {"text": TEXT, "image": {"bytes": None, "path": "/etc/passwd"}})["error"]
    assert error.startswith("inputs.image is an object of 2: give the base64")


# -------------------------------------------------------------------------------------------------------------- limits


def too_much(limits: dict[str, int]) -> dict[str, tuple]:
    """For each limit: inputs that reach it, inputs that exceed it, the error."""
    length, pixels = limits["max_text_length"], Image.new("L", (limits["max_pixels"] + 1, 1))
    fits = Image.new("L", (limits["max_pixels"], 1))
    full = encoded(fits, "BMP").ljust(limits["max_image_bytes"], b"\0")
    rest = encoded(Image.new("L", (1, 1)), "BMP").ljust(limits["max_total_image_bytes"] - len(full), b"\0")
    return {
        "max_text_length": (
            "a" * length,
            "a" * (length + 1),
            f"inputs.text has {length + 1} characters, the limit is {length}.",
        ),
        "max_image_bytes": (
            {"text": "a", "image": base64.encodebytes(full).decode()},
            {"text": "a", "image": base64.b64encode(full + b"\0").decode()},
            f"inputs.image has {len(full) + 1} bytes, the limit is {len(full)}: save it smaller, or as JPEG.",
        ),
        "max_total_image_bytes": (
            [{"text": "a", "image": base64.b64encode(part).decode()} for part in (full, rest)],
            [{"text": "a", "image": base64.b64encode(part).decode()} for part in (full, rest + b"\0")] + ["a"],
            f"the pictures up to inputs[1].image have {limits['max_total_image_bytes'] + 1} bytes, "
            f"the limit of a request is {limits['max_total_image_bytes']}: send several requests.",
        ),
        "max_pixels": (
            {"text": "a", "image": base64.b64encode(encoded(fits)).decode()},
            {"text": "a", "image": base64.b64encode(encoded(pixels)).decode()},
            f"inputs.image: the picture given as bytes has {limits['max_pixels'] + 1} x 1 pixels, "
            f"the limit is {limits['max_pixels']} in all: make it smaller.",
        ),
        "max_tweets": (
            ["a"] * limits["max_tweets"],
            ["a"] * (limits["max_tweets"] + 1),
            f"inputs has {limits['max_tweets'] + 1} tweets, the limit is {limits['max_tweets']}: "
            "send several requests.",
        ),
    }


SMALL = {
    "max_text_length": 20,
    "max_image_bytes": 1300,
    "max_total_image_bytes": 2500,
    "max_pixels": 100,
    "max_tweets": 3,
    "batch_size": 2,
}
# An argument that the environment overrides must not count.
LARGE = {name: 1 for name in SMALL}


@pytest.fixture(scope="module", params=["arguments", "environment"])
def limited(request, folder):
    if request.param == "arguments":
        return EndpointHandler(folder, **SMALL)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in SMALL.items():
            patch.setenv(f"HAMLEARNING_{name.upper()}", str(value))
        return EndpointHandler(folder, **LARGE)


@pytest.mark.parametrize("name", list(too_much(SMALL)))
def test_a_limit_holds_to_the_last_unit(limited, name):
    reaches, exceeds, error = too_much(SMALL)[name]
    assert isinstance(ask(limited, reaches), list)
    assert ask(limited, exceeds) == {"error": error}


def test_the_batch_size_changes_no_answer(limited, handler):
    assert limited.batch_size == 2
    assert rounded(ask(limited, ["in Rome", "a", "Huskies"])) == rounded(ask(handler, ["in Rome", "a", "Huskies"]))


def test_large_pictures_go_through_the_network_in_smaller_batches(folder, monkeypatch):
    handler = EndpointHandler(folder, max_pixels=6_000, batch_size=4)
    large = {"text": TEXT, "image": base64.b64encode(encoded(Image.new("L", (100, 40)))).decode()}
    tweets = [large, TEXT, large, large, *[TEXT] * 4, large, large, large]
    one_by_one = [ask(handler, tweet) for tweet in tweets]
    forward, sizes = handler.ner.forward, []
    monkeypatch.setattr(
        handler.ner, "forward", lambda batch, **options: sizes.append(len(batch)) or forward(batch, **options)
    )
    assert rounded(ask(handler, tweets)) == rounded(one_by_one)
    assert sizes == [3, 4, 3, 1]


def test_a_list_of_the_largest_pictures_needs_the_memory_of_a_few(handler):
    side = 5_000
    assert side * side == handler.max_pixels
    picture = base64.b64encode(encoded(Image.new("RGB", (side, side)), "JPEG")).decode()
    body = {"inputs": [{"text": TEXT, "image": picture}] * 8}
    memory.reset_resident_peak()
    before = memory.resident_bytes()
    assert len(handler(body)) == 8
    assert memory.resident_bytes(peak=True) - before < 5 * 3 * side * side


def test_pictures_that_wait_for_their_turn_stay_base64(handler):
    picture = encoded(Image.new("RGB", (1, 1)), "BMP").ljust(2_000_000, b"\0")
    body = {"inputs": [{"text": "a", "image": base64.b64encode(picture).decode()} for _ in range(32)]}
    memory.reset_resident_peak()
    before = memory.resident_bytes()
    assert len(handler(body)) == 32
    assert memory.resident_bytes(peak=True) - before < 32 * len(picture) / 2


def test_the_defaults_are_the_documented_ones(handler):
    assert {name: getattr(handler, name) for name in LIMITS} == LIMITS


@pytest.mark.parametrize("name", LIMITS)
@pytest.mark.parametrize("value", ["0", "-1", "", "many", "1.5", "1e3"])
def test_a_limit_that_is_none_fails_at_start(name, value, monkeypatch):
    variable = f"HAMLEARNING_{name.upper()}"
    with pytest.raises(ValueError, match=f"^{name}={value!r}: must be a whole number, at least 1.$"):
        EndpointHandler("no such folder", **{name: value})
    monkeypatch.setenv(variable, value)
    with pytest.raises(ValueError, match=f"^{variable}={value!r}: must be a whole number, at least 1.$"):
        EndpointHandler("no such folder")


def chunk(kind: bytes, data: bytes) -> bytes:
    return len(data).to_bytes(4) + kind + data + zlib.crc32(kind + data).to_bytes(4)


def test_a_decompression_bomb_is_refused_before_it_goes_off(handler):
    side = (50_000).to_bytes(4)
    header = chunk(b"IHDR", side + side + b"\x08\x02\0\0\0")
    bomb = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(10**6))) + chunk(b"IEND", b"")
    start = time.process_time()
    error = ask(handler, {"text": TEXT, "image": base64.b64encode(bomb).decode()})["error"]
    assert error.endswith("has 50000 x 50000 pixels, the limit is 25000000 in all: make it smaller.")
    assert time.process_time() - start < 1


@pytest.mark.parametrize(
    "inputs",
    [
        "a" * 10**7,
        {"text": "a", "image": "A" * 2 * 10**7},
        {"text": "a", "image": "data:" + ";" * 10**7},
        {"text": "a", "image": "A \n" * 10**6},
        {"text": "a", "image": "http://" + "é" * 10**7},
        [[]] * 10**6,
        {str(number): number for number in range(10**6)},
    ],
    ids=["text", "base64", "data URL", "lines", "URL", "list", "object"],
)
def test_ten_million_characters_are_answered_within_a_second(handler, inputs):
    start = time.process_time()
    answer = handler({"inputs": inputs})
    assert time.process_time() - start < 1
    assert len(answer["error"]) < 300


# ---------------------------------------------------------------------------------------------------- what means harm


@pytest.fixture
def unharmed(handler):
    """`unharmed(body)`: the answer, which took few seconds and 256 MiB; the next request is served too."""

    def answer(body, seconds=1):
        memory.reset_resident_peak()
        before, start = memory.resident_bytes(), time.process_time()
        answer = handler(body)
        assert time.process_time() - start < seconds  # of this process: the machine may be busy with others
        assert memory.resident_bytes(peak=True) - before < 2**28
        assert "The server failed" not in str(answer)
        assert isinstance(ask(handler, TEXT), list)
        return answer

    return answer


@pytest.mark.parametrize("name", hostile.REFUSED_PICTURES)
def test_a_file_that_means_harm_is_refused_and_harms_nothing(unharmed, name):
    picture = base64.b64encode(hostile.REFUSED_PICTURES[name]()).decode()
    error = unharmed({"inputs": {"text": TEXT, "image": picture}})["error"]
    assert error.startswith("inputs.image: the picture given as bytes ") and len(error) < 300


@pytest.mark.parametrize("name", hostile.ANSWERED_PICTURES)
def test_an_odd_picture_is_answered_and_harms_nothing(unharmed, name):
    picture = base64.b64encode(hostile.ANSWERED_PICTURES[name]()).decode()
    [first, *_] = unharmed({"inputs": {"text": TEXT, "image": picture}})
    assert len(first["relevance"]) == 2


@pytest.mark.parametrize("name", hostile.REFUSED_BODIES)
def test_a_body_that_means_harm_is_refused_by_the_server_or_the_handler(unharmed, name):
    try:
        body = orjson.loads(hostile.REFUSED_BODIES[name]())  # as an endpoint does it
    except orjson.JSONDecodeError:
        return
    assert len(unharmed(body)["error"]) < 300


@pytest.mark.parametrize("name", hostile.ANSWERED_TEXTS)
def test_an_odd_text_is_answered_and_harms_nothing(unharmed, name):
    text = hostile.ANSWERED_TEXTS[name]
    # All 10,000 words of the longest are read.
    words = unharmed({"inputs": text, "parameters": {"aggregation_strategy": "none"}}, seconds=10)
    assert all(text[word["start"] : word["end"]] == word["word"] for word in words)


@pytest.mark.slow
def test_64_texts_of_10000_characters_are_answered_in_a_second_each(handler):
    texts = list(hostile.ANSWERED_TEXTS.values())
    start = time.process_time()
    assert len(handler({"inputs": (texts * 10)[:64]})) == 64
    assert time.process_time() - start < 64


# -------------------------------------------------------------------------------------------------- whatever comes in


CHARACTERS = st.characters(exclude_categories=())  # lone surrogates too
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(CHARACTERS)
JSON = st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text(CHARACTERS), inner), max_leaves=8)
TEXTS = st.text(CHARACTERS) | st.text("AHR aehl.@#")
IMAGES = st.none() | st.sampled_from([BASE64, "data:image/png;base64," + BASE64, BASE64[:300]]) | TEXTS
TWEETS = TEXTS | st.fixed_dictionaries({"text": TEXTS}, optional={"image": IMAGES}) | JSON
PARAMETERS = st.fixed_dictionaries(
    {},
    optional={
        "aggregation_strategy": st.sampled_from(["simple", "none"]) | JSON,
        "threshold": st.floats(0, 1) | JSON,
    },
)
REQUESTS = st.fixed_dictionaries(
    {"inputs": TWEETS | st.lists(TWEETS, max_size=4)}, optional={"parameters": PARAMETERS | JSON}
)


@given(data=REQUESTS | JSON)
@example(data={"inputs": [TEXT, {"text": TEXT, "image": BASE64}], "parameters": {"aggregation_strategy": "none"}})
def test_whatever_comes_in_json_goes_out(data, handler):
    answer = handler(data)
    assert json.loads(json.dumps(answer, allow_nan=False)) == answer
    if isinstance(answer, dict):
        assert list(answer) == ["error"] and "The server failed" not in answer["error"]
        assert len(answer["error"]) < 400 and "\n" not in answer["error"]
        return
    several = isinstance(data["inputs"], list)
    tweets, answers = (data["inputs"], answer) if several else ([data["inputs"]], [answer])
    for tweet, entities in zip(tweets, answers, strict=True):
        text = tweet if isinstance(tweet, str) else tweet["text"]
        assert all(text[entity["start"] : entity["end"]] == entity["word"] != "" for entity in entities)


def test_a_picture_in_place_of_json_is_refused(handler):
    answer = handler({"inputs": Image.open(io.BytesIO(PICTURE))})  # an endpoint decodes bodies of the type image/png
    assert answer == {"error": 'inputs is PngImageFile: give {"text": ..., "image": ...}.'}


def test_the_request_stays_as_it_came(handler):
    data = {"inputs": [TEXT, {"text": TEXT, "image": BASE64}], "parameters": {"threshold": None}}
    before = json.dumps(data)
    handler(data)
    assert json.dumps(data) == before


# ---------------------------------------------------------------------------------------------------------- the server


def test_a_fault_of_the_server_is_logged_and_the_next_request_is_served(folder, caplog):
    handler = EndpointHandler(folder)
    # The vision model is lost: what fails then is a ValueError too, as with a broken picture, but not the client's.
    handler.ner.processor.vision_source = handler.ner.processor._vision_model = None
    with caplog.at_level(logging.ERROR):
        answer = ask(handler, {"text": TEXT, "image": BASE64})
    assert answer == {"error": "The server failed on this request, its log says why: try again, or with fewer tweets."}
    assert "Traceback" in caplog.text and "This processor has no vision model" in caplog.text
    assert isinstance(ask(handler, TEXT), list)


def test_what_a_client_did_wrong_fills_no_log(handler, caplog):
    with caplog.at_level(logging.INFO):
        ask(handler, {"text": TEXT, "image": BASE64[:200]})
    assert caplog.text == ""


def test_the_vision_model_is_loaded_before_the_first_request(folder):
    assert EndpointHandler(folder).ner.processor._vision_model is not None


def test_a_repo_without_its_vision_model_fails_at_start(ner, tmp_path):
    ner.save_pretrained(tmp_path / "model")
    (tmp_path / "model" / "vision" / "model.safetensors").unlink()
    with pytest.raises(OSError, match="model.safetensors"):
        EndpointHandler(str(tmp_path / "model"))


def test_requests_at_once_give_what_single_ones_give(handler):
    requests = [[f"{TEXT} {number}", {"text": f"{number} in Rome", "image": BASE64}] for number in range(8)]
    expected = [rounded(ask(handler, inputs)) for inputs in requests]
    both_are_there = threading.Barrier(2)

    def client(number):
        both_are_there.wait()
        return [rounded(ask(handler, inputs)) for inputs in requests[number::2]]

    with ThreadPoolExecutor(2) as clients:
        found = list(clients.map(client, range(2)))
    assert found == [expected[0::2], expected[1::2]]


@pytest.mark.slow
def test_under_load_the_answers_are_those_of_single_requests(tmp_path):
    load.save_tiny_model(tmp_path / "model")
    [figures], _ = load.measure("handler", str(tmp_path / "model"), [(16, 10.0)], threads=8, seed=1)
    assert (figures["wrong"], figures["errors"]) == (0, 0), figures["examples"]
    assert figures["requests"] >= 16 and figures["hostile"] > 0
    assert max(figures["resident"]) - figures["resident"][0] < 2**28  # that of one picture, as of one request


def test_batches_run_one_at_a_time_and_what_is_refused_waits_for_none(handler):
    with ThreadPoolExecutor(1) as client:
        with handler.network_lock:
            waiting = client.submit(ask, handler, {"text": TEXT, "image": BASE64})
            assert "is no base64" in ask(handler, {"text": TEXT, "image": "game.jpg"})["error"]
            with pytest.raises(TimeoutError):
                waiting.result(timeout=0.5)
        assert isinstance(waiting.result(timeout=30), list)


def test_a_text_does_not_wait_for_a_picture_that_is_decoded(handler, monkeypatch):
    is_decoding, goes_on, preprocess = threading.Event(), threading.Event(), handler.ner.preprocess

    def slow(tweet, **settings):
        if tweet["image"] is not None:
            is_decoding.set()
            assert goes_on.wait(30)
        return preprocess(tweet, **settings)

    monkeypatch.setattr(handler.ner, "preprocess", slow)
    with ThreadPoolExecutor(2) as clients:
        picture = clients.submit(ask, handler, {"text": TEXT, "image": BASE64})
        assert is_decoding.wait(30)
        other = clients.submit(ask, handler, {"text": TEXT, "image": BASE64})
        try:
            assert isinstance(ask(handler, TEXT), list)
            assert not (picture.done() or other.done())
        finally:
            goes_on.set()
        assert rounded(picture.result(30)) == rounded(other.result(30))


def test_an_endpoint_loads_it_by_path_and_answers_alike(ner, folder, tmp_path):
    # As an endpoint does it: the folder goes onto the path, and the module gets the name of a package that is none.
    code = stranger("""
import importlib.util
folder, tweets = json.load(sys.stdin)
spec = importlib.util.spec_from_file_location("handler.EndpointHandler", folder + "/handler.py")
sys.path.insert(0, folder)
module = importlib.util.module_from_spec(spec)
sys.modules["handler.EndpointHandler"] = module
spec.loader.exec_module(module)
handler = module.EndpointHandler(folder)
try:
    handler({"inputs": 5})
except Exception as error:  # what serves an endpoint answers with its message then, and with status 400
    reason = str(error)
print(json.dumps([module.__file__, reason, handler({"inputs": tweets}), handler({"inputs": tweets[0]})]))
""")
    tweets = [TEXT, {"text": TEXT, "image": BASE64}]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    finished = subprocess.run(
        [sys.executable, "-c", code],
        input=json.dumps([folder, tweets]),
        cwd=tmp_path,
        env=environment | {"HF_MODULES_CACHE": str(tmp_path / "modules")},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert finished.returncode == 0, finished.stderr
    file, reason, answers, answer = json.loads(finished.stdout.splitlines()[-1])
    assert file == f"{folder}/handler.py"
    assert reason == 'inputs is 5: give {"text": ..., "image": ...}.'
    expected = [rounded(ner(TEXT)), rounded(ner({"text": TEXT, "image": PICTURE}))]
    assert rounded(answers) == expected and rounded(answer) == expected[0]
