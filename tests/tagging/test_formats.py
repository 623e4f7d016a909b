"""What a model found in the formats of other programs: the project's readers and the programs get all of it back."""

import json
from xml.etree import ElementTree

import pytest
from PIL import Image

from hamlearning.cli import main as command
from hamlearning.data.reading import ReadingOptions, read_files
from hamlearning.tagging.formats import FORMATS, write_format


TWEETS = [
    ("17", ["RT", "@ann", "don't", "go", "to", "Bern", "😀", "!"], ["O", "B-PER", "O", "O", "O", "B-LOC", "O", "O"]),
    ("x-2", ["北", "京", "Ada"], ["B-LOC", "I-LOC", "B-PER"]),
    ("3", ["so", "tired"], ["O", "O"]),
    ("3 b", ["\xa0", "B-PER", "#", "O"], ["O", "B-MISC", "I-MISC", "B-MISC"]),
]
LABEL_STUDIO = (
    *("label-studio-sdk==2.1.2", "ijson==3.6.0", "nltk==3.10.4", "lxml==6.1.3", "ujson==6.1.0", "appdirs==1.4.4"),
    "PyJWT==2.13.0",
)


def predictions(folder, tweets=TWEETS):
    from words_hamlearning import entity_spans

    folder.mkdir(exist_ok=True)
    with (folder / "predictions_test.jsonl").open("w", encoding="utf-8") as file:
        for id_, tokens, tags in tweets:
            spans = entity_spans(tags)
            entities = [{"type": t, "start": a, "end": b, "score": 0.5 + a / 100} for t, a, b in spans]
            print(json.dumps({"id": id_, "tokens": tokens, "predictions": tags, "entities": entities}), file=file)
    return folder / "predictions_test.jsonl"


def read_back(path):
    columns = read_files([path], ReadingOptions()).columns
    return list(zip(columns["id"], columns["tokens"], columns["ner_tags"], strict=True))


def accepted(path):
    """The tasks after somebody has submitted the predictions as they are."""
    tasks = json.loads(path.read_text())
    for task in tasks:
        [prediction] = task.pop("predictions")
        task["annotations"] = [{"id": task["id"], "completed_by": 1, "result": prediction["result"]}]
    path.write_text(json.dumps(tasks))
    return path


@pytest.mark.parametrize("format", ["conll", "jsonl", "label-studio"])
def test_ids_words_and_tags_come_back(format, tmp_path):
    path = write_format(predictions(tmp_path), format)
    assert read_back(accepted(path) if format == "label-studio" else path) == TWEETS


def test_spacy_s_lines_come_back_where_words_are_those_of_the_text(tmp_path):
    tweets = [TWEETS[2], ("4", ["i", "met", "Ada", "Lovelace", "."], ["O", "O", "B-PER", "I-PER", "O"])]
    assert read_back(write_format(predictions(tmp_path, tweets), "spacy")) == tweets


@pytest.mark.parametrize("format", ["jsonl", "label-studio", "spacy", "brat"])
def test_spans_and_scores_are_those_of_the_text(format, tmp_path):
    path = write_format(predictions(tmp_path), format)
    if format == "brat":
        text = (path / "17.txt").read_text()
        lines = (path / "17.ann").read_text().splitlines()
        assert lines == ["T1\tPER 3 7\t@ann", "#1\tAnnotatorNotes T1\tscore 0.51"] + [
            "T2\tLOC 20 24\tBern",
            "#2\tAnnotatorNotes T2\tscore 0.55",
        ]
        assert text[3:7] == "@ann" and text[20:24] == "Bern"
        assert (path / "annotation.conf").read_text().splitlines()[1:4] == ["LOC", "MISC", "PER"]
        assert (path / "3.ann").read_text() == "" and (path / "3_b.txt").exists()
        return
    rows = json.loads(path.read_text()) if format == "label-studio" else map(json.loads, path.open())
    row = next(iter(rows))
    if format == "label-studio":
        row = {
            "text": row["data"]["text"],
            "spans": [r["value"] | {"score": r["score"]} for r in row["predictions"][0]["result"]],
        }
    spans = row.get("spans", row.get("ents"))
    assert [row["text"][span["start"] : span["end"]] for span in spans] == ["@ann", "Bern"]
    assert [float(span["score"]) for span in spans] == [0.51, 0.55]


def test_a_task_has_its_picture_and_the_model(tmp_path):
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "photos" / "3 b.png")
    path = write_format(predictions(tmp_path), "label-studio", str(tmp_path / "photos"), model="demo")
    tasks = json.loads(path.read_text())
    assert [task["data"].get("image") for task in tasks] == [None] * 3 + ["/data/local-files/?d=photos/3%20b.png"]
    assert {task["predictions"][0]["model_version"] for task in tasks} == {"demo"}
    assert [task["predictions"][0]["score"] for task in tasks] == [0.51, 0.5, 1.0, 0.51]
    interface = ElementTree.parse(path.with_suffix(".xml"))
    assert [label.get("value") for label in interface.iter("Label")] == ["LOC", "MISC", "PER"]
    assert interface.find("Image").get("value") == "$image"


def test_ids_that_are_one_file_name_keep_their_own_files(tmp_path):
    tweets = [(id_, ["Ada"], ["B-PER"]) for id_ in ("a/b", "a?b", "A_B", "../c")]
    path = write_format(predictions(tmp_path, tweets), "brat")
    assert sorted(file.name for file in path.glob("*.txt")) == [".._c.txt", "A_B-3.txt", "a_b-2.txt", "a_b.txt"]


def test_brat_written_again_holds_no_file_of_before(tmp_path):
    write_format(predictions(tmp_path), "brat")
    path = write_format(predictions(tmp_path, TWEETS[:1]), "brat")
    assert sorted(file.name for file in path.iterdir()) == ["17.ann", "17.txt", "annotation.conf"]


@pytest.mark.parametrize(("token", "sign"), [("a\tb", r"\\t"), ("a\nb", r"\\n"), ("", "empty")])
def test_a_token_that_conll_has_no_place_for_is_named(token, sign, tmp_path):
    with pytest.raises(ValueError, match=f"tweet '1': .*{sign}"):
        write_format(predictions(tmp_path, [("1", [token], ["O"])]), "conll")


def test_the_command_writes_it_beside_the_predictions(trained_folder, world, tmp_path, capsys):
    flags = ["--data_dir", str(world / "tweets"), "--visual_features", str(world / "features.parquet")]
    options = [*flags, "--output_dir", str(tmp_path / "found"), "--format", "conll", "--use_cpu", "True"]
    assert command(["predict", str(trained_folder), *options]) == 0
    path = tmp_path / "found" / "entities_test.conll"
    assert f"conll: {path}" in capsys.readouterr().out
    rows = [json.loads(line) for line in (tmp_path / "found" / "predictions_test.jsonl").open()]
    assert read_back(path) == [(row["id"], row["tokens"], row["predictions"]) for row in rows]


def test_a_stream_is_written_in_no_other_format(trained_folder, tmp_path, capsys):
    options = ["--data_dir", str(tmp_path), "--streaming", "--format", "brat"]
    assert command(["predict", str(trained_folder), *options]) == 1
    assert "--format brat" in capsys.readouterr().err


def test_the_flag_knows_every_format(capsys):
    with pytest.raises(SystemExit):
        command(["predict", "--help"])
    assert "{" + ",".join(FORMATS) + "}" in capsys.readouterr().out


@pytest.mark.slow
def test_label_studio_s_converter_reads_the_tasks(own_environment, tmp_path):
    path = accepted(write_format(predictions(tmp_path), "label-studio"))
    code = """
import json, sys
from label_studio_sdk.converter import Converter
from label_studio_sdk._extensions.label_studio_tools.core.label_config import parse_config
config = open(sys.argv[2]).read()
converter = Converter(config, project_dir=None, download_resources=False)
print(json.dumps({name: part["type"] for name, part in parse_config(config).items()}))
converter.convert_to_json_min(sys.argv[1], sys.argv[3], is_dir=False)
print(json.dumps(json.load(open(sys.argv[3] + "/result.json"))))
"""
    environment = own_environment(*LABEL_STUDIO)
    parsed, tasks = map(json.loads, environment.run(code, path, path.with_suffix(".xml"), tmp_path).splitlines()[-2:])
    assert parsed == {"label": "Labels"}
    spans = [[(span["text"], span["labels"]) for span in task.get("label", [])] for task in tasks]
    assert spans[0] == [("@ann", ["PER"]), ("Bern", ["LOC"])] and spans[2] == []
    # Its export JSON-MIN has no ids but those of the tasks.
    assert [row[1:] for row in read_back(tmp_path / "result.json")] == [tweet[1:] for tweet in TWEETS]


@pytest.mark.slow
def test_spacy_reads_its_lines(own_environment, tmp_path):
    from test_programs import SPACY

    path = write_format(predictions(tmp_path, TWEETS[:3]), "spacy")
    code = """
import json, sys
import spacy
from spacy.tokens import Doc
nlp = spacy.blank("en")
docs = [Doc(nlp.vocab).from_json(json.loads(line), validate=True) for line in open(sys.argv[1])]
print(json.dumps([[[t.text for t in doc], [[e.text, e.label_] for e in doc.ents]] for doc in docs]))
"""
    docs = json.loads(own_environment(*SPACY).run(code, path).splitlines()[-1])
    assert [tokens for tokens, _ in docs] == [tokens for _, tokens, _ in TWEETS[:3]]
    assert docs[0][1] == [["@ann", "PER"], ["Bern", "LOC"]]
