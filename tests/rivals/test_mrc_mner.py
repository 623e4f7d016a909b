"""MRC-MNER: questions, what is asked of spans, and how they become tags."""

import json

import pytest
import torch

from hamlearning.rivals.architectures import class_of
from hamlearning.rivals.mrc_mner import Margins
from hamlearning.rivals.rival import RivalEmissions
from hamlearning.training.run import main as run_mner
from tiny_world import flags
from words_hamlearning import TAGS


PER, LOC = 0, 1  # of the four types, in the order of the tags


def ids_of(*tags):
    return torch.tensor([[-100 if tag is None else TAGS.index(tag) for tag in tags]])


def margins_of(num_words, **places):
    """Log-odds -9, but 9 where `start=[(word, type), ...]` and the like say so; existence of all types 9."""
    margins = {name: torch.full((1, num_words, 4), -9.0) for name in Margins._fields}
    margins["existence"] += 18
    for name, given in places.items():
        for word, kind, *value in given:
            margins[name][0, word, kind] = value[0] if value else 9.0
    return Margins(**margins)


def emissions_of(margins):
    shape = margins.start.shape[:2]
    logits = torch.zeros(*shape, 9)
    mask = torch.ones(shape, dtype=torch.bool)
    return RivalEmissions(logits=logits, word_mask=mask, auxiliary_logits=torch.stack(margins, dim=-1))


def tags_of(decoded):
    return [TAGS[tag] for tag in decoded["predictions"][0].tolist()]


def test_gold_starts_and_ends_are_those_of_the_entities(make_rival):
    labels = ids_of("B-PER", "I-PER", "B-PER", "O", "I-LOC", "B-LOC", None)
    starts, ends = make_rival("mrc_mner").gold(labels)
    assert starts[0].nonzero().tolist() == [[0, PER], [2, PER], [4, LOC], [5, LOC]]
    assert ends[0].nonzero().tolist() == [[1, PER], [2, PER], [4, LOC], [5, LOC]]


def test_a_span_has_a_start_an_end_and_a_match(make_rival):
    model = make_rival("mrc_mner")
    span = {"start": [(1, PER)], "end": [(2, PER)], "match_start": [(1, PER, 8.0)], "match_end": [(2, PER, 8.0)]}
    decoded = model.decode(emissions_of(margins_of(4, **span)), False)
    assert tags_of(decoded) == ["O", "B-PER", "I-PER", "O"]
    expected = torch.sigmoid(torch.tensor([9.0, 9.0, 16.0, 9.0])).prod()
    assert decoded["scores"][0].tolist() == pytest.approx([0, expected.item(), 0, 0])
    for missing in span:
        some = {name: places for name, places in span.items() if name != missing}
        assert tags_of(model.decode(emissions_of(margins_of(4, **some)), False)) == ["O"] * 4


def test_a_type_that_does_not_exist_in_the_tweet_has_no_entity(make_rival):
    span = {"start": [(1, PER)], "end": [(1, PER)], "match_start": [(1, PER)], "match_end": [(1, PER)]}
    absent = margins_of(3, **span, existence=[(word, PER, -9.0) for word in range(3)])
    assert tags_of(make_rival("mrc_mner").decode(emissions_of(absent), False)) == ["O"] * 3


def test_of_spans_that_overlap_the_most_probable_stays(make_rival):
    places = {
        "start": [(0, PER, 1.0), (1, LOC)],
        "end": [(1, PER), (1, LOC), (2, LOC)],
        "match_start": [(0, PER), (1, LOC)],
        "match_end": [(1, PER, 20.0), (1, LOC, -8.0), (2, LOC, 20.0)],  # LOC: 1 to 1 with 0.73, 1 to 2 with 1
    }
    decoded = make_rival("mrc_mner").decode(emissions_of(margins_of(3, **places)), False)
    assert tags_of(decoded) == ["O", "B-LOC", "I-LOC"]


def test_the_loss_of_margins_that_are_the_gold_ones_is_zero_and_a_wrong_pair_costs(make_rival):
    model, labels = make_rival("mrc_mner"), ids_of("B-PER", "O", "B-PER", "I-PER", None)
    right = {
        "start": [(0, PER), (2, PER)],
        "end": [(0, PER), (3, PER)],
        "existence": [(word, kind, -9.0) for word in range(5) for kind in (1, 2, 3)],
        # 0 to 0 and 2 to 3 are entities, 0 to 3 is none.
        "match_start": [(0, PER, 10.0), (2, PER, 30.0)],
        "match_end": [(0, PER, 10.0), (3, PER, -20.0)],
    }
    assert model.loss(emissions_of(margins_of(5, **right)), labels) < 1e-3
    wrong = right | {"match_end": [(0, PER, 10.0), (3, PER, 20.0)]}  # 0 to 3 too
    assert model.loss(emissions_of(margins_of(5, **wrong)), labels) > 5


def test_a_word_without_a_label_is_in_no_loss(make_rival):
    model, labels = make_rival("mrc_mner"), ids_of("B-PER", None)
    loss = model.loss(emissions_of(margins_of(2)), labels)
    more = model.loss(emissions_of(margins_of(2, start=[(1, LOC)], end=[(1, PER)])), labels)
    assert loss == more


def test_each_type_answers_its_own_question(make_rival, make_batch):
    batch = {name: value for name, value in make_batch().items() if name != "labels"}
    model = make_rival("mrc_mner", initializer_range=0.3)
    with torch.no_grad():
        before = model(**batch).logits
        model.config.query_ids = [[50, 51, 3], *model.config.query_ids[1:]]
        after = model(**batch).logits
    moved = (after - before).abs().amax(dim=(0, 1))
    changed = {tag for tag, size in zip(model.config.tags, moved.tolist(), strict=True) if size > 1e-6}
    assert changed == {"B-PER", "I-PER"}


def test_questions_are_made_of_the_tokenizer_and_saved(world, tmp_path):
    settings: dict = {"architecture": "mrc_mner", "num_train_epochs": 1, "num_semantic_layers": None}
    run_mner(flags(world, tmp_path / "model", **settings))
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    assert len(config["query_ids"]) == len({tag[2:] for tag in config["id2label"].values() if tag != "O"})
    assert all(len(ids) > 3 for ids in config["query_ids"])
    assert len({ids[-1] for ids in config["query_ids"]}) == 1


def test_an_encoder_without_room_for_the_question_is_refused(make_rival):
    model = make_rival("mrc_mner")

    class Processor:
        max_length = 126
        tokenizer = None

    with pytest.raises(ValueError, match="a question of 4 sub-tokens .* give --max_length 124 or less"):
        model.meet(Processor())


def test_without_questions_it_says_what_to_call(make_rival, make_batch):
    with pytest.raises(ValueError, match=r"query_ids=None: .* call `model.meet\(processor\)` first"):
        make_rival("mrc_mner", query_ids=None)(**make_batch())


def test_it_has_no_crf_to_leave_out():
    config_class = class_of("mrc_mner").config_class
    assert "use_crf" not in config_class.switches() and "query_ids" not in config_class.switches()
    assert not [name for name in make_names(config_class) if "crf" in name]


def test_what_only_a_crf_can_explain_is_refused(make_rival, make_batch):
    with pytest.raises(ValueError, match="MRC-MNER has no CRF"):
        make_rival("mrc_mner").explain(**make_batch())


def make_names(config_class):
    with torch.device("meta"):
        return [name for name, _ in class_of("mrc_mner")(config_class()).named_parameters()]
