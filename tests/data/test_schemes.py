"""Tag schemes: found from all tags of a data set, read as IOB2, whatever the entities."""

import itertools
import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from seqeval.metrics.sequence_labeling import get_entities
from seqeval.scheme import BILOU, IOB1, IOB2, IOBES, Entities

from hamlearning.data.reading import ReadingOptions
from hamlearning.data.schemes import SCHEMES, SchemeError, entities_of, find_scheme, tag_pairs, to_iob2
from hamlearning.data.tweets import load_tweets, read_data, tag_names


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


# What begins, goes on, ends, and is alone, in each scheme that tells all four apart.
LETTERS = {"iob2": "BIIB", "bioes": "BIES", "bmes": "BMES", "bilou": "BILU", "bmewo": "BMEW"}


def written(entities, length, scheme):
    """The tags of a text of so many words with entities (type, first, last) of it, none over another."""
    tags, before = ["O"] * length, (None, -2)
    for type_, first, last in sorted(entities, key=lambda entity: entity[1]):
        if scheme in LETTERS:
            begins, inside, ends, alone = LETTERS[scheme]
        else:  # B- where an entity of the same type goes before, which IO cannot tell
            begins = alone = "B" if scheme == "iob1" and before == (type_, first - 1) else "I"
            inside = ends = "I"
        letters = [alone] if first == last else [begins, *[inside] * (last - first - 1), ends]
        tags[first : last + 1] = [type_ if scheme == "none" else f"{letter}-{type_}" for letter in letters]
        before = (type_, last)
    return tags


@st.composite
def texts(draw, may_touch=True):
    """Words of a text, and its entities (type, first, last)."""
    pieces = draw(
        st.lists(st.tuples(st.sampled_from(["PER", "LOC", "a-b", "B-x"]), st.integers(1, 4), st.integers(0, 2)))
    )
    entities, place, before = [], 0, None
    for type_, words, gap in pieces:
        if before == type_ and gap == 0 and not may_touch:
            gap = 1
        entities.append((type_, place + gap, place + gap + words - 1))
        place, before = place + gap + words, type_
    return place + draw(st.integers(0, 2)), entities


@pytest.mark.parametrize("scheme", SCHEMES)
@given(data=st.data())
def test_entities_written_in_any_scheme_are_the_same_in_iob2(scheme, data):
    length, entities = data.draw(texts(may_touch=scheme not in ("io", "none")))
    tags = to_iob2(written(entities, length, scheme), scheme)
    assert entities_of([tags], strict=True) == entities_of([tags]) == [set(entities)]
    assert tags == written(entities, length, "iob2")


@pytest.mark.parametrize("scheme", [name for name in SCHEMES if name != "io"])
@given(several=st.lists(texts(may_touch=False), min_size=1, max_size=4))
def test_the_scheme_that_is_found_gives_the_entities_back(scheme, several):
    """Which one it is called, where several fit, is another thing; and `B-x` alone is no type."""
    several = [(length + 1, entities) for length, entities in several]  # an O in each
    if scheme == "none":
        several = [(length, [entity for entity in entities if entity[0] != "B-x"]) for length, entities in several]
    tags = [written(entities, length, scheme) for length, entities in several]
    found = find_scheme(tag_pairs(tags))
    assert entities_of([to_iob2(own, found) for own in tags], strict=True) == [
        set(entities) for _, entities in several
    ]


@pytest.mark.parametrize(("scheme", "strict"), [("iob1", IOB1), ("iob2", IOB2), ("bioes", IOBES), ("bilou", BILOU)])
@given(text=texts())
def test_strict_seqeval_finds_in_the_scheme_what_it_finds_in_iob2(scheme, strict, text):
    length, entities = text
    tags = written(entities, length, scheme)
    theirs = {entity.to_tuple()[1:] for found in Entities([tags], strict).entities for entity in found}
    assert {(type_, first, last - 1) for type_, first, last in theirs} == set(entities)
    assert entities_of([to_iob2(tags, scheme)], strict=True) == [set(entities)]


any_tags = st.lists(st.sampled_from(["O", *(f"{letter}-{type_}" for letter in "BIES" for type_ in ("PER", "LOC"))]))


@given(tags=any_tags)
def test_tags_that_break_their_scheme_make_the_entities_of_seqevals_default_mode(tags):
    assert entities_of([to_iob2(tags, "bioes")]) == [set(get_entities(tags))]


@given(tags=st.lists(st.sampled_from(["O", "B-PER", "I-PER", "B-LOC", "I-LOC"])))
def test_iob2_stays_as_it_is(tags):
    assert to_iob2(tags, "iob2") == tags


SPACY = """
spacy==3.8.18 thinc==8.3.14 blis==1.3.4 catalogue==2.0.10 confection==1.3.4 cymem==2.0.16 murmurhash==1.0.16
preshed==3.0.15 srsly==2.5.6 wasabi==1.1.3 weasel==1.0.1 spacy-legacy==3.0.12 spacy-loggers==1.0.5
""".split()


@pytest.mark.slow
def test_spacy_writes_our_iob2_as_the_bilou_that_it_was(own_environment, tmp_path):
    """Each text of four words whose entities are of two types."""
    words = ["O", *(f"{letter}-{type_}" for letter in "BILU" for type_ in ("PER", "LOC"))]
    texts = [list(tags) for tags in itertools.product(words, repeat=4)]
    sound = [tags for tags in texts if written(*entities_and_length(tags), "bilou") == tags]
    assert len(sound) == 153
    (tmp_path / "tags.json").write_text(json.dumps([to_iob2(tags, "bilou") for tags in sound]))
    code = (
        "import json, sys\nfrom spacy.training import iob_to_biluo\n"
        "print('FOUND' + json.dumps([iob_to_biluo(tags) for tags in json.load(open(sys.argv[1]))]))"
    )
    said = own_environment(*SPACY).run(code, tmp_path / "tags.json")
    assert json.loads(said.partition("FOUND")[2]) == sound


def entities_and_length(tags):
    """Those that strict BILOU finds, and the number of words."""
    found = Entities([tags], BILOU).entities[0]
    return [(entity.tag, entity.start, entity.end - 1) for entity in found], len(tags)


@pytest.mark.parametrize(
    ("tags", "scheme"),
    [
        (["O", "O"], "iob2"),
        (["B-PER", "I-PER", "O"], "iob2"),
        (["O", "I-PER", "B-PER"], "iob1"),
        (["O", "I-PER", "O", "B-PER"], "iob2"),
        (["I-PER", "I-PER", "O"], "io"),
        (["S-PER", "O", "B-PER", "E-PER"], "bioes"),
        (["S-PER", "O", "B-PER", "M-PER", "E-PER"], "bmes"),
        (["U-PER", "O", "B-PER", "L-PER"], "bilou"),
        (["W-PER", "O", "B-PER", "E-PER"], "bmewo"),
        (["PER", "PER", "O", "person-artist"], "none"),
    ],
)
def test_the_scheme_is_found(tags, scheme):
    assert find_scheme(tag_pairs([tags])) == scheme


@pytest.mark.parametrize(
    ("tags", "message"),
    [
        (["O", "PER", "B-PER"], "the tag 'PER' is a type alone, and 'B-PER' has a prefix: write O, B-TYPE or I-TYPE"),
        (["O", "U-PER", "E-PER", "M-PER"], "the prefixes E, M, U are of no one tag scheme"),
        (["PER", "LOC"], "'LOC' would be a type, as no word has the tag O"),
        (["O", "B_PER"], "the tag 'B_PER' has an underscore behind the prefix: write B-TYPE and I-TYPE"),
        (["O", "b-per"], "the tag 'b-per' has a prefix in lower case"),
        (["O", "PER-B"], "the tag 'PER-B' has the prefix behind the type"),
    ],
)
def test_tags_of_no_scheme_are_named(tags, message):
    with pytest.raises(SchemeError, match=re.escape(message)):
        find_scheme(tag_pairs([tags]))


# -------------------------------------------------------------------------------------------------------- data sets


def folder_of(folder, **splits):
    """A folder of column files: of each split its tags, a word each."""
    for split, tags in splits.items():
        text = "".join(f"w{place} {tag}\n" for place, tag in enumerate(tags.split()))
        (folder / f"{split}.txt").write_text(f"IMGID:{split}\n{text}")
    return folder


def test_the_scheme_is_found_from_all_splits_together_and_said(tmp_path):
    folder_of(tmp_path, train="S-PER O B-LOC E-LOC", test="B-LOC I-LOC E-LOC O")
    found = read_data(tmp_path)
    assert tag_names(found.splits["test"]) == [["B-LOC", "I-LOC", "I-LOC", "O"]]
    assert tag_names(found.splits["train"]) == [["B-PER", "O", "B-LOC", "I-LOC"]]
    assert "tag scheme bioes, read as IOB2 (--tag_scheme names another)" in found.described()


def test_an_orphan_i_tag_stays_where_the_data_set_is_iob2(tmp_path):
    folder_of(tmp_path, train="O B-PER O", test="O I-PER I-PER")
    assert tag_names(load_tweets(tmp_path)["test"]) == [["O", "I-PER", "I-PER"]]


def test_a_split_of_another_scheme_is_a_warning_with_the_flag(tmp_path):
    folder_of(tmp_path, train="O I-PER B-PER", test="O B-PER I-PER")
    (remark,) = read_data(tmp_path).remarks()
    assert remark.startswith("train: its entities begin with I-, as in the scheme iob1")
    assert "--tag_scheme iob1 reads all of them alike" in remark
    found = read_data(tmp_path, options=ReadingOptions(tag_scheme="iob1"))
    assert (found.remarks(), tag_names(found.splits["train"])) == ([], [["O", "B-PER", "B-PER"]])
    assert tag_names(found.splits["test"]) == [["O", "B-PER", "I-PER"]]


def test_a_scheme_that_is_named_is_the_one(tmp_path):
    folder_of(tmp_path, train="O I-PER B-PER")
    tags = load_tweets(tmp_path, options=ReadingOptions(tag_scheme="iob2"))["train"]
    assert tag_names(tags) == [["O", "I-PER", "B-PER"]]
    assert tag_names(load_tweets(tmp_path)["train"]) == [["O", "B-PER", "B-PER"]]
    with pytest.raises(ValueError, match=r"word 3, 'w2': the tag 'B-PER' is not of the scheme io: write O, I-TYPE"):
        load_tweets(tmp_path, options=ReadingOptions(tag_scheme="io"))
    with pytest.raises(ValueError, match="--tag_scheme bio is none: choose from iob2, iob1, io, bioes"):
        load_tweets(tmp_path, options=ReadingOptions(tag_scheme="bio"))


def test_a_tag_of_another_scheme_is_named_with_file_text_and_word(tmp_path):
    folder_of(tmp_path, train="O B-PER", test="O O PER")
    with pytest.raises(ValueError, match=r"test.txt, line 1 \(id 'test'\), word 3, 'w2': the tag 'PER' is a type"):
        load_tweets(tmp_path)


def test_types_are_read_as_others(tmp_path):
    folder_of(tmp_path, train="B-per I-per B-PER O B-x B-LOC B-OTHER")
    tags = load_tweets(tmp_path, options=ReadingOptions(type_map={"per": "PER", "x": "O"}))["train"]
    assert tag_names(tags) == [["B-PER", "I-PER", "B-PER", "O", "O", "B-LOC", "B-MISC"]]
    assert tags.features["ner_tags"].feature.names[0:3] == ["O", "B-PER", "I-PER"]


def test_types_that_differ_in_case_alone_are_a_warning_with_the_flag(tmp_path, caplog):
    folder_of(tmp_path, train="B-per O B-PER O B-LOC")
    load_tweets(tmp_path)
    assert [record.message for record in caplog.records if record.levelname == "WARNING"] == [
        "the types PER and per differ in case alone: --type_map per=PER reads them as one, if they are"
    ]
    caplog.clear()
    load_tweets(tmp_path, options=ReadingOptions(type_map={"per": "PER"}))
    assert not [record for record in caplog.records if record.levelname == "WARNING"]


def test_a_type_that_no_model_learns_is_a_warning_with_the_flag(tmp_path):
    folder_of(tmp_path, train="B-PER O B-LOC", valid="B-PRE O", test="B-PER B-PRE")
    assert read_data(tmp_path).remarks() == [
        f"{split}: the train split has no entity of the type PRE: --type_map PRE=PER reads it as another one, "
        "if it is misspelt"
        for split in ("validation", "test")
    ]
    assert read_data(tmp_path, options=ReadingOptions(type_map={"PRE": "PER"})).remarks() == []
    (tmp_path / "train.txt").unlink()
    assert read_data(tmp_path).remarks() == []


def test_other_beside_misc_is_a_warning_and_stays_if_it_is_named(tmp_path, caplog):
    folder_of(tmp_path, train="B-OTHER O B-MISC")
    load_tweets(tmp_path)
    assert "the type OTHER is read as MISC, which there is too: --type_map OTHER=OTHER keeps them apart" in caplog.text
    apart = load_tweets(tmp_path, options=ReadingOptions(type_map={"OTHER": "OTHER"}))["train"]
    assert tag_names(apart) == [["B-OTHER", "O", "B-MISC"]]


def test_a_type_that_does_not_occur_is_a_warning(tmp_path, caplog):
    folder_of(tmp_path, train="B-PER O")
    load_tweets(tmp_path, options=ReadingOptions(type_map={"Per": "PER"}))
    assert "--type_map names Per, which no tag has: there are PER" in caplog.text
