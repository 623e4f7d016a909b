"""JSON lines and JSON: tokens with tags, text with spans, and what annotation tools write."""

import json
import re

import pytest

from hamlearning.data.json_files import read_json
from hamlearning.data.reading import ReadingOptions
from hamlearning.data.spans import tag_words
from hamlearning.data.tweets import load_tweets, tag_names
from words_hamlearning import split_words


TEXT = "Ada Lovelace met Bob"
WORDS = ["Ada", "Lovelace", "met", "Bob"]
TAGS_OF_TEXT = ["B-PER", "I-PER", "O", "B-PER"]
SPANS = [[0, 12, "PER"], [17, 20, "PER"]]


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def read(tmp_path):
    """`read(rows, name="train.jsonl", **options)`: what is read of rows, or of the text of a file."""

    def read(rows, name="train.jsonl", **options):
        path = tmp_path / name
        if not isinstance(rows, str):
            rows = json.dumps(rows) if name.endswith(".json") else "".join(json.dumps(row) + "\n" for row in rows)
        path.write_bytes(rows.encode("utf-8", "surrogatepass"))
        return read_json([path], ReadingOptions(**options))

    return read


def refusal(read, rows, name="train.jsonl", **options) -> str:
    with pytest.raises(ValueError) as error:
        read(rows, name, **options)
    assert name in str(error.value)
    return str(error.value)


# ------------------------------------------------------------------------------------------------- tokens with tags


@pytest.mark.parametrize("column", ["ner_tags", "tags", "labels", "ner"])
@pytest.mark.parametrize("words", ["tokens", "words"])
def test_tokens_with_tags(read, words, column):
    found = read([{"id": 7, words: ["Ada", "!"], column: ["B-PER", "O"]}])
    assert found.columns == {"id": ["7"], "tokens": [["Ada", "!"]], "ner_tags": [["B-PER", "O"]]}
    assert column in found.format


def test_tokens_without_tags_are_texts_to_predict(read):
    assert read([{"id": "1", "tokens": ["Ada"]}]).columns == {"id": ["1"], "tokens": [["Ada"]]}


def test_ids_of_tags_have_the_names_that_are_said(read):
    rows = [{"tokens": ["Ada", "!"], "ner_tags": [1, 0]}]
    assert read(rows, tag_names=("O", "B-PER")).columns["ner_tags"] == [["B-PER", "O"]]
    assert "line 1 has the tag 1, a number: say the names, --tag_names O,B-PER" in refusal(read, rows)
    assert "has the tag 1, but --tag_names has 1 names" in refusal(read, rows, tag_names=("O",))


def test_other_columns_are_named_by_a_flag(read):
    rows = [{"w": ["Ada"], "tags": ["NNP"], "gold": ["B-PER"]}]
    found = read(rows, token_column="w", tag_column="gold")
    assert found.columns["tokens"] == [["Ada"]] and found.columns["ner_tags"] == [["B-PER"]]


def test_two_columns_that_may_be_tags_are_asked_for(read):
    rows = [{"tokens": ["Ada"], "tags": ["NNP"], "labels": ["B-PER"]}]
    assert "tags and labels: say which are those of the entities, --tag_column" in refusal(read, rows)
    assert read([rows[0] | {"ner_tags": ["B-LOC"]}]).columns["ner_tags"] == [["B-LOC"]]


def test_a_text_without_an_id_is_called_by_its_picture_or_its_place(read):
    rows = [{"tokens": ["a"]}, {"tokens": ["b"], "image": "pictures/game.jpg"}]
    assert read(rows).columns["id"] == ["train-1", "game.jpg"]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"tokens": ["a", "b"], "tags": ["O"]}, "line 1 has 2 tokens but 1 tags: give each token one tag"),
        ({"tokens": [], "tags": []}, "line 1 has no tokens: remove the tweet"),
        ({"tokens": ["a", 7], "tags": ["O", "O"]}, "has the token 7, which is no text"),
        ({"tokens": "Ada sings", "tags": [["O"]]}, "tags is [['O']]: write spans"),
        ({"tokens": ["a"], "tags": [None]}, "tags is [None]: write one tag for each token"),
        ({"tokens": ["a"], "tags": [True]}, "has the tag True: write a name"),
        ({"tokens": ["a"], "tags": ["O"], "id": [1]}, "has the id [1]: write a text or a whole number"),
        ({"tokens": ["a"], "tags": ["O"], "image": 5}, "has 5 as image: write the path of a picture"),
        ({"tokens": ["\ud83d"], "tags": ["O"]}, "half of a character that was cut in two"),
        ({"tokens": ["a"], "entities": [{"start": 0, "end": 1, "type": "X"}]}, "write one tag for each token"),
        ({"words_": ["a"]}, "has no column tokens or text, only ['words_']: say which"),
        ("Ada", "line 1: 'Ada' is no object with a text"),
    ],
)
def test_a_bad_row_of_tokens_is_named_with_its_line(read, row, message):
    assert message in refusal(read, [row])


# ------------------------------------------------------------------------------------------------- text with spans

SPAN_ROWS = {
    "doccano's JSON lines": {"id": 1, "text": TEXT, "label": SPANS, "Comments": []},
    "doccano's entities": {
        "id": 1,
        "text": TEXT,
        "entities": [{"id": 5, "label": "PER", "start_offset": s, "end_offset": e} for s, e, _ in SPANS],
        "relations": [],
    },
    "Prodigy": {
        "text": TEXT,
        "_input_hash": -3,
        "_task_hash": 4,
        "tokens": [{"text": "Ada", "start": 0, "end": 3, "id": 0, "ws": True}],
        "spans": [{"start": s, "end": e, "label": t, "token_start": 0, "token_end": 0} for s, e, t in SPANS],
        "answer": "accept",
    },
    "spaCy's Doc.to_json": {
        "text": TEXT,
        "ents": [{"start": s, "end": e, "label": t} for s, e, t in SPANS],
        "tokens": [{"id": 0, "start": 0, "end": 3}],
    },
    "spaCy's examples": [TEXT, {"entities": SPANS}],
    "entities of a pipeline": {
        "text": TEXT,
        "entities": [{"entity_group": t, "word": "ada", "start": s, "end": e, "score": 0.9} for s, e, t in SPANS],
    },
    "numbers of a table": {"text": TEXT, "labels": [[0.0, 12.0, "PER"], [17.0, 20.0, "PER"]]},
}


@pytest.mark.parametrize("row", SPAN_ROWS.values(), ids=SPAN_ROWS)
def test_text_with_spans(read, row):
    found = read([row])
    assert found.columns["tokens"] == [WORDS] and found.columns["ner_tags"] == [TAGS_OF_TEXT]
    assert not found.widened and not found.left_out


def test_gliner_counts_tokens_and_the_last_one_is_among_them(read):
    rows = [
        {"tokenized_text": WORDS, "ner": [[0, 1, "person"], [3, 3, "person"]]},
        {"tokenized_text": ["a"], "ner": []},
    ]
    found = read(rows, "train.json")
    assert found.columns["ner_tags"] == [["B-person", "I-person", "O", "B-person"], ["O"]]
    assert "[3, 4, 'X'] is not among its 4 tokens, 0 to 3" in refusal(
        read, [{"tokenized_text": WORDS, "ner": [[3, 4, "X"]]}]
    )
    overlapping = [{"tokenized_text": WORDS, "ner": [[0, 1, "X"], [1, 2, "Y"]]}]
    assert "the span 1:2 'Lovelace met' (Y) overlaps another one" in refusal(read, overlapping)


def test_offsets_count_code_points(read):
    found = read([{"text": "🙂 Ada", "label": [[2, 5, "PER"]]}])
    assert found.columns["ner_tags"] == [["O", "B-PER"]]


def test_offsets_that_count_other_units_are_told_by_the_text_of_the_span(read):
    row = {"text": "🙂🙂 Ada met", "spans": [{"start": 5, "end": 8, "label": "PER", "text": "Ada"}]}
    assert "is said to be 'Ada': they count UTF-16 units, as JavaScript does" in refusal(read, [row])
    row["spans"][0] |= {"start": 0, "end": 2}
    assert "is said to be 'Ada': give the offsets of this text" in refusal(read, [row])


def test_words_are_split_as_the_checkpoint_splits_them(read):
    row = {"text": "hi @NASA", "label": [[3, 8, "ORG"]]}
    assert read([row]).columns["tokens"] == [["hi", "@", "NASA"]]
    assert read([row], word_splitting="tweet").columns["tokens"] == [["hi", "@NASA"]]


def test_a_span_within_a_word_is_widened_and_listed(read):
    found = read([{"text": "unYorked York", "label": [[2, 6, "LOC"], [9, 13, "LOC"]]}])
    assert found.columns["ner_tags"] == [["B-LOC", "B-LOC"]]
    assert len(found.widened) == 1
    assert found.widened[0].endswith("train.jsonl, line 1: the span 2:6 'York' (LOC) became 'unYorked'")


def test_space_at_the_edge_of_a_span_is_no_part_of_it(read):
    found = read([{"text": "in  New York !", "label": [[2, 13, "LOC"]]}])
    assert found.columns["ner_tags"] == [["O", "B-LOC", "I-LOC", "O"]] and not found.widened


def test_a_span_twice_is_one_and_spaces_in_types_are_underscores(read):
    found = read([{"text": TEXT, "label": [[0, 3, "creative  work"], [0, 3, "creative work"]]}])
    assert found.columns["ner_tags"] == [["B-creative_work", "O", "O", "O"]]


def test_a_text_without_entities_has_an_empty_list(read):
    found = read([{"text": TEXT, "label": SPANS}, {"text": "so tired", "label": []}])
    assert found.columns["ner_tags"][1] == ["O", "O"]
    message = refusal(read, [{"text": TEXT, "label": SPANS}, {"text": "so tired"}])
    assert "line 2 has None as label: write a list, an empty one where a text has no entity" in message


def test_text_without_spans_is_text_to_predict(read):
    assert read([{"text": TEXT}]).columns == {"id": ["train-1"], "tokens": [WORDS]}


@pytest.mark.parametrize(
    ("spans", "message"),
    [
        (
            [[0, 12, "PER"], [4, 20, "X"]],
            "the span 0:12 'Ada Lovelace' (PER) and the span 4:20 'Lovelace met Bob' (X) ",
        ),
        (
            [[0, 3, "PER"], [0, 3, "X"]],
            "the span 0:3 'Ada' (PER) and the span 0:3 'Ada' (X) overlap: keep one of them",
        ),
        ([[0, 2, "PER"], [2, 3, "X"]], "share the word 'Ada': choose another --word_splitting"),
        ([[0, 21, "PER"]], "[0, 21, 'PER'] is not within its text of 20 characters"),
        ([[-1, 2, "PER"]], "[-1, 2, 'PER'] is not within its text"),
        ([[3, 3, "PER"]], "[3, 3, 'PER'] is not within its text"),
        ([[3, 4, "PER"]], "the span 3:4 ' ' (PER) holds no word"),
        ([[0, 3, ""]], "'' is no type of an entity: write a name, such as PER"),
        ([[0, 3, 5]], "5 is no type of an entity"),
        ([[0, 3.5, "PER"]], "has 3.5 for a start or an end: write a number"),
        ([[True, 3, "PER"]], "has True for a start or an end"),
        ([[0, None, "PER"]], "has None for a start or an end"),
        ([[0, 3, "PER"], "Ada"], "'Ada' is no span: write [start, end, type]"),
        ([["Ada", "PER"]], "label is [['Ada', 'PER']]: write spans [start, end, type]"),
        ([{"start": 0, "end": 3, "labels": ["PER", "X"]}], "has 2 types: give it one"),
        ([[0, 3, "\ud83d"]], "half of a character"),
    ],
)
def test_a_bad_span_is_named_with_its_line_and_text(read, spans, message):
    found = refusal(read, [{"text": TEXT, "label": spans}])
    assert "line 1" in found and message in found


def test_several_columns_of_spans_are_asked_for(read):
    row = {"text": TEXT, "label": SPANS, "entities": SPANS[:1]}
    assert "in the columns entities and label: say which" in refusal(read, [row])
    assert read([row], tag_column="entities").columns["ner_tags"] == [["B-PER", "I-PER", "O", "O"]]
    assert read([row | {"entities": []}]).columns["ner_tags"] == [TAGS_OF_TEXT]


def test_rows_that_were_rejected_in_prodigy_are_left_out_and_counted(read):
    row = SPAN_ROWS["Prodigy"]
    found = read([row, row | {"answer": "reject"}, row | {"answer": "ignore", "spans": None}])
    assert len(found.columns["id"]) == 1 and len(found.left_out) == 2
    assert found.left_out[0].endswith("train.jsonl, line 2: its answer is 'reject'")
    assert "no text is left" in refusal(read, [row | {"answer": "reject"}])


@pytest.mark.parametrize("key", ["_annotator_id", "_session_id"])
def test_of_several_annotators_in_prodigy_one_is_chosen(read, key):
    row = {key: value for key, value in SPAN_ROWS["Prodigy"].items() if key != "spans"}  # none: it leaves them out
    rows = [SPAN_ROWS["Prodigy"] | {key: "ner-ann"}, row | {key: "ner-bo"}]
    assert "annotated by ner-ann, ner-bo: choose one of them, --annotator" in refusal(read, rows)
    found = read(rows, annotator="ner-bo")
    assert found.columns["ner_tags"] == [["O", "O", "O", "O"]] and len(found.left_out) == 1
    assert "nothing of the annotator 'cy', only of ner-ann, ner-bo" in refusal(read, rows, annotator="cy")


def test_an_annotator_of_a_file_that_names_none_is_refused(read):
    assert "leave --annotator out" in refusal(read, [{"text": TEXT, "label": SPANS}], annotator="ann")


def test_spans_fall_on_words_whatever_the_splitting_gives():
    """No tool's text, and any spans: the entities are those whose words the spans touch."""
    text = "a-b c_d  e"
    for splitting in ("punctuation", "tweet"):
        words = split_words(text, splitting)
        for start in range(len(text)):
            for end in range(start + 1, len(text) + 1):
                touched = [i for i, (first, last) in enumerate(words) if first < end and last > start]
                if touched:
                    tagged = tag_words(text, [[start, end, "X"]], words, "here")
                    assert [i for i, tag in enumerate(tagged.tags) if tag != "O"] == touched


# ------------------------------------------------------------------------------------------------------- whole JSON

ROW = {"id": "1", "tokens": ["Ada", "!"], "ner_tags": ["B-PER", "O"]}
OTHER = {"id": "2", "tokens": ["so"], "ner_tags": ["O"]}
COLUMNS = {name: [ROW[name], OTHER[name]] for name in ROW}
WHOLE = {
    "a list": [ROW, OTHER],
    "pandas, columns": {name: {"0": ROW[name], "1": OTHER[name]} for name in ROW},
    "pandas, index": {"0": ROW, "1": OTHER},
    "pandas, split": {"columns": list(ROW), "index": [0, 1], "data": [list(ROW.values()), list(OTHER.values())]},
    "pandas, table": {"schema": {"fields": []}, "data": [{"index": 0} | ROW, {"index": 1} | OTHER]},
    "columns": COLUMNS,
    "rows below data": {"version": "1.0", "data": [ROW, OTHER]},
}


@pytest.mark.parametrize("value", WHOLE.values(), ids=WHOLE)
@pytest.mark.parametrize("name", ["train.json", "train.jsonl"])
def test_json_as_a_whole(read, value, name):
    found = read(json.dumps(value), name)
    assert found.columns == COLUMNS
    assert found.places[1].endswith(f"{name}, row 2") and found.format == "JSON, tokens with tags (ner_tags)"


def test_json_that_is_laid_out_over_lines_is_read_by_any_name(read):
    assert read(json.dumps([ROW, OTHER], indent=1), "train.jsonl").columns == COLUMNS
    assert read(json.dumps(ROW, indent=1), "train.json").columns == {name: [ROW[name]] for name in ROW}
    assert read(f"[{json.dumps(ROW)},\n{json.dumps(OTHER)}]\n", "train.jsonl").columns == COLUMNS
    assert "train.jsonl, line 2" in refusal(read, f"[{json.dumps(ROW)},\n{{]\n")


def test_json_lines_are_read_by_any_name(read):
    lines = "\n\n" + json.dumps(ROW) + "\r\n" + json.dumps(OTHER)
    for name in ("train.json", "train.jsonl"):
        found = read("\ufeff" + lines, name)
        assert found.columns == COLUMNS and found.places[1].endswith(f"{name}, line 4")


def test_columns_of_raw_text_are_told_from_a_row(read):
    assert read({"text": ["a b", "c"], "label": [[[0, 1, "X"]], []]}, "train.json").columns["tokens"] == [
        ["a", "b"],
        ["c"],
    ]
    assert read({"text": "a b", "label": [[0, 1, "X"]]}, "train.json").columns["ner_tags"] == [["B-X", "O"]]


def test_what_an_ner_annotator_writes(read):
    found = read(
        {"classes": ["PER"], "annotations": [[TEXT, {"entities": SPANS}], ["so", {"entities": []}]]}, "a.json"
    )
    assert found.columns["ner_tags"] == [TAGS_OF_TEXT, ["O"]]


def test_spacys_training_json_is_read_by_raw_text_or_by_tokens(read):
    tokens = [{"id": i, "orth": w, "ner": t} for i, (w, t) in enumerate(zip(["Ada", "L.", "met"], "BLO", strict=True))]
    for token in tokens[:2]:
        token["ner"] += "-PER"
    paragraph = {"raw": "Ada L. met", "sentences": [{"tokens": tokens, "brackets": []}], "entities": [[0, 6, "PER"]]}
    found = read([{"id": 0, "paragraphs": [paragraph]}], "train.json")
    assert found.columns["tokens"] == [["Ada", "L", ".", "met"]]
    assert found.columns["ner_tags"] == [["B-PER", "I-PER", "I-PER", "O"]]
    del paragraph["entities"]
    found = read([{"id": 0, "paragraphs": [paragraph, paragraph]}], "train.json")
    assert found.columns["tokens"][1] == ["Ada", "L.", "met"]
    assert found.columns["ner_tags"][1] == ["B-PER", "L-PER", "O"]  # BILUO: schemes are found from all tags
    assert found.columns["id"] == ["train-1-1", "train-1-2"]
    tokens[0]["ner"] = "-"
    message = refusal(read, [{"id": 0, "paragraphs": [paragraph]}], "train.json")
    assert "row 1, paragraph 1: the token 'Ada' has the tag '-'" in message
    assert "row 1: its documents have no paragraph" in refusal(read, [{"paragraphs": []}], "train.json")
    del paragraph["sentences"]
    assert "is no paragraph" in refusal(read, [{"id": 0, "paragraphs": [paragraph]}], "train.json")


def test_spacys_training_json_of_a_text_that_nobody_annotated_is_refused(read):
    """`docs_to_json` of a document whose `ents` were never set: no tags, which the empty list of entities hides."""

    def paragraph(word, entities, **tag):
        sentences = [{"tokens": [{"id": 0, "orth": word, "space": "", **tag}], "brackets": []}]
        return {"paragraphs": [{"raw": word, "sentences": sentences, "entities": entities}]}

    named, nameless = paragraph("Ada", [[0, 3, "PER"]], ner="U-PER"), paragraph("so", [], ner="O")
    untouched = paragraph("well", [])
    assert read([named, nameless], "train.json").columns["ner_tags"] == [["B-PER"], ["O"]]
    message = refusal(read, [named, nameless, untouched], "train.json")
    assert "row 3, paragraph 1: 'well' has no entities and its tokens no tags" in message
    untagged = paragraph("Ada", [[0, 3, "PER"]])  # of a writer of spans alone
    assert read([untagged, untouched], "train.json").columns["ner_tags"] == [["B-PER"], ["O"]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty: fill the file"),
        (" \n", "is empty"),
        (
            '{"tokens": ["a"]}\n{"tokens": ["b"]\n',
            "line 2: '{\"tokens\": [\"b\"]' is no JSON (Expecting ',' delimiter)",
        ),
        ('{"tokens": ["a"]}\nAda\n', "line 2: 'Ada' is no JSON (Expecting value)"),
        ("[" * 100_000, "is no JSON (brackets in brackets, too many of them)"),
        ('{"id": ' + "9" * 5000 + "}", "is no JSON (a number of too many digits)"),
        ("[]", "holds []: expected a list of rows"),
        ("7", "is no object with a text"),
    ],
)
def test_what_is_no_json_is_named_with_its_line(read, text, message):
    assert message in refusal(read, text)


def test_json_over_lines_that_breaks_off_is_named_with_its_line(read):
    assert "line 3" in refusal(read, '[\n {"tokens": ["a"]},\n {"tokens": ', "train.json")


def test_bytes_that_are_not_utf8_are_named_with_their_line(tmp_path):
    path = tmp_path / "train.jsonl"
    path.write_bytes(b'{"tokens": ["a"]}\n{"tokens": ["caf\xe9"]}\n')
    with pytest.raises(ValueError, match=r"train.jsonl, line 2: the byte 0xe9 is not UTF-8"):
        read_json([path], ReadingOptions())


# ---------------------------------------------------------------------------------------------------- Label Studio


def task(id_, text, *annotations, image: str | None = "game.jpg", **data):
    """A task of Label Studio's export: each annotation is (who, spans)."""
    return {
        "id": id_,
        "data": {"text": text, "image": image, **data},
        "annotations": [
            {
                "id": 10 * id_ + number,
                "completed_by": who,
                "was_cancelled": spans is None,
                "result": [
                    {
                        "type": "labels",
                        "from_name": "label",
                        "to_name": "text",
                        "value": {"start": s, "end": e, "text": text[s:e], "labels": [t]},
                    }
                    for s, e, t in spans or ()
                ],
            }
            for number, (who, spans) in enumerate(annotations)
        ],
        "predictions": [{"result": [], "model_version": "1"}],
    }


def test_label_studios_export_with_its_pictures(read, tmp_path):
    (tmp_path / "game.jpg").write_bytes(b"...")
    found = read([task(1, TEXT, (1, SPANS)), task(2, "so", (1, []), image="http://h/y.jpg")], "train.json")
    assert found.columns == {
        "id": ["game.jpg", "y.jpg"],
        "tokens": [WORDS, ["so"]],
        "ner_tags": [TAGS_OF_TEXT, ["O"]],
        "image": [{"bytes": None, "path": str(tmp_path / "game.jpg")}, {"bytes": None, "path": "http://h/y.jpg"}],
    }
    assert found.format == "Label Studio's JSON" and found.places[0].endswith("train.json, task 1")


def test_tasks_that_nobody_annotated_are_left_out_and_counted(read):
    rows = [task(1, TEXT, (1, SPANS)), task(2, "so"), task(3, "skipped", (1, None))]
    found = read(rows, "train.json")
    assert found.columns["tokens"] == [WORDS]
    assert [text.rpartition("train.json, ")[2] for text in found.left_out] == [
        "task 2: nobody has annotated it",
        "task 3: nobody has annotated it",
    ]
    assert "no text is left" in refusal(read, rows[1:], "train.json")


@pytest.mark.parametrize("name", ["ann@example.org", "7", "Ann Lee"])
def test_of_several_annotators_one_is_chosen(read, name):
    ann = {"id": 7, "email": "ann@example.org", "first_name": "Ann", "last_name": "Lee"}
    rows = [task(1, TEXT, (ann, SPANS), (8, [])), task(2, "so", (8, []))]
    message = refusal(read, rows, "train.json")
    assert "task 1 has 2 annotations, by ann@example.org, 8: choose one of them, --annotator" in message
    found = read(rows, "train.json", annotator=name)
    assert found.columns["ner_tags"] == [TAGS_OF_TEXT]
    assert found.left_out[0].endswith(f"task 2: {name} has not annotated it")
    assert "nothing of the annotator 'bo', only of 8, ann@example.org" in refusal(
        read, rows, "train.json", annotator="bo"
    )


def test_a_task_that_one_annotator_has_done_twice_is_refused(read):
    rows = [task(1, TEXT, (7, SPANS), (7, []))]
    for options in ({}, {"annotator": "7"}):
        message = refusal(read, rows, "train.json", **options)
        assert message.endswith("task 1 has 2 annotations, by 7, 7: delete all but one of them")


def test_annotations_of_nobody_named_are_refused_with_what_can_be_done(read):
    rows = [task(1, TEXT, (None, SPANS), (None, []))]
    assert refusal(read, rows, "train.json").endswith("by unknown, unknown: delete all but one of them")
    rows = [task(1, TEXT, (None, SPANS), (7, []))]
    assert "by unknown, 7: choose one of them, --annotator" in refusal(read, rows, "train.json")
    assert read(rows, "train.json", annotator="unknown").columns["ner_tags"] == [TAGS_OF_TEXT]


def test_an_uploaded_picture_has_the_name_that_its_owner_gave_it(read, tmp_path):
    places = ["/data/upload/3/1a2b3c4d-game.jpg", "/data/upload/3/99999999-a.jpg", "/data/upload/3/88888888-a.jpg"]
    rows = [task(i, "so", (1, []), image=place) for i, place in enumerate(places, start=1)]
    assert read(rows, "train.json").columns["id"] == ["game.jpg", "99999999-a.jpg", "88888888-a.jpg"]
    (tmp_path / "game.jpg").write_bytes(b"...")
    assert read(rows, "train.json").columns["image"][0]["path"] == str(tmp_path / "game.jpg")


def test_a_local_file_of_label_studio_is_found_beside_the_export(read, tmp_path):
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "a b.jpg").write_bytes(b"...")
    found = read([task(1, "so", (1, []), image="/data/local-files/?d=p/a%20b.jpg")], "train.json")
    assert found.columns["image"] == [{"bytes": None, "path": str(tmp_path / "p" / "a b.jpg")}]
    assert found.columns["id"] == ["a b.jpg"]


def test_the_id_of_a_task_is_that_of_its_data(read):
    for given, id_ in (("17_06", "17_06"), (0, "0"), ("", "game.jpg")):
        assert read([task(1, "so", (1, []), **{"id": given})], "train.json").columns["id"] == [id_]
    alone = task(1, "so", (1, []), image=None)
    assert read([alone], "train.json").columns == {"id": ["1"], "tokens": [["so"]], "ner_tags": [["O"]]}


def test_the_text_of_a_task_is_that_of_its_labels(read):
    row = task(1, TEXT, (1, SPANS), title="a title")
    row["data"]["tweet"] = row["data"].pop("text")
    assert "say which is the text, --token_column" in refusal(read, [row], "train.json")
    assert read([row], "train.json", token_column="tweet").columns["tokens"] == [WORDS]
    for region in row["annotations"][0]["result"]:
        region["to_name"] = "tweet"
    assert read([row], "train.json").columns["tokens"] == [WORDS]


def test_regions_of_the_picture_are_no_spans(read):
    row = task(1, TEXT, (1, SPANS))
    box = {"type": "rectanglelabels", "to_name": "image", "value": {"x": 1, "rectanglelabels": ["Cat"]}}
    row["annotations"][0]["result"].append(box)
    assert read([row], "train.json").columns["ner_tags"] == [TAGS_OF_TEXT]


def test_what_label_studio_writes_of_a_line_end_is_one(read):
    row = task(1, "New\nYork", (1, [[0, 8, "LOC"]]))
    row["annotations"][0]["result"][0]["value"]["text"] = "New\\nYork"
    assert read([row], "train.json").columns["ner_tags"] == [["B-LOC", "I-LOC"]]


def test_the_short_export_is_read_as_the_long_one(read):
    def short(id_, text, spans, who, number):
        labels = [{"start": s, "end": e, "text": text[s:e], "labels": [t]} for s, e, t in spans]
        row = {"text": text, "image": f"{id_}.jpg", "id": id_, **({"label": labels} if labels else {})}
        return row | {"annotator": who, "annotation_id": number, "created_at": None, "lead_time": None}

    rows = [short(1, TEXT, SPANS, 1, 10), short(2, "so tired", [], None, None), short(3, "so", [], 1, 30)]
    found = read(rows, "train.json")
    assert found.columns["tokens"] == [WORDS, ["so"]] and found.columns["ner_tags"] == [TAGS_OF_TEXT, ["O"]]
    assert found.columns["id"] == ["1.jpg", "3.jpg"] and len(found.left_out) == 1
    twice = [*rows, short(1, TEXT, [], 2, 11)]
    assert "task 1 has 2 annotations, by 1, 2" in refusal(read, twice, "train.json")
    assert read(twice, "train.json", annotator="1").columns == found.columns


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"annotations": 5}, "task 1 has 5 as annotations"),
        ({"annotations": [{"result": [3]}]}, "task 1 has [3] as result"),
        (
            {"annotations": [{"result": [{"type": "labels", "value": 7}]}]},
            "task 1: the region 7 is none of a plain text",
        ),
        (
            {"annotations": [{"result": [{"type": "hypertextlabels", "value": {"start": "/p[1]/text()[1]"}}]}]},
            "is none of a plain text: label a Text, not HTML",
        ),
        ({"data": {"text": TEXT, "image": "a.jpg", "other": "b.png"}}, None),
        ({"data": {"text": TEXT, "one": "a.jpg", "other": "b.png"}}, "task 1 has several pictures, one, other"),
    ],
)
def test_a_bad_task_is_named(read, change, message):
    row = task(1, TEXT, (1, [])) | change
    if message is None:
        read([row], "train.json")
    else:
        assert message in refusal(read, [row], "train.json")


# ----------------------------------------------------------------------------------------------------------- folders


@pytest.mark.parametrize("suffix", [".jsonl", ".ndjson", ".json"])
def test_a_folder_of_json_is_a_data_set(tmp_path, suffix):
    lines = json.dumps({"text": TEXT, "label": SPANS}) + "\n"
    for split in ("train", "dev"):
        (tmp_path / f"{split}{suffix}").write_text(lines)
    tweets = load_tweets(tmp_path)
    assert list(tweets) == ["train", "validation"]
    assert tag_names(tweets["train"]) == [TAGS_OF_TEXT] and tweets["validation"]["tokens"][:] == [WORDS]


def test_pictures_of_json_are_a_column(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"...")
    rows = [{"tokens": ["a"], "tags": ["O"], "image": "a.jpg"}, {"tokens": ["b"], "tags": ["O"], "image": None}]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    from datasets import Image

    train = load_tweets(tmp_path)["train"].cast_column("image", Image(decode=False))
    assert train["image"][:] == [{"bytes": None, "path": str(tmp_path / "a.jpg")}, None]


def test_a_docbin_is_refused_with_what_to_type(tmp_path):
    (tmp_path / "train.spacy").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"train.spacy is a DocBin, which spaCy alone reads: write JSON lines of it"):
        load_tweets(tmp_path)


def test_errors_name_the_file_once(tmp_path):
    (tmp_path / "train.jsonl").write_text('{"tokens": ["a"], "tags": ["O", "O"]}\n')
    with pytest.raises(ValueError, match=re.escape(f"{tmp_path}/train.jsonl, line 1 has 1 tokens but 2 tags")):
        load_tweets(tmp_path)
