"""The Visual Genome region detector of "bottom-up attention": Faster R-CNN, ResNet-101, 1600 classes, 400 attributes.

Inference alone, one picture at a time, with the numbers that the published weights `unc-nlp/frcnn-vg-finetuned` give
in the code they were published with. torchvision's Faster R-CNN differs in resize, anchors, proposals, pooling and
selection, so everything here is built from plain modules, `torchvision.ops.nms` and `torchvision.ops.roi_pool`.
"""

import dataclasses
import math
import os
import pickle
import sys
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import RemoteEntryNotFoundError
from torch import nn
from torch.nn import functional as F


try:
    from torchvision.ops import nms, roi_pool
except ImportError:  # `preprocess` and the settings do without
    nms = roi_pool = None


PUBLISHED_WEIGHTS = "unc-nlp/frcnn-vg-finetuned"
# Pixels of the resized picture per cell of the feature map.
STRIDE = 16
# A side must leave a cell of the feature map; pictures much thinner than any anchor would leave none.
MIN_RESIZED_SIDE = 16
# The most that a box may grow, as a logarithm: from a cell to a large picture.
MAX_LOG_GROWTH = math.log(1000 / 16)
# All 300 proposals of a picture at once would take 1.8 GB in the last stage; chunks take 0.4 GB for the same numbers.
REGIONS_AT_A_TIME = 50
# Brackets in brackets of a file of settings; the published config.yaml has 4.
MAX_DEPTH = 20
# Characters of a file's content in an error.
MAX_SHOWN = 200

# Where the published config.yaml keeps what can be set ...
SETTING_KEYS = {
    "input.min_size_test": "min_size",
    "input.max_size_test": "max_size",
    "model.pixel_mean": "pixel_mean",
    "model.pixel_std": "pixel_std",
    "resnets.stem_out_channels": "stem_channels",
    "resnets.width_per_group": "bottleneck_channels",
    "resnets.res2_out_channels": "res2_channels",
    "anchor_generator.sizes": "anchor_sizes",
    "anchor_generator.aspect_ratios": "anchor_ratios",
    "proposal_generator.hidden_channels": "rpn_channels",
    "rpn.bbox_reg_weights": "rpn_box_weights",
    "rpn.pre_nms_topk_test": "rpn_pre_nms",
    "rpn.post_nms_topk_test": "rpn_post_nms",
    "rpn.nms_thresh": "rpn_nms_threshold",
    "roi_heads.num_classes": "num_classes",
    "roi_heads.nms_thresh_test": "nms_thresholds",
    "roi_box_head.num_attrs": "num_attributes",
    "roi_box_head.bbox_reg_weights": "box_weights",
    "roi_box_head.pooler_resolution": "pooled_size",
    "min_detections": "min_detections",
    "max_detections": "max_detections",
}
# ... and what cannot: the values that this network is built for.
FIXED_KEYS = {
    "input.format": ["BGR"],
    "size_divisibility": [0],
    "model.max_pool": [True],
    "model.load_proposals": [False],
    "resnets.depth": [101],
    "resnets.norm": ["BN", "nnSyncBN"],  # one and the same in inference
    "resnets.num_groups": [1],
    "resnets.stride_in_1x1": [True],
    "resnets.res5_dilation": [1],  # of a res5 in the backbone, which has none: the one of the heads has 2
    "resnets.out_features": [["res4"]],
    "anchor_generator.offset": [0],
    "proposal_generator.min_size": [0],
    "rpn.in_features": [["res4"]],
    "roi_heads.in_features": [["res4"]],
    "roi_box_head.attr": [True],
    "roi_box_head.res5halve": [False],
    "roi_box_head.cls_agnostic_bbox_reg": [False],
}


# ------------------------------------------------------------------------------------------------------------ settings


@dataclass(frozen=True)
class FasterRCNNVGSettings:
    """Sizes of the detector, its picture format and its selection of regions; the published ones by default.

    ```python
    >>> settings = FasterRCNNVGSettings.from_published_config("config.yaml")
    >>> settings.num_classes, settings.nms_thresholds
    (1600, (0.5, 0.6, 0.7))
    >>> FasterRCNNVGSettings(**settings.to_dict()) == settings
    True
    ```

    Args:
        min_size: the shorter side of a resized picture, in pixels.
        max_size: the most that the longer side may have, in pixels; it wins over `min_size`.
        pixel_mean: of blue, green and red in this order, on the scale 0 to 255.
        pixel_std: likewise.
        num_blocks: bottlenecks in res2, res3, res4 and res5.
        stem_channels: channels out of the stem.
        bottleneck_channels: channels inside res2's bottlenecks; every further stage has twice as many.
        res2_channels: channels out of res2; every further stage has twice as many.
        anchor_sizes: square roots of the anchors' areas, in pixels of the resized picture.
        anchor_ratios: height / width of the anchors.
        rpn_channels: hidden channels of the region proposal network.
        rpn_box_weights: divisors of its (dx, dy, dw, dh).
        rpn_pre_nms: the most proposals before NMS.
        rpn_post_nms: the most proposals after NMS.
        rpn_nms_threshold: IoU from which a proposal suppresses a worse one.
        pooled_size: cells a side of a region's pooled map.
        num_classes: classes of objects, without background.
        num_attributes: attributes, without "none".
        box_weights: divisors of the box head's (dx, dy, dw, dh).
        nms_thresholds: IoU from which a region suppresses a worse one, tried in turn until `min_detections` are left.
        min_detections: number of regions that is enough.
        max_detections: the most regions of a picture.

    Raises:
        ValueError: a value is out of range or a sequence has the wrong length; the message names it.
    """

    min_size: int = 800
    max_size: int = 1333
    pixel_mean: Sequence[float] = (102.9801, 115.9465, 122.7717)
    pixel_std: Sequence[float] = (1.0, 1.0, 1.0)
    num_blocks: Sequence[int] = (3, 4, 23, 3)
    stem_channels: int = 64
    bottleneck_channels: int = 64
    res2_channels: int = 256
    anchor_sizes: Sequence[float] = (64, 128, 256, 512)
    anchor_ratios: Sequence[float] = (0.5, 1.0, 2.0)
    rpn_channels: int = 512
    rpn_box_weights: Sequence[float] = (1.0, 1.0, 1.0, 1.0)
    rpn_pre_nms: int = 6000
    rpn_post_nms: int = 300
    rpn_nms_threshold: float = 0.7
    pooled_size: int = 14
    num_classes: int = 1600
    num_attributes: int = 400
    box_weights: Sequence[float] = (10.0, 10.0, 5.0, 5.0)
    nms_thresholds: Sequence[float] = (0.5, 0.6, 0.7)
    min_detections: int = 36
    max_detections: int = 36

    def __post_init__(self):
        lengths = {"pixel_mean": 3, "pixel_std": 3, "num_blocks": 4, "rpn_box_weights": 4, "box_weights": 4}
        for field in dataclasses.fields(self):
            name, value = field.name, getattr(self, field.name)
            if field.type is int:
                if type(value) is not int or value < 1:
                    raise ValueError(f"{name}={_shown(value)}: must be a whole number, at least 1.")
                continue
            numbers = [value] if field.type is float else value
            if not isinstance(numbers, (list, tuple)) or not numbers or not all(map(_is_number, numbers)):
                kind = "a number" if field.type is float else "numbers"
                raise ValueError(f"{name}={_shown(value)}: must be {kind}.")
            if len(numbers) != lengths.get(name, len(numbers)):
                raise ValueError(f"{name}={_shown(value)}: must be {lengths[name]} numbers.")
            if name != "pixel_mean" and min(numbers) <= 0:
                raise ValueError(f"{name}={_shown(value)}: must be more than 0.")
            if "nms_threshold" in name and max(numbers) > 1:
                raise ValueError(f"{name}={_shown(value)}: an IoU is at most 1.")
            if field.type is not float:
                object.__setattr__(self, name, tuple(value))  # JSON has lists

    def to_dict(self) -> dict[str, Any]:
        """The settings as JSON has them: numbers and lists of numbers."""
        fields = dataclasses.asdict(self)
        return {name: list(value) if isinstance(value, tuple) else value for name, value in fields.items()}

    @classmethod
    def from_published_config(cls, path: str | os.PathLike) -> "FasterRCNNVGSettings":
        """Read the `config.yaml` that lies beside the published weights.

        Keys of training and of other programs are ignored, and so is `roi_heads.score_thresh_test`: the published
        code does not apply it either.

        Args:
            path: The YAML file, of lower-case sections. A key that is missing has the published value.

        Raises:
            ValueError: the file is no such YAML, or has aliases (a few lines of them can stand for gigabytes) or
                brackets in brackets without end, or asks for what this network cannot do; the message names the line
                or the key.
        """
        try:
            text = Path(path).read_text(encoding="utf-8")
            sections = load_plain_yaml(text) or {}
        except (yaml.YAMLError, ValueError, LookupError, AttributeError) as error:
            # ValueError: not UTF-8, or a number of 4301 digits. LookupError, AttributeError: of yaml itself, which
            # does not look whether what follows a tag such as `!!int` or `!!timestamp` is one.
            raise ValueError(f"{path} is not YAML of plain settings: {_shortened(str(error))}") from None
        if not isinstance(sections, dict):
            raise ValueError(
                f"{path}: a {type(sections).__name__} is no mapping: write sections such as `input:` and `resnets:`."
            )
        try:
            return cls(**_published_fields(sections))
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None


def load_plain_yaml(text: str) -> Any:
    """What a YAML text holds, of a stranger too.

    Raises:
        ValueError: it has aliases (a few lines of them can stand for gigabytes) or brackets in brackets without end.
        yaml.YAMLError: it is no YAML, or has tags of Python objects.
    """
    depth = 0
    event: Any
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        line = event.start_mark.line + 1
        if isinstance(event, yaml.AliasEvent):
            raise ValueError(f"line {line} has the alias *{event.anchor}: write it out")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:  # what is deeper takes the parser ever longer
            raise ValueError(f"line {line} is more than {MAX_DEPTH} brackets deep")
    return yaml.safe_load(text)


def _published_fields(sections: dict) -> dict[str, Any]:
    """What a `config.yaml` of these sections sets.

    Raises:
        ValueError: it asks for what this network cannot do; the message names the key.
    """
    config: dict[str, Any] = {}
    for section, values in sections.items():
        in_section = isinstance(values, dict)
        config |= {f"{section}.{key}": v for key, v in values.items()} if in_section else {section: values}

    for key, allowed in FIXED_KEYS.items():
        if key in config and config[key] not in allowed:
            options = " or ".join(map(repr, allowed))
            raise ValueError(f"{key} is {_shown(config[key])}, but this detector is built for {options} alone.")
    fields = {name: config[key] for key, name in SETTING_KEYS.items() if key in config}
    for name in fields.keys() & {"anchor_sizes", "anchor_ratios"}:
        value = fields[name]
        if not (isinstance(value, list) and len(value) == 1):
            raise ValueError(f"{name}={_shown(value)}: must be a list of one list, for the one feature map.")
        fields[name] = value[0]
    if _is_number(fields.get("nms_thresholds")):
        fields["nms_thresholds"] = [fields["nms_thresholds"]]
    return fields


def _is_number(value: Any) -> bool:
    # Not `math.isfinite`, which has an error of its own for a whole number beyond all floats.
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def _shown(value: Any) -> str:
    """A value of a file as an error shows it."""
    try:
        return _shortened(repr(value))
    except ValueError:  # written in hexadecimal, it was read, but Python prints no decimal number that long
        return "a number of more than 4300 digits"


def _shortened(text: str) -> str:
    """A text on one line, cut where it would make an error as long as the file it is about."""
    text = " ".join(text.split())
    return text if len(text) <= MAX_SHOWN else f"{text[: MAX_SHOWN - 4]} ..."


# ------------------------------------------------------------------------------------------------------------- picture


def preprocess(image: torch.Tensor, settings: FasterRCNNVGSettings) -> torch.Tensor:
    """Turn a picture into what `FasterRCNNVG` takes; it needs no weights.

    ```python
    >>> preprocess(torch.zeros(3, 480, 640, dtype=torch.uint8), FasterRCNNVGSettings()).shape
    torch.Size([3, 800, 1067])
    ```

    The picture keeps its proportions, but for one thinner than about 1:80: a side has at least 16 pixels.

    Args:
        image: (3, H, W), uint8, **RGB**.
        settings: of the detector.

    Returns:
        (3, h', w'), float32, blue first, the mean subtracted.

    Raises:
        ValueError: the tensor is no such picture.
    """
    if image.dtype != torch.uint8 or image.ndim != 3 or image.shape[0] != 3 or 0 in image.shape:
        raise ValueError(
            f"image is {image.dtype} of shape {tuple(image.shape)}: must be uint8 of shape (3, H, W), in RGB order."
        )
    height, width = image.shape[1:]
    scale = settings.min_size / min(height, width)
    sides = (settings.min_size, scale * width) if height < width else (scale * height, settings.min_size)
    shrink = min(1.0, settings.max_size / max(sides))
    resized = [max(int(side * shrink + 0.5), MIN_RESIZED_SIDE) for side in sides]

    pixels = image.flip(0).float()[None]  # BGR: the backbone comes from Caffe, where OpenCV read the pictures
    # Without antialias, however much the picture shrinks: the published features were made like this.
    pixels = F.interpolate(pixels, size=resized, mode="bilinear", align_corners=False)[0]
    mean, std = torch.tensor(settings.pixel_mean), torch.tensor(settings.pixel_std)
    return (pixels - mean[:, None, None]) / std[:, None, None]


# ------------------------------------------------------------------------------------------------------------ backbone


class ConvNorm(nn.Conv2d):
    """A convolution without bias, and its batch norm with the statistics of the file.

    The norm is a submodule of the convolution because the file names it so.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, **kwargs):
        super().__init__(in_channels, out_channels, kernel_size, bias=False, **kwargs)
        self.norm = nn.BatchNorm2d(out_channels)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """(B, in, h, w) -> (B, out, h / stride, w / stride)."""
        # Not `self.norm(x)`: after `.train()` on the whole model that would use the picture's own statistics. And as
        # weights, which are fewer than what comes out: a pass over that is saved.
        norm = self.norm
        assert norm.running_mean is not None and norm.running_var is not None
        scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)  # (out,)
        return self._conv_forward(
            input, self.weight * scale[:, None, None, None], norm.bias - norm.running_mean * scale
        )


class Stem(nn.Module):
    """From pixels to a quarter of their height and width."""

    def __init__(self, out_channels: int):
        super().__init__()
        self.conv1 = ConvNorm(3, out_channels, 7, stride=2, padding=3)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """(1, 3, h', w') -> (1, out, h' / 4, w' / 4)."""
        # Caffe's pooling: no padding, and a window that hangs over the edge counts.
        return F.max_pool2d(self.conv1(pixels).relu_(), kernel_size=3, stride=2, ceil_mode=True)


class Bottleneck(nn.Module):
    """One residual block of a ResNet."""

    def __init__(self, in_channels: int, mid_channels: int, out_channels: int, stride: int, dilation: int):
        super().__init__()
        # The stride is in the 1x1 convolution, as in the first ResNets; most of today's have it in the 3x3.
        self.conv1 = ConvNorm(in_channels, mid_channels, 1, stride=stride)
        self.conv2 = ConvNorm(mid_channels, mid_channels, 3, padding=dilation, dilation=dilation)
        self.conv3 = ConvNorm(mid_channels, out_channels, 1)
        self.shortcut = ConvNorm(in_channels, out_channels, 1, stride=stride) if in_channels != out_channels else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, in, h, w) -> (B, out, h / stride, w / stride)."""
        shortcut = x if self.shortcut is None else self.shortcut(x)
        x = self.conv1(x).relu_()
        x = self.conv2(x).relu_()
        return self.conv3(x).add_(shortcut).relu_()


def build_stage(settings: FasterRCNNVGSettings, stage: int, stride: int, dilation: int = 1) -> nn.Sequential:
    """One of res2 to res5, `stage` being its digit; the stride is of its first block, the dilation of all."""
    mid_channels = settings.bottleneck_channels * 2 ** (stage - 2)
    out_channels = settings.res2_channels * 2 ** (stage - 2)
    in_channels = settings.stem_channels if stage == 2 else out_channels // 2
    blocks = [Bottleneck(in_channels, mid_channels, out_channels, stride, dilation)]
    for _ in range(settings.num_blocks[stage - 2] - 1):
        blocks.append(Bottleneck(out_channels, mid_channels, out_channels, stride=1, dilation=dilation))
    return nn.Sequential(*blocks)


# --------------------------------------------------------------------------------------------------------------- boxes


def decode_boxes(boxes: torch.Tensor, deltas: torch.Tensor, weights: Sequence[float]) -> torch.Tensor:
    """Move boxes by what the network predicted for them.

    Args:
        boxes: (n, 4), xyxy.
        deltas: (n, 4), (dx, dy) in widths and heights, (dw, dh) as logarithms.
        weights: what each of the four is divided by.

    Returns:
        (n, 4), xyxy.
    """
    deltas = deltas / deltas.new_tensor(weights)
    sizes = boxes[:, 2:] - boxes[:, :2]  # (n, 2)
    centres = boxes[:, :2] + 0.5 * sizes
    centres = deltas[:, :2] * sizes + centres
    sizes = deltas[:, 2:].clamp(max=MAX_LOG_GROWTH).exp() * sizes
    return torch.cat([centres - 0.5 * sizes, centres + 0.5 * sizes], dim=1)


def clip_boxes(boxes: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Clip boxes (n, 4), xyxy, to a picture of `size` (width, height); its far edges are at width, not width - 1."""
    return boxes.clamp(min=0).minimum(boxes.new_tensor([*size, *size]))


# ----------------------------------------------------------------------------------------------------------- proposals


class AnchorGenerator(nn.Module):
    """Boxes of a few sizes and shapes around every cell of the feature map."""

    def __init__(self, settings: FasterRCNNVGSettings):
        super().__init__()
        anchors = []
        for size in settings.anchor_sizes:
            for ratio in settings.anchor_ratios:
                width = math.sqrt(size**2 / ratio)
                height = ratio * width
                anchors.append([-width / 2, -height / 2, width / 2, height / 2])
        # A parameter, since the published file has it: its values replace the computed ones.
        self.cell_anchors = nn.ParameterList([nn.Parameter(torch.tensor(anchors))])  # (A, 4)

    def forward(self, height: int, width: int) -> torch.Tensor:
        """Boxes (height * width * A, 4), xyxy in resized pixels; the row changes slowest, the anchor fastest."""
        (anchors,) = self.cell_anchors
        # Centres are the cells' upper left corners, not their middles.
        y = STRIDE * torch.arange(height, dtype=anchors.dtype, device=anchors.device)
        x = STRIDE * torch.arange(width, dtype=anchors.dtype, device=anchors.device)
        y, x = torch.meshgrid(y, x, indexing="ij")
        shifts = torch.stack([x, y, x, y], dim=-1).reshape(-1, 1, 4)
        return (shifts + anchors).reshape(-1, 4)


class RPNHead(nn.Module):
    """How much each anchor looks like an object, and where exactly that object is."""

    def __init__(self, settings: FasterRCNNVGSettings):
        super().__init__()
        num_anchors = len(settings.anchor_sizes) * len(settings.anchor_ratios)
        self.conv = nn.Conv2d(4 * settings.res2_channels, settings.rpn_channels, 3, padding=1)
        self.objectness_logits = nn.Conv2d(settings.rpn_channels, num_anchors, 1)
        self.anchor_deltas = nn.Conv2d(settings.rpn_channels, 4 * num_anchors, 1)

    def forward(self, feature_map: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(1, C, h, w) -> logits (1, A, h, w) and deltas (1, 4 * A, h, w), the four of an anchor together."""
        hidden = self.conv(feature_map).relu_()
        return self.objectness_logits(hidden), self.anchor_deltas(hidden)


class ProposalGenerator(nn.Module):
    """The region proposal network."""

    def __init__(self, settings: FasterRCNNVGSettings):
        super().__init__()
        self.settings = settings
        self.anchor_generator = AnchorGenerator(settings)
        self.rpn_head = RPNHead(settings)

    def forward(self, feature_map: torch.Tensor, resized_size: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Where objects may be.

        Args:
            feature_map: (1, C, h, w).
            resized_size: (w', h') of the pixels behind it.

        Returns:
            Proposals (R, 4), xyxy in resized pixels, and their logits (R,), best first.
        """
        logit_map, delta_map = self.rpn_head(feature_map)
        return self.propose(logit_map, delta_map, resized_size)

    def propose(
        self, logit_map: torch.Tensor, delta_map: torch.Tensor, resized_size: tuple[int, int]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """`forward` of what the head said: (1, A, h, w) and (1, 4 * A, h, w)."""
        logits = logit_map[0].permute(1, 2, 0).flatten()  # (h * w * A,)
        deltas = delta_map[0].unflatten(0, (-1, 4)).permute(2, 3, 0, 1).reshape(-1, 4)  # (h * w * A, 4)
        anchors = self.anchor_generator(*logit_map.shape[2:])

        # Not `topk`: which of equal logits it takes, and in which order, differs from machine to machine.
        logits, best = (x[: self.settings.rpn_pre_nms] for x in logits.sort(descending=True, stable=True))
        boxes = decode_boxes(anchors[best], deltas[best], self.settings.rpn_box_weights)
        boxes = clip_boxes(boxes, resized_size)
        has_area = (boxes[:, 2:] > boxes[:, :2]).all(dim=1)
        boxes, logits = boxes[has_area], logits[has_area]
        kept = nms(boxes, logits, self.settings.rpn_nms_threshold)  # pyright: ignore[reportOptionalCall]  # torchvision's
        kept = kept[: self.settings.rpn_post_nms]
        return boxes[kept], logits[kept]


# ------------------------------------------------------------------------------------------------------------- regions


class Predictions(NamedTuple):
    """What the heads say of R regions."""

    class_logits: torch.Tensor  # (R, classes + 1), background last
    attribute_logits: torch.Tensor  # (R, attributes + 1), "none" last
    box_deltas: torch.Tensor  # (R, classes * 4)


class Regions(NamedTuple):
    """The n regions of one picture, best score first."""

    boxes: torch.Tensor  # (n, 4), xyxy in pixels of the original picture
    normalized_boxes: torch.Tensor  # (n, 4), xyxy in [0, 1]
    class_ids: torch.Tensor  # (n,), 0 to classes - 1
    scores: torch.Tensor  # (n,), probability of that class
    attribute_ids: torch.Tensor  # (n,), 0 to attributes - 1
    attribute_scores: torch.Tensor  # (n,), probability of that attribute
    features: torch.Tensor  # (n, D)


class BoxPredictor(nn.Module):
    """Class, attribute and exact box of a region, from its feature."""

    def __init__(self, settings: FasterRCNNVGSettings):
        super().__init__()
        size = 8 * settings.res2_channels  # D
        self.cls_score = nn.Linear(size, settings.num_classes + 1)
        self.bbox_pred = nn.Linear(size, settings.num_classes * 4)  # background has no box
        self.cls_embedding = nn.Embedding(settings.num_classes + 1, size // 8)
        self.fc_attr = nn.Linear(size + size // 8, size // 4)
        self.attr_score = nn.Linear(size // 4, settings.num_attributes + 1)

    def forward(self, features: torch.Tensor) -> Predictions:
        """(R, D) -> predictions of R regions."""
        class_logits = self.cls_score(features)
        # Background may be the class that the attribute is asked for, though it is never the one reported.
        class_embeddings = self.cls_embedding(class_logits.argmax(dim=1))  # (R, D / 8)
        hidden = self.fc_attr(torch.cat([features, class_embeddings], dim=1)).relu_()
        return Predictions(class_logits, self.attr_score(hidden), self.bbox_pred(features))


class ROIHeads(nn.Module):
    """The feature of each region; its `box_predictor` tells what that feature means."""

    def __init__(self, settings: FasterRCNNVGSettings):
        super().__init__()
        self.pooled_size = settings.pooled_size
        # Stride 1 keeps the pooled map's size, and dilation 2 what the 3x3 convolutions saw at the usual stride 2.
        self.res5 = build_stage(settings, stage=5, stride=1, dilation=2)
        self.box_predictor = BoxPredictor(settings)

    def pool(self, feature_map: torch.Tensor, proposals: torch.Tensor) -> torch.Tensor:
        """(1, C, h, w) and proposals (R, 4) -> (R, C, pooled_size, pooled_size)."""
        # roi_pool, which rounds the proposals to whole cells, not the later roi_align: the weights are used to it.
        size = self.pooled_size
        return roi_pool(feature_map, [proposals], size, 1 / STRIDE)  # pyright: ignore[reportOptionalCall]  # torchvision's

    def forward(self, feature_map: torch.Tensor, proposals: torch.Tensor) -> torch.Tensor:
        """(1, C, h, w) and proposals (R, 4) -> features (R, D), neither negative nor normalised."""
        chunks = proposals.split(REGIONS_AT_A_TIME)
        return torch.cat([self.res5(self.pool(feature_map, chunk)).mean(dim=(2, 3)) for chunk in chunks])


class RegionReader(nn.Module):
    """The heads as a network without loops: regions in whole cells to their features and predictions."""

    def __init__(self, heads: ROIHeads):
        super().__init__()
        self.pooled_size = heads.pooled_size
        self.res5, self.box_predictor = heads.res5, heads.box_predictor

    def forward(self, feature_map: torch.Tensor, cells: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """(1, C, h, w) and `to_whole_cells` (R, 5) -> features (R, D), then the fields of `Predictions`."""
        size = self.pooled_size
        pooled, _ = torch.ops.torchvision.roi_pool(feature_map, cells, 1.0, size, size)
        features = self.res5(pooled).mean(dim=(2, 3))
        return features, *self.box_predictor(features)


def to_whole_cells(proposals: torch.Tensor) -> torch.Tensor:
    """What `roi_pool` rounds proposals (R, 4) to: (R, 5), a picture's number, 0, and the first and last cells."""
    cells = proposals / STRIDE
    below = cells.floor()
    return F.pad(below + (cells - below >= 0.5), (1, 0))  # C's rounding, halves up; torch's goes to the even one


def unsure_widths(cells: torch.Tensor, pooled_size: int) -> torch.Tensor:
    """Of which regions (R, 5) a bin of `roi_pool` begins or ends elsewhere than in exact arithmetic: (R,).

    It multiplies in float32: the last of 14 bins over 57 cells ends at 57.000004, so that it takes the 58th as well.
    """
    lengths = (cells[:, 3:] - cells[:, 1:3] + 1).clamp(min=1)  # (R, 2)
    bins = torch.arange(pooled_size + 1, device=cells.device)
    found = bins * (lengths / pooled_size)[:, :, None]  # (R, 2, bins), as `roi_pool` has it
    exact = bins * lengths.long()[:, :, None]
    begins = found.floor() != exact.div(pooled_size, rounding_mode="floor")
    ends = found.ceil() != -(-exact).div(pooled_size, rounding_mode="floor")
    return (begins[:, :, :-1] | ends[:, :, 1:]).flatten(1).any(dim=1)


def choose_regions(
    proposals: torch.Tensor, predictions: Predictions, resized_size: tuple[int, int], settings: FasterRCNNVGSettings
) -> torch.Tensor:
    """Which proposals become regions.

    Args:
        proposals: (R, 4), xyxy in resized pixels.
        predictions: of the heads, for the proposals.
        resized_size: (w', h').
        settings: of the detector.

    Returns:
        Their places (n,), best score first, at most `max_detections`; none where there is no proposal.
    """
    boxes, scores, _ = _place_regions(proposals, predictions, resized_size, settings)
    # No score threshold. A crowded picture is given a higher IoU until enough regions are left; where even the last
    # one leaves too few, that is what the picture has (the published code stops with an error there).
    kept = torch.arange(0, device=boxes.device)
    for threshold in settings.nms_thresholds:
        kept = nms(boxes, scores, threshold)  # pyright: ignore[reportOptionalCall]  # torchvision's
        kept = kept[: settings.max_detections]  # (n,), best first
        if len(kept) >= settings.min_detections:
            break
    return kept


def _place_regions(
    proposals: torch.Tensor, predictions: Predictions, resized_size: tuple[int, int], settings: FasterRCNNVGSettings
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The boxes (R, 4) in resized pixels, the scores (R,) and the class ids (R,) of proposals."""
    # Background is dropped after the softmax, so where it is likely, the best object class stays with a low score.
    class_scores = predictions.class_logits.softmax(dim=1)[:, : settings.num_classes]
    # Each region has its one best class before NMS, and NMS is across classes: usual detectors do both per class.
    scores, class_ids = class_scores.max(dim=1)  # (R,), (R,)
    deltas = predictions.box_deltas.unflatten(1, (settings.num_classes, 4))  # (R, classes, 4)
    deltas = deltas[torch.arange(len(class_ids), device=class_ids.device), class_ids]  # (R, 4)
    return clip_boxes(decode_boxes(proposals, deltas, settings.box_weights), resized_size), scores, class_ids


def describe_regions(
    proposals: torch.Tensor,
    features: torch.Tensor,
    predictions: Predictions,
    resized_size: tuple[int, int],
    image_size: tuple[int, int],
    settings: FasterRCNNVGSettings,
) -> Regions:
    """The regions that proposals (n, 4) become, in their order. The arguments are those of `select_regions`."""
    boxes, scores, class_ids = _place_regions(proposals, predictions, resized_size, settings)
    # "No attribute" is dropped before the softmax, unlike background: an attribute's score is one among attributes.
    attribute_scores = predictions.attribute_logits[:, : settings.num_attributes].softmax(dim=1)
    attribute_scores, attribute_ids = attribute_scores.max(dim=1)

    scale = boxes.new_tensor([original / resized for original, resized in zip(image_size, resized_size, strict=True)])
    boxes = boxes * scale.repeat(2)
    return Regions(
        boxes=boxes,
        normalized_boxes=boxes / boxes.new_tensor([*image_size, *image_size]),
        class_ids=class_ids,
        scores=scores,
        attribute_ids=attribute_ids,
        attribute_scores=attribute_scores,
        features=features,  # what the proposal shows, not what the final box does
    )


def select_regions(
    proposals: torch.Tensor,
    features: torch.Tensor,
    predictions: Predictions,
    resized_size: tuple[int, int],
    image_size: tuple[int, int],
    settings: FasterRCNNVGSettings,
) -> Regions:
    """Choose the regions of a picture among its proposals.

    Args:
        proposals: (R, 4), xyxy in resized pixels.
        features: (R, D), of the proposals.
        predictions: of the heads, for these features.
        resized_size: (w', h').
        image_size: (width, height) of the original picture.
        settings: of the detector.

    Returns:
        At most `max_detections` regions; none where there is no proposal.
    """
    kept = choose_regions(proposals, predictions, resized_size, settings)
    predictions = Predictions(*(values[kept] for values in predictions))
    return describe_regions(proposals[kept], features[kept], predictions, resized_size, image_size, settings)


# ------------------------------------------------------------------------------------------------------------ detector


class FasterRCNNVG(nn.Module):
    """The frozen detector: one picture in, its regions out.

    ```python
    >>> settings, weights = load_published_checkpoint()
    >>> detector = FasterRCNNVG(settings)
    >>> detector.load_state_dict(weights)
    >>> regions = detector(preprocess(image, settings), image_size=(640, 480))
    >>> regions.boxes.shape, regions.features.shape
    (torch.Size([36, 4]), torch.Size([36, 2048]))
    ```

    The names of its parameters are those of the published file. None is trained, and batch norm uses the statistics
    of the file in training mode too. The published numbers are float32's: on a GPU, turn TF32 off. A picture is a
    batch of its own, because the padding of a batch would enter the convolutions and the proposals.

    Args:
        settings: sizes and selection.

    Raises:
        ImportError: torchvision is not installed.
    """

    def __init__(self, settings: FasterRCNNVGSettings):
        super().__init__()
        if roi_pool is None:
            raise ImportError("faster_rcnn_vg needs nms and roi_pool of torchvision: pip install torchvision")
        self.settings = settings
        self.backbone = nn.Sequential(
            OrderedDict(
                stem=Stem(settings.stem_channels),
                res2=build_stage(settings, stage=2, stride=1),
                res3=build_stage(settings, stage=3, stride=2),
                res4=build_stage(settings, stage=4, stride=2),
            )
        )
        self.proposal_generator = ProposalGenerator(settings)
        self.roi_heads = ROIHeads(settings)
        self.requires_grad_(False)

    def forward(
        self, pixels: torch.Tensor, image_size: tuple[int, int], choosing_dtype: torch.dtype = torch.float32
    ) -> Regions:
        """Find the regions of one picture.

        Args:
            pixels: (3, h', w') of `preprocess`.
            image_size: (width, height) of the original picture.
            choosing_dtype: in which regions are chosen among the proposals; in bfloat16 those that were chosen are
                described again in float32, so that a region has the numbers that it has anyway.

        Returns:
            Its regions, in the order in which they were chosen: best score first.
        """
        resized_size = (pixels.shape[2], pixels.shape[1])
        feature_map, logit_map, delta_map = self.map_picture(pixels[None])  # (1, C, ~h'/16, ~w'/16)
        proposals, _ = self.proposal_generator.propose(logit_map, delta_map, resized_size)  # (R, 4)
        features, predictions = self.read_regions(feature_map, proposals, choosing_dtype)  # (R, D)
        if choosing_dtype == torch.float32:
            return select_regions(proposals, features, predictions, resized_size, image_size, self.settings)
        proposals = proposals[choose_regions(proposals, predictions, resized_size, self.settings)]  # (n, 4)
        features, predictions = self.read_regions(feature_map, proposals)  # (n, D)
        return describe_regions(proposals, features, predictions, resized_size, image_size, self.settings)

    def map_picture(self, pixels: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """(1, 3, h', w') -> the feature map (1, C, h, w), and what the proposals' head says of it."""
        feature_map = self.backbone(pixels)
        return feature_map, *self.proposal_generator.rpn_head(feature_map)

    def read_regions(
        self, feature_map: torch.Tensor, proposals: torch.Tensor, dtype: torch.dtype = torch.float32
    ) -> tuple[torch.Tensor, Predictions]:
        """(1, C, h, w) and proposals (R, 4) -> their features (R, D), and what the heads say of them: float32."""
        with torch.autocast(feature_map.device.type, torch.bfloat16, enabled=dtype == torch.bfloat16):
            features = self.roi_heads(feature_map, proposals)
            predictions = self.roi_heads.box_predictor(features)
        return features.float(), Predictions(*(values.float() for values in predictions))


def load_published_checkpoint(
    name_or_path: str | os.PathLike = PUBLISHED_WEIGHTS, **hub_kwargs: Any
) -> tuple[FasterRCNNVGSettings, dict[str, torch.Tensor]]:
    """Load the detector's weights in the format they were published in.

    ```python
    >>> settings, weights = load_published_checkpoint()  # from the Hub
    >>> settings, weights = load_published_checkpoint("folder/of/the/two/files")
    ```

    Args:
        name_or_path: A folder or a repo of the Hub with `pytorch_model.bin` and, unless the published settings hold,
            `config.yaml`.
        **hub_kwargs: of `huggingface_hub.hf_hub_download`, such as `revision`, `cache_dir` or `local_files_only`.

    Returns:
        The settings, and the state dict of a `FasterRCNNVG` with these settings, on the CPU.

    Raises:
        FileNotFoundError: the folder has no `pytorch_model.bin`.
        ValueError: the settings ask for another network; or the file of weights carries code, is damaged, or lacks a
            weight, has one too many or one of another shape. The message names it.
    """
    weights_path = _checkpoint_file(name_or_path, "pytorch_model.bin", hub_kwargs)
    if weights_path is None:
        raise FileNotFoundError(f"{name_or_path} has no pytorch_model.bin: give the folder or repo of the detector.")
    config_path = _checkpoint_file(name_or_path, "config.yaml", hub_kwargs)
    settings = FasterRCNNVGSettings.from_published_config(config_path) if config_path else FasterRCNNVGSettings()
    weights = read_weights(weights_path)
    return settings, _checked_weights(weights, settings, weights_path)


def read_weights(path: str | os.PathLike) -> dict[str, torch.Tensor]:
    """The state dict of a file in torch's own format, a pickle, of which nothing but tensors is read.

    Raises:
        OSError: the file is missing or cannot be read.
        ValueError: the file carries code, is damaged, or holds something else than tensors by their names.
    """
    try:
        weights = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except pickle.UnpicklingError:
        raise ValueError(
            f"{path} holds something else than tensors. Either it carries code, which was not run: do not trust this "
            "file. Or it is damaged, or only Git LFS's pointer to the file: download it again."
        ) from None  # torch's own message proposes to load it with weights_only=False, which would run the code
    except Exception as error:  # torch trusts what it unpickles: one changed byte ends in any of a dozen errors
        reason = _shortened(f"{type(error).__name__}: {error}")
        raise ValueError(f"{path} is damaged, download it again: {reason}") from error
    if not isinstance(weights, dict):
        raise ValueError(f"{path} holds a {type(weights).__name__}: must be a state dict.")
    for name, weight in weights.items():
        if not isinstance(name, str):
            raise ValueError(f"{path} has {_shown(name)} where the name of a weight must be: must be a state dict.")
        if not isinstance(weight, torch.Tensor):
            raise ValueError(f"{path}: {_shown(name)} is a {type(weight).__name__}: must be a tensor.")
    return weights


def _checkpoint_file(name_or_path: str | os.PathLike, file: str, hub_kwargs: dict[str, Any]) -> Path | None:
    """A file of a folder or of a repo of the Hub; None if there is no such file in it."""
    if Path(name_or_path).is_dir():
        path = Path(name_or_path, file)
        return path if path.is_file() else None
    try:
        return Path(hf_hub_download(str(name_or_path), file, **hub_kwargs))
    except RemoteEntryNotFoundError:  # not the error of a file that is just not in the cache: its settings may differ
        return None


def _checked_weights(
    weights: dict[str, torch.Tensor], settings: FasterRCNNVGSettings, path: Path
) -> dict[str, torch.Tensor]:
    """The weights in the network's order; the counters of batch norm, which nothing reads, are zero."""
    with torch.device("meta"):
        expected = FasterRCNNVG(settings).state_dict()
    counters = {name for name in expected if name.endswith(".num_batches_tracked")}
    for name in weights:
        if name not in expected:
            raise ValueError(
                f"{path} has {_shown(name)}, which is no weight of the detector faster_rcnn_vg of these settings."
            )
    for name, want in expected.items():
        if name in counters:
            continue
        if name not in weights:
            raise ValueError(f"{path} lacks {name!r}, a weight of the detector faster_rcnn_vg of these settings.")
        found = weights[name]
        if (found.dtype, found.shape) != (want.dtype, want.shape):
            raise ValueError(
                f"{path}: {name!r} is {found.dtype} of shape {tuple(found.shape)}: must be {want.dtype} of shape "
                f"{tuple(want.shape)} with these settings."
            )
    return {name: torch.tensor(0) if name in counters else weights[name] for name in expected}
