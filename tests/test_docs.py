"""README and docs: every example runs as it stands, every link leads somewhere, every name is one of today."""

import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from datasets import Dataset, Image
from PIL import Image as Picture

from hamlearning.cli import VERBS
from hamlearning.data.released import read_tweets
from hub_server import HubServer
from tiny_world import write_tweets
from words_hamlearning import entity_spans


ROOT = Path(__file__).parents[1]
RUN_PAGES = "data training pictures serving results scores files rivals"
PAGES = ["README.md", *(f"docs/{name}.md" for name in RUN_PAGES.split())]
PROSE = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
ALL_PROSE = [*PROSE, ROOT / "SECURITY.md", *sorted(ROOT.glob("datasets/*/README.md")), ROOT / "space" / "README.md"]
# What no test can run, by its line, and why. A block runs as a whole or not at all.
NOT_RUN = {
    "make demo": "installs from PyPI into the clone's own venv; CI runs it",
    "make test": "runs this test",
    ". .venv/bin/activate": "of the venv that `make demo` makes",
    "hf auth login": "asks for a token at the terminal, and the Hub for its owner",
    "hamlearning fetch twitter2017": "downloads from GitHub; tests/data holds it against a server of its own",
    'pip install -e ".[export]"': "PyPI",
    'pip install -e ".[serve]"': "PyPI",
    "docker build -t hamlearning .": "needs Docker; tests/test_dockerfile.py runs the steps of the file",
    'docker run --rm -p 8000:8000 --shm-size 1g -v "$PWD/outputs/demo:/model:ro" hamlearning': "the same",
    "pip install gradio": "PyPI",
}
# What loads or trains a model, or opens a server, takes more than a few seconds.
HEAVY = re.compile(
    r"hamlearning (train|predict|extract|export|serve|publish|tables|calibrate|info outputs)|accelerate|ORG/|"
    r"space/app\.py|make_sample|pipeline\(|Tagger\(|ner\(|from_pretrained|vision_model|EndpointHandler|"
    r"outputs/(shards|probable|demo/results|demo/predictions_v)"
)
SECONDS = 900  # that an example may take
# Runs the blocks of a page one behind the other, as a notebook does.
SESSION = """
import json, os, sys, traceback
replies = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)
names = {"__name__": "__main__"}
for line in sys.stdin:
    code, place = json.loads(line)
    error = None
    try:
        exec(compile(code, place, "exec"), names)
    except BaseException:
        error = traceback.format_exc()
    print(json.dumps(error), file=replies, flush=True)
"""


class Block(NamedTuple):
    """An example: the page, the line that it begins at, its language, and what it says."""

    page: str
    line: int
    language: str
    code: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def lines(self) -> list[str]:
        """Those that are no comments, without the comments behind them."""
        lines = (re.sub(r"(^|\s+)#.*", "", line) for line in self.code.splitlines())
        return [line for line in lines if line]


def blocks_of(page: str) -> list[Block]:
    text = (ROOT / page).read_text(encoding="utf-8")
    found = re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [Block(page, text.count("\n", 0, match.start()) + 1, match[1], match[2]) for match in found]


BLOCKS = [block for page in PAGES for block in blocks_of(page)]
EXAMPLES = [block for block in BLOCKS if block.language in ("bash", "python")]
RUN = [block for block in EXAMPLES if not set(block.lines) <= NOT_RUN.keys()]


class Reader:
    """Who reads a page in a clone and types what stands there."""

    def __init__(self, clone: Path, home: Path, hub: HubServer):
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGINGFACE_", "TRANSFORMERS_"))}
        self.clone = clone
        self.env = kept | hub.env | {
            "HOME": str(home),
            "HF_HOME": str(home / "huggingface"),
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(clone),  # its code, its results: not this checkout's
            "NO_PROXY": "127.0.0.1,localhost",
            "no_proxy": "127.0.0.1,localhost",
        }  # fmt: skip
        self.session: subprocess.Popen[str] | None = None
        self.log, self.python_log = home / "bash.log", home / "python.log"

    def run(self, block: Block) -> None:
        error = self.run_python(block) if block.language == "python" else self.run_bash(block.code)
        assert error is None, f"{block} does not run as it stands:\n{block.code}\n{error}"

    def run_bash(self, code: str) -> str | None:
        """What went wrong; None if nothing did. What the code leaves running is ended."""
        with self.log.open("w+") as log:
            process = subprocess.Popen(
                ["bash", "-euo", "pipefail", "-c", code],
                cwd=self.clone,
                env=self.env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            with suppress(subprocess.TimeoutExpired):
                process.wait(SECONDS)
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            log.seek(0)
            return None if process.returncode == 0 else f"exit code {process.returncode}\n{log.read()[-6000:]}"

    def run_python(self, block: Block) -> str | None:
        """What went wrong; None if nothing did. The blocks of a page share their names."""
        if self.session is None:
            self.session = subprocess.Popen(
                [sys.executable, "-u", "-c", SESSION],
                cwd=self.clone,
                env=self.env,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self.python_log.open("w"),
                text=True,
                start_new_session=True,
            )
        print(json.dumps([block.code, str(block)]), file=self.session.stdin, flush=True)
        if not select.select([self.session.stdout], [], [], SECONDS)[0]:
            return f"no end after {SECONDS} seconds"
        answer = self.session.stdout.readline()
        return (
            json.loads(answer)
            if answer
            else f"Python has ended: {self.log.with_suffix('.python').read_text()[-6000:]}"
        )

    def leave(self) -> None:
        if self.session is not None:
            with suppress(ProcessLookupError):
                os.killpg(self.session.pid, signal.SIGKILL)
            self.session.communicate()


def write_predictions(tweets: dict[str, list], path: Path, wrong: int) -> None:
    """Gold tags as a run's predictions, but for the first `wrong` tweets, in which nothing is found."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        for number, (id_, tokens, tags) in enumerate(zip(*tweets.values(), strict=True)):
            found = ["O"] * len(tags) if number < wrong else tags
            spans = entity_spans(found)
            entities = [{"type": type_, "start": first, "end": end, "score": 0.9} for type_, first, end in spans]
            line = {"id": id_, "tokens": tokens, "ner_tags": tags, "predictions": found, "entities": entities}
            print(json.dumps(line), file=file)


@pytest.fixture(scope="session")
def clone(tmp_path_factory, world) -> Path:
    """A clone with the small files that the examples take for there: all but the model of `make demo`."""
    clone = tmp_path_factory.mktemp("docs") / "clone"
    ignored = shutil.ignore_patterns("__pycache__", "generated")
    for name in ("hamlearning", "configs", "space", "datasets", "results"):
        shutil.copytree(ROOT / name, clone / name, ignore=ignored)
    for path in ROOT.glob("*.py"):
        shutil.copy(path, clone)
    for folder in ("my/tweets", "released/twitter2017"):
        for split, count in (("train", 24), ("valid", 8), ("test", 8)):
            write_tweets(clone / folder, split, count, seed=len(split))
    (clone / "my" / "pictures").mkdir()
    ids = [id_ for path in (clone / "my" / "tweets").glob("*.txt") for id_ in read_tweets(path)["id"]]
    for number, id_ in enumerate(ids):
        noise = np.random.default_rng(number).integers(0, 256, (40, 60, 3), np.uint8)
        Picture.fromarray(noise).save(clone / "my" / "pictures" / f"{id_}.png")
    (clone / "my" / "shards").mkdir()
    for shard in range(2):
        texts = [f"i met ann in oslo, take {number}" for number in range(4)]
        pictures = [str(clone / "my" / "pictures" / f"{id_}.png") for id_ in ids[:3]] + [None]
        rows = {"id": [f"{shard}-{n}" for n in range(4)], "text": texts, "image": pictures}
        data_set = Dataset.from_dict(rows).cast_column("image", Image())
        data_set.to_parquet(clone / "my" / "shards" / f"test-{shard:05d}-of-00002.parquet")
    tweets = read_tweets(clone / "my" / "tweets" / "test.txt")
    for name, wrong in (("one", 1), ("two", 3), ("demo", 2)):
        write_predictions(tweets, clone / "outputs" / name / "predictions_test.jsonl", wrong)
    released = read_tweets(clone / "released" / "twitter2017" / "test.txt")
    with (clone / "their_predictions.txt").open("w", encoding="utf-8") as file:
        for tokens, tags in zip(released["tokens"], released["ner_tags"], strict=True):
            print(*(f"{token} {tag} O" for token, tag in zip(tokens, tags, strict=True)), "", sep="\n", file=file)
    sizes = ["--train", "48", "--validation", "16", "--test", "16"]
    generated = clone / "datasets" / "sample" / "generated"
    script = clone / "datasets" / "sample" / "make_sample.py"
    subprocess.run([sys.executable, script, "--output", generated, *sizes], check=True)
    shutil.copytree(world / "backbone", generated / "backbone")
    return clone


@pytest.fixture(scope="session")
def docs_hub():
    with HubServer() as hub:
        yield hub


@pytest.fixture(scope="session")
def demo(clone, docs_hub, tmp_path_factory) -> Path:
    """The clone after `make demo`: its last command has run, on few tweets and with a tiny backbone."""
    reader = Reader(clone, tmp_path_factory.mktemp("home"), docs_hub)
    error = reader.run_bash("python run_mner.py configs/sample.yaml --output_dir outputs/demo")
    assert error is None, error
    for checkpoint in (clone / "outputs" / "demo").glob("checkpoint-*"):
        shutil.rmtree(checkpoint)
    return clone


@pytest.fixture(scope="session")
def readers(docs_hub):
    """The reader of each page, made when its first example is run."""
    readers: dict[str, Reader] = {}
    yield readers
    for reader in readers.values():
        reader.leave()


def is_heavy(block: Block) -> bool:
    return HEAVY.search(block.code) is not None


@pytest.mark.parametrize(
    "block", [pytest.param(block, id=str(block), marks=[pytest.mark.slow] * is_heavy(block)) for block in RUN]
)
def test_an_example_runs_as_it_stands(block, clone, docs_hub, readers, tmp_path_factory, request):
    if is_heavy(block):
        request.getfixturevalue("demo")
    if "hamlearning serve" in block.code:  # tests/hub/test_serving.py brings its own
        pytest.importorskip("ray", reason="needs Ray Serve: pip install -e '.[serve]'")
    if block.page not in readers:
        folder = tmp_path_factory.mktemp("page")
        shutil.copytree(clone, folder / "clone")
        readers[block.page] = Reader(folder / "clone", folder, docs_hub)
    reader = readers[block.page]
    if is_heavy(block) and not (reader.clone / "outputs" / "demo" / "config.json").is_file():
        shutil.copytree(clone / "outputs" / "demo", reader.clone / "outputs" / "demo", dirs_exist_ok=True)
        shutil.copytree(clone / "outputs" / "extracted", reader.clone / "outputs" / "extracted")
    reader.run(block)


def test_every_line_that_is_not_run_still_stands_in_the_docs():
    lines = {line for block in EXAMPLES for line in block.lines}
    assert NOT_RUN.keys() <= lines, "remove from NOT_RUN what the docs no longer hold"
    for block in EXAMPLES:
        assert block in RUN and not set(block.lines) & NOT_RUN.keys() or set(block.lines) <= NOT_RUN.keys(), (
            f"{block} mixes lines that are run with lines that are not"
        )


def test_blocks_are_bash_python_or_output():
    assert {block.language for block in BLOCKS} == {"bash", "python", ""}


def test_the_readme_is_a_page():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) < 250


def slugs(path: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    text = re.sub(r"^```.*?^```$", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", ALL_PROSE, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_relative_link_leads_somewhere(page):
    text = re.sub(r"^```.*?^```$|`[^`\n]*`", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith(("https://", "http://")):
            continue
        path, _, anchor = target.partition("#")
        place = (page.parent / path).resolve() if path else page
        assert place.exists(), f"{page.name} links to {target}"
        if anchor:
            assert anchor in slugs(place), f"{page.name} links to {target}: {place.name} has no such heading"


@pytest.mark.parametrize("page", PAGES)
def test_every_file_that_is_named_exists(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    names = re.findall(r"`((?:[\w.-]+/)*[\w-]+\.(?:py|yaml))`", text)
    names += re.findall(r"`((?:hamlearning|datasets|benchmarks|results|configs|space|docs)/[\w./-]*)`", text)
    served = {"handler.py"}  # of a published repo
    names = {name.replace("SCALE", "sample") for name in names} - served
    missing = [name for name in names if not (ROOT / name).exists()]
    assert not missing
    if page == "README.md":
        rooms = [path.name for path in (ROOT / "hamlearning").iterdir() if (path / "__init__.py").is_file()]
        assert all(f"hamlearning/{room}/" in text for room in rooms), "the map leaves out a room"
        assert all(f"`{path.name}`" in text for path in ROOT.glob("*.py")), "the map leaves out a file of the model"


@pytest.mark.parametrize("page", ALL_PROSE, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_verb_that_is_named_is_one(page):
    text = page.read_text(encoding="utf-8")
    named = re.findall(r"(?:`|^|\$ |-m )hamlearning ([a-z]+)", text, re.MULTILINE)
    assert set(named) <= VERBS.keys()
    gone = r"python (?:datasets/)?(?:evaluation|error_report|experiments|prepare|publishing|exported_hamlearning)\.py"
    assert not re.search(gone, text)


@pytest.mark.parametrize("page", PROSE, ids=lambda page: page.name)
def test_the_words_are_those_of_the_field(page):
    ours = r"\beyes?\b|\blook(?:s|ed|ing)? at\b|\bwhat (?:was seen|\w+ (?:see|sees|saw))\b"
    found = [line for line in page.read_text(encoding="utf-8").splitlines() if re.search(ours, line, re.IGNORECASE)]
    assert not found, "say vision model, extract features, visual features"


def test_every_test_that_the_docs_name_exists():
    tests = "\n".join(re.findall(r"def test_(\w+)", "\n".join(p.read_text() for p in (ROOT / "tests").rglob("*.py"))))
    for page in PROSE:
        text = page.read_text(encoding="utf-8")
        for name in re.findall(r"`(?:\.\.\.)?_?([a-z0-9]+(?:_[a-z0-9]+){3,})(?:_?\.\.\.|\[\w+\])?`", text):
            assert name in tests, f"{page.name} names the test {name}"
        for path in re.findall(r"\btests/[\w/]+\.py", text):
            assert (ROOT / path).is_file(), f"{page.name} names {path}"
