"""MGCMT: cells and objects."""

import numpy as np
import pytest
import torch

from hamlearning.data.features import VisualFeatures, write_visual_features
from hamlearning.data.tweets import load_tweets
from hamlearning.rivals.mgcmt import GridProcessor, MGCMTConfig
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
