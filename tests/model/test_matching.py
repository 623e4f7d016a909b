"""A relevance that is learned from pairs of tweet and picture, apart from the network or in its Eq 9."""

import os
import subprocess
import sys

import pytest
import torch
from test_windows import long_batch  # noqa: F401

from configuration_hamlearning import HamLearningConfig
from conftest import ROOT
from modeling_hamlearning import MATCHED_NUMBERS, HamLearningMatching


PICTURE = ("image_features", "region_features", "region_boxes", "region_class_ids", "region_mask", "image_sizes")


def rows(batch, places):
    return {name: value[places] for name, value in batch.items()}


def pairs(batch):
    """What `HamLearningMatching` reads of tweets whose words are single sub-tokens with random embeddings."""
    torch.manual_seed(0)
    words = torch.randn(4, 5, 32)
    mask = torch.arange(5) < torch.tensor([5, 2, 4, 1])[:, None]
    names = ("image_features", "region_features", "region_class_ids", "region_mask")
    return [words, mask, *(batch[name] for name in names), batch["image_mask"].bool()]


@pytest.fixture
def head(make_model):
    return make_model(relevance_matching="apart").model.matching


def test_without_it_the_network_is_the_papers(make_model, make_batch):
    names = make_model().state_dict().keys()
    assert not [name for name in names if "matching" in name]
    more = make_model(relevance_matching="apart").state_dict().keys() - names
    assert more and all(name.startswith("model.matching.") for name in more)


@pytest.mark.parametrize("kind", ["apart", "gate"])
def test_the_relevance_is_a_probability_and_0_without_a_picture(make_model, make_batch, kind):
    relevance = make_model(relevance_matching=kind)(**make_batch()).relevance
    assert relevance.shape == (4, 1) and relevance[1] == 0
    assert ((relevance[[0, 2, 3]] > 0) & (relevance[[0, 2, 3]] < 1)).all()


def test_apart_it_changes_no_number_of_the_network(make_model, make_batch):
    batch, plain, model = make_batch(), make_model(), make_model(relevance_matching="apart")
    model.load_state_dict(plain.state_dict(), strict=False)
    for name in ("logits", "predictions", "scores"):
        assert torch.equal(model(**batch)[name], plain(**batch)[name])


def test_apart_its_loss_moves_no_weight_of_the_network(make_model, make_batch):
    model = make_model(relevance_matching="apart").train()
    model.model(**{n: v for n, v in make_batch().items() if n != "labels"}).matching_loss.mean().backward()
    moved = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert moved == {name for name, _ in model.named_parameters() if ".matching." in name}


def test_in_the_gate_it_is_c_of_eq_9(make_model, make_batch):
    batch, model = make_batch(), make_model(relevance_matching="gate")
    p = model(**batch).relevance[0, 0]
    forced = make_model(relevance_matching="gate", forced_relevance=float(2 * p - 1))
    forced.load_state_dict(model.state_dict())
    torch.testing.assert_close(forced(**batch).logits[0], model(**batch).logits[0], atol=1e-5, rtol=0)


def test_in_the_gate_each_region_says_it(make_model):
    model, c = make_model(relevance_matching="gate").model, torch.tensor([-0.9, 0.5])
    d = model.config.hidden_size
    _, regions = model.relate(torch.randn(2, d), torch.randn(2, 4, d), 0, c)
    assert torch.equal(regions[..., -MATCHED_NUMBERS:], 4 * c[:, None, None].expand(2, 3, MATCHED_NUMBERS))


def test_in_the_gate_no_gradient_comes_to_it_from_the_tags(make_model, make_batch):
    model = make_model(relevance_matching="gate").train()
    outputs = model.model(**{n: v for n, v in make_batch().items() if n != "labels"})
    outputs.last_hidden_state.sum().backward()
    assert all(parameter.grad is None for parameter in model.model.matching.parameters())


def test_the_score_is_the_sum_over_words_of_their_best_regions(head, make_batch):
    words, mask, image, regions, classes, region_mask, has_picture = pairs(make_batch())
    scores, loss = head(words, mask, image, regions, classes, region_mask, has_picture)
    assert loss is None

    def scaled(x):
        return torch.nn.functional.layer_norm(x, x.shape[-1:])

    for b in (0, 2, 3):
        seen = [head.picture_projection(scaled(image[b]))]
        for n in range(int(region_mask[b].sum())):
            seen.append(head.region_projection(scaled(regions[b, n])) + head.class_embedding.weight[classes[b, n]])
        total = 0.0
        for w in range(int(mask[b].sum())):
            word = head.word_norm(words[b, w])
            best = max(torch.cosine_similarity(head.word_projection(word), region, dim=0) for region in seen)
            total = total + torch.sigmoid(head.word_gate(word)[0] - 2) * best
        torch.testing.assert_close(scores[b], head.log_scale.exp() * total + head.bias, atol=1e-5, rtol=0)


def test_the_loss_is_the_cross_entropy_of_own_and_other_pictures(head, make_batch):
    head.train()
    head.dropout.p = 0.0
    batch = make_batch()
    given = pairs(batch)
    _, loss = head(*given)
    words, mask, *picture, has_picture = given
    tweets = [0, 2, 3]  # that have a picture

    def score(tweet, other):
        head.eval()
        shown = [value[[other]] for value in (*picture, has_picture)]
        return head(words[[tweet]], mask[[tweet]], *shown)[0][0]

    for tweet in tweets:
        others = [score(tweet, other) for other in tweets if other != tweet]
        expected = -torch.nn.functional.logsigmoid(score(tweet, tweet))
        expected = expected - torch.stack([torch.nn.functional.logsigmoid(-s) for s in others]).mean()
        torch.testing.assert_close(loss[tweet], expected / 2, atol=1e-5, rtol=0)
    assert loss[1] == 0


@pytest.mark.parametrize("case", ["one tweet", "no pictures", "one picture", "one picture for all"])
def test_where_there_is_no_other_picture_there_is_no_loss_but_a_gradient(make_model, make_batch, case):
    batch = make_batch()
    if case == "one tweet":
        batch = rows(batch, [0])
    elif case == "no pictures":
        batch = {name: value for name, value in batch.items() if not name.startswith(("image", "region"))}
    elif case == "one picture":
        batch["image_mask"] = torch.tensor([1, 0, 0, 0])
    else:
        batch |= {name: batch[name][[0, 0, 0, 0]] for name in PICTURE}
    model = make_model(relevance_matching="apart").train()
    outputs = model.model(**{n: v for n, v in batch.items() if n != "labels"})
    assert not outputs.matching_loss.any()
    model(**batch).loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name


def test_what_stands_in_place_of_a_picture_changes_nothing(make_model, make_batch):
    model, batch = make_model(relevance_matching="apart").train(), make_batch()
    model.model.matching.dropout.p = 0.0
    spoiled = {name: value.clone() for name, value in batch.items()}
    for name in ("image_features", "region_features", "region_boxes"):
        spoiled[name][1] = torch.nan
    torch.testing.assert_close(model(**spoiled).loss, model(**batch).loss)


def test_a_text_in_windows_has_the_mean_of_theirs_and_its_windows_are_no_others(make_model, long_batch):  # noqa: F811
    model, batch = make_model(relevance_matching="apart"), long_batch()
    assert model(**batch).relevance.shape == (4, 1)
    alone = rows(batch, [0])  # one tweet in several windows: there is no other picture
    outputs = model.train().model(**{n: v for n, v in alone.items() if n != "labels"})
    assert outputs.matching_loss.shape == (1,) and outputs.matching_loss == 0


def test_it_learns_which_picture_belongs_to_which_words(make_model, make_batch):
    """Four words, each of which names the class of the region that stands in its tweet's picture."""
    model = make_model(relevance_matching="apart").train()
    batch = make_batch(words=(1, 1, 1, 1), regions=(1, 1, 1, 1))
    batch["region_class_ids"] = torch.tensor([[0], [1], [2], [3]])
    batch["region_features"].zero_()
    batch["image_features"].normal_()
    optimizer = torch.optim.AdamW(model.model.matching.parameters(), lr=5e-3)
    for _ in range(150):
        optimizer.zero_grad()
        batch["image_features"].normal_()  # which say nothing
        model(**batch).loss.backward()
        optimizer.step()
    model.eval()
    own = model(**batch).relevance[:, 0]
    others = model(**batch | {name: batch[name].roll(1, 0) for name in PICTURE}).relevance[:, 0]
    assert (own > 0.7).all() and (others < 0.4).all()


def test_it_is_explained_too(make_model, make_batch):
    model, batch = make_model(relevance_matching="gate"), {n: v for n, v in make_batch().items() if n != "labels"}
    explanation, outputs = model.explain(**batch), model(**batch)
    torch.testing.assert_close(explanation.relevance, outputs.relevance, atol=1e-5, rtol=0)
    torch.testing.assert_close(explanation.scores, outputs.scores, atol=1e-5, rtol=0)


def test_in_bf16_it_is_a_probability_too(make_model, make_batch):
    model, batch = make_model(relevance_matching="apart"), make_batch()
    expected = model(**batch).relevance
    torch.testing.assert_close(model.to(torch.bfloat16)(**batch).relevance.float(), expected, atol=0.05, rtol=0)
    with torch.autocast("cpu", torch.bfloat16):
        assert model.float().train()(**batch).loss.isfinite()


@pytest.mark.slow
@pytest.mark.parametrize("pictures", ["some", "none on one process"])
@pytest.mark.parametrize("kind", ["apart", "gate"])
def test_two_processes_have_the_gradients_of_one_that_reads_their_batches(
    make_model, make_batch, tmp_path, kind, pictures
):
    batch = make_batch(words=(5, 2, 4, 1, 3, 6, 2, 4), regions=(3, None, 0, 2, 1, 3, None, 2))
    if pictures == "none on one process":
        batch["image_mask"][1::2] = 0
    make_model(relevance_matching=kind).save_pretrained(tmp_path)
    torch.save(batch, tmp_path / "batch.pt")
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"]
    command += [ROOT / "tests" / "rivals" / "two_process_gradients.py", tmp_path]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stdout.count("equal gradients of hamlearning.") == 2


def test_a_saved_model_says_which_kind_it_is(make_model, make_batch, tmp_path):
    model, batch = make_model(relevance_matching="apart"), make_batch()
    model.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path)
    assert loaded.config.relevance_columns == ("probability",)
    assert torch.equal(loaded(**batch).relevance, model(**batch).relevance)


def test_its_weights_begin_where_half_of_the_pictures_are_the_own_ones(make_model):
    head: HamLearningMatching = make_model(relevance_matching="apart").model.matching
    assert head.log_scale.exp().item() == pytest.approx(10) and head.bias.item() == -5


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"relevance_matching": "yes"}, "relevance_matching='yes': must be one of none, apart, gate"),
        ({"relevance_matching": "gate", "use_relevance": False}, "there is nothing to match"),
        ({"relevance_matching": "apart", "use_vision": False}, "there is nothing to match"),
    ],
)
def test_what_cannot_be_matched_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        HamLearningConfig(**fields)
