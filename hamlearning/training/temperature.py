"""The temperature of a model's scores: one number, fitted on the dev split, that makes them probabilities."""

import logging
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from datasets import Dataset

from configuration_hamlearning import SCORE_TEMPERATURES
from hamlearning.data.tweets import tag_names
from hamlearning.scores.calibration import calibration
from hamlearning.training.trainer import MNERTrainer
from modeling_hamlearning import HamLearningCRF
from words_hamlearning import entity_spans


logger = logging.getLogger(__name__)

MIN_ENTITIES = 10  # right ones, and wrong ones: of fewer no share can be read
BATCH = 256  # tweets, in the CRF alone
GRID = 25  # temperatures at which the minimum is looked for, evenly in their logarithm
STEPS = 20  # of golden-section search beside the best of them
LEAST = 1e-12  # probability of what happened, in a logarithm


class Entities(NamedTuple):
    """The predicted entities of a split, and what their scores are computed of."""

    emissions: torch.Tensor  # (N, W, T) float64
    paths: torch.Tensor  # (N, W), the most probable tags
    mask: torch.Tensor  # (N, W), on for a word
    rows: torch.Tensor  # (K,), the tweet of each entity
    words: torch.Tensor  # (K,), its first word
    is_right: torch.Tensor  # (K,), whether gold has just this entity


def wants_calibration(trainer: MNERTrainer) -> bool:
    """Whether a temperature is to be fitted: if asked for, or if a model was trained and nothing was said of it.

    Raises:
        ValueError: it is asked for, and the model's scores have none.
    """
    model: Any = trainer.accelerator.unwrap_model(trainer.model)
    if trainer.args.calibrate and not model.has_score_temperature:
        raise ValueError(
            f"--calibrate True: {type(model).__name__} has no CRF, whose probabilities a temperature is of: leave it "
            "out."
        )
    if trainer.args.calibrate is None:
        return trainer.args.do_train and model.has_score_temperature
    return trainer.args.calibrate


def calibrate(trainer: MNERTrainer, dataset: Dataset) -> dict[str, Any]:
    """Gives the trainer's model the temperature that fits the scores of its entities in a tagged split.

    That with the least log loss, the mean of -log p of what is so: that an entity is right, or that it is not. Where
    the split has fewer than 10 right or 10 wrong entities nothing is fitted, and the temperature is 1.

    Returns:
        `temperature`, the numbers of `entities` and of those that are `right`, and `before` (at temperature 1) and
        `after`: `ece`, `brier` and `log_loss`.
    """
    model: Any = trainer.accelerator.unwrap_model(trainer.model)
    model.config.score_temperature = 1.0
    entities = predict_entities(trainer, dataset)
    score = span_scorer(model, entities)
    right = int(entities.is_right.sum())
    found: dict[str, Any] = {"temperature": 1.0, "entities": len(entities.rows), "right": right}
    if min(right, len(entities.rows) - right) < MIN_ENTITIES:
        logger.warning(
            f"{right} right and {len(entities.rows) - right} wrong entities in the dev split: too few to fit a "
            f"temperature, which takes {MIN_ENTITIES} of each. Scores stay as the CRF has them."
        )
        return found
    found["temperature"] = fit_temperature(score, entities.is_right)
    model.config.score_temperature = found["temperature"]
    for name, temperature in (("before", 1.0), ("after", found["temperature"])):
        log_probabilities = score(temperature)
        figures = calibration(log_probabilities.exp().clamp(max=1).tolist(), entities.is_right.tolist())
        found[name] = {"ece": figures["ece"], "brier": figures["brier"]}
        found[name]["log_loss"] = log_loss(log_probabilities, entities.is_right)
    logger.info(describe(found))
    return found


def describe(found: dict[str, Any]) -> str:
    """What `calibrate` found, in a sentence."""
    if "after" not in found:
        return f"Score temperature 1: {found['entities'] - found['right']} of {found['entities']} entities are wrong."
    shares = ", ".join(
        f"{name} {100 * found['before'][key]:.2f} to {100 * found['after'][key]:.2f} %"
        for key, name in (("ece", "ECE"), ("brier", "Brier"))
    )
    return f"Score temperature {found['temperature']:.3f}, of {found['entities']} entities in the dev split: {shares}."


def predict_entities(trainer: MNERTrainer, dataset: Dataset) -> Entities:
    """The entities that the model finds in a tagged split, with the emissions that they come from."""
    order = np.argsort(dataset["length"], kind="stable")[::-1]
    rows: Any = dataset.select(order)
    kept = trainer.preprocess_logits_for_metrics, trainer.compute_metrics
    trainer.preprocess_logits_for_metrics = lambda outputs, labels: outputs[:2]
    trainer.compute_metrics = None
    try:
        output: Any = trainer.predict(rows, metric_key_prefix="calibration").predictions
    finally:
        trainer.preprocess_logits_for_metrics, trainer.compute_metrics = kept
    emissions, paths = (torch.from_numpy(np.asarray(part)) for part in output)
    names, found = trainer.processing_class.tags, []
    for row, (tags, gold) in enumerate(zip(paths.tolist(), tag_names(rows), strict=True)):
        there = set(entity_spans(gold))
        spans = entity_spans([names[tag] for tag in tags if tag != -100])
        found += [(row, span[1], span in there) for span in spans]
    columns = torch.tensor(found, dtype=torch.long).reshape(-1, 3)
    places = columns[:, 0], columns[:, 1]
    return Entities(emissions.double(), paths.clamp(min=0), paths != -100, *places, columns[:, 2].bool())


def span_scorer(model: Any, entities: Entities) -> Callable[[float], torch.Tensor]:
    """A function from a temperature to the log probability of each entity, (K,)."""
    crf = whole_crf(model)
    tables = [table.cpu() for table in model._tag_tables()]
    # Tweets are sorted by length, longest first. One that was not read at all has no entity, and no first word.
    lengths = entities.mask.sum(dim=1).clamp(min=1)
    mask = torch.arange(entities.mask.shape[1]) < lengths[:, None]

    def score(temperature: float) -> torch.Tensor:
        found = torch.full(mask.shape, -torch.inf, dtype=torch.double)
        for first in range(0, len(mask), BATCH):
            batch, width = slice(first, first + BATCH), int(lengths[first : first + BATCH].max())
            emissions, paths = entities.emissions[batch, :width], entities.paths[batch, :width]
            found[batch, :width] = crf.span_log_probabilities(
                emissions, paths, mask[batch, :width], *tables, temperature=temperature
            )
        return found[entities.rows, entities.words]

    return score


def whole_crf(model: Any) -> HamLearningCRF:
    """The model's CRF, on the CPU and in one piece."""
    crf = HamLearningCRF(len(model.config.tags))
    with torch.no_grad():
        for name in ("start_transitions", "transitions", "end_transitions"):
            table: Any = getattr(model.crf, name).detach()
            table = table.full_tensor() if hasattr(table, "full_tensor") else table  # FSDP shards them
            getattr(crf, name).copy_(table)
    return crf.double().requires_grad_(False)


def fit_temperature(score: Callable[[float], torch.Tensor], is_right: torch.Tensor) -> float:
    """The temperature with the least log loss of entities, by a grid and golden-section search.

    Args:
        score: from a temperature to log probabilities (K,).
        is_right: (K,).
    """
    logarithms = np.log(np.geomspace(*SCORE_TEMPERATURES, GRID)).tolist()

    def loss(logarithm: float) -> float:
        return log_loss(score(math.exp(logarithm)), is_right)

    losses = [loss(logarithm) for logarithm in logarithms]
    best = int(np.argmin(losses))
    return math.exp(minimum(loss, logarithms[max(best - 1, 0)], logarithms[min(best + 1, GRID - 1)]))


def minimum(function: Callable[[float], float], low: float, high: float) -> float:
    """Where a function with one minimum in [low, high] has it, by golden-section search."""
    share = (math.sqrt(5) - 1) / 2
    inner = [high - share * (high - low), low + share * (high - low)]
    values = [function(place) for place in inner]
    for _ in range(STEPS):
        if values[0] <= values[1]:
            high, inner[1], values[1] = inner[1], inner[0], values[0]
            inner[0] = high - share * (high - low)
            values[0] = function(inner[0])
        else:
            low, inner[0], values[0] = inner[0], inner[1], values[1]
            inner[1] = low + share * (high - low)
            values[1] = function(inner[1])
    return (low + high) / 2


def log_loss(log_probabilities: torch.Tensor, is_right: Sequence[bool] | torch.Tensor) -> float:
    """The mean of -log p of what is so, of entities that are right or not."""
    right = torch.as_tensor(is_right)
    of_wrong = -torch.expm1(log_probabilities.clamp(max=0))
    happened = torch.where(right, log_probabilities.exp(), of_wrong)
    return float(-happened.clamp(min=LEAST, max=1).log().mean())
