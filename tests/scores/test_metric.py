"""The score that everything prints: seqeval's own figures, and those of the metric module beside it."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from seqeval.metrics import f1_score, precision_score, recall_score
from seqeval.scheme import IOB2

from hamlearning.scores.metric import entity_scores
from hamlearning.scores.mner_scores import MNERScores


TAGS = ["O", *(f"{prefix}-{type_}" for type_ in ("PER", "LOC", "ORG") for prefix in "BI")]
pairs_of_tags = st.lists(
    st.lists(st.tuples(st.sampled_from(TAGS), st.sampled_from(TAGS)), min_size=1, max_size=8), min_size=1, max_size=6
)


@given(pairs_of_tags)
def test_the_scores_are_seqevals(pairs):
    gold, predicted = ([[tags[side] for tags in tweet] for tweet in pairs] for side in (0, 1))
    scores = entity_scores(gold, predicted)
    for prefix, mode in (("", {}), ("strict_", {"mode": "strict", "scheme": IOB2})):
        for name, of_seqeval in (("precision", precision_score), ("recall", recall_score), ("f1", f1_score)):
            expected = of_seqeval(gold, predicted, zero_division=0, **mode)
            assert scores[prefix + name] == expected


@pytest.mark.parametrize("seed", range(3))
def test_the_metric_module_gives_the_same_dictionary(seed):
    draw = random.Random(seed)
    gold, predicted = ([[draw.choice(TAGS) for _ in range(1 + tweet % 9)] for tweet in range(60)] for _ in "12")
    ours, module = entity_scores(gold, predicted), MNERScores().compute(predictions=predicted, references=gold)
    assert ours.keys() == module.keys() and ours["types"].keys() == module["types"].keys()
    for name in ours.keys() - {"types"}:
        assert ours[name] == module[name], name
    for type_, scores in ours["types"].items():
        assert scores == module["types"][type_]


@pytest.mark.parametrize(
    "gold, predicted, message",
    [
        ([], [], "0 tweets with gold tags, 0 with predictions"),
        ([["O"]], [["O"], ["O"]], "1 tweets with gold tags, 2 with predictions"),
        ([["O", "O"]], [["O"]], "tweet 0 has 1 predictions but 2 gold tags"),
        ([["O"]], [["PER"]], "tweet 0 has 'PER' at position 0 of its predictions"),
        ([[None]], [["O"]], "tweet 0 has None at position 0 of its gold tags"),
    ],
)
def test_what_cannot_be_scored_is_named(gold, predicted, message):
    with pytest.raises(ValueError, match=message):
        entity_scores(gold, predicted)
