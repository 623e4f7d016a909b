"""A model as one callable: the same rows from every kind of table, and a reason in place of a row that is broken."""

import multiprocessing
import os
import pickle
import shutil
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from datasets import Dataset, Image
from filelock import FileLock
from PIL import Image as Picture
from transformers import pipeline

import hamlearning
from hamlearning.data.features import VisualFeatures
from hamlearning.tagging import Tagger
from hamlearning.tagging import tagger as module
from hamlearning.tagging.tables import columns_of
from tiny_world import rounded, save_seeing_model


TEXTS = ["i met ann today", "flying to rome with bob cleo !", "so tired", "", "ann ann"]


@pytest.fixture(scope="module")
def pictures(world):
    return sorted((world / "images").glob("*.png"))


@pytest.fixture(scope="module")
def tagger(trained_folder):
    """Of a model that learned from a visual feature file."""
    return Tagger(trained_folder)


@pytest.fixture(scope="module")
def seeing(trained_folder, world, tmp_path_factory):
    """A `Tagger` of a model with a vision model."""
    return Tagger(save_seeing_model(world, tmp_path_factory.mktemp("seeing")))


def without_scores(rows):
    return [[(e["entity_group"], e["word"], e["start"], e["end"]) for e in row or []] for row in rows]


def test_an_arrow_table_gives_the_entities_of_the_pipeline(tagger, trained_folder):
    found = tagger(pa.table({"id": ["a", "b", "c", "d", "e"], "text": TEXTS}))
    assert found.schema == Tagger.schema
    assert found["id"].to_pylist() == ["a", "b", "c", "d", "e"]
    expected = pipeline(model=str(trained_folder), trust_remote_code=True)(TEXTS)
    assert without_scores(found["entities"].to_pylist()) == without_scores(expected)
    assert any(expected)
    assert found["text_error"].null_count == found["image_error"].null_count == len(TEXTS)


def test_a_batch_gives_a_batch_and_an_iterator_gives_an_iterator(tagger):
    table = pa.table({"text": TEXTS})
    whole = tagger(table)
    batches = table.to_batches(2)
    assert isinstance(tagger(batches[0]), pa.RecordBatch)
    assert pa.Table.from_batches(tagger(iter(batches))).equals(whole)
    assert (
        tagger(table.slice(0, 0).to_batches()[0] if table.slice(0, 0).to_batches() else table.slice(0, 0)).num_rows
        == 0
    )


def test_words_are_read_as_they_are(tagger):
    rows = tagger(pa.table({"tokens": [["i", "met", "ann"], []], "text": ["ignored", "ignored"]})).to_pylist()
    [entity] = rows[0]["entities"]
    assert (entity["word"], entity["word_start"]) == ("ann", 2)
    assert rows[1]["entities"] == []


@pytest.mark.parametrize("kind", ["dict", "pandas", "polars", "datasets"])
def test_every_kind_of_table_gives_the_same_rows_in_its_own_kind(kind, tagger):
    columns = {"id": ["1", "2", "3", "4", "5"], "text": TEXTS}
    expected = tagger(pa.table(columns)).to_pylist()
    if kind == "dict":
        found = tagger(columns)
        rows = pa.table(found).to_pylist()
    elif kind == "pandas":
        found = tagger(pd.DataFrame(columns, index=[3, 1, 4, 1, 5]))
        assert list(found.index) == [3, 1, 4, 1, 5]
        rows = found.to_dict("records")
    elif kind == "polars":
        polars = pytest.importorskip("polars", reason="needs polars: pip install -e '.[dev]'")
        found = polars.LazyFrame(columns).map_batches(tagger, schema=tagger(polars.DataFrame(columns)).schema)
        rows = found.collect().to_dicts()
    else:
        found = Dataset.from_dict(columns).map(tagger, batched=True, batch_size=2)
        assert found["text"][:] == TEXTS
        rows = [{name: row[name] for name in Tagger.schema.names} for row in found]
    assert rows == expected


def test_batches_of_datasets_have_one_type_whatever_the_first_ones_hold(seeing, pictures):
    rows = {"text": ["so tired", "so tired", "i met ann"], "image": [None, None, str(pictures[0])]}
    found = Dataset.from_dict(rows).map(seeing, batched=True, batch_size=1)
    assert found.features["relevance"].feature.dtype == "float32"
    assert found[0]["relevance"] is None and len(found[2]["relevance"]) == 2


def test_pictures_of_datasets_are_not_decoded_by_it(seeing, pictures):
    content = [pictures[0].read_bytes(), b"no picture"]
    images = [{"bytes": data, "path": None} for data in content]
    rows = Dataset.from_dict({"text": ["ann", "ann"], "image": images}).cast_column("image", Image())
    found = rows.map(seeing, batched=True, remove_columns=["image"])
    assert found[0]["image_error"] is None and found[0]["relevance"] is not None
    assert "no picture" in found[1]["image_error"] or "is no" in found[1]["image_error"]
    assert found[1]["entities"] is not None


def test_a_broken_row_is_a_reason_and_the_others_are_as_without_it(tagger):
    good = tagger({"text": TEXTS})
    texts = [*TEXTS[:2], 17, None, float("nan"), b"bytes", "half \ud800 a pair", "x" * (2**22 + 1), *TEXTS[2:]]
    found = tagger({"text": texts})
    assert found["entities"][:2] + found["entities"][8:] == good["entities"]
    assert found["entities"][2:8] == [None] * 6
    for reason, sign in zip(
        found["text_error"][2:8],
        ("17 is no string", "no text", "no text", "b'bytes' is no string", "is no text", "MiB"),
        strict=True,
    ):
        assert sign in reason
    assert found["text_error"][:2] == [None, None]


def test_tokens_that_are_none_are_reasons(tagger):
    found = tagger({"tokens": [["ann", None], "ann", ["ann", 3], None, 4]})
    assert [row is None for row in found["entities"]] == [False, True, True, True, True]
    assert "give a list of words" in found["text_error"][1] and "3 is no string" in found["text_error"][2]


def test_what_arrow_holds_and_python_does_not_is_a_reason(tagger):
    buffer = pa.py_buffer(b"ann\xff\xfeann")
    offsets = pa.py_buffer(np.array([0, 3, 5, 8], np.int32).tobytes())
    texts = pa.Array.from_buffers(pa.string(), 3, [None, offsets, buffer])
    found = tagger(pa.table({"text": texts})).to_pylist()
    assert [row["entities"] is None for row in found] == [False, True, False]
    assert "cannot be read" in found[1]["text_error"]


def test_a_picture_changes_what_is_found_and_a_broken_one_is_a_reason(seeing, pictures):
    images = [
        str(pictures[0]),
        pictures[1].read_bytes(),
        Picture.open(pictures[2]),
        "gone.png",
        17,
        None,
        float("nan"),
    ]
    found = seeing({"text": ["ann"] * 7, "image": images})
    assert [row is not None for row in found["relevance"]] == [True] * 3 + [False] * 4
    assert "gone.png" in found["image_error"][3] and "int is no picture" in found["image_error"][4]
    assert found["image_error"][5:] == [None, None] and found["image_error"][:3] == [None] * 3
    assert found["entities"][3] == found["entities"][5]


def test_pictures_for_a_model_that_reads_none_are_reasons(tagger):
    found = tagger({"text": ["ann", "ann"], "image": ["game.png", None]})
    assert found["image_error"] == ["the model has no vision model: give visual features", None]


def test_visual_features_are_columns_or_a_file(trained_folder, world, tagger):
    features = VisualFeatures(world / "features.parquet")
    ids = [*list(features)[:3], "unknown"]
    rows = [features.get(id_) for id_ in ids]
    by_file = Tagger(trained_folder, visual_features=world / "features.parquet")({"id": ids, "text": ["ann"] * 4})
    names = ("image_size", "image_features", "boxes", "class_ids", "features")
    columns = {name: [None if row is None else row[name].tolist() for row in rows] for name in names}
    by_columns = tagger(pa.table({"id": ids, "text": ["ann"] * 4, **columns})).to_pydict()
    assert by_columns == dict(by_file)
    assert [row is not None for row in by_columns["relevance"]] == [True, True, True, False]
    columns["features"][1] = [[1.0]]
    found = tagger({"text": ["ann"] * 4, **columns})
    assert "features" in found["image_error"][1] and found["relevance"][1] is None
    assert rounded(found["relevance"][0]) == rounded(by_columns["relevance"][0])


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"words": ["a"]}, "it needs `tokens`"),
        ({"text": "a"}, "batched=True"),
        ({"text": ["a"], "id": []}, "differ in length"),
        ({"text": ["a"], "image_features": [[1.0]]}, "but not boxes"),
        (pa.table([["a"], ["b"]], ["text", "text"]), "more than once"),
        (["a"], "list is no table"),
    ],
)
def test_a_table_that_is_none_is_refused(table, message, tagger):
    with pytest.raises(ValueError, match=message):
        tagger(table)


def test_columns_may_have_other_names(trained_folder, tagger):
    named = Tagger(trained_folder, text="tweet", id="key")
    found = named({"tweet": ["ann"], "key": [7], "text": ["so tired"], "tokens": [["so"]]})
    assert found["id"] == ["7"] and found["entities"] == tagger({"text": ["ann"]})["entities"]
    with pytest.raises(ValueError, match="text='tweet'.*name one of them"):
        named({"text": ["ann"], "key": [1]})


@pytest.mark.parametrize("argument", [{"dtype": "int8"}, {"batch_size": 0}, {"threads": 0}, {"batch_size": 1.5}])
def test_settings_that_are_none_are_refused_at_once(argument):
    with pytest.raises(ValueError, match=f"{next(iter(argument))}="):
        Tagger("nowhere", **argument)


def test_the_model_is_loaded_with_the_first_tweets_and_once(trained_folder, monkeypatch):
    module.load_reader.cache_clear()
    loaded = []
    monkeypatch.setattr(module, "pipeline", lambda **options: loaded.append(options) or pipeline(**options))
    first = Tagger(trained_folder)
    copy = pickle.loads(pickle.dumps(first))
    assert not loaded
    assert first({"text": ["ann"]}) == copy({"text": ["ann"]})
    again = pickle.loads(pickle.dumps(copy))
    assert again.reader is first.reader and len(loaded) == 1


def test_a_pickled_tagger_holds_no_weights(tagger):
    tagger({"text": ["ann"]})
    assert len(pickle.dumps(tagger)) < 2000


def test_another_model_in_the_same_folder_is_another_tagger(trained_folder, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(trained_folder, folder)
    before = pickle.dumps(Tagger(folder))
    assert pickle.dumps(Tagger(folder)) == before
    os.utime(folder / "model.safetensors")
    assert pickle.dumps(Tagger(folder)) != before


def test_forked_processes_tag_as_their_parent_does(tagger):
    expected = tagger({"text": TEXTS})
    with multiprocessing.get_context("fork").Pool(2) as pool:
        found = pool.map_async(tagger, [{"text": TEXTS}] * 2).get(timeout=60)
    assert found == [expected] * 2


def test_values_of_numpy_are_those_of_python(tagger):
    arrays = {"id": np.array([3, 4]), "text": np.array(TEXTS[:2])}
    assert tagger(arrays) == tagger({"id": ["3", "4"], "text": TEXTS[:2]})
    assert list(columns_of(arrays)) == ["id", "text"]


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_a_frame_of_tweets_gives_a_frame_of_entities(library, trained_folder, tagger, caplog):
    frames = pytest.importorskip(library, reason=f"needs {library}: pip install -e '.[dev]'")
    df = frames.DataFrame({"tweet": ["so tired", *TEXTS[:2], None]})
    found = hamlearning.tag_frame(df, trained_folder, text="tweet")
    assert type(found) is type(df)
    rows = found.to_dict("records") if library == "pandas" else found.to_dicts()
    answers = tagger({"text": ["so tired", *TEXTS[:2]]})["entities"]
    expected = [{"row": row, **e, "relevance": None} for row, some in enumerate(answers) for e in some]
    assert rows == expected and len(rows) > 1
    assert "1 of 4 rows could not be read whole: row 3: there is no text" in caplog.text


def test_entities_of_pandas_stand_beside_their_tweets(trained_folder):
    df = pd.DataFrame({"text": ["so tired", "i met ann today"]}, index=[20, 10])
    found = hamlearning.tag_frame(df, trained_folder)
    joined = df.join(found, how="inner")
    assert list(joined.index) == [10] and joined["text"].iloc[0] == "i met ann today"


def test_a_frame_without_entities_has_the_same_columns(trained_folder):
    found = [hamlearning.tag_frame(pd.DataFrame({"text": texts}), trained_folder) for texts in (["so tired"], TEXTS)]
    assert list(found[0].columns) == list(found[1].columns) and len(found[0]) == 0


def test_processes_take_turns_at_loading(trained_folder, tmp_path, monkeypatch):
    """They share the folder that the model's code is copied to, and run what is there."""
    monkeypatch.setattr(module, "HF_MODULES_CACHE", str(tmp_path))
    own = Tagger(trained_folder, batch_size=3)
    with ThreadPoolExecutor(1) as threads:
        with FileLock(tmp_path / "hamlearning.lock"):
            loading = threads.submit(lambda: own.reader)
            with pytest.raises(TimeoutError):
                loading.result(0.3)
        assert loading.result(60).batch_size == 3
