"""The frozen networks of the vision model, computed by OpenVINO on a CPU where it is installed, else by PyTorch.

What is compiled is kept, so that the next process begins with it, in the Hub's cache place or where
`HAMLEARNING_NETWORKS` says:

    $ ls ~/.cache/huggingface/hamlearning/networks
    global_backbone-2f1c6a8e0b7d4c35.network
"""

import collections
import contextlib
import copy
import functools
import hashlib
import importlib.util
import json
import math
import os
import sys
import tempfile
import threading
import warnings
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from huggingface_hub.constants import HF_HOME
from torch import nn
from transformers.utils import logging


try:
    from .words_hamlearning import hold_in_package
except ImportError:
    if __package__:
        raise
    from words_hamlearning import hold_in_package


logger = logging.get_logger(__name__)

RUNTIMES = ("torch", "openvino")
PRECISIONS = ("float32", "bfloat16")
CACHE = Path(os.environ.get("HAMLEARNING_NETWORKS", os.path.join(HF_HOME, "hamlearning", "networks")))
REVISION = 2  # of what is compiled of the same weights, and of its file
# Largest error of a conversion, relative to the largest value of an output; a right one has 1e-5 and less.
MAX_ERROR = 1e-3
# Likewise of a batch norm that is folded; a right one has 1e-6.
MAX_FOLDING_ERROR = 1e-5
CHECKSUM_BYTES = 4  # behind a compiled network in its file
CONVOLUTIONS = ("Conv2d", "Conv2dSame")  # whose weights are what the picture is multiplied by; the second is timm's


class Part(NamedTuple):
    """A part of a vision model, tensors in and tensors out, that another runtime may compute.

    Args:
        module: takes `inputs`, and gives a tuple of tensors; frozen, float32.
        inputs: of the size that it is traced with.
        others: inputs of other sizes, with which PyTorch and the converted network must agree; none where the sizes
            of `inputs` are the only ones.
        free: of each input the dimensions that may differ from those of `inputs`.
        identity: what else it depends on than weights and modules, as JSON has it.
        conversions: operations that OpenVINO does not know, to functions that make nodes of one.
    """

    module: nn.Module
    inputs: tuple[torch.Tensor, ...]
    others: tuple[tuple[torch.Tensor, ...], ...] = ()
    free: tuple[tuple[int, ...], ...] = ()
    identity: Any = None
    conversions: dict[str, Callable[[Any], list[Any]]] | None = None


class Network:
    """A part that OpenVINO computes, called as the part's module is. Threads take turns.

    Args:
        compile: gives the part compiled for so many inputs at a time, a thread each; 1: all threads for one.
    """

    def __init__(self, compile: Callable[[int], Any]):
        self.compile, self.threads = compile, torch.get_num_threads()
        self.request: Any = None  # of one input
        self.queue: Any = None  # of more inputs than threads
        self.compiled: list[Any] = []  # kept, and freed last: OpenVINO reads weights in memory that they hold
        self.lock = threading.RLock()

    def is_shared(self, count: int) -> bool:
        """Whether so many inputs go through one a thread."""
        return count > self.threads > 1 and can_compile()

    def prepare(self, count: int) -> None:
        """Compiles what so many inputs need, if it is not there.

        Raises:
            CannotConvertError: OpenVINO cannot compute the part.
        """
        with self.lock:
            if not self.is_shared(count):
                if self.request is None:
                    compiled = self.compile(1)
                    self.request = compiled.create_infer_request()
                    self.compiled.append(compiled)
            elif self.queue is None:
                compiled = self.compile(self.threads)
                self.queue = openvino().AsyncInferQueue(compiled, self.threads)
                self.compiled.append(compiled)

    def __call__(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The outputs, copied: the next call computes into the same memory."""
        with self.lock:
            self.prepare(1)
            found = self.request.infer(_arrays(inputs), share_inputs=True)
        return tuple(torch.from_numpy(array) for array in found.to_tuple())

    def map(self, batch: Sequence[tuple[torch.Tensor, ...]]) -> list[tuple[torch.Tensor, ...]]:
        """The outputs of each of several inputs, bit for bit as one by one.

        More inputs than threads go through one a thread: no thread waits for another, as all do at each layer of one
        input.
        """
        if not self.is_shared(len(batch)):
            return [self(*inputs) for inputs in batch]
        arrays = [_arrays(inputs) for inputs in batch]  # held to the end: OpenVINO reads them where they are
        found: list[Any] = [None] * len(batch)

        def keep(request: Any, place: int) -> None:
            found[place] = tuple(torch.from_numpy(tensor.data.copy()) for tensor in request.output_tensors)

        with self.lock:
            self.prepare(len(batch))
            self.queue.set_callback(keep)
            try:
                for place, given in enumerate(arrays):
                    self.queue.start_async(given, place, share_inputs=True)
            finally:
                self.queue.wait_all()
        return found


def _arrays(inputs: Sequence[torch.Tensor]) -> list[Any]:
    return [tensor.detach().contiguous().numpy() for tensor in inputs]


class Networks:
    """The compiled parts of one vision model, by their names.

    Args:
        files: networks that were exported, a path (`.xml`) a part.
    """

    def __init__(self, files: dict[str, Path] | None = None):
        self.files = files or {}
        self.found: dict[tuple[str, str], Network | None] = {}
        self.folded: dict[str, nn.Module] = {}
        self.weights: Any = None
        self.lock = threading.RLock()

    def __getstate__(self) -> dict[str, Any]:
        return {"files": self.files}  # what is compiled is this process's own

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["files"])

    def __deepcopy__(self, memo: dict[int, Any]) -> "Networks":
        return Networks(dict(self.files))

    def forget_others(self, module: nn.Module) -> None:
        """Forgets what was compiled of other weights than those that the module has now."""
        weights = [(tensor.data_ptr(), tensor._version) for tensor in module.parameters() if not tensor.is_inference()]
        weights += [(tensor.data_ptr(), tensor._version) for tensor in module.buffers() if not tensor.is_inference()]
        with self.lock:
            if weights != self.weights:
                self.weights, self.found, self.folded = weights, {}, {}

    def find(
        self, name: str, make_part: Callable[[], Part], precision: str = "float32", count: int = 1
    ) -> Network | None:
        """The network of a part, compiled now for so many inputs if it was not; None where OpenVINO cannot do it."""
        with self.lock:
            if (name, precision) not in self.found:
                self.found[name, precision] = self._compile(name, make_part, precision, count)
            network = self.found[name, precision]
            if network is not None and network.request is None and not can_compile():
                return None  # a fork of a process that computed many inputs at a time alone
            return network

    def fold(self, name: str, make_part: Callable[[], Part]) -> nn.Module:
        """A part's module for PyTorch, its batch norms folded now if they were not."""
        with self.lock:
            if name not in self.folded:
                self.folded[name] = fold_batch_norms(make_part())
            return self.folded[name]

    def _compile(self, name: str, make_part: Callable[[], Part], precision: str, count: int) -> Network | None:
        if not can_compile():
            return None
        part = make_part()
        tensors = [*part.module.parameters(), *part.module.buffers(), *part.inputs]
        if any(tensor.is_floating_point() and tensor.dtype != torch.float32 for tensor in tensors):
            return None
        network = Network(functools.partial(load_or_compile, name, part, precision, self.files.get(name)))
        try:
            network.prepare(count)
        except CannotConvertError as error:
            logger.warning(f"OpenVINO cannot compute the vision model's {name} ({error}): PyTorch does.")
            return None
        logger.info_once(
            "The vision model is computed by OpenVINO; PyTorch does it with `vision_model.runtime = 'torch'`, or with "
            "--vision_runtime torch."
        )
        return network


class CannotConvertError(Exception):
    """OpenVINO cannot compute a part; the message says why."""


# ----------------------------------------------------------------------------------------------------- batch norms


@torch.no_grad()
def fold_batch_norms(part: Part) -> nn.Module:
    """A part's module whose batch norms are in the weights of the convolutions before them: a pass less over each map.

    A copy, which shares all weights but those; the module itself where there is no such norm, or where numbers would
    be others than the module's, by more than 1e-5 of the largest, for inputs of some size.
    """
    module, device = part.module, next(part.module.parameters()).device
    inputs = [tuple(tensor.to(device) for tensor in given) for given in (part.inputs, *part.others)]
    tensors = (*module.parameters(), *module.buffers())
    folded = copy.deepcopy(module, {id(tensor): tensor for tensor in tensors})
    pairs = _norms_behind_convolutions(folded, inputs[0])
    for convolution, name in pairs:
        norm: Any = folded.get_submodule(name)
        weight, bias = nn.utils.fuse_conv_bn_weights(
            convolution.weight, convolution.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
        )
        weight = weight.contiguous(memory_format=torch.channels_last)
        convolution.weight, convolution.bias = (nn.Parameter(values, requires_grad=False) for values in (weight, bias))
        behind = nn.Identity() if type(norm) is nn.BatchNorm2d else nn.Sequential(norm.drop, norm.act)  # timm's
        folded.set_submodule(name, behind)
    if not pairs:
        return module
    for given in inputs:
        errors = map(_largest_error, folded(*given), module(*given))
        if any(error > MAX_FOLDING_ERROR for error in errors):
            return module
    return folded


def _norms_behind_convolutions(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> list[tuple[nn.Conv2d, str]]:
    """Each convolution whose output goes into a batch norm, and that norm's name; both of them computed once."""
    made: dict[int, tuple[Any, torch.Tensor]] = {}  # by the output, which is held: no other has its id
    pairs, calls = [], collections.Counter()
    names = {submodule: name for name, submodule in module.named_modules()}

    def note(submodule: nn.Module, given: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        calls[submodule] += 1
        if type(submodule).__name__ in CONVOLUTIONS and submodule.weight.dtype == torch.float32:
            made[id(output)] = submodule, output
        elif isinstance(submodule, nn.BatchNorm2d) and submodule.running_mean is not None and submodule.affine:
            if id(given[0]) in made and (type(submodule) is nn.BatchNorm2d or hasattr(submodule, "act")):
                pairs.append((made[id(given[0])][0], submodule))

    hooks = [
        submodule.register_forward_hook(note)
        for submodule in names
        if isinstance(submodule, nn.Conv2d | nn.BatchNorm2d)
    ]
    try:
        module(*inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return [(conv, names[norm]) for conv, norm in pairs if calls[conv] == calls[norm] == 1]


def _largest_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Relative to the largest value; infinite where a number is none."""
    if expected.numel() == 0:
        return 0.0
    error = float((found - expected).abs().max() / expected.abs().max().clamp(min=1e-6))
    return math.inf if math.isnan(error) else error


# ------------------------------------------------------------------------------------------------------ this machine


class _Process:
    """What is one in a process: OpenVINO's core, and whether it was there when the process was forked."""

    core: Any = None  # one that stays: each gives signal handlers another stack
    was_forked = False


def is_installed() -> bool:
    """Whether OpenVINO is."""
    return importlib.util.find_spec("openvino") is not None


def can_compile() -> bool:
    """Whether OpenVINO is installed and can compile here: in a fork of a process that used it, that hangs."""
    return is_installed() and not _Process.was_forked


def has_bf16() -> bool:
    """Whether this processor multiplies bfloat16."""
    return "BF16" in _core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def openvino() -> Any:
    """The package.

    Raises:
        ImportError: it is not installed.
    """
    try:
        with untold():
            import openvino
            import openvino.frontend.pytorch.ts_decoder
    except ImportError as error:
        raise ImportError('runtime="openvino" needs OpenVINO: pip install "hamlearning[export]"') from error
    return openvino


@contextlib.contextmanager
def untold() -> Iterator[None]:
    """Where an import of OpenVINO is told to nobody: it tells a server of its makers, if its telemetry is there."""
    name = "openvino_telemetry"
    was_there = name in sys.modules  # of whoever imported OpenVINO before
    if not was_there:
        sys.modules[name] = None  # pyright: ignore[reportArgumentType]  # what an import of it fails at
    try:
        yield
    finally:
        if not was_there:
            del sys.modules[name]


def _core() -> Any:
    if _Process.core is None:
        _Process.core = openvino().Core()
    return _Process.core


def _note_fork() -> None:
    _Process.was_forked = _Process.core is not None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_note_fork)


# --------------------------------------------------------------------------------------------------------- compiling


def settings_of(precision: str, streams: int = 1) -> dict[str, Any]:
    """OpenVINO's settings for a network: as many threads as PyTorch has now, for one input; or a thread a stream."""
    return {
        "INFERENCE_PRECISION_HINT": "bf16" if precision == "bfloat16" else "f32",
        "INFERENCE_NUM_THREADS": streams if streams > 1 else torch.get_num_threads(),
        "ENABLE_CPU_PINNING": False,  # two processes of one thread would both be pinned to the first core
        "NUM_STREAMS": streams,
    }


def part_key(part: Part) -> str:
    """SHA-256 of the weights, the modules and the sizes of a part."""
    sizes = [[list(tensor.shape), str(tensor.dtype)] for tensor in part.inputs]
    digest = hashlib.sha256(json.dumps([REVISION, sizes, part.free, part.identity], sort_keys=True).encode())
    digest.update(repr(part.module).encode())
    for name, tensor in [*part.module.named_parameters(), *part.module.named_buffers()]:
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def load_or_compile(name: str, part: Part, precision: str, file: Path | None = None, streams: int = 1) -> Any:
    """The compiled network of a part: of the cache, else of an exported file, else converted now.

    Two processes may do it at once: a file of the cache is put in its place whole, and has all it depends on in its
    name.

    Raises:
        CannotConvertError: OpenVINO cannot compute it.
    """
    core, key = _core(), part_key(part)
    machine = [core.get_property("CPU", "FULL_DEVICE_NAME"), core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")]
    facts = [key, precision, _version("openvino"), _version("torch"), _version("transformers"), _version("timm")]
    digest = hashlib.sha256(json.dumps([facts, machine]).encode()).hexdigest()[:16]
    kept, refused = CACHE / f"{name}-{digest}.network", CACHE / f"{name}-{digest}.refused"
    with contextlib.suppress(OSError):
        raise CannotConvertError(refused.read_text(encoding="utf-8", errors="replace"))
    with contextlib.suppress(OSError, RuntimeError, ValueError):  # there is none, or it is damaged
        return _read_compiled(kept, settings_of(precision, streams))
    try:
        network = _read_exported(file, key) or convert(part)
        compiled = core.compile_model(network, "CPU", settings_of(precision, streams))
    except CannotConvertError as error:
        _keep(refused, str(error).encode())
        raise
    content = compiled.export_model().getvalue()
    _keep(kept, content + _checksum(content))
    return compiled


def _read_compiled(path: Path, settings: dict[str, Any]) -> Any:
    """A compiled network of the cache.

    Its weights stay where they were read to, which saves two copies. They are read, not mapped: where a cluster's
    nodes share the cache, one may replace the file that another has mapped.

    Raises:
        OSError: There is no such file.
        RuntimeError: It is damaged, says OpenVINO.
        ValueError: It is damaged.
    """
    content, checksum = np.split(np.fromfile(path, np.uint8), [-CHECKSUM_BYTES])
    if checksum.tobytes() != _checksum(content):  # OpenVINO reads other weights without a word
        raise ValueError(f"{path} is damaged")
    compiled = _core().import_model(openvino().Tensor(content, shared_memory=True), "CPU", settings)
    compiled.content = content  # else its memory is given to others
    return compiled


def _checksum(content: Any) -> bytes:
    return zlib.crc32(content).to_bytes(CHECKSUM_BYTES, "big")


def _read_exported(file: Path | None, key: str) -> Any:
    """An exported network; None where there is none, or none of these weights."""
    if file is None:
        return None
    try:
        network = _core().read_model(file)
        if network.has_rt_info("part_key") and network.get_rt_info("part_key").value == key:
            return network
    except (RuntimeError, UnicodeDecodeError) as error:  # the second where what OpenVINO quotes is no text
        logger.warning(f"{file} does not hold a whole network ({_shortened(error)}): it is converted anew.")
    return None


def _keep(path: Path, content: bytes) -> None:
    """Puts a file into the cache at once, whole; without room for it, or without leave, there is none."""
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as stream:
            try:
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
                stream.close()
                os.replace(stream.name, path)
            except OSError:
                os.unlink(stream.name)


def convert(part: Part) -> Any:
    """The network of a part as OpenVINO has it, in which PyTorch's numbers are found again.

    Raises:
        CannotConvertError: it has none, or its numbers differ for inputs of some size.
    """
    package = openvino()
    frontend = package.frontend.FrontEndManager().load_by_framework("pytorch")
    for operation, conversion in (part.conversions or {}).items():
        frontend.add_extension(package.frontend.pytorch.ConversionExtension(operation, conversion))
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # of tracing: sizes that Python reads. `_check` tries others
            # Not `openvino.convert_model`: it traces twice, and asks a server to count it.
            traced = torch.jit.trace(part.module.eval(), part.inputs, check_trace=False, strict=False)
            decoder = package.frontend.pytorch.ts_decoder.TorchScriptPythonDecoder(traced, example_input=part.inputs)
            network = frontend.convert(frontend.load(decoder))
            shapes = [package.PartialShape(list(tensor.shape)) for tensor in part.inputs]
            for shape, free in zip(shapes, part.free, strict=False):
                for dimension in free:
                    shape[dimension] = package.Dimension(-1)
            network.reshape(dict(zip(network.inputs, shapes, strict=True)))
            compiled = Network(lambda streams: _core().compile_model(network, "CPU", settings_of("float32", streams)))
            for inputs in (part.inputs, *part.others):
                _check(compiled(*inputs), part.module(*inputs), inputs)
    except CannotConvertError:
        raise
    except Exception as error:  # of OpenVINO, of tracing, and of networks that were made for one size
        raise CannotConvertError(f"{type(error).__name__}: {_shortened(error)}") from error
    network.set_rt_info(part_key(part), "part_key")
    return network


def _check(found: Sequence[torch.Tensor], expected: Sequence[torch.Tensor], inputs: Sequence[torch.Tensor]) -> None:
    """CannotConvertError where the outputs of the converted network are others than PyTorch's."""
    size = " and ".join("x".join(map(str, tensor.shape)) for tensor in inputs)
    for one, other in zip(found, expected, strict=True):
        if one.shape != other.shape:
            raise CannotConvertError(f"inputs of {size} give {tuple(one.shape)} in place of {tuple(other.shape)}")
        error = _largest_error(one, other)
        if error > MAX_ERROR:
            raise CannotConvertError(f"inputs of {size} give numbers that are {error:.0e} off")


def save(part: Part, path: Path) -> None:
    """Writes the network of a part, `.xml` and `.bin`, for any CPU.

    Raises:
        CannotConvertError: OpenVINO cannot compute it.
    """
    openvino().save_model(convert(part), path, compress_to_fp16=False)


def _version(package: str) -> str:
    from importlib import metadata

    return metadata.version(package)


def _shortened(error: Exception) -> str:
    return " ".join(str(error).split())[-200:]


hold_in_package(__name__)

__all__ = ["CACHE", "PRECISIONS", "RUNTIMES", "Networks", "Part", "untold"]
