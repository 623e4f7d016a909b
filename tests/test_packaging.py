"""Wheel and sdist: what they hold, and that the wheel alone does all that a checkout does, in another folder."""

import ast
import importlib.metadata
import importlib.util
import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

from hub_server import HubServer
from tiny_world import flags


ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def tracked() -> set[str]:
    """The files of the repository."""
    if not (ROOT / ".git").exists():
        pytest.skip("needs a clone: this is no git repository")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return {path for path in listed.split("\0") if (ROOT / path).is_file()}


@pytest.fixture(scope="module")
def archives(tracked, tmp_path_factory) -> Path:
    """Folder with sdist and wheel, built from a copy of the repository's files beside tweets that belong to others."""
    pytest.importorskip("build", reason="needs build: pip install -e '.[dev]'")
    source, output = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    for path in tracked:
        (source / path).parent.mkdir(parents=True, exist_ok=True)
        (source / path).write_bytes((ROOT / path).read_bytes())
    (source / "datasets" / "twitter2017" / "train.txt").write_text("IMGID:1\nhi\tO\n")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", output, source]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return output


@pytest.fixture(scope="module")
def away(archives, tmp_path_factory) -> Path:
    """The Python of a venv with the wheel, and of this Python's packages all but this project."""
    folder = tmp_path_factory.mktemp("away")
    venv.create(folder)
    place = Path(sysconfig.get_path("purelib", "venv", {"base": str(folder), "platbase": str(folder)}))
    with zipfile.ZipFile(next(archives.glob("*.whl"))) as wheel:
        wheel.extractall(place)
    # A line of a .pth file: behind the venv's own packages, and what is editable there is not followed.
    (place / "shared.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder / "bin" / "python"


def run(python: Path, *arguments, cwd: Path, **environment) -> str:
    inherited = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "HF_HUB_OFFLINE")}
    done = subprocess.run(
        [python, *map(str, arguments)], cwd=cwd, env=inherited | environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_sdist_holds_the_whole_repository_and_no_tweets_of_others(archives, tracked):
    with tarfile.open(next(archives.glob("*.tar.gz"))) as sdist:
        names = {name.partition("/")[2] for name in sdist.getnames()}
    assert tracked <= names
    assert "datasets/twitter2017/train.txt" not in names


@pytest.mark.slow
def test_the_wheel_holds_the_model_s_files_and_the_package_and_nothing_else(archives, tracked):
    with zipfile.ZipFile(next(archives.glob("*.whl"))) as wheel:
        names = {name for name in wheel.namelist() if ".dist-info/" not in name}
    package = {path for path in tracked if path.startswith("hamlearning/")}
    assert names == {f"{module}.py" for module in PROJECT["tool"]["setuptools"]["py-modules"]} | package


@pytest.mark.slow
def test_the_wheel_puts_no_other_name_at_the_top_of_site_packages(archives):
    with zipfile.ZipFile(next(archives.glob("*.whl"))) as wheel:
        tops = {name.partition("/")[0].removesuffix(".py") for name in wheel.namelist() if ".dist-info/" not in name}
    assert {name for name in tops if "hamlearning" not in name} == {"modeling_faster_rcnn_vg", "run_mner"}


@pytest.mark.slow
def test_every_module_at_the_top_is_in_the_wheel(tracked):
    modules = {path.removesuffix(".py") for path in tracked if path.endswith(".py") and "/" not in path}
    assert modules == set(PROJECT["tool"]["setuptools"]["py-modules"])


@pytest.mark.parametrize("module", PROJECT["tool"]["setuptools"]["py-modules"])
def test_what_a_module_imports_at_its_top_is_installed_with_the_project(module):
    """Not by chance, with what only tests need. One module has an extra of its own."""
    wanted = PROJECT["project"]["dependencies"] + {"exported_hamlearning": ["openvino"]}.get(module, [])
    declared = {re.split("[<>=]", requirement)[0].lower() for requirement in wanted}
    distributions = importlib.metadata.packages_distributions()
    tree = ast.parse((ROOT / f"{module}.py").read_text(encoding="utf-8"))
    for node in [*tree.body, *(inner for outer in tree.body if isinstance(outer, ast.Try) for inner in outer.body)]:
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module] if isinstance(node, ast.ImportFrom) and not node.level else []
        for name in (name.partition(".")[0] for name in names):
            ours = {"hamlearning", *PROJECT["tool"]["setuptools"]["py-modules"]}
            if name not in sys.stdlib_module_names and name not in ours:
                assert declared & {found.lower().replace("_", "-") for found in distributions[name]}, name


@pytest.mark.slow
def test_an_installed_wheel_trains_publishes_exports_and_reports_away_from_a_checkout(away, world, tmp_path):
    where = run(away, "-c", "import run_mner; print(run_mner.__file__)", cwd=tmp_path)
    assert Path(where.strip()).is_relative_to(away.parents[1])
    model = tmp_path / "model"
    with HubServer() as hub:
        environment = hub.env | {"HF_HOME": str(tmp_path / "home"), "OMP_NUM_THREADS": "1"}
        settings = {"num_train_epochs": 1, "push_to_hub": True, "hub_model_id": "org/wheel"}
        run(away, "-m", "run_mner", *flags(world, model, **settings), cwd=tmp_path, **environment)
        run(away, "-m", "hamlearning", "publish", model, "org/again", cwd=tmp_path, **environment)
        assert set(hub.files("org/again")) == set(hub.files("org/wheel")) >= {"modeling_hamlearning.py", "handler.py"}
    if importlib.util.find_spec("openvino") is not None:
        run(away, "-m", "hamlearning", "export", model, "exported", cwd=tmp_path)
        assert (tmp_path / "exported" / "exported_hamlearning.py").is_file()
    run(away, "-m", "hamlearning", "report", model / "predictions_test.jsonl", "--output", "report.html", cwd=tmp_path)
    assert (tmp_path / "report.html").stat().st_size > 10_000
