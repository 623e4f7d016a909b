"""What a text encoder must do for a run, tried on it before anything is trained: read so many sub-tokens, mind a mask.

How an architecture says its positions differs (a number, a number and two, a table, none at all), so nobody says it
for all: a text of that length is read.
"""

import logging
from typing import Any

import torch
from transformers import PreTrainedModel


logger = logging.getLogger(__name__)

FEWEST = 8  # sub-tokens of a text that every encoder reads
# Of the states' standard deviation: how far padding may move them. What reads it as text moves them by a multiple.
MOST_MOVED, NOTICED = 0.1, 1e-3


def check_text_encoder(text_model: PreTrainedModel, origin: str, max_length: int, remedy: str) -> None:
    """Refuses an encoder that cannot read a run's tweets.

    Args:
        text_model: on the CPU.
        origin: what the user calls it.
        max_length: most sub-tokens that it will be given at once.
        remedy: what to type for fewer, with `{most}` for how many.

    Raises:
        ValueError: it is no text encoder, reads padding as text, or reads shorter texts only: then the message has
            the most that fits.
    """
    kind = f"{origin}, of the type {text_model.config.model_type!r},"
    short = min(FEWEST, max_length)
    try:
        states = states_of(text_model, short)
    except Exception as error:  # whatever an architecture says of inputs that it does not know
        raise ValueError(
            f"{kind} does not read sub-tokens and a mask alone ({first_line(error)}): give a text encoder, such as "
            "bert-base-uncased; of a model with several parts, such as CLIP, its text part, saved by itself."
        ) from error
    expected = (1, short, text_model.config.hidden_size)
    if tuple(states.shape) != expected:
        raise ValueError(
            f"{kind} makes {tuple(states.shape)} of {short} sub-tokens, expected {expected}: give a text encoder with "
            "one state a sub-token, such as bert-base-uncased."
        )
    check_padding(text_model, kind, states)
    try:
        states_of(text_model, max_length)
    except Exception as error:
        most = most_that_fits(text_model, short, max_length)
        raise ValueError(
            f"{kind} reads at most {most} sub-tokens at once, not {max_length} ({first_line(error)}): "
            f"{remedy.format(most=most)}. Longer tweets are read in windows."
        ) from error


def check_padding(text_model: PreTrainedModel, kind: str, states: torch.Tensor) -> None:
    """Refuses an encoder of which a text's states (1, S, d) depend much on the padding behind it.

    Raises:
        ValueError: they do.
    """
    length = states.shape[1]
    padded = states_of(text_model, length, num_padding=length)[:, :length]
    moved = float((padded - states).abs().max() / states.std().clamp(min=1e-6))
    if not moved <= MOST_MOVED:
        raise ValueError(
            f"{kind} reads padding as if it were text: what it says of a tweet would depend on the tweets that are "
            "read beside it. Give a text encoder with an attention mask, such as bert-base-uncased."
        )
    if moved > NOTICED:
        logger.warning(
            f"{kind} reads a little of the padding behind a text: states move by up to {moved:.1%} of their spread "
            "with the tweets that are read beside it."
        )


def most_that_fits(text_model: PreTrainedModel, fits: int, too_many: int) -> int:
    """The largest number of sub-tokens that an encoder reads at once, between one that fits and one that does not."""
    while too_many - fits > 1:
        middle = (fits + too_many) // 2
        try:
            states_of(text_model, middle)
            fits = middle
        except Exception:  # too long; what it says differs by architecture
            too_many = middle
    return fits


def has_unread_parameters(text_model: PreTrainedModel) -> bool:
    """Whether some weights have no part in what an encoder says, as XLNet's mask and Longformer's global attention."""
    wanted = [parameter for parameter in text_model.parameters() if parameter.requires_grad]
    with torch.enable_grad():
        total = states_of(text_model, FEWEST, with_gradient=True).sum()
    return any(gradient is None for gradient in torch.autograd.grad(total, wanted, allow_unused=True))


def states_of(
    text_model: PreTrainedModel, length: int, num_padding: int = 0, with_gradient: bool = False
) -> torch.Tensor:
    """What an encoder makes of a text of some sub-tokens, (1, S, d), in eval mode; its random numbers are its own."""
    config: Any = text_model.config
    padding = getattr(config, "pad_token_id", None) or 0
    ids = [index for index in range(min(getattr(config, "vocab_size", 64), 64)) if index != padding]
    row = [ids[place % len(ids)] for place in range(length)] + [padding] * num_padding
    mask = [1] * length + [0] * num_padding
    was_training = text_model.training
    try:
        with torch.random.fork_rng(devices=[]), torch.set_grad_enabled(with_gradient):
            outputs = text_model.eval()(input_ids=torch.tensor([row]), attention_mask=torch.tensor([mask]))
    finally:
        text_model.train(was_training)
    return outputs.last_hidden_state


def first_line(error: Exception) -> str:
    """The kind of an error and the beginning of what it says."""
    said = " ".join(str(error).split())
    return f"{type(error).__name__}: {said[:120]}" if said else type(error).__name__
