"""Pieces tagged, and pictures looked at, by a real Ray: the rows of one process, whatever was killed meanwhile."""

import importlib.util
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from conftest import ROOT
from hamlearning.tagging import Tagger
from hamlearning.tagging.pieces import tag_files
from tiny_world import save_seeing_model, save_vision_model


pytestmark = pytest.mark.slow

# What it needs beside the libraries of the tests.
RAY = (
    *("ray==2.60.0", "protobuf==7.36.2", "jsonschema==4.26.0", "jsonschema-specifications==2025.9.1"),
    *("referencing==0.37.0", "rpds-py==2026.9.1", "attrs==26.1.0", "click==8.5.1", "msgpack==1.2.4"),
)
PIECES, ROWS = 40, 50  # pieces, and tweets of each
NAMES = ("ann", "bob", "rome", "oslo", "tired")

# Three nodes of one core each, the driver's among them. It kills a worker of the second, and the third as a whole.
CLUSTER = """
import json, signal, sys, threading, time
from pathlib import Path
import psutil, ray
from ray.cluster_utils import Cluster
from hamlearning.cli import main
from hamlearning.tagging import Tagger
from hamlearning.tagging.pieces import tag_files

kind, model, data, output = sys.argv[1:]
cluster = Cluster()
nodes = [cluster.add_node(num_cpus=1, object_store_memory=2**27, include_dashboard=False) for _ in range(3)]
ray.init(address=cluster.address, logging_level="WARNING")
killed = []

def raylet(node):
    return psutil.Process(node.all_processes["raylet"][0].process.pid)

def tagging(node):
    return [one for one in raylet(node).children(recursive=True) if "MapWorker" in " ".join(one.cmdline())]

def written():
    return len(list(Path(output).glob("*.parquet" if kind == "tag" else "shards/*.json")))

def kill():
    for least, node, whole in ((1, nodes[1], False), (2, nodes[2], True)):
        while written() < least or not tagging(node):
            time.sleep(0.01)
        killed.append(written())
        for process in [raylet(node)] * whole + tagging(node):
            process.send_signal(signal.SIGKILL)

thread = threading.Thread(target=kill, daemon=True)
thread.start()
if kind == "tag":
    done = tag_files(Tagger(model, device="cpu", threads=1), data, output, "ray")
else:
    done = main(["extract", "--vision_model", model, "--data_dir", data, "--output_dir", output, "--engine", "ray"])
thread.join(60)
alive = sum(node["Alive"] for node in ray.nodes())
ray.shutdown()
cluster.shutdown()
Path("found.json").write_text(json.dumps({"done": done, "killed": killed, "alive": alive}))
"""

# A piece of work that ends its worker each time, among others; and one that fails.
WORK = """
import json, os, signal
from functools import partial
from pathlib import Path
import ray
from hamlearning.data.ray_cluster import share_with_ray

def work(ending, number):
    if number == 3 and ending == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if number == 3 and ending == "error":
        raise OSError("three cannot be read")
    return number

ray.init(num_cpus=1, include_dashboard=False, object_store_memory=2**27, logging_level="WARNING")
found = []
for ending in ("nothing", "error", "kill"):
    try:
        found.append(sorted(share_with_ray(partial(work, ending), list(range(6)))))
    except Exception as error:
        found.append(f"{type(error).__name__}: {error}")
Path("found.json").write_text(json.dumps(found))
"""


@pytest.fixture(scope="module")
def ray_python(own_environment):
    """A Python that has Ray: that of the tests, or one made for them."""
    if importlib.util.find_spec("ray") is not None:
        return sys.executable
    return own_environment(*RAY).python


@pytest.fixture
def start(ray_python, tmp_path):
    """`start(*arguments)` is a process of that Python, in a world of its own: a cluster of others is not found."""
    folder = tempfile.mkdtemp(prefix="ray-")  # a short name: sockets lie there
    started = []

    def start(*arguments) -> subprocess.Popen:
        # What other programs of this machine hold would end our workers too, when it is nearly full.
        env = os.environ | {"RAY_TMPDIR": folder, "RAY_memory_monitor_refresh_ms": "0", "PYTHONPATH": str(ROOT)}
        env["RAY_worker_niceness"] = "0"  # at Ray's 15 they may not start for minutes beside other programs
        env.pop("RAY_ADDRESS", None)
        with (tmp_path / f"{len(started)}.log").open("w") as log:
            command = [ray_python, *map(str, arguments)]
            started.append(
                subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, env=env, cwd=tmp_path)
            )
        return started[-1]

    yield start
    for process in started:
        if process.poll() is None:
            for one in [*psutil.Process(process.pid).children(recursive=True), process]:
                one.kill()
        process.communicate()
    shutil.rmtree(folder, ignore_errors=True)


def output_of(process: subprocess.Popen) -> str:
    """What it prints, and what Ray prints among that."""
    out, _ = process.communicate(timeout=600)
    assert process.returncode == 0, out
    return out


@pytest.fixture(scope="module")
def model(world, tmp_path_factory):
    """A random model whose answers depend on pictures."""
    return save_seeing_model(world, tmp_path_factory.mktemp("seeing"))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Two files of tweets; of a hundred, one has a picture and one a broken one."""
    folder, png = tmp_path_factory.mktemp("data"), io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (18, 24, 3), np.uint8)
    Image.fromarray(noise).save(png, "PNG")
    images = {7: b"no picture", 57: png.getvalue()}
    count = PIECES * ROWS // 2
    for number in range(2):
        rows = range(number * count, (number + 1) * count)
        texts = [f"i met {NAMES[row % 5]} in {NAMES[row % 3]} today" for row in rows]
        table = {"id": [str(row) for row in rows], "text": texts, "image": [images.get(row % 100) for row in rows]}
        pq.write_table(pa.table(table), folder / f"part-{number}.parquet", row_group_size=ROWS)
    return folder


@pytest.fixture(scope="module")
def expected(model, data, tmp_path_factory):
    """The rows of one process."""
    output = tmp_path_factory.mktemp("expected")
    done = tag_files(Tagger(model, device="cpu", threads=1), str(data), str(output))
    assert done["image_errors"] == PIECES * ROWS // 100
    rows = rows_of(output)
    assert [row["id"] for row in rows] == [str(number) for number in range(PIECES * ROWS)]
    assert any(row["entities"] for row in rows) and any(row["relevance"] for row in rows)
    return rows


def rows_of(folder):
    """Of all pieces in their order; a row that was there twice would be twice among them."""
    return [row for path in sorted(folder.glob("*.parquet")) for row in pq.read_table(path).to_pylist()]


def write_pictures(folder):
    """A data set of 40 shards, of pictures that are looked at slowly enough to be killed between."""
    folder.mkdir()
    png = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (400, 600, 3), np.uint8)).save(png, "PNG")
    rows = range(64 * 40)
    table = pa.table({"id": [str(row) for row in rows], "tokens": [["rome"]] * len(rows)})
    pictures = [b"no picture" if row % 100 == 7 else png.getvalue() + str(row).encode() for row in rows]
    pq.write_table(table.append_column("image", [pictures]), folder / "test-00000-of-00001.parquet")


def flags(model, data, output):
    place = ["--data", data, "--output", output, "--engine", "ray", "--workers", "2"]
    return ["-m", "hamlearning", "predict", model, *place]


def test_the_command_of_the_docs_gives_the_rows_of_one_process(start, model, data, expected, tmp_path):
    page = (ROOT / "docs" / "scaling.md").read_text(encoding="utf-8")
    [command] = re.findall(r"^hamlearning (predict outputs/demo .*--engine ray .*)$", page, re.MULTILINE)
    for place, target in (("outputs/demo", model), ("my/shards", data)):
        (tmp_path / place).parent.mkdir()
        (tmp_path / place).symlink_to(target)
    out = output_of(start("-m", "hamlearning", *command.split()))
    assert f"pieces {PIECES}, kept 0, tweets {PIECES * ROWS}, image_errors {PIECES * ROWS // 100}" in out
    assert rows_of(tmp_path / "outputs" / "found_by_ray") == expected


def test_places_are_those_that_fsspec_knows(start, model, data, expected, tmp_path):
    places = [f"file://{folder}" for folder in (data, tmp_path / "out")]
    output_of(start(*flags(model, *places)))
    assert rows_of(tmp_path / "out") == expected


def test_a_worker_and_a_node_that_are_killed_are_replaced_and_nothing_is_there_twice(
    start, model, data, expected, tmp_path
):
    output_of(start("-c", CLUSTER, "tag", model, data, tmp_path / "out"))
    found = json.loads((tmp_path / "found.json").read_text())
    assert len(found["killed"]) == 2 and max(found["killed"]) < PIECES and found["alive"] == 2
    assert found["done"]["pieces"] == PIECES
    assert rows_of(tmp_path / "out") == expected


def test_pictures_are_looked_at_once_whatever_is_killed(start, tmp_path):
    write_pictures(tmp_path / "data")
    vision = save_vision_model(tmp_path / "vision", seed=0)
    local = ["-m", "hamlearning", "extract", "--vision_model", vision, "--data_dir", tmp_path / "data"]
    output_of(start(*local, "--output_dir", tmp_path / "one"))
    output_of(start("-c", CLUSTER, "extract", vision, tmp_path / "data", tmp_path / "out"))
    found = json.loads((tmp_path / "found.json").read_text())
    assert len(found["killed"]) == 2 and found["alive"] == 2
    for name in ("visual_features.parquet", "visual_features_report.json"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "one" / name).read_bytes()


def test_a_run_whose_driver_is_killed_is_gone_on_with(start, model, data, expected, tmp_path):
    output = tmp_path / "out"
    process = start(*flags(model, data, output))
    while len(list(output.glob("*.parquet"))) < 3:
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    out = output_of(start(*flags(model, data, output)))
    kept = int(out.split("kept ")[1].split(",")[0])
    assert 3 <= kept < PIECES and f"tweets {(PIECES - kept) * ROWS}" in out
    assert rows_of(output) == expected


def test_the_cluster_of_the_docs_is_one_of_ray(start, tmp_path):
    code = """
import sys, yaml
from ray.autoscaler._private.util import prepare_config, validate_config
with open(sys.argv[1]) as file:
    config = prepare_config(yaml.safe_load(file))
validate_config(config)
print(sorted(config["available_node_types"]), config["head_node_type"])
"""
    assert "['gpus', 'head'] head" in output_of(start("-c", code, ROOT / "configs" / "ray.yaml"))


def test_an_error_is_raised_as_it_was_and_work_that_ends_its_workers_is_given_up(start, tmp_path):
    output_of(start("-c", WORK))
    [whole, failed, killed] = json.loads((tmp_path / "found.json").read_text())
    assert whole == [0, 1, 2, 3, 4, 5]
    assert failed == "OSError: three cannot be read"
    assert killed.startswith("RuntimeError: Workers of Ray have ended 4 times over 3, often for lack of memory")
