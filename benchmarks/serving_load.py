#!/usr/bin/env python
"""`hamlearning serve` beside the handler behind a plain threaded server, under the same load, in turns.

```bash
python benchmarks/serving_load.py --seconds 120 --json serving_load.json
python benchmarks/serving_load.py --seconds 20 --rounds 1 --mixes texts --model outputs/demo
```

The **handler** is served as in `load.py`: Starlette, orjson, `--requests_at_once` threads. **serve** is the command,
on Ray Serve. Each has its own processes, is started anew for each turn, and gets as many threads of PyTorch; the
clients share one process and the cores with it, and send the next request as soon as they have their answer.

Mixes, drawn with a seed, the same for both:

- `texts`: texts, and every tenth request means harm (`hostile.py`: bodies and texts).
- `pictures`: a fifth has a picture, and every tenth request means harm (files, too).
- `quiet`: texts alone. `body` and `bomb` are the same, and one more client sends a body of 10 MB, or a picture of 25
  million pixels in a few bytes, every second: what that does to the others' p99.

Before its load each request of the mix is sent alone. An answer under load is wrong where it is another than that one,
scores more than 1e-4 away, or where `serve`'s answer to a good request is another than the handler's.

Memory is the sum of what the processes of a server hold (PSS: shared pages count once). Its growth is the median of
the last 20 seconds over that of the seconds 10 to 20.
"""

import argparse
import asyncio
import base64
import contextlib
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import psutil

import hostile
from load import SENTENCE, equal, free_port, growth, make_pictures, make_text, save_tiny_model, served
from workload import print_table


ROOT = Path(__file__).parents[1]
SHARES = {  # of the kinds of requests
    "texts": {"text": 0.9, "hostile text": 0.1},
    "pictures": {"text": 0.7, "picture": 0.2, "hostile": 0.1},
    "quiet": {"text": 1.0},
    "body": {"text": 1.0},
    "bomb": {"text": 1.0},
}
SIDES = ("handler", "serve")


def make_requests(seed: int) -> dict[str, list[bytes]]:
    """Bodies of each kind."""
    rng = np.random.default_rng(seed)
    pictures = [base64.b64encode(picture).decode() for picture in make_pictures(rng)]
    bodies = [make() for make in hostile.REFUSED_BODIES.values()]
    texts = [hostile.request(text) for text in hostile.ANSWERED_TEXTS.values()]
    files = [*hostile.REFUSED_PICTURES.values(), *hostile.ANSWERED_PICTURES.values()]
    return {
        "text": [hostile.request(make_text(rng)) for _ in range(200)],
        "picture": [hostile.request(make_text(rng), picture) for picture in pictures for _ in range(4)],
        "hostile text": bodies + texts,
        "hostile": bodies + texts + [hostile.request(SENTENCE, make()) for make in files],
    }


def make_burden(mix: str) -> bytes | None:
    """What one more client sends every second."""
    if mix == "body":
        noise = np.random.default_rng(0).bytes(hostile.MANY - 2**16)
        return hostile.request(SENTENCE, hostile.png(8, 8) + noise)
    return hostile.request(SENTENCE, hostile.png(hostile.SIDE, hostile.SIDE)) if mix == "bomb" else None


# --------------------------------------------------------------------------------------------------------- the servers


@contextlib.contextmanager
def serve_started(model: str, threads: int, replicas: int):
    """Address and process id of `hamlearning serve`."""
    port = free_port()
    flags = ["--port", str(port), "--threads", str(threads), "--replicas", str(replicas)]
    command = [sys.executable, "-m", "hamlearning", "serve", model, *flags]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with tempfile.TemporaryFile("w+b") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, env=environment, text=True)
        try:
            if not any("answers POST" in line for line in process.stdout):
                log.seek(0)
                raise RuntimeError(f"serve ended at its start:\n{log.read().decode()}")
            yield f"http://127.0.0.1:{port}/predict", process.pid
        finally:
            process.terminate()
            process.communicate(timeout=60)


def started(side: str, model: str, options: argparse.Namespace):
    if side == "handler":
        os.environ["OMP_NUM_THREADS"] = str(options.threads)
        return served("handler", model, options.requests_at_once)
    return serve_started(model, options.threads, options.replicas)


def held_bytes(pid: int) -> int:
    """Of a process and all that it started."""
    total = 0
    for process in processes_of(pid):
        with contextlib.suppress(OSError):  # it has ended
            lines = Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines()
            total += 1024 * next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total


def processor_seconds(pid: int) -> float:
    """That a process and all that it started have used."""
    total = 0.0
    for process in processes_of(pid):
        with contextlib.suppress(psutil.Error):
            times = process.cpu_times()
            total += times.user + times.system
    return total


def processes_of(pid: int) -> list[psutil.Process]:
    return [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]


# ------------------------------------------------------------------------------------------------------------ the load


@dataclass
class Found:
    """What was seen during a load."""

    seconds: list[float] = field(default_factory=list)  # of each good request
    hostile_seconds: list[float] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    answers: list[int] = field(default_factory=list)  # of each client
    waits: list[float] = field(default_factory=list)  # the longest of each client
    burdens: list[float] = field(default_factory=list)  # seconds
    held: list[int] = field(default_factory=list)  # bytes, every second
    processor: float = 0.0  # seconds of the server


async def ask(session: aiohttp.ClientSession, address: str, body: bytes) -> list[Any]:
    async with session.post(address, data=body, headers={"Content-Type": "application/json"}) as response:
        return [response.status, await response.json(content_type=None)]


async def run_client(session, address: str, requests, expected, shares, end: float, rng, found: Found):
    """Asks until the end."""
    count, longest = 0, 0.0
    kinds, weights = list(shares), list(shares.values())
    while time.monotonic() < end:
        kind = str(rng.choice(kinds, p=weights))
        number = int(rng.integers(len(requests[kind])))
        start = time.monotonic()
        try:
            answer = await ask(session, address, requests[kind][number])
        except (aiohttp.ClientError, ValueError) as error:
            found.errors.append(f"{kind} {number}: {type(error).__name__} {error}")
            continue
        wait = time.monotonic() - start
        (found.hostile_seconds if kind.startswith("hostile") else found.seconds).append(wait)
        count, longest = count + 1, max(longest, wait)
        if not equal(answer, expected[kind][number]):
            found.wrong.append(f"{kind} {number}: {str(answer):.200}, alone {str(expected[kind][number]):.200}")
    found.answers.append(count)
    found.waits.append(longest)


async def run_burden(session, address: str, body: bytes, end: float, found: Found):
    while time.monotonic() < end:
        start = time.monotonic()
        with contextlib.suppress(aiohttp.ClientError):
            await ask(session, address, body)
        found.burdens.append(time.monotonic() - start)
        await asyncio.sleep(max(0.0, 1 - found.burdens[-1]))


async def watch(pid: int, found: Found):
    while True:
        found.held.append(await asyncio.to_thread(held_bytes, pid))
        await asyncio.sleep(1)


async def put_under_load(address: str, pid: int, mix: str, requests, options) -> tuple[Found, dict[str, list]]:
    """What is seen while the clients ask; and each answer alone, before."""
    shares, found = SHARES[mix], Found()
    limits = {"connector": aiohttp.TCPConnector(limit=0), "timeout": aiohttp.ClientTimeout(total=600)}
    async with aiohttp.ClientSession(**limits) as session:
        expected = {kind: [await ask(session, address, body) for body in requests[kind]] for kind in shares}
        end = time.monotonic() + options.seconds
        generators = [np.random.default_rng([options.seed, number]) for number in range(options.clients)]
        clients = [run_client(session, address, requests, expected, shares, end, rng, found) for rng in generators]
        if (burden := make_burden(mix)) is not None:
            clients.append(run_burden(session, address, burden, end, found))
        watching, before = asyncio.create_task(watch(pid, found)), processor_seconds(pid)
        await asyncio.gather(*clients)
        found.processor = processor_seconds(pid) - before
        watching.cancel()
    return found, expected


def figures_of(found: Found, side: str, mix: str, seconds: float) -> dict[str, Any]:
    """What a load came to."""
    return {
        "side": side,
        "mix": mix,
        "requests": len(found.seconds) + len(found.hostile_seconds),
        "per_second": (len(found.seconds) + len(found.hostile_seconds)) / seconds,
        "processor_ms": 1000 * found.processor / (len(found.seconds) + len(found.hostile_seconds)),
        "p50": float(np.quantile(found.seconds, 0.5)),
        "p99": float(np.quantile(found.seconds, 0.99)),
        "wrong": len(found.wrong),
        "errors": len(found.errors),
        "fewest_answers": min(found.answers) / statistics.median(found.answers),
        "longest_wait": max(found.waits),
        "held": found.held[-1],
        "growth": growth(found.held)[0],
        "burdens": len(found.burdens),
        "load_average": os.getloadavg()[0],
        "examples": (found.wrong + found.errors)[:5],
    }


def differences(answers: dict[str, dict[str, list]]) -> list[str]:
    """Good requests that `serve` answers otherwise than the handler."""
    different = []
    for kind in ("text", "picture"):
        pairs = zip(*(answers.get(side, {}).get(kind, []) for side in SIDES), strict=False)
        for number, (one, other) in enumerate(pairs):
            if not equal(one, other):
                different.append(f"{kind} {number}: {str(one):.200} {str(other):.200}")
    return different


def main() -> None:
    """Prints a table and the ratios, and writes them as JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mixes", nargs="+", choices=SHARES, default=list(SHARES))
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES))
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--model", help="folder of a model with a vision model; without it a tiny one")
    parser.add_argument("--threads", type=int, default=1, help="of PyTorch, of the handler and of each replica")
    parser.add_argument("--replicas", type=int, default=1)
    parser.add_argument("--requests_at_once", type=int, default=8, help="that the handler gets")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", metavar="FILE", help="also write the figures here, as JSON")
    options = parser.parse_args()
    requests, figures, answers = make_requests(options.seed), [], {}
    with tempfile.TemporaryDirectory() as folder:
        model = options.model or f"{folder}/model"
        if options.model is None:
            save_tiny_model(Path(model))
        for mix, _, side in itertools.product(options.mixes, range(options.rounds), options.sides):
            with started(side, model, options) as (address, pid):
                found, alone = asyncio.run(put_under_load(address, pid, mix, requests, options))
            answers.setdefault(side, {}).update(alone)
            figures.append(figures_of(found, side, mix, options.seconds))
            print(side, mix, json.dumps(figures[-1]), flush=True)
    report(figures, differences(answers), options)


def report(figures: list[dict[str, Any]], different: list[str], options: argparse.Namespace) -> None:
    """The table, the ratios, and the file."""
    header = [
        "",
        "mix",
        "requests",
        "a second",
        "processor, ms",
        "p50, s",
        "p99, s",
        "wrong",
        "errors",
        "fewest of a client",
    ]
    header += ["longest wait, s", "MB", "growth", "load average"]
    print_table(
        header,
        [
            [
                f["side"], f["mix"], str(f["requests"]), f"{f['per_second']:.1f}", f"{f['processor_ms']:.1f}",
                f"{f['p50']:.3f}", f"{f['p99']:.3f}",
                str(f["wrong"]), str(f["errors"]), f"{f['fewest_answers']:.2f}", f"{f['longest_wait']:.2f}",
                f"{f['held'] / 1e6:.0f}", f"{f['growth'] - 1:+.1%}", f"{f['load_average']:.1f}",
            ]
            for f in figures
        ],
    )  # fmt: skip

    def mean(side: str, mix: str, name: str) -> float:
        return statistics.fmean([f[name] for f in figures if (f["side"], f["mix"]) == (side, mix)] or [float("nan")])

    print("\n`fewest of a client`: answers of the client with the fewest, by the median of all clients")
    for mix in options.mixes:
        ratios = {name: mean("serve", mix, name) / mean("handler", mix, name) for name in ("per_second", "p99")}
        print(
            f"{mix}: requests a second {ratios['per_second']:.2f} times the handler's, p99 {ratios['p99']:.2f} times"
        )
    for side, mix in itertools.product(options.sides, ("body", "bomb")):
        ratio = mean(side, mix, "p99") / mean(side, "quiet", "p99")
        print(f"{side}, {mix}: p99 {ratio:.2f} times that of quiet")
    print(f"good requests that serve answers otherwise than the handler: {len(different)}", *different[:5], sep="\n  ")
    if options.json:
        Path(options.json).write_text(json.dumps({"loads": figures, "different": different}, indent=2) + "\n")


if __name__ == "__main__":
    main()
