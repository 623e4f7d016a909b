"""What goes wrong around a training, and what is left of it: kills, signals, a full disk, other data, no numbers."""

import errno
import hashlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from ended_runs import start, wait_for
from huggingface_hub import constants
from PIL import Image
from safetensors.torch import load_file
from transformers import BertTokenizer, Trainer, TrainerControl, TrainerState

import modeling_faster_rcnn_vg
from hamlearning.data.downloads import wanted_of_hub
from hamlearning.data.files import file_sha256, write_text, writing
from hamlearning.data.tweets import load_tweets
from hamlearning.data.workers import lost_process
from hamlearning.hub.repos import create_repo
from hamlearning.training.arguments import MNERTrainingArguments
from hamlearning.training.batches import SeededByEpoch
from hamlearning.training.checkpoints import (
    FILES_FILE,
    UNFINISHED,
    best_checkpoint,
    checkpoints,
    finish_checkpoint,
    last_whole_checkpoint,
    what_is_missing,
)
from hamlearning.training.resuming import RUN_FILE, begin_run, check_same_run, differences
from hamlearning.training.run import main as run_mner
from hamlearning.training.signals import Stopped, StopSignals, remedied, run_from_terminal
from hamlearning.training.trainer import MNERTrainer, TrainingWatch
from hamlearning.training.watch import StepWatch
from image_processing_hamlearning import read_image
from modeling_faster_rcnn_vg import FasterRCNNVG, FasterRCNNVGSettings
from tiny_world import flags, results_of, write_features, write_tweets


ROOT = Path(__file__).parents[2]
GO_ON = {"resume_from_checkpoint": True}
# 24 steps in 4 epochs of 6, with all that draws random numbers.
OFTEN = {
    "num_train_epochs": 4,
    "picture_dropout": 0.3,
    **{f"{what}_strategy": "steps" for what in ("save", "eval", "logging")},
    **{f"{what}_steps": 4 for what in ("save", "eval", "logging")},
}
# Nothing between the first step and the last.
NEVER = {f"{what}_strategy": "no" for what in ("save", "eval", "logging")} | {"load_best_model_at_end": False}


def outcome(folder: Path) -> dict:
    """What a run came to: SHA-256 of its weights, its scores, its history and its predictions."""
    results = results_of(folder)
    splits = {
        split: {name: value for name, value in results[split].items() if name != "tweets_per_second"}
        for split in ("validation", "test")
    }
    return {
        "weights": hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest(),
        "history": results["train"]["history"],
        "predictions": (folder / "predictions_test.jsonl").read_text(),
        **splits,
    }


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


class TermedAtStep10(TrainingWatch):
    """Sends this process SIGTERM at step 10, of the second epoch."""

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == 10:
            signal.raise_signal(signal.SIGTERM)


# -------------------------------------------------------------------------------------------------------- checkpoints


@pytest.fixture
def two_checkpoints(tmp_path):
    for step in (4, 8):
        staged = tmp_path / UNFINISHED / f"checkpoint-{step}"
        staged.mkdir(parents=True)
        (staged / "model.safetensors").write_bytes(b"weights" * 100)
        (staged / "trainer_state.json").write_text("{}")
        finish_checkpoint(staged, tmp_path / staged.name)
    return tmp_path


def test_a_finished_checkpoint_is_whole_and_leaves_nothing_unfinished(two_checkpoints):
    assert [path.name for path in checkpoints(two_checkpoints)] == ["checkpoint-8", "checkpoint-4"]
    assert what_is_missing(two_checkpoints / "checkpoint-8") is None
    assert not (two_checkpoints / UNFINISHED).exists()
    assert last_whole_checkpoint(two_checkpoints) == (two_checkpoints / "checkpoint-8", [])


def cut(checkpoint: Path):
    os.truncate(checkpoint / "model.safetensors", 300)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (cut, "model.safetensors has 300 of 700 bytes"),
        (lambda c: (c / "model.safetensors").unlink(), "model.safetensors is missing"),
        (lambda c: (c / FILES_FILE).unlink(), "it has no files.json, which is written last"),
        (lambda c: os.truncate(c / FILES_FILE, 10), "its files.json cannot be read"),
    ],
)
def test_a_checkpoint_that_is_not_whole_is_named_and_the_one_before_it_used(two_checkpoints, damage, reason):
    damage(two_checkpoints / "checkpoint-8")
    checkpoint, left_out = last_whole_checkpoint(two_checkpoints)
    assert checkpoint == two_checkpoints / "checkpoint-4"
    assert len(left_out) == 1 and f"{two_checkpoints / 'checkpoint-8'} is not whole: {reason}" in left_out[0]


def test_a_checkpoint_of_a_step_takes_the_place_of_an_earlier_one_of_that_step(two_checkpoints):
    staged = two_checkpoints / UNFINISHED / "checkpoint-8"
    staged.mkdir(parents=True)
    (staged / "model.safetensors").write_bytes(b"new")
    finish_checkpoint(staged, two_checkpoints / "checkpoint-8")
    assert (two_checkpoints / "checkpoint-8" / "model.safetensors").read_bytes() == b"new"
    assert what_is_missing(two_checkpoints / "checkpoint-8") is None
    assert not (two_checkpoints / UNFINISHED).exists()


def write_checkpoint(folder: Path, step: int, best: Path | None = None, history: list[int] | None = None) -> Path:
    """A checkpoint of which only its state says anything, with the steps that were logged."""
    staged = folder / UNFINISHED / f"checkpoint-{step}"
    staged.mkdir(parents=True)
    state = {"global_step": step, "best_model_checkpoint": best and str(best), "log_history": history or []}
    (staged / "trainer_state.json").write_text(json.dumps(state))
    (staged / "model.safetensors").write_bytes(b"weights" * 100)
    finish_checkpoint(staged, folder / staged.name)
    return folder / staged.name


def test_the_checkpoint_to_go_on_from_may_be_the_best_itself_whatever_it_is_called(tmp_path):
    checkpoint = write_checkpoint(tmp_path, 8, tmp_path / "checkpoint-8").rename(tmp_path / "a copy")
    assert best_checkpoint(checkpoint) == checkpoint


def test_the_best_checkpoint_of_a_run_that_went_on_in_another_folder_is_found_in_the_first(tmp_path):
    best = write_checkpoint(tmp_path / "first", 4, tmp_path / "first" / "checkpoint-4", [4])
    assert best_checkpoint(write_checkpoint(tmp_path / "second", 8, best, [4, 8])) == best


def test_another_run_s_checkpoint_of_the_best_one_s_path_is_not_taken_for_it(tmp_path):
    other = write_checkpoint(tmp_path / "first", 4, tmp_path / "first" / "checkpoint-4", [3])
    checkpoint = write_checkpoint(tmp_path / "second", 8, other, [4, 8])
    assert best_checkpoint(checkpoint) == tmp_path / "second" / "checkpoint-4"


def rotating(trainer, just_saved: int, best: str) -> set[str]:
    """What is left of the checkpoints of a trainer's folder behind one that was saved."""
    folder = Path(trainer.args.output_dir)
    trainer._saved_step, trainer.state.best_model_checkpoint = just_saved, str(folder / best)
    trainer._rotate(None)
    return {path.name for path in checkpoints(folder)}


@pytest.fixture
def idle(make_model, tmp_path):
    """A trainer that has a folder with the checkpoints 12, 18, 24 and 30."""
    for step in (12, 18, 24, 30):
        write_checkpoint(tmp_path / "out", step)
    args = MNERTrainingArguments(str(tmp_path / "out"), use_cpu=True, save_total_limit=2)
    return MNERTrainer(model=make_model(), args=args, data_collator=lambda rows: {})


def test_the_checkpoint_that_was_just_saved_stays_though_another_s_time_lies_ahead(idle, tmp_path):
    os.utime(tmp_path / "out" / "checkpoint-24", (time.time() + 7200,) * 2)
    assert rotating(idle, just_saved=30, best="checkpoint-12") == {"checkpoint-12", "checkpoint-30"}


def test_where_a_run_went_back_the_checkpoints_of_later_steps_go_first(idle):
    idle.args.save_total_limit = 3
    assert rotating(idle, just_saved=18, best="checkpoint-12") == {"checkpoint-12", "checkpoint-18", "checkpoint-24"}
    idle.args.save_total_limit = 1
    assert rotating(idle, just_saved=18, best="checkpoint-12") == {"checkpoint-12", "checkpoint-18"}


def test_a_file_that_cannot_be_written_leaves_its_predecessor(tmp_path):
    write_text(tmp_path / "results.json", "old")
    with pytest.raises(UnicodeEncodeError):
        write_text(tmp_path / "results.json", "new \ud800")
    assert contents(tmp_path) == {"results.json": b"old"}


# --------------------------------------------------------------------------------------------------- the way to resume


def test_what_differs_is_named_with_both_values():
    was = {"settings": {"seed": 1, "bf16": False}, "data": {"train": {"sha256": "a"}}, "shards": []}
    now = {"settings": {"seed": 2, "bf16": False}, "data": {"train": {"sha256": "b"}}, "shards": ["x"]}
    assert differences(was, now) == [
        'data.train.sha256 is "b", was "a"',
        "settings.seed is 2, was 1",
        'shards is ["x"], was []',
    ]


def facts(**settings) -> dict:
    return {"settings": {"lr_scheduler_type": "linear", "warmup_steps": 0.1, "max_steps": 9, "seed": 1} | settings}


def test_another_number_of_steps_is_refused_where_the_learning_rate_depends_on_it():
    message = r"cannot change its length \(settings.max_steps is 20, was 9\).*--lr_scheduler_type linear"
    with pytest.raises(ValueError, match=message):
        check_same_run(facts(), facts(max_steps=20), Path("checkpoint-4"))


def test_another_number_of_steps_is_the_same_run_where_the_learning_rate_is_constant():
    constant = {"lr_scheduler_type": "constant"}
    changed = check_same_run(facts(**constant), facts(max_steps=20, **constant), Path("checkpoint-4"))
    assert changed == ["settings.max_steps is 20, was 9"]


def test_with_another_number_of_steps_nothing_else_may_change():
    constant = {"lr_scheduler_type": "constant"}
    with pytest.raises(ValueError, match="of another run .*max_steps is 20, was 9; settings.seed is 2, was 1"):
        check_same_run(facts(**constant), facts(max_steps=20, seed=2, **constant), Path("checkpoint-4"))


def test_an_epoch_s_order_depends_on_seed_and_epoch_alone():
    def order(seed, epoch):
        sampler = SeededByEpoch(torch.utils.data.RandomSampler(range(20)), seed)
        sampler.set_epoch(epoch)
        torch.rand(seed)  # as dropout does
        return list(sampler)

    assert order(1, 1) == order(1, 1)
    assert sorted(order(1, 1)) == list(range(20))
    assert len({tuple(order(seed, epoch)) for seed in (1, 2) for epoch in (0, 1)}) == 4


@pytest.mark.parametrize("strategy", ["group_by_length", "random"])
def test_batches_of_a_later_epoch_do_not_depend_on_what_dropout_has_drawn(strategy, make_model, world, tmp_path):
    args = MNERTrainingArguments(str(tmp_path), use_cpu=True, train_sampling_strategy=strategy)
    tweets = load_tweets(world / "tweets")["train"]
    tweets = tweets.add_column("length", [len(tokens) for tokens in tweets["tokens"]])
    trainer = MNERTrainer(
        model=make_model(), args=args, train_dataset=tweets, data_collator=lambda rows: {"rows": rows}
    )

    def ids(drawn: int) -> list[str]:
        loader = trainer.get_train_dataloader()
        loader.set_epoch(1)
        torch.rand(drawn)
        return [id_ for batch in loader for id_ in batch["ids"]]

    assert ids(1) == ids(2) != tweets["id"][:]
    assert sorted(ids(1)) == sorted(tweets["id"])


@pytest.fixture(scope="module")
def whole(world) -> Path:
    """A run that nobody disturbed."""
    run_mner(flags(world, world / "whole", **OFTEN))
    return world / "whole"


@pytest.fixture(scope="module")
def stopped(world) -> Path:
    """The same run, asked to stop by SIGTERM in its second epoch."""
    folder = world / "stopped"
    before = signal.getsignal(signal.SIGTERM)
    message = "SIGTERM: stopped behind step 10 of 24; .*--resume_from_checkpoint True"
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Stopped, match=message) as e:
        patch.setattr("hamlearning.training.run.TrainingWatch", TermedAtStep10)
        run_mner(flags(world, folder, **OFTEN))
    assert e.value.signum == signal.SIGTERM and signal.getsignal(signal.SIGTERM) is before
    return folder


def test_a_run_that_was_asked_to_stop_and_goes_on_ends_bit_for_bit_like_one_that_was_not(
    stopped, whole, world, tmp_path
):
    last, _ = last_whole_checkpoint(stopped)
    assert last.name == "checkpoint-10"
    assert not (stopped / "results.json").exists() and not (stopped / UNFINISHED).exists()
    shutil.copytree(stopped, tmp_path / "out")
    run_mner(flags(world, tmp_path / "out", **OFTEN, **GO_ON))
    assert outcome(tmp_path / "out") == outcome(whole)


@pytest.mark.parametrize("spelled", ["absolute", "relative"])
def test_a_run_that_was_moved_knows_its_best_checkpoint(spelled, whole, make_model, tmp_path, monkeypatch):
    shutil.copytree(whole, tmp_path / "before")
    last, _ = last_whole_checkpoint(tmp_path / "before")
    state = (last / "trainer_state.json").read_text()
    best = f"checkpoint-{json.loads(state)['best_global_step']}"
    elsewhere = str(whole)[:-5] + "gone!"  # a path of this length, as the file's is known
    (last / "trainer_state.json").write_text(state.replace(str(whole), elsewhere))
    shutil.move(tmp_path / "before", tmp_path / "after")
    monkeypatch.chdir(tmp_path)
    output_dir = tmp_path / "after" if spelled == "absolute" else Path("after")
    args = MNERTrainingArguments(str(output_dir), use_cpu=True, do_train=True)
    trainer = MNERTrainer(model=make_model(), args=args, eval_dataset=[{}], data_collator=lambda rows: {})
    trainer._resumed = tmp_path / "after" / last.name
    trainer._init_training_state(24, 6, 4, str(trainer._resumed), None)
    assert trainer.state.best_model_checkpoint == str(output_dir / best)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"learning_rate": 1e-4}, "settings.learning_rate is 0.0001, was 0.003"),
        ({"num_train_epochs": 9}, "cannot change its length .*settings.num_train_epochs is 9.0, was 4.0"),
        ({"num_ffnn_layers": 3}, "model.num_ffnn_layers is 3, was 2"),
        ({"max_length": 64}, "processor.max_length is 64, was 128"),
        ({"mask_words": True}, "data.mask_words is true, was false"),
    ],
)
def test_a_run_does_not_go_on_as_another_one(stopped, world, changed, message):
    before = contents(stopped)
    with pytest.raises(ValueError, match=message + ".*give what it was begun with, or begin a run of its own"):
        run_mner(flags(world, stopped, **OFTEN | changed, **GO_ON))
    assert contents(stopped) == before


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (
            lambda c: os.truncate(c / "model.safetensors", 1000),
            r"is not whole: model.safetensors has 1000 of \d+ bytes",
        ),
        (shutil.rmtree, "is not there"),
    ],
    ids=["cut", "gone"],
)
def test_a_run_does_not_go_on_without_its_best_checkpoint(damage, reason, stopped, world, tmp_path):
    shutil.copytree(stopped, tmp_path / "out")
    last, _ = last_whole_checkpoint(tmp_path / "out")
    for path in checkpoints(tmp_path / "out"):  # else the best one's original would be found
        state = (path / "trainer_state.json").read_text()
        (path / "trainer_state.json").write_text(state.replace(str(stopped), str(stopped)[:-5] + "gone!"))
    best = best_checkpoint(last)
    assert best.is_dir() and best != last
    damage(best)
    before = contents(tmp_path / "out")
    message = f"would end with the weights of its best checkpoint, {best}, which {reason}. Put it back from a copy, or"
    with pytest.raises(ValueError, match=message):
        run_mner(flags(world, tmp_path / "out", **OFTEN, **GO_ON))
    assert contents(tmp_path / "out") == before


def beginning(folder: Path, was: dict | None = None, now: dict | None = None, keeps_best: bool = True) -> Path | None:
    """The checkpoint that a run of some facts goes on from."""
    folder.mkdir(exist_ok=True)
    (folder / RUN_FILE).write_text(json.dumps(was or facts()))
    args = {"output_dir": folder, "resume_from_checkpoint": "True", "process_index": 0}
    return begin_run(SimpleNamespace(**args, load_best_model_at_end=keeps_best), now or facts())


def test_where_the_best_checkpoint_is_gone_one_whose_best_is_there_is_named(tmp_path):
    earlier = write_checkpoint(tmp_path, 4, tmp_path / "checkpoint-4")
    write_checkpoint(tmp_path, 12, tmp_path / "checkpoint-8")
    with pytest.raises(ValueError, match=f"go on from one .* with --resume_from_checkpoint {earlier}, or leave"):
        beginning(tmp_path)


def test_a_run_that_keeps_its_last_weights_needs_no_best_checkpoint(tmp_path):
    last = write_checkpoint(tmp_path, 12, tmp_path / "checkpoint-8")
    assert beginning(tmp_path, keeps_best=False) == last


def test_what_an_earlier_version_did_not_write_down_is_not_compared_and_it_is_said(tmp_path, caplog):
    last, now = write_checkpoint(tmp_path, 4), facts() | {"tokenizer_sha256": "a"}
    assert beginning(tmp_path, now=now) == last
    assert "has no tokenizer_sha256: whether that is the same was not compared." in caplog.text
    with pytest.raises(ValueError, match=r"of another run \(settings.seed is 1, was 2\)"):
        beginning(tmp_path, was=facts(seed=2), now=now)


def test_a_run_does_not_go_on_with_a_tokenizer_of_the_same_words_that_normalises_otherwise(stopped, world, tmp_path):
    shutil.copytree(world / "text_encoder", tmp_path / "text_encoder")
    vocabulary = BertTokenizer.from_pretrained(world / "text_encoder").get_vocab()
    BertTokenizer(vocab=vocabulary, do_lower_case=False).save_pretrained(tmp_path / "text_encoder")
    with pytest.raises(ValueError, match=r'of another run \(tokenizer_sha256 is "\w+", was "\w+"\)'):
        run_mner(flags(world, stopped, **OFTEN, **GO_ON, text_model=tmp_path / "text_encoder"))


def test_the_best_epoch_is_that_of_the_weights_though_an_evaluation_without_checkpoint_was_better(
    world, tmp_path, monkeypatch
):
    log = Trainer.log

    def scripted(self, logs, *args):
        if "eval_f1" in logs:
            logs["eval_f1"] = {8: 0.5, 12: 0.9}.get(self.state.global_step, 0.1)
        log(self, logs, *args)

    monkeypatch.setattr(Trainer, "log", scripted)
    run_mner(flags(world, tmp_path / "out", **OFTEN | {"save_steps": 8}))
    assert (tmp_path / "out" / "checkpoint-8").is_dir()
    assert results_of(tmp_path / "out")["train"]["best_epoch"] == pytest.approx(8 / 6)


def test_a_run_ends_whatever_a_kill_has_left_unfinished(world, tmp_path):
    left = tmp_path / "out" / UNFINISHED / "checkpoint-8 before"
    left.mkdir(parents=True)
    (left / "model.safetensors").touch()
    run_mner(flags(world, tmp_path / "out", **NEVER, max_steps=1))
    assert (tmp_path / "out" / "results.json").is_file() and not (tmp_path / "out" / UNFINISHED).exists()


def test_a_run_does_not_go_on_with_other_tweets(stopped, world, tmp_path):
    shutil.copytree(world / "tweets", tmp_path / "tweets")
    write_tweets(tmp_path / "tweets", "train", 48, seed=77)
    before = contents(stopped)
    with pytest.raises(ValueError, match='of another run .data.train.sha256 is "'):
        run_mner(flags(world, stopped, **OFTEN, **GO_ON, data_dir=tmp_path / "tweets"))
    assert contents(stopped) == before


@pytest.mark.slow
def test_a_streamed_run_does_not_go_on_with_other_shards_of_the_same_names(world, tmp_path):
    for split, dataset in load_tweets(world / "tweets").items():
        dataset.to_parquet(tmp_path / "tweets" / f"{split}.parquet")
    settings = {"data_dir": tmp_path / "tweets", "streaming": True, "max_steps": 2, "do_eval": None}
    run_mner(flags(world, tmp_path / "out", **settings))
    tweets = load_tweets(tmp_path / "tweets")["train"]
    tweets.select(range(40)).to_parquet(tmp_path / "tweets" / "train.parquet")
    with pytest.raises(ValueError, match=r"of another run .shards\.train\.parquet\.bytes is \d+, was"):
        run_mner(flags(world, tmp_path / "out", **settings, **GO_ON))


def test_a_run_does_not_go_on_with_other_features(stopped, world, tmp_path):
    write_features(tmp_path / "other.parquet", ["train0", "valid0"])
    before = contents(stopped)
    with pytest.raises(ValueError, match='of another run .visual_features_sha256 is "'):
        run_mner(flags(world, stopped, **OFTEN, **GO_ON, visual_features=tmp_path / "other.parquet"))
    assert contents(stopped) == before


@pytest.mark.parametrize("wanted", ["False", "false", "another run's"])
def test_a_run_that_does_not_go_on_with_a_folder_s_own_run_never_touches_it(wanted, whole, stopped, world):
    before = contents(stopped)
    checkpoint = next(iter(checkpoints(whole))) if wanted == "another run's" else wanted
    with pytest.raises(FileExistsError, match="stopped holds another run .*checkpoint-"):
        run_mner(flags(world, stopped, **OFTEN, resume_from_checkpoint=checkpoint))
    assert contents(stopped) == before


def test_there_is_nothing_to_go_on_with_in_an_empty_folder(world, tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no checkpoint that could be used: leave .* out"):
        run_mner(flags(world, tmp_path / "out", **OFTEN, **GO_ON))
    assert not (tmp_path / "out").exists()


def test_a_folder_of_checkpoints_of_another_making_has_a_remedy_that_leads_on(world, tmp_path):
    (tmp_path / "checkpoint-4").mkdir()  # Trainer's own, without a list of its files
    remedy = "leave --resume_from_checkpoint out and give another --output_dir, with --model_name_or_path "
    with pytest.raises(FileNotFoundError, match=remedy + ".*checkpoint-4 to begin from its weights"):
        run_mner(flags(world, tmp_path, **OFTEN, **GO_ON))


@pytest.mark.parametrize("by_name", [True, False])
def test_a_checkpoint_in_shards_is_refused_as_its_index_is_a_pickle(by_name, stopped, world, tmp_path):
    shutil.copytree(stopped, tmp_path / "out")
    last, _ = last_whole_checkpoint(tmp_path / "out")
    (last / "optimizer_0").mkdir()
    (last / "optimizer_0" / ".metadata").write_bytes(b"a pickle")
    wanted = last if by_name else True
    with pytest.raises(ValueError, match="FSDP with SHARDED_STATE_DICT .*unpickling.*FULL_STATE_DICT"):
        run_mner(flags(world, tmp_path / "out", **OFTEN, resume_from_checkpoint=wanted))


def test_a_checkpoint_that_was_asked_for_by_name_and_is_not_whole_is_refused(stopped, world, tmp_path):
    last, _ = last_whole_checkpoint(stopped)
    shutil.copytree(last, tmp_path / "checkpoint-4")
    os.truncate(tmp_path / "checkpoint-4" / "optimizer.pt", 1000)
    with pytest.raises(ValueError, match="checkpoint-4 is not whole: optimizer.pt has 1000 of"):
        run_mner(flags(world, tmp_path / "out", **OFTEN, resume_from_checkpoint=tmp_path / "checkpoint-4"))


# ------------------------------------------------------------------------------------------------------------- losses


def test_a_loss_that_is_no_number_is_named_with_its_step_and_tweets_and_leaves_a_checkpoint_from_before(
    world, tmp_path
):
    # The first step's rate is 0, the second's 1e30: the third has no finite loss. Each step leaves a checkpoint.
    each = {f"{what}_strategy": "steps" for what in ("save", "eval")} | {"save_steps": 1, "eval_steps": 1}
    settings = each | {"learning_rate": 1e31, "crf_learning_rate": 1e31, "warmup_steps": 10, "max_grad_norm": 0}
    with pytest.raises(FloatingPointError) as error:
        run_mner(flags(world, tmp_path, **settings, train_sampling_strategy="sequential"))
    third_batch = ", ".join(f"train{number}" for number in range(16, 24))
    assert f"at step 3, in the batch of the tweets {third_batch}; the last finite one was" in str(error.value)
    assert "at step 2. Lower --learning_rate" in str(error.value)
    assert str(tmp_path / "checkpoint-1") in str(error.value)
    weights = load_file(tmp_path / "checkpoint-1" / "model.safetensors")
    assert max(tensor.abs().max() for tensor in weights.values()) < 10


def test_a_loss_of_the_last_step_is_looked_at_where_nothing_is_logged_or_saved(world, tmp_path):
    # The first step's rate is 0, the second's 1e30.
    settings = NEVER | {"learning_rate": 1e31, "crf_learning_rate": 1e31, "warmup_steps": 10, "max_grad_norm": 0}
    with pytest.raises(FloatingPointError, match="at step 3, in the batch of the tweets .*no checkpoint had been"):
        run_mner(flags(world, tmp_path, **settings, max_steps=3))
    assert not (tmp_path / "model.safetensors").exists()


def test_weights_that_the_last_step_has_ruined_are_not_saved(world, tmp_path):
    settings = NEVER | {"learning_rate": 1e39, "crf_learning_rate": 1e39, "warmup_steps": 0, "max_grad_norm": 0}
    with pytest.raises(FloatingPointError, match="Weights are not finite behind step 1"):
        run_mner(flags(world, tmp_path, **settings, max_steps=1))
    assert not (tmp_path / "model.safetensors").exists()


def test_no_step_waits_for_its_own_loss():
    watch, state, control = StepWatch(world_size=1), TrainerState(epoch=0.5), TrainerControl()
    for step in (1, 2):
        state.global_step = step
        watch.see(torch.tensor(float("nan") if step == 2 else 1.0), ["a", "b"])
        watch.on_step_end(None, state, control)
        assert watch.finite_until == step - 1
    with pytest.raises(FloatingPointError, match="nan at step 2, in the batch of the tweets a, b; .* was 1 at step 1"):
        watch.check()


def test_where_no_loss_was_finite_it_is_said():
    watch = StepWatch(world_size=1)
    watch.see(torch.tensor(float("inf")), ["a"])
    watch.on_step_end(None, TrainerState(epoch=0.5, global_step=1), TrainerControl())
    with pytest.raises(FloatingPointError, match="inf at step 1, in the batch of the tweets a; no loss was finite"):
        watch.check()


def test_a_loss_that_is_no_number_on_one_process_stops_all_at_the_same_step(tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"]
    command += [str(ROOT / "tests" / "training" / "two_process_losses.py")]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-4000:]
    assert sorted(filter(None, done.stdout.splitlines())) == [
        "rank 0, step 3: The loss of another process is not finite at step 2; the last finite one was 2 at step 2.",
        "rank 1, step 3: The loss is nan at step 2, in the batch of the tweets tweet1; "
        "the last finite one was 1 at step 1.",
    ]


# ---------------------------------------------------------------------------------------------------- files and disks


@pytest.fixture
def small_disk(tmp_path):
    """`small_disk(size)`: a folder that is a file system of its own."""
    mounted = []
    as_root = ["sudo", "--non-interactive"] if os.geteuid() and shutil.which("sudo") else []

    def mount(size: str, *options: str) -> Path:
        folder = tmp_path / f"disk{len(mounted)}"
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", ",".join([f"size={size}", *options]), "none", str(folder)]
        done = subprocess.run([*as_root, *command], capture_output=True, text=True)
        if done.returncode != 0:
            pytest.skip(f"needs the right to mount a file system: {done.stderr.strip()}")
        mounted.append(folder)
        return folder

    yield mount
    for folder in mounted:
        subprocess.run([*as_root, "umount", "-l", str(folder)], check=True)


def test_a_disk_that_is_full_ends_the_run_and_leaves_the_last_checkpoint_whole(world, small_disk):
    folder = small_disk("3m") / "out"  # a checkpoint has 2 MB
    message = r"checkpoint-8 could not be written to .*: No space left on device. Make room.*checkpoint-4 is whole"
    with pytest.raises(OSError, match=message):
        run_mner(flags(world, folder, **OFTEN))
    assert last_whole_checkpoint(folder) == (folder / "checkpoint-4", [])


def test_a_disk_that_is_full_leaves_earlier_results_as_they_were(whole, world, small_disk):
    folder = small_disk("1m")
    evaluate = {"do_train": None, "text_model": None, "num_semantic_layers": None, "model_name_or_path": whole}
    run_mner(flags(world, folder / "out", **evaluate))
    before = contents(folder / "out")
    with pytest.raises(OSError), (folder / "filler").open("wb", buffering=0) as filler:
        while True:
            filler.write(bytes(1024))
    with pytest.raises(OSError, match="could not be written to .*No space left on device. Checkpoints and earlier"):
        run_mner(flags(world, folder / "out", **evaluate, **GO_ON))
    assert contents(folder / "out") == before


def test_a_folder_that_cannot_be_written_is_refused_before_training(world, small_disk):
    folder = small_disk("1m", "ro") / "out"
    with pytest.raises(OSError, match="Results could not be written to .*: Read-only file system. Give an --output"):
        run_mner(flags(world, folder, **OFTEN))


def test_a_file_of_tweets_that_cannot_be_read_is_named(world, tmp_path):
    shutil.copytree(world / "tweets", tmp_path / "tweets")
    (tmp_path / "tweets" / "train.txt").unlink()
    (tmp_path / "tweets" / "train.txt").symlink_to("/proc/self/mem")  # gives an input/output error, to root too
    with pytest.raises(OSError, match="train.txt cannot be read: Input/output error"):
        run_mner(flags(world, tmp_path / "out", data_dir=tmp_path / "tweets"))


def test_a_parquet_file_that_is_cut_off_is_named(world, tmp_path):
    tweets = load_tweets(world / "tweets")
    for split, dataset in tweets.items():
        dataset.to_parquet(tmp_path / "tweets" / f"{split}.parquet")
    path = tmp_path / "tweets" / "validation.parquet"
    os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(ValueError, match="validation.parquet is not a Parquet file, or it is damaged"):
        run_mner(flags(world, tmp_path / "out", data_dir=tmp_path / "tweets"))


def test_features_that_are_cut_off_are_named(world, tmp_path):
    path = shutil.copy(world / "features.parquet", tmp_path / "features.parquet")
    os.truncate(path, 1000)
    with pytest.raises(ValueError, match="features.parquet is not a Parquet file"):
        run_mner(flags(world, tmp_path / "out", visual_features=path))


# ------------------------------------------------------------------------------------------- what a terminal is told


def test_an_error_with_a_remedy_is_one_sentence_and_another_keeps_its_traceback(capsys, tmp_path):
    def known():
        with writing("results.json", tmp_path, "Make room."):
            raise OSError(28, "No space left on device")

    assert run_from_terminal(known) == 1
    expected = f"error: results.json could not be written to {tmp_path}: No space left on device. Make room.\n"
    assert capsys.readouterr().err == expected
    with pytest.raises(ZeroDivisionError):
        run_from_terminal(lambda: 1 / 0)


def test_sigterm_lets_what_cleans_up_finish_and_leaves_no_handler_behind(capsys):
    before, cleaned = signal.getsignal(signal.SIGTERM), []

    def main():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(60)
        finally:
            time.sleep(1.2)
            cleaned.append(True)

    assert run_from_terminal(main) == 143
    assert cleaned and capsys.readouterr().err.startswith("Stopped. ")
    assert signal.getsignal(signal.SIGTERM) is before and signal.getitimer(signal.ITIMER_REAL) == (0, 0)


def test_sigterm_whose_exception_was_dropped_is_raised_once_more():
    def main():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(60)
        except KeyboardInterrupt:
            pass  # as around a destructor
        time.sleep(60)

    assert run_from_terminal(main) == 143


def refused_by_the_hub():
    with wanted_of_hub("org/tweets"):
        raise OSError("503")


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: FasterRCNNVG(FasterRCNNVGSettings()), "faster_rcnn_vg needs nms and roi_pool of torchvision"),
        (lambda: create_repo("org/tiny"), "The model repo org/tiny cannot be written to"),
        (refused_by_the_hub, "org/tweets cannot be had from the Hub (503): try again later"),
        (lambda: read_image("gme.jpg"), "'gme.jpg' is neither a file nor base64 of a picture: check the path."),
    ],
    ids=["ImportError", "PublishError", "ConnectionError", "ImageError"],
)
def test_every_kind_of_error_that_has_a_remedy_is_one_sentence(call, sentence, monkeypatch, capsys):
    monkeypatch.setattr(modeling_faster_rcnn_vg, "roi_pool", None)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert run_from_terminal(call) == 1
    assert capsys.readouterr().err.startswith(f"error: {sentence}")


def test_an_error_of_the_system_names_its_file():
    with pytest.raises(OSError) as error:
        open("/nowhere/run.yaml")
    assert remedied(error.value) == "/nowhere/run.yaml: No such file or directory"


@pytest.mark.parametrize(
    ("number", "names"),
    [(errno.ENOSPC, "there"), (errno.EROFS, "there"), (errno.EACCES, "here to there")],
    ids=["full", "read-only", "not allowed"],
)
def test_an_error_of_a_copy_names_the_disk_that_cannot_be_written(number, names):
    assert remedied(OSError(number, "Reason", "here", None, "there")) == f"{names}: Reason"


def test_an_error_that_nobody_raised_on_purpose_is_no_sentence():
    with pytest.raises(ValueError, match="embedded null byte") as error:  # in a line of our own
        file_sha256("a\0b")
    assert remedied(error.value) is None


def test_a_second_interrupt_leaves_the_process_alive_where_it_is_no_program_of_ours():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with StopSignals() as signals:
            signal.raise_signal(signal.SIGINT)
            assert signals.signum == signal.SIGINT
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_signal_that_the_shell_wants_ignored_stays_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with StopSignals() as signals:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.01)
        assert signals.signum == 0 and signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


# ------------------------------------------------------------------------------------------------- runs that are ended


@pytest.fixture(scope="module")
def server(world):
    """What children of the server need to find this code."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    yield
    os.environ.pop("PYTHONPATH") if before is None else os.environ.update(PYTHONPATH=before)


KILLS, KILL_SEED = 20, 2026
BY_SUB_TOKENS = {"tokens_per_batch": 48, "gradient_accumulation_steps": 2, "early_stopping_patience": 9}
REAL = {"tweets": (2, 5), "sub-tokens": (3,)}  # the kills of a process of its own, `python run_mner.py`


class Fresh(subprocess.Popen):
    """`python run_mner.py`, seen as the server's children are."""

    def __init__(self, arguments: list[str], log: Path, *launcher: str):
        with log.open("a") as file:
            command = [sys.executable, *launcher, str(ROOT / "run_mner.py"), *arguments]
            # Whatever the tests themselves were started by may have SIGINT ignored, and children inherit that.
            before = signal.signal(signal.SIGINT, signal.SIG_DFL)
            try:
                super().__init__(command, stdout=file, stderr=file, cwd=ROOT, start_new_session=True)
            finally:
                signal.signal(signal.SIGINT, before)

    def is_alive(self) -> bool:
        return self.poll() is None

    def join(self):
        self.wait()

    @property
    def exitcode(self) -> int | None:
        return self.poll()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["tweets", "sub-tokens"])
def test_runs_killed_at_random_moments_end_bit_for_bit_like_one_that_was_not(kind, server, world, tmp_path, record):
    settings = OFTEN | (BY_SUB_TOKENS if kind == "sub-tokens" else {})
    rng = random.Random(f"{KILL_SEED} {kind}")
    process = start(flags(world, tmp_path / "whole", **settings), tmp_path / "whole.log")
    wait_for((tmp_path / "whole" / RUN_FILE).is_file, process)
    begun = time.monotonic()
    process.join()
    seconds = time.monotonic() - begun
    assert process.exitcode == 0, (tmp_path / "whole.log").read_text()[-3000:]
    expected = outcome(tmp_path / "whole")

    kills, life = [], Life(tmp_path / "0", settings, world)
    while len(kills) < KILLS // 2 or not life.is_over:
        if life.is_over:
            life = Life(tmp_path / str(len(kills)), settings, world)
        is_real = len(kills) in REAL[kind]
        process = life.go_on(Fresh if is_real else start)
        if len(kills) < KILLS // 2:
            wait_for(life.has_begun, process)
            delay = rng.uniform(0, seconds)
            if len(kills) % 2:  # while a checkpoint is written, the first of this process or the second
                delay = rng.uniform(0, 0.01)
                if rng.random() < 0.5:
                    wait_for(life.is_writing, process)
                    wait_for(life.has_written, process)
                wait_for(life.is_writing, process)
            end = time.monotonic() + delay
            wait_for(lambda: time.monotonic() > end, process)  # noqa: B023
            if process.is_alive():
                process.kill()
                kills.append({"real": is_real, "delay": round(delay, 4)})
        left = life.look(process)
        if life.is_over:
            assert outcome(life.folder) == expected
            kills = [kill for kill in kills if "whole" in kill]  # it was as quick as the signal
        else:
            kills[-1] |= left
    record(kind, kills)
    half_written = [kill["half_written"] for kill in kills if kill["half_written"]]
    assert len(half_written) >= 2


class Life:
    """A run from its beginning to its end, in as many processes as it takes.

    Attributes:
        is_over: it has ended by itself.
    """

    def __init__(self, folder: Path, settings: dict, world: Path):
        self.folder, self.settings, self.world = folder, settings, world
        self.log = folder.with_name(f"{folder.name}.log")
        self.is_over = False
        self._half_written: list[Path] = []
        self._begun_at, self._launched_at, self._log_size = 0, 0, 0

    def go_on(self, launch):
        run_file = self.folder / RUN_FILE
        self._begun_at = run_file.stat().st_mtime_ns if run_file.is_file() else 0
        self._log_size = self.log.stat().st_size if self.log.is_file() else 0
        self._launched_at = time.time_ns()
        more = GO_ON if run_file.is_file() else {}
        return launch(flags(self.world, self.folder, **self.settings, **more), self.log)

    def has_begun(self) -> bool:
        run_file = self.folder / RUN_FILE
        return run_file.is_file() and run_file.stat().st_mtime_ns > self._begun_at

    def is_writing(self) -> bool:
        """Whether there is an unfinished checkpoint, and not one that the process before has left."""
        return any(map(self._is_new, (self.folder / UNFINISHED).glob("checkpoint-*")))

    def has_written(self) -> bool:
        return not self.is_writing()

    def _is_new(self, path: Path) -> bool:
        try:
            return path.stat().st_ctime_ns > self._launched_at
        except FileNotFoundError:
            return False

    def look(self, process) -> dict:
        """What a process has left, of which the one before it may have left something half written."""
        process.join()
        log = self.log.read_text()[self._log_size :]
        for path in self._half_written:
            assert f"{path} was being written when the run ended: it is not used." in log
        self.is_over = process.exitcode == 0
        assert self.is_over or process.exitcode == -signal.SIGKILL, log[-4000:]
        self._half_written = checkpoints(self.folder / UNFINISHED)
        whole, _ = last_whole_checkpoint(self.folder)
        assert whole is not None or not checkpoints(self.folder)
        half_written = [path.name for path in self._half_written if self._is_new(path)]
        return {"whole": whole and whole.name, "half_written": half_written}


@pytest.fixture
def record():
    """Prints the kills, and appends them to the file that KILLS_JSON names."""

    def write(kind: str, kills: list[dict]):
        line = json.dumps({"settings": kind, "seed": f"{KILL_SEED} {kind}", "kills": kills})
        print(line)
        if "KILLS_JSON" in os.environ:
            with open(os.environ["KILLS_JSON"], "a") as file:
                file.write(line + "\n")

    return write


def children(pid: int) -> list[int]:
    """The processes that a process has started."""
    return list(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))


def has_checkpoint(folder: Path, step: int):
    return lambda: (folder / f"checkpoint-{step}" / FILES_FILE).is_file()


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_to_a_run_and_its_workers_ends_it_with_a_checkpoint_and_says_how_to_go_on(
    number, code, whole, server, world, tmp_path
):
    settings = OFTEN | {"dataloader_num_workers": 2}  # which a terminal, and some clusters, send the signal too
    process = Fresh(flags(world, tmp_path / "out", **settings), tmp_path / "log")
    wait_for(has_checkpoint(tmp_path / "out", 8), process)
    os.killpg(process.pid, number)
    log = process.join() or (tmp_path / "log").read_text()
    assert process.exitcode == code, log[-4000:]
    sentence = next(line for line in log.splitlines() if line.startswith(f"{number.name}: stopped behind step "))
    assert "--resume_from_checkpoint True" in sentence
    again = start(flags(world, tmp_path / "out", **settings, **GO_ON), tmp_path / "log")
    again.join()
    assert outcome(tmp_path / "out") == outcome(whole)


@pytest.mark.slow
@pytest.mark.parametrize(
    "end",
    [
        {
            "max_steps": 8,
            "lr_scheduler_type": "constant",
            "load_best_model_at_end": False,
        },  # in the middle of an epoch
        {"early_stopping_patience": 1, "learning_rate": 1e-9, "crf_learning_rate": 1e-9},
    ],
)
def test_a_run_that_was_over_when_it_was_killed_takes_no_further_step(end, server, world, tmp_path):
    settings = OFTEN | end  # 8 steps are no whole number of epochs
    run_mner(flags(world, tmp_path / "whole", **settings))
    shutil.copytree(tmp_path / "whole", tmp_path / "killed")
    for name in ("results.json", "model.safetensors"):  # as if killed before they were written
        (tmp_path / "killed" / name).unlink()
    assert len(results_of(tmp_path / "whole")["train"]["history"]) < 12
    run_mner(flags(world, tmp_path / "killed", **settings, **GO_ON))
    assert outcome(tmp_path / "killed") == outcome(tmp_path / "whole")


@pytest.mark.slow
def test_a_second_ctrl_c_ends_a_run_at_once(server, world, tmp_path):
    # A step of all tweets, long enough for two signals.
    process = start(flags(world, tmp_path / "out", **OFTEN | {"gradient_accumulation_steps": 6}), tmp_path / "log")
    wait_for((tmp_path / "out" / RUN_FILE).is_file, process)
    time.sleep(0.3)
    os.kill(process.pid, signal.SIGINT)
    wait_for(lambda: "Ctrl-C (again) ends at once" in (tmp_path / "log").read_text(), process)
    os.kill(process.pid, signal.SIGINT)
    process.join()
    assert process.exitcode == -signal.SIGINT  # which a shell calls 130
    assert not checkpoints(tmp_path / "out")


@pytest.mark.slow
def test_a_data_loading_process_that_dies_ends_the_run_with_its_error(server, world, tmp_path):
    settings = OFTEN | {"dataloader_num_workers": 1, "num_train_epochs": 40}
    process = start(flags(world, tmp_path / "out", **settings), tmp_path / "log")
    wait_for(has_checkpoint(tmp_path / "out", 8), process)
    wait_for(lambda: children(process.pid), process)
    os.kill(children(process.pid)[0], signal.SIGKILL)
    process.join(120)
    log = (tmp_path / "log").read_text()
    assert process.exitcode == 1 and "\nerror: A process that loads data has ended" in log, log[-4000:]
    assert "--dataloader_num_workers" in log and "--resume_from_checkpoint True" in log
    assert last_whole_checkpoint(tmp_path / "out")[0] is not None


def test_what_a_stopped_run_still_holds_ends_in_silence(monkeypatch):
    class Loader:
        def __del__(self):
            raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Terminated.")

    def main():
        loader = Loader()
        os.kill(os.getpid(), signal.SIGTERM)
        return loader

    heard = []
    monkeypatch.setattr(sys, "unraisablehook", heard.append)
    assert run_from_terminal(main) == 143 and heard == []


def test_a_process_that_is_lost_while_another_error_is_put_into_words_is_seen(capsys):
    class Interrupted(ValueError):
        def __str__(self):
            raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed.")

    def main():
        raise Interrupted

    assert run_from_terminal(main) == 1
    assert capsys.readouterr().err.startswith("error: A process that loads data has ended (DataLoader worker (pid 7)")


def test_a_process_that_is_lost_while_it_hands_a_batch_over_is_seen():
    assert lost_process(EOFError(), num_workers=1) == "EOFError"
    assert lost_process(EOFError(), num_workers=0) is None
    assert remedied(EOFError()) is None and remedied(ValueError("raised nowhere")) is None


@pytest.fixture
def extracting(world, tmp_path):
    """Arguments of a run that looks at pictures for a while, in a process beside its own."""
    (tmp_path / "images").mkdir()
    large = tmp_path / "images" / "large.png"  # a link that leads out of the folder would not be followed
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (1200, 1200, 3), np.uint8)).save(large)
    for split, count in (("train", 48), ("valid", 12), ("test", 12)):
        for number in range(count):
            (tmp_path / "images" / f"{split}{number}.png").symlink_to(large)
    arguments = ["--do_extract", "True", "--data_dir", world / "tweets", "--image_dir", tmp_path / "images"]
    arguments += ["--vision_backbone", world / "backbone", "--detector", "grid", "--output_dir", tmp_path / "out"]
    arguments += ["--use_cpu", "True", "--extraction_workers", "1", "--extraction_batch_size", "1"]
    return list(map(str, arguments))


@pytest.mark.slow
def test_an_extracting_process_that_dies_ends_the_run_with_its_error_a_signal_with_a_sentence(
    server, extracting, tmp_path
):
    process = start(extracting, tmp_path / "log")
    wait_for(lambda: children(process.pid), process)
    os.kill(children(process.pid)[0], signal.SIGKILL)
    process.join(120)
    log = (tmp_path / "log").read_text()
    assert process.exitcode == 1 and "\nerror: A process that " in log and "--extraction_workers" in log, log[-4000:]

    process = start(extracting, tmp_path / "log")
    wait_for(lambda: children(process.pid), process)
    os.kill(process.pid, signal.SIGTERM)
    process.join(120)
    last = (tmp_path / "log").read_text().splitlines()[-1]
    assert process.exitcode == 143 and last.startswith(
        "Stopped. Checkpoints and features of pictures that were extracted stay"
    )


@pytest.mark.slow
@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_to_a_run_and_what_decodes_its_pictures_ends_it_with_a_sentence(number, code, extracting, tmp_path):
    process = Fresh(extracting, tmp_path / "log")
    progress = re.compile(r" [1-9]\d*/72 ")  # behind its start each decoding process lets one signal pass
    wait_for(lambda: progress.search((tmp_path / "log").read_text()), process)
    os.killpg(process.pid, number)
    log = process.join() or (tmp_path / "log").read_text()
    assert process.exitcode == code and "Traceback" not in log, log[-4000:]
    assert log.splitlines()[-1].startswith("Stopped. Checkpoints and features of pictures that were extracted stay")


def torchrun(arguments: list[str], log: Path) -> "Fresh":
    return Fresh(arguments, log, "-m", "torch.distributed.run", "--nproc_per_node", "2")


@pytest.mark.slow
def test_a_rank_that_dies_ends_the_run_and_leaves_its_checkpoint(server, world, tmp_path):
    process = torchrun(flags(world, tmp_path / "out", **OFTEN | {"num_train_epochs": 400}), tmp_path / "log")
    wait_for(has_checkpoint(tmp_path / "out", 4), process)
    os.kill(children(process.pid)[1], signal.SIGKILL)
    process.wait(180)
    assert process.exitcode != 0 and "Signal 9 (SIGKILL)" in (tmp_path / "log").read_text()
    assert last_whole_checkpoint(tmp_path / "out")[0] is not None


@pytest.mark.slow
def test_two_ranks_that_are_asked_to_stop_go_on_bit_for_bit(server, world, tmp_path):
    settings = OFTEN | {"per_device_train_batch_size": 4}
    processes = {
        name: torchrun(flags(world, tmp_path / name, **settings), tmp_path / f"{name}.log")
        for name in ("whole", "stopped")
    }
    wait_for(has_checkpoint(tmp_path / "stopped", 8), processes["stopped"])
    processes["stopped"].send_signal(signal.SIGTERM)
    for process in processes.values():
        process.join()
    assert processes["whole"].exitcode == 0, (tmp_path / "whole.log").read_text()[-4000:]
    log = (tmp_path / "stopped.log").read_text()
    assert processes["stopped"].exitcode != 0 and "SIGTERM: stopped behind step " in log
    assert not (tmp_path / "stopped" / "results.json").exists()
    again = torchrun(flags(world, tmp_path / "stopped", **settings, **GO_ON), tmp_path / "stopped.log")
    again.join()
    assert again.exitcode == 0, (tmp_path / "stopped.log").read_text()[-4000:]
    assert outcome(tmp_path / "stopped") == outcome(tmp_path / "whole")


@pytest.mark.slow
def test_fresh_processes_of_one_seed_have_the_same_weights_also_where_all_is_deterministic(server, world, tmp_path):
    settings = OFTEN | {"num_train_epochs": 1}
    plain = [Fresh(flags(world, tmp_path / name, **settings), tmp_path / "log") for name in ("one", "two")]
    exact = start(flags(world, tmp_path / "exact", **settings, full_determinism=True), tmp_path / "log")
    for process in (*plain, exact):
        process.join()
        assert process.exitcode == 0, (tmp_path / "log").read_text()[-4000:]
    assert outcome(tmp_path / "one") == outcome(tmp_path / "two") == outcome(tmp_path / "exact")


@pytest.mark.slow
def test_a_flag_that_does_not_exist_is_one_sentence_with_exit_code_1(server, world, tmp_path):
    process = start(flags(world, tmp_path / "out", learnig_rate=1), tmp_path / "log")
    process.join()
    log = (tmp_path / "log").read_text()
    assert process.exitcode == 1 and "Traceback" not in log
    assert log.splitlines()[-1].startswith("error: ") and "--learnig_rate" in log.splitlines()[-1]


def test_a_process_that_died_is_a_sentence_wherever_its_end_was_noticed():
    sentence = remedied(RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. "))
    assert sentence.startswith("A process that loads data has ended (DataLoader worker (pid 7) is killed by signal: ")
