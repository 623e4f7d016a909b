"""The frozen vision model of HamLearning: pictures in, the features of the picture and its regions out (Eq 2-3)."""

import collections
import copy
import functools
import hashlib
import json
import math
import os
import shutil
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import torch
import transformers
from torch import nn
from torch.overrides import TorchFunctionMode
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForObjectDetection,
    PreTrainedModel,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_OBJECT_DETECTION_MAPPING_NAMES
from transformers.utils import ModelOutput, cached_file, logging


try:
    from PIL import Image, ImageDraw, ImageFont
    from torchvision.models.detection import MaskRCNN_ResNet50_FPN_V2_Weights, maskrcnn_resnet50_fpn_v2
    from torchvision.models.detection.rpn import concat_box_prediction_layers
except ImportError as error:
    raise ImportError("HamLearning needs torchvision to read pictures: pip install torchvision timm") from error

try:
    from .configuration_hamlearning import MORE_FEATURES, PYRAMID_CHANNELS, HamLearningVisionConfig
    from .image_processing_hamlearning import ImageError, read_image
    from .modeling_faster_rcnn_vg import (
        PUBLISHED_WEIGHTS,
        REGIONS_AT_A_TIME,
        FasterRCNNVG,
        FasterRCNNVGSettings,
        Predictions,
        RegionReader,
        load_published_checkpoint,
        preprocess,
        read_weights,
        to_whole_cells,
        unsure_widths,
    )
    from .modeling_hamlearning import SPATIAL_RELATIONS, damaged_weights_named, spatial_relations
    from .networks_hamlearning import (
        PRECISIONS,
        RUNTIMES,
        CannotConvertError,
        Network,
        Networks,
        Part,
        has_bf16,
        is_installed,
        openvino,
        save,
    )
    from .words_hamlearning import hold_in_package
except ImportError:
    if __package__:
        raise
    from configuration_hamlearning import MORE_FEATURES, PYRAMID_CHANNELS, HamLearningVisionConfig
    from image_processing_hamlearning import ImageError, read_image
    from modeling_faster_rcnn_vg import (
        PUBLISHED_WEIGHTS,
        REGIONS_AT_A_TIME,
        FasterRCNNVG,
        FasterRCNNVGSettings,
        Predictions,
        RegionReader,
        load_published_checkpoint,
        preprocess,
        read_weights,
        to_whole_cells,
        unsure_widths,
    )
    from modeling_hamlearning import SPATIAL_RELATIONS, damaged_weights_named, spatial_relations
    from networks_hamlearning import (
        PRECISIONS,
        RUNTIMES,
        CannotConvertError,
        Network,
        Networks,
        Part,
        has_bf16,
        is_installed,
        openvino,
        save,
    )
    from words_hamlearning import hold_in_package


logger = logging.get_logger(__name__)

NETWORK_PREFIX = "openvino_"  # of the files of an exported network
# A thinner picture is stretched to this ratio of its sides: resized to a short side of 224, one of 1 x 5000 pixels
# would be a million pixels long. Boxes are shares of the picture, so they stay where they are.
MAX_ASPECT_RATIO = 16
MAX_STRETCHED = 8192  # pixels of a stretched picture's long side: one of 1 x 1,000,000 must not become 62,500 high
NUM_CROPS = 3  # regions of a picture, the best, that have a pyramid beside that of the picture
MAX_CROPPED = 2048  # pixels of the long side of a picture that crops are cut from: all of 12,000 x 12,000 is 400 MB
KNOWN_BACKBONES = "timm/resnet152.tv_in1k or timm/vit_base_patch16_dinov3.lvd1689m"
# Families of `AutoModelForObjectDetection` that give no regions here, and why.
NO_DETECTORS = {
    "pp_doclayout_v3": "it outlines the parts of a page with OpenCV",
    **dict.fromkeys(
        ("pp_ocrv5_mobile_det", "pp_ocrv5_server_det", "pp_ocrv6_medium_det", "pp_ocrv6_small_det"),
        "it finds lines of text, which have no class",
    ),
}
MAX_BFLOAT16_ERROR = 0.01  # of features, relative to the largest
NUM_COCO_CLASSES = 91  # of torchvision's Mask R-CNN: background, 80 names and ten gaps
RESAMPLING = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


class PreparedImage(NamedTuple):
    """A picture as the vision model takes it: what can be computed without weights, in a worker process.

    `size` is (width, height) in pixels; `crop` (3, C, C), `whole` (3, h, w; None where no region is pooled from the
    backbone's map) and `pixels` (3, h', w'; None where no region is cut out) are uint8; `detector_inputs` is what the
    detector's own `prepare` gave.
    """

    size: tuple[int, int]
    crop: torch.Tensor
    whole: torch.Tensor | None
    detector_inputs: Any
    pixels: torch.Tensor | None = None


class Detections(NamedTuple):
    """Regions of one picture, as a detector finds them.

    `boxes` (n, 4) are (left, top, right, bottom) in shares of the picture, `class_ids` and `scores` (n,); `features`
    (n, D_f) are None where they are pooled from the backbone's map.
    """

    boxes: torch.Tensor
    class_ids: torch.Tensor
    scores: torch.Tensor
    features: torch.Tensor | None


@dataclass
class HamLearningVisionOutput(ModelOutput):
    """The visual inputs of `HamLearningModel`, and the regions' scores.

    Args:
        image_features: (B, D_i), Eq 2 before its linear layer; 0 without a picture.
        region_features: (B, N, D_f), f_i of Eq 3; 0 on padding.
        region_boxes: (B, N, 4), (x_c, y_c, h, w) in [0, 1].
        region_class_ids: (B, N), of the detector's classes.
        region_scores: (B, N), best first.
        region_mask: (B, N), 1 for a region.
        image_mask: (B,), 1 for a picture.
        image_sizes: (B, 2), (width, height) in pixels; 1 without a picture.
        grid_features: (B, P, D_i), cells row by row, where the config's `more_features` ask for them.
        pyramid_features: (B, 4, 15360), of the picture and its best regions, likewise.
        pyramid_mask: (B, 4), 1 for a picture or region that is there.
    """

    image_features: torch.Tensor | None = None
    region_features: torch.Tensor | None = None
    region_boxes: torch.Tensor | None = None
    region_class_ids: torch.Tensor | None = None
    region_scores: torch.Tensor | None = None
    region_mask: torch.Tensor | None = None
    image_mask: torch.Tensor | None = None
    image_sizes: torch.Tensor | None = None
    grid_features: torch.Tensor | None = None
    pyramid_features: torch.Tensor | None = None
    pyramid_mask: torch.Tensor | None = None


# ----------------------------------------------------------------------------------------------------- preparation


def to_tensor(image: Image.Image) -> torch.Tensor:
    """An RGB picture as a uint8 tensor (3, h, w)."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()


def centre_crop(image: Image.Image, resize_size: int, crop_size: int, resample: Image.Resampling) -> Image.Image:
    """The short side resized to `resize_size`, then the square of `crop_size` at the centre.

    Pixel for pixel what torchvision's `Resize` and `CenterCrop` give, which timm's backbones were trained with.
    """
    short = min(image.size)
    # Not `resize(box=...)` to the square alone: Pillow chooses the order of its two passes by the sizes, and another
    # order rounds and clips differently. It would be no faster either.
    resized = image.resize([resize_size * side // short for side in image.size], resample)
    left, top = (round((side - crop_size) / 2) for side in resized.size)
    return resized.crop((left, top, left + crop_size, top + crop_size))


def whole_size(size: tuple[int, int], config: HamLearningVisionConfig) -> tuple[int, int]:
    """(width, height) that a whole picture of this size is resized to: `crop_size` is the shorter one of them.

    Both are `crop_size` where the backbone takes nothing else, and multiples of `size_multiple` where it takes those.
    """
    if config.fixed_input_size:
        return config.crop_size, config.crop_size
    scale, multiple = config.crop_size / min(size), config.size_multiple
    least = math.ceil(config.crop_size / multiple)
    width, height = (max(round(side * scale / multiple), least) * multiple for side in size)
    return width, height


def prepare_image(image: Image.Image, config: HamLearningVisionConfig) -> PreparedImage:
    """A picture as the vision model takes it. Its size is the one it came with, before a thin one is stretched."""
    detector = DETECTOR_CLASSES[config.detector]
    resample, size = RESAMPLING[config.interpolation], image.size
    image = stretch_thin(image, resample)
    whole = pixels = None
    if detector.pools_from_backbone:
        whole = to_tensor(image.resize(whole_size(image.size, config), resample))
    if "pyramid_features" in (config.more_features or ()):
        shrinking = min(1, MAX_CROPPED / max(image.size))
        pixels = to_tensor(image.resize([max(round(side * shrinking), 1) for side in image.size], resample))
    return PreparedImage(
        size=size,
        crop=to_tensor(centre_crop(image, config.resize_size, config.crop_size, resample)),
        whole=whole,
        detector_inputs=detector.prepare(image, config),
        pixels=pixels,
    )


def stretch_thin(image: Image.Image, resample: Image.Resampling) -> Image.Image:
    """A picture whose sides have at most the ratio `MAX_ASPECT_RATIO`: a thinner one is made wider."""
    size = image.size
    if min(size) >= math.ceil(max(size) / MAX_ASPECT_RATIO):
        return image
    longest = min(max(size), MAX_STRETCHED)
    shortest = math.ceil(longest / MAX_ASPECT_RATIO)
    return image.resize([max(round(side * longest / max(size)), shortest) for side in size], resample)


def crop_regions(pixels: torch.Tensor, boxes: np.ndarray, config: HamLearningVisionConfig) -> list[torch.Tensor]:
    """Regions of a picture, uint8 (3, h, w), each resized and cut to (3, C, C) as a picture of its own.

    `boxes` (n, 4) are (x_c, y_c, h, w) as shares of the picture. A region has at least one pixel.
    """
    image, resample = Image.fromarray(pixels.permute(1, 2, 0).numpy()), RESAMPLING[config.interpolation]
    crops = []
    for x, y, height, width in boxes.tolist():
        spans = []
        for middle, length, side in ((x, width, image.width), (y, height, image.height)):
            first = min(max(round((middle - length / 2) * side), 0), side - 1)
            spans.append((first, min(max(round((middle + length / 2) * side), first + 1), side)))
        (left, right), (top, bottom) = spans
        region = stretch_thin(image.crop((left, top, right, bottom)), resample)
        crops.append(to_tensor(centre_crop(region, config.resize_size, config.crop_size, resample)))
    return crops


# ------------------------------------------------------------------------------------------------------- detectors
# Each has `prepare(image, config)`, which needs no weights; `forward(inputs, size) -> Detections` of one picture;
# `feature_size`, D_f; or `pools_from_backbone`, where features come from the global backbone's map.


class StableOrder(TorchFunctionMode):
    """Where others' code sorts or takes the best k, the first of equal scores stays first, on any machine.

    `topk` and a plain `sort` may return equal values in any order, another one with each device, length and version;
    `torchvision.ops.batched_nms` does from 1,001 boxes on.
    """

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        """`func`, or what gives the same values in the one order."""
        stable = {"topk": _stable_topk, "sort": _stable_sort, "argsort": _stable_argsort}
        return stable.get(getattr(func, "__name__", ""), func)(*args, **(kwargs or {}))


def _stable_topk(
    input: torch.Tensor, k: int, dim: int = -1, largest: bool = True, sorted: bool = True, axis: int | None = None
) -> Any:
    dim = dim if axis is None else axis
    values, indices = torch.sort(input, dim=dim, descending=largest, stable=True)
    return torch.return_types.topk((values.narrow(dim, 0, k), indices.narrow(dim, 0, k)))


def _stable_sort(input: torch.Tensor, dim: int = -1, descending: bool = False, stable: bool | None = None) -> Any:
    return torch.sort(input, dim=dim, descending=descending, stable=True)


def _stable_argsort(
    input: torch.Tensor, dim: int = -1, descending: bool = False, stable: bool | None = None
) -> torch.Tensor:
    return torch.argsort(input, dim=dim, descending=descending, stable=True)


class ComputedDetector(nn.Module):
    """A detector whose networks another runtime may compute."""

    # Of a part: its name, what makes it, and the precision; None where PyTorch computes it. The vision model sets
    # its own.
    find_network: Callable[..., Network | None] = staticmethod(lambda name, make_part, precision="float32": None)

    def parts(self, config: HamLearningVisionConfig) -> dict[str, Callable[[], Part]]:
        """Its parts by their names."""
        raise NotImplementedError


class GridDetector(nn.Module):
    """No detector at hand: a regular grid of regions that covers the picture, one class, every score 1."""

    pools_from_backbone = True

    def __init__(self, config: HamLearningVisionConfig):
        super().__init__()
        settings = config.detector_settings or {}
        self.rows, self.columns = settings["rows"], settings["columns"]

    @staticmethod
    def prepare(image: Image.Image, config: HamLearningVisionConfig) -> None:
        """A grid does not read the picture."""

    def forward(self, inputs: None, size: tuple[int, int]) -> Detections:
        """The same boxes for every picture, row by row."""
        tops, lefts = torch.meshgrid(torch.arange(self.rows), torch.arange(self.columns), indexing="ij")
        corners = torch.stack([lefts, tops, lefts + 1, tops + 1], dim=-1).flatten(0, 1)  # (rows * columns, 4)
        boxes = corners / torch.tensor([self.columns, self.rows, self.columns, self.rows])
        return Detections(boxes, torch.zeros(len(boxes), dtype=torch.long), torch.ones(len(boxes)), None)


class FasterRCNNVGDetector(FasterRCNNVG, ComputedDetector):
    """The paper's: Faster R-CNN on Visual Genome, 1600 classes, 2048 features a region."""

    pools_from_backbone = False

    def __init__(self, config: HamLearningVisionConfig):
        super().__init__(FasterRCNNVGSettings(**(config.detector_settings or {})))
        self.feature_size = 8 * self.settings.res2_channels
        self.config = config

    @staticmethod
    def prepare(image: Image.Image, config: HamLearningVisionConfig) -> torch.Tensor:
        """Float pixels (3, h', w')."""
        return preprocess(to_tensor(image), FasterRCNNVGSettings(**(config.detector_settings or {})))

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]  # as the other detectors
        self, inputs: torch.Tensor, size: tuple[int, int]
    ) -> Detections:
        """One box a proposal at most, of its best class, after suppression across classes."""
        chooses_roughly = "detector" in (self.config.bfloat16_parts or ())
        found = super().forward(inputs, size, torch.bfloat16 if chooses_roughly else torch.float32)
        return Detections(found.normalized_boxes, found.class_ids, found.scores, found.features)

    def map_picture(self, pixels: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """See `FasterRCNNVG`."""
        network = self.find_network("faster_rcnn_vg_map", self._map_part)
        return super().map_picture(pixels) if network is None else network(pixels)

    def read_regions(
        self, feature_map: torch.Tensor, proposals: torch.Tensor, dtype: torch.dtype = torch.float32
    ) -> tuple[torch.Tensor, Predictions]:
        """See `FasterRCNNVG`."""
        precision = str(dtype).removeprefix("torch.")
        network = self.find_network("faster_rcnn_vg_regions", self._regions_part, precision)
        if network is None or len(proposals) == 0:
            return super().read_regions(feature_map, proposals, dtype)
        cells = to_whole_cells(proposals)  # (R, 5)
        unsure = unsure_widths(cells, self.settings.pooled_size)
        sure = torch.nonzero(~unsure).flatten()
        found = [network(feature_map, cells[chunk]) for chunk in sure.split(REGIONS_AT_A_TIME)]
        outputs = [torch.cat(output) for output in zip(*found, strict=True)]
        if unsure.any():
            of_torch = super().read_regions(feature_map, proposals[unsure], dtype)
            of_torch = (of_torch[0], *of_torch[1])
            outputs = outputs or [output[:0] for output in of_torch]
            order = torch.argsort(torch.cat([sure, torch.nonzero(unsure).flatten()]))
            outputs = [torch.cat(pair)[order] for pair in zip(outputs, of_torch, strict=True)]
        return outputs[0], Predictions(*outputs[1:])

    def parts(self, config: HamLearningVisionConfig) -> dict[str, Callable[[], Part]]:
        """See `ComputedDetector`."""
        return {"faster_rcnn_vg_map": self._map_part, "faster_rcnn_vg_regions": self._regions_part}

    def _map_part(self) -> Part:
        pixels = tuple(_noise(1, 3, *size) for size in ((128, 160), (160, 96), (112, 208)))
        return Part(_Map(self), pixels[:1], ((pixels[1],), (pixels[2],)), ((2, 3),), self.settings.to_dict())

    def _regions_part(self) -> Part:
        inputs = []
        for height, width, count in ((20, 30, 3), (30, 16, 1), (12, 12, 5)):
            corners = _noise(count, 2, 2).abs().clamp(max=0.99) * torch.tensor([width, height])
            boxes = torch.cat([corners.amin(dim=1), corners.amax(dim=1)], dim=1)
            inputs.append((_noise(1, 4 * self.settings.res2_channels, height, width), to_whole_cells(16 * boxes)))
        return Part(
            RegionReader(self.roi_heads),
            inputs[0],
            tuple(inputs[1:]),
            ((2, 3), (0,)),
            self.settings.to_dict(),
            {"torchvision::roi_pool": _roi_pooling},
        )


class _Map(nn.Module):
    """`map_picture` as a module."""

    def __init__(self, detector: FasterRCNNVG):
        super().__init__()
        self.backbone, self.rpn_head = detector.backbone, detector.proposal_generator.rpn_head

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """(1, 3, h', w') -> feature map, logits, deltas."""
        feature_map = self.backbone(pixels)
        return feature_map, *self.rpn_head(feature_map)


def _roi_pooling(node: Any) -> list[Any]:
    """OpenVINO's node of `torchvision::roi_pool`, whose second output, the places of the maxima, nobody reads."""
    scale, height, width = (node.get_values_from_const_input(index) for index in (2, 3, 4))
    feature_map, cells = node.get_input(0), node.get_input(1)
    pooled = openvino().opset15.roi_pooling(feature_map, cells, [height, width], scale, "max").output(0)
    return [pooled, pooled]


class MaskRCNNDetector(ComputedDetector):
    """torchvision's Mask R-CNN on COCO (Table 5): 91 class slots, 1024 features a region, pooled on its final box."""

    pools_from_backbone = False
    feature_size = 1024
    model: Any  # torchvision's, whose parts it does not say the types of

    def __init__(self, config: HamLearningVisionConfig):
        super().__init__()
        self.model = maskrcnn_resnet50_fpn_v2(weights=None, weights_backbone=None, num_classes=NUM_COCO_CLASSES)
        self.model.roi_heads.mask_roi_pool = None  # so that no mask is computed: nobody asks for it
        del self.model.roi_heads.mask_head, self.model.roi_heads.mask_predictor

    @staticmethod
    def prepare(image: Image.Image, config: HamLearningVisionConfig) -> torch.Tensor:
        """uint8 (3, h, w); the model resizes by itself."""
        return to_tensor(image)

    def forward(self, inputs: torch.Tensor, size: tuple[int, int]) -> Detections:
        """Suppression within each class, scores above 0.05, as torchvision has it; perhaps no region at all."""
        images, _ = self.model.transform([inputs / 255])
        network = self.find_network("mask_rcnn_coco_maps", self._maps_part)
        found = _PyramidMaps(self.model)(images.tensors) if network is None else network(images.tensors)
        levels = len(found) // 3
        names = [str(level) for level in range(levels - 1)] + ["pool"]
        maps = dict(zip(names, found[:levels], strict=True))
        with StableOrder():
            proposals = self._propose(images, list(maps.values()), found[levels : 2 * levels], found[2 * levels :])
            _, logits, deltas = self._read_boxes(maps, proposals, images.image_sizes)
            heads = self.model.roi_heads
            (boxes,), (scores,), (class_ids,) = heads.postprocess_detections(
                logits, deltas, proposals, images.image_sizes
            )
        features, *_ = self._read_boxes(maps, [boxes], images.image_sizes)  # (n, 1024)
        height, width = images.image_sizes[0]
        return Detections(boxes / boxes.new_tensor([width, height, width, height]), class_ids, scores, features)

    def _propose(self, images: Any, maps: list[torch.Tensor], logits: Any, deltas: Any) -> list[torch.Tensor]:
        """What torchvision's region proposal network makes of what its head says of each map."""
        rpn = self.model.rpn
        counts = [level[0].numel() for level in logits]
        logits, deltas = concat_box_prediction_layers(list(logits), list(deltas))
        boxes = rpn.box_coder.decode(deltas, rpn.anchor_generator(images, maps)).view(1, -1, 4)
        proposals, _ = rpn.filter_proposals(boxes, logits, images.image_sizes, counts)
        return proposals

    def _read_boxes(self, maps: dict[str, torch.Tensor], boxes: list[torch.Tensor], sizes: Any) -> Any:
        """The features (n, 1024) of boxes, and what the heads say of them."""
        pooled = self.model.roi_heads.box_roi_pool(maps, boxes, sizes)
        network = self.find_network("mask_rcnn_coco_boxes", self._boxes_part)
        return _BoxReader(self.model.roi_heads)(pooled) if network is None or len(pooled) == 0 else network(pooled)

    def parts(self, config: HamLearningVisionConfig) -> dict[str, Callable[[], Part]]:
        """See `ComputedDetector`."""
        return {"mask_rcnn_coco_maps": self._maps_part, "mask_rcnn_coco_boxes": self._boxes_part}

    def _maps_part(self) -> Part:
        pixels = tuple(_noise(1, 3, *size) for size in ((128, 160), (160, 96), (96, 224)))
        return Part(_PyramidMaps(self.model), pixels[:1], ((pixels[1],), (pixels[2],)), ((2, 3),))

    def _boxes_part(self) -> Part:
        channels, side = self.model.backbone.out_channels, self.model.roi_heads.box_roi_pool.output_size
        pooled = tuple(_noise(count, channels, *side) for count in (3, 1, 5))
        return Part(_BoxReader(self.model.roi_heads), pooled[:1], ((pooled[1],), (pooled[2],)), ((0,),))


class _PyramidMaps(nn.Module):
    """The maps of torchvision's Mask R-CNN, and what the head of its proposals says of each: logits, then deltas."""

    def __init__(self, model: Any):
        super().__init__()
        self.backbone, self.head = model.backbone, model.rpn.head

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """(1, 3, h, w) -> five maps, five of logits, five of deltas."""
        maps = list(self.backbone(pixels).values())
        logits, deltas = self.head(maps)
        return (*maps, *logits, *deltas)


class _BoxReader(nn.Module):
    """The heads of torchvision's Mask R-CNN."""

    def __init__(self, heads: Any):
        super().__init__()
        self.box_head, self.box_predictor = heads.box_head, heads.box_predictor

    def forward(self, pooled: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """(n, C, 7, 7) -> features (n, 1024), logits (n, 91), deltas (n, 364)."""
        features = self.box_head(pooled)
        return (features, *self.box_predictor(features))


class ObjectDetector(ComputedDetector):
    """An `AutoModelForObjectDetection`: its boxes; features from the global backbone's map."""

    pools_from_backbone = True

    def __init__(self, config: HamLearningVisionConfig, model: PreTrainedModel | None = None):
        super().__init__()
        self.model: Any = AutoModelForObjectDetection.from_config(config.detector_config) if model is None else model
        self.image_processor = _image_processor(json.dumps(config.detector_settings))
        size = (config.detector_settings or {}).get("size")
        # Whether pictures of any size come as the same: a network that knows its input's size is faster to make.
        self.has_one_size = isinstance(size, dict) and {"height", "width"} <= size.keys()

    @property
    def all_tied_weights_keys(self) -> dict[str, str]:
        """Which weights are others' by another name. `post_init` of the vision model asks for it, a step deep."""
        return {f"model.{target}": f"model.{source}" for target, source in self.model.all_tied_weights_keys.items()}

    @property
    def _gives_what_is_read(self) -> bool:
        """Whether `_Found` is all that its image processor reads; of PP-DocLayout it reads an order, too."""
        return not str(self.model.config.model_type).startswith("pp_doclayout")

    @staticmethod
    def prepare(image: Image.Image, config: HamLearningVisionConfig) -> dict[str, torch.Tensor]:
        """What the detector's own image processor gives: `pixel_values` (1, 3, h', w') and perhaps `pixel_mask`."""
        return dict(_image_processor(json.dumps(config.detector_settings))(images=image, return_tensors="pt"))

    def forward(self, inputs: dict[str, torch.Tensor], size: tuple[int, int]) -> Detections:
        """Whatever the score; there is no suppression, since these detectors are trained to find each object once."""
        with StableOrder():
            network = None
            if self._gives_what_is_read:
                network = self.find_network("object_detection", functools.partial(self._part, inputs))
            if network is None:
                outputs = self.model(**inputs)
            else:
                outputs = _Found(*network(*inputs.values()))
            # A "picture" of one pixel, so that boxes come as shares.
            (found,) = self.image_processor.post_process_object_detection(
                outputs, threshold=0.0, target_sizes=torch.ones(1, 2)
            )
        return Detections(found["boxes"], found["labels"], found["scores"], None)

    def parts(self, config: HamLearningVisionConfig) -> dict[str, Callable[[], Part]]:
        """See `ComputedDetector`."""
        if not self._gives_what_is_read:
            return {}
        inputs = self.prepare(Image.new("RGB", (64, 48)), config)
        return {"object_detection": functools.partial(self._part, inputs)}

    def _part(self, inputs: dict[str, torch.Tensor]) -> Part:
        network, identity = _ObjectNetwork(self.model, tuple(inputs)), self.model.config.to_dict()
        identity = json.loads(json.dumps(lasting_settings(identity), default=str))
        if self.has_one_size:
            return Part(network, _like(inputs, *inputs["pixel_values"].shape[2:]), identity=identity)
        free = {"pixel_values": (2, 3), "pixel_mask": (1, 2)}
        return Part(
            network,
            _like(inputs, 256, 320),
            (_like(inputs, 320, 224), _like(inputs, 224, 448)),
            tuple(free[name] for name in inputs),
            identity,
        )


class _Found(NamedTuple):
    """What image processors read of a detector's outputs."""

    logits: torch.Tensor
    pred_boxes: torch.Tensor


class _ObjectNetwork(nn.Module):
    """An `AutoModelForObjectDetection` that takes tensors in a fixed order, and gives what `_Found` holds."""

    def __init__(self, model: Any, names: tuple[str, ...]):
        super().__init__()
        self.model, self.names = model, names

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """As `_Found`."""
        outputs = self.model(**dict(zip(self.names, inputs, strict=True)))
        return outputs.logits, outputs.pred_boxes


def _like(inputs: dict[str, torch.Tensor], height: int, width: int) -> tuple[torch.Tensor, ...]:
    """Inputs of an object detector of another size, of noise."""
    made = {"pixel_values": _noise(1, 3, height, width), "pixel_mask": torch.ones(1, height, width).long()}
    return tuple(made[name].to(tensor.dtype) for name, tensor in inputs.items())


def _noise(*shape: int) -> torch.Tensor:
    """The same for one shape always; the global generator is left alone."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


@functools.cache
def _image_processor(settings: str) -> Any:
    fields = json.loads(settings)
    return getattr(transformers, fields["image_processor_type"]).from_dict(fields)


DETECTOR_CLASSES = {
    "faster_rcnn_vg": FasterRCNNVGDetector,
    "mask_rcnn_coco": MaskRCNNDetector,
    "object_detection": ObjectDetector,
    "grid": GridDetector,
}


# ------------------------------------------------------------------------------------------------------- the model


def _check_kinds(backbone_config: Any, detector_config: Any = None):
    """ValueError where a part is of a kind that cannot be used."""
    kind = backbone_config.model_type
    if kind != "timm_wrapper":
        raise ValueError(
            f"global_backbone_config.model_type={kind!r}: must be 'timm_wrapper', a model of timm, such as "
            f"{KNOWN_BACKBONES}."
        )
    kind = getattr(detector_config, "model_type", None)
    if kind in NO_DETECTORS or (kind is not None and kind not in MODEL_FOR_OBJECT_DETECTION_MAPPING_NAMES):
        reason = NO_DETECTORS.get(kind, "it is no AutoModelForObjectDetection")
        usable = sorted(MODEL_FOR_OBJECT_DETECTION_MAPPING_NAMES.keys() - NO_DETECTORS.keys())
        raise ValueError(
            f"detector_config.model_type={kind!r} cannot be used, since {reason}: give a detector of the type "
            f"{', '.join(usable[:-1])} or {usable[-1]}."
        )
    if getattr(detector_config, "use_focal_loss", True) is not True:
        raise ValueError(
            f"detector_config.use_focal_loss={detector_config.use_focal_loss!r}: must be True, since transformers' "
            "image processor takes the softmax of the other scores over the pictures."
        )


def _check_backbones(config: HamLearningVisionConfig):
    """ValueError where a stranger's config has timm open a file, or ask the Hub for another repo."""
    backbone: Any = config.global_backbone_config
    for name in ("checkpoint_path", "pretrained_cfg", "pretrained_cfg_overlay", "cache_dir"):
        if name in (backbone.model_args or {}):
            raise ValueError(f"global_backbone_config.model_args has {name!r}: the weights lie in model.safetensors.")
    if (backbone.model_args or {}).get("features_only"):
        raise ValueError(
            "global_backbone_config.model_args has 'features_only': leave it out, one map is read, the last."
        )
    inner = getattr(config.detector_config, "backbone_config", None)
    architectures = {
        "global_backbone_config.architecture": backbone.architecture,
        "detector_config.backbone_config.backbone": getattr(inner, "backbone", None),
    }
    for field, architecture in architectures.items():
        if ":" in str(architecture):  # hf-hub:, local-dir:
            raise ValueError(f"{field}={architecture!r}: must be the name of a model in timm.")


class _BackboneStates(nn.Module):
    """The global backbone with the pictures' mean and deviation in it."""

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, backbone: Any, mean: Sequence[float], std: Sequence[float], device: torch.device):
        super().__init__()
        self.backbone = backbone
        for name, values in {
            "mean": mean,
            "std": std,
        }.items():  # buffers: a part of what a compiled network is known by
            self.register_buffer(name, torch.tensor(values, device=device).view(3, 1, 1) * 255)

    def forward(self, pixels: torch.Tensor) -> tuple[Any]:
        """uint8 (B, 3, H, W) -> what the backbone gives before it pools."""
        return (self.backbone((pixels - self.mean) / self.std, do_pooling=False).last_hidden_state,)


class _BackbonePyramid(_BackboneStates):
    """The stages of the global backbone, a ResNet, each pooled to 2 x 2 cells."""

    def forward(self, pixels: torch.Tensor) -> tuple[Any]:
        """uint8 (B, 3, C, C) -> (B, 15360), the channels of the first stage first, four cells a channel.

        Cells are means of squares of half a map's side, rounded down: of 7 x 7 the last row and column are not read.
        """
        pixels = ((pixels - self.mean) / self.std).to(self.backbone.dtype)
        stages = self.backbone.timm_model.forward_intermediates(
            pixels, indices=len(PYRAMID_CHANNELS), intermediates_only=True
        )
        cells = [nn.functional.avg_pool2d(stage, stage.shape[-1] // 2)[..., :2, :2] for stage in stages]
        return (torch.cat(cells, dim=1).flatten(1),)


class HamLearningVisionModel(PreTrainedModel):
    """A picture to the features of the whole (Eq 2) and of at most `max_regions` regions (f_i and e_i of Eq 3).

    ```python
    >>> vision_model = HamLearningVisionModel.from_backbone_detector_pretrained("timm/resnet152.tv_in1k", "grid")
    >>> vision_model("game.jpg").region_features.shape
    torch.Size([1, 15, 2048])
    >>> vision_model.save_pretrained("my_model/vision")
    ```

    Frozen: no parameter takes a gradient, and it is in eval mode for good.

    Args:
        config: of the vision model.
        global_backbone: a pretrained `TimmWrapperModel` to take in place of a new one.
        object_detector: of `object_detection`: a pretrained model to take in place of a new one.
    """

    config: HamLearningVisionConfig
    config_class = HamLearningVisionConfig
    global_backbone: Any  # a `TimmWrapperModel`
    detector: Any  # one of `DETECTOR_CLASSES`
    base_model_prefix = "vision"
    main_input_name = "images"
    _keep_in_fp32_modules_strict = ["detector"]  # its boxes and anchors are pixels up to 1333

    def __init__(
        self,
        config: HamLearningVisionConfig,
        global_backbone: PreTrainedModel | None = None,
        object_detector: PreTrainedModel | None = None,
    ):
        super().__init__(config)
        _check_kinds(config.global_backbone_config, config.detector_config)
        _check_backbones(config)
        if global_backbone is None:
            global_backbone = AutoModel.from_config(config.global_backbone_config)
        self.global_backbone = global_backbone
        given = {} if object_detector is None else {"model": object_detector}
        self.detector = DETECTOR_CLASSES[config.detector](config, **given)
        self.networks, self._runtime = Networks(), None
        if isinstance(self.detector, ComputedDetector):
            self.detector.find_network = self._network
        self.settle_more_features(config.more_features or ())
        self.post_init()
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> Self:
        """Stays in eval mode: the vision model is frozen."""
        return super().train(False)

    @property
    def runtime(self) -> str | None:
        """What computes the networks on a CPU: `openvino`, `torch`, or None for OpenVINO where it is installed.

        ```python
        >>> ner.processor.vision_model.runtime = "torch"
        ```

        Elsewhere it is PyTorch always. Features differ in rounding alone, so it is no part of the config.

        Raises:
            ValueError: it is set to something else.
            ImportError: it is set to `openvino`, which is not installed.
        """
        return self._runtime

    @runtime.setter
    def runtime(self, runtime: str | None) -> None:
        if runtime is not None and runtime not in RUNTIMES:
            raise ValueError(f"runtime={runtime!r}: must be one of {', '.join(RUNTIMES)}, or None.")
        if runtime == "openvino":
            openvino()
        self._runtime = runtime

    def _network(
        self, name: str, make_part: Callable[[], Part], precision: str = "float32", count: int = 1
    ) -> Network | None:
        """The network of a part that OpenVINO computes, for so many inputs; None where PyTorch does."""
        if self._runtime == "torch" or self.device.type != "cpu" or not is_installed():
            return None
        return self.networks.find(name, make_part, precision, count)

    @property
    def more_feature_sizes(self) -> dict[str, int]:
        """The columns that a row has beside those that all have, by `config.more_features`, and their widths."""
        sizes = {"grid_features": self.image_feature_size, "pyramid_features": 4 * sum(PYRAMID_CHANNELS)}
        return {name: sizes[name] for name in self.config.more_features or ()}

    def settle_more_features(self, names: Collection[str]) -> None:
        """Has a row hold further columns, and the config say so.

        ```python
        >>> vision_model.settle_more_features(["grid_features", "pyramid_features"])
        >>> vision_model.extract_images(["game.jpg"])[0]["pyramid_features"].shape
        (4, 15360)
        ```

        `grid_features` (P, D_i) are the cells of the backbone's last map of the square that is cut out of the picture,
        row by row; 7 x 7 of a ResNet. `pyramid_features` (1 + n, 15360) are HVPNeT's: the four stages of a ResNet of
        that square, and of as large ones of the best three regions, each stage pooled to 2 x 2 cells, side by side.

        Args:
            names: of `grid_features` and `pyramid_features`.

        Raises:
            ValueError: there is no such column; or the backbone has other stages than a ResNet-50, or its map of the
                square is smaller than 2 x 2.
        """
        config = self.config
        for name in set(names) - set(MORE_FEATURES):
            raise ValueError(f"more_features has {name!r}: must be of {', '.join(MORE_FEATURES)}.")
        if "pyramid_features" in names:
            network, architecture = self.global_backbone.timm_model, self.global_backbone.config.architecture
            stages = getattr(network, "feature_info", None) or ()
            channels = [stage["num_chs"] for stage in stages][-len(PYRAMID_CHANNELS) :]
            if channels != [*PYRAMID_CHANNELS] or not hasattr(network, "forward_intermediates"):
                raise ValueError(
                    f"pyramid_features of the backbone {architecture}, whose stages have {channels} channels: they "
                    f"are made of stages of {', '.join(map(str, PYRAMID_CHANNELS))}, so give a ResNet-50, -101 or "
                    "-152, such as timm/resnet50.tv_in1k."
                )
            if math.ceil(config.crop_size / (self._stride or 1)) < 2:
                raise ValueError(
                    f"pyramid_features of squares of crop_size={config.crop_size}: the last map of {architecture} has "
                    "one cell then, and 2 x 2 are read: give a larger one."
                )
        config.more_features = [name for name in MORE_FEATURES if name in names] or None

    @torch.no_grad()
    def settle_precision(self, precision: str) -> None:
        """Chooses what is computed in bfloat16, and has the config say so.

        ```python
        >>> vision_model.settle_precision("bfloat16")
        >>> vision_model.config.bfloat16_parts
        ['global_backbone', 'detector']
        ```

        The global backbone is, where its features of a few drawn pictures stay within 1% of float32's, relative to the
        largest. `faster_rcnn_vg` chooses its regions in bfloat16, and describes those 36 in float32. Other detectors
        stay in float32.

        Args:
            precision: `float32` or `bfloat16`.

        Raises:
            ValueError: it is another one.
        """
        if precision not in PRECISIONS:
            raise ValueError(f"precision={precision!r}: must be one of {', '.join(PRECISIONS)}.")
        self.config.bfloat16_parts = None
        if precision == "float32":
            return
        error = self._bfloat16_error()
        parts = []
        if error <= MAX_BFLOAT16_ERROR:
            parts.append("global_backbone")
        if self.config.detector == "faster_rcnn_vg":
            parts.append("detector")
        self.config.bfloat16_parts = parts or None
        logger.warning(
            f"bfloat16: features of {self.global_backbone.config.architecture} are {error:.1%} off, so it is computed "
            f"in {self._backbone_precision}."
        )
        if parts and self.device.type == "cpu" and is_installed() and not has_bf16():
            logger.warning(
                "bfloat16: this processor does not multiply it, so nothing gets faster here, and what PyTorch "
                "computes takes many times as long."
            )

    def _bfloat16_error(self) -> float:
        """How far the global backbone's features are off in bfloat16, relative to the largest.

        By PyTorch, which computes it on a processor that does not multiply it, too: what is chosen goes to others.
        """
        side = self.config.crop_size
        coarse = torch.rand(4, 3, 7, 7, generator=torch.Generator().manual_seed(1)) * 255
        pixels = nn.functional.interpolate(coarse, size=(side, side), mode="bicubic").clamp(0, 255).to(torch.uint8)
        runtime, self._runtime = self._runtime, "torch"
        try:
            exact = self.feature_map(pixels).mean(dim=(2, 3))
            self.config.bfloat16_parts = ["global_backbone"]
            found = self.feature_map(pixels).mean(dim=(2, 3))
        finally:
            self._runtime, self.config.bfloat16_parts = runtime, None
        return float((found - exact).abs().max() / exact.abs().max())

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike, *args: Any, **kwargs: Any) -> Any:
        """A saved vision model: a folder or Hub id, mostly with `subfolder="vision"`.

        Of their weights only safetensors are read, whatever `use_safetensors` and `weights_only` say.

        Raises:
            OSError: there is no such vision model, or it has no `model.safetensors`.
            ValueError: a file of weights is damaged, or weights are missing from it; new random ones would be of no
                use in a frozen vision model.
        """
        wants_info = kwargs.pop("output_loading_info", False)
        kwargs |= {"use_safetensors": True, "weights_only": True, "output_loading_info": True}
        with damaged_weights_named(pretrained_model_name_or_path, kwargs.get("subfolder", "")):
            loaded: Any = super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        model, info = loaded
        if info["missing_keys"]:
            raise ValueError(
                f"{pretrained_model_name_or_path} lacks the weights {sorted(info['missing_keys'])[:5]} ... of the "
                "vision_model: save them anew with `save_pretrained`."
            )
        model.requires_grad_(False)
        options = ("cache_dir", "force_download", "local_files_only", "revision", "subfolder", "token")
        found = {name: kwargs[name] for name in options if kwargs.get(name) is not None}
        for name in model.config.network_files or ():
            weights, structure = (
                cached_file(pretrained_model_name_or_path, f"{NETWORK_PREFIX}{name}{suffix}", **found)
                for suffix in (".bin", ".xml")
            )
            if weights is not None and structure is not None:
                model.networks.files[name] = Path(structure)
        return (model, info) if wants_info else model

    def export_networks(self, folder: str | os.PathLike) -> None:
        """Writes the networks as OpenVINO has them; saved in this folder, the vision model is never converted again.

        A part that OpenVINO cannot compute is left out, with a sentence that says why.

        Raises:
            ImportError: OpenVINO is not installed.
        """
        parts = self._backbone_parts()
        if isinstance(self.detector, ComputedDetector):
            parts |= self.detector.parts(self.config)
        if "pyramid_features" in self.more_feature_sizes:
            parts["global_backbone_pyramid"] = self._pyramid_part
        Path(folder).mkdir(parents=True, exist_ok=True)
        for name, make_part in parts.items():
            if name == "global_backbone_of_crops" and "global_backbone" in self.networks.files:
                continue
            path = Path(folder, f"{NETWORK_PREFIX}{name}.xml")
            try:
                save(make_part(), path)
            except CannotConvertError as error:
                logger.warning(f"OpenVINO cannot compute the vision model's {name} ({error}): PyTorch does.")
            else:
                self.networks.files[name] = path

    def save_pretrained(self, save_directory: str | os.PathLike, *args: Any, **kwargs: Any) -> None:
        """Saves config, weights, and networks that were exported. The arguments are `PreTrainedModel`'s."""
        self.config.network_files = sorted(self.networks.files) or None
        super().save_pretrained(save_directory, *args, **kwargs)
        for structure in self.networks.files.values():
            for path in (structure, structure.with_suffix(".bin")):
                copied = Path(save_directory, path.name)
                if not (copied.exists() and copied.samefile(path)):
                    shutil.copyfile(path, copied)

    @classmethod
    def from_backbone_detector_pretrained(
        cls,
        backbone_name_or_path: str = "timm/resnet152.tv_in1k",
        detector: str = "faster_rcnn_vg",
        detector_name_or_path: str | None = None,
        class_names_file: str | None = None,
        **config_kwargs: Any,
    ) -> Self:
        """A new vision model, of a pretrained global backbone and a pretrained detector.

        Args:
            backbone_name_or_path: a timm model of the Hub, or a folder.
            detector: one of the kinds in `HamLearningVisionConfig`.
            detector_name_or_path: of `faster_rcnn_vg`: the published checkpoint, a folder or Hub id
                (`unc-nlp/frcnn-vg-finetuned` by default); of `mask_rcnn_coco`: a member of torchvision's
                `MaskRCNN_ResNet50_FPN_V2_Weights` (`COCO_V1` by default) or a file of weights; of
                `object_detection`: any model of `AutoModelForObjectDetection`; `grid` takes none.
            class_names_file: a class name a line (synonyms behind commas are dropped), in place of the detector's own
                or of "object 17".
            **config_kwargs: further fields of `HamLearningVisionConfig`.

        Raises:
            ValueError: the detector is unknown, lacks its weights, or the file of names has another length.
        """
        if detector == "object_detection" and detector_name_or_path is None:
            raise ValueError("detector='object_detection' needs detector_name_or_path, a model folder or Hub id.")
        parts: tuple[Any, ...] = (backbone_name_or_path, detector_name_or_path)[: 1 + (detector == "object_detection")]
        _check_kinds(*(AutoConfig.from_pretrained(part) for part in parts))
        # In float32, also from a file of half floats: detectors are given float32 pictures.
        backbone = AutoModel.from_pretrained(backbone_name_or_path, dtype=torch.float32)
        fields = {"global_backbone_config": backbone.config, "detector": detector}
        fields |= _backbone_fields(getattr(backbone.config, "pretrained_cfg", None) or {})
        weights, object_detector = None, None
        if detector == "faster_rcnn_vg":
            detector_name_or_path = detector_name_or_path or PUBLISHED_WEIGHTS
            settings, weights = load_published_checkpoint(detector_name_or_path)
            fields["detector_settings"] = settings.to_dict()
        elif detector == "mask_rcnn_coco":
            detector_name_or_path = detector_name_or_path or "COCO_V1"
            weights, fields["class_names"] = _mask_rcnn_weights(detector_name_or_path)
        elif detector == "object_detection":
            object_detector = AutoModelForObjectDetection.from_pretrained(
                str(detector_name_or_path), dtype=torch.float32
            )
            # A copy: a config made of another forgets, in both, which attention it is computed with.
            fields["detector_config"] = copy.deepcopy(object_detector.config)
            fields["detector_settings"] = json.loads(
                AutoImageProcessor.from_pretrained(detector_name_or_path).to_json_string()
            )
        elif detector == "grid" and detector_name_or_path is not None:
            raise ValueError(f"detector_name_or_path={detector_name_or_path!r}: detector={detector!r} takes none.")
        if detector_name_or_path is not None and not Path(detector_name_or_path).exists():
            is_torchvision = detector == "mask_rcnn_coco"
            fields["detector_weights"] = (
                f"torchvision, {detector_name_or_path}" if is_torchvision else detector_name_or_path
            )
        config = HamLearningVisionConfig(**fields | config_kwargs)
        parts = (config.global_backbone_config, config.detector_config)
        for part in parts:
            if part is not None and Path(part.name_or_path).is_dir():
                part.name_or_path = ""  # a Hub id tells others where the weights come from, a folder of ours does not
        if class_names_file is not None:
            config.class_names = read_class_names(class_names_file, len(config.class_names or []))
        model = cls(config, backbone, object_detector)
        if weights is not None:
            model.detector.load_state_dict(weights)
        model.settle_input_size(**config_kwargs)
        return model.requires_grad_(False)

    @property
    def image_feature_size(self) -> int:
        """D_i, the width of `image_features`."""
        return self.global_backbone.timm_model.num_features

    @property
    def region_feature_size(self) -> int:
        """D_f, the width of `region_features`."""
        return self.image_feature_size if self.detector.pools_from_backbone else self.detector.feature_size

    def fingerprint(self) -> str:
        """SHA-256 of the weights and of every setting: vision models of one fingerprint give the same features."""
        settings = lasting_settings(json.loads(self.config.to_json_string(use_diff=False)))
        digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
        for name, tensor in sorted(self.state_dict().items()):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
        return digest.hexdigest()

    def feature_map(self, pixels: torch.Tensor) -> torch.Tensor:
        """The global backbone's last map (B, D_i, h, w) of uint8 pictures (B, 3, H, W).

        Raises:
            ValueError: what the backbone gives is no map of such pictures; the message names its architecture.
        """
        network = self._backbone_network(pixels.shape[2:], len(pixels))
        if network is None:
            return self._as_map(self._states_by_torch(pixels, self._backbone_states()), *pixels.shape[2:])
        return torch.cat(self._maps_by_openvino(network, list(pixels)))

    def _states_by_torch(self, pixels: torch.Tensor, module: nn.Module) -> Any:
        """What the backbone gives for pictures (B, 3, H, W) of one size."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self._backbone_precision == "bfloat16"):
            # channels_last: the convolutions' fastest
            (states,) = module(pixels.to(self.device).contiguous(memory_format=torch.channels_last))
        return states

    def _maps_by_openvino(self, network: Network, pictures: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """The map (1, D_i, h, w) of each picture (3, H, W); no picture's numbers depend on the others."""
        found = network.map([(picture[None],) for picture in pictures])
        return [self._as_map(states, *picture.shape[1:]) for (states,), picture in zip(found, pictures, strict=True)]

    def _as_map(self, states: Any, height: int, width: int) -> torch.Tensor:
        """What the backbone gives for pictures of this size, as a map (B, D_i, h, w) in float32."""
        folded = self._fold(states, height, width) if isinstance(states, torch.Tensor) else None
        if folded is None or folded.shape[1] != self.image_feature_size:
            given = tuple(states.shape) if isinstance(states, torch.Tensor) else type(states).__name__
            raise ValueError(
                f"{self.global_backbone.config.architecture} gives {given} for a picture of {width} x {height} "
                f"pixels, no map of {self.image_feature_size} features: give another backbone, such as "
                f"{KNOWN_BACKBONES}."
            )
        return folded.float()

    @property
    def _backbone_precision(self) -> str:
        return "bfloat16" if "global_backbone" in (self.config.bfloat16_parts or ()) else "float32"

    def _backbone_states(self) -> nn.Module:
        return _BackboneStates(self.global_backbone, self.config.image_mean, self.config.image_std, self.device)

    def _folded_states(self) -> nn.Module:
        """`_backbone_states` with the batch norms in its weights, which nobody changes between two pictures."""
        with torch.backends.cudnn.flags(allow_tf32=False):  # which is coarser than what is checked
            return self.networks.fold("global_backbone", functools.partial(self._backbone_part, is_free=False))

    def _backbone_network(self, size: torch.Size, count: int) -> Network | None:
        """What computes the global backbone for a picture of this size among so many; None where PyTorch does."""
        for name, make_part in self._backbone_parts().items():
            takes_any_size = name == "global_backbone"
            if takes_any_size or size == (self.config.crop_size,) * 2:
                network = self._network(name, make_part, self._backbone_precision, count)
                if network is not None:
                    return network
        return None

    def _backbone_parts(self) -> dict[str, Callable[[], Part]]:
        """The backbone for pictures of any size, and, where it cannot be had so, for the square crop."""
        parts = {"global_backbone_of_crops": functools.partial(self._backbone_part, is_free=False)}
        # A Vision Transformer that takes any size makes its places' embeddings anew for each; OpenVINO 2026.4.1 ends
        # the process at one of these, so only the square crop is its.
        if self.config.fixed_input_size or self.config.size_multiple > 1:
            return parts
        return {"global_backbone": functools.partial(self._backbone_part, is_free=True)} | parts

    def _backbone_part(self, is_free: bool) -> Part:
        sizes = self._possible_sizes() if is_free else [(self.config.crop_size,) * 2]
        pixels = [(_noise(1, 3, *size).mul(64).add(128).clamp(0, 255).to(torch.uint8),) for size in sizes]
        identity = lasting_settings(json.loads(self.global_backbone.config.to_json_string(use_diff=False)))
        free = ((2, 3),) if is_free else ()
        return Part(self._backbone_states(), pixels[0], tuple(pixels[1:]), free, identity)

    def _fold(self, states: torch.Tensor, height: int, width: int) -> torch.Tensor | None:
        """A map (B, D_i, h, w), also where the backbone gives (B, h, w, D_i) or tokens, row by row."""
        network = self.global_backbone.timm_model
        if states.dim() == 4:
            return states.permute(0, 3, 1, 2) if getattr(network, "output_fmt", "NCHW") == "NHWC" else states
        if states.dim() != 3 or self._stride is None:
            return None
        tokens = states[:, getattr(network, "num_prefix_tokens", None) or 0 :].transpose(1, 2)
        for rounded in (math.floor, math.ceil):  # a patch that hangs over the edge is left out, or padded
            rows, columns = rounded(height / self._stride), rounded(width / self._stride)
            if rows * columns == tokens.shape[2]:
                return tokens.unflatten(2, (rows, columns))
        return None

    @property
    def _stride(self) -> float | None:
        """Pixels a cell of the global backbone's map, as timm knows it."""
        info = getattr(self.global_backbone.timm_model, "feature_info", None)
        return info[-1]["reduction"] if info else None

    @torch.no_grad()
    def settle_input_size(self, **asked: Any) -> None:
        """Finds out which pictures the global backbone takes, and has the config say so.

        Any size, or sides in multiples of its stride, or its own square alone: what it takes of the first is kept.

        Args:
            **asked: fields of the config that are to stay as they are.

        Raises:
            ValueError: it takes none of them, or gives no map of them; the message names its architecture.
        """
        config, network = self.config, self.global_backbone.timm_model
        strides = [1] if "size_multiple" in asked or self._stride is None else [1, round(self._stride)]
        options = [{"size_multiple": stride} for stride in strides]
        square = getattr(network, "pretrained_cfg", None) or {}
        if "fixed_input_size" not in asked and "input_size" in square:
            options.append(_fixed_size(square["input_size"]))
        runtime, self._runtime = self._runtime, "torch"  # nothing is compiled for what may not be kept
        try:
            problem = self._first_problem(options, asked)
        finally:
            self._runtime = runtime
        if problem is None:
            return
        if isinstance(problem, ValueError) and str(problem).startswith(self.global_backbone.config.architecture):
            raise problem
        raise ValueError(
            f"{self.global_backbone.config.architecture} takes no pictures of {config.crop_size} x {config.crop_size} "
            f"pixels and larger ({type(problem).__name__}: {problem}): give another crop_size, or another backbone, "
            f"such as {KNOWN_BACKBONES}."
        )

    def _first_problem(self, options: Sequence[dict[str, Any]], asked: dict[str, Any]) -> Exception | None:
        """Why the first of the options fails; None where one of them does not, which the config has now."""
        problem: Exception | None = None
        for option in options:
            before = {name: getattr(self.config, name) for name in option}
            for name, value in (option | asked).items():
                setattr(self.config, name, value)
            try:
                for height, width in self._possible_sizes():
                    self.feature_map(torch.zeros(1, 3, height, width, dtype=torch.uint8))
                return None
            except Exception as error:  # timm asserts, or fails where two shapes meet
                problem = problem or error
                for name, value in before.items():
                    setattr(self.config, name, value)
        return problem

    def _possible_sizes(self) -> list[tuple[int, int]]:
        """(height, width) of the square, and of some whole pictures that regions' features are pooled from."""
        config = self.config
        sizes = [(config.crop_size, config.crop_size)]
        if self.detector.pools_from_backbone and not config.fixed_input_size:
            for ratio in (1.01, 0.93, 1.77):
                sides = (config.crop_size, round(config.crop_size * ratio))
                width, height = whole_size(sides, config)
                sizes.append((height, width))
        return sizes

    @torch.no_grad()
    def extract(self, images: Sequence[PreparedImage | None]) -> list[dict[str, np.ndarray] | None]:
        """A row of a visual feature file (without its id) a picture, None where there is none.

        A picture's features do not depend on the others'. Where OpenVINO computes, each goes through by itself, and
        they are the same bit for bit; in PyTorch those of one size share a batch in the global backbone, and they are
        the same within 1e-5 of the largest, in bfloat16 within 1e-2. The detector sees one at a time always: padding
        would change what it finds.
        """
        self.networks.forget_others(self)
        pictures = [image for image in images if image is not None]
        own_wholes = [
            None if picture.whole is None or torch.equal(picture.whole, picture.crop) else picture.whole
            for picture in pictures
        ]
        crops = [picture.crop for picture in pictures]
        maps = iter(self._maps([*crops, *(whole for whole in own_wholes if whole is not None)]))
        of_crops = [next(maps) for _ in pictures]
        rows = []
        for picture, crop, whole in zip(pictures, of_crops, own_wholes, strict=True):
            feature_map = crop if whole is None else next(maps)
            row = {"image_size": np.array(picture.size), "image_features": crop.mean(dim=(1, 2)).cpu().numpy()}  # Eq 2
            row |= self._regions(picture, feature_map)
            rows.append(row | self._more_features(picture, crop, row["boxes"]))
        found = iter(rows)
        return [None if image is None else next(found) for image in images]

    def _more_features(
        self, picture: PreparedImage, feature_map: torch.Tensor, boxes: np.ndarray
    ) -> dict[str, np.ndarray]:
        """The further columns of a picture, see `settle_more_features`; `feature_map` (D_i, h, w) is of its square."""
        found = {}
        if "grid_features" in self.more_feature_sizes:
            found["grid_features"] = feature_map.flatten(1).T.contiguous()
        if "pyramid_features" in self.more_feature_sizes:
            assert picture.pixels is not None  # `prepare_image` has them where they are asked for
            crops = crop_regions(picture.pixels, boxes[:NUM_CROPS], self.config)
            found["pyramid_features"] = self._pyramids(torch.stack([picture.crop, *crops]))
        return {name: tensor.float().cpu().numpy() for name, tensor in found.items()}

    def _pyramids(self, pixels: torch.Tensor) -> torch.Tensor:
        """uint8 (n, 3, C, C) -> (n, 15360)."""
        network = self._network("global_backbone_pyramid", self._pyramid_part, self._backbone_precision, len(pixels))
        if network is not None:
            return torch.cat([pyramid for (pyramid,) in network.map([(picture[None],) for picture in pixels])])
        states: Any = self._folded_states()  # its weights are a pyramid's, too
        module = _BackbonePyramid(states.backbone, self.config.image_mean, self.config.image_std, self.device)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self._backbone_precision == "bfloat16"):
            (pyramids,) = module(pixels.to(self.device).contiguous(memory_format=torch.channels_last))
        return pyramids

    def _pyramid_part(self) -> Part:
        config = self.config
        module = _BackbonePyramid(self.global_backbone, config.image_mean, config.image_std, self.device)
        return self._backbone_part(is_free=False)._replace(module=module)

    def _maps(self, pictures: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """The global backbone's map (D_i, h, w) of each picture (3, H, W); in PyTorch those of a size in one batch."""
        alike: dict[Any, list[int]] = collections.defaultdict(list)
        for place, picture in enumerate(pictures):
            alike[self._backbone_network(picture.shape[1:], len(pictures)) or picture.shape].append(place)
        maps: dict[int, torch.Tensor] = {}
        for key, places in alike.items():
            of_one_kind = [pictures[place] for place in places]
            if isinstance(key, Network):
                found = [feature_map[0] for feature_map in self._maps_by_openvino(key, of_one_kind)]
            else:
                states = self._states_by_torch(torch.stack(of_one_kind), self._folded_states())
                found = self._as_map(states, *key[1:])
            maps |= dict(zip(places, found, strict=True))
        return [maps[place] for place in range(len(pictures))]

    def extract_images(self, images: Sequence[Any], first: int = 0) -> list[dict[str, np.ndarray] | None]:
        """`extract` of pictures as users have them; `first` is the place of the first one in the user's list.

        Raises:
            ImageError: a picture cannot be read; the message names its place in the list.
        """
        prepared = []
        for index, image in enumerate(images, start=first):
            try:
                prepared.append(None if image is None else prepare_image(read_image(image), self.config))
            except ImageError as error:
                raise ImageError(f"images: picture {index}: {error}") from None
        return self.extract(prepared)

    def _regions(self, picture: PreparedImage, feature_map: torch.Tensor) -> dict[str, np.ndarray]:
        """The best regions of a picture: `boxes` (n, 4), `class_ids` and `scores` (n,), `features` (n, D_f).

        `feature_map` (D_i, h, w) is that of the whole picture, where regions are pooled from one.
        """
        found = self.detector(_to_device(picture.detector_inputs, self.device), picture.size)
        corners = found.boxes.to(self.device, torch.float32).clamp(0, 1)
        sizes = corners[:, 2:] - corners[:, :2]
        # A stable sort: of equal scores the detector's first stays first.
        order = torch.sort(found.scores.to(self.device), descending=True, stable=True).indices
        best = order[(sizes > 0).all(dim=1)[order]][: self.config.max_regions]
        corners, sizes = corners[best], sizes[best]
        if found.features is not None:
            features = found.features[best]
        else:
            assert picture.whole is not None  # `prepare_image` has it for detectors without features
            features = self._pool(feature_map, picture.whole.shape[2], picture.whole.shape[1], corners)
        boxes = torch.cat([(corners[:, :2] + corners[:, 2:]) / 2, sizes.flip(1)], dim=1)  # (x_c, y_c, h, w)
        return {
            "boxes": boxes.cpu().numpy(),
            "class_ids": found.class_ids.to(self.device)[best].cpu().numpy(),
            "scores": found.scores.to(self.device)[best].float().cpu().numpy(),
            "features": features.float().cpu().numpy(),
        }

    def _pool(self, feature_map: torch.Tensor, width: int, height: int, corners: torch.Tensor) -> torch.Tensor:
        """Means of RoIAlign (7x7, aligned, 2 samples a side) on the map (D_i, h, w) of the whole picture: (n, D_i)."""
        stride = width / feature_map.shape[2] if self._stride is None else self._stride
        weights = []
        for axis, length in ((1, height), (0, width)):
            count = feature_map.shape[2 - axis]
            first, size = _cells(length, count, stride)
            edges = (corners[:, [axis, axis + 2]] * length - first) / size - 0.5  # (n, 2), in cells
            weights.append(_sample_weights(edges, count))  # (n, h), (n, w)
        # The mean of bilinear samples on a lattice is a product of a weight a row and one a column.
        of_cells = weights[0][:, :, None] * weights[1][:, None, :]
        return of_cells.flatten(1) @ feature_map.flatten(1).T

    def forward(self, images: Any) -> HamLearningVisionOutput:
        """The visual inputs of the network.

        Args:
            images: one picture or a list, each whatever `read_image` takes, None for no picture.

        Raises:
            ImageError: a picture cannot be read; the message names its place in the list.
        """
        images = images if isinstance(images, list | tuple) else [images]
        rows = self.extract_images(images)
        count = max((len(row["boxes"]) for row in rows if row is not None), default=0)
        output = {
            "image_features": torch.zeros(len(rows), self.image_feature_size),
            "region_features": torch.zeros(len(rows), count, self.region_feature_size),
            "region_boxes": torch.zeros(len(rows), count, 4),
            "region_class_ids": torch.zeros(len(rows), count, dtype=torch.long),
            "region_scores": torch.zeros(len(rows), count),
            "region_mask": torch.zeros(len(rows), count, dtype=torch.long),
            "image_mask": torch.zeros(len(rows), dtype=torch.long),
            "image_sizes": torch.ones(len(rows), 2, dtype=torch.long),
        }
        for index, row in enumerate(rows):
            if row is None:
                continue
            regions = slice(0, len(row["boxes"]))
            output["image_features"][index] = torch.from_numpy(row["image_features"])
            output["image_sizes"][index] = torch.from_numpy(row["image_size"])
            for name in ("features", "boxes", "class_ids", "scores"):
                output[f"region_{name}"][index, regions] = torch.from_numpy(row[name])
            output["region_mask"][index, regions] = 1
            output["image_mask"][index] = 1
        output |= self._padded_more_features(rows)
        return HamLearningVisionOutput(**{name: tensor.to(self.device) for name, tensor in output.items()})

    def _padded_more_features(self, rows: Sequence[dict[str, np.ndarray] | None]) -> dict[str, torch.Tensor]:
        """The further columns of rows as `HamLearningVisionOutput` has them."""
        output = {}
        for name, width in self.more_feature_sizes.items():
            count = max((len(row[name]) for row in rows if row is not None), default=1)
            count = 1 + NUM_CROPS if name == "pyramid_features" else count
            output[name], mask = torch.zeros(len(rows), count, width), torch.zeros(len(rows), count, dtype=torch.long)
            for index, row in enumerate(rows):
                if row is not None:
                    output[name][index, : len(row[name])] = torch.from_numpy(row[name])
                    mask[index, : len(row[name])] = 1
            if name == "pyramid_features":
                output["pyramid_mask"] = mask
        return output


def lasting_settings(settings: Any) -> Any:
    """Settings without what depends on the folder they lie in: the same vision model has the same ones everywhere."""
    passing = {
        "_name_or_path", "architectures", "auto_map", "detector_weights", "dtype", "network_files",
        "transformers_version",
    }  # fmt: skip
    if isinstance(settings, dict):
        # A field that came later, at what was done before it came: such a vision model is the same as it was.
        usual = {"size_multiple": 1, "bfloat16_parts": None, "more_features": None}
        settings = {name: value for name, value in settings.items() if value != usual.get(name, Ellipsis)}
        return {name: lasting_settings(value) for name, value in settings.items() if name not in passing}
    return settings


def read_class_names(path: str | Path, count: int) -> list[str]:
    """The class names of a file, one a line; what stands behind a comma is a synonym.

    Raises:
        ValueError: there are not exactly `count`.
    """
    names = [line.split(",")[0].strip().lower() for line in Path(path).read_text(encoding="utf-8").splitlines()]
    if len(names) != count:
        raise ValueError(f"{path} has {len(names)} lines, the detector has {count} classes: give one name a line.")
    return names


def _sample_weights(edges: torch.Tensor, count: int) -> torch.Tensor:
    """How much each of `count` cells counts in the mean of RoIAlign's 14 samples between two edges: (n, count).

    `edges` (n, 2) are in cells, the middle of the first one at 0. A sample beyond the map takes its last cell, one
    more than a cell beyond it nothing.
    """
    steps = (torch.arange(14, device=edges.device, dtype=edges.dtype) + 0.5) / 14
    samples = edges[:, :1] + (edges[:, 1:] - edges[:, :1]) * steps  # (n, 14)
    is_near = (samples >= -1) & (samples <= count)
    places = torch.arange(count, device=edges.device)
    weights = (1 - (samples.clamp(0, count - 1)[:, :, None] - places).abs()).clamp(min=0)  # (n, 14, count)
    return (weights * is_near[:, :, None]).mean(dim=1)


def _cells(length: int, count: int, stride: float) -> tuple[float, float]:
    """Where the first cell of a map begins, and how large each is, in pixels of a side of `length`."""
    missing = length / stride - count
    if abs(missing) < 1:
        return 0.0, stride
    if 0 < missing < 3:  # convolutions without padding: the map is that of the picture's middle
        return (length - count * stride) / 2, stride
    return 0.0, length / count


def _fixed_size(input_size: Sequence[int]) -> dict[str, Any]:
    """Fields of the config for a backbone that takes one square alone, `input_size` (3, side, side)."""
    side = input_size[-1]
    return {"fixed_input_size": True, "crop_size": side, "resize_size": round(side * 256 / 224)}


def _backbone_fields(pretrained_cfg: Mapping[str, Any]) -> dict[str, Any]:
    """What a timm backbone says about the pictures it was trained on."""
    fields = {}
    for name, ours in (("mean", "image_mean"), ("std", "image_std"), ("interpolation", "interpolation")):
        if name in pretrained_cfg:
            fields[ours] = pretrained_cfg[name]
    if pretrained_cfg.get("fixed_input_size"):
        fields |= _fixed_size(pretrained_cfg["input_size"])
    return fields


def _mask_rcnn_weights(name_or_path: str) -> tuple[dict[str, torch.Tensor], list[str]]:
    """State dict of `MaskRCNNDetector`, and the class names, by torchvision's enum of weights or from a file."""
    published = MaskRCNN_ResNet50_FPN_V2_Weights.__members__
    if Path(name_or_path).is_file():
        weights = read_weights(name_or_path)
    elif name_or_path in published:
        weights = published[name_or_path].get_state_dict(check_hash=True, weights_only=True)
    else:
        raise ValueError(
            f"detector_name_or_path={name_or_path!r} is neither a file nor one of {', '.join(published)}."
        )
    weights = {f"model.{name}": tensor for name, tensor in weights.items() if ".mask_" not in name}
    return weights, MaskRCNN_ResNet50_FPN_V2_Weights.COCO_V1.meta["categories"]


def _to_device(inputs: Any, device: torch.device) -> Any:
    if isinstance(inputs, dict):
        return {name: tensor.to(device) for name, tensor in inputs.items()}
    return inputs if inputs is None else inputs.to(device)


# ------------------------------------------------------------------------------------------------------- a picture


def draw_regions(
    image: Any,
    features: Mapping[str, Any],
    class_names: Sequence[str] | None = None,
    max_arrows: int = 20,
) -> Image.Image:
    """A picture with its regions: boxes, class names, scores, and spatial relations as arrows.

    ```python
    >>> row = processor.extract_visual_features(["game.jpg"])[0]
    >>> draw_regions("game.jpg", row, processor.vision_model.config.class_names).save("regions.png")
    ```

    An arrow from i to j bears `relations[i, j]`; the way back follows from it (inside and cover, class k and k+4), so
    each pair has one arrow, from the better score. The nearest pairs are drawn.

    Args:
        image: whatever `read_image` takes.
        features: a row of a visual feature file.
        class_names: the detector's; without them a class is its number.
        max_arrows: most arrows.

    Raises:
        ImageError: the picture cannot be read.
    """
    image = read_image(image)
    scale = max(1.0, 640 / max(image.size))  # lines and letters need some room
    image = image.resize([max(round(side * scale), 1) for side in image.size])
    width, height = image.size
    layer = Image.new("RGBA", image.size)
    draw = ImageDraw.Draw(layer)
    font = ImageFont.load_default(max(11, round(max(image.size) / 60)))
    line = max(2, round(max(image.size) / 400))
    boxes = torch.as_tensor(np.asarray(features["boxes"], np.float32)).view(-1, 4)  # (n, 4)
    colours = [f"hsl({index * 137 % 360}, 90%, 45%)" for index in range(len(boxes))]
    centres = (boxes[:, :2] * torch.tensor([width, height])).tolist()

    size = torch.as_tensor(np.asarray(features["image_size"]))[None]
    relations = spatial_relations(boxes[None], size, torch.ones(1, len(boxes), dtype=torch.bool))[0, 1:, 1:].tolist()
    pairs = [(i, j) for i in range(len(boxes)) for j in range(i + 1, len(boxes)) if relations[i][j]]
    pairs.sort(key=lambda pair: math.dist(centres[pair[0]], centres[pair[1]]))
    for i, j in pairs[:max_arrows]:
        _draw_arrow(draw, centres[i], centres[j], SPATIAL_RELATIONS[relations[i][j]], font, line)

    for box, class_id, score, colour in zip(
        boxes.tolist(), features["class_ids"], features["scores"], colours, strict=True
    ):
        x, y, h, w = box
        left, top = (x - w / 2) * width, (y - h / 2) * height
        draw.rectangle((left, top, left + w * width, top + h * height), outline=colour, width=line)
        name = f"class {class_id}" if class_names is None else class_names[class_id]
        _draw_label(draw, (left, top), f"{name} {score:.2f}", colour, font)
    return Image.alpha_composite(image.convert("RGBA"), layer).convert("RGB")


def _draw_arrow(
    draw: ImageDraw.ImageDraw, start: Sequence[float], end: Sequence[float], text: str, font: Any, line: int
) -> None:
    angle = math.atan2(end[1] - start[1], end[0] - start[0])
    draw.line((*start, *end), fill=(0, 0, 0, 160), width=line)
    barbs = [
        (end[0] - 6 * line * math.cos(angle + turn), end[1] - 6 * line * math.sin(angle + turn))
        for turn in (0.4, -0.4)
    ]
    draw.polygon([tuple(end), *barbs], fill=(0, 0, 0, 200))
    _draw_label(draw, ((start[0] + end[0]) / 2, (start[1] + end[1]) / 2), text, (0, 0, 0, 160), font)


def _draw_label(
    draw: ImageDraw.ImageDraw, corner: tuple[float, float], text: str, colour: str | tuple[int, ...], font: Any
) -> None:
    draw.rectangle(draw.textbbox(corner, text, font=font), fill=colour)
    draw.text(corner, text, fill="white", font=font)


hold_in_package(__name__)

__all__ = ["HamLearningVisionModel", "HamLearningVisionOutput", "draw_regions"]
