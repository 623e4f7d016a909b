"""Texts beyond the length limit: read in windows of whole words that overlap, and joined before the CRF.

Letters in shapes as in the model; M windows of a batch, K windows of its longest tweet.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch


# So many windows go through the network at once where no gradient is asked for, so that memory stays bounded.
WINDOWS_AT_ONCE = 32


def plan_windows(num_pieces: np.ndarray, room: int, stride: int) -> list[tuple[int, int]]:
    """The windows in which a tweet is read.

    ```python
    >>> plan_windows(np.array([1, 1, 1, 1, 1, 1, 1]), room=4, stride=2)
    [(0, 4), (2, 6), (3, 7)]
    ```

    The last window reaches back as far as there is room: its words have more to their left then, at no cost.

    Args:
        num_pieces: (W,), sub-tokens of each word, `room` at most.
        room: most sub-tokens of a window, without [CLS] and [SEP].
        stride: words that a window shares with the one before it, half of that one at most; fewer where they leave
            no room for a new one.

    Returns:
        (first word, word after the last) of each window, in order; one window where all words have room.
    """
    ends = np.concatenate([[0], np.cumsum(num_pieces)])  # sub-tokens before each word, and of all

    def first_with_room(word: int) -> int:
        """The first word from which a window reaches `word`."""
        return int(np.searchsorted(ends, ends[word] - room))

    windows, first = [], 0
    while True:
        end = int(np.searchsorted(ends, ends[first] + room, side="right")) - 1
        if end == len(num_pieces):
            windows.append((min(first, first_with_room(end)), end))
            return windows
        windows.append((first, end))
        first = max(end - min(stride, (end - first) // 2), first_with_room(end + 1))


def read_in_windows(
    read: Callable[..., Any],
    windows: torch.Tensor,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor | None,
    word_ids: torch.Tensor | None,
    visual_inputs: dict[str, torch.Tensor | None],
    num_words: int | None,
    token_type_ids: torch.Tensor | None = None,
    num_pictures: int = 1,
    word_inputs: dict[str, torch.Tensor] | None = None,
    **options: Any,
) -> Any:
    """What the trunk says of tweets, each word read in the window in which it stands farthest from an edge.

    The start and the end of the tweet are no edges: nothing is hidden behind them. The picture goes with every
    window; its relevance is the mean of theirs.

    Args:
        read: `forward` of a trunk, which takes tweets that have room.
        windows: (B, K, 2), first word and word after the last; (0, 0) where a tweet has fewer.
        input_ids: (B, S), of the whole tweets, as all that follows.
        attention_mask: (B, S) or None.
        word_ids: (B, S), in ascending order up to the last word.
        visual_inputs: (B * P, ...) each, or None.
        num_words: W, if it is known.
        token_type_ids: (B, S) or None.
        num_pictures: P, pictures of each tweet, whose rows are side by side.
        word_inputs: (B, W, ...) each: a window gets those of its words, and what follows them.
        **options: handed on to `read`.

    Returns:
        What `read` returns, for B whole tweets; for B * P where there are several pictures.

    Raises:
        ValueError: there are no `word_ids`.
    """
    if word_ids is None:
        raise ValueError("windows without word_ids: give both as HamLearningProcessor returns them.")
    present = windows[..., 1] > windows[..., 0]  # (B, K)
    present[:, 0] = True  # a tweet without words has one too
    row, place = present.nonzero(as_tuple=True)  # (M,) each
    if num_words is None:
        num_words = max(int(windows.max()), 1)
    if attention_mask is None:
        attention_mask = torch.ones_like(input_ids)
    pieces, width = _cut_windows(windows, row, place, input_ids, attention_mask, word_ids, token_type_ids)
    for name, given in (word_inputs or {}).items():
        column = windows[row, place, :1] + torch.arange(width, device=row.device)
        pieces[name] = given[row[:, None], column.clamp(max=given.shape[1] - 1)]

    # Where layers are sharded, every process must call them as often as the others.
    is_alone = not (torch.distributed.is_available() and torch.distributed.is_initialized())
    is_bounded = is_alone and not torch.is_grad_enabled()
    at_once = max(WINDOWS_AT_ONCE // num_pictures, len(windows)) if is_bounded else len(row)
    outputs = []
    for some in torch.arange(len(row), device=row.device).split(at_once):
        here = {name: given[some] for name, given in pieces.items()}
        if num_pictures == 1:
            shown = {name: None if given is None else given[row[some]] for name, given in visual_inputs.items()}
            outputs.append(read(**here, **shown, num_words=width, **options))
        else:
            shown = {
                name: None if given is None else given.unflatten(0, (-1, num_pictures))[row[some]].flatten(0, 1)
                for name, given in visual_inputs.items()
            }
            read_pictures = read(**here, **shown, num_words=width, num_pictures=num_pictures, **options)
            outputs.append(_pictures_last(read_pictures, num_pictures))
    joined = _join_windows(outputs, windows, present, row, num_words)
    return joined if num_pictures == 1 else _pictures_first(joined, num_pictures)


def _pictures_last(output: Any, num_pictures: int) -> Any:
    """Outputs of M windows with P pictures each, (M * P, words, d), as those of M windows: (M, words, P, d)."""
    states = output["last_hidden_state"].unflatten(0, (-1, num_pictures)).transpose(1, 2)
    relevance = output.get("relevance")
    return type(output)(
        last_hidden_state=states,
        word_mask=output["word_mask"][::num_pictures],
        relevance=None if relevance is None else relevance.view(len(states), -1),  # (M, P * views)
    )


def _pictures_first(output: Any, num_pictures: int) -> Any:
    """Outputs of B tweets as `_pictures_last` has them, a row a picture again: (B * P, W, d)."""
    relevance = output.get("relevance")
    return type(output)(
        last_hidden_state=output["last_hidden_state"].transpose(1, 2).flatten(0, 1),
        word_mask=output["word_mask"].repeat_interleave(num_pictures, dim=0),
        relevance=None if relevance is None else relevance.reshape(len(relevance) * num_pictures, -1),
    )


def _cut_windows(
    windows: torch.Tensor,  # (B, K, 2)
    row: torch.Tensor,  # (M,), a window's tweet
    place: torch.Tensor,  # (M,), its place among that tweet's windows
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor,
    word_ids: torch.Tensor,
    token_type_ids: torch.Tensor | None,
) -> tuple[dict[str, torch.Tensor], int]:
    """The text's inputs of each window, (M, S of a window), and most words of a window."""
    # What follows the last word has no word's id: for the search it is one beyond all.
    is_word = word_ids >= 0
    ascending = torch.where(is_word, word_ids, word_ids.shape[1] + 1).contiguous()
    bounds = torch.searchsorted(ascending, (windows + 1).flatten(1).contiguous()).view_as(windows)
    start, end = bounds[row, place].unbind(1)  # (M,), columns of the first sub-token and of the one after the last
    first_word, after_word = windows[row, place].unbind(1)
    last = attention_mask.sum(dim=1)[row] - 1  # (M,), column of [SEP]

    size = (end - start)[:, None]
    column = torch.arange(int(size.max()) + 2, device=row.device)[None]
    source = torch.where(column == 0, 0, torch.where(column <= size, start[:, None] + column - 1, last[:, None]))
    mask = column <= size + 1
    ids = word_ids[row[:, None], source]
    ids = torch.where(ids > 0, ids - first_word[:, None], ids)
    pieces = {
        "input_ids": input_ids[row[:, None], source],
        "attention_mask": mask.to(attention_mask.dtype),
        "word_ids": torch.where(mask, ids, -1),
    }
    if token_type_ids is not None:
        pieces["token_type_ids"] = token_type_ids[row[:, None], source]
    return pieces, max(int((after_word - first_word).max()), 1)


def _join_windows(
    outputs: list[Any],
    windows: torch.Tensor,  # (B, K, 2)
    present: torch.Tensor,  # (B, K)
    row: torch.Tensor,  # (M,)
    num_words: int,
) -> Any:
    """The outputs of M windows as those of B tweets: words put together, relevance averaged."""
    first, end = windows.unbind(2)  # (B, K)
    word = torch.arange(num_words, device=windows.device).expand(len(windows), -1).contiguous()  # (B, W)
    # Of the words that two windows share the first half is the earlier one's. No window begins behind the last.
    cuts = torch.where(present[:, 1:], (first[:, 1:] + end[:, :-1] + 1) // 2, num_words + 1).contiguous()
    home = torch.searchsorted(cuts, word, right=True)  # (B, W), the place of the window that a word is taken from
    window = present.sum(dim=1).cumsum(dim=0)[:, None] - present.sum(dim=1, keepdim=True) + home
    word_mask = word < end.amax(dim=1, keepdim=True)
    within = torch.where(word_mask, word - first.gather(1, home), 0)

    def joined(states: torch.Tensor) -> torch.Tensor:
        """(M, words of a window, ...) to (B, W, ...)."""
        mask = word_mask.view(*word_mask.shape, *(1,) * (states.dim() - 2))
        return torch.where(mask, states[window, within], 0)

    joined_outputs = dict(outputs[0])
    for name in outputs[0]:
        parts = [output[name] for output in outputs]
        if name == "word_mask":
            joined_outputs[name] = word_mask
        elif name == "relevance":
            joined_outputs[name] = _mean_relevance(torch.cat(parts), row, len(windows))
        elif name == "hidden_states":
            joined_outputs[name] = tuple(joined(torch.cat(states)) for states in zip(*parts, strict=True))
        elif name == "attentions":  # (M, heads, words of a window, N) each
            rounds = (torch.cat(attention).transpose(1, 2) for attention in zip(*parts, strict=True))
            joined_outputs[name] = tuple(joined(attention).transpose(1, 2) for attention in rounds)
        elif parts[0].dim() == 1:  # a figure a window
            joined_outputs[name] = _mean_of_windows(torch.cat(parts), row, len(windows))
        else:
            joined_outputs[name] = joined(torch.cat(parts))
    return type(outputs[0])(**joined_outputs)


def _mean_relevance(relevance: torch.Tensor, row: torch.Tensor, num_tweets: int) -> torch.Tensor:
    """C^r of windows (M, views) as that of tweets (B, views).

    Its sign means nothing, so magnitudes are averaged; the sign is the first window's, as where there is but one.
    """
    counts = torch.bincount(row, minlength=num_tweets)
    first = counts.cumsum(0) - counts
    return _mean_of_windows(relevance.abs(), row, num_tweets) * relevance[first].sign()


def _mean_of_windows(figures: torch.Tensor, row: torch.Tensor, num_tweets: int) -> torch.Tensor:
    """Figures of windows (M, ...) averaged over each tweet's, (B, ...)."""
    counts = torch.bincount(row, minlength=num_tweets)
    total = figures.new_zeros(num_tweets, *figures.shape[1:]).index_add(0, row, figures)
    return total / counts.view(-1, *(1,) * (figures.dim() - 1))


__all__ = ["plan_windows", "read_in_windows"]
