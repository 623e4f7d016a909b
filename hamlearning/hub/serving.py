"""`hamlearning serve`: a model behind HTTP on Ray Serve, with the limits and refusals of an endpoint.

    $ hamlearning serve outputs/demo
    http://127.0.0.1:8000/predict answers POST requests, /docs says more; Ctrl-C ends it
    $ curl -d '{"inputs": "had lunch with Maria Lopez"}' http://127.0.0.1:8000/predict
    [{"entity_group": "PER", "word": "Maria Lopez", ...}]

A replica (`hamlearning.hub.replica`) is a process with a copy of the model. It answers the tweets of all requests that
wait in batches, texts and pictures apart.
"""

import importlib.util
import logging
import os
import signal
import socket
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_download

from hamlearning.data.downloads import wanted_of_hub


STOP_SECONDS = 30  # that requests may take to their answers once the server is asked to stop
OBJECT_STORE = 100 * 2**20  # bytes: the requests do not go through it


def serve(
    model: str,
    host: str = "127.0.0.1",
    port: int = 8000,
    replicas: int = 1,
    threads: int | None = None,
    max_waiting: int = 256,
) -> None:
    """Answer requests until SIGTERM or Ctrl-C; what is under way then gets its answer.

    Args:
        model: A trained or exported model, a folder or Hub id. Its code is run.
        host: The address to listen on.
        port: 0 takes a free one.
        replicas: Processes with a copy of the model each. Where there are GPUs, they share them.
        threads: Of PyTorch, each replica's own; all cores, divided by the replicas, if None.
        max_waiting: Requests of a replica that are not answered yet; more are refused with status 429.

    Raises:
        ImportError: Ray Serve is not installed.
        ValueError: A number is below 1.
        OSError: The model cannot be found, the port is taken, or Ray does not start in time.
    """
    for name, number in {"replicas": replicas, "threads": threads, "max_waiting": max_waiting}.items():
        if number is not None and number < 1:
            raise ValueError(f"--{name} {number}: must be at least 1.")
    check_extra()
    model = found(model)
    port = free_port(host, port)
    threads = threads or max(cores() // replicas, 1)
    with tempfile.TemporaryDirectory(prefix="hamlearning-serve-") as folder, ray_started(replicas, port) as gpus:
        start_replicas(model, host, port, replicas, threads, max_waiting, folder, gpus)
        asked_to_stop = stop_signals()
        print(f"http://{host}:{port}/predict answers POST requests, /docs says more; Ctrl-C ends it", flush=True)
        asked_to_stop.wait()
        print("stops: what is under way gets its answer", flush=True)
        (Path(folder) / "stopping").touch()
        stop_replicas()


def cores() -> int:
    """How many threads the user, or the command itself for a container's share of the cores, lets PyTorch have."""
    given = os.environ.get("OMP_NUM_THREADS", "")
    if given.isdecimal() and int(given) > 0:
        return int(given)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def check_extra() -> None:
    """Say what to install, where something is missing.

    Raises:
        ImportError: Names the first library that is missing.
    """
    for name in ("ray", "fastapi", "python_multipart", "prometheus_client"):
        if importlib.util.find_spec(name) is None:
            raise ImportError(
                f'`hamlearning serve` runs on Ray Serve, and {name} is not installed: pip install "hamlearning[serve]"'
            )


def found(model: str) -> str:
    """A folder's full path, for a process in another one, or the Hub id: what lacks a model fails before Ray starts.

    Raises:
        OSError: There is no model.
    """
    if os.path.isdir(model):
        if not os.path.isfile(os.path.join(model, "config.json")):
            raise FileNotFoundError(f"{model} has no config.json: give the folder of a trained or exported model.")
        return os.path.abspath(model)
    if model.count("/") > 1 or model.startswith((".", "/")):
        raise FileNotFoundError(f"{model} is no folder of this machine: give a model's folder or Hub id.")
    with wanted_of_hub(model):
        hf_hub_download(model, "config.json")
    return model


def free_port(host: str, port: int) -> int:
    """The port itself, or a free one in place of 0.

    Raises:
        OSError: It is taken, or the address is none of this machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
        except OSError as error:
            raise OSError(error.errno, os.strerror(error.errno or 0), f"{host}:{port}") from error
        return listener.getsockname()[1]


@contextmanager
def ray_started(replicas: int, port: int) -> Iterator[float]:
    """A Ray of this machine alone, for as long as the server runs; gives the number of GPUs it has."""
    settings = {
        "RAY_USAGE_STATS_ENABLED": "0",  # nothing is sent to its makers
        # Else it ends the replicas, and so the server, where other programs have filled the machine's memory.
        "RAY_memory_monitor_refresh_ms": "0",
    }
    if replicas == 1:  # then it listens itself: a proxy's work for a request is more than the network's
        settings |= {
            "RAY_SERVE_ENABLE_DIRECT_INGRESS": "1",
            "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": str(port),
            "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT": str(port + 1),  # not itself one of them
            "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "0",  # no load balancer has to learn of its end
            "RAY_SERVE_PORT_QUARANTINE_S": "0",  # a replica that died is replaced at the same port
        }
    for name, value in settings.items():  # before Ray is imported, which reads them once
        os.environ.setdefault(name, value)
    import ray  # pyright: ignore[reportMissingImports]  # an extra

    try:
        ray.init(
            address="local",
            num_cpus=replicas + 1,
            include_dashboard=False,
            object_store_memory=OBJECT_STORE,
            logging_level=logging.ERROR,
            _node_ip_address="127.0.0.1",
        )
    except Exception as error:  # Ray raises nothing more precise
        if "timed out during startup" not in str(error):
            raise
        raise TimeoutError("Ray did not start in its 30 seconds: this machine is busy, try again.") from error
    try:
        yield ray.cluster_resources().get("GPU", 0.0)
    finally:
        ray.shutdown()


class Service:
    """What Ray Serve runs in each of its processes: this one, which starts them, has no need of PyTorch."""

    def __init__(self, model: str, threads: int, folder: str):
        from hamlearning.hub.replica import Replica

        self.replica = Replica(model, threads, folder)

    def __serve_build_asgi_app__(self) -> Any:
        return self.replica.app()


def start_replicas(
    model: str, host: str, port: int, replicas: int, threads: int, max_waiting: int, folder: str, gpus: float
) -> None:
    """Starts the HTTP server and the replicas; returns once they answer.

    Raises:
        RuntimeError: A replica cannot load the model.
    """
    from ray import serve as ray_serve  # pyright: ignore[reportMissingImports]  # an extra
    from ray.serve.config import BackpressureConfig, HTTPOptions  # pyright: ignore[reportMissingImports]  # an extra
    from ray.serve.schema import LoggingConfig  # pyright: ignore[reportMissingImports]  # an extra

    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    quiet = LoggingConfig(log_level="WARNING", enable_access_log=False)
    environment = {"PROMETHEUS_MULTIPROC_DIR": folder, "OMP_NUM_THREADS": str(threads)}
    deployment = ray_serve.deployment(
        name="replica",
        num_replicas=replicas,
        max_ongoing_requests=max_waiting,
        max_queued_requests=max_waiting,
        backpressure_config=BackpressureConfig(status_code=429, retry_after_s=1),
        max_constructor_retry_count=1,
        graceful_shutdown_timeout_s=STOP_SECONDS,
        logging_config=quiet,
        ray_actor_options={
            "num_cpus": 1,
            "num_gpus": min(gpus / replicas, 1),
            "runtime_env": {"env_vars": environment},
        },
    )
    proxy = port if replicas > 1 else free_port(host, 0)  # Ray Serve starts one, whether it is asked or not
    ray_serve.start(http_options=HTTPOptions(host=host, port=proxy), logging_config=quiet)
    ray_serve.run(deployment(ray_serve.ingress()(Service)).bind(model, threads, folder), name="hamlearning")


def stop_replicas() -> None:
    """Ends the replicas once they have answered what is under way."""
    from ray import serve as ray_serve  # pyright: ignore[reportMissingImports]  # an extra

    ray_serve.shutdown()


def stop_signals() -> threading.Event:
    """Set by the first SIGTERM or Ctrl-C; the next ones do what they always do."""
    event = threading.Event()

    def note(number: int, _: Any) -> None:
        signal.signal(number, signal.SIG_DFL)
        event.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, note)
    return event
