"""Parquet and Arrow files as pandas, polars, DuckDB and `datasets` write them: their types, names and pictures.

The types are those that these programs write, made here by pyarrow; `test_written_by_tools.py` has the programs do it.
"""

import io
import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Array2D, ClassLabel, Dataset, Features, Image, LargeList, List, Value
from PIL import Image as Picture

from hamlearning.data.reading import ReadingOptions, parse_tag_names
from hamlearning.data.streams import stream_tweets
from hamlearning.data.tweets import load_tweets, tag_names
from hamlearning.pictures.tweet_images import TweetImages
from hamlearning.training.arguments import parse_arguments
from image_processing_hamlearning import ImageError, read_image
from words_hamlearning import TAGS


IDS, TOKENS, TAGGED = ["1", "2"], [["Ada", "!"], ["so", "tired"]], [["B-PER", "O"], ["O", "O"]]


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


def table(types=None, **columns) -> pa.Table:
    """The tweets above, texts and lists of given types, and other columns in place of theirs or beside them."""
    of_text, of_list = types or (pa.string(), pa.list_)
    own = {"id": pa.array(IDS, of_text), "tokens": pa.array(TOKENS, of_list(of_text))}
    own["ner_tags"] = pa.array(TAGGED, of_list(of_text))
    return pa.table({name: column for name, column in (own | columns).items() if column is not None})


def write_arrow(table, path):
    with pa.ipc.new_file(str(path), table.schema) as writer:
        writer.write_table(table)


def write_stream(table, path):
    with pa.ipc.new_stream(str(path), table.schema) as writer:
        writer.write_table(table)


WRITERS = {"train.parquet": pq.write_table, "train.arrow": write_arrow, "train.feather": write_stream}


@pytest.fixture(params=WRITERS)
def read(tmp_path, request):
    """`read(table, **options)`: the train split of a folder with this table."""

    def read(table, **options):
        WRITERS[request.param](table, tmp_path / request.param)
        return load_tweets(tmp_path, options=ReadingOptions(**options))["train"]

    return read


def check(train):
    assert train["id"][:] == IDS and train["tokens"][:] == TOKENS and tag_names(train) == TAGGED
    assert train.features["id"] == Value("string")
    assert train.features["ner_tags"] == List(ClassLabel(names=list(TAGS)))


TYPES = {
    "pandas": (pa.string(), pa.list_),
    "polars": (pa.large_string(), pa.large_list),
    "polars, Array": (pa.large_string(), lambda type_: pa.list_(type_, 2)),
    "polars, Arrow": (pa.string_view(), pa.large_list),
    "polars, Categorical": (pa.dictionary(pa.uint32(), pa.string()), pa.large_list),
}


@pytest.mark.parametrize("types", TYPES.values(), ids=TYPES)
def test_texts_and_lists_of_any_type(read, types):
    check(read(table(types)))


def test_columns_that_duckdb_calls_not_null(read):
    plain = table()
    check(read(plain.cast(pa.schema([field.with_nullable(False) for field in plain.schema]))))


@pytest.mark.parametrize("type_", [pa.int8(), pa.uint64(), pa.float64()])
def test_ids_that_are_whole_numbers(read, type_):
    check(read(table(id=pa.array([1, 2], type_))))


def test_other_names_of_the_columns(read):
    renamed = table().rename_columns(["tweet_id", "words", "labels"])
    check(read(renamed))
    check(read(table().rename_columns(["id", "form", "gold"]), token_column="form", tag_column="gold"))
    check(read(table().rename_columns(["a", "tokens", "ner_tags"]).drop_columns("a").append_column("id", [IDS])))


def test_tweets_without_ids_are_called_by_their_place(read):
    train = read(table(id=None))
    assert train["id"][:] == ["train-1", "train-2"] and tag_names(train) == TAGGED


def test_ids_of_tags_have_the_names_that_are_said(read):
    numbers = pa.array([[1, 0], [0, 0]], pa.list_(pa.int8()))
    check(read(table(ner_tags=numbers), tag_names=("O", "B-PER")))
    with pytest.raises(ValueError, match="which says nothing of their names: .*, --tag_names"):
        read(table(ner_tags=numbers))
    with pytest.raises(ValueError, match=r"row 0 has the tag 1, but --tag_names has 1 names"):
        read(table(ner_tags=numbers), tag_names=("O",))


def test_the_names_of_tags_are_a_flag(tmp_path):
    numbers = table(ner_tags=pa.array([[1, 0], [0, 0]]))
    pq.write_table(numbers, tmp_path / "train.parquet")
    _, data_args, *_ = parse_arguments(["--data_dir", str(tmp_path), "--tag_names", "O,B-PER", "--output_dir", "x"])
    check(load_tweets(tmp_path, options=data_args.reading_options(None))["train"])
    with pytest.raises(ValueError, match="--tag_names 'O,,B-PER' has an empty name or one twice"):
        parse_tag_names("O,,B-PER")


@pytest.mark.parametrize("lists", [List, LargeList, lambda label: List(label, length=2)])
def test_lists_of_datasets_with_names_of_tags(read, lists):
    types = {
        "id": Value("string"),
        "tokens": lists(Value("string")),
        "ner_tags": lists(ClassLabel(names=["O", "B-PER"])),
    }
    types |= {"boxes": Array2D((1, 4), "float32"), "features": List(Value("float16"))}
    rows = {"id": IDS, "tokens": TOKENS, "ner_tags": [[1, 0], [0, 0]], "boxes": [[[0.0] * 4]] * 2}
    made = Dataset.from_dict(rows | {"features": [[np.float16(1)]] * 2}, features=Features(types))
    train = read(made.data.table.replace_schema_metadata(made.features.arrow_schema.metadata))
    check(train)
    assert train.features["features"].feature.dtype == "float16" and train[0]["boxes"] == [[0.0] * 4]


@pytest.mark.parametrize("tag", [2, -1])
def test_a_tag_that_is_none_of_the_names_is_refused(read, tag):
    types = Features(id=Value("string"), tokens=List(Value("string")), ner_tags=List(ClassLabel(names=["O", "B-PER"])))
    numbers = table(ner_tags=pa.array([[1, 0], [0, tag]]))
    with pytest.raises(ValueError, match=rf"row 1 \(id '2'\) has the tag {tag}, but the column names 2 tags, 0 to 1"):
        read(numbers.cast(types.arrow_schema).replace_schema_metadata(types.arrow_schema.metadata))


@pytest.mark.parametrize("suffix", [".parquet", ".arrow"])
def test_shards_that_number_their_tags_otherwise_are_refused(tmp_path, suffix):
    """`datasets` reads the second file's numbers by the names of the first, without a word."""
    for shard, names in enumerate((["O", "B-PER"], ["B-PER", "O"])):
        types = Features(id=Value("string"), tokens=List(Value("string")), ner_tags=List(ClassLabel(names=names)))
        numbers = pa.array([[names.index(tag) for tag in tags] for tags in TAGGED])
        rows = table(ner_tags=numbers).cast(types.arrow_schema).replace_schema_metadata(types.arrow_schema.metadata)
        WRITERS[f"train{suffix}"](rows, tmp_path / f"train-0000{shard}-of-00002{suffix}")
    said = r"train-00001.*numbers the tags of its column ner_tags as \['B-PER', 'O'\]"
    with pytest.raises(ValueError, match=said):
        load_tweets(tmp_path)
    if suffix == ".parquet":
        with pytest.raises(ValueError, match=said):
            load_tweets(dataset_name=str(tmp_path))
        with pytest.raises(ValueError, match=said):
            stream_tweets([str(path) for path in sorted(tmp_path.glob("train-*"))], TAGS, seed=1, buffer_size=8)


@pytest.mark.parametrize("suffix", [".parquet", ".arrow"])
def test_shards_of_two_programs_are_one_split(tmp_path, suffix):
    for shard, program in enumerate(("pandas", "polars")):
        WRITERS[f"train{suffix}"](table(TYPES[program]), tmp_path / f"train-0000{shard}-of-00002{suffix}")
    assert load_tweets(tmp_path)["train"]["tokens"][:] == TOKENS * 2


def test_raw_text_with_spans(read):
    spans = pa.array([[{"start": 0, "end": 3, "label": "PER"}], []])
    texts = pa.array(["Ada!", "so tired"], pa.large_string())
    check(read(table(tokens=None, ner_tags=None, text=texts, entities=spans)))
    with pytest.raises(ValueError, match=r"train\.\w+, row 0: the span .* is not within its text of 2 characters"):
        read(table(tokens=None, ner_tags=None, text=pa.array(["Ad", "so"]), entities=spans))


def test_rows_that_were_rejected_are_left_out_with_their_pictures(read):
    spans = pa.array([[], [{"start": 0, "end": 3, "label": "PER"}]])
    columns = {"text": ["no", "Ada!"], "spans": spans, "answer": ["reject", "accept"], "image": ["a.jpg", "b.jpg"]}
    train = read(table(tokens=None, ner_tags=None, **{k: pa.array(v) for k, v in columns.items()}))
    assert train["id"][:] == ["2"] and tag_names(train) == [["B-PER", "O"]]
    assert train.cast_column("image", Image(decode=False))["image"][:] == [{"bytes": None, "path": "b.jpg"}]


def test_lists_that_are_no_tags_of_tokens_are_refused(read):
    spans = pa.array([[{"start": 0, "end": 3, "label": "PER"}], []])
    with pytest.raises(ValueError, match="write one tag for each token"):
        read(table(ner_tags=None, entities=spans))
    with pytest.raises(ValueError, match="tags and labels: say which are those of the entities, --tag_column"):
        read(table(ner_tags=None, tags=pa.array(TAGGED), labels=pa.array(TAGGED)))


# ---------------------------------------------------------------------------------------------------------- pictures


@pytest.fixture
def picture() -> bytes:
    stream = io.BytesIO()
    Picture.new("RGB", (3, 2)).save(stream, "PNG")
    return stream.getvalue()


def first_picture(train):
    images = TweetImages({"train": train})
    assert images[1] is None
    return read_image(images[0])


STORED = {
    "bytes": pa.binary(),
    "large bytes": pa.large_binary(),
    "a view of bytes": pa.binary_view(),
    "a struct": pa.struct({"bytes": pa.binary(), "path": pa.string()}),
    "a struct of polars": pa.struct({"path": pa.large_string(), "bytes": pa.large_binary()}),
}


@pytest.mark.parametrize("type_", STORED.values(), ids=STORED)
def test_a_column_of_pictures(read, picture, type_):
    value = {"bytes": picture, "path": None} if pa.types.is_struct(type_) else picture
    assert first_picture(read(table(image=pa.array([value, None], type_)))).size == (3, 2)


@pytest.mark.parametrize("name", ["image", "img", "file_name"])
@pytest.mark.parametrize("is_struct", [False, True])
def test_a_column_of_paths_beside_the_file(read, picture, tmp_path, name, is_struct):
    (tmp_path / "a.png").write_bytes(picture)
    column = pa.array([{"bytes": None, "path": "a.png"}, None] if is_struct else ["a.png", None])
    assert first_picture(read(table(**{name: column}))).size == (3, 2)


def test_a_column_of_base64(read, picture):
    import base64

    text = base64.b64encode(picture).decode()
    for value in (text, f"data:image/png;base64,{text}"):
        assert first_picture(read(table(image=pa.array([value, None], pa.large_string())))).size == (3, 2)


def test_a_url_is_never_opened(read):
    with pytest.raises(ImageError, match="is a URL, and none is opened here"):
        first_picture(read(table(image=pa.array(["http://127.0.0.1:9/a.png", None]))))


# -------------------------------------------------------------------------------------------------------- bad files


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("content", [b"", b"ARROW1", b"PAR1", b"\xff\xff\xff\xff\xf0\x00\x00\x00", b"FEA1" * 9])
def test_a_file_of_another_kind_is_named(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=re.escape(f"{tmp_path / name} is ")):
        load_tweets(tmp_path)


def test_offsets_that_lead_out_of_an_arrow_file_are_refused(tmp_path):
    offsets = pa.py_buffer(np.array([0, 2**30, 2], np.int32).tobytes())
    ids = pa.StringArray.from_buffers(2, offsets, pa.py_buffer(b"12"))
    write_arrow(table(id=ids), tmp_path / "train.arrow")
    with pytest.raises(ValueError, match=r"train.arrow has a column id that is damaged"):
        load_tweets(tmp_path)


def test_text_of_an_arrow_file_that_is_not_utf8_is_refused(tmp_path):
    ids = pa.array([b"1", b"\xff"]).view(pa.string())
    write_arrow(table(id=ids), tmp_path / "train.arrow")
    with pytest.raises(ValueError, match=r"train.arrow has a column id .* not UTF-8"):
        load_tweets(tmp_path)
