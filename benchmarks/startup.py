"""How long a command takes to say something: whole processes, those of a build of before and of today in turn.

```bash
git worktree add ../before 8c15d4e
python benchmarks/startup.py --before ../before --gold twitter2015/train.txt --predictions predictions.txt
```

Each line is the median of `--rounds` runs: seconds on the clock, and the most memory that the process held. The build
of before is run by the same Python, from its folder; without `--before` only today's is. This process stays small:
Linux counts what a parent held when it forked as its child's.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from hamlearning.data.released import read_tweets


ROOT = Path(__file__).parents[1]


class Case(NamedTuple):
    """A command of today and of before; None: there was none."""

    title: str
    now: list[str]
    before: list[str] | None


def cases(gold: Path | None, predictions: Path | None, jsonl: Path) -> list[Case]:
    """All that is measured."""
    helps = {
        "--help": None, "train --help": "run_mner.py",
        "predict --help": "run_mner.py", "extract --help": "run_mner.py",
        "score --help": "evaluation.py", "compare --help": "evaluation.py", "report --help": "error_report.py",
        "tables --help": "experiments.py", "prepare --help": "datasets/prepare.py", "fetch --help": None,
        "publish --help": "publishing.py", "export --help": "exported_hamlearning.py", "serve --help": None,
        "info --help": None,
    }  # fmt: skip
    found = [
        Case(line, ["-m", "hamlearning", *line.split()], None if script is None else [script, "--help"])
        for line, script in helps.items()
    ]
    if gold is not None and predictions is not None:
        files = [str(gold), str(predictions)]
        found += [
            Case("score text files", ["-m", "hamlearning", "score", *files], ["evaluation.py", *files]),
            Case(
                "compare text files",
                ["-m", "hamlearning", "compare", *files, files[1]],
                ["evaluation.py", *files, "--against", files[1]],
            ),
        ]
    one = str(jsonl)
    return [
        *found,
        Case("score .jsonl", ["-m", "hamlearning", "score", one], ["evaluation.py", one]),
        Case("compare .jsonl", ["-m", "hamlearning", "compare", one, one], ["evaluation.py", one, "--against", one]),
        Case(
            "report .jsonl",
            ["-m", "hamlearning", "report", one, "--output", os.devnull],
            ["error_report.py", one, "--output", os.devnull],
        ),
    ]


def write_jsonl(path: Path, gold: Path | None) -> None:
    """Predictions of the gold file's tweets, all O; of invented tweets if there is no file."""
    tweets = {"tokens": [["Ada", "sings"]] * 3257, "ner_tags": [["B-PER", "O"]] * 3257}
    if gold is not None:
        tweets = read_tweets(gold)
    with path.open("w", encoding="utf-8") as file:
        for number, (tokens, tags) in enumerate(zip(tweets["tokens"], tweets["ner_tags"], strict=True)):
            row = {"id": str(number), "tokens": tokens, "ner_tags": tags, "predictions": ["O"] * len(tags)}
            file.write(json.dumps(row) + "\n")


def measure(command: list[str], folder: Path) -> tuple[float, float]:
    """Seconds and MB of a process that runs from a folder."""
    command = [sys.executable, *command]
    # The folder alone: an editable install of another build must not be what is imported.
    environment = os.environ | {"PYTHONPATH": str(folder)}
    start = time.perf_counter()
    with subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    ) as process:
        said = process.stderr.read() if process.stderr else b""
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} in {folder} failed: {said.decode()}")
    return time.perf_counter() - start, usage.ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, help="folder of the build to compare with")
    parser.add_argument("--gold", type=Path, help="a tagged text file")
    parser.add_argument("--predictions", type=Path, help="a system's text file of the same tweets")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="+", help="titles, or their beginnings")
    options = parser.parse_args()
    lines = []
    with tempfile.TemporaryDirectory() as folder:
        jsonl = Path(folder) / "predictions.jsonl"
        write_jsonl(jsonl, options.gold)
        files = [path and path.resolve() for path in (options.gold, options.predictions)]
        for case in cases(*files, jsonl):
            if options.only and not any(case.title.startswith(title) for title in options.only):
                continue
            runs: dict[str, list[tuple[float, float]]] = {"before": [], "now": []}
            for _ in range(options.rounds):
                if options.before is not None and case.before is not None:
                    runs["before"].append(measure(case.before, options.before.resolve()))
                runs["now"].append(measure(case.now, ROOT))
            medians = {
                name: [statistics.median(values) for values in zip(*found, strict=True)]
                for name, found in runs.items()
                if found
            }
            before = medians.get("before")
            lines.append(
                [
                    f"`{case.title}`",
                    "-" if before is None else f"{before[0]:.2f} s, {before[1]:,.0f} MB",
                    f"{medians['now'][0]:.2f} s, {medians['now'][1]:,.0f} MB",
                    "-" if before is None else f"{before[0] / medians['now'][0]:.1f}",
                ]
            )
    for line in (["command", "before", "now", "times faster"], ["---"] * 4, *lines):
        print("| " + " | ".join(line) + " |")


if __name__ == "__main__":
    main()
