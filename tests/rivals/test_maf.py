"""MAF: matching, contrast, and what of them depends on the batch."""

import pytest
import torch
from transformers import BertModel

from hamlearning.rivals.maf import MAFConfig, MAFForTokenClassification
from tiny_world import SIZES


PICTURES = (3, 2, 3, 1)


def test_tweets_swap_what_they_read_in_training_alone(make_rival, make_batch):
    model, batch = make_rival("maf", num_swapped=2, initializer_range=0.3), make_batch(regions=PICTURES)
    asleep = make_rival("maf", num_swapped=0, initializer_range=0.3)
    assert torch.equal(model(**batch).logits, asleep(**batch).logits)
    trained, steady = model.train()(**batch).logits, asleep.train()(**batch).logits
    moved = (trained - steady).abs().amax(dim=(1, 2)) > 1e-6
    assert moved.tolist() == [False, False, True, True]


def test_a_batch_of_no_more_than_those_that_swap_is_left_alone(make_rival, make_batch):
    batch = make_batch(regions=PICTURES)
    model, asleep = make_rival("maf", num_swapped=4).train(), make_rival("maf", num_swapped=0).train()
    assert torch.equal(model(**batch).logits, asleep(**batch).logits)


def test_those_that_swap_are_no_match(make_rival):
    model = make_rival("maf", num_swapped=4).train()
    seen = torch.arange(6.0)[:, None, None].expand(6, 2, 32)
    is_there = torch.tensor([True, True, True, True, True, False])
    states, matches = model._swap(seen, is_there)
    assert states[:, 0, 0].tolist() == [0, 1, 4, 3, 2, 5]  # the last has no picture, and so no partner
    assert matches.tolist() == [1, 1, 0, 1, 0, 1]


def test_the_contrast_is_that_of_the_paper(make_rival):
    texts, pictures = torch.randn(3, 32), torch.randn(3, 32)
    model = make_rival("maf")
    cosines = torch.cosine_similarity(texts[:, None], pictures[None], dim=-1) / 0.179
    expected = -0.7 * cosines.log_softmax(dim=1).diagonal() - 0.3 * cosines.log_softmax(dim=0).diagonal()
    found = model._contrast(texts, pictures, torch.tensor([True, True, True]))
    torch.testing.assert_close(found, expected)


def test_the_contrast_of_a_tweet_does_not_see_tweets_without_pictures(make_rival):
    texts, pictures = torch.randn(3, 32), torch.randn(3, 32)
    model = make_rival("maf")
    among = model._contrast(texts, pictures, torch.tensor([True, False, True]))[::2]
    torch.testing.assert_close(among, model._contrast(texts[::2], pictures[::2], torch.tensor([True, True])))


def test_a_tweet_without_a_picture_adds_nothing_but_its_tags(make_rival, make_batch):
    model = make_rival("maf").train()
    batch = make_batch(regions=(None, None, None, None))
    outputs = model(**batch)
    tags = model._loss(outputs.logits, batch["labels"])
    torch.testing.assert_close(outputs.loss, 0.62 * tags)


def test_only_the_first_positions_tell_whether_text_and_picture_match(make_rival):
    model = make_rival("maf", match_positions=3)
    states, seen, mask = torch.randn(1, 6, 32), torch.randn(1, 6, 32), torch.ones(1, 6, dtype=torch.bool)
    found = model._match_scores(states, seen, mask)
    torch.testing.assert_close(model._match_scores(states[:, :3], seen[:, :3], mask[:, :3]), found)
    shorter = mask.clone()
    shorter[:, 2:] = False
    torch.testing.assert_close(
        model._match_scores(states, seen, shorter), model._match_scores(states[:, :2], seen[:, :2], mask[:, :2])
    )


@pytest.mark.parametrize("weights", [torch.float32, torch.bfloat16])
def test_the_match_is_scored_in_float32(make_rival, weights):
    model = make_rival("maf", initializer_range=0.3).to(weights)
    states = torch.randn(2, 4, 32, dtype=weights)
    mask = torch.ones(2, 4, dtype=torch.bool)
    with torch.autocast("cpu", torch.bfloat16):
        found = model._match_scores(states, states, mask)
    expected = model.float()._match_scores(states.float(), states.float(), mask)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_the_pooler_is_the_one_that_the_text_encoder_learned(world):
    encoder = BertModel.from_pretrained(world / "text_encoder")
    sizes = {"image_feature_size": SIZES["image_feature_size"], "region_feature_size": SIZES["region_feature_size"]}
    model = MAFForTokenClassification.from_text_pretrained(str(world / "text_encoder"), **sizes)
    assert torch.equal(model.pooler["text_model"].dense.weight, encoder.pooler.dense.weight)


def test_a_text_encoder_without_a_pooler_gets_one(make_rival, make_batch):
    outputs = make_rival("maf", text="distilbert").train()(**make_batch(regions=PICTURES))
    assert torch.isfinite(outputs.loss)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("auxiliary_weight", 1.5, "auxiliary_weight=1.5: must be a share"),
        ("contrast_temperature", 0.0, "contrast_temperature=0.0: must be more than 0."),
        ("match_positions", 0, "match_positions=0: must be at least 1."),
    ],
)
def test_figures_that_cannot_be_are_refused(field, value, message):
    with pytest.raises(ValueError, match=message):
        MAFConfig(**{field: value})
