"""Pin every package that pyproject.toml names to its lower bound, a line each: constraints for pip.

$ python .ci/lowest_versions.py > constraints.txt && pip install -c constraints.txt ".[dev]"
"""

import re
import tomllib
from pathlib import Path


BOUND = re.compile(r"(?P<name>[\w.-]+)(\[[\w,]+\])?>=(?P<version>[\w.]+)(?P<upper>,<[\w.]+)?")


def lowest_versions(pyproject: Path) -> list[str]:
    """`name==version` of each dependency, those of the extras too.

    Raises:
        ValueError: a dependency has no lower bound, so nobody can say which version is the lowest.
    """
    project = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]
    pins = []
    for requirement in [*project["dependencies"], *sum(project["optional-dependencies"].values(), [])]:
        if requirement.startswith(f"{project['name']}["):
            continue
        bound = BOUND.fullmatch(requirement)
        if bound is None:
            raise ValueError(f"{pyproject}: {requirement!r} has no lower bound: write it as NAME>=VERSION")
        pins.append(f"{bound['name']}=={bound['version']}")
    return sorted(pins)


if __name__ == "__main__":
    print("\n".join(lowest_versions(Path(__file__).parents[1] / "pyproject.toml")))
