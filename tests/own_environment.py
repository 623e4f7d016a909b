"""A program of others in an environment of its own, beside the libraries of the one that the tests run in."""

import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path

import pytest


ROOT = Path(__file__).parents[1]
# What pip says where it reaches no index, also behind `PIP_NO_INDEX`; a version that is not there it lists others for.
NO_INDEX = ("(from versions: none)", "ConnectionError", "Max retries exceeded", "ReadTimeoutError")


class OwnEnvironment:
    """A fresh environment with pinned programs; all else is that of the tests, and this checkout.

    Args:
        folder: where it is made.
        requirements: what pip installs, each with its version, and nothing that they depend on: name what the
            tests' environment lacks.
    """

    def __init__(self, folder: Path, requirements: Sequence[str]):
        loose = [requirement for requirement in requirements if "==" not in requirement]
        assert not loose, f"give the version of {loose}"
        subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True, timeout=300)
        self.folder, self.python = folder, folder / "venv" / "bin" / "python"
        asked = [self.python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
        own = Path(subprocess.check_output(asked, text=True).strip())
        # Behind its own packages, so that another version of one that the tests have too is the one imported.
        places = dict.fromkeys([str(ROOT), sysconfig.get_path("purelib"), sysconfig.get_path("platlib")])
        (own / "tests_environment.pth").write_text("\n".join(places) + "\n")
        options = ["--no-deps", "--disable-pip-version-check", "--no-input", "--retries", "1", "--timeout", "30"]
        pip = subprocess.run(
            [self.python, "-m", "pip", "install", "--quiet", *options, *requirements],
            capture_output=True,
            text=True,
            timeout=900,
        )
        if pip.returncode and any(sign in pip.stderr for sign in NO_INDEX):
            pytest.skip(f"needs {', '.join(requirements)}, and pip reaches no index of packages")
        assert pip.returncode == 0, pip.stderr

    def run(self, code: str, *arguments: object, timeout: float = 600) -> str:
        """What a piece of Python prints; its arguments are `sys.argv[1:]`. An error fails the test."""
        done = subprocess.run(
            [self.python, "-c", code, *map(str, arguments)],
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=timeout,
        )
        assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-6000:]}"
        return done.stdout
