"""The command `hamlearning`: its verbs, its help, what it says to a slip."""

import contextlib
import os
import re
import subprocess
import sys
from importlib import metadata

import pytest

from conftest import ROOT
from hamlearning.cli import VERBS, main


def said(capsys, *command):
    status = main(list(command))
    return status, capsys.readouterr()


def test_help_has_a_line_for_each_verb(capsys):
    status, page = said(capsys, "--help")
    assert status == 0
    for name, verb in VERBS.items():
        assert re.search(rf"^  {name} +{re.escape(verb.summary)}$", page.out, re.M)


def test_nothing_at_all_is_a_call_for_help(capsys):
    assert said(capsys)[1].out == said(capsys, "--help")[1].out


@pytest.mark.parametrize("verb", VERBS)
def test_the_help_of_a_verb_begins_with_two_lines_to_type(verb, capsys):
    with contextlib.suppress(SystemExit):  # argparse's way to end
        assert main([verb, "--help"]) == 0
    first, second, third, *rest = capsys.readouterr().out.splitlines()
    assert first.startswith(f"$ hamlearning {verb} ") or first == f"$ hamlearning {verb}"
    assert second.startswith(f"$ hamlearning {verb}") and third == ""
    assert any(line.startswith("usage: ") for line in rest)


def test_a_wrong_verb_proposes_the_nearest(capsys):
    status, answer = said(capsys, "trian", "x.yaml")
    assert status == 2
    assert answer.err == (
        "error: 'trian' is no verb of hamlearning: did you mean train? `hamlearning --help` lists them.\n"
    )


def test_a_verb_like_none_is_told_where_they_are_listed(capsys):
    assert said(capsys, "xyzzy")[1].err == (
        "error: 'xyzzy' is no verb of hamlearning. `hamlearning --help` lists them.\n"
    )


def test_a_wrong_flag_proposes_the_nearest(capsys):
    with pytest.raises(SystemExit) as end:
        main(["score", "a.jsonl", "--agianst", "b.jsonl"])
    assert end.value.code == 2
    assert "'--agianst' is no flag of `hamlearning score`: did you mean --against?" in capsys.readouterr().err


@pytest.mark.parametrize("verb", ["train", "predict", "extract"])
def test_a_wrong_flag_of_a_run_proposes_the_nearest(verb, capsys):
    model = ["model"] if verb == "predict" else []
    status, answer = said(capsys, verb, *model, "--lerning_rate", "1")
    assert status == 1
    assert answer.err.splitlines()[-1] == (
        "error: '--lerning_rate' is no flag of a run: did you mean --learning_rate? `hamlearning train --help` lists "
        "them."
    )


def test_a_flag_before_the_model_is_refused_as_its_value_would_be_taken_for_it(capsys):
    with pytest.raises(SystemExit) as end:
        main(["predict", "--seed", "2", "outputs/demo"])
    assert end.value.code == 2
    assert "'--seed' comes before MODEL: give the model first, then the flags" in capsys.readouterr().err


def test_a_surplus_argument_is_no_flag(capsys):
    with pytest.raises(SystemExit):
        main(["score", "a", "b", "c", "d"])
    assert "'c' is one argument too many for `hamlearning score` (" in capsys.readouterr().err


def test_the_version_is_that_of_the_package(capsys):
    assert said(capsys, "--version")[1].out == f"{metadata.version('hamlearning')}\n"


def test_tables_without_a_name_change_nothing(capsys):
    status, answer = said(capsys, "tables")
    assert status == 2 and answer.err.startswith("error: name a table (table1")


def test_a_missing_file_is_one_sentence(capsys, tmp_path):
    status, answer = said(capsys, "score", str(tmp_path / "nowhere.jsonl"))
    assert status == 1
    assert answer.err.startswith("error: ") and answer.err.count("\n") == 1 and "nowhere.jsonl" in answer.err


def test_compare_says_which_system_is_better(capsys, tmp_path):
    for name, tag in (("one", "B-PER"), ("two", "O")):
        line = f'{{"id": "1", "tokens": ["Ada"], "ner_tags": ["B-PER"], "predictions": ["{tag}"]}}\n'
        (tmp_path / f"{name}.jsonl").write_text(line * 9)
    status, answer = said(capsys, "compare", str(tmp_path / "one.jsonl"), str(tmp_path / "two.jsonl"))
    assert status == 0
    assert "F1 100.00 against 0.00: difference +100.00" in answer.out
    assert "| PER | 100.00 | 0.00 | +100.00 |" in answer.out


@pytest.mark.parametrize("command", [["-m", "hamlearning"], pytest.param(["run_mner.py"], marks=pytest.mark.slow)])
def test_both_ways_to_train_take_the_same_flags(command):
    command = [sys.executable, *command, *(["train"] if "-m" in command else []), "--no_such_flag", "1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("error: '--no_such_flag' is no flag of a run")


def completions(line: str, tmp_path) -> set[str]:
    """What the shell would offer behind a line, by argcomplete's own protocol."""
    answer = tmp_path / "answer"
    environment = os.environ | {
        "_ARGCOMPLETE": "1",
        "_ARGCOMPLETE_STDOUT_FILENAME": str(answer),
        "_ARGCOMPLETE_IFS": "\n",
        "COMP_LINE": line,
        "COMP_POINT": str(len(line)),
    }
    subprocess.run([sys.executable, "-m", "hamlearning"], env=environment, capture_output=True, text=True)
    return {word.strip() for word in answer.read_text().split("\n")}


def test_the_shell_completes_verbs_and_flags(tmp_path):
    assert {"prepare", "predict", "publish"} == completions("hamlearning p", tmp_path)
    assert "--against" in completions("hamlearning score --a", tmp_path)
    assert "--learning_rate" in completions("hamlearning train --learning_ra", tmp_path)


@pytest.mark.slow
def test_the_backend_of_a_notebook_of_another_environment_is_none_of_ours():
    environment = os.environ | {"MPLBACKEND": "module://not_installed_here.backend"}
    code = "from hamlearning.training.results import plot_training"
    subprocess.run([sys.executable, "-c", code], env=environment, cwd=ROOT, check=True)
