"""The error report: figures worked out by hand, and the page as a browser shows it, from disk."""

import json
import re
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, Features, Image, List, Value
from PIL import Image as Pillow

from hamlearning.cli import main
from hamlearning.data.features import write_visual_features
from hamlearning.scores.calibration import calibration, confusion
from hamlearning.scores.evaluation import evaluate_tags
from hamlearning.scores.predictions import read_gold, read_predictions


EVIL = "</script><img src=x onerror=alert(1)>"
# id, words, gold tags, what run A and what run B predict.
TWEETS = [
    ("rome", ["Ada", "in", "Rome"], ["B-PER", "O", "B-LOC"], ["B-PER", "O", "B-LOC"], ["B-PER", "O", "B-ORG"]),
    ("bob", ["Bob"], ["B-PER"], ["O"], ["B-PER"]),
    ("evil", [EVIL, "{{data}}"], ["O", "O"], ["O", "O"], ["O", "O"]),
    ("empty", [], [], [], []),
    ("rtl", ["שלום", "עליכם", "🎉", "רומא"], *[["B-LOC", "I-LOC", "O", "B-LOC"]] * 3),
    ("acme", ["Acme"], ["B-ORG"], ["B-PER"], ["B-PER"]),
]
SIZES = {"image_feature_size": 2, "region_feature_size": 2, "class_names": ["dog", "kennel"]}


# ---------------------------------------------------------------------------------------------------------- figures


def test_ece_weighs_the_gap_of_each_bin_by_its_count():
    # |0.95 - 1| of one, |0.85 - 1/2| of two, |0.15 - 0| of one.
    figures = calibration([0.95, 0.85, 0.85, 0.15], [True, True, False, False])
    assert figures["ece"] == pytest.approx((0.05 + 2 * 0.35 + 0.15) / 4)
    assert figures["number"] == 4


def test_brier_is_the_mean_square_of_the_distance_from_what_is_so():
    figures = calibration([0.9, 0.8, 0.3], [True, False, False])
    assert figures["brier"] == pytest.approx((0.01 + 0.64 + 0.09) / 3)


def test_a_bin_tells_its_count_its_mean_score_and_its_share_of_right_ones():
    rows = calibration([0.3, 0.4, 0.9], [True, False, True], bins=2)["bins"]
    assert rows[0] == {"low": 0.0, "high": 0.5, "number": 2, "score": pytest.approx(0.35), "right": 0.5}
    assert rows[1] == {"low": 0.5, "high": 1.0, "number": 1, "score": 0.9, "right": 1.0}


def test_a_score_on_a_border_belongs_to_the_bin_above_it():
    tenths = [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]
    assert [row["number"] for row in calibration(tenths, [True] * 11)["bins"]] == [1] * 9 + [2]


def test_an_empty_bin_has_neither_score_nor_share():
    row = calibration([0.9], [True])["bins"][0]
    assert (row["number"], row["score"], row["right"]) == (0, None, None)


@pytest.mark.parametrize("scores, is_right", [([], []), ([0.5], []), ([1.5], [True]), ([float("nan")], [True])])
def test_calibration_refuses_what_is_no_probability_with_an_answer(scores, is_right):
    with pytest.raises(ValueError, match="give"):
        calibration(scores, is_right)


def test_confusion_counts_types_of_the_same_words():
    gold = [["B-PER", "I-PER", "O"], ["B-LOC"], ["B-LOC"]]
    predicted = [["B-ORG", "I-ORG", "O"], ["B-LOC"], ["B-LOC"]]
    assert confusion(gold, predicted) == {("PER", "ORG"): 1, ("LOC", "LOC"): 2}


def test_confusion_counts_other_boundaries_as_nothing_on_both_sides():
    assert confusion([["B-PER", "I-PER"]], [["B-PER", "O"]]) == {("PER", None): 1, (None, "PER"): 1}


def test_confusion_counts_an_entity_that_an_i_tag_opens():
    assert confusion([["O", "I-MISC"]], [["O", "B-MISC"]]) == {("MISC", "MISC"): 1}


# ---------------------------------------------------------------------------------------------------------- command


def write_run(path, tweets, side, **extras):
    """`side` 3: run A's predictions, 4: run B's. `extras` of a tweet go into its row, by id."""
    rows = [
        {"id": tweet[0], "tokens": tweet[1], "ner_tags": tweet[2], "predictions": tweet[side]}
        | extras.get(tweet[0], {})
        for tweet in tweets
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def write_regions(path, *rows):
    """A visual feature file; `rows`: id, boxes, class ids."""
    write_visual_features(
        path,
        (
            {
                "id": id_,
                "image_size": [8, 4],
                "image_features": np.zeros(2),
                "boxes": boxes,
                "class_ids": class_ids,
                "scores": [0.9] * len(boxes),
                "features": np.zeros((len(boxes), 2)),
            }
            for id_, boxes, class_ids in rows
        ),
        SIZES,
    )
    return path


def write_columns(path, **columns):
    """A visual feature file of `rome`, which has one region, with one value each in these columns, unchecked."""
    table = pq.ParquetFile(write_regions(path, ("rome", [[0.5, 0.5, 1, 1]], [0]))).read()
    for name, value in columns.items():
        table = table.drop_columns([name] if name in table.column_names else []).append_column(name, pa.array([value]))
    pq.write_table(table, path)
    return path


def report(folder, *command_line):
    """The page; a SystemExit where the command ends with an error."""
    status = main(["report", *map(str, command_line), "--output", str(folder / "report.html")])
    if status:
        raise SystemExit(status)
    return folder / "report.html"


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The prediction files of run A, with scores of two entities, one right, and of run B, with none."""
    folder = tmp_path_factory.mktemp("runs")
    ada, acme = ({"type": "PER", "start": 0, "end": 1, "score": score} for score in (0.9331, 0.7501))
    extras = {"rome": {"entities": [ada], "relevance": [0.25, -0.5]}, "acme": {"entities": [acme]}}
    first = write_run(folder / "a.jsonl", TWEETS, 3, **extras)
    return first, write_run(folder / "b.jsonl", TWEETS, 4)


@pytest.fixture(scope="module")
def a_against_b(runs, tmp_path_factory):
    return report(tmp_path_factory.mktemp("page"), *runs, "--names", "A", "B")


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--names", "A"], r"--names is \['A'\] for 2 files: give each file a name of its own"),
        (["--names", "A", "A"], "give each file a name of its own"),
        (["--ids", "rome", "nowhere"], r"--ids names \['nowhere'\], which .*a.jsonl does not hold"),
        (["--visual_features", "{tmp}/other.parquet"], "other.parquet has no row for any of the 6 images"),
        (["--visual_features", "{tmp}/data/train.txt"], "train.txt is not a Parquet file"),
        (["--image_dir", "{tmp}"], "holds no picture of any of the 6 tweets: give the place of their pictures"),
        (["--data_dir", "{tmp}/data"], "holds no split 'test', only train: give --split"),
        (["--data_dir", "{tmp}/data", "--split", "train"], "holds no picture of any of the 6 tweets"),
        (["--gold", "{tmp}/data", "--split", "train"], "a.jsonl, line 1: tweet 1"),
    ],
)
def test_an_error_names_what_is_wrong(runs, tmp_path, capsys, arguments, message):
    write_regions(tmp_path / "other.parquet", ("elsewhere", [], []))
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train.txt").write_text("IMGID:1\nAda\tB-PER\n")
    with pytest.raises(SystemExit) as exit_:
        report(tmp_path, *runs, *(argument.replace("{tmp}", str(tmp_path)) for argument in arguments))
    captured = capsys.readouterr()
    assert exit_.value.code == 1
    assert re.fullmatch(f"error: .*{message}.*\n", captured.err)
    assert not (tmp_path / "report.html").exists()


def test_different_tweets_are_an_error_that_names_the_file(runs, tmp_path, capsys):
    other = write_run(tmp_path / "other.jsonl", TWEETS[1:], 3)
    with pytest.raises(SystemExit):
        report(tmp_path, runs[0], other)
    assert "other.jsonl, line 1: tweet 1 ('rome' in the gold file)" in capsys.readouterr().err


def test_words_that_a_peer_cut_off_count_as_o_where_asked(tmp_path, capsys):
    (tmp_path / "gold.txt").write_text("IMGID:1\nAda\tB-PER\nsings\tO\n")
    (tmp_path / "peer.txt").write_text("Ada B-PER\n")
    arguments = (tmp_path / "peer.txt", "--gold", tmp_path / "gold.txt")
    with pytest.raises(SystemExit):
        report(tmp_path, *arguments)
    assert "--fill_with_o" in capsys.readouterr().err
    assert report(tmp_path, *arguments, "--fill_with_o").is_file()


def test_a_visual_features_file_that_lacks_columns_is_an_error_that_names_them(runs, tmp_path, capsys):
    features = write_regions(tmp_path / "features.parquet", ("rome", [], []))
    pq.write_table(pq.ParquetFile(features).read().drop_columns(["boxes"]), tmp_path / "fewer.parquet")
    with pytest.raises(SystemExit):
        report(tmp_path, *runs, "--visual_features", tmp_path / "fewer.parquet")
    assert "fewer.parquet lacks the columns ['boxes']" in capsys.readouterr().err


def test_a_score_of_what_is_not_predicted_is_an_error_that_names_the_line(tmp_path, capsys):
    entities = [{"type": "PER", "start": 0, "end": 2, "score": 0.5}]
    with pytest.raises(SystemExit):
        report(tmp_path, write_run(tmp_path / "a.jsonl", TWEETS, 3, bob={"entities": entities}))
    assert "a.jsonl, line 2: 'entities' is [{'type': 'PER'" in capsys.readouterr().err


HUGE = 10**400  # JSON can hold it, a float cannot


@pytest.mark.parametrize("score", [HUGE, -HUGE], ids=["positive", "negative"])
def test_a_score_that_no_float_can_hold_is_an_error_that_names_the_line(tmp_path, capsys, score):
    entities = [{"type": "PER", "start": 0, "end": 1, "score": score}]
    with pytest.raises(SystemExit) as exit_:
        report(tmp_path, write_run(tmp_path / "a.jsonl", TWEETS, 4, bob={"entities": entities}))
    assert exit_.value.code == 1
    assert re.fullmatch(
        r"error: \S*a.jsonl, line 2: 'entities' is .*: give what a run writes, or neither\n",
        capsys.readouterr().err,
    )


@pytest.mark.parametrize(
    "relevance",
    [[float("nan")], [0.5, float("inf")], [float("-inf")], [HUGE], 0, False],
    ids=["NaN", "infinity", "minus infinity", "huge", "0", "false"],
)
def test_a_relevance_that_is_no_list_of_finite_numbers_is_an_error_that_names_the_line(tmp_path, capsys, relevance):
    with pytest.raises(SystemExit) as exit_:
        report(tmp_path, write_run(tmp_path / "a.jsonl", TWEETS, 3, bob={"relevance": relevance}))
    assert exit_.value.code == 1
    assert re.fullmatch(
        rf"error: \S*a.jsonl, line 2: .*'relevance' {re.escape(repr(relevance))} .*: give what a run .*\n",
        capsys.readouterr().err,
    )


@pytest.mark.parametrize(
    "columns, message",
    [
        ({"boxes": None}, "boxes is None: give a list of boxes, an empty one for no region"),
        ({"boxes": "0.5"}, "boxes is '0.5': give a list of boxes, an empty one for no region"),
        ({"boxes": [0.5]}, "the box 0.5 is not (x_c, y_c, h, w): give it 4 finite numbers"),
        ({"boxes": [None]}, "the box None is not (x_c, y_c, h, w): give it 4 finite numbers"),
        ({"boxes": [[0.5, 0.5, 1.0]]}, "the box [0.5, 0.5, 1.0] is not (x_c, y_c, h, w): give it 4 finite numbers"),
        ({"boxes": [[0.5, None, 1.0, 1.0]]}, "the box [0.5, None, 1.0, 1.0] is not (x_c, y_c, h, w): give it 4"),
        ({"boxes": [["0", "0", "1", "1"]]}, "the box ['0', '0', '1', '1'] is not (x_c, y_c, h, w): give it 4"),
        ({"boxes": [[0.5, 0.5, 1.0, float("nan")]]}, "the box [0.5, 0.5, 1.0, nan] is not (x_c, y_c, h, w): give it"),
        ({"boxes": [[float("inf"), 0.5, 1.0, 1.0]]}, "the box [inf, 0.5, 1.0, 1.0] is not (x_c, y_c, h, w): give it"),
        (
            {"boxes": [[-1.7e308, 0.5, 1.0, 1.7e308]]},
            "the box [-1.7e+308, 0.5, 1.0, 1.7e+308] is not (x_c, y_c, h, w)",
        ),
        ({"class_ids": None}, "1 boxes and the class_ids None: give each region one box and one of the 2 classes"),
        ({"class_ids": [None]}, "1 boxes and the class_ids [None]: give each region one box and one of the 2 classes"),
        ({"class_ids": ["dog"]}, "1 boxes and the class_ids ['dog']: give each region one box and one of the 2"),
        ({"class_ids": [1.0]}, "1 boxes and the class_ids [1.0]: give each region one box and one of the 2 classes"),
        ({"class_ids": [0, 1]}, "1 boxes and the class_ids [0, 1]: give each region one box and one of the 2 classes"),
        ({"class_ids": [2]}, "1 boxes and the class_ids [2]: give each region one box and one of the 2 classes"),
        ({"caption": b"A dog"}, "caption is b'A dog': give a string, or null for none"),
        ({"caption": float("nan")}, "caption is nan: give a string, or null for none"),
    ],
)
def test_what_a_feature_file_may_not_hold_is_an_error_that_names_the_image(runs, tmp_path, capsys, columns, message):
    features = write_columns(tmp_path / "features.parquet", **columns)
    with pytest.raises(SystemExit) as exit_:
        report(tmp_path, *runs, "--visual_features", features)
    captured = capsys.readouterr()
    assert exit_.value.code == 1
    assert captured.err.startswith(f"error: {features}, image 'rome': {message}")
    assert captured.err.count("\n") == 1
    assert not (tmp_path / "report.html").exists()


@pytest.mark.parametrize("id_", [["rome"], {"name": "rome"}], ids=["list", "struct"])
def test_ids_of_a_feature_file_that_are_no_strings_are_none_of_the_images(runs, tmp_path, capsys, id_):
    features = write_columns(tmp_path / "features.parquet", id=id_)
    with pytest.raises(SystemExit) as exit_:
        report(tmp_path, *runs, "--visual_features", features)
    assert exit_.value.code == 1
    assert f"error: {features} has no row for any of the 6 images" in capsys.readouterr().err


def test_an_image_may_lack_a_caption_that_others_have(runs, tmp_path):
    features = write_columns(tmp_path / "features.parquet", caption=None)
    assert report(tmp_path, *runs, "--visual_features", features).is_file()


def test_no_page_is_written_whose_data_are_no_json(runs, tmp_path, capsys, monkeypatch):
    regions = {"rome": {"caption": None, "regions": [["dog", float("nan"), 0, 1, 1]]}}
    monkeypatch.setattr("hamlearning.scores.report_pictures.read_regions", lambda path, ids: regions)
    with pytest.raises(SystemExit):
        report(tmp_path, *runs, "--visual_features", "any.parquet")
    assert "not JSON compliant" in capsys.readouterr().err
    assert not (tmp_path / "report.html").exists()


def test_halves_of_surrogate_pairs_are_shown_as_replacement_characters(tmp_path):
    half, whole = ([part, ["B-" + part], ["B-" + part]] for part in ("\ud800", "\ufffd"))
    files = []
    for name, (part, gold, predicted) in (("half", half), ("whole", whole)):
        entities = [{"type": part, "start": 0, "end": 1, "score": 0.5}]
        tweet = ("id" + part, ["Ada" + part], gold, predicted)
        path = write_run(tmp_path / f"{name}.jsonl", [tweet], 3, **{tweet[0]: {"entities": entities}})
        files.append(report(tmp_path, path, "--names", "A").read_text(encoding="utf-8").replace(str(path), ""))
    assert files[0] == files[1]
    assert r'"id":"id\ufffd","words":["Ada\ufffd"]' in files[0]


# ------------------------------------------------------------------------------------------------------------- page


@pytest.fixture
def open_page(browser):
    """`open_page(file, **context)`: the page, which may neither fail, nor open a dialog, nor ask for another file."""
    contexts, strays = [], []

    def open_(path, **settings):
        contexts.append(browser.new_context(**settings))
        contexts[-1].set_default_timeout(60_000)  # milliseconds, on a machine that is busy
        page = contexts[-1].new_page()
        page.on("pageerror", lambda error: strays.append(str(error)))
        page.on("console", lambda message: strays.append(message.text))
        page.on("dialog", lambda dialog: (strays.append(dialog.message), dialog.dismiss()))
        page.on("request", lambda request: request.url.startswith("data:") or requests.append(request.url))
        requests = []
        page.goto(path.as_uri())
        assert requests == [path.as_uri()]
        return page

    yield open_
    for context in contexts:
        context.close()
    assert strays == []


@pytest.fixture
def page(a_against_b, open_page):
    """The page of run A against run B."""
    return open_page(a_against_b)


def shown(page):
    return page.locator("article .id").all_inner_texts()


def card(page, id_):
    return page.locator("article", has=page.locator(f".id:text-is('{id_}')"))


def test_the_page_shows_every_tweet_and_counts_them(page):
    assert shown(page) == [tweet[0] for tweet in TWEETS]
    assert page.inner_text("#count") == "6 of 6 tweets"


@pytest.mark.parametrize(
    "choices, found",
    [
        ({"Errors": "wrong in any run"}, ["rome", "bob", "acme"]),
        ({"Errors": "wrong: 1 A"}, ["bob", "acme"]),
        ({"Errors": "wrong: 2 B"}, ["rome", "acme"]),
        ({"Type": "LOC"}, ["rome", "rtl"]),
        ({"Type": "LOC", "Errors": "wrong in any run"}, ["rome"]),
        ({"Type": "PER", "Errors": "wrong: 2 B"}, ["acme"]),
        ({"1 A against 2 B": "better"}, ["rome"]),
        ({"1 A against 2 B": "worse"}, ["bob"]),
        ({"1 A against 2 B": "either"}, ["rome", "bob"]),
        ({"1 A against 2 B": "better", "Type": "PER"}, []),
        ({"1 A against 2 B": "better", "Type": "ORG"}, ["rome"]),
    ],
)
def test_a_filter_keeps_the_tweets_that_it_names(page, choices, found):
    for label, choice in choices.items():
        page.get_by_label(label).select_option(choice)
    assert shown(page) == found
    assert page.inner_text("#count") == f"{len(found)} of 6 tweets"


@pytest.fixture
def decided(tmp_path, pictures):
    """The page of a run whose entity in `rome` the picture decided, with two regions; its picture is shown."""
    by_picture = {"with": 0.9331, "without": 0.12, "type": "LOC", "regions": [1.5, -0.3]}
    entity = {"type": "PER", "start": 0, "end": 1, "score": 0.9331, "picture": by_picture}
    other = entity | {"score": 0.7501, "picture": by_picture | {"without": 0.7, "type": "PER", "regions": []}}
    extras = {"rome": {"entities": [entity]}, "acme": {"entities": [other]}}
    run = write_run(tmp_path / "decided.jsonl", TWEETS, 3, **extras)
    boxes = [[0.25, 0.5, 1, 0.5], [0.75, 0.5, 1, 0.5]]
    regions = write_regions(tmp_path / "regions.parquet", ("rome", boxes, [0, 1]))
    return report(tmp_path, run, "--visual_features", regions, "--image_dir", pictures)


@pytest.mark.parametrize("choice, found", [("the picture decided", ["rome"]), ("it did not", None)])
def test_a_filter_keeps_the_tweets_that_the_picture_decided(decided, open_page, choice, found):
    page = open_page(decided)
    page.locator("select[name=picture]").select_option(label=choice)
    assert shown(page) == (found or [tweet[0] for tweet in TWEETS if tweet[0] != "rome"])


def test_an_entity_that_is_pressed_shows_what_decided_it(decided, open_page):
    page = open_page(decided)
    rome = card(page, "rome")
    rome.locator(".chip.why").click()
    text = rome.locator(".decided").inner_text()
    assert "Without the picture it is LOC: the picture decided." in text and "0.93" in text and "0.12" in text
    boxes = rome.locator(".box")
    shades = [boxes.nth(place).evaluate("box => box.style.getPropertyValue('--effect')") for place in (0, 1)]
    assert [float(shade) for shade in shades] == [1, 0]
    assert "against" in boxes.nth(1).get_attribute("class").split()
    acme = card(page, "acme")
    acme.locator(".chip.why").press("Enter")
    assert "Without the picture it is PER, too. No single region decides." in acme.locator(".decided").inner_text()


def test_where_no_run_says_what_decided_there_is_no_such_filter(page):
    assert not page.locator("select[name=picture]").is_visible() and not page.locator(".why").count()


@pytest.mark.parametrize(
    "picture",
    [{}, 5, {"with": 0.5, "without": 0.1, "type": 3, "regions": []},
     {"with": 0.5, "without": 1e999, "type": None, "regions": []}],
)  # fmt: skip
def test_what_decided_an_entity_is_figures_or_an_error_that_names_the_line(tmp_path, capsys, picture):
    entity = {"type": "PER", "start": 0, "end": 1, "score": 0.9, "picture": picture}
    run = write_run(tmp_path / "run.jsonl", TWEETS, 3, rome={"entities": [entity]})
    with pytest.raises(SystemExit):
        report(tmp_path, run)
    assert "run.jsonl, line 1: 'entities' is" in capsys.readouterr().err


def test_a_learned_relevance_is_named_so(tmp_path, open_page):
    extras = {"rome": {"relevance": [0.9], "relevance_kind": "probability"}}
    page = open_page(report(tmp_path, write_run(tmp_path / "run.jsonl", TWEETS, 3, **extras)))
    assert "own picture 0.90" in " ".join(card(page, "rome").locator(".views").inner_text().split())


@pytest.mark.parametrize(
    "query, found", [("in ROME", ["rome"]), ("BOB", ["bob"]), ("kennel", ["acme"]), ("עליכם", ["rtl"]), ("zzz", [])]
)
def test_search_looks_at_words_ids_and_class_names_in_any_letter_case(runs, tmp_path, open_page, query, found):
    features = write_regions(tmp_path / "features.parquet", ("acme", [[0.5, 0.5, 1, 1]], [1]))
    page = open_page(report(tmp_path, *runs, "--visual_features", features))
    page.get_by_role("searchbox").fill(query)
    assert shown(page) == found


def test_one_run_is_compared_with_nothing(runs, tmp_path, open_page):
    page = open_page(report(tmp_path, runs[0], "--names", "A"))
    assert page.get_by_role("combobox").count() == 2
    assert page.inner_text("#count") == "6 of 6 tweets"


def test_what_looks_like_markup_is_text(runs, tmp_path, open_page):
    page = open_page(report(tmp_path, *runs, "--names", EVIL, "<b id=evil>"))
    assert card(page, "evil").locator(".text").inner_text().strip() == EVIL + " {{data}}"
    assert page.locator("img, #evil").count() == 0
    assert page.inner_text("h1") == f"Errors of {EVIL} / <b id=evil>"
    assert card(page, "evil").locator("dt").all_inner_texts() == [f"1 {EVIL}", "2 <b id=evil>"]


def test_right_and_wrong_differ_in_their_line_and_in_a_mark(page):
    chips = card(page, "rome").locator(".chip")
    assert chips.all_inner_texts() == ["PER", "1 PER .93", "2 PER", "LOC", "1 LOC", "2 ORG ✗"]
    styles = [chip.evaluate("chip => getComputedStyle(chip).borderBottomStyle") for chip in chips.all()]
    assert styles == ["solid", "solid", "solid", "solid", "solid", "dashed"]
    assert card(page, "bob").locator(".missed").all_inner_texts() == ["1 missed ✗"]
    assert card(page, "bob").locator("dd.bad").all_inner_texts() == ["✗ 1 wrong"]


def test_gold_and_predictions_stand_below_their_words(page):
    word = card(page, "rome").get_by_text("Rome", exact=True).bounding_box()
    below = [card(page, "rome").locator(".chip").nth(number).bounding_box() for number in (3, 4, 5)]
    assert {box["x"] for box in below} == {word["x"]}
    assert word["y"] < below[0]["y"] < below[1]["y"] < below[2]["y"]


def test_the_whole_score_shows_on_hover(page):
    assert card(page, "rome").locator(".chip").nth(1).get_attribute("title") == "A: PER, score 0.9331, right"


def test_relevance_is_shown_as_absolute_value_by_view(page):
    assert card(page, "rome").locator(".view").all_inner_texts() == ["semantic0.25", "spatial0.50"]


def test_a_tweet_without_words_says_so(page):
    assert card(page, "empty").locator(".text").inner_text().strip() == "(no words)"


def test_right_to_left_text_runs_to_the_left(page):
    boxes = [word.bounding_box() for word in card(page, "rtl").locator(".word").all()]
    assert boxes[0]["x"] > boxes[1]["x"] > boxes[2]["x"]


def test_an_entity_has_the_direction_of_its_own_words(tmp_path, open_page):
    tweet = ("mixed", ["שלום", "New", "York"], *[["O", "B-LOC", "I-LOC"]] * 3)
    page = open_page(report(tmp_path, write_run(tmp_path / "a.jsonl", [tweet], 3)))
    new, york = (word.bounding_box() for word in page.locator(".word").all())
    assert new["x"] < york["x"]
    assert page.locator(".text").evaluate("line => getComputedStyle(line).direction") == "rtl"


def test_many_tweets_come_in_pages_that_the_keyboard_turns(tmp_path, open_page):
    tweets = [(f"t{number}", ["x"], ["O"], ["O"], ["O"]) for number in range(60)]
    page = open_page(report(tmp_path, write_run(tmp_path / "a.jsonl", tweets, 3)))
    assert shown(page) == [f"t{number}" for number in range(25)]
    assert page.get_by_role("button", name="back").is_disabled()
    for _ in range(2):
        page.get_by_role("button", name="on").focus()
        page.keyboard.press("Enter")
    assert shown(page) == [f"t{number}" for number in range(50, 60)]
    assert page.get_by_role("button", name="on").is_disabled()
    page.get_by_role("searchbox").fill("t")
    assert page.inner_text("#page") == "page 1 of 3"


def test_a_phone_scrolls_in_one_direction(tmp_path, open_page):
    long = "x" * 200
    tweets = [("long", [long, "Ada"], ["B-ORG", "I-ORG"], ["B-ORG", "I-ORG"], ["O", "O"])]
    files = [write_run(tmp_path / f"{side}.jsonl", tweets, side) for side in (3, 4)]
    page = open_page(report(tmp_path, *files, "--names", "a" * 90, "b" * 90), viewport={"width": 360, "height": 700})
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    assert page.locator(".word").first.bounding_box()["width"] < 360


@pytest.mark.parametrize("scheme, is_dark", [("light", False), ("dark", True)])
def test_the_page_follows_the_colours_of_the_system(runs, tmp_path, open_page, scheme, is_dark):
    page = open_page(report(tmp_path, *runs), color_scheme=scheme)
    red = page.evaluate("Number(getComputedStyle(document.body).backgroundColor.match(/[0-9]+/)[0])")
    assert (red < 128) == is_dark


def test_chosen_ids_show_alone_in_their_order_and_scores_stay_those_of_all(runs, tmp_path, open_page):
    page = open_page(report(tmp_path, *runs, "--ids", "acme", "rome"))
    assert shown(page) == ["acme", "rome"]
    assert page.inner_text("#count") == "2 of 2 tweets"
    assert page.locator("tr.all td").last.inner_text() == "6"


# ------------------------------------------------------------------------------------------------ pictures, figures


@pytest.fixture
def pictures(tmp_path):
    """A folder with a picture of `rome` and a file of `bob` that is none."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    Pillow.new("RGB", (800, 400), "red").save(folder / "rome.png")
    (folder / "bob.jpg").write_bytes(b"no picture")
    return folder


def test_the_page_keeps_its_pictures_wherever_it_is_moved(runs, tmp_path, pictures, open_page):
    path = report(tmp_path, *runs, "--image_dir", pictures)
    shutil.rmtree(pictures)
    (tmp_path / "elsewhere").mkdir()
    page = open_page(path.rename(tmp_path / "elsewhere" / "page.html"))
    image = page.locator("article img")
    assert image.evaluate("image => image.decode().then(() => [image.naturalWidth, image.naturalHeight])") == [
        320,
        160,
    ]
    assert card(page, "rome").locator("img").count() == 1


def test_a_picture_that_cannot_be_read_says_why(runs, tmp_path, pictures, open_page):
    page = open_page(report(tmp_path, *runs, "--image_dir", pictures))
    assert "cannot be shown" in card(page, "bob").locator("figure").inner_text()


def test_the_pictures_of_a_data_set_are_shown(runs, tmp_path, pictures, open_page):
    ids, words = [tweet[0] for tweet in TWEETS if tweet[1]], [tweet[1] for tweet in TWEETS if tweet[1]]
    images = [str(pictures / "rome.png") if id_ == "acme" else None for id_ in ids]
    features = Features({"id": Value("string"), "tokens": List(Value("string")), "image": Image()})
    (tmp_path / "data").mkdir()
    data = Dataset.from_dict({"id": ids, "tokens": words, "image": images}, features=features)
    data.to_parquet(tmp_path / "data" / "test.parquet")
    page = open_page(report(tmp_path, *runs, "--data_dir", tmp_path / "data"))
    assert card(page, "acme").locator("img").count() == page.locator("article img").count() == 1


def test_a_region_lies_where_its_box_says(runs, tmp_path, pictures, open_page):
    features = write_regions(tmp_path / "features.parquet", ("rome", [[0.75, 0.5, 1, 0.5]], [0]))
    page = open_page(report(tmp_path, *runs, "--image_dir", pictures, "--visual_features", features))
    picture, box = (page.locator(name).bounding_box() for name in (".picture", ".box"))
    assert box["x"] == pytest.approx(picture["x"] + picture["width"] / 2, abs=1)
    assert box["width"] == pytest.approx(picture["width"] / 2, abs=1)
    assert box["height"] == pytest.approx(picture["height"], abs=1)
    assert page.locator(".box").inner_text() == "dog"


def test_a_region_that_is_the_whole_picture_is_named_and_not_drawn(runs, tmp_path, pictures, open_page):
    features = write_regions(tmp_path / "features.parquet", ("rome", [[0.5, 0.5, 1, 1]] * 3, [1, 0, 1]))
    page = open_page(report(tmp_path, *runs, "--image_dir", pictures, "--visual_features", features))
    assert page.locator(".box").count() == 0
    assert page.locator("figcaption").last.inner_text() == "regions: kennel × 2, dog"


def test_a_caption_is_shown_and_found(runs, tmp_path, open_page):
    features = write_regions(tmp_path / "features.parquet", ("rome", [], []))
    table = pq.ParquetFile(features).read().append_column("caption", pa.array(["A <b>Trattoria</b>"]))
    pq.write_table(table, tmp_path / "captions.parquet")
    page = open_page(report(tmp_path, *runs, "--visual_features", tmp_path / "captions.parquet"))
    page.get_by_role("searchbox").fill("trattoria")
    assert page.locator("article figure").inner_text() == "“A <b>Trattoria</b>”"


def test_a_picture_grows_when_it_is_pressed(runs, tmp_path, pictures, open_page):
    page = open_page(report(tmp_path, *runs, "--image_dir", pictures))
    small = page.locator(".picture").bounding_box()["width"]
    page.locator(".picture").press("Enter")
    assert page.locator(".picture").bounding_box()["width"] > 2 * small


def test_the_scores_are_those_of_the_evaluation(runs, page):
    gold = read_gold(runs[0])
    cells = page.locator("tr.all td").all_inner_texts()
    for run, column in zip(runs, (2, 5), strict=True):
        assert cells[column] == f"{100 * evaluate_tags(gold['ner_tags'], read_predictions(run, gold)[0])['f1']:.2f}"


def test_the_comparison_says_which_run_is_better_in_how_many_tweets(tmp_path, open_page):
    tweets = [TWEETS[0], ("again", *TWEETS[0][1:]), TWEETS[1]]
    files = [write_run(tmp_path / f"{side}.jsonl", tweets, side) for side in (3, 4)]
    text = open_page(report(tmp_path, *files, "--names", "A", "B")).locator("#figures > p").inner_text()
    assert text.startswith("A against B: F1 88.89 against 60.00, difference +28.89")
    assert text.endswith("Fewer wrong entities than B in 2 tweets, more in 1.")


def test_the_confusion_of_each_run_is_shown(page):
    tables = page.locator(".confusion").all()
    rows = [[row.split() for row in table.locator("tr").all_inner_texts()] for table in tables]
    assert rows[0][1:] == [
        ["PER", "1", "0", "0", "1"],
        ["LOC", "0", "3", "0", "0"],
        ["ORG", "1", "0", "0", "0"],
        ["none", "0", "0", "0"],
    ]
    assert rows[1][2] == ["LOC", "0", "2", "1", "0"]


def test_the_reliability_of_scores_is_drawn_where_there_are_some(page):
    first, second = page.locator("section.run").all()
    summary = "ECE 40.85 %, Brier score 28.36 % over 2 predicted entities"
    assert first.locator("svg").get_attribute("aria-label") == summary
    assert first.locator("svg rect").count() == 2
    assert "no scores of spans" in second.inner_text()


def test_a_peers_file_is_shown_beside_its_gold(tmp_path, open_page):
    (tmp_path / "gold.txt").write_text("IMGID:1\nAda\tB-PER\nsings\tO\n")
    (tmp_path / "peer.txt").write_text("Ada B-PER B-LOC\nsings O O\n")
    page = open_page(report(tmp_path, tmp_path / "peer.txt", "--gold", tmp_path / "gold.txt"))
    assert page.locator("article .chip").all_inner_texts() == ["PER", "1 LOC ✗"]


def test_a_peers_file_needs_gold(tmp_path, capsys):
    (tmp_path / "peer.txt").write_text("Ada B-PER B-LOC\n")
    with pytest.raises(SystemExit):
        report(tmp_path, tmp_path / "peer.txt")
    assert "peer.txt is no .jsonl of a run: give the gold tags with --gold" in capsys.readouterr().err
