"""`hamlearning tables`: runs of the paper's tables that are not there yet, and the page of those that are.

A run is one training (or one evaluation of a trained model) with one seed. Its result is one JSON file in
`results/SCALE/`. It is made again only if its settings, the data or the code that computes have changed; a run that
was killed goes on from its last checkpoint, and several calls at once share the work. Ctrl-C and SIGTERM end the runs
with a checkpoint, and the same command goes on. `results/SCALE/README.md` is the page (`index.html` the same): what
was measured beside what the paper reports, and "not run" where nothing was.
"""

import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path
from queue import Queue
from types import FrameType

import torch

from hamlearning.paper import runner as runs
from hamlearning.paper.page import stand_in_detector, write_page
from hamlearning.paper.runner import Run, Runner, runs_of
from hamlearning.paper.tables import SCALES, TABLES
from hamlearning.rivals.architectures import RIVALS
from hamlearning.training.signals import Stopped


logger = logging.getLogger(__name__)


def make_tables(
    tables: Sequence[str],
    scale: str = "small",
    seeds: Sequence[int] = (1, 2, 3),
    on: Sequence[str] | None = None,
    data: Sequence[str] = (),
    visual_features: Sequence[str] = (),
    text_model: str | None = None,
    workers: int = 1,
    runs_dir: Path | None = None,
    rows: Sequence[str] | None = None,
    page: bool = False,
) -> int:
    """Make the runs of some tables, then write the page.

    Args:
        tables: Names in `TABLES`.
        scale: A name in `SCALES`.
        seeds: A run each.
        on: Data sets; all of the scale if None.
        data: `NAME=FOLDER` each: where a data set lies, if not where the config says.
        visual_features: `NAME=FILE` each: a visual feature file that is read in place of a data set's pictures.
        text_model: The text encoder, where it is not the config's.
        workers: Runs at a time, one GPU each where there are some.
        runs_dir: Where models and logs go.
        rows: Titles of rows; all if None.
        page: Whether to make no run.

    Returns:
        The exit code: 0, 1 if a run failed, 2 for arguments that do not fit, 128 + a signal.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    try:
        if not (tables or page):
            raise ValueError(f"name a table ({', '.join(TABLES)}), or give --page for the page of what was run")
        check(tables, scale, on, data, visual_features, rows)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    runner = Runner(
        runs_dir or runs.ROOT / "outputs" / "experiments",
        dict(place.split("=", 1) for place in data),
        {} if text_model is None else {"text_model": text_model},
        dict(place.split("=", 1) for place in visual_features),
    )
    wanted = [] if page else wanted_runs(tables, scale, seeds, on, rows)
    return make_runs(runner, wanted, workers, lambda: write_page(scale, list(seeds)))


def check(
    tables: Sequence[str],
    scale: str,
    on: Sequence[str] | None,
    data: Sequence[str],
    visual_features: Sequence[str],
    rows: Sequence[str] | None,
) -> None:
    """Refuse names that are none, and tables that would not measure what their title says.

    Raises:
        ValueError: names the argument, and what there is.
    """
    if not (runs.ROOT / "configs").is_dir():
        raise ValueError(f"the tables' configs are not in {runs.ROOT}: call it in a clone of the project")
    if scale not in SCALES:
        raise ValueError(f"--scale {scale}: choose from {', '.join(SCALES)}")
    for name in tables:
        if name not in TABLES:
            raise ValueError(f"there is no table {name!r}: choose from {', '.join(TABLES)}")
    for name in on or ():
        if name not in SCALES[scale]:
            raise ValueError(f"--on {name}: the scale {scale} has {', '.join(SCALES[scale])}")
    for flag, places, example in (
        ("data", data, "NAME=FOLDER, such as twitter2017=my/twitter2017"),
        ("visual_features", visual_features, "NAME=FILE, such as twitter2017=features/visual_features.parquet"),
    ):
        for place in places:
            if "=" not in place:
                raise ValueError(f"--{flag} {place}: give {example}")
            if (name := place.split("=", 1)[0]) not in SCALES[scale]:
                raise ValueError(f"--{flag} {place}: the scale {scale} has {', '.join(SCALES[scale])}, and no {name}")
    titles = [row.title for name in tables for row in TABLES[name].all_rows]
    for title in rows or ():
        if title not in titles:
            raise ValueError(f"--rows: the tables have no row {title!r}: choose from {', '.join(map(repr, titles))}")
    files = dict(place.split("=", 1) for place in visual_features)
    for name in tables:
        for data_set in on or SCALES[scale]:
            if TABLES[name].needs_pictures and (stand_in := files.get(data_set) or stand_in_detector(scale, data_set)):
                raise ValueError(
                    f"{name} compares detectors, and {data_set} is read by {stand_in} here: take --scale paper"
                )
            if any(row.trained_on and data_set not in row.trained_on for row in TABLES[name].rows):
                raise ValueError(
                    f"{name} tests on one of two data sets what was trained on the other: {data_set} has none"
                )


def wanted_runs(
    tables: Sequence[str], scale: str, seeds: Sequence[int], on: Sequence[str] | None, rows: Sequence[str] | None
) -> list[Run]:
    """The runs of the tables' rows, each once, in the order in which they tell most."""
    found = [
        runs_of(row, scale, data, seed)
        for seed in seeds  # one seed of all rows tells more than all seeds of one
        for table_name in tables
        for data in on or SCALES[scale]
        for row in TABLES[table_name].all_rows
        if (rows is None and row.architecture in (None, *RIVALS)) or row.title in (rows or ())
    ]
    return list({run.name: run for run in found}.values())  # tables share rows


def make_runs(runner: Runner, wanted: Sequence[Run], workers: int, write: Callable[[], Path]) -> int:
    """Make runs, some at a time, then write the page; returns the exit code."""
    free = free_devices(workers)

    def make(run: Run) -> None:
        device = free.get()
        try:
            runner.make(run, device)
        except Exception as error:
            logger.error(f"{run.name} failed: {error}")  # now: the others may take days
            raise
        finally:
            free.put(device)

    pool, made = ThreadPoolExecutor(workers), list[Future[None]]()
    with ending_signals():
        try:
            made += (pool.submit(make, run) for run in wanted)  # those are known that were, if it is interrupted
            pool.shutdown(wait=False)
            wait(made)
            page = write()
        except BaseException as error:
            stopped = isinstance(error, KeyboardInterrupt)
            number = getattr(error, "signum", signal.SIGINT) if stopped else signal.SIGTERM
            if not all(future.done() for future in made):
                logger.info("Waits for the runs to end with a checkpoint; Ctrl-C (again) ends them at once, without.")
            end_runs(runner, pool, made, number)
            if not stopped:
                raise
            print(
                f"{signal.Signals(number).name}: stopped. Results that are there stay, and a run that was going on "
                "has its last checkpoint: go on with the same command.",
                file=sys.stderr,
            )
            return 128 + number
    failed = [str(future.exception()) for future in made if future.exception() is not None]
    print(page)
    for message in failed:
        print(f"error: {message}", file=sys.stderr)
    return 1 if failed else 0


def free_devices(workers: int) -> Queue[str | None]:
    """A device for each run at a time, taken by one run until that ends; None: the CPU."""
    devices: list[str | None] = [*map(str, range(torch.cuda.device_count()))] or [None]
    if torch.cuda.is_available() and os.environ.get("CUDA_VISIBLE_DEVICES"):
        devices = [*os.environ["CUDA_VISIBLE_DEVICES"].split(",")]
    free: Queue[str | None] = Queue()
    for worker in range(workers):
        free.put(devices[worker % len(devices)])
    return free


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
