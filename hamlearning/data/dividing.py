"""One set of texts divided into train, validation and test, the same whenever it is divided by the same seed."""

import random
import re
from collections.abc import Sequence

from datasets import Dataset, DatasetDict


NAMES = ("train", "validation", "test")


def parse_shares(text: str) -> tuple[int, ...]:
    """The shares of `--split`, `80/10/10` or, without a test split, `90/10`.

    Raises:
        ValueError: It is neither.
    """
    found = re.fullmatch(r"([1-9][0-9]{0,5})/([1-9][0-9]{0,5})(?:/([1-9][0-9]{0,5}))?", text)
    if found is None:
        raise ValueError(
            f"--split {text}: write the shares of train, validation and test, such as 80/10/10, or of train and "
            "validation, such as 90/10"
        )
    return tuple(int(share) for share in found.groups() if share is not None)


def divide(dataset: Dataset, shares: Sequence[int], seed: int) -> DatasetDict:
    """Divide texts at random. Those of one id, and those of the same words, stay together: none is seen twice.

    ```python
    >>> divide(dataset, (80, 10, 10), seed=1).num_rows
    {'train': 800, 'validation': 100, 'test': 100}
    ```

    Args:
        dataset: `id` and `tokens` are used.
        shares: Of each split; their sum is all.
        seed: Of the order in which texts are drawn.

    Raises:
        ValueError: A split would be empty.
    """
    groups = _groups(dataset)
    random.Random(seed).shuffle(groups)
    rows: list[list[int]] = [[] for _ in shares]
    for group in groups:
        # To the split that lacks most of its share.
        lacks = [share / sum(shares) - len(own) / dataset.num_rows for share, own in zip(shares, rows, strict=True)]
        rows[lacks.index(max(lacks))] += group
    for name, own in zip(NAMES, rows, strict=False):
        if not own:
            raise ValueError(
                f"--split {'/'.join(map(str, shares))} leaves no text for {name}: there are {dataset.num_rows}, "
                f"{len(groups)} of them with words and ids of their own: give other shares"
            )
    return DatasetDict({name: dataset.select(sorted(own)) for name, own in zip(NAMES, rows, strict=False)})


def _groups(dataset: Dataset) -> list[list[int]]:
    """Rows that share id or words, directly or by way of others; in the order of their first ones."""
    parent = list(range(dataset.num_rows))

    def root(row: int) -> int:
        while parent[row] != row:
            parent[row] = parent[parent[row]]
            row = parent[row]
        return row

    first: dict[tuple, int] = {}
    for row, (id_, tokens) in enumerate(zip(dataset["id"], dataset["tokens"], strict=True)):
        for key in (("id", id_), ("tokens", *tokens)):
            one, other = sorted((root(row), root(first.setdefault(key, row))))
            parent[other] = one
    groups: dict[int, list[int]] = {}
    for row in range(dataset.num_rows):
        groups.setdefault(root(row), []).append(row)
    return list(groups.values())
