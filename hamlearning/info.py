"""`hamlearning info`: what is installed here, or what a model is. It is what a report of a fault should hold."""

import json as json_format
import os
import platform
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from hamlearning.threads import core_share


PACKAGES = (
    "hamlearning", "torch", "torchvision", "transformers", "accelerate", "datasets", "huggingface-hub", "tokenizers",
    "timm", "pytorch-crf", "seqeval", "evaluate", "pyarrow", "pillow", "safetensors", "openvino",
)  # fmt: skip


def info(model: str | None = None, json: bool = False) -> None:
    """Print facts, as lines or as JSON.

    Args:
        model: A model, folder or Hub id; the machine if None.
        json: Whether to print JSON.

    Raises:
        OSError: There is no such model.
        ValueError: It is no HamLearning model.
    """
    facts = machine() if model is None else describe_model(model)
    print(json_format.dumps(facts, indent=2) if json else "\n".join(lines(facts)))


def machine() -> dict[str, Any]:
    """Versions, device, precision, threads and caches of this machine."""
    import torch
    from huggingface_hub.constants import HF_HOME, HF_HUB_CACHE

    capabilities = torch.cpu.get_capabilities()
    devices = [f"{torch.cuda.get_device_name(i)} (cuda:{i})" for i in range(torch.cuda.device_count())]
    if not devices and torch.accelerator.is_available():
        devices = [str(torch.accelerator.current_accelerator())]
    bf16 = [name for name in ("amx_bf16", "avx512_bf16") if capabilities.get(name)]
    if devices and torch.cuda.is_available():
        bf16 = ["GPU"] if torch.cuda.is_bf16_supported(including_emulation=False) else []
    prefixes = ("OMP_", "GOMP_", "KMP_", "HF_", "HAMLEARNING_", "CUDA_VISIBLE")
    variables = [name for name in os.environ if name.startswith(prefixes)]
    share = core_share()
    return {
        "versions": {"python": sys.version.split()[0]} | {name: version(name) for name in PACKAGES},
        "system": platform.platform(),
        "device": ", ".join(devices) or "cpu",
        "bf16": ", ".join(bf16) or "no",
        "exported models": "yes (OpenVINO)" if version("openvino") != "not installed" else "no: pip install openvino",
        "vision model": describe_vision_runtime(devices),
        "CPU cores": os.cpu_count(),
        "cores' time that the container may take": "all" if share is None else round(share, 2),
        "PyTorch's threads": torch.get_num_threads(),
        "threads that wait": describe_waiting(),
        "Hub's cache": HF_HUB_CACHE,
        "cache of visual features": os.path.join(HF_HOME, "hamlearning"),
        "cache of compiled networks": os.environ.get(
            "HAMLEARNING_NETWORKS", os.path.join(HF_HOME, "hamlearning", "networks")
        ),
        # A token is nobody's business, least of all in a report.
        "environment": {name: os.environ[name] for name in sorted(variables) if "TOKEN" not in name},
    }


def describe_waiting() -> str:
    """What PyTorch's threads do while they have nothing to do."""
    if "OMP_WAIT_POLICY" in os.environ:
        return f"OMP_WAIT_POLICY={os.environ['OMP_WAIT_POLICY']}"
    spins = os.environ.get("GOMP_SPINCOUNT")
    return "turn in circles, as PyTorch has it" if spins is None else f"sleep after {spins} turns (GOMP_SPINCOUNT)"


def describe_vision_runtime(devices: list[str]) -> str:
    """What computes the vision model here."""
    if devices:
        return "PyTorch, on the device"
    return "OpenVINO" if version("openvino") != "not installed" else 'PyTorch: pip install "hamlearning[export]"'


def version(package: str) -> str:
    """The version of a package, if it is installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def describe_model(place: str) -> dict[str, Any]:
    """What a model is, what it was trained on, its scores, its vision model, its size. No weights are loaded.

    Raises:
        OSError: There is no such model.
        ValueError: It is no HamLearning model.
    """
    config = read(place, "config.json", is_needed=True)
    if not str(config.get("model_type", "")).startswith("hamlearning"):
        raise ValueError(f"{place} holds a model of the type {config.get('model_type')!r}: give a HamLearning model")
    results, processor = read(place, "results.json"), read(place, "processor_config.json")
    vision = read(place, "vision/config.json")
    trained = results.get("train", {})
    text = results.get("text_encoder") or config.get("text_config", {})
    return {
        "model": place,
        "kind": f"{config['model_type']} of transformers {config.get('transformers_version', '?')}",
        "text encoder": "{model_type}, {num_hidden_layers} layers, {hidden_size} wide".format_map(
            {name: text.get(name) for name in ("model_type", "num_hidden_layers", "hidden_size")}
        ),
        "types": list(dict.fromkeys(tag[2:] for tag in config.get("id2label", {}).values() if tag != "O")),
        "score temperature": round(config.get("score_temperature", 1), 3),
        "raw text": describe_raw_text(processor, results),
        "vision model": describe_vision(config, vision),
        "parameters": results.get("parameters", "not written down"),
        "bytes": size(place),
        "trained on": describe_data(results),
        "training": {
            name: value
            for name, value in {
                "seed": results.get("seed"),
                "epochs": trained.get("epochs"),
                "best epoch": trained.get("best_epoch"),
                "tweets per second": trained and round(trained["tweets_per_second"], 1),
            }.items()
            if value not in (None, {})
        },
        "scores": {
            split: f"F1 {100 * results[split]['f1']:.2f}, strict IOB2 {100 * results[split]['strict_f1']:.2f}"
            for split in ("validation", "test")
            if "f1" in results.get(split, {})
        }
        or "not written down",
    }


def describe_vision(config: dict[str, Any], vision: dict[str, Any]) -> str:
    """One line on what the model knows of pictures."""
    if not config.get("use_vision", True):
        return "none: text alone"
    if not vision:
        return "not in the repo: the model takes visual features from a file"
    backbone = vision.get("global_backbone_config", {})
    name = backbone.get("architecture") or backbone.get("model_type")
    return f"{name} and {vision.get('detector')}"


def describe_raw_text(processor: dict[str, Any], results: dict[str, Any]) -> dict[str, Any]:
    """How the model splits raw text, and how often that gives the words that it learned from."""
    found = {name: processor[name] for name in ("word_splitting", "max_length") if name in processor}
    shares = results.get("raw_text", {}).get("same_words", {})
    if found.get("word_splitting") in shares:
        found["texts whose words come back"] = f"{shares[found['word_splitting']]:.1%}"
    return found


def describe_data(results: dict[str, Any]) -> dict[str, Any] | str:
    """The data set's name, and of each split how many tweets it has and its hash."""
    if "data_name" not in results:
        return "not written down"
    splits = {name: f"{one['tweets']} tweets, SHA-256 {one['sha256'][:12]}…" for name, one in results["data"].items()}
    return {"name": results["data_name"], **splits}


def read(place: str, file_name: str, is_needed: bool = False) -> dict[str, Any]:
    """A JSON file of a folder or Hub repo; empty if there is none and none is needed.

    Raises:
        OSError: It is needed, and not there.
        ValueError: It is no JSON object.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    path = Path(place, file_name)
    if not Path(place).is_dir():
        from hamlearning.data.downloads import wanted_of_hub

        with wanted_of_hub(place):
            try:
                path = Path(hf_hub_download(place, file_name))
            except LocalEntryNotFoundError:  # nobody asked the Hub
                if is_needed:
                    raise
            except EntryNotFoundError:
                pass
    if not path.is_file():
        if is_needed:
            raise FileNotFoundError(f"{place} has no {file_name}: give the folder or the Hub id of a trained model")
        return {}
    try:
        content = json_format.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is no JSON ({error}): get the model anew") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path} is no JSON object: get the model anew")
    return content


def size(place: str) -> int | str:
    """Bytes of the weights of a folder or Hub repo."""
    if Path(place).is_dir():
        files = [
            path
            for pattern in ("*.safetensors", "vision/*.safetensors", "openvino_model.bin")
            for path in Path(place).glob(pattern)
        ]
        return sum(path.stat().st_size for path in files)
    from huggingface_hub import HfApi
    from huggingface_hub.utils import httpx

    try:
        siblings = HfApi().model_info(place, files_metadata=True).siblings or []
    except (OSError, httpx.HTTPError):  # what is in the cache was read
        return "unknown: the Hub is away"
    weights = [file for file in siblings if file.rfilename.endswith((".safetensors", "openvino_model.bin"))]
    return sum(file.size or 0 for file in weights)


def lines(facts: dict[str, Any], indent: str = "") -> list[str]:
    """Facts as lines of text."""
    found = []
    for name, value in facts.items():
        if isinstance(value, dict):
            found += [f"{indent}{name}:", *lines(value, indent + "  ")]
        else:
            shown = ", ".join(map(str, value)) if isinstance(value, list) else value
            found.append(f"{indent}{name}: {shown}")
    return found
