"""HVPNeT: the prefix that its text encoder reads, what it is made of, and where it comes from."""

import numpy as np
import pytest
import torch
from transformers import AutoProcessor

from configuration_hamlearning import HamLearningConfig
from hamlearning.data.features import VisualFeatures, write_visual_features
from hamlearning.rivals.hvpnet import PYRAMID_SIZE, HVPNeTConfig, HVPNeTForTokenClassification
from hamlearning.training.run import main as run_mner
from modeling_hamlearning import HamLearningForTokenClassification
from tiny_world import SIZES, flags


def pyramids(batch, counts, seed=0):
    """`pyramid_features` and `pyramid_mask` of a batch, so many pictures and crops a tweet."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(len(counts), max(counts), PYRAMID_SIZE, generator=generator)
    mask = torch.arange(max(counts)) < torch.tensor(counts)[:, None]
    there = {"image_mask": (torch.tensor(counts) > 0).long()}
    return batch | there | {"pyramid_features": features * mask[..., None], "pyramid_mask": mask.long()}


def logits(model, batch):
    with torch.no_grad():
        return model(**{name: value for name, value in batch.items() if name != "labels"}).logits


@pytest.fixture
def full(make_rival):
    """HVPNeT with its pyramid, whose gates and projections are no trifles."""
    return make_rival("hvpnet", use_pyramid=True, initializer_range=0.1)


@pytest.mark.parametrize("use_pyramid", [True, False])
def test_without_a_prefix_it_is_bert_crf(make_rival, make_batch, tiny_text_configs, use_pyramid):
    model, batch = make_rival("hvpnet", use_pyramid=use_pyramid), make_batch(regions=(None, None, None, None))
    plain = HamLearningConfig(
        text_config=tiny_text_configs["bert"], use_vision=False, num_text_layers=0, num_ffnn_layers=0, dropout=0
    )
    bert_crf = HamLearningForTokenClassification(plain).eval()
    bert_crf.load_state_dict({n: w for n, w in model.state_dict().items() if n in bert_crf.state_dict()})
    text = {name: batch[name] for name in ("input_ids", "attention_mask", "word_ids", "labels")}
    with torch.no_grad():
        found, expected = model(**batch), bert_crf(**text)
    torch.testing.assert_close(found.logits, expected.logits)
    torch.testing.assert_close(found.loss, expected.loss)


def test_a_tweet_beside_one_with_a_picture_is_bert_crf_too(full, make_batch):
    batch = make_batch(words=(4, 4), regions=(None, None))
    alone = logits(full, batch)
    beside = logits(full, pyramids(batch, [0, 3]))
    torch.testing.assert_close(beside[0], alone[0])
    assert (beside[1] - alone[1]).abs().max() > 1e-3


def test_the_prefix_of_each_layer_is_that_of_the_paper(full):
    """One tweet, step by step: levels, gates, keys and values as pieces of flat rows."""
    d, heads = 32, 4
    features = torch.randn(1, 4, PYRAMID_SIZE, generator=torch.Generator().manual_seed(3))
    batch = {
        "input_ids": torch.tensor([[2, 7, 3]]),
        "image_features": torch.zeros(1, 12),
        "pyramid_features": features,
    }
    seen = {}
    encoder = full.model.text_model
    encoder.register_forward_pre_hook(lambda _, args, options: seen.update(options), with_kwargs=True)
    with torch.no_grad():
        full(**batch)
        for layer in range(2):
            rows = []
            for picture in features[0]:
                y = full.level_projection(torch.tanh(full.row_projection(picture.view(4, 3840))))  # (4, 8d)
                levels = y.split(2 * d, dim=-1)
                score = full.gates[layer](sum(levels).view(-1) / 4)
                weights = torch.softmax(torch.nn.functional.leaky_relu(score, 0.01), dim=-1)
                rows.append(sum(w * level for w, level in zip(weights, levels, strict=True)))
            keys, values = torch.cat(rows).split(d, dim=-1)  # (16, d) each
            found_keys, found_values = seen["visual_prefix"].of(layer)
            torch.testing.assert_close(found_keys[0], keys.reshape(heads, 16, d // heads))
            torch.testing.assert_close(found_values[0], values.reshape(heads, 16, d // heads))


def test_layers_have_prefixes_of_their_own_and_the_lite_one_has_one(full, make_rival, make_batch):
    seen = {}
    batch = make_batch(regions=(3, 3, 3, 3))
    for name, model in (("full", full), ("lite", make_rival("hvpnet"))):
        hook = {"with_kwargs": True}
        model.model.text_model.register_forward_pre_hook(lambda _, args, options: seen.update(options), **hook)
        logits(model, pyramids(batch, [4, 4, 4, 4]) if name == "full" else batch)
        first, second = seen["visual_prefix"].states
        assert torch.equal(first, second) is (name == "lite")
        assert first.shape == (4, 16 if name == "full" else 4, 64)


def test_a_crop_that_lacks_is_not_read(full, make_batch):
    batch = pyramids(make_batch(), [2, 4, 1, 3])
    nothing = ~batch["pyramid_mask"].bool()[..., None]
    poisoned = batch | {"pyramid_features": batch["pyramid_features"].masked_fill(nothing, torch.nan)}
    torch.testing.assert_close(logits(full, poisoned), logits(full, batch))
    fewer = {name: value[:, :2] if name.startswith("pyramid") else value for name, value in batch.items()}
    torch.testing.assert_close(logits(full, fewer)[0], logits(full, batch)[0])
    assert (logits(full, fewer)[1] - logits(full, batch)[1]).abs().max() > 1e-4


def test_pictures_and_order_of_the_batch_leave_a_tweets_answer(full, make_batch):
    batch = pyramids(make_batch(words=(4, 4, 4), regions=(None,) * 3), [2, 0, 4])
    order = torch.tensor([2, 0, 1])
    turned = {name: value[order] for name, value in batch.items()}
    torch.testing.assert_close(logits(full, turned), logits(full, batch)[order], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("counts", [[4, 2, 1, 3], None])
def test_every_parameter_has_a_gradient(full, make_batch, counts):
    batch = make_batch(regions=(None,) * 4) if counts is None else pyramids(make_batch(), counts)
    full.train()(**batch).loss.backward()
    assert [n for n, p in full.named_parameters() if p.grad is None] == []


def test_recomputed_layers_have_the_same_gradients(full, make_batch):
    batch, gradients = pyramids(make_batch(), [4, 2, 1, 3]), []
    for recomputes in (False, True):
        if recomputes:
            full.gradient_checkpointing_enable()
        full.zero_grad()
        full.train()(**batch).loss.backward()
        gradients.append(full.row_projection.weight.grad.clone())
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("text", ["bert", "roberta", "distilbert", "modernbert"])
def test_encoders_of_several_kinds_read_the_picture(make_rival, make_batch, text):
    model, batch = make_rival("hvpnet", text, initializer_range=0.3), make_batch(regions=(3, 3, 3, 3))
    other = batch | {"image_features": batch["image_features"].roll(1, 0)}
    assert (logits(model, other) - logits(model, batch)).abs().max() > 1e-3


def test_an_encoder_whose_attention_takes_no_prefix_is_refused(make_rival):
    with pytest.raises(ValueError, match="of the type 'mpnet', whose attentions take no prefix"):
        make_rival("hvpnet", "mpnet")


def test_another_attention_reads_the_picture_all_the_same(make_rival, make_batch):
    model, batch = make_rival("hvpnet", initializer_range=0.3), make_batch(regions=(3, None, 1, 2))
    expected = logits(model, batch)
    model.set_attn_implementation("eager")  # its masks are numbers
    torch.testing.assert_close(logits(model, batch), expected, atol=1e-5, rtol=1e-4)


def test_a_picture_without_its_pyramid_is_refused(full, make_batch):
    with pytest.raises(ValueError, match="A picture without pyramid_features, which HVPNeT reads"):
        full(**make_batch())


def test_the_lite_ones_parameters(count_new_parameters):
    linear = {"image": 2048 * 800 + 800, "region": 2048 * 800 + 800, "levels": 800 * 1536 + 1536, "tags": 768 * 9 + 9}
    assert count_new_parameters("hvpnet", use_pyramid=False) == sum(linear.values()) + 99


def test_a_negative_number_of_crops_is_refused():
    with pytest.raises(ValueError, match="num_crops=-1: must be at least 0"):
        HVPNeTConfig(num_crops=-1)


def rows_with_pyramids(ids, **changed):
    rng = np.random.default_rng(0)
    for number, id_ in enumerate(ids):
        row = {
            "id": id_,
            "image_size": [64, 48],
            "image_features": rng.normal(size=SIZES["image_feature_size"]),
            "boxes": [[0.5, 0.5, 0.4, 0.4]],
            "class_ids": [0],
            "scores": [0.9],
            "features": rng.normal(size=(1, SIZES["region_feature_size"])),
            "pyramid_features": rng.normal(size=(1 + number % 4, PYRAMID_SIZE)),
        }
        yield row | changed


@pytest.fixture
def pyramid_file(tmp_path):
    ids = [f"{split}{n}" for split, count in (("train", 48), ("valid", 12), ("test", 9)) for n in range(count)]
    path = tmp_path / "pyramids.parquet"
    write_visual_features(path, rows_with_pyramids(ids), SIZES, more={"pyramid_features": PYRAMID_SIZE})
    return path


def test_a_file_has_pyramids_for_who_asks_for_them(pyramid_file):
    features = VisualFeatures(pyramid_file)
    assert "pyramid_features" not in features["train2"]
    features.read_more({"pyramid_features": PYRAMID_SIZE})
    assert features["train2"]["pyramid_features"].shape == (3, PYRAMID_SIZE)
    assert features["train2"]["pyramid_features"].dtype == np.float32
    expected = next(row for row in rows_with_pyramids([f"train{n}" for n in range(48)]) if row["id"] == "train2")
    np.testing.assert_allclose(
        features["train2"]["pyramid_features"], expected["pyramid_features"], rtol=1e-3, atol=1e-3
    )


def test_a_file_without_the_column_says_so(world):
    features = VisualFeatures(world / "features.parquet")
    with pytest.raises(ValueError, match="features.parquet has no column 'pyramid_features', which this"):
        features.read_more({"pyramid_features": PYRAMID_SIZE})


@pytest.mark.parametrize(
    "value, problem",
    [
        (np.zeros((0, PYRAMID_SIZE)), "0 vectors"),
        (np.zeros((2, 5)), r"2 vectors, of \[5\] numbers"),
        (np.full((1, PYRAMID_SIZE), np.nan), "1 vectors"),
    ],
)
def test_a_row_with_a_wrong_pyramid_is_not_written(tmp_path, value, problem):
    rows = rows_with_pyramids(["a"], pyramid_features=value)
    with pytest.raises(ValueError, match=f"image 'a': pyramid_features has {problem}"):
        write_visual_features(tmp_path / "bad.parquet", rows, SIZES, more={"pyramid_features": PYRAMID_SIZE})


def test_a_run_with_pyramids_trains_saves_and_tags(world, pyramid_file, tmp_path):
    settings = {"architecture": "hvpnet", "num_semantic_layers": None, "visual_features": pyramid_file}
    results = run_mner(flags(world, tmp_path / "model", num_train_epochs=1, **settings))
    assert results["test"]["f1"] >= 0
    processor = AutoProcessor.from_pretrained(tmp_path / "model", trust_remote_code=True)
    assert type(processor).__name__ == "PyramidProcessor"
    model = HVPNeTForTokenClassification.from_pretrained(tmp_path / "model")
    assert model.config.visual_columns == {"pyramid_features": PYRAMID_SIZE}
    features = VisualFeatures(pyramid_file)
    features.read_more(model.config.visual_columns)
    inputs = processor(text=["met ann today", "so tired"], visual_features=[features["train2"], None])
    assert inputs["pyramid_mask"].tolist() == [[1, 1, 1], [0, 0, 0]]
    assert model(**inputs).predictions.shape == (2, 3)


def test_features_without_pyramids_are_refused_before_training(world, tmp_path):
    with pytest.raises(ValueError, match="has no column 'pyramid_features'"):
        run_mner(flags(world, tmp_path / "model", architecture="hvpnet", num_semantic_layers=None))


def test_with_crops_that_hiding_a_region_does_not_hide_nothing_is_explained(make_rival, make_batch):
    with pytest.raises(ValueError, match="crops of the picture, which are there whatever region is hidden"):
        make_rival("hvpnet", use_pyramid=True).explain(**make_batch())
