"""bfloat16 in the vision model: where it is taken, and what stays as it was."""

import logging

import numpy as np
import pytest
from test_networks import VG, make_vision_model, pictures

import networks_hamlearning
from configuration_hamlearning import HamLearningVisionConfig
from modeling_hamlearning_vision import HamLearningVisionModel


@pytest.fixture(scope="module")
def of_regions() -> HamLearningVisionModel:
    return make_vision_model(detector="faster_rcnn_vg", detector_settings=VG)


@pytest.fixture(params=["torch", None], ids=["torch", "openvino"])
def vision(request) -> HamLearningVisionModel:
    vision = make_vision_model()
    vision.runtime = request.param
    return vision


def largest_difference(found: list, expected: list, name: str) -> float:
    largest = max(np.abs(row[name]).max() for row in expected)
    return max(np.abs(row[name] - other[name]).max() for row, other in zip(found, expected, strict=True)) / largest


def test_features_in_bfloat16_are_near_those_in_float32_and_others(vision):
    exact = vision.extract_images(pictures())
    vision.config.bfloat16_parts = ["global_backbone"]
    found = vision.extract_images(pictures())
    multiplies_it = vision.runtime == "torch" or networks_hamlearning.has_bf16()
    for name in ("image_features", "features"):
        difference = largest_difference(found, exact, name)
        assert difference < 0.03 and (difference > 0 or not multiplies_it)


def test_a_backbone_that_is_too_coarse_stays_in_float32(monkeypatch, caplog):
    vision = make_vision_model()
    monkeypatch.setattr("modeling_hamlearning_vision.MAX_BFLOAT16_ERROR", 0.0)
    with caplog.at_level(logging.WARNING):
        vision.settle_precision("bfloat16")
    assert vision.config.bfloat16_parts is None
    assert "off, so it is computed in float32" in caplog.text


def test_a_backbone_that_keeps_within_a_percent_is_computed_in_bfloat16():
    vision = make_vision_model()
    vision.settle_precision("bfloat16")
    assert vision.config.bfloat16_parts == ["global_backbone"]
    vision.settle_precision("float32")
    assert vision.config.bfloat16_parts is None


@pytest.mark.parametrize("has_bf16", [True, False])
def test_who_has_no_such_processor_is_told_that_nothing_gets_faster(monkeypatch, caplog, has_bf16):
    monkeypatch.setattr("modeling_hamlearning_vision.has_bf16", lambda: has_bf16)
    with caplog.at_level(logging.WARNING):
        make_vision_model().settle_precision("bfloat16")
    assert ("this processor does not multiply it" in caplog.text) == (not has_bf16)


def test_features_of_two_precisions_have_two_fingerprints_and_float32_its_former_one():
    vision = make_vision_model()
    before = vision.fingerprint()
    vision.settle_precision("bfloat16")
    assert vision.fingerprint() != before
    vision.settle_precision("float32")
    assert vision.fingerprint() == before


def test_the_precision_is_saved_with_the_vision_model(tmp_path):
    vision = make_vision_model()
    vision.settle_precision("bfloat16")
    vision.save_pretrained(tmp_path)
    found = HamLearningVisionModel.from_pretrained(tmp_path)
    assert found.config.bfloat16_parts == ["global_backbone"] and found.fingerprint() == vision.fingerprint()


@pytest.mark.parametrize("runtime", ["torch", None], ids=["torch", "openvino"])
def test_regions_chosen_in_bfloat16_have_the_numbers_of_float32(of_regions, runtime):
    of_regions.runtime = runtime
    of_regions.config.bfloat16_parts = None
    exact = of_regions.extract_images(pictures())
    of_regions.config.bfloat16_parts = ["detector"]
    found = of_regions.extract_images(pictures())
    same = 0
    for row, other in zip(found, exact, strict=True):
        for box, features in zip(row["boxes"], row["features"], strict=True):
            distance = np.abs(other["boxes"] - box).max(axis=1)
            if distance.min() < 1e-5:
                np.testing.assert_allclose(features, other["features"][distance.argmin()], atol=1e-4)
                same += 1
        assert (np.diff(row["scores"]) <= 0).all()
    assert same >= 0.9 * sum(len(row["boxes"]) for row in exact)


def test_another_precision_is_refused():
    with pytest.raises(ValueError, match="precision='int8': must be one of float32, bfloat16"):
        make_vision_model().settle_precision("int8")


@pytest.mark.parametrize("detector, parts", [("grid", ["detector"]), ("faster_rcnn_vg", ["eyes"])])
def test_a_part_that_there_is_not_is_refused(detector, parts):
    with pytest.raises(ValueError, match=f"bfloat16_parts=.* with detector='{detector}': must be of global_backbone"):
        HamLearningVisionConfig(detector=detector, bfloat16_parts=parts)
