"""The processor with raw pictures: what the eyes see becomes the network's inputs, and text alone never pays."""

import copy
import json

import pytest
import torch
from PIL import Image

from configuration_hamlearning import HamLearningVisionConfig
from hub_server import HubServer, run_client
from image_processing_hamlearning import ImageError
from modeling_hamlearning_vision import HamLearningVisionModel
from processing_hamlearning import HamLearningProcessor
from test_processing import bert


PICTURES = [Image.radial_gradient("L").convert("RGB"), Image.linear_gradient("L").resize((90, 60)).convert("RGB")]


@pytest.fixture(scope="module")
def eyes():
    torch.manual_seed(0)
    config = HamLearningVisionConfig(
        global_backbone_config={"architecture": "test_resnet"}, detector="grid", resize_size=72, crop_size=64
    )
    return HamLearningVisionModel(config)


@pytest.fixture
def processor(eyes):
    processor = HamLearningProcessor(bert())
    processor.vision_model = eyes
    return processor


@pytest.fixture
def saved(processor, tmp_path):
    processor.save_pretrained(tmp_path / "saved")
    return tmp_path / "saved"


def test_images_give_what_their_visual_features_give(processor):
    texts, images = ["one", "two", "three"], [PICTURES[0], None, PICTURES[1]]
    by_images = processor(text=texts, images=images)
    by_features = processor(text=texts, visual_features=processor.extract_visual_features(images))
    assert by_images["image_mask"].tolist() == [1, 0, 1] and by_images["image_features"][0].abs().sum() > 0
    assert by_images.keys() == by_features.keys()
    assert all(torch.equal(by_images[name], by_features[name]) for name in by_images)


def test_a_single_text_takes_a_single_picture(processor):
    assert processor(text="one", images=PICTURES[0])["image_mask"].tolist() == [1]


def test_small_batches_of_pictures_give_what_a_large_one_gives(processor):
    images = [PICTURES[0], None, PICTURES[1], PICTURES[1], PICTURES[0]]
    for one, other in zip(
        processor.extract_visual_features(images, batch_size=2),
        processor.extract_visual_features(images, batch_size=8),
        strict=True,
    ):
        assert (one is None) == (other is None)
        if one is not None:
            torch.testing.assert_close(one["features"], other["features"], rtol=1e-5, atol=1e-5)


def test_a_broken_picture_names_its_place_in_the_whole_list(processor):
    with pytest.raises(ImageError, match="images: picture 2: .*is empty"):
        processor.extract_visual_features([PICTURES[0], None, b""], batch_size=1)


def test_the_eyes_look_on_the_named_device(processor):
    processor(text="one", images=PICTURES[0], device="cpu")
    assert processor.vision_model.device.type == "cpu"


def test_counts_of_texts_and_images_must_agree(processor):
    with pytest.raises(ValueError, match="images are for 1 tweets, text is 2"):
        processor(text=["one", "two"], images=[PICTURES[0]])


def test_images_beside_visual_features_are_refused(processor):
    with pytest.raises(ValueError, match="images and visual_features were both given"):
        processor(text="one", images=PICTURES[0], visual_features={})


def test_a_picture_without_eyes_is_refused_and_says_why():
    with pytest.raises(ValueError, match="has no eyes .* learned from a visual feature file"):
        HamLearningProcessor(bert())(text="one", images=PICTURES[0])


def test_no_pictures_need_no_eyes():
    inputs = HamLearningProcessor(bert())(text=["one", "two"], images=[None, None])
    assert "image_mask" not in inputs


def test_eyes_of_other_sizes_than_the_models_are_refused(eyes):
    processor = HamLearningProcessor(bert(), image_feature_size=eyes.image_feature_size + 1)
    with pytest.raises(ValueError, match=f"The eyes have image_feature_size {eyes.image_feature_size}"):
        processor.vision_model = eyes


def test_eyes_are_saved_beside_and_found_again_in_another_folder(processor, saved, tmp_path):
    moved = saved.rename(tmp_path / "moved")
    loaded = HamLearningProcessor.from_pretrained(moved)
    expected, found = (p(text="one", images=PICTURES[0]) for p in (processor, loaded))
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_eyes_load_when_the_first_picture_comes(saved, monkeypatch):
    loads = []
    load = HamLearningVisionModel.from_pretrained.__func__

    def counted(cls, *args, **kwargs):
        loads.append(kwargs)
        return load(cls, *args, **kwargs)

    monkeypatch.setattr(HamLearningVisionModel, "from_pretrained", classmethod(counted))
    loaded = HamLearningProcessor.from_pretrained(saved)
    loaded(text="one", images=None)
    assert not loads
    for _ in range(2):
        loaded(text="one", images=PICTURES[0])
    assert loads == [{"pretrained_model_name_or_path": str(saved), "subfolder": "vision"}]


def test_eyes_that_are_not_loaded_are_pointed_at(saved, tmp_path):
    HamLearningProcessor.from_pretrained(saved).save_pretrained(tmp_path / "again")
    assert not (tmp_path / "again" / "vision").exists()
    again = HamLearningProcessor.from_pretrained(tmp_path / "again")
    assert again(text="one", images=PICTURES[0])["image_mask"].tolist() == [1]


def test_the_settings_hold_no_weights(processor):
    assert "vision" not in json.dumps({k: v for k, v in processor.to_dict().items() if k != "vision_source"})
    assert copy.copy(processor).to_dict() == processor.to_dict()


CLIENT = """
import sys
for name in ("timm", "torchvision"):
    sys.modules[name] = None  # as if it were not installed
from transformers import AutoProcessor
processor = AutoProcessor.from_pretrained("org/tagger", trust_remote_code=True)
print(processor(text="one two")["input_ids"].shape[0])
"""
LOOKING_CLIENT = """
from PIL import Image
from transformers import AutoProcessor
processor = AutoProcessor.from_pretrained("org/tagger", trust_remote_code=True)
print(processor(text="one", images=Image.radial_gradient("L"))["image_mask"].tolist())
"""


def test_a_hub_repo_gives_text_without_the_eyes_and_pictures_with_them(processor, saved, tmp_path):
    (tmp_path / "home").mkdir()
    with HubServer() as hub:
        hub.add_repo("org/tagger", saved)
        assert run_client(hub, CLIENT, tmp_path / "home").split() == ["1"]
        assert not [path for _, path in hub.requests if "/vision/" in path]
        assert run_client(hub, LOOKING_CLIENT, tmp_path / "home").strip() == "[1]"
        assert [path for method, path in hub.requests if method == "GET" and path.endswith("vision/model.safetensors")]
