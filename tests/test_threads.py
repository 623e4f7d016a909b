"""How our programs share a machine: how threads wait, and how many there are."""

import os
import subprocess
import sys

import pytest

from hamlearning import threads
from hamlearning.threads import USERS_OWN, core_share, share_the_machine


@pytest.fixture
def environment(monkeypatch):
    for name in (*USERS_OWN, "OMP_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


def made(environment) -> dict[str, str]:
    environment.setattr(os, "environ", dict(os.environ))
    share_the_machine()
    return {name: os.environ[name] for name in (*USERS_OWN, "OMP_NUM_THREADS") if name in os.environ}


def test_threads_sleep_soon(environment):
    environment.setattr(threads, "core_share", lambda: None)
    assert made(environment) == {"GOMP_SPINCOUNT": "1000", "KMP_BLOCKTIME": "1"}


@pytest.mark.parametrize("name", USERS_OWN)
def test_what_the_user_set_stays(environment, name):
    environment.setattr(threads, "core_share", lambda: None)
    environment.setenv(name, "7")
    assert made(environment) == {name: "7"}


@pytest.mark.parametrize("share, count", [(0.5, "1"), (1.0, "1"), (2.5, "2"), (8.0, None)])
def test_there_are_as_many_threads_as_the_container_may_use(environment, share, count):
    environment.setattr(threads, "core_share", lambda: share)
    environment.setattr(threads, "usable_cores", lambda: 4)
    assert made(environment).get("OMP_NUM_THREADS") == count
    environment.setenv("OMP_NUM_THREADS", "3")
    assert made(environment)["OMP_NUM_THREADS"] == "3"


@pytest.mark.parametrize(
    "files, groups, share",
    [
        ({"cpu.max": "150000 100000\n"}, "0::/\n", 1.5),
        ({"cpu.max": "max 100000\n"}, "0::/\n", None),
        ({"one/cpu.max": "50000 100000\n", "one/two/cpu.max": "max 100000\n"}, "0::/one/two\n", 0.5),
        ({"cpu/cpu.cfs_quota_us": "200000\n", "cpu/cpu.cfs_period_us": "100000\n"}, "4:cpu,cpuacct:/\n", 2.0),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, "4:cpu,cpuacct:/\n", None),
        ({"cpu/d/cpu.cfs_quota_us": "25000\n", "cpu/d/cpu.cfs_period_us": "100000\n"}, "4:cpu:/d\n1:memory:/\n", 0.25),
        ({"cpu.max": "\n"}, "nonsense\n", None),
        ({}, "", None),
    ],
)
def test_the_share_is_that_of_the_control_groups(tmp_path, files, groups, share):
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    (tmp_path / "self").write_text(groups)
    assert core_share(tmp_path, tmp_path / "self") == share


def test_the_command_sets_them_before_pytorch_is_there():
    code = (
        "import os, sys; from hamlearning.cli import main; assert 'torch' not in sys.modules; main(['info']); "
        "assert os.environ['GOMP_SPINCOUNT'] == '1000'"
    )
    own = {name: value for name, value in os.environ.items() if name not in USERS_OWN}
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=own, timeout=300)
    assert run.returncode == 0, run.stderr
    assert "threads that wait: sleep after 1000 turns (GOMP_SPINCOUNT)" in run.stdout
