#!/usr/bin/env python
"""`hamlearning predict --engine ray` beside one process: speed, memory for few tweets and many, and with kills.

```bash
python benchmarks/ray_engine.py --json ray.json                          # 20,000 and 200,000 tweets; needs Ray
python benchmarks/ray_engine.py --former ../before --tweets 20000        # beside the scheduler of an earlier checkout
```

Tweets are made up, of the lengths of Twitter-2017, a hundredth of them with a picture that cannot be read. The network
is small and random, if none is given. One local process has two threads, two workers of Ray have one each. A rate is
of the second half of the pieces, when all workers are at work, and what starting costs stands beside it. On a machine
that others use too, the processors' time for a tweet, of all processes and Ray's services, tells more. `--kill` adds a
cluster of three nodes, real processes of this machine, which loses a worker and then a node by SIGKILL; its rows must
be those of one process. Memory is private, of the process of its kind that has most of it at its peak.
"""

import argparse
import itertools
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from streaming import save_network
from workload import made_up_tweets, print_table, write_figures


FILE = 4096  # tweets of a file, which is a piece
KILLS = (0.2, 0.5)  # of the pieces are there when a worker, and then a node, is killed
SHOWN = {"rate": 0, "cpu_ms_a_tweet": 2, "seconds": 0, "seconds_to_first": 0}  # and their digits
WORKER = "ray::MapWorker"


def write_tweets(folder: Path, count: int):
    """`count` tweets in files of `FILE`."""
    folder.mkdir()
    for first in range(0, count, FILE):
        rows = min(FILE, count - first)
        tweets, _ = made_up_tweets(rows, np.random.default_rng(first))
        images = [b"no picture" if row % 100 == 7 else None for row in range(rows)]
        table = pa.table(
            {"id": [str(first + row) for row in range(rows)], "tokens": tweets["tokens"], "image": images}
        )
        pq.write_table(table, folder / f"test-{first // FILE:05d}.parquet")


def watch(process: subprocess.Popen, peaks: dict[str, float], cpu: list[tuple[float, float]]):
    """Notes the largest private memory, in MB, of the program and of Ray's workers and services, until it ends.

    And how much of the processors' time all of them have had, by the time of day.
    """
    try:
        root = psutil.Process(process.pid)
        while process.poll() is None:
            spent = 0.0
            for one in [root, *root.children(recursive=True)]:
                try:
                    name, memory, times = " ".join(one.cmdline()[:3]), one.memory_info(), one.cpu_times()
                except psutil.Error:
                    continue
                kind = "worker" if name.startswith(WORKER) else "driver" if one.pid == process.pid else "ray"
                spent += times.user + times.system
                peaks[kind] = max(peaks.get(kind, 0), (memory.rss - memory.shared) / 2**20)
            cpu.append((time.time(), spent))
            time.sleep(0.2)
    except psutil.Error:
        pass


def run(command: list[str], output: Path) -> dict[str, float]:
    """Seconds, peaks of memory and rate of a program that writes pieces."""
    output.mkdir(parents=True, exist_ok=True)
    log = output.with_suffix(".log")
    start, peaks, cpu = time.time(), {}, []
    # A cluster of others, or what is left of one, is not found there. The name is short: sockets lie there.
    with log.open("w") as file, tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:
        env = os.environ | {"PYTHONUNBUFFERED": "1", "RAY_TMPDIR": folder}
        env["RAY_worker_niceness"] = "0"  # Ray's 15 would leave its workers what other programs of the machine leave
        process = subprocess.Popen(command, stdout=file, stderr=file, env=env)
        watcher = threading.Thread(target=watch, args=(process, peaks, cpu))
        watcher.start()
        process.wait()
        watcher.join()
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} has ended with {process.returncode}:\n{log.read_text()[-4000:]}")
    written = sorted((path.stat().st_mtime, pq.read_metadata(path).num_rows) for path in output.glob("*.parquet"))
    half = len(written) // 2  # until all workers are at work
    first, last = written[half - 1][0], written[-1][0]
    rows = sum(count for _, count in written[half:])
    spent = [seconds for moment, seconds in cpu if first <= moment <= last]
    # Who is killed takes its time along, and the sum falls.
    steps = [max(after - before, 0) for before, after in itertools.pairwise(spent)]
    return {
        "seconds": time.time() - start,
        "seconds_to_first": written[0][0] - start,
        "rate": rows / (last - first),
        "cpu_ms_a_tweet": 1000 * sum(steps) / rows,
        **{f"{kind}_mb": peak for kind, peak in peaks.items()},
    }


def ways(model: Path, former: Path | None) -> dict[str, Callable[[Path, Path], list[str]]]:
    """The commands that are compared, of data and output."""
    predict = [sys.executable, "-m", "hamlearning", "predict", str(model)]
    found = {
        "one process, two threads": lambda data, output: [
            *(*predict, "--data", str(data), "--output", str(output), "--threads", "2")
        ],
        "Ray, two workers of one": lambda data, output: [
            *(*predict, "--data", str(data), "--output", str(output), "--engine", "ray", "--workers", "2")
        ],
    }
    if former is not None:
        launch = ["-m", "torch.distributed.run", "--nproc_per_node", "2", str(former / "run_mner.py")]
        found["former scheduler, two of one"] = lambda data, output: [
            *("env", "OMP_NUM_THREADS=1", f"PYTHONPATH={former}", sys.executable, *launch, "--do_predict", "True"),
            *("--streaming", "True", "--model_name_or_path", str(model), "--data_dir", str(data)),
            *("--output_dir", str(output), "--disable_tqdm", "True"),
        ]
    return found


def rows_of(folder: Path) -> Iterator[dict]:
    """All rows of all pieces, in order."""
    for path in sorted(folder.glob("*.parquet")):
        yield from pq.read_table(path).to_pylist()


def compare(one: Path, other: Path) -> dict[str, int]:
    """Rows that are there, there twice, and not the same."""
    ids: set[str] = set()
    counts = {"rows": 0, "twice": 0, "other": 0}
    expected = rows_of(one)
    for row in rows_of(other):
        counts["rows"] += 1
        counts["twice"] += row["id"] in ids
        counts["other"] += row != next(expected, None)
        ids.add(row["id"])
    counts["missing"] = sum(1 for _ in expected)
    return counts


def tag_and_kill(model: Path, data: Path, output: Path):
    """In a process of its own: a cluster of three nodes, which loses a worker and a node."""
    import ray
    from ray.cluster_utils import Cluster

    from hamlearning.tagging import Tagger
    from hamlearning.tagging.pieces import tag_files

    cluster = Cluster()
    nodes = [cluster.add_node(num_cpus=1, object_store_memory=2**27, include_dashboard=False) for _ in range(3)]
    ray.init(address=cluster.address, logging_level="WARNING")
    pieces = sum(pq.read_metadata(path).num_row_groups for path in data.glob("*.parquet"))

    def workers(node) -> list[psutil.Process]:
        raylet = psutil.Process(node.all_processes["raylet"][0].process.pid)
        return [one for one in raylet.children(recursive=True) if " ".join(one.cmdline()).startswith(WORKER)]

    def kill():
        for share, node in zip(KILLS, nodes[1:], strict=True):
            while len(list(output.glob("*.parquet"))) < share * pieces or not workers(node):
                time.sleep(0.05)
            there, [victim, *_] = len(list(output.glob("*.parquet"))), workers(node)
            if node is nodes[-1]:
                victims = [psutil.Process(node.all_processes["raylet"][0].process.pid), victim]
            else:
                victims = [victim]
            for process in victims:
                process.send_signal(signal.SIGKILL)
            killed = {"killed": [p.pid for p in victims], "pieces": there, "of": pieces}
            print("\n" + json.dumps(killed), flush=True)  # Ray's progress has begun the line

    killer = threading.Thread(target=kill)
    killer.start()
    print(json.dumps(tag_files(Tagger(model, device="cpu", threads=1), str(data), str(output), "ray")), flush=True)
    killer.join()
    ray.shutdown()
    cluster.shutdown()


def main():
    """Prints tables, and writes them as JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tweets", type=int, nargs="+", default=[20_000, 200_000])
    parser.add_argument("--rounds", type=int, default=1, help="of all ways, in turn")
    parser.add_argument("--model", type=Path, help="in place of the small one")
    parser.add_argument("--former", type=Path, help="checkout with the scheduler that was before")
    parser.add_argument(
        "--kill", action="store_true", help="of the most tweets: a cluster that loses a worker and a node"
    )
    parser.add_argument("--tag_and_kill", type=Path, nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--json", metavar="FILE", help="also write the figures here")
    options = parser.parse_args()
    if options.tag_and_kill:
        return tag_and_kill(*options.tag_and_kill)

    figures: dict = {"runs": []}
    with tempfile.TemporaryDirectory() as root:
        root = Path(root)
        model = options.model
        if model is None:
            model = root / "model"
            save_network(model)
        for tweets in options.tweets:
            data = root / str(tweets)
            write_tweets(data, tweets)
            for turn in range(options.rounds):
                for name, command in ways(model.absolute(), options.former).items():
                    output = root / f"{tweets} {turn} {name}"
                    found = run(command(data, output), output)
                    figures["runs"].append({"way": name, "tweets": tweets, **found})
                    print(name, tweets, {k: round(v, 1) for k, v in found.items()}, file=sys.stderr, flush=True)
            first = [root / f"{tweets} 0 {name}" for name in list(ways(model, None))]
            figures[f"rows_{tweets}"] = compare(*first)
        if options.kill:
            output = root / "killed"
            command = [sys.executable, __file__, "--tag_and_kill", str(model.absolute()), str(data), str(output)]
            figures["runs"].append({"way": "Ray, three nodes, kills", "tweets": tweets, **run(command, output)})
            log = output.with_suffix(".log").read_text().splitlines()
            figures["kills"] = [json.loads(line) for line in log if line.startswith("{")]
            figures["rows_killed"] = compare(first[0], output)

    rows = []
    for name, tweets in dict.fromkeys((found["way"], found["tweets"]) for found in figures["runs"]):
        same = [found for found in figures["runs"] if (found["way"], found["tweets"]) == (name, tweets)]
        middle = {
            key: statistics.median(found[key] for found in same) for key in same[0] if key not in ("way", "tweets")
        }
        memory = [f"{middle[f'{kind}_mb']:.0f}" if f"{kind}_mb" in middle else "" for kind in ("driver", "worker")]
        rows.append([name, f"{tweets:,}", *(f"{middle[key]:.{digits}f}" for key, digits in SHOWN.items()), *memory])
    print_table(
        ["", "tweets", "tweets/s", "CPU ms a tweet", "seconds", "to the first piece", "driver, MB", "worker, MB"], rows
    )
    for name in figures.keys() - {"runs"}:
        print(f"{name}: {figures[name]}")
    write_figures(figures, options)


if __name__ == "__main__":
    main()
