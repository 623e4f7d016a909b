"""Every family of `AutoModelForObjectDetection`: its own boxes in a vision model, also after saving; or a refusal."""

import json

import pytest
import torch
import transformers
from test_modeling_vision import lively, picture, timm_backbone
from transformers import (
    CONFIG_MAPPING,
    AutoModelForObjectDetection,
    BertConfig,
    ConditionalDetrConfig,
    ConditionalDetrImageProcessor,
    DabDetrConfig,
    DeformableDetrConfig,
    DeformableDetrImageProcessor,
    Deimv2Config,
    DetrConfig,
    DetrImageProcessor,
    DFineConfig,
    HGNetV2Config,
    LwDetrConfig,
    LwDetrViTConfig,
    PPDocLayoutV2Config,
    PPDocLayoutV2ImageProcessor,
    PPDocLayoutV4Config,
    PPDocLayoutV4ImageProcessor,
    ResNetConfig,
    RfDetrConfig,
    RfDetrDinov2Config,
    RfDetrImageProcessor,
    RTDetrConfig,
    RTDetrImageProcessor,
    RTDetrResNetConfig,
    RTDetrV2Config,
    TableTransformerConfig,
    YolosConfig,
    YolosImageProcessor,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_OBJECT_DETECTION_MAPPING_NAMES

from configuration_hamlearning import HamLearningVisionConfig
from modeling_hamlearning_vision import NO_DETECTORS, HamLearningVisionModel


SQUARE = {"height": 96, "width": 96}
SHORT_SIDE = {"shortest_edge": 96, "longest_edge": 160}
IMAGE = picture(150, 100)
SIZES = {"resize_size": 72, "crop_size": 64}

# ------------------------------------------------------------------------------------------------------- tiny networks

STAGES = ["stage2", "stage3", "stage4"]
RT_DETR = {
    "d_model": 32,
    "encoder_hidden_dim": 32,
    "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32,
    "num_queries": 20,
    "decoder_layers": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "decoder_in_channels": [32, 32, 32],
    "num_labels": 7,
}
DETR = {
    "d_model": 32,
    "encoder_layers": 1,
    "decoder_layers": 2,
    "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "num_queries": 20,
    "num_labels": 7,
}
LW_DETR = {
    "d_model": 32,
    "decoder_ffn_dim": 32,
    "decoder_layers": 2,
    "decoder_self_attention_heads": 2,
    "decoder_cross_attention_heads": 2,
    "num_queries": 10,
    "group_detr": 2,
    "num_labels": 7,
    "c2f_num_blocks": 1,
}
TINY_VIT = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 64}


def named(fields, **others):
    """The fields with `hidden_size` in place of `d_model`, as two families say."""
    return {"hidden_size" if name == "d_model" else name: value for name, value in (fields | others).items()}


def resnet(*stages):
    return ResNetConfig(
        embedding_size=16,
        hidden_sizes=[16, 16, 32, 32],
        depths=[1, 1, 1, 1],
        layer_type="basic",
        out_features=[*stages],
    )


def rt_detr_resnet():
    backbone = RTDetrResNetConfig(
        embedding_size=16,
        hidden_sizes=[16, 32, 48, 64],
        depths=[1, 1, 1, 1],
        layer_type="basic",
        out_features=STAGES,
    )
    return {"backbone_config": backbone, "encoder_in_channels": [32, 48, 64]}


def hgnet():
    backbone = HGNetV2Config(
        embedding_size=8,
        stem_channels=[3, 8, 8],
        hidden_sizes=[16, 16, 32, 32],
        depths=[1, 1, 1, 1],
        stage_in_channels=[8, 16, 16, 32],
        stage_mid_channels=[8, 8, 8, 8],
        stage_out_channels=[16, 16, 32, 32],
        stage_num_blocks=[1, 1, 1, 1],
        stage_numb_of_layers=[1, 1, 1, 1],
        out_features=STAGES,
    )
    return {"backbone_config": backbone, "encoder_in_channels": [16, 32, 32]}


def lw_detr():
    backbone = LwDetrViTConfig(
        **TINY_VIT, pretrain_image_size=64, patch_size=16, window_block_indices=[0], out_indices=[0, 1], num_windows=4
    )
    config = LwDetrConfig(**LW_DETR, backbone_config=backbone, projector_scale_factors=[1.0])
    return config, DeformableDetrImageProcessor(size={"height": 64, "width": 64})


def rf_detr():
    backbone = RfDetrDinov2Config(**TINY_VIT, patch_size=8, num_windows=2, out_features=["stage1", "stage2"])
    config = RfDetrConfig(**LW_DETR, backbone_config=backbone)
    return config, RfDetrImageProcessor(size={"height": 64, "width": 64})


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
    return config, YolosImageProcessor(size={"shortest_edge": 96, "longest_edge": 512})


def pp_doclayout_v2():
    order = {
        "hidden_size": 32,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "coordinate_size": 6,
        "shape_size": 4,
        "relation_bias_embed_dim": 4,
        "num_classes": 7,
    }
    config = PPDocLayoutV2Config(
        **RT_DETR, **hgnet(), reading_order_config=order, class_thresholds=[0.1] * 7, class_order=[0] * 7
    )
    return config, PPDocLayoutV2ImageProcessor(size=SQUARE)


FAMILIES = {
    "conditional_detr": lambda: (
        ConditionalDetrConfig(**DETR, backbone_config=resnet("stage4")),
        ConditionalDetrImageProcessor(size=SHORT_SIDE),
    ),
    "d_fine": lambda: (DFineConfig(**RT_DETR, **hgnet()), RTDetrImageProcessor(size=SQUARE)),
    "dab-detr": lambda: (
        DabDetrConfig(**named(DETR), backbone_config=resnet("stage4")),
        ConditionalDetrImageProcessor(size=SHORT_SIDE),
    ),
    "deformable_detr": lambda: (
        DeformableDetrConfig(**DETR, backbone_config=resnet(*STAGES)),
        DeformableDetrImageProcessor(size=SHORT_SIDE),
    ),
    "deimv2": lambda: (Deimv2Config(**RT_DETR, **hgnet()), RTDetrImageProcessor(size=SQUARE)),
    "detr": lambda: (DetrConfig(**DETR, backbone_config=resnet("stage4")), DetrImageProcessor(size=SHORT_SIDE)),
    "lw_detr": lw_detr,
    "pp_doclayout_v2": pp_doclayout_v2,
    "pp_doclayout_v4": lambda: (
        PPDocLayoutV4Config(**named(RT_DETR), **hgnet()),
        PPDocLayoutV4ImageProcessor(size=SQUARE),
    ),
    "rf_detr": rf_detr,
    "rt_detr": lambda: (RTDetrConfig(**RT_DETR, **rt_detr_resnet()), RTDetrImageProcessor(size=SQUARE)),
    "rt_detr_v2": lambda: (RTDetrV2Config(**RT_DETR, **rt_detr_resnet()), RTDetrImageProcessor(size=SQUARE)),
    "table-transformer": lambda: (
        TableTransformerConfig(**DETR, backbone_config=resnet("stage4")),
        DetrImageProcessor(size=SHORT_SIDE),
    ),
    "yolos": yolos,
}
FEW = {"two_stage_num_proposals": 20}
VARIANTS = {
    "two stages": lambda: (
        DeformableDetrConfig(**DETR, backbone_config=resnet(*STAGES), two_stage=True, with_box_refine=True, **FEW),
        DeformableDetrImageProcessor(size=SHORT_SIDE),
    ),
}


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    """The folder of a tiny global backbone."""
    folder = tmp_path_factory.mktemp("backbone")
    timm_backbone().save_pretrained(folder)
    return folder


def saved(make, folder):
    """The folder of a tiny detector, as its own project saves it."""
    torch.manual_seed(0)
    config, image_processor = make()
    lively(AutoModelForObjectDetection.from_config(config)).save_pretrained(folder)
    image_processor.save_pretrained(folder)
    return folder


def vision_model(backbone, detector, **fields) -> HamLearningVisionModel:
    return HamLearningVisionModel.from_backbone_detector_pretrained(
        backbone, "object_detection", str(detector), **(SIZES | {"max_regions": 20} | fields)
    )


@torch.no_grad()
def own_boxes(folder):
    """Boxes (n, 4), (x_c, y_c, h, w), best first, classes and scores, as the detector's own project finds them."""
    model = AutoModelForObjectDetection.from_pretrained(folder)
    fields = json.loads((folder / "preprocessor_config.json").read_text())
    image_processor = getattr(transformers, fields["image_processor_type"]).from_pretrained(folder)
    outputs = model(**image_processor(images=IMAGE, return_tensors="pt"))
    (found,) = image_processor.post_process_object_detection(
        outputs, threshold=0.0, target_sizes=torch.tensor([[1, 1]])
    )
    corners = found["boxes"].clamp(0, 1)
    sizes = corners[:, 2:] - corners[:, :2]
    order = found["scores"].sort(descending=True, stable=True).indices
    order = order[(sizes > 0).all(dim=1)[order]][:20]
    boxes = torch.cat([(corners[:, :2] + corners[:, 2:]) / 2, sizes.flip(1)], dim=1)
    return {"boxes": boxes[order], "class_ids": found["labels"][order], "scores": found["scores"][order]}


def assert_same_regions(output, expected):
    for name, values in expected.items():
        torch.testing.assert_close(output[f"region_{name}"][0], values, atol=1e-6, rtol=1e-5, msg=name)


# -------------------------------------------------------------------------------------------------------- every family


def test_every_family_of_transformers_is_tried_or_refused():
    """A new one needs a tiny network above, or a reason in `NO_DETECTORS`."""
    assert MODEL_FOR_OBJECT_DETECTION_MAPPING_NAMES.keys() - NO_DETECTORS.keys() == FAMILIES.keys()


# A family a kind of network is quick enough.
QUICK = ("conditional_detr", "deformable_detr", "pp_doclayout_v2", "rt_detr", "yolos")


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(make, id=name, marks=[] if name in QUICK else pytest.mark.slow)
        for name, make in (FAMILIES | VARIANTS).items()
    ],
)
def test_a_detector_finds_what_it_finds_by_itself_also_when_it_was_saved(make, backbone, tmp_path):
    folder = saved(make, tmp_path / "detector")
    vision = vision_model(backbone, folder)
    output = vision(IMAGE)
    assert_same_regions(output, own_boxes(folder))
    assert len(output.region_boxes[0].unique(dim=0)) > 5
    vision.save_pretrained(tmp_path / "vision")
    loaded = HamLearningVisionModel.from_pretrained(tmp_path / "vision")
    again = loaded(IMAGE)
    assert all(torch.equal(again[name], output[name]) for name in output)
    assert loaded.fingerprint() == vision.fingerprint()


@pytest.mark.parametrize(
    "family", ["deformable_detr", *(pytest.param(name, marks=pytest.mark.slow) for name in ("rt_detr_v2", "d_fine"))]
)
def test_layers_that_have_heads_of_their_own_keep_them(family, backbone, tmp_path):
    """Published weights have a head a layer, though the config says that all layers share one."""
    torch.manual_seed(0)
    config, image_processor = FAMILIES[family]()
    config.tie_word_embeddings = False
    lively(AutoModelForObjectDetection.from_config(config)).save_pretrained(tmp_path / "detector")
    image_processor.save_pretrained(tmp_path / "detector")
    fields = json.loads((tmp_path / "detector" / "config.json").read_text())
    del fields["tie_word_embeddings"]
    (tmp_path / "detector" / "config.json").write_text(json.dumps(fields))

    vision = vision_model(backbone, tmp_path / "detector")
    heads = [name for name, _ in vision.named_parameters() if "bbox_embed.1.layers.0.weight" in name]
    assert heads  # of the second layer, which is not the first one's
    expected = own_boxes(tmp_path / "detector")
    assert_same_regions(vision(IMAGE), expected)
    vision.save_pretrained(tmp_path / "vision")
    assert_same_regions(HamLearningVisionModel.from_pretrained(tmp_path / "vision")(IMAGE), expected)


# ------------------------------------------------------------------------------------------------------------ refusals


@pytest.mark.parametrize("family", NO_DETECTORS)
def test_a_family_that_gives_no_regions_is_refused_before_anything_is_computed(family, backbone, tmp_path):
    config = CONFIG_MAPPING[family]()
    config.save_pretrained(tmp_path)  # and no weights
    with pytest.raises(ValueError, match=f"model_type='{family}' cannot be used, since .*: give .*, rt_detr, "):
        vision_model(backbone, tmp_path)
    with pytest.raises(ValueError, match=f"model_type='{family}' cannot be used"):
        HamLearningVisionModel(HamLearningVisionConfig(detector="object_detection", detector_config=config))


def test_scores_of_one_softmax_are_refused(backbone, tmp_path):
    """transformers takes that softmax over the pictures of a batch: of one picture every score would be 1."""
    config, _ = FAMILIES["rt_detr"]()
    config.use_focal_loss = False
    config.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="detector_config.use_focal_loss=False"):
        vision_model(backbone, tmp_path)


def test_what_is_no_detector_is_refused(backbone, tmp_path):
    BertConfig().save_pretrained(tmp_path)
    with pytest.raises(
        ValueError, match="model_type='bert' cannot be used, since it is no AutoModelForObjectDetection"
    ):
        vision_model(backbone, tmp_path)


def test_a_backbone_of_transformers_is_refused_before_its_weights_are_read(tmp_path):
    ResNetConfig().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="model_type='resnet': must be 'timm_wrapper', .* such as timm/resnet152"):
        HamLearningVisionModel.from_backbone_detector_pretrained(str(tmp_path), "grid")
    with pytest.raises(ValueError, match="model_type='resnet'"):
        HamLearningVisionModel(HamLearningVisionConfig(detector="grid", global_backbone_config=ResNetConfig()))
