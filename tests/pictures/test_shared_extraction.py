"""Shards of pictures that others extract: the file of one process, or a sentence."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hamlearning.cli import main as command
from hamlearning.data.tweets import load_tweets
from hamlearning.pictures.extraction import extract_shards, extract_visual_features
from hamlearning.pictures.tweet_images import TweetImages
from hamlearning.training.arguments import DataArguments, ModelArguments, VisionArguments
from hamlearning.training.run import main as run_mner
from hamlearning.training.vision import RayExtraction, ShardWork
from modeling_hamlearning_vision import HamLearningVisionModel
from tiny_world import save_vision_model, write_tweets


PICTURES = 10


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr("hamlearning.pictures.extraction.SHARD_SIZE", 4)


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """The current folder, with `tweets`, their `pictures`, one of them unusable, and a `vision` model."""
    monkeypatch.chdir(tmp_path)
    write_tweets(Path("tweets"), "test", PICTURES, seed=0)
    Path("pictures").mkdir()
    for number in range(PICTURES):
        noise, png = np.random.default_rng(number).integers(0, 256, (18, 24, 3), np.uint8), io.BytesIO()
        Image.fromarray(noise).save(png, "PNG")
        Path("pictures", f"test{number}.png").write_bytes(b"" if number == 5 else png.getvalue())
    save_vision_model(Path("vision"), seed=0)
    return tmp_path


@pytest.fixture
def images(place) -> TweetImages:
    return TweetImages(load_tweets("tweets"), place / "pictures")


@pytest.fixture
def vision(place) -> HamLearningVisionModel:
    return HamLearningVisionModel.from_pretrained("vision").eval()


@pytest.fixture
def extraction(place) -> RayExtraction:
    """By workers, of places that are named as below the current folder."""
    data_args = DataArguments(data_dir="tweets", image_dir="pictures")
    return RayExtraction(ModelArguments(), data_args, VisionArguments(vision_model="vision"), by_id=True)


def content_of(path: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in path.parent.iterdir()}


def test_the_file_is_that_of_one_process(images, vision, extraction, place, monkeypatch):
    alone = extract_visual_features(images, vision, place / "alone", num_workers=0)
    monkeypatch.chdir("pictures")  # a worker's folder is another one
    total = []

    def share(shards, folder):
        for shard in reversed(shards):
            total.append(ShardWork(extraction, folder)(shard))
            yield total[-1]

    shared = extract_visual_features(images, vision, place / "shared", share=share)
    assert total == [2, 4, 4]
    assert content_of(shared) == content_of(alone)


def test_what_is_done_is_not_done_again(images, vision):
    asked = []

    def share(shards, folder):
        asked.append([shard.number for shard in shards])
        yield from extract_shards(shards[:1], images, vision, vision.fingerprint(), folder, 8, 0)

    for _ in range(2):
        with pytest.raises(FileNotFoundError, match="of 3 shards of features are not in"):
            extract_visual_features(images, vision, "shared", share=share)
    extract_visual_features(images, vision, "shared", share=share)
    assert asked == [[0, 1, 2], [1, 2], [2]]


def test_a_machine_with_other_pictures_is_told_before_anything_is_computed(images, vision, extraction):
    def share(shards, folder):
        Path("pictures", "test0.png").write_bytes(b"another one")  # as if the worker's machine had it
        yield from map(ShardWork(extraction, folder), shards)

    with pytest.raises(ValueError, match="Shard 0 has other pictures on .*: give data and models that all machines"):
        extract_visual_features(images, vision, "shared", share=share)
    assert not [*Path("shared").rglob("*.parquet")]


@pytest.mark.parametrize("flag", [["--workers", "2"], ["--threads", "2"], ["--gpus"]])
def test_flags_of_rays_workers_need_ray(flag, place, capsys):
    assert command(["extract", "--data_dir", "tweets", "--output_dir", "out", *flag]) == 1
    assert f"{flag[0]} goes with --engine ray" in capsys.readouterr().err


@pytest.mark.parametrize("flag", ["--ray_workers", "--ray_threads", "--ray_gpus"])
def test_a_run_refuses_them_too(flag, place):
    flags = ["--do_extract", "True", "--data_dir", "tweets", "--output_dir", "out", "--use_cpu", "True"]
    with pytest.raises(ValueError, match=f"{flag} 2.* goes with --extraction_engine ray"):
        run_mner([*flags, flag, "2"])


def test_processes_of_our_own_and_ray_do_not_go_together(place, monkeypatch):
    monkeypatch.setattr("hamlearning.training.run.load_ray", lambda: None)
    monkeypatch.setattr("hamlearning.training.arguments.MNERTrainingArguments.world_size", 2)
    flags = ["--do_extract", "True", "--data_dir", "tweets", "--output_dir", "out", "--use_cpu", "True"]
    with pytest.raises(ValueError, match="--extraction_engine ray in 2 processes: Ray starts its own"):
        run_mner([*flags, "--extraction_engine", "ray"])
