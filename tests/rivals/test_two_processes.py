"""Each system of Table 1 in two processes, sharded, and in half precision."""

import os
import subprocess
import sys

import pytest
import torch

from conftest import ROOT, TINY_RIVALS
from hamlearning.rivals.architectures import RIVALS
from hamlearning.training.run import main as run_mner
from tiny_world import flags


TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"]


def run(command, folder):
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, env=environment, cwd=folder)
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


def settings_of(architecture):
    settings = {"architecture": architecture, "num_train_epochs": 1, "num_semantic_layers": None, "bf16": False}
    return settings | TINY_RIVALS.get(architecture, {})


@pytest.mark.slow
@pytest.mark.parametrize("pictures", ["some", "none on one process"])
def test_two_processes_have_the_gradients_of_one(make_rival, make_batch, tmp_path, pictures):
    batch = make_batch(words=(5, 2, 4, 1, 3, 6, 2, 4), regions=(3, None, 0, 2, 1, 3, None, 2))
    if pictures == "none on one process":
        batch["image_mask"][1::2] = 0
    for architecture in RIVALS:
        make_rival(architecture).save_pretrained(tmp_path / architecture)
        torch.save(batch, tmp_path / architecture / "batch.pt")
    said = run(
        [*TORCHRUN, ROOT / "tests" / "rivals" / "two_process_gradients.py", *(tmp_path / name for name in RIVALS)],
        tmp_path,
    )
    for architecture in RIVALS:
        assert said.count(f"equal gradients of {architecture}.") == 2, said


@pytest.mark.slow
@pytest.mark.parametrize("architecture", RIVALS)
def test_a_sharded_run_leaves_a_model_that_one_process_loads(world, tmp_path, architecture):
    config = ROOT / "configs" / "accelerate" / "fsdp.yaml"
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", config, ROOT / "run_mner.py"]
    settings = settings_of(architecture) | {"per_device_train_batch_size": 4}
    run([*command, *flags(world, tmp_path / "two", **settings)], tmp_path)
    evaluate = {"do_train": None, "do_eval": None, "text_model": None, "num_semantic_layers": None, "bf16": False}
    run_mner(flags(world, tmp_path / "one", model_name_or_path=tmp_path / "two", **evaluate))
    two, one = (tmp_path / name / "predictions_test.jsonl" for name in ("two", "one"))
    assert one.read_text() == two.read_text()


@pytest.mark.parametrize("architecture", RIVALS)
def test_under_autocast_the_loss_is_that_of_float32(make_rival, make_batch, architecture):
    model, batch = make_rival(architecture), make_batch()
    expected = model(**batch).loss
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs = model.train()(**batch)
    assert outputs.loss.dtype == torch.float32
    assert abs(outputs.loss - model(**batch).loss) < 0.05 * expected
    outputs.loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())
