"""From the pictures of a data set to its visual feature file, and what `run_mner.py` makes of it."""

import base64
import io
import json
import multiprocessing
import os
import random
import signal
import struct
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from datasets import Dataset, DatasetDict
from datasets import Image as ImageFeature
from PIL import Image
from torch.utils.data import get_worker_info
from transformers import BertConfig, BertModel, BertTokenizer, TimmWrapperConfig, TimmWrapperModel

from configuration_hamlearning import HamLearningVisionConfig
from hamlearning.data.features import VisualFeatures, read_visual_metadata
from hamlearning.data.picture_files import find_images
from hamlearning.data.tweets import load_tweets
from hamlearning.hub.data_set import prepare
from hamlearning.pictures.extraction import FEATURES_FILE, REPORT_FILE, extract_visual_features
from hamlearning.pictures.tweet_images import TweetImages
from hamlearning.training.run import main as run_mner
from modeling_hamlearning_vision import HamLearningVisionModel
from processing_hamlearning import HamLearningProcessor
from tiny_world import FRAMES, NAMES, results_of, write_tweets


ROOT = Path(__file__).parents[2]
BACKBONE = {"architecture": "test_convnext", "model_args": {"depths": [1, 1, 1, 1], "dims": [8, 8, 8, 16]}}
TINY = {"detector": "grid", "resize_size": 40, "crop_size": 32, "detector_settings": {"rows": 1, "columns": 2}}
ARRAYS = ("image_size", "image_features", "boxes", "class_ids", "scores", "features")


def encoded(seed: int, format: str = "PNG", size: tuple[int, int] = (24, 18)) -> bytes:
    """A small picture: noise around a colour."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 200, 3) + rng.integers(0, 56, (size[1], size[0], 3))
    file = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(file, format)
    return file.getvalue()


def make_tweets(**splits: dict[str, bytes | dict | None]) -> DatasetDict:
    """Splits of tweets without words: the picture by the id, encoded, as a dict of bytes and path, or None."""
    encoded_image = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    tables = {
        split: {
            "id": list(pictures),
            "image": pa.array(
                [{"bytes": p, "path": None} if isinstance(p, bytes) else p for p in pictures.values()], encoded_image
            ),
        }
        for split, pictures in splits.items()
    }
    return DatasetDict(
        {split: Dataset(pa.table(table)).cast_column("image", ImageFeature()) for split, table in tables.items()}
    )


def make_vision_model(seed: int = 0, **fields) -> HamLearningVisionModel:
    torch.manual_seed(seed)
    return HamLearningVisionModel(HamLearningVisionConfig(global_backbone_config=BACKBONE, **TINY | fields))


def report_of(folder: Path) -> dict:
    return json.loads((folder / REPORT_FILE).read_text(encoding="utf-8"))


def content_of(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, hidden ones too."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture(scope="module", autouse=True)
def own_cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
        yield


@pytest.fixture(scope="module")
def vision() -> HamLearningVisionModel:
    return make_vision_model()


@pytest.fixture
def blind(vision, monkeypatch):
    """The same vision model, which fails as soon as it is used."""

    def extract(images):
        raise AssertionError("The vision model was used.")

    monkeypatch.setattr(vision, "extract", extract)
    return vision


@pytest.fixture
def small_shards(monkeypatch):
    monkeypatch.setattr("hamlearning.pictures.extraction.SHARD_SIZE", 4)


def extract(images: TweetImages | DatasetDict, vision: HamLearningVisionModel, folder: Path, **more) -> Path:
    if isinstance(images, DatasetDict):
        images = TweetImages(images)
    return extract_visual_features(images, vision, folder, **{"num_workers": 0, "show_progress": False} | more)


# ------------------------------------------------------------------------------------------------------ the pictures


def test_ids_are_those_of_all_splits_and_each_one_comes_once():
    tweets = make_tweets(train={"a": encoded(0), "b": None}, validation={"b": encoded(1), "c": encoded(2)})
    images = TweetImages(tweets)
    assert images.ids == ["a", "b", "c"]
    assert [image and image["bytes"] for image in map(images.__getitem__, range(len(images)))] == [
        encoded(0), encoded(1), encoded(2)
    ]  # fmt: skip


def test_an_id_of_two_pictures_is_refused_and_both_places_are_named():
    tweets = make_tweets(train={"t0": encoded(0)}, test={"x": None, "t0": encoded(1)})
    with pytest.raises(
        ValueError, match=r"'t0' stands for two pictures, of row 0 of the train split and of row 1 of t"
    ):
        TweetImages(tweets)


def test_each_row_has_its_own_picture_where_none_is_looked_up_by_id():
    tweets = make_tweets(train={"t0": encoded(0), "t1": None, "t2": b""}, test={"t0": encoded(1), "t1": encoded(2)})
    tweets["validation"] = make_tweets(validation={"t0": encoded(0), "t2": None})["validation"]
    tweets["bare"] = tweets["train"].remove_columns("image")
    images = TweetImages(tweets, by_id=False)
    assert images.keys == {
        "train": ["t0", None, "t2"],
        "test": ["t0 (row 0 of the test split)", "t1"],
        "validation": ["t0", None],
        "bare": [None] * 3,
    }
    pictures = {name: images[place]["bytes"] for place, name in enumerate(images.ids)}
    assert pictures == {"t0": encoded(0), "t1": encoded(2), "t2": b"", "t0 (row 0 of the test split)": encoded(1)}


def test_an_id_whose_picture_is_stored_twice_is_one():
    tweets = make_tweets(train={"t0": encoded(0)}, test={"t0": encoded(0)})
    assert TweetImages(tweets).ids == ["t0"]


def test_a_split_without_an_image_column_has_no_picture():
    tweets = make_tweets(train={"a": encoded(0)}, test={"b": encoded(1)})
    tweets["train"] = tweets["train"].remove_columns("image")
    assert TweetImages(tweets).ids == ["b"]


def test_a_data_set_whose_images_are_all_null_has_no_pictures():
    assert not TweetImages(make_tweets(train={"a": None})).has_pictures
    assert TweetImages(make_tweets(train={"a": None}, test={"b": b"no picture, but something"})).has_pictures


def test_pictures_of_a_folder_are_found_by_the_tweets_ids(tmp_path):
    for name in ("a.JPG", "b.c.png", "d.txt", "other.gif", "17.jpg"):
        (tmp_path / name).write_bytes(encoded(0))
    images = TweetImages(make_tweets(train=dict.fromkeys(("a", "b.c", "d", "../a", "17.jpg", "17.png"))), tmp_path)
    expected = [tmp_path / "a.JPG", tmp_path / "b.c.png", None, None, tmp_path / "17.jpg", None]
    assert [images[index] for index in range(6)] == expected
    assert images.has_pictures


def test_a_folder_of_other_pictures_has_none_of_the_tweets(tmp_path):
    (tmp_path / "other.gif").write_bytes(encoded(0))
    message = "has no picture of any of the 1 tweets: an id is 'a ', a file 'other.gif'"
    with pytest.raises(ValueError, match=message):
        TweetImages(make_tweets(train={"a ": encoded(0)}), tmp_path)
    (tmp_path / "other.gif").unlink()
    with pytest.raises(ValueError, match="has no picture: give the folder of the tweets' pictures"):
        TweetImages(make_tweets(train={"a": None}), tmp_path)


def test_a_folder_that_lacks_most_pictures_is_said_with_the_share(tmp_path, caplog):
    (tmp_path / "a.gif").write_bytes(encoded(0))
    TweetImages(make_tweets(train=dict.fromkeys("abcd")), tmp_path)
    assert "has pictures of 1 of 4 tweets (25%)" in caplog.text


def test_pictures_as_base64_are_told_apart_by_what_they_hold():
    first, second = (base64.b64encode(encoded(seed)).decode() for seed in (0, 1))
    hashes = [
        TweetImages(make_tweets(train={"a": {"bytes": None, "path": text}})).sha256(0) for text in (first, second)
    ]
    assert hashes[0] != hashes[1]


@pytest.mark.parametrize(
    "suffix", [".jpeg", ".jfif", ".MPO", ".png", ".gif", ".webp", ".bmp", ".avif", ".tif", ".tiff"]
)
def test_a_picture_may_have_any_suffix_of_the_formats_that_are_read(tmp_path, suffix):
    (tmp_path / f"a{suffix}").touch()
    assert find_images(tmp_path) == {"a": tmp_path / f"a{suffix}"}


def test_pictures_in_folders_of_the_folder_are_found_where_that_is_asked_for(tmp_path):
    for name in ("train/a.jpg", "train/deep/b.png", "test/c.gif", ".hidden/d.jpg", "__MACOSX/a.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(encoded(0))
    tweets = make_tweets(train=dict.fromkeys("abcd"))
    images = TweetImages(tweets, tmp_path, image_subfolders=True)
    expected = [tmp_path / "train" / "a.jpg", tmp_path / "train" / "deep" / "b.png", tmp_path / "test" / "c.gif", None]
    assert [images[index] for index in range(4)] == expected
    with pytest.raises(ValueError, match=r"has no picture, but \S+ in a folder of it: .* --image_subfolders"):
        TweetImages(tweets, tmp_path)
    (tmp_path / "test" / "a.png").touch()
    with pytest.raises(ValueError, match=r"has both test/a.png and train/a.jpg: keep one an image id"):
        find_images(tmp_path, subfolders=True)


def test_two_pictures_of_one_name_are_refused(tmp_path):
    for name in ("a.jpg", "a.png"):
        (tmp_path / name).touch()
    with pytest.raises(ValueError, match=r"has both a.jpg and a.png: keep one"):
        find_images(tmp_path)


def test_a_missing_folder_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere is no folder: give the folder of the pictures"):
        TweetImages(make_tweets(train={"a": None}), tmp_path / "nowhere")


# ---------------------------------------------------------------------------------------------------------- the file


@pytest.fixture(scope="module")
def twelve() -> DatasetDict:
    """Twelve pictures of several sizes in two splits, one tweet between them without."""
    pictures = {f"tweet{n}": encoded(n, size=(20 + n, 30 - n)) for n in range(12)}
    items = list(pictures.items())
    return make_tweets(train=dict(items[:7]) | {"null": None}, test=dict(items[7:]))


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_row_is_what_the_vision_model_extracts_from_the_picture(num_workers, twelve, vision, tmp_path):
    features = VisualFeatures(extract(twelve, vision, tmp_path, batch_size=1, num_workers=num_workers))
    assert list(features) == [f"tweet{n}" for n in range(12)]
    assert len({row["image_features"].tobytes() for row in features.values()}) == 12
    for n in range(12):
        (expected,) = vision.extract_images([encoded(n, size=(20 + n, 30 - n))])
        for name in ARRAYS:
            half = name in ("image_features", "features")
            np.testing.assert_array_equal(
                features[f"tweet{n}"][name], expected[name].astype(np.float16) if half else expected[name]
            )


def test_pictures_of_one_batch_have_the_rows_of_each_alone(twelve, vision, tmp_path):
    together, alone = (
        VisualFeatures(extract(twelve, vision, tmp_path / str(size), batch_size=size)) for size in (5, 1)
    )
    for id_, row in alone.items():
        for name in ARRAYS:
            np.testing.assert_allclose(together[id_][name], row[name], rtol=2e-3, atol=1e-3)


def test_metadata_name_the_vision_model_its_weights_and_its_classes(twelve, tmp_path):
    vision = make_vision_model(class_names=["tile"], max_regions=9)
    features = VisualFeatures(extract(twelve, vision, tmp_path))
    assert features.metadata["vision_sha256"] == vision.fingerprint()
    assert features.class_names == ("tile",)
    assert (features.image_feature_size, features.region_feature_size) == (16, 16)
    config = HamLearningVisionConfig(**features.metadata["vision_config"])
    assert config.global_backbone_config.architecture == BACKBONE["architecture"]
    assert (config.crop_size, config.max_regions) == (32, 9)


def test_a_vision_model_of_any_folder_gives_the_same_bytes(twelve, vision, tmp_path):
    files = []
    for name in ("one", "two"):
        vision.save_pretrained(tmp_path / name)
        loaded = HamLearningVisionModel.from_pretrained(tmp_path / name)
        files.append(extract(twelve, loaded, tmp_path / name / "features").read_bytes())
    assert files[0] == files[1]


def test_the_report_counts_tweets_without_a_picture(twelve, vision, tmp_path):
    extract(twelve, vision, tmp_path)
    assert report_of(tmp_path) == {"pictures": 12, "without_picture": 1, "unusable": 0, "unusable_pictures": []}


def test_nothing_but_the_file_and_its_report_is_left(twelve, vision, small_shards, tmp_path):
    extract(twelve, vision, tmp_path)
    assert content_of(tmp_path).keys() == {FEATURES_FILE, REPORT_FILE}


# ---------------------------------------------------------------------------------------- pictures that are of no use


def huge() -> bytes:
    """A BMP file whose header speaks of 400 million pixels."""
    file = bytearray(encoded(0, "BMP"))
    file[18:26] = struct.pack("<ii", 20_000, 20_000)
    return bytes(file)


UNUSABLE = {
    "empty": (b"", "is empty"),
    "truncated": (encoded(0, "JPEG")[:300], "cannot be decoded"),
    "text": (b"We could not find this picture.", "is no JPEG, PNG"),
    "svg": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "is an SVG drawing"),
    "huge": (huge(), "20000 x 20000 pixels, the limit is"),
}
IN_A_FOLDER = UNUSABLE | {"missing": (None, "there is no picture of this name in"), "folder": (None, "is a folder")}
IN_A_COLUMN = UNUSABLE | {
    "hollow": ({"bytes": None, "path": None}, "holds NoneType as bytes and NoneType as path"),
    "moved": ({"bytes": None, "path": "moved.jpg"}, "'moved.jpg' is neither a file nor"),
    "url": ({"bytes": None, "path": "https://example.org/a.jpg"}, "is a URL, and none is opened here"),
    "odd": ({"bytes": None, "path": "a\0b.jpg"}, "is neither a file nor"),
}


@pytest.fixture(scope="module")
def unusable_in_a_folder(vision, tmp_path_factory) -> dict:
    folder = tmp_path_factory.mktemp("unusable")
    (folder / "pictures" / "folder.jpg").mkdir(parents=True)
    for name, (picture, _) in IN_A_FOLDER.items() | {("good", (encoded(0), None))}:
        if picture is not None:
            (folder / "pictures" / f"{name}.jpg").write_bytes(picture)
    tweets = make_tweets(train=dict.fromkeys([*IN_A_FOLDER, "good"]))
    extract(TweetImages(tweets, folder / "pictures"), vision, folder, num_workers=1)
    return report_of(folder)


@pytest.fixture(scope="module")
def unusable_in_a_column(vision, tmp_path_factory) -> dict:
    folder = tmp_path_factory.mktemp("unusable")
    pictures = {name: picture for name, (picture, _) in IN_A_COLUMN.items()}
    extract(make_tweets(train=pictures | {"good": encoded(0), "null": None}), vision, folder, num_workers=1)
    return report_of(folder)


@pytest.mark.parametrize("name", IN_A_FOLDER)
def test_an_unusable_picture_of_a_folder_is_listed_with_its_reason(name, unusable_in_a_folder):
    reasons = {entry["id"]: entry["reason"] for entry in unusable_in_a_folder["unusable_pictures"]}
    assert IN_A_FOLDER[name][1] in reasons[name]


@pytest.mark.parametrize("name", IN_A_COLUMN)
def test_an_unusable_picture_of_a_data_set_is_listed_with_its_reason(name, unusable_in_a_column):
    reasons = {entry["id"]: entry["reason"] for entry in unusable_in_a_column["unusable_pictures"]}
    assert IN_A_COLUMN[name][1] in reasons[name]


def test_unusable_pictures_are_counted_apart_from_tweets_without_one(unusable_in_a_folder, unusable_in_a_column):
    counts = [
        {name: report[name] for name in ("pictures", "without_picture", "unusable")}
        for report in (unusable_in_a_folder, unusable_in_a_column)
    ]
    assert counts[0] == {"pictures": 1, "without_picture": 0, "unusable": len(IN_A_FOLDER)}
    assert counts[1] == {"pictures": 1, "without_picture": 1, "unusable": len(IN_A_COLUMN)}


def test_a_pipe_in_the_folder_keeps_nobody_waiting(vision, tmp_path):
    (tmp_path / "pictures").mkdir()
    os.mkfifo(tmp_path / "pictures" / "pipe.jpg")
    (tmp_path / "pictures" / "good.jpg").write_bytes(encoded(0))
    images = TweetImages(make_tweets(train={"good": None, "pipe": None}), tmp_path / "pictures")
    started = run_apart(extract, images, vision, tmp_path)
    started.join(60)
    started.kill()
    assert "is a pipe" in report_of(tmp_path)["unusable_pictures"][0]["reason"]


def test_shards_without_any_picture_are_passed_over(vision, small_shards, tmp_path):
    pictures = dict.fromkeys([f"null{n}" for n in range(9)])
    features = VisualFeatures(extract(make_tweets(train=pictures | {"good": encoded(0)}), vision, tmp_path))
    assert list(features) == ["good"]


def test_pictures_that_are_all_unusable_are_an_error_with_the_first_reasons(vision, tmp_path):
    pictures = {f"tweet{n}": b"" for n in range(5)} | {"null": None}
    with pytest.raises(ValueError) as error:
        extract(make_tweets(train=pictures), vision, tmp_path)
    message = str(error.value)
    assert "None of the 6 tweets has a picture that can be used (5 cannot be read" in message
    assert "tweet2: the picture given as bytes is empty" in message and "tweet3" not in message
    assert "--image_dir" in message


# ------------------------------------------------------------------------------------------------------ interruptions


def run_apart(function, *args, **more) -> multiprocessing.Process:
    """Starts a function in a process of its own, which may be killed."""
    process = multiprocessing.get_context("fork").Process(target=function, args=args, kwargs=more)
    process.start()
    return process


def finish(*args, **more) -> None:
    process = run_apart(extract, *args, **more)
    process.join()
    assert process.exitcode == 0


@pytest.fixture(scope="module")
def hundreds() -> TweetImages:
    pictures = {f"tweet{n}": encoded(n) for n in range(320)}
    return TweetImages(make_tweets(train=pictures | {"tweet50": None, "tweet120": b"", "tweet121": b"text"}))


@pytest.fixture(scope="module")
def undisturbed(hundreds, vision, tmp_path_factory) -> dict[str, bytes]:
    """What a run over `hundreds` in 20 shards leaves when nobody kills it."""
    folder = tmp_path_factory.mktemp("undisturbed")
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr("hamlearning.pictures.extraction.SHARD_SIZE", 16)
        finish(hundreds, vision, folder, num_workers=1)
    return content_of(folder)


def extract_some(shards: int, images: TweetImages, vision: HamLearningVisionModel, folder: Path) -> None:
    """Extracts so many shards, and then waits to be killed before it has another."""
    done, killed = 0, threading.Event()

    def watch(event, args):
        nonlocal done
        if event == "os.rename" and Path(str(args[1])).match("shards/*.json"):
            if done == shards:
                killed.wait()
            done += 1

    sys.addaudithook(watch)
    extract(images, vision, folder, num_workers=1)


@pytest.mark.parametrize("seed", range(10))
def test_a_run_killed_at_a_random_moment_ends_like_an_undisturbed_one(
    seed, hundreds, undisturbed, vision, tmp_path, monkeypatch
):
    monkeypatch.setattr("hamlearning.pictures.extraction.SHARD_SIZE", 16)
    draw = random.Random(seed)
    shards_done, delay = draw.randrange(17), draw.uniform(0, 0.05)
    process = run_apart(extract_some, shards_done + 2, hundreds, vision, tmp_path)
    while len(list(tmp_path.glob("shards/*.json"))) < shards_done and process.is_alive():
        time.sleep(0.001)
    time.sleep(delay)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert not (tmp_path / FEATURES_FILE).exists()
    finish(hundreds, vision, tmp_path, num_workers=1)
    assert content_of(tmp_path) == undisturbed


def test_a_run_killed_again_and_again_ends_like_an_undisturbed_one(
    hundreds, undisturbed, vision, tmp_path, monkeypatch
):
    monkeypatch.setattr("hamlearning.pictures.extraction.SHARD_SIZE", 16)
    draw = random.Random(10)
    for _ in range(10):
        done = len(list(tmp_path.glob("shards/*.json")))
        process = run_apart(extract_some, 2, hundreds, vision, tmp_path)
        while len(list(tmp_path.glob("shards/*.json"))) == done and process.is_alive():
            time.sleep(0.001)
        time.sleep(draw.uniform(0, 0.03))
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
    finish(hundreds, vision, tmp_path, num_workers=1)
    assert content_of(tmp_path) == undisturbed


@pytest.fixture(scope="module")
def ten() -> TweetImages:
    return TweetImages(make_tweets(train={f"tweet{n}": encoded(n) for n in range(9)} | {"empty": b""}))


def die_at_change(number: int, folder: Path, images: TweetImages, vision: HamLearningVisionModel) -> None:
    """Extracts, but is killed before the `number`-th change of the folder; to open a file empties it, which is one."""
    changes = 0

    def change_or_die():
        nonlocal changes
        changes += 1
        if changes > number:
            os.kill(os.getpid(), signal.SIGKILL)

    def watch(event, args):
        if event in ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "open") and str(folder) in str(args[0]):
            if event != "open" or args[2] & os.O_CREAT:
                change_or_die()
            if event == "open" and args[2] & os.O_CREAT:
                os.truncate(args[0], 0) if os.path.exists(args[0]) else os.mknod(args[0])
                change_or_die()

    sys.addaudithook(watch)
    extract(images, vision, folder)


def test_a_run_killed_at_any_change_of_its_folder_ends_like_an_undisturbed_one(ten, vision, small_shards, tmp_path):
    extract(ten, vision, tmp_path / "undisturbed")
    for number in range(1000):
        folder = tmp_path / str(number)
        process = run_apart(die_at_change, number, folder, ten, vision)
        process.join()
        if process.exitcode == 0:
            break
        assert process.exitcode == -signal.SIGKILL
        extract(ten, vision, folder)
        assert content_of(folder) == content_of(tmp_path / "undisturbed")
    assert number > 20


def die_while_writing(number: int, folder: Path, images: TweetImages, vision: HamLearningVisionModel) -> None:
    """Extracts, but is killed when the `number`-th Parquet file has its rows and not yet its end."""
    close, written = pq.ParquetWriter.close, 0

    def close_or_die(writer):
        nonlocal written
        written += 1
        if written > number:
            os.kill(os.getpid(), signal.SIGKILL)
        close(writer)

    pq.ParquetWriter.close = close_or_die
    extract(images, vision, folder)


@pytest.mark.parametrize("number", [0, 1, 2, 3], ids=["shard 0", "shard 1", "shard 2", "the whole file"])
def test_a_file_that_was_half_written_is_never_taken(number, ten, vision, small_shards, tmp_path):
    extract(ten, vision, tmp_path / "undisturbed")
    process = run_apart(die_while_writing, number, tmp_path / "killed", ten, vision)
    process.join()
    assert process.exitcode == -signal.SIGKILL
    halves = [name for name in content_of(tmp_path / "killed") if name.endswith(".partial")]
    assert len(halves) == 1
    extract(ten, vision, tmp_path / "killed")
    assert content_of(tmp_path / "killed") == content_of(tmp_path / "undisturbed")


def test_what_was_extracted_before_the_interruption_is_not_extracted_again(
    ten, vision, small_shards, tmp_path, monkeypatch
):
    process = run_apart(die_while_writing, 2, tmp_path, ten, vision)  # two shards of four are done
    process.join()
    sizes = []
    look = vision.extract
    monkeypatch.setattr(vision, "extract", lambda pictures: sizes.append(len(pictures)) or look(pictures))
    extract(ten, vision, tmp_path)
    assert sizes == [2]


@pytest.mark.parametrize("change", ["picture", "vision"])
def test_shards_of_other_pictures_or_another_vision_model_are_not_taken(change, ten, vision, small_shards, tmp_path):
    process = run_apart(die_while_writing, 2, tmp_path / "killed", ten, vision)
    process.join()
    if change == "vision":
        vision = make_vision_model(seed=1)
    else:
        pictures = {id_: image["bytes"] for id_, image in zip(ten.ids, map(ten.__getitem__, range(10)), strict=True)}
        ten = TweetImages(make_tweets(train=pictures | {"tweet1": encoded(100)}))
    extract(ten, vision, tmp_path / "killed")
    extract(ten, vision, tmp_path / "fresh")
    assert content_of(tmp_path / "killed") == content_of(tmp_path / "fresh")


class DeadlyImages(TweetImages):
    """The sixth picture kills the worker that reads it, as the system does when there is no memory left."""

    def __getitem__(self, index):
        if index == 5 and get_worker_info() is not None:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__getitem__(index)


def test_a_worker_that_dies_ends_the_run_and_the_next_one_goes_on(twelve, vision, small_shards, tmp_path):
    started = time.monotonic()
    with pytest.raises(RuntimeError, match="DataLoader worker .* (is killed by signal|exited unexpectedly)"):
        extract(DeadlyImages(twelve), vision, tmp_path / "killed", num_workers=1)
    assert time.monotonic() - started < 30
    extract(twelve, vision, tmp_path / "killed", num_workers=1)
    extract(twelve, vision, tmp_path / "undisturbed")
    assert content_of(tmp_path / "killed") == content_of(tmp_path / "undisturbed")


# ---------------------------------------------------------------------------------------------- what is there already


def test_a_file_of_the_same_pictures_and_vision_model_is_used_again(twelve, vision, tmp_path, request):
    path = extract(twelve, vision, tmp_path)
    before = path.stat().st_mtime_ns
    assert extract(twelve, request.getfixturevalue("blind"), tmp_path) == path
    assert path.stat().st_mtime_ns == before


@pytest.mark.parametrize("change", ["picture", "no picture", "id", "vision"])
def test_a_file_of_other_pictures_or_another_vision_model_is_refused_and_kept(change, vision, tmp_path):
    pictures = {"a": encoded(0), "b": encoded(1)}
    path = extract(make_tweets(train=pictures), vision, tmp_path)
    before = path.read_bytes()
    others = {
        "picture": pictures | {"b": encoded(2)},
        "no picture": pictures | {"b": None},
        "id": {"a": encoded(0), "c": encoded(1)},
        "vision": pictures,
    }[change]
    vision = make_vision_model(seed=1) if change == "vision" else vision
    with pytest.raises(FileExistsError, match="is of other pictures, or of another vision model"):
        extract(make_tweets(train=others), vision, tmp_path)
    assert path.read_bytes() == before


def test_a_data_set_is_found_again_in_the_cache(twelve, vision, tmp_path, request):
    path = extract(twelve, vision, tmp_path, is_cache=True)
    before = path.stat().st_mtime_ns
    assert extract(twelve, request.getfixturevalue("blind"), tmp_path, is_cache=True) == path
    assert path.stat().st_mtime_ns == before


@pytest.mark.parametrize("change", ["picture", "weights", "setting"])
def test_a_change_leads_to_another_extraction_in_the_cache(change, vision, tmp_path):
    pictures = {"a": encoded(0), "b": encoded(1)}
    first = extract(make_tweets(train=pictures), vision, tmp_path, is_cache=True)
    before = content_of(first.parent)
    if change == "picture":
        pictures["b"] += b"\0"  # behind the end of the PNG: the same pixels, other bytes
    changed = {"picture": vision, "weights": make_vision_model(seed=1), "setting": make_vision_model(max_regions=1)}[
        change
    ]
    second = extract(make_tweets(train=pictures), changed, tmp_path, is_cache=True)
    assert second.parent != first.parent and second.parent.parent == tmp_path
    assert VisualFeatures(second).keys() == {"a", "b"}
    assert read_visual_metadata(second)["vision_sha256"] == changed.fingerprint()
    assert content_of(first.parent) == before


def test_one_weight_changed_by_one_bit_leads_to_another_extraction(vision, tmp_path):
    tweets = make_tweets(train={"a": encoded(0)})
    first = extract(tweets, vision, tmp_path, is_cache=True)
    changed = make_vision_model()
    weight = next(changed.parameters()).view(-1)
    weight[0] = torch.nextafter(weight[0], torch.tensor(torch.inf))
    assert extract(tweets, changed, tmp_path, is_cache=True) != first


def test_data_sets_share_a_cache_without_disturbing_each_other(twelve, ten, vision, tmp_path):
    extract(twelve, vision, tmp_path / "alone")
    paths = [extract(images, vision, tmp_path / "cache", is_cache=True) for images in (twelve, ten)]
    assert paths[0] == extract(twelve, vision, tmp_path / "cache", is_cache=True)
    assert paths[0].read_bytes() == (tmp_path / "alone" / FEATURES_FILE).read_bytes()
    assert VisualFeatures(paths[1]).keys() == set(ten.ids) - {"empty"}


def test_the_random_numbers_that_follow_do_not_depend_on_the_extraction(twelve, vision, tmp_path):
    torch.manual_seed(5)
    expected = torch.rand(3)
    for num_workers in (0, 1):
        torch.manual_seed(5)
        extract(twelve, vision, tmp_path / str(num_workers), num_workers=num_workers)
        assert torch.equal(torch.rand(3), expected)


# ------------------------------------------------------------------------------------------------------------- memory

MEASURE = """
import resource, sys
sys.path[:0] = [{root!r}, {tests!r}]
import torch
torch.set_num_threads(1)
from datasets import Dataset, DatasetDict
from modeling_hamlearning_vision import HamLearningVisionModel
from hamlearning.pictures.extraction import extract_visual_features
from hamlearning.pictures.tweet_images import TweetImages
count = {count}
tweets = DatasetDict(train=Dataset.from_dict({{"id": [str(n) for n in range(count)]}}))
vision = HamLearningVisionModel.from_pretrained({vision!r})
images = TweetImages(tweets, {pictures!r})
extract_visual_features(images, vision, {output!r}, batch_size=32, num_workers=1, show_progress=False)
kilobytes = sum(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
print("peak", kilobytes / 1024)
"""


@pytest.mark.slow
def test_twenty_thousand_pictures_take_hardly_more_memory_than_a_thousand(tmp_path):
    torch.manual_seed(0)
    # Rows are large beside the network: 3 times 2048 features, 490 MB in all as floats of 32 bits.
    backbone = BACKBONE | {"model_args": {"depths": [1, 1, 1, 0], "dims": [8, 8, 8, 2048]}}
    config = HamLearningVisionConfig(global_backbone_config=backbone, **TINY)
    HamLearningVisionModel(config).save_pretrained(tmp_path / "vision")
    (tmp_path / "pictures").mkdir()
    for number in range(20_000):
        (tmp_path / "pictures" / f"{number}.png").write_bytes(encoded(number, size=(8, 8)))
    peaks = {}
    for count in (1_000, 20_000):
        code = MEASURE.format(
            root=str(ROOT), tests=str(ROOT / "tests"), count=count, vision=str(tmp_path / "vision"),
            pictures=str(tmp_path / "pictures"), output=str(tmp_path / str(count)),
        )  # fmt: skip
        started = time.monotonic()
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode == 0, done.stderr[-4000:]
        peaks[count] = float(done.stdout.split("peak ")[1])
        print(f"{count} pictures: {time.monotonic() - started:.0f} s, peak {peaks[count]:.0f} MB with the worker")
    assert pq.read_metadata(tmp_path / "20000" / FEATURES_FILE).num_rows == 20_000
    assert peaks[20_000] < 1.5 * peaks[1_000]
    assert peaks[20_000] < peaks[1_000] + 150  # all rows at once would be half a gigabyte


# ----------------------------------------------------------------------------------------------------------- run_mner


@pytest.fixture(scope="module")
def world(tmp_path_factory, vision) -> Path:
    """A folder with tweets/, pictures/, prepared/ (both in one), vision/, backbone/ and text_encoder/."""
    folder = tmp_path_factory.mktemp("world")
    (folder / "pictures").mkdir()
    for split, count in (("train", 24), ("valid", 8), ("test", 8)):
        write_tweets(folder / "tweets", split, count, seed=len(split))
        for number in range(count):
            if number != 3:
                (folder / "pictures" / f"{split}{number}.png").write_bytes(encoded(number + 100 * len(split)))
    (folder / "pictures" / "train5.png").write_bytes(b"")
    prepare(folder / "tweets", folder / "prepared", folder / "pictures")
    vision.save_pretrained(folder / "vision")
    torch.manual_seed(1)
    TimmWrapperModel(TimmWrapperConfig(**BACKBONE)).save_pretrained(folder / "backbone")
    words = sorted({w for frame in FRAMES for w in frame if w[0] != "{"} | {w for ws in NAMES.values() for w in ws})
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]
    config = BertConfig(
        vocab_size=len(vocabulary), hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64
    )
    BertModel(config).save_pretrained(folder / "text_encoder")
    BertTokenizer(vocab={word: i for i, word in enumerate(vocabulary)}).save_pretrained(folder / "text_encoder")
    return folder


def flags(**settings) -> list[str]:
    settings = {"use_cpu": True, "disable_tqdm": True} | settings
    return [part for name, value in settings.items() if value is not None for part in (f"--{name}", str(value))]


def train_flags(world: Path, output_dir: Path, **more) -> list[str]:
    """Command line of a short training run on the prepared data set; `None` leaves a flag out."""
    settings = {
        "data_dir": world / "prepared",
        "vision_model": world / "vision",
        "extraction_dir": world / "cache",
        "text_model": world / "text_encoder",
        "output_dir": output_dir,
        "do_train": True,
        "do_predict": True,
        "num_train_epochs": 2,
        "per_device_train_batch_size": 8,
        "num_semantic_layers": 1,
    }
    return flags(**settings | more)


@pytest.fixture(scope="module")
def trained(world) -> Path:
    run_mner(train_flags(world, world / "trained", save_total_limit=5))
    return world / "trained"


def losses_of(folder: Path) -> list[dict]:
    return results_of(folder)["train"]["history"]


def test_a_run_on_a_data_set_with_pictures_extracts_them_and_says_so(trained, world, vision):
    (file,) = (world / "cache").glob(f"*/{FEATURES_FILE}")
    # 37 pictures lie in the folder, and one of them is empty.
    assert len(VisualFeatures(file)) == 36
    assert results_of(trained)["vision"] == {
        "pictures": 36, "detector": "grid", "global_backbone": "test_convnext", "sha256": vision.fingerprint()
    }  # fmt: skip


@pytest.fixture(scope="module")
def renumbered(world) -> Path:
    """The prepared data set with ids that begin anew in each split."""
    folder = world / "renumbered"
    for split, dataset in load_tweets(world / "prepared").items():
        first = 1 if split == "test" else 0  # so that its tweet without a picture has the id of others' with one
        ids = [f"t{number + first}" for number in range(len(dataset))]
        folder.mkdir(exist_ok=True)
        dataset = dataset.cast_column("image", ImageFeature(decode=False))
        dataset.remove_columns("id").add_column("id", ids).to_parquet(folder / f"{split}.parquet")
    return folder


def test_ids_that_begin_anew_in_each_split_give_each_tweet_its_own_picture(trained, renumbered, world, tmp_path):
    places = {"data_dir": renumbered, "extraction_dir": tmp_path / "cache"}
    run_mner(train_flags(world, tmp_path / "out", **places))
    assert losses_of(tmp_path / "out") == losses_of(trained)
    lines = [
        [{name: value for name, value in json.loads(line).items() if name != "id"} for line in text.splitlines()]
        for text in ((folder / "predictions_test.jsonl").read_text() for folder in (tmp_path / "out", trained))
    ]
    assert lines[0] == lines[1]
    run_mner(train_flags(world, tmp_path / "shuffled", **places, shuffle_pictures=True))
    assert losses_of(tmp_path / "shuffled") != losses_of(trained)


def test_pictures_that_a_file_cannot_tell_apart_by_id_are_refused(renumbered, world, trained, tmp_path):
    (file,) = (world / "cache").glob(f"*/{FEATURES_FILE}")
    message = r"The id 't1' stands for two pictures, of row 1 of the train split and of row 0 of the test split"
    with pytest.raises(ValueError, match=message):
        run_mner(flags(do_extract=True, data_dir=renumbered, vision_model=world / "vision", output_dir=tmp_path / "x"))
    with pytest.raises(ValueError, match=message):
        run_mner(train_flags(world, tmp_path / "y", data_dir=renumbered, visual_features=file))


def test_the_vision_model_is_saved_with_the_model_and_not_with_its_checkpoints(trained, vision):
    assert HamLearningVisionModel.from_pretrained(trained, subfolder="vision").fingerprint() == vision.fingerprint()
    checkpoints = list(trained.glob("checkpoint-*"))
    assert len(checkpoints) == 2
    assert not any((checkpoint / "vision").exists() for checkpoint in checkpoints)


def test_the_processor_of_a_trained_model_takes_pictures(trained, world):
    processor = HamLearningProcessor.from_pretrained(trained)
    picture = world / "pictures" / "test0.png"
    inputs = processor(text="i met ann today", images=str(picture))
    (file,) = (world / "cache").glob(f"*/{FEATURES_FILE}")
    expected = VisualFeatures(file)["test0"]
    assert inputs["image_mask"].tolist() == [1]
    np.testing.assert_allclose(inputs["image_features"][0], expected["image_features"], rtol=2e-3, atol=1e-3)
    np.testing.assert_allclose(inputs["region_features"][0], expected["features"], rtol=2e-3, atol=1e-3)


def test_a_new_vision_model_is_made_of_a_backbone_and_a_detector(world, tmp_path):
    backbone = world / "backbone"
    run_mner(
        train_flags(
            world, tmp_path / "out", vision_model=None, vision_backbone=backbone, detector="grid",
            extraction_dir=tmp_path / "cache", num_train_epochs=1,
        )
    )  # fmt: skip
    made = HamLearningVisionModel.from_backbone_detector_pretrained(str(backbone), "grid")
    saved = HamLearningVisionModel.from_pretrained(tmp_path / "out" / "vision")
    assert saved.fingerprint() == made.fingerprint() == results_of(tmp_path / "out")["vision"]["sha256"]


def test_predicting_with_a_trained_model_uses_its_own_vision_model(trained, world, vision, tmp_path):
    run_mner(
        flags(
            model_name_or_path=trained, data_dir=world / "prepared", do_predict=True, output_dir=tmp_path / "out",
            extraction_dir=tmp_path / "cache",
        )
    )  # fmt: skip
    assert results_of(tmp_path / "out")["vision"]["sha256"] == vision.fingerprint()
    predictions = [folder / "predictions_test.jsonl" for folder in (tmp_path / "out", trained)]
    assert predictions[0].read_text() == predictions[1].read_text()
    relevance = {line["id"]: line["relevance"] for line in map(json.loads, predictions[0].read_text().splitlines())}
    assert [id_ for id_, values in relevance.items() if values is None] == ["test3"]


def test_the_pictures_of_a_folder_are_used_where_the_data_set_has_none(trained, world, tmp_path):
    run_mner(
        flags(
            model_name_or_path=trained, data_dir=world / "tweets", image_dir=world / "pictures", do_predict=True,
            output_dir=tmp_path / "out", extraction_dir=tmp_path / "cache",
        )
    )  # fmt: skip
    assert (tmp_path / "out/predictions_test.jsonl").read_text() == (trained / "predictions_test.jsonl").read_text()


def test_a_model_trained_further_keeps_its_vision_model(trained, world, vision, tmp_path):
    run_mner(
        train_flags(
            world, tmp_path / "out", model_name_or_path=trained, text_model=None, vision_model=None,
            num_semantic_layers=None, num_train_epochs=1,
        )
    )  # fmt: skip
    assert HamLearningVisionModel.from_pretrained(tmp_path / "out/vision").fingerprint() == vision.fingerprint()


def test_without_vision_no_vision_model_is_loaded(world, tmp_path):
    run_mner(
        train_flags(
            world, tmp_path / "out", use_vision=False, vision_model=tmp_path / "nowhere", num_train_epochs=1,
            extraction_dir=tmp_path / "cache",
        )
    )  # fmt: skip
    assert results_of(tmp_path / "out")["vision"] is None
    assert not (tmp_path / "out" / "vision").exists() and not (tmp_path / "cache").exists()


def test_a_model_of_text_alone_never_reads_pictures(world, tmp_path):
    cache = {"extraction_dir": tmp_path / "cache"}
    run_mner(train_flags(world, tmp_path / "text", use_vision=False, num_train_epochs=1, **cache))
    run_mner(
        flags(
            model_name_or_path=tmp_path / "text", data_dir=world / "prepared", do_predict=True,
            output_dir=tmp_path / "out", vision_model=tmp_path / "nowhere", **cache,
        )
    )  # fmt: skip
    assert results_of(tmp_path / "out")["vision"] is None and not (tmp_path / "cache").exists()


def test_training_is_the_same_whether_features_were_extracted_now_or_before(world, tmp_path):
    for name in ("now", "before"):
        run_mner(train_flags(world, tmp_path / name, extraction_dir=tmp_path / "cache"))
    assert losses_of(tmp_path / "now") == losses_of(tmp_path / "before")
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("now", "before")]
    assert weights[0] == weights[1]


def test_training_depends_on_the_pictures(trained, world, tmp_path):
    run_mner(train_flags(world, tmp_path / "out", shuffle_pictures=True))
    assert losses_of(tmp_path / "out") != losses_of(trained)


def test_a_feature_file_stands_in_for_the_pictures_and_its_vision_model_is_saved(trained, world, vision, tmp_path):
    (file,) = (world / "cache").glob(f"*/{FEATURES_FILE}")
    run_mner(
        train_flags(
            world, tmp_path / "out", data_dir=world / "tweets", visual_features=file, extraction_dir=tmp_path / "cache"
        )
    )
    assert losses_of(tmp_path / "out") == losses_of(trained)
    assert HamLearningVisionModel.from_pretrained(tmp_path / "out/vision").fingerprint() == vision.fingerprint()
    assert not (tmp_path / "cache").exists()


def test_a_feature_file_of_other_vision_model_is_refused(trained, world, tmp_path):
    (file,) = (world / "cache").glob(f"*/{FEATURES_FILE}")
    make_vision_model(seed=1).save_pretrained(tmp_path / "others")
    with pytest.raises(ValueError, match=f"{FEATURES_FILE} was not made by the vision model of .*others"):
        run_mner(train_flags(world, tmp_path / "out", visual_features=file, vision_model=tmp_path / "others"))


def test_a_model_that_learned_from_a_file_leaves_the_pictures_out_and_says_so(trained, world, tmp_path, caplog):
    (file,) = (world / "cache").glob(f"*/{FEATURES_FILE}")
    run_mner(train_flags(world, tmp_path / "visionless", visual_features=file, vision_model=None, num_train_epochs=1))
    run_mner(
        flags(
            model_name_or_path=tmp_path / "visionless", data_dir=world / "prepared", do_predict=True,
            output_dir=tmp_path / "out", extraction_dir=tmp_path / "cache",
        )
    )  # fmt: skip
    assert "visionless has no vision model, because it learned from a visual feature file" in caplog.text
    assert results_of(tmp_path / "out")["vision"] is None


def test_the_vision_model_of_another_model_can_be_named(trained, world, vision, tmp_path):
    run_mner(train_flags(world, tmp_path / "out", vision_model=trained, num_train_epochs=1))
    assert results_of(tmp_path / "out")["vision"]["sha256"] == vision.fingerprint()


def extract_flags(world: Path, output_dir: Path, **more) -> list[str]:
    settings = {"data_dir": world / "prepared", "vision_model": world / "vision", "do_extract": True}
    return flags(**settings | {"output_dir": output_dir} | more)


def test_extraction_alone_writes_the_file_and_its_report(world, vision, tmp_path):
    run_mner(extract_flags(world, tmp_path / "out", extraction_dir=tmp_path / "cache"))
    extract(load_tweets(world / "prepared"), vision, tmp_path / "direct", num_workers=1)
    assert content_of(tmp_path / "out") == content_of(tmp_path / "direct")
    assert not (tmp_path / "cache").exists()


def test_extracting_again_into_its_folder_changes_nothing(world, tmp_path):
    run_mner(extract_flags(world, tmp_path))
    before = (tmp_path / FEATURES_FILE).stat().st_mtime_ns
    run_mner(extract_flags(world, tmp_path))
    assert (tmp_path / FEATURES_FILE).stat().st_mtime_ns == before


def test_extracting_with_other_vision_model_into_its_folder_is_refused(world, tmp_path):
    run_mner(extract_flags(world, tmp_path / "out"))
    make_vision_model(seed=1).save_pretrained(tmp_path / "others")
    with pytest.raises(
        FileExistsError, match="other pictures, or of another vision model: give another folder, or remove it"
    ):
        run_mner(extract_flags(world, tmp_path / "out", vision_model=tmp_path / "others"))


def test_extracting_a_data_set_without_pictures_is_refused(world, tmp_path):
    with pytest.raises(ValueError, match="No tweet has a picture to extract features of: give --image_dir"):
        run_mner(extract_flags(world, tmp_path / "out", data_dir=world / "tweets"))


def test_a_run_that_extracts_and_trains_keeps_both_in_its_folder(trained, world, tmp_path):
    run_mner(train_flags(world, tmp_path / "out", do_extract=True, extraction_dir=tmp_path / "cache"))
    assert losses_of(tmp_path / "out") == losses_of(trained)
    assert len(VisualFeatures(tmp_path / "out" / FEATURES_FILE)) == 36


@pytest.mark.slow
def test_two_processes_write_the_file_of_one(world, tmp_path):
    write_tweets(tmp_path / "tweets", "test", 600, seed=0)  # three shards
    (tmp_path / "pictures").mkdir()
    for number in range(600):
        if number % 50:
            (tmp_path / "pictures" / f"test{number}.png").write_bytes(encoded(number))
    settings = {"data_dir": tmp_path / "tweets", "image_dir": tmp_path / "pictures"}
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", str(ROOT / "run_mner.py")]
        + extract_flags(world, tmp_path / "two", **settings),
        capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    run_mner(extract_flags(world, tmp_path / "one", **settings))
    assert report_of(tmp_path / "two")["unusable"] == 12
    assert content_of(tmp_path / "two") == content_of(tmp_path / "one")


@pytest.mark.slow
def test_two_processes_extract_and_train(world, vision, tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", str(ROOT / "run_mner.py")]
        + train_flags(world, tmp_path / "out", extraction_dir=tmp_path / "cache", num_train_epochs=1),
        capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    assert results_of(tmp_path / "out")["training"]["world_size"] == 2
    assert results_of(tmp_path / "out")["vision"]["pictures"] == 36
    assert HamLearningVisionModel.from_pretrained(tmp_path / "out/vision").fingerprint() == vision.fingerprint()


def test_runs_that_share_a_cache_and_start_together_get_one_file(ten, vision, small_shards, tmp_path):
    with ThreadPoolExecutor() as pool:
        paths = list(pool.map(lambda _: extract(ten, vision, tmp_path, is_cache=True), range(3)))
    assert len(set(paths)) == 1 and paths[0].is_file()
