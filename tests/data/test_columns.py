"""Files with a token a line, as the field writes them: separators, columns, comments, and what is wrong with one."""

import re
from pathlib import Path

import pytest

from hamlearning.data.columns import read_columns
from hamlearning.data.reading import ReadingOptions
from hamlearning.data.released import read_tweets
from hamlearning.data.tweets import load_tweets, split_sha256, tag_names


SHARED = Path(__file__).parents[3] / "shared" / "data"


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def read(tmp_path):
    """The columns of a text, and how its form is said."""

    def read(text, name="train.txt", **options):
        (tmp_path / name).write_bytes(text.encode())
        reading = read_columns([tmp_path / name], ReadingOptions(**options))
        return reading.columns, reading.format

    return read


TWEETS = {"id": ["1", "2"], "tokens": [["Hi", "Ada"], ["Rome"]], "ner_tags": [["O", "B-PER"], ["B-LOC"]]}


@pytest.mark.parametrize("separator", ["\t", " "], ids=["tab", "space"])
def test_tabs_and_spaces_separate_columns_and_which_is_said(read, separator):
    text = "IMGID:1\nHi\tO\nAda\tB-PER\n\nIMGID:2\nRome\tB-LOC\n".replace("\t", separator)
    name = {"\t": "tab", " ": "space"}[separator]
    assert read(text) == (TWEETS, f"2 columns separated by a {name}")


def test_columns_that_spaces_align_are_read(read):
    assert read("IMGID:1\nHi    O\nAda   B-PER  \n\nIMGID:2\nRome  B-LOC\n")[0] == TWEETS


@pytest.mark.parametrize("blank", ["", " ", "   ", "\t", " \t"])
@pytest.mark.parametrize("separator", ["\t", " "], ids=["tab", "space"])
def test_a_line_of_spaces_ends_a_text(read, separator, blank):
    text = f"IMGID:1\nHi\tO\nAda\tB-PER\n{blank}\nIMGID:2\nRome\tB-LOC\n{blank}\n".replace("\tO", f"{separator}O")
    assert read(text.replace("\tB", f"{separator}B"))[0] == TWEETS


@pytest.mark.parametrize("token", ["\xa0", " ", "\u3000", "a b", "#", "# id = 3", "-DOCSTART-", "IMGID:3"])
def test_where_tabs_separate_any_token_is_one(read, token):
    assert read(f"IMGID:1\n{token}\tO\nb\tO\n")[0]["tokens"] == [[token, "b"]]


@pytest.mark.parametrize("token", ["\xa0", " ", "\u3000", "#", "O"])
def test_where_spaces_separate_a_space_may_be_a_token(read, token):
    assert read(f"IMGID:1\n{token} O\nb B-X\n")[0]["tokens"] == [[token, "b"]]


def test_of_more_columns_the_first_is_the_token_and_the_last_the_tag(read):
    columns, said = read("IMGID:1\nHi UH O O\nAda NNP B-NP B-PER\n\nIMGID:2\nRome NNP B-NP B-LOC\n")
    assert columns == TWEETS and said == "4 columns separated by a space"


@pytest.mark.parametrize(("token", "tag"), [("3", "1"), ("-2", "-4")])
def test_other_columns_are_named_by_their_number(read, token, tag):
    text = "IMGID:1\nO\tx\tHi\ty\nB-PER\tx\tAda\ty\n\nIMGID:2\nB-LOC\tx\tRome\ty\n"
    columns, said = read(text, token_column=token, tag_column=tag)
    assert columns == TWEETS
    assert said == "4 columns separated by a tab, of which 3 is the token and 1 the tag"


def test_a_header_names_the_columns_and_is_no_token(read):
    columns, said = read("ner\tpos\tword\nO\tUH\tHi\nB-PER\tNNP\tAda\n\nB-LOC\tNNP\tRome\n")
    assert columns == TWEETS | {"id": ["train-1", "train-2"]} and said.endswith(", the first line their names")
    columns, _ = read("a\tner\tword\nO\tB-X\tHi\n", tag_column="a")
    assert columns["ner_tags"] == [["O"]]


def test_texts_without_ids_are_numbered(read):
    assert read("Hi\tO\nAda\tB-PER\n\n\nRome\tB-LOC\n", "dev.bio")[0] == TWEETS | {"id": ["dev-1", "dev-2"]}


@pytest.mark.parametrize("comment", ["# id = {}", "# sent_id = {}", "# image_id = {}", "# id {}\tdomain=en"])
@pytest.mark.parametrize("separator", ["\t", " "], ids=["tab", "space"])
def test_a_comment_names_the_text(read, separator, comment):
    lines = [comment.format(1), "# text = Hi Ada", "Hi", "Ada", "", comment.format(2), "Rome", ""]
    tags = {"Hi": "O", "Ada": "B-PER", "Rome": "B-LOC"}
    lines = [f"{line}{separator}_{separator}{tags[line]}" if line in tags else line for line in lines]
    assert read("\n".join(lines))[0] == TWEETS


@pytest.mark.parametrize("separator", ["\t", " "], ids=["tab", "space"])
def test_a_comment_may_have_as_many_columns_as_a_token(read, separator):
    text = "# id 1 domain=en\nHi _ _ O\nAda _ _ B-PER\n\n# id 2 domain=en\nRome _ _ B-LOC\n"
    assert read(text.replace(" ", separator))[0] == TWEETS


def test_an_image_id_goes_before_a_sentence_id(read):
    assert read("# image_id = 7\n# sent_id = s1\nHi\tO\n\n# sent_id = s2\nHo\tO\n")[0]["id"] == ["7", "s2"]


def test_conll_u_counts_its_words_which_are_no_tokens(read):
    text = "# sent_id = 1\n1-2\tam\t_\t_\n1\tan\tADP\tO\n2\tdem\tDET\tO\n2.1\t_\t_\t_\n3\tRhein\tPROPN\tB-LOC\n\n"
    columns, said = read(text, "train.conllu")
    assert columns == {"id": ["1"], "tokens": [["an", "dem", "Rhein"]], "ner_tags": [["O", "O", "B-LOC"]]}
    assert said == "4 columns separated by a tab, of which 2 is the token and 4 the tag"


def test_docstart_lines_are_no_tokens(read):
    text = "-DOCSTART- -X- -X- O\n\nHi UH O O\nAda NNP B-NP B-PER\n\n-DOCSTART- -X- -X- O\nRome NNP B-NP B-LOC\n"
    assert read(text)[0] == TWEETS | {"id": ["train-1", "train-2"]}


def test_a_file_of_tokens_alone_is_untagged(read):
    assert read("Hi\nAda\n\nRome\n") == (
        {"id": ["train-1", "train-2"], "tokens": TWEETS["tokens"]},
        "a token a line, untagged",
    )


@pytest.mark.parametrize("suffix", [".txt", ".conll", ".conllu", ".bio", ".iob", ".tsv"])
def test_a_folder_of_column_files_is_a_data_set(tmp_path, suffix):
    for split in ("train", "dev", "test"):
        (tmp_path / f"{split}{suffix}").write_text("Hi O\nAda B-PER\n")
    assert {split: rows["id"][:] for split, rows in load_tweets(tmp_path).items()} == {
        "train": ["train-1"],
        "validation": ["dev-1"],
        "test": ["test-1"],
    }


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("Hi O\nAda\nRome B-LOC\n", {}, "line 2: 'Ada' has no space: write token<SPACE>tag"),
        (
            "a NN O\nb NN O\n\nc d NN O\n",
            {},
            "line 4: 'c d NN O' has 4 columns separated by a space, and line 1 has 3: give every line as many",
        ),
        ("Hi O\nAda B-\n", {}, "line 2: 'Ada B-' has the tag 'B-'"),
        ("Hi O\n", {"tag_column": "3"}, "--tag_column 3: {path} has no such column: give 1 to 2"),
        ("Hi O\n", {"token_column": "0"}, "--token_column 0: {path} has no such column: give 1 to 2"),
        ("Hi O\n", {"tag_column": "ner"}, "--tag_column ner: {path} has no such column: give 1 to 2"),
        ("word ner\nHi O\n", {"tag_column": "pos"}, "{path} has no such column: give 1 to 2, or one of word, ner"),
        ("Hi O\n", {"token_column": "2"}, "column 2 of 2 cannot be both token and tag"),
        ("Hi\nAda\n", {"tag_column": "2"}, "has one column, a token a line: leave --tag_column out, or tag the file"),
        ("# id = 7\n\nHi O\n", {}, "line 1: the text '7' has no tokens"),
        ("Hi O\n# id = 7\nAda O\n", {}, "line 2: '# id = 7' stands within a text: put a blank line before it"),
    ],
)
def test_what_is_wrong_is_said_with_line_text_and_remedy(read, tmp_path, text, options, message):
    with pytest.raises(ValueError, match=re.escape(message.format(path=tmp_path / "train.txt"))) as error:
        read(text, **options)
    assert str(tmp_path / "train.txt") in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "1\tHi\tann1\n2\tAda\tann1\n",
            "train.txt, line 1 (id 'train-1'), word 1, 'Hi': 'ann1' would be a type, as no",
        ),
        ("O Hi\nB-PER Ada\n", "'Ada' would be a type, as no word has the tag O"),
    ],
)
def test_a_last_column_of_no_tags_is_named_with_the_flag(tmp_path, text, message):
    (tmp_path / "train.txt").write_text(text)
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        load_tweets(tmp_path)
    assert "--tag_column" in str(error.value)


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"CP-MNER is not at {SHARED}: it is its authors'")
def test_cp_mner_reads_as_released():
    found = load_tweets(SHARED / "cpmner")
    assert {split: len(rows) for split, rows in found.items()} == {"train": 950, "validation": 119}
    assert sum(map(len, found["train"]["tokens"])) == 266192
    types = {tag[2:] for tags in tag_names(found["train"]) for tag in tags if tag != "O"}
    assert len(types) == 16
    lines = (SHARED / "cpmner" / "valid.txt").read_text(encoding="utf-8").split("\n")
    rows = [line.split(" ") for line in lines if line and not line.startswith("IMGID:")]
    assert [tag for tags in tag_names(found["validation"]) for tag in tags] == [tag for _, tag in rows]
    alone = read_tweets(SHARED / "cpmner" / "valid.txt")
    assert alone["tokens"] == found["validation"]["tokens"][:] and len(split_sha256(found["validation"])) == 64


def test_a_column_of_sentences_that_no_blank_line_parts_is_refused(read):
    with pytest.raises(ValueError, match=r"names a column of sentences, sentence_id word tag, .* the suffix .tsv"):
        read("sentence_id\tword\ttag\n1\tAda\tB-PER\n2\tsings\tO\n")


@pytest.mark.parametrize("language", ["eng", "esp"])
def test_files_with_the_names_of_conll_2003_are_read(tmp_path, language):
    for name, token in (("train", "Ada"), ("testa", "Rome"), ("testb", "Oslo")):
        (tmp_path / f"{language}.{name}").write_text(f"{token} NNP B-NP B-PER\n. . O O\n", encoding="utf-8")
    splits = load_tweets(tmp_path)
    assert {split: splits[split]["tokens"][0][0] for split in splits} == {
        "train": "Ada", "validation": "Rome", "test": "Oslo",
    }  # fmt: skip


def test_what_is_refused_is_not_among_the_formats_that_are_expected(tmp_path):
    (tmp_path / "notes.doc").write_text("", encoding="utf-8")
    with pytest.raises(FileNotFoundError) as error:
        load_tweets(tmp_path)
    assert ".parquet" in str(error.value) and ".spacy" not in str(error.value)
