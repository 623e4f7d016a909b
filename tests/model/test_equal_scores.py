"""Regions whose scores tie stand in one order, whatever the library, the number of boxes and the machine."""

import pytest
import torch
from test_modeling_vision import picture
from test_object_detectors import FAMILIES, backbone, saved, vision_model  # noqa: F401
from torch import nn
from torchvision.ops import batched_nms

from configuration_hamlearning import HamLearningVisionConfig
from modeling_faster_rcnn_vg import FasterRCNNVGSettings, ProposalGenerator
from modeling_hamlearning_vision import MaskRCNNDetector, StableOrder


def boxes_apart(count: int) -> torch.Tensor:
    """Boxes (n, 4) that do not touch each other."""
    left = 10.0 * torch.arange(count)
    return torch.stack([left, torch.zeros(count), left + 5, torch.full((count,), 5.0)], dim=1)


@pytest.mark.parametrize("count", [1_000, 1_001, 5_000])
def test_suppression_within_each_class_keeps_the_order_of_equal_scores(count):
    with StableOrder():
        kept = batched_nms(boxes_apart(count), torch.full((count,), 0.5), torch.arange(count) % 7, 0.5)
    assert kept.tolist() == list(range(count))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64], ids=str)
@pytest.mark.parametrize("largest", [True, False])
def test_the_first_of_equal_values_come_first(dtype, largest):
    values = torch.tensor([[1, 3, 2] * 700, [2, 2, 1] * 700]).to(dtype)
    expected = [
        sorted(range(2100), key=lambda place: (-row[place] if largest else row[place], place))
        for row in values.tolist()
    ]
    with StableOrder():
        for topk in (
            torch.topk(values, 900, largest=largest),
            values.topk(900, 1, largest),
            torch.topk(values, k=900, axis=-1, largest=largest),
        ):
            assert topk.indices.tolist() == [row[:900] for row in expected]
            assert torch.equal(topk.values, values.gather(1, topk.indices))
        for found in (
            values.sort(descending=largest),
            torch.sort(values, -1, largest),
            torch.sort(values, dim=1, descending=largest, stable=False),
        ):
            assert found.indices.tolist() == expected
            assert torch.equal(found.values, values.gather(1, found.indices))
        for found in (values.argsort(descending=largest), torch.argsort(values, 1, largest)):
            assert found.tolist() == expected
        assert torch.topk(values.T, 900, dim=0, largest=largest).indices.T.tolist() == [row[:900] for row in expected]


def test_outside_of_it_torch_sorts_as_ever():
    values = torch.rand(50)
    with StableOrder():
        inside = values.topk(5)
    assert torch.equal(inside.values, values.topk(5).values) and torch.equal(inside.indices, values.topk(5).indices)


def test_proposals_of_equal_logits_are_the_first_anchors():
    settings = FasterRCNNVGSettings(res2_channels=8, rpn_channels=8, anchor_sizes=(16,), rpn_nms_threshold=1.0)
    generator = ProposalGenerator(settings)
    for parameter in generator.rpn_head.parameters():
        nn.init.zeros_(parameter)
    with torch.no_grad():
        boxes, logits = generator(torch.rand(1, 32, 40, 60), (960, 640))
    assert (logits == 0).all()
    anchors = generator.anchor_generator(40, 60).detach().clamp(min=0)
    anchors = anchors[((anchors[:, 2:] - anchors[:, :2]) > 0).all(dim=1)]
    expected = anchors.minimum(torch.tensor([960.0, 640, 960, 640]))[: settings.rpn_post_nms]
    torch.testing.assert_close(boxes, expected)


@pytest.mark.parametrize("name", ["rt_detr", "deformable_detr"])
def test_a_detector_that_is_sure_of_nothing_gives_its_first_regions(name, backbone, tmp_path):  # noqa: F811
    vision = vision_model(backbone, saved(FAMILIES[name], tmp_path), max_regions=100)
    for module in vision.detector.modules():
        if isinstance(module, nn.Linear) and module.out_features == 7:  # the classes
            nn.init.zeros_(module.weight)
            nn.init.zeros_(module.bias)
    output = vision(picture(150, 100))
    assert (output.region_scores == 0.5).all()
    assert output.region_class_ids[0].tolist() == [place % 7 for place in range(output.region_boxes.shape[1])]


def test_mask_rcnn_gives_equal_regions_in_the_order_of_its_proposals():
    detector = MaskRCNNDetector(HamLearningVisionConfig(detector="mask_rcnn_coco")).eval()
    model = detector.model
    model.transform.min_size, model.transform.max_size = (64,), 128
    heads = model.roi_heads
    model.rpn._post_nms_top_n["testing"] = 12  # with 90 classes each 1,080 candidates
    heads.score_thresh, heads.detections_per_img, heads.nms_thresh = 0.0, 100, 1.0
    for layer in (heads.box_predictor.cls_score, heads.box_predictor.bbox_pred):
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
    with torch.no_grad():
        found = detector(detector.prepare(picture(60, 40), None), (60, 40))
    assert len(found.scores.unique()) == 1
    # A proposal is a candidate of each class in turn.
    assert found.class_ids.tolist() == [1 + place % 90 for place in range(100)]
