"""What the sub-tokens' own marks (`##`, `▁` and their like) tell of words, for callers who give no `word_ids`.

Such callers were made for any token classifier: transformers' own pipeline, `Trainer` with labels a sub-token.

Letters in shapes: B tweets, S sub-tokens, W words, T tags.
"""

import base64
import zlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedTokenizerBase


try:
    from .words_hamlearning import split_words
except ImportError:
    if __package__:
        raise
    from words_hamlearning import split_words


# What the id of a sub-token tells of words, bit by bit: a word begins with it, a word ends with it, it is of no word.
BEGINS, ENDS, NO_WORD = 1, 2, 4
MAX_VOCABULARY = 10_000_000  # the marks of a stranger's config would unpack until the memory is full
# By which the tag of the best sequence is above a tag that is more probable at its word alone.
MARGIN = 1e-3
# Tweets by which is seen whether a tokenizer and its marks alone give what the processor gives.
PROBES = (
    "Loved watching the Huskies, in Rome! @NASA is live: #Artemis",
    "don't miss O'Neil at the U.S. Open (3.5 hours)... http://t.co/x1 :) naïve ☀ \U0001f600",
)


# ---------------------------------------------------------------------------------------------------- of a tokenizer


def read_marks(tokenizer: PreTrainedTokenizerBase, word_splitting: str) -> list[int] | None:
    """The mark of each sub-token, `BEGINS`, `ENDS` and `NO_WORD`; None where the tokenizer has none.

    ```python
    >>> marks = read_marks(AutoTokenizer.from_pretrained("bert-base-uncased"), "punctuation")
    >>> marks[2003], marks[2015]  # is, ##s
    (1, 0)
    ```

    Args:
        tokenizer: of the text encoder.
        word_splitting: see `split_words`. A sub-token also begins or ends a word where its first or last character
            stands alone.
    """
    ids = list(range(len(tokenizer)))
    pieces = [piece or "" for piece in tokenizer.convert_ids_to_tokens(ids)]
    continuing, ending, space = _kinds_of_marks(tokenizer, pieces)
    if not (continuing or ending or space):
        return None
    known: dict[str, tuple[bool, ...]] = {}

    def stands_alone(character: str) -> tuple[bool, ...]:  # behind a letter, and in front of one
        if character not in known:
            words = [split_words(text, word_splitting) for text in ("a" + character, character + "a")]
            known[character] = tuple(any(start == 1 for start, _ in spans) for spans in words)
        return known[character]

    marks = []
    for piece in pieces:
        text = piece.removeprefix(continuing or "").removesuffix(ending or "")
        if space:
            text = tokenizer.convert_tokens_to_string([piece]).strip()
        begins = piece.startswith(space) if space else bool(continuing) and not piece.startswith(continuing or "")
        ends = ending is not None and (piece.endswith(ending) != (ending == "@@"))
        begins = begins or (text != "" and stands_alone(text[0])[0])
        ends = ends or (text != "" and stands_alone(text[-1])[1])
        marks.append(BEGINS * begins | ENDS * ends)
    unknown: Any = tokenizer.unk_token_id
    for id_ in tokenizer.all_special_ids:
        if id_ not in (unknown, tokenizer.mask_token_id):
            marks[id_] = NO_WORD
    if unknown is not None:
        marks[unknown] = 0 if space else BEGINS
    return marks


def _kinds_of_marks(
    tokenizer: PreTrainedTokenizerBase, pieces: Sequence[str]
) -> tuple[str | None, str | None, str | None]:
    """How a tokenizer marks sub-tokens; None for what it has not.

    Returns:
        What a sub-token begins with that goes on with a word; what one ends with that ends a word (or, `@@`, that does
        not); and what stands for the space in front of one that begins a word.
    """
    backend = getattr(getattr(tokenizer, "backend_tokenizer", None), "model", None)
    continuing = getattr(backend, "continuing_subword_prefix", None) or None
    ending = getattr(backend, "end_of_word_suffix", None) or None
    if continuing or ending:
        return continuing, ending, None

    def are_many(count: int) -> bool:
        return count > len(pieces) / 20

    if are_many(sum(piece.endswith("@@") for piece in pieces)):
        return None, "@@", None
    spaces = [space for space in ("\u2581", "\u0120") if are_many(sum(piece.startswith(space) for piece in pieces))]
    return None, None, spaces[0] if spaces else None


def pack_marks(marks: Sequence[int]) -> str:
    """The mark of each sub-token as a string for a config."""
    return base64.b64encode(zlib.compress(bytes(marks), 9)).decode()


def unpack_marks(packed: str) -> bytes:
    """What `pack_marks` packed, a byte a sub-token.

    Raises:
        ValueError: it did not.
    """
    try:
        marks = zlib.decompressobj().decompress(base64.b64decode(packed, validate=True), MAX_VOCABULARY)
    except (TypeError, ValueError, zlib.error) as error:
        raise ValueError(f"word_marks: pieces={packed!r:.40} cannot be unpacked ({error}).") from None
    if not marks:
        raise ValueError(f"word_marks: pieces={packed!r:.40} are of no sub-token.")
    return marks


# ------------------------------------------------------------------------------------------------------- of a network


def find_words(
    input_ids: torch.Tensor,  # (B, S)
    attention_mask: torch.Tensor | None,  # (B, S)
    marks: torch.Tensor,  # (V,)
) -> torch.Tensor:
    """`word_ids` (B, S), 0 for [CLS], k for word k, -1 for nothing, read off the sub-tokens' marks."""
    # An id that was added since is a word of its own.
    mark = torch.where(input_ids < len(marks), marks[input_ids.clamp(max=len(marks) - 1)], BEGINS | ENDS)
    is_piece = mark & NO_WORD == 0
    if attention_mask is not None:
        is_piece = is_piece & attention_mask.bool()
    before = nn.functional.pad(torch.where(is_piece, mark, ENDS)[:, :-1], (1, 0), value=ENDS)
    begins = is_piece & ((mark & BEGINS > 0) | (before & ENDS > 0))
    word_ids = torch.where(is_piece, begins.cumsum(dim=1), -1)
    is_cls = torch.arange(word_ids.shape[1], device=word_ids.device) == 0
    return torch.where(is_cls & ~is_piece, 0, word_ids)


def spread_over_pieces(
    of_words: dict[str, torch.Tensor], word_ids: torch.Tensor, continuations: torch.Tensor
) -> dict[str, torch.Tensor]:
    """What was found of words as that of their sub-tokens, so that who knows sub-tokens alone finds the same words.

    Args:
        of_words: `logits` (B, W, T), and in eval mode `predictions` (B, W), `scores` (B, W) and `probabilities`
            (B, W, T).
        word_ids: (B, S).
        continuations: (T,), the tag of the further pieces of a word with a tag: I-X for B-X.

    Returns:
        The same of sub-tokens. In eval mode the softmax of the logits is the probability of each tag, but that of the
        predicted path is first; on the further pieces of a word B-X and I-X have changed places.
    """
    is_piece = word_ids > 0
    is_first = is_piece & (word_ids != nn.functional.pad(word_ids[:, :-1], (1, 0), value=-1))
    place = (word_ids - 1).clamp(min=0)

    def spread(values: torch.Tensor) -> torch.Tensor:
        return values.gather(1, place if values.dim() == 2 else place[..., None].expand(-1, -1, values.shape[2]))

    if "predictions" not in of_words:
        return {"logits": spread(of_words["logits"])}
    words = of_words["predictions"].clamp(min=0)
    continued = continuations.to(words.device)[words]
    begun, tag = (spread(tags)[..., None] for tags in (words, continued))  # (B, S, 1)
    tag = torch.where(is_first[..., None], begun, tag)
    probabilities = spread(of_words["probabilities"])
    own, other = probabilities.gather(2, begun), probabilities.gather(2, tag)
    # Callers that average over a word's pieces must not join it to an entity of its type before it: nearly equal.
    follows = (nn.functional.pad(continued[:, :-1], (1, 0), value=-1) == continued) & (words != continued)
    halves = spread(follows)[..., None] & ~is_first[..., None]
    own, other = (torch.where(halves, (own + other) / 2, one) for one in (own, other))
    logits = probabilities.scatter(2, begun, other).scatter(2, tag, own)
    logits = logits.clamp(min=torch.finfo(logits.dtype).tiny).log()
    best = logits.amax(dim=2, keepdim=True) + MARGIN
    logits = torch.where(logits.argmax(dim=2, keepdim=True) == tag, logits, logits.scatter(2, tag, best))
    return {
        "logits": torch.where(is_piece[..., None], logits, 0),
        "predictions": torch.where(is_piece, tag[..., 0], -100),
        "scores": torch.where(is_first, spread(of_words["scores"]), 0),
        "probabilities": probabilities * is_piece[..., None],
    }


__all__ = ["find_words", "pack_marks", "read_marks", "spread_over_pieces", "unpack_marks"]
