"""GVATT-BERT-CRF: its attention, which sees the picture alone, and its gates."""

import torch


def attention(make_rival, sentence, **fields):
    """To three regions, the last of them masked, (B, N)."""
    model = make_rival("gvatt", initializer_range=0.5, **fields)
    generator = torch.Generator().manual_seed(1)
    regions = torch.randn(1, 3, 32, generator=generator).expand(len(sentence), -1, -1)
    mask = torch.tensor([True, True, False]).expand(len(sentence), -1)
    with torch.no_grad():
        return model.attend(sentence, regions, mask)


def sentences(count):
    return 3 * torch.randn(count, 32, generator=torch.Generator().manual_seed(2))


def test_its_attention_does_not_see_its_query(make_rival):
    found = attention(make_rival, sentences(4))
    torch.testing.assert_close(found, found[:1].expand_as(found))
    assert found[0, 0] != found[0, 1] and found[0, 2] == 0


def test_joint_attention_sees_its_query(make_rival):
    found = attention(make_rival, sentences(4), joint_attention=True)
    assert (found - found[:1]).abs().max() > 1e-2
    torch.testing.assert_close(found.sum(dim=1), torch.ones(4))


def test_joint_attention_has_the_same_parameters(count_new_parameters):
    assert count_new_parameters("gvatt", joint_attention=True) == count_new_parameters("gvatt")


def test_the_query_of_the_papers_attention_learns_nothing(make_rival, make_batch):
    model = make_rival("gvatt").double().train()
    model(**{n: v.double() if v.is_floating_point() else v for n, v in make_batch().items()}).loss.backward()
    assert model.sentence_query.weight.grad.abs().max() < 1e-12 < model.region_key.weight.grad.abs().max()
