"""Training on many tweets and many devices: batches by sub-tokens, compiled, streamed, in several processes."""

import json
import os
import platform
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file
from torch._dynamo.utils import counters
from transformers import BertConfig, BertModel, BertTokenizer

from configuration_hamlearning import HamLearningConfig
from hamlearning.data.streams import stream_tweets
from hamlearning.data.tweets import load_tweets, tag_names
from hamlearning.training.batches import PictureInEveryBatch, TokenBudgetBatches
from hamlearning.training.run import main as run_mner
from hub_server import HubServer, run_client
from processing_hamlearning import HamLearningDataCollator, HamLearningProcessor
from tiny_world import dropout_free, flags, results_of, write_features


ROOT = Path(__file__).parents[2]
LENGTHS = np.random.default_rng(0).integers(3, 40, 200)


def padded(batch: list[int]) -> int:
    return len(batch) * int(LENGTHS[batch].max())


def test_a_batch_by_sub_tokens_keeps_to_its_budget_and_fills_it():
    batches = list(TokenBudgetBatches(LENGTHS, budget=128))
    assert max(map(padded, batches)) <= 128
    assert sum(map(padded, batches)) < 1.1 * LENGTHS.sum()
    assert len(batches) < 1.4 * LENGTHS.sum() / 128


@pytest.mark.parametrize("num_processes", [1, 3])
def test_every_tweet_is_in_one_batch_an_epoch(num_processes):
    batches = TokenBudgetBatches(LENGTHS, 128, num_processes)
    for epoch in range(2):
        batches.set_epoch(epoch)
        assert sorted(tweet for batch in batches for tweet in batch) == list(range(len(LENGTHS)))


def test_an_epoch_s_batches_are_those_of_the_seed_and_others_than_of_the_epoch_before():
    def epochs(seed):
        batches = TokenBudgetBatches(LENGTHS, 128, seed=seed)
        for epoch in range(2):
            batches.set_epoch(epoch)
            yield list(batches)

    first, second = epochs(seed=1)
    assert [first, second] == list(epochs(seed=1)) and first != next(epochs(seed=2))
    assert len(first) == len(second)
    assert {frozenset(batch) for batch in first} != {frozenset(batch) for batch in second}  # in other company too


def test_processes_have_as_many_batches_and_in_a_step_of_like_length():
    batches = list(TokenBudgetBatches(LENGTHS, 128, num_processes=3))
    assert len(batches) % 3 == 0 and len(list(TokenBudgetBatches(LENGTHS, 128))) % 3 != 0
    steps = [np.concatenate(batches[first : first + 3]) for first in range(0, len(batches), 3)]
    ranges = sorted((LENGTHS[step].min(), LENGTHS[step].max()) for step in steps)
    assert all(longest <= next_shortest for (_, longest), (next_shortest, _) in zip(ranges, ranges[1:], strict=False))


def test_a_tweet_longer_than_the_budget_is_named_with_what_to_give():
    message = "--tokens_per_batch 8, but tweet 1 .* has 12 sub-tokens: give at least 12"
    with pytest.raises(ValueError, match=message):
        TokenBudgetBatches([3, 12, 4], budget=8)


def launch(num_processes: int, settings: list[str], folder: Path) -> str:
    """Runs `run_mner.py` in so many processes and returns what it wrote to standard error."""
    launcher = ["-m", "torch.distributed.run", "--nproc_per_node", str(num_processes)] if num_processes > 1 else []
    command = [sys.executable, *launcher, str(ROOT / "run_mner.py"), *settings]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=folder)
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stderr


EVERY_THIRD_STEP = {
    **{f"{what}_strategy": "steps" for what in ("save", "eval", "logging")},
    **{f"{what}_steps": 3 for what in ("save", "eval", "logging")},
    "save_total_limit": 9,
}


@pytest.mark.slow
@pytest.mark.parametrize("num_processes", [1, 2])
def test_a_run_by_sub_tokens_goes_on_in_the_middle_of_its_second_epoch(num_processes, world, tmp_path):
    settings = EVERY_THIRD_STEP | {"tokens_per_batch": 32, "do_predict": None}
    log = launch(num_processes, flags(world, tmp_path / "whole", **settings), world)
    checkpoints = {int(path.name.split("-")[1]): path for path in (tmp_path / "whole").glob("checkpoint-*")}
    steps_an_epoch = int(re.search(r"(\d+) batches an epoch, of at most 32 padded sub-tokens", log)[1])
    step = next(step for step in sorted(checkpoints) if step > steps_an_epoch + 1)
    assert step < 2 * steps_an_epoch == max(checkpoints)
    launch(
        num_processes, flags(world, tmp_path / "halved", resume_from_checkpoint=checkpoints[step], **settings), world
    )
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "halved")]
    assert weights[0] == weights[1]


@pytest.fixture(scope="module")
def shards(world, tmp_path_factory) -> Path:
    """Folder of the tiny world's tweets as Parquet, its train split in three files of 16 tweets."""
    folder = tmp_path_factory.mktemp("shards")
    tweets = load_tweets(world / "tweets")
    for split, count in (("train", 3), ("validation", 1), ("test", 1)):
        for index in range(count):
            path = folder / f"{split}-{index:05d}-of-{count:05d}.parquet"
            tweets[split].shard(count, index, contiguous=True).to_parquet(path)
    return folder


def train_shards(folder: Path) -> list[str]:
    return [str(path) for path in sorted(folder.glob("train-*"))]


def test_a_stream_gives_every_tweet_of_every_shard_with_its_tags_by_name_and_does_not_end(shards, world):
    expected = load_tweets(world / "tweets")["train"]
    stream = stream_tweets(train_shards(shards), HamLearningConfig().label2id, seed=1, buffer_size=8)
    found = {tweet["id"]: tweet for tweet, _ in zip(stream, range(3 * len(expected)), strict=False)}
    gold = tag_names(expected)
    for tweet, tags in zip(expected, gold, strict=True):
        assert found[tweet["id"]] == {"id": tweet["id"], "tokens": tweet["tokens"], "ner_tags": tags}


@pytest.mark.slow
def test_a_stream_s_order_is_that_of_its_seed(shards):
    def first_ids(seed):
        stream = stream_tweets(train_shards(shards), HamLearningConfig().label2id, seed, buffer_size=8)
        return [tweet["id"] for tweet, _ in zip(stream, range(40), strict=False)]

    assert first_ids(1) == first_ids(1)
    assert first_ids(1) != first_ids(2)
    assert first_ids(1) != sorted(first_ids(1), key=lambda id_: int(id_.removeprefix("train")))


def test_a_stream_of_tags_that_the_model_does_not_know_is_refused(shards):
    with pytest.raises(
        ValueError, match=r"00000-of-00003.parquet names the tags \['B-LOC', .*not among \['O', 'B-PER'"
    ):
        stream_tweets(train_shards(shards), ["O", "B-PER", "I-PER"], seed=1, buffer_size=8)


def test_a_stream_whose_tags_are_strings_is_refused(tmp_path):
    pq.write_table(pa.table({"id": ["1"], "tokens": [["so"]], "ner_tags": [["O"]]}), tmp_path / "train.parquet")
    with pytest.raises(ValueError, match="train.parquet has ner_tags of type .* a stream needs lists of ClassLabel"):
        stream_tweets([str(tmp_path / "train.parquet")], ["O"], seed=1, buffer_size=8)


def streamed(world: Path, shards: Path, output_dir: Path, **more) -> list[str]:
    settings = {"streaming": True, "data_dir": shards, "max_steps": 20, "shuffle_buffer": 16}
    return flags(world, output_dir, **settings | more)


def test_a_stream_without_tags_is_refused(tmp_path):
    pq.write_table(pa.table({"id": ["1"], "tokens": [["a"]]}), tmp_path / "train.parquet")
    with pytest.raises(ValueError, match=r"train.parquet has no column 'ner_tags', only \['id', 'tokens'\]"):
        stream_tweets([str(tmp_path / "train.parquet")], ["O"], seed=1, buffer_size=8)


def test_a_streamed_run_trains_to_its_step_and_reads_the_other_splits_as_ever(shards, world, tmp_path):
    results = run_mner(streamed(world, shards, tmp_path / "out", max_steps=60))
    assert results["streamed"] == {"shards": 3, "shuffle_buffer": 16}
    assert results["data"].keys() == {"validation", "test"}
    assert results["test"]["f1"] > 0.8
    evaluations = [entry for entry in results["train"]["history"] if "eval_f1" in entry]
    assert len(evaluations) == 10
    predictions = (tmp_path / "out" / "predictions_test.jsonl").read_text().splitlines()
    assert [json.loads(line)["id"] for line in predictions] == load_tweets(shards)["test"]["id"][:]


def test_a_stream_without_a_number_of_steps_is_refused(shards, world, tmp_path):
    with pytest.raises(ValueError, match="--do_train without --max_steps: a stream has no end"):
        run_mner(streamed(world, shards, tmp_path / "out", max_steps=None))


def test_a_stream_cannot_be_batched_by_sub_tokens(shards, world, tmp_path):
    with pytest.raises(ValueError, match="--tokens_per_batch 64 needs the whole train split"):
        run_mner(streamed(world, shards, tmp_path / "out", tokens_per_batch=64))


@pytest.mark.slow
def test_a_stream_from_the_hub_teaches_what_a_folder_s_does(shards, world, tmp_path):
    run_mner(streamed(world, shards, tmp_path / "folder"))
    (tmp_path / "home").mkdir()
    of_hub = {"data_dir": None, "dataset_name": "org/tweets"}
    arguments = streamed(world, shards, tmp_path / "hub", **of_hub)
    code = f"from hamlearning.training.run import main; main({arguments!r})"
    with HubServer() as hub:
        hub.add_repo("org/tweets", shards, kind="dataset")
        run_client(hub, code, tmp_path / "home")
    assert losses(tmp_path / "hub") == pytest.approx(losses(tmp_path / "folder"), rel=1e-3)


@pytest.mark.slow
def test_a_streamed_run_goes_on_from_its_checkpoint(shards, world, tmp_path):
    settings = EVERY_THIRD_STEP | {"do_predict": None, "max_steps": 12}
    run_mner(streamed(world, shards, tmp_path / "whole", **settings))
    checkpoint = tmp_path / "whole" / "checkpoint-9"
    run_mner(streamed(world, shards, tmp_path / "halved", resume_from_checkpoint=checkpoint, **settings))
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "halved")]
    assert weights[0] == weights[1]


@pytest.mark.slow
@pytest.mark.parametrize("num_shards", [3, 1])
def test_two_processes_read_other_tweets_each_its_own_shards_where_there_are_enough(
    num_shards, shards, make_model, tmp_path
):
    make_model().config.save_pretrained(tmp_path)
    paths = train_shards(shards)[:num_shards]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"]
    command += [
        str(ROOT / "tests" / "training" / "two_process_batches.py"),
        str(tmp_path),
        ",".join(paths),
        "2",
        str(tmp_path),
    ]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-4000:]
    batches = list(zip(*(json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in (0, 1)), strict=True))
    if num_shards == 1:  # read by both, who take its batches in turn
        stream = stream_tweets(paths, HamLearningConfig().label2id, seed=1, buffer_size=8)
        assert [id_ for step in batches for batch in step for id_ in batch] == [
            tweet["id"] for tweet, _ in zip(stream, range(16), strict=False)
        ]
    else:
        shard_of = {id_: path for path in paths for id_ in pq.read_table(path)["id"].to_pylist()}
        first, second = ({shard_of[id_] for step in batches for id_ in step[rank]} for rank in (0, 1))
        assert first and second and first.isdisjoint(second)


@pytest.mark.parametrize("regions", [[None, None], [0, None], [1, 0], [3, 2]])
def test_a_compiled_run_s_batches_all_have_two_regions_or_more_masked_where_there_are_none(regions, world):
    processor = HamLearningProcessor(
        BertTokenizer.from_pretrained(world / "text_encoder"),
        image_feature_size=6, region_feature_size=5, num_classes=2, max_regions=4,
    )  # fmt: skip
    pictures = {}
    for index, count in enumerate(regions):
        if count is not None:
            boxes = np.full((count, 4), 0.5, np.float32)
            pictures[str(index)] = {
                "image_size": [64, 48], "image_features": np.ones(6, np.float32), "boxes": boxes,
                "class_ids": np.ones(count, int), "scores": boxes[:, 0], "features": np.ones((count, 5), np.float32),
            }  # fmt: skip
    rows = [{"id": str(index), "tokens": ["so", "tired"]} for index in range(2)]
    batch = PictureInEveryBatch(processor, pictures)(rows)
    width = max(2, *(count or 0 for count in regions))
    assert batch["region_mask"].tolist() == [[1] * (count or 0) + [0] * (width - (count or 0)) for count in regions]
    assert batch["image_mask"].tolist() == [int(count is not None) for count in regions]
    shapes = {name: tuple(batch[name].shape) for name in ("image_features", "region_features", "region_boxes")}
    assert shapes == {"image_features": (2, 6), "region_features": (2, width, 5), "region_boxes": (2, width, 4)}
    plain = HamLearningDataCollator(processor, pictures)(rows)
    for name, tensor in plain.items():
        assert torch.equal(batch[name][tuple(map(slice, tensor.shape))], tensor)


@pytest.fixture(scope="module")
def steady(world, tmp_path_factory) -> dict:
    """Settings of a run in which nothing is drawn by lot."""
    return {
        "dropout": 0,
        "text_model": dropout_free(world, tmp_path_factory.mktemp("steady")),
        "train_sampling_strategy": "sequential",
        "lr_scheduler_type": "constant",
        "bf16": False,
    }


@pytest.fixture(scope="module")
def trained_alone(world, steady, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("alone") / "run"
    run_mner(flags(world, folder, per_device_train_batch_size=8, save_total_limit=2, **steady))
    return folder


def losses(folder: Path) -> list[float]:
    return [entry["loss"] for entry in results_of(folder)["train"]["history"] if "loss" in entry]


# What is traced, and so what is guarded and broken, does not depend on what makes code of it; this makes none.
COMPILED = {"torch_compile": True, "torch_compile_backend": "eager"}


@pytest.mark.slow
def test_compiled_and_plain_runs_go_on_from_each_other_s_checkpoints(world, steady, trained_alone, tmp_path):
    run_mner(flags(world, tmp_path / "compiled", save_total_limit=2, **steady, **COMPILED))
    for name, began, more in (("plain", tmp_path / "compiled", {}), ("again", trained_alone, COMPILED)):
        checkpoint = began / "checkpoint-6"
        run_mner(flags(world, tmp_path / name, resume_from_checkpoint=checkpoint, **steady, **more))
    expected = load_file(trained_alone / "model.safetensors")
    for name in ("compiled", "plain", "again"):
        weights = load_file(tmp_path / name / "model.safetensors")
        assert weights.keys() == expected.keys()
        assert all(torch.allclose(weights[key], expected[key], atol=1e-4) for key in expected)


def test_compiling_is_refused_where_it_was_seen_to_gain_nothing(world, tmp_path):
    with pytest.raises(ValueError, match="--torch_compile True on a CPU: .* leave it out"):
        run_mner(flags(world, tmp_path / "compiled", torch_compile=True))


@pytest.mark.slow
def test_a_run_over_published_tweets_compiles_few_graphs_and_breaks_none(shared_folder, tmp_path):
    data = shared_folder / "data" / "twitter2017"
    tweets = load_tweets(data)
    counts = Counter(word.lower() for tokens in tweets["train"]["tokens"] for word in tokens)
    characters = sorted({character for word in counts for character in word})
    words = [word for word, _ in counts.most_common(3000) if len(word) > 1]
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *characters, *(f"##{c}" for c in characters), *words]
    tokenizer = BertTokenizer(vocab={word: index for index, word in enumerate(vocabulary)})
    tokenizer.save_pretrained(tmp_path / "text_encoder")
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    BertModel(BertConfig(vocab_size=len(vocabulary), **sizes)).save_pretrained(tmp_path / "text_encoder")
    # Short tweets have no picture, so that there are batches without any.
    ids = [tweet["id"] for split in tweets.values() for tweet in split if len(tweet["tokens"]) > 12]
    write_features(tmp_path / "features.parquet", list(dict.fromkeys(ids)))

    torch.compiler.reset()
    counters.clear()
    run_mner(
        flags(
            tmp_path,
            tmp_path / "out",
            data_dir=data,
            tokens_per_batch=1024,
            max_steps=40,
            eval_strategy="no",
            save_strategy="no",
            load_best_model_at_end=False,
            num_interaction_layers=2,
            **COMPILED,
        )  # fmt: skip
    )
    assert 0 < counters["stats"]["unique_graphs"] <= 8
    assert not counters["graph_break"]


@pytest.mark.slow
def test_two_processes_train_compiled_as_one_does_plain(world, steady, trained_alone, tmp_path):
    launch(2, flags(world, tmp_path / "two", **steady | COMPILED | {"per_device_train_batch_size": 4}), world)
    assert losses(tmp_path / "two") == pytest.approx(losses(trained_alone), rel=1e-3)


CONFIGS = ROOT / "configs" / "accelerate"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ddp", "fsdp"])
def test_two_processes_train_as_one_does_and_leave_a_model_that_one_loads(
    name, world, steady, trained_alone, tmp_path
):
    settings = steady | {"per_device_train_batch_size": 4}
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", f"{CONFIGS / name}.yaml"]
    command += [str(ROOT / "run_mner.py"), *flags(world, tmp_path / "two", **settings)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=world)
    assert done.returncode == 0, done.stderr[-4000:]
    assert results_of(tmp_path / "two")["training"]["world_size"] == 2
    assert losses(tmp_path / "two") == pytest.approx(losses(trained_alone), rel=1e-3)
    checkpoint = max((tmp_path / "two").glob("checkpoint-*"))
    assert (checkpoint / "pytorch_model_fsdp.bin").is_file() == (name == "fsdp")

    evaluate = {"do_train": None, "do_eval": None, "text_model": None, "num_semantic_layers": None, "bf16": False}
    for folder in ("two", checkpoint.relative_to(tmp_path)):
        output = tmp_path / f"of {Path(folder).name}"
        run_mner(flags(world, output, model_name_or_path=tmp_path / folder, **evaluate))
        assert (output / "predictions_test.jsonl").read_text() == (
            tmp_path / "two" / "predictions_test.jsonl"
        ).read_text()


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library's allocator is left alone")
def test_what_a_step_on_a_cpu_frees_is_kept_for_the_next():
    code = """
import resource, torch, run_mner

def page_faults_of_a_step():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    blocks = [torch.zeros(4_000_000) for _ in range(8)]  # 128 MB, in pages of 4 kB
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

print([page_faults_of_a_step() for _ in range(6)][-1])
keep_freed_memory()
print([page_faults_of_a_step() for _ in range(6)][-1])
"""
    # What glibc gives back by itself depends on what it learned, and on what happens to lie behind it: here it is all.
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "1000000"}
    command = [sys.executable, "-c", code]
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    given_back, kept = map(int, run.stdout.split())
    assert kept < 10 < given_back
