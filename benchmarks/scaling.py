#!/usr/bin/env python
"""What GPUs should do, derived from counted operations and bytes: the tables of docs/scaling.md.

```bash
python benchmarks/scaling.py                              # prints the tables
python benchmarks/scaling.py --page                       # and puts them into docs/scaling.md
python benchmarks/scaling.py --check minilm --page        # also checks the way of deriving on this machine's CPU
python benchmarks/scaling.py --price 1.2 2.5 --json scaling.json
```

No GPU is needed, and no figure of one is measured. Every kernel of a step is counted from the config (see
`kernel_counts.py`): the floating-point operations of products of matrices, and the bytes of operands and results. A
kernel takes as long as the slower of the two, at the shares of the device's peak that `DEVICES` states, and at least
`floor`. The host starts one kernel after another, `launch` seconds each, while the device works on those before: a
step takes as long as the slower of the two. CUDA graphs start all kernels at once and leave the device's time.

`--check` derives a training step of the CPU it runs on in the same way and compares it, part by part, with the step
that `training_step.py` measures. The rates of the CPU are measured before and after: products of the encoder's sizes,
adding large arrays, and a step of a network so small that only starting its kernels takes time. So it checks the
counts and the way from counts to time; what it cannot check are the shares of a GPU's peak.
"""

import argparse
import math
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import transformers

from configuration_hamlearning import HamLearningConfig, HamLearningVisionConfig
from extraction_speed import write_pictures
from growth import narrow_network
from hamlearning.data.features import VisualFeatures, write_visual_features
from image_processing_hamlearning import read_image
from kernel_counts import Kernel, counted_kernels, picture_kernels, saved_bytes, step_kernels
from modeling_hamlearning_vision import prepare_image
from operations import PRESETS, Count, count_operations
from processing_hamlearning import HamLearningDataCollator
from training_step import time_steps
from workload import (
    PRECISIONS,
    SIZES,
    kind_config,
    made_up_tweets,
    make_collator,
    make_trainer,
    markdown_table,
    random_batch,
    write_figures,
)


PAGE = Path(__file__).parents[1] / "docs" / "scaling.md"
# S and W are where three quarters of Twitter-2017's tweets are shorter, which a batch grouped by length is padded to
# on average. Of captions' regions a tweet has two, and the one with most in a batch of 32 has four.
SUBTOKENS, WORDS = 24, 19
REGIONS = {"captions": 4, "regions": 15}
STORED_REGIONS = {"captions": 2, "regions": 15}
BATCHES = (32, 256)
GPUS = (1, 8, 64, 1000)
GPUS_A_NODE = 8
BUCKET = 25e6  # bytes of gradients that are reduced together, of PyTorch's DistributedDataParallel
LATENCY = 10e-6  # seconds of an all-reduce each time the number of GPUs doubles
BILLION = 1e9
# What one CPU core is taken to prepare in a second; `--check` measures it.
ROWS = {"captions": 4000, "regions": 1500}
PICTURES = {"grid": 60, "faster_rcnn_vg": 25}


@dataclass(frozen=True)
class Device:
    """Peaks that its maker states, the share of them that is attained, and what starting kernels costs."""

    name: str
    flops: dict[str, float]  # dense, a second
    bandwidth: float  # bytes a second
    compute_share: float = 1.0
    bandwidth_share: float = 1.0
    launch: float = 0.0  # seconds of the host a kernel
    floor: float = 0.0  # seconds that any kernel takes on the device
    overlaps: bool = True  # the host starts kernels while the device works
    nvlink: float = 0.0  # bytes a second and GPU, one way
    network: float = 0.0  # bytes a second and GPU between nodes, one way
    price: float = 0.0  # US dollars an hour, with its share of the host

    def seconds(self, kernel: Kernel) -> float:
        """Of one kernel on the device."""
        precision = "bf16" if kernel.dtype == torch.bfloat16 else "fp32"
        compute = kernel.products / (self.flops[precision] * self.compute_share)
        return max(compute, kernel.bytes / (self.bandwidth * self.bandwidth_share), self.floor)

    def step_seconds(self, kernels: list[Kernel], graphs: bool = False) -> float:
        """Of all kernels, one after another."""
        device, host = sum(map(self.seconds, kernels)), self.launch * len(kernels)
        if not self.overlaps:
            return device + host
        return device if graphs else max(device, host)


DEVICES = (
    Device(
        "A100 80GB", {"fp32": 19.5e12, "bf16": 312e12}, 2.0e12, compute_share=0.5, bandwidth_share=0.75, launch=5e-6,
        floor=2e-6, nvlink=300e9, network=25e9, price=2.0,
    ),
    Device(
        "H100 SXM", {"fp32": 67e12, "bf16": 989e12}, 3.35e12, compute_share=0.4, bandwidth_share=0.75, launch=5e-6,
        floor=2e-6, nvlink=450e9, network=50e9, price=3.0,
    ),
)  # fmt: skip


def sizes(kind: str, tweets: int) -> dict[str, int]:
    """Of a batch as it is padded."""
    return {"tweets": tweets, "subtokens": SUBTOKENS, "words": WORDS, "regions": REGIONS[kind]}


def num_parameters(config: HamLearningConfig) -> int:
    return sum(count_operations(config, 1, 3, 1, 1).values(), Count()).parameters


def optimiser_kernels(config: HamLearningConfig) -> list[Kernel]:
    """Gradients are read for their norm, scaled; AdamW reads weight, gradient and two states, and writes three."""
    count = num_parameters(config)
    return [
        Kernel(name, "optimiser", 0, count, accesses * 4 * count, torch.float32)
        for name, accesses in (("norm", 1), ("clip", 2), ("AdamW", 7))
    ]


def training_kernels(config: HamLearningConfig, kind: str, tweets: int) -> list[Kernel]:
    """Of a whole step on a GPU, in bf16."""
    step = step_kernels(config, sizes(kind, tweets), "bf16", training=True, on_gpu=True)
    return step + optimiser_kernels(config)


def feature_bytes(config: HamLearningConfig, kind: str) -> int:
    """Of a tweet's row in a visual feature file: half floats; boxes, class ids, scores and sizes of 32 bits."""
    regions = STORED_REGIONS[kind]
    return 2 * (config.image_feature_size + regions * config.region_feature_size) + 4 * (6 * regions + 2)


def number(value: float) -> str:
    """Three digits."""
    if value == 0:
        return "0"
    digits = max(2 - math.floor(math.log10(abs(value))), 0)
    return f"{round(value, 2 - math.floor(math.log10(abs(value)))):,.{digits}f}"


# -------------------------------------------------------------------------------------------------------------- tables


def device_table(devices: tuple[Device, ...]) -> list[str]:
    rows = [
        ("bf16, dense, TF/s", lambda d: d.flops["bf16"] / 1e12),
        ("fp32, without TF32, TF/s", lambda d: d.flops["fp32"] / 1e12),
        ("share of it attained", lambda d: d.compute_share),
        ("memory, TB/s", lambda d: d.bandwidth / 1e12),
        ("share of it attained", lambda d: d.bandwidth_share),
        ("starting a kernel, µs of the host", lambda d: 1e6 * d.launch),
        ("a kernel takes at least, µs", lambda d: 1e6 * d.floor),
        ("NVLink, GB/s one way", lambda d: d.nvlink / 1e9),
        ("InfiniBand, GB/s a GPU", lambda d: d.network / 1e9),
        ("price, $ an hour", lambda d: d.price),
    ]
    return markdown_table(
        ["", *(device.name for device in devices)],
        [[name, *(number(value(device)) for device in devices)] for name, value in rows],
    )


def part_table(kernels: list[Kernel], devices: tuple[Device, ...]) -> list[str]:
    """A training step by part, forward and backward together."""
    parts = defaultdict(list)
    for kernel in kernels:
        parts[kernel.part.split(",")[0]].append(kernel)
    rows = []
    for part, found in (parts | {"all": kernels}).items():
        products, moved = sum(kernel.products for kernel in found), sum(kernel.bytes for kernel in found)
        row = [part, str(len(found)), number(products / 1e9), number(moved / 1e6), number(products / moved)]
        row += [number(1e3 * device.step_seconds(found, graphs=True)) for device in devices]
        rows.append([*row, number(1e3 * devices[-1].launch * len(found)), bound(devices[-1], found)])
    header = ["part", "kernels", "GFLOP", "MB moved", "FLOP a byte", *(f"{d.name}, ms" for d in devices)]
    return markdown_table([*header, "starting the kernels, ms", f"bound by, {devices[-1].name}"], rows)


def bound(device: Device, kernels: list[Kernel]) -> str:
    """What most of the time would go away without."""
    if device.launch * len(kernels) > sum(map(device.seconds, kernels)):
        return "starting kernels"
    shares = defaultdict(float)
    for kernel in kernels:
        precision = "bf16" if kernel.dtype == torch.bfloat16 else "fp32"
        seconds = {
            "operations": kernel.products / (device.flops[precision] * device.compute_share),
            "memory": kernel.bytes / (device.bandwidth * device.bandwidth_share),
            "small kernels": device.floor,
        }
        shares[max(seconds, key=seconds.get)] += max(seconds.values())
    return max(shares, key=shares.get)


def one_gpu_table(steps: dict[tuple, list[Kernel]], devices: tuple[Device, ...]) -> list[str]:
    """Tweets a second of each case on each device."""
    rows = []
    for (width, kind, task, tweets), kernels in steps.items():
        row = [f"{width}, {kind}", task, str(tweets), str(len(kernels))]
        row += [number(sum(k.products for k in kernels) / 1e12), number(sum(k.bytes for k in kernels) / 1e9)]
        for device in devices:
            rates = (tweets / device.step_seconds(kernels, graphs) for graphs in (False, True))
            row += [*map(number, rates), bound(device, kernels)]
        rows.append(row)
    header = ["network", "task", "batch", "kernels", "TFLOP", "GB moved"]
    for device in devices:
        header += [f"{device.name}, tweets/s", "with CUDA graphs", "bound by"]
    return markdown_table(header, rows)


def memory_table(configs: dict[tuple[str, str], HamLearningConfig]) -> list[str]:
    """What a GPU holds in training."""
    rows = []
    for (source, kind), config in configs.items():
        states = 4 * 4 * num_parameters(config)
        activations = [saved_bytes(config, sizes(kind, tweets)) for tweets in BATCHES]
        rows.append([f"{source}, {kind}", *(number(bytes_ / 1e9) for bytes_ in (states, *activations))])
    header = ["network", "weights, gradients and states, GB"]
    return markdown_table([*header, *(f"saved for the backward pass at batch {tweets}" for tweets in BATCHES)], rows)


def all_reduce(device: Device, bytes_: float, gpus: int) -> float:
    """Seconds, in a ring whose slowest link is NVLink in a node, and the node's share of InfiniBand between nodes."""
    if gpus == 1:
        return 0.0
    link = device.nvlink if gpus <= GPUS_A_NODE else min(device.nvlink, device.network * GPUS_A_NODE)
    transfer = 2 * (gpus - 1) / gpus * bytes_ / (link * device.bandwidth_share)
    return transfer + math.ceil(bytes_ / BUCKET) * LATENCY * math.log2(gpus)


def exposed(device: Device, config: HamLearningConfig, kernels: list[Kernel], gpus: int) -> float:
    """Seconds of the all-reduce that the backward pass does not hide.

    The gradient of the word embeddings comes last and is dense, so its bucket has nothing to hide behind.
    """
    last = max(4 * config.text_config.vocab_size * config.hidden_size, BUCKET)
    whole = all_reduce(device, 4 * num_parameters(config), gpus)
    tail = min(all_reduce(device, last, gpus), whole)
    backward = [kernel for kernel in kernels if kernel.part.endswith("backward")]
    return max(whole - tail - device.step_seconds(backward), 0) + tail


def many_gpus_table(
    config: HamLearningConfig,
    kind: str,
    batches: dict[int, list[Kernel]],
    of_gpus: Callable,
    devices: tuple[Device, ...],
) -> list[str]:
    """A step on several GPUs; `of_gpus(gpus)` is the batch of each."""
    rows = []
    for device in devices:
        base = None
        for gpus in (gpus for gpus in GPUS if of_gpus(gpus) in batches):
            kernels = batches[of_gpus(gpus)]
            hidden = exposed(device, config, kernels, gpus)
            seconds = device.step_seconds(kernels) + hidden
            rate = gpus * of_gpus(gpus) / seconds
            base = base or rate
            row = [device.name, f"{gpus:,}", str(of_gpus(gpus)), f"{gpus * of_gpus(gpus):,}", number(1e3 * seconds)]
            row += [number(1e3 * all_reduce(device, 4 * num_parameters(config), gpus)), number(1e3 * hidden)]
            row += [number(rate), f"{rate / base / gpus:.0%}", number(rate * feature_bytes(config, kind) / 1e9)]
            rows.append([*row, number(rate / ROWS[kind])])
    header = ["GPU", "GPUs", "batch a GPU", "batch", "step, ms", "all-reduce, ms", "of it not hidden, ms", "tweets/s"]
    return markdown_table([*header, "efficiency", "features to read, GB/s", "cores to feed them"], rows)


def data_table(configs: dict[str, HamLearningConfig]) -> list[str]:
    """What a tweet's features weigh."""
    rows = []
    for kind, config in configs.items():
        one = feature_bytes(config, kind)
        padded = 4 * (config.image_feature_size + REGIONS[kind] * config.region_feature_size)
        rows.append([kind, number(one / 1e3), number(padded / 1e3), number(one * BILLION / 1e12), number(ROWS[kind])])
    header = ["features", "KB a tweet in the file", "KB to the GPU, padded", "TB a billion tweets"]
    return markdown_table([*header, "rows/s a core prepares"], rows)


def extraction_table(pictures: dict[str, list[Kernel]], devices: tuple[Device, ...]) -> list[str]:
    """What the features of a billion pictures take."""
    rows = []
    for detector, kernels in pictures.items():
        parts = defaultdict(list)
        for kernel in kernels:
            parts[kernel.part].append(kernel)
        for part, found in (parts | {"all": kernels}).items():
            row = [
                detector,
                part,
                number(sum(k.products for k in found) / 1e9),
                number(sum(k.bytes for k in found) / 1e6),
            ]
            for device in devices:
                seconds = device.step_seconds(found)
                hours = seconds * BILLION / 3600
                row += [number(1 / seconds), number(hours * device.price)]
            cores = number(BILLION / PICTURES[detector] / 3600) if part == "all" else ""
            rows.append([*row, cores])
    header = ["detector", "part", "GFLOP a picture", "MB moved"]
    for device in devices:
        header += [f"{device.name}, pictures/s", "$ a billion"]
    return markdown_table([*header, "core hours to read and decode"], rows)


def billion_table(steps: dict[tuple, list[Kernel]], devices: tuple[Device, ...]) -> list[str]:
    """GPU hours and dollars of a billion tweets with features from file."""
    rows = []
    for (width, kind, task, tweets), kernels in steps.items():
        if tweets != BATCHES[-1]:
            continue
        row = [f"{width}, {kind}", task]
        for device in devices:
            hours = device.step_seconds(kernels) / tweets * BILLION / 3600
            row += [number(hours), number(hours * device.price)]
        rows.append([*row, number(BILLION / ROWS[kind] / 3600)])
    header = ["network", "task, once over"]
    for device in devices:
        header += [f"{device.name}, GPU hours", "$"]
    return markdown_table([*header, "core hours to prepare rows"], rows)


def counted_tables(sources: list[str], devices: tuple[Device, ...]) -> dict[str, list[str]]:
    """The tables that depend on nothing but configs and devices."""
    configs = {(source, kind): kind_config(source, kind) for source in sources for kind in SIZES}
    steps = {}
    for (source, kind), config in configs.items():
        for tweets in BATCHES:
            steps[source, kind, "train", tweets] = training_kernels(config, kind, tweets)
        tagging = step_kernels(config, sizes(kind, BATCHES[-1]), "bf16", training=False, on_gpu=True)
        steps[source, kind, "tag", BATCHES[-1]] = tagging
    first, kind = sources[0], "regions"
    config = configs[first, kind]
    batches = {tweets: steps[first, kind, "train", tweets] for tweets in BATCHES}
    split = BATCHES[-1] // GPUS[2]
    batches[split] = training_kernels(config, kind, split)
    pictures = {detector: picture_kernels(detector) for detector in PICTURES}
    return {
        "versions": [
            f"Counted with torch {torch.__version__.split('+')[0]} and transformers {transformers.__version__}."
        ],
        "devices": device_table(devices),
        "parts": part_table(batches[BATCHES[0]], devices),
        "one GPU": one_gpu_table(steps, devices),
        "memory": memory_table(configs),
        "same batch a GPU": many_gpus_table(config, kind, batches, lambda gpus: BATCHES[-1], devices),
        "same batch": many_gpus_table(config, kind, batches, lambda gpus: BATCHES[-1] // gpus, devices),
        "data": data_table({kind: configs[first, kind] for kind in SIZES}),
        "extraction": extraction_table(pictures, devices),
        "billion": billion_table(steps, devices),
    }


# --------------------------------------------------------------------------------------------------------------- check


def best_seconds(call: Callable, seconds: float = 0.5) -> float:
    """Of many calls the fastest: what disturbs only slows."""
    call()
    taken, end = [], time.perf_counter() + seconds
    while time.perf_counter() < end or len(taken) < 3:
        start = time.perf_counter()
        call()
        taken.append(time.perf_counter() - start)
    return min(taken)


def this_cpu(config: HamLearningConfig) -> Device:
    """Its rates as PyTorch attains them, measured."""
    rows, d = 32 * SUBTOKENS, config.hidden_size
    flops = {}
    for precision, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        states, weights = torch.randn(rows, d, dtype=dtype), torch.randn(d, 4 * d, dtype=dtype)
        flops[precision] = 2 * rows * d * 4 * d / best_seconds(lambda a=states, b=weights: a @ b)
    a, b, c = (torch.ones(2**24) for _ in range(3))
    bandwidth = 3 * 4 * len(a) / best_seconds(lambda: torch.add(a, b, out=c))

    model = narrow_network(SUBTOKENS).train()
    batch = random_batch(model.config, 1, SUBTOKENS, WORDS, 2)

    def step():
        model(**batch).loss.backward()
        model.zero_grad()

    return Device("this CPU", flops, bandwidth, launch=best_seconds(step) / len(counted_kernels(step)), overlaps=False)


def check_table(source: str, cpu: Device, figures: dict[str, dict]) -> list[str]:
    """Derived and measured time of a step's parts."""
    rows = []
    for case, found in figures.items():
        kind, precision = case.split()
        config = kind_config(source, kind)
        mean_sizes = {name: max(round(value), 1) for name, value in found["mean_sizes"].items()}
        kernels = step_kernels(config, mean_sizes, precision, training=True, on_gpu=False) + optimiser_kernels(config)
        derived, measured = defaultdict(float), defaultdict(float)
        for kernel in kernels:
            derived[kernel.part.split(",")[0]] += cpu.step_seconds([kernel])
        for part, seconds in found["part_seconds"].items():
            measured[part.split(",")[0]] += seconds
        del measured["waiting for data"]
        for part in sorted(measured, key=measured.get, reverse=True):
            rows.append([f"{source}, {case}", part, *_compared(measured[part], derived[part])])
        rows.append([f"{source}, {case}", "all", *_compared(sum(measured.values()), sum(derived.values()))])
    return markdown_table(["step", "part", "measured, ms", "derived, ms", "measured over derived"], rows)


def _compared(measured: float, derived: float) -> list[str]:
    return [number(1e3 * measured), number(1e3 * derived), f"{measured / derived:.2f}"]


def host_rates(count: int = 128) -> dict[str, float]:
    """Rows and pictures that one core prepares in a second of its own time, whatever else the machine does."""

    def rate(call: Callable) -> float:
        start = time.process_time()
        call()
        return count / (time.process_time() - start)

    rates = {}
    tweets, tokenizer = made_up_tweets(count, np.random.default_rng(1))
    rows = list(tweets)
    with tempfile.TemporaryDirectory() as folder:
        for kind in SIZES:
            collate = make_collator(kind_config("minilm", kind), kind, tweets, tokenizer)
            path = Path(folder) / f"{kind}.parquet"
            names = [f"class {index}" for index in range(1600)]
            metadata = {"image_feature_size": SIZES[kind], "region_feature_size": SIZES[kind], "class_names": names}
            pictures = [
                {"id": id_, "scores": np.zeros(len(picture["boxes"])), **picture}
                for id_, picture in collate.visual_features.items()
            ]
            write_visual_features(path, pictures, metadata)

            def prepare(path=path, processor=collate.processor):
                collate = HamLearningDataCollator(processor, VisualFeatures(path))
                for first in range(0, count, 32):
                    collate(rows[first : first + 32])

            prepare()
            rates[f"rows with {kind}"] = rate(prepare)
        write_pictures(Path(folder), count, seed=1)
        for detector in PICTURES:
            config = HamLearningVisionConfig(detector=detector)

            def look(config=config):
                for number_ in range(count):
                    prepare_image(read_image(Path(folder) / f"{number_}.jpg"), config)

            rates[f"pictures for {detector}"] = rate(look)
    return rates


def check(source: str, options: argparse.Namespace) -> dict[str, list[str]]:
    """Tables of what this machine's CPU does."""
    tweets, tokenizer = made_up_tweets(options.tweets, np.random.default_rng(1))
    config = kind_config(source, "captions")
    cpus = [this_cpu(config)]
    with tempfile.TemporaryDirectory() as folder:
        trainers = {kind: make_trainer(source, kind, tweets, tokenizer, options.batch_size, folder) for kind in SIZES}
        figures = time_steps(trainers, options.precisions, options.rounds)
    cpus.append(this_cpu(config))
    rates = {name: statistics.mean(cpu.flops[name] for cpu in cpus) for name in PRECISIONS}
    cpu = Device(
        "this CPU", rates, statistics.mean(cpu.bandwidth for cpu in cpus), overlaps=False,
        launch=statistics.mean(cpu.launch for cpu in cpus),
    )  # fmt: skip
    measured = {f"products, {name}, GF/s": value / 1e9 for name, value in cpu.flops.items()}
    measured |= {"memory, GB/s": cpu.bandwidth / 1e9, "starting a kernel, µs": 1e6 * cpu.launch}
    measured |= {f"{name}, one core, a second": value for name, value in host_rates().items()}
    setting = f"{source}, {options.tweets} tweets, batch {options.batch_size}, {torch.get_num_threads()} threads"
    return {
        "this CPU": markdown_table(
            [f"{setting}, torch {torch.__version__}", ""], [[n, number(v)] for n, v in measured.items()]
        ),
        "check": check_table(source, cpu, figures),
    }


def put_into(page: str, tables: dict[str, list[str]]) -> str:
    """`page` with its tables in place of those between their marks.

    Raises:
        ValueError: the page lacks a table's marks.
    """
    for name, lines in tables.items():
        begin, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->"
        if begin not in page or end not in page:
            raise ValueError(
                f"{PAGE} has no place for the table {name!r}: put in the lines {begin.strip()} and {end}."
            )
        before, rest = page.split(begin)
        page = before + begin + "\n".join(lines) + "\n" + end + rest.split(end)[1]
    return page


def main():
    """Prints the tables, and writes them into the page and as JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "configs", nargs="*", default=list(PRESETS), help="folders with config.json, or presets [both]"
    )
    prices = [device.price for device in DEVICES]
    names = " and ".join(device.name for device in DEVICES)
    parser.add_argument("--price", type=float, nargs=2, default=prices, help=f"of an hour of {names}, in dollars")
    parser.add_argument("--check", metavar="CONFIG", help="measure a training step of this network on this CPU")
    parser.add_argument("--tweets", type=int, default=256, help="of --check")
    parser.add_argument("--batch_size", type=int, default=32, help="of --check")
    parser.add_argument("--rounds", type=int, default=5, help="of --check")
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=list(PRECISIONS), help="of --check")
    parser.add_argument("--page", action="store_true", help="put the tables into docs/scaling.md")
    parser.add_argument("--json", metavar="FILE", help="also write the tables here, as JSON")
    options = parser.parse_args()

    devices = tuple(Device(**asdict(device) | {"price": p}) for device, p in zip(DEVICES, options.price, strict=True))
    tables = counted_tables(options.configs, devices)
    if options.check:
        tables |= check(options.check, options)
    for name, lines in tables.items():
        print(f"\n{name}\n\n" + "\n".join(lines))
    if options.page:
        PAGE.write_text(put_into(PAGE.read_text(encoding="utf-8"), tables), encoding="utf-8")
    write_figures(tables, options)


if __name__ == "__main__":
    main()
