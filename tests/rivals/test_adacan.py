"""AdaCAN-BERT-CRF: its attentions, of which every word has the same, and its sizes."""

import pytest
import torch

from hamlearning.rivals.adacan import AdaCANConfig
from hamlearning.rivals.rival import Picture, Text


def attention_to_regions(model):
    """Of five words to three regions, the last of them masked, (W, N)."""
    generator = torch.Generator().manual_seed(1)
    mask = torch.tensor([[True, True, False]])
    regions, words = torch.randn(1, 3, 10, generator=generator), 3 * torch.randn(1, 5, 32, generator=generator)
    picture = Picture(torch.zeros(1, 12), regions, mask, torch.zeros(1, 3, dtype=torch.long), torch.tensor([True]))
    text = Text(torch.zeros(1, 32), words, torch.ones(1, 5, dtype=torch.bool))
    with torch.no_grad():
        return model.attend_regions(text, picture)[0]


def test_its_attention_does_not_see_its_query(make_rival):
    found = attention_to_regions(make_rival("adacan", initializer_range=0.5))
    torch.testing.assert_close(found, found[:1].expand_as(found))
    assert found[0, 0] != found[0, 1] and found[0, 2] == 0


def test_joint_attention_sees_its_query(make_rival):
    found = attention_to_regions(make_rival("adacan", initializer_range=0.5, joint_attention=True))
    assert (found - found[:1]).abs().max() > 1e-2
    torch.testing.assert_close(found.sum(dim=1), torch.ones(5))


def test_the_query_of_what_was_seen_is_not_seen_either(make_rival):
    model, queries = make_rival("adacan", initializer_range=0.5), 3 * torch.randn(1, 2, 32)
    keys, mask = torch.randn(1, 4, 32), torch.ones(1, 4, dtype=torch.bool)
    with torch.no_grad():
        found = model.word_attention(queries, keys, mask)
    torch.testing.assert_close(found[:, 0], found[:, 1])


def test_the_size_of_its_layers_is_a_switch(count_new_parameters):
    assert count_new_parameters("adacan", attention_size=200) == 1_486_712


def test_a_size_below_one_is_refused():
    with pytest.raises(ValueError, match="attention_size=0: must be at least 1"):
        AdaCANConfig(attention_size=0)


def test_joint_attention_scores_sums(count_new_parameters):
    """A linear layer of k numbers in the place of one of 2 k, twice."""
    assert count_new_parameters("adacan") - count_new_parameters("adacan", joint_attention=True) == 2 * 768


def test_a_tweet_without_words_is_no_trouble(make_rival, make_batch):
    batch = make_batch(words=(3, 0), regions=(2, 2))
    del batch["labels"]
    with torch.no_grad():
        assert make_rival("adacan")(**batch).logits.isfinite().all()
