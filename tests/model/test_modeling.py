"""The network: what it takes and gives, its switches, its invariances, and how it is saved, loaded and trained."""

import inspect
import json
import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoConfig, BertModel

from configuration_hamlearning import HamLearningConfig
from modeling_hamlearning import (
    FULL_ATTENTION_ENCODERS,
    HamLearningForTokenClassification,
    HamLearningModel,
    spatial_relations,
)


TEXT_MODELS = ("bert", "roberta", "mpnet", "distilbert", "modernbert")
VISUAL_INPUTS = (
    "image_features",
    "region_features",
    "region_boxes",
    "region_class_ids",
    "region_mask",
    "image_mask",
    "image_sizes",
)
REGION_INPUTS = VISUAL_INPUTS[1:5]
KEY_BIASES = ("key.bias", "attn.k.bias", "k_lin.bias", "k_proj.bias")
BERT_ROW = {"num_text_layers": 0, "num_ffnn_layers": 0, "use_crf": False, "use_vision": False}
SWITCHES = {
    "full model": {},
    "w/o RGCN": {"use_spatial_encoder": False},
    "w/o ViT": {"use_semantic_encoder": False},
    "w/o RM": {"use_relevance": False},
    "w/o ViT and RM": {"use_semantic_encoder": False, "use_relevance": False},
    "one round": {"num_interaction_layers": 1},
    "one round, one view": {"num_interaction_layers": 1, "use_spatial_encoder": False},
    "two rounds": {"num_interaction_layers": 2},
    "weights of each round": {"share_interaction_layers": False},
    "no textual Transformer": {"num_text_layers": 0},
    "two textual Transformer layers": {"num_text_layers": 2},
    "no FFNN": {"num_ffnn_layers": 0},
    "FFNN of one layer": {"num_ffnn_layers": 1},
    "one layer a view": {"num_semantic_layers": 1, "num_spatial_layers": 1},
    "no CRF": {"use_crf": False},
    "text alone": {"use_vision": False},
    "BERT-CRF": {**BERT_ROW, "use_crf": True},
    "BERT": BERT_ROW,
}
OURS = {  # what the paper's network has not
    "matching apart": {"relevance_matching": "apart"},
    "matching in the gate": {"relevance_matching": "gate"},
    "C forced": {"forced_relevance": 0.5},
    "C forced, matching in the gate": {"forced_relevance": 0.5, "relevance_matching": "gate"},
}
each_switch = pytest.mark.parametrize("switches", SWITCHES.values(), ids=SWITCHES)
each_switch_and_ours = pytest.mark.parametrize("switches", (SWITCHES | OURS).values(), ids=SWITCHES | OURS)


def run(model, batch, **changes):
    with torch.no_grad():
        return model(**{**batch, **changes})


def without(batch, *names):
    return {name: value for name, value in batch.items() if name not in names}


def gradients(model, batch):
    model.zero_grad(set_to_none=True)
    model(**batch).loss.backward()
    return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.requires_grad}


def cast(batch, dtype):
    return {name: value.to(dtype) if value.is_floating_point() else value for name, value in batch.items()}


def assert_no_parameter_is_dead(model, batch):
    """In double precision, so that a gradient that is zero but for rounding is told from a small one."""
    for name, gradient in gradients(model.double().train(), cast(batch, torch.double)).items():
        assert gradient is not None, name
        # A bias of the keys is taken out by the softmax. Text encoders have some, the new layers have none.
        if not (name.startswith("model.text_model") and name.endswith(KEY_BIASES)):
            assert float(gradient.abs().max()) > 1e-9, name


def assert_equal_outputs(got, expected, atol=1e-5):
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(got[name], value, atol=atol, rtol=0, msg=lambda m, name=name: f"{name}: {m}")


# --------------------------------------------------------------------------------------------------- configuration


def test_the_default_config_is_the_paper_s():
    config = HamLearningConfig()
    expected = {
        "hidden_size": 768,
        "num_attention_heads": 12,
        "num_labels": 9,
        "num_text_layers": 1,
        "num_semantic_layers": 4,
        "num_spatial_layers": 2,
        "num_ffnn_layers": 2,
        "num_interaction_layers": 3,
        "share_interaction_layers": True,
        "use_vision": True,
        "use_semantic_encoder": True,
        "use_spatial_encoder": True,
        "use_relevance": True,
        "use_crf": True,
        "image_feature_size": 2048,
        "region_feature_size": 2048,
        "num_classes": 1600,
        "class_embedding_size": 300,
        "dropout": 0.1,
        "picture_dropout": 0.0,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-12,
    }
    assert {name: getattr(config, name) for name in expected} == expected
    assert config.text_config.model_type == "bert"
    assert list(config.id2label.values()) == "O B-PER I-PER B-LOC I-LOC B-ORG I-ORG B-MISC I-MISC".split()


@pytest.mark.parametrize("fields", [{}, {"num_labels": 5}, {"id2label": {0: "O", 1: "B-X", 2: "I-X"}}], ids=str)
def test_the_ids_of_the_tags_are_known_both_ways(fields):
    config = HamLearningConfig(**fields)
    assert config.label2id == {tag: index for index, tag in config.id2label.items()}


def test_ids_of_the_tags_that_contradict_each_other_are_refused():
    with pytest.raises(ValueError, match=r"id2label=\{0: 'O', 1: 'B-X'\} contradicts label2id=\{'O': 1, 'B-X': 0\}"):
        HamLearningConfig(id2label={0: "O", 1: "B-X"}, label2id={"O": 1, "B-X": 0})


@pytest.mark.parametrize("text", TEXT_MODELS)
def test_a_config_is_saved_and_loaded_whole(tiny_text_configs, tmp_path, text):
    config = HamLearningConfig(
        text_config=tiny_text_configs[text], id2label={0: "O", 1: "B-X", 2: "I-X"}, use_relevance=False, dropout=0.3
    )
    config.save_pretrained(tmp_path)
    loaded = HamLearningConfig.from_pretrained(tmp_path)
    assert loaded.to_dict() == config.to_dict()
    assert type(loaded.text_config) is type(config.text_config)
    assert (loaded.hidden_size, loaded.num_attention_heads, loaded.num_labels) == (32, 4, 3)


def test_a_saved_config_names_the_code_of_all_four_auto_classes(make_model, tmp_path):
    make_model().save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["auto_map"] == {
        "AutoConfig": "configuration_hamlearning.HamLearningConfig",
        "AutoModel": "modeling_hamlearning.HamLearningModel",
        "AutoModelForTokenClassification": "modeling_hamlearning.HamLearningForTokenClassification",
        "AutoProcessor": "processing_hamlearning.HamLearningProcessor",
    }


def test_a_config_without_any_view_names_the_switch_to_use():
    with pytest.raises(ValueError, match="use_vision"):
        HamLearningConfig(use_semantic_encoder=False, use_spatial_encoder=False)
    alone = HamLearningConfig(use_semantic_encoder=False, use_spatial_encoder=False, use_vision=False)
    assert alone.visual_views == ()


@pytest.mark.parametrize(
    "field, value",
    [
        ("num_interaction_layers", 0),
        ("num_text_layers", -1),
        ("num_ffnn_layers", -1),
        ("num_semantic_layers", 0),
        ("num_spatial_layers", 0),
        ("num_classes", 0),
        ("image_feature_size", 0),
        ("dropout", 1.0),
        ("picture_dropout", -0.1),
    ],
)
def test_a_field_out_of_range_is_named_with_its_value(field, value):
    with pytest.raises(ValueError, match=f"{field}={value}"):
        HamLearningConfig(**{field: value})


# --------------------------------------------------------------------------------------------------------- interface


@pytest.mark.parametrize("text", TEXT_MODELS)
def test_shapes_of_the_outputs(make_model, make_batch, text):
    batch = make_batch(words=(5, 2, 4, 1), regions=(3, None, 0, 2))
    outputs = run(make_model(text), batch)
    words = batch["labels"] != -100
    assert outputs.loss.shape == ()
    assert outputs.logits.shape == (4, 5, 9)
    assert outputs.predictions.shape == outputs.scores.shape == (4, 5)
    assert outputs.relevance.shape == (4, 2)
    assert torch.equal(outputs.predictions == -100, ~words)
    assert not outputs.scores[~words].any()
    assert ((0 <= outputs.scores) & (outputs.scores <= 1)).all()
    assert (outputs.relevance.abs() < 1).all() and not outputs.relevance[1].any()
    assert outputs.relevance[[0, 2, 3]].all()


def test_shapes_of_the_trunk_s_outputs(make_model, make_batch):
    batch = without(make_batch(words=(5, 2), regions=(3, None)), "labels")
    outputs = run(make_model(model_class=HamLearningModel), batch, output_hidden_states=True)
    assert outputs.last_hidden_state.shape == (2, 5, 32)
    assert outputs.word_mask.tolist() == [[True] * 5, [True, True, False, False, False]]
    # After the text encoder, the textual Transformer, Eq 12 and each of three rounds.
    assert [states.shape for states in outputs.hidden_states] == [(2, 5, 32)] * 6
    assert torch.equal(outputs.hidden_states[-1], outputs.last_hidden_state)


def test_predictions_and_scores_are_for_eval_mode_only(make_model, make_batch):
    outputs = make_model().train()(**make_batch())
    assert outputs.predictions is None and outputs.scores is None and outputs.loss is not None


@pytest.mark.parametrize("model_class", [HamLearningModel, HamLearningForTokenClassification])
def test_no_argument_but_labels_is_taken_for_a_label(model_class):
    names = list(inspect.signature(model_class.forward).parameters)
    assert [name for name in names if "label" in name and name != "labels"] == []
    assert "kwargs" not in names


def test_the_arguments_stand_in_the_published_order():
    names = list(inspect.signature(HamLearningForTokenClassification.forward).parameters)
    assert names[1:12] == ["input_ids", "attention_mask", "word_ids", *VISUAL_INPUTS, "labels"]


def test_a_word_is_the_sum_of_its_sub_tokens_and_cls_stands_before_the_words(make_model):
    model = make_model(model_class=HamLearningModel)
    input_ids = torch.tensor([[2, 10, 11, 12, 13, 3]])
    word_ids = torch.tensor([[0, 1, 1, 2, 2, -1]])
    states = model.text_model(input_ids).last_hidden_state[0]
    rows, word_mask = model.encode_text(input_ids, None, word_ids, None)
    torch.testing.assert_close(rows[0], torch.stack([states[0], states[1] + states[2], states[3] + states[4]]))
    assert word_mask.tolist() == [[True, True]]


def test_without_word_ids_every_position_is_a_word(make_model, make_batch):
    model, batch = make_model(**BERT_ROW), make_batch()
    outputs = run(model, {name: batch[name] for name in ("input_ids", "attention_mask")})
    states = model.model.text_model(batch["input_ids"], batch["attention_mask"]).last_hidden_state
    torch.testing.assert_close(outputs.logits, model.classifier(states))
    assert torch.equal(outputs.predictions == -100, batch["attention_mask"] == 0)


def test_without_word_ids_the_whole_network_gives_a_row_a_position(make_model, make_batch):
    model, batch = make_model(), without(make_batch(), "word_ids", "labels")
    outputs = run(model, batch)
    assert outputs.logits.shape == (*batch["input_ids"].shape, 9)
    assert torch.equal(outputs.predictions == -100, batch["attention_mask"] == 0)


def test_a_tweet_without_words_has_no_predictions_and_no_loss(make_model, make_batch):
    model = make_model()
    batch = make_batch(words=(3, 0, 2), regions=(2, 1, None))
    outputs = run(model, batch)
    assert outputs.predictions[1].tolist() == [-100] * 3 and not outputs.scores[1].any()
    rest = {name: value[[0, 2]] for name, value in batch.items()}
    assert float(outputs.loss) * 3 == pytest.approx(float(run(model, rest).loss) * 2, rel=1e-5)
    assert all(torch.isfinite(gradient).all() for gradient in gradients(model.train(), batch).values())


@pytest.mark.parametrize("training", [False, True])
def test_a_batch_without_any_word_runs(make_model, make_batch, training):
    outputs = make_model().train(training)(**make_batch(words=(0, 0), regions=(1, None)))
    assert outputs.logits.shape == (2, 1, 9) and not outputs.loss.any()


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", VISUAL_INPUTS)
def test_a_visual_input_of_the_wrong_shape_is_named(make_model, make_batch, name, training):
    model, batch = make_model().train(training), make_batch()
    wrong = batch[name][:, :1] if name == "image_sizes" else batch[name][..., :-1]
    with pytest.raises(ValueError, match=name):
        model(**{**batch, name: wrong})
    with pytest.raises(ValueError, match=name):
        model(**{**batch, name: batch[name][:3]})


@pytest.mark.parametrize("training", [False, True])
def test_regions_without_their_picture_are_refused(make_model, make_batch, training):
    with pytest.raises(ValueError, match="image_features"):
        make_model().train(training)(**without(make_batch(), "image_features"))


def test_what_describes_regions_has_defaults(make_model, make_batch):
    """Without boxes, classes, mask and sizes: whole pictures, of no class, none of them padding, square."""
    model, batch = make_model(), make_batch(regions=(2, 2, 2, 2))
    explicit = {
        "region_boxes": torch.tensor([0.5, 0.5, 1.0, 1.0]).expand(4, 2, 4),
        "region_class_ids": torch.full((4, 2), 7),
        "region_mask": torch.ones(4, 2),
        "image_mask": torch.ones(4),
        "image_sizes": torch.full((4, 2), 100),
    }
    assert_equal_outputs(run(model, without(batch, *explicit)), run(model, batch, **explicit))


def test_half_precision_and_double_inputs_are_read(make_model, make_batch):
    model, batch = make_model(), make_batch()
    for dtype in (torch.float64, torch.float16, torch.bfloat16):
        outputs = run(model, cast(batch, dtype))
        assert outputs.logits.dtype == torch.float32
        assert torch.isfinite(outputs.logits).all()


# ---------------------------------------------------------------------------------------------------------- switches


@each_switch
def test_every_switch_takes_a_training_step(make_model, make_batch, switches):
    model, batch = make_model(**switches).train(), make_batch()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    before = model(**batch).loss
    before.backward()
    optimizer.step()
    assert float(model(**batch).loss.detach()) < float(before.detach())


@each_switch_and_ours
def test_every_trainable_parameter_has_a_gradient_with_every_switch(make_model, make_batch, switches):
    assert_no_parameter_is_dead(make_model(**switches, initializer_range=0.2), make_batch())


@pytest.mark.parametrize("text", TEXT_MODELS)
def test_every_trainable_parameter_has_a_gradient_with_every_text_encoder(make_model, make_batch, text):
    assert_no_parameter_is_dead(make_model(text, initializer_range=0.2), make_batch())


@pytest.mark.parametrize("given", ["no visual argument", "pictures masked out"])
@each_switch_and_ours
def test_a_training_batch_without_any_picture_gives_every_parameter_a_gradient(
    make_model, make_batch, switches, given
):
    batch = make_batch(words=(3, 2), regions=(None, None))
    if given == "no visual argument":
        batch = without(batch, *VISUAL_INPUTS)
    for name, gradient in gradients(make_model(**switches).train(), batch).items():
        assert gradient is not None and torch.isfinite(gradient).all(), name


@each_switch
def test_relevance_has_a_column_a_view(make_model, make_batch, switches):
    outputs = run(make_model(**switches), make_batch())
    if not switches.get("use_vision", True) or not switches.get("use_relevance", True):
        assert outputs.relevance is None
    else:
        num_views = switches.get("use_semantic_encoder", True) + switches.get("use_spatial_encoder", True)
        assert outputs.relevance.shape == (4, num_views)


@pytest.mark.parametrize(
    "switches, gone",
    [
        ({"use_spatial_encoder": False}, ["spatial", "fusion", "relevance.1", "vision_layers.0.1"]),
        ({"use_semantic_encoder": False}, ["semantic", "fusion", "relevance.1", "vision_layers.0.1"]),
        ({"use_relevance": False}, ["relevance"]),
        ({"num_interaction_layers": 1}, ["vision_layers"]),
        ({"num_text_layers": 0}, ["model.text_layers"]),
        ({"num_ffnn_layers": 0}, ["ffnn"]),
        ({"use_vision": False}, ["visual", "semantic", "spatial", "relevance", "local_global", "interaction"]),
    ],
)
def test_what_is_switched_off_has_no_parameters(make_model, switches, gone):
    with_all, names = dict(make_model().named_parameters()), dict(make_model(**switches).named_parameters())
    for part in gone:
        assert any(part in name for name in with_all), part
        assert not [name for name in names if part in name]


@pytest.mark.parametrize(
    "switches, text_layers, vision_layers",
    [
        ({}, 1, 1),
        ({"num_interaction_layers": 1}, 1, 0),
        ({"num_interaction_layers": 5}, 1, 1),
        ({"share_interaction_layers": False}, 3, 2),
        ({"share_interaction_layers": False, "num_interaction_layers": 1}, 1, 0),
    ],
)
def test_number_of_layers_of_the_rounds(make_model, switches, text_layers, vision_layers):
    interaction = make_model(**switches).model.interaction
    assert (len(interaction.text_layers), len(interaction.vision_layers)) == (text_layers, vision_layers)
    assert all(len(layers) == 2 for layers in interaction.vision_layers)


def test_the_bert_row_trains_the_encoder_and_the_classifier_alone(make_model):
    model = make_model(**BERT_ROW)
    trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    text = {f"model.text_model.{name}" for name, _ in model.model.text_model.named_parameters()}
    assert trainable == text | {"classifier.weight", "classifier.bias"}
    assert not any(parameter.any() for parameter in model.crf.parameters())


def test_text_alone_reads_no_visual_input(make_model, make_batch):
    model, batch = make_model(use_vision=False), make_batch()
    assert torch.equal(run(model, batch).logits, run(model, without(batch, *VISUAL_INPUTS)).logits)


# --------------------------------------------------------------------------------------------------------- equations


def test_the_spatial_view_sums_over_neighbours_with_one_matrix_a_relation(make_model, make_batch):
    """Eq 5-7, one edge at a time, from [x_c, y_c, h, w, v] on."""
    encoder = make_model(num_spatial_layers=1).model.spatial_encoder
    (layer,) = encoder.layers
    batch = make_batch(regions=(8, 3, 0, None))
    boxes, sizes, mask = batch["region_boxes"], batch["image_sizes"], batch["region_mask"]
    relations = spatial_relations(boxes, sizes, mask)
    nodes = torch.randn(4, 9, 32)
    with torch.no_grad():
        layer.relation_bias.normal_()
        got = encoder(nodes, boxes, sizes, mask)
        boxes = torch.cat([torch.tensor([0.5, 0.5, 1.0, 1.0]).expand(4, 1, 4), boxes], dim=1)
        nodes = encoder.box_projection(torch.cat([boxes, nodes], dim=-1))
        for b, i in ((b, i) for b in range(4) for i in range(9)):
            message = layer.relation_bias.clone()
            for j, relation in enumerate(relations[b, i].tolist()):
                if relation:
                    message += nodes[b, j] @ layer.relation_weight[relation - 1]
            message = message.relu()
            gate = layer.gate(torch.cat([message, nodes[b, i]])).sigmoid()
            torch.testing.assert_close(got[b, i], encoder.norm(nodes[b, i] + gate * message))


def test_a_relation_s_matrix_learns_where_the_relation_occurs_alone(make_model, make_batch):
    model, batch = make_model().train(), make_batch(regions=(3, None, 0, 2))
    relations = spatial_relations(batch["region_boxes"], batch["image_sizes"], batch["region_mask"])
    occurring = set(relations[batch["image_mask"] == 1].unique().tolist()) - {0}
    assert 3 <= len(occurring) < 11
    gradient = gradients(model, batch)["model.spatial_encoder.layers.0.relation_weight"]
    assert {index + 1 for index in range(11) if gradient[index].any()} == occurring


def test_relevance_is_a_scaled_bilinear_form_and_measures_the_picture(make_model):
    """Eq 8-9."""
    layer = make_model().model.relevance[0]
    sentence, picture = torch.randn(3, 32), torch.randn(3, 32)
    with torch.no_grad():
        relevance, measure = layer(sentence, picture)
        for b in range(3):
            c = torch.tanh(picture[b] @ layer.match.weight @ sentence[b] / 32**0.5)
            m = torch.tanh(layer.text.weight @ sentence[b] + c * (layer.picture.weight @ picture[b]))
            torch.testing.assert_close(relevance[b], c)
            torch.testing.assert_close(measure[b], m)


def test_both_views_enter_relevance_alike(make_model, make_batch):
    """Each view ends in a LayerNorm; without one the tanh of Eq 8 would be saturated from the start."""
    model, batch = make_model().model, make_batch(regions=(4, 4, 4, 4))
    names = ("image_features", *REGION_INPUTS, "image_sizes")
    with torch.no_grad():
        views, _ = model.encode_picture(**{k: batch[k] for k in names}, has_picture=batch["image_mask"].bool())
    for view in views:
        torch.testing.assert_close(view.mean(-1), torch.zeros(4, 5), atol=1e-5, rtol=0)
        torch.testing.assert_close(view.pow(2).mean(-1), torch.ones(4, 5), atol=1e-2, rtol=0)


def test_fusion_mixes_the_views_by_a_gate_between_zero_and_one(make_model):
    """Eq 13-14."""
    fusion = make_model().model.interaction.fusion
    semantic, spatial = torch.randn(2, 3, 32), torch.randn(2, 3, 32)
    with torch.no_grad():
        alpha = torch.tanh(semantic @ fusion.semantic.weight.T + spatial @ fusion.spatial.weight.T)
        alpha = torch.sigmoid(alpha @ fusion.gate.weight.T)
        torch.testing.assert_close(fusion(semantic, spatial), alpha * semantic + (1 - alpha) * spatial)


def test_the_three_parts_of_a_round_read_the_state_of_the_previous_round(make_model):
    """Eq 15, two rounds by hand."""
    interaction = make_model(num_interaction_layers=2).model.interaction
    words, views = torch.randn(2, 4, 32), [torch.randn(2, 3, 32) for _ in range(2)]
    word_mask, region_mask = torch.ones(2, 4, dtype=torch.bool), torch.ones(2, 3, dtype=torch.bool)
    with torch.no_grad():
        states, _ = interaction(words, word_mask, views, region_mask, torch.tensor([True, True]))
        text = interaction.text_layers[0]
        first = text(words, interaction.fusion(*views), region_mask)[0]
        layers = interaction.vision_layers[0]
        updated = [layer(view, words, word_mask)[0] for layer, view in zip(layers, views, strict=True)]
        second = text(first, interaction.fusion(*updated), region_mask)[0]
    torch.testing.assert_close(states[0], first)
    torch.testing.assert_close(states[1], second)


def test_a_tweet_without_a_picture_goes_through_the_rounds_without_attention(make_model):
    interaction = make_model().model.interaction
    words = torch.randn(1, 4, 32)
    word_mask = torch.ones(1, 4, dtype=torch.bool)
    with torch.no_grad():
        states, _ = interaction(words, word_mask, [], None, None)
        layer = interaction.text_layers[0]
        for round_ in range(3):
            words = layer.attention_norm(words)
            words = layer.output_norm(words + layer.mlp(words))
            torch.testing.assert_close(states[round_], words)


def test_activation_and_dropout_stand_between_the_linear_layers_of_the_ffnn(make_model):
    """Eq 12."""
    kinds = [type(layer) for layer in make_model(num_ffnn_layers=3, hidden_act="relu").model.ffnn]
    assert kinds == [nn.Linear, nn.ReLU, nn.Dropout, nn.Linear, nn.ReLU, nn.Dropout, nn.Linear]


def test_relevance_and_fusion_are_matrices_without_a_bias(make_model):
    """Eq 8, 9 and 13."""
    model = make_model().model
    parts = [*model.relevance.named_parameters(), *model.interaction.fusion.named_parameters()]
    assert len(parts) == 2 * 3 + 3 and all(name.endswith(".weight") for name, _ in parts)


# ------------------------------------------------------------------------------------------------------- invariances


def test_token_types_reach_the_text_encoder(make_model, make_batch):
    model, batch = make_model(), make_batch()
    types = torch.ones_like(batch["input_ids"])
    assert torch.equal(run(model, batch, token_type_ids=0 * types).logits, run(model, batch).logits)
    assert not torch.equal(run(model, batch, token_type_ids=types).logits, run(model, batch).logits)


@pytest.mark.parametrize("text", TEXT_MODELS)
def test_a_tweet_s_output_does_not_depend_on_its_batch_or_on_padding(make_model, make_batch, text):
    model = make_model(text)
    words, regions = (5, 2, 4, 1), (3, None, 0, 2)
    batch = without(make_batch(words, regions), "labels")
    together = run(model, batch)
    for b, (num_words, num_regions) in enumerate(zip(words, regions, strict=True)):
        size = int(batch["attention_mask"][b].sum())
        alone = {}
        for name, value in batch.items():
            length = size if name in ("input_ids", "attention_mask", "word_ids") else num_regions or 0
            is_sequence = name not in ("image_features", "image_mask", "image_sizes")
            alone[name] = value[b : b + 1, :length] if is_sequence else value[b : b + 1]
        alone = run(model, alone)
        assert alone.logits.shape[1] == num_words
        torch.testing.assert_close(together.logits[b : b + 1, :num_words], alone.logits, atol=1e-5, rtol=0)
        torch.testing.assert_close(together.scores[b : b + 1, :num_words], alone.scores, atol=1e-5, rtol=0)
        torch.testing.assert_close(together.relevance[b : b + 1], alone.relevance, atol=1e-5, rtol=0)
        assert torch.equal(together.predictions[b : b + 1, :num_words], alone.predictions)


def test_the_order_of_the_tweets_permutes_the_outputs(make_model, make_batch):
    model, batch = make_model(), without(make_batch(), "labels")
    order = torch.tensor([2, 0, 3, 1])
    expected = {name: value[order] for name, value in run(model, batch).items()}
    assert_equal_outputs(run(model, {name: value[order] for name, value in batch.items()}), expected)


@each_switch
def test_the_order_of_the_regions_does_not_matter(make_model, make_batch, switches):
    model, batch = make_model(**switches), make_batch(regions=(6, None, 0, 4))
    order = torch.tensor([4, 1, 5, 0, 3, 2])
    permuted = {name: batch[name][:, order] for name in REGION_INPUTS}
    assert_equal_outputs(run(model, batch, **permuted), run(model, batch))


def spoiled(batch):
    """The batch with nonsense wherever there is no picture or no region."""
    no_picture = batch["image_mask"] == 0
    no_region = batch["region_mask"] == 0
    spoiled = {name: value.clone() for name, value in batch.items()}
    spoiled["image_features"][no_picture] = torch.nan
    spoiled["image_sizes"] = spoiled["image_sizes"].float()
    spoiled["image_sizes"][no_picture] = torch.nan
    spoiled["region_features"][no_region] = torch.nan
    spoiled["region_boxes"][no_region] = torch.inf
    spoiled["region_class_ids"][no_region] = -(10**6)
    spoiled["region_mask"][no_picture] = 1
    return spoiled


@each_switch
def test_what_stands_where_there_is_no_picture_or_region_changes_nothing(make_model, make_batch, switches):
    model, batch = make_model(**switches), make_batch()
    outputs, got = run(model, batch), run(model, spoiled(batch))
    for name, value in outputs.items():
        assert torch.equal(got[name], value), name
    model.train()
    expected = gradients(model, batch)
    for name, gradient in gradients(model, spoiled(batch)).items():
        assert torch.isfinite(gradient).all() and torch.equal(gradient, expected[name]), name


def test_a_tweet_without_a_picture_gives_what_it_gives_when_no_visual_argument_is_given(make_model, make_batch):
    model, batch = make_model(), make_batch()
    text_alone = run(model, without(batch, *VISUAL_INPUTS))
    assert text_alone.relevance.shape == (4, 2) and not text_alone.relevance.any()
    outputs = run(model, batch)
    torch.testing.assert_close(outputs.logits[1], text_alone.logits[1], atol=1e-6, rtol=0)
    assert not torch.allclose(outputs.logits[0], text_alone.logits[0], atol=1e-3)
    masked = run(model, batch, image_mask=torch.zeros(4))
    torch.testing.assert_close(masked.logits, text_alone.logits, atol=1e-6, rtol=0)


@pytest.mark.parametrize("width", [0, 2])
def test_a_picture_with_no_region_has_the_whole_picture_for_one(make_model, make_batch, width):
    model = make_model()
    batch = make_batch(words=(4, 3), regions=(0, 0))
    batch = {**batch, **{name: nn.functional.pad(batch[name], (0, width)) for name in REGION_INPUTS[2:]}}
    batch = {**batch, **{name: nn.functional.pad(batch[name], (0, 0, 0, width)) for name in REGION_INPUTS[:2]}}
    explicit = {
        "region_features": torch.zeros(2, 1, 10),
        "region_boxes": torch.tensor([0.5, 0.5, 1.0, 1.0]).expand(2, 1, 4),
        "region_class_ids": torch.full((2, 1), 7),
        "region_mask": torch.ones(2, 1),
    }
    expected = run(model, batch, **explicit)
    assert_equal_outputs(run(model, batch), expected)
    assert_equal_outputs(run(model, without(batch, *REGION_INPUTS)), expected)


def test_what_the_picture_shows_changes_the_output(make_model, make_batch):
    """Each visual input is read: the invariances above are none of a network that looks away."""
    model, batch = make_model(), make_batch(regions=(3, 3, 3, 3))
    logits = run(model, batch).logits
    changes = {
        "image_features": batch["image_features"] + 1,
        "region_features": batch["region_features"] + 1,
        "region_boxes": batch["region_boxes"].flip(1),
        "region_class_ids": (batch["region_class_ids"] + 1) % 7,
        "region_mask": torch.tensor([1, 0, 1]).expand(4, 3),
        "image_sizes": torch.tensor([[2000, 10]] * 4),
    }
    for name, value in changes.items():
        assert not torch.allclose(run(model, batch, **{name: value}).logits, logits, atol=1e-5), name


def test_picture_dropout_hides_pictures_in_training_alone(make_model, make_batch):
    model = make_model(picture_dropout=0.5)
    batch = without(make_batch(regions=(3, 2, 1, 2)), "labels")
    seen, hidden = run(model, batch).logits, run(model, without(batch, *VISUAL_INPUTS)).logits
    assert all(torch.equal(run(model, batch).logits, seen) for _ in range(5))
    model.train()
    draws = []
    for _ in range(20):
        logits = run(model, batch).logits
        for b in range(4):
            as_hidden = torch.allclose(logits[b], hidden[b], atol=1e-5)
            assert as_hidden or torch.allclose(logits[b], seen[b], atol=1e-5)
            draws.append(as_hidden)
    assert 0.3 < sum(draws) / len(draws) < 0.7


# --------------------------------------------------------------------------------------------------- save and load


@pytest.mark.parametrize("text", TEXT_MODELS)
def test_save_and_load_give_equal_outputs(make_model, make_batch, tmp_path, text):
    model, batch = make_model(text), make_batch()
    model.save_pretrained(tmp_path)
    loaded, info = HamLearningForTokenClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs"))
    expected, got = run(model, batch), run(loaded.eval(), batch)
    for name, value in expected.items():
        assert torch.equal(got[name], value), name


@each_switch
def test_a_model_with_switches_is_saved_and_loaded(make_model, make_batch, tmp_path, switches):
    model, batch = make_model(**switches), make_batch()
    model.save_pretrained(tmp_path)
    loaded = HamLearningForTokenClassification.from_pretrained(tmp_path).eval()
    trainable = [name for name, parameter in loaded.named_parameters() if parameter.requires_grad]
    assert trainable == [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    for name, value in run(model, batch).items():
        assert torch.equal(run(loaded, batch)[name], value), name


def test_auto_classes_load_the_saved_code_from_any_folder(make_model, make_batch, tmp_path):
    model, batch = make_model(), make_batch()
    model.save_pretrained(tmp_path / "model")
    outputs = run(model, batch, output_hidden_states=True)
    torch.save({"batch": batch, "outputs": dict(outputs)}, tmp_path / "expected.pt")
    code = """
import sys
import torch
from transformers import AutoConfig, AutoModel, AutoModelForTokenClassification
expected = torch.load("expected.pt", weights_only=True)
batch, outputs = expected["batch"], expected["outputs"]
load = {"pretrained_model_name_or_path": sys.argv[1], "trust_remote_code": True}
config = AutoConfig.from_pretrained(**load)
model = AutoModelForTokenClassification.from_pretrained(**load).eval()
trunk = AutoModel.from_pretrained(**load).eval()
for thing in (config, model, trunk):
    assert type(thing).__module__.startswith("transformers_modules."), type(thing)
with torch.no_grad():
    got = model(**batch)
    del batch["labels"]
    states = trunk(**batch).last_hidden_state
for name in ("loss", "logits", "predictions", "scores", "relevance"):
    assert torch.equal(got[name], outputs[name]), name
assert torch.equal(states, outputs["hidden_states"][-1])
print(type(config).__name__, type(model).__name__, type(trunk).__name__)
"""
    environment = {**os.environ, "HF_MODULES_CACHE": str(tmp_path / "modules"), "HF_HOME": str(tmp_path / "home")}
    result = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "model")],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == ["HamLearningConfig", "HamLearningForTokenClassification", "HamLearningModel"]
    for name in ("classifier", "crf"):  # the trunk has none, and that is nothing to warn of
        assert f"{name}." not in result.stderr


@pytest.mark.parametrize("kept", ["model.text_model.", "nothing"])
@pytest.mark.parametrize("switches", [{}, {"share_interaction_layers": False}, {"use_crf": False}], ids=str)
def test_every_weight_that_a_checkpoint_lacks_is_initialised(make_model, tmp_path, switches, kept):
    model = make_model(**switches)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(1e4)  # memory that is handed out again shows
    model.save_pretrained(tmp_path)
    del model
    weights = load_file(tmp_path / "model.safetensors")
    kept_weights = {name: value for name, value in weights.items() if name.startswith(kept)}
    save_file(kept_weights or {"unused": torch.zeros(1)}, tmp_path / "model.safetensors", {"format": "pt"})
    loaded = HamLearningForTokenClassification.from_pretrained(tmp_path)
    loaded.requires_grad_(False)
    for module_name, module in loaded.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            full_name = f"{module_name}.{name}"
            if full_name in kept_weights:
                assert torch.equal(parameter, kept_weights[full_name]), full_name
            elif module_name == "crf":
                bound = 0.1 if loaded.config.use_crf else 0.0
                assert (parameter.abs() <= bound).all() and parameter.any() == loaded.config.use_crf, full_name
            elif name.endswith("bias"):
                assert not parameter.any(), full_name
            elif isinstance(module, nn.LayerNorm):
                assert (parameter == 1).all(), full_name
            else:
                rows = parameter[parameter.flatten(1).any(1)]  # the row of a text encoder's padding is zero
                assert 0.016 < float(rows.std()) < 0.024, full_name
                assert abs(float(rows.mean())) < 0.01, full_name


def test_a_pretrained_text_encoder_keeps_its_weights_and_all_else_is_new(tiny_text_configs, make_batch, tmp_path):
    text_model = BertModel(tiny_text_configs["bert"])
    with torch.no_grad():
        for parameter in text_model.parameters():
            parameter.normal_(0, 0.3)
    text_model.save_pretrained(tmp_path)
    model = HamLearningForTokenClassification.from_text_pretrained(
        tmp_path, image_feature_size=12, region_feature_size=10, num_classes=7, id2label={0: "O", 1: "B-X", 2: "I-X"}
    )
    for name, parameter in model.model.text_model.named_parameters():
        assert torch.equal(parameter, text_model.get_parameter(name)), name
    assert 0.016 < float(model.model.local_global.weight.detach().std()) < 0.024
    assert run(model.eval(), make_batch(num_tags=3)).logits.shape == (4, 5, 3)
    assert model.config.text_config.vocab_size == 100


def test_new_sub_tokens_can_be_added(make_model, make_batch, tmp_path):
    model = make_model()
    model.resize_token_embeddings(104)
    model.save_pretrained(tmp_path)
    loaded = HamLearningForTokenClassification.from_pretrained(tmp_path).eval()
    batch = make_batch()
    batch["input_ids"][0, 1] = 103
    assert torch.equal(run(loaded, batch).logits, run(model, batch).logits)


# --------------------------------------------------------------------------------- precision, attention, checkpointing


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_trains_and_stays_close(make_model, make_batch, dtype):
    model, batch = make_model(), make_batch()
    exact = run(model, batch)
    with torch.no_grad(), torch.autocast("cpu", dtype=dtype):
        got = model(**batch)
    torch.testing.assert_close(got.logits.float(), exact.logits, atol=0.05, rtol=0)
    model.train()
    with torch.autocast("cpu", dtype=dtype):
        loss = model(**spoiled(batch)).loss
    loss.backward()
    assert torch.isfinite(loss)
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name


@pytest.mark.parametrize("attn_implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_model_loaded_in_half_precision_stays_close(make_model, make_batch, tmp_path, dtype, attn_implementation):
    model, batch = make_model(), make_batch()
    model.save_pretrained(tmp_path)
    loaded = HamLearningForTokenClassification.from_pretrained(
        tmp_path, dtype=dtype, attn_implementation=attn_implementation
    )
    got = run(loaded.eval(), spoiled(batch))
    assert got.logits.dtype == dtype
    torch.testing.assert_close(got.logits.float(), run(model, batch).logits, atol=0.05, rtol=0)
    if dtype == torch.bfloat16:  # nobody trains in pure float16
        for name, gradient in gradients(loaded.train(), batch).items():
            assert torch.isfinite(gradient).all(), name


@pytest.mark.parametrize("text", TEXT_MODELS)
def test_sdpa_equals_eager(make_model, make_batch, tmp_path, text):
    make_model(text).save_pretrained(tmp_path)
    batch = make_batch()
    outputs = []
    for attn_implementation in ("sdpa", "eager"):
        of_text = "eager" if text == "mpnet" else attn_implementation  # all that MPNet has
        model = HamLearningForTokenClassification.from_pretrained(
            tmp_path, attn_implementation={"": attn_implementation, "text_config": of_text}
        )
        assert model.config._attn_implementation == attn_implementation
        assert model.model.text_model.config._attn_implementation == of_text
        outputs.append(run(model.eval(), batch))
    assert_equal_outputs(*outputs)


def test_attentions_are_shares_of_the_regions(make_model, make_batch, tmp_path):
    make_model().save_pretrained(tmp_path)
    model = HamLearningForTokenClassification.from_pretrained(tmp_path, attn_implementation="eager").eval()
    batch = make_batch(words=(5, 2), regions=(3, 1))
    attentions = run(model, batch, output_attentions=True).attentions
    assert [weights.shape for weights in attentions] == [(2, 4, 5, 3)] * 3
    for weights in attentions:
        torch.testing.assert_close(weights.sum(-1), torch.ones(2, 4, 5))
        assert not weights[1, :, :, 1:].any()
        assert (weights[0] > 0).all()
    assert run(model, batch).attentions is None


def test_attentions_of_a_tweet_without_a_picture_are_zero(make_model, make_batch, tmp_path):
    make_model().save_pretrained(tmp_path)
    model = HamLearningForTokenClassification.from_pretrained(tmp_path, attn_implementation="eager").eval()
    batch = make_batch(words=(5, 2), regions=(3, None))
    assert not any(weights[1].any() for weights in run(model, batch, output_attentions=True).attentions)


def test_attentions_need_eager_attention(make_model, make_batch):
    with pytest.raises(ValueError, match="eager"):
        make_model()(**make_batch(), output_attentions=True)


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_gradient_checkpointing_computes_again_and_gives_equal_gradients(make_model, make_batch, use_reentrant):
    model, batch = make_model().train(), make_batch()
    calls = []
    layers = {
        "text": model.model.text_layers[0].mlp,
        "semantic": model.model.semantic_encoder.layers[0].mlp,
        "spatial": model.model.spatial_encoder.layers[0].gate,
        "interaction": model.model.interaction.vision_layers[0][0].mlp,
    }
    for name, layer in layers.items():
        layer.register_forward_pre_hook(lambda *_, name=name: calls.append(name))
    expected = gradients(model, batch)
    plain_calls = {name: calls.count(name) for name in layers}
    calls.clear()
    model.activation_checkpointing_enable({"use_reentrant": use_reentrant})
    if use_reentrant:
        model.enable_input_require_grads()
    for name, gradient in gradients(model, batch).items():
        torch.testing.assert_close(gradient, expected[name], msg=lambda m, name=name: f"{name}: {m}")
    assert {name: calls.count(name) for name in layers} == {name: 2 * n for name, n in plain_calls.items()}


def test_dropout_acts_in_training_alone(make_model, make_batch):
    model, batch = make_model(dropout=0.3), make_batch()
    assert torch.equal(run(model, batch).logits, run(model, batch).logits)
    model.train()
    assert not torch.allclose(run(model, batch).logits, run(model, batch).logits, atol=1e-3)


def test_outputs_come_as_a_tuple_when_asked(make_model, make_batch):
    batch = make_batch()
    model = make_model()
    loss, logits, *_ = run(model, batch, return_dict=False)
    assert torch.equal(loss, run(model, batch).loss) and logits.shape == (4, 5, 9)


def test_hidden_states_come_when_the_config_says_so(make_model, make_batch):
    assert len(run(make_model(output_hidden_states=True), make_batch()).hidden_states) == 6


SMALL_ENCODER = {
    "vocab_size": 128, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64,
    "max_position_embeddings": 64, "embedding_size": 32, "pad_token_id": 0,
}  # fmt: skip
ENCODERS = {name: {"model_type": name} for name in FULL_ATTENTION_ENCODERS} | {
    "windows": {"model_type": "modernbert", "local_attention": 4, "global_attn_every_n_layers": 2},
    "causal order": {"model_type": "bert", "is_decoder": True},
}


@pytest.mark.parametrize("encoder", ENCODERS.values(), ids=ENCODERS.keys())
def test_an_encoder_attends_within_the_network_as_it_does_alone(encoder, make_batch):
    torch.manual_seed(0)
    text_config = AutoConfig.for_model(**SMALL_ENCODER | encoder)
    model = HamLearningModel(HamLearningConfig(text_config=text_config, use_vision=False)).eval()
    assert model.text_model.config._attn_implementation == "sdpa"
    batch = make_batch(words=(12, 3), regions=(None, None))
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        inside, _ = model.encode_text(**inputs, word_ids=None, num_words=None)
        alone = model.text_model(**inputs).last_hidden_state
    is_token = inputs["attention_mask"].bool()
    torch.testing.assert_close(inside[:, 1:][is_token], alone[is_token])
