"""Which test runs which line: a pytest plugin that names coverage's contexts after the tests, and times them."""

import json
import os
import sys
from pathlib import Path

import coverage
import pytest


class LineTests:
    """Gives each test, and the fixtures that it is the first to ask for, a coverage context of their own.

    Lines run while a fixture is made have the context `ID|setup`: other tests lean on them too, unseen. Lines run
    while modules are imported, or in another process, have none.

    Args:
        measured: the running coverage.
        path: where to write, once all have run, `{"seconds": {ID: processor time}, "failed": [ID], "modules": [...]}`,
            the last being all that the tests imported.
    """

    def __init__(self, measured: coverage.Coverage, path: Path):
        self.measured, self.path = measured, path
        self.seconds, self.failed = {}, []

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_setup(self, item):
        self._switch(f"{item.nodeid}|setup")
        self.seconds[item.nodeid] = -processor_time()
        yield

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_call(self, item):
        self._switch(item.nodeid)
        yield
        self.seconds[item.nodeid] += processor_time()

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_teardown(self, item):
        self._switch(f"{item.nodeid}|setup")
        yield
        self._switch("")

    def _switch(self, context: str):
        # A test that is another user for a while may not write coverage's file, which switching does.
        if os.geteuid() == os.getuid():
            self.measured.switch_context(context)

    def pytest_runtest_logreport(self, report):
        if report.failed:
            self.failed.append(report.nodeid)

    def pytest_sessionfinish(self):
        found = {"seconds": self.seconds, "failed": self.failed, "modules": sorted(sys.modules)}
        self.path.write_text(json.dumps(found, indent=1))


def processor_time() -> float:
    """Seconds of processor time that this process and the children it waited for have used."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def main(folder: Path, files: list[str]):
    """Runs the tests that are not slow, all or those of some files; leaves `.coverage.*` and `tests.*.json`."""
    folder.mkdir(parents=True, exist_ok=True)
    measured = coverage.Coverage(data_file=str(folder / ".coverage"), data_suffix=True)
    measured.start()
    plugin = LineTests(measured, folder / f"tests.{os.getpid()}.json")
    status = pytest.main(["-q", "-m", "not slow", *files], plugins=[plugin])
    measured.stop()
    measured.save()
    return status


if __name__ == "__main__":
    sys.path.insert(0, os.getcwd())
    sys.exit(main(Path(sys.argv[1]), sys.argv[2:]))
