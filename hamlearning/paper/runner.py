"""Runs of the tables that are not there yet."""

import ast
import hashlib
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import IO, Any

import yaml
from filelock import BaseFileLock, FileLock, Timeout

from hamlearning.data.files import write_text
from hamlearning.data.tweets import load_tweets, split_sha256
from hamlearning.paper.tables import SCALES, Row
from hamlearning.rivals.architectures import HAMLEARNING, RIVALS
from hamlearning.scores.counts import entity_counts
from hamlearning.training.arguments import VisionArguments


logger = logging.getLogger(__name__)

ROOT = Path(__file__).resolve().parents[2]  # the clone: configs and results are in no wheel
# What computes: a change of these makes a result old, one of comments or docstrings does not.
CODE = (
    "configuration_hamlearning.py",
    "hamlearning/data/features.py",
    "hamlearning/data/released.py",
    "hamlearning/data/schemes.py",
    "hamlearning/data/streams.py",
    "hamlearning/data/tweets.py",
    "hamlearning/scores/counts.py",
    "hamlearning/scores/metric.py",
    "hamlearning/training/*.py",
    "modeling_hamlearning.py",
    "processing_hamlearning.py",
    "windows_hamlearning.py",
    "words_hamlearning.py",
)
# Settings that say where things lie, not what they are: the data's and the encoder's hashes say that.
PLACES = {
    "data_dir", "visual_features", "image_dir", "image_subfolders", "extraction_dir", "output_dir", "text_model",
    "model_name_or_path", "disable_tqdm",
}  # fmt: skip
# What reads pictures, which a file of their features stands for.
PICTURES = {"image_dir", "image_subfolders", *(field.name for field in fields(VisionArguments))}


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
    training = Run(scale, row.trained_on.get(data, data), seed, row.flags_at(scale))
    return training if row.at_test is None else Run(scale, data, seed, dict(row.at_test), training)


class Runner:
    """Makes runs that are not there.

    Args:
        runs_dir: where models, checkpoints and logs go.
        places: folder of each data set's tweets, where it is not the config's.
        extra: further flags of every run, such as `text_model`.
        features: visual feature file of each data set that is read in place of its pictures.
    """

    def __init__(
        self,
        runs_dir: Path,
        places: Mapping[str, str],
        extra: Mapping[str, Any],
        features: Mapping[str, str] | None = None,
    ):
        self.runs_dir = runs_dir
        self.places = places
        self.extra = extra
        self.features = features or {}
        self._children: set[subprocess.Popen] = set()
        self._is_stopping = False
        self._guard = threading.Lock()  # of the two
        # Of data sets: where two threads read some at once, `datasets` may fail, with an AttributeError about tqdm.
        self._reading = threading.Lock()

    def settings(self, run: Run) -> dict[str, Any]:
        """What `run_mner.py` is told, by name; None: nothing."""
        settings = yaml.safe_load((ROOT / "configs" / SCALES[run.scale][run.data]).read_text(encoding="utf-8"))
        if run.data in self.places:
            config_dir = Path(settings["data_dir"])
            for name in ("data_dir", "visual_features", "image_dir"):
                if name in settings and Path(settings[name]).is_relative_to(config_dir):
                    settings[name] = str(Path(self.places[run.data]) / Path(settings[name]).relative_to(config_dir))
        if run.data in self.features:
            settings = {name: value for name, value in settings.items() if name not in PICTURES}
            settings["visual_features"] = self.features[run.data]
        settings |= self.extra
        if run.trained is not None:
            # Of an evaluation only where the data lies, and how it is read, is its own.
            kept = {"data_dir", "visual_features", "image_dir", "image_subfolders", "extraction_dir"}
            kept |= {"per_device_eval_batch_size"}
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
        with self._reading:
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
            "code": code_sha256((run.trained or run).flags.get("architecture", HAMLEARNING)),
        }
        if run.trained is not None:
            return identity | {"trained": self.identity(run.trained)}
        return identity | {"text_model": _sha256(settings.get("text_model"))}

    def is_done(self, run: Run) -> bool:
        """Whether its result is there and is of these settings, data and code."""
        result = read_json(run.result_path)
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
        return (folder / "results.json").is_file() and read_json(folder / "identity.json") == self.identity(run)

    def _call(self, run: Run, folder: Path, device: str | None, lock: BaseFileLock) -> None:
        identity = self.identity(run)
        note = folder / "identity.json"  # of whose making the folder is
        settings = self.settings(run)
        if read_json(note) == identity:
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


def tweet_counts(predictions: Path) -> list[list[int]]:
    """Entities of each tweet that are right, predicted and gold: what intervals and tests are computed from."""
    tweets = list(map(json.loads, predictions.read_text(encoding="utf-8").splitlines()))
    gold, predicted = ([tweet[name] for tweet in tweets] for name in ("ner_tags", "predictions"))
    return entity_counts(gold, predicted).tolist()


def architecture_in(identity: Mapping[str, Any]) -> str:
    """The architecture of a run's model, by its identity."""
    return identity.get("trained", identity)["settings"].get("architecture", HAMLEARNING)


def code_sha256(architecture: str = HAMLEARNING) -> str:
    """Of what the code does: its syntax trees without docstrings, in which comments and layout are no part.

    Of `hamlearning/rivals/` a rival's run depends on what rivals share and on its own file, no other's.
    """
    digest = hashlib.sha256()
    code = {path for pattern in CODE for path in ROOT.glob(pattern)}
    if architecture != HAMLEARNING:
        others = {"__init__", "architectures", *RIVALS} - {architecture}
        code |= {path for path in ROOT.glob("hamlearning/rivals/*.py") if path.stem not in others}
    for path in sorted(code):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            body = getattr(node, "body", None)
            if isinstance(body, list) and body and isinstance(body[0], ast.Expr):
                if isinstance(body[0].value, ast.Constant) and isinstance(body[0].value.value, str):
                    body[0].value.value = ""
        digest.update(ast.dump(tree).encode())
    return digest.hexdigest()


def read_json(path: Path) -> Any:
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
