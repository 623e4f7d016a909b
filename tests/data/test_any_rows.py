"""Whatever stands in a file of rows: it is read, or refused with a sentence that names the file."""

import csv
import io
import json

from hypothesis import given
from hypothesis import strategies as st

from hamlearning.data.csv_files import read_csv
from hamlearning.data.json_files import read_json
from hamlearning.data.reading import ReadingOptions
from words_hamlearning import split_words


KEYS = (
    "id text tokens ner_tags tags labels label entities spans ents ner tokenized_text image data annotations result "
    "value start end type to_name completed_by was_cancelled answer _annotator_id _input_hash annotator annotation_id "
    "paragraphs raw sentences orth bytes path columns"
).split()
ATOMS = st.sampled_from([0, 2, -1, 3.0, 0.5, 10**30, True, None, "", "O", "B-PER", "Ada met Bob", "labels", "\ud83d"])
SPAN = st.tuples(st.integers(-1, 12), st.integers(-1, 12), st.sampled_from(["PER", "a b", ""])).map(list)
VALUES = st.recursive(
    ATOMS | SPAN | st.builds(lambda s, e: {"start": s, "end": e, "label": "PER", "text": "Ada"}, ATOMS, ATOMS),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4),
    max_leaves=12,
)
OWN = st.sampled_from(
    [
        {"text": "Ada met Bob"},
        {"tokens": ["Ada", "met"]},
        {"data": {"text": "Ada met Bob"}, "annotations": []},
        {"id": 1, "annotator": 1, "annotation_id": 1, "text": "Ada met Bob"},
        {"paragraphs": [{"raw": "Ada met Bob", "entities": [[0, 3, "PER"]]}]},
        {},
    ]
)
ROWS = st.builds(lambda own, more: own | more, OWN, st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=3))


def check(read, path, **options):
    try:
        found = read([path], ReadingOptions(**options)).columns
    except ValueError as error:
        assert str(path) in str(error) and "\n" not in str(error)
        return
    count = len(found["id"])
    assert count > 0 and all(isinstance(id_, str) for id_ in found["id"])
    assert all(tokens and all(isinstance(token, str) for token in tokens) for tokens in found["tokens"])
    if "ner_tags" in found:
        assert list(map(len, found["ner_tags"])) == list(map(len, found["tokens"]))
        assert all(isinstance(tag, str) for tags in found["ner_tags"] for tag in tags)


@given(st.lists(ROWS, min_size=1, max_size=3), st.sampled_from(["", "json", "lines"]), st.sampled_from([None, "1"]))
def test_any_rows_of_json(tmp_path_factory, rows, shape, annotator):
    path = tmp_path_factory.getbasetemp() / "train.json"
    whole = {"json": rows, "": rows[0]}.get(shape, rows)
    text = "\n".join(map(json.dumps, rows)) if shape == "lines" else json.dumps(whole)
    path.write_text(text)
    check(read_json, path, annotator=annotator, tag_names=("O", "B-PER"))


@given(VALUES)
def test_any_json(tmp_path_factory, value):
    path = tmp_path_factory.getbasetemp() / "train.json"
    path.write_text(json.dumps(value))
    check(read_json, path)


NAMES = st.sampled_from([*KEYS, "token", "word", "tag", "sentence_id", "Sentence #", "x", ""])
CELLS = st.sampled_from(
    ["", "a", "O", "['a', 'b']", "['a' 'b']", "[a, 1]", "[[0, 1, 'X']]", '[[0, 1, "X"]]', "[", "a b"]
)


@given(st.lists(NAMES, min_size=1, max_size=4), st.lists(st.lists(CELLS, min_size=1, max_size=4), max_size=4))
def test_any_csv(tmp_path_factory, names, rows):
    path = tmp_path_factory.getbasetemp() / "train.csv"
    stream = io.StringIO()
    csv.writer(stream).writerows([names, *(row[: len(names)] for row in rows)])
    path.write_text(stream.getvalue())
    check(read_csv, path, tag_names=("O", "B-PER"))


@given(st.binary(max_size=60), st.sampled_from([read_json, read_csv]))
def test_any_bytes(tmp_path_factory, content, read):
    path = tmp_path_factory.getbasetemp() / "train.json"
    path.write_bytes(content)
    check(read, path)


def test_a_text_of_many_words_and_spans_takes_linear_time():
    """A hundred thousand spans: seconds would be minutes if each were compared with all others."""
    from time import process_time

    from hamlearning.data.spans import tag_words

    text = "Ada met " * 100_000
    spans = [[start, start + 3, "PER"] for start in range(0, len(text), 8)]
    words = split_words(text, "tweet")
    started = process_time()
    assert tag_words(text, spans, words, "here").tags.count("B-PER") == 100_000
    assert process_time() - started < 10
