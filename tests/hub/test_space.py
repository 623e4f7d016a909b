"""The Gradio Space: `python app.py` as the Hub starts it, and what a visitor's browser shows of it."""

import ast
import asyncio
import functools
import importlib.util
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import tomllib
import urllib.error
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from transformers import (
    AutoModelForTokenClassification,
    AutoProcessor,
    BertConfig,
    BertTokenizer,
    pipeline,
)

import serving_hamlearning
from configuration_hamlearning import HamLearningConfig
from conftest import ROOT
from hub_server import HubServer
from modeling_hamlearning import HamLearningForTokenClassification
from processing_hamlearning import HamLearningProcessor


sys.path.append(str(ROOT / "benchmarks"))
import hostile
import load


SPACE = ROOT / "space"
EXAMPLES = SPACE / "examples"
AUSTIN = "good morning from me and Austin, oh the car!"
SECONDS = 120  # for an answer, on a machine that is busy


# -------------------------------------------------------------------------------------------------- the Space's folder


@pytest.fixture(scope="module")
def card():
    _, front_matter, _ = (SPACE / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    return yaml.safe_load(front_matter)


def bounds(requirements) -> dict[str, str]:
    """Name to lower bound of requirements such as "torch>=2.14.1,<3"."""
    return dict(re.match(r"([\w-]+)>=([\d.]+)", requirement).groups() for requirement in requirements)


@pytest.fixture(scope="module")
def project_bounds():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    dev = [requirement for requirement in project["optional-dependencies"]["dev"] if ">=" in requirement]
    return bounds(project["dependencies"] + dev)


def test_the_card_holds_what_the_hub_asks_of_a_space(card):
    colours = {"red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray"}
    assert {card["colorFrom"], card["colorTo"]} <= colours
    assert len(card["short_description"]) <= 60
    assert (card["sdk"], card["license"]) == ("gradio", "apache-2.0")
    assert (SPACE / card["app_file"]).is_file()


def test_the_space_asks_for_the_versions_that_the_project_was_tested_with(card, project_bounds):
    lines = (SPACE / "requirements.txt").read_text(encoding="utf-8").splitlines()
    wanted = bounds(line for line in lines if not line.startswith("#"))
    assert wanted | {"gradio": card["sdk_version"]} == {name: project_bounds[name] for name in [*wanted, "gradio"]}


def test_the_app_imports_nothing_of_the_repository():
    tree = ast.parse((SPACE / "app.py").read_text(encoding="utf-8"))
    imported = {
        name.split(".")[0]
        for node in ast.walk(tree)
        for name in (
            [node.module] if isinstance(node, ast.ImportFrom) else [a.name for a in getattr(node, "names", [])]
        )
    }
    assert "transformers" in imported
    assert not imported & {path.stem for path in ROOT.glob("*.py")}


# -------------------------------------------------------------------------------------------------- what the page says


@pytest.fixture(scope="module")
def app():
    """The module `app.py`; nothing is loaded or started by importing it."""
    pytest.importorskip("gradio", reason="needs gradio: pip install -e '.[dev]'")
    spec = importlib.util.spec_from_file_location("space_app", SPACE / "app.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def make_reading(app):
    """`make_reading(text, with_picture, without)`: names and types as read with a picture and without one."""

    def make(text, entities, entities_without=None, num_windows=1):
        words = [(m.group(), m.span()) for m in re.finditer(r"\S+", text)]

        def found(types):
            return [
                {"entity_group": kind, "word": name, "start": text.index(name), "end": text.index(name) + len(name)}
                | {"score": 0.75}
                for name, kind in types.items()
            ]

        has_picture = entities_without is not None
        return app.Reading(
            text=text,
            words=[word for word, _ in words],
            offsets=[span for _, span in words],
            num_windows=num_windows,
            entities=found(entities),
            entities_without=found(entities_without) if has_picture else None,
            relevance=[0.5, 0.25] if has_picture else None,
            picture=Image.new("RGB", (40, 20)) if has_picture else None,
            row={"boxes": np.array([[0.5, 0.5, 0.5, 0.25]]), "class_ids": [1], "scores": [0.5]}
            if has_picture
            else None,
        )

    return make


@pytest.mark.parametrize(
    ("with_picture", "without", "sentence"),
    [
        ({"Austin": "LOC"}, {"Austin": "PER"}, "The picture changed this: Austin: person → location."),
        ({"Austin": "LOC"}, {}, "The picture changed this: Austin: no name → location."),
        ({}, {"Austin": "ORG"}, "The picture changed this: Austin: organisation → no name."),
        (
            {"Austin": "LOC", "Bob": "MISC"},
            {"Austin": "PER", "Bob": "PER"},
            "The picture changed this: Bob: person → other; Austin: person → location.",
        ),
        ({"Austin": "LOC", "Bob": "PER"}, {"Austin": "LOC", "Bob": "PER"}, "The picture changed nothing."),
        ({}, {}, "No name, with the picture or without it."),
        ({"Bob in Austin": "LOC"}, {"Austin": "LOC"}, "The picture changed this: Bob in Austin: no name → location; "
         "Austin: location → no name."),
        ({"Austin": "EVENT"}, {"Austin": "PER"}, "The picture changed this: Austin: person → event."),
        ({"Austin": "PER"}, None, "One name, read from the words alone."),
        ({"Austin": "PER", "Bob": "PER"}, None, "2 names, read from the words alone."),
        ({}, None, "There is no name in this tweet."),
    ],
)  # fmt: skip
def test_one_sentence_says_what_the_picture_changed(app, make_reading, with_picture, without, sentence):
    reading = make_reading("hello Bob in Austin today", with_picture, without)
    assert app.say_changes(reading).replace("\u00a0", " ") == sentence


def test_of_a_text_beyond_the_limit_it_says_that_it_was_read_in_windows(app, make_reading):
    reading = make_reading("one two Bob " + "four five " * 1000, {"Bob": "PER"}, num_windows=25)
    assert app.say_windows(reading, 128) == (
        "The model reads 128 sub-tokens at once: the 2,003 words were read in 25 windows that overlap."
    )


def test_a_text_that_was_read_whole_is_shown_whole(app, make_reading):
    reading = make_reading("hello Bob", {"Bob": "PER"})
    assert app.say_windows(reading, 128) == ""
    assert app.highlight(reading, reading.entities) == {
        "text": "hello Bob",
        "entities": [{"entity": "person", "start": 6, "end": 9}],
    }


def test_what_the_user_wrote_cannot_become_html(app, make_reading):
    name = "<img src=x onerror=alert(1)>"
    reading = make_reading(f"hello {name}", {name: "PER"}, {})
    assert "<img" not in app.table_html(reading)
    assert "&lt;img src=x" in app.table_html(reading)


def test_only_a_certainty_is_shown_as_100_percent(app):
    assert [app.say_score(score).replace("\u00a0", " ") for score in (0.004, 0.5, 0.99, 0.9951, 1.0)] == [
        "0%", "50%", "99%", "> 99%", "> 99%",
    ]  # fmt: skip


def explained(effects, score=0.9, without=0.2, kind_without="PER", names=None):
    """An entity of the type LOC whose picture has a region an effect, one row of them from left to right."""
    width = 1 / len(effects)
    regions = [
        {
            "box": [(place + 0.5) * width, 0.25, 0.5, width],
            "class_name": "region" if names is None else names[place],
            "effect": effect,
            "entity_group": "LOC",
        }
        for place, effect in enumerate(effects)
    ]
    effect = {"with": score, "without": without, "effect": np.log(score / without), "entity_group": kind_without}
    return {"entity_group": "LOC", "word": "Austin", "start": 9, "end": 15, "score": score} | {
        "picture_effect": effect,
        "regions": regions,
    }


@pytest.mark.parametrize(
    ("entity", "sentence"),
    [
        (explained([2.0, 0.1]), "Without the picture “Austin” is read as person. Most depends on the region “top "
         "left”: with it hidden, only 12% remain."),
        (explained([0.01, 3.0], kind_without=None, names=["sun", "road"]), "Without the picture “Austin” is read as "
         "no name. Most depends on the region “road”: with it hidden, only 4% remain."),
        (explained([0.0, -0.1], without=0.5, kind_without="LOC"), "“Austin” is a location without the picture, too, "
         "but less surely. No single region decides."),
        (explained([0.0], without=0.88, kind_without="LOC"), "The picture adds little: “Austin” is a location without "
         "it, too. No single region decides."),
        (explained([0.7], kind_without="EVENT"), "Without the picture “Austin” is read as event. Most depends on the "
         "region “top centre”: with it hidden, only 45% remain."),
    ],
)  # fmt: skip
def test_a_sentence_says_what_an_entity_owes_to_the_picture(app, entity, sentence):
    assert app.say_decider(entity).replace("\u00a0", " ") == sentence


def deciders_of(app, make_reading, *entities):
    return app.deciders_html(make_reading("hello to Austin", {}, {})._replace(entities=list(entities)))


def test_a_region_is_shaded_where_its_box_lies_the_darker_the_larger_its_effect(app, make_reading):
    page = deciders_of(app, make_reading, explained([2.0, 0.5, -1.0], score=0.3, names=["road", "sun", "cat"]))
    places = re.findall(r'class="(region[^"]*)" style="left:(.*?);top:(.*?);width:(.*?);height:(.*?);', page)
    assert sorted(places, key=lambda place: place[1]) == [
        ("region", "0.00%", "0.00%", "33.33%", "50.00%"),
        ("region", "33.33%", "0.00%", "33.33%", "50.00%"),
        ("region against", "66.67%", "0.00%", "33.33%", "50.00%"),
    ]
    assert re.findall(r"/ (\d\.\d\d)\)", page) == ["0.65", "0.00", "0.16"]  # largest effects of either sign first
    assert "--shape:40/20" in page and page.count("data:image/jpeg") == 1


def test_of_a_detector_only_the_regions_with_the_largest_effects_are_shown(app, make_reading):
    effects = np.linspace(0.1, 2.0, 20).tolist()
    page = deciders_of(app, make_reading, explained(effects, names=[f"thing {n}" for n in range(20)]))
    assert re.findall(r'title="thing (\d+):', page) == [str(n) for n in range(19, 19 - app.MAX_REGIONS, -1)]
    assert deciders_of(app, make_reading, explained(effects)).count('class="region"') == 20  # fields of a grid


def test_each_name_has_its_own_regions_and_one_is_open(app, make_reading):
    page = deciders_of(app, make_reading, explained([2.0]), explained([0.1]))
    assert page.count("<details") == 2 and page.count(" open>") == 1


def test_without_a_picture_nothing_is_explained(app, make_reading):
    assert app.deciders_html(make_reading("hello Bob", {"Bob": "PER"})) == ""
    assert app.deciders_html(make_reading("hello Bob", {}, {})) == ""


def test_a_class_name_cannot_become_html(app, make_reading):
    page = deciders_of(app, make_reading, explained([2.0], names=['"><img src=x>']))
    assert "<img" not in page


@pytest.mark.parametrize("text", [5, True, ["hello"], {"text": "hello"}], ids=str)
def test_what_is_no_text_is_refused(app, text):
    with pytest.raises(app.BadInput, match=f"^The tweet is no text but {type(text).__name__}: please write one.$"):
        app.read_text(text)


def test_half_a_character_and_no_text_are_texts(app):
    assert (app.read_text("\ud83d hello"), app.read_text(None)) == ("? hello", "")


NO_UPLOADS = [
    "picture", 7, [], {}, {"path": None}, {"path": 5}, {"path": "a\0b"}, {"path": "x" * 5000}, {"path": "/etc/passwd"},
    {"path": "../../etc/passwd"}, {"path": "http://127.0.0.1/a.png"}, {"url": "http://127.0.0.1/a.png"}, {"path": ""},
]  # fmt: skip


@pytest.mark.parametrize("upload", NO_UPLOADS, ids=lambda upload: f"{upload!s:.30}")
def test_what_is_no_upload_is_refused(app, upload):
    with pytest.raises(app.BadInput, match="^The picture is not here"):
        app.read_upload(upload)


def test_an_upload_without_a_name_goes_by_that_of_its_file(app, tmp_path, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    (tmp_path / "a.png").write_bytes(b"hello")
    for more in ({}, {"orig_name": None}, {"orig_name": 5}):
        upload = app.read_upload({"path": str(tmp_path / "a.png")} | more)
        assert upload == {"bytes": b"hello", "path": "a.png"}


@pytest.mark.parametrize(
    "place", ["gradio.processing_utils.async_ssrf_protected_download", "gradio.routes.secure_url_stream_response"]
)
def test_a_gradio_that_fetches_in_another_way_makes_no_page(app, monkeypatch, place):
    monkeypatch.delattr(place)
    with pytest.raises(RuntimeError, match=f"^gradio .* has no {re.escape(place)}, .*: install the version"):
        app.build_page(reader=None)


@pytest.fixture
def uploads(app, tmp_path, monkeypatch):
    """`uploads({"a.csv": b"text..."})`: files as gradio hands them over."""
    monkeypatch.setattr(app, "get_upload_folder", lambda: str(tmp_path))

    def make(files: dict[str, bytes]):
        made = []
        for number, (name, content) in enumerate(files.items()):
            path = tmp_path / str(number) / "file"
            path.parent.mkdir()
            path.write_bytes(content)
            made.append({"path": str(path), "orig_name": name})
        return made

    return make


def test_a_csv_and_its_pictures_are_tweets(app, uploads):
    table = "\ufeffid,text,image\n1,in Rome,a.png\n,met Ann,\n3,so tired,b.png\n".encode()
    one, two, three = app.read_files(uploads({"tweets.csv": table, "a.png": b"picture"}))
    assert one == ("1", "in Rome", {"bytes": b"picture", "path": "a.png"}, "")
    assert two == ("2", "met Ann", None, "")
    assert three == ("3", "so tired", None, "b.png is not among the files: read without it.")


def test_a_csv_of_words_is_split_as_it_says(app, uploads):
    table = b'tokens\n"[""New York"", ""is""]"\nin Rome\n'
    assert [tweet.text for tweet in app.read_files(uploads({"a.csv": table}))] == [["New York", "is"], ["in", "Rome"]]


def test_text_files_and_pictures_of_the_same_name_are_tweets(app, uploads):
    one, two = app.read_files(uploads({"a.txt": b"in Rome\n", "b.txt": b"met Ann", "a.jpg": b"picture"}))
    assert one == ("a", "in Rome", {"bytes": b"picture", "path": "a.jpg"}, "")
    assert two == ("b", "met Ann", None, "")


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        ({}, "There is no file: please upload a CSV"),
        ({"a.png": b""}, "There is neither a CSV file nor a text file"),
        ({"a.csv": b"text\nhi\n", "b.csv": b"text\nhi\n"}, "Please upload one CSV alone"),
        ({"a.csv": b"words\nhi\n"}, "a.csv has the columns words and no row that can be read"),
        ({"a.csv": b""}, "a.csv has the columns  and no row"),
        ({"a.csv": b"text\n\xff\n"}, "a.csv is no text in UTF-8"),
        ({"a.csv": b"text\n" + b"hi\n" * 201}, "There are 201 tweets, the limit is 200"),
        ({"a.csv": b"text\n" + b"x" * 50_001 + b"\n"}, "Tweet 1 has 50001 characters, the limit is 50000"),
        ({"a.csv": b"text\n" + b"x" * 200_000 + b"\n"}, "a.csv cannot be read as CSV (field larger than"),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) else "",
)
def test_files_that_are_no_tweets_are_refused(app, uploads, files, sentence):
    with pytest.raises(app.BadInput, match=re.escape(sentence)):
        app.read_files(uploads(files))


@pytest.mark.parametrize("upload", [[5], [None], [{"path": "/etc/passwd"}], "a.csv", {"path": "a"}, 7], ids=str)
def test_files_that_are_no_uploads_are_refused(app, upload):
    with pytest.raises(app.BadInput):
        app.read_files(upload)


@pytest.mark.parametrize("platform", ["win32", "darwin"])
def test_where_there_is_no_glibc_memory_is_left_to_the_system(monkeypatch, platform):
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(serving_hamlearning.ctypes, "CDLL", lambda name: pytest.fail("the C library was asked for"))
    serving_hamlearning.return_large_blocks()


# ---------------------------------------------------------------------------------------------------- starting the app


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def app_environment(folder: Path, **variables) -> dict[str, str]:
    """What a Space has around it: no module of this repository, caches of its own."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HAMLEARNING_", "GRADIO_"))}
    kept.pop("PYTHONPATH", None)
    return kept | {
        "HF_HOME": str(folder / "hf"),
        "HF_HUB_OFFLINE": "1",
        "GRADIO_TEMP_DIR": str(folder / "uploads"),
        "OMP_NUM_THREADS": "1",
        **variables,
    }


@contextmanager
def running_space(folder: Path, model: Path | str, **variables):
    """The address of `app.py` on a model, started in a copy of the Space's folder.

    Its way to other machines leads to a proxy that only listens: at the end nobody may have called there.
    """
    pytest.importorskip("gradio", reason="needs gradio: pip install -e '.[dev]'")
    shutil.copytree(SPACE, folder / "space")
    port, log = free_port(), folder / "app.log"
    proxy = socket.create_server(("127.0.0.1", 0))
    proxy.settimeout(0.1)
    environment = app_environment(folder, GRADIO_SERVER_PORT=str(port), HAMLEARNING_MODEL=str(model))
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        environment[name] = f"http://127.0.0.1:{proxy.getsockname()[1]}"
    environment |= {"no_proxy": "127.0.0.1,localhost", "NO_PROXY": "127.0.0.1,localhost"} | variables
    with log.open("w") as stream:
        process = subprocess.Popen(
            [sys.executable, "app.py"], cwd=folder / "space", env=environment, stdout=stream, stderr=subprocess.STDOUT
        )
    try:
        address, end = (
            f"http://127.0.0.1:{port}",
            time.monotonic() + 600,
        )  # importing torch and gradio takes minutes on a busy machine
        while True:
            try:
                urllib.request.urlopen(f"{address}/config", timeout=5).close()
                break
            except (urllib.error.URLError, OSError):
                assert process.poll() is None and time.monotonic() < end, log.read_text()
                time.sleep(0.3)
        yield address
    finally:
        process.terminate()
        process.wait(30)
    with proxy, pytest.raises(TimeoutError):
        connection, _ = proxy.accept()
        print("the app called", connection.recv(200))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        (None, "HAMLEARNING_MODEL is not set: give the Hub id or the folder of a HamLearning model."),
        ("no/such/folder", "HAMLEARNING_MODEL='no/such/folder' cannot be loaded"),
    ],
)
def test_without_a_model_the_app_says_what_to_set(tmp_path, model, sentence):
    pytest.importorskip("gradio", reason="needs gradio: pip install -e '.[dev]'")
    environment = app_environment(tmp_path, **({} if model is None else {"HAMLEARNING_MODEL": model}))
    command = [sys.executable, str(SPACE / "app.py")]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode != 0 and sentence in done.stderr
    assert "Traceback" not in done.stderr


# ----------------------------------------------------------------------------------------------------- what means harm


@pytest.fixture(scope="module")
def tiny_address(tmp_path_factory):
    """A Space on a tiny network with random weights, and with a vision model."""
    folder = tmp_path_factory.mktemp("tiny")
    load.save_tiny_model(folder / "model")
    with running_space(folder, folder / "model") as address:
        yield address


@pytest.fixture(scope="module")
def by_hand(tiny_address):
    """`by_hand([tweet, picture])`: whether that works, the answer and the error, as gradio's own protocol has them."""
    client = load.SpaceClient(tiny_address, np.random.default_rng(0))

    def ask(request):
        async def once():
            async with client.opened() as connection:
                return await client.ask(connection, request)

        return asyncio.run(once())

    return ask


def is_served(by_hand):
    [works, [verdict, *_], _] = by_hand([AUSTIN, None])
    return works and "read from the words alone" in verdict


@pytest.mark.slow
def test_every_file_that_means_harm_is_answered_by_why_and_the_next_request_is_served(by_hand):
    for name, make in hostile.REFUSED_PICTURES.items():
        [works, [verdict, *_], _] = by_hand([AUSTIN, make()])
        assert works and "This picture does not work: " in verdict, name
    assert is_served(by_hand)


@pytest.mark.slow
def test_odd_pictures_are_read(by_hand):
    for name, make in hostile.ANSWERED_PICTURES.items():
        [works, [verdict, *_], _] = by_hand([AUSTIN, make()])
        assert works and "The picture changed" in verdict, name


@pytest.mark.slow
@pytest.mark.parametrize("request_", [[5, None], [AUSTIN, "picture"], [AUSTIN, 7], [AUSTIN, {}], [AUSTIN], {}, None])
def test_a_request_of_another_form_is_refused_and_the_next_one_is_served(by_hand, request_):
    answer = by_hand(request_)
    assert answer == [422] or not answer[0] or "verdict bad" in answer[1][0]
    assert is_served(by_hand)


@pytest.mark.slow
def test_no_address_is_opened_whatever_asks_for_it(by_hand, tiny_address):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.2)
        private = f"http://127.0.0.1:{listener.getsockname()[1]}/picture.png"
        for url in (private, "http://93.184.216.34/picture.png", "http://169.254.169.254/latest/meta-data/"):
            response = httpx.get(f"{tiny_address}/gradio_api/file={url}", timeout=SECONDS)
            assert response.status_code == 403 and "This page opens no address" in response.text
            assert httpx.get(f"{tiny_address}/gradio_api/proxy={url}", timeout=SECONDS).status_code == 400
            for form in ({"path": url}, {"url": url}, {"path": url, "is_stream": True}):
                for meta in ({}, {"meta": {"_type": "gradio.FileData"}}):
                    [works, data, _] = by_hand([AUSTIN, {**form, **meta}])
                    assert not works or "The picture is not here" in data[0]
        with pytest.raises(TimeoutError):
            listener.accept()
    assert is_served(by_hand)


@pytest.mark.slow
def test_no_file_but_an_upload_is_given_out(tiny_address):
    for path in ("/etc/passwd", "../../../../../etc/passwd", "%2Fetc%2Fpasswd", str(SPACE / "app.py")):
        assert httpx.get(f"{tiny_address}/gradio_api/file={path}", timeout=SECONDS).status_code in (403, 404)


@pytest.mark.slow
def test_a_file_beyond_the_limit_is_not_taken(tiny_address, app):
    files = {"files": ("a.png", bytes(app.MAX_BYTES + 1))}
    assert httpx.post(f"{tiny_address}/gradio_api/upload", files=files, timeout=SECONDS).status_code == 413


@pytest.mark.slow
def test_nothing_passes_by_the_queue(tiny_address):
    config = httpx.get(f"{tiny_address}/config", timeout=SECONDS).json()
    for function in config["dependencies"]:
        body = {"data": [AUSTIN, None], "fn_index": function["id"]}
        for route in ("run", "api"):
            url = f"{tiny_address}/gradio_api/{route}/predict"
            assert httpx.post(url, json=body, timeout=SECONDS).status_code == 404


def test_a_program_finds_the_names_by_the_endpoint_s_name(tiny_address):
    gradio_client = pytest.importorskip("gradio_client", reason="needs gradio_client: pip install -e '.[dev]'")
    client = gradio_client.Client(tiny_address, verbose=False)
    endpoints = list(client.view_api(return_format="dict")["named_endpoints"])
    assert endpoints == ["/find_names", "/find_names_in_files"]
    picture = gradio_client.handle_file(EXAMPLES / "austin_place.png")
    seen = client.predict(AUSTIN, picture, api_name="/find_names")
    blind = client.predict(AUSTIN, None, api_name="/find_names")
    assert seen["entities_without"] == blind["entities"] and len(seen["relevance"]) == 2
    assert blind["entities_without"] is blind["relevance"] is None
    for entity in seen["entities"] + blind["entities"]:
        assert AUSTIN[entity["start"] : entity["end"]] == entity["word"]
    with pytest.raises(gradio_client.exceptions.AppError, match="The tweet is empty: please write one"):
        client.predict(" ", None, api_name="/find_names")


@pytest.mark.slow
def test_a_program_finds_the_names_in_files_by_the_endpoint_s_name(tiny_address, tmp_path):
    gradio_client = pytest.importorskip("gradio_client", reason="needs gradio_client: pip install -e '.[dev]'")
    client = gradio_client.Client(tiny_address, verbose=False)
    (tmp_path / "tweets.csv").write_text(
        f"id,text,image\n7,{json.dumps(AUSTIN)},austin_place.png\n8,{json.dumps(AUSTIN)},\n9,in Rome,gone.png\n10,,\n"
    )
    files = [gradio_client.handle_file(path) for path in (tmp_path / "tweets.csv", EXAMPLES / "austin_place.png")]
    rows = client.predict(files, api_name="/find_names_in_files")
    for id_, picture in (("7", files[1]), ("8", None)):
        alone = client.predict(AUSTIN, picture, api_name="/find_names")["entities"]
        found = [(row["name"], row["type"], row["start"], row["end"]) for row in rows if row["id"] == id_]
        assert found == [(e["word"], e["entity_group"], e["start"], e["end"]) for e in alone]
    assert [row["error"] for row in rows if row["id"] == "9"][
        -1
    ] == "gone.png is not among the files: read without it."
    assert [row for row in rows if row["id"] == "10"] == [dict.fromkeys(rows[0], "") | {"id": "10"}]
    with pytest.raises(gradio_client.exceptions.AppError, match="neither a CSV file nor a text file"):
        client.predict(files[1:], api_name="/find_names_in_files")


@pytest.mark.slow
def test_a_new_session_for_each_request_does_not_fill_the_memory(tmp_path):
    load.save_tiny_model(tmp_path / "model")
    with load.served("space", str(tmp_path / "model"), threads=1) as (address, pid):
        client = load.SpaceClient(address, np.random.default_rng(0))

        async def ask(count):
            async with client.opened() as connection:
                for _ in range(count):
                    await client.ask(connection, ["", None])  # each in a session of its own

        asyncio.run(ask(400))
        before = load.resident_bytes(pid)
        asyncio.run(ask(600))
        assert load.resident_bytes(pid) - before < 20 * 2**20


@pytest.mark.slow
def test_under_load_the_answers_are_those_of_single_requests(tmp_path):
    load.save_tiny_model(tmp_path / "model")
    [figures], _ = load.measure("space", str(tmp_path / "model"), [(16, 10.0)], threads=1, seed=1)
    assert (figures["wrong"], figures["errors"]) == (0, 0), figures["examples"]
    assert figures["requests"] >= 16
    assert max(figures["resident"]) - figures["resident"][0] < 2**28  # that of one picture, as of one request


# --------------------------------------------------------------------------------------------------- in a real browser


@pytest.fixture(scope="module")
def model(browser, request):
    """A model of the sample, from pixels: the folder `HAMLEARNING_MODEL` if set, else one that is trained now."""
    if "HAMLEARNING_MODEL" in os.environ:
        return Path(os.environ["HAMLEARNING_MODEL"])
    return request.getfixturevalue("published_sample").folder


@pytest.fixture(scope="module")
def address(model, tmp_path_factory):
    with running_space(tmp_path_factory.mktemp("space"), model) as address:
        yield address


@pytest.fixture(scope="module")
def read(model):
    """`read(text, picture)`: entities with the picture and without it, and |C|, as the Auto classes give them."""
    processor = AutoProcessor.from_pretrained(model, trust_remote_code=True)
    network = AutoModelForTokenClassification.from_pretrained(model, trust_remote_code=True)

    @functools.cache
    def read(text, picture):
        inputs = processor(text=[text, text], images=[picture, None])
        with torch.no_grad():
            outputs = network(**inputs)
        return *processor.post_process_entities(outputs, inputs), outputs.relevance[0].abs().tolist()

    read.processor = processor
    return read


@pytest.fixture(scope="module")
def telling(app, read) -> int:
    """The example of the two about Austin whose picture changes its type: the model's guess without one decides."""
    read_twice = (read(*app.EXAMPLES[number])[:2] for number in (0, 1))
    [number] = [number for number, (seen, blind) in enumerate(read_twice) if names(app, seen) != names(app, blind)]
    return number


HIGHLIGHTED = """() => [...document.querySelectorAll('[data-testid="highlighted-text"]')]
    .filter(column => column.checkVisibility())
    .map(column => [...column.querySelectorAll(".token.highlighted")].map(token =>
        [token.querySelector(".text").innerText, token.querySelector(".label").textContent]))"""
TABLE = """() => [...document.querySelectorAll("#answer table tr")].slice(1)
    .map(row => [...row.querySelectorAll("th, td")].map(cell => cell.innerText.replaceAll("\\u00a0", " ")))"""


class Visit:
    """A visitor of the page: what one does there, and what one sees."""

    def __init__(self, page, address):
        self.page = page
        self.address = address
        page.goto(address)
        self.button = page.get_by_role("button", name="Find the names")
        self.button.wait_for()

    def read(self, text, picture=None):
        """Fills in the form and presses the button."""
        self.page.get_by_role("textbox", name="Tweet").fill(text)
        if picture is not None:
            self.upload(picture)
        self.button.click()
        return self

    def upload(self, picture):
        if self.page.get_by_label("Remove Image").is_visible():
            self.page.get_by_label("Remove Image").click()
        self.page.locator("#form input[type=file]").set_input_files(picture)
        self.page.locator("#form img").wait_for(state="attached")

    def example(self, number):
        self.page.get_by_test_id(f"dataset-cell-{number}-0").click()
        return self

    def says(self, sentence) -> str:
        """The sentence above all answers, once it holds `sentence`."""
        verdict = self.page.locator(".verdict", has_text=sentence)
        verdict.wait_for(timeout=SECONDS * 1000)
        return verdict.inner_text().replace("\u00a0", " ")

    def shows(self, look, expected):
        """What `look` sees is as expected, at once or soon: the page changes one part after the other.

        So `look` must see all of it in one moment: what one step finds may be gone before the next step asks for it.
        """
        end = time.monotonic() + SECONDS
        while look() != expected and time.monotonic() < end:
            self.page.wait_for_timeout(100)
        assert look() == expected

    def highlighted(self) -> list[list[tuple[str, str]]]:
        """(text, type) of what is marked: with the picture, and if there is one without it."""
        return [[tuple(token) for token in column] for column in self.page.evaluate(HIGHLIGHTED)]

    def table(self) -> list[list[str]]:
        return self.page.evaluate(TABLE)

    def width(self) -> int:
        return self.page.evaluate("document.documentElement.scrollWidth")


@pytest.fixture
def open_page(browser):
    """`open_page(address, width, height)`: a visit. At the end nothing may have been asked of another machine."""
    visits, asked = [], []

    def open_page(address, width=1280, height=900):
        context = browser.new_context(viewport={"width": width, "height": height}, color_scheme="light")
        context.set_default_timeout(SECONDS * 1000)
        visits.append(context)
        context.on("request", lambda request: asked.append(request.url))
        return Visit(context.new_page(), address)

    yield open_page
    for context in visits:
        context.close()
    assert asked
    local = re.compile(r"(https?|ws)://(127\.0\.0\.1|localhost)[:/]|data:|blob:")
    assert [url for url in asked if not local.match(url)] == []


@pytest.fixture
def visit(open_page, address):
    return open_page(address)


def names(app, entities) -> list[tuple[str, str]]:
    return [(entity["word"], app.type_name(entity)) for entity in entities]


@pytest.mark.slow
def test_the_entities_are_those_of_the_model_with_the_picture_and_without(visit, app, read, telling):
    picture = app.EXAMPLES[telling][1]
    seen, blind, _ = read(AUSTIN, picture)
    visit.read(AUSTIN, picture).says("The picture changed")
    visit.shows(visit.highlighted, [names(app, seen), names(app, blind)])
    cells = [f"{app.type_name(e)} {app.say_score(e['score'])}".replace("\u00a0", " ") for e in (*seen, *blind)]
    visit.shows(visit.table, [["Austin", *cells]])


@pytest.mark.slow
def test_two_pictures_give_the_same_tweet_different_types(visit):
    for number, kind in ((0, "location"), (1, "person")):
        visit.example(number)
        visit.shows(lambda: visit.highlighted()[:1], [[("Austin", kind)]])  # noqa: B023 (called at once)


@pytest.mark.slow
def test_an_example_fills_in_the_form(visit, app, telling):
    visit.example(telling).says("The picture changed this: Austin")
    assert visit.page.get_by_label("Tweet").input_value() == AUSTIN
    assert Path(app.EXAMPLES[telling][1]).name in visit.page.locator("#form img").get_attribute("src")


@pytest.mark.slow
def test_a_picture_that_does_not_belong_to_the_tweet_changes_nothing(visit):
    visit.example(3).says("The picture changed nothing.")
    visit.shows(visit.highlighted, [[("Georgia", "location")]] * 2)


@pytest.mark.slow
def test_the_relevance_is_that_of_the_model_a_view(visit, app, read):
    visit.example(0).says("The picture changed")
    *_, relevance = read(*app.EXAMPLES[0])
    texts = ("semantic view (what is there)", "spatial view (where it is)")
    expected = [f"{text}\n{value:.2f}" for text, value in zip(texts, relevance, strict=True)]
    visit.shows(visit.page.locator(".card:not(.deciders) > .view").all_inner_texts, expected)


@pytest.mark.slow
def test_the_regions_lie_on_the_picture(visit):
    visit.example(0).says("The picture changed")
    regions = visit.page.locator("#answer .seen .region")
    visit.shows(regions.count, 15)
    seen = visit.page.locator("#answer .seen").bounding_box()
    boxes = [regions.nth(place).bounding_box() for place in range(15)]
    assert abs(seen["width"] / seen["height"] - 4 / 3) < 0.02
    for box in boxes:
        assert abs(box["width"] * 5 - seen["width"]) < 2 and abs(box["height"] * 3 - seen["height"]) < 2
    assert {round(5 * (box["x"] - seen["x"]) / seen["width"]) for box in boxes} == set(range(5))
    assert {round(3 * (box["y"] - seen["y"]) / seen["height"]) for box in boxes} == set(range(3))


@pytest.mark.slow
def test_the_bars_are_the_probability_with_the_picture_and_without(visit, app, telling, model):
    visit.example(telling).says("The picture changed")
    ner = pipeline(model=str(model), trust_remote_code=True)
    [entity] = ner({"text": AUSTIN, "image": app.EXAMPLES[telling][1]}, explain=True)
    kind = app.type_name(entity)
    expected = [
        f"{kind}, {side}\n{app.say_score(entity['picture_effect'][key])}".replace("\u00a0", " ")
        for side, key in (("with the picture", "with"), ("without it", "without"))
    ]
    bars = visit.page.locator(".deciders .view")
    visit.shows(lambda: [text.replace("\u00a0", " ") for text in bars.all_inner_texts()], expected)
    sentence = app.say_decider(entity).replace("\u00a0", " ")
    assert visit.page.locator(".deciders details p").inner_text().replace("\u00a0", " ") == sentence


@pytest.mark.slow
def test_text_alone_is_read_without_columns_for_a_picture(visit, app, read):
    visit.read("had lunch with Maria Lopez at Lake Geneva").says("2 names, read from the words alone.")
    visit.shows(visit.highlighted, [[("Maria Lopez", "person"), ("Lake Geneva", "location")]])
    visit.shows(lambda: [len(row) for row in visit.table()], [2, 2])
    assert not visit.page.locator("#answer .seen").filter(visible=True).count()
    assert not visit.page.locator(".view").filter(visible=True).count()


def works(visit):
    """The next request after whatever came before is answered."""
    visit.example(3).says("The picture changed nothing.")
    visit.shows(lambda: len(visit.highlighted()), 2)


@pytest.mark.slow
@pytest.mark.parametrize("text", ["", " \n "], ids=["empty", "blank"])
def test_an_empty_form_is_answered_by_what_to_do(visit, text):
    visit.example(0).says("The picture changed")
    visit.read(text).says("The tweet is empty: please write one")
    visit.shows(visit.highlighted, [])  # no answer to an earlier question stays
    works(visit)


@pytest.mark.slow
def test_5000_words_are_read_in_windows_and_it_says_so(visit, read):
    text = " ".join(f"hello{number}" for number in range(5000))
    count = read.processor(text=text).num_windows[0]
    sentence = visit.read(text).says("windows that overlap")
    assert f"the 5,000 words were read in {count} windows" in sentence
    works(visit)


@pytest.mark.slow
def test_a_text_beyond_the_limit_is_refused(visit, app):
    visit.read("x" * (app.MAX_CHARACTERS + 1)).says("The tweet has 50001 characters, the limit is 50000")
    works(visit)


def broken_pictures(app) -> dict[str, tuple[bytes, str]]:
    """Bytes by file name, and what is said of them."""
    picture = (EXAMPLES / "austin_place.png").read_bytes()
    return {
        "text.png": (b"this is a text\n" * 9, "'text.png' is no JPEG, PNG, GIF"),
        "empty.png": (b"", "'empty.png' is empty"),
        "half.png": (picture[: len(picture) // 2], "'half.png' cannot be decoded"),
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", ["text.png", "empty.png", "half.png", "large.png"])
def test_a_file_that_is_no_usable_picture_is_answered_by_why(visit, app, tmp_path, name):
    files = broken_pictures(app)
    if name == "large.png":
        Image.new("1", (8000, 8000)).save(tmp_path / name)
        sentence = "'large.png' has 8000 x 8000 pixels"
    else:
        data, sentence = files[name]
        (tmp_path / name).write_bytes(data)
    visit.read(AUSTIN, tmp_path / name).says("This picture does not work: " + sentence)
    visit.shows(visit.highlighted, [])
    works(visit)


@pytest.mark.slow
def test_a_file_of_another_kind_or_of_too_many_bytes_is_not_even_sent(visit, app, tmp_path):
    (tmp_path / "notes.txt").write_text("no picture")
    (tmp_path / "big.png").write_bytes((EXAMPLES / "austin_place.png").read_bytes() + bytes(app.MAX_BYTES))
    for name, sentence in (("notes.txt", "Invalid file type"), ("big.png", "exceed the maximum allowed size of 10")):
        visit.page.locator("#form input[type=file]").set_input_files(tmp_path / name)
        visit.page.locator(".toast-body", has_text=sentence).wait_for()
    works(visit)


def ask(address, data) -> dict:
    """The answer to a request written by hand: gradio's own protocol, without the page."""
    config = json.load(urllib.request.urlopen(f"{address}/config"))
    [button] = [part["id"] for part in config["components"] if part["props"].get("value") == "Find the names"]
    [function] = [d["id"] for d in config["dependencies"] if [button, "click"] in d["targets"]]
    body = json.dumps({"data": data, "fn_index": function, "session_hash": "by-hand"}).encode()
    headers = {"Content-Type": "application/json"}
    urllib.request.urlopen(urllib.request.Request(f"{address}/gradio_api/queue/join", body, headers)).close()
    with urllib.request.urlopen(f"{address}/gradio_api/queue/data?session_hash=by-hand", timeout=SECONDS) as events:
        for line in events:
            event = json.loads(line.removeprefix(b"data:")) if line.startswith(b"data:") else {}
            if event.get("msg") == "process_completed":
                return event["output"]
    raise AssertionError("the stream ended without an answer")


@pytest.mark.slow
@pytest.mark.parametrize("is_file", [True, False], ids=["said to be a file", "plain"])
def test_no_path_and_no_address_of_the_user_is_opened(address, is_file, tmp_path):
    Image.open(EXAMPLES / "austin_place.png").save(tmp_path / "secret.png")
    meta = {"meta": {"_type": "gradio.FileData"}} if is_file else {}
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        listener.settimeout(0.2)
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/picture.png"
        for place in (str(tmp_path / "secret.png"), url):
            answer = json.dumps(ask(address, [AUSTIN, {"path": place, **meta}]))
            assert "The picture changed" not in answer
            assert "error" in json.loads(answer) or "The picture is not here" in answer
        with pytest.raises(TimeoutError):
            listener.accept()
    assert "names" in json.dumps(ask(address, ["had lunch with Maria Lopez at Lake Geneva", None]))


@pytest.mark.slow
def test_an_address_in_place_of_a_picture_is_answered_by_what_to_do(address):
    url = "https://example.com/a.png"
    answer = ask(address, [AUSTIN, {"path": url, "meta": {"_type": "gradio.FileData"}}])
    assert answer["error"] == f"This page opens no address ({url}): upload the picture."


@pytest.mark.slow
def test_half_a_character_is_answered_too(address):
    assert "One name" in json.dumps(ask(address, ["\ud83d good morning from me and Austin", None]))


@pytest.mark.slow
def test_a_phone_needs_no_scrolling_to_the_side(open_page, address):
    visit = open_page(address, 390, 844)
    assert visit.width() == 390
    visit.example(0).says("The picture changed")
    visit.page.locator("#answer .seen .region").first.wait_for()
    assert visit.width() == 390
    visit.read("m" * 500).says("")
    visit.page.get_by_test_id("highlighted-text").filter(has_text="mmm").first.wait_for()
    assert visit.width() == 390


@pytest.mark.slow
@pytest.mark.parametrize(("width", "columns"), [(1280, 2), (390, 1)], ids=["desktop", "phone"])
def test_form_and_answer_stand_side_by_side_on_a_desktop_only(open_page, address, width, columns):
    visit = open_page(address, width, 844)
    form, answer, examples = (visit.page.locator(part).bounding_box() for part in ("#form", "#answer", "#examples"))
    if columns == 2:
        assert answer["x"] > form["x"] + form["width"] and answer["y"] == form["y"]
    else:
        assert form["y"] + form["height"] < answer["y"] < examples["y"]


@pytest.mark.slow
def test_the_page_can_be_shown_in_the_readme(open_page, address, telling, tmp_path):
    visit = open_page(address, 1280, 1100)
    visit.example(telling).says("The picture changed this")
    visit.page.locator("#answer .seen .region").first.wait_for()
    visit.page.mouse.move(0, 0)
    visit.page.wait_for_load_state("networkidle")
    path = Path(os.environ.get("HAMLEARNING_SCREENSHOT", tmp_path / "space.png"))
    visit.page.screenshot(path=path, full_page=True, animations="disabled")
    colours = np.unique(np.asarray(Image.open(path).convert("RGB")).reshape(-1, 3), axis=0)
    assert Image.open(path).width == 1280 and len(colours) > 100
    assert (colours == (16, 185, 129)).all(1).any()  # the label "location"


# ----------------------------------------------------------------------------------------------- a model from the Hub


@pytest.mark.slow
def test_a_model_of_the_hub_is_loaded_by_its_id_at_its_revision(model, read, app, telling, tmp_path):
    repo, picture = tmp_path / "repo", Path(app.EXAMPLES[telling][1])
    shutil.copytree(model, repo, ignore=shutil.ignore_patterns("checkpoint-*"))
    with HubServer() as hub:
        revision = hub.add_repo("org/sample", repo)
        for file in repo.rglob("*.json"):
            file.write_text("the newest commit is of no use")
        hub.add_repo("org/sample", repo)
        reach = {"HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}
        with running_space(tmp_path, "org/sample", HAMLEARNING_REVISION=revision, **reach) as address:
            with picture.open("rb") as stream:
                [path] = httpx.post(f"{address}/gradio_api/upload", files={"files": stream}).json()
            answer = ask(address, [AUSTIN, {"path": path, "meta": {"_type": "gradio.FileData"}}])
    [seen], [blind], _ = read(AUSTIN, str(picture))
    assert f"Austin: {app.type_name(blind)}\u00a0→ {app.type_name(seen)}." in answer["data"][0]


# -------------------------------------------------------------------------------------- a model without a vision model


@pytest.fixture(scope="module", params=["no vision", "no vision model"])
def blind_address(request, browser, tmp_path_factory):
    """A Space on an untrained network: one of text alone, or one that learned from a visual feature file."""
    folder = tmp_path_factory.mktemp("blind")
    torch.manual_seed(0)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "good", "morning"]
    text = BertConfig(
        vocab_size=len(words), hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64
    )
    config = HamLearningConfig(text_config=text, use_vision=request.param != "no vision")
    HamLearningForTokenClassification(config).save_pretrained(folder / "model")
    vision = (
        {"subfolder": "vision"} if request.param == "no vision" else None
    )  # not there, so nobody may look for them
    processor = HamLearningProcessor(BertTokenizer(vocab={w: i for i, w in enumerate(words)}), vision_source=vision)
    processor.save_pretrained(folder / "model")
    with running_space(folder, folder / "model") as address:
        yield address


@pytest.mark.slow
def test_a_model_without_vision_model_takes_no_picture_and_says_so(open_page, blind_address):
    visit = open_page(blind_address)
    visit.page.get_by_text("This model has no vision model: it reads the words alone").wait_for()
    assert visit.page.locator("input[type=file]").count() == 0
    assert visit.page.locator("#examples img").count() == 0
    visit.read("good morning").says("")
    visit.shows(lambda: len(visit.highlighted()), 1)
    visit.example(0)
    visit.page.get_by_test_id("highlighted-text").filter(has_text="Austin").wait_for()
