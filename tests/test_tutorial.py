"""The notebook of the docs: it runs from top to bottom in a clone, and what it publishes answers."""

import json
import os
import shutil
import sys
from pathlib import Path

import pytest

from conftest import ROOT
from hub_server import HubServer


NOTEBOOK = ROOT / "docs" / "tutorial.ipynb"
JUPYTER = (
    *("nbclient==0.11.0", "nbformat==5.11.1", "ipykernel==7.4.0", "ipython==9.18.1", "jupyter_client==8.10.0"),
    *("jupyter_core==5.9.1", "traitlets==5.16.1", "pyzmq==27.3.0", "tornado==6.6.1", "comm==0.2.3"),
    *("matplotlib-inline==0.2.2", "nest-asyncio2==1.7.4", "debugpy==1.8.22", "fastjsonschema==2.22.3"),
    *("jsonschema==4.26.0", "jsonschema-specifications==2025.9.1", "referencing==0.37.0", "rpds-py==2026.9.1"),
    *("decorator==5.3.1", "ipython_pygments_lexers==1.1.1", "jedi==0.20.1", "parso==0.8.7", "pexpect==4.9.0"),
    *("ptyprocess==0.7.0", "prompt_toolkit==3.0.53", "wcwidth==0.9.4", "pure_eval==0.2.4", "stack-data==0.6.3"),
    *("asttokens==3.0.2", "executing==2.3.0", "psutil==7.2.2"),
)
RUN = """
import sys
import nbformat
from nbclient import NotebookClient
notebook = nbformat.read(sys.argv[1], as_version=4)
NotebookClient(notebook, timeout=1800, kernel_name="python3").execute()
nbformat.write(notebook, sys.argv[2])
"""


def output_of(notebook: dict, cell_id: str) -> str:
    """What a cell printed and showed, as text."""
    (cell,) = (cell for cell in notebook["cells"] if cell["id"] == cell_id)
    shown = [output.get("text") or output.get("data", {}).get("text/plain", "") for output in cell["outputs"]]
    return "".join("".join(text) for text in shown)


def test_no_output_is_committed():
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    assert all(not cell["outputs"] and cell["execution_count"] is None for cell in cells if "outputs" in cell)


@pytest.fixture
def clone(tmp_path) -> Path:
    """What git has of this project, without what was generated in it."""
    ignored = shutil.ignore_patterns("__pycache__", "generated", ".venv", "outputs", ".git", "results", "tests")
    return Path(shutil.copytree(ROOT, tmp_path / "clone", ignore=ignored))


@pytest.mark.slow
def test_it_runs_from_top_to_bottom(own_environment, clone, tmp_path, monkeypatch):
    environment = own_environment(*JUPYTER)
    places = [str(environment.python.parent), str(Path(sys.executable).parent), os.environ["PATH"]]
    with HubServer() as hub:
        for name, value in (hub.env | {"HF_HOME": str(tmp_path / "home"), "PYTHONPATH": str(clone)}).items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("PATH", os.pathsep.join(places))
        monkeypatch.chdir(clone / "docs")
        done = tmp_path / "done.ipynb"
        code = f"import os; os.chdir({str(clone / 'docs')!r})\n{RUN}"
        environment.run(code, "tutorial.ipynb", done, timeout=3000)
    notebook = json.loads(done.read_text(encoding="utf-8"))
    assert "F1 on the test tweets: " in output_of(notebook, "scores")
    assert "('Austin', 'LOC'" in output_of(notebook, "tag") and "('Austin', 'PER'" in output_of(notebook, "tag")
    assert "Austin LOC {'with': " in output_of(notebook, "explain")
    assert "of 150 tweets have a wrong tag" in output_of(notebook, "wrong")
    assert "'entity_group': 'LOC'" in output_of(notebook, "anywhere")
