#!/usr/bin/env python
"""The handler and the Space under load: wrong answers, memory, and how long clients wait.

```bash
python benchmarks/load.py --json load.json
python benchmarks/load.py --services handler --clients 64 --seconds 120 --model outputs/demo
```

The server has a process of its own; the clients share this one and send the next request as soon as they have their
answer. The **handler** is served as Hugging Face's inference toolkit does it: Starlette, orjson, a pool of threads.
The toolkit lets one thread at a time into the handler, here it is `--threads`, which is harder. The **Space** is
`space/app.py` as the Hub starts it, behind gradio's own queue.

The requests are drawn with a seed: texts, texts with pictures, lists of tweets, and every tenth one means harm
(`hostile.py`). Before, each one that is in the mix is sent alone. An answer under load is wrong where it is another
than that one, scores more than 1e-4 away. The loads come one after the other, at one server.

Memory is the server's resident memory (VmRSS), read every second. A reading is higher by the requests that are under
way just then, some of 10 MB, so its growth is the median of the last 20 seconds over that of the seconds 10 to 20.
`peaks` compares the highest readings of the same seconds, and is as much about which requests fell into them.
"""

import argparse
import asyncio
import base64
import contextlib
import json
import math
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import httpx
import numpy as np
import orjson
import torch
import transformers
import uvicorn
from PIL import Image
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route
from transformers import BertConfig, BertTokenizer

import hostile
from configuration_hamlearning import HamLearningConfig, HamLearningVisionConfig
from modeling_hamlearning import HamLearningForTokenClassification
from modeling_hamlearning_vision import HamLearningVisionModel
from pipeline_hamlearning import HamLearningPipeline
from processing_hamlearning import HamLearningProcessor
from serving_hamlearning import EndpointHandler
from workload import print_table


SPACE = Path(__file__).parents[1] / "space"
SERVICES = ("handler", "space")
KINDS = {"text": 0.4, "picture": 0.35, "list": 0.15, "hostile": 0.1}  # share of the requests
MAX_GROWTH = 1.02
TOLERANCE = 1e-4  # of scores
LETTERS = "abcdefghijklmnopqrstuvwxyz"
WORDS = "Loved watching the Huskies warm up in Rome with Maria Lopez at Lake Geneva today #mood @NASA !".split()
SENTENCE = "Loved watching the Huskies, in Rome!"


# --------------------------------------------------------------------------------------------------------- the servers


def save_tiny_model(folder: Path):
    """A network with random weights that finds something in most tweets, and a vision model with a grid."""
    vision = {"image_feature_size": 96, "region_feature_size": 96, "num_classes": 1}
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *LETTERS, *(f"##{letter}" for letter in LETTERS)]
    torch.manual_seed(0)
    text_config = BertConfig(
        vocab_size=100, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64
    )
    config = HamLearningConfig(text_config=text_config, **vision, class_embedding_size=6, num_semantic_layers=1)
    processor = HamLearningProcessor(BertTokenizer(vocab={piece: n for n, piece in enumerate(vocabulary)}), **vision)
    processor.vision_model = HamLearningVisionModel(
        HamLearningVisionConfig(
            global_backbone_config={"architecture": "test_resnet"}, detector="grid", resize_size=72, crop_size=64
        )
    )
    HamLearningPipeline(HamLearningForTokenClassification(config).eval(), processor=processor).save_pretrained(folder)


def serve_handler(model: str, port: int, threads: int):
    """An Inference Endpoint: an exception goes out with status 400, whatever the handler returns with 200."""
    handler = EndpointHandler(model)

    async def predict(request):
        async with limit:
            try:
                body = orjson.loads(await request.body())
                if "inputs" not in body:
                    raise ValueError("Body needs to provide a inputs key")
                answer = await anyio.to_thread.run_sync(handler, body)
                return Response(orjson.dumps(answer), media_type="application/json")
            except Exception as error:
                return Response(orjson.dumps({"error": str(error)}), status_code=400, media_type="application/json")

    limit = anyio.Semaphore(threads)
    app = Starlette(routes=[Route("/", predict, methods=["POST"])])
    uvicorn.run(app, host="127.0.0.1", port=port, log_level="error")


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@contextlib.contextmanager
def served(service: str, model: str, threads: int):
    """Address and process id of a server in a process of its own."""
    port = free_port()
    environment = os.environ | {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
    with tempfile.TemporaryDirectory() as folder, open(f"{folder}/log", "w+b") as log:
        command = [sys.executable, __file__, "--serve", str(port), "--model", model, "--threads", str(threads)]
        environment["PYTHONPATH"] = str(SPACE.parent)  # this checkout, whichever is installed
        if service == "space":
            shutil.copytree(SPACE, f"{folder}/space")
            del environment["PYTHONPATH"]  # its code comes with the model
            command = [sys.executable, f"{folder}/space/app.py"]
            environment |= {"GRADIO_SERVER_PORT": str(port), "GRADIO_TEMP_DIR": f"{folder}/uploads"}
            environment |= {"HAMLEARNING_MODEL": model, "HF_HUB_OFFLINE": "1"}
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
        try:
            while True:
                with contextlib.suppress(httpx.TransportError):
                    httpx.get(f"http://127.0.0.1:{port}/config", timeout=60)
                    break
                if process.poll() is not None:
                    log.seek(0)
                    raise RuntimeError(f"The {service} ended at its start:\n{log.read().decode()}")
                time.sleep(0.2)
            yield f"http://127.0.0.1:{port}", process.pid
        finally:
            process.kill()  # `terminate` would wait for answers that nobody waits for any more
            process.wait()


def resident_bytes(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return 1024 * next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS:"))


# -------------------------------------------------------------------------------------------------------- the requests


def make_pictures(rng: np.random.Generator, count: int = 12) -> list[bytes]:
    """Small ones of many sizes and formats."""
    pictures = []
    for number in range(count):
        width, height = (int(side) for side in rng.integers(20, 400, 2))
        picture = Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8))
        pictures.append(hostile.encoded(picture, ("PNG", "JPEG", "WEBP")[number % 3]))
    return pictures


def make_text(rng: np.random.Generator) -> str:
    return " ".join(rng.choice(WORDS, rng.integers(2, 40)))


class HandlerClient:
    """What a client of the handler sends, and what it takes for an answer."""

    def __init__(self, address: str, rng: np.random.Generator):
        self.address = address
        pictures = [base64.b64encode(picture).decode() for picture in make_pictures(rng)]

        def tweet(picture=None):
            return {"text": make_text(rng), "image": picture}

        def body(inputs):
            return json.dumps({"inputs": inputs}).encode()

        self.requests = {
            "text": [body(tweet()) for _ in range(40)],
            "picture": [body(tweet(picture)) for picture in pictures for _ in range(3)],
            "list": [
                body([tweet(rng.choice([*pictures, None])) for _ in range(rng.integers(2, 7))]) for _ in range(9)
            ],
            "hostile": [
                *(make() for make in hostile.REFUSED_BODIES.values()),
                *(hostile.request(SENTENCE, make()) for make in hostile.REFUSED_PICTURES.values()),
                *(hostile.request(SENTENCE, make()) for make in hostile.ANSWERED_PICTURES.values()),
                *(hostile.request(text) for text in hostile.ANSWERED_TEXTS.values()),
            ],
        }

    def opened(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(timeout=600)

    async def ask(self, client: httpx.AsyncClient, request: bytes) -> Any:
        response = await client.post(self.address, content=request)
        return [response.status_code, response.json()]


class SpaceClient:
    """The same of the Space: gradio's protocol, without the page."""

    def __init__(self, address: str, rng: np.random.Generator):
        self.address = f"{address}/gradio_api"
        config = httpx.get(f"{address}/config", timeout=600).json()
        [button] = [part["id"] for part in config["components"] if part["props"].get("value") == "Find the names"]
        [self.function] = [d["id"] for d in config["dependencies"] if [button, "click"] in d["targets"]]
        bad = {**hostile.REFUSED_PICTURES, **hostile.ANSWERED_PICTURES}
        paths = ("/etc/passwd", "http://127.0.0.1:1/a.png", "file:///etc/passwd", "../../etc/passwd")
        texts = ("", "hello " * 1_700_000, *hostile.ANSWERED_TEXTS.values())
        self.requests = {
            "text": [[make_text(rng), None] for _ in range(40)],
            "picture": [[make_text(rng), picture] for picture in make_pictures(rng) for _ in range(3)],
            "hostile": [
                *([SENTENCE, make()] for make in bad.values()),
                *([SENTENCE, {"path": path, "meta": {"_type": "gradio.FileData"}}] for path in paths),
                *([SENTENCE, {"path": path}] for path in paths),
                *([text, None] for text in texts),
                *([5, None], [["hello"], None], ["hello", "picture"], ["hello", 7], ["hello", {}], {"a": 1}, [], None),
            ],
        }
        self.sessions = 0

    def opened(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(timeout=600)

    async def ask(self, client: httpx.AsyncClient, request: Any) -> Any:
        if isinstance(request, list) and len(request) == 2 and isinstance(request[1], bytes):
            response = await client.post(f"{self.address}/upload", files={"files": ("picture", request[1])})
            if response.status_code != 200:
                return [response.status_code]
            [path] = response.json()
            file = {"path": path, "orig_name": "picture", "meta": {"_type": "gradio.FileData"}}
            request = [request[0], file]
        self.sessions += 1
        session = f"load-{self.sessions}"
        join = {"data": request, "fn_index": self.function, "session_hash": session}
        response = await client.post(f"{self.address}/queue/join", json=join)
        if response.status_code != 200:
            return [response.status_code]
        async with client.stream("GET", f"{self.address}/queue/data", params={"session_hash": session}) as events:
            async for line in events.aiter_lines():
                event = json.loads(line.removeprefix("data:")) if line.startswith("data:") else {}
                if event.get("msg") == "process_completed":
                    return [event["success"], event["output"].get("data"), event["output"].get("error")]
        return ["the stream ended without an answer"]


CLIENTS = {"handler": HandlerClient, "space": SpaceClient}


def equal(left: Any, right: Any) -> bool:
    """Whether two answers are the same, figures within a tolerance."""
    if isinstance(left, float) and isinstance(right, float):
        return abs(left - right) <= TOLERANCE
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(equal(left[key], right[key]) for key in left)
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(equal, left, right))
    return type(left) is type(right) and left == right


# ------------------------------------------------------------------------------------------------------------ the load


@dataclass
class Found:
    """What was seen during a load."""

    seconds: dict[str, list[float]] = field(default_factory=lambda: {kind: [] for kind in KINDS})  # of each request
    wrong: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    resident: list[int] = field(default_factory=list)  # bytes, every second


async def watch(pid: int, found: Found):
    while True:
        found.resident.append(resident_bytes(pid))
        await asyncio.sleep(1)


async def run_client(asker, expected: dict[str, list], end: float, rng: np.random.Generator, found: Found):
    """Asks until the end."""
    kinds = [kind for kind in KINDS if kind in expected]
    shares = np.array([KINDS[kind] for kind in kinds])
    async with asker.opened() as client:
        while time.monotonic() < end:
            kind = str(rng.choice(kinds, p=shares / shares.sum()))
            number = int(rng.integers(len(expected[kind])))
            start = time.monotonic()
            try:
                answer = await asker.ask(client, asker.requests[kind][number])
            except (httpx.HTTPError, json.JSONDecodeError) as error:
                found.errors.append(f"{kind} {number}: {type(error).__name__} {error}")
                continue
            found.seconds[kind].append(time.monotonic() - start)
            if not equal(answer, expected[kind][number]):
                found.wrong.append(f"{kind} {number}: {str(answer):.300}, alone {str(expected[kind][number]):.300}")


async def ask_alone(asker) -> tuple[dict[str, list], dict[str, list[float]]]:
    """The answer to each request that is in the mix, and the seconds until it came."""
    answers: dict[str, list] = {kind: [] for kind in asker.requests}
    seconds: dict[str, list[float]] = {kind: [] for kind in asker.requests}
    async with asker.opened() as client:
        for kind, requests in asker.requests.items():
            for request in requests:
                start = time.monotonic()
                answers[kind].append(await asker.ask(client, request))
                seconds[kind].append(time.monotonic() - start)
    return answers, seconds


async def put_under_load(asker, expected: dict[str, list], pid: int, clients: int, seconds: float, seed: int) -> Found:
    """What is seen while so many clients ask."""
    found = Found()
    watching = asyncio.create_task(watch(pid, found))
    end = time.monotonic() + seconds
    generators = [np.random.default_rng([seed, clients, number]) for number in range(clients)]
    await asyncio.gather(*(run_client(asker, expected, end, rng, found) for rng in generators))
    watching.cancel()
    return found


def growth(resident: list[int]) -> tuple[float, float]:
    """Of the memory after the first 20 seconds, by medians and by peaks; NaN where the load did not last for 40."""
    if len(resident) < 40:
        return math.nan, math.nan
    first, last = resident[10:20], resident[-20:]
    return statistics.median(last) / statistics.median(first), max(last) / max(first)


def figures_of(found: Found, service: str, clients: int, seconds: float) -> dict[str, Any]:
    """What a load came to."""
    right = [value for kind, values in found.seconds.items() if kind != "hostile" for value in values]
    harm = found.seconds["hostile"]
    by_medians, by_peaks = growth(found.resident)
    return {
        "service": service,
        "clients": clients,
        "seconds": seconds,
        "requests": len(right) + len(harm),
        "hostile": len(harm),
        "errors": len(found.errors),
        "wrong": len(found.wrong),
        "per_second": (len(right) + len(harm)) / seconds,
        "p50": float(np.quantile(right, 0.5)),
        "p99": float(np.quantile(right, 0.99)),
        "hostile_p50": float(np.quantile(harm or [math.nan], 0.5)),
        "hostile_p99": float(np.quantile(harm or [math.nan], 0.99)),
        "growth": by_medians,
        "growth_peaks": by_peaks,
        "resident": found.resident,
        "load_average": os.getloadavg()[0],
        "examples": (found.wrong + found.errors)[:5],
    }


def measure(
    service: str, model: str, loads: list[tuple[int, float]], threads: int, seed: int
) -> tuple[list[dict[str, Any]], dict[str, list[float]]]:
    """The figures of one service under each load, one after the other; and of each request alone, before."""
    figures = []
    with served(service, model, threads) as (address, pid):
        asker = CLIENTS[service](address, np.random.default_rng(seed))
        expected, alone = asyncio.run(ask_alone(asker))
        slowest = sorted(alone["hostile"])[-3:]
        print(f"{service}, hostile requests alone: {len(alone['hostile'])}, the slowest {slowest}", flush=True)
        for clients, seconds in loads:
            found = asyncio.run(put_under_load(asker, expected, pid, clients, seconds, seed))
            figures.append(figures_of(found, service, clients, seconds))
            print(f"{service}, {clients} clients:", *figures[-1]["examples"] or ["no error"], sep="\n  ", flush=True)
    return figures, alone


def main() -> None:
    """Prints a table, and writes it as JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--services", nargs="+", choices=SERVICES, default=list(SERVICES))
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--seconds", type=float, nargs="+", default=[40, 40, 120], help="of each number of clients")
    parser.add_argument(
        "--model", help="folder of a model with a vision model; without it a tiny one with random weights"
    )
    parser.add_argument("--threads", type=int, default=8, help="requests that the handler gets at a time")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", metavar="FILE", help="also write the figures here, as JSON")
    parser.add_argument("--serve", type=int, metavar="PORT", help=argparse.SUPPRESS)  # this file starts itself
    options = parser.parse_args()
    if options.serve:
        serve_handler(options.model, options.serve, options.threads)
        return
    if len(options.seconds) != len(options.clients):
        raise ValueError(f"--seconds {options.seconds}, --clients {options.clients}: give as many of both.")

    loads = list(zip(options.clients, options.seconds, strict=True))
    figures, alone = [], {}
    with tempfile.TemporaryDirectory() as folder:
        model = options.model or f"{folder}/model"
        if options.model is None:
            save_tiny_model(Path(model))
        for service in options.services:
            found, alone[service] = measure(service, model, loads, options.threads, options.seed)
            figures += found
    print(f"\ntorch {torch.__version__}, transformers {transformers.__version__}, {os.cpu_count()} cores\n")
    print_table(
        ["alone, seconds", "requests", "median", "worst"],
        [
            [f"{service}, {kind}", str(len(values)), f"{statistics.median(values):.3f}", f"{max(values):.3f}"]
            for service, kinds in alone.items()
            for kind, values in kinds.items()
        ],
    )
    header = ["", "clients", "s", "requests", "hostile", "errors", "wrong", "a second", "p50, s", "p99, s"]
    header += ["hostile p50, s", "p99, s", "MB", "growth", "peaks", "load average"]
    rows = [
        [
            f["service"], str(f["clients"]), f"{f['seconds']:g}", str(f["requests"]), str(f["hostile"]),
            str(f["errors"]), str(f["wrong"]), f"{f['per_second']:.1f}", f"{f['p50']:.3f}", f"{f['p99']:.3f}",
            f"{f['hostile_p50']:.3f}", f"{f['hostile_p99']:.3f}", f"{f['resident'][-1] / 1e6:.0f}",
            *("" if math.isnan(f[name]) else f"{f[name] - 1:+.1%}" for name in ("growth", "growth_peaks")),
            f"{f['load_average']:.1f}",
        ]
        for f in figures
    ]  # fmt: skip
    print()
    print_table(header, rows)
    grown = [f"{f['service']}, {f['clients']} clients" for f in figures if f["growth"] > MAX_GROWTH]
    print(f"\nmemory grew by more than {MAX_GROWTH - 1:.0%}: {'; '.join(grown) or 'nowhere'}")
    if options.json:
        Path(options.json).write_text(json.dumps({"loads": figures, "alone": alone}, indent=2) + "\n")


if __name__ == "__main__":
    main()
