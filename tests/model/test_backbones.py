"""Every backbone of timm: what lies in a corner of the picture changes the features of that corner; or a refusal."""

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from test_modeling_vision import lively
from transformers import TimmWrapperConfig, TimmWrapperModel

from configuration_hamlearning import HamLearningVisionConfig
from modeling_hamlearning_vision import (
    HamLearningVisionModel,
    _backbone_fields,
    _cells,
    lasting_settings,
    prepare_image,
    whole_size,
)


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


# ---------------------------------------------------------------------------------------------- a model of each family

ONE_SQUARE = """
    beit_base_patch16_224 halonet26t cait_xxs24_224 convit_tiny deit_tiny_patch16_224 efficientformer_l1
    efficientformerv2_s0 efficientvit_m0 eva02_tiny_patch14_224 gcvit_xxtiny hiera_tiny_224 levit_384_s8
    test_maxvit test_coatnet gmlp_ti16_224 mvitv2_tiny nest_tiny sequencer2d_s swiftformer_xs swin_s3_tiny_224
    swinv2_tiny_window8_256 swinv2_cr_tiny_224 tnt_s_patch16_224 twins_svt_small visformer_tiny test_vit
    test_vit2 test_vit3 test_vit4 vit_tiny_r_s16_p8_224 test_vit_relpos samvit_base_patch16 vitamin_small_224
    xcit_nano_12_p8_224
""".split()
ANY_SIZE = """
    test_byobnet convmixer_768_32 test_convnext test_convnext2 test_convnext3 cpubone_nano cs3darknet_s
    cspnext_tiny davit_tiny densenet264d dpn68 edgenext_xx_small test_efficientnet test_efficientnet_gn
    test_efficientnet_ln test_efficientnet_evos efficientvit_b0 fasternet_t0 fastvit_s12 focalnet_tiny_lrf
    ghostnet_050 hardcorenas_a hgnetv2_b0 iformer_s inception_next_atto inception_resnet_v2 inception_v3
    inception_v4 lcnetv2_small lowformer_b0 test_mambaout caformer_s18 lcnet_050 mobilenetv5_base mobilevit_xxs
    nasnetalarge nextvit_small test_nfnet pnasnet5large pvt_v2_b0 rdnet_tiny regnetx_002 repghostnet_050
    repvit_m0_9 res2net50_26w_4s resnest26d test_resnet resnetv2_18 rexnet_100 selecsls42 legacy_senet154
    shvit_s1 skresnet18 starnet_s050 tiny_vit_5m_224 vgg11 ese_vovnet19b_slim legacy_xception xception41
""".split()
MULTIPLES = {
    "csatv2": 64,
    "deepseek_vit_412m": 14,
    "dla34": 32,
    "gemma4_vit_167m": 16,
    "hrnet_w18_small": 32,
    "naflexvit_base_patch16_siglip": 16,
    "qwen3_vit_88m": 16,
    "sam2_hiera_tiny": 32,
    "tresnet_l": 32,
}
WITHOUT_A_MAP = ["coat_tiny", "crossvit_tiny_240", "efficientvim_m1", "pit_xs_224", "volo_d1_224"]
TOO_LARGE = {
    "deepseek_vit_412m": SMALL,
    "gemma4_vit_167m": {"depth": 2},
    "naflexvit_base_patch16_siglip": {"depth": 2},
    "qwen3_vit_88m": {"depth": 2},
    "samvit_base_patch16": SMALL,
}
# Of timm's own new weights next to nothing comes through these.
FAINT = ["lcnet_050", "lcnetv2_small", "mobilevit_xxs", "shvit_s1", "tiny_vit_5m_224"]
MIXED = ["levit_384_s8"]  # of new weights, its last attention gives every cell the mean of all


def new_vision_model(architecture) -> HamLearningVisionModel:
    """As `from_backbone_detector_pretrained` makes it of published weights, but of new ones."""
    torch.manual_seed(0)
    published = timm.get_pretrained_cfg(architecture).to_dict()
    backbone = TimmWrapperModel(
        TimmWrapperConfig(architecture=architecture, model_args=TOO_LARGE.get(architecture), pretrained_cfg=published)
    ).eval()
    if architecture in FAINT:
        lively(backbone)
    config = HamLearningVisionConfig(
        global_backbone_config=backbone.config, detector="grid", **_backbone_fields(published)
    )
    vision = HamLearningVisionModel(config, backbone)
    vision.settle_input_size()
    return vision


def largest_miss(vision) -> float:
    """How far from a bright patch the cell that it changes most lies, in strides; the most of five patches."""
    width, height = whole_size(WIDE, vision.config)
    stride = vision.global_backbone.timm_model.feature_info[-1]["reduction"]
    noise = torch.randint(100, 156, (1, 3, height, width), generator=torch.Generator().manual_seed(0)).byte()
    before, half, misses = vision.feature_map(noise), max(stride // 4, 4), []
    for x_share, y_share in [(0.15, 0.2), (0.8, 0.15), (0.2, 0.85), (0.85, 0.8), (0.5, 0.5)]:
        x, y, patched = int(x_share * width), int(y_share * height), noise.clone()
        colour = torch.tensor([255, 0, 255]).byte().view(3, 1, 1)
        patched[0, :, max(y - half, 0) : y + half, max(x - half, 0) : x + half] = colour
        changes = (vision.feature_map(patched) - before).norm(dim=1)[0]
        row, column = divmod(int(changes.argmax()), changes.shape[1])
        for at, cell, length, count in ((x, column, width, changes.shape[1]), (y, row, height, changes.shape[0])):
            first, size = _cells(length, count, stride)
            misses.append(abs(first + (cell + 0.5) * size - at) / stride)
    return max(misses)


def test_every_module_of_timm_has_an_architecture_below():
    """Of a newer timm each new module needs one, in the list that fits."""
    tried = [*ONE_SQUARE, *ANY_SIZE, *MULTIPLES, *WITHOUT_A_MAP]
    modules = {timm.model_entrypoint(name).__module__.rsplit(".", 1)[1] for name in tried}
    assert modules == set(timm.list_modules())


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize("architecture", [*ONE_SQUARE, *ANY_SIZE, *MULTIPLES])
def test_what_a_map_says_of_a_place_lies_there(architecture):
    vision = new_vision_model(architecture)
    assert vision.config.fixed_input_size == (architecture in ONE_SQUARE)
    assert vision.config.size_multiple == MULTIPLES.get(architecture, 1)
    assert architecture in MIXED or largest_miss(vision) < 2.2


@pytest.mark.slow
@pytest.mark.parametrize("architecture", WITHOUT_A_MAP)
def test_an_architecture_without_a_map_is_refused_by_its_name(architecture):
    with pytest.raises(ValueError, match=f"^{architecture} gives .*: give another backbone, such as "):
        new_vision_model(architecture)


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
