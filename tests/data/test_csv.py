"""CSV: lists as each tool writes them, a token a row, and the exports of annotation tools."""

import base64
import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hamlearning.data.csv_files import parse_list, read_csv
from hamlearning.data.reading import ReadingOptions
from hamlearning.data.tweets import load_tweets, tag_names


TOKENS, TAGS = ["Ada", "it's", ",", "a b"], ["B-PER", "O", "O", "I-LOC"]


@pytest.fixture
def read(tmp_path):
    """`read(text, **options)`: what is read of the text of a file."""

    def read(text, **options):
        (tmp_path / "train.csv").write_bytes(text.encode())
        return read_csv([tmp_path / "train.csv"], ReadingOptions(**options))

    return read


def refusal(read, text, **options) -> str:
    with pytest.raises(ValueError) as error:
        read(text, **options)
    assert "train.csv" in str(error.value)
    return str(error.value)


def table(**columns) -> str:
    return pd.DataFrame(columns).to_csv(index=False)


def duckdb_list(words) -> str:
    """As DuckDB writes a list: quoted where a word holds what lists are made of."""
    special = set(",'\"[]{}()=: \\")

    def written(word):
        is_plain = word and word.lower() != "null" and not (set(word) & special - {" "}) and word == word.strip()
        return word if is_plain else "'" + word.replace("\\", "\\\\").replace("'", "\\'") + "'"

    return "[" + ", ".join(map(written, words)) + "]"


@pytest.mark.parametrize("spans", ["[(0, 3, 'PER')]", "[[0, 3, 'PER']]", "[{'start': 0, 'end': 3, 'label': 'PER'}]"])
def test_spans_as_python_writes_them(read, spans):
    assert read(table(text=["Ada sings"], entities=[spans])).columns["ner_tags"] == [["B-PER", "O"]]
    assert "which is no list: write it as JSON" in refusal(read, table(text=["Ada"], entities=["[(0, 3, PER)]"]))


WRITERS = {
    "JSON": json.dumps,
    "pandas": lambda words: str(list(words)),
    "pandas, of NumPy's arrays": lambda words: str(np.array(words, dtype=object)),
    "DuckDB": duckdb_list,
}


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_lists_are_read_as_each_tool_writes_them(read, write):
    found = read(table(id=["1", "2"], tokens=[write(TOKENS), write(["so"])], ner_tags=[write(TAGS), write(["O"])]))
    assert found.columns == {"id": ["1", "2"], "tokens": [TOKENS, ["so"]], "ner_tags": [TAGS, ["O"]]}
    assert found.format == "CSV, tokens with tags (ner_tags)"


WORDS = st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=4), min_size=1, max_size=6)


@given(WORDS)
@pytest.mark.parametrize("write", [json.dumps, lambda words: str(list(words))], ids=["JSON", "Python"])
def test_any_list_of_words_survives(write, words):
    assert parse_list(write(words), "here") == words


@given(WORDS)
def test_any_list_of_words_survives_numpy(words):
    assert parse_list(str(np.array(words, dtype=object)), "here") == words


def test_a_long_array_of_numpy_is_cut_and_says_so(read):
    long = str(np.array(["a"] * 1001, dtype=object))
    assert "NumPy has cut it: write it as JSON" in refusal(read, table(tokens=[long]))


@pytest.mark.parametrize("write", [str, lambda ids: str(np.array(ids)), json.dumps])
def test_ids_of_tags_have_the_names_that_are_said(read, write):
    text = table(tokens=[str(["Ada", "!"])], ner_tags=[write([1, 0])])
    assert read(text, tag_names=("O", "B-PER")).columns["ner_tags"] == [["B-PER", "O"]]
    assert "line 2 has the tag 1, a number: say the names" in refusal(read, text)


def test_words_that_look_like_numbers_or_nulls_stay_as_they_are(read):
    found = read("tokens,tags\n\"[2017, 007, NA, a]\",\"['O', 'O', 'O', 'O']\"\n")
    assert found.columns["tokens"] == [["2017", "007", "NA", "a"]]


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ("['a', None]", "with a null: write a text there"),
        ("[nan]", "with a null"),
        ("['a' 'b', 'c']", "with and without commas"),
        ("['a' b]", "it is no list"),
        ("['a]", "which is no list: write it as JSON"),
        ("[a, {b: c}]", "which is no list"),
        ("[,]", "which is no list"),
    ],
)
def test_a_cell_that_is_no_list_is_named_with_its_line(read, cell, message):
    assert message in refusal(read, table(id=["1", "2"], tokens=["['x']", cell]))
    assert "line 3" in refusal(read, table(id=["1", "2"], tokens=["['x']", cell]))


@pytest.mark.parametrize("separator", [";", "\t", "|"])
def test_another_separator_is_found(read, separator):
    found = read(f"id{separator}tokens{separator}ner_tags\n7{separator}Ada sings{separator}B-PER O\n")
    assert found.columns == {"id": ["7"], "tokens": [["Ada", "sings"]], "ner_tags": [["B-PER", "O"]]}
    assert found.format.startswith(f"CSV separated by {separator!r}")


@pytest.mark.parametrize("column", ["text", "sentence", "tokens"])
def test_words_and_tags_with_spaces_between(read, column):
    found = read(table(id=["1", "2"], **{column: ["Ada sings", "so"], "labels": ["B-PER O", "O"]}))
    assert found.columns == {
        "id": ["1", "2"],
        "tokens": [["Ada", "sings"], ["so"]],
        "ner_tags": [["B-PER", "O"], ["O"]],
    }
    message = refusal(read, table(**{column: ["Ada sings"], "labels": ["B-PER"]}))
    assert "line 2 has 2 tokens but 1 tags" in message


def test_raw_text_with_spans(read):
    rows = table(text=["Ada [1] met", "[so]"], label=[str([[0, 3, "PER"]]).replace("'", '"'), "[]"])
    found = read(rows)
    assert found.columns["ner_tags"] == [["B-PER", "O", "O", "O", "O"], ["O", "O", "O"]]


def test_raw_text_to_predict(read):
    assert read(table(id=["1"], text=["[so] tired"])).columns["tokens"] == [["[", "so", "]", "tired"]]


KAGGLE = "Sentence #,Word,POS,Tag\nSentence: 1,Ada,NNP,B-per\n,sings,VBZ,O\nSentence: 2,so,RB,O\n"


@pytest.mark.parametrize(
    "text",
    [
        KAGGLE,
        "sentence_id,token,tag\nSentence: 1,Ada,B-per\nSentence: 1,sings,O\nSentence: 2,so,O\n",
        "id,words,labels\nSentence: 1,Ada,B-per\nSentence: 1,sings,O\nSentence: 2,so,O\n",
    ],
)
def test_a_token_a_row(read, text):
    found = read(text)
    assert found.columns == {
        "id": ["Sentence: 1", "Sentence: 2"],
        "tokens": [["Ada", "sings"], ["so"]],
        "ner_tags": [["B-per", "O"], ["O"]],
    }
    assert found.format == "CSV, a token a row, tokens with tags (ner_tags)"
    assert found.places[1].endswith("train.csv, line 4")


def test_a_space_that_does_not_break_is_part_of_a_token(read):
    assert read("sentence_id,token\n1,a\xa0b\n1,\xa0\n").columns["tokens"] == [["a\xa0b", "\xa0"]]
    assert read("tokens,tags\na\xa0b \xa0,O O\n").columns["tokens"] == [["a\xa0b", "\xa0"]]


def test_the_columns_of_a_token_a_row_are_named_by_flags(read):
    text = "sentence_id,form,tag,gold\n1,Ada,NNP,B-PER\n1,so,RB,O\n"
    found = read(text, token_column="form", tag_column="gold")
    assert found.columns == {"id": ["1"], "tokens": [["Ada", "so"]], "ner_tags": [["B-PER", "O"]]}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("token,tag\nAda,O\n", "says of which sentence: add one called sentence_id"),
        ("sentence_id,token,tag\n1,Ada,O\n2,b,O\n1,c,O\n", "line 4 begins the sentence '1' again"),
        ("sentence_id,token,tag\n,Ada,O\n", "line 2 names no sentence"),
        ("sentence_id,token,tag\n1,,O\n", "line 2 has no token: write one"),
        ("sentence_id,token,tag\n1,Ada,\n", "line 2 has no tag: write one"),
        ("", "is empty: fill the file"),
        ("id,tokens\n", "has no row behind the names of its columns"),
        ("id,tokens\n1,a,b\n", "line 2: '1,a,b' has 3 cells, but the first line names 2 columns"),
        ('id,tokens\n1,"a"b\n', "line 2 is no CSV"),
        ('id,tokens\n1,"a\n', "line 2 is no CSV"),
        ("tokens,tokens\na,b\n", "line 1 names the column 'tokens' twice"),
        ("Ada,O\nsings,O\n", "has no column tokens or text, only ['Ada', 'O']: say which"),
    ],
)
def test_what_is_no_such_csv_is_named_with_its_line(read, text, message):
    assert message in refusal(read, text)


def test_a_cell_may_have_lines_and_be_long(read):
    picture = base64.b64encode(bytes(300_000)).decode()
    found = read(table(id=["1", "2"], tokens=["['a',\n 'b']", "['c']"], image=[picture, None]))
    assert found.columns["tokens"] == [["a", "b"], ["c"]]
    assert found.columns["image"] == [{"bytes": None, "path": picture}, None]
    assert found.places[1].endswith("line 4")


def test_label_studios_csv_is_read_as_its_json(read):
    region = json.dumps([{"start": 0, "end": 3, "text": "Ada", "labels": ["PER"]}])
    columns = {"annotation_id": ["10", "", "30"], "annotator": ["1", "", "1"], "id": ["1", "2", "3"]}
    columns |= {"image": ["a.jpg"] * 3, "entities_of_it": [region, "", ""], "text": ["Ada sings", "so", "ok"]}
    for separator in ",\t":
        found = read(pd.DataFrame(columns).to_csv(index=False, sep=separator))
        assert found.columns["tokens"] == [["Ada", "sings"], ["ok"]]
        assert found.columns["ner_tags"] == [["B-PER", "O"], ["O"]] and len(found.left_out) == 1
        assert found.columns["id"] == ["a.jpg", "a.jpg"]


def test_a_folder_of_csv_is_a_data_set(tmp_path):
    for split in ("train", "test"):
        (tmp_path / f"{split}.csv").write_text(KAGGLE.replace("per", "PER"))
    tweets = load_tweets(tmp_path)
    assert list(tweets) == ["train", "test"]
    assert tag_names(tweets["train"]) == [["B-PER", "O"], ["O"]]


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("sentence_id\tword\ttag\n1\tAda\tB-PER\n1\tsings\tO\n2\tRome\tB-LOC\n", [["Ada", "sings"], ["Rome"]]),
        ("id\ttoken\ttag\na\tAda\tB-PER\na\tsings\tO\nb\tRome\tB-LOC\n", [["Ada", "sings"], ["Rome"]]),
        (
            'id\ttokens\tner_tags\na\t["Ada", "sings"]\t["B-PER", "O"]\nb\t["Rome"]\t["B-LOC"]\n',
            [["Ada", "sings"], ["Rome"]],
        ),
        ("token\ttag\nAda\tB-PER\nsings\tO\n\nRome\tB-LOC\n", [["Ada", "sings"], ["Rome"]]),
        ("Ada\tB-PER\nsings\tO\n\nRome\tB-LOC\n", [["Ada", "sings"], ["Rome"]]),
        ("sentence\tO\ntext\tO\n\nRome\tB-LOC\n", [["sentence", "text"], ["Rome"]]),
    ],
    ids=["token a row", "ids that repeat", "text a row", "columns with names", "columns", "columns of such words"],
)
def test_a_tsv_is_a_table_where_its_first_line_says_so_and_columns_else(tmp_path, text, tokens):
    (tmp_path / "train.tsv").write_text(text, encoding="utf-8")
    assert load_tweets(tmp_path)["train"]["tokens"][:] == tokens
