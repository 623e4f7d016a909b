"""The runner of the paper's tables: what is made, what is not made again, and what the page says."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import yaml
from filelock import FileLock

from hamlearning.cli import main
from hamlearning.paper.command import wanted_runs
from hamlearning.paper.page import (
    commands_of,
    difference,
    interval_of,
    mean_and_deviation,
    pictures_of,
    scored_split,
    scores_of,
    types_of,
    write_page,
)
from hamlearning.paper.runner import Run, Runner, code_sha256, runs_of
from hamlearning.paper.tables import SCALES, TABLES, Row
from hamlearning.rivals.architectures import RIVALS


ROOT = Path(__file__).parents[2]


def make_project(folder: Path, world: Path, monkeypatch) -> None:
    """A copy of the code with configs of a tiny world; `ROOT` is it."""
    for file in ROOT.glob("*.py"):
        shutil.copy(file, folder)
    shutil.copytree(ROOT / "hamlearning", folder / "hamlearning", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "configs").mkdir()
    config = {
        "data_dir": str(world / "tweets"), "visual_features": str(world / "features.parquet"),
        "text_model": str(world / "text_encoder"), "do_train": True, "do_eval": True, "do_predict": True,
        "num_train_epochs": 2, "learning_rate": 3e-3, "use_cpu": True,
    }  # fmt: skip
    for configs in SCALES.values():
        for name in configs.values():
            (folder / "configs" / name).write_text(yaml.safe_dump(config))
    monkeypatch.setattr("hamlearning.paper.runner.ROOT", folder)
    monkeypatch.setenv("PYTHONPATH", str(folder))


@pytest.fixture
def project(world, tmp_path, monkeypatch):
    make_project(tmp_path, world, monkeypatch)
    return tmp_path


@pytest.fixture(scope="module")
def made_once(world, tmp_path_factory) -> str:
    """The JSON of a run of text alone, which no test changes."""
    folder = tmp_path_factory.mktemp("made_once")
    with pytest.MonkeyPatch.context() as monkeypatch:
        make_project(folder, world, monkeypatch)
        run = run_of(TEXT)
        Runner(folder / "runs", {}, {}).make(run)
        return run.result_path.read_text()


@pytest.fixture
def put(project, made_once):
    """`put(run, **changes)`: its JSON is there, with changes of what the run says of itself."""

    def put(run: Run, code: str | None = None, bf16: bool = False, seed: int = 1) -> None:
        result = json.loads(made_once)
        result["identity"]["code"] = code or result["identity"]["code"]
        result["results"]["training"]["bf16"], result["results"]["seed"] = bf16, seed
        run.result_path.parent.mkdir(parents=True, exist_ok=True)
        run.result_path.write_text(json.dumps(result))

    return put


@pytest.fixture
def runner(project):
    return Runner(project / "runs", {}, {})


FULL, TEXT = Row("full"), Row("text", {"use_vision": False})


def row_of(table: str, title: str) -> Row:
    return next(row for row in TABLES[table].all_rows if row.title == title)


def run_of(row, seed=1) -> Run:
    return runs_of(row, "small", "twitter2017", seed)


def made_at(run) -> int:
    return run.result_path.stat().st_mtime_ns


def test_a_run_leaves_one_json_with_scores_counts_and_what_it_is(runner):
    run = run_of(FULL)
    runner.make(run)
    result = json.loads(run.result_path.read_text())
    assert result["identity"] == runner.identity(run)
    assert 0 <= result["results"]["test"]["f1"] <= 1
    right, predicted, gold = map(sum, zip(*result["counts"]["test"], strict=True))
    assert (
        gold == result["results"]["test"]["gold_entities"]
        and predicted == (result["results"]["test"]["predicted_entities"])
    )
    assert 2 * right / (predicted + gold) == pytest.approx(result["results"]["test"]["f1"])
    assert not list(runner.folder(run).glob("checkpoint-*"))


@pytest.mark.slow
def test_what_is_there_is_not_made_again_until_settings_data_or_code_change(runner, project, world, tmp_path):
    run = run_of(TEXT)
    runner.make(run)
    first = made_at(run)
    code = project / "hamlearning" / "training" / "run.py"
    code.write_text(code.read_text() + "\n# a comment\n")
    runner.make(run)
    assert made_at(run) == first
    code.write_text(code.read_text() + "\nEVERYTHING = 'changed'\n")
    assert not runner.is_done(run)
    runner.make(run)
    assert made_at(run) > first and runner.is_done(run)
    shutil.copytree(world / "tweets", tmp_path / "tweets")
    text = (tmp_path / "tweets" / "train.txt").read_text()
    (tmp_path / "tweets" / "train.txt").write_text(text.replace("today", "tonight"))
    assert not Runner(project / "runs", {"twitter2017": str(tmp_path / "tweets")}, {}).is_done(run)


def test_the_place_of_the_data_is_no_part_of_a_run(runner, project, world, tmp_path):
    run = run_of(TEXT)
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(world / "tweets", elsewhere)
    assert Runner(project / "runs", {"twitter2017": str(elsewhere)}, {}).identity(run) == runner.identity(run)


@pytest.mark.slow
def test_a_run_that_was_killed_goes_on_from_its_checkpoint(runner):
    run = run_of(TEXT)
    runner.make(run)
    whole = json.loads(run.result_path.read_text())["results"]
    folder = runner.folder(run)
    shutil.rmtree(folder)
    command = [sys.executable, "-c", KILLED_AFTER_ONE_EPOCH, str(folder), json.dumps(runner.settings(run))]
    subprocess.run(command, check=False)
    assert list(folder.glob("checkpoint-*")) and not (folder / "results.json").exists()
    (folder / "identity.json").write_text(json.dumps(runner.identity(run)))
    run.result_path.unlink()
    runner.make(run)
    again = json.loads(run.result_path.read_text())["results"]
    assert again["test"]["types"] == whole["test"]["types"]
    assert [e["loss"] for e in again["train"]["history"] if "loss" in e] == [
        e["loss"] for e in whole["train"]["history"] if "loss" in e
    ]


KILLED_AFTER_ONE_EPOCH = """
import json, os, sys
from hamlearning.training import run
class Killed(run.TrainingWatch):
    def on_save(self, *args, **kwargs):
        os._exit(9)
run.TrainingWatch = Killed
folder, settings = sys.argv[1], json.loads(sys.argv[2])
run.main([str(part) for name, value in settings.items() if value is not None for part in (f"--{name}", value)])
"""


@pytest.mark.slow
def test_an_evaluation_brings_the_training_that_it_needs(runner):
    row = Row("no pictures", {}, at_test={"hide_pictures": True})
    run = run_of(row)
    runner.make(run)
    assert run.trained == run_of(FULL) and runner.is_done(run.trained)
    shutil.rmtree(runner.folder(run.trained))
    run.result_path.unlink()
    runner.make(run)
    assert runner.is_done(run)


def test_a_run_that_fails_is_named_with_its_last_line(runner):
    with pytest.raises(RuntimeError, match="num_interaction_layers=-1-seed1 failed: .*must be at least 1"):
        runner.make(run_of(Row("bad", {"num_interaction_layers": -1})))


@pytest.fixture
def killed(project):
    """A `run_mner.py` that is killed before it prints anything, as by a kernel that has no memory left."""
    (project / "run_mner.py").write_text("import os\nos.kill(os.getpid(), 9)\n")


def test_a_run_that_is_killed_is_named_with_the_signal(runner, killed):
    with pytest.raises(RuntimeError, match="was ended by SIGKILL, often for lack of memory: .*: nothing was printed"):
        runner.make(run_of(TEXT))


def test_what_an_earlier_run_printed_is_not_taken_for_the_last_line(runner, killed):
    folder = runner.folder(run_of(TEXT))
    folder.mkdir(parents=True)
    (folder / "identity.json").write_text(json.dumps(runner.identity(run_of(TEXT))))
    (folder / "log.txt").write_text("SIGTERM: stopped behind step 5\n")
    with pytest.raises(RuntimeError, match=": nothing was printed"):
        runner.make(run_of(TEXT))


@pytest.mark.parametrize("note", ["", '{"settings": {', None])
def test_a_folder_whose_maker_cannot_be_read_is_made_anew(runner, killed, note):
    folder = runner.folder(run_of(TEXT))
    folder.mkdir(parents=True)
    (folder / "results.json").write_text("{}")
    if note is not None:
        (folder / "identity.json").write_text(note)
    with pytest.raises(RuntimeError, match="was ended by SIGKILL"):
        runner.make(run_of(TEXT))
    assert not (folder / "results.json").exists()
    assert json.loads((folder / "identity.json").read_text()) == runner.identity(run_of(TEXT))


def test_an_evaluation_of_a_training_whose_folder_is_half_removed_trains_anew(runner, killed):
    evaluation = run_of(Row("hidden", at_test={"hide_pictures": True}))
    folder = runner.folder(evaluation.trained)
    folder.mkdir(parents=True)
    (folder / "results.json").write_text("{}")
    with pytest.raises(RuntimeError, match="^twitter2017-full-seed1 was ended by SIGKILL"):
        runner.make(evaluation)


def test_a_result_that_a_full_disk_has_cut_off_counts_as_none(runner):
    path = run_of(TEXT).result_path
    path.parent.mkdir(parents=True)
    path.write_text("")
    assert not runner.is_done(run_of(TEXT))


def test_runs_at_a_time_read_their_data_one_after_the_other(runner, monkeypatch):
    reading, seen = [], []

    def load_slowly(place):
        reading.append(place)
        seen.append(len(reading))
        time.sleep(0.05)
        reading.pop()
        return {}

    monkeypatch.setattr("hamlearning.paper.runner.load_tweets", load_slowly)
    run = run_of(row_of("table1", "HamLearning"))
    threads = [threading.Thread(target=runner.splits, args=(run,)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [1, 1, 1]


def test_an_old_folder_is_nobodys_before_it_is_removed(runner, killed, monkeypatch):
    folder = runner.folder(run_of(TEXT))
    folder.mkdir(parents=True)
    (folder / "identity.json").write_text(json.dumps({"code": "of another day"}))

    def interrupted(*args, **kwargs):
        assert not (folder / "identity.json").exists()
        raise KeyboardInterrupt

    monkeypatch.setattr(shutil, "rmtree", interrupted)
    with pytest.raises(KeyboardInterrupt):
        runner.make(run_of(TEXT))


# A `run_mner.py` that takes its time: to run, and to save when it is asked to stop.
SLEEPING = """
import os, signal, sys, time
def stop(number, _):
    print("got", signal.Signals(number).name, flush=True)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    time.sleep(SAVES)
    print("saved", flush=True)
    sys.exit(128 + number)
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, stop)
print("began", os.getpid(), flush=True)
time.sleep(300)
"""
COMMAND = ["table1", "--on", "twitter2017", "--rows", "HamLearning, text alone"]


class Tables(subprocess.Popen):
    """`hamlearning tables` in a group of its own, as a terminal has it."""

    def __init__(self, project: Path, *arguments: str):
        self.runs, self.log = project / "runs" / "small", project / "said"
        command = [sys.executable, "-m", "hamlearning", "tables", *COMMAND, "--runs_dir", str(project / "runs")]
        with self.log.open("a") as log:
            # Whatever the tests themselves were started by may have SIGINT ignored, and children inherit that.
            before = signal.signal(signal.SIGINT, signal.SIG_DFL)
            try:
                super().__init__([*command, *arguments], cwd=project, stdout=log, stderr=log, start_new_session=True)
            finally:
                signal.signal(signal.SIGINT, before)

    def logs(self) -> list[str]:
        return [path.read_text() for path in self.runs.glob("*/log.txt")]

    def wait_until(self, condition, seconds: float = 120):
        end = time.monotonic() + seconds
        while not condition():
            assert self.poll() is None and time.monotonic() < end, self.log.read_text()
            time.sleep(0.05)


@pytest.fixture
def tables(project):
    """`tables(*arguments, saves=1)`: `hamlearning tables` with runs that sleep, and take `saves` seconds to end."""
    started = []

    def start(*arguments: str, saves: float = 1) -> Tables:
        (project / "run_mner.py").write_text(f"SAVES = {saves}{SLEEPING}")
        started.append(Tables(project, *arguments))
        return started[-1]

    yield start
    for process in started:
        # Also those that its end has left without a parent.
        process.kill()
        process.wait()
        for pid in (int(log.split()[1]) for log in process.logs() if log):
            if is_alive(pid):
                os.kill(pid, signal.SIGKILL)


def is_alive(pid: int) -> bool:
    """Whether a process is there, and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.slow
@pytest.mark.parametrize(
    "number, sent, code",
    [
        (signal.SIGINT, "SIGINT", 130),
        (signal.SIGTERM, "SIGTERM", 143),
        (signal.SIGHUP, "SIGTERM", 129),  # of a terminal that is closed
    ],
)
def test_a_signal_ends_the_runs_once_each_and_no_other_begins(tables, number, sent, code):
    process = tables("--seeds", "1", "2", "3", "4", "--workers", "2")
    process.wait_until(lambda: "".join(process.logs()).count("began") == 2)
    os.killpg(process.pid, number)  # as a terminal does
    assert process.wait(60) == code
    assert [log.splitlines()[1:] for log in process.logs()] == [[f"got {sent}", "saved"]] * 2
    said = process.log.read_text()
    assert "Traceback" not in said and said.splitlines()[-1].startswith(f"{number.name}: stopped. ")
    assert said.endswith("go on with the same command.\n")


@pytest.mark.slow
def test_a_second_ctrl_c_ends_runs_that_are_saving_at_once(tables):
    process = tables("--seeds", "1", "2", saves=200)
    process.wait_until(lambda: "began" in "".join(process.logs()))
    os.killpg(process.pid, signal.SIGINT)
    process.wait_until(lambda: "got SIGINT" in "".join(process.logs()))
    time.sleep(0.5)
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(60) == 130
    [log] = process.logs()
    assert "saved" not in log and not is_alive(int(log.split()[1]))
    assert "Ctrl-C (again) ends them at once" in process.log.read_text()
    assert "Traceback" not in process.log.read_text()


def test_one_who_waits_for_anothers_training_can_be_stopped(runner):
    folder = runner.folder(run_of(TEXT))
    folder.parent.mkdir(parents=True)
    with FileLock(f"{folder}.lock"):
        waiting = threading.Thread(target=runner.make, args=(run_of(TEXT), None, True), daemon=True)
        waiting.start()
        waiting.join(1)
        assert waiting.is_alive()
        runner.stop(signal.SIGTERM)
        waiting.join(30)
        assert not waiting.is_alive()
    assert not folder.exists()


def test_no_run_begins_behind_a_stop(runner, killed):
    runner.stop(signal.SIGTERM)
    with pytest.raises(RuntimeError, match="It was to begin when all was stopped"):
        runner.make(run_of(TEXT))


@pytest.mark.slow
def test_a_run_outlives_its_parent_and_nobody_else_makes_it(tables, runner, caplog):
    process = tables("--seeds", "1")
    process.wait_until(lambda: "began" in "".join(process.logs()))
    process.kill()
    process.wait()
    [log] = process.logs()
    assert is_alive(int(log.split()[1]))
    with caplog.at_level("INFO", logger="hamlearning"):
        runner.make(run_of(TEXT))
    assert "another process makes it" in caplog.text and process.logs() == [log]


@pytest.mark.slow
def test_tables_that_were_stopped_go_on_from_a_checkpoint_by_the_same_command(project):
    config = project / "configs" / SCALES["small"]["twitter2017"]
    config.write_text(yaml.safe_dump(yaml.safe_load(config.read_text()) | {"num_train_epochs": 60}))
    process = Tables(project, "--seeds", "1")
    process.wait_until(lambda: any(process.runs.glob("*/checkpoint-*")))
    process.terminate()
    assert process.wait(120) == 143
    [log] = process.logs()
    assert log.splitlines()[-1].startswith("SIGTERM: stopped behind step ")
    assert Tables(project, "--seeds", "1").wait(300) == 0, process.log.read_text()
    assert "Goes on from " in process.logs()[0] and run_of(TEXT).result_path.is_file()


def test_the_page_says_not_run_of_what_was_not_run(put):
    put(run_of(row_of("table1", "HamLearning, text alone")))
    page = write_page("small", [1, 2]).read_text()
    rows = {line.split(" | ")[0].strip("| "): line for line in page.split("**What the pictures")[0].splitlines()}
    assert "| not run |" in rows["BERT"] and rows["BERT"].endswith("| 82.95 |")
    assert "| not run |" in rows["UMT"] and rows["UMT"].endswith("| 85.31 |")
    assert rows["HamLearning, text alone"].split(" | ")[1] == "1"
    assert "| L = 1 | not run |" in page and "| Faster R-CNN, Visual Genome | not run |" in page
    assert "What the paper leaves open, with pictures" not in page


def test_a_table_of_which_only_the_reference_was_run_is_left_out(put):
    put(runs_of(FULL, "sample", "sample", 1))
    page = write_page("sample", [1]).read_text()
    assert "(Table 2)" not in page
    put(runs_of(row_of("table2", "w/o ViT"), "sample", "sample", 1))
    page = write_page("sample", [1]).read_text()
    assert "(Table 2)" in page and "(Table 3)" not in page


def test_the_page_says_which_runs_are_of_earlier_code(put):
    put(run_of(TEXT))
    assert "earlier code" not in write_page("small", [1]).read_text()
    put(run_of(TEXT), code="0123456789abcdef")
    assert "**1 of the 1 runs here are of earlier code** (hash 0123456789)" in write_page("small", [1]).read_text()


def test_the_page_says_which_rows_are_of_which_precision(put):
    """A cluster has machines that multiply bfloat16 and others: `run_mner.py` asks the one that it runs on."""
    put(run_of(row_of("table1", "HamLearning"), seed=1), bf16=True)
    put(run_of(TEXT), bf16=True)
    assert "precisions" not in write_page("small", [1, 2]).read_text()
    put(run_of(row_of("table1", "HamLearning"), seed=2), bf16=False, seed=2)
    page = write_page("small", [1, 2]).read_text()
    assert "**Several precisions** (in brackets the seeds): float32 in HamLearning (2); bfloat16 in all else." in page


def test_several_seeds_have_a_mean_and_a_deviation():
    assert mean_and_deviation([0.5, 0.7]) == "60.00 ± 14.14"
    assert mean_and_deviation([0.5]) == "50.00"


def test_tables_share_the_runs_of_the_rows_that_they_share():
    titles = {"table1": "HamLearning", "table2": "HamLearning", "table3": "L = 3", "controls": "HamLearning"}
    rows = [row_of(name, title) for name, title in titles.items()]
    assert len({run_of(row).name for row in rows}) == 1


@pytest.mark.parametrize("name", TABLES)
def test_the_row_that_others_are_compared_with_is_in_the_table(name):
    table = TABLES[name]
    assert set(table.references) <= {row.title for row in table.rows}


def test_every_system_has_a_row_in_table_1():
    assert {row.architecture for row in TABLES["table1"].rows} >= {None, *RIVALS}


@pytest.mark.parametrize("name", TABLES)
def test_no_two_rows_of_a_table_have_one_title(name):
    titles = [row.title for row in TABLES[name].all_rows]
    assert len(set(titles)) == len(titles)


def test_a_row_with_pictures_is_run_with_others_with_none_and_with_all_hidden():
    others, hidden, none = (
        run_of(row_of("table1", f"UMT, {how}"))
        for how in ("others' pictures", "every picture hidden", "none at test time")
    )
    assert others.flags == {"architecture": "umt", "shuffle_pictures": True} and others.trained is None
    assert hidden.flags == {"architecture": "umt", "hide_pictures": True} and hidden.trained is None
    assert none.flags == {"hide_pictures": True} and none.trained == run_of(row_of("table1", "UMT"))
    assert row_of("table1", "BERT-CRF").controls == row_of("table1", "BiLSTM-CRF").controls == {}


def test_a_row_and_its_controls_have_the_flags_of_their_scale():
    row = row_of("table1", "HVPNeT")
    for of_row in (row, *row.controls.values()):
        training = [runs_of(of_row, scale, "twitter2017", 1) for scale in ("small", "paper")]
        assert ["use_pyramid" in (run.trained or run).flags for run in training] == [True, False]


def test_a_system_that_is_not_there_is_not_run_unless_it_is_asked_for(monkeypatch):
    monkeypatch.setattr("hamlearning.paper.command.RIVALS", ())
    titles = {row.title for row in TABLES["table1"].all_rows}
    names = [run.name for run in wanted_runs(["table1"], "small", [1], ["twitter2017"], None)]
    assert names and "architecture" not in "".join(names)
    [asked] = wanted_runs(["table1"], "small", [1], ["twitter2017"], ["UMT"])
    assert "UMT" in titles and asked.flags == {"architecture": "umt"}


def test_code_of_a_rival_is_its_own_file_and_what_rivals_share(project):
    before = code_sha256(), code_sha256("umt")
    rivals = project / "hamlearning" / "rivals"
    (rivals / "umt.py").write_text((rivals / "umt.py").read_text() + "\nCHANGED = True\n")
    assert code_sha256() == before[0] and code_sha256("umt") != before[1]
    before = code_sha256(), code_sha256("umt")
    (rivals / "rival.py").write_text((rivals / "rival.py").read_text() + "\nCHANGED = True\n")
    assert code_sha256() == before[0] and code_sha256("umt") != before[1]
    before = code_sha256(), code_sha256("umt")
    (rivals / "architectures.py").write_text("CHANGED = True\n")
    assert (code_sha256(), code_sha256("umt")) == before


def result(seed, right, split="test"):
    """A result of one tweet with ten entities."""
    return {
        "identity": {"data": {split: "these tweets"}},
        "results": {"seed": seed, split: {}, "validation": {}},
        "counts": {split: [[right, 10, 10]] * 20},
    }


def test_rows_are_compared_on_the_seeds_that_both_have():
    row, reference = [result(1, 9), result(2, 9), result(3, 1)], [result(1, 8), result(2, 6)]
    assert difference(row, reference, "test") == "+20.00 (< 0.001)"
    assert difference([result(3, 1)], reference, "test") == ""


def test_rows_of_other_tweets_are_not_compared():
    other = result(1, 9)
    other["identity"]["data"]["test"] = "other tweets"
    assert difference([other], [result(1, 8)], "test") == ""


def test_a_search_compares_on_dev():
    row, reference = [result(1, 9, "validation")], [result(1, 8, "validation")]
    split = scored_split(TABLES["search"], {"row": row, "HamLearning": reference})
    assert difference(row, reference, split) == "+10.00 (< 0.001)"


def test_a_table_in_which_a_row_has_no_test_scores_is_of_dev_and_says_so():
    scores = {"precision": 0.5, "recall": 0.5, "f1": 0.5, "strict_f1": 0.5}
    on_dev, on_both = result(1, 8, "validation"), result(1, 9, "validation")
    for of_splits in (on_both["counts"], on_both["identity"]["data"]):
        of_splits["test"] = of_splits["validation"]
    on_dev["results"]["validation"] = on_both["results"]["validation"] = on_both["results"]["test"] = scores
    found = {row.title: [] for row in TABLES["table1"].all_rows} | {"BERT": [on_both], "HamLearning": [on_dev]}
    assert "| F1 (dev) | 95 % |" in scores_of(TABLES["table1"], found, "twitter2017").splitlines()[0]
    found["HamLearning"] = [on_both]
    assert "dev)" not in scores_of(TABLES["table1"], found | {"BERT": []}, "twitter2017").splitlines()[0]


def scored(seed, right, f1):
    """A result of `right` of ten entities in each of 20 tweets."""
    made = result(seed, right)
    made["results"]["test"] = made["results"]["validation"] = {"f1": f1}
    return made


def test_what_a_network_gains_from_its_own_pictures_is_beside_it():
    found = {row.title: [] for row in TABLES["table1"].all_rows}
    found |= {"UMT": [scored(1, 9, 0.9)], "UMT, every picture hidden": [scored(1, 8, 0.8)]}
    text, table = pictures_of(TABLES["table1"], found)
    assert table.startswith("|  | seeds | own pictures | hidden | own less hidden (p) | others' |")
    assert "every picture hidden" in text
    umt = next(line for line in table.splitlines() if line.startswith("| UMT |"))
    assert umt == "| UMT | 1 | 90.00 | 80.00 | +10.00 (< 0.001) |  |  |  |  |"
    assert next(line for line in table.splitlines() if line.startswith("| MAF |")).startswith("| MAF | not run |")
    assert "BERT-CRF |" not in table.replace("GVATT-BERT-CRF", "").replace("AdaCAN-BERT-CRF", "")
    assert pictures_of(TABLES["table2"], {}) == []


def of_types(**f1) -> dict:
    """A result with precision, recall and F1 alike of each type."""
    types = {kind: dict.fromkeys(("precision", "recall", "f1"), value) for kind, value in f1.items()}
    return {"results": {"seed": 1, "validation": {"types": types}}}


def test_each_type_is_told_with_own_pictures_and_without():
    found = {row.title: [] for row in TABLES["table1"].all_rows}
    found |= {"UMT": [of_types(PER=0.9)], "UMT, every picture hidden": [of_types(PER=0.8)]}
    head, _, *rows = types_of(TABLES["table1"], found).splitlines()
    assert head == "| P / R / F1 | PER |"
    assert rows == [
        "| UMT | 90.0 / 90.0 / 90.0 |",
        "| UMT, every picture hidden | 80.0 / 80.0 / 80.0 |",
    ]


def test_a_type_that_one_row_alone_predicts_is_left_empty_in_the_others():
    found = {row.title: [] for row in TABLES["table1"].all_rows}
    found |= {"BERT": [of_types(PER=0.9)], "BERT-CRF": [of_types(PER=0.9, SEAL=0.0)]}
    _, _, bert, bert_crf = types_of(TABLES["table1"], found).splitlines()
    assert bert == "| BERT | 90.0 / 90.0 / 90.0 |  |"
    assert bert_crf == "| BERT-CRF | 90.0 / 90.0 / 90.0 | 0.0 / 0.0 / 0.0 |"


def test_a_row_has_its_interval_and_its_command():
    made = scored(1, 9, 0.9)
    made["counts"]["test"] = [[10, 10, 10]] * 10 + [[8, 10, 10]] * 10
    low, high = map(float, interval_of([made], "test").split(" to "))
    assert 84 < low < 90 < high < 96
    found = {row.title: [] for row in TABLES["table1"].all_rows} | {"UMT, none at test time": [made]}
    [line] = commands_of("table1", found, "small", "twitter2017").splitlines()[2:]
    command = '`hamlearning tables table1 --scale small --on twitter2017 --seeds 1 --rows "UMT, none at test time"`'
    assert line == f"| UMT, none at test time | {command} | `--hide_pictures True` |"


@pytest.mark.slow
def test_an_evaluation_is_of_a_model_of_its_own_identity(runner, project):
    evaluation = run_of(Row("hidden", at_test={"hide_pictures": True}))
    runner.make(evaluation)
    trained = runner.folder(evaluation.trained)
    (trained / "identity.json").write_text(json.dumps({"code": "of another day"}))
    evaluation.result_path.unlink()
    runner.make(evaluation)
    assert json.loads((trained / "identity.json").read_text()) == runner.identity(evaluation.trained)


def test_detectors_are_not_compared_on_features_from_a_file(project, capsys):
    assert main(["tables", "table5", "--on", "twitter2017"]) == 2
    error = capsys.readouterr().err
    assert "twitter2017 is read by " in error and "features.parquet here: take --scale paper" in error


def test_detectors_are_not_compared_where_a_config_has_another_one(project, capsys):
    (project / "configs" / "cpmner.yaml").write_text(
        "data_dir: paintings\nimage_dir: paintings/images\ndetector: grid\n"
    )
    assert main(["tables", "table5", "--scale", "cpmner"]) == 2
    assert "cpmner is read by grid here" in capsys.readouterr().err


def test_detectors_are_not_compared_on_features_that_stand_for_the_pictures(project, capsys):
    config = project / "configs" / SCALES["paper"]["twitter2017"]
    config.write_text("data_dir: tweets\nimage_dir: tweets/images\n")
    given = ["--visual_features", "twitter2017=features.parquet"]
    assert main(["tables", "table5", "--scale", "paper", "--on", "twitter2017", *given]) == 2
    assert "twitter2017 is read by features.parquet here" in capsys.readouterr().err


def test_pictures_lie_beside_their_tweets(project, world):
    config = project / "configs" / "cpmner.yaml"
    config.write_text("data_dir: released/cpmner\nimage_dir: released/cpmner/images\n")
    moved = Runner(project / "runs", {"cpmner": str(world / "tweets")}, {})
    settings = moved.settings(runs_of(FULL, "cpmner", "cpmner", 1))
    assert (settings["data_dir"], settings["image_dir"]) == (str(world / "tweets"), str(world / "tweets" / "images"))


@pytest.mark.parametrize("row", [FULL, Row("none", at_test={"hide_pictures": True})], ids=["training", "evaluation"])
def test_features_stand_in_the_place_of_pictures(project, world, row):
    config = project / "configs" / "cpmner.yaml"
    pictures = {"image_dir": "pictures", "vision_backbone": "timm/a", "detector": "grid"}
    config.write_text(yaml.safe_dump(yaml.safe_load(config.read_text()) | pictures))
    run = runs_of(row, "cpmner", "cpmner", 1)
    with_pictures = Runner(project / "runs", {}, {}).settings(run)
    runner = Runner(project / "runs", {}, {}, {"cpmner": "f.parquet"})
    assert with_pictures["image_dir"] == "pictures"
    settings = runner.settings(run)
    assert settings["visual_features"] == "f.parquet" and not settings.keys() & pictures.keys()


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["table9"], "there is no table 'table9': choose from table1"),
        (
            ["table1", "--data", "twitter2071=my"],
            "--data twitter2071=my: the scale small has twitter2017, twitter2015",
        ),
        (["table1", "--visual_features", "my.parquet"], "--visual_features my.parquet: give NAME=FILE"),
        (
            ["table4", "--scale", "sample"],
            "table4 tests on one of two data sets what was trained on the other: sample",
        ),
        (["table1", "--rows", "BERT", "LSTM"], "--rows: the tables have no row 'LSTM': choose from 'BiLSTM-CRF'"),
    ],
)
def test_what_no_table_has_is_refused(project, capsys, arguments, message):
    assert main(["tables", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_the_page_alone_is_written_without_a_run(project, capsys):
    assert main(["tables", "table1", "--on", "twitter2017", "--page", "--workers", "2"]) == 0
    assert capsys.readouterr().out == f"{project / 'results' / 'small' / 'README.md'}\n"
    assert not (project / "outputs").exists()


def test_a_run_that_fails_is_named_when_it_does_and_behind_the_page(project, capsys, caplog):
    arguments = ["table1", "--on", "twitter2017", "--rows", "HamLearning", "--data", "twitter2017=nowhere"]
    assert main(["tables", *arguments, "--runs_dir", str(project / "runs")]) == 1
    said = capsys.readouterr()
    assert "README.md" in said.out
    assert said.err.startswith("error: ") and "nowhere" in said.err
    assert "twitter2017-full-seed1 failed: " in caplog.text


@pytest.mark.slow
def test_the_page_is_html_and_a_figure_too(runner):
    runner.make(run_of(FULL))
    folder = write_page("small", [1]).parent
    html = (folder / "index.html").read_text()
    assert "<td>HamLearning</td>" in html and '<img src="figure4-twitter2017.svg"' in html
    figure = (folder / "figure4-twitter2017.svg").read_bytes()
    assert write_page("small", [1]) and (folder / "figure4-twitter2017.svg").read_bytes() == figure


def test_the_other_data_set_is_trained_on_for_table_4():
    run = runs_of(TABLES["table4"].rows[0], "small", "twitter2015", 1)
    assert (run.data, run.trained.data) == ("twitter2015", "twitter2017")


@pytest.mark.parametrize("scale", SCALES)
def test_every_config_is_one_that_the_run_understands(scale):
    from hamlearning.training.arguments import parse_arguments

    for name in SCALES[scale].values():
        parse_arguments([str(ROOT / "configs" / name), "--use_cpu", "True"])
