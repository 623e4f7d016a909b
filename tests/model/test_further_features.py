"""What a vision model gives of a picture beside its regions: cells of its square, and pyramids."""

import numpy as np
import pytest
import torch
from PIL import Image
from test_modeling_vision import lively
from torch import nn

from configuration_hamlearning import HamLearningVisionConfig
from modeling_hamlearning_vision import (
    MAX_CROPPED,
    HamLearningVisionModel,
    centre_crop,
    crop_regions,
    lasting_settings,
    prepare_image,
)
from networks_hamlearning import is_installed
from tiny_world import BACKBONE, VISION, make_pyramid_model


BOTH = ["grid_features", "pyramid_features"]


def picture(width: int = 120, height: int = 80, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8))


def make_vision(names=tuple(BOTH), runtime: str | None = "torch", **fields) -> HamLearningVisionModel:
    vision = lively(make_pyramid_model(**fields))
    vision.settle_more_features(names)
    vision.runtime = runtime
    return vision


@pytest.fixture(scope="module")
def vision() -> HamLearningVisionModel:
    return make_vision()


def pyramids_of(vision, image) -> np.ndarray:
    (row,) = vision.extract_images([image])
    return row["pyramid_features"]


def test_a_pyramid_is_four_cells_of_each_channel_of_the_four_stages():
    vision, image = make_vision(resize_size=256, crop_size=224), picture(300, 260)
    found = pyramids_of(vision, image)
    assert found.shape == (3, 15360)
    network, maps = vision.global_backbone.timm_model, []
    for name in ("layer1", "layer2", "layer3", "layer4"):
        getattr(network, name).register_forward_hook(lambda module, given, output: maps.append(output[0]))
    square = np.asarray(centre_crop(image, 256, 224, Image.Resampling.BILINEAR), np.float32) / 255
    mean, std = (torch.tensor(values) for values in (vision.config.image_mean, vision.config.image_std))
    pixels = (torch.from_numpy(square) - mean) / std
    with torch.no_grad():
        network(pixels.permute(2, 0, 1)[None])
    assert [tuple(stage.shape) for stage in maps] == [(256, 56, 56), (512, 28, 28), (1024, 14, 14), (2048, 7, 7)]
    expected = []
    for stage in maps:
        side = stage.shape[1] // 2  # of 7 x 7 the last row and column are in no cell
        for top, left in ((0, 0), (0, side), (side, 0), (side, side)):
            expected.append(stage[:, top : top + side, left : left + side].mean(dim=(1, 2)))
    expected = torch.cat([torch.stack(expected[4 * i : 4 * i + 4], dim=1) for i in range(4)])  # (3840, 4)
    torch.testing.assert_close(torch.from_numpy(found[0]), expected.flatten(), rtol=1e-4, atol=1e-4)


def test_further_pyramids_are_those_of_the_best_regions(vision):
    image = picture()
    whole, left, right = pyramids_of(vision, image)
    for found, box in ((whole, (0, 0, 120, 80)), (left, (0, 0, 60, 80)), (right, (60, 0, 120, 80))):
        np.testing.assert_allclose(found, pyramids_of(vision, image.crop(box))[0], rtol=1e-4, atol=1e-4)


def test_no_more_than_three_regions_have_one(vision):
    many = make_vision(detector_settings={"rows": 2, "columns": 4})
    assert pyramids_of(many, picture()).shape == (4, 15360)


def test_the_grid_is_the_cells_whose_mean_is_the_picture(vision):
    (row,) = vision.extract_images([picture()])
    assert row["grid_features"].shape == (4, 2048)
    np.testing.assert_allclose(row["grid_features"].mean(axis=0), row["image_features"], rtol=1e-5, atol=1e-5)


def test_any_backbone_gives_a_grid():
    vision = HamLearningVisionModel(HamLearningVisionConfig(global_backbone_config=BACKBONE, **VISION))
    vision.settle_more_features(["grid_features"])
    (row,) = vision.extract_images([picture()])
    assert row["grid_features"].shape == (1, 16) and vision.more_feature_sizes == {"grid_features": 16}


def test_a_picture_has_the_same_ones_beside_others(vision):
    images = [picture(seed=seed) for seed in range(3)]
    together = vision.extract_images([images[0], None, *images[1:]])
    assert together[1] is None
    for image, row in zip(images, together[:1] + together[2:], strict=True):
        for name in BOTH:
            np.testing.assert_allclose(row[name], vision.extract_images([image])[0][name], rtol=1e-5, atol=1e-5)


def test_who_does_not_ask_gets_what_was_before():
    vision = make_pyramid_model()
    settings = vision.config.to_dict()
    before = {name: value for name, value in settings.items() if name != "more_features"}
    assert settings["more_features"] is None and lasting_settings(settings) == lasting_settings(before)
    (row,) = vision.extract_images([picture()])
    assert not row.keys() & set(BOTH)
    assert prepare_image(picture(), vision.config).pixels is None
    assert vision(picture()).keys().isdisjoint([*BOTH, "pyramid_mask"])


def test_what_is_asked_for_is_a_part_of_the_fingerprint_in_one_order():
    fingerprints = {}
    vision = make_pyramid_model()
    for names in ((), BOTH[:1], BOTH[1:], BOTH):
        vision.settle_more_features(names)
        fingerprints[tuple(names)] = vision.fingerprint()
    assert len(set(fingerprints.values())) == 4
    vision.settle_more_features(BOTH[::-1])
    assert vision.fingerprint() == fingerprints[tuple(BOTH)]


def test_what_is_asked_for_is_saved_with_the_vision_model(vision, tmp_path):
    vision.save_pretrained(tmp_path)
    loaded = HamLearningVisionModel.from_pretrained(tmp_path)
    loaded.runtime = "torch"
    assert loaded.config.more_features == BOTH and loaded.fingerprint() == vision.fingerprint()
    np.testing.assert_array_equal(pyramids_of(loaded, picture()), pyramids_of(vision, picture()))


def test_called_as_a_model_it_pads_them(vision):
    output = vision([picture(), None])
    assert output.grid_features.shape == (2, 4, 2048) and output.pyramid_features.shape == (2, 4, 15360)
    assert output.pyramid_mask.tolist() == [[1, 1, 1, 0], [0, 0, 0, 0]]
    assert not output.grid_features[1].any() and not output.pyramid_features[~output.pyramid_mask.bool()].any()
    np.testing.assert_array_equal(output.pyramid_features[0, :3].numpy(), pyramids_of(vision, picture()))


@pytest.mark.skipif(not is_installed(), reason="needs OpenVINO: pip install -e '.[export]'")
def test_openvino_gives_the_same(vision, caplog):
    found = pyramids_of(make_vision(runtime="openvino"), picture())
    expected = pyramids_of(vision, picture())
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    assert not caplog.text


def test_in_bfloat16_they_are_near(vision):
    rough = make_vision()
    rough.config.bfloat16_parts = ["global_backbone"]
    found, expected = pyramids_of(rough, picture()), pyramids_of(vision, picture())
    assert 0 < np.abs(found - expected).max() < 0.02 * np.abs(expected).max()


# -------------------------------------------------------------------------------------------------------- refusals


def test_a_backbone_of_other_stages_gives_no_pyramid():
    vision = HamLearningVisionModel(HamLearningVisionConfig(global_backbone_config=BACKBONE, **VISION))
    message = r"pyramid_features of the backbone test_convnext, whose stages have \[8, 8, 8, 16\] ch.* ResNet-50"
    with pytest.raises(ValueError, match=message):
        vision.settle_more_features(BOTH)
    assert vision.config.more_features is None


def test_a_config_that_asks_for_the_pyramid_of_such_a_backbone_makes_no_model():
    config = HamLearningVisionConfig(global_backbone_config=BACKBONE, more_features=BOTH, **VISION)
    with pytest.raises(ValueError, match="pyramid_features of the backbone test_convnext"):
        HamLearningVisionModel(config)


def test_a_square_whose_last_map_is_one_cell_gives_no_pyramid():
    with pytest.raises(ValueError, match="crop_size=32: the last map of resnet50 has one cell"):
        make_vision(resize_size=40, crop_size=32)


def test_an_unknown_name_is_refused():
    with pytest.raises(ValueError, match="more_features has 'pyramid': must be of grid_features, pyramid_features"):
        make_pyramid_model().settle_more_features(["pyramid"])
    with pytest.raises(ValueError, match=r"more_features=\['pyramid'\]: must be of grid_features"):
        HamLearningVisionConfig(more_features=["pyramid"])


# ------------------------------------------------------------------------------------------------- cutting regions out


@pytest.mark.parametrize(
    "box",
    [(0.5, 0.5, 1, 1), (0.0, 0.0, 1e-6, 1e-6), (1.0, 1.0, 0.01, 0.01), (0.5, 0.5, 1.0, 1e-4), (0.1, 0.5, 1e-4, 0.2)],
)
def test_any_box_is_cut_out_as_a_square(vision, box):
    pixels = torch.randint(0, 256, (3, 80, 1200), dtype=torch.uint8)
    (crop,) = crop_regions(pixels, np.array([box], np.float32), vision.config)
    assert crop.shape == (3, 64, 64) and crop.dtype == torch.uint8


def test_a_region_is_cut_at_whole_pixels(vision):
    pixels = torch.zeros(3, 90, 100, dtype=torch.uint8)
    pixels[:, 30:60, 20:50] = 200
    (inside,) = crop_regions(pixels, np.array([[0.35, 0.5, 1 / 3, 0.3]], np.float32), vision.config)
    assert (inside == 200).all()


def test_of_a_large_picture_no_more_is_kept_than_crops_need(vision):
    prepared = prepare_image(Image.new("RGB", (4096, 1024)), vision.config)
    assert prepared.size == (4096, 1024) and prepared.pixels.shape == (3, 512, MAX_CROPPED)


def test_a_pyramid_does_not_hold_folded_weights_twice():
    vision = make_vision()
    pyramids_of(vision, picture())
    assert [*vision.networks.folded] == ["global_backbone"]
    folded = vision.networks.folded["global_backbone"]
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
