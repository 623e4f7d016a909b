"""Entities of Parquet shards: the same as of the pipeline, shard by shard, one process or two, killed or not."""

import fcntl
import io
import json
import os
import resource
import shutil
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from transformers import TrainingArguments, pipeline

from hamlearning.data.features import write_visual_features
from hamlearning.data.tweets import load_tweets
from hamlearning.tagging.prediction import predict_shards
from hamlearning.tagging.reader import TweetReader
from hamlearning.tagging.shards import ShardError, find_shards
from hamlearning.training.arguments import DataArguments, MNERTrainingArguments, ModelArguments, VisionArguments
from hamlearning.training.run import main as run_mner
from hamlearning.training.streamed import NOT_STREAMED
from hub_server import HubServer, run_client
from modeling_hamlearning import HamLearningForTokenClassification
from tiny_world import SEEN_SIZES, save_seeing_model, save_vision_model


ROOT = Path(__file__).parents[2]
PICTURE = pa.struct({"bytes": pa.binary(), "path": pa.string()})


@pytest.fixture(scope="module")
def model_folder(world, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    run_mner(
        ["--do_train", "--data_dir", str(world / "tweets"), "--text_model", str(world / "text_encoder")]
        + ["--use_vision", "False", "--num_train_epochs", "6", "--learning_rate", "3e-3", "--output_dir", str(folder)]
    )
    return folder


@pytest.fixture(scope="module")
def shards(world, tmp_path_factory):
    """Folder of five shards, of 12, 0, 7, 20 and 9 tweets."""
    folder = tmp_path_factory.mktemp("shards")
    tweets = load_tweets(world / "tweets")["train"]
    rows = [{"id": row["id"], "tokens": row["tokens"]} for row in tweets]
    schema = pa.schema([("id", pa.string()), ("tokens", pa.list_(pa.string()))])
    for number, (first, count) in enumerate(((0, 12), (12, 0), (12, 7), (19, 20), (39, 9))):
        table = pa.Table.from_pylist(rows[first : first + count], schema)
        pq.write_table(table, folder / f"test-{number:05d}-of-00005.parquet")
    return folder


@pytest.fixture(scope="module")
def illustrated(world, tmp_path_factory):
    """Folder of two shards, of 8 and 4 tweets with pictures in `image`; every third tweet has none."""
    folder = tmp_path_factory.mktemp("illustrated")
    tweets = load_tweets(world / "tweets")["test"]
    rows = [{"id": row["id"], "tokens": row["tokens"], "image": None} for row in tweets]
    for number, row in enumerate(rows):
        if number % 3 != 2:
            file = io.BytesIO()
            noise = np.random.default_rng(number).integers(0, 256, (18, 24, 3), np.uint8)
            Image.fromarray(noise // (1 + number % 4)).save(file, "PNG")
            row["image"] = {"bytes": file.getvalue(), "path": None}
    schema = pa.schema([("id", pa.string()), ("tokens", pa.list_(pa.string())), ("image", PICTURE)])
    for number, part in enumerate((rows[:8], rows[8:])):
        pq.write_table(pa.Table.from_pylist(part, schema), folder / f"test-{number:05d}-of-00002.parquet")
    return folder


@pytest.fixture(scope="module")
def seeing(world, tmp_path_factory):
    """Folder of a random model with a tiny vision model, whose answers depend on pictures."""
    return save_seeing_model(world, tmp_path_factory.mktemp("seeing"))


def write_seen(path: Path, ids: list[str]) -> Path:
    """A visual feature file as the tiny vision model makes it, of noise."""
    rng = np.random.default_rng(0)
    rows = [
        {
            "id": id_,
            "image_size": [64, 48],
            "image_features": rng.normal(size=SEEN_SIZES["image_feature_size"]),
            "boxes": [[0.5, 0.5, 0.4, 0.4]],
            "class_ids": [0],
            "scores": [0.9],
            "features": rng.normal(size=(1, SEEN_SIZES["region_feature_size"])),
        }
        for id_ in ids
    ]
    write_visual_features(path, rows, {**SEEN_SIZES, "class_names": ["region"]})
    return path


def flags(model_folder, shards, output, **more) -> list[str]:
    named = {"model_name_or_path": model_folder, "data_dir": shards, "output_dir": output, "disable_tqdm": True}
    named |= {"do_predict": True, "streaming": True} | more
    return [str(part) for name, value in named.items() if value is not None for part in (f"--{name}", value)]


def rows_of(folder) -> list[dict]:
    return [row for path in sorted(folder.glob("*.parquet")) for row in pq.read_table(path).to_pylist()]


def test_a_shard_gives_a_shard_with_the_same_tweets_in_the_same_order(model_folder, shards, tmp_path):
    run_mner(flags(model_folder, shards, tmp_path))
    names = [path.name for path in sorted(tmp_path.iterdir())]
    assert names == [f"predictions-{number:05d}-of-00005.parquet" for number in range(5)]
    assert [row["id"] for row in rows_of(tmp_path)] == [row["id"] for row in rows_of(shards)]
    assert [pq.read_metadata(path).num_rows for path in sorted(tmp_path.iterdir())] == [12, 0, 7, 20, 9]


def test_entities_are_those_of_the_pipeline(model_folder, shards, tmp_path):
    run_mner([*flags(model_folder, shards, tmp_path), "--bf16", "False"])

    ner = pipeline(model=str(model_folder), trust_remote_code=True)
    expected = ner([" ".join(row["tokens"]) for row in rows_of(shards)], batch_size=8)
    found = rows_of(tmp_path)
    assert any(row["entities"] for row in found)
    for row, entities in zip(found, expected, strict=True):
        assert [(e["entity_group"], e["word"], e["start"], e["end"]) for e in row["entities"]] == [
            (e["entity_group"], e["word"], e["start"], e["end"]) for e in entities
        ]
        assert [e["score"] for e in row["entities"]] == pytest.approx([e["score"] for e in entities], abs=1e-4)


def test_shards_that_are_there_are_not_made_again(model_folder, shards, tmp_path):
    run_mner(flags(model_folder, shards, tmp_path))
    whole = rows_of(tmp_path)
    kept, lost = sorted(tmp_path.iterdir())[0], sorted(tmp_path.iterdir())[3]
    made_at = kept.stat().st_mtime_ns
    lost.rename(lost.with_suffix(".partial"))  # as a killed run leaves it
    run_mner(flags(model_folder, shards, tmp_path))
    assert kept.stat().st_mtime_ns == made_at
    assert rows_of(tmp_path) == whole and not list(tmp_path.glob("*.partial"))


def copy(folder: Path, to: Path) -> Path:
    """A copy whose files are younger."""
    to.mkdir(parents=True)
    for path in folder.glob("*.parquet"):
        (to / path.name).write_bytes(path.read_bytes())
    return to


def rewritten(path: Path) -> Path:
    """The same file, with its words for all to read."""
    pq.write_table(pq.read_table(path), path, compression="none", use_dictionary=False)
    return path


def change_words(path: Path):
    """Another tweet in a file, which stays as long as it was."""
    content = path.read_bytes()
    assert content.count(b"bern") >= 1
    path.write_bytes(content.replace(b"bern", b"rome"))


def test_output_of_a_shard_that_has_other_content_now_is_refused(model_folder, shards, tmp_path):
    moved = copy(shards, tmp_path / "shards")
    path = rewritten(moved / "test-00003-of-00005.parquet")
    run_mner(flags(model_folder, moved, tmp_path / "out"))
    change_words(path)
    refused = (
        "predictions-00003-of-00005.parquet is the output of another run .its content was .* give another --output"
    )
    with pytest.raises(ValueError, match=refused):
        run_mner(flags(model_folder, moved, tmp_path / "out"))


def test_a_data_set_that_was_moved_is_gone_on_with(model_folder, shards, tmp_path):
    run_mner(flags(model_folder, shards, tmp_path / "out"))
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
    run_mner(flags(model_folder, copy(shards, tmp_path / "moved"), tmp_path / "out"))
    assert times == {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}


def test_output_of_another_number_of_shards_is_refused(model_folder, shards, tmp_path):
    run_mner(flags(model_folder, shards, tmp_path / "out"))
    fewer = copy(shards, tmp_path / "fewer")
    (fewer / "test-00004-of-00005.parquet").unlink()
    with pytest.raises(ValueError, match="of-00005.parquet is of 5 shards, and these are 4: give another"):
        run_mner(flags(model_folder, fewer, tmp_path / "out"))


@pytest.mark.parametrize(
    ("change", "description"),
    [
        ({"bf16": True}, r"the precision .--bf16, --fp16. was float32, is bfloat16"),
        ({"mask_words": True}, "what was read .--mask_words. was as they are, is masked"),
        ({"use_crf": False}, "the model was"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_output_of_another_run_is_refused(change, description, model_folder, shards, tmp_path):
    run_mner(flags(model_folder, shards, tmp_path, bf16=False))
    with pytest.raises(ValueError, match=f"00000-of-00005.parquet is the output of another run .{description}"):
        run_mner(flags(model_folder, shards, tmp_path, **{"bf16": False} | change))


def test_output_of_other_weights_is_refused(model_folder, shards, tmp_path):
    run_mner(flags(model_folder, shards, tmp_path / "out"))
    other = shutil.copytree(model_folder, tmp_path / "other")
    model = HamLearningForTokenClassification.from_pretrained(model_folder)
    torch.nn.init.zeros_(model.classifier.weight)
    model.save_pretrained(other)
    with pytest.raises(ValueError, match="is the output of another run .the model was"):
        run_mner(flags(other, shards, tmp_path / "out"))


def test_a_model_that_was_moved_is_gone_on_with(seeing, illustrated, tmp_path):
    run_mner(flags(seeing, illustrated, tmp_path / "out"))
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
    run_mner(flags(shutil.copytree(seeing, tmp_path / "moved"), illustrated, tmp_path / "out"))
    assert times == {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}


def test_output_of_other_vision_model_is_refused(seeing, illustrated, tmp_path):
    run_mner(flags(seeing, illustrated, tmp_path / "out"))
    other = save_vision_model(tmp_path / "vision", seed=1)
    with pytest.raises(ValueError, match="is the output of another run .the fingerprint of the vision model was"):
        run_mner(flags(seeing, illustrated, tmp_path / "out", vision_model=other))


def test_vision_model_that_had_nothing_to_look_at_may_be_others(seeing, shards, tmp_path):
    run_mner(flags(seeing, shards, tmp_path / "out"))
    whole = rows_of(tmp_path / "out")
    run_mner(flags(seeing, shards, tmp_path / "out", vision_model=save_vision_model(tmp_path / "vision", seed=1)))
    assert rows_of(tmp_path / "out") == whole


def test_output_of_other_visual_features_is_refused(seeing, illustrated, tmp_path):
    few, more = (write_seen(tmp_path / name, ids) for name, ids in (("few", ["test0"]), ("more", ["test0", "test1"])))
    run_mner(flags(seeing, illustrated, tmp_path / "out", visual_features=few))
    with pytest.raises(ValueError, match="another run .the source of pictures .*was features .* is features "):
        run_mner(flags(seeing, illustrated, tmp_path / "out", visual_features=more))
    with pytest.raises(ValueError, match="another run .the source of pictures .*was features .* is column image"):
        run_mner(flags(seeing, illustrated, tmp_path / "out"))


def test_a_picture_folder_that_has_other_pictures_now_is_another_one(seeing, illustrated, world, tmp_path):
    pictures = shutil.copytree(world / "images", tmp_path / "pictures")
    run_mner(flags(seeing, illustrated, tmp_path / "out", image_dir=pictures))
    (pictures / "test1.png").unlink()
    with pytest.raises(ValueError, match="another run .the source of pictures .*was folder .* is folder "):
        run_mner(flags(seeing, illustrated, tmp_path / "out", image_dir=pictures))


def test_what_is_no_output_of_a_shard_is_named(model_folder, shards, tmp_path):
    (tmp_path / "predictions-00002-of-00005.parquet").write_bytes(b"PAR1")
    with pytest.raises(ValueError, match="predictions-00002-of-00005.parquet cannot be read .*remove it"):
        run_mner(flags(model_folder, shards, tmp_path))


@pytest.mark.slow
def test_several_processes_are_refused_and_told_of_ray(model_folder, shards, tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", str(ROOT / "run_mner.py")]
    command += flags(model_folder, shards, tmp_path / "out", use_cpu=True)
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode != 0
    assert "start one process, not 2: many share `hamlearning predict MODEL" in done.stderr
    assert "--engine ray`" in done.stderr and not (tmp_path / "out").exists()


def test_a_shard_that_is_broken_ends_the_run_and_the_next_one_goes_on(model_folder, shards, tmp_path):
    broken = copy(shards, tmp_path / "shards")
    path = broken / "test-00003-of-00005.parquet"
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    with pytest.raises(ShardError, match="test-00003-of-00005.parquet cannot be read"):
        run_mner(flags(model_folder, broken, tmp_path / "out"))
    assert len(list((tmp_path / "out").glob("*.parquet"))) == 3
    path.write_bytes(content)
    run_mner(flags(model_folder, broken, tmp_path / "out"))
    assert [row["id"] for row in rows_of(tmp_path / "out")] == [row["id"] for row in rows_of(shards)]


@pytest.mark.slow
def test_shards_of_the_hub_give_the_rows_of_a_folder_s_and_are_not_downloaded(model_folder, shards, tmp_path):
    run_mner(flags(model_folder, shards, tmp_path / "folder"))
    (tmp_path / "home").mkdir()
    arguments = flags(model_folder, None, tmp_path / "hub", dataset_name="org/tweets")
    data = copy(shards, tmp_path / "data")
    code = f"from hamlearning.training.run import main; main({arguments!r})"
    with HubServer() as hub:
        hub.add_repo("org/tweets", data, kind="dataset")
        run_client(hub, code, tmp_path / "home")
        assert rows_of(tmp_path / "hub") == rows_of(tmp_path / "folder")
        assert not list((tmp_path / "home").rglob("*.parquet"))

        times = {path: path.stat().st_mtime_ns for path in (tmp_path / "hub").iterdir()}
        (data / "README.md").write_text("# Tweets\n")
        hub.add_repo("org/tweets", data, kind="dataset")
        run_client(hub, code, tmp_path / "home")
        assert times == {path: path.stat().st_mtime_ns for path in (tmp_path / "hub").iterdir()}

        change_words(rewritten(data / "test-00003-of-00005.parquet"))
        hub.add_repo("org/tweets", data, kind="dataset")
        refusal = "import pytest\nwith pytest.raises(ValueError, match='its content was'): run_mner("
        refused = code.replace("main(", refusal)
        run_client(hub, refused, tmp_path / "home")


@pytest.mark.slow
def test_pictures_of_a_prepared_data_set_of_the_hub_are_found_first(seeing, illustrated, tmp_path):
    (tmp_path / "home").mkdir()
    card = "---\nconfigs:\n"
    for config in ("text", "pictures"):
        copy(illustrated, tmp_path / "data" / config)
        card += f"- config_name: {config}\n  data_files: [{{split: test, path: {config}/test-*}}]\n"
        card += "  default: true\n" if config == "text" else ""
    (tmp_path / "data" / "README.md").write_text(card + "---\n")
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from hamlearning.tagging.shards import find_shards\n"
    code += "found = [find_shards(None, 'org/tweets', config)[0].split('/')[-2] for config in (None, 'text')]\n"
    code += "assert found == ['pictures', 'text'], found"
    with HubServer() as hub:
        hub.add_repo("org/tweets", tmp_path / "data", kind="dataset")
        run_client(hub, code, tmp_path / "home")


def test_raw_text_is_read_too(model_folder, shards, tmp_path):
    texts = [" ".join(row["tokens"]) for row in rows_of(shards)]
    raw = tmp_path / "raw"
    raw.mkdir()
    pq.write_table(pa.table({"text": texts}), raw / "test.parquet")
    run_mner(flags(model_folder, raw, tmp_path / "of_text"))
    run_mner(flags(model_folder, shards, tmp_path / "of_words"))
    of_text, of_words = rows_of(tmp_path / "of_text"), rows_of(tmp_path / "of_words")
    assert [[e["word"] for e in row["entities"]] for row in of_text] == [
        [e["word"] for e in row["entities"]] for row in of_words
    ]
    assert {row["id"] for row in of_text} == {None}


def test_a_shard_without_words_is_named(model_folder, tmp_path):
    pq.write_table(pa.table({"id": ["1"]}), tmp_path / "test.parquet")
    with pytest.raises(
        ValueError, match=r"test.parquet has the columns \['id'\]: it needs `tokens` .words. or `text`"
    ):
        run_mner(flags(model_folder, tmp_path, tmp_path / "out"))


def test_an_id_that_is_no_text_or_number_is_refused(model_folder, tmp_path):
    pq.write_table(pa.table({"id": [["1"]], "text": ["a"]}), tmp_path / "test.parquet")
    with pytest.raises(ValueError, match=r"test.parquet has an id of type list<.*>: store it as a string"):
        run_mner(flags(model_folder, tmp_path, tmp_path / "out"))


def test_a_folder_that_is_none_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere is not a folder: give the folder that holds the Parquet"):
        find_shards(str(tmp_path / "nowhere"))


def test_a_split_that_is_missing_is_named(tmp_path):
    pq.write_table(pa.table({"text": ["a"]}), tmp_path / "train.parquet")
    with pytest.raises(ValueError, match="has no split 'test', only train"):
        find_shards(str(tmp_path))


def test_streamed_prediction_evaluates_nothing(model_folder, shards, tmp_path):
    with pytest.raises(ValueError, match="--streaming True predicts without --do_train: .* leave out --do_eval"):
        run_mner([*flags(model_folder, shards, tmp_path), "--do_eval"])


def test_streamed_prediction_wants_a_trained_model(shards, tmp_path):
    with pytest.raises(ValueError, match="--streaming True predicts .* give --model_name_or_path"):
        run_mner(["--do_predict", "--streaming", "True", "--data_dir", str(shards), "--output_dir", str(tmp_path)])


def test_a_folder_s_pictures_are_found_first_as_in_training(illustrated, tmp_path):
    for config in ("text", "pictures"):
        copy(illustrated, tmp_path / config)
    assert [Path(shard).parent.name for shard in find_shards(str(tmp_path))] == ["pictures"] * 2
    shutil.rmtree(tmp_path / "pictures")
    assert [Path(shard).parent.name for shard in find_shards(str(tmp_path))] == ["text"] * 2


def test_a_configuration_that_is_named_wins(illustrated, tmp_path):
    card = "---\nconfigs:\n"
    for config in ("text", "pictures"):
        copy(illustrated, tmp_path / config)
        card += f"- config_name: {config}\n  data_files: [{{split: test, path: {config}/test-*}}]\n"
    (tmp_path / "README.md").write_text(card + "---\n")
    assert [Path(shard).parent.name for shard in find_shards(str(tmp_path), config_name="text")] == ["text"] * 2


def test_what_is_read_is_said(model_folder, shards, tmp_path, caplog):
    with caplog.at_level("INFO"):
        run_mner(flags(model_folder, shards, tmp_path))
    first, last = (shards / f"test-0000{number}-of-00005.parquet" for number in (0, 4))
    assert f"5 shards, from {first} to {last}" in caplog.text
    assert "test-00003-of-00005.parquet: 20 tweets, 0 with a picture, 0 pictures cannot be used" in caplog.text


def test_not_exactly_one_data_set_is_refused(shards):
    for place in ((None, None), (str(shards), "org/tweets")):
        with pytest.raises(ValueError, match="give exactly one of them"):
            find_shards(*place)


def without_stream(model_folder, data, output, **more) -> list[dict]:
    """What the same command writes without --streaming."""
    cache = {"extraction_dir": output / "cache", "extraction_workers": 0, "streaming": None, "bf16": False}
    run_mner(flags(model_folder, data, output, **cache | more))
    return [json.loads(line) for line in (output / "predictions_test.jsonl").read_text().splitlines()]


def spans(entities: list[dict]) -> list[tuple]:
    return [(entity["entity_group"], entity["word_start"], entity["word_end"]) for entity in entities]


def assert_same(found: list[dict], expected: list[dict]):
    """Rows of Parquet and of JSON lines say the same, but for what a feature file rounds."""
    assert any(row["entities"] for row in found)
    for row, line in zip(found, expected, strict=True):
        assert row["id"] == line["id"]
        assert spans(row["entities"]) == [(e["type"], e["start"], e["end"]) for e in line["entities"]]
        scores = [entity["score"] for entity in line["entities"]]
        assert [entity["score"] for entity in row["entities"]] == pytest.approx(scores, abs=2e-3)
        assert [e["word"] for e in row["entities"]] == [
            " ".join(line["tokens"][e["start"] : e["end"]]) for e in line["entities"]
        ]
        relevance = line.get("relevance")
        assert row["relevance"] == (relevance and pytest.approx(relevance, abs=2e-3))


def test_pictures_of_shards_tell_what_they_tell_without_streaming(seeing, illustrated, tmp_path):
    run_mner(flags(seeing, illustrated, tmp_path / "out", bf16=False))
    found = rows_of(tmp_path / "out")
    assert [row["relevance"] is None for row in found] == [number % 3 == 2 for number in range(12)]
    assert {row["image_error"] for row in found} == {None}
    assert_same(found, without_stream(seeing, illustrated, tmp_path / "whole"))


def test_pictures_of_a_folder_tell_what_they_tell_without_streaming(seeing, illustrated, world, tmp_path):
    run_mner(flags(seeing, illustrated, tmp_path / "out", image_dir=world / "images", bf16=False))
    found = rows_of(tmp_path / "out")
    missing = f"there is no picture of this name in {world / 'images'}"
    assert [row["image_error"] for row in found] == [None] * 9 + [missing] * 3
    assert_same(found, without_stream(seeing, illustrated, tmp_path / "whole", image_dir=world / "images"))


@pytest.mark.parametrize("control", ["hide_pictures", "mask_words"])
def test_a_control_does_what_it_does_without_streaming(control, seeing, illustrated, tmp_path):
    run_mner(flags(seeing, illustrated, tmp_path / "plain"))
    run_mner(flags(seeing, illustrated, tmp_path / "out", bf16=False, **{control: True}))
    assert rows_of(tmp_path / "out") != rows_of(tmp_path / "plain")
    assert_same(rows_of(tmp_path / "out"), without_stream(seeing, illustrated, tmp_path / "whole", **{control: True}))


def test_raw_text_is_masked_word_by_word(model_folder, tmp_path):
    pq.write_table(pa.table({"text": ["ann, bob"]}), tmp_path / "test.parquet")
    run_mner(flags(model_folder, tmp_path, tmp_path / "masked", mask_words=True))
    masked = [["[MASK]"] * 3]
    pq.write_table(pa.table({"tokens": masked}), tmp_path / "test.parquet")
    run_mner(flags(model_folder, tmp_path, tmp_path / "given"))
    assert rows_of(tmp_path / "masked") == rows_of(tmp_path / "given")


def test_a_picture_that_cannot_be_read_leaves_its_tweet_without_one_and_is_written_down(seeing, illustrated, tmp_path):
    broken = copy(illustrated, tmp_path / "shards")
    path = broken / "test-00000-of-00002.parquet"
    rows = pq.read_table(path).to_pylist()
    rows[1]["image"]["bytes"] = b"no picture"
    pq.write_table(pa.Table.from_pylist(rows, pq.read_schema(path)), path)
    run_mner(flags(seeing, broken, tmp_path / "out"))
    rows[1]["image"] = None
    pq.write_table(pa.Table.from_pylist(rows, pq.read_schema(path)), path)
    run_mner(flags(seeing, broken, tmp_path / "without"))
    found, expected = rows_of(tmp_path / "out"), rows_of(tmp_path / "without")
    assert "is no JPEG, PNG" in found[1].pop("image_error") and expected[1].pop("image_error") is None
    assert found == expected


def test_whole_numbers_are_ids(seeing, illustrated, tmp_path):
    features = write_seen(tmp_path / "features.parquet", ["1", "3"])
    words = [["i", "met", "ann", "today"]] * 4
    for name, ids in (("numbers", [1, 2, 3, 4]), ("strings", ["1", "2", "3", "4"])):
        (tmp_path / name).mkdir()
        pq.write_table(pa.table({"id": ids, "tokens": words}), tmp_path / name / "test.parquet")
        run_mner(flags(seeing, tmp_path / name, tmp_path / f"of {name}", visual_features=features))
    found = rows_of(tmp_path / "of numbers")
    assert [row["relevance"] is not None for row in found] == [True, False, True, False]
    assert found == rows_of(tmp_path / "of strings")


def test_a_shard_without_ids_has_no_features(seeing, tmp_path):
    features = write_seen(tmp_path / "features.parquet", ["1"])
    pq.write_table(pa.table({"text": ["ann"]}), tmp_path / "test.parquet")
    with pytest.raises(ValueError, match="test.parquet has the columns .* it needs `id`, by which --visual_features"):
        run_mner(flags(seeing, tmp_path, tmp_path / "out", visual_features=features))


def test_features_of_other_tweets_are_warned_of(seeing, illustrated, tmp_path, caplog):
    features = write_seen(tmp_path / "features.parquet", ["another"])
    run_mner(flags(seeing, illustrated, tmp_path / "out", visual_features=features))
    assert "has no picture of any of 12 tweets: its ids are like 'another'" in caplog.text


def test_a_folder_of_other_tweets_pictures_is_warned_of(seeing, illustrated, tmp_path, caplog):
    (tmp_path / "pictures").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "pictures" / "another.png")
    run_mner(flags(seeing, illustrated, tmp_path / "out", image_dir=tmp_path / "pictures"))
    assert f"{tmp_path / 'pictures'} has no picture of any of 12 tweets: call them by the ids" in caplog.text


@pytest.mark.parametrize("argument", ["visual_features", "image_dir", "vision_model"])
def test_pictures_for_a_model_of_text_are_refused(argument, model_folder, shards, seeing, world, tmp_path):
    place = write_seen(tmp_path / "seen", ["1"]) if argument == "visual_features" else seeing
    with pytest.raises(ValueError, match=f"--{argument} .* reads text alone"):
        run_mner(flags(model_folder, shards, tmp_path / "out", **{argument: place}))


GIVEN = {
    "do_eval": True, "do_extract": True, "calibrate": True, "shuffle_pictures": True, "shuffle_buffer": 5,
    "extraction_dir": "x", "grid_features": True, "pyramid_features": True,
    "extraction_engine": "ray", "ray_workers": 2, "ray_threads": 2, "ray_gpus": 1.0,
    "extraction_workers": 2, "vision_backbone": "x", "detector": "grid", "detector_name_or_path": "x",
    "class_names_file": "x", "text_model": "x", "word_splitting": "tweet", "max_length": 20, "max_regions": 3,
    "resume_from_checkpoint": True, "torch_compile": True, "bf16_full_eval": True, "fp16_full_eval": True,
    "prediction_loss_only": True, "full_determinism": True, "dataloader_num_workers": 2, "report_to": "tensorboard",
    "deepspeed": "x", "fsdp": "full_shard", "new_head": True,
    "predict_probabilities": True, "token_column": "0", "tag_column": "-1", "tag_scheme": "iob2", "annotator": "ann",
    "tag_names": "O,B-PER,I-PER", "type_map": "OTHER=MISC", "stride": 4, "predict_explanations": True,
}  # fmt: skip


@pytest.mark.parametrize("argument", sorted(GIVEN.keys() - {"deepspeed", "fsdp"}))
def test_what_streamed_prediction_would_ignore_is_refused(argument, model_folder, shards, tmp_path):
    with pytest.raises(ValueError, match=f"--streaming True predicts .* leave out --{argument} .*: "):
        run_mner(flags(model_folder, shards, tmp_path, **{argument: GIVEN[argument]}))


def test_vectors_of_words_for_a_trained_model_are_refused(model_folder, shards, tmp_path):
    with pytest.raises(ValueError, match="--word_vectors x: a new model of .* leave it out"):
        run_mner(flags(model_folder, shards, tmp_path, word_vectors="x"))


def test_every_argument_of_ours_is_honoured_or_refused_or_of_training():
    honoured = {
        "model_name_or_path", "use_vision", "use_semantic_encoder", "use_spatial_encoder", "use_relevance", "use_crf",
        "num_text_layers", "num_semantic_layers", "num_spatial_layers", "num_ffnn_layers", "num_interaction_layers",
        "share_interaction_layers", "class_embedding_size", "forced_relevance", "data_dir", "dataset_name",
        "dataset_config_name", "visual_features", "image_dir", "image_subfolders", "streaming", "hide_pictures",
        "mask_words", "vision_model", "extraction_batch_size",
    }  # fmt: skip
    of_training = {
        "dropout", "picture_dropout", "text_learning_rate", "matching_learning_rate",
        "crf_learning_rate", "tokens_per_batch", "hub_license",
        "example_texts", "early_stopping_patience",
    }  # fmt: skip
    honoured |= {"architecture", "vision_runtime", "vision_precision", *ModelArguments.all_switches()} - of_training
    parts = (ModelArguments, DataArguments, VisionArguments, MNERTrainingArguments)
    ours = {field.name for part in parts for field in fields(part)} - {f.name for f in fields(TrainingArguments)}
    assert NOT_STREAMED.keys() == GIVEN.keys()
    refused = NOT_STREAMED.keys() | {"word_vectors"}
    assert ours <= honoured | of_training | refused and not honoured & refused


def test_tweets_without_words_have_no_entities(model_folder, tmp_path):
    words = [["i", "met", "ann"], [], None, ["i", None, "ann"]]
    pq.write_table(pa.table({"tokens": words}), tmp_path / "test.parquet")
    run_mner(flags(model_folder, tmp_path, tmp_path / "of_words"))
    found = rows_of(tmp_path / "of_words")
    assert [row["entities"] is None for row in found] == [False, False, True, False]
    assert found[1]["entities"] == []
    pq.write_table(pa.table({"text": ["i met ann", "", None]}), tmp_path / "test.parquet")
    run_mner(flags(model_folder, tmp_path, tmp_path / "of_text"))
    assert rows_of(tmp_path / "of_text") == found[:3]


def test_words_of_another_type_are_named(model_folder, tmp_path):
    pq.write_table(pa.table({"tokens": [[1, 2]]}), tmp_path / "test.parquet")
    with pytest.raises(ValueError, match="test.parquet has tokens of type list.*: store it as strings, or as lists"):
        run_mner(flags(model_folder, tmp_path, tmp_path / "out"))


class Echo(TweetReader):
    """A reader that finds nothing, and knows what was in memory together."""

    pictures = "column image"
    vision_fingerprint = "none"
    facts = {"model": "echo", "precision": "fp32", "words": "as they are", "pictures": pictures}

    def __init__(self):
        super().__init__(model=None, processor=None)
        self.given = []

    def read(self, rows):
        self.given.append(rows)
        return [{"id": row["id"]} for row in rows]


def echoed(path: Path) -> list[list[dict]]:
    reader = Echo()
    predict_shards([str(path)], reader, path.parent / "out", show_progress=False)
    return reader.given


def not_utf8(good: int) -> pa.Array:
    """Texts, the last of them of a byte that is not UTF-8."""
    offsets = np.arange(good + 2, dtype=np.int32).tobytes()
    return pa.Array.from_buffers(
        pa.string(), good + 1, [None, pa.py_buffer(offsets), pa.py_buffer(b"a" * good + b"\xff")]
    )


@pytest.mark.parametrize("column", ["text", "tokens", "id", "image"])
def test_text_that_is_not_utf8_is_named_with_file_row_and_column(column, tmp_path):
    bad = not_utf8(good=40)
    columns = {"text": pa.array(["a"] * 41), column: bad}
    if column == "tokens":
        columns[column] = pa.ListArray.from_arrays(pa.array(range(42), pa.int32()), bad)
    elif column == "image":
        columns[column] = pa.StructArray.from_arrays([pa.array([b""] * 41), bad], ["bytes", "path"])
    pq.write_table(pa.table(columns), tmp_path / "test.parquet")
    with pytest.raises(ShardError, match=f"^.*test.parquet, row 40: {column} cannot be read .*0xff.*: what is done"):
        echoed(tmp_path / "test.parquet")


@pytest.mark.parametrize("zone", [None, "Nowhere/Land"])
def test_a_time_that_python_has_none_for_is_named_with_file_row_and_column(zone, tmp_path):
    times = pa.array([None, 2**60], pa.timestamp("us", zone))
    pq.write_table(pa.table({"text": ["a", "b"], "image": times}), tmp_path / "test.parquet")
    with pytest.raises(ShardError, match="^.*test.parquet, row 1: image cannot be read .*: what is done is kept"):
        echoed(tmp_path / "test.parquet")


def test_bytes_as_ids_that_are_not_utf8_are_named_with_their_rows(tmp_path):
    pq.write_table(pa.table({"text": ["a"] * 2, "id": [b"a", b"\xff"]}), tmp_path / "test.parquet")
    with pytest.raises(ShardError, match="^.*test.parquet, rows 0 to 1: id cannot be read .Invalid UTF8 payload"):
        echoed(tmp_path / "test.parquet")


@pytest.mark.parametrize("column", ["text", "id", "image"])
def test_a_column_of_a_shard_that_is_there_twice_is_named(column, tmp_path):
    table = pa.table({"text": ["a"], "id": ["1"], "image": [b""]})
    pq.write_table(table.append_column(column, table[column]), tmp_path / "test.parquet")
    with pytest.raises(ValueError, match=f"test.parquet has the column '{column}' more than once: keep one of them"):
        echoed(tmp_path / "test.parquet")


MIB = 2**20


@pytest.mark.parametrize("stored", ["as text", "once", "as a word", "as an id"])
def test_few_tweets_of_many_words_are_in_memory_together(stored, tmp_path):
    text = pa.array(["a" * MIB]).take(pa.array([0] * 100, pa.int32()))
    columns = {
        "as text": {"text": text},
        "once": {"text": text.dictionary_encode()},
        "as a word": {"tokens": pa.ListArray.from_arrays(pa.array(range(101), pa.int32()), text)},
        "as an id": {"text": ["a"] * 100, "id": text},
    }
    pq.write_table(pa.table(columns[stored]), tmp_path / "test.parquet")
    given = echoed(tmp_path / "test.parquet")
    assert sum(map(len, given)) == 100
    assert {len(rows) for rows in given} <= {1, 2, 3}


@pytest.mark.parametrize("once", [False, True], ids=["each its own", "stored once"])
def test_few_tweets_with_large_pictures_are_in_memory_together(once, tmp_path):
    picture = pa.array([b"a" * 40 * MIB]).take(pa.array([0] * 7, pa.int32()))
    picture = picture.dictionary_encode() if once else picture
    image = pa.StructArray.from_arrays([picture], ["bytes"])
    pq.write_table(pa.table({"text": ["a"] * 7, "image": image}), tmp_path / "test.parquet")
    assert [len(rows) for rows in echoed(tmp_path / "test.parquet")] == [3, 3, 1]


def test_a_shard_of_500_bytes_that_stands_for_gigabytes_takes_little_memory(tmp_path):
    path = tmp_path / "test.parquet"
    text = pa.array(["a" * MIB]).take(pa.array([0] * 1000, pa.int32()))
    pq.write_table(pa.table({"text": text}), path, compression="zstd")
    assert path.stat().st_size < 1000
    code = (
        "import resource, sys; from pathlib import Path; from test_shard_prediction import echoed\n"
        "def most(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024\n"
        "before = most(); echoed(Path(sys.argv[1])); print(most() - before)"
    )
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}:{Path(__file__).parent}"}
    command = [sys.executable, "-c", code, str(path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[-1]) < 400


def test_a_tweet_that_is_too_long_is_named_with_file_and_row(tmp_path):
    pq.write_table(pa.table({"text": ["a"] * 50 + ["a" * 5 * MIB]}), tmp_path / "test.parquet")
    with pytest.raises(
        ValueError, match="test.parquet, row 50 has 5.0 MiB of words, more than a tweet may have .4 Mi"
    ):
        echoed(tmp_path / "test.parquet")


@pytest.mark.parametrize(("pictures", "together"), [(False, [1024, 1024, 452]), (True, [64] * 39 + [4])])
def test_ordinary_tweets_are_in_memory_together_in_their_order(pictures, together, tmp_path):
    tweets = [{"id": f"{number}", "tokens": [f"word{number}", None, "!"]} for number in range(2500)]
    table = pa.Table.from_pylist(tweets)
    if pictures:
        table = table.append_column("image", pa.array([b"picture"] * 2500))
    pq.write_table(table, tmp_path / "test.parquet", row_group_size=700)
    given = echoed(tmp_path / "test.parquet")
    assert [len(rows) for rows in given] == together
    assert [{"id": row["id"], "tokens": row["words"]} for rows in given for row in rows] == tweets


@pytest.mark.parametrize(
    "type_",
    [pa.list_(pa.string()), pa.list_(pa.string(), 1), pa.large_list(pa.large_string()), pa.list_(pa.string_view())],
    ids=str,
)
def test_words_are_read_however_arrow_stores_them(type_, tmp_path):
    pq.write_table(pa.table({"tokens": pa.array([["a"], ["b"]]).cast(type_)}), tmp_path / "test.parquet")
    assert [row["words"] for rows in echoed(tmp_path / "test.parquet") for row in rows] == [["a"], ["b"]]


def test_a_broken_shard_is_named(model_folder, tmp_path):
    (tmp_path / "test.parquet").write_bytes(b"no Parquet")
    with pytest.raises(OSError, match="test.parquet cannot be read .*: what is done is kept"):
        run_mner(flags(model_folder, tmp_path, tmp_path / "out"))


def test_a_full_disk_is_named_and_leaves_nothing_half_done(model_folder, shards, tmp_path):
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limit[1]))
    try:
        with pytest.raises(OSError, match="predictions-00000-of-00005.parquet cannot be written .*too large"):
            run_mner(flags(model_folder, shards, tmp_path))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert not list(tmp_path.iterdir())
    run_mner(flags(model_folder, shards, tmp_path))
    assert len(rows_of(tmp_path)) == 48


def test_two_runs_do_not_write_the_same_file(model_folder, shards, tmp_path):
    with (tmp_path / "predictions-00000-of-00005.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(OSError, match="00000-of-00005.parquet is being written by another run"):
            run_mner(flags(model_folder, shards, tmp_path))
    run_mner(flags(model_folder, shards, tmp_path))
    assert len(list(tmp_path.iterdir())) == 5


class Overtaken(Echo):
    """A reader that, at the first tweets, sees another one finish the last shard."""

    def __init__(self, other: Echo, shards: list[str], out: Path):
        super().__init__()
        self.other, self.shards, self.out = other, shards, out

    def read(self, rows):
        if not self.given:
            predict_shards(self.shards, self.other, self.out / "other", show_progress=False)
            name = "predictions-00001-of-00002.parquet"
            (self.out / "other" / name).rename(self.out / name)
        return super().read(rows)


@pytest.fixture
def two_shards(tmp_path):
    for place in range(2):
        pq.write_table(pa.table({"text": [f"tweet {place}"]}), tmp_path / f"{place}.parquet")
    return [str(tmp_path / f"{place}.parquet") for place in range(2)]


def test_what_another_run_has_written_meanwhile_is_kept(two_shards, tmp_path):
    reader = Overtaken(Echo(), two_shards, tmp_path / "out")
    counts = predict_shards(two_shards, reader, tmp_path / "out", show_progress=False)
    assert (counts["shards"], counts["kept"], counts["tweets"]) == (2, 1, 1)
    assert len(reader.given) == 1


def test_what_a_run_of_another_kind_has_written_meanwhile_is_not_overwritten(two_shards, tmp_path):
    other = Echo()
    other.facts = Echo.facts | {"model": "another"}
    with pytest.raises(ValueError, match="00001-of-00002.parquet is the output of another run .*was another, is echo"):
        predict_shards(
            two_shards, Overtaken(other, two_shards, tmp_path / "out"), tmp_path / "out", show_progress=False
        )
    metadata = pq.read_schema(tmp_path / "out" / "predictions-00001-of-00002.parquet").metadata
    assert json.loads(metadata[b"hamlearning"])["model"] == "another"
