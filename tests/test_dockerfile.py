"""The Dockerfile, without Docker: what its steps name is there, and they do in a fresh environment what they say."""

import fnmatch
import glob
import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import time
import tomllib
import urllib.request
from pathlib import Path
from typing import NamedTuple

import pytest

from conftest import ROOT
from hamlearning.cli import parse
from own_environment import NO_INDEX


class Step(NamedTuple):
    """An instruction, and what stands behind it."""

    name: str
    value: str


def steps() -> list[Step]:
    """Of the Dockerfile, without its comments."""
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    lines = re.sub(r"^#.*\n", "", text, flags=re.MULTILINE).replace("\\\n", " ").splitlines()
    return [Step(*line.split(maxsplit=1)) for line in lines if line.strip()]


def values(name: str) -> list[str]:
    return [step.value for step in steps() if step.name == name]


def is_sent(path: str) -> bool:
    """Whether `.dockerignore` lets a file into the build: the last line that speaks of it or its folder decides."""
    sent = True
    for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines():
        pattern = line.removeprefix("!").removeprefix("**/")
        if not line.startswith("#") and any(fnmatch.fnmatch(part, pattern) for part in (path, *Path(path).parts)):
            sent = line.startswith("!")
    return sent


def copied(value: str) -> list[tuple[str, str]]:
    """What a COPY brings: files and folders of the clone, each with its place in the image."""
    *sources, target = value.split()
    found = [path for source in sources for path in sorted(glob.glob(source, root_dir=ROOT))]
    assert all(glob.glob(source, root_dir=ROOT) for source in sources), f"COPY {value}: not there"
    return [(path, os.path.join(target, path) if target.endswith("/") else target) for path in found]


def test_what_it_copies_is_there_and_sent():
    paths = [path for value in values("COPY") for path, _ in copied(value)]
    assert {"pyproject.toml", "hamlearning", "serving_hamlearning.py"} <= set(paths)
    assert all(is_sent(path) for path in paths)


@pytest.mark.parametrize(
    "path", ["outputs/demo/model.safetensors", "datasets/twitter2017/train.txt", ".venv/x", ".git"]
)
def test_weights_and_tweets_are_not_sent(path):
    assert not is_sent(path)


def test_it_installs_every_module_of_the_model():
    modules = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["py-modules"]
    paths = {path for value in values("COPY") for path, _ in copied(value)}
    assert {f"{module}.py" for module in modules} <= paths


def test_its_python_and_its_extras_are_the_project_s():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    [image] = values("FROM")
    assert image == f"python:{project['requires-python'].removeprefix('>=')}-slim"
    [extras] = re.findall(r'"\.\[([\w,]+)\]"', " ".join(values("RUN")))
    assert set(extras.split(",")) <= project["optional-dependencies"].keys()


def test_its_command_is_one_of_the_cli_and_listens_on_the_exposed_port():
    [command] = values("CMD")
    program, verb, *flags = json.loads(command)
    options = parse(verb, flags)
    assert (program, verb, options["model"]) == ("hamlearning", "serve", "/model")
    assert values("EXPOSE") == [str(options["port"])]
    assert values("USER") == ["server"]


@pytest.mark.slow
def test_its_steps_in_a_fresh_environment_make_a_server(trained_folder, tmp_path):
    """FROM is a venv of this Python; WORKDIR and /model lie in `tmp_path`, and there is no other user."""
    python = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", python], check=True)
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment = kept | {"PATH": f"{python}/bin:{os.environ['PATH']}"}
    place = tmp_path
    for step in steps():
        if step.name == "WORKDIR":
            place = tmp_path / "root" / step.value.lstrip("/")
            place.mkdir(parents=True, exist_ok=True)
        elif step.name == "ENV":
            environment |= dict(pair.split("=", 1) for pair in shlex.split(step.value))
        elif step.name == "COPY":
            for source, target in copied(step.value):
                (shutil.copytree if (ROOT / source).is_dir() else shutil.copy)(ROOT / source, place / target)
        elif step.name == "RUN" and not step.value.startswith("useradd"):
            done = subprocess.run(["sh", "-c", step.value], cwd=place, env=environment, capture_output=True, text=True)
            if done.returncode and any(sign in done.stderr for sign in NO_INDEX):
                pytest.skip("pip reaches no index of packages")
            assert done.returncode == 0, f"RUN {step.value}\n{done.stderr[-5000:]}"
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    [command] = values("CMD")
    command = [str(trained_folder) if part == "/model" else part for part in json.loads(command)]
    command[command.index("--port") + 1] = str(port)
    with open(tmp_path / "log", "w+") as log:
        server = subprocess.Popen(command, cwd=place, env=environment, stdout=log, stderr=subprocess.STDOUT)
        try:
            end = time.monotonic() + 300
            while "answers POST" not in (said := (tmp_path / "log").read_text()):
                assert server.poll() is None and time.monotonic() < end, said[-5000:]
                time.sleep(0.5)
            request = urllib.request.Request(f"http://127.0.0.1:{port}/predict", b'{"inputs": "i met ann today"}')
            with urllib.request.urlopen(request, timeout=60) as answer:
                assert isinstance(json.loads(answer.read()), list)
        finally:
            server.terminate()
            assert server.wait(timeout=120) == 0
