"""The Visual Genome detector: against the published one's numbers, against its own small fixture, and part by part.

python tests/test_faster_rcnn_vg.py    # makes the small fixture anew, for when its recipe has changed
"""

import dataclasses
import importlib.util
import io
import json
import math
import random
import re
import shutil
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml

import modeling_faster_rcnn_vg
from configuration_hamlearning import HamLearningVisionConfig
from hub_server import HubServer, run_client
from modeling_faster_rcnn_vg import (
    AnchorGenerator,
    FasterRCNNVG,
    FasterRCNNVGSettings,
    Predictions,
    clip_boxes,
    decode_boxes,
    load_published_checkpoint,
    preprocess,
    read_weights,
    select_regions,
)
from modeling_hamlearning_vision import FasterRCNNVGDetector
from networks_hamlearning import Networks


# ------------------------------------------------------------------------------------------------------- small network

SMALL_FIXTURE = Path(__file__).parents[1] / "fixtures" / "faster_rcnn_vg.npz"
# Each part of the published network, and a picture that shrinks, since antialiasing would change no other.
SMALL = FasterRCNNVGSettings(
    min_size=160,
    max_size=226,
    num_blocks=(1, 2, 2, 2),
    stem_channels=6,
    bottleneck_channels=4,
    res2_channels=8,
    anchor_sizes=(32, 64, 128),
    rpn_channels=16,
    rpn_pre_nms=120,
    rpn_post_nms=50,
    pooled_size=6,
    num_classes=12,
    num_attributes=5,
    min_detections=38,  # the second threshold leaves so many
    max_detections=39,
)
SIZE = (300, 200)  # of the small picture, (width, height)


def small_weights(settings: FasterRCNNVGSettings) -> dict[str, torch.Tensor]:
    """Weights under which every part of the network matters, from nothing but raw bits of PCG64."""
    rng = np.random.Generator(np.random.PCG64(83))
    variance = 1e-3  # of what goes into a norm: small, so that its epsilon matters
    gains = {"objectness_logits": 1, "anchor_deltas": 0.03, "cls_score": 15, "bbox_pred": 1, "attr_score": 4}
    norms = {
        "weight": (1, 0.2),
        "bias": (0, 0.3),
        "running_mean": (0, 0.3 * variance**0.5),
        "running_var": (variance, 0.3 * variance),
    }
    weights = FasterRCNNVG(settings).state_dict()
    for name in sorted(weights):
        module, kind = name.split(".")[-2:]
        if kind == "num_batches_tracked" or module == "cell_anchors":
            continue
        shape = tuple(weights[name].shape)
        noise = (rng.random(shape) - 0.5) * 12**0.5  # mean 0, variance 1
        if module == "norm":
            centre, spread = norms[kind]
        elif kind == "bias" or module == "cls_embedding":
            centre, spread = 0, 0.5
        else:
            gain = 2 * variance if f"{name.removesuffix('.weight')}.norm.weight" in weights else gains.get(module, 2)
            if ".stem." in name:
                gain /= 70**2  # pixels are that large
            else:  # after a ReLU all is positive: without what the inputs have in common regions look alike
                noise -= noise.mean(axis=tuple(range(1, noise.ndim)), keepdims=True)
            centre, spread = 0, (gain / math.prod(shape[1:])) ** 0.5
        weights[name] = torch.tensor(centre + spread * noise, dtype=torch.float32)
    return weights


def small_picture() -> torch.Tensor:
    """(3, 200, 300), RGB: coloured discs and boxes in stripes that a shrunken picture cannot hold, on a ramp."""
    rng = np.random.Generator(np.random.PCG64(2048))
    width, height = SIZE
    y, x = np.mgrid[:height, :width]
    picture = np.stack([x * 2 // 3, y, (x + 2 * y) // 4])
    for number in range(16):
        cx, cy, radius, period = (
            int(low + (high - low) * rng.random()) for low, high in ((0, width), (0, height), (12, 45), (2, 6))
        )
        dark, light = np.floor(256 * rng.random((2, 3)))
        inside = (x - cx) ** 2 + (y - cy) ** 2 < radius**2 if number % 2 else abs(x - cx) + 2 * abs(y - cy) < radius
        stripes = (x + number % 3 * y) // period % 2 == 0
        picture[:, inside & stripes] = dark[:, None]
        picture[:, inside & ~stripes] = light[:, None]
    return torch.tensor(picture, dtype=torch.uint8)


def small_detector(settings: FasterRCNNVGSettings = SMALL) -> FasterRCNNVG:
    detector = FasterRCNNVG(settings)
    detector.load_state_dict(small_weights(settings))
    return detector


def small_arrays() -> dict[str, np.ndarray]:
    """What the small detector makes of the small picture, step by step."""
    detector = small_detector()
    pixels = preprocess(small_picture(), SMALL)
    feature_map = detector.backbone(pixels[None])
    proposals, logits = detector.proposal_generator(feature_map, (pixels.shape[2], pixels.shape[1]))
    features = detector.roi_heads(feature_map, proposals)
    predictions = detector.roi_heads.box_predictor(features)
    steps = {
        "pixels": pixels[:, ::7, ::7],
        "feature_map": feature_map[0, :, ::2, ::2],
        "proposals": proposals,
        "proposal_logits": logits,
        "proposal_features": features,
        **predictions._asdict(),
        **detector(pixels, SIZE)._asdict(),
    }
    return {name: step.numpy() for name, step in steps.items()}


if __name__ == "__main__":
    SMALL_FIXTURE.parent.mkdir(exist_ok=True)
    np.savez_compressed(SMALL_FIXTURE, **small_arrays())
    sys.exit()


@pytest.fixture(scope="module")
def detector() -> FasterRCNNVG:
    return small_detector()


def test_the_small_detector_gives_the_numbers_of_its_fixture():
    expected, found = dict(np.load(SMALL_FIXTURE)), small_arrays()
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        tolerance = 0 if name.endswith("_ids") else 1e-3 * abs(values).max()
        np.testing.assert_allclose(found[name], values, rtol=0, atol=tolerance, err_msg=name)


# --------------------------------------------------------------------------------------------- published numbers


def import_file(path: Path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def published(shared_folder) -> SimpleNamespace:
    """The published code's numbers on weights that a recipe makes, the recipe, and the comparison."""
    folder = shared_folder / "detector"
    if not folder.is_dir():
        pytest.skip(f"needs the published detector's numbers, and there is no folder {folder}")
    return SimpleNamespace(
        recipe=import_file(folder / "recipe.py"),
        compare=import_file(folder / "check.py").compare,
        arrays=dict(np.load(folder / "fixture_public.npz")),
        pictures=json.loads((folder / "fixture_public.json").read_text()),
        shapes=json.loads((folder / "state_dict_keys.json").read_text()),
    )


def published_picture(published, name: str) -> torch.Tensor:
    facts = (published.pictures["pictures"] | published.pictures["preprocess_only"])[name]
    picture = published.recipe.picture(name, facts["hw"])
    assert f"{published.recipe.crc(picture):08x}" == facts["crc32"]
    return torch.tensor(picture).permute(2, 0, 1)


def pixel_arrays(name: str, image: torch.Tensor, pixels: torch.Tensor) -> dict:
    scales = [original / resized for original, resized in zip(image.shape[1:], pixels.shape[1:], strict=True)]
    return {
        f"{name}_image_shape": np.array(pixels.shape),
        f"{name}_image_sample": pixels[:, ::50, ::67],
        f"{name}_scales_yx": np.array([scales], dtype=np.float32),
    }


def region_arrays(name: str, regions) -> dict:
    return {
        f"{name}_boxes": regions.boxes,
        f"{name}_normalized_boxes": regions.normalized_boxes,
        f"{name}_obj_ids": regions.class_ids,
        f"{name}_obj_probs": regions.scores,
        f"{name}_attr_ids": regions.attribute_ids,
        f"{name}_attr_probs": regions.attribute_scores,
        f"{name}_feat32": regions.features[:, :32],
        f"{name}_feat_norm": regions.features.norm(dim=1),
        f"{name}_preds_per_image": np.array([len(regions.boxes)]),
    }


def selection_arrays(published) -> dict:
    case = {name: torch.tensor(values) for name, values in published.recipe.nms_case().items()}
    predictions = Predictions(case["cls_logits"], case["attr_logits"], case["bbox_deltas"])
    settings = FasterRCNNVGSettings()
    regions = select_regions(case["proposals"], case["feats"], predictions, (800, 600), (400, 300), settings)
    return region_arrays("N", regions)


def detector_arrays(name: str, detector: FasterRCNNVG, image: torch.Tensor) -> dict:
    pixels = preprocess(image, detector.settings)
    resized_size, image_size = (pixels.shape[2], pixels.shape[1]), (image.shape[2], image.shape[1])
    arrays = pixel_arrays(name, image, pixels)
    arrays[f"{name}_sizes"] = np.array([pixels.shape[1:]])
    statistics = [pixels.mean(dim=(1, 2)), pixels.std(dim=(1, 2)), pixels.amin(dim=(1, 2)), pixels.amax(dim=(1, 2))]
    arrays[f"{name}_image_stats"] = torch.stack(statistics, dim=1)

    steps = {"stem": (8, 17, 19), "res2": (32, 17, 19), "res3": (64, 11, 13), "res4": (32, 7, 9)}
    feature_map = pixels[None]
    for (step, module), (c, y, x) in zip(detector.backbone.named_children(), steps.values(), strict=True):
        feature_map = module(feature_map)
        arrays[f"{name}_{step}_shape"] = np.array(feature_map.shape[1:])
        arrays[f"{name}_{step}_sample"] = feature_map[0, ::c, ::y, ::x].clone()
        arrays[f"{name}_{step}_stats"] = torch.stack([feature_map.mean(), feature_map.std(), feature_map.max()])

    feature_map, logit_map, delta_map = detector.map_picture(pixels[None])
    arrays[f"{name}_res4_sample"] = feature_map[0, ::32, ::7, ::9]
    arrays[f"{name}_res4_stats"] = torch.stack([feature_map.mean(), feature_map.std(), feature_map.max()])
    proposals, logits = detector.proposal_generator.propose(logit_map, delta_map, resized_size)
    arrays[f"{name}_rpn_logits_sample"] = logit_map[0, :, ::5, ::7]
    arrays[f"{name}_rpn_deltas_sample"] = delta_map[0, :, ::7, ::9]
    arrays[f"{name}_proposals"] = proposals
    arrays[f"{name}_proposal_logits"] = logits

    pooled = detector.roi_heads.pool(feature_map, proposals[:5])
    arrays[f"{name}_pooled_sample"] = pooled[:, ::64, ::3, ::3]
    arrays[f"{name}_res5_sample"] = detector.roi_heads.res5(pooled)[:, ::128, ::3, ::3]
    features, predictions = detector.read_regions(feature_map, proposals)
    arrays[f"{name}_roi_feat32"] = features[:, :32]
    arrays[f"{name}_roi_feat_norm"] = features.norm(dim=1)
    arrays[f"{name}_cls_logits_sample"] = predictions.class_logits[::5, ::40]
    arrays[f"{name}_attr_logits_sample"] = predictions.attribute_logits[::5, ::20]
    arrays[f"{name}_bbox_deltas_sample"] = predictions.box_deltas[::5, ::199]
    regions = select_regions(proposals, features, predictions, resized_size, image_size, detector.settings)
    return arrays | region_arrays(name, regions)


def assert_published(published, arrays: dict, pictures: tuple[str, ...]):
    expected = {key: values for key, values in published.arrays.items() if key.split("_")[0] in pictures}
    lines: list[str] = []
    passed = published.compare(expected, arrays, out=lines.append)
    print("\n".join(lines))
    assert passed, lines
    assert "not given: none" in lines


def test_the_state_dict_has_the_published_keys(published):
    with torch.device("meta"):
        weights = FasterRCNNVG(FasterRCNNVGSettings()).state_dict()
    found = {name: [list(weight.shape), str(weight.dtype).removeprefix("torch.")] for name, weight in weights.items()}
    assert found == published.shapes


@pytest.mark.parametrize("name", ["P1", "P2", "P3", "P4", "P5"])
def test_pictures_are_prepared_as_published(published, name):
    image = published_picture(published, name)
    assert_published(published, pixel_arrays(name, image, preprocess(image, FasterRCNNVGSettings())), (name,))


def test_regions_are_selected_as_published(published):
    assert_published(published, selection_arrays(published), ("N",))


@pytest.mark.slow
@pytest.mark.parametrize("runtime", ["torch", "openvino"])
def test_the_whole_detector_gives_the_published_numbers(published, runtime):
    shapes = {name: shape for name, (shape, _) in published.shapes.items()}
    weights = published.recipe.fill(shapes, calib=published.arrays)
    fingerprint = published.recipe.weights_fingerprint(weights)
    assert f"{fingerprint:08x}" == published.pictures["weights_fingerprint_crc32"]
    with torch.device("meta"):
        detector = FasterRCNNVGDetector(HamLearningVisionConfig())
    if runtime == "openvino":
        detector.find_network = Networks().find
    detector.load_state_dict({name: torch.tensor(values) for name, values in weights.items()}, assign=True)

    arrays = selection_arrays(published)
    for name in published.pictures["preprocess_only"]:
        image = published_picture(published, name)
        arrays |= pixel_arrays(name, image, preprocess(image, detector.settings))
    for name in published.pictures["pictures"]:
        started = time.perf_counter()
        arrays |= detector_arrays(name, detector, published_picture(published, name))
        print(f"picture {name}: {time.perf_counter() - started:.1f} s")
    assert_published(published, arrays, ("A", "B", "N", "P1", "P2", "P3", "P4", "P5"))


# ------------------------------------------------------------------------------------------------------------- picture


@pytest.mark.parametrize(
    ("size", "resized"),
    [
        ((480, 640), (800, 1067)),  # the short side is 800
        ((640, 480), (1067, 800)),
        ((500, 500), (800, 800)),
        ((260, 600), (578, 1333)),  # the long side is 1333
        ((1, 3000), (16, 1333)),  # a thin picture would vanish
        ((3000, 1), (1333, 16)),
    ],
)
def test_a_picture_is_resized_to_800_or_else_to_1333_at_the_long_side(size, resized):
    image = torch.zeros(3, *size, dtype=torch.uint8)
    assert preprocess(image, FasterRCNNVGSettings()).shape == (3, *resized)


def test_pixels_are_blue_first_and_lose_the_mean():
    image = torch.tensor([10, 20, 30], dtype=torch.uint8)[:, None, None].expand(3, 8, 8)
    settings = dataclasses.replace(SMALL, pixel_mean=(1, 2, 3), pixel_std=(1, 2, 4))
    pixels = preprocess(image, settings)
    torch.testing.assert_close(pixels, torch.tensor([29, 9, 1.75])[:, None, None].expand(pixels.shape))


@pytest.mark.parametrize(
    "image",
    [
        torch.zeros(3, 8, 8),
        torch.zeros(8, 8, 3, dtype=torch.uint8),
        torch.zeros(1, 3, 8, 8, dtype=torch.uint8),
        torch.zeros(3, 0, 8, dtype=torch.uint8),
    ],
)
def test_what_is_no_rgb_picture_is_refused(image):
    with pytest.raises(ValueError, match=r"image is torch.* must be uint8 of shape \(3, H, W\)"):
        preprocess(image, SMALL)


# --------------------------------------------------------------------------------------------------------------- boxes


def test_anchors_stand_on_the_corners_of_cells_by_row_then_column_then_size_then_ratio():
    settings = dataclasses.replace(SMALL, anchor_sizes=(16, 32), anchor_ratios=(0.25, 4))
    anchors = AnchorGenerator(settings)(height=2, width=3)
    assert anchors.shape == (2 * 3 * 4, 4)
    first = [[-16, -4, 16, 4], [-4, -16, 4, 16], [-32, -8, 32, 8], [-8, -32, 8, 32]]
    assert anchors[:4].tolist() == first
    assert (anchors[4:8] - anchors[:4]).unique(dim=0).tolist() == [[16, 0, 16, 0]]
    assert (anchors[12:16] - anchors[:4]).unique(dim=0).tolist() == [[0, 16, 0, 16]]


def test_a_box_moves_by_its_size_and_grows_by_an_exponential():
    box = torch.tensor([[10.0, 20.0, 30.0, 60.0]])  # 20 x 40 around (20, 40)
    deltas = torch.tensor([[1.0, -5.0, 5 * math.log(2), 0.0]])
    moved = decode_boxes(box, deltas, (10, 10, 5, 5))  # 40 x 40 around (22, 20)
    torch.testing.assert_close(moved, torch.tensor([[2.0, 0.0, 42.0, 40.0]]))


def test_a_box_grows_by_62_at_most_and_shrinks_without_a_limit():
    box = torch.tensor([[0.0, 0.0, 16.0, 16.0]])
    moved = decode_boxes(box, torch.tensor([[0.0, 0.0, 9.0, -9.0]]), (1, 1, 1, 1))
    sizes = moved[0, 2:] - moved[0, :2]
    torch.testing.assert_close(sizes, torch.tensor([1000.0, 16 * math.exp(-9)]), rtol=1e-3, atol=0)


def test_a_box_is_clipped_to_the_far_edges_themselves():
    boxes = clip_boxes(torch.tensor([[-5.0, -5.0, 900.0, 900.0]]), (640, 480))
    assert boxes.tolist() == [[0, 0, 640, 480]]


# ----------------------------------------------------------------------------------------------------------- selection

FEW = dataclasses.replace(SMALL, num_classes=3, num_attributes=2, nms_thresholds=(0.5, 0.6, 0.7), min_detections=2)
BACKGROUND, NO_ATTRIBUTE = 3, 2


def pair_of(iou: float) -> list[list[float]]:
    """Two boxes of one size with this IoU, side by side."""
    moved = 60 * (1 - iou) / (1 + iou)
    return [[10, 10, 70, 70], [10 + moved, 10, 70 + moved, 70]]


def select(boxes, class_logits, settings=FEW, attribute_logits=None, box_deltas=None, image_size=(200, 200)):
    """Regions of a picture of 200 x 200 resized pixels; the features of a proposal are its number."""
    count = len(boxes)
    predictions = Predictions(
        torch.tensor(class_logits, dtype=torch.float32).reshape(count, 4),
        torch.zeros(count, 3) if attribute_logits is None else torch.tensor(attribute_logits),
        torch.zeros(count, 12) if box_deltas is None else box_deltas,
    )
    boxes = torch.tensor(boxes, dtype=torch.float32).reshape(count, 4)
    return select_regions(boxes, torch.arange(count)[:, None], predictions, (200, 200), image_size, settings)


def test_a_region_suppresses_one_of_another_class():
    regions = select(pair_of(0.8), [[3.0, 0, 0, 0], [0, 4.0, 0, 0]])
    assert regions.class_ids.tolist() == [1]


def test_a_region_has_its_best_class_alone():
    regions = select([[0, 0, 50, 50]], [[3.0, 2.9, 0, 0]])
    assert regions.class_ids.tolist() == [0]


def test_regions_are_sorted_by_score():
    boxes = [[0, 0, 20, 20], [40, 0, 60, 20], [80, 0, 100, 20]]
    regions = select(boxes, [[1.0, 0, 0, 0], [0, 3.0, 0, 0], [0, 0, 2.0, 0]])
    assert regions.class_ids.tolist() == [1, 2, 0]
    assert regions.boxes.tolist() == [boxes[1], boxes[2], boxes[0]]
    assert regions.features.flatten().tolist() == [1, 2, 0]


def test_background_counts_in_the_softmax_and_is_never_the_class():
    regions = select([[0, 0, 50, 50]], [[0.0, 1.0, 0.0, 5.0]])
    assert regions.class_ids.tolist() == [1]
    torch.testing.assert_close(regions.scores, torch.tensor([[0.0, 1.0, 0.0, 5.0]]).softmax(dim=1)[:, 1])


def test_no_attribute_does_not_count_in_the_softmax():
    regions = select([[0, 0, 50, 50]], [[1.0, 0, 0, 0]], attribute_logits=[[0.0, 1.0, 5.0]])
    assert regions.attribute_ids.tolist() == [1]
    torch.testing.assert_close(regions.attribute_scores, torch.tensor([[0.0, 1.0]]).softmax(dim=1)[:, 1])


@pytest.mark.parametrize(
    ("iou", "min_detections", "left"),
    [
        (0.45, 2, 2),  # both stay at once
        (0.55, 2, 2),  # at the second threshold
        (0.65, 2, 2),  # at the last one
        (0.75, 2, 1),  # at none: what the last one leaves
        (0.55, 1, 1),  # the first threshold leaves enough
    ],
)
def test_thresholds_are_tried_in_turn_until_enough_regions_are_left(iou, min_detections, left):
    settings = dataclasses.replace(FEW, min_detections=min_detections)
    regions = select(pair_of(iou), [[3.0, 0, 0, 0], [2.0, 0, 0, 0]], settings)
    assert len(regions.boxes) == left


def test_where_no_threshold_leaves_enough_the_last_one_holds():
    boxes = pair_of(0.65) + [[100, 100, 150, 150]]
    settings = dataclasses.replace(FEW, min_detections=9)
    assert len(select(boxes, [[3.0, 0, 0, 0]] * 3, settings).boxes) == 3


def test_there_are_at_most_max_detections():
    boxes = [[x, 0, x + 10, 10] for x in range(0, 200, 20)]
    settings = dataclasses.replace(FEW, max_detections=4)
    assert len(select(boxes, [[3.0, 0, 0, 0]] * 10, settings).boxes) == 4


def test_the_box_is_the_one_of_the_class_in_original_pixels():
    deltas = torch.zeros(1, 3, 4)
    deltas[0, 1] = torch.tensor([10.0, 0, 0, 0])  # one width to the right, for class 1
    regions = select([[20, 40, 60, 60]], [[0, 3.0, 0, 0]], box_deltas=deltas.flatten(1), image_size=(400, 100))
    torch.testing.assert_close(regions.boxes, torch.tensor([[120.0, 20, 200, 30]]))
    torch.testing.assert_close(regions.normalized_boxes, torch.tensor([[0.3, 0.2, 0.5, 0.3]]))


def test_no_proposal_no_region():
    regions = select([], [])
    assert [part.shape[0] for part in regions] == [0] * 7
    assert regions.boxes.shape == (0, 4)


# ------------------------------------------------------------------------------------------------------------ detector


def test_the_published_network_has_65_million_values_in_640_tensors():
    with torch.device("meta"):
        weights = FasterRCNNVG(FasterRCNNVGSettings()).state_dict()
    assert (len(weights), sum(weight.numel() for weight in weights.values())) == (640, 65_545_318)


@pytest.mark.parametrize(("pre_nms", "post_nms", "left"), [(7, 99, 7), (99, 6, 6)])
def test_the_best_anchors_are_proposed_as_many_as_may_enter_nms_and_leave_it(detector, pre_nms, post_nms, left):
    generator = small_detector().proposal_generator
    for parameter in generator.rpn_head.anchor_deltas.parameters():
        parameter.zero_()  # so that no box is empty, and a threshold of 1 suppresses none
    generator.settings = dataclasses.replace(SMALL, rpn_pre_nms=pre_nms, rpn_post_nms=post_nms, rpn_nms_threshold=1.0)
    feature_map = detector.backbone(preprocess(small_picture(), SMALL)[None])
    proposals, logits = generator(feature_map, (226, 151))
    assert proposals.shape == (left, 4)
    best = generator.rpn_head(feature_map)[0].flatten().topk(left).values
    assert torch.equal(logits, best)


def test_nothing_is_trained(detector):
    assert not any(parameter.requires_grad for parameter in detector.parameters())


def test_training_mode_changes_nothing(detector):
    pixels = preprocess(small_picture(), SMALL)
    in_training = small_detector().train()
    for trained, expected in zip(in_training(pixels, SIZE), detector(pixels, SIZE), strict=True):
        assert torch.equal(trained, expected)


def test_regions_that_go_through_the_last_stage_in_chunks_have_the_same_features(detector):
    feature_map = detector.backbone(preprocess(small_picture(), SMALL)[None])
    proposals = torch.rand(130, 4, generator=torch.Generator().manual_seed(0)) * 90
    proposals[:, 2:] += proposals[:, :2]
    assert len(proposals) > 2 * modeling_faster_rcnn_vg.REGIONS_AT_A_TIME
    at_once = detector.roi_heads.res5(detector.roi_heads.pool(feature_map, proposals)).mean(dim=(2, 3))
    torch.testing.assert_close(detector.roi_heads(feature_map, proposals), at_once)


def test_a_picture_in_which_nothing_is_proposed_has_no_region():
    blind = small_detector()
    blind.proposal_generator.rpn_head.anchor_deltas.bias[0::4] = -1e4  # every box leaves the picture
    regions = blind(preprocess(small_picture(), SMALL), SIZE)
    assert regions.boxes.shape == (0, 4)
    assert regions.features.shape == (0, 64)


def test_a_picture_as_thin_as_can_be_has_regions(detector):
    image = torch.full((3, 1, 500), 200, dtype=torch.uint8)
    regions = detector(preprocess(image, SMALL), (500, 1))
    assert len(regions.boxes) > 0
    assert regions.normalized_boxes.amin() >= 0
    assert regions.normalized_boxes.amax() <= 1 + 1e-6


def test_without_torchvision_pictures_are_prepared_and_the_detector_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision.ops", None)
    without = import_file(Path(modeling_faster_rcnn_vg.__file__))
    assert without.preprocess(small_picture(), SMALL).shape == (3, 151, 226)
    with pytest.raises(ImportError, match="pip install torchvision"):
        without.FasterRCNNVG(SMALL)


# ------------------------------------------------------------------------------------------------------------ settings


def test_settings_go_through_json():
    fields = json.loads(json.dumps(SMALL.to_dict()))
    assert fields == SMALL.to_dict()
    settings = FasterRCNNVGSettings(**fields)
    assert settings == SMALL
    assert hash(settings) == hash(SMALL)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("min_size", 0),
        ("max_detections", 2.5),
        ("num_classes", True),
        ("pixel_mean", (1, 2)),
        ("pixel_std", (1, 0, 1)),
        ("box_weights", 10),
        ("anchor_sizes", []),
        ("anchor_ratios", ["1"]),
        ("nms_thresholds", [0.5, 1.5]),
        ("rpn_nms_threshold", "0.7"),
        ("rpn_nms_threshold", math.nan),
        ("rpn_nms_threshold", math.inf),
        pytest.param("rpn_nms_threshold", 10**400, id="more than any float"),
    ],
)
def test_a_setting_out_of_range_is_named(field, value):
    with pytest.raises(ValueError, match=f"^{field}="):
        FasterRCNNVGSettings(**{field: value})


def write_config(folder: Path, **changes) -> Path:
    """The published file's sections and some of its many other keys; `changes` replace whole keys `section__key`."""
    config = {
        "model": {
            "max_pool": True,
            "device": "cuda",
            "pixel_mean": [102.9801, 115.9465, 122.7717],
            "pixel_std": [1.0, 1.0, 1.0],
        },
        "input": {"format": "BGR", "min_size_test": 800, "max_size_test": 1333, "max_size_train": 1000},
        "resnets": {
            "depth": 101,
            "norm": "BN",
            "num_groups": 1,
            "width_per_group": 64,
            "stem_out_channels": 64,
            "res2_out_channels": 256,
            "res5_dilation": 1,
            "stride_in_1x1": True,
            "out_features": ["res4"],
        },
        "anchor_generator": {"sizes": [[64, 128, 256, 512]], "aspect_ratios": [[0.5, 1.0, 2.0]], "offset": 0},
        "proposal_generator": {"hidden_channels": 512, "min_size": 0.0},
        "rpn": {
            "in_features": ["res4"],
            "nms_thresh": 0.7,
            "pre_nms_topk_test": 6000,
            "post_nms_topk_test": 300,
            "post_nms_topk_train": 2000,
            "bbox_reg_weights": [1.0, 1.0, 1.0, 1.0],
        },
        "roi_heads": {
            "in_features": ["res4"],
            "num_classes": 1600,
            "score_thresh_test": 0.2,
            "nms_thresh_test": [0.5, 0.6, 0.7],
        },
        "roi_box_head": {
            "attr": True,
            "num_attrs": 400,
            "res5halve": False,
            "pooler_resolution": 14,
            "pooler_sampling_ratio": 0,
            "cls_agnostic_bbox_reg": False,
            "bbox_reg_weights": [10.0, 10.0, 5.0, 5.0],
        },
        "size_divisibility": 0,
        "pad_value": 0.0,
        "min_detections": 36,
        "max_detections": 36,
    }
    for path, value in changes.items():
        *sections, key = path.split("__")
        (config[sections[0]] if sections else config)[key] = value
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def test_the_published_config_is_the_default(tmp_path):
    assert FasterRCNNVGSettings.from_published_config(write_config(tmp_path)) == FasterRCNNVGSettings()


@pytest.mark.parametrize("text", ["", "# nothing", "input: {}", "solver: {base_lr: 0.1}", "min_detections: 36"])
def test_what_a_config_lacks_has_the_published_value(tmp_path, text):
    (tmp_path / "config.yaml").write_text(text)
    assert FasterRCNNVGSettings.from_published_config(tmp_path / "config.yaml") == FasterRCNNVGSettings()


@pytest.mark.parametrize(
    ("key", "value", "field", "expected"),
    [
        ("input__min_size_test", 600, "min_size", 600),
        ("input__max_size_test", 1000, "max_size", 1000),
        ("model__pixel_mean", [1, 2, 3], "pixel_mean", (1, 2, 3)),
        ("model__pixel_std", [1, 2, 3], "pixel_std", (1, 2, 3)),
        ("resnets__stem_out_channels", 32, "stem_channels", 32),
        ("resnets__width_per_group", 32, "bottleneck_channels", 32),
        ("resnets__res2_out_channels", 128, "res2_channels", 128),
        ("resnets__norm", "nnSyncBN", "num_blocks", (3, 4, 23, 3)),
        ("anchor_generator__sizes", [[32, 64]], "anchor_sizes", (32, 64)),
        ("anchor_generator__aspect_ratios", [[1]], "anchor_ratios", (1,)),
        ("proposal_generator__hidden_channels", 1024, "rpn_channels", 1024),
        ("rpn__bbox_reg_weights", [1, 1, 2, 2], "rpn_box_weights", (1, 1, 2, 2)),
        ("rpn__pre_nms_topk_test", 2000, "rpn_pre_nms", 2000),
        ("rpn__post_nms_topk_test", 1000, "rpn_post_nms", 1000),
        ("rpn__nms_thresh", 0.6, "rpn_nms_threshold", 0.6),
        ("roi_heads__num_classes", 80, "num_classes", 80),
        ("roi_heads__nms_thresh_test", [0.4], "nms_thresholds", (0.4,)),
        ("roi_heads__nms_thresh_test", 0.4, "nms_thresholds", (0.4,)),
        ("roi_box_head__num_attrs", 20, "num_attributes", 20),
        ("roi_box_head__bbox_reg_weights", [1, 1, 2, 2], "box_weights", (1, 1, 2, 2)),
        ("roi_box_head__pooler_resolution", 7, "pooled_size", 7),
        ("min_detections", 10, "min_detections", 10),
        ("max_detections", 100, "max_detections", 100),
    ],
)
def test_a_config_sets(tmp_path, key, value, field, expected):
    settings = FasterRCNNVGSettings.from_published_config(write_config(tmp_path, **{key: value}))
    assert getattr(settings, field) == expected


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("input__format", "RGB"),
        ("size_divisibility", 32),
        ("model__max_pool", False),
        ("model__load_proposals", True),
        ("resnets__depth", 50),
        ("resnets__norm", "FrozenBN"),
        ("resnets__num_groups", 32),
        ("resnets__stride_in_1x1", False),
        ("resnets__res5_dilation", 2),
        ("resnets__out_features", ["res5"]),
        ("anchor_generator__offset", 0.5),
        ("proposal_generator__min_size", 16),
        ("rpn__in_features", ["res3"]),
        ("roi_heads__in_features", ["res5"]),
        ("roi_box_head__attr", False),
        ("roi_box_head__res5halve", True),
        ("roi_box_head__cls_agnostic_bbox_reg", True),
    ],
)
def test_a_config_that_asks_for_another_network_is_refused(tmp_path, key, value):
    path = write_config(tmp_path, **{key: value})
    with pytest.raises(ValueError, match=rf"config\.yaml: {key.replace('__', '.')} is .* built for") as error:
        FasterRCNNVGSettings.from_published_config(path)
    assert repr(value) in str(error.value)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a: [", "is not YAML"),
        ("\xff\xfe", "is not YAML"),
        ("[1, 2]", "no mapping"),
        ("anchor_generator: {sizes: [64, 128]}", "anchor_sizes=.*list of one list"),
        ("anchor_generator: {sizes: [[64], [128]]}", "anchor_sizes=.*list of one list"),
        ("min_detections: many", "min_detections='many': must be a whole number"),
    ],
)
def test_a_malformed_config_is_refused_with_its_path(tmp_path, text, problem):
    (tmp_path / "config.yaml").write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match=rf"config\.yaml.*{problem}"):
        FasterRCNNVGSettings.from_published_config(tmp_path / "config.yaml")


# Nine times nine times ... : four lines more would stand for gigabytes.
LAUGHS = "- &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"- &{name} [{', '.join(['*' + chr(ord(name) - 1)] * 9)}]\n" for name in "bcde"
)


@pytest.mark.parametrize(
    ("text", "place"),
    [
        (LAUGHS, r"line 2 has the alias \*a: write it out"),
        ("input: {format: BGR}\nlaughs:\n" + LAUGHS, r"line 4 has the alias \*a: write it out"),
        ("input: {}\nrpn: &rpn [*rpn]", r"line 2 has the alias \*rpn: write it out"),
        ("rpn: &rpn {nms_thresh: 0.7}\n\nroi_heads: {<<: *rpn}", r"line 3 has the alias \*rpn: write it out"),
    ],
    ids=["laughs alone", "laughs in a section", "an alias of itself", "a merge"],
)
def test_a_config_with_an_alias_is_refused_by_its_line_and_in_short(tmp_path, text, place):
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=rf"^{re.escape(str(path))} is not YAML of plain settings: {place}$"):
        FasterRCNNVGSettings.from_published_config(path)


def test_a_config_may_be_20_brackets_deep_and_no_deeper(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("input: {}\nother: " + "[" * 19 + "]" * 19)
    assert FasterRCNNVGSettings.from_published_config(path) == FasterRCNNVGSettings()
    path.write_text("input: {}\nother: " + "[" * 20 + "]" * 20)
    with pytest.raises(ValueError, match=r"config\.yaml is not YAML .*: line 2 is more than 20 brackets deep"):
        FasterRCNNVGSettings.from_published_config(path)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[" + "many, " * 9999 + "]", "a list is no mapping"),
        ("min_detections: " + "many" * 9999, "min_detections='manymany.* \\.\\.\\.: must be a whole number"),
        ("rpn: {nms_thresh: [" + "7, " * 9999 + "]}", r"rpn_nms_threshold=\[7, 7, .* \.\.\.: must be a number"),
        (
            "anchor_generator: {sizes: [" + "7, " * 9999 + "]}",
            r"anchor_sizes=\[7, 7, .* \.\.\.: must be a list of one",
        ),
        (
            "input: {format: " + "many" * 9999 + "}",
            r"input\.format is 'manymany.* \.\.\., but .* built for 'BGR' alone",
        ),
        ("input: {format: 0x" + "f" * 9999 + "}", r"input\.format is a number of more than 4300 digits, but"),
        ("rpn: {nms_thresh: 0x" + "f" * 9999 + "}", "rpn_nms_threshold=a number of more than 4300 digits: must be"),
        ("input: {? 0x" + "f" * 9999 + " : 1}", "4300 digits"),
        ("input: !!" + "many" * 9999 + " 1", "is not YAML of plain settings: could not determine a constructor"),
        ("input: *" + "many" * 9999, r"is not YAML of plain settings: line 1 has the alias \*manymany"),
    ],
    ids=lambda value: value[:24],
)
def test_however_long_the_values_of_a_config_its_error_is_short(tmp_path, text, problem):
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=rf"^{re.escape(str(path))}.*{problem}") as error:
        FasterRCNNVGSettings.from_published_config(path)
    assert len(str(error.value).removeprefix(str(path))) < 400


@pytest.mark.parametrize("value", ["!!int ''", "!!float ''", "!!bool many", "!!timestamp many"])
def test_a_value_that_belies_its_tag_is_refused_with_the_path(tmp_path, value):
    (tmp_path / "config.yaml").write_text(f"input: {value}")
    with pytest.raises(ValueError, match=r"config\.yaml is not YAML of plain settings"):
        FasterRCNNVGSettings.from_published_config(tmp_path / "config.yaml")


# ------------------------------------------------------------------------------------------------------------- loading

THIN_CONFIG = {
    "input__min_size_test": 64,
    "input__max_size_test": 96,
    "resnets__stem_out_channels": 2,
    "resnets__width_per_group": 2,
    "resnets__res2_out_channels": 4,
    "anchor_generator__sizes": [[32, 64]],
    "proposal_generator__hidden_channels": 4,
    "rpn__post_nms_topk_test": 20,
    "roi_heads__num_classes": 5,
    "roi_box_head__num_attrs": 3,
    "roi_box_head__pooler_resolution": 4,
    "min_detections": 5,
    "max_detections": 8,
}


@pytest.fixture(scope="module")
def thin_checkpoint(tmp_path_factory) -> Path:
    """The published format: as deep as the published network, and thin."""
    folder = tmp_path_factory.mktemp("thin")
    settings = FasterRCNNVGSettings.from_published_config(write_config(folder, **THIN_CONFIG))
    torch.save(small_weights(settings), folder / "pytorch_model.bin")
    return folder


@pytest.fixture
def change_checkpoint(thin_checkpoint, tmp_path):
    """`change_checkpoint(change)`: a copy of the thin checkpoint on whose weights `change` was called."""

    def copy(change) -> Path:
        folder = shutil.copytree(thin_checkpoint, tmp_path / "changed")
        weights = torch.load(folder / "pytorch_model.bin")
        change(weights)
        torch.save(weights, folder / "pytorch_model.bin")
        return folder

    return copy


def assert_same_regions(found: FasterRCNNVG, expected: FasterRCNNVG):
    pixels = preprocess(small_picture(), expected.settings)
    for a, b in zip(found(pixels, SIZE), expected(pixels, SIZE), strict=True):
        assert len(b) > 0
        assert torch.equal(a, b)


def test_a_published_checkpoint_loads_onto_the_meta_device_with_equal_outputs(thin_checkpoint):
    settings, weights = load_published_checkpoint(thin_checkpoint)
    with torch.device("meta"):
        loaded = FasterRCNNVG(settings)
    assert all(weight.is_meta for weight in loaded.state_dict().values())
    loaded.load_state_dict(weights, assign=True)
    assert_same_regions(loaded, small_detector(settings))


def test_the_file_format_of_an_older_torch_loads_too(thin_checkpoint, tmp_path):
    settings, expected = load_published_checkpoint(thin_checkpoint)
    shutil.copy(thin_checkpoint / "config.yaml", tmp_path)
    torch.save(expected, tmp_path / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    loaded_settings, weights = load_published_checkpoint(tmp_path)
    assert loaded_settings == settings
    assert all(torch.equal(weights[name], weight) for name, weight in expected.items())


def test_the_anchors_are_those_of_the_file(change_checkpoint):
    name = "proposal_generator.anchor_generator.cell_anchors.0"
    settings, weights = load_published_checkpoint(change_checkpoint(lambda weights: weights[name].mul_(2)))
    loaded = FasterRCNNVG(settings)
    loaded.load_state_dict(weights)
    torch.testing.assert_close(loaded.proposal_generator.anchor_generator(1, 1), 2 * AnchorGenerator(settings)(1, 1))


def drop_counters(weights: dict):
    for name in [name for name in weights if name.endswith("num_batches_tracked")]:
        del weights[name]


def reshape_counters(weights: dict):
    for name in [name for name in weights if name.endswith("num_batches_tracked")]:
        weights[name] = torch.tensor([7.0])


@pytest.mark.parametrize("change", [drop_counters, reshape_counters])
def test_counters_of_batch_norm_may_be_missing_or_odd(change_checkpoint, thin_checkpoint, change):
    _, weights = load_published_checkpoint(change_checkpoint(change))
    _, expected = load_published_checkpoint(thin_checkpoint)
    assert list(weights) == list(expected)
    for name, weight in expected.items():
        assert weights[name].shape == weight.shape
        assert torch.equal(weights[name], weight)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda w: w.pop("backbone.res2.0.shortcut.weight"), r"lacks 'backbone\.res2\.0\.shortcut\.weight'"),
        (lambda w: w.update({"roi_heads.pooler.x": torch.ones(1)}), r"has 'roi_heads\.pooler\.x'"),
        (lambda w: w.update({"backbone.stem.conv1.weight": torch.ones(2, 3)}), r"'backbone\.stem\.conv1\.weight' is"),
        (lambda w: w.update({"backbone.stem.conv1.weight": 3}), r"'backbone\.stem\.conv1\.weight' is a int"),
        (
            lambda w: w.update({"backbone.stem.conv1.weight": w["backbone.stem.conv1.weight"].half()}),
            r"'backbone\.stem\.conv1\.weight' is torch\.float16",
        ),
    ],
)
def test_a_weight_that_does_not_fit_is_named(change_checkpoint, change, problem):
    with pytest.raises(ValueError, match=rf"pytorch_model\.bin.*{problem}"):
        load_published_checkpoint(change_checkpoint(change))


def test_without_a_config_the_published_settings_hold(thin_checkpoint, tmp_path):
    shutil.copy(thin_checkpoint / "pytorch_model.bin", tmp_path)
    with pytest.raises(ValueError, match=r"conv1\.weight' is .* \(2, 3, 7, 7\): must be .* \(64, 3, 7, 7\)"):
        load_published_checkpoint(tmp_path)


class Malicious:
    """Unpickled, it would create a file."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_a_checkpoint_that_carries_code_is_refused_and_its_code_is_not_run(change_checkpoint, tmp_path):
    marker = tmp_path / "was_run"
    folder = change_checkpoint(lambda weights: weights.update(extra=Malicious(marker)))
    with pytest.raises(ValueError, match=r"pytorch_model\.bin .* carries code, which was not run"):
        load_published_checkpoint(folder)
    assert not marker.exists()
    torch.load(folder / "pytorch_model.bin", weights_only=False)
    assert marker.exists()  # it was malicious indeed


@pytest.mark.parametrize("content", [b"", b"version https://git-lfs.github.com/spec/v1\n", b"PK\x03\x04 cut off"])
def test_a_damaged_checkpoint_is_refused(thin_checkpoint, tmp_path, content):
    folder = shutil.copytree(thin_checkpoint, tmp_path / "damaged")
    (folder / "pytorch_model.bin").write_bytes(content)
    with pytest.raises(ValueError, match=r"pytorch_model\.bin .*damaged"):
        load_published_checkpoint(folder)


def test_a_file_of_anything_but_a_state_dict_is_refused(thin_checkpoint, tmp_path):
    folder = shutil.copytree(thin_checkpoint, tmp_path / "other")
    torch.save(torch.ones(3), folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match="holds a Tensor: must be a state dict"):
        load_published_checkpoint(folder)


def few_weights(zipped: bool) -> bytes:
    """A file of weights in today's format, or in that of an older torch."""
    file = io.BytesIO()
    weights = {f"backbone.res2.{number}.conv1.weight": torch.full((2, 3), number) for number in range(4)}
    torch.save(weights, file, _use_new_zipfile_serialization=zipped)
    return file.getvalue()


either_format = pytest.mark.parametrize("zipped", [True, False], ids=["zipped", "older"])


@either_format
def test_whichever_byte_of_the_weights_is_damaged_the_error_names_the_file(tmp_path, zipped):
    path, sound, rng = tmp_path / "weights.bin", few_weights(zipped), random.Random(900)
    refused = 0
    for _ in range(60):
        data = bytearray(sound)
        data[rng.randrange(min(900, len(data)))] = rng.randrange(256)
        path.write_bytes(data)
        try:
            weights = read_weights(path)
        except ValueError as error:
            refused += 1
            message = str(error)
            assert message.startswith(str(path)), message
            assert re.search("damaged|must be a (state dict|tensor)", message), message
            assert len(message.removeprefix(str(path))) < 400, message
        else:  # the byte says nothing, or it is a letter of a name
            assert all(isinstance(name, str) and isinstance(weights[name], torch.Tensor) for name in weights)
    assert refused > 15


@either_format
@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        (b"backbone.res2.3", b"backbone.\xffes2.3", "UnicodeDecodeError"),
        (b"h\x03h\x04", b"h\x03h\xaa", "KeyError"),  # of what was never read before
    ],
    ids=["a name", "a reference"],
)
def test_what_torch_does_not_catch_in_damaged_weights_is_said_to_be_damage(tmp_path, zipped, old, new, problem):
    path, sound = tmp_path / "weights.bin", few_weights(zipped)
    assert old in sound
    path.write_bytes(sound.replace(old, new))
    with pytest.raises(ValueError, match=rf"weights\.bin is damaged, download it again: {problem}: "):
        read_weights(path)


@pytest.mark.parametrize(
    ("weights", "problem"),
    [
        ({3: torch.ones(1)}, "has 3 where the name of a weight must be"),
        ({"model": {"weight": torch.ones(1)}}, "'model' is a dict: must be a tensor"),
        ({"many" * 9999: 3}, r"'manymany.* \.\.\. is a int: must be a tensor"),
    ],
)
def test_weights_are_tensors_by_their_names(tmp_path, weights, problem):
    path = tmp_path / "weights.bin"
    torch.save(weights, path)
    with pytest.raises(ValueError, match=rf"weights\.bin:? {problem}") as error:
        read_weights(path)
    assert len(str(error.value).removeprefix(str(path))) < 400


def test_a_file_of_weights_that_cannot_be_opened_is_not_called_damaged(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_weights(tmp_path / "weights.bin")
    with pytest.raises(IsADirectoryError):
        read_weights(tmp_path)


def test_a_folder_without_weights_says_what_is_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match="has no pytorch_model.bin"):
        load_published_checkpoint(tmp_path)


def test_a_repo_of_the_hub_loads_as_its_folder_does(thin_checkpoint, tmp_path):
    code = """
import torch
from modeling_faster_rcnn_vg import load_published_checkpoint
settings, weights = load_published_checkpoint("org/thin", revision="{revision}", cache_dir="cache")
expected_settings, expected = load_published_checkpoint("{folder}")
assert settings == expected_settings
assert all(torch.equal(weights[name], expected[name]) for name in expected)
try:
    load_published_checkpoint("org/bare")
except ValueError as error:
    assert "(64, 3, 7, 7)" in str(error), error  # the published settings
else:
    raise AssertionError("a repo without config.yaml has the published settings")
"""
    bare = tmp_path / "bare"
    bare.mkdir()
    shutil.copy(thin_checkpoint / "pytorch_model.bin", bare)
    with HubServer() as hub:
        revision = hub.add_repo("org/thin", thin_checkpoint)
        hub.add_repo("org/thin", bare)  # main is another revision now
        hub.add_repo("org/bare", bare)
        run_client(hub, code.format(revision=revision, folder=thin_checkpoint), tmp_path)
