"""Grids and pyramids in a visual feature file: asked for, shared, resumed, never mixed up with files without them."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from hamlearning.cli import main as command
from hamlearning.data.features import VisualFeatures, read_visual_metadata
from hamlearning.data.tweets import load_tweets
from hamlearning.pictures.extraction import FEATURES_FILE, extract_visual_features
from hamlearning.pictures.tweet_images import TweetImages
from hamlearning.training.arguments import DataArguments, ModelArguments, VisionArguments
from hamlearning.training.run import main as run_mner
from hamlearning.training.vision import RayExtraction, ShardWork
from modeling_hamlearning_vision import HamLearningVisionModel
from tiny_world import make_pyramid_model, write_tweets


PICTURES = 10
COLUMNS = ["id", "image_size", "image_features", "boxes", "class_ids", "scores", "features"]
BOTH = {"grid_features": 2048, "pyramid_features": 15360}


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr("hamlearning.pictures.extraction.SHARD_SIZE", 4)


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with `tweets`, their `pictures`, one of them unusable, and a `vision` model."""
    place = tmp_path_factory.mktemp("place")
    write_tweets(place / "tweets", "test", PICTURES, seed=0)
    (place / "pictures").mkdir()
    for number in range(PICTURES):
        noise = np.random.default_rng(number).integers(0, 256, (18, 24, 3), np.uint8)
        Image.fromarray(noise).save(place / "pictures" / f"test{number}.png")
    (place / "pictures" / "test5.png").write_bytes(b"")
    make_pyramid_model().save_pretrained(place / "vision")
    return place


@pytest.fixture
def images(place) -> TweetImages:
    return TweetImages(load_tweets(place / "tweets"), place / "pictures")


def load_vision(place: Path, *names: str) -> HamLearningVisionModel:
    vision = HamLearningVisionModel.from_pretrained(place / "vision").eval()
    vision.settle_more_features(names)
    vision.runtime = "torch"
    return vision


def extract(images: TweetImages, vision: HamLearningVisionModel, folder: Path, **more) -> Path:
    return extract_visual_features(images, vision, folder, **{"num_workers": 0, "show_progress": False} | more)


def content_of(path: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in path.parent.iterdir()}


def ask(place: Path, folder: Path, *more: str) -> list[str]:
    asked = {"data_dir": "tweets", "image_dir": "pictures", "vision_model": "vision"}
    flags = [part for name, value in asked.items() for part in (f"--{name}", str(place / value))]
    quiet = ["--extraction_workers", "0", "--disable_tqdm", "True", "--use_cpu", "True", "--vision_runtime", "torch"]
    return [*flags, *quiet, "--output_dir", str(folder), *more]


def test_a_file_holds_what_was_asked_for(place, images, tmp_path):
    vision = load_vision(place, *BOTH)
    file = extract(images, vision, tmp_path / "features")
    assert pq.read_schema(file).names == [*COLUMNS, *BOTH]
    features = VisualFeatures(file)
    features.read_more(BOTH)
    assert len(features) == PICTURES - 1
    (row,) = vision.extract_images([place / "pictures" / "test7.png"])
    for name in BOTH:
        assert features["test7"][name].shape == row[name].shape
        np.testing.assert_allclose(features["test7"][name], row[name], rtol=2e-3, atol=2e-3)
    assert features.metadata["vision_config"]["more_features"] == [*BOTH]


def test_a_file_that_was_not_asked_for_them_says_nothing_of_them(place, images, tmp_path):
    file = extract(images, load_vision(place), tmp_path / "features")
    assert pq.read_schema(file).names == COLUMNS
    assert "more_features" not in read_visual_metadata(file)["vision_config"]


def test_a_cache_holds_files_with_and_without_them(place, images, tmp_path):
    asked = [(), ("grid_features",), ("pyramid_features",), tuple(BOTH)]
    files = [extract(images, load_vision(place, *names), tmp_path, is_cache=True) for names in asked]
    again = [extract(images, load_vision(place, *names), tmp_path, is_cache=True) for names in asked]
    assert files == again and len(set(files)) == 4
    for names, file in zip(asked, files, strict=True):
        assert pq.read_schema(file).names == [*COLUMNS, *names]


def test_a_folder_of_features_without_them_is_not_taken_for_one_with_them(place, images, tmp_path):
    extract(images, load_vision(place), tmp_path / "features")
    with pytest.raises(FileExistsError, match="is of other pictures, or of another vision model"):
        extract(images, load_vision(place, "grid_features"), tmp_path / "features")


def test_an_interrupted_extraction_goes_on_and_leaves_the_same_file(place, images, tmp_path, monkeypatch):
    whole = extract(images, load_vision(place, *BOTH), tmp_path / "whole")
    vision, calls = load_vision(place, *BOTH), []
    original = vision.extract

    def give_up(pictures):
        calls.append(len(pictures))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return original(pictures)

    monkeypatch.setattr(vision, "extract", give_up)
    with pytest.raises(KeyboardInterrupt):
        extract(images, vision, tmp_path / "parts")
    assert not (tmp_path / "parts" / FEATURES_FILE).exists()
    extract(images, vision, tmp_path / "parts")
    assert calls == [4, 4, 4, 2]  # the first shard was not done again
    assert content_of(tmp_path / "parts" / FEATURES_FILE) == content_of(whole)


def test_workers_of_ray_extract_what_the_flags_ask_for(place, images, tmp_path):
    asked = dict.fromkeys(BOTH, True)
    vision_args = VisionArguments(vision_model=str(place / "vision"), vision_runtime="torch", **asked)
    data_args = DataArguments(data_dir=str(place / "tweets"), image_dir=str(place / "pictures"))
    extraction = RayExtraction(ModelArguments(), data_args, vision_args, by_id=True)

    def share(shards, folder):
        for shard in shards:
            yield ShardWork(extraction, folder)(shard)

    shared = extract(images, load_vision(place, *BOTH), tmp_path / "shared", share=share)
    assert content_of(shared) == content_of(extract(images, load_vision(place, *BOTH), tmp_path / "alone"))


def test_flags_of_extract_ask_for_them(place, tmp_path):
    assert command(["extract", *ask(place, tmp_path / "one", "--grid_features", "--pyramid_features", "True")]) == 0
    assert pq.read_schema(tmp_path / "one" / FEATURES_FILE).names == [*COLUMNS, *BOTH]
    assert command(["extract", *ask(place, tmp_path / "two", "--grid_features", "False")]) == 0
    assert pq.read_schema(tmp_path / "two" / FEATURES_FILE).names == COLUMNS


def test_a_vision_model_that_gave_them_gives_them_again(place, tmp_path):
    load_vision(place, "pyramid_features").save_pretrained(tmp_path / "vision")
    run_mner(["--do_extract", *ask(place, tmp_path / "f", "--vision_model", str(tmp_path / "vision"))])
    assert pq.read_schema(tmp_path / "f" / FEATURES_FILE).names == [*COLUMNS, "pyramid_features"]


@pytest.mark.parametrize("more", [[], ["--streaming", "True", "--max_steps", "2"]], ids=["whole", "streamed"])
def test_a_training_is_not_asked_for_them(place, tmp_path, more):
    with pytest.raises(ValueError, match="--pyramid_features True goes with --do_extract.*leave it out"):
        run_mner(["--do_train", *ask(place, tmp_path / "model", "--pyramid_features", "True", *more)])
