"""Files as the programs themselves write them, in their newest versions: the rows of the table in docs/data.md."""

import io
import json

import pytest
from PIL import Image

from hamlearning.data.reading import ReadingOptions
from hamlearning.data.tweets import load_tweets, tag_names
from hamlearning.pictures.tweet_images import TweetImages
from image_processing_hamlearning import read_image


pytestmark = pytest.mark.slow

IDS = ["1", "2", "3"]
TOKENS = [["Ada", "it's", "new\xa0York"], ["so"], ["NA", "null", "🙂"]]
TAGGED = [["B-PER", "O", "B-LOC"], ["O"], ["B-LOC", "O", "O"]]
TEXT, SPANS = "Ada met 🙂 Bob in New York", [(0, 3, "PER"), (10, 13, "PER"), (17, 25, "LOC")]
WORDS, TAGS_OF_TEXT = TEXT.split(), ["B-PER", "O", "O", "B-PER", "O", "B-LOC", "I-LOC"]

ROWS = f"rows = {dict(id=IDS, tokens=TOKENS, ner_tags=TAGGED)!r}\n"


def read(folder, **options):
    return load_tweets(folder, options=ReadingOptions(**options), cache_dir=str(folder / "cache"))["train"]


def check(train):
    assert train["id"][:] == IDS and train["tokens"][:] == TOKENS and tag_names(train) == TAGGED


@pytest.fixture
def picture(tmp_path):
    stream = io.BytesIO()
    Image.new("RGB", (3, 2)).save(stream, "PNG")
    return stream.getvalue()


TABLES = {
    ("pandas", "Parquet"): "pd.DataFrame(rows).to_parquet('train.parquet')",
    ("pandas", "Feather"): "pd.DataFrame(rows).to_feather('train.feather')",
    ("pandas", "CSV"): "pd.DataFrame(rows).to_csv('train.csv', index=False)",
    ("pandas", "CSV of what Parquet gave"): (
        "pd.DataFrame(rows).to_parquet('of_numpy'); pd.read_parquet('of_numpy').to_csv('train.csv', index=False)"
    ),
    ("pandas", "CSV separated by ;"): "pd.DataFrame(rows).to_csv('train.csv', index=False, sep=';')",
    **{
        ("pandas", f"JSON, orient={orient}"): f"pd.DataFrame(rows).to_json('train.json', orient={orient!r})"
        for orient in ("columns", "records", "index", "split", "table")
    },
    ("pandas", "JSON lines"): "pd.DataFrame(rows).to_json('train.jsonl', orient='records', lines=True)",
    ("pandas", "CSV, a token a row"): (
        "pd.DataFrame(rows).explode(['tokens', 'ner_tags']).to_csv('train.csv', index=False)"
    ),
    ("polars", "Parquet"): "pl.DataFrame(rows).write_parquet('train.parquet')",
    ("polars", "Parquet, Categorical"): (
        "pl.DataFrame(rows).with_columns(pl.col('ner_tags').cast(pl.List(pl.Categorical)))"
        ".write_parquet('train.parquet')"
    ),
    ("polars", "Parquet, Enum"): (
        "pl.DataFrame(rows).with_columns(pl.col('ner_tags').cast(pl.List(pl.Enum(['O', 'B-PER', 'B-LOC']))))"
        ".write_parquet('train.parquet')"
    ),
    ("polars", "Arrow"): "pl.DataFrame(rows).write_ipc('train.arrow')",
    ("polars", "Arrow, lz4"): "pl.DataFrame(rows).write_ipc('train.arrow', compression='lz4')",
    ("polars", "Arrow, oldest"): ("pl.DataFrame(rows).write_ipc('train.arrow', compat_level=pl.CompatLevel.oldest())"),
    ("polars", "Arrow stream"): "pl.DataFrame(rows).write_ipc_stream('train.arrow')",
    ("polars", "JSON lines"): "pl.DataFrame(rows).write_ndjson('train.jsonl')",
    ("polars", "JSON"): "pl.DataFrame(rows).write_json('train.json')",
    **{
        ("duckdb", name): f"frame = pd.DataFrame(rows); duckdb.sql(\"COPY (FROM frame) TO '{file}'{more}\")"
        for name, file, more in (
            ("Parquet", "train.parquet", ""),
            ("CSV", "train.csv", ""),
            ("JSON lines", "train.json", ""),
            ("JSON", "train.json", " (ARRAY true)"),
        )
    },
    ("datasets", "Parquet"): "Dataset.from_dict(rows).to_parquet('train.parquet')",
    ("datasets", "CSV"): "Dataset.from_dict(rows).to_csv('train.csv')",
    ("datasets", "JSON lines"): "Dataset.from_dict(rows).to_json('train.jsonl')",
    ("datasets", "LargeList of ClassLabel"): (
        "d = Dataset.from_dict(rows).cast(Features(id=Value('string'), tokens=LargeList(Value('large_string')), "
        "ner_tags=LargeList(ClassLabel(names=['O', 'B-LOC', 'B-PER'])))); d.to_parquet('train.parquet')"
    ),
}
IMPORTS = {
    "pandas": "import pandas as pd",
    "polars": "import polars as pl",
    "duckdb": "import duckdb\nimport pandas as pd",
    "datasets": "from datasets import ClassLabel, Dataset, Features, LargeList, Value",
}
VERSIONS = {
    "pandas": (),  # with `datasets`, which the project needs
    "datasets": (),
    "polars": ("polars==2.1.0", "polars-runtime-32==2.1.0"),
    "duckdb": ("duckdb==2.0.1",),
}


@pytest.fixture(scope="module")
def programs(own_environment):
    return own_environment(*VERSIONS["polars"], *VERSIONS["duckdb"])


@pytest.mark.parametrize(("tool", "format"), TABLES, ids=[f"{tool}: {format}" for tool, format in TABLES])
def test_a_table(programs, tmp_path, tool, format):
    code = f"import os, sys\nos.chdir(sys.argv[1])\n{IMPORTS[tool]}\n{ROWS}{TABLES[tool, format]}\n"
    programs.run(code, tmp_path)
    check(read(tmp_path))


PICTURES = {
    "pandas": "pd.DataFrame(rows | {'image': [data, None, None]}).to_parquet('train.parquet')",
    "polars": "pl.DataFrame(rows | {'image': [data, None, None]}).write_parquet('train.parquet')",
    "polars, a struct": (
        "pl.DataFrame(rows | {'image': [{'bytes': data, 'path': 'a'}, None, None]}).write_ipc('train.arrow')"
    ),
    "duckdb": (
        "frame = pd.DataFrame(rows | {'image': [data, None, None]})\n"
        "duckdb.sql(\"COPY (FROM frame) TO 'train.parquet'\")"
    ),
    "datasets": (
        "pictures = [{'bytes': data, 'path': None}, None, None]\n"
        "Dataset.from_dict(rows | {'image': pictures}).to_parquet('train.parquet')"
    ),
    "pandas, base64 in CSV": (
        "text = base64.b64encode(data).decode()\n"
        "pd.DataFrame(rows | {'image': [text, None, None]}).to_csv('train.csv', index=False)"
    ),
    "pandas, paths": "pd.DataFrame(rows | {'image': ['a.png', None, None]}).to_parquet('train.parquet')",
}


@pytest.mark.parametrize("name", PICTURES)
def test_a_column_of_pictures(programs, picture, tmp_path, name):
    (tmp_path / "a.png").write_bytes(picture)
    code = "import base64, os, sys\nos.chdir(sys.argv[1])\ndata = open('a.png', 'rb').read()\n"
    programs.run(f"{code}{IMPORTS[name.partition(',')[0]]}\n{ROWS}{PICTURES[name]}\n", tmp_path)
    train = read(tmp_path)
    check(train)
    images = TweetImages({"train": train})
    assert read_image(images[0]).size == (3, 2) and images[1] is None


def test_shards_of_one_query_of_duckdb_and_of_three_programs(programs, tmp_path):
    """DuckDB calls a column `not null` where none was, so shards differ in their schemas."""
    code = f"""
import os, sys
os.chdir(sys.argv[1])
import duckdb, pandas as pd, polars as pl
{ROWS}
rows["note"] = [None, "a", "b"]
frame = pd.DataFrame(rows)
duckdb.sql("COPY (FROM frame LIMIT 1) TO 'train-00000-of-00003.parquet'")
duckdb.sql("COPY (FROM frame LIMIT 1 OFFSET 1) TO 'train-00001-of-00003.parquet'")
pl.DataFrame({{name: column[2:] for name, column in rows.items()}}).write_parquet("train-00002-of-00003.parquet")
"""
    programs.run(code, tmp_path)
    check(read(tmp_path))


# --------------------------------------------------------------------------------------------------- annotation tools


SPACY = """
spacy==3.8.18 thinc==8.3.14 blis==1.3.4 catalogue==2.0.10 confection==1.3.4 cymem==2.0.16 murmurhash==1.0.16
preshed==3.0.15 srsly==2.5.6 wasabi==1.1.3 weasel==1.0.1 spacy-legacy==3.0.12 spacy-loggers==1.0.5
cloudpathlib==0.26.0 smart_open==9.0.2
""".split()
LABEL_STUDIO = """
label-studio-sdk==2.1.2 ijson==3.6.0 nltk==3.10.4 lxml==6.1.3 ujson==6.1.0 appdirs==1.4.4 PyJWT==2.13.0
""".split()


def test_what_spacy_writes(own_environment, tmp_path):
    """`Doc.to_json`, its training JSON and its examples are read; a DocBin is refused with what to type."""
    code = f"""
import json, os, sys
import spacy
from spacy.tokens import DocBin
from spacy.training import docs_to_json
os.chdir(sys.argv[1])
nlp = spacy.blank("en")
doc = nlp({TEXT!r})
doc.ents = [doc.char_span(*span) for span in {SPANS!r}]
for token in doc:
    token.is_sent_start = token.i == 0
for name in ("lines", "training", "examples", "docbin"):
    os.mkdir(name)
open("lines/train.jsonl", "w").write(json.dumps(doc.to_json()) + "\\n")
json.dump([docs_to_json([doc])], open("training/train.json", "w"))
entities = [(entity.start_char, entity.end_char, entity.label_) for entity in doc.ents]
json.dump([(doc.text, {{"entities": entities}})], open("examples/train.json", "w"))
DocBin(docs=[doc]).to_disk("docbin/train.spacy")
"""
    own_environment(*SPACY).run(code, tmp_path)
    for name in ("lines", "training", "examples"):
        train = read(tmp_path / name)
        assert train["tokens"][:] == [WORDS] and tag_names(train) == [TAGS_OF_TEXT], name
    with pytest.raises(ValueError, match=r"train.spacy is a DocBin, which spaCy alone reads: .*doc.to_json"):
        read(tmp_path / "docbin")


def task(id_, text, image, *annotations):
    return {
        "id": id_,
        "data": {"text": text, "image": image},
        "annotations": [
            {
                "id": 10 * id_ + who,
                "completed_by": who,
                "was_cancelled": False,
                "result": [
                    {
                        "id": f"r{start}",
                        "type": "labels",
                        "from_name": "label",
                        "to_name": "text",
                        "value": {"start": start, "end": end, "text": text[start:end], "labels": [type_]},
                    }
                    for start, end, type_ in spans
                ],
            }
            for who, spans in annotations
        ],
        "predictions": [],
    }


TASKS = [
    task(1, TEXT, "/data/upload/1/1a2b3c4d-game.png", (1, SPANS)),
    task(2, "nobody", "b.png"),
    task(3, "no names", "c.png", (1, []), (2, [])),
]


@pytest.mark.parametrize(("format", "name"), [("JSON", "json"), ("JSON_MIN", "json"), ("CSV", "csv"), ("TSV", "csv")])
def test_what_label_studios_converter_writes(own_environment, picture, tmp_path, format, name):
    code = f"""
import json, os, sys
from label_studio_sdk.converter import Converter
os.chdir(sys.argv[1])
os.mkdir("tasks")
for task in json.loads(sys.argv[2]):
    json.dump(task, open(f"tasks/{{task['id']}}.json", "w"))
config = '''<View><Labels name="label" toName="text"><Label value="PER"/><Label value="LOC"/></Labels>
<Text name="text" value="$text"/><Image name="image" value="$image"/></View>'''
Converter(config, project_dir=".").convert("tasks", "written", {format!r}, is_dir=True)
os.rename("written/result.{name}", "written/train.{name}")
"""
    own_environment(*LABEL_STUDIO).run(code, tmp_path, json.dumps(TASKS))
    (tmp_path / "written" / "game.png").write_bytes(picture)
    with pytest.raises(ValueError, match="task 3 has 2 annotations, by 1, 2: choose one of them, --annotator"):
        read(tmp_path / "written")
    train = read(tmp_path / "written", annotator="1")
    train = train.sort("id")  # the converter reads the tasks in the order of its folder
    assert train["id"][:] == ["c.png", "game.png"]
    assert train["tokens"][:] == [["no", "names"], WORDS] and tag_names(train) == [["O", "O"], TAGS_OF_TEXT]
    assert read_image(TweetImages({"train": train})[1]).size == (3, 2)
