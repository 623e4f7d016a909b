"""The Hub down, slow, busy, refusing or cut off: what succeeds all the same, what is said where not, and what is left.

A process that has imported the clients forks for each operation. The waits between two tries are noted there and not
sat out; how often something is tried, and how long a silent Hub is waited for, is the clients' own affair.
"""

import errno
import hashlib
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from huggingface_hub.utils import httpx

from conftest import ROOT
from hamlearning.data.downloads import wanted_of_hub
from hamlearning.hub.repos import create_repo
from hamlearning.training.arguments import ModelArguments, VisionArguments
from hamlearning.training.run import main as run_mner
from hamlearning.training.vision import load_vision_model
from hub_server import HubServer
from modeling_hamlearning_vision import HamLearningVisionModel
from tiny_world import flags, write_features, write_tweets


TIMEOUT = 30  # seconds, of the downloads
SHORT_TIMEOUT = 2  # where a test has the Hub stall or drip
CLIENT = """
import json, os, signal, sys, time, traceback
import datasets, torch, transformers
import huggingface_hub.file_download
import hamlearning.hub.data_set, hamlearning.hub.publishing, hamlearning.training.run
from hamlearning.cli import main
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
print("ready", flush=True)
for line in sys.stdin:
    job = json.loads(line)
    pid = os.fork()
    if pid:
        print(pid, flush=True)
        continue
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    constants = huggingface_hub.constants
    constants.HF_HUB_DOWNLOAD_TIMEOUT = constants.HF_HUB_ETAG_TIMEOUT = job["timeout"]
    huggingface_hub.file_download._ETAG_RETRY_TIMEOUT = job["timeout"]  # 60 s, and no variable sets it
    os.chdir(job["folder"])
    for stream, number in (("stdout", 1), ("stderr", 2)):
        os.dup2(os.open(stream, os.O_WRONLY | os.O_CREAT), number)
    waits, sleep = [], time.sleep
    def note(seconds):
        if seconds >= 1:
            waits.append(seconds)
        sleep(min(seconds, 0.02))
    time.sleep = note
    status = 0
    try:
        exec(job["code"], {"__name__": "job", "sys": sys, "main": main})
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
        status = 1 if isinstance(end.code, str) else end.code or 0
    except BaseException:
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    with open("end.partial", "w") as file:
        json.dump([status, waits], file)
    os.rename("end.partial", "end")
    os._exit(0)
"""


@dataclass
class Job:
    """What a process did: exit status, seconds that it was to wait before each further try, and what it printed."""

    status: int
    waits: list[float]
    out: str
    err: str

    @property
    def sentence(self) -> str:
        """Its last words."""
        return self.err.strip().splitlines()[-1]


class Clients:
    def __init__(self, hub: HubServer, home: Path):
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGINGFACE_", "TRANSFORMERS_"))}
        env = inherited | hub.env | {"HF_HOME": str(home), "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self.process = subprocess.Popen([sys.executable, "-c", CLIENT], cwd=ROOT, env=env, **pipes)
        self.home, self.number = home, 0
        assert self.process.stdout.readline() == "ready\n"

    def start(self, code: str, timeout: float = TIMEOUT) -> tuple[int, Path]:
        """Forks for some code; returns the process and its folder."""
        self.number += 1
        folder = self.home / f"job-{self.number}"
        folder.mkdir()
        self.process.stdin.write(json.dumps({"code": code, "folder": str(folder), "timeout": timeout}) + "\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline()), folder

    def run(self, code: str, timeout: float = TIMEOUT, seconds: float = 300) -> Job:
        """Runs some code, for so long at most."""
        process, folder = self.start(code, timeout)
        end = time.monotonic() + seconds
        while not (folder / "end").exists():
            if time.monotonic() > end:
                os.kill(process, signal.SIGKILL)
                raise AssertionError(f"no end after {seconds} s:\n{(folder / 'stderr').read_text()}")
            time.sleep(0.02)
        return Job(
            *json.loads((folder / "end").read_text()), *((folder / n).read_text() for n in ("stdout", "stderr"))
        )


@pytest.fixture(scope="module")
def served():
    with HubServer() as hub:
        yield hub


@pytest.fixture
def hub(served):
    """The Hub, without the files of former tests; healthy again afterwards."""
    served.requests.clear()
    served.lfs.clear()
    yield served
    served.faults.clear()


@pytest.fixture(scope="module")
def clients(served, tmp_path_factory):
    clients = Clients(served, tmp_path_factory.mktemp("home"))
    yield clients
    clients.process.stdin.close()
    clients.process.wait()


@pytest.fixture(scope="module")
def model(world, tmp_path_factory):
    """The folder of a model with a vision model that one epoch has trained."""
    folder = tmp_path_factory.mktemp("faults") / "model"
    run_mner(training(world, folder))
    return folder


@pytest.fixture(scope="module")
def data_set(clients, tmp_path_factory):
    """The folder of a small data set with visual features."""
    place = tmp_path_factory.mktemp("data")
    for split, count in (("train", 6), ("valid", 3), ("test", 3)):
        write_tweets(place / "tweets", split, count, seed=len(split))
    write_features(place / "features.parquet", ["train0", "test0"])
    done = clients.run(prepare(place, place / "prepared"))
    assert done.status == 0, done.err
    return place / "prepared"


@pytest.fixture
def repo(request) -> str:
    """A name of its own for each test: all of them share a Hub and a cache."""
    return "org/" + hashlib.sha1(request.node.nodeid.encode()).hexdigest()[:10]


def training(world, folder, **more) -> list[str]:
    pictures = {"visual_features": None, "image_dir": world / "images", "vision_backbone": world / "backbone"}
    pictures |= {"detector": "grid", "extraction_dir": world / "extracted", "extraction_workers": 0, "max_regions": 3}
    return flags(world, folder, **pictures, num_train_epochs=1, example_texts="i met ann today", **more)


def prepare(place, output, *more) -> str:
    command = [place / "tweets", output, "--visual_features", place / "features.parquet", *more]
    return f"sys.exit(main({['prepare', *map(str, command)]!r}))"


def publish(folder, repo, *more) -> str:
    return f"sys.exit(main({['publish', str(folder), repo, *more]!r}))"


def content(folder) -> dict[str, bytes]:
    """What a folder holds, but for what publishing writes into it."""
    written = ("README.md", "requirements.txt")
    paths = [path for path in Path(folder).rglob("*") if path.is_file() and path.name not in written]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def revisions(hub, repo, kind="model") -> list[dict]:
    """What a reader could ever have been served: the content of each commit."""
    return list(hub.repos[kind, repo].commits.values()) if (kind, repo) in hub.repos else []


def is_whole(hub, repo) -> bool:
    return {"README.md", "model.safetensors", "vision/model.safetensors", "results.json"} <= set(hub.files(repo))


def some(values, *quick) -> list:
    """Parameters of a test, slow but for the quick ones."""
    sets = [value if isinstance(value, tuple) else (value,) for value in values]
    named = [value if isinstance(value, tuple) else (value,) for value in quick]
    return [pytest.param(*value, marks=() if value in named else pytest.mark.slow) for value in sets]


def command_in(sentence: str) -> list[str]:
    """The arguments of the command that a sentence ends in."""
    program, verb, *arguments = shlex.split(re.search(r"`(hamlearning publish .*)`", sentence)[1])
    return arguments


# ---------------------------------------------------------------------------------------------------------- publishing

STEPS = {
    "create": "POST /api/repos/create",
    "check": "GET /api/models/{repo}/auth-check/write",
    "look": "GET /api/models/{repo}$",
    "ask": "POST /api/models/{repo}/preupload/main",
    "batch": "POST /{repo}.git/info/lfs/objects/batch",
    "upload": "PUT /lfs/",
    "verify": "POST /lfs/.*/verify",
    "card": "POST /api/validate-yaml",
    "commit": "POST /api/models/{repo}/commit/main",
}
CHANGES = ("upload", "commit")


def fail(hub, step, repo, kind, **settings):
    return hub.fail(STEPS[step].format(repo=repo), kind, **settings)


@pytest.mark.parametrize("step", some(STEPS, "create", "upload", "commit"))
def test_what_passes_is_tried_again(hub, clients, model, repo, step):
    faults = [fail(hub, step, repo, "status", status=status, times=1) for status in (503, 500, 502, 429)]
    faults += [fail(hub, step, repo, "cut", times=1)]
    done = clients.run(publish(model, repo))
    assert done.status == 0, done.err
    assert [fault.hits for fault in faults] == [1] * 5
    assert is_whole(hub, repo) and len(revisions(hub, repo)) == 2  # the empty one that it is made with, and ours


@pytest.mark.parametrize("step", CHANGES)
def test_an_upload_that_is_cut_is_made_again(hub, clients, model, repo, step):
    fault = fail(hub, step, repo, "cut upload", times=2)
    done = clients.run(publish(model, repo))
    assert (done.status, fault.hits, done.waits[0]) == (0, 2, 1), done.err
    assert is_whole(hub, repo) and len(revisions(hub, repo)) == 2


def test_a_commit_whose_answer_was_lost_is_not_made_twice(hub, clients, model, repo):
    fault = fail(hub, "commit", repo, "lost answer")
    done = clients.run(publish(model, repo))
    assert (done.status, fault.hits) == (0, 1), done.err
    assert len(revisions(hub, repo)) == 2
    assert done.out.strip().endswith(hub.find("model", repo)[1])


@pytest.mark.parametrize(
    ("step", "kind"),
    some(
        [
            ("commit", "status"),
            ("upload", "cut upload"),
            ("create", "status"),
            ("upload", "status"),
            ("commit", "cut upload"),
        ],
        ("commit", "status"),
    ),
)
def test_what_stays_ends_in_a_sentence_and_its_command_publishes_later(hub, clients, model, repo, step, kind):
    before = content(model)
    fault = fail(hub, step, repo, kind, status=503)
    done = clients.run(publish(model, repo, "--license", "mit"))
    assert done.status == 1 and "Traceback" not in done.err
    said = done.sentence
    assert said.startswith("error: ") and repo in said and f"{model} holds the model and its results" in said
    assert fault.hits >= 6 and sum(done.waits) <= 2 * 23  # of which two files are uploaded at a time
    assert content(model) == before
    assert not any(revisions(hub, repo))
    hub.faults.clear()
    assert command_in(said) == [str(model), repo, "--license", "mit"]
    later = clients.run(f"sys.exit(main(['publish', *{command_in(said)!r}]))")
    assert later.status == 0 and is_whole(hub, repo), later.err


def test_a_hub_that_is_down_is_said_to_be(hub, clients, model, repo):
    with hub.down():
        done = clients.run(publish(model, repo))
    assert (done.status, done.waits) == (1, [1, 2, 4, 8, 8])
    assert "refused" in done.sentence and "try again later" in done.sentence and repo in done.sentence


def test_a_hub_that_comes_up_again_meanwhile_is_published_to(hub, clients, model, repo):
    sits_out = """
import pathlib, threading, time
def sit_out(seconds):
    while seconds >= 1 and not pathlib.Path("up").exists():
        threading.Event().wait(0.02)
time.sleep = sit_out
"""
    with hub.down():
        _, folder = clients.start(sits_out + publish(model, repo))
        wait_for(folder / "stderr")
        wait_for(lambda: "Trying again in 1 s" in (folder / "stderr").read_text())
    (folder / "up").touch()
    wait_for(folder / "end")
    assert is_whole(hub, repo)


@pytest.mark.parametrize(
    ("headers", "wait"), [({"Retry-After": "30"}, 31), ({"RateLimit": '"api";r=0;t=55'}, 56), ({}, 1)]
)
def test_a_busy_hub_says_how_long_to_wait(hub, clients, model, repo, headers, wait):
    fail(hub, "commit", repo, "status", status=429, headers=headers, times=1)
    done = clients.run(publish(model, repo))
    assert (done.status, done.waits) == (0, [wait])


def test_a_hub_that_asks_for_a_day_is_not_waited_for(hub, clients, model, repo):
    fault = fail(hub, "commit", repo, "status", status=429, headers={"Retry-After": "86400"})
    done = clients.run(publish(model, repo))
    assert (done.status, done.waits, fault.hits) == (1, [], 1)
    assert "429" in done.sentence and "asks to wait 86400 s" in done.sentence


@pytest.mark.parametrize(
    ("step", "status", "headers"),
    [("create", 403, {}), ("check", 403, {"X-Error-Code": "GatedRepo"}), ("commit", 401, {})],
)
def test_a_refusal_is_taken_at_once_and_its_remedy_named(hub, clients, model, repo, step, status, headers):
    fault = fail(hub, step, repo, "status", status=status, headers=headers)
    done = clients.run(publish(model, repo))
    assert (done.status, done.waits, fault.hits) == (1, [], 1)
    assert str(status) in done.sentence and "hf auth login" in done.sentence and str(model) in done.sentence


def test_a_former_revision_is_served_whole_while_the_next_one_fails(hub, clients, model, repo):
    assert clients.run(publish(model, repo)).status == 0
    former = hub.files(repo)
    for step in CHANGES:
        fail(hub, step, repo, "status", status=500)
    done = clients.run(publish(model, repo, "--license", "mit"))
    assert done.status == 1 and hub.files(repo) == former


def test_two_that_publish_at_once_are_never_mixed(hub, clients, model, repo, tmp_path):
    (tmp_path / "vision").mkdir()
    (tmp_path / "vision" / "model-00001-of-00002.safetensors").write_bytes(b"another one's")
    fault = fail(hub, "commit", repo, "late", seconds=300, times=1)
    process, folder = clients.start(publish(model, repo))
    wait_for(lambda: fault.hits)
    hub.add_repo(repo, tmp_path)
    fault.due.set()
    wait_for(folder / "end")
    assert is_whole(hub, repo) and "vision/model-00001-of-00002.safetensors" not in hub.files(repo)


def test_a_publisher_that_is_killed_never_leaves_a_part(hub, clients, model, repo):
    """Killed at each of its requests, and when half of an upload or of the commit has been sent."""
    moments = [(step, "stall") for step in STEPS] + [(step, "stalled upload") for step in CHANGES]
    for license in ("mit", "apache-2.0"):  # the first one over nothing, the second one's card over a former revision
        former = hub.files(repo) if ("model", repo) in hub.repos else {}
        for step, kind in moments:
            if former and step in ("batch", "upload", "verify"):
                continue
            if not former:
                hub.lfs.clear()
            fault = fail(hub, step, repo, kind)
            process, _ = clients.start(publish(model, repo, "--license", license))
            wait_for(lambda fault=fault: fault.hits)
            os.kill(process, signal.SIGKILL)
            hub.faults.clear()
            assert (hub.files(repo) if ("model", repo) in hub.repos else {}) == former, (step, kind)
        done = clients.run(publish(model, repo, "--license", license))
        assert done.status == 0, done.err
    assert [len(files) > 0 for files in revisions(hub, repo)] == [False, True, True]


@pytest.mark.slow
@pytest.mark.parametrize("step", STEPS)
def test_a_hub_that_falls_silent_is_asked_again(hub, clients, model, repo, step):
    fault = fail(hub, step, repo, "stall", times=1)
    done = clients.run(
        "import hamlearning.data.downloads; hamlearning.data.downloads.SILENCE = 1\n" + publish(model, repo)
    )
    assert (done.status, fault.hits, done.waits) == (0, 1, [1]), done.err
    assert is_whole(hub, repo)


@pytest.mark.slow
def test_a_hub_that_stays_silent_is_given_up(hub, clients, model, repo):
    fault = fail(hub, "commit", repo, "stall")
    done = clients.run(
        "import hamlearning.data.downloads; hamlearning.data.downloads.SILENCE = 1\n" + publish(model, repo)
    )
    assert (done.status, fault.hits, done.waits) == (1, 6, [1, 2, 4, 8, 8])
    assert f"{repo} was not published (timed out)" in done.sentence and not any(revisions(hub, repo))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["status", "cut upload", "stalled upload"])
def test_what_a_pipeline_pushes_is_there_whole_or_not_at_all(hub, clients, model, repo, kind):
    code = f"""
from pipeline_hamlearning import HamLearningPipeline
from processing_hamlearning import HamLearningProcessor
from modeling_hamlearning import HamLearningForTokenClassification
processor = HamLearningProcessor.from_pretrained({str(model)!r}, trust_remote_code=True)
_ = processor.vision_model
ner = HamLearningPipeline(HamLearningForTokenClassification.from_pretrained({str(model)!r}), processor=processor)
ner.push_to_hub({repo!r})"""
    fault = fail(hub, "commit", repo, kind, status=503)
    if kind == "stalled upload":
        process, _ = clients.start(code)
        wait_for(lambda: fault.hits)
        os.kill(process, signal.SIGKILL)
    else:
        done = clients.run(code)
        assert (done.status, fault.hits) == (1, 1)
    assert not any(revisions(hub, repo))
    hub.faults.clear()
    assert clients.run(code).status == 0
    pushed = {"config.json", "model.safetensors", "vision/model.safetensors", "processor_config.json"}
    assert pushed <= set(hub.files(repo)) and len(revisions(hub, repo)) == 2


HOSTILE = [
    "my org/name", "org/my name", "../name", "org/..", "org/../name", "a/b/c", "/etc/passwd", "x" * 300,
    f"org/{'x' * 300}", "org/name@main", "org/name\n", "org/n\u00e4me", "org/na--me", "-org/name", "org/name.git",
    "https://huggingface.co/org/name",
]  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_a_name_that_no_repo_can_have_is_refused_before_anything_is_computed(world, tmp_path, name):
    argv = flags(world, tmp_path / "out", push_to_hub=True)
    with pytest.raises(ValueError, match="is no name of a model repo: give ORG/NAME") as error:
        run_mner([*argv, f"--hub_model_id={name}"])
    assert repr(name) in str(error.value) and not (tmp_path / "out").exists()


def test_a_name_that_a_data_set_cannot_have_is_refused_too():
    with pytest.raises(ValueError, match="'a b' is no name of a dataset repo"):
        create_repo("a b", repo_type="dataset")


# ------------------------------------------------------------------------------------------------------ training run

RUN = f"""
import runpy, sys
sys.argv = ["run_mner.py", *ARGV]
runpy.run_path({str(ROOT / "run_mner.py")!r}, run_name="__main__")
"""


def test_a_run_that_cannot_publish_says_so_before_it_trains(hub, clients, world, repo, tmp_path):
    fail(hub, "create", repo, "status", status=503)
    argv = training(world, tmp_path / "out", push_to_hub=True, hub_model_id=repo)
    done = clients.run(RUN.replace("ARGV", repr(argv)))
    assert done.status == 1 and "Traceback" not in done.err and not (tmp_path / "out").exists()
    assert "try again later. Or train without --push_to_hub and publish afterwards: `hamlearning" in done.sentence


def test_a_run_whose_last_push_fails_has_everything_on_disk(hub, clients, world, model, repo, tmp_path):
    folder = tmp_path / "out"
    fault = fail(hub, "commit", repo, "status", status=500)
    argv = training(world, folder, push_to_hub=True, hub_model_id=repo)
    done = clients.run(RUN.replace("ARGV", repr(argv)))
    assert (done.status, fault.hits) == (1, 6) and "Traceback" not in done.err
    assert (
        done.sentence.startswith(f"error: {repo} was not published (Server error '500")
        and str(folder) in done.sentence
    )
    assert not any(revisions(hub, repo))
    assert {path.name for path in model.iterdir()} <= {path.name for path in folder.iterdir()}
    assert set(json.loads((folder / "results.json").read_text())) >= {"test", "train", "examples"}
    hub.faults.clear()
    assert clients.run(f"sys.exit(main(['publish', *{command_in(done.sentence)!r}]))").status == 0
    assert is_whole(hub, repo) and hub.files(repo)["model.safetensors"] == (folder / "model.safetensors").read_bytes()


def test_vision_model_that_the_hub_does_not_give_are_named(hub, clients, world, repo, tmp_path):
    argv = flags(world, tmp_path / "out", visual_features=None, image_dir=world / "images", vision_model=repo)
    with hub.down():
        done = clients.run(RUN.replace("ARGV", repr(argv)))
    assert done.status == 1 and "Traceback" not in done.err
    assert done.sentence.startswith("error: ") and repo in done.sentence


@pytest.mark.parametrize("part", ["vision_backbone", "detector_name_or_path"])
def test_a_part_of_new_vision_model_that_the_hub_does_not_give_is_named(hub, clients, world, repo, tmp_path, part):
    vision = {"vision_backbone": world / "backbone", "detector": "faster_rcnn_vg"} | {part: repo}
    argv = flags(world, tmp_path / "out", visual_features=None, image_dir=world / "images", **vision)
    with hub.down():
        done = clients.run(RUN.replace("ARGV", repr(argv)))
    assert done.status == 1 and "Traceback" not in done.err
    assert done.sentence.startswith(f"error: {repo} cannot be had from the Hub (")


def test_a_vision_model_that_breaks_off_with_the_client_s_own_error_is_named(world, repo, monkeypatch):
    def fail(*args, **kwargs):
        raise httpx.ConnectError("refused")

    monkeypatch.setattr(HamLearningVisionModel, "from_backbone_detector_pretrained", fail)
    with pytest.raises(ConnectionError, match=f"^{repo} cannot be had from the Hub .refused"):
        load_vision_model(
            ModelArguments(),
            VisionArguments(
                vision_backbone=str(world / "backbone"), detector="faster_rcnn_vg", detector_name_or_path=repo
            ),
        )


@pytest.mark.parametrize("pictures", ["images", None])
def test_a_model_that_the_hub_does_not_give_is_named(hub, clients, world, repo, tmp_path, pictures):
    predicts = {"do_train": None, "do_eval": None, "text_model": None, "num_semantic_layers": None}
    places = {"visual_features": None, "image_dir": pictures and world / pictures}
    argv = flags(world, tmp_path / "out", **predicts, **places, model_name_or_path=repo)
    with hub.down():
        done = clients.run(RUN.replace("ARGV", repr(argv)))
    assert done.status == 1 and "Traceback" not in done.err
    assert done.sentence.startswith(f"error: {repo} cannot be had from the Hub (")


# ---------------------------------------------------------------------------------------------------------- data sets


@pytest.mark.parametrize("kind", some(["status", "cut upload", "killed"], "killed"))
def test_a_data_set_that_is_not_published_is_complete_here(hub, clients, data_set, repo, tmp_path, kind):
    output = tmp_path / "out"
    code = prepare(data_set.parent, output, "--push_to_hub", repo)
    pattern = f"POST /api/datasets/{repo}/commit/main"
    if kind == "killed":
        fault = hub.fail(pattern, "stalled upload")
        process, _ = clients.start(code)
        wait_for(lambda: fault.hits)
        os.kill(process, signal.SIGKILL)
    else:
        hub.fail(pattern, kind, status=503)
        done = clients.run(code)
        assert done.status == 1 and "Traceback" not in done.err and repo in done.sentence
        assert f"The new data set is complete in {output}. Try again: python" in done.sentence
    assert not any(revisions(hub, repo, "dataset"))
    assert content(output) == content(data_set)
    assert f'load_dataset("path/to/{output.name}"' in (output / "README.md").read_text()  # the card of this one
    hub.faults.clear()
    assert clients.run(prepare(data_set.parent, output, "--push_to_hub", repo, "--overwrite")).status == 0
    assert set(hub.files(repo, "dataset")) == {*content(data_set), "README.md"}


# ---------------------------------------------------------------------------------------------------------- downloads

LOADS = {
    "processor": """
from transformers import AutoProcessor
processor = AutoProcessor.from_pretrained(REPO, trust_remote_code=True)
print(processor(text=["i met ann today"])["input_ids"].tolist(), processor.max_regions, processor.tags)""",
    "pipeline": """
from transformers import pipeline
ner = pipeline(model=REPO, trust_remote_code=True)
print(ner("i met ann today"))""",
    "vision": """
from transformers import pipeline
ner = pipeline(model=REPO, trust_remote_code=True)
print(ner({"text": "i met ann today", "image": PICTURE}))""",
    "tweets": """
from hamlearning.data.tweets import load_tweets
print(load_tweets(dataset_name=REPO)["test"].to_dict())""",
    "features": """
from hamlearning.data.downloads import local_file
from hamlearning.training.arguments import ModelArguments, VisionArguments
from hamlearning.training.run import main as run_mner
from hamlearning.training.vision import load_vision_model
from modeling_hamlearning_vision import HamLearningVisionModel
from hamlearning.data.features import VisualFeatures
features = VisualFeatures(local_file(f"hf://datasets/{REPO}/visual_features/visual_features.parquet"))
print(features["test0"]["image_features"].tolist())""",
    "shards": """
from pathlib import Path
import pyarrow.parquet as pq
from modeling_hamlearning import HamLearningForTokenClassification
from processing_hamlearning import HamLearningProcessor
from hamlearning.tagging.prediction import predict_shards
from hamlearning.tagging.reader import TweetReader
from hamlearning.tagging.shards import find_shards
model = HamLearningForTokenClassification.from_pretrained(MODEL).eval()
processor = HamLearningProcessor.from_pretrained(MODEL, trust_remote_code=True)
place = Path("../shards") / REPO
predict_shards(find_shards(None, REPO, "text"), TweetReader(model, processor), place, show_progress=False)
print([pq.read_table(file).to_pylist() for file in sorted(place.glob("*.parquet"))])""",
}
OF_DATA = ("tweets", "features", "shards")


class Loading:
    """Loads of one kind, each from a repo of its own with the same content."""

    def __init__(self, what, hub, clients, model, data_set, world):
        self.hub, self.clients = hub, clients
        self.kind, self.folder = ("dataset", data_set) if what in OF_DATA else ("model", model)
        self.picture = world / "images" / "test0.png"
        self.code = LOADS[what].replace("MODEL", repr(str(model))).replace("PICTURE", repr(str(self.picture)))

    def run(self, repo, **more) -> Job:
        if (self.kind, repo) not in self.hub.repos:
            self.hub.add_repo(repo, self.folder, self.kind)
        return self.clients.run(f"REPO = {repo!r}\n{self.code}", **more)

    def path(self, repo, file) -> str:
        return f"/{'datasets/' if self.kind == 'dataset' else ''}{repo}/resolve/[^/]*/{file}"


@pytest.fixture(scope="module")
def loading(served, clients, model, data_set, world):
    """`loading(what)`, and what that prints where the Hub is well."""
    made = {}

    def load(what: str) -> tuple[Loading, str]:
        if what not in made:
            loads = Loading(what, served, clients, model, data_set, world)
            healthy = loads.run(f"org/healthy-{what}")
            assert healthy.status == 0 and healthy.out, healthy.err
            made[what] = loads, healthy.out
        return made[what]

    return load


FILES = [
    ("pipeline", "model.safetensors"),
    ("vision", "vision/model.safetensors"),
    ("tweets", "text/test-.*"),
    ("features", "visual_features/.*"),
    ("shards", "text/test-.*"),
]
OF_FEATURES = ("features", "visual_features/.*")


@pytest.mark.parametrize(("what", "file"), some(FILES, OF_FEATURES, ("pipeline", "model.safetensors")))
def test_a_download_that_is_cut_goes_on(hub, loading, repo, what, file):
    loads, right = loading(what)
    faults = [
        hub.fail(f"GET {loads.path(repo, file)}", kind, times=1, status=429) for kind in ("cut", "stall", "status")
    ]
    done = loads.run(repo, timeout=SHORT_TIMEOUT)
    assert (done.status, done.out) == (0, right), done.err
    assert [fault.hits for fault in faults] == [1, 1, 1]


@pytest.mark.parametrize("kind", ["cut", "short", "status"])
@pytest.mark.parametrize(("what", "file"), some(FILES, OF_FEATURES))
def test_a_download_that_fails_is_never_taken_for_whole(hub, loading, repo, what, file, kind):
    loads, right = loading(what)
    hub.fail(f"GET {loads.path(repo, file)}", kind, status=500)
    done = loads.run(repo)
    assert done.status == 1 and not done.out
    assert not list(loads.clients.home.rglob("*.incomplete"))
    hub.faults.clear()
    assert loads.run(repo).out == right


LISTED = ["config.json", "processor_config.json", "tokenizer.json", "tokenizer_config.json"]


@pytest.mark.parametrize(
    ("file", "status"),
    some(
        [(file, status) for file in LISTED for status in (503, 429, 403)],
        ("processor_config.json", 503),
        ("tokenizer.json", 429),
    ),
)
def test_a_file_that_the_hub_does_not_send_is_not_done_without(hub, loading, repo, file, status):
    """Of some, transformers says in such a case that the repo has none, and goes on with defaults."""
    loads, right = loading("processor")
    hub.fail(f"HEAD {loads.path(repo, file)}", "status", status=status)
    done = loads.run(repo)
    assert done.status == 1 and not done.out
    assert re.search(f"{repo}|We couldn't connect to", done.err.split("Traceback")[-1])
    hub.faults.clear()
    assert loads.run(repo).out == right


@pytest.mark.slow
def test_every_request_of_a_load_can_fail_for_good_without_a_wrong_answer(hub, loading, repo):
    loads, right = loading("vision")
    hub.requests.clear()
    assert loads.run(repo).out == right
    revision = hub.find("model", repo)[1]
    outcomes = {}
    for number, (method, path) in enumerate(dict.fromkeys(hub.requests)):
        if method == "GET" and path.endswith(".py"):
            continue  # all alike
        other = f"{repo}-{number}"
        pattern = re.escape(f"{method} {path}".replace(repo, other)).replace(revision, "[0-9a-f]{40}")
        hub.fail(pattern + "$", "status", status=500)
        done = loads.run(other)
        hub.faults.clear()
        outcomes[method, path] = done.status == 1 and not done.out or done.out == right
    assert len(outcomes) > 20 and all(outcomes.values()), [
        request for request, is_right in outcomes.items() if not is_right
    ]


@pytest.mark.parametrize("what", ["features", pytest.param("vision", marks=pytest.mark.slow)])
def test_what_was_loaded_once_loads_without_the_hub(hub, loading, repo, what):
    loads, right = loading(what)
    assert loads.run(repo).out == right
    hub.requests.clear()
    offline = "import huggingface_hub.constants as constants; constants.HF_HUB_OFFLINE = True\n"
    assert loads.clients.run(f"{offline}REPO = {repo!r}\n{loads.code}").out == right
    assert hub.requests == []
    with hub.down():
        down = loads.run(repo)
    assert (down.status, down.out) == (0, right), down.err
    # transformers lists four times what a processor's repo holds, and the client does not give that up at once.
    assert down.waits == ([1, 2, 4, 8, 8] * 4 if what == "vision" else [])


@pytest.mark.slow
@pytest.mark.parametrize("what", LOADS)
def test_a_hub_that_is_down_ends_in_a_sentence_that_names_it_or_what_was_wanted(hub, loading, repo, what):
    loads, _ = loading(what)
    hub.add_repo(repo, loads.folder, loads.kind)
    with hub.down():
        done = loads.run(repo)
    assert done.status == 1 and re.search(f"{repo}|couldn't connect to '{hub.url}'", done.err.split("Traceback")[-1])


@pytest.mark.slow
@pytest.mark.parametrize("what", ["tweets", "shards"])
def test_a_hub_that_falls_silent_when_it_lists_files_is_asked_again(hub, loading, repo, what):
    loads, right = loading(what)
    hub.add_repo(repo, loads.folder, loads.kind)
    fault = hub.fail(f"GET /api/datasets/{repo}/tree/", "stall", times=1)
    done = loads.clients.run(
        f"import hamlearning.data.downloads; hamlearning.data.downloads.SILENCE = 1\nREPO = {repo!r}\n{loads.code}"
    )
    assert (done.status, done.out, fault.hits) == (0, right, 1), done.err


@pytest.mark.slow
def test_a_file_that_drips_more_slowly_than_the_timeout_is_given_up(hub, loading, repo):
    loads, right = loading("features")
    fault = hub.fail(f"GET {loads.path(repo, OF_FEATURES[1])}", "drip", seconds=3 * SHORT_TIMEOUT)
    done = loads.run(repo, timeout=SHORT_TIMEOUT)
    assert (done.status, fault.hits, done.waits) == (1, 6, [1] * 5) and "timed out" in done.err


@pytest.mark.parametrize(
    ("status", "headers", "said"),
    [
        (401, {"X-Error-Code": "RepoNotFound"}, "logging in with `hf auth login`"),  # so the Hub calls a private one
        (403, {"X-Error-Code": "GatedRepo"}, "gated repo"),
    ],
)
def test_a_load_that_is_refused_names_the_remedy(hub, loading, repo, status, headers, said):
    loads, _ = loading("processor")
    hub.fail(f"HEAD {loads.path(repo, '')}", "status", status=status, headers=headers)
    done = loads.run(repo)
    assert done.status == 1 and repo in done.err
    assert re.search(said, done.err.split("Traceback")[-1]), done.err


def test_a_disk_that_is_full_is_no_fault_of_the_hub():
    with pytest.raises(OSError, match="No space left on device") as error, wanted_of_hub("org/tweets"):
        Path("/dev/full").write_text("some of a download")
    assert error.value.errno == errno.ENOSPC


@pytest.mark.parametrize("number", [errno.ECONNREFUSED, errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ETIMEDOUT])
def test_a_network_that_fails_is_one(number):
    with pytest.raises(ConnectionError, match="org/tweets cannot be had from the Hub"), wanted_of_hub("org/tweets"):
        raise OSError(number, os.strerror(number))


def wait_for(condition, seconds: float = 300):
    """Until a file is there, or something is true."""
    end = time.monotonic() + seconds
    while not (condition.exists() if isinstance(condition, Path) else condition()):
        assert time.monotonic() < end, f"nothing after {seconds} s"
        time.sleep(0.02)
