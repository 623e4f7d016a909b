"""Every backbone of timm: what lies in a corner of the picture changes the features of that corner; or a refusal."""

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from test_modeling_vision import lively
from transformers import TimmWrapperConfig, TimmWrapperModel

from configuration_hamlearning import HamLearningVisionConfig
from modeling_hamlearning_vision import HamLearningVisionModel, lasting_settings, prepare_image, whole_size


GRID = {"rows": 2, "columns": 4}
WIDE, TALL, VERY_WIDE = (640, 360), (300, 450), (1280, 320)
SMALL = {"depth": 2, "embed_dim": 64, "num_heads": 2}


@pytest.fixture
def make_vision(tmp_path):
    """`make_vision(architecture, model_args, **fields)`: a vision model with a grid on new weights of timm's."""

    def make(architecture, model_args=None, sure=False, **fields):
        torch.manual_seed(0)
        published = timm.get_pretrained_cfg(architecture)
        backbone = TimmWrapperModel(
            TimmWrapperConfig(
                architecture=architecture,
                model_args=model_args,
                pretrained_cfg=published.to_dict() if published is not None else None,
            )
        )
        (lively(backbone) if sure else backbone).save_pretrained(tmp_path / architecture)
        return HamLearningVisionModel.from_backbone_detector_pretrained(
            str(tmp_path / architecture), "grid", detector_settings=GRID, **fields
        )

    return make


def changed_regions(vision, size, place) -> list[int]:
    """The grid's regions, the one first whose features a bright patch in the middle of region `place` changes most."""
    width, height = size
    noise = np.random.default_rng(0).integers(100, 156, (height, width, 3), np.uint8)
    row, column = divmod(place, GRID["columns"])
    patch = noise.copy()
    top, left = round((row + 0.3) * height / GRID["rows"]), round((column + 0.3) * width / GRID["columns"])
    bottom, right = top + round(0.4 * height / GRID["rows"]), left + round(0.4 * width / GRID["columns"])
    patch[top:bottom, left:right] = (255, 0, 255)
    before, after = vision([Image.fromarray(noise), Image.fromarray(patch)]).region_features
    return (after - before).norm(dim=1).argsort(descending=True).tolist()


def assert_regions_in_place(vision, size):
    for place in (0, 3, 4, 7, 5):
        assert changed_regions(vision, size, place)[0] == place, (vision.global_backbone.config.architecture, place)


# ------------------------------------------------------------------------------------------------- some tiny networks

FREE = {"fixed_input_size": False}
PATCHES_OF_14 = {"patch_size": 14, "img_size": 70, "dynamic_img_size": True}
SIZE_OF_14 = {"crop_size": 140, "resize_size": 140}
TINY = {  # architecture, arguments, fields; and what the sides of its pictures are multiples of, None for one square
    "ResNet": ("test_resnet", None, {}, 1),
    "MambaOut, (h, w, channels)": ("test_mambaout", None, {}, 1),
    "ViT of one size": ("test_vit3", None, {}, None),
    "ViT of any size": ("test_vit", None, FREE, 16),
    "ViT of patches of 14": ("test_vit2", PATCHES_OF_14, FREE | SIZE_OF_14, 14),
    "DINOv3": ("vit_small_patch16_dinov3", SMALL, FREE, 16),
    "NaFlexViT": ("naflexvit_base_patch16_siglip", SMALL, {}, 16),
}


@pytest.mark.parametrize("size", [WIDE, TALL, VERY_WIDE], ids=str)
@pytest.mark.parametrize("architecture, model_args, fields, multiple", TINY.values(), ids=TINY.keys())
def test_features_of_a_region_are_those_of_its_place(make_vision, size, architecture, model_args, fields, multiple):
    vision = make_vision(architecture, model_args, **fields)
    assert vision.config.fixed_input_size == (multiple is None)
    assert vision.config.size_multiple == (multiple or 1)
    assert_regions_in_place(vision, size)


@pytest.mark.parametrize("architecture, model_args", [("vit_small_patch16_dinov3", SMALL), ("test_resnet", None)])
def test_the_map_has_the_pictures_own_height_and_width(make_vision, architecture, model_args):
    vision = make_vision(architecture, model_args, fixed_input_size=False, crop_size=224)
    width, height = whole_size(VERY_WIDE, vision.config)
    assert (width, height) == (896, 224)
    stride = vision.global_backbone.timm_model.feature_info[-1]["reduction"]
    found = vision.feature_map(torch.zeros(1, 3, height, width, dtype=torch.uint8))
    assert found.shape == (1, vision.image_feature_size, height // stride, width // stride)


def test_a_vision_transformer_saved_and_loaded_takes_the_same_pictures(make_vision, tmp_path):
    vision = make_vision("vit_small_patch16_dinov3", SMALL, **FREE)
    vision.save_pretrained(tmp_path / "vision")
    loaded = HamLearningVisionModel.from_pretrained(tmp_path / "vision")
    image = Image.new("RGB", VERY_WIDE, (200, 30, 90))
    assert loaded.config.size_multiple == 16
    assert torch.equal(loaded(image).region_features, vision(image).region_features)


@pytest.mark.parametrize(
    "size, multiple, whole",
    [
        ((640, 480), 1, (299, 224)),
        ((640, 480), 16, (304, 224)),
        ((480, 640), 14, (224, 294)),
        ((300, 300), 32, (224, 224)),
        ((300, 300), 100, (300, 300)),
    ],
)
def test_sides_of_the_whole_picture_are_multiples(size, multiple, whole):
    config = HamLearningVisionConfig(detector="grid", size_multiple=multiple)
    assert prepare_image(Image.new("RGB", size), config).whole.shape == (3, *whole[::-1])


@pytest.mark.parametrize("multiple", [0, -16])
def test_a_multiple_below_one_is_refused(multiple):
    with pytest.raises(ValueError, match=f"size_multiple={multiple}: must be at least 1"):
        HamLearningVisionConfig(size_multiple=multiple)


def test_a_vision_model_of_any_size_is_the_one_it_was_before_there_were_multiples():
    settings = HamLearningVisionConfig(detector="grid").to_dict()
    before = {name: value for name, value in settings.items() if name != "size_multiple"}
    assert lasting_settings(settings) == lasting_settings(before)
    assert lasting_settings(settings | {"size_multiple": 16}) != lasting_settings(before)


# ------------------------------------------------------------------------------------------------------------ refusals

REFUSED = {
    "pit_ti_224": "gives \\(1, 1, 256\\) for a picture of 224 x 224 pixels, no map of 256 features",
    "volo_d1_224": "gives \\(1, 197, 384\\) for a picture of 224 x 224 pixels, no map of 384 features",
    "crossvit_tiny_240": "gives list for a picture of 240 x 240 pixels, no map of 288 features",
}


@pytest.mark.parametrize("architecture", REFUSED)
def test_a_backbone_without_a_map_is_refused_by_its_name(make_vision, architecture):
    with pytest.raises(ValueError, match=f"^{architecture} {REFUSED[architecture]}: give another backbone, such as "):
        make_vision(architecture)


def test_a_crop_that_the_patches_do_not_fill_is_refused(make_vision):
    message = "vit_small_patch16_dinov3 takes no pictures of 100 x 100 pixels and larger .*: give another crop_size"
    with pytest.raises(ValueError, match=message):
        make_vision("vit_small_patch16_dinov3", SMALL, crop_size=100, fixed_input_size=False)


def test_maps_of_several_stages_are_refused():
    backbone = TimmWrapperConfig(architecture="test_resnet", model_args={"features_only": True})
    with pytest.raises(ValueError, match="global_backbone_config.model_args has 'features_only'"):
        HamLearningVisionModel(HamLearningVisionConfig(global_backbone_config=backbone, detector="grid"))


def test_a_map_that_is_none_is_refused_when_pictures_come(make_vision):
    """Of a config that was written by hand, which nobody has tried."""
    vision = HamLearningVisionModel(
        HamLearningVisionConfig(
            global_backbone_config=TimmWrapperConfig(architecture="pit_ti_224"), detector="grid", fixed_input_size=True
        )
    )
    with pytest.raises(ValueError, match=f"^pit_ti_224 {REFUSED['pit_ti_224']}"):
        vision(Image.new("RGB", WIDE))
