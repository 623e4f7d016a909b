"""`benchmarks/feature_probe.py` tells features that add to the text from features that only repeat it."""

import json
import subprocess
import sys

import numpy as np
import pytest

from conftest import ROOT
from hamlearning.data.features import write_visual_features


SIZE = 32
TYPES = ("PER", "LOC")
LOSSES = {"text": 2, "features": 4, "both": 6, "dealt out anew": 8}  # columns of the printed table


def write_run(folder, text_knows: str):
    """A run on 200 dev and 200 test tweets with a person or a place, of which the features know; the text may."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    (folder / "results.json").write_text(json.dumps({"types": TYPES}))
    pictures = []
    for split in ("validation", "test"):
        with (folder / f"predictions_{split}.jsonl").open("w") as file:
            for place in range(200):
                type_ = TYPES[place % 2]
                told = {"everything": type_, "nothing": TYPES[rng.integers(2)]}[text_knows]
                entity = {"type": told, "start": 0, "end": 1, "score": 0.9}
                line = {"id": f"{split}{place}", "ner_tags": [f"B-{type_}"], "entities": [entity]}
                file.write(json.dumps(line) + "\n")
                seen = rng.normal(size=SIZE) + 4 * (type_ == "PER") * (np.arange(SIZE) < 8)
                region = {"boxes": [[0.5, 0.5, 1, 1]], "class_ids": [0], "scores": [1.0], "features": [seen]}
                pictures.append({"id": line["id"], "image_size": (9, 9), "image_features": seen, **region})
    metadata = {"image_feature_size": SIZE, "region_feature_size": SIZE, "class_names": ["thing"]}
    write_visual_features(folder / "features.parquet", pictures, metadata)
    return folder


def log_losses(run) -> dict[str, float]:
    script = ROOT / "benchmarks" / "feature_probe.py"
    command = [sys.executable, script, run, "--visual_features", run / "features.parquet"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout
    [row] = [line.split("|") for line in printed.splitlines() if line.startswith("| PER ")]
    return {name: float(row[1 + column]) for name, column in LOSSES.items()}


@pytest.fixture(scope="module")
def losses(tmp_path_factory):
    folder = tmp_path_factory.mktemp("probe")
    return {knows: log_losses(write_run(folder / knows, knows)) for knows in ("everything", "nothing")}


def test_features_that_know_what_the_text_does_not_lower_its_loss(losses):
    assert losses["nothing"]["both"] < losses["nothing"]["text"] - 0.3


def test_features_of_other_tweets_do_not_lower_the_loss(losses):
    assert losses["nothing"]["dealt out anew"] > losses["nothing"]["text"] - 0.02


def test_features_that_repeat_the_text_add_nothing(losses):
    assert losses["everything"]["features"] < 0.3
    assert losses["everything"]["both"] > losses["everything"]["text"] - 0.02


def test_without_a_text_model_it_says_what_the_features_alone_know(tmp_path):
    rng, pictures = np.random.default_rng(0), []
    for split, count in (("train", 200), ("valid", 60)):
        rows = []
        for place in range(count):
            type_ = TYPES[rng.integers(2)]
            seen = rng.normal(size=SIZE) + 4 * (type_ == "PER") * (np.arange(SIZE) < 8)
            region = {"boxes": [[0.5, 0.5, 1, 1]], "class_ids": [0], "scores": [1.0], "features": [seen]}
            pictures.append({"id": f"{split}{place}", "image_size": (9, 9), "image_features": seen, **region})
            rows.append({"id": f"{split}{place}", "tokens": ["it"], "ner_tags": [f"B-{type_}"]})
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    metadata = {"image_feature_size": SIZE, "region_feature_size": SIZE, "class_names": ["thing"]}
    write_visual_features(tmp_path / "features.parquet", pictures, metadata)
    command = [sys.executable, ROOT / "benchmarks" / "feature_probe.py", "--data_dir", tmp_path]
    command += ["--visual_features", tmp_path / "features.parquet"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout
    [row] = [line.split("|") for line in printed.splitlines() if line.startswith("| PER ")]
    assert float(row[4]) > 0.95 and 0.3 < float(row[5]) < 0.7
