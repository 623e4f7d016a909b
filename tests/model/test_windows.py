"""Texts beyond the length limit: which windows they are read in, and that the answer is that of the whole tweet."""

import time

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_processing import bert

from modeling_hamlearning import HamLearningModel
from processing_hamlearning import HamLearningProcessor
from windows_hamlearning import plan_windows


# -------------------------------------------------------------------------------------------------------------- plan


def test_windows_share_words_and_the_last_reaches_back_as_far_as_there_is_room():
    assert plan_windows(np.ones(7, int), room=4, stride=2) == [(0, 4), (2, 6), (3, 7)]
    assert plan_windows(np.ones(9, int), room=4, stride=0) == [(0, 4), (4, 8), (5, 9)]


def test_a_tweet_that_has_room_is_one_window():
    assert plan_windows(np.array([1, 2, 1]), room=4, stride=2) == [(0, 3)]


def test_windows_share_half_their_words_at_most():
    assert plan_windows(np.ones(8, int), room=4, stride=100) == [(0, 4), (2, 6), (4, 8)]


def test_a_window_is_of_whole_words():
    assert plan_windows(np.array([3, 3, 1, 3]), room=4, stride=1) == [(0, 1), (1, 3), (2, 4)]


@given(
    num_pieces=st.lists(st.integers(1, 6), min_size=1, max_size=60),
    room=st.integers(6, 20),
    stride=st.integers(0, 12),
)
def test_windows_hold_every_word_and_each_one_goes_on(num_pieces, room, stride):
    windows = plan_windows(np.array(num_pieces), room, stride)
    assert {word for first, end in windows for word in range(first, end)} == set(range(len(num_pieces)))
    assert all(sum(num_pieces[first:end]) <= room for first, end in windows)
    for (first, end), (next_first, next_end) in zip(windows, windows[1:], strict=False):
        assert first < next_first <= end < next_end


# -------------------------------------------------------------------------------------------------------- the answer


@pytest.fixture
def long_batch(make_batch):
    """Of 4 tweets two are read in windows, all have what was asked of `make_batch`."""

    def make(words=(23, 2, 9, 0), regions=(3, None, 0, 2), room=9, stride=3):
        batch = make_batch(words=words, regions=regions)
        plans = []
        for ids in batch["word_ids"]:
            counts = np.bincount(ids[ids > 0].numpy())[1:]
            plans.append(plan_windows(counts, room, stride) if len(counts) else [(0, 0)])
        batch["windows"] = torch.zeros(len(plans), max(map(len, plans)), 2, dtype=torch.long)
        for row, plan in enumerate(plans):
            batch["windows"][row, : len(plan)] = torch.tensor(plan)
        return batch

    return make


def window_of(batch: dict, row: int, first: int, end: int) -> dict:
    """A window of a tweet as a tweet of its own."""
    ids = batch["word_ids"][row]
    columns = [
        0,
        *((ids > first) & (ids <= end)).nonzero()[:, 0].tolist(),
        int(batch["attention_mask"][row].sum()) - 1,
    ]
    word_ids = torch.tensor([0, *(int(ids[c]) - first for c in columns[1:-1]), -1])
    text = {"input_ids": batch["input_ids"][row, columns], "word_ids": word_ids}
    text["attention_mask"] = torch.ones(len(columns), dtype=torch.long)
    visual = {name: batch[name][row] for name in batch if name.startswith(("image_", "region_"))}
    return {name: value[None] for name, value in (text | visual).items()}


@torch.no_grad()
def test_each_word_is_read_in_the_window_in_which_it_stands_farthest_from_an_edge(make_model, long_batch):
    model, batch = make_model(), long_batch()
    found = model(**batch).logits
    for row, windows in enumerate(batch["windows"].tolist()):
        windows = [window for window in windows if window[1]]
        last = max((end for _, end in windows), default=0)
        alone = [model(**window_of(batch, row, *window)).logits[0] for window in windows]
        for word in range(last):

            def margin(window, word=word, last=last):  # words to the nearest edge behind which there are more
                left = word - window[0] if window[0] else last
                right = window[1] - 1 - word if window[1] < last else last
                return min(left, right) if window[0] <= word < window[1] else -1

            best = max(range(len(windows)), key=lambda place: margin(windows[place]))
            torch.testing.assert_close(found[row, word], alone[best][word - windows[best][0]], atol=1e-5, rtol=0)


@torch.no_grad()
def test_the_crf_runs_once_over_all_words_of_a_tweet(make_model, long_batch):
    model, batch = make_model(), long_batch()
    outputs = model(**batch)
    mask = torch.arange(outputs.logits.shape[1]) < torch.tensor([[23], [2], [9], [1]])
    path = model.crf.viterbi(outputs.logits, mask)
    assert torch.equal(outputs.predictions[:3], torch.where(mask, path, -100)[:3])
    assert (outputs.predictions != -100).sum(dim=1).tolist() == [23, 2, 9, 0]


@torch.no_grad()
def test_where_a_tweet_has_room_windows_change_nothing(make_model, make_batch):
    model, batch = make_model(), make_batch()
    expected = model(**batch, output_hidden_states=True)
    windows = torch.tensor([[[0, 5]], [[0, 2]], [[0, 4]], [[0, 1]]])
    found = model(**batch, windows=windows, output_hidden_states=True)
    for name in ("loss", "logits", "predictions", "scores", "relevance"):
        mask = (batch["labels"] != -100)[..., None] if name == "logits" else torch.tensor(True)
        torch.testing.assert_close(found[name].where(mask, 0), expected[name].where(mask, 0), atol=1e-5, rtol=0)
    assert len(found.hidden_states) == len(expected.hidden_states)


@torch.no_grad()
def test_a_long_tweet_in_the_batch_changes_no_other(make_model, long_batch):
    model, batch = make_model(), long_batch()
    together = model(**batch)
    short = {name: value[1:2] for name, value in batch.items() if name not in ("windows", "labels")}
    alone = model(**short)
    torch.testing.assert_close(together.logits[1, :2], alone.logits[0, :2], atol=1e-5, rtol=0)
    torch.testing.assert_close(together.scores[1, :2], alone.scores[0, :2], atol=1e-5, rtol=0)


@torch.no_grad()
def test_the_picture_goes_with_every_window(make_model, long_batch):
    model, batch = make_model(), long_batch()
    seen = model(**batch).logits
    hidden = model(**batch | {"image_mask": torch.zeros_like(batch["image_mask"])}).logits
    assert ((seen - hidden)[0, :23].abs().amax(dim=1) > 1e-6).all()


@torch.no_grad()
def test_the_relevance_of_a_tweet_is_the_mean_over_its_windows(make_model, long_batch):
    model, batch = make_model(), long_batch()
    windows = [window for window in batch["windows"][0].tolist() if window[1]]
    of_windows = torch.cat([model(**window_of(batch, 0, *window)).relevance for window in windows])
    relevance = model(**batch).relevance
    torch.testing.assert_close(relevance[0].abs(), of_windows.abs().mean(dim=0), atol=1e-5, rtol=0)
    assert relevance[1].tolist() == [0, 0]


@torch.no_grad()
def test_hidden_states_and_attentions_are_those_of_whole_tweets(make_model, long_batch):
    model, batch = make_model(), long_batch()
    model.set_attn_implementation("eager")
    outputs = model(**batch, output_hidden_states=True, output_attentions=True)
    assert {states.shape[:2] for states in outputs.hidden_states} == {(4, 23)}
    assert {(weights.shape[0], *weights.shape[2:]) for weights in outputs.attentions} == {(4, 23, 3)}


def test_a_loss_over_windows_has_a_gradient_for_every_parameter(make_model, long_batch):
    model = make_model().train()
    model(**long_batch()).loss.backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []


@torch.no_grad()
def test_the_trunk_alone_reads_windows_too(make_model, long_batch):
    trunk, batch = make_model(model_class=HamLearningModel), long_batch()
    del batch["labels"]
    assert trunk(**batch).word_mask.sum(dim=1).tolist() == [23, 2, 9, 0]


def test_windows_without_word_ids_are_refused(make_model, long_batch):
    batch = long_batch()
    del batch["word_ids"], batch["labels"]
    with pytest.raises(ValueError, match="windows without word_ids: give both as HamLearningProcessor returns them"):
        make_model()(**batch)


# ------------------------------------------------------------------------------------------------------ the processor


def test_words_beyond_the_limit_come_with_the_windows_that_read_them():
    processor = HamLearningProcessor(bert(), max_length=7, stride=1)  # 5 beside [CLS] and [SEP]
    words = ["Huskies", "Huskies", "Huskies", "up"]  # of 2, 2, 2 and 1 sub-tokens
    inputs = processor(text=[words, ["up"]], word_labels=[["B-ORG", "O", "B-PER", "B-LOC"], ["O"]])
    assert inputs["word_ids"].tolist() == [[0, 1, 1, 2, 2, 3, 3, 4, -1], [0, 1, -1, -1, -1, -1, -1, -1, -1]]
    assert inputs["windows"].tolist() == [[[0, 2], [1, 4]], [[0, 1], [0, 0]]]
    assert (inputs["labels"] != -100).sum().item() == 5
    assert inputs.num_windows == [2, 1]


def test_a_tweet_that_fits_exactly_has_no_windows():
    inputs = HamLearningProcessor(bert(), max_length=6)(text=[["Huskies", "Huskies"]])
    assert "windows" not in inputs and inputs.num_windows == [1]


def test_a_word_that_alone_exceeds_the_limit_is_read_by_its_first_sub_tokens():
    inputs = HamLearningProcessor(bert(), max_length=6)(text=[["a" * 50, "up"]])
    assert inputs["word_ids"].tolist() == [[0, 1, 1, 1, 1, 2, -1]]
    assert inputs["windows"].tolist() == [[[0, 1], [1, 2]]]


@given(words=st.lists(st.sampled_from(["Huskies", "up", "warm"]), max_size=40), stride=st.integers(0, 5))
def test_sub_tokens_are_counted_as_they_are_read(words, stride):
    processor = HamLearningProcessor(bert(), max_length=9, stride=stride)
    [count] = processor.count_sub_tokens([words])
    inputs = processor(text=[words])
    [num_windows] = inputs.num_windows
    assert count == (inputs["attention_mask"].sum() if num_windows == 1 else 9 * num_windows)
    assert (count > 9) == ("windows" in inputs)


@pytest.mark.parametrize("stride", [-1, 1.5, None])
def test_a_stride_is_a_whole_number(stride):
    with pytest.raises(ValueError, match=f"stride={stride}: must be a whole number, at least 0"):
        HamLearningProcessor(bert(), stride=stride)


# ---------------------------------------------------------------------------------------------------------- its cost


@torch.no_grad()
def test_a_text_of_10000_words_is_read_in_groups_of_windows(make_model):
    processor, model = HamLearningProcessor(bert(), max_length=64), make_model()
    rows = []
    handle = model.model.text_model.register_forward_hook(lambda _, __, out: rows.append(out[0].shape[:2].numel()))
    start = time.perf_counter()
    outputs = model(**processor(text=[["warm", "up"] * 5000]))
    assert (outputs.predictions != -100).sum() == 10_000
    assert len(rows) > 1 and max(rows) <= 32 * 64
    assert sum(rows) < 2 * 10_000 * 1.5  # "warm" is two sub-tokens, "up" one; half of a window is shared at most
    assert time.perf_counter() - start < 60
    handle.remove()
