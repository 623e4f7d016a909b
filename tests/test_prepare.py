"""`datasets/prepare.py`: from text files and pictures to a data set that `load_dataset` reads."""

import hashlib
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import datasets
import pytest
from huggingface_hub import DatasetCard
from PIL import Image

from data_hamlearning import load_tweets, split_sha256


ROOT = Path(__file__).parents[1]
SHARED = Path(__file__).parents[2] / "shared" / "data"
needs_released_files = pytest.mark.skipif(
    not SHARED.is_dir(), reason=f"the released tweets are not at {SHARED}: they belong to their authors"
)

TRAIN = """IMGID:1
Ada\tB-PER
sings\tO

IMGID:2
Ada\tB-PER
sings\tO

IMGID:2
Rome\tB-LOC

IMGID:../secret
Paris\tI-LOC
Oscars\tB-OTHER

"""
TEST = """IMGID:5
Ada\tB-PER
sings\tO

IMGID:1
Rome\tI-LOC

"""


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "tweets"
    folder.mkdir()
    (folder / "train.txt").write_text(TRAIN)
    (folder / "test.txt").write_text(TEST)
    return folder


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    Image.new("RGB", (4, 3), "red").save(folder / "1.jpg")
    Image.new("RGB", (4, 3), "blue").save(folder / "5.PNG")
    whole = (folder / "1.jpg").read_bytes()
    (folder / "2.jpeg").write_bytes(whole[: len(whole) // 2])
    Image.new("RGB", (4, 3)).save(tmp_path / "secret.jpg")
    return folder


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("prepare", ROOT / "datasets" / "prepare.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def prepare(script, capsys):
    """Run the script with a command line, and return its exit status and what it says."""

    def run(*arguments):
        try:
            script.main([str(argument) for argument in arguments])
        except SystemExit as end:
            return end.code, "".join(capsys.readouterr())
        return 0, "".join(capsys.readouterr())

    return run


def table(card, title):
    """Return the cells of a row of the card's tables."""
    line = next(line for line in card.splitlines() if line.startswith(f"| {title} |"))
    return [cell.strip() for cell in line.split("|")[2:-1]]


@pytest.fixture
def prepared(prepare, source, pictures, tmp_path):
    status, said = prepare(source, tmp_path / "out", "--images", pictures, "--name", "tiny")
    assert status == 0, said
    return tmp_path / "out"


def test_the_script_runs_by_its_path_beside_the_library_of_its_folder_s_name(source, tmp_path):
    command = [sys.executable, str(ROOT / "datasets" / "prepare.py"), str(source), str(tmp_path / "out")]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "train: 4 tweets, 5 entities, 0 pictures",
        "test: 2 tweets, 2 entities, 0 pictures",
        f"{tmp_path / 'out'} is ready for load_dataset",
    ]


def test_an_unreadable_picture_is_said(prepare, source, pictures, tmp_path):
    _, said = prepare(source, tmp_path / "out", "--images", pictures)
    assert f"{pictures / '2.jpeg'} cannot be read: its tweet is left without a picture" in said


def test_the_folder_loads_with_the_columns_of_the_interface(prepared):
    loaded = datasets.load_dataset(str(prepared))
    assert {split: dataset.num_rows for split, dataset in loaded.items()} == {"train": 4, "test": 2}
    assert loaded["train"].column_names == ["id", "tokens", "ner_tags", "image"]
    assert loaded["train"].features == loaded["test"].features
    assert isinstance(loaded["train"].features["image"], datasets.Image)
    assert loaded["train"]["id"][:] == ["1", "2", "2", "../secret"]


def test_pictures_are_in_the_files_and_missing_or_broken_ones_are_null(prepared, pictures):
    for file in pictures.iterdir():
        file.unlink()
    loaded = datasets.load_dataset(str(prepared))
    assert [image and image.size for image in loaded["train"]["image"]] == [(4, 3), None, None, None]
    assert [image and image.getpixel((0, 0)) for image in loaded["test"]["image"]][0] == (0, 0, 255)


def test_no_path_of_this_machine_is_stored(prepared, tmp_path):
    for file in prepared.rglob("*.*"):
        assert str(tmp_path).encode() not in file.read_bytes()


def test_an_id_never_reaches_outside_the_folder_of_pictures(prepared, pictures):
    assert (pictures / "../secret.jpg").is_file()
    assert load_tweets(prepared)["train"][3]["image"] is None


def test_the_splits_hash_as_their_text_files(prepared, source):
    for split, dataset in load_tweets(prepared).items():
        assert split_sha256(dataset) == split_sha256(load_tweets(source)[split])


def test_the_card_counts_what_the_files_hold(prepared, source):
    card = (prepared / "README.md").read_text()
    for title, cells in {
        "Tweets": ["4", "2"],
        "Tokens": ["7", "3"],
        "PER entities": ["2", "1"],
        "LOC entities": ["2", "1"],
        "MISC entities": ["1", "0"],
        "Entities, seqeval's default mode": ["5", "2"],
        "Entities, strict IOB2": ["4", "1"],
        "Entities that an I- tag opens": ["1", "1"],
        "Tweets with a picture": ["1", "2"],
        "Tweets whose picture is missing": ["1", "0"],
        "Tweets whose picture is unreadable": ["2", "0"],
        "within train": ["1", "1"],
        "of test, also in train": ["2", "1"],
        "within test": ["0", "0"],
    }.items():
        assert table(card, title) == cells, title
    digest = hashlib.sha256((source / "train.txt").read_bytes()).hexdigest()
    assert table(card, "`train.txt`")[0] == f"`{digest}`"


def test_the_card_says_to_the_hub_what_it_is(prepared):
    data = DatasetCard.load(prepared / "README.md").data
    assert (data.pretty_name, data.license, data.language) == ("tiny", "other", ["en"])
    assert (data.task_categories, data.task_ids) == (["token-classification"], ["named-entity-recognition"])
    assert data.size_categories == ["n<1K"]


def test_without_pictures_every_image_is_null(prepare, source, tmp_path):
    assert prepare(source, tmp_path / "out")[0] == 0
    train = load_tweets(tmp_path / "out")["train"]
    assert train["image"][:] == [None] * 4


def test_a_folder_that_holds_something_is_left_alone_without_overwrite(prepare, source, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("mine")
    status, said = prepare(source, out)
    assert status == 1
    assert f"error: {out} is not an empty folder: choose another one, or add --overwrite" in said
    assert [file.name for file in out.iterdir()] == ["mine.txt"]


def test_overwrite_replaces_the_data_set_and_nothing_else(prepare, prepared, source):
    (prepared / "mine.txt").write_text("mine")
    (source / "test.txt").unlink()
    assert prepare(source, prepared, "--overwrite")[0] == 0
    assert list(load_tweets(prepared)) == ["train"]
    assert (prepared / "mine.txt").read_text() == "mine"


def test_malformed_tweets_are_named_and_nothing_is_written(prepare, source, tmp_path):
    (source / "test.txt").write_text("IMGID:1\nHi O\tO\nAda\n")
    status, said = prepare(source, tmp_path / "out")
    assert status == 1
    assert f"error: {source / 'test.txt'}, line 3: 'Ada' has no tab" in said
    assert "Traceback" not in said
    assert not (tmp_path / "out").exists()


def test_files_without_tags_are_refused(prepare, source, tmp_path):
    (source / "test.txt").write_text("IMGID:1\nHi\n")
    status, said = prepare(source, tmp_path / "out")
    assert (status, "test.txt has no tags" in said) == (1, True)


def test_the_source_is_not_written_over(prepare, source):
    status, said = prepare(source, source, "--overwrite")
    assert (status, "choose another folder" in said) == (1, True)


def test_a_missing_folder_of_pictures_is_named(prepare, source, tmp_path):
    status, said = prepare(source, tmp_path / "out", "--images", tmp_path / "nowhere")
    assert (status, "nowhere is not a folder: give --images" in said) == (1, True)


@needs_released_files
@pytest.mark.parametrize(
    ("name", "entities", "orphans"),
    [("twitter2015", [6352, 1594], [186, 53]), ("twitter2017", [6049, 1324, 1351], [0, 0, 0])],
)
def test_the_released_files_have_their_known_gold_counts(prepare, tmp_path, name, entities, orphans):
    assert prepare(SHARED / name, tmp_path / "out")[0] == 0
    card = (tmp_path / "out" / "README.md").read_text()
    assert table(card, "Entities, seqeval's default mode") == list(map(str, entities))
    assert table(card, "Entities that an I- tag opens") == list(map(str, orphans))
    strict = [entity - orphan for entity, orphan in zip(entities, orphans, strict=True)]
    assert table(card, "Entities, strict IOB2") == list(map(str, strict))
