#!/usr/bin/env python
"""Mutation testing: do the tests notice when one operator, one number, one condition of the code is another?

```bash
python mutation/line_tests.py outputs/mutation                 # once: which test runs which line
python mutation/mutants.py draw --count 480 --seed 0
python mutation/mutants.py run --seconds 8                     # a first sieve; killed, the same command goes on
python mutation/mutants.py run --survivors                     # the rest, by all tests of their module
python mutation/mutants.py check                               # the tests that killed pass without a mutant
python mutation/mutants.py report
```

Cosmic Ray makes the mutants and keeps their fates. What is added here makes a mutant cost seconds instead of minutes:
all that the tests import, but for this project, is imported once, and each mutant is a fork of that process, in which
the tests run that run the mutated line.
"""

import argparse
import ast
import atexit
import difflib
import gc
import hashlib
import importlib
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

import cosmic_ray.plugins
import coverage
import pytest
from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.ast.ast_query import ASTQuery
from cosmic_ray.mutating import mutate_code
from cosmic_ray.work_db import WorkDB, use_db
from cosmic_ray.work_item import MutationSpec, TestOutcome, WorkerOutcome, WorkItem, WorkResult


ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "outputs" / "mutation"
MODULES = (
    "configuration_hamlearning.py",
    "hamlearning/data/columns.py",
    "hamlearning/data/csv_files.py",
    "hamlearning/data/dividing.py",
    "hamlearning/data/features.py",
    "hamlearning/data/json_files.py",
    "hamlearning/data/label_studio.py",
    "hamlearning/data/labels.py",
    "hamlearning/data/parquet.py",
    "hamlearning/data/picture_files.py",
    "hamlearning/data/released.py",
    "hamlearning/data/schemes.py",
    "hamlearning/data/spacy_json.py",
    "hamlearning/data/spans.py",
    "hamlearning/data/splitting.py",
    "hamlearning/data/streams.py",
    "hamlearning/data/tables.py",
    "hamlearning/data/text_rows.py",
    "hamlearning/data/tweets.py",
    "hamlearning/scores/counts.py",
    "hamlearning/scores/evaluation.py",
    "hamlearning/scores/metric.py",
    "hamlearning/scores/mner_scores.py",
    "hamlearning/scores/predictions.py",
    "hamlearning/scores/score.py",
    "hamlearning/scores/significance.py",
    "image_processing_hamlearning.py",
    "marks_hamlearning.py",
    "modeling_hamlearning.py",
    "pipeline_hamlearning.py",
    "processing_hamlearning.py",
    "windows_hamlearning.py",
    "words_hamlearning.py",
)
LEFT_OUT = "tests/model/test_exported.py"  # OpenVINO's threads may spin without end in a fork
# A binary operator becomes another one of its kind: numbers have no `|` and sets no `**`, and a TypeError at once
# would say nothing about the tests.
KINDS = ({"Add", "Sub", "Mul", "Div", "FloorDiv", "Mod", "Pow"}, {"BitOr", "BitAnd", "BitXor"}, {"LShift", "RShift"})
PLANTED = (
    "hamlearning/scores/counts.py",
    "return 2 * counts",
    "return 3 * counts",
)  # what `check` plants: an F1 of up to 1.5
MEMORY = 6 * 2**30  # bytes that a mutant may take beyond what is imported
NO_TEST = int(pytest.ExitCode.NO_TESTS_COLLECTED)
TIME_LIMIT = 10  # seconds of processor time of a test, beyond three times what the slowest of its file took unmutated
LATE = "time was up"
WALL_LIMIT = 1200  # seconds that a mutant may take, for what waits forever: on a busy machine it says little


# ------------------------------------------------------------------------------------------------------------- draw


def sites(module: str) -> Iterator[tuple[str, list[tuple[MutationSpec, str]]]]:
    """Where a module can be mutated: (rank text, the mutants there), one site an operator's family and a place.

    Not mutated are annotations, which nothing evaluates but the checks of the config's fields. Strings, so docstrings
    and the text of messages, are none of Cosmic Ray's business; what a message computes is mutated.
    """
    source = (ROOT / module).read_text(encoding="utf-8")
    tree, lines = ast.parse(source), source.split("\n")
    annotations = [(node.lineno, node.col_offset, node.end_lineno, node.end_col_offset) for node in _annotations(tree)]
    found = defaultdict(list)
    nodes = list(ast_nodes(get_ast(source)))
    for name in cosmic_ray.plugins.operator_names():
        operator_class = cosmic_ray.plugins.get_operator(name)
        family, *kinds = name.removeprefix("core/").split("_")
        if operator_class.arguments() or (
            family == "ReplaceBinaryOperator" and not any(set(kinds) <= kind for kind in KINDS)
        ):
            continue
        places = [(node, *place) for node in nodes for place in operator_class().mutation_positions(node)]
        for occurrence, (node, start, end) in enumerate(places):
            if any((a, b) <= start < (c, d) for a, b, c, d in annotations):
                continue
            definition = ASTQuery(node).get_definition_name()
            spec = MutationSpec(module, name, occurrence, start, end, {}, definition)
            found[family, start].append((spec, f"{name} {kinds} {len(found[family, start])}"))
    alike = Counter()
    for (family, start), mutants in sorted(found.items(), key=lambda item: (item[0][1], item[0][0])):
        text = f"{module} {mutants[0][0].definition_name} {lines[start[0] - 1].strip()} {start[1]} {family}"
        alike[text] += 1
        yield f"{text} {alike[text]}", mutants


def _annotations(tree: ast.AST) -> Iterator[ast.AST]:
    for node in ast.walk(tree):
        if isinstance(node, ast.arg | ast.AnnAssign) and node.annotation is not None:
            yield node.annotation
        elif isinstance(node, ast.FunctionDef) and node.returns is not None:
            yield node.returns


def draw(count: int, seed: int) -> None:
    """Draws mutants, at most one a site, and puts them into the session.

    A site's place in the draw is a hash of the seed and of its line: where the code changes elsewhere, the same
    mutants are drawn again, and keep the fate that they have.
    """

    def hashed(text: str) -> str:
        return hashlib.sha256(f"{seed} {text}".encode()).hexdigest()

    drawn, sizes = [], Counter()
    for module in MODULES:
        source = (ROOT / module).read_text(encoding="utf-8")
        original = ast.dump(ast.parse(source))
        for text, mutants in sites(module):
            sizes[module] += 1
            spec, _ = min(mutants, key=lambda mutant: hashed(text + mutant[1]))
            drawn.append((hashed(text), source, original, spec))
    drawn.sort(key=lambda entry: entry[0])
    items = []
    for job_id, source, original, spec in drawn:
        if len(items) == count:
            break
        try:
            if ast.dump(ast.parse(mutated_code(source, spec))) != original:
                items.append(WorkItem.single(job_id[:12], spec))
        # What Cosmic Ray's operators cannot do: `except module.Error`; a separator of arguments taken for an operator.
        except (AttributeError, SyntaxError):
            sizes[str(spec.module_path)] -= 1
    FOLDER.mkdir(parents=True, exist_ok=True)
    with use_db(FOLDER / "session.sqlite", WorkDB.Mode.create) as session:
        fates = dict(session.results)
        session.clear()
        session.add_work_items(items)
        kept = [item.job_id for item in items if item.job_id in fates]
        for job_id in kept:
            session.set_result(job_id, fates[job_id])
    per_module = Counter(str(item.mutations[0].module_path) for item in items)
    for module in MODULES:
        print(f"{per_module[module]:4} of {sizes[module]:5} sites in {module}")
    print(f"{len(items)} mutants, {len(kept)} of them with the fate they had")


def mutated_code(source: str, spec: MutationSpec) -> str:
    """The source of a module with one mutation."""
    operator = cosmic_ray.plugins.get_operator(spec.operator_name)(**spec.operator_args)
    return mutate_code(source, operator, spec.occurrence)


# ------------------------------------------------------------------------------------------------------------ tests


def test_runs() -> list[dict]:
    """What `line_tests.py` wrote, run by run."""
    return [json.loads(path.read_text()) for path in sorted(FOLDER.glob("tests.*.json"))]


def imported_by_tests() -> list[str]:
    """The modules that some test imported."""
    return sorted({name for run in test_runs() for name in run["modules"]})


class LineMap:
    """Which tests run a line, as `line_tests.py` saw it."""

    def __init__(self):
        failed = {test for run in test_runs() for test in run["failed"]}  # such a test would kill every mutant
        timed = {test: seconds for run in test_runs() for test, seconds in run["seconds"].items()}
        self.seconds = {test: timed[test] for test in timed if test not in failed and not test.startswith(LEFT_OUT)}
        self.contexts = {module: defaultdict(set) for module in MODULES}
        for path in FOLDER.glob(".coverage.*"):
            data = coverage.CoverageData(str(path))
            data.read()
            for module in MODULES:
                for line, names in data.contexts_by_lineno(str(ROOT / module)).items():
                    self.contexts[module][line].update(names)
        self.trees = {module: ast.parse((ROOT / module).read_text(encoding="utf-8")) for module in MODULES}

    def tests_of(self, spec: MutationSpec) -> list[str]:
        """Those that run the mutated statement, themselves or in a fixture made for them, quickest file first.

        Outside any function, where a statement runs once while its module is imported, those that run the module; and
        where there are none else, as of what runs in another process.
        """
        module, line = str(spec.module_path), spec.start_pos[0]
        functions = (node for node in ast.walk(self.trees[module]) if isinstance(node, ast.FunctionDef))
        if not any(function.lineno <= line <= function.end_lineno for function in functions):
            return self.all_of([module])
        return self._known(self._names(module, self._lines(module, line))) or self.all_of([module])

    def all_of(self, modules: Iterable[str]) -> list[str]:
        """All tests that run a line of some modules."""
        return self._known(name for module in modules for name in self._names(module, self.contexts[module]))

    def _known(self, names: Iterable[str]) -> list[str]:
        return self.in_order({name.removesuffix("|setup") for name in names} & set(self.seconds))

    def _names(self, module: str, lines: Iterable[int]) -> set[str]:
        return {name for line in lines for name in self.contexts[module].get(line, ())}

    def _lines(self, module: str, line: int) -> range:
        """Lines of the innermost statement there: of a compound one its head, of a function's head its body."""
        lines = range(line, line + 1)
        size = None
        for node in ast.walk(self.trees[module]):
            if not isinstance(node, ast.stmt | ast.ExceptHandler):
                continue
            first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", ()))])
            if first <= line <= node.end_lineno and (size is None or node.end_lineno - first < size):
                size = node.end_lineno - first
                body = getattr(node, "body", None)
                if isinstance(node, ast.FunctionDef):
                    lines = range(body[0].lineno, node.end_lineno + 1)
                else:
                    lines = range(first, max(body[0].lineno, first + 1) if body else node.end_lineno + 1)
        return lines

    def in_order(self, tests: Iterable[str]) -> list[str]:
        """By file, as fixtures of a file are made anew when its tests are torn apart; the quickest first."""
        files = defaultdict(list)
        for test in tests:
            files[test.split("::")[0]].append(test)
        for names in files.values():
            names.sort(key=lambda name: (self.seconds[name], name))
        return [name for _, names in sorted(files.items(), key=lambda file: self.cost(file[1])) for name in names]

    def quickest(self, tests: Iterable[str], seconds: float) -> list[str]:
        """As many of the quickest tests as fit into some processor time, at least one."""
        chosen = sorted(tests, key=lambda test: (self.seconds[test], test))
        while len(chosen) > 1 and self.cost(chosen) > seconds:
            chosen.pop()
        return self.in_order(chosen)

    def cost(self, tests: Iterable[str]) -> float:
        """Processor time of some tests, unmutated."""
        return sum(self.seconds[test] for test in tests)


class Only:
    """Pytest plugin: runs some tests in the order given, each within a limit of processor time."""

    def __init__(self, tests: list[str], seconds: dict[str, float]):
        self.rank = {test: rank for rank, test in enumerate(tests)}
        self.slowest = defaultdict(float)  # of a file: whichever test comes first makes the fixtures of all
        for test, took in seconds.items():
            self.slowest[test.split("::")[0]] = max(took, self.slowest[test.split("::")[0]])

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items):
        items[:] = sorted((item for item in items if item.nodeid in self.rank), key=lambda i: self.rank[i.nodeid])

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_protocol(self, item):
        # The signal that comes then ends the process: a test would catch an exception.
        signal.setitimer(signal.ITIMER_PROF, 3 * self.slowest[item.nodeid.split("::")[0]] + TIME_LIMIT)
        yield


# -------------------------------------------------------------------------------------------------------------- run


class Server:
    """A process that has imported what the tests import, and a copy of the project that its forks may spoil."""

    def __init__(self):
        self.place = FOLDER / f"copy{os.getpid()}"
        self.copy = self.place / ROOT.name
        listed = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=ROOT, capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip
        for name in filter(None, listed.split("\0")):
            if (ROOT / name).is_file():
                (self.copy / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, self.copy / name)
        self.sources = {module: (self.copy / module).read_text(encoding="utf-8") for module in MODULES}
        if (ROOT.parent / "shared").is_dir():
            (self.place / "shared").symlink_to(ROOT.parent / "shared")
        os.environ |= {
            "OMP_NUM_THREADS": "1",
            "TOKENIZERS_PARALLELISM": "false",
            "HF_HOME": str(self.place / "home"),  # no two forks at a time share modules that a repo brought
            "HF_HUB_OFFLINE": "1",
            "HF_DATASETS_OFFLINE": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        }
        sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() not in (ROOT, ROOT / "mutation")]
        sys.path.insert(0, str(self.copy))
        os.chdir(self.copy)
        ours = {path.stem for path in [*ROOT.glob("*.py"), *(ROOT / "tests").rglob("*.py")]} | {"hamlearning"}
        for name in imported_by_tests():
            if name.split(".")[0] not in ours | {"tests", "transformers_modules", "__mp_main__"}:
                try:
                    importlib.import_module(name)
                except Exception:  # what only exists while a test runs
                    pass
        gc.collect()
        gc.freeze()
        atexit.register(shutil.rmtree, self.place, ignore_errors=True)
        self.mtime = int(time.time()) + 1000
        self.map = LineMap()

    def fate(self, module: str, code: str, tests: list[str], *flags: str) -> tuple[int | None, str]:
        """Runs tests on the copy in which a module has other code.

        Returns:
            Pytest's exit status (the negative signal if that ended it, None if time was up) and what it printed last.
        """
        path, log = self.copy / module, self.place / "output.txt"
        try:
            self._write(path, code)
            log.write_text("")
            pid = os.fork()
            if pid == 0:
                self._run(tests, log, flags or ("-x",))
            status = self._wait(pid)
        finally:
            self._write(path, self.sources[module])
        return status, log.read_text(encoding="utf-8", errors="replace")[-20000:]

    def _write(self, path: Path, code: str) -> None:
        # Compiled files are told apart by time, in seconds, and size: each version has a second of its own.
        path.write_text(code, encoding="utf-8")
        self.mtime += 1
        os.utime(path, (self.mtime, self.mtime))

    def _run(self, tests: list[str], log: Path, more: tuple[str, ...]):
        status = 3
        try:
            os.setsid()
            if not tests:  # pytest would take no file for all files
                os._exit(NO_TEST)
            stream = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(stream, 1)
            os.dup2(stream, 2)
            status_of_linux = Path("/proc/self/status").read_text()
            limit = int(re.search(r"VmData:\s+(\d+) kB", status_of_linux)[1]) * 1024 + MEMORY
            # Not RLIMIT_AS: a browser reserves far more addresses than it uses.
            resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
            files = list(dict.fromkeys(test.split("::")[0] for test in tests))
            flags = ["-q", *more, "-p", "no:cacheprovider", "--tb=line", f"--basetemp={self.place / 'tmp'}"]
            status = pytest.main([*flags, *files], plugins=[Only(tests, self.map.seconds)])
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(int(status))

    def _wait(self, pid: int) -> int | None:
        end = time.monotonic() + WALL_LIMIT
        status = None
        while time.monotonic() < end:
            done, ended = os.waitpid(pid, os.WNOHANG)
            if done:
                code = os.waitstatus_to_exitcode(ended)
                status = None if code == -signal.SIGPROF else code
                break
            time.sleep(0.02)
        try:
            os.killpg(pid, signal.SIGKILL)  # and what it started
        except ProcessLookupError:
            pass
        if not time.monotonic() < end:
            os.waitpid(pid, 0)
        return status


def check() -> None:
    """Shows that the harness can tell: the tests that killed a mutant pass without one, and fail with a planted one.

    They run in forks as they did then, a file a fork. A mutant whose test fails here too did not die of its mutation:
    it counts as alive from then on, and `run --survivors` runs it again without that test.

    Raises:
        SystemExit: A test fails without a mutation, or the planted mutant lives.
    """
    server = Server()
    module, old, new = PLANTED
    source = server.sources[module]
    with use_db(FOLDER / "session.sqlite", WorkDB.Mode.open) as session:
        killed = {job: fate for job, fate in session.results if fate.test_outcome == TestOutcome.KILLED}
        killers = {job: set(failed_tests(fate.output)) & set(server.map.seconds) for job, fate in killed.items()}
        named, failed = sorted(set().union(*killers.values())), set()
        for path in sorted({test.split("::")[0] for test in named}):
            tests = server.map.in_order(test for test in named if test.split("::")[0] == path)
            status, output = server.fate(module, source, tests, "--maxfail=1000")
            found = [] if status == 0 else failed_tests(output) or tests  # it ended before it could say which
            failed.update(found)
            print(f"{path}: exit {status}, {len(found)} of {len(tests)} tests fail without a mutation", flush=True)
        for job in (job for job, tests in killers.items() if tests & failed):
            fate = WorkResult(WorkerOutcome.NORMAL, "", TestOutcome.SURVIVED, killed[job].diff)
            session.set_result(job, fate)
    (FOLDER / "tests.check.json").write_text(
        json.dumps({"seconds": {}, "failed": sorted(failed), "modules": []}, indent=1)
    )
    late = sum(is_late(fate) for fate in killed.values())
    others = sum(not tests for tests in killers.values()) - late
    print(f"{len(killed)} mutants died: by {len(named)} tests, {late} by the time limit, {others} with pytest itself")
    status, output = server.fate(module, source.replace(old, new), server.map.all_of([module]))
    print(f"planted {new!r} for {old!r} in {module}: exit {status}\n{output[-300:]}")
    if failed:
        sys.exit(f"fail without a mutation: {sorted(failed)}")
    if old not in source or status != 1:
        sys.exit("the planted mutant lives")


def failed_tests(output: str) -> list[str]:
    """The tests that pytest's summary names."""
    return [re.sub(" - .*", "", line) for line in re.findall(r"^(?:FAILED|ERROR) (.*)", output, re.MULTILINE)]


def is_late(fate: WorkResult) -> bool:
    """Whether a mutant died by the time limit."""
    return fate.test_outcome == TestOutcome.KILLED and fate.output.startswith(LATE)


def run(of: list[str], part: int, parts: int, again: bool, seconds: float | None) -> None:
    """Runs mutants that have no fate yet, or again those that survived: of some modules, or of some names."""
    with use_db(FOLDER / "session.sqlite", WorkDB.Mode.open) as session:
        fates = dict(session.results)
        todo = [
            item
            for item in session.work_items
            if (str(item.mutations[0].module_path) in of or item.job_id in of)
            and int(item.job_id, 16) % parts == part
            and (item.job_id not in fates or again and fates[item.job_id].test_outcome == TestOutcome.SURVIVED)
        ]
        server = Server()
        for number, item in enumerate(sorted(todo, key=lambda item: item.job_id), 1):
            [spec] = item.mutations
            module, line = str(spec.module_path), spec.start_pos[0]
            source = server.sources[module]
            code = mutated_code(source, spec)
            tests = server.map.tests_of(spec)
            if seconds is not None:
                tests = server.map.quickest(tests, seconds)
            elif again:
                tests += [test for test in server.map.all_of([module]) if test not in set(tests)]
            start = time.monotonic()
            status, output = server.fate(module, code, tests)
            outcome = TestOutcome.SURVIVED if status in (0, NO_TEST) else TestOutcome.KILLED
            last = output[-3000:]
            if status is None:
                last = f"{LATE}\n{last}"
            session.set_result(item.job_id, WorkResult(WorkerOutcome.NORMAL, last, outcome, changed(source, code)))
            fate = LATE if status is None else outcome.value
            took = time.monotonic() - start
            print(f"{number}/{len(todo)} {module}:{line} {fate} {took:.1f} s, {len(tests)} tests", flush=True)


def changed(source: str, code: str) -> str:
    """The lines that differ, old and new."""
    lines = difflib.ndiff(source.split("\n"), code.split("\n"))
    return "\n".join(f"{line[0]} {line[1:].strip()}" for line in lines if line[0] in "-+")


# ----------------------------------------------------------------------------------------------------------- report


def report() -> None:
    """Prints how many mutants of each module died, and those that live."""
    with use_db(FOLDER / "session.sqlite", WorkDB.Mode.open) as session:
        fates = dict(session.results)
        items = sorted(session.work_items, key=lambda i: (str(i.mutations[0].module_path), i.mutations[0].start_pos))
    counts = {module: Counter() for module in (*MODULES, "all")}
    alive = []
    for item in items:
        module = str(item.mutations[0].module_path)
        fate = fates.get(item.job_id)
        name = "pending" if fate is None else fate.test_outcome.value
        if fate is not None and is_late(fate):
            name = LATE
        for key in (module, "all"):
            counts[key].update(["drawn", name])
        if name == "survived":
            alive.append((item, fate))
    print("| module | drawn | killed by a test | by the time limit | survived | pending | killed |")
    print("|---|---|---|---|---|---|---|")
    for module, count in counts.items():
        killed, late, lived = count["killed"], count[LATE], count["survived"]
        share = 100 * (killed + late) / max(killed + late + lived, 1)
        print(f"| {module} | {count['drawn']} | {killed} | {late} | {lived} | {count['pending']} | {share:.1f} % |")
    for item, fate in alive:
        [spec] = item.mutations
        place = f"{spec.module_path}:{spec.start_pos[0]} in {spec.definition_name}"
        print(f"\n{item.job_id} {place}, {spec.operator_name}\n{fate.diff}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    drawing = commands.add_parser("draw", help="draw mutants and put them into the session")
    drawing.add_argument("--count", type=int, default=480)
    drawing.add_argument("--seed", type=int, default=0)
    commands.add_parser("check", help="show that what killed is the mutants, and that a planted one dies")
    running = commands.add_parser("run", help="run the mutants that have no fate yet")
    running.add_argument("--of", nargs="+", default=MODULES, metavar="FILE|ID", help="of these modules, or these")
    running.add_argument("--part", default="1/1", help="`1/2`: the first of two halves, for two processes at a time")
    running.add_argument("--survivors", action="store_true", help="those that survived, by all tests of their module")
    running.add_argument("--seconds", type=float, help="a first sieve: the quickest tests that so much time holds")
    commands.add_parser("report", help="print the tables")
    given = parser.parse_args()
    if given.command == "draw":
        draw(given.count, given.seed)
    elif given.command == "check":
        check()
    elif given.command == "run":
        part, parts = map(int, re.fullmatch(r"(\d+)/(\d+)", given.part).groups())
        run(given.of, part - 1, parts, given.survivors, given.seconds)
    else:
        report()


if __name__ == "__main__":
    main()
