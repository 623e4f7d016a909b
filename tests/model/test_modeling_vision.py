"""The vision model: pictures in; features, boxes, classes out. Tiny networks with random weights, every detector."""

import base64
import copy
import io
import json

import numpy as np
import pytest
import timm
import torch
import yaml
from huggingface_hub.errors import StrictDataclassFieldValidationError
from PIL import Image, ImageChops
from safetensors.torch import load_file, save_file
from test_processing import bert
from torch import nn
from torch.nn import functional as F
from torchvision import transforms
from torchvision.models.detection import maskrcnn_resnet50_fpn_v2
from transformers import (
    AutoModel,
    AutoModelForObjectDetection,
    DetrConfig,
    DetrForObjectDetection,
    DetrImageProcessor,
    ResNetConfig,
    RTDetrConfig,
    RTDetrForObjectDetection,
    RTDetrImageProcessor,
    RTDetrResNetConfig,
    TimmWrapperConfig,
    TimmWrapperModel,
    YolosConfig,
    YolosForObjectDetection,
    YolosImageProcessor,
)

from configuration_hamlearning import HamLearningVisionConfig
from hamlearning.data.features import VisualFeatures, write_visual_features
from image_processing_hamlearning import ImageError
from modeling_faster_rcnn_vg import FasterRCNNVG, FasterRCNNVGSettings
from modeling_hamlearning import SPATIAL_RELATIONS, HamLearningModel, spatial_relations
from modeling_hamlearning_vision import (
    RESAMPLING,
    Detections,
    HamLearningVisionModel,
    centre_crop,
    draw_regions,
    prepare_image,
)
from processing_hamlearning import HamLearningProcessor


SIZES = {"resize_size": 72, "crop_size": 64}
THIN = [(5000, 1), (1, 5000), (1, 1)]


# ------------------------------------------------------------------------------------------------------- tiny networks


def lively(module: nn.Module, seed: int = 0) -> nn.Module:
    """The module in eval mode, with weights under which pictures and regions differ; what it starts with is near 0."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in module.state_dict().items():
        if not tensor.is_floating_point() or "cell_anchors" in name:
            continue
        if name.endswith("running_var") or (name.endswith("weight") and tensor.ndim == 1):
            tensor.uniform_(0.2, 0.8, generator=generator)
        elif tensor.ndim == 1:
            tensor.normal_(0, 0.1, generator=generator)
        else:
            tensor.normal_(0, (2 / tensor[0].numel()) ** 0.5, generator=generator)
    return module.eval()


def timm_backbone(architecture: str = "test_resnet", **fields) -> TimmWrapperModel:
    return lively(TimmWrapperModel(TimmWrapperConfig(architecture=architecture, **fields)))


def rt_detr():
    wide = {"d_model": 32, "encoder_hidden_dim": 32, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32}
    backbone = RTDetrResNetConfig(
        embedding_size=16,
        hidden_sizes=[16, 32, 48, 64],
        depths=[2, 2, 2, 2],
        out_features=["stage2", "stage3", "stage4"],
    )
    config = RTDetrConfig(
        **wide,
        num_queries=20,
        decoder_layers=2,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_in_channels=[32, 48, 64],
        decoder_in_channels=[32, 32, 32],
        num_labels=7,
        backbone_config=backbone,
    )
    return RTDetrForObjectDetection(config), RTDetrImageProcessor(size={"height": 96, "width": 96})


def detr():
    backbone = ResNetConfig(
        embedding_size=16,
        hidden_sizes=[16, 16, 32, 32],
        depths=[1, 1, 1, 1],
        layer_type="basic",
        out_features=["stage4"],
    )
    config = DetrConfig(
        d_model=32,
        encoder_layers=1,
        decoder_layers=1,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        num_queries=20,
        num_labels=7,
        backbone_config=backbone,
    )
    return DetrForObjectDetection(config), DetrImageProcessor(size={"shortest_edge": 96, "longest_edge": 160})


def yolos():
    config = YolosConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=[96, 96],
        num_detection_tokens=20,
        use_mid_position_embeddings=False,
        num_labels=7,
    )
    return YolosForObjectDetection(config), YolosImageProcessor(size={"shortest_edge": 96, "longest_edge": 512})


OBJECT_DETECTORS = {"rt_detr": rt_detr, "detr": detr, "yolos": yolos}
FROM_BACKBONE = ["grid", *OBJECT_DETECTORS]  # whose region features are the backbone's
KINDS = [*FROM_BACKBONE, "mask_rcnn_coco", "faster_rcnn_vg"]

# As the published `config.yaml` has it; 33 blocks as ever, but thin ones.
VG_CONFIG = {
    "input": {"min_size_test": 64, "max_size_test": 128},
    "model": {"pixel_std": [60.0, 60.0, 60.0]},
    "resnets": {"stem_out_channels": 4, "width_per_group": 2, "res2_out_channels": 8},
    "anchor_generator": {"sizes": [[16, 32, 64]]},
    "proposal_generator": {"hidden_channels": 8},
    "rpn": {"pre_nms_topk_test": 60, "post_nms_topk_test": 30},
    "roi_heads": {"num_classes": 12},
    "roi_box_head": {"num_attrs": 5, "pooler_resolution": 4},
    "min_detections": 20,
    "max_detections": 20,
}


@pytest.fixture(scope="module")
def mask_rcnn():
    """torchvision's own, masks and all; its classifier is sure of itself, so that some scores exceed 0.05."""
    torch.manual_seed(0)
    model = maskrcnn_resnet50_fpn_v2(weights=None, weights_backbone=None).eval()
    with torch.no_grad():
        model.roi_heads.box_predictor.cls_score.weight.mul_(30)
    return model


def quick(model: nn.Module) -> nn.Module:
    """A Mask R-CNN that looks at few pixels and proposals: a full-size picture takes it many seconds."""
    model.transform.min_size, model.transform.max_size = (96,), 160
    model.rpn._post_nms_top_n = {"training": 50, "testing": 50}
    return model


def load(folder) -> HamLearningVisionModel:
    vision = HamLearningVisionModel.from_pretrained(folder)
    if vision.config.detector == "mask_rcnn_coco":
        quick(vision.detector.model)
    return vision


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory, mask_rcnn):
    """`pretrained(name)`: the folder or file of a "backbone" or of a detector, as its own project saves it."""
    folder, made = tmp_path_factory.mktemp("pretrained"), {}

    def make(name):
        path = folder / name
        if name == "backbone":
            timm_backbone().save_pretrained(path)
        elif name == "mask_rcnn_coco":
            torch.save(mask_rcnn.state_dict(), path)
        elif name == "faster_rcnn_vg":
            path.mkdir()
            (path / "config.yaml").write_text(yaml.safe_dump(VG_CONFIG))
            settings = FasterRCNNVGSettings.from_published_config(path / "config.yaml")
            torch.save(lively(FasterRCNNVG(settings)).state_dict(), path / "pytorch_model.bin")
        else:
            model, image_processor = OBJECT_DETECTORS[name]()
            lively(model).save_pretrained(path)
            image_processor.save_pretrained(path)
        return path

    def once(name):
        if name not in made:
            made[name] = make(name)
        return made[name]

    return once


def arguments_of(kind, pretrained):
    """What `from_backbone_detector_pretrained` is told for a vision model of this kind."""
    detector = "object_detection" if kind in OBJECT_DETECTORS else kind
    path = None if kind == "grid" else str(pretrained(kind))
    return {"backbone_name_or_path": pretrained("backbone"), "detector": detector, "detector_name_or_path": path}


def make_vision_model(kind, pretrained, **fields):
    vision = HamLearningVisionModel.from_backbone_detector_pretrained(
        **arguments_of(kind, pretrained), **{**SIZES, **fields}
    )
    if kind == "mask_rcnn_coco":
        quick(vision.detector.model)
    return vision


@pytest.fixture(scope="module", params=KINDS)
def vision(request, pretrained):
    return make_vision_model(request.param, pretrained)


@pytest.fixture(scope="module", params=FROM_BACKBONE)
def pooling_vision_model(request, pretrained):
    return make_vision_model(request.param, pretrained)


@pytest.fixture(scope="module")
def grid_vision_model(pretrained):
    return make_vision_model("grid", pretrained)


def picture(width, height, seed=0) -> Image.Image:
    """Coloured clouds with some noise."""
    rng = np.random.default_rng(seed)
    clouds = Image.fromarray(rng.integers(0, 256, (5, 7, 3), np.uint8))
    clouds = clouds.resize((width, height), Image.Resampling.BICUBIC)
    noise = rng.integers(-20, 21, (height, width, 3))
    return Image.fromarray((np.asarray(clouds, int) + noise).clip(0, 255).astype(np.uint8))


PICTURES = [picture(150, 100, seed=1), None, picture(90, 201, seed=2), picture(64, 64, seed=3)]
SIZES_OF_PICTURES = [[150, 100], [1, 1], [90, 201], [64, 64]]


@pytest.fixture(scope="module")
def output(vision):
    return vision(PICTURES)


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def vision_model_on(backbone: TimmWrapperModel, **fields) -> HamLearningVisionModel:
    """A vision model with a grid on this backbone."""
    config = HamLearningVisionConfig(
        global_backbone_config=backbone.config, detector="grid", **{"crop_size": 224, "resize_size": 256, **fields}
    )
    return HamLearningVisionModel(config, backbone)


class KnownDetector(nn.Module):
    """A detector whose regions are known beforehand."""

    pools_from_backbone = True

    def __init__(self, boxes, scores, features=None):
        super().__init__()
        boxes = torch.tensor(boxes).view(-1, 4)
        self.found = Detections(boxes, torch.arange(len(boxes)), torch.tensor(scores), features)

    def forward(self, inputs, size):
        return self.found


def with_detector(grid_vision_model, *args, **fields):
    """The vision model with a `KnownDetector`."""
    vision = copy.deepcopy(grid_vision_model)
    vision.detector = KnownDetector(*args)
    for name, value in fields.items():
        setattr(vision.config, name, value)
    return vision


# ------------------------------------------------------------------------------------------------------ what comes out


def test_outputs_have_their_documented_names_and_shapes(vision, output):
    num_regions = output.region_boxes.shape[1]
    assert 1 <= num_regions <= 15
    assert {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in output.items()} == {
        "image_features": ((4, vision.image_feature_size), torch.float32),
        "region_features": ((4, num_regions, vision.region_feature_size), torch.float32),
        "region_boxes": ((4, num_regions, 4), torch.float32),
        "region_class_ids": ((4, num_regions), torch.int64),
        "region_scores": ((4, num_regions), torch.float32),
        "region_mask": ((4, num_regions), torch.int64),
        "image_mask": ((4,), torch.int64),
        "image_sizes": ((4, 2), torch.int64),
    }


def test_boxes_lie_within_the_picture_and_have_an_area(output):
    x, y, h, w = output.region_boxes[output.region_mask.bool()].T
    assert min(h.min(), w.min()) > 0
    reaches = torch.stack([x - w / 2, x + w / 2, y - h / 2, y + h / 2])
    assert -1e-6 <= reaches.min() and reaches.max() <= 1 + 1e-6


def test_regions_differ_from_each_other(output):
    boxes = output.region_boxes[0][output.region_mask[0].bool()]
    features = output.region_features[0][output.region_mask[0].bool()]
    assert len(boxes.unique(dim=0)) > 1
    assert (features - features[0]).abs().max() > 1e-3


def test_scores_descend(output):
    for scores, mask in zip(output.region_scores, output.region_mask.bool(), strict=True):
        assert (scores[mask].diff() <= 0).all()


def test_class_ids_have_a_name(vision, output):
    assert 0 <= output.region_class_ids.min() and output.region_class_ids.max() < len(vision.config.class_names)


def test_no_more_than_max_regions_are_kept_and_they_are_the_best(vision, output, monkeypatch):
    monkeypatch.setattr(vision.config, "max_regions", 3)
    few = vision(PICTURES)
    assert few.region_mask.sum(1).tolist() == output.region_mask.sum(1).clamp(max=3).tolist()
    for name in ("boxes", "class_ids", "scores", "features"):
        # Other sums of the same: a processor may take another way through fewer regions.
        torch.testing.assert_close(few[f"region_{name}"], output[f"region_{name}"][:, :3])


def test_no_picture_is_zeros_and_masked(output):
    assert output.image_mask.tolist() == [1, 0, 1, 1]
    assert output.region_mask[1].sum() == 0
    for name in ("image_features", "region_features", "region_boxes", "region_class_ids", "region_scores"):
        assert (output[name][1] == 0).all()


def test_a_list_without_any_picture_has_no_region(vision):
    output = vision([None, None])
    assert output.region_features.shape == (2, 0, vision.region_feature_size)
    assert output.image_features.shape == (2, vision.image_feature_size)
    assert output.image_mask.tolist() == [0, 0]


def test_sizes_are_width_and_height_in_pixels(output):
    assert output.image_sizes.tolist() == SIZES_OF_PICTURES


@pytest.mark.parametrize("size", THIN)
def test_a_very_thin_picture_has_features(vision, size):
    output = vision(picture(*size))
    assert output.image_sizes.tolist() == [list(size)]
    assert output.image_mask.tolist() == [1]
    assert all(tensor.isfinite().all() for tensor in output.values())


def test_outputs_but_the_scores_are_inputs_of_the_network(vision, output, make_model, make_batch):
    model = make_model(
        model_class=HamLearningModel,
        image_feature_size=vision.image_feature_size,
        region_feature_size=vision.region_feature_size,
        num_classes=len(vision.config.class_names),
    )
    batch = make_batch(words=(3, 2, 4, 1))
    text = {name: batch[name] for name in ("input_ids", "attention_mask", "word_ids")}
    visual = {name: tensor for name, tensor in output.items() if name != "region_scores"}
    with_pictures, without = model(**text, **visual).last_hidden_state, model(**text).last_hidden_state
    differences = (with_pictures - without).abs().amax(dim=(1, 2))
    assert with_pictures.isfinite().all()
    assert (differences > 1e-4).tolist() == [True, False, True, True]


def test_rows_can_be_kept_in_a_visual_feature_file(vision, tmp_path):
    rows = vision.extract_images([image for image in PICTURES if image is not None])
    metadata = {
        "image_feature_size": vision.image_feature_size,
        "region_feature_size": vision.region_feature_size,
        "class_names": vision.config.class_names,
        "vision_config": json.loads(vision.config.to_json_string(use_diff=False)),
        "vision_sha256": vision.fingerprint(),
    }
    write_visual_features(tmp_path / "f.parquet", [{"id": str(i)} | row for i, row in enumerate(rows)], metadata)
    features = VisualFeatures(tmp_path / "f.parquet")
    processor = HamLearningProcessor(
        bert(), image_feature_size=vision.image_feature_size, region_feature_size=vision.region_feature_size,
        num_classes=len(vision.config.class_names),
    )  # fmt: skip
    before = processor(text=["up"] * 3, visual_features=rows)
    after = processor(text=["up"] * 3, visual_features=[features[str(i)] for i in range(3)])
    assert before.keys() == after.keys()
    for name in before:  # features are kept as half floats
        rounding = 1e-3 if name in ("image_features", "region_features") else 0
        torch.testing.assert_close(after[name], before[name], rtol=rounding, atol=rounding)


def test_rows_are_what_forward_pads(vision, output):
    rows = vision.extract_images(PICTURES)
    assert rows[1] is None
    for index in (0, 2, 3):
        count = len(rows[index]["boxes"])
        assert rows[index].keys() == {"image_size", "image_features", "boxes", "class_ids", "scores", "features"}
        assert count == output.region_mask[index].sum()
        for name in ("boxes", "class_ids", "scores", "features"):
            assert rows[index][name].tolist() == output[f"region_{name}"][index, :count].tolist()


# ---------------------------------------------------------------------------------------------- which regions are kept

QUARTER, HALF, WHOLE = [0.0, 0.0, 0.5, 0.5], [0.5, 0.0, 1.0, 1.0], [0.0, 0.0, 1.0, 1.0]


def test_equal_scores_keep_the_detectors_order(grid_vision_model):
    boxes, scores = [QUARTER, HALF, WHOLE] * 7, [0.5, 0.9, 0.5] * 7
    vision = with_detector(grid_vision_model, boxes, scores, max_regions=20)
    of_best, of_others = [i for i in range(21) if i % 3 == 1], [i for i in range(21) if i % 3 != 1]
    assert vision(PICTURES[0]).region_class_ids.tolist() == [(of_best + of_others)[:20]]


def test_boxes_are_given_by_centre_height_and_width(grid_vision_model):
    vision = with_detector(grid_vision_model, [[0.5, 0.0, 1.0, 0.25]], [0.9])
    assert vision(PICTURES[0]).region_boxes.tolist() == [[[0.75, 0.125, 0.25, 0.5]]]


def test_a_box_over_the_edge_is_clamped(grid_vision_model):
    vision = with_detector(grid_vision_model, [[-0.5, 0.5, 0.5, 1.5]], [0.9])
    assert vision(PICTURES[0]).region_boxes.tolist() == [[[0.25, 0.75, 0.5, 0.5]]]


@pytest.mark.parametrize(
    "nothing",
    [
        [0.5, 0.1, 0.5, 0.9],
        [0.1, 0.5, 0.9, 0.5],
        [0.9, 0.1, 0.1, 0.9],
        [1.1, 0.1, 1.5, 0.9],
        [0.1, -0.9, 0.9, -0.1],
        [float("nan")] * 4,
    ],
    ids=["no width", "no height", "left of its left", "right of the picture", "above the picture", "NaN"],
)
def test_a_box_of_no_area_is_dropped_and_takes_no_place(grid_vision_model, nothing):
    vision = with_detector(grid_vision_model, [nothing, QUARTER, nothing, HALF], [0.9, 0.8, 0.7, 0.6], max_regions=2)
    output = vision(PICTURES[0])
    assert output.region_class_ids.tolist() == [[1, 3]]
    assert output.region_features.isfinite().all()


def test_a_detectors_own_features_stay_with_their_boxes(grid_vision_model):
    features = torch.arange(3 * 96.0).view(3, 96)
    vision = with_detector(grid_vision_model, [QUARTER, HALF, WHOLE], [0.5, 0.9, 0.7], features)
    output = vision(PICTURES[0])
    assert output.region_class_ids.tolist() == [[1, 2, 0]]
    assert torch.equal(output.region_features[0], features[[1, 2, 0]])


def test_a_picture_may_have_no_region(grid_vision_model):
    for boxes, scores in (([], []), ([[0.5, 0.5, 0.5, 0.5]], [0.9])):
        vision = with_detector(grid_vision_model, boxes, scores)
        output = vision(PICTURES)
        assert output.image_mask.tolist() == [1, 0, 1, 1]
        assert output.region_features.shape == (4, 0, 96)
        assert vision.extract_images(PICTURES[:1])[0]["features"].shape == (0, 96)


def test_a_grid_covers_the_picture_row_by_row(pretrained):
    boxes = make_vision_model("grid", pretrained)(PICTURES[0]).region_boxes[0]
    expected = [[(c + 0.5) / 5, (r + 0.5) / 3, 1 / 3, 1 / 5] for r in range(3) for c in range(5)]
    torch.testing.assert_close(boxes, torch.tensor(expected))


def test_rows_and_columns_of_a_grid_can_be_set(pretrained):
    vision = make_vision_model("grid", pretrained, detector_settings={"rows": 2, "columns": 1})
    expected = torch.tensor([[[0.5, 0.25, 0.5, 1.0], [0.5, 0.75, 0.5, 1.0]]])
    assert torch.equal(vision(PICTURES[0]).region_boxes, expected)


def test_mask_rcnn_finds_what_torchvisions_own_network_finds(pretrained, mask_rcnn):
    vision = make_vision_model("mask_rcnn_coco", pretrained, max_regions=100)
    vision.runtime = "torch"
    image = PICTURES[0]
    with torch.no_grad():
        (found,) = quick(copy.deepcopy(mask_rcnn))([transforms.functional.to_tensor(image)])
    row = vision.extract_images([image])[0]
    left, top, right, bottom = (found["boxes"] / torch.tensor([*image.size, *image.size])).T
    boxes = torch.stack([(left + right) / 2, (top + bottom) / 2, bottom - top, right - left], dim=1)
    assert len(boxes) > 2
    torch.testing.assert_close(torch.from_numpy(row["boxes"]), boxes)
    assert row["class_ids"].tolist() == found["labels"].tolist()
    torch.testing.assert_close(torch.from_numpy(row["scores"]), found["scores"])


@pytest.mark.parametrize("kind", OBJECT_DETECTORS)
def test_an_object_detector_finds_what_it_finds_by_itself(pretrained, kind):
    model, image_processor = OBJECT_DETECTORS[kind]()
    model = type(model).from_pretrained(pretrained(kind))
    image = PICTURES[0]
    with torch.no_grad():
        outputs = model(**image_processor(images=image, return_tensors="pt"))
    (found,) = image_processor.post_process_object_detection(outputs, 0.0, [image.size[::-1]])
    order = found["scores"].argsort(descending=True, stable=True)[:15]
    row = make_vision_model(kind, pretrained).extract_images([image])[0]
    assert row["class_ids"].tolist() == found["labels"][order].tolist()
    torch.testing.assert_close(torch.from_numpy(row["scores"]), found["scores"][order])
    left, top, right, bottom = (found["boxes"][order] / torch.tensor([*image.size, *image.size])).clamp(0, 1).T
    boxes = torch.stack([(left + right) / 2, (top + bottom) / 2, bottom - top, right - left], dim=1)
    torch.testing.assert_close(torch.from_numpy(row["boxes"]), boxes)


# -------------------------------------------------------------------------------------------------- a new vision model


def test_pretrained_weights_of_the_backbone_stay_bit_for_bit(vision, pretrained):
    expected = AutoModel.from_pretrained(pretrained("backbone")).state_dict()
    found = vision.global_backbone.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("kind", KINDS[1:])
def test_pretrained_weights_of_the_detector_stay_bit_for_bit(kind, pretrained, mask_rcnn):
    vision = make_vision_model(kind, pretrained)
    if kind == "mask_rcnn_coco":
        found, expected = vision.detector.model.state_dict(), mask_rcnn.state_dict()
        expected = {name: tensor for name, tensor in expected.items() if ".mask_" not in name}
    elif kind == "faster_rcnn_vg":
        found = vision.detector.state_dict()
        expected = torch.load(pretrained(kind) / "pytorch_model.bin", weights_only=True)
    else:
        found = vision.detector.model.state_dict()
        expected = AutoModelForObjectDetection.from_pretrained(pretrained(kind)).state_dict()
    assert found.keys() == expected.keys() and len(found) > 20
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_half_precision_weights_are_taken_as_float32(pretrained, tmp_path):
    model, image_processor = detr()
    lively(model).half().save_pretrained(tmp_path / "detector")
    image_processor.save_pretrained(tmp_path / "detector")
    timm_backbone().half().save_pretrained(tmp_path / "backbone")
    vision = HamLearningVisionModel.from_backbone_detector_pretrained(
        tmp_path / "backbone", "object_detection", str(tmp_path / "detector"), **SIZES
    )
    assert {tensor.dtype for tensor in vision.state_dict().values()} == {torch.float32, torch.int64}
    expected = vision(PICTURES)
    vision.save_pretrained(tmp_path / "vision")
    assert same(load(tmp_path / "vision")(PICTURES), expected)


def test_the_papers_vision_model_is_the_default():
    config = HamLearningVisionConfig()
    assert config.global_backbone_config.architecture == "resnet152"
    assert (config.detector, config.max_regions, len(config.class_names)) == ("faster_rcnn_vg", 15, 1600)
    assert (config.resize_size, config.crop_size, config.interpolation) == (256, 224, "bilinear")
    assert config.fixed_input_size is False
    assert (config.image_mean, config.image_std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # of ImageNet
    assert config.detector_settings == {}
    with torch.device("meta"):
        vision = HamLearningVisionModel(config)
    assert (vision.image_feature_size, vision.region_feature_size) == (2048, 2048)


def test_the_backbone_says_how_its_pictures_are_made(tmp_path):
    cfg = {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6], "interpolation": "bicubic", "input_size": [3, 160, 160]}
    timm_backbone(pretrained_cfg=cfg).save_pretrained(tmp_path / "free")
    timm_backbone("test_vit", pretrained_cfg=cfg | {"fixed_input_size": True}).save_pretrained(tmp_path / "fixed")
    free, fixed = (
        HamLearningVisionModel.from_backbone_detector_pretrained(tmp_path / name, "grid").config
        for name in ("free", "fixed")
    )
    for config in (free, fixed):
        assert (config.image_mean, config.image_std) == ([0.1, 0.2, 0.3], [0.4, 0.5, 0.6])
        assert config.interpolation == "bicubic"
    assert (free.fixed_input_size, free.resize_size, free.crop_size) == (False, 256, 224)
    assert (fixed.fixed_input_size, fixed.resize_size, fixed.crop_size) == (True, 183, 160)


def test_an_object_detector_brings_its_class_names(pretrained):
    assert make_vision_model("detr", pretrained).config.class_names == [f"LABEL_{index}" for index in range(7)]


def test_a_grid_has_one_class(grid_vision_model):
    assert grid_vision_model.config.class_names == ["region"]
    assert (grid_vision_model(PICTURES[0]).region_class_ids == 0).all()


@pytest.mark.parametrize("kind", ["rt_detr", "grid"])
def test_the_folders_that_the_parts_came_from_are_not_saved(kind, pretrained, tmp_path):
    make_vision_model(kind, pretrained).save_pretrained(tmp_path)
    assert str(pretrained("backbone").parent) not in (tmp_path / "config.json").read_text()


def test_mask_rcnn_has_the_names_of_coco(pretrained):
    names = make_vision_model("mask_rcnn_coco", pretrained).config.class_names
    assert (len(names), names[1], names[90]) == (91, "person", "toothbrush")


@pytest.mark.parametrize("detector, count", [("mask_rcnn_coco", 91), ("faster_rcnn_vg", 1600)])
def test_a_detector_without_names_numbers_its_classes(detector, count):
    names = HamLearningVisionConfig(detector=detector).class_names
    assert names == [f"object {index}" for index in range(count)]


def test_only_a_grid_has_rows_and_columns_by_default():
    settings = {name: HamLearningVisionConfig(detector=name).detector_settings for name in ("grid", "mask_rcnn_coco")}
    assert settings == {"grid": {"rows": 3, "columns": 5}, "mask_rcnn_coco": {}}


def test_a_field_of_another_type_is_refused():
    with pytest.raises(StrictDataclassFieldValidationError, match="resize_size"):
        HamLearningVisionConfig(resize_size="256")


def test_class_names_come_from_a_file_without_synonyms(pretrained, tmp_path):
    file = tmp_path / "names.txt"
    file.write_text("Person,human,people\n ball \nüber\na b\nc\nd\ne,\n", encoding="utf-8")
    vision = HamLearningVisionModel.from_backbone_detector_pretrained(
        **arguments_of("detr", pretrained), class_names_file=str(file), **SIZES
    )
    assert vision.config.class_names == ["person", "ball", "über", "a b", "c", "d", "e"]


def test_a_file_of_too_few_class_names_is_refused(pretrained, tmp_path):
    file = tmp_path / "names.txt"
    file.write_text("person\nball\n")
    with pytest.raises(ValueError, match=r"names.txt has 2 lines, the detector has 7 classes: give one name a line"):
        HamLearningVisionModel.from_backbone_detector_pretrained(
            **arguments_of("detr", pretrained), class_names_file=str(file)
        )


@pytest.mark.parametrize(
    "detector, path, message",
    [
        ("frcnn", None, "detector='frcnn': must be one of faster_rcnn_vg, mask_rcnn_coco, object_detection, grid"),
        ("frcnn", "folder", "detector='frcnn': must be one of"),
        ("grid", "folder", "detector_name_or_path='folder': detector='grid' takes none"),
        ("object_detection", None, "detector='object_detection' needs detector_name_or_path"),
        ("mask_rcnn_coco", "COCO_V9", "'COCO_V9' is neither a file nor one of COCO_V1"),
    ],
)
def test_an_unknown_detector_or_one_that_cannot_be_found_is_refused(pretrained, detector, path, message):
    with pytest.raises(ValueError, match=message):
        HamLearningVisionModel.from_backbone_detector_pretrained(pretrained("backbone"), detector, path)


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"detector": "yolo"}, "detector='yolo': must be one of faster_rcnn_vg"),
        ({"detector": "object_detection"}, "`object_detection` needs its model's configuration"),
        ({"detector": "grid", "detector_config": {"model_type": "detr"}}, "no other detector takes one"),
        ({"detector": "grid", "detector_settings": {"rows": 0}}, "a grid has at least one row and one column"),
        ({"interpolation": "lanczos"}, "interpolation='lanczos': must be 'bilinear' or 'bicubic'"),
        ({"crop_size": 257}, "crop_size=257 with resize_size=256"),
        ({"crop_size": 0}, "crop_size=0 with resize_size=256"),
        ({"max_regions": 0}, "max_regions=0: must be at least 1"),
    ],
)
def test_a_config_that_makes_no_sense_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        HamLearningVisionConfig(**fields)


# ---------------------------------------------------------------------------------------------------------- save, load


def test_a_saved_and_loaded_vision_model_gives_the_same(vision, output, tmp_path):
    vision.save_pretrained(tmp_path)
    loaded = load(tmp_path)
    assert same(loaded(PICTURES), output)
    assert loaded.fingerprint() == vision.fingerprint()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "model.safetensors"]


def test_a_loaded_vision_model_is_frozen_too(vision, tmp_path):
    vision.save_pretrained(tmp_path)
    loaded = HamLearningVisionModel.from_pretrained(tmp_path)
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    assert not any(module.training for module in loaded.modules())


def test_a_fingerprint_changes_with_any_weight_and_any_setting(grid_vision_model):
    fingerprints = {grid_vision_model.fingerprint()}
    other_weight, other_statistic, other_setting = (copy.deepcopy(grid_vision_model) for _ in range(3))
    other_weight.global_backbone.timm_model.conv1[0].weight[0, 0, 0, 0] += 1e-3
    other_statistic.global_backbone.timm_model.bn1.running_mean[0] += 1e-3
    other_setting.config.max_regions = 14
    fingerprints |= {vision.fingerprint() for vision in (other_weight, other_statistic, other_setting)}
    assert len(fingerprints) == 4


@pytest.mark.parametrize("weight", ["conv1.0.weight", "bn1.running_mean"])
def test_vision_model_that_lack_a_weight_are_refused(grid_vision_model, tmp_path, weight):
    grid_vision_model.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    del weights[f"global_backbone.timm_model.{weight}"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=rf"lacks the weights \['global_backbone.timm_model.{weight}'\]"):
        HamLearningVisionModel.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    "backbone, message",
    [
        ({"architecture": "hf-hub:ORG/NAME"}, "architecture='hf-hub:ORG/NAME': must be the name of a model in timm"),
        ({"architecture": "local-dir:/tmp"}, "architecture='local-dir:/tmp': must be the name of a model in timm"),
        ({"model_type": "timm_backbone", "backbone": "local-dir:/tmp"}, "model_type='timm_backbone': must be 'timm_w"),
        ({"model_args": {"checkpoint_path": "a.pth"}}, "model_args has 'checkpoint_path': the weights lie in"),
        ({"model_args": {"pretrained_cfg": {"url": "http://127.0.0.1/"}}}, "model_args has 'pretrained_cfg'"),
    ],
)
def test_a_backbone_s_config_opens_nothing_and_fetches_nothing(backbone, message):
    config = HamLearningVisionConfig(
        global_backbone_config={"architecture": "test_resnet"} | backbone, detector="grid"
    )
    with pytest.raises(ValueError, match=message):
        HamLearningVisionModel(config)


def test_nor_does_that_of_a_detector_s_backbone():
    inner = {"model_type": "timm_backbone", "backbone": "hf-hub:ORG/NAME"}
    config = HamLearningVisionConfig(
        global_backbone_config={"architecture": "test_resnet"},
        detector="object_detection",
        detector_config={"model_type": "detr", "backbone_config": inner},
    )
    with pytest.raises(
        ValueError, match="detector_config.backbone_config.backbone='hf-hub:ORG/NAME': must be the name"
    ):
        HamLearningVisionModel(config)


@pytest.mark.parametrize("architecture", ["test_vit_relpos", "test_coatnet", "test_maxvit", "eva02_tiny_patch14_224"])
def test_a_backbone_with_buffers_that_are_not_saved_sees_the_same_after_loading(architecture, tmp_path):
    backbone = timm_backbone(architecture)
    side = timm.get_pretrained_cfg_value(architecture, "input_size")[-1]
    vision = vision_model_on(backbone, fixed_input_size=True, crop_size=side, resize_size=side)
    expected = vision(PICTURES[0])
    vision.save_pretrained(tmp_path)
    for name, tensor in load(tmp_path)(PICTURES[0]).items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-5, atol=1e-5)


# -------------------------------------------------------------------------------------------------------------- frozen


def test_vision_model_of_a_config_alone_are_frozen_too():
    vision = HamLearningVisionModel(
        HamLearningVisionConfig(global_backbone_config={"architecture": "test_resnet"}, detector="grid")
    )
    assert not any(parameter.requires_grad for parameter in vision.parameters())
    assert not any(module.training for module in vision.modules())


def test_no_parameter_takes_a_gradient(vision):
    assert len(list(vision.parameters())) > 20
    assert not any(parameter.requires_grad for parameter in vision.parameters())


def test_train_leaves_eval_mode_on(vision):
    vision.train()
    assert not any(module.training for module in vision.modules())


def test_outputs_carry_no_gradient(grid_vision_model):
    vision = copy.deepcopy(grid_vision_model).requires_grad_(True)
    output = vision(PICTURES[0])
    assert not output.image_features.requires_grad
    assert not output.region_features.requires_grad
    assert isinstance(
        vision.extract_images(PICTURES[:1])[0]["features"], np.ndarray
    )  # none where a gradient is needed


# -------------------------------------------------------------------------------------------------------- the features


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("resize_size, crop_size", [(256, 224), (255, 224), (73, 64), (64, 64)])
@pytest.mark.parametrize("size", [(640, 480), (333, 501), (257, 300), (100, 77), (100, 1600), (1600, 99), (1, 1)])
def test_the_centre_crop_is_torchvisions_pixel_for_pixel(size, resize_size, crop_size, interpolation):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), np.uint8))
    theirs = transforms.Compose(
        [
            transforms.Resize(resize_size, transforms.InterpolationMode(interpolation)),
            transforms.CenterCrop(crop_size),
        ]
    )
    ours = centre_crop(noise, resize_size, crop_size, RESAMPLING[interpolation])
    assert ours.size == (crop_size, crop_size)
    assert ImageChops.difference(ours, theirs(noise)).getbbox() is None


# A convolutional network, one with maps (h, w, channels), a Vision Transformer and Swin.
SWIN = {"embed_dim": 8, "depths": [1, 1, 1, 1], "num_heads": [1, 2, 4, 8]}
BACKBONES = {
    "test_resnet": {},
    "test_efficientnet": {},
    "test_mambaout": {},
    "test_vit2": {"fixed_input_size": True, "crop_size": 160, "resize_size": 160},
    "swin_tiny_patch4_window7_224": {"fixed_input_size": True},
}


@pytest.fixture(scope="module", params=BACKBONES)
def seeing(request):
    """A vision model with a grid, and the naked timm network that it computes with."""
    model_args = SWIN if "swin" in request.param else {}
    backbone = timm_backbone(request.param, model_args=model_args)
    network = timm.create_model(request.param, num_classes=0, **model_args).eval()
    network.load_state_dict(backbone.timm_model.state_dict())
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
    return vision_model_on(backbone, image_mean=mean, image_std=std, **BACKBONES[request.param]), network


def last_map(network, pixels):
    """timm's last map, (B, C, h, w)."""
    with torch.no_grad():
        states = network.forward_features(pixels)
    if states.ndim == 3:
        states = states[:, network.num_prefix_tokens :]
        side = int(states.shape[1] ** 0.5)
        return states.transpose(1, 2).reshape(len(states), -1, side, side)
    return states.permute(0, 3, 1, 2) if states.shape[-1] == network.num_features else states


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [(640, 480), (301, 433)])
def test_global_features_are_the_mean_of_timms_last_map_on_timms_own_picture(seeing, size, interpolation, monkeypatch):
    vision, network = seeing
    monkeypatch.setattr(vision.config, "interpolation", interpolation)
    config = vision.config
    transform = timm.data.create_transform(
        (3, config.crop_size, config.crop_size),
        interpolation=interpolation,
        mean=config.image_mean,
        std=config.image_std,
        crop_pct=config.crop_size / config.resize_size,
    )
    image = picture(*size)
    expected = last_map(network, transform(image)[None]).mean(dim=(2, 3))
    assert expected.abs().max() > 0.1
    torch.testing.assert_close(vision(image).image_features, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "size, whole",
    [
        ((640, 480), (85, 64)),
        ((480, 640), (64, 85)),
        ((50, 50), (64, 64)),
        ((1000, 63), (1016, 64)),
        ((7, 3), (149, 64)),
    ],
)
def test_the_whole_picture_has_the_crops_size_as_its_short_side(grid_vision_model, size, whole):
    image = picture(*size)
    found = prepare_image(image, grid_vision_model.config).whole
    expected = image.resize(whole, Image.Resampling.BILINEAR)
    assert np.array_equal(found.permute(1, 2, 0).numpy(), np.asarray(expected))


def test_the_whole_picture_is_squeezed_where_the_input_size_is_fixed():
    config = HamLearningVisionConfig(detector="grid", fixed_input_size=True)
    image = picture(640, 480)
    expected = np.asarray(image.resize((224, 224), Image.Resampling.BILINEAR))
    assert np.array_equal(prepare_image(image, config).whole.permute(1, 2, 0).numpy(), expected)


@pytest.mark.parametrize("size, stretched", [((5000, 1), (5000, 313)), ((1, 5000), (313, 5000)), ((33, 2), (33, 3))])
def test_a_picture_thinner_than_1_to_16_is_stretched(size, stretched):
    config = HamLearningVisionConfig(detector="mask_rcnn_coco")
    prepared = prepare_image(picture(*size), config)
    assert tuple(prepared.detector_inputs.shape[1:]) == stretched[::-1]
    assert prepared.size == size


def roi_align_by_hand(feature_map, corners, stride, width, height):
    """The mean of 7 x 7 bins of 2 x 2 bilinear samples is the mean of 14 x 14 samples, for each box of (n, 4)."""
    (*_, map_height, map_width), steps = feature_map.shape, (torch.arange(14) + 0.5) / 14
    means = []
    for left, top, right, bottom in corners * torch.tensor([width, height, width, height]) / stride:
        x, y = left + steps * (right - left), top + steps * (bottom - top)  # on the map, whose cell 0 ends at 1
        y, x = torch.meshgrid(2 * y / map_height - 1, 2 * x / map_width - 1, indexing="ij")
        samples = F.grid_sample(
            feature_map, torch.stack([x, y], dim=-1)[None], padding_mode="border", align_corners=False
        )
        means.append(samples.mean(dim=(0, 2, 3)))
    return torch.stack(means)


@pytest.mark.parametrize("size", [(640, 480), (150, 333)])
def test_region_features_are_roi_align_on_the_map_of_the_whole_picture(seeing, size):
    vision, network = seeing
    row = vision.extract_images([picture(*size)])[0]
    scale = vision.config.crop_size / min(size)
    width, height = (round(side * scale) for side in size)
    if vision.config.fixed_input_size:
        width = height = vision.config.crop_size
    image = picture(*size).resize((width, height), Image.Resampling.BILINEAR)
    pixels = transforms.functional.to_tensor(image)
    pixels = transforms.functional.normalize(pixels, vision.config.image_mean, vision.config.image_std)
    x, y, h, w = torch.from_numpy(row["boxes"]).T
    corners = torch.stack([x - w / 2, y - h / 2, x + w / 2, y + h / 2], dim=1)
    stride = 16 if "vit" in vision.config.global_backbone_config.architecture else 32
    expected = roi_align_by_hand(last_map(network, pixels[None]), corners, stride, width, height)
    assert (expected - expected[0]).abs().max() > 0.01
    torch.testing.assert_close(torch.from_numpy(row["features"]), expected, rtol=1e-3, atol=1e-4)


def test_region_features_belong_to_their_boxes(pooling_vision_model):
    """Whatever the detector: the features of a region are those that a grid of that region alone has."""
    row = pooling_vision_model.extract_images([PICTURES[0]])[0]
    x, y, h, w = row["boxes"].T
    corners = np.stack([x - w / 2, y - h / 2, x + w / 2, y + h / 2], axis=1).tolist()
    vision = copy.deepcopy(pooling_vision_model)
    vision.detector = KnownDetector(corners, row["scores"].tolist())
    again = vision.extract_images([PICTURES[0]])[0]
    np.testing.assert_allclose(again["features"], row["features"], rtol=1e-3, atol=1e-4)


def test_openvino_computes_what_pytorch_does(vision, output):
    assert any(network is not None for network in vision.networks.found.values())
    vision.runtime = "torch"
    try:
        expected = vision(PICTURES)
    finally:
        vision.runtime = None
    for name, values in expected.items():
        # The classifier of the Mask R-CNN multiplies what differs by 30.
        torch.testing.assert_close(output[name], values, rtol=5e-4, atol=5e-4)


def test_each_part_of_each_vision_model_is_computed_by_openvino(vision, output, monkeypatch):
    def fail(*args, **more):
        raise AssertionError("PyTorch's networks were called")

    networks = [module for module in vision.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    for module in networks:
        monkeypatch.setattr(module, "forward", fail)
    assert networks and same(vision(PICTURES), output)


def test_features_do_not_depend_on_the_batch(vision, output):
    for index, image in enumerate(PICTURES):
        alone = vision(image)
        count = alone.region_mask.sum()
        torch.testing.assert_close(alone.image_features[0], output.image_features[index], rtol=1e-5, atol=1e-5)
        # The detector and the whole picture's map see one picture at a time: not a bit differs.
        assert output.region_mask[index].sum() == count
        for name in ("boxes", "class_ids", "scores", "features"):
            assert torch.equal(alone[f"region_{name}"][0], output[f"region_{name}"][index, :count])


# --------------------------------------------------------------------------------------------------- what can be given


def encoded(image):
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


WAYS = {
    "PIL": lambda image, folder: image,
    "array": lambda image, folder: np.asarray(image),
    "tensor": lambda image, folder: torch.from_numpy(np.array(image)).permute(2, 0, 1),
    "path": lambda image, folder: folder / "picture.png",
    "string": lambda image, folder: str(folder / "picture.png"),
    "bytes": lambda image, folder: encoded(image),
    "base64": lambda image, folder: base64.b64encode(encoded(image)).decode(),
    "dict": lambda image, folder: {"bytes": encoded(image), "path": None},
    "list": lambda image, folder: [image],
    "tuple": lambda image, folder: (image,),
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS.keys())
def test_a_picture_may_be_given_as(grid_vision_model, tmp_path, way):
    image = PICTURES[0]
    image.save(tmp_path / "picture.png")
    assert same(grid_vision_model(way(image, tmp_path)), grid_vision_model([image]))


def test_none_alone_is_no_picture(grid_vision_model):
    assert grid_vision_model(None).image_mask.tolist() == [0]


def test_a_picture_that_cannot_be_read_is_named_by_its_place(grid_vision_model):
    with pytest.raises(ImageError, match="images: picture 2: the picture given as bytes is no JPEG"):
        grid_vision_model([PICTURES[0], None, b"not a picture at all", PICTURES[0]])


def test_the_place_of_the_first_picture_can_be_told(grid_vision_model):
    with pytest.raises(ImageError, match="images: picture 9: .*gone.jpg"):
        grid_vision_model.extract_images([None, "gone.jpg"], first=8)


# ------------------------------------------------------------------------------------------------------- drawn regions

# Far from each other, so that no relation holds between the first two; the third lies within the first.
BOXES = [[0.15, 0.15, 0.2, 0.2], [0.85, 0.85, 0.2, 0.2], [0.15, 0.15, 0.1, 0.1]]


def a_row(boxes, size=(800, 600)):
    scores = np.linspace(0.9, 0.5, len(boxes))
    return {"image_size": list(size), "boxes": boxes, "class_ids": list(range(len(boxes))), "scores": scores}


GREY = Image.new("RGB", (800, 600), (128, 128, 128))
NO_ARROW = {"max_arrows": 0}


def touched(drawn, other=GREY):
    """Where two pictures differ: (left, top, right, bottom) of the pixels, None if nowhere."""
    return ImageChops.difference(drawn, other).getbbox()


def test_drawn_regions_are_an_rgb_picture_of_the_same_size():
    drawn = draw_regions(GREY, a_row(BOXES))
    assert (drawn.mode, drawn.size) == ("RGB", (800, 600))


def test_a_small_picture_is_enlarged_for_its_letters():
    assert draw_regions(picture(100, 50), a_row(BOXES, (100, 50))).size == (640, 320)


@pytest.mark.parametrize("box", [[0.5, 0.5, 0.5, 0.25], [0.5, 0.5, 1.0, 1.0], [0.9, 0.8, 0.3, 0.2]])
def test_a_box_is_drawn_at_its_edges(box):
    drawn = draw_regions(GREY, a_row([box]))
    x, y, h, w = box
    left, right = round((x - w / 2) * 800), min(round((x + w / 2) * 800), 799)
    top, bottom = round((y - h / 2) * 600), min(round((y + h / 2) * 600), 599)
    middle_x, middle_y = (left + right) // 2, (top + bottom) // 2
    edges = {drawn.getpixel(at) for at in [(left, middle_y), (right, middle_y), (middle_x, bottom), (right, bottom)]}
    (colour,) = edges
    assert max(colour) - min(colour) > 100  # a clear colour, not the grey
    assert drawn.getpixel((middle_x, middle_y)) == (128, 128, 128)
    for at in [(left - 3, middle_y), (right + 3, middle_y), (middle_x, bottom + 3)]:
        if 0 <= at[0] < 800 and 0 <= at[1] < 600:
            assert drawn.getpixel(at) == (128, 128, 128)


def test_boxes_have_different_colours():
    drawn = draw_regions(GREY, a_row(BOXES[:2]), **NO_ARROW)
    assert drawn.getpixel((200, 90)) != drawn.getpixel((760, 510))


def test_a_class_is_drawn_by_its_name_or_else_its_number():
    row = a_row(BOXES[:1])
    by_name, by_other_name = (draw_regions(GREY, row, [name]) for name in ("dog", "cow"))
    left, top, right, bottom = touched(by_name, by_other_name)
    assert 40 <= left < right <= 200 and 30 <= top < bottom <= 60  # at the box's upper left corner
    assert touched(draw_regions(GREY, row), draw_regions(GREY, row, ["class 0"])) is None


def test_a_score_is_drawn_with_its_class():
    row = a_row(BOXES[:1])
    assert touched(draw_regions(GREY, row), draw_regions(GREY, row | {"scores": [0.1]})) is not None


def test_related_regions_have_an_arrow_between_their_centres():
    row = a_row([[0.2, 0.5, 0.2, 0.1], [0.5, 0.5, 0.2, 0.1]])
    left, top, right, bottom = touched(draw_regions(GREY, row), draw_regions(GREY, row, **NO_ARROW))
    assert abs(left - 160) <= 3 and abs(right - 400) <= 3
    assert top < 300 < bottom


def test_regions_without_a_relation_have_no_arrow():
    row = a_row(BOXES[:2])
    relations = spatial_relations(
        torch.tensor(BOXES[:2])[None], torch.tensor([[800, 600]]), torch.ones(1, 2, dtype=torch.bool)
    )
    assert SPATIAL_RELATIONS[relations[0, 1, 2]] == "none"
    assert touched(draw_regions(GREY, row), draw_regions(GREY, row, **NO_ARROW)) is None


def test_the_nearest_pairs_get_the_arrows():
    far, near = [0.2, 0.5, 0.2, 0.1], [0.35, 0.5, 0.2, 0.1]
    row = a_row([far, near, [0.45, 0.5, 0.2, 0.1]])
    left, _, right, _ = touched(draw_regions(GREY, row, max_arrows=1), draw_regions(GREY, row, **NO_ARROW))
    assert abs(left - 280) <= 40 and abs(right - 360) <= 40


def test_a_picture_without_regions_is_drawn_as_it_is():
    assert touched(draw_regions(GREY, a_row([]))) is None


@pytest.mark.parametrize("size", THIN)
def test_regions_of_a_very_thin_picture_can_be_drawn(grid_vision_model, size):
    image = picture(*size)
    row = grid_vision_model.extract_images([image])[0]
    assert draw_regions(image, row, grid_vision_model.config.class_names).mode == "RGB"


def test_regions_of_every_detector_can_be_drawn(vision):
    row = vision.extract_images(PICTURES[:1])[0]
    drawn = draw_regions(PICTURES[0], row, vision.config.class_names)
    assert touched(drawn, PICTURES[0].resize(drawn.size)) is not None


def test_a_picture_that_cannot_be_read_is_not_drawn():
    with pytest.raises(ImageError, match="gone.jpg"):
        draw_regions("gone.jpg", a_row(BOXES))


def test_a_picture_a_million_times_longer_than_high_stays_small():
    prepared = prepare_image(picture(1_000_000, 1), HamLearningVisionConfig(detector="grid"))
    assert prepared.size == (1_000_000, 1)
    assert prepared.whole.shape == (3, 224, 224 * 16)
