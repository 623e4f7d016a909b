"""Entities of Parquet shards: the same as of the pipeline, shard by shard, one process or two, killed or not."""

import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from transformers import pipeline

import run_mner
from data_hamlearning import load_tweets
from hub_server import HubServer, run_client
from shard_prediction import find_shards


ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def model_folder(world, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    run_mner.main(
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


def flags(model_folder, shards, output) -> list[str]:
    named = {"model_name_or_path": model_folder, "data_dir": shards, "output_dir": output, "disable_tqdm": True}
    return ["--do_predict", "--streaming", "True", *(str(part) for k, v in named.items() for part in (f"--{k}", v))]


def rows_of(folder) -> list[dict]:
    return [row for path in sorted(folder.glob("*.parquet")) for row in pq.read_table(path).to_pylist()]


def test_a_shard_gives_a_shard_with_the_same_tweets_in_the_same_order(model_folder, shards, tmp_path):
    run_mner.main(flags(model_folder, shards, tmp_path))
    names = [path.name for path in sorted(tmp_path.iterdir())]
    assert names == [f"predictions-{number:05d}-of-00005.parquet" for number in range(5)]
    assert [row["id"] for row in rows_of(tmp_path)] == [row["id"] for row in rows_of(shards)]
    assert [pq.read_metadata(path).num_rows for path in sorted(tmp_path.iterdir())] == [12, 0, 7, 20, 9]


def test_entities_are_those_of_the_pipeline(model_folder, shards, tmp_path):
    run_mner.main([*flags(model_folder, shards, tmp_path), "--bf16", "False"])

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
    run_mner.main(flags(model_folder, shards, tmp_path))
    whole = rows_of(tmp_path)
    kept, lost = sorted(tmp_path.iterdir())[0], sorted(tmp_path.iterdir())[3]
    made_at = kept.stat().st_mtime_ns
    lost.rename(lost.with_suffix(".partial"))  # as a killed run leaves it
    run_mner.main(flags(model_folder, shards, tmp_path))
    assert kept.stat().st_mtime_ns == made_at
    assert rows_of(tmp_path) == whole and not list(tmp_path.glob("*.partial"))


def test_output_of_other_shards_is_not_mixed_with(model_folder, shards, tmp_path):
    run_mner.main(flags(model_folder, shards, tmp_path / "out"))
    other = tmp_path / "other"
    other.mkdir()
    for path in shards.iterdir():
        (other / path.name).write_bytes(path.read_bytes())
    with pytest.raises(ValueError, match="is the output of .*give another --output_dir"):
        run_mner.main(flags(model_folder, other, tmp_path / "out"))


@pytest.mark.slow
def test_two_processes_give_the_rows_of_one_and_each_reads_its_own_shards(model_folder, shards, tmp_path):
    run_mner.main(flags(model_folder, shards, tmp_path / "one"))
    command = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2", "run_mner.py"]
    done = subprocess.run(
        [*command, *flags(model_folder, shards, tmp_path / "two")], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert rows_of(tmp_path / "two") == rows_of(tmp_path / "one")


@pytest.mark.slow
def test_shards_of_the_hub_give_the_rows_of_a_folder_s_and_are_not_downloaded(model_folder, shards, tmp_path):
    run_mner.main(flags(model_folder, shards, tmp_path / "folder"))
    (tmp_path / "home").mkdir()
    arguments = [argument for argument in flags(model_folder, shards, tmp_path / "hub") if argument != str(shards)]
    arguments[arguments.index("--data_dir")] = "--dataset_name=org/tweets"
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import run_mner; run_mner.main({arguments!r})"
    with HubServer() as hub:
        hub.add_repo("org/tweets", shards, kind="dataset")
        run_client(hub, code, tmp_path / "home")
    assert rows_of(tmp_path / "hub") == rows_of(tmp_path / "folder")
    assert not list((tmp_path / "home").rglob("*.parquet"))


def test_raw_text_is_read_too(model_folder, shards, tmp_path):
    texts = [" ".join(row["tokens"]) for row in rows_of(shards)]
    raw = tmp_path / "raw"
    raw.mkdir()
    pq.write_table(pa.table({"text": texts}), raw / "test.parquet")
    run_mner.main(flags(model_folder, raw, tmp_path / "of_text"))
    run_mner.main(flags(model_folder, shards, tmp_path / "of_words"))
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
        run_mner.main(flags(model_folder, tmp_path, tmp_path / "out"))


def test_a_split_that_is_missing_is_named(tmp_path):
    pq.write_table(pa.table({"text": ["a"]}), tmp_path / "train.parquet")
    with pytest.raises(ValueError, match="has no split 'test', only train"):
        find_shards(str(tmp_path))


def test_streamed_prediction_evaluates_nothing(model_folder, shards, tmp_path):
    with pytest.raises(ValueError, match="--streaming True predicts without --do_train: .* leave out --do_eval"):
        run_mner.main([*flags(model_folder, shards, tmp_path), "--do_eval"])


def test_streamed_prediction_wants_a_trained_model(shards, tmp_path):
    with pytest.raises(ValueError, match="--streaming True predicts .* give --model_name_or_path"):
        run_mner.main(
            ["--do_predict", "--streaming", "True", "--data_dir", str(shards), "--output_dir", str(tmp_path)]
        )
