"""MGCMT: cells and objects, and the neighbours of words."""

import numpy as np
import pytest
import torch
from transformers import pipeline

from hamlearning.data.features import VisualFeatures, write_visual_features
from hamlearning.data.tweets import load_tweets
from hamlearning.rivals.mgcmt import GridProcessor, MGCMTConfig, MGCMTForTokenClassification, neighbours_of
from hamlearning.training.run import main as run_mner
from processing_hamlearning import HamLearningDataCollator
from tiny_world import flags


def logits(model, batch):
    with torch.no_grad():
        return model(**batch).logits


def test_classes_of_no_more_than_the_best_objects_are_read(make_rival, make_batch):
    model = make_rival("mgcmt", num_objects=2, grid_feature_size=6)
    batch = make_batch(regions=(4, 4, 4, 4)) | {"grid_features": torch.randn(4, 49, 6)}
    other = (batch["region_class_ids"] + 1) % 7
    worst, best = batch["region_class_ids"].clone(), batch["region_class_ids"].clone()
    worst[:, 2:], best[:, 1] = other[:, 2:], other[:, 1]
    assert torch.equal(logits(model, batch | {"region_class_ids": worst}), logits(model, batch))
    assert not torch.equal(logits(model, batch | {"region_class_ids": best}), logits(model, batch))


def test_of_objects_nothing_but_the_class_is_read_where_there_is_a_grid(make_rival, make_batch):
    model = make_rival("mgcmt", grid_feature_size=6, initializer_range=0.3)
    batch = make_batch(regions=(3, 3, 3, 3)) | {"grid_features": torch.randn(4, 49, 6)}
    other = batch | {"region_features": torch.randn_like(batch["region_features"])}
    assert torch.equal(logits(model, other), logits(model, batch))
    other = batch | {"grid_features": torch.randn(4, 49, 6)}
    assert not torch.equal(logits(model, other), logits(model, batch))


def test_without_a_grid_the_regions_stand_in_its_place(make_rival, make_batch):
    model, batch = make_rival("mgcmt", initializer_range=0.3), make_batch(regions=(3, 3, 3, 3))
    other = batch | {"region_features": torch.randn_like(batch["region_features"])}
    assert not torch.equal(logits(model, other), logits(model, batch))


def test_the_grid_of_a_tweet_without_a_picture_is_not_read(make_rival, make_batch):
    model = make_rival("mgcmt", grid_feature_size=6)
    batch = make_batch(regions=(None, None, None, None))
    poisoned = batch | {"grid_features": torch.full((4, 49, 6), torch.nan)}
    without = {name: value for name, value in batch.items() if not name.startswith(("image", "region"))}
    torch.testing.assert_close(logits(model, poisoned), logits(model, without))


def test_pictures_without_the_grid_that_the_model_reads_are_refused(make_rival, make_batch):
    with pytest.raises(ValueError, match="image_features without grid_features: with grid_feature_size=6"):
        make_rival("mgcmt", grid_feature_size=6)(**make_batch())


def test_the_text_only_tagger_has_no_part_in_the_prediction(make_rival, make_batch):
    model, batch = make_rival("mgcmt"), make_batch()
    before = logits(model, batch)
    loss = model(**batch).loss
    torch.nn.init.normal_(model.auxiliary_classifier.weight)
    assert torch.equal(logits(model, batch), before)
    assert model(**batch).loss != loss


def test_what_umt_does_not_have_starts_as_pytorch_does(make_rival):
    model = make_rival("mgcmt", initializer_range=1e-6)
    wide = {
        name.removesuffix(".mlp.0.weight")
        for name, weight in model.named_parameters()
        if name.endswith(".mlp.0.weight") and weight.detach().std() > 1e-3
    }
    assert wide == {
        "cells.keys_layer", "cells.queries_layer", "objects.keys_layer", "objects.queries_layer",
        "objects.text_reads", "objects.reads_text", "objects.text_reads_reading",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("size", "shape", "message"),
    [
        (None, (4, 49, 6), "grid_features with grid_feature_size=None"),
        (6, (4, 49, 5), r"grid_features has the shape \(4, 49, 5\), expected \(4, 'cells', 6\)"),
    ],
)
def test_a_grid_that_does_not_fit_is_refused(make_rival, make_batch, size, shape, message):
    model = make_rival("mgcmt", grid_feature_size=size)
    with pytest.raises(ValueError, match=message):
        model(**make_batch(), grid_features=torch.zeros(shape))


@pytest.mark.parametrize(("field", "value"), [("num_objects", 0), ("grid_feature_size", 0), ("fusion_dropout", 1.0)])
def test_figures_that_cannot_be_are_refused(field, value):
    with pytest.raises(ValueError, match=f"{field}={value}: must be"):
        MGCMTConfig(**{field: value})


def test_a_run_reads_the_grid_of_the_feature_file(world, tmp_path):
    known = VisualFeatures(world / "features.parquet")
    rng = np.random.default_rng(0)
    rows = [{"id": id_, **known[id_], "grid_features": rng.normal(size=(4, 6))} for id_ in known]
    file = tmp_path / "grid.parquet"
    write_visual_features(file, rows, known.metadata, more={"grid_features": 6})
    settings: dict = {"architecture": "mgcmt", "num_train_epochs": 1, "num_semantic_layers": None}
    settings |= {"visual_features": file}
    results = run_mner(flags(world, tmp_path / "model", grid_feature_size=6, **settings))
    settings = {"num_semantic_layers": None, "text_model": None, "do_train": None, "visual_features": file}
    again = run_mner(flags(world, tmp_path / "again", model_name_or_path=tmp_path / "model", **settings))
    assert again["test"]["types"] == results["test"]["types"]
    features = VisualFeatures(file)
    features.read_more({"grid_features": 6})
    tweets = load_tweets(world / "tweets")["test"].select([0, 11])  # the last has no picture
    batch = HamLearningDataCollator(GridProcessor.from_pretrained(tmp_path / "model"), features)(list(tweets))
    assert batch["grid_features"].shape == (2, 4, 6) and batch["image_mask"].tolist() == [1, 0]
    with pytest.raises(ValueError, match="no column 'grid_features'"):
        settings["visual_features"] = world / "features.parquet"
        run_mner(flags(world, tmp_path / "none", model_name_or_path=tmp_path / "model", **settings))


# ------------------------------------------------------------------------------------------------ neighbours of words


def with_words(make_rival, make_batch, **fields):
    """A model of five known words whose term is no trifle, and a batch with ids of its words."""
    model = make_rival("mgcmt", num_known_words=5, word_vector_size=6, **fields)
    torch.nn.init.normal_(model.word_projection.weight)
    model.word_table[1:] = torch.randn(6, 6, generator=torch.Generator().manual_seed(0))
    batch = make_batch()
    ids = torch.randint(1, 7, batch["labels"].shape, generator=torch.Generator().manual_seed(1))
    return model, batch | {"vocabulary_ids": torch.where(batch["labels"] == -100, 0, ids)}


def test_neighbours_are_the_four_nearest_others_weighted_by_their_cosines():
    angles = torch.tensor([0.0, 0.1, 0.3, 0.7, 1.2, 3.0])
    vectors = torch.stack([angles.cos(), angles.sin()], dim=1) * torch.arange(1, 7)[:, None]
    weights = torch.tensor([angle.cos() for angle in angles[1:5]]).softmax(dim=0)
    torch.testing.assert_close(neighbours_of(vectors)[0], weights @ vectors[1:5])


def test_a_word_of_few_has_the_neighbours_that_there_are():
    vectors = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    assert neighbours_of(vectors).tolist() == [[0, 2], [1, 0]]
    assert neighbours_of(vectors[:1]).tolist() == [[0, 0]]


def test_a_text_file_adds_the_published_number_of_parameters(count_new_parameters):
    added = count_new_parameters("mgcmt", num_known_words=9) - count_new_parameters("mgcmt")
    assert added == 93_152_382 - 92_998_014


def test_neighbours_of_a_word_are_read(make_rival, make_batch):
    model, batch = with_words(make_rival, make_batch)
    other = batch | {"vocabulary_ids": batch["vocabulary_ids"].clone()}
    other["vocabulary_ids"][0, 0] = batch["vocabulary_ids"][0, 0] % 6 + 1
    differences = (logits(model, other) - logits(model, batch)).abs().amax(dim=(1, 2))
    assert (differences > 1e-4).tolist() == [True, False, False, False]
    plain = {name: value for name, value in model.state_dict().items() if not name.startswith("word_")}
    without = make_rival("mgcmt")
    without.load_state_dict(plain)
    torch.nn.init.zeros_(model.word_projection.bias)
    model.word_table.zero_()
    torch.testing.assert_close(logits(model, batch), logits(without, make_batch()))


def test_each_window_has_the_neighbours_of_its_words(make_rival, make_batch):
    model, batch = with_words(make_rival, make_batch)
    windows = torch.tensor([[[0, 5]], [[0, 2]], [[0, 4]], [[0, 1]]])
    mask = batch["labels"] != -100
    expected = logits(model, batch)[mask]
    torch.testing.assert_close(logits(model, batch | {"windows": windows})[mask], expected, atol=1e-5, rtol=1e-4)


def test_vectors_are_not_trained_and_what_reads_them_is(make_rival, make_batch):
    model, batch = with_words(make_rival, make_batch)
    model.train()(**batch).loss.backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []
    assert "word_table" not in dict(model.named_parameters()) and "word_table" in model.state_dict()


def test_a_text_without_the_ids_that_are_read_is_refused(make_rival, make_batch):
    model, _ = with_words(make_rival, make_batch)
    with pytest.raises(ValueError, match="without vocabulary_ids, which a model of 5 known words reads"):
        model(**make_batch())


@pytest.mark.parametrize(("field", "value"), [("num_known_words", -1), ("word_vector_size", 0)])
def test_sizes_of_a_table_that_cannot_be_are_refused(field, value):
    with pytest.raises(ValueError, match=f"{field}={value}: must be at least"):
        MGCMTConfig(**{field: value})


def test_a_run_reads_a_file_of_word_vectors_and_its_folder_answers(world, tmp_path):
    file = tmp_path / "vectors.txt"
    file.write_text("Ann 1 0 0\nbob 0.9 0.1 0\nrome 0 1 0\noslo 0 0.9 0.2\n")
    settings = {"architecture": "mgcmt", "num_train_epochs": 1, "num_semantic_layers": None, "word_vectors": file}
    results = run_mner(flags(world, tmp_path / "model", **settings))
    model = MGCMTForTokenClassification.from_pretrained(tmp_path / "model")
    processor = GridProcessor.from_pretrained(tmp_path / "model")
    assert processor(text="met ANN in rome")["vocabulary_ids"].tolist() == [[1, 2, 1, 4]]
    assert model.word_table.shape == (6, 3)
    vectors = torch.tensor([[1, 0, 0], [0.9, 0.1, 0], [0, 1, 0], [0, 0.9, 0.2]])
    torch.testing.assert_close(model.word_table[2:], neighbours_of(vectors))
    assert not model.word_table[0].any() and model.word_table[1].abs().max() <= 1
    again = run_mner(
        flags(
            world, tmp_path / "again", model_name_or_path=tmp_path / "model", text_model=None, do_train=None,
            num_semantic_layers=None,
        )
    )  # fmt: skip
    assert again["test"]["types"] == results["test"]["types"]
    ner = pipeline(model=str(tmp_path / "model"), trust_remote_code=True)
    assert isinstance(ner("i met ann in rome today"), list)
    other = tmp_path / "other.txt"
    other.write_text(file.read_text().replace("oslo", "bern"))
    with pytest.raises(ValueError, match="word_vectors_sha256"):  # the weights know other words
        more = {"word_vectors": other, "num_train_epochs": 2, "resume_from_checkpoint": True}
        run_mner(flags(world, tmp_path / "model", **settings | more))
