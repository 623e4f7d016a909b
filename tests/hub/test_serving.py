"""`hamlearning serve`: HTTP in, HTTP out."""

import json
import os
import subprocess
import sys
import threading
import urllib.error
import urllib.request

import pytest

from hamlearning.hub.serving import make_server
from serving_hamlearning import EndpointHandler
from tiny_world import rounded


@pytest.fixture(scope="module")
def server(trained_folder):
    service = EndpointHandler(str(trained_folder), max_tweets=2, max_text_length=100, max_total_image_bytes=1000)
    with make_server(service) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def ask(server):
    """`ask(path, body)`: the status and the JSON of the answer."""

    def ask(path, body=None, **headers):
        url = f"http://127.0.0.1:{server.server_address[1]}{path}"
        request = urllib.request.Request(url, data=body, headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return answer.status, json.loads(answer.read())
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read())

    return ask


def test_a_tweet_gets_its_entities(ask, server, trained_folder):
    status, answer = ask("/predict", json.dumps({"inputs": "i met ann today"}).encode())
    assert status == 200
    assert rounded(answer) == rounded(EndpointHandler(str(trained_folder))({"inputs": "i met ann today"}))


def test_health_is_answered(ask):
    assert ask("/health") == (200, {"status": "ok"})


@pytest.mark.parametrize(
    "path, body, status, message",
    [
        ("/predict", b"{", 400, "the request is no JSON"),
        ("/predict", b'{"inputs": 3}', 400, "inputs is 3"),
        ("/predict", json.dumps({"inputs": ["a"] * 3}).encode(), 400, "inputs has 3 tweets, the limit is 2"),
        ("/predict", json.dumps({"inputs": "x" * 101}).encode(), 400, "has 101 characters, the limit is 100"),
        ("/elsewhere", b"{}", 404, "ask GET /health or POST /predict"),
        ("/elsewhere", None, 404, "ask GET /health or POST /predict"),
        ("/predict", b" " * 2**21, 413, "the request has 2097152 bytes, the limit is"),
    ],
)
def test_what_cannot_be_answered_has_a_status_and_a_reason(ask, path, body, status, message):
    code, answer = ask(path, body)
    assert code == status and message in answer["error"]


def test_the_hub_s_client_gets_entities_and_reasons(server, trained_folder):
    code = """
import sys
from huggingface_hub import InferenceClient
client = InferenceClient(model=sys.argv[1])
options = {"aggregation_strategy": "average", "ignore_labels": ["O"], "stride": 16}
for text in ("i met ann today", "x" * 101):
    try:
        print([(e.entity_group, e.word, e.start, e.end) for e in client.token_classification(text, **options)])
    except Exception as error:
        print(error)
"""
    online = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}
    url = f"http://127.0.0.1:{server.server_address[1]}/predict"
    said = subprocess.check_output([sys.executable, "-c", code, url], env=online, text=True, timeout=60)
    expected = EndpointHandler(str(trained_folder))({"inputs": "i met ann today"})
    assert said.startswith(str([(e["entity_group"], e["word"], e["start"], e["end"]) for e in expected]))
    assert "inputs.text has 101 characters, the limit is 100." in said
