#!/usr/bin/env python
"""From pictures to features and to answers beside the build of an earlier commit, in turns on one machine.

```bash
git worktree add ../before 8c15d4e
python benchmarks/pictures_speed.py --before ../before --cases lite0_grid resnet152_grid --pictures 64
python benchmarks/pictures_speed.py --before ../before --cases resnet152_vg --pictures 4 --rounds 3 \
    --detector_checkpoint unc-nlp/frcnn-vg-finetuned
python benchmarks/pictures_speed.py --before ../before --cases pipeline first_answer --model outputs/demo \
    --model_before ../before/outputs/demo --data_dir datasets/sample/generated
```

Each side is a process of its own, run by this Python from the folder of its build, which computes when it is its turn
and sleeps else. Both load the same vision model, of random weights but for `--detector_checkpoint`, extract the same
JPEG files, and are warm: what is compiled is compiled before. `bfloat16` is today's build with
`--vision_precision bfloat16`. Features of today are compared with those of before, relative to the largest. A process
of an extraction says the most memory that it held.

The pipeline reads tweets with their pictures, one by one and eight at a time; `first_answer` is from `pipeline(...)`
to the first answer, in a fresh process, with what was compiled by the one before. `--model_before` is the same model
as the build of before has it. Reported are medians, and of ratios the medians of the ratios within a round.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch

from configuration_hamlearning import HamLearningVisionConfig
from extraction_speed import write_pictures
from hamlearning.data.features import VisualFeatures
from modeling_faster_rcnn_vg import load_published_checkpoint
from modeling_hamlearning_vision import HamLearningVisionModel
from workload import print_table


ROOT = Path(__file__).parents[1]
CASES = {
    "lite0_grid": ("tf_efficientnet_lite0", "grid"),
    "resnet152_grid": ("resnet152", "grid"),
    "resnet152_vg": ("resnet152", "faster_rcnn_vg"),
}
PIPELINE_CASES = ("pipeline", "first_answer")
# What a side runs, in both builds: `prepare(options)` gives a function, which each line of stdin calls once.
PROGRAM = """
import json, os, sys, tempfile, time
from pathlib import Path
replies = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)
options = json.loads(sys.argv[1])
if options.get("shares"):
    from hamlearning.threads import share_the_machine
    share_the_machine()

def peak():
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmHWM:"))

{prepare}

work = prepare(options)
work()
print("ready", file=replies, flush=True)
for _ in sys.stdin:
    start = time.perf_counter()
    found = work()
    reply = {{"seconds": time.perf_counter() - start, "megabytes": peak()}} | (found or {{}})
    print(json.dumps(reply), file=replies, flush=True)
"""
EXTRACTION = """
def prepare(options):
    from datasets import Dataset, DatasetDict
    from modeling_hamlearning_vision import HamLearningVisionModel
    try:
        from hamlearning.pictures.extraction import extract_visual_features
        from hamlearning.pictures.tweet_images import TweetImages
    except ImportError:
        from visual_extraction import TweetImages, extract_visual_features
    model = HamLearningVisionModel.from_pretrained(options["vision_model"])
    if options["precision"] != "float32":
        model.settle_precision(options["precision"])
    folder = Path(options["pictures"])
    ids = sorted(path.stem for path in folder.glob("*.jpg"))
    images = TweetImages(DatasetDict({"train": Dataset.from_dict({"id": ids})}), folder)
    def extract():
        target = tempfile.mkdtemp(dir=options["target"])
        path = extract_visual_features(images, model, target, 8, show_progress=False)
        return {"file": str(path)}
    return extract
"""
PIPELINE = """
def prepare(options):
    from PIL import Image
    from transformers import pipeline
    ner = pipeline(model=options["model"], trust_remote_code=True)
    tweets = [{"text": text, "image": Image.open(path)} for text, path in options["tweets"]]
    def answer():
        found = ner(tweets, batch_size=options["batch_size"])
        return {"entities": [[(e["entity_group"], e["start"], e["end"]) for e in tweet] for tweet in found]}
    return answer
"""
FIRST_ANSWER = """
import json, sys, time
from transformers import pipeline
model, text, picture = sys.argv[1:]
start = time.perf_counter()
ner = pipeline(model=model, trust_remote_code=True)
ner({"text": text, "image": picture})
print(time.perf_counter() - start)
"""


class Side:
    """A build that does one thing whenever it is asked to."""

    def __init__(self, build: Path, prepare: str, options: dict[str, Any], **environment: str):
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM.format(prepare=prepare), json.dumps(options)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=build_environment(build) | environment,
            cwd=build,
        )
        self._read()

    def __call__(self) -> dict[str, Any]:
        """Seconds of once more, the most memory so far, and what else it says."""
        assert self.process.stdin is not None
        print(file=self.process.stdin, flush=True)
        return json.loads(self._read())

    def _read(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{' '.join(self.process.args[:2])} ended: what it said stands above.")
        return line

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.process.stdin.close()  # pyright: ignore[reportOptionalMemberAccess]  # a pipe
        self.process.wait()


def build_environment(build: Path) -> dict[str, str]:
    """The environment of a process that imports this build."""
    return os.environ | {"PYTHONPATH": str(build.resolve())}


def take_turns(sides: dict[str, Callable[[], dict]], rounds: int) -> dict[str, list[dict]]:
    """What each side says, round by round."""
    said: dict[str, list[dict]] = {name: [] for name in sides}
    for round_ in range(rounds):
        for name, side in sides.items():
            said[name].append(side())
        print(f"round {round_ + 1}:", {n: round(replies[-1]["seconds"], 3) for n, replies in said.items()}, flush=True)
    return said


def summarise(said: dict[str, list[dict]], first: str = "before") -> dict[str, dict[str, float]]:
    """Median seconds, and how many times faster than the first: the median of the rounds' ratios."""
    seconds = {name: [reply["seconds"] for reply in replies] for name, replies in said.items()}
    return {
        name: {
            "seconds": statistics.median(values),
            "times": statistics.median(a / b for a, b in zip(seconds[first], values, strict=True)),
            "megabytes": max(reply.get("megabytes", 0) for reply in said[name]),
        }
        for name, values in seconds.items()
    }


# ------------------------------------------------------------------------------------------------------- extraction


def save_vision_model(case: str, checkpoint: str | None, folder: Path) -> None:
    """One with random weights; the detector's are those of the checkpoint, if it has any."""
    architecture, detector = CASES[case]
    fields: dict[str, Any] = {"global_backbone_config": {"architecture": architecture}, "detector": detector}
    model = HamLearningVisionModel(HamLearningVisionConfig(**fields))
    draw_weights(model.global_backbone.timm_model)
    if detector == "faster_rcnn_vg" and checkpoint is not None:
        _, weights = load_published_checkpoint(checkpoint)
        model.detector.load_state_dict(weights)
    model.save_pretrained(folder)


@torch.no_grad()
def draw_weights(backbone: torch.nn.Module) -> None:
    """Weights under which a picture keeps its size from layer to layer: what fades to nothing takes another time."""
    generator = torch.Generator().manual_seed(1)
    for tensor in backbone.parameters():
        if tensor.ndim > 1:
            tensor.normal_(0, (2 / tensor[0].numel()) ** 0.5, generator=generator)
    for name, module in backbone.named_modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None  # the statistics are those of the noise
            module.weight.fill_(0.3 if name.endswith("bn3") else 1)  # less of a block than of what goes past it
    backbone.train()
    backbone(torch.randn(4, 3, 224, 224, generator=generator))
    backbone.eval()


def largest_difference(path: str, other: str) -> float:
    """Of the features of two files, relative to the largest."""
    found, expected = VisualFeatures(path), VisualFeatures(other)
    largest, differences = 0.0, [0.0]
    for id_ in expected:
        for name in ("image_features", "features"):
            one, two = found[id_][name], expected[id_][name]
            largest = max(largest, float(np.abs(two).max()))
            differences.append(float(np.abs(one - two).max()) if one.shape == two.shape else np.inf)
    return max(differences) / largest if largest else 0.0


def compare_extraction(case: str, options: argparse.Namespace) -> dict[str, Any]:
    """Both builds, and today's in bfloat16 where that is another one."""
    with tempfile.TemporaryDirectory() as folder:
        pictures, vision_model, target = (Path(folder, name) for name in ("pictures", "vision_model", "target"))
        for made in (pictures, target):
            made.mkdir()
        write_pictures(pictures, options.pictures, options.seed)
        save_vision_model(case, options.detector_checkpoint, vision_model)
        of_side = {"vision_model": str(vision_model), "pictures": str(pictures), "target": str(target)}
        kinds = {"before": ("float32", options.before), "float32": ("float32", ROOT)}
        if case != "lite0_grid":  # which is refused in bfloat16
            kinds["bfloat16"] = ("bfloat16", ROOT)
        sides = {
            name: Side(build, EXTRACTION, of_side | {"precision": precision, "shares": build == ROOT})
            for name, (precision, build) in kinds.items()
        }
        said = take_turns(sides, options.rounds)
        for side in sides.values():
            side.__exit__()
        files = {name: replies[-1]["file"] for name, replies in said.items()}
        found: dict[str, Any] = summarise(said)
        for name, figures in found.items():
            figures["pictures_per_second"] = options.pictures / figures["seconds"]
            figures["largest_difference"] = largest_difference(files[name], files["before"])
        return found


# --------------------------------------------------------------------------------------------------------- pipeline


def read_pairs(options: argparse.Namespace, folder: Path) -> list[tuple[str, str]]:
    """Texts and files of pictures."""
    from hamlearning.data.tweets import load_tweets

    pairs = []
    for row in load_tweets(options.data_dir)["test"].select(range(options.tweets)):
        if row["image"] is not None:
            path = folder / f"{len(pairs)}.png"
            row["image"].save(path)
            pairs.append((" ".join(row["tokens"]), str(path)))
    return pairs


def compare_pipeline(options: argparse.Namespace) -> dict[str, Any]:
    """Text and picture, batch by batch; whether the entities are the same."""
    models = {"before": (options.before, options.model_before), "now": (ROOT, options.model)}
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        tweets = read_pairs(options, Path(folder))
        for size in (1, 8):
            sides = {
                name: Side(build, PIPELINE, {"model": str(model.resolve()), "tweets": tweets, "batch_size": size})
                for name, (build, model) in models.items()
            }
            said = take_turns(sides, options.rounds)
            for side in sides.values():
                side.__exit__()
            entities = [said[name][-1]["entities"] for name in models]
            same = statistics.mean(one == other for one, other in zip(*entities, strict=True))
            found[f"batch {size}"] = summarise(said) | {"same_entities": 100 * same}
            for name in models:
                found[f"batch {size}"][name]["tweets_per_second"] = (
                    len(tweets) / found[f"batch {size}"][name]["seconds"]
                )
    return found


def compare_first_answers(options: argparse.Namespace) -> dict[str, Any]:
    """Fresh processes in turns, after one that is not counted."""
    models = {"before": (options.before, options.model_before), "now": (ROOT, options.model)}
    with tempfile.TemporaryDirectory() as folder:
        text, picture = read_pairs(options, Path(folder))[0]

        def answer(build: Path, model: Path) -> dict[str, float]:
            run = subprocess.run(
                [sys.executable, "-c", FIRST_ANSWER, str(model.resolve()), text, picture],
                capture_output=True, text=True, check=True, env=build_environment(build), cwd=build,
            )  # fmt: skip
            return {"seconds": float(run.stdout.split()[-1])}

        sides = {name: lambda of_side=of_side: answer(*of_side) for name, of_side in models.items()}
        for side in sides.values():
            side()
        return summarise(take_turns(sides, options.rounds))


def show(name: str, found: dict[str, Any]) -> None:
    """A table of one case."""
    sides = {side: figures for side, figures in found.items() if isinstance(figures, dict)}
    names = list(next(iter(sides.values())))
    print(f"\n{name}: {', '.join(f'{key} {value:.2f}' for key, value in found.items() if key not in sides)}\n")
    print_table(["", *names], [[side, *(f"{figures[key]:.3g}" for key in names)] for side, figures in sides.items()])


def main() -> None:
    """Prints a table a case, and writes them as JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, required=True, help="worktree of an earlier commit")
    parser.add_argument("--cases", nargs="+", choices=[*CASES, *PIPELINE_CASES], default=["lite0_grid"])
    parser.add_argument("--pictures", type=int, default=64)
    parser.add_argument("--detector_checkpoint", help="folder or Hub id of the published checkpoint of faster_rcnn_vg")
    parser.add_argument("--model", type=Path, help="a trained model with its vision model")
    parser.add_argument("--model_before", type=Path, help="the same of the build of before")
    parser.add_argument("--data_dir", help="tweets with pictures")
    parser.add_argument("--tweets", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", help="also write the figures here")
    options = parser.parse_args()
    if set(options.cases) & set(PIPELINE_CASES) and None in (options.model, options.model_before, options.data_dir):
        parser.error("pipeline and first_answer need --model, --model_before and --data_dir")

    figures: dict[str, Any] = {}
    for case in options.cases:
        if case in CASES:
            figures[case] = compare_extraction(case, options)
            show(case, figures[case])
        elif case == "pipeline":
            figures[case] = compare_pipeline(options)
            for size, found in figures[case].items():
                show(f"{case}, {size}", found)
        else:
            figures[case] = compare_first_answers(options)
            show(case, figures[case])
        if options.json:
            Path(options.json).write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
