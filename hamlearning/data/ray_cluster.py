"""Work that the processes of a Ray cluster share: Ray says who does what, and does again what a lost one had begun."""

import pickle
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import pyarrow as pa


# An item is begun so often: Ray would give one that ends its worker, as for lack of memory, to the next one for ever.
ATTEMPTS = 4
TASKS = 10_000  # that Ray keeps books of; of more items, some go together


def load_ray() -> Any:
    """The library.

    Raises:
        ImportError: It is not installed.
    """
    try:
        import_module("ray.data")
    except ImportError as error:
        raise ImportError(f'--engine ray needs Ray ({error}): pip install "hamlearning[ray]"') from error
    return import_module("ray")


def share_with_ray(
    work: Callable[[Any], Any], items: Sequence[Any], workers: int | None = None, cpus: int = 1, gpus: float = 0
) -> Iterator[Any]:
    """What `work` makes of each item, in the order in which they are done.

    ```python
    >>> list(share_with_ray(abs, [-3, 4]))
    [3, 4]
    ```

    In the cluster that this process is connected to; else in that of `RAY_ADDRESS` or one that runs on this machine;
    else in one of this machine alone, which ends with the work. Workers are as many as the cluster has room for, and
    more when it grows. One that ends, alone or with its machine, is replaced, and what it had begun is done again by
    another: an item may be worked on twice, and has one result.

    Args:
        work: Can be pickled, as cheaply as possible: each worker gets a copy.
        items: Likewise. Small ones, such as names of files.
        workers: Of them, at most.
        cpus: Cores of a worker.
        gpus: GPUs of a worker, or a share of one.

    Yields:
        The results.

    Raises:
        ImportError: Ray is not installed.
        RuntimeError: An item has ended its worker again and again.
        Exception: What `work` has raised, as it was.
    """
    ray = load_ray()
    if not items:
        return
    with _connected(ray):
        most = min(workers or len(items), len(items))
        attempts = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(_Attempts).remote()
        together = -(-len(items) // TASKS)
        content = [pickle.dumps(items[first : first + together]) for first in range(0, len(items), together)]
        tasks = ray.data.from_items([{"items": some} for some in content], override_num_blocks=len(content))
        results = tasks.map_batches(
            _Worker,
            fn_constructor_args=(work, attempts),
            batch_size=None,
            batch_format="pyarrow",
            # A second task that waits at a slow worker would be one that a fast one cannot have.
            compute=ray.data.ActorPoolStrategy(
                min_size=1,
                max_size=most,
                initial_size=min(_room(ray.nodes(), cpus, gpus), most),
                max_tasks_in_flight_per_actor=1,
            ),
            num_cpus=cpus,
            num_gpus=gpus or None,
        )
        for row in results.iter_rows():
            result = pickle.loads(row["result"])
            if isinstance(result, Exception):
                raise result
            yield result


class _Attempts:
    """Counts how often an item was begun, in a process of its own that outlives those of the workers."""

    def __init__(self):
        self.counts: dict[bytes, int] = {}

    def begin(self, item: bytes) -> int:
        """Which attempt this is."""
        self.counts[item] = self.counts.get(item, 0) + 1
        return self.counts[item]

    def end(self, item: bytes) -> None:
        """It has its result."""
        self.counts.pop(item, None)


class _Worker:
    """What each actor is: Ray makes it once, and calls it with some items at a time."""

    def __init__(self, work: Callable[[Any], Any], attempts: Any):
        self.work, self.attempts = work, attempts

    def __call__(self, table: pa.Table) -> pa.Table:
        results = [self._result(item) for some in table["items"].to_pylist() for item in pickle.loads(some)]
        return pa.table({"result": [pickle.dumps(result) for result in results]})

    def _result(self, item: Any) -> Any:
        """An error is a result too: Ray would put it into another one, and many lines of its own."""
        ray, key = load_ray(), pickle.dumps(item)
        if ray.get(self.attempts.begin.remote(key)) > ATTEMPTS:
            return RuntimeError(
                f"Workers of Ray have ended {ATTEMPTS} times over {item}, often for lack of memory: what is done is "
                "kept, so look into the logs of Ray, give fewer workers, and start again"
            )
        try:
            result = self.work(item)
        except Exception as error:
            result = _portable(error)
        ray.get(self.attempts.end.remote(key))
        return result


def _portable(error: Exception) -> Exception:
    """An error that reaches another process, and says there where it comes from."""
    error.add_note(f"In a worker of Ray:\n{traceback.format_exc()}")
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # some take more to be made than they keep
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


@contextmanager
def _connected(ray: Any) -> Iterator[None]:
    """In a cluster, with Ray's own reports of progress silent; what this has started ends with it."""
    is_ours = not ray.is_initialized()
    if is_ours:
        ray.init(include_dashboard=False, logging_level="WARNING")
    context = ray.data.DataContext.get_current().copy()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    # At 1.75, as it is, a pool whose actors have one task each would never grow.
    context.autoscaling_config.actor_pool_util_upscaling_threshold = 1.0
    try:
        with ray.data.DataContext.current(context):
            yield
    finally:
        if is_ours:
            ray.shutdown()


def _room(machines: Sequence[Mapping[str, Any]], cpus: int, gpus: float) -> int:
    """How many workers a cluster has room for now, at least 1: a machine may be on its way."""
    needs = {"CPU": cpus, "GPU": gpus}
    free = [machine["Resources"] for machine in machines if machine["Alive"]]
    rooms = [min(int(has.get(name, 0) / count) for name, count in needs.items() if count) for has in free]
    return max(sum(rooms), 1)
