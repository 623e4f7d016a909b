"""Labels of `forward`: one a word, or one a sub-token as every recipe makes them; -100 leaves a position out."""

import numpy as np
import pytest
import torch
from torchcrf import CRF
from transformers import BertTokenizer, DataCollatorForTokenClassification, Trainer, TrainingArguments


def of_sub_tokens(batch):
    """The labels of a batch as those of the words' first pieces."""
    word_ids, words = batch["word_ids"], batch["labels"]
    labels = torch.full_like(word_ids, -100)
    for b, row in enumerate(word_ids.tolist()):
        for s, word in enumerate(row):
            if word > 0 and word not in row[:s]:
                labels[b, s] = words[b, word - 1]
    return labels


def loss_and_gradient(model, batch):
    model.zero_grad()
    loss = model(**batch).loss
    loss.backward()
    return loss.detach(), model.classifier.weight.grad.clone()


def test_labels_of_sub_tokens_are_those_of_the_words_that_they_begin(make_model, make_batch):
    model, batch = make_model(), make_batch()
    expected = loss_and_gradient(model, batch)
    torch.testing.assert_close(loss_and_gradient(model, batch | {"labels": of_sub_tokens(batch)}), expected)


def test_labels_of_later_pieces_count_for_nothing(make_model, make_batch):
    model, batch = make_model(), make_batch()
    labels = of_sub_tokens(batch)
    all_pieces = torch.where((labels == -100) & (batch["word_ids"] > 0), 8, labels)
    torch.testing.assert_close(model(**batch | {"labels": all_pieces}).loss, model(**batch | {"labels": labels}).loss)


@pytest.mark.parametrize("left_out", [[0], [2], [4], [0, 1], [1, 3]])
def test_the_chain_runs_over_the_words_that_have_a_label(make_model, make_batch, left_out):
    model, batch = make_model(), make_batch(words=(5,), regions=(None,))
    labels = batch["labels"].clone()
    labels[0, left_out] = -100
    kept = [word for word in range(5) if word not in left_out]
    outputs = model(**batch | {"labels": labels})
    crf = CRF(9, batch_first=True)
    crf.load_state_dict(model.crf.state_dict())
    expected = -crf(outputs.logits[:, kept], labels[:, kept])
    torch.testing.assert_close(outputs.loss, expected)


def test_a_tweet_whose_first_word_has_no_label_teaches_too(make_model, make_batch):
    model, batch = make_model(), make_batch(words=(3,), regions=(None,))
    batch["labels"][0, 0] = -100
    loss, gradient = loss_and_gradient(model, batch)
    assert loss > 0 and gradient.abs().sum() > 0


def test_where_every_position_is_a_word_labels_may_lack_some(make_model, make_batch):
    model, batch = make_model(), make_batch()
    labels = of_sub_tokens(batch)
    text = {name: batch[name] for name in ("input_ids", "attention_mask")}
    loss, gradient = loss_and_gradient(model, text | {"labels": labels})
    assert loss > 0 and gradient.abs().sum() > 0


@pytest.mark.parametrize("width", [1, 4, 6])
def test_labels_of_another_width_are_refused(make_model, make_batch, width):
    batch = make_batch(words=(5,), regions=(None,))
    pieces = batch["input_ids"].shape[1]
    assert width not in (5, pieces)
    message = f"labels has {width} columns, but there are 5 words and {pieces} sub-tokens"
    with pytest.raises(ValueError, match=message):
        make_model()(**batch | {"labels": torch.zeros(1, width, dtype=torch.long)})


def test_more_columns_than_words_are_padding(make_model, make_batch):
    model, batch = make_model(), make_batch(words=(5,), regions=(None,))
    expected = model(**batch).loss
    wider = torch.nn.functional.pad(batch["labels"], (0, 1), value=-100)
    assert wider.shape[1] != batch["input_ids"].shape[1]
    torch.testing.assert_close(model(**batch | {"labels": wider}).loss, expected)


def test_labels_of_words_that_were_padded_to_the_sub_tokens_are_refused(make_model, make_batch):
    batch = make_batch(words=(5,), regions=(None,))
    wide = torch.full_like(batch["input_ids"], -100)
    wide[:, :5] = batch["labels"]
    with pytest.raises(ValueError, match=r"but \[CLS\], \[SEP\] or padding has one too: give -100 there"):
        make_model()(**batch | {"labels": wide})


def test_a_recipe_of_token_classification_learns(make_model, tmp_path):
    """What transformers' own `run_ner.py` does: labels of first pieces, its collator, `Trainer`, logits out."""
    torch.manual_seed(0)
    tokenizer = BertTokenizer(
        vocab={piece: i for i, piece in enumerate("[PAD] [UNK] [CLS] [SEP] [MASK] ann in rome met".split())}
    )
    rows = []
    for words, tags in ([["ann", "met", "ann"], [1, 0, 1]], [["ann", "in", "rome"], [1, 0, 3]]) * 8:
        encoded = tokenizer(words, is_split_into_words=True)
        rows.append({**encoded, "labels": [-100, *tags, -100]})
    arguments = TrainingArguments(
        str(tmp_path), num_train_epochs=12, learning_rate=1e-2, per_device_train_batch_size=8, use_cpu=True,
        save_strategy="no", disable_tqdm=True, seed=1,
    )  # fmt: skip
    model = make_model(use_vision=False)
    trainer = Trainer(
        model, arguments, train_dataset=rows, data_collator=DataCollatorForTokenClassification(tokenizer)
    )
    trainer.train()
    predicted = trainer.predict(rows[:2])
    assert predicted.predictions.shape == (2, 5, 9)
    labels = predicted.label_ids
    assert (predicted.predictions.argmax(-1) == labels)[labels != -100].all()
    assert np.isfinite(predicted.metrics["test_loss"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda labels: labels[0], r"expected a tensor \(B, W\) or \(B, S\) of 4 texts, given the shape \(5,\)"),
        (lambda labels: labels[:3], r"of 4 texts, given the shape \(3, 5\)"),
        (lambda labels: labels[..., None], r"of 4 texts, given the shape \(4, 5, 1\)"),
        (lambda labels: labels.tolist(), "of 4 texts, given list"),
        (lambda labels: labels.float(), r"the dtype torch.float32: give ids of tags, torch.long"),
        (lambda labels: torch.where(labels > 0, 9, labels), "give ids of the 9 tags, or -100"),
        (lambda labels: torch.where(labels == -100, -1, labels), "labels go from -1 to"),
    ],
    ids=["one dimension", "too few texts", "three dimensions", "a list", "floats", "beyond the tags", "-1"],
)
def test_what_is_no_ids_of_tags_is_refused(make_model, make_batch, change, message):
    batch = make_batch()
    with pytest.raises(ValueError, match=message):
        make_model()(**batch | {"labels": change(batch["labels"])})
