"""Nothing makes the host wait for the device: not the forward pass, not the loss, not the collator."""

import sys
import traceback
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import BertTokenizer

from processing_hamlearning import HamLearningDataCollator, HamLearningProcessor


# The host has to know their result, or its size.
WAITING = (
    "_local_scalar_dense",
    "nonzero",
    "masked_select",
    "equal",
    "_unique2",
    "unique_consecutive",
    "unique_dim",
    "bincount",
    "repeat_interleave",
)
COPYING = "lift_fresh"  # makes a tensor of Python's numbers, which is then copied to the device


class Waits(TorchDispatchMode):
    """The lines of Python at which the host waits for the device."""

    def __init__(self, operators=(*WAITING, COPYING)):
        super().__init__()
        self.operators, self.lines = operators, []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        # A boolean index is turned into the places where it is true.
        by_mask = "index" in name and any(getattr(i, "dtype", None) == torch.bool for i in tree_leaves(args[1:]))
        if name in self.operators or by_mask:
            frames = [f for f in traceback.extract_stack()[:-1] if "/torch/" not in f.filename]
            self.lines.append(f"{Path(frames[-1].filename).name}:{frames[-1].lineno}: {frames[-1].line}")
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    "ask", [lambda x: x.sum().item(), lambda x: x[x > 1], lambda x: 1 if x.all() else 0, lambda x: x.new_tensor(2)]
)
def test_what_waits_is_seen(ask):
    with Waits() as waits:
        ask(torch.arange(3))
    assert len(waits.lines) == 1 and "test_no_synchronisation.py" in waits.lines[0]


@pytest.mark.parametrize("text", ["bert", "roberta", "distilbert"])
def test_forward_and_loss_do_not_wait(make_model, make_batch, text):
    model, batch = make_model(text, picture_dropout=0.5).train(), make_batch()
    with Waits() as waits:
        model(**batch)
    assert waits.lines == []


@pytest.mark.parametrize("switches", [{"use_crf": False}, {"use_vision": False}, {"use_spatial_encoder": False}])
def test_no_switch_makes_it_wait(make_model, make_batch, switches):
    model, batch = make_model(**switches).train(), make_batch()
    with Waits() as waits:
        model(**batch)
    assert waits.lines == []


def test_backward_does_not_wait(make_model, make_batch):
    loss = make_model().train()(**make_batch()).loss
    with Waits() as waits:
        loss.backward()
    assert waits.lines == []


def test_collator_does_not_wait():
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "##b"]
    processor = HamLearningProcessor(BertTokenizer(vocab={piece: index for index, piece in enumerate(vocabulary)}))
    picture = {
        "image_size": [64, 48],
        "image_features": np.ones(6, np.float32),
        "boxes": [[0.5, 0.5, 0.4, 0.4]],
        "class_ids": [0],
        "features": np.ones((1, 5), np.float32),
    }
    collate = HamLearningDataCollator(processor, {"1": picture})
    rows = [{"id": str(number), "tokens": ["a", "ab"], "ner_tags": [0, 1]} for number in range(3)]
    with Waits(WAITING) as waits:  # its tensors are the host's
        batch = collate(rows)
    assert batch["labels"].shape == (3, 2) and batch["image_mask"].tolist() == [0, 1, 0]
    assert waits.lines == []


def test_no_step_of_the_collator_is_a_loop_over_tweets():
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "##b"]
    processor = HamLearningProcessor(BertTokenizer(vocab={piece: index for index, piece in enumerate(vocabulary)}))
    picture = {
        "image_size": np.array([64, 48]),
        "image_features": np.ones(6, np.float32),
        "boxes": np.full((2, 4), 0.5, np.float32),
        "class_ids": np.zeros(2, np.int64),
        "features": np.ones((2, 5), np.float32),
    }
    collate = HamLearningDataCollator(processor, {str(number): picture for number in range(0, 64, 2)})
    rows = [{"id": str(number), "tokens": ["a", "ab", "a"], "ner_tags": [0, 1, 2]} for number in range(64)]

    def lines_of_python(batch: list) -> int:
        """How many lines of the processor run for a batch."""
        count = 0

        def trace(frame, event, argument):
            nonlocal count
            if Path(frame.f_code.co_filename).name != "processing_hamlearning.py":
                return None
            count += event == "line"
            return trace

        before = sys.gettrace()
        sys.settrace(trace)
        try:
            collate(batch)
        finally:
            sys.settrace(before)
        return count

    assert lines_of_python(rows[:4]) == lines_of_python(rows) > 50
