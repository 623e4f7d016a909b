"""Data sets of the Hub in other formats than Parquet: read as a folder of the same files is."""

import json

import pytest

from hub_server import HubServer, run_client


@pytest.fixture(scope="module")
def hub():
    with HubServer() as server:
        yield server


ROWS = [{"id": "1", "text": "@Ada met null", "label": [[1, 4, "PER"], [9, 13, "PER"]]}, {"text": "so", "label": []}]
CSV = "sentence_id,token,tag\n1,NA,B-LOC\n1,null,O\n2,so,O\n"


def test_json_lines_and_csv_of_the_hub(hub, tmp_path):
    """All in one process, as its start takes seconds: `load_tweets` of two data sets, and of a split alone."""
    for name, files in {
        "org/lines": {f"{split}.jsonl": "".join(json.dumps(row) + "\n" for row in ROWS) for split in ("train", "dev")},
        "org/csv": {"data/train.csv": CSV, "data/test.csv": CSV},
    }.items():
        folder = tmp_path / name
        for file, text in files.items():
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            (folder / file).write_text(text)
        (folder / "README.md").write_text("# Tweets\n")
        hub.add_repo(name, folder, kind="dataset")
    code = """
import json
from hamlearning.data.reading import ReadingOptions
from hamlearning.data.tweets import load_tweets, tag_names

def said(splits):
    return {name: [split["id"][:], split["tokens"][:], tag_names(split)] for name, split in splits.items()}

print(json.dumps(said(load_tweets(dataset_name="org/lines", options=ReadingOptions(word_splitting="tweet")))))
print(json.dumps(said(load_tweets(dataset_name="org/csv", splits=["test"]))))
"""
    lines, csv = map(json.loads, run_client(hub, code, tmp_path).splitlines())
    tagged = [["O", "O", "B-PER"], ["O"]]
    tagged[0][0] = "B-PER"  # widened to @Ada, which is one word here
    assert lines["train"] == [["1", "train-2"], [["@Ada", "met", "null"], ["so"]], tagged]
    assert lines["validation"][0] == ["1", "dev-2"] and set(lines) == {"train", "validation"}
    assert csv == {"test": [["1", "2"], [["NA", "null"], ["so"]], [["B-LOC", "O"], ["O"]]]}
    assert not [path for _, path in hub.requests if path.endswith("data/train.csv") and "resolve" in path]
