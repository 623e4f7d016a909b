"""What is read: tweets in the released text format, Parquet data sets, and visual feature files."""

import hashlib
import json
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Array2D, ClassLabel, Dataset, Features, Image, List, Value
from huggingface_hub import get_session

from hamlearning.data.downloads import SILENCE, limit_silence
from hamlearning.data.features import _VISUAL_SCHEMA, VisualFeatures, write_visual_features
from hamlearning.data.released import read_tweets
from hamlearning.data.tweets import load_tweets, split_sha256, tag_names, with_tags
from words_hamlearning import TAGS


SHARED = Path(__file__).parents[3] / "shared" / "data"
needs_released_files = pytest.mark.skipif(
    not SHARED.is_dir(), reason=f"the released tweets are not at {SHARED}: they belong to their authors"
)

TWO_TWEETS = "IMGID:1\nHi\tO\nAda\tB-PER\n\nIMGID:2\nRome\tB-LOC\n\n"


def write(path, text):
    path.write_bytes(text.encode())
    return path


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


# ------------------------------------------------------------------------------------------------------ text format


def test_reads_tweets(tmp_path):
    assert read_tweets(write(tmp_path / "train.txt", TWO_TWEETS)) == {
        "id": ["1", "2"],
        "tokens": [["Hi", "Ada"], ["Rome"]],
        "ner_tags": [["O", "B-PER"], ["B-LOC"]],
    }


def test_the_last_blank_line_may_be_missing_and_others_may_be_many(tmp_path):
    loose = "\n\nIMGID:1\nHi\tO\nAda\tB-PER\n\n\n\nIMGID:2\nRome\tB-LOC"
    assert read_tweets(write(tmp_path / "a.txt", loose)) == read_tweets(write(tmp_path / "b.txt", TWO_TWEETS))


@pytest.mark.parametrize(
    "token", ["\xa0", " ", "\u2028", "\x85", "\x0b", "\x1c", "\u200b", "\ufe0f", " a ", "\r", "a\r"]
)
def test_no_token_is_stripped_or_split(tmp_path, token):
    tweets = read_tweets(write(tmp_path / "train.txt", f"IMGID:1\n{token}\tO\nend\tO\n\n"))
    assert tweets["tokens"] == [[token, "end"]]


def test_windows_line_ends_are_dropped(tmp_path):
    windows = write(tmp_path / "windows.txt", "\ufeff" + TWO_TWEETS.replace("\n", "\r\n"))
    assert read_tweets(windows) == read_tweets(write(tmp_path / "unix.txt", TWO_TWEETS))


def test_a_carriage_return_of_a_file_without_windows_line_ends_is_a_token(tmp_path):
    assert read_tweets(write(tmp_path / "test.txt", "IMGID:1\n\r\na\n\n"))["tokens"] == [["\r", "a"]]


def test_other_is_misc_and_an_orphan_i_tag_stays(tmp_path):
    text = "IMGID:1\na\tB-OTHER\nb\tI-OTHER\nc\tI-PER\n\n"
    assert read_tweets(write(tmp_path / "train.txt", text))["ner_tags"] == [["B-MISC", "I-MISC", "I-PER"]]


def test_a_token_may_look_like_an_image_id(tmp_path):
    assert read_tweets(write(tmp_path / "t.txt", "IMGID:1\nIMGID:2\tO\n\n"))["tokens"] == [["IMGID:2"]]


def test_a_file_without_tags_has_tokens_alone(tmp_path):
    tweets = read_tweets(write(tmp_path / "test.txt", "IMGID:1\nHi\nAda\n\n"))
    assert tweets == {"id": ["1"], "tokens": [["Hi", "Ada"]]}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("IMGID:1\nHi\tO\nAda\n\n", "line 3: 'Ada' has no tab: write token<TAB>tag"),
        ("IMGID:1\nHi\tO\nso\tNN\tO\n\n", "line 3: 'so\\tNN\\tO' has 2 tabs: write token<TAB>tag"),
        ("IMGID:1\nHi\tO\nAda\tB-A\n\nIMGID:2\nso\tPER\n", "line 5 and after: 'so': the tag 'PER' is a type alone"),
        ("IMGID:1\nHi\tB-\n\n", "line 2: 'Hi\\tB-' has the tag 'B-'"),
        ("IMGID:1\nHi\tO \n\n", "line 2: 'Hi\\tO ' has the tag 'O '"),
        ("IMGID:1\nHi\tO\r\n\n", "line 2: 'Hi\\tO\\r' has the tag 'O\\r'"),
        ("Hi\tO\nIMGID:1\nHi\tO\n", "line 1: 'Hi\\tO' belongs to no tweet: put a line IMGID:<id>"),
        ("IMGID:1\nHi\tO\n\nAda\tO\n", "line 4: 'Ada\\tO' belongs to no tweet"),
        ("IMGID:1\n\nIMGID:2\nHi\tO\n", "line 1: the tweet 'IMGID:1' has no tokens"),
        ("IMGID:1\nHi\tO\nIMGID:2\n", "line 3: the tweet 'IMGID:2' has no tokens"),
        ("IMGID:\nHi\tO\n", "line 1: 'IMGID:' names no image"),
        ("IMGID:1\nHi\nAda\tB-PER\n", "line 3: 'Ada\\tB-PER' has a tag, but most lines have none: tag"),
        ("IMGID:1\nHi\nso\nAda B-PER\n", "line 4: 'Ada B-PER' has a tag, but most lines have none: tag"),
        ("", "holds no tweet"),
        ("\n\n", "holds no tweet"),
    ],
)
def test_malformed_text_is_named_with_file_line_and_remedy(tmp_path, text, message):
    path = write(tmp_path / "train.txt", text)
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        read_tweets(path)
    assert str(error.value).startswith(str(path))


def test_bytes_that_are_not_utf8_are_named_with_their_line(tmp_path):
    path = tmp_path / "train.txt"
    path.write_bytes(b"IMGID:1\ncaf\xe9\tO\n")
    with pytest.raises(ValueError, match="line 2: the byte 0xe9 is not UTF-8"):
        read_tweets(path)


# --------------------------------------------------------------------------------------------------------- data sets


def label_names(dataset):
    return dataset.features["ner_tags"].feature.names


def parquet(path, columns, features=None):
    path.parent.mkdir(exist_ok=True)
    Dataset.from_dict(columns, features=features and Features(features)).to_parquet(str(path))


@pytest.mark.parametrize("name", ["valid.txt", "validation.txt", "dev.txt"])
def test_a_folder_of_text_files_gives_the_splits_that_it_holds(tmp_path, name):
    for file in ("train.txt", name):
        write(tmp_path / file, TWO_TWEETS)
    splits = load_tweets(tmp_path)
    assert list(splits) == ["train", "validation"]
    assert splits["validation"].features == Features(
        {"id": Value("string"), "tokens": List(Value("string")), "ner_tags": List(ClassLabel(names=list(TAGS)))}
    )
    assert splits["validation"]["ner_tags"][:] == [[0, 1], [3]]


def test_a_split_without_tags_has_no_column_of_tags(tmp_path):
    write(tmp_path / "train.txt", TWO_TWEETS)
    write(tmp_path / "test.txt", "IMGID:3\nHi\n\n")
    splits = load_tweets(tmp_path)
    assert splits["test"].column_names == ["id", "tokens"]
    assert splits["train"].column_names == ["id", "tokens", "ner_tags"]


def test_other_types_are_sorted_and_shared_by_all_splits(tmp_path):
    write(tmp_path / "train.txt", "IMGID:1\na\tB-PER\nb\tO\n\n")
    write(tmp_path / "test.txt", "IMGID:2\na\tI-ART\n\n")
    splits = load_tweets(tmp_path)
    assert label_names(splits["train"]) == label_names(splits["test"]) == ["O", "B-ART", "I-ART", "B-PER", "I-PER"]
    assert (splits["train"]["ner_tags"][0], splits["test"]["ner_tags"][0]) == ([3, 0], [2])


@pytest.mark.parametrize("file", ["data/train-00000-of-00001.parquet", "train.parquet", "train_0.parquet"])
def test_parquet_with_tags_as_strings(tmp_path, file):
    parquet(tmp_path / file, {"id": ["1"], "tokens": [["Ada", "!"]], "ner_tags": [["B-OTHER", "O"]]})
    train = load_tweets(tmp_path)["train"]
    assert label_names(train) == list(TAGS)
    assert train["ner_tags"][0] == [TAGS.index("B-MISC"), 0]


def test_parquet_splits_that_number_their_tags_differently_are_unified(tmp_path):
    for split, names in (("train", ["O", "B-PER", "I-PER"]), ("test", ["B-PER", "O"])):
        features = {"id": Value("string"), "tokens": List(Value("string")), "ner_tags": List(ClassLabel(names=names))}
        columns = {"id": ["1"], "tokens": [["Ada", "!"]], "ner_tags": [[names.index("B-PER"), names.index("O")]]}
        parquet(tmp_path / f"{split}.parquet", columns, features)
    splits = load_tweets(tmp_path)
    assert splits["train"]["ner_tags"][0] == splits["test"]["ner_tags"][0] == [1, 0]
    assert label_names(splits["train"]) == label_names(splits["test"]) == list(TAGS)


def test_parquet_shards_are_read_in_order(tmp_path):
    for shard in range(2):
        columns = {"id": [f"{shard}"], "tokens": [["a"]], "ner_tags": [["O"]]}
        parquet(tmp_path / "data" / f"train-0000{shard}-of-00002.parquet", columns)
    assert load_tweets(tmp_path)["train"]["id"][:] == ["0", "1"]


def test_pictures_and_other_columns_are_kept(tmp_path):
    columns = {
        "image": [{"bytes": b"...", "path": None}],
        "id": [7],
        "tokens": [["a"]],
        "ner_tags": [["O"]],
        "related": [True],
    }
    parquet(tmp_path / "train.parquet", columns)
    train = load_tweets(tmp_path)["train"]
    assert train.column_names == list(columns)
    assert isinstance(train.features["image"], Image)
    assert train.select_columns(["id", "related"])[0] == {"id": "7", "related": True}


def test_a_data_set_by_name_gives_the_same_splits_as_its_folder(tmp_path):
    folder = tmp_path / "set"
    for split in ("train", "dev"):
        parquet(folder / f"{split}.parquet", {"id": ["1"], "tokens": [["a"]], "ner_tags": [["B-PER"]]})
    by_name, by_folder = load_tweets(dataset_name=str(folder)), load_tweets(folder)
    assert list(by_name) == list(by_folder) == ["train", "validation"]
    assert by_name["validation"].features == by_folder["validation"].features
    assert by_name["validation"][:] == by_folder["validation"][:]


TWEET = {"id": ["1"], "tokens": [["a"]], "ner_tags": [["O"]]}
PICTURE = {"image": [{"bytes": b"...", "path": None}]}


def test_of_a_prepared_folder_the_tweets_with_pictures_are_read(tmp_path):
    parquet(tmp_path / "text" / "train-00000-of-00001.parquet", TWEET)
    assert load_tweets(tmp_path)["train"].column_names == list(TWEET)
    parquet(tmp_path / "pictures" / "train-00000-of-00001.parquet", TWEET | PICTURE)
    assert load_tweets(tmp_path)["train"].column_names == [*TWEET, "image"]


def test_a_folder_of_pictures_beside_text_files_is_no_data_set(tmp_path):
    write(tmp_path / "train.txt", TWO_TWEETS)
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "1.jpg").write_bytes(b"...")
    assert load_tweets(tmp_path)["train"]["id"][:] == ["1", "2"]


def test_of_a_data_set_by_name_the_configuration_with_pictures_is_read_unless_another_is_named(tmp_path):
    folder = tmp_path / "set"
    for config, columns in (("text", TWEET), ("pictures", TWEET | PICTURE)):
        (folder / config).mkdir(parents=True)
        parquet(folder / config / "train-00000-of-00001.parquet", columns)
    lines = [f"- config_name: {c}\n  data_files: {c}/*\n  default: {c == 'text'}" for c in ("text", "pictures")]
    write(folder / "README.md", "---\nconfigs:\n" + "\n".join(lines) + "\n---\n")
    assert load_tweets(dataset_name=str(folder))["train"].column_names == [*TWEET, "image"]
    by_name = load_tweets(dataset_name=str(folder), dataset_config_name="text")
    assert by_name["train"].column_names == list(TWEET)


GOOD_ROW = {"id": ["1", "2"], "tokens": [["a"], ["b", "c"]], "ner_tags": [["O"], ["O", "O"]]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ner_tags": [["O"], ["O"]]}, "train split, row 1 (id '2') has 2 tokens but 1 tags: give each token one tag"),
        ({"ner_tags": [["O"], None]}, "train split, row 1 (id '2') has 2 tokens but 0 tags"),
        ({"ner_tags": [["O"], ["O", "B-"]]}, "train split, row 1 (id '2') has the tag 'B-': write O, B-TYPE"),
        (
            {"ner_tags": [["B-PER"], ["O", "PER"]]},
            "train split, row 1 (id '2'), word 2, 'c': the tag 'PER' is a type alone, and 'B-PER' has a prefix",
        ),
        ({"ner_tags": [["O"], ["O", None]]}, "train split, row 1 (id '2') has a tag that is null"),
        ({"ner_tags": [[0], [0, 1]]}, "train split has ner_tags of type Value('int64'), which says nothing"),
        ({"tokens": [["a"], []]}, "train split, row 1 (id '2') has no tokens: remove the tweet"),
        ({"tokens": [["a"], None]}, "train split, row 1 (id '2') has no tokens"),
        ({"tokens": [["a"], ["b", None]]}, "train split, row 1 (id '2') has a token that is null"),
        ({"tokens": ["a", "b c"]}, "train split has tokens of type Value('string'): store them as lists of strings"),
        ({"id": ["1", None]}, "train split, row 1 has no id"),
        ({"id": [0.5, 1.0]}, "train split has ids of type Value('float64')"),
        ({"tokens": None}, "train split has no column 'tokens', only ['id', 'ner_tags']"),
    ],
)
def test_malformed_parquet_is_named_with_split_row_and_id(tmp_path, change, message):
    columns = {name: value for name, value in {**GOOD_ROW, **change}.items() if value is not None}
    parquet(tmp_path / "train.parquet", columns)
    with pytest.raises(ValueError, match=re.escape(message)):
        load_tweets(tmp_path)


def split_file(folder, **change):
    """A file of one tweet that Arrow writes, so that its types are what they are."""
    columns = {"id": pa.array(["1"]), "tokens": pa.array([["a"]]), "ner_tags": pa.array([["O"]])} | change
    pq.write_table(pa.table(columns), folder / "test.parquet")
    return folder / "test.parquet"


def not_utf8(good=0):
    """Arrow strings, the last of them of a byte that is not UTF-8."""
    offsets = np.arange(good + 2, dtype=np.int32).tobytes()
    return pa.Array.from_buffers(
        pa.string(), good + 1, [None, pa.py_buffer(offsets), pa.py_buffer(b"O" * good + b"\xff")]
    )


@pytest.mark.parametrize("column", ["id", "tokens", "ner_tags"])
def test_text_of_parquet_that_is_not_utf8_is_named_with_split_row_and_column(tmp_path, column):
    rows = {"id": pa.array(["1", "2"]), "tokens": pa.array([["a"]] * 2), "ner_tags": pa.array([["O"]] * 2)}
    bad = not_utf8(good=1)
    rows[column] = bad if column == "id" else pa.ListArray.from_arrays(pa.array([0, 1, 2], pa.int32()), bad)
    split_file(tmp_path, **rows)
    with pytest.raises(ValueError, match=f"^the test split, row 1: {column} has the byte 0xff, which is not UTF-8: "):
        load_tweets(tmp_path)


@pytest.mark.parametrize(
    "tags", [[5], ["O"], [{"tag": "O"}], [[["O"]]], [[{"tag": "O"}]]], ids=["number", "text", "dict", "lists", "dicts"]
)
def test_tags_that_are_no_lists_of_tags_are_named_with_their_type(tmp_path, tags):
    split_file(tmp_path, ner_tags=pa.array(tags))
    with pytest.raises(ValueError, match="^the test split has ner_tags of type .*: store "):
        load_tweets(tmp_path)


@pytest.mark.parametrize("id_", [["1"], {"number": "1"}], ids=["list", "dict"])
def test_ids_that_are_no_text_or_number_are_named_with_their_type(tmp_path, id_):
    split_file(tmp_path, id=pa.array([id_]))
    with pytest.raises(ValueError, match="^the test split has ids of type .*: store them as strings"):
        load_tweets(tmp_path)


@pytest.mark.parametrize("image", [5, 1.5, ["a"]], ids=["whole number", "number", "list of text"])
def test_a_column_of_pictures_that_holds_none_is_named_with_its_type(tmp_path, image):
    split_file(tmp_path, image=pa.array([image]))
    with pytest.raises(
        ValueError, match="^the test split has image of type .*, which is no picture .*: store picture"
    ):
        load_tweets(tmp_path)


@pytest.mark.parametrize(
    "features",
    [
        {"id": {"dtype": "nope", "_type": "Value"}},
        {"id": {"_type": "Nope"}},
        {"id": {"names": ["O", "O"], "_type": "ClassLabel"}},
        5,
    ],
    ids=["type of value", "kind of feature", "names twice", "number"],
)
def test_metadata_of_datasets_that_it_cannot_read_are_named_with_their_file(tmp_path, features):
    path = split_file(tmp_path)
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    pq.write_table(pq.read_table(path).replace_schema_metadata(metadata), path)
    with pytest.raises(ValueError, match="^.*test.parquet has a type, or metadata 'huggingface' .*: store the tweets"):
        load_tweets(tmp_path)


def test_what_arrow_says_of_damage_is_one_line_and_short(tmp_path):
    path = split_file(tmp_path)
    table = pq.read_table(path)
    more = {f"column {number}": pa.array([1]) for number in range(100)}
    columns = [*table.columns, table["id"], *more.values()]
    pq.write_table(pa.Table.from_arrays(columns, [*table.column_names, "id", *more]), path)
    with pytest.raises(ValueError, match="^.*test.parquet is not a Parquet file, or it is damaged .Multiple") as error:
        load_tweets(tmp_path)
    assert "\n" not in str(error.value) and len(str(error.value)) < len(str(path)) + 400


def class_label_parquet(path, names, tags):
    features = {"id": Value("string"), "tokens": List(Value("string")), "ner_tags": List(ClassLabel(names=names))}
    parquet(path, {"id": ["1"], "tokens": [["a"]], "ner_tags": [tags]}, features)


def test_a_class_label_without_a_name_is_refused(tmp_path):
    class_label_parquet(tmp_path / "train.parquet", ["O", "B-PER"], [-1])
    with pytest.raises(ValueError, match=re.escape("row 0 (id '1') has the tag -1, but the column names 2 tags")):
        load_tweets(tmp_path)


def test_a_class_label_whose_names_are_of_two_schemes_is_refused(tmp_path):
    class_label_parquet(tmp_path / "train.parquet", ["O", "S-PER", "PER"], [0])
    with pytest.raises(ValueError, match="the column ner_tags names its tags: the tag 'PER' is a type alone, and 'S-"):
        load_tweets(tmp_path)


def test_an_empty_split_is_refused(tmp_path):
    features = {"id": Value("string"), "tokens": List(Value("string")), "ner_tags": List(Value("string"))}
    write(tmp_path / "train.txt", TWO_TWEETS)
    parquet(tmp_path / "test.parquet", {name: [] for name in features}, features)
    with pytest.raises(ValueError, match="test.parquet is empty: fill the file or remove it"):
        load_tweets(tmp_path)


def test_a_split_that_is_there_twice_is_refused(tmp_path):
    for name in ("valid.txt", "dev.txt"):
        write(tmp_path / name, TWO_TWEETS)
    with pytest.raises(ValueError, match=re.escape("the validation split more than once (valid.txt, dev.txt)")):
        load_tweets(tmp_path)


def test_of_a_split_that_is_there_twice_the_first_file_of_each_is_named(tmp_path):
    write(tmp_path / "train.txt", TWO_TWEETS)
    for number in range(2):
        parquet(tmp_path / f"train-{number:05d}-of-00002.parquet", {"id": []}, {"id": Value("string")})
    names = "(train.txt, train-00000-of-00002.parquet)"
    with pytest.raises(ValueError, match=re.escape(f"the train split more than once {names}")):
        load_tweets(tmp_path)


@pytest.mark.parametrize("own", [None, 3])
def test_a_request_to_the_hub_that_has_no_limit_of_its_own_gets_one(own):
    limit_silence()
    session = get_session()
    request = session.build_request("GET", "http://127.0.0.1/", timeout=own)
    session.event_hooks["request"][-1](request)  # those before are the client's, which the tests forbid to ask
    assert set(request.extensions["timeout"].values()) == {own or SILENCE}


def test_a_missing_or_empty_folder_says_what_belongs_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere is not a folder: give the folder that holds train.txt"):
        load_tweets(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="holds no split, it is empty: expected train, valid"):
        load_tweets(tmp_path)


def test_a_folder_that_holds_no_split_names_the_files_it_found(tmp_path):
    for name in ("train.docx", "notes.md"):
        write(tmp_path / name, "")
    with pytest.raises(FileNotFoundError, match="holds no split, only notes.md, train.docx: expected train, valid"):
        load_tweets(tmp_path)


@pytest.mark.parametrize("arguments", [{}, {"data_dir": "a", "dataset_name": "b"}])
def test_exactly_one_source_is_asked_for(arguments):
    with pytest.raises(ValueError, match="give exactly one of them"):
        load_tweets(**arguments)


def test_a_folder_has_no_revision(tmp_path):
    with pytest.raises(ValueError, match="revision is 'main'"):
        load_tweets(tmp_path, revision="main")


def test_the_hash_is_that_of_the_released_text(tmp_path):
    write(tmp_path / "train.txt", TWO_TWEETS)
    write(tmp_path / "test.txt", untagged := "IMGID:1\nHi\nAda\n\nIMGID:2\nRome\n\n")
    splits = load_tweets(tmp_path)
    assert split_sha256(splits["train"]) == hashlib.sha256(TWO_TWEETS.encode()).hexdigest()
    assert split_sha256(splits["test"]) == hashlib.sha256(untagged.encode()).hexdigest()


def test_the_hash_does_not_depend_on_how_a_split_is_stored(tmp_path):
    for folder in ("text", "parquet"):
        (tmp_path / folder).mkdir()
    write(tmp_path / "text" / "train.txt", TWO_TWEETS)
    columns = {"id": ["1", "2"], "tokens": [["Hi", "Ada"], ["Rome"]], "ner_tags": [["O", "B-PER"], ["B-LOC"]]}
    parquet(tmp_path / "parquet" / "train.parquet", {**columns, "more": [1, 2]})
    assert split_sha256(load_tweets(tmp_path / "parquet")["train"]) == split_sha256(
        load_tweets(tmp_path / "text")["train"]
    )


@needs_released_files
def test_twitter_2017_hashes_as_its_released_files_do():
    splits = load_tweets(SHARED / "twitter2017")
    assert {name: split.num_rows for name, split in splits.items()} == {"train": 3373, "validation": 723, "test": 723}
    for name, file in (("train", "train.txt"), ("validation", "valid.txt"), ("test", "test.txt")):
        released = (SHARED / "twitter2017" / file).read_bytes()
        assert split_sha256(splits[name]) == hashlib.sha256(released).hexdigest()


@needs_released_files
def test_twitter_2015_is_read_whole_with_misc_for_other():
    splits = load_tweets(SHARED / "twitter2015")
    for name, file in (("train", "train.txt"), ("validation", "valid.txt")):
        assert label_names(splits[name]) == list(TAGS)
        released = (SHARED / "twitter2015" / file).read_bytes() + b"\n"
        as_misc = released.replace(b"-OTHER\n", b"-MISC\n")
        assert split_sha256(splits[name]) == hashlib.sha256(as_misc).hexdigest()


# -------------------------------------------------------------------------------------------------- visual features

METADATA = {"image_feature_size": 3, "region_feature_size": 2, "class_names": ["person", "ball"], "producer": "test"}


def a_row(image_id="a", regions=2, **change):
    return {
        "id": image_id,
        "image_size": [640, 480],
        "image_features": np.array([0.5, -1.0, 2.0]),
        "boxes": np.tile([0.5, 0.25, 0.5, 0.25], (regions, 1)),
        "class_ids": np.arange(regions) % 2,
        "scores": np.linspace(0.75, 0.25, regions),
        "features": np.arange(2.0 * regions).reshape(regions, 2),
        **change,
    }


def unchecked(path, rows, metadata=METADATA, types=None):
    """Write a feature file as somebody else's script might, without any check."""
    stored = {field.name: field.type for field in _VISUAL_SCHEMA}
    single = {"image_features": pa.list_(pa.float32()), "features": pa.list_(pa.list_(pa.float32()))}
    schema = pa.schema({**stored, **single, **(types or {})})
    if metadata is not None:
        schema = schema.with_metadata({"hamlearning": metadata if isinstance(metadata, str) else json.dumps(metadata)})
    plain = [{name: v.tolist() if isinstance(v, np.ndarray) else v for name, v in row.items()} for row in rows]
    pq.write_table(pa.Table.from_pylist(plain, schema=schema), path)
    return path


def test_what_is_written_is_read(tmp_path):
    rows = [a_row("b", 3), a_row("a", 1), a_row("none", 0)]
    assert write_visual_features(tmp_path / "features.parquet", rows, METADATA) == 3
    features = VisualFeatures(tmp_path / "features.parquet")
    assert list(features) == ["b", "a", "none"]
    assert features.metadata == METADATA
    assert (features.image_feature_size, features.region_feature_size, features.num_classes) == (3, 2, 2)
    assert features.class_names == ("person", "ball")
    for row in rows:
        for name, value in features[row["id"]].items():
            np.testing.assert_array_equal(value, row[name])


def test_entries_are_float32_and_a_picture_without_regions_has_empty_arrays(tmp_path):
    write_visual_features(tmp_path / "features.parquet", [a_row(), a_row("none", 0)], METADATA)
    entry = VisualFeatures(tmp_path / "features.parquet")["none"]
    assert {name: value.shape for name, value in entry.items()} == {
        "image_size": (2,),
        "image_features": (3,),
        "boxes": (0, 4),
        "class_ids": (0,),
        "scores": (0,),
        "features": (0, 2),
    }
    for name in ("image_features", "boxes", "scores", "features"):
        assert entry[name].dtype == np.float32


def test_a_row_without_regions_may_be_given_as_empty_lists(tmp_path):
    row = a_row(boxes=[], class_ids=[], scores=[], features=[])
    write_visual_features(tmp_path / "features.parquet", [row], METADATA)
    assert VisualFeatures(tmp_path / "features.parquet")["a"]["features"].shape == (0, 2)


def test_a_picture_that_the_file_lacks_is_no_entry(tmp_path):
    write_visual_features(tmp_path / "features.parquet", [a_row()], METADATA)
    features = VisualFeatures(tmp_path / "features.parquet")
    assert "z" not in features
    assert features.get("z") is None
    with pytest.raises(KeyError):
        features["z"]


def test_rows_are_streamed_in_groups(tmp_path):
    ahead = []

    def rows():
        for number in range(600):
            ahead.append(number)
            yield a_row(str(number), number % 3, image_features=[number, 0, 0])

    write_visual_features(tmp_path / "features.parquet", rows(), METADATA)
    assert pq.ParquetFile(tmp_path / "features.parquet").num_row_groups == 3
    features = VisualFeatures(tmp_path / "features.parquet")
    assert len(features) == len(ahead) == 600
    assert [entry["image_features"][0] for entry in features.values()] == list(range(600))
    assert [len(entry["boxes"]) for entry in features.values()] == [number % 3 for number in range(600)]


def test_features_are_stored_as_half_floats(tmp_path):
    write_visual_features(tmp_path / "features.parquet", [a_row(image_features=[1 / 3, 0, 0])], METADATA)
    schema = pq.read_schema(tmp_path / "features.parquet")
    assert schema.field("features").type == pa.list_(pa.list_(pa.float16()))
    assert VisualFeatures(tmp_path / "features.parquet")["a"]["image_features"][0] == np.float32(np.float16(1 / 3))


def test_other_columns_and_wider_numbers_are_read_over(tmp_path):
    types = {
        "caption": pa.string(),
        "image_features": pa.list_(pa.float64(), 3),
        "class_ids": pa.large_list(pa.int64()),
        "boxes": pa.list_(pa.list_(pa.float64(), 4)),
    }
    features = VisualFeatures(unchecked(tmp_path / "features.parquet", [a_row(caption="a dog")], types=types))
    np.testing.assert_array_equal(features["a"]["image_features"], a_row()["image_features"])
    np.testing.assert_array_equal(features["a"]["boxes"], a_row()["boxes"])
    assert features["a"]["image_features"].dtype == features["a"]["boxes"].dtype == np.float32


def test_columns_that_datasets_calls_array2d_are_lists(tmp_path):
    """The type is one of its own where `datasets` is imported, as it is here, and a list of lists elsewhere."""
    path = tmp_path / "features.parquet"
    write_visual_features(path, [a_row("a"), a_row("b")], METADATA)
    table, own = pq.read_table(path), VisualFeatures(path)
    rows = table.to_pydict()
    types = {"boxes": Array2D((None, 4), "float32"), "features": Array2D((None, own.region_feature_size), "float16")}
    features = Features(
        {**Features.from_arrow_schema(table.schema), "image_size": List(Value("int32"), length=2), **types}
    )
    rows["features"] = [np.array(regions, np.float16) for regions in rows["features"]]
    made = Dataset.from_dict(rows, features=features).data.table
    made = made.set_column(0, "id", made["id"].cast(pa.string_view()))
    pq.write_table(made.replace_schema_metadata({**made.schema.metadata, **table.schema.metadata}), path)
    read = VisualFeatures(path)
    assert isinstance(pq.read_schema(path).field("boxes").type, pa.BaseExtensionType)
    for name in own["a"]:
        np.testing.assert_array_equal(read["a"][name], own["a"][name])


def test_a_failure_leaves_what_stood_there(tmp_path):
    path = tmp_path / "features.parquet"
    write_visual_features(path, [a_row("old")], METADATA)

    def rows():
        yield from (a_row(str(number)) for number in range(300))
        raise RuntimeError("the camera broke")

    with pytest.raises(RuntimeError):
        write_visual_features(path, rows(), METADATA)
    assert list(VisualFeatures(path)) == ["old"]
    assert list(tmp_path.iterdir()) == [path]


BOXES = [[0.5, 0.5, 0.5, 0.5], [0.5, 0.5, 0.5, 0.5]]
BAD_ROWS = {
    "box past the right edge": ({"boxes": [BOXES[0], [0.9, 0.5, 0.5, 0.5]]}, "the box [0.8999"),
    "box past the top edge": (
        {"boxes": [BOXES[0], [0.5, 0.25, 0.75, 0.5]]},
        "the box [0.5, 0.25, 0.75, 0.5]",
    ),
    "box in pixels": (
        {"boxes": [BOXES[0], [320, 240, 10, 10]]},
        "the box [320.0, 240.0, 10.0, 10.0]",
    ),
    "box without height": ({"boxes": [BOXES[0], [0.5, 0.5, 0.0, 0.5]]}, "the box [0.5, 0.5, 0.0, 0.5] has no area"),
    "box without width": ({"boxes": [BOXES[0], [0.5, 0.5, 0.5, 0.0]]}, "the box [0.5, 0.5, 0.5, 0.0] has no area"),
    "box that is NaN": ({"boxes": [BOXES[0], [0.5, np.nan, 0.5, 0.5]]}, "boxes holds nan"),
    "box of three": ({"boxes": [[0.5, 0.5, 0.5]] * 2}, "boxes has 3 numbers where 4 belong"),
    "class id too high": ({"class_ids": [0, 2]}, "the class id 2 is not in [0, 2)"),
    "class id below zero": ({"class_ids": [-1, 0]}, "the class id -1 is not in [0, 2)"),
    "NaN in image features": ({"image_features": [0, np.nan, 0]}, "image_features holds nan"),
    "infinity in features": ({"features": [[0, 0], [np.inf, 0]]}, "features holds inf"),
    "NaN in scores": ({"scores": [1, np.nan]}, "scores holds nan"),
    "too few image features": ({"image_features": [0, 1]}, "image_features has 2 numbers where 3 belong"),
    "too many region features": ({"features": [[0, 1, 2]] * 2}, "features has 3 numbers where 2 belong"),
    "a class id too few": ({"class_ids": [0]}, "2 boxes but 1 class_ids"),
    "a feature too many": ({"features": [[0, 1]] * 3}, "2 boxes but 3 features"),
    "picture without width": ({"image_size": [0, 480]}, "image_size is [0, 480]"),
    "picture size of three": ({"image_size": [640, 480, 3]}, "image_size has 3 numbers where 2 belong"),
}


@pytest.mark.parametrize("name", BAD_ROWS)
def test_a_bad_row_is_refused_by_reader_and_writer_alike(tmp_path, name):
    change, message = BAD_ROWS[name]
    rows = [a_row("fine", 3), a_row("none", 0), a_row("bad", **change)]
    path = tmp_path / "features.parquet"
    pattern = re.escape(f"{path}, image 'bad': {message}")
    with pytest.raises(ValueError, match=pattern):
        write_visual_features(path, rows, METADATA)
    with pytest.raises(ValueError, match=pattern):
        VisualFeatures(unchecked(path, rows))


def test_a_box_may_pass_the_edge_by_rounding(tmp_path):
    write_visual_features(tmp_path / "features.parquet", [a_row(boxes=[[0.5, 0.5, 1.0, 1.00009]] * 2)], METADATA)
    assert len(VisualFeatures(tmp_path / "features.parquet")) == 1


def test_an_id_twice_is_refused_by_reader_and_writer_alike(tmp_path):
    path = tmp_path / "features.parquet"
    rows = [a_row("a"), a_row("b"), a_row("a")]
    with pytest.raises(ValueError, match="image 'a': more than one row has this id"):
        write_visual_features(path, rows, METADATA)
    with pytest.raises(ValueError, match="image 'a': more than one row has this id"):
        VisualFeatures(unchecked(path, rows))


def test_no_row_is_refused_by_reader_and_writer_alike(tmp_path):
    with pytest.raises(ValueError, match="would hold no row"):
        write_visual_features(tmp_path / "features.parquet", [], METADATA)
    with pytest.raises(ValueError, match="holds no row"):
        VisualFeatures(unchecked(tmp_path / "features.parquet", []))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_feature_size": None}, "image_feature_size = None in its metadata"),
        ({"region_feature_size": 0}, "region_feature_size = 0 in its metadata"),
        ({"region_feature_size": True}, "region_feature_size = True in its metadata"),
        ({"class_names": []}, "class_names = [] in its metadata"),
        ({"class_names": "person"}, "class_names = 'person' in its metadata"),
    ],
)
def test_bad_metadata_is_refused_by_reader_and_writer_alike(tmp_path, change, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        write_visual_features(tmp_path / "features.parquet", [a_row()], {**METADATA, **change})
    with pytest.raises(ValueError, match=re.escape(message)):
        VisualFeatures(unchecked(tmp_path / "features.parquet", [a_row()], {**METADATA, **change}))


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        (None, "no metadata 'hamlearning' in its schema"),
        ("{", "that is not JSON"),
        ("[1]", "has the metadata [1]: give a dict"),
    ],
)
def test_metadata_that_is_missing_or_unreadable_is_refused(tmp_path, metadata, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        VisualFeatures(unchecked(tmp_path / "features.parquet", [a_row()], metadata))


@pytest.mark.parametrize(
    ("column", "type_", "value"),
    [
        ("boxes", pa.list_(pa.float32()), [0.5, 0.5]),
        ("class_ids", pa.list_(pa.float32()), [0.0, 1.0]),
        ("scores", pa.list_(pa.string()), ["1", "0"]),
        ("id", pa.int64(), 7),
    ],
)
def test_a_column_of_another_type_is_refused(tmp_path, column, type_, value):
    path = unchecked(tmp_path / "features.parquet", [a_row(**{column: value})], types={column: type_})
    with pytest.raises(ValueError, match=f"has a column '{column}' of type .*: store it as"):
        VisualFeatures(path)


@pytest.mark.parametrize("column", ["id", "boxes"])
def test_a_column_that_is_there_twice_is_named(tmp_path, column):
    path = unchecked(tmp_path / "features.parquet", [a_row()])
    table = pq.read_table(path)
    pq.write_table(table.append_column(column, table[column]), path)
    with pytest.raises(
        ValueError, match=f"features.parquet has the column '{column}' more than once: keep one of them"
    ):
        VisualFeatures(path)


@pytest.mark.parametrize("side", [2**31, 2**64 - 1])
def test_a_picture_larger_than_32_bits_hold_is_refused(tmp_path, side):
    types = {"image_size": pa.list_(pa.uint64())}
    path = unchecked(tmp_path / "features.parquet", [a_row("fine"), a_row("bad", image_size=[side, 3])], types=types)
    with pytest.raises(ValueError, match=re.escape(f"image 'bad': image_size is [{side}, 3]: give width and height")):
        VisualFeatures(path)


def test_missing_columns_are_named(tmp_path):
    path = unchecked(tmp_path / "features.parquet", [a_row()])
    pq.write_table(pq.read_table(path).drop_columns(["scores", "id"]), path)
    with pytest.raises(ValueError, match=re.escape("lacks the columns ['id', 'scores']")):
        VisualFeatures(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"id": None}, "a row whose id is null"),
        ({"boxes": None}, "image 'a': boxes has a list that is null"),
        ({"features": [[0, 1], None]}, "image 'a': features has a list that is null"),
        ({"scores": [0.5, None]}, "image 'a': scores has a number that is null"),
    ],
)
def test_nulls_are_refused(tmp_path, change, message):
    path = unchecked(tmp_path / "features.parquet", [a_row("fine"), a_row(**change)])
    with pytest.raises(ValueError, match=re.escape(message)):
        VisualFeatures(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"id": 7}, "row 0 has the id 7: give a string"),
        ({"caption": "a dog"}, "row 0 has the keys ['boxes', 'caption',"),
        (
            {"boxes": [0.5, 0.5, 0.5, 0.5]},
            "boxes is not an array of 2 dimensions of float (its shape is (4,))",
        ),
        ({"boxes": [[0.5, 0.5, 0.5, 0.5], [0.5]]}, "image 'a': boxes is not an array of 2 dimensions"),
        ({"class_ids": [0.5, 1]}, "image 'a': class_ids is not an array of 1 dimension of int32 ([0.5, 1.0] are not"),
        ({"class_ids": [2**32, 1]}, "image 'a': class_ids is not an array of 1 dimension of int32"),
        ({"scores": None}, "image 'a': scores is not an array of 1 dimension"),
        ({"features": [[1e5, 0], [0, 0]]}, "image 'a': features holds inf: compute it anew"),
    ],
)
def test_a_row_that_cannot_be_stored_is_refused(tmp_path, change, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        write_visual_features(tmp_path / "features.parquet", [a_row(**change)], METADATA)
    assert not list(tmp_path.glob("*.parquet*"))


def test_a_file_that_is_no_parquet_is_refused(tmp_path):
    with pytest.raises(ValueError, match="is not a Parquet file"):
        VisualFeatures(write(tmp_path / "features.parquet", "id,boxes\n"))


@needs_released_files
def test_the_caption_features_of_twitter_2017_open():
    features = VisualFeatures(SHARED / "twitter2017" / "caption_features.parquet")
    tweets = load_tweets(SHARED / "twitter2017")
    assert (features.image_feature_size, features.region_feature_size, features.num_classes) == (384, 384, 1600)
    assert all(image_id in features for split in tweets.values() for image_id in split["id"])
    assert 0.15 < np.mean([len(entry["boxes"]) == 0 for entry in features.values()]) < 0.17


# ------------------------------------------------------------------------------------------- labels of a model


def tagged_split(names, tags):
    features = Features(
        id=Value("string"),
        tokens=List(Value("string")),
        ner_tags=List(ClassLabel(names=names)),
    )
    rows = {"id": ["1"], "tokens": [["a"] * len(tags)], "ner_tags": [tags]}
    return Dataset.from_dict(rows, features=features)


def test_labels_are_numbered_as_a_model_numbers_them():
    split = with_tags(tagged_split(["O", "B-PER", "I-PER"], [1, 2, 0]), ["O", "B-LOC", "I-LOC", "B-PER", "I-PER"])
    assert split["ner_tags"][0] == [3, 4, 0] and tag_names(split) == [["B-PER", "I-PER", "O"]]
    assert split.column_names == ["id", "tokens", "ner_tags"]


def test_a_tag_that_a_model_does_not_know_is_named_where_it_occurs():
    assert tag_names(with_tags(tagged_split(["O", "B-PER", "B-LOC"], [1, 0]), ["O", "B-PER"])) == [["B-PER", "O"]]
    with pytest.raises(ValueError, match=r"the tags \['B-LOC'\] are not among those of the model"):
        with_tags(tagged_split(["O", "B-PER", "B-LOC"], [2]), ["O", "B-PER"])
