#!/usr/bin/env python
"""The tables of the paper, and the controls that nobody reports, as runs of `run_mner.py`.

```bash
python experiments.py table2 --seeds 1 2 3 --scale small          # runs what is missing, then writes the page
python experiments.py table1 table2 controls --workers 2          # two at a time, one GPU each where there are some
python experiments.py search --rows "picture_dropout 0.3" --seeds 2 3    # some rows only
python experiments.py --page                                      # only the page, of the runs that are there
python experiments.py table1 --data twitter2017=my/twitter2017    # where the tweets lie, if not where the config says
```

A run is one training (or one evaluation of a trained model) with one seed. Its result is one JSON file in
`results/SCALE/`. It is made again only if its settings, the data or the code that computes have changed; a run that
was killed goes on from its last checkpoint, and several calls at once share the work. Ctrl-C and SIGTERM end the runs
with a checkpoint, and the same command goes on. `results/SCALE/README.md` is the page (`index.html` the same): what
was measured beside what the paper reports, and "not run" where nothing was.
"""

import argparse
import ast
import hashlib
import json
import logging
import os
import shutil
import signal
import statistics
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from queue import Queue
from types import FrameType
from typing import IO, Any

import matplotlib
import matplotlib.pyplot as plt
import torch
import yaml
from filelock import BaseFileLock, FileLock, Timeout
from markdown_it import MarkdownIt

from data_hamlearning import load_tweets, split_sha256
from evaluation import compare_counts, entity_counts
from fault_tolerance import Stopped, write_text


logger = logging.getLogger("experiments")

ROOT = Path(__file__).resolve().parent
# What computes: a change of these makes a result old, one of comments or docstrings does not.
CODE = (
    "configuration_hamlearning.py",
    "data_hamlearning.py",
    "fault_tolerance.py",
    "mner_scores.py",
    "modeling_hamlearning.py",
    "processing_hamlearning.py",
    "run_mner.py",
)
# Settings that say where things lie, not what they are: the data's and the encoder's hashes say that.
PLACES = {
    "data_dir", "visual_features", "image_dir", "extraction_dir", "output_dir", "text_model", "model_name_or_path",
    "disable_tqdm",
}  # fmt: skip
SAMPLES = 10_000  # of the paired test
SCALES = {
    "small": {"twitter2017": "twitter2017_minilm.yaml", "twitter2015": "twitter2015_minilm.yaml"},
    "paper": {"twitter2017": "twitter2017.yaml", "twitter2015": "twitter2015.yaml"},
    "sample": {"sample": "sample_regions.yaml"},
}


@dataclass(frozen=True)
class Row:
    """One row of a table.

    Args:
        title: what it is called.
        flags: of `run_mner.py`, to train.
        paper: P, R and F1 in percent that the paper reports, by data set.
        at_test: flags of an evaluation of the trained model, if that is what counts.
        trained_on: the data set that the model is trained on, if it is another one than it is tested on.
    """

    title: str
    flags: Mapping[str, Any] = field(default_factory=dict)
    paper: Mapping[str, tuple[float, float, float]] = field(default_factory=dict)
    at_test: Mapping[str, Any] | None = None
    trained_on: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Table:
    """Rows that are read beside each other.

    Args:
        title: above it.
        rows: from top to bottom.
        reference: title of the row that the others are compared with.
        published: what others report, by system and data set: P, R and F1. Nothing of it was run here.
        split: what is scored; "validation" where the table is there to choose by.
        needs_pictures: whether its rows differ in how pictures are seen, so that features of a file tell nothing.
    """

    title: str
    rows: list[Row]
    reference: str | None = "HamLearning"
    published: Mapping[str, Mapping[str, tuple[float, float, float]]] = field(default_factory=dict)
    split: str = "test"
    needs_pictures: bool = False


def both(twitter2015: tuple[float, float, float], twitter2017: tuple[float, float, float]) -> dict[str, tuple]:
    """P, R and F1 on the two data sets."""
    return {"twitter2015": twitter2015, "twitter2017": twitter2017}


FULL = both((77.25, 75.75, 76.49), (86.99, 87.28, 87.13))
PUBLISHED = {
    "UMT": both((71.67, 75.23, 73.41), (85.28, 85.34, 85.31)),
    "UMGF": both((74.49, 75.21, 74.85), (86.54, 84.50, 85.51)),
    "MAF": both((71.86, 75.10, 73.42), (86.13, 86.38, 86.25)),
    "MRC-MNER": both((78.10, 71.45, 74.63), (88.78, 85.00, 86.85)),
    "HVPNeT": both((73.87, 76.82, 75.32), (85.84, 87.93, 86.87)),
}
TEXT_ALONE = {"use_vision": False, "num_text_layers": 0, "num_ffnn_layers": 0}
TABLES = {
    "table1": Table(
        "Text alone and with pictures (Table 1)",
        [
            Row("BERT", TEXT_ALONE | {"use_crf": False}, both((68.30, 74.61, 71.32), (82.19, 83.72, 82.95))),
            Row("BERT-CRF", TEXT_ALONE, both((69.22, 74.59, 71.81), (83.32, 83.57, 83.44))),
            Row("HamLearning, text alone", {"use_vision": False}),
            Row("HamLearning", {}, FULL),
        ],
        published=PUBLISHED,
    ),
    "table2": Table(
        "Without one part (Table 2)",
        [
            Row("HamLearning", {}, FULL),
            Row("w/o RGCN", {"use_spatial_encoder": False}, both((74.73, 75.42, 75.07), (86.17, 85.94, 86.05))),
            Row("w/o ViT", {"use_semantic_encoder": False}, both((74.45, 75.92, 75.18), (85.75, 86.53, 86.14))),
            Row("w/o RM", {"use_relevance": False}, both((75.35, 73.89, 74.61), (86.02, 85.19, 85.60))),
        ],
    ),
    "table3": Table(
        "Rounds of interaction L (Table 3)",
        [
            Row("L = 1", {"num_interaction_layers": 1}, both((74.97, 75.49, 75.23), (85.30, 86.16, 85.73))),
            Row("L = 2", {"num_interaction_layers": 2}, both((76.61, 75.36, 75.98), (86.97, 86.38, 86.67))),
            Row("L = 3", {}, FULL),
            Row("L = 4", {"num_interaction_layers": 4}, both((76.33, 75.21, 75.77), (87.01, 85.79, 86.40))),
            Row("L = 5", {"num_interaction_layers": 5}, both((75.25, 76.03, 75.64), (85.43, 86.57, 86.00))),
        ],
        reference="L = 3",
    ),
    "table4": Table(
        "Trained on the other data set (Table 4)",
        [
            Row(
                "HamLearning, trained on the other",
                {},
                both((69.17, 66.84, 67.98), (71.03, 59.40, 64.70)),
                at_test={},
                trained_on={"twitter2015": "twitter2017", "twitter2017": "twitter2015"},
            ),
        ],
        reference=None,
    ),
    "table5": Table(
        "Detectors (Table 5)",
        [
            Row("Faster R-CNN, Visual Genome", {}, FULL),
            Row(
                "Mask R-CNN, COCO",
                {"detector": "mask_rcnn_coco"},
                both((76.93, 75.74, 76.33), (87.03, 86.45, 86.73)),
            ),
        ],
        reference="Faster R-CNN, Visual Genome",
        needs_pictures=True,
    ),
    "controls": Table(
        "Controls",
        [
            Row("HamLearning", {}),
            Row("trained and tested with other tweets' pictures", {"shuffle_pictures": True}),
            Row("other tweets' pictures at test time", {}, at_test={"shuffle_pictures": True}),
            Row("no pictures at test time", {}, at_test={"hide_pictures": True}),
            Row("pictures alone: words masked", {"mask_words": True}),
            Row("C = 0 at test time", {}, at_test={"forced_relevance": 0.0}),
            Row("C = 1 at test time", {}, at_test={"forced_relevance": 1.0}),
        ],
    ),
    "search_text": Table(
        "What the paper leaves open, text alone, one change at a time",
        [
            Row("text alone", {"use_vision": False}),
            Row("text encoder's rate 5e-5", {"use_vision": False, "text_learning_rate": 5e-5}),
            Row("text encoder's rate 2e-4", {"use_vision": False, "text_learning_rate": 2e-4}),
            Row("new layers' rate 1e-4", {"use_vision": False, "learning_rate": 1e-4}),
            Row("CRF's rate 1e-3", {"use_vision": False, "crf_learning_rate": 1e-3}),
            Row("CRF's rate 2e-2", {"use_vision": False, "crf_learning_rate": 2e-2}),
            Row("4 epochs", {"use_vision": False, "num_train_epochs": 4}),
            Row("10 epochs", {"use_vision": False, "num_train_epochs": 10}),
            Row("constant rate", {"use_vision": False, "lr_scheduler_type": "constant_with_warmup"}),
            Row("cosine", {"use_vision": False, "lr_scheduler_type": "cosine"}),
            Row("no warm-up", {"use_vision": False, "warmup_steps": 0}),
        ],
        reference="text alone",
        split="validation",
    ),
    "search": Table(
        "What the paper leaves open, with pictures, one change at a time",
        [
            Row("HamLearning", {}),
            Row("new layers' rate 1e-4", {"learning_rate": 1e-4}),
            Row("new layers' rate 1e-3", {"learning_rate": 1e-3}),
            Row("picture_dropout 0.3", {"picture_dropout": 0.3}),
            Row("new layers' rate 1e-4, picture_dropout 0.3", {"learning_rate": 1e-4, "picture_dropout": 0.3}),
            Row("each round its own weights", {"share_interaction_layers": False}),
        ],
        split="validation",
    ),
}


@dataclass(frozen=True)
class Run:
    """One call of `run_mner.py`: a training, or the evaluation of `trained`."""

    scale: str
    data: str
    seed: int
    flags: Mapping[str, Any]
    trained: "Run | None" = None

    @property
    def name(self) -> str:
        """Of its files."""
        flags = "-".join(f"{key}={value}" for key, value in sorted(self.flags.items()))
        own = f"{self.data}-{flags or 'full'}"
        if self.trained is None:
            return f"{own}-seed{self.seed}"
        return f"{self.trained.name}-tested-{own}"

    @property
    def result_path(self) -> Path:
        """The committed JSON."""
        return ROOT / "results" / self.scale / f"{self.name}.json"


def runs_of(row: Row, scale: str, data: str, seed: int) -> Run:
    """The run that a row's figures come from; it names the training that it needs."""
    training = Run(scale, row.trained_on.get(data, data), seed, dict(row.flags))
    return training if row.at_test is None else Run(scale, data, seed, dict(row.at_test), training)


class Runner:
    """Makes runs that are not there.

    Args:
        runs_dir: where models, checkpoints and logs go.
        places: folder of each data set's tweets, where it is not the config's.
        extra: further flags of every run, such as `text_model`.
    """

    def __init__(self, runs_dir: Path, places: Mapping[str, str], extra: Mapping[str, Any]):
        self.runs_dir = runs_dir
        self.places = places
        self.extra = extra
        self._children: set[subprocess.Popen] = set()
        self._is_stopping = False
        self._guard = threading.Lock()  # of the two

    def settings(self, run: Run) -> dict[str, Any]:
        """What `run_mner.py` is told, by name; None: nothing."""
        settings = yaml.safe_load((ROOT / "configs" / SCALES[run.scale][run.data]).read_text(encoding="utf-8"))
        if run.data in self.places:
            config_dir = Path(settings["data_dir"])
            for name in ("data_dir", "visual_features"):
                if name in settings and Path(settings[name]).is_relative_to(config_dir):
                    settings[name] = str(Path(self.places[run.data]) / Path(settings[name]).relative_to(config_dir))
        settings |= self.extra
        if run.trained is not None:
            # Of an evaluation only where the data lies, and how it is read, is its own.
            kept = {"data_dir", "visual_features", "image_dir", "extraction_dir", "per_device_eval_batch_size"}
            settings = {name: value for name, value in settings.items() if name in kept | set(self.extra)}
            settings.pop("text_model", None)
            settings |= {"do_eval": True, "do_predict": "test" in self.splits(run), "bf16": self.extra.get("bf16")}
            settings["model_name_or_path"] = str(self.folder(run.trained))
        elif "test" not in self.splits(run):
            settings["do_predict"] = False
        settings |= {"seed": run.seed, "output_dir": str(self.folder(run)), "disable_tqdm": True}
        return settings | dict(run.flags)

    def splits(self, run: Run) -> dict[str, str]:
        """SHA-256 of each split of the run's data."""
        settings = yaml.safe_load((ROOT / "configs" / SCALES[run.scale][run.data]).read_text(encoding="utf-8"))
        tweets = load_tweets(self.places.get(run.data, settings["data_dir"]))
        return {str(split): split_sha256(dataset) for split, dataset in tweets.items()}

    def folder(self, run: Run) -> Path:
        """Where the run's model and predictions go."""
        return self.runs_dir / run.scale / run.name

    def identity(self, run: Run) -> dict[str, Any]:
        """What makes a result this one: settings, data, code, and the encoder that it starts from."""
        settings = self.settings(run)
        identity = {
            "settings": {
                name: value for name, value in sorted(settings.items()) if name not in PLACES and value is not None
            },
            "data": self.splits(run),
            "visual_features": _sha256(settings.get("visual_features")),
            "code": code_sha256(),
        }
        if run.trained is not None:
            return identity | {"trained": self.identity(run.trained)}
        return identity | {"text_model": _sha256(settings.get("text_model"))}

    def is_done(self, run: Run) -> bool:
        """Whether its result is there and is of these settings, data and code."""
        result = _read_json(run.result_path)
        return result is not None and result["identity"] == self.identity(run)

    def make(self, run: Run, device: str | None = None, wants_model: bool = False) -> None:
        """Makes the run, and first the training that it evaluates. Another process that makes it is left alone.

        Args:
            run: what to make.
            device: GPU; None: whatever `run_mner.py` finds.
            wants_model: the trained model is needed too, not only its result.

        Raises:
            RuntimeError: `run_mner.py` failed, or a signal ended it; its last line, and where all of it is.
        """
        if self.is_done(run) and not wants_model:
            logger.info(f"{run.name}: is there")
            return
        if run.trained is not None and not self._has_model(run.trained):
            self.make(run.trained, device, wants_model=True)
        folder = self.folder(run)
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(f"{folder}.lock")
        try:
            # Who needs the model waits for it.
            with lock.acquire(timeout=-1 if wants_model else 0, cancel_check=lambda: self._is_stopping):
                if not (self.is_done(run) and self._has_model(run)):
                    self._call(run, folder, device, lock)
        except Timeout:
            logger.info(f"{run.name}: another process makes it")

    def stop(self, number: int) -> None:
        """Lets no run begin any more, and sends a signal to those that go on: they save a checkpoint and end."""
        with self._guard:
            self._is_stopping = True
            for child in self._children:
                if os.name != "nt":  # whose console sends Ctrl-C to all
                    child.send_signal(number)

    def _has_model(self, run: Run) -> bool:
        """Whether its folder holds what this very run ended with, not one of other settings, data or code."""
        folder = self.folder(run)
        return (folder / "results.json").is_file() and _read_json(folder / "identity.json") == self.identity(run)

    def _call(self, run: Run, folder: Path, device: str | None, lock: BaseFileLock) -> None:
        identity = self.identity(run)
        note = folder / "identity.json"  # of whose making the folder is
        settings = self.settings(run)
        if _read_json(note) == identity:
            (folder / "results.json").unlink(missing_ok=True)  # its JSON was not written: killed in between
            if any(folder.glob("checkpoint-*")):
                settings["resume_from_checkpoint"] = True
        else:
            note.unlink(missing_ok=True)  # first: what a kill leaves of the folder is nobody's
            shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True, exist_ok=True)
        write_text(note, json.dumps(identity))
        command = [sys.executable, str(ROOT / "run_mner.py")]
        for name, value in settings.items():
            values = value if isinstance(value, list) else [value]
            command += [] if value is None else [f"--{name}", *map(str, values)]
        environment = dict(os.environ)
        if device is not None:
            environment["CUDA_VISIBLE_DEVICES"] = device
        logger.info(f"{run.name}: starts, see {folder}/log.txt")
        with (folder / "log.txt").open("ab") as log:
            begin = log.tell()  # before it are the runs that this one goes on from
            status = self._wait_for(command, log, environment, lock)
        if status != 0:
            printed = (folder / "log.txt").read_bytes()[begin:].decode("utf-8", errors="replace").strip().splitlines()
            last = printed[-1] if printed else "nothing was printed"
            raise RuntimeError(f"{run.name} {how_it_ended(status)}: {last} (all of it: {folder}/log.txt)")
        results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
        result = {"name": run.name, "identity": identity, "results": results, "counts": {}}
        for split in ("validation", "test"):
            if (folder / f"predictions_{split}.jsonl").is_file():
                result["counts"][split] = tweet_counts(folder / f"predictions_{split}.jsonl")
        run.result_path.parent.mkdir(parents=True, exist_ok=True)
        write_text(run.result_path, json.dumps(result) + "\n")
        for checkpoint in folder.glob("checkpoint-*"):
            shutil.rmtree(checkpoint)
        logger.info(f"{run.name}: done")

    def _wait_for(self, command: list[str], log: IO[bytes], environment: dict[str, str], lock: BaseFileLock) -> int:
        """Runs a command to its end, which `stop` may bring; returns its status."""
        # So that nobody else begins this run where this process was killed and its child goes on. filelock's
        # `on_acquired` has the descriptor too, but refuses file systems without flock.
        descriptor = lock._context.lock_file_fd
        with self._guard:
            if self._is_stopping:
                raise RuntimeError("It was to begin when all was stopped.")
            child = subprocess.Popen(
                command,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                cwd=ROOT,
                pass_fds=() if descriptor is None or os.name == "nt" else (descriptor,),
                # A terminal would send it Ctrl-C beside `stop`, and the second one ends a run without a checkpoint.
                start_new_session=True,
            )
            self._children.add(child)
        try:
            return child.wait()
        finally:
            with self._guard:
                self._children.remove(child)


def how_it_ended(status: int) -> str:
    """Of a process that did not end well, after its name."""
    if status > 0:
        return "failed"
    name = signal.Signals(-status).name
    return f"was ended by {name}" + ", often for lack of memory: give fewer --workers" * (name == "SIGKILL")


@contextmanager
def ending_signals() -> Iterator[None]:
    """Within it SIGTERM, and SIGHUP of a terminal that goes, raise `Stopped`, as Ctrl-C does its parent class."""

    def stop(number: int, _: FrameType | None):
        raise Stopped(number, "Stopped.")

    numbers = {signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)}  # Windows has no SIGHUP
    # Else it is ignored, as nohup wants it, or somebody's own.
    numbers = {number for number in numbers if signal.getsignal(number) == signal.SIG_DFL}
    for number in numbers:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number in numbers:
            signal.signal(number, signal.SIG_DFL)


def end_runs(runner: Runner, pool: ThreadPoolExecutor, made: Sequence[Future], number: int) -> None:
    """Hands a signal on to the runs, whatever else comes meanwhile too, and returns when they have ended."""
    while True:
        try:
            pool.shutdown(wait=False, cancel_futures=True)
            # They know these two.
            runner.stop(signal.SIGINT if number == signal.SIGINT else signal.SIGTERM)
            wait([future for future in made if not future.cancelled()])
            return
        except KeyboardInterrupt as error:
            number = getattr(error, "signum", signal.SIGINT)


def tweet_counts(predictions: Path) -> list[list[int]]:
    """Entities of each tweet that are right, predicted and gold: what intervals and tests are computed from."""
    tweets = list(map(json.loads, predictions.read_text(encoding="utf-8").splitlines()))
    gold, predicted = ([tweet[name] for tweet in tweets] for name in ("ner_tags", "predictions"))
    return entity_counts(gold, predicted).tolist()


def code_sha256() -> str:
    """Of what the code does: its syntax trees without docstrings, in which comments and layout are no part."""
    digest = hashlib.sha256()
    for name in CODE:
        tree = ast.parse((ROOT / name).read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            body = getattr(node, "body", None)
            if isinstance(body, list) and body and isinstance(body[0], ast.Expr):
                if isinstance(body[0].value, ast.Constant) and isinstance(body[0].value.value, str):
                    body[0].value.value = ""
        digest.update(ast.dump(tree).encode())
    return digest.hexdigest()


def _read_json(path: Path) -> Any:
    """What a JSON file holds; None if there is none, or only what a kill or a full disk left of it."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _sha256(place: str | None) -> str | None:
    """Of a file, or of the weights in a folder; a Hub id is its own name."""
    if place is None or not Path(place).exists():
        return place
    files = [Path(place)] if Path(place).is_file() else sorted(Path(place).glob("*.safetensors"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


# ------------------------------------------------------------------------------------------------------------ the page


def write_page(scale: str, seeds: list[int]) -> Path:
    """Writes what was measured beside what the paper reports, as Markdown, HTML and Figure 4; returns the Markdown."""
    folder = ROOT / "results" / scale
    folder.mkdir(parents=True, exist_ok=True)
    parts = [f"# Measured: {scale}", PREFACE]
    for data in SCALES[scale]:
        for table in TABLES.values():
            can_run = not (table.needs_pictures and features_file(scale, data))
            found = {row.title: results_of(row, scale, data, seeds) if can_run else [] for row in table.rows}
            if any(found.values()):
                parts += [f"## {table.title}: {data}", scores_of(table, found, data), types_of(table, found)]
            elif any(data in row.paper for row in table.rows):
                parts += [f"## {table.title}: {data}", scores_of(table, found, data)]
        trained = results_of(Row("HamLearning"), scale, data, seeds)
        if trained:
            draw_training(trained, folder / f"figure4-{data}.svg")
            parts += [f"## Training (Figure 4): {data}", f"![Loss and F1 by epoch](figure4-{data}.svg)"]
    text = "\n\n".join(parts) + "\n"
    (folder / "README.md").write_text(text, encoding="utf-8")
    html = MarkdownIt("commonmark").enable("table").render(text)
    (folder / "index.html").write_text(
        HTML.format(title=f"HamLearning measured: {scale}", body=html), encoding="utf-8"
    )
    return folder / "README.md"


PREFACE = f"""Entity-level scores of seqeval in percent, default mode unless it says strict, on the test file as
released (on dev where there was none, and in a search), checkpoint chosen on dev; mean ± standard deviation over the
seeds. The paper had BERT-base and real pictures: another encoder and other pictures than here, but on the page of its
own scale. "not run" means not run here, "published" that others report it.

An I- tag that no B- opens begins an entity in default mode and none in strict; OTHER of Twitter-2015 counts as MISC;
every tweet counts, those that occur twice too. Where dev is what is scored, the checkpoint was chosen on the same
tweets if the model was trained on that data set: such an F1 is too high.

"Difference" is that of the F1, of the seeds that both rows have, to the row that has none; p is two-sided, of
approximate randomisation with {SAMPLES:,} samples: the predictions of each tweet, of all seeds at once, are swapped by
the toss of a coin. It is about other tweets, not about other seeds, and no p is corrected for the number of rows."""
HTML = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark }}
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 75rem; margin: 2rem auto; padding: 0 1rem }}
table {{ border-collapse: collapse; display: block; margin: 1rem 0; overflow-x: auto }}
th, td {{ padding: .3rem .7rem; border-bottom: 1px solid #8884; text-align: right; white-space: nowrap;
          font-variant-numeric: tabular-nums }}
th:first-child, td:first-child {{ text-align: left }}
img {{ max-width: 100%; background: #fff }}
</style>
{body}
</html>
"""


def features_file(scale: str, data: str) -> str | None:
    """The file that a config reads in place of pictures; None: it has pictures."""
    config = ROOT / "configs" / SCALES[scale][data]
    return yaml.safe_load(config.read_text(encoding="utf-8")).get("visual_features")


def results_of(row: Row, scale: str, data: str, seeds: list[int]) -> list[dict[str, Any]]:
    """The committed JSON of a row's runs that are there, one a seed."""
    paths = [runs_of(row, scale, data, seed).result_path for seed in seeds]
    return [json.loads(path.read_text(encoding="utf-8")) for path in paths if path.is_file()]


def scored_split(table: Table, found: Mapping[str, list[dict]]) -> str:
    """The table's split, or dev where that was not scored: one for all rows."""
    scored = [result["results"] for results in found.values() for result in results]
    return table.split if all(table.split in result for result in scored) else "validation"


def scores_of(table: Table, found: Mapping[str, list[dict]], data: str) -> str:
    """The F1 of each row, all types together, beside the paper's."""
    split = scored_split(table, found)
    of = "" if split == "test" else " (dev)"
    head = ["", "seeds", "dev F1", f"P{of}", f"R{of}", f"F1{of}", f"strict F1{of}"]
    head += ["difference (p)"] * (table.reference is not None)
    has_paper = any(data in row.paper for row in table.rows)
    head += ["paper's F1"] * has_paper
    lines = [head]
    for row in table.rows:
        paper = [f"{row.paper[data][2]:.2f}" if data in row.paper else ""] * has_paper
        results = found[row.title]
        if not results:
            lines.append([row.title, "not run", *[""] * (len(head) - 2 - len(paper)), *paper])
            continue
        scores = [result["results"][split] for result in results]
        cells = [mean_and_deviation([result["results"]["validation"]["f1"] for result in results])]
        for name in ("precision", "recall", "f1", "strict_f1"):
            cells.append(mean_and_deviation([score[name] for score in scores]))
        if table.reference is not None:
            cells.append("" if row.title == table.reference else difference(results, found[table.reference], split))
        seeds = ", ".join(str(result["results"]["seed"]) for result in results)
        lines.append([row.title, seeds, *cells, *paper])
    for name, figures in table.published.items():
        if data in figures:
            lines.append([f"{name}, published", "not run", *[""] * (len(head) - 3), f"{figures[data][2]:.2f}"])
    return markdown_table(lines)


def difference(results: list[dict], reference: list[dict], split: str) -> str:
    """F1 of a row less that of another on the seeds of both, in points, and the p-value of the paired test."""
    counts, others = ({r["results"]["seed"]: r["counts"][split] for r in rows} for rows in (results, reference))
    shared = sorted(counts.keys() & others.keys())
    tweets = {r["identity"]["data"][split] for r in results + reference}
    if not shared or len(tweets) > 1:
        return ""
    compared = compare_counts([counts[seed] for seed in shared], [others[seed] for seed in shared], samples=SAMPLES)
    p_value = compared["p_value"]
    return f"{100 * compared['difference']:+.2f} ({'< 0.001' if p_value < 0.001 else f'{p_value:.3f}'})"


def types_of(table: Table, found: Mapping[str, list[dict]]) -> str:
    """Precision, recall and F1 of each type, means over the seeds."""
    types = sorted(
        {kind for results in found.values() for r in results for kind in r["results"]["validation"]["types"]}
    )
    split = scored_split(table, found)
    lines = [["P / R / F1", *types]]
    for title, results in found.items():
        if results:
            scores = [result["results"][split]["types"] for result in results]
            means = [
                [statistics.mean(score[kind][name] for score in scores) for name in ("precision", "recall", "f1")]
                for kind in types
            ]
            lines.append([title, *(" / ".join(f"{100 * mean:.1f}" for mean in of_type) for of_type in means)])
    return markdown_table(lines)


def markdown_table(lines: list[list[str]]) -> str:
    """The first line is the head."""
    lines = [lines[0], ["---"] * len(lines[0]), *lines[1:]]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def draw_training(results: list[dict], path: Path) -> None:
    """Figure 4: loss on the training data and F1 on dev by epoch, a line a seed."""
    figure, (losses, scores) = plt.subplots(1, 2, figsize=(8, 3), layout="constrained")
    for result in results:
        for axes, name, times in ((losses, "loss", 1), (scores, "eval_f1", 100)):
            points = [
                (entry["epoch"], times * entry[name])
                for entry in result["results"]["train"]["history"]
                if name in entry
            ]
            axes.plot(*zip(*points, strict=True), marker="o", label=f"seed {result['results']['seed']}")
    losses.set(xlabel="epoch", ylabel="loss, train", ylim=(0, None))
    scores.set(xlabel="epoch", ylabel="F1, dev (%)")
    scores.legend()
    with matplotlib.rc_context({"svg.hashsalt": "figure4"}):  # the same figure, the same file
        figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def mean_and_deviation(fractions: list[float]) -> str:
    """In percent; one figure has no deviation."""
    mean = f"{100 * statistics.mean(fractions):.2f}"
    return mean if len(fractions) == 1 else f"{mean} ± {100 * statistics.stdev(fractions):.2f}"


def main(command_line: list[str] | None = None) -> None:
    """Makes the runs of some tables, then writes the page."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", nargs="*", help=f"which of {', '.join(TABLES)}")
    parser.add_argument("--scale", choices=SCALES, default="small")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--on", nargs="+", help="data sets (default: all of the scale)")
    parser.add_argument("--data", nargs="+", default=[], metavar="NAME=FOLDER", help="where a data set lies")
    parser.add_argument("--text_model", help="the text encoder, where it is not the config's")
    parser.add_argument("--workers", type=int, default=1, help="runs at a time")
    parser.add_argument("--runs_dir", type=Path, default=ROOT / "outputs" / "experiments", help="models and logs")
    parser.add_argument("--rows", nargs="+", metavar="TITLE", help="only these rows of the tables (default: all)")
    parser.add_argument("--page", action="store_true", help="make no run")
    options = parser.parse_args(command_line)
    for name in options.tables:
        if name not in TABLES:
            parser.error(f"there is no table {name!r}: choose from {', '.join(TABLES)}")
    titles = [row.title for name in options.tables for row in TABLES[name].rows]
    for title in options.rows or []:
        if title not in titles:
            parser.error(f"--rows: the tables have no row {title!r}: choose from {', '.join(map(repr, titles))}")
    for name in options.tables:
        for data in options.on or SCALES[options.scale]:
            if TABLES[name].needs_pictures and (file := features_file(options.scale, data)):
                parser.error(
                    f"{name} compares how pictures are seen, and {SCALES[options.scale][data]} reads {file} in place "
                    "of pictures: take --scale paper"
                )
    extra = {} if options.text_model is None else {"text_model": options.text_model}
    runner = Runner(options.runs_dir, dict(place.split("=", 1) for place in options.data), extra)
    runs = [
        runs_of(row, options.scale, data, seed)
        for seed in options.seeds  # one seed of all rows tells more than all seeds of one
        for table_name in options.tables
        for data in options.on or SCALES[options.scale]
        for row in TABLES[table_name].rows
        if options.rows is None or row.title in options.rows
    ]
    runs = [] if options.page else list({run.name: run for run in runs}.values())  # tables share rows
    devices: list[str | None] = [*map(str, range(torch.cuda.device_count()))] or [None]
    if torch.cuda.is_available() and os.environ.get("CUDA_VISIBLE_DEVICES"):
        devices = [*os.environ["CUDA_VISIBLE_DEVICES"].split(",")]
    free: Queue[str | None] = Queue()  # a device is taken by one run until that ends
    for worker in range(options.workers):
        free.put(devices[worker % len(devices)])

    def make(run: Run) -> None:
        device = free.get()
        try:
            runner.make(run, device)
        finally:
            free.put(device)

    pool, made = ThreadPoolExecutor(options.workers), list[Future[None]]()
    with ending_signals():
        try:
            made += (pool.submit(make, run) for run in runs)  # those are known that were, if it is interrupted
            pool.shutdown(wait=False)
            wait(made)
            page = write_page(options.scale, options.seeds)
        except BaseException as error:
            stopped = isinstance(error, KeyboardInterrupt)
            number = getattr(error, "signum", signal.SIGINT) if stopped else signal.SIGTERM
            if not all(future.done() for future in made):
                logger.info("Waits for the runs to end with a checkpoint; Ctrl-C (again) ends them at once, without.")
            end_runs(runner, pool, made, number)
            if not stopped:
                raise
            parser.exit(
                128 + number,
                f"{signal.Signals(number).name}: stopped. Results that are there stay, and a run that was going on "
                "has its last checkpoint: go on with the same command.\n",
            )
    failed = [str(future.exception()) for future in made if future.exception() is not None]
    print(page)
    if failed:
        parser.exit(1, "".join(f"error: {message}\n" for message in failed))


if __name__ == "__main__":
    main()
