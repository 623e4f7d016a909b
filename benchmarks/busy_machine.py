#!/usr/bin/env python
"""Extraction, a training step and a request to the handler, idle and beside one busy process.

```bash
python benchmarks/busy_machine.py --model outputs/demo --json busy.json
```

Two ways of waiting take turns: that of `hamlearning.threads`, which our programs start with, and PyTorch's own, whose
threads turn in circles. Beside a program that keeps one core busy a piece of work may take 2.5 times as long as idle;
and idle, our way may cost 3% at most. Work is done in processes of their own, with `--threads` threads: features of
JPEG files by EfficientNet-Lite0 and a grid, steps of a training of the model on made-up tweets with features of 15
regions, and requests of a text and a picture. Reported are medians over `--rounds`, and the medians of the ratios
within a round.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from extraction_speed import write_pictures
from pictures_speed import EXTRACTION, ROOT, Side, save_vision_model
from workload import print_table


WORK = ("extraction", "training", "serving")
TRAINING = """
def prepare(options):
    sys.path.insert(0, options["benchmarks"])
    import numpy as np
    from training_step import Clock, train_epoch
    from workload import made_up_tweets, make_trainer
    tweets, tokenizer = made_up_tweets(options["steps"] * 16, np.random.default_rng(1))
    folder = tempfile.mkdtemp(dir=options["target"])
    trainer = make_trainer(options["model"], "regions", tweets, tokenizer, 16, folder)
    return lambda: train_epoch(trainer, "fp32", Clock()) and None
"""
SERVING = """
def prepare(options):
    import base64
    from serving_hamlearning import EndpointHandler
    handler = EndpointHandler(options["model"])
    picture = base64.b64encode(Path(options["pictures"], "1.jpg").read_bytes()).decode()
    request = {"inputs": {"text": "had lunch with Maria Lopez at Lake Geneva", "image": picture}}
    def answer():
        for _ in range(options["requests"]):
            handler(request)
    return answer
"""
PROGRAMS = {"extraction": EXTRACTION, "training": TRAINING, "serving": SERVING}


def compare(work: str, settings: dict[str, Any], threads: int, rounds: int) -> dict[str, dict[str, float]]:
    """Both ways of waiting, idle and beside a busy process."""
    ours = {name for name in os.environ if name.startswith(("GOMP_", "KMP_")) or name == "OMP_WAIT_POLICY"}
    if ours:
        raise ValueError(f"{', '.join(sorted(ours))} is set: unset it, ways of waiting are what is compared.")
    sides = {
        name: Side(ROOT, PROGRAMS[work], settings | {"shares": shares}, OMP_NUM_THREADS=str(threads))
        for name, shares in {"ours": True, "PyTorch's": False}.items()
    }
    seconds: dict[str, list[float]] = {f"{name}, {load}": [] for name in sides for load in ("idle", "busy")}
    for round_ in range(rounds):
        for load in ("idle", "busy"):
            other = subprocess.Popen([sys.executable, "-c", "while True: pass"]) if load == "busy" else None
            try:
                for name, side in sides.items():
                    seconds[f"{name}, {load}"].append(side()["seconds"])
            finally:
                if other is not None:
                    other.kill()
                    other.wait()
        print(f"{work}, round {round_ + 1}:", {n: round(v[-1], 2) for n, v in seconds.items()}, flush=True)
    for side in sides.values():
        side.__exit__()

    def ratio(one: str, other: str) -> float:
        return statistics.median(a / b for a, b in zip(seconds[one], seconds[other], strict=True))

    found = {name: statistics.median(values) for name, values in seconds.items()}
    ratios = {f"{name}, busy over idle": ratio(f"{name}, busy", f"{name}, idle") for name in sides}
    return found | ratios | {"idle, ours over PyTorch's": ratio("ours, idle", "PyTorch's, idle")}


def main() -> None:
    """Prints a table, and writes it as JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="a trained model with its vision model")
    parser.add_argument("--work", nargs="+", choices=WORK, default=list(WORK))
    parser.add_argument("--pictures", type=int, default=60)
    parser.add_argument("--steps", type=int, default=20, help="of training")
    parser.add_argument("--requests", type=int, default=40)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", help="also write the figures here")
    options = parser.parse_args()

    figures: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        pictures, vision_model, target = (Path(folder, name) for name in ("pictures", "vision_model", "target"))
        for made in (pictures, target):
            made.mkdir()
        write_pictures(pictures, options.pictures, 1)
        save_vision_model("lite0_grid", None, vision_model)
        settings = {"vision_model": str(vision_model), "pictures": str(pictures), "target": str(target)}
        settings |= {"model": str(options.model.resolve()), "benchmarks": str(ROOT / "benchmarks")}
        settings |= {"precision": "float32", "steps": options.steps, "requests": options.requests}
        for work in options.work:
            figures[work] = compare(work, settings, options.threads, options.rounds)
    names = list(next(iter(figures.values())))
    print()
    print_table(["", *figures], [[name, *(f"{found[name]:.2f}" for found in figures.values())] for name in names])
    if options.json:
        Path(options.json).write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
