"""Which part of the picture decided an entity: occlusion, against the network itself with that part taken away."""

import math

import pytest
import torch
from test_pipeline import PICTURES, TEXT, VISION, make_processor, rounded, same, tweets, vision  # noqa: F401
from test_windows import long_batch  # noqa: F401

from pipeline_hamlearning import HamLearningPipeline


REGIONS = ("region_features", "region_boxes", "region_class_ids", "region_mask")


@pytest.fixture
def ner(make_model, vision):  # noqa: F811
    processor = make_processor(**VISION, max_length=64)
    processor.vision_model = vision
    return HamLearningPipeline(model=make_model(**VISION), processor=processor)


def without_region(batch, region):
    """The batch as if no picture had this region."""
    kept = [place for place in range(batch["region_mask"].shape[1]) if place != region]
    return batch | {name: batch[name][:, kept] for name in REGIONS}


def without_pictures(batch):
    return {name: batch[name] for name in ("input_ids", "attention_mask", "word_ids")}


def probabilities_of(model, batch, path):
    """Probability of exactly the entities of `path`, at their first words, as the model has it for `batch`."""
    outputs = model(**batch)
    mask = outputs.predictions != -100
    mask[:, 0] = True
    return model.crf.span_probabilities(outputs.logits, path.clamp(min=0), mask, *model._tag_tables()), outputs


# -------------------------------------------------------------------------------------------------------- the network


def test_with_its_picture_a_tweet_is_answered_as_ever(make_model, batch):
    model = make_model()
    explanation, outputs = model.explain(**batch), model(**batch)
    assert torch.equal(explanation.predictions, outputs.predictions)
    torch.testing.assert_close(explanation.scores, outputs.scores, atol=1e-5, rtol=0)
    torch.testing.assert_close(explanation.relevance, outputs.relevance, atol=1e-5, rtol=0)


@pytest.mark.parametrize("region", [0, 1, 2])
def test_an_effect_is_the_fall_of_the_log_probability_where_the_region_is_taken_away(make_model, batch, region):
    model = make_model()
    explanation = model.explain(**batch)
    before, _ = probabilities_of(model, batch, explanation.predictions)
    after, outputs = probabilities_of(model, without_region(batch, region), explanation.predictions)
    begins = before > 0
    assert begins.any()
    effects = explanation.region_effects[..., region]
    torch.testing.assert_close(effects[begins], (before.log() - after.log())[begins], atol=1e-4, rtol=0)
    assert not effects[~begins].any()
    assert torch.equal(explanation.region_predictions[:, region], outputs.predictions)


def test_the_effect_of_the_picture_is_that_of_a_tweet_without_one(make_model, batch):
    model = make_model()
    explanation = model.explain(**batch)
    before, _ = probabilities_of(model, batch, explanation.predictions)
    after, outputs = probabilities_of(model, without_pictures(batch), explanation.predictions)
    begins = before > 0
    expected = (before.log() - after.log())[begins]
    torch.testing.assert_close(explanation.picture_effects[begins], expected, atol=1e-4, rtol=0)
    assert torch.equal(explanation.picture_predictions, outputs.predictions)
    assert not explanation.picture_effects[1].any()  # which has no picture


def test_each_text_is_encoded_once(make_model, batch):
    model, sizes = make_model(), []
    hook = model.model.text_model.register_forward_hook(lambda *call: sizes.append(len(call[2].last_hidden_state)))
    model.explain(**batch)
    hook.remove()
    assert sizes == [len(batch["input_ids"])]


def test_padding_has_no_effect(make_model, batch):
    effects = make_model().explain(**batch).region_effects
    padding = (batch["region_mask"] == 0)[:, None].expand_as(effects)
    assert padding.any() and not effects[padding].any()


@pytest.mark.parametrize("left_out", ["region_mask", "image_mask", "image_sizes", "region_boxes"])
def test_what_is_left_out_is_filled_in_as_ever(make_model, make_batch, left_out):
    model, batch = make_model(), make_batch(words=(4, 3), regions=(2, 2))
    batch = {name: value for name, value in batch.items() if name not in (left_out, "labels")}
    explanation = model.explain(**batch)
    torch.testing.assert_close(explanation.scores, model(**batch).scores, atol=1e-5, rtol=0)
    assert explanation.region_effects.any()


def test_a_picture_without_regions_has_an_effect_as_a_whole(make_model, make_batch):
    batch = make_batch(words=(4, 3), regions=(0, 0))
    del batch["labels"]
    explanation = make_model().explain(**batch)
    assert explanation.region_effects.shape == (2, 4, 0) and explanation.picture_effects.any()


@pytest.mark.parametrize("switches", [{"use_vision": False}, {}], ids=["text alone", "no picture"])
def test_without_pictures_there_is_nothing_to_explain(make_model, batch, switches):
    model, texts = make_model(**switches), without_pictures(batch)
    explanation, outputs = model.explain(**texts), model(**texts)
    assert torch.equal(explanation.scores, outputs.scores)
    assert explanation.region_effects is explanation.picture_effects is explanation.region_predictions is None


@pytest.mark.parametrize("switches", [{"use_relevance": False}, {"use_spatial_encoder": False}, {"use_crf": False}])
def test_every_switch_can_be_explained(make_model, batch, switches):
    model = make_model(**switches)
    explanation = model.explain(**batch)
    before, _ = probabilities_of(model, batch, explanation.predictions)
    after, _ = probabilities_of(model, without_region(batch, 0), explanation.predictions)
    begins = before > 0
    expected = (before.log() - after.log())[begins]
    torch.testing.assert_close(explanation.region_effects[..., 0][begins], expected, atol=1e-4, rtol=0)


def test_a_text_in_windows_is_explained_as_a_whole(make_model, long_batch):  # noqa: F811
    model, batch = make_model(), {name: value for name, value in long_batch().items() if name != "labels"}
    explanation, outputs = model.explain(**batch), model(**batch)
    assert torch.equal(explanation.predictions, outputs.predictions)
    torch.testing.assert_close(explanation.relevance, outputs.relevance, atol=1e-5, rtol=0)
    before, _ = probabilities_of(model, batch, explanation.predictions)
    after, without = probabilities_of(model, without_region(batch, 1), explanation.predictions)
    begins = before > 0
    expected = (before.log() - after.log())[begins]
    torch.testing.assert_close(explanation.region_effects[..., 1][begins], expected, atol=1e-4, rtol=0)
    assert torch.equal(explanation.region_predictions[:, 1], without.predictions)


def test_the_effect_on_a_sure_entity_is_no_rounding(make_model, make_batch):
    """Its probability is 1 in float32 whatever is hidden."""
    batch, model = make_batch(words=(1, 1, 1, 1), regions=(3, 3, 3, 3)), make_model()
    del batch["labels"]
    with torch.no_grad():
        model.classifier.bias[1] += 20
    explanation = model.explain(**batch)
    exact = []
    for inputs in (batch, without_region(batch, 0)):  # of one word: the softmax with start and end
        scores = model(**inputs).logits[:, 0].double() + model.crf.start_transitions + model.crf.end_transitions
        exact.append(scores.log_softmax(-1).gather(1, explanation.predictions)[:, 0])
    assert (explanation.scores[:, 0] > 0.999999).all()
    effects = explanation.region_effects[:, 0, 0].double()
    torch.testing.assert_close(effects, exact[0] - exact[1], rtol=1e-2, atol=1e-14)


def test_a_model_in_training_mode_explains_nothing(make_model, batch):
    with pytest.raises(ValueError, match="training mode answers by chance"):
        make_model().train().explain(**batch)


def test_several_pictures_and_attentions_are_refused(make_model, batch):
    model = make_model()
    model.set_attn_implementation("eager")
    with pytest.raises(ValueError, match="num_pictures=2 with hidden states or attentions"):
        model.model(**batch, num_pictures=2, output_attentions=True)


# ------------------------------------------------------------------------------------------------------- the pipeline


def test_the_pipeline_explains_each_entity(ner):
    tweet = {"text": TEXT, "image": PICTURES[0]}
    explained, plain = ner(tweet, explain=True), ner(tweet)
    keys = {"picture_effect", "regions"}
    assert plain and same([{k: v for k, v in e.items() if k not in keys} for e in explained], plain)
    blind = {(e["word_start"], e["word_end"]): e["entity_group"] for e in ner(TEXT)}
    for entity in explained:
        effect = entity["picture_effect"]
        assert effect["with"] == entity["score"]
        assert math.isclose(effect["without"], effect["with"] * math.exp(-effect["effect"]), rel_tol=1e-5)
        assert effect["entity_group"] == blind.get((entity["word_start"], entity["word_end"]))
        assert len(entity["regions"]) == 15  # of the grid
        first = entity["regions"][0]
        assert first.keys() == {"box", "class_name", "effect", "entity_group"}
        assert first["class_name"] == "region" and rounded(first["box"]) == [0.1, 0.1667, 0.3333, 0.2]


def test_a_tweet_without_a_picture_has_nothing_to_explain(ner):
    explained = ner([TEXT, {"text": TEXT, "image": PICTURES[0]}], explain=True, batch_size=2)
    assert all(entity["picture_effect"] is entity["regions"] is None for entity in explained[0])
    assert all(entity["picture_effect"] is None for entity in ner(TEXT, explain=True))
    assert explained[1] and all(entity["regions"] for entity in explained[1])


@pytest.mark.parametrize("batch_size", [1, 7])
def test_in_a_batch_each_tweet_is_explained_as_alone(ner, batch_size):
    several = tweets(7)
    together = ner(several, explain=True, batch_size=batch_size)
    assert same(together, [ner(tweet, explain=True) for tweet in several])


def test_words_are_not_explained(ner):
    with pytest.raises(ValueError, match="explain=True explains entities"):
        ner(TEXT, explain=True, aggregation_strategy="none")


def test_explain_is_a_switch(ner):
    with pytest.raises(ValueError, match="explain='yes': must be True or False"):
        ner(TEXT, explain="yes")


def test_a_model_of_text_alone_answers_whatever_picture_comes_with_the_text(make_model, make_batch):
    model, batch = make_model(use_vision=False), {n: v for n, v in make_batch().items() if n != "labels"}
    explanation = model.explain(**batch)
    assert explanation.picture_effects is None
    assert torch.equal(explanation.predictions, model(**batch).predictions)
