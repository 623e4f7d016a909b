"""`hamlearning prepare`: from text files and pictures to a data set that `load_dataset` reads."""

import base64
import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import datasets
import pytest
from huggingface_hub import DatasetCard
from PIL import Image

from hamlearning.cli import main
from hamlearning.data.dividing import divide
from hamlearning.data.features import VisualFeatures, write_visual_features
from hamlearning.data.tweets import load_tweets, split_sha256
from hub_server import HubServer, run_client


ROOT = Path(__file__).parents[2]
SHARED = Path(__file__).parents[3] / "shared" / "data"
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


def make_source(parent):
    folder = parent / "tweets"
    folder.mkdir()
    (folder / "train.txt").write_text(TRAIN)
    (folder / "test.txt").write_text(TEST)
    return folder


def make_pictures(parent):
    folder = parent / "images"
    folder.mkdir()
    Image.new("RGB", (4, 3), "red").save(folder / "1.jpg")
    Image.new("RGB", (4, 3), "blue").save(folder / "5.PNG")
    whole = (folder / "1.jpg").read_bytes()
    (folder / "2.jpeg").write_bytes(whole[: len(whole) // 2])
    Image.new("RGB", (4, 3)).save(parent / "secret.jpg")
    return folder


def make_features(parent, ids=("1", "5", "gone")):
    row = {"image_size": [4, 3], "image_features": [0.5, 1, 2], "boxes": [[0.5] * 4], "class_ids": [1]}
    row |= {"scores": [0.25], "features": [[1, 2]]}
    vision = {"detector": "grid", "global_backbone_config": {"architecture": "resnet152"}}
    metadata = {"image_feature_size": 3, "region_feature_size": 2, "class_names": ["dog", "cat"]}
    metadata |= {"vision_config": vision, "vision_sha256": "f00d"}
    write_visual_features(parent / "seen.parquet", [{"id": id_} | row for id_ in ids], metadata)
    return parent / "seen.parquet"


@pytest.fixture
def source(tmp_path):
    return make_source(tmp_path)


@pytest.fixture
def pictures(tmp_path):
    return make_pictures(tmp_path)


@pytest.fixture
def features(tmp_path):
    return make_features(tmp_path)


@pytest.fixture
def prepare(capsys):
    """`hamlearning prepare` with a command line: its exit status and what it says."""

    def run(*arguments):
        status = main(["prepare", *map(str, arguments)])
        return status, "".join(capsys.readouterr())

    return run


def table(card, title):
    """Return the cells of a row of the card's tables."""
    line = next(line for line in card.splitlines() if line.startswith(f"| {title} |"))
    return [cell.strip() for cell in line.split("|")[2:-1]]


@pytest.fixture
def prepared(prepare, source, pictures, features, tmp_path):
    status, said = prepare(
        source, tmp_path / "out", "--images", pictures, "--visual_features", features, "--name", "tiny"
    )
    assert status == 0, said
    return tmp_path / "out"


def test_the_command_runs_beside_a_folder_of_the_name_of_the_datasets_library(source, tmp_path):
    command = [sys.executable, "-m", "hamlearning", "prepare", str(source), str(tmp_path / "out")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-3:] == [
        "train: 4 tweets, 5 entities, 0 pictures",
        "test: 2 tweets, 2 entities, 0 pictures",
        f"{tmp_path / 'out'} is ready for load_dataset",
    ]


def test_an_unreadable_picture_is_said(prepare, source, pictures, tmp_path):
    _, said = prepare(source, tmp_path / "out", "--images", pictures)
    assert f"{pictures / '2.jpeg'} cannot be read: its tweet is left without a picture" in said


def test_the_folder_loads_with_the_columns_of_the_interface(prepared):
    loaded = datasets.load_dataset(str(prepared), "pictures")
    assert {split: dataset.num_rows for split, dataset in loaded.items()} == {"train": 4, "test": 2}
    assert loaded["train"].column_names == ["id", "tokens", "ner_tags", "image"]
    assert loaded["train"].features == loaded["test"].features
    assert isinstance(loaded["train"].features["image"], datasets.Image)
    assert loaded["train"]["id"][:] == ["1", "2", "2", "../secret"]


def test_text_is_what_loads_when_nothing_is_said(prepared):
    loaded = datasets.load_dataset(str(prepared))
    with_pictures = datasets.load_dataset(str(prepared), "pictures")
    assert loaded["train"].column_names == ["id", "tokens", "ner_tags"]
    for split in ("train", "test"):
        assert loaded[split].to_dict() == with_pictures[split].remove_columns("image").to_dict()


def test_pictures_are_in_the_files_and_missing_or_broken_ones_are_null(prepared, pictures):
    for file in pictures.iterdir():
        file.unlink()
    loaded = datasets.load_dataset(str(prepared), "pictures")
    assert [image and image.size for image in loaded["train"]["image"]] == [(4, 3), None, None, None]
    assert [image and image.getpixel((0, 0)) for image in loaded["test"]["image"]][0] == (0, 0, 255)


def test_the_visual_features_are_the_file_that_was_given(prepared, features):
    copy = prepared / "visual_features" / "visual_features.parquet"
    assert copy.read_bytes() == features.read_bytes()
    loaded = datasets.load_dataset(str(prepared), "visual_features", split="features")
    assert (loaded["id"][:], loaded["boxes"][0]) == (["1", "5", "gone"], [[0.5] * 4])


def test_visual_features_of_no_tweet_are_counted(prepare, source, features, tmp_path):
    _, said = prepare(source, tmp_path / "out", "--visual_features", features)
    assert "visual features: 3 rows, 1 of them of no tweet here" in said


@pytest.mark.parametrize("flag", ["--images", "--visual_features"])
def test_what_belongs_to_other_tweets_is_refused_by_name(prepare, source, tmp_path, flag):
    (tmp_path / "others").mkdir()
    Image.new("RGB", (4, 3)).save(tmp_path / "others" / "9.jpg")
    given = tmp_path / "others" if flag == "--images" else make_features(tmp_path, ids=["9"])
    status, said = prepare(source, tmp_path / "out", flag, given)
    assert status == 1
    assert f"error: {given} has none of the tweets of {source}: an id there is '9', one of the tweets' is '1'" in said
    assert not (tmp_path / "out").exists()


def test_pictures_that_are_not_where_the_source_says_are_counted_with_the_flag_to_type(prepare, tmp_path):
    task = {"annotations": [{"completed_by": 1, "result": []}]}
    tasks = [{"id": n, "data": {"text": "so", "image": f"/data/upload/1/{n}.jpg"}, **task} for n in range(3)]
    (tmp_path / "train.json").write_text(json.dumps(tasks))
    line = "  3 pictures are not where the source says, 0.jpg the first: give their folder, --images"
    for flags in (["--check"], [tmp_path / "out"]):
        status, said = prepare(tmp_path / "train.json", *flags)
        assert (status, said.splitlines().count(line), "cannot be read" in said) == (0, 1, False)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["README.md", "text"]
    (tmp_path / "pictures").mkdir()
    Image.new("RGB", (4, 3)).save(tmp_path / "pictures" / "1.jpg")
    said = prepare(tmp_path / "train.json", "--check", "--images", tmp_path / "pictures")[1]
    assert "train: 1 pictures of 3 texts" in said


def test_pictures_that_are_all_broken_are_refused(prepare, source, pictures, tmp_path):
    for name in ("1.jpg", "5.PNG"):
        (pictures / name).unlink()
    status, said = prepare(source, tmp_path / "out", "--images", pictures)
    assert (status, f"error: {pictures} has no picture that can be read" in said) == (1, True)


def test_a_file_without_visual_features_is_refused(prepare, source, tmp_path):
    file = tmp_path / "seen.parquet"
    datasets.Dataset.from_dict({"id": ["1"]}).to_parquet(str(file))
    status, said = prepare(source, tmp_path / "out", "--visual_features", file)
    assert (status, f"error: {file} has no metadata 'hamlearning'" in said) == (1, True)


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
        "Tweets with visual features": ["1", "2"],
        "within train": ["1", "1"],
        "of test, also in train": ["2", "1"],
        "within test": ["0", "0"],
    }.items():
        assert table(card, title) == cells, title
    digest = hashlib.sha256((source / "train.txt").read_bytes()).hexdigest()
    assert table(card, "`train.txt`")[0] == f"`{digest}`"


def test_the_card_says_to_the_hub_what_it_is(prepared):
    data = DatasetCard.load(prepared / "README.md").data
    assert (data.pretty_name, data.license) == ("tiny", "other")
    assert (data.task_categories, data.task_ids) == (["token-classification"], ["named-entity-recognition"])
    assert data.size_categories == ["n<1K"]


def test_the_card_claims_no_language_and_no_years_for_tweets_that_it_does_not_know(prepared):
    card = DatasetCard.load(prepared / "README.md")
    assert card.data.language is None
    assert "English" not in card.text and "2014" not in card.text


def test_the_card_says_who_made_the_visual_features(prepared, features):
    card = (prepared / "README.md").read_text()
    for title, cell in {
        "Picture": "resnet152",
        "Regions": "grid",
        "SHA-256 of the weights": "f00d",
        "Classes of regions": "2",
        "Numbers a picture": "3",
        "Numbers a region": "2",
        "Rows": "3",
        "SHA-256 of the file": hashlib.sha256(features.read_bytes()).hexdigest(),
    }.items():
        assert table(card, title) == [cell], title


def test_without_pictures_and_visual_features_there_is_text_alone(prepare, source, tmp_path):
    assert prepare(source, tmp_path / "out")[0] == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["README.md", "text"]
    assert load_tweets(tmp_path / "out")["train"].column_names == ["id", "tokens", "ner_tags"]
    assert datasets.get_dataset_config_names(str(tmp_path / "out")) == ["text"]


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
    assert sorted(path.name for path in prepared.iterdir()) == ["README.md", "mine.txt", "text"]


def test_overwrite_replaces_a_data_set_of_the_layout_with_data(prepare, source, tmp_path):
    (tmp_path / "out" / "data").mkdir(parents=True)
    old = tmp_path / "out" / "data" / "train-00000-of-00001.parquet"
    datasets.Dataset.from_dict({"id": ["old"], "tokens": [["a"]]}).to_parquet(str(old))
    assert prepare(source, tmp_path / "out", "--overwrite")[0] == 0
    assert load_tweets(tmp_path / "out")["train"]["id"][0] == "1"


def test_visual_features_in_output_are_not_taken_for_their_own_replacement(prepare, prepared, source):
    own = prepared / "visual_features" / "visual_features.parquet"
    status, said = prepare(source, prepared, "--overwrite", "--visual_features", own)
    assert (status, f"error: {own} is in TARGET and would be replaced" in said) == (1, True)
    assert len(VisualFeatures(own)) == 3


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


def test_what_separates_no_columns_is_seen_in_the_error(prepare, tmp_path):
    (tmp_path / "train.txt").write_text("Ada,B-PER\nsings,O\n")
    status, said = prepare(tmp_path, "--check")
    assert status == 1
    assert "has no tags (a token a line, untagged; its first text begins 'Ada,B-PER' 'sings,O'): add them" in said


def test_the_source_is_not_written_over(prepare, source):
    status, said = prepare(source, source, "--overwrite")
    assert (status, "choose another folder" in said) == (1, True)


def test_a_missing_folder_of_pictures_is_named(prepare, source, tmp_path):
    status, said = prepare(source, tmp_path / "out", "--images", tmp_path / "nowhere")
    assert (status, "nowhere is no folder: give the folder of the pictures" in said) == (1, True)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--push_pictures"], "--push_pictures without --push_to_hub: name the repo"),
        (["--private"], "--private without --push_to_hub: name the repo"),
        (["--push_pictures", "--push_to_hub", "org/tiny"], "--push_pictures, but {source} holds no pictures: give"),
    ],
)
def test_a_flag_without_the_one_that_it_needs_is_refused(prepare, source, tmp_path, flags, message):
    status, said = prepare(source, tmp_path / "out", *flags)
    assert (status, f"error: {message.format(source=source)}" in said) == (1, True)
    assert not (tmp_path / "out").exists()


def test_a_check_says_what_is_there_and_writes_nothing(prepare, source, pictures, tmp_path):
    before = sorted(tmp_path.rglob("*"))
    status, said = prepare(source, "--check", "--images", pictures, "--max_length", "1")
    assert status == 0
    assert said.splitlines() == [
        "train, test: 2 columns separated by a tab",
        "tag scheme iob2",
        "train: 4 texts of 7 words, 3 of them longer than 1; 5 entities: LOC 2, MISC 1, PER 2",
        "  duplicates: 1 with the words, 1 with the id of another",
        "test: 2 texts of 3 words, 1 of them longer than 1; 2 entities: LOC 1, PER 1",
        "  duplicates: 2 with the words of one in train",
        "no validation split: training needs train and validation",
        "train: 1 pictures of 4 texts",
        f"  {pictures / '2.jpeg'} cannot be read",
        f"  {pictures / '2.jpeg'} cannot be read",
        "test: 2 pictures of 2 texts",
        "nothing was written: --check",
    ]
    assert sorted(path for path in tmp_path.rglob("*") if "cache" not in path.parts) == before


def test_without_a_target_only_a_check_is_possible(prepare, source):
    status, said = prepare(source)
    assert (status, "error: no TARGET: give the folder to make, or --check" in said) == (1, True)


def test_what_was_seen_is_said_before_what_is_written(prepare, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "train.bio").write_text("Ada S-per\nsings O\n\nRome S-LOC\n")
    status, said = prepare(tmp_path / "mine", tmp_path / "out", "--type_map", "per=PER")
    assert status == 0
    assert "train: 2 columns separated by a space\ntag scheme bioes, read as IOB2" in said
    assert load_tweets(tmp_path / "out")["train"].features["ner_tags"].feature.names[:2] == ["O", "B-PER"]


@pytest.mark.parametrize("suffix", [".txt", ".jsonl"])
def test_one_file_is_divided_into_splits_and_the_same_seed_divides_alike(prepare, tmp_path, suffix):
    file = tmp_path / f"all{suffix}"
    rows = [(f"t{place}", f"word{place}") for place in range(20)]
    if suffix == ".txt":
        file.write_text("".join(f"IMGID:{id_}\n{word}\tB-PER\n\n" for id_, word in rows))
    else:
        lines = [json.dumps({"id": id_, "tokens": [word], "ner_tags": ["B-PER"]}) for id_, word in rows]
        file.write_text("\n".join(lines))
    found = []
    for target, seed in (("one", "1"), ("two", "1"), ("three", "2")):
        assert prepare(file, tmp_path / target, "--split", "80/10/10", "--seed", seed)[0] == 0
        found.append({split: rows["id"][:] for split, rows in load_tweets(tmp_path / target).items()})
    assert {split: len(own) for split, own in found[0].items()} == {"train": 16, "validation": 2, "test": 2}
    assert sorted(id_ for own in found[0].values() for id_ in own) == sorted(id_ for id_, _ in rows)
    assert found[0] == found[1] != found[2]
    assert table((tmp_path / "one" / "README.md").read_text(), f"`all{suffix}`")


def test_texts_of_the_same_words_or_the_same_id_come_to_one_split():
    rows = {"id": ["a", "b", "b", "c", "d", "e"], "tokens": [["x"], ["x"], ["y"], ["z"], ["y"], ["u"]]}
    splits = divide(datasets.Dataset.from_dict(rows), (1, 1, 1), seed=3)
    together = next(own["id"][:] for own in splits.values() if "a" in own["id"][:])
    assert together == ["a", "b", "b", "d"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--split", "80"], "--split 80: write the shares of train, validation and test, such as 80/10/10"),
        (["--split", "80/10/10"], "has train, test already: leave --split out, or give one file"),
        (["--type_map", "PER"], "--type_map 'PER' has ['PER']: write OLD=NEW,OLD=NEW"),
        (["--tag_scheme", "io"], "word 1, 'Rome': the tag 'B-LOC' is not of the scheme io"),
        (["--tag_column", "3"], "has no such column: give 1 to 2"),
    ],
)
def test_what_a_flag_cannot_do_is_said_and_nothing_is_written(prepare, source, tmp_path, flags, message):
    status, said = prepare(source, tmp_path / "out", *flags)
    assert (status, message in said) == (1, True), said
    assert not (tmp_path / "out").exists()


def test_a_split_that_would_be_empty_is_refused(prepare, tmp_path):
    (tmp_path / "all.txt").write_text("IMGID:1\nAda\tB-PER\n\nIMGID:1\nRome\tB-LOC\n")
    status, said = prepare(tmp_path / "all.txt", tmp_path / "out", "--split", "50/50")
    assert status == 1
    assert "leaves no text for validation: there are 2, 1 of them with words and ids of their own" in said


def test_pictures_that_a_parquet_source_holds_are_written(prepare, prepared, tmp_path):
    status, said = prepare(prepared, tmp_path / "again")
    assert status == 0, said
    assert "train: 4 tweets, 5 entities, 1 pictures" in said
    assert [image and image.size for image in load_tweets(tmp_path / "again")["train"]["image"]] == [
        (4, 3), None, None, None,
    ]  # fmt: skip


def test_pictures_of_a_source_are_files_or_base64_and_nothing_that_keeps_waiting(prepare, pictures, tmp_path):
    encoded = base64.b64encode((pictures / "1.jpg").read_bytes()).decode()
    os.mkfifo(tmp_path / "pipe")
    given = ["images/1.jpg", encoded, f"data:image/jpeg;base64,{encoded}", str(tmp_path / "pipe"), "a\0b", "QUFB"]
    rows = [{"id": str(n), "tokens": ["Ada"], "ner_tags": ["B-PER"], "image": place} for n, place in enumerate(given)]
    source = tmp_path / "train.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    status, said = prepare(source, tmp_path / "out")
    assert (status, "train: 6 tweets, 6 entities, 3 pictures" in said) == (0, True), said
    assert said.count("cannot be read: its tweet is left without a picture") == 1
    assert "2 pictures are not where the source says, pipe the first" in said
    stored = load_tweets(tmp_path / "out")["train"].cast_column("image", datasets.Image(decode=False))["image"]
    assert [image and image["path"] for image in stored] == ["1.jpg", None, None, None, None, None]


def test_an_id_with_a_suffix_has_the_picture_of_that_name(prepare, pictures, tmp_path):
    (tmp_path / "train.txt").write_text("IMGID:1.jpg\nAda\tB-PER\n\n")
    status, said = prepare(tmp_path / "train.txt", tmp_path / "out", "--images", pictures)
    assert (status, "1 pictures" in said) == (0, True), said


def test_what_fails_half_way_leaves_the_data_set_that_was_there(prepare, prepared, source, pictures):
    before = {path: path.read_bytes() for path in prepared.rglob("*") if path.is_file()}
    for name in ("1.jpg", "5.PNG"):
        (pictures / name).unlink()
    assert prepare(source, prepared, "--overwrite", "--images", pictures)[0] == 1
    assert {path: path.read_bytes() for path in prepared.rglob("*") if path.is_file()} == before
    assert not list(prepared.parent.glob(".*.partial"))


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
    assert DatasetCard(card).data.language == ["en"]
    assert "written in English between 2014 and 2017" in card


# ------------------------------------------------------------------------------------------------------ on the Hub

REPO = "org/tiny"
FEATURES = "visual_features/visual_features.parquet"
RUN = """
import os, sys
from hamlearning.cli import main
sys.stderr = sys.stdout
def run(*arguments):
    print("status", main(["prepare", *arguments]))
"""


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A repo of four revisions, pushed without pictures, with, without, with; and then a push that was refused.

    `stages` are the revisions, `said` what each push printed, `refused` what the last one did.
    """
    folder = tmp_path_factory.mktemp("published")
    source, pictures, features = make_source(folder), make_pictures(folder), make_features(folder)
    given = ["--images", str(pictures), "--visual_features", str(features), "--push_to_hub", REPO]
    with HubServer() as hub:
        flags = [*given, "--overwrite"]
        code = "".join(f"run({str(source)!r}, 'out', *{flags + more})\n" for more in ([], ["--push_pictures"]) * 2)
        said = run_client(hub, RUN + code, folder)
        made, *stages = hub.repos["dataset", REPO].commits
        assert hub.files(REPO, "dataset", made) == {}
        hub.fail_next_commit = True
        refused = run_client(hub, RUN + f"run({str(source)!r}, 'refused', *{given}, '--name', 'new')", folder)
        yield SimpleNamespace(
            hub=hub, folder=folder, features=features, pictures=pictures, stages=stages, said=said, refused=refused,
        )  # fmt: skip


def served(published, stage):
    return published.hub.files(REPO, "dataset", published.stages[stage])


@pytest.fixture(scope="module")
def loaded(published):
    """What a process of its own, with an empty cache, loads from the repo, as JSON."""
    code = f"""
import json
from datasets import load_dataset
from huggingface_hub import hf_hub_download
from hamlearning.cli import main
from hamlearning.data.features import VisualFeatures
from hamlearning.data.tweets import load_tweets
first, with_pictures, without, main = {published.stages}
def rows(splits):
    return {{split: dataset.to_list() for split, dataset in splits.items()}}
pictures = load_dataset({REPO!r}, "pictures")
found = {{
    "text": rows(load_dataset({REPO!r}, "text")),
    "stream": list(load_dataset({REPO!r}, "text", split="train", streaming=True)),
    "pictures": {{split: [image and [type(image).__module__, image.size, image.getpixel((0, 0))]
                         for image in dataset["image"]] for split, dataset in pictures.items()}},
    "seen": load_dataset({REPO!r}, "visual_features", split="features").to_list(),
    "first": rows(load_dataset({REPO!r}, revision=first)),
    "tweets": load_tweets(dataset_name={REPO!r})["train"].column_names,
    "tweets_text": load_tweets(dataset_name={REPO!r}, dataset_config_name="text")["train"].column_names,
    "tweets_without": load_tweets(dataset_name={REPO!r}, revision=without)["train"].column_names,
}}
file = hf_hub_download({REPO!r}, {FEATURES!r}, repo_type="dataset")
found["features_file"] = file
found["features_ids"] = list(VisualFeatures(file))
print("\\nFOUND" + json.dumps(found))
"""
    home = published.folder / "home"
    home.mkdir()
    return json.loads(run_client(published.hub, code, home).rpartition("FOUND")[2])


@pytest.fixture
def local_text(published):
    return {split: dataset.to_list() for split, dataset in load_tweets(published.folder / "tweets").items()}


def test_pictures_are_published_only_when_it_is_said(published):
    for stage, has_pictures in enumerate([False, True, False, True]):
        files = served(published, stage)
        expected = {"README.md", FEATURES} | {f"text/{split}-00000-of-00001.parquet" for split in ("train", "test")}
        if has_pictures:
            expected |= {f"pictures/{split}-00000-of-00001.parquet" for split in ("train", "test")}
        assert set(files) == expected
        red = (published.pictures / "1.jpg").read_bytes()
        assert any(red in data for data in files.values()) == has_pictures


def test_each_push_is_one_revision_and_says_which(published):
    assert len(published.stages) == 4
    for stage, configs in zip(published.stages, ["text", "text, pictures"] * 2, strict=True):
        url = f"{published.hub.url}/datasets/{REPO}"
        assert f"{url} has {configs}, visual_features, revision {stage}" in published.said


def test_the_card_on_the_hub_names_what_is_there(published):
    for stage, names in enumerate([["text", "visual_features"], ["text", "pictures", "visual_features"]] * 2):
        card = DatasetCard(served(published, stage)["README.md"].decode())
        assert [config["config_name"] for config in card.data.configs] == names
        assert ("| Tweets with a picture |" in card.text) == ("pictures" in names)


def test_the_text_loads_whole_and_as_a_stream(loaded, local_text):
    assert loaded["text"] == local_text
    assert loaded["stream"] == local_text["train"]


def test_published_pictures_load_as_pictures(loaded):
    jpeg, png = "PIL.JpegImagePlugin", "PIL.PngImagePlugin"
    assert loaded["pictures"]["train"] == [[jpeg, [4, 3], [254, 0, 0]], None, None, None]
    assert loaded["pictures"]["test"][0] == [png, [4, 3], [0, 0, 255]]


def test_the_first_revision_still_loads(loaded, local_text):
    assert loaded["first"] == local_text


def test_the_visual_features_load_and_their_file_is_the_one_that_was_given(loaded, published):
    assert [row["id"] for row in loaded["seen"]] == loaded["features_ids"] == ["1", "5", "gone"]
    assert loaded["seen"][0]["features"] == [[1, 2]]
    assert Path(loaded["features_file"]).read_bytes() == published.features.read_bytes()


def test_tweets_come_with_their_pictures_where_the_repo_has_them(loaded):
    assert loaded["tweets"] == ["id", "tokens", "ner_tags", "image"]
    assert loaded["tweets_text"] == loaded["tweets_without"] == ["id", "tokens", "ner_tags"]


def test_what_was_loaded_once_loads_without_the_hub(loaded, published, local_text):
    code = f"""
import json, os
os.environ["HF_HUB_OFFLINE"] = "1"
from datasets import load_dataset
text = load_dataset({REPO!r}, "text")
names = [load_dataset({REPO!r}, name, split=split)["id"][:2] for name, split in
    [("pictures", "test"), ("visual_features", "features")]]
print("\\nFOUND" + json.dumps([{{split: dataset.to_list() for split, dataset in text.items()}}, names]))
"""
    published.hub.requests.clear()
    found = run_client(published.hub, code, published.folder / "home").rpartition("FOUND")[2]
    assert json.loads(found) == [local_text, [["5", "1"], ["1", "5"]]]
    assert published.hub.requests == []


def test_the_examples_of_the_card_print_what_it_says(published, tmp_path):
    card = served(published, -1)["README.md"].decode()
    code, output = re.search(r"```python\n(.*?)```\n```\n(.*?)```", card, re.DOTALL).groups()
    assert len(re.findall("load_dataset", code)) == 1 + 3
    assert run_client(published.hub, code, tmp_path) == output


def test_a_refused_push_leaves_the_hub_as_it_was(published):
    assert published.hub.find("dataset", REPO)[1] == published.stages[-1]


def test_a_refused_push_says_why_and_how_to_try_again(published):
    error = published.refused.splitlines()[-2]
    assert published.refused.splitlines()[-1] == "status 1"
    assert error.startswith(f"error: {REPO} was not published (")
    assert "Storage limit reached" in error
    assert "The new data set is complete in refused. Try again: hamlearning" in error
    assert re.search(r"Try again: hamlearning prepare \S*tweets refused --overwrite .* --name new$", error)
    assert "Traceback" not in published.refused


def test_after_a_refused_push_the_data_set_is_whole_on_disk(published, local_text):
    out = published.folder / "refused"
    loaded = datasets.load_dataset(str(out), "text")
    assert {split: dataset.to_list() for split, dataset in loaded.items()} == local_text
    assert datasets.get_dataset_config_names(str(out)) == ["text", "pictures", "visual_features"]
    assert DatasetCard.load(out / "README.md").data.pretty_name == "new"


def test_who_is_not_logged_in_is_told_before_anything_is_written(source, tmp_path):
    with HubServer() as hub:
        code = f"{RUN}os.environ['HF_TOKEN'] = 'hf_wrong'\nrun({str(source)!r}, 'out', '--push_to_hub', {REPO!r})"
        said = run_client(hub, code, tmp_path)
    assert f"error: The dataset repo {REPO} cannot be written to" in said and "hf auth login" in said
    assert said.splitlines()[-1] == "status 1"
    assert not (tmp_path / "out").exists()


def test_a_check_says_which_splits_are_missing(tmp_path, capsys):
    (tmp_path / "notes.txt").write_text("Ada\tB-PER\nsings\tO\n", encoding="utf-8")
    main(["prepare", str(tmp_path / "notes.txt"), "--check"])
    remedy = "training needs train and validation; --split 80/10/10 makes all three of one file"
    assert f"no validation and no test split: {remedy}" in capsys.readouterr().out
