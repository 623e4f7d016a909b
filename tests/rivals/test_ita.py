"""ITA: the picture in words, both views, and which of them learns from which."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from transformers import AutoTokenizer

from hamlearning.data.features import VisualFeatures
from hamlearning.rivals.architectures import class_of
from hamlearning.rivals.ita import ContextProcessor, ITAEmissions
from hamlearning.training.run import main as run_mner
from tiny_world import flags


@pytest.fixture
def processor(world):
    return ContextProcessor(AutoTokenizer.from_pretrained(world / "text_encoder"), max_length=12)


@pytest.fixture
def row(world):
    features = VisualFeatures(world / "features.parquet")
    return features["train0"] | {"caption": "ann met rome", "class_names": ["dog", "rome", "dog"]}


def words_of(processor, inputs, tweet=0):
    ids = inputs["context_ids"][tweet][inputs["context_mask"][tweet].bool()]
    return processor.tokenizer.convert_ids_to_tokens(ids)


def with_context(batch, length=4, tweets=None, seed=1):
    """A batch with contexts of random sub-tokens for the tweets with a picture."""
    generator = torch.Generator().manual_seed(seed)
    mask = torch.zeros(len(batch["input_ids"]), length, dtype=torch.long)
    mask[batch["image_mask"].bool() if tweets is None else tweets] = 1
    ids = torch.randint(5, 100, mask.shape, generator=generator)
    return batch | {"context_ids": torch.where(mask > 0, ids, 1), "context_mask": mask}


def answer(model, batch):
    batch = {name: value for name, value in batch.items() if name != "labels"}
    with torch.no_grad():
        outputs = model(**batch)
    return torch.where((outputs.predictions != -100)[..., None], outputs.logits, 0)


def test_the_context_is_the_caption_and_each_class_once(processor, row):
    inputs = processor(text=[["i", "met", "ann"]] * 2, visual_features=[row, None])
    assert words_of(processor, inputs) == ["ann", "met", "rome", "[SEP]", "[UNK]", "rome", "[SEP]"]
    assert words_of(processor, inputs, 1) == []


def test_the_context_is_cut_and_the_tweet_is_not(processor, row):
    tweets = [["i"] * count for count in (6, 8, 9, 20)]  # with [CLS] and [SEP] 8, 10, 11 and two windows
    inputs = processor(text=tweets, visual_features=[row] * 4)
    assert [words_of(processor, inputs, tweet) for tweet in range(4)] == [
        ["ann", "met", "rome", "[SEP]"], ["ann", "[SEP]"], [], [],
    ]  # fmt: skip
    assert (inputs["word_ids"].amax(dim=1)).tolist() == [6, 8, 9, 20]


def test_names_are_those_of_the_vision_model_where_a_row_has_none(processor, row):
    class VisionModel:
        class config:
            class_names = ("rome", "ann")

    processor._vision_model = VisionModel
    bare = {name: value for name, value in row.items() if name not in ("caption", "class_names")}
    inputs = processor(text=[["i"]], visual_features=[bare | {"class_ids": [1, 0]}])
    assert words_of(processor, inputs) == ["ann", "rome", "[SEP]"]


def test_a_file_of_features_gives_caption_and_names(world, tmp_path):
    path = captioned(world, tmp_path, ["a dog"] + [None] * 68)
    features = VisualFeatures(path)
    assert "caption" not in features["train0"]
    features.read_more({"caption": None, "class_names": None})
    assert features["train0"]["caption"] == "a dog" and features["train1"]["caption"] == ""
    assert features["train0"]["class_names"] == [features.class_names[0], features.class_names[1]]


def captioned(world, folder, captions):
    table = pq.read_table(world / "features.parquet")
    path = folder / "captioned.parquet"
    pq.write_table(table.append_column("caption", pa.array(captions[: len(table)], pa.string())), path)
    return path


def test_a_file_without_captions_is_refused(world, tmp_path):
    with pytest.raises(ValueError, match="has no column 'caption', which this architecture reads"):
        run_mner(flags(world, tmp_path / "model", architecture="ita", num_semantic_layers=None))


def test_a_run_reads_captions(world, tmp_path):
    path = captioned(world, tmp_path, ["ann in rome"] * 69)
    settings: dict = {"architecture": "ita", "visual_features": path, "num_semantic_layers": None}
    results = run_mner(flags(world, tmp_path / "model", num_train_epochs=1, **settings))
    assert results["architecture"] == "ita" and results["test"]["f1"] >= 0
    assert type(ContextProcessor.from_pretrained(tmp_path / "model")) is ContextProcessor


def test_the_context_is_read(make_rival, make_batch):
    model, batch = make_rival("ita", initializer_range=0.3), make_batch()
    text, cross = answer(model, batch), answer(model, with_context(batch))
    moved = (cross - text).abs().amax(dim=(1, 2))
    assert (moved > 1e-4).tolist() == batch["image_mask"].bool().tolist()


def test_a_context_feeds_no_word_and_its_padding_is_not_read(make_rival, make_batch):
    model, batch = make_rival("ita", initializer_range=0.3), with_context(make_batch())
    wider = batch | {
        "context_ids": torch.nn.functional.pad(batch["context_ids"], (0, 3), value=17),
        "context_mask": torch.nn.functional.pad(batch["context_mask"], (0, 3)),
    }
    padded = {name: torch.nn.functional.pad(batch[name], (0, 2), value=fill) for name, fill in TEXT.items()}
    before = answer(model, batch)
    torch.testing.assert_close(answer(model, wider), before, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(answer(model, batch | padded), before, atol=1e-5, rtol=1e-4)
    alone = answer(model, {name: value[:1] for name, value in batch.items()})
    torch.testing.assert_close(alone[0], before[0, : alone.shape[1]], atol=1e-5, rtol=1e-4)


TEXT = {"input_ids": 1, "attention_mask": 0, "word_ids": -1}


def test_a_hidden_picture_has_no_context(make_rival, make_batch):
    batch = make_batch()
    hidden = with_context(batch, tweets=slice(None)) | {"image_mask": torch.zeros_like(batch["image_mask"])}
    model = make_rival("ita", initializer_range=0.3)
    torch.testing.assert_close(answer(model, hidden), answer(model, batch))
    blind = make_rival("ita", initializer_range=0.3, use_vision=False)
    torch.testing.assert_close(answer(blind, with_context(batch)), answer(model, batch))


def test_each_window_has_the_context(make_rival, make_batch):
    model, batch = make_rival("ita", initializer_range=0.3), with_context(make_batch(words=(6, 3, 2, 1)))
    windows = torch.tensor([[[0, 6]], [[0, 3]], [[0, 2]], [[0, 1]]])
    torch.testing.assert_close(answer(model, batch | {"windows": windows}), answer(model, batch))


def losses_of(model, text, cross, labels, has_context):
    emissions = ITAEmissions(
        logits=cross, word_mask=torch.ones_like(labels, dtype=torch.bool), auxiliary_logits=text,
        has_context=torch.tensor(has_context),
    )  # fmt: skip
    return model.loss(emissions, labels)


@pytest.fixture
def views():
    generator = torch.Generator().manual_seed(0)
    text, cross = (torch.randn(2, 3, 9, generator=generator).requires_grad_() for _ in range(2))
    return text, cross, torch.randint(9, (2, 3), generator=generator)


def test_only_the_text_view_learns_from_the_alignment(make_rival, views):
    text, cross, labels = views
    gradients = []
    for weight in (0.0, 0.5):
        model = make_rival("ita", alignment_weight=weight)
        gradients.append(torch.autograd.grad(losses_of(model, text, cross, labels, [1.0, 1.0]), [text, cross]))
    assert torch.equal(gradients[0][1], gradients[1][1])
    assert (gradients[0][0] - gradients[1][0]).abs().max() > 1e-3


def test_the_alignment_is_of_marginals_made_even_by_the_temperature(make_rival, views):
    text, cross, labels = views
    model = make_rival("ita", temperature=2.0)
    mask = torch.ones_like(labels, dtype=torch.bool)
    p, q = (
        (marginals := model.crf.marginals(given, mask) ** (1 / 2)) / marginals.sum(dim=-1, keepdim=True)
        for given in (cross, text)
    )
    expected = 0.5 * 2**2 * (p * (p / q).log()).sum() / 2
    both = losses_of(model, text, cross, labels, [1.0, 1.0])
    model.config.alignment_weight = 0.0
    torch.testing.assert_close(
        both - losses_of(model, text, cross, labels, [1.0, 1.0]), expected, atol=1e-4, rtol=1e-4
    )


def test_a_tweet_without_context_has_the_loss_of_its_text_alone(make_rival, views):
    text, cross, labels = views
    model = make_rival("ita")
    expected = model.likelihood_loss(model.crf, text, labels)
    torch.testing.assert_close(losses_of(model, text, cross, labels, [0.0, 0.0]), expected)


def test_every_parameter_has_a_gradient_with_contexts(make_rival, make_batch):
    model = make_rival("ita").train()
    model(**with_context(make_batch())).loss.backward()
    assert [n for n, p in model.named_parameters() if p.grad is None] == []


def test_a_temperature_is_positive():
    with pytest.raises(ValueError, match="temperature=0: must be positive"):
        class_of("ita").config_class(temperature=0)
