"""HVPNeT and MGCMT of a user's own pictures: pyramids and grids of `hamlearning extract`, or of the training."""

import json

import pytest
import torch
from transformers import AutoProcessor

from hamlearning.cli import main as command
from hamlearning.data.features import VisualFeatures
from hamlearning.pictures.extraction import FEATURES_FILE
from hamlearning.rivals.architectures import ARCHITECTURES, class_of
from hamlearning.training.arguments import ModelArguments
from hamlearning.training.run import main as run_mner
from hamlearning.training.vision import columns_read
from modeling_hamlearning_vision import HamLearningVisionModel
from tiny_world import flags, make_pyramid_model


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a `vision` model that can give pyramids, and the cache of extractions."""
    place = tmp_path_factory.mktemp("place")
    make_pyramid_model().save_pretrained(place / "vision")
    return place


def settings_of(world, place, **more) -> dict:
    return {
        "num_semantic_layers": None,
        "num_train_epochs": 1,
        "visual_features": None,
        "image_dir": world / "images",
        "vision_model": place / "vision",
        "vision_runtime": "torch",
        "extraction_workers": 0,
        "extraction_dir": place / "extracted",
    } | more


def predictions_of(folder) -> list:
    lines = (folder / "predictions_test.jsonl").read_text().splitlines()
    return [json.loads(line)["predictions"] for line in lines]


def answer(folder, world, images: list) -> torch.Tensor:
    """What a saved model says of words and pictures."""
    processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
    processor.vision_model.runtime = "torch"
    architecture = json.loads((folder / "config.json").read_text())["model_type"].removeprefix("hamlearning_")
    model = class_of(architecture).from_pretrained(folder).eval()
    with torch.no_grad():
        return model(**processor(text=["met ann in rome today"] * len(images), images=images)).logits


@pytest.mark.parametrize(
    "architecture, asked, switches",
    [("hvpnet", "--pyramid_features", {}), ("mgcmt", "--grid_features", {"grid_feature_size": 2048})],
)
def test_extracted_then_trained_then_predicted(world, place, tmp_path, architecture, asked, switches):
    argv = ["--data_dir", world / "tweets", "--image_dir", world / "images", "--vision_model", place / "vision"]
    argv += [asked, "--vision_runtime", "torch", "--extraction_workers", "0", "--output_dir", tmp_path / "features"]
    assert command(["extract", *map(str, argv)]) == 0
    file = tmp_path / "features" / FEATURES_FILE
    of_file = {"image_dir": None, "visual_features": file}
    learned = settings_of(world, place, architecture=architecture, **of_file, **switches)
    run_mner(flags(world, tmp_path / "model", **learned))
    model = class_of(architecture).from_pretrained(tmp_path / "model")
    assert model.config.visual_columns == {asked.removeprefix("--"): 2048 if switches else 15360}
    # The same without the file: the vision model that it has with it gives the same columns.
    alone = {"model_name_or_path": tmp_path / "model", "text_model": None, "do_train": None, "vision_model": None}
    results = run_mner(flags(world, tmp_path / "again", **settings_of(world, place, **alone)))
    assert predictions_of(tmp_path / "again") == predictions_of(tmp_path / "model")
    assert results["vision"]["sha256"] == VisualFeatures(file).metadata["vision_sha256"]
    seen, other, without = answer(
        tmp_path / "model", world, [world / "images" / "test0.png", world / "images" / "test1.png", None]
    )
    assert not torch.equal(seen, without) and not torch.equal(seen, other)


def test_hvpnet_of_pictures_reads_pyramids_without_being_asked(world, place, tmp_path):
    run_mner(flags(world, tmp_path / "model", **settings_of(world, place, architecture="hvpnet")))
    assert class_of("hvpnet").from_pretrained(tmp_path / "model").config.use_pyramid
    vision = HamLearningVisionModel.from_pretrained(tmp_path / "model", subfolder="vision")
    assert vision.config.more_features == ["pyramid_features"]


def test_hvpnet_of_a_backbone_without_them_is_refused_and_may_be_lite(world, place, tmp_path):
    backbone = {"vision_model": None, "vision_backbone": world / "backbone", "detector": "grid"}
    settings = settings_of(world, place, architecture="hvpnet", **backbone)
    message = "pyramid_features of the backbone test_resnet.* ResNet-50.* HVPNeT-lite.*--use_pyramid False"
    with pytest.raises(ValueError, match=message):
        run_mner(flags(world, tmp_path / "model", **settings))


def test_more_crops_than_there_are_are_refused(world, place, tmp_path):
    settings = settings_of(world, place, architecture="hvpnet", num_crops=4)
    with pytest.raises(ValueError, match="--num_crops 4: a vision model gives pyramids of the best 3 regions"):
        run_mner(flags(world, tmp_path / "model", **settings))


def test_a_grid_of_another_width_is_refused_before_it_is_extracted(world, place, tmp_path):
    settings = settings_of(world, place, architecture="mgcmt", grid_feature_size=100, extraction_dir=tmp_path)
    with pytest.raises(ValueError, match="reads grid_features of 100 numbers a cell, and the vision model gives 2048"):
        run_mner(flags(world, tmp_path / "model", **settings))
    assert not [*tmp_path.glob("*/shards")]


def test_captions_that_no_vision_model_gives_are_refused_before_extraction(world, place, tmp_path):
    settings = settings_of(world, place, architecture="ita", extraction_dir=tmp_path / "extracted")
    with pytest.raises(ValueError, match="reads a caption of each picture.*--visual_features.*--use_captions False"):
        run_mner(flags(world, tmp_path / "model", **settings))
    assert not (tmp_path / "extracted").exists()


def test_a_file_with_more_columns_is_of_its_vision_model_still(world, place, tmp_path):
    argv = ["--data_dir", world / "tweets", "--image_dir", world / "images", "--vision_model", place / "vision"]
    argv += ["--grid_features", "True", "--pyramid_features", "True", "--output_dir", tmp_path / "features"]
    run_mner(["--do_extract", "--vision_runtime", "torch", "--extraction_workers", "0", *map(str, argv)])
    file = {"image_dir": None, "visual_features": tmp_path / "features" / FEATURES_FILE}
    settings = settings_of(world, place, architecture="umgf", **file)
    run_mner(flags(world, tmp_path / "model", **settings))
    vision = HamLearningVisionModel.from_pretrained(tmp_path / "model", subfolder="vision")
    assert vision.config.more_features is None  # UMGF reads regions alone


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_what_an_architecture_reads_is_known_before_there_is_a_model(architecture):
    columns = columns_read(ModelArguments(architecture=architecture))
    further = {"hvpnet": {"pyramid_features": 15360}, "ita": {"caption": None, "class_names": None}}
    assert columns == further.get(architecture, {})
