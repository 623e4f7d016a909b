"""The CRF against brute force over all tag sequences, and against `decode` of the library that it extends."""

import copy
import itertools
import math
from collections import Counter

import pytest
import torch
from seqeval.metrics.sequence_labeling import get_entities
from transformers import BertModel

from modeling_hamlearning import HamLearningCRF, HamLearningForTokenClassification


TAGS = ("O", "B-X", "I-X", "B-Y", "I-Y")
LENGTHS = (4, 3, 2, 1)
# How strongly the parameters and the emissions speak: nothing, a new model, a trained one, and one that is sure.
SCALES = (0.0, 0.1, 2.0, 15.0)

is_entity = torch.tensor([tag != "O" for tag in TAGS])
continues = torch.tensor(
    [[after[0] == "I" and before[0] != "O" and before[2:] == after[2:] for after in TAGS] for before in TAGS]
)


def make_crf(scale, seed=0, num_tags=5):
    torch.manual_seed(seed)
    crf = HamLearningCRF(num_tags)
    with torch.no_grad():
        for parameter in crf.parameters():
            parameter.normal_().mul_(scale)
    return crf.requires_grad_(False)


def make_emissions(scale, lengths, seed=0, num_tags=5):
    torch.manual_seed(1000 + seed)
    emissions = scale * torch.randn(len(lengths), max(lengths), num_tags)
    return emissions, torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]


def all_paths(length):
    return list(itertools.product(range(len(TAGS)), repeat=length))


def path_probabilities(crf, emissions, length):
    """log p and p of every tag sequence over the first `length` rows of emissions (W, T), in double precision."""
    start, end, transitions = (
        x.detach().double() for x in (crf.start_transitions, crf.end_transitions, crf.transitions)
    )
    emissions, scores = emissions.detach().double(), []
    for path in all_paths(length):
        score = start[path[0]] + end[path[-1]] + sum(emissions[t, tag] for t, tag in enumerate(path))
        scores.append(score + sum(transitions[a, b] for a, b in itertools.pairwise(path)))
    log_probabilities = torch.stack(scores).log_softmax(0)
    return log_probabilities, log_probabilities.exp()


def spans(path, tags=TAGS):
    """First and last word of each entity of a sequence of ids, as seqeval sees them by default, with its ids."""
    entities = get_entities([tags[tag] for tag in path])
    return [(type_, start, end, tuple(path[start : end + 1])) for type_, start, end in entities]


def span_scores(path, probabilities, tags=TAGS):
    """At the first word of each entity of `path`, the summed probability of all sequences that have the same one."""
    scores = [0.0] * len(path)
    sequences = [spans(other, tags) for other in all_paths(len(path))]
    for span in spans(path, tags):
        scores[span[1]] = sum(float(p) for other, p in zip(sequences, probabilities, strict=True) if span in other)
    return scores


# ------------------------------------------------------------------------------------------------- probabilities


@pytest.mark.parametrize("scale", SCALES)
def test_the_log_likelihood_is_that_of_the_sequence_among_all_sequences(scale):
    crf = make_crf(scale)
    emissions, mask = make_emissions(scale, LENGTHS)
    for tags in torch.randint(len(TAGS), (5, *mask.shape)):
        got = crf(emissions, tags, mask, reduction="none")
        for b, length in enumerate(LENGTHS):
            expected = path_probabilities(crf, emissions[b], length)[0]
            index = all_paths(length).index(tuple(tags[b, :length].tolist()))
            assert float(got[b]) == pytest.approx(float(expected[index]), rel=1e-5, abs=1e-4)


@pytest.mark.parametrize("scale", SCALES)
def test_the_partition_of_forward_and_backward_is_the_one_of_the_loss(scale):
    crf = make_crf(scale)
    emissions, mask = make_emissions(scale, LENGTHS)
    _, _, scale, end_scale = crf.forward_backward(emissions, mask)
    log_partition = scale.sum(dim=1) + end_scale
    torch.testing.assert_close(log_partition, crf._compute_normalizer(emissions.transpose(0, 1), mask.T))


@pytest.mark.parametrize("scale", SCALES)
def test_marginals_are_those_of_brute_force_and_sum_to_one(scale):
    crf = make_crf(scale)
    emissions, mask = make_emissions(scale, LENGTHS)
    marginals = crf.marginals(emissions, mask)
    torch.testing.assert_close(marginals.sum(-1), mask.float(), atol=2e-5, rtol=0)
    for b, length in enumerate(LENGTHS):
        expected = torch.zeros(length, len(TAGS), dtype=torch.double)
        for path, p in zip(all_paths(length), path_probabilities(crf, emissions[b], length)[1], strict=True):
            for t, tag in enumerate(path):
                expected[t, tag] += p
        torch.testing.assert_close(marginals[b, :length].double(), expected, atol=2e-5, rtol=0)


@pytest.mark.parametrize("temperature", [0.4, 1.7])
def test_tempered_probabilities_are_those_of_the_tempered_sequences(temperature):
    crf, tempered = make_crf(2.0), make_crf(2.0)
    for parameter in tempered.parameters():
        parameter.div_(temperature)
    emissions, mask = make_emissions(2.0, LENGTHS)
    path = crf.viterbi(emissions, mask)
    scores = crf.span_probabilities(emissions, path, mask, continues, is_entity, temperature)
    marginals = crf.marginals(emissions, mask, temperature)
    for b, length in enumerate(LENGTHS):
        probabilities = path_probabilities(tempered, emissions[b] / temperature, length)[1]
        ids = path[b, :length].tolist()
        assert scores[b, :length].tolist() == pytest.approx(span_scores(ids, probabilities), abs=2e-5)
        of_tags = torch.zeros(length, len(TAGS), dtype=torch.double)
        for other, p in zip(all_paths(length), probabilities, strict=True):
            of_tags[range(length), other] += p
        torch.testing.assert_close(marginals[b, :length].double(), of_tags, atol=2e-5, rtol=0)


def test_marginals_are_the_gradient_of_the_log_partition():
    crf = make_crf(1.0)
    emissions, mask = make_emissions(1.0, (30, 17, 1))
    emissions.requires_grad_(True)
    log_partition = sum(scale.sum() for scale in crf.forward_backward(emissions, mask)[2:])
    (gradient,) = torch.autograd.grad(log_partition, emissions)
    torch.testing.assert_close(crf.marginals(emissions, mask), gradient, atol=1e-4, rtol=0)


# ------------------------------------------------------------------------------------------------- best sequence


@pytest.mark.parametrize("scale", SCALES[1:])
def test_viterbi_finds_the_most_probable_of_all_sequences(scale):
    crf = make_crf(scale)
    emissions, mask = make_emissions(scale, LENGTHS)
    path = crf.viterbi(emissions, mask)
    for b, length in enumerate(LENGTHS):
        best = path_probabilities(crf, emissions[b], length)[0].argmax()
        assert tuple(path[b, :length].tolist()) == all_paths(length)[best]


def assert_same_as_decode(crf, emissions, mask):
    path = crf.viterbi(emissions, mask)
    assert [row[keep].tolist() for row, keep in zip(path, mask, strict=True)] == crf.decode(emissions, mask)


@pytest.mark.parametrize("seed", range(20))
def test_viterbi_finds_the_paths_of_decode(seed):
    lengths = torch.randint(1, 26, (8,), generator=torch.Generator().manual_seed(seed)).tolist()
    scale = 10.0 ** (seed % 4 - 2)
    crf = make_crf(scale, seed, num_tags=9)
    assert_same_as_decode(crf, *make_emissions(scale, lengths, seed, num_tags=9))


@pytest.mark.parametrize("seed", range(10))
def test_viterbi_breaks_ties_as_decode_does(seed):
    crf = make_crf(0.0)
    emissions, mask = make_emissions(1.0, (7, 12, 1, 4), seed)
    assert_same_as_decode(crf, emissions.round(), mask)
    assert_same_as_decode(crf, torch.zeros_like(emissions), mask)


# ------------------------------------------------------------------------------------------ probability of a span


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("length", LENGTHS)
def test_the_score_of_every_entity_of_every_sequence_is_its_probability(length, scale):
    """All paths of up to four words: I-X that opens an entity, neighbours, first and last words, several entities."""
    crf = make_crf(scale, seed=length)
    emissions, _ = make_emissions(scale, (length,), seed=length)
    paths = torch.tensor(all_paths(length))
    mask = torch.ones_like(paths, dtype=torch.bool)
    got = crf.span_probabilities(emissions.expand(len(paths), -1, -1), paths, mask, continues, is_entity)
    probabilities = path_probabilities(crf, emissions[0], length)[1]

    probability_of = Counter()
    for path, p in zip(all_paths(length), probabilities, strict=True):
        for span in spans(path):
            probability_of[span] += float(p)
    expected = torch.zeros(len(paths), length)
    for b, path in enumerate(all_paths(length)):
        for span in spans(path):
            expected[b, span[1]] = probability_of[span]
    torch.testing.assert_close(got, expected, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize(
    "tags, starts",
    [
        ("O B-X I-X O", [1]),
        ("B-X I-X O B-Y", [0, 3]),  # first and last word, two entities
        ("B-X B-X I-X I-X", [0, 1]),  # neighbours of one type
        ("I-X I-Y O I-Y", [0, 1, 3]),  # I- that opens: first word, after another type, after O
        ("B-X I-Y I-Y I-X", [0, 1, 3]),
        ("O O O O", []),
        ("I-X I-X I-X I-X", [0]),
    ],
)
def test_scores_stand_at_the_first_word_of_each_entity(tags, starts):
    path = torch.tensor([[TAGS.index(tag) for tag in tags.split()]])
    crf = make_crf(0.5)
    emissions, mask = make_emissions(0.5, (4,))
    scores = crf.span_probabilities(emissions, path, mask, continues, is_entity)[0]
    assert scores.nonzero().flatten().tolist() == starts
    expected = span_scores(tuple(path[0].tolist()), path_probabilities(crf, emissions[0], 4)[1])
    assert scores.tolist() == pytest.approx(expected, abs=1e-5)


def test_an_i_that_opens_an_entity_on_the_best_path_has_its_probability():
    crf = make_crf(0.0)
    with torch.no_grad():
        crf.transitions[TAGS.index("O"), TAGS.index("I-X")] = 3.0
        crf.transitions[TAGS.index("I-X"), TAGS.index("I-Y")] = 3.0
        crf.start_transitions[TAGS.index("O")] = 3.0
    emissions, mask = make_emissions(0.1, (3,))
    path = crf.viterbi(emissions, mask)
    assert [TAGS[tag] for tag in path[0]] == ["O", "I-X", "I-Y"]
    got = crf.span_probabilities(emissions, path, mask, continues, is_entity)[0]
    expected = span_scores(tuple(path[0].tolist()), path_probabilities(crf, emissions[0], 3)[1])
    assert got.tolist() == pytest.approx(expected, abs=1e-5)


def test_a_batch_of_lengths_gives_what_each_tweet_gives_alone_whatever_stands_on_its_padding():
    crf = make_crf(1.0)
    lengths = (9, 3, 1, 6)
    emissions, mask = make_emissions(1.0, lengths)
    padded = torch.where(mask[..., None], emissions, 500.0)
    path = crf.viterbi(padded, mask)
    scores = crf.span_probabilities(padded, path, mask, continues, is_entity)
    marginals = crf.marginals(padded, mask)
    for b, length in enumerate(lengths):
        own, own_mask = emissions[b : b + 1, :length], mask[b : b + 1, :length]
        own_path = crf.viterbi(own, own_mask)
        own_scores = crf.span_probabilities(own, own_path, own_mask, continues, is_entity)
        assert torch.equal(path[b, :length], own_path[0])
        torch.testing.assert_close(scores[b, :length], own_scores[0], atol=1e-5, rtol=0)
        torch.testing.assert_close(marginals[b, :length], crf.marginals(own, own_mask)[0], atol=1e-5, rtol=0)
        assert not scores[b, length:].any() and not marginals[b, length:].any()


@pytest.mark.parametrize("scale", [2.0, 5.0])
def test_scores_and_marginals_of_2000_words_are_accurate(scale):
    crf = make_crf(scale)
    emissions, mask = make_emissions(scale, (2000,))
    path = crf.viterbi(emissions, mask)
    exact_crf, exact_emissions = copy.deepcopy(crf).double(), emissions.double()
    scores = crf.span_probabilities(emissions, path, mask, continues, is_entity)
    exact_scores = exact_crf.span_probabilities(exact_emissions, path, mask, continues, is_entity)
    torch.testing.assert_close(scores, exact_scores.float(), atol=1e-3, rtol=0)
    exact_marginals = exact_crf.marginals(exact_emissions, mask)
    torch.testing.assert_close(crf.marginals(emissions, mask), exact_marginals.float(), atol=1e-3, rtol=0)


# ------------------------------------------------------------------------------------------------- in the network


def named(tags):
    return dict(enumerate(tags))


@pytest.mark.parametrize("tags", [TAGS, ("I-Y", "B-X", "O", "I-X", "B-Y")])
def test_the_network_reports_the_best_path_and_the_probabilities_of_its_entities(make_model, make_batch, tags):
    model = make_model(id2label=named(tags))
    model.crf.load_state_dict(make_crf(2.0, seed=3).state_dict())
    with torch.no_grad():
        model.classifier.weight.mul_(20)
    batch = make_batch(words=LENGTHS, num_tags=5)
    with torch.no_grad():
        outputs = model(**batch)
    num_entities = 0
    for b, length in enumerate(LENGTHS):
        probabilities = path_probabilities(model.crf, outputs.logits[b], length)[1]
        best = all_paths(length)[probabilities.argmax()]
        assert tuple(outputs.predictions[b, :length].tolist()) == best
        assert outputs.scores[b, :length].tolist() == pytest.approx(span_scores(best, probabilities, tags), abs=1e-5)
        num_entities += len(spans(best, tags))
    assert num_entities >= 2


def test_the_loss_is_the_negative_log_likelihood_averaged_over_tweets(make_model, make_batch):
    model = make_model(id2label=named(TAGS))
    batch = make_batch(words=LENGTHS, num_tags=5)
    with torch.no_grad():
        outputs = model(**batch)
    losses = []
    for b, length in enumerate(LENGTHS):
        log_probabilities = path_probabilities(model.crf, outputs.logits[b], length)[0]
        losses.append(-log_probabilities[all_paths(length).index(tuple(batch["labels"][b, :length].tolist()))])
    assert float(outputs.loss) == pytest.approx(float(sum(losses)) / len(LENGTHS), rel=1e-5)


def test_without_a_crf_words_are_independent(make_model, make_batch):
    model = make_model(id2label=named(TAGS), use_crf=False)
    with torch.no_grad():
        model.classifier.weight.mul_(30)
    batch = make_batch(words=(9, 6, 4, 1), num_tags=5)
    with torch.no_grad():
        outputs = model(**batch)
    words = batch["labels"] != -100
    assert torch.equal(outputs.predictions[words], outputs.logits[words].argmax(-1))
    loss = torch.nn.functional.cross_entropy(outputs.logits[words], batch["labels"][words], reduction="sum")
    assert float(outputs.loss) == pytest.approx(float(loss) / 4, rel=1e-5)
    num_entities = num_orphans = 0
    for b, length in enumerate(words.sum(1).tolist()):
        p = outputs.logits[b].softmax(-1)
        path = outputs.predictions[b, :length].tolist()
        expected = [0.0] * length
        for type_, start, end in get_entities([TAGS[tag] for tag in path]):
            inside, begin = TAGS.index(f"I-{type_}"), TAGS.index(f"B-{type_}")
            score = math.prod(float(p[t, path[t]]) for t in range(start, end + 1))
            if end + 1 < length:
                score *= 1 - float(p[end + 1, inside])
            if path[start] == inside and start > 0:
                score *= 1 - float(p[start - 1, inside]) - float(p[start - 1, begin])
                num_orphans += 1
            expected[start] = score
            num_entities += 1
        assert outputs.scores[b, :length].tolist() == pytest.approx(expected, abs=1e-5)
    assert num_entities >= 4 and num_orphans >= 1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_crf_computes_in_float32_under_autocast(make_model, make_batch, dtype):
    model, batch = make_model(), make_batch()
    with torch.no_grad(), torch.autocast("cpu", dtype=dtype):
        outputs = model(**batch)
    assert outputs.logits.dtype == dtype and outputs.loss.dtype == outputs.scores.dtype == torch.float32
    mask = batch["labels"] != -100
    log_likelihood = model.crf(outputs.logits.float(), batch["labels"].clamp(min=0), mask, reduction="none")
    assert torch.equal(outputs.loss, -log_likelihood.detach().mean())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_crf_stays_in_float32_when_the_model_is_loaded_in_half_precision(make_model, make_batch, tmp_path, dtype):
    model = make_model()
    model.save_pretrained(tmp_path)
    loaded = HamLearningForTokenClassification.from_pretrained(tmp_path, dtype=dtype)
    assert loaded.classifier.weight.dtype == dtype
    for name, parameter in loaded.crf.named_parameters():
        assert torch.equal(parameter, model.crf.get_parameter(name)), name
    outputs = loaded(**make_batch())
    assert outputs.loss.dtype == outputs.scores.dtype == torch.float32
    assert all(torch.isfinite(x).all() for x in (outputs.loss, outputs.scores, outputs.logits))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_crf_stays_in_float32_around_a_text_encoder_in_half_precision(
    tiny_text_configs, make_batch, tmp_path, dtype
):
    BertModel(tiny_text_configs["bert"]).save_pretrained(tmp_path)
    model = HamLearningForTokenClassification.from_text_pretrained(tmp_path, dtype=dtype)
    assert model.classifier.weight.dtype == dtype
    assert {parameter.dtype for parameter in model.crf.parameters()} == {torch.float32}


def test_a_checkpoint_loaded_without_its_crf_has_no_transitions(make_model, make_batch, tmp_path):
    model = make_model()
    model.crf.load_state_dict(make_crf(5.0, num_tags=9).state_dict())
    model.save_pretrained(tmp_path)
    loaded = HamLearningForTokenClassification.from_pretrained(tmp_path, use_crf=False)
    with torch.no_grad():
        outputs = loaded(**make_batch())
    words = outputs.predictions != -100
    assert torch.equal(outputs.predictions[words], outputs.logits[words].argmax(-1))


def test_a_crf_without_transitions_has_zeros_whatever_its_memory_held(make_model):
    model = make_model(use_crf=False)
    for buffer in model.crf.buffers():
        buffer.fill_(torch.nan)  # loading leaves what no file holds as it finds it
    model._init_weights(model.crf)
    assert not any(buffer.any() for buffer in model.crf.buffers())
