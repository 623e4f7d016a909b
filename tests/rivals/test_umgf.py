"""UMGF: messages between words and regions."""

import pytest
import torch

from hamlearning.rivals.umgf import UMGFConfig


def logits(model, batch):
    with torch.no_grad():
        return model(**batch).logits


def test_no_more_than_the_best_regions_are_read(make_rival, make_batch):
    model = make_rival("umgf", num_fusion_regions=2)
    batch = make_batch(regions=(4, 4, 4, 4))
    worst, best = batch["region_features"].clone(), batch["region_features"].clone()
    worst[:, 2:] += 1
    best[:, 1] += 1
    assert torch.equal(logits(model, batch | {"region_features": worst}), logits(model, batch))
    assert not torch.equal(logits(model, batch | {"region_features": best}), logits(model, batch))


def test_words_receive_gated_sums_of_the_regions_that_are_there(make_rival):
    stream = make_rival("umgf").fusion_layers[0].words
    words, regions = torch.randn(2, 3, 16), torch.randn(2, 4, 16)
    mask = torch.tensor([[True, True, True, False], [False] * 4])
    expected = words.clone()
    for b, i, j in ((b, i, j) for b in range(2) for i in range(3) for j in range(4) if mask[b, j]):
        gate = torch.sigmoid(stream.gate(torch.cat([words[b, i], regions[b, j]])))
        expected[b, i] += gate * regions[b, j]
    expected = stream.gate_norm(expected)
    expected = stream.output_norm(expected + stream.mlp(expected))
    torch.testing.assert_close(stream.receive(words, regions, mask), expected)


def test_a_picture_without_regions_tells_the_words_nothing(make_rival, make_batch):
    model, batch = make_rival("umgf"), make_batch(regions=(0, 0, 0, 0))
    without = batch | {"image_mask": torch.zeros_like(batch["image_mask"])}
    torch.testing.assert_close(logits(model, batch), logits(model, without))


def test_rounds_start_alike_and_so_do_queries_and_keys(make_rival):
    first, second = make_rival("umgf").fusion_layers
    for (name, own), other in zip(first.named_parameters(), second.parameters(), strict=True):
        assert torch.equal(own, other), name
    for stream in (first.words, first.regions):
        assert torch.equal(stream.attention.query.weight, stream.attention.key.weight)
    assert not torch.equal(first.words.attention.query.weight, first.words.attention.value.weight)


def test_what_was_trained_is_not_made_alike_again(make_rival, tmp_path):
    model = make_rival("umgf")
    torch.nn.init.normal_(model.fusion_layers[1].words.gate.weight)
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path)
    for name, value in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_fusion_regions": 0}, "num_fusion_regions=0: must be at least 1."),
        ({"fusion_size": 20}, "fusion_size=20 with num_fusion_heads=8: must be a multiple."),
    ],
)
def test_sizes_that_cannot_be_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        UMGFConfig(**fields)
