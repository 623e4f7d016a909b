"""The house: what may import what, and which libraries a verb needs."""

import ast
import importlib.metadata
import re
import subprocess
import sys
import tomllib

import pytest

from conftest import ROOT


PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
MODEL = set(PROJECT["tool"]["setuptools"]["py-modules"]) - {"run_mner"}
# From the bottom to the top: a room imports those before it. `training.signals` is of the command, too.
ROOMS = ("data", "pictures", "scores", "tagging", "hub", "rivals", "training", "paper")
FILES = sorted((ROOT / "hamlearning").rglob("*.py"))


def imported(path, at_top_only=False):
    """The modules that a file imports: `hamlearning.data.tweets`, `torch`, `.words_hamlearning`, ..."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = tree.body if at_top_only else ast.walk(tree)
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add("." * node.level + (node.module or ""))
            if node.module in {f"hamlearning.{room}" for room in ROOMS}:
                found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def room_of(module: str) -> str | None:
    parts = module.split(".")
    return parts[1] if parts[0] == "hamlearning" and len(parts) > 1 else None


@pytest.mark.parametrize("module", sorted(MODEL))
def test_the_models_files_import_nothing_of_the_workshop(module):
    names = {name.lstrip(".").partition(".")[0] for name in imported(ROOT / f"{module}.py")}
    assert not names & {"hamlearning", "run_mner"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_room_imports_those_before_it(path):
    room = path.relative_to(ROOT / "hamlearning").parts[0]
    if room not in ROOMS:
        return  # the command, and what stands beside it: above all rooms
    used = {room_of(name) for name in imported(path)} - {None}
    assert used <= set(ROOMS[: ROOMS.index(room) + 1])


def test_no_module_imports_itself_by_way_of_others():
    graph = {}
    for path in FILES:
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        graph[name.removesuffix(".__init__")] = imported(path, at_top_only=True)
    done: set[str] = set()

    def visit(name, path):
        assert name not in path, f"a circle: {' -> '.join([*path, name])}"
        if name not in done:
            for other in graph[name] & graph.keys():
                visit(other, [*path, name])
            done.add(name)

    for name in graph:
        visit(name, [])


def test_the_script_beside_the_model_is_thin():
    assert len((ROOT / "run_mner.py").read_text(encoding="utf-8").splitlines()) < 60


def test_long_functions_say_why_they_are():
    """Over 60 lines beside its docstring: none whose docstring does not give the reason, "It is long"."""
    for path in [*FILES, ROOT / "run_mner.py"]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                doc = ast.get_docstring(node) or ""
                body = node.body[1:] if doc else node.body
                length = node.end_lineno - body[0].lineno + 1 if body else 0
                assert length <= 60 or "It is long" in " ".join(doc.split()), (
                    f"{path.name}: {node.name} has {length} lines"
                )


def test_no_room_is_named_for_nothing():
    names = {path.stem for path in FILES} | {path.parent.name for path in FILES}
    assert not names & {"utils", "common", "helpers", "misc", "core"}


@pytest.fixture(scope="module")
def distributions():
    return importlib.metadata.packages_distributions()


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_a_file_imports_is_installed_with_the_project(path, distributions):
    """Not by chance, with what only tests need."""
    extras = PROJECT["project"]["optional-dependencies"]
    offered = [requirement for extra in extras.keys() - {"dev", "fuzz"} for requirement in extras[extra]]
    required = [*PROJECT["project"]["dependencies"], *offered]
    declared = {re.split(r"[<>=\[]", requirement)[0].lower() for requirement in required}
    for name in sorted({name.partition(".")[0] for name in imported(path)} - {""}):
        if name not in sys.stdlib_module_names and name not in MODEL | {"hamlearning"}:
            found = distributions.get(name, [name])  # an extra need not be installed
            assert declared & {distribution.lower().replace("_", "-") for distribution in found}, name


HEAVY = {"torch", "transformers", "datasets", "evaluate", "sklearn", "pyarrow", "matplotlib", "huggingface_hub"}


def libraries_of(command: list[str], cwd) -> set[str]:
    """The heavy libraries that a command imports."""
    code = f"""
import sys
from hamlearning.cli import main
try:
    status = main({command!r})
except SystemExit as end:
    status = end.code
assert not status, status
print("IMPORTED", *(set(sys.modules) & {HEAVY!r}))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.splitlines()[-1].split()[1:])


VERBS = "predict extract score compare report tables prepare fetch publish export serve info".split()


@pytest.mark.parametrize("command", [["--help"], *([verb, "--help"] for verb in VERBS)], ids=" ".join)
def test_a_page_of_help_imports_no_library(command, tmp_path):
    assert libraries_of(command, tmp_path) == set()


def test_the_flags_of_training_need_what_trainings_arguments_are_made_of_and_no_more(tmp_path):
    assert libraries_of(["train", "--help"], tmp_path) <= {"torch", "transformers", "huggingface_hub"}


@pytest.fixture
def predictions(tmp_path):
    """gold.txt, and one.jsonl and two.jsonl with predictions of it."""
    (tmp_path / "gold.txt").write_text("IMGID:1\nAda\tB-PER\nsings\tO\n\nIMGID:2\nRome\tB-LOC\n\n")
    for name, tag in (("one", "B-PER"), ("two", "O")):
        (tmp_path / f"{name}.jsonl").write_text(
            f'{{"id": "1", "tokens": ["Ada", "sings"], "ner_tags": ["B-PER", "O"], "predictions": ["{tag}", "O"]}}\n'
            '{"id": "2", "tokens": ["Rome"], "ner_tags": ["B-LOC"], "predictions": ["B-LOC"]}\n'
        )
    return tmp_path


@pytest.mark.parametrize(
    "command",
    [
        ["score", "gold.txt", "one.jsonl", "--train", "gold.txt"],
        ["compare", "one.jsonl", "two.jsonl"],
        ["report", "one.jsonl", "two.jsonl"],
    ],
    ids=lambda command: command[0],
)
def test_text_is_scored_without_any_heavy_library(command, predictions):
    assert libraries_of(command, predictions) == set()
