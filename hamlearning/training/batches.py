"""Which tweets make a batch, and what a batch holds."""

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch.utils.data import Sampler, get_worker_info

from hamlearning.data.workers import outlive_a_signal
from processing_hamlearning import HamLearningDataCollator, HamLearningProcessor


class TokenBudgetBatches(Sampler):
    """Batches of tweets of like length whose padded sub-tokens, tweets times longest, do not exceed a budget.

    ```python
    >>> list(TokenBudgetBatches(lengths=[9, 2, 4, 5, 3], budget=10))
    [[0], [3, 2], [4, 1]]
    ```

    Every epoch each tweet is in one batch, in other company and at another time than in the epoch before; the number
    of batches stays. Of several processes each takes one batch in turn. Those of one step are neighbours in length, so
    that all processes have as much to do.

    The loss is the mean over the tweets of a batch, and processes (or the steps of an accumulation) average their
    gradients. So each batch has the same weight, and a long tweet, in company of few, weighs more than a short one,
    with one process as with several. As the batches of a step are of like length, their average is nearly the mean
    over all its tweets.

    Args:
        lengths: sub-tokens of each tweet.
        budget: most padded sub-tokens of a batch.
        num_processes: that the batches are dealt to. Their number is a multiple of it where there are enough tweets.
        seed: of the shuffling, with the epoch.

    Raises:
        ValueError: a tweet is longer than the budget.
    """

    def __init__(self, lengths: Sequence[int], budget: int, num_processes: int = 1, seed: int = 0):
        self.lengths = np.asarray(lengths)
        self.num_processes = num_processes
        self.seed = seed
        self.epoch = 0
        longest = int(self.lengths.max())
        if longest > budget:
            raise ValueError(
                f"--tokens_per_batch {budget}, but tweet {self.lengths.argmax()} of the train split has {longest} "
                f"sub-tokens: give at least {longest}."
            )
        # The longest tweet opens a batch: its length says how many go with it, whatever the order among equals.
        descending = np.sort(self.lengths)[::-1]
        sizes, first = [], 0
        while first < len(descending):
            sizes.append(min(int(budget // descending[first]), len(descending) - first))
            first += sizes[-1]
        while len(sizes) % num_processes and max(sizes) > 1:
            largest = int(np.argmax(sizes))
            half = sizes[largest] // 2
            sizes[largest : largest + 1] = [sizes[largest] - half, half]
        self.ends = np.cumsum(sizes)

    def set_epoch(self, epoch: int) -> None:
        """Trainer says here which epoch comes, also where it goes on from a checkpoint."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.ends)

    def __iter__(self) -> Iterator[list[int]]:
        rng = np.random.default_rng((self.seed, self.epoch))
        descending = np.lexsort((rng.random(len(self.lengths)), -self.lengths))
        batches = np.split(descending, self.ends[:-1])
        steps = [batches[first : first + self.num_processes] for first in range(0, len(batches), self.num_processes)]
        for step in rng.permutation(len(steps)):
            yield from (batch.tolist() for batch in steps[step])


class PictureInEveryBatch(HamLearningDataCollator):
    """Batches that all have the visual inputs, two regions a tweet or more, masked where there is nothing to see.

    What is compiled has one graph for them all then (a size of 0 or 1 has its own), and what is sharded has the same
    layers to gather on every process.
    """

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """As `HamLearningDataCollator`."""
        processor, count = self.processor, len(rows)
        nothing = {
            "image_features": torch.zeros(count, processor.image_feature_size or 0),
            "region_features": torch.zeros(count, 0, processor.region_feature_size or 0),
            "region_boxes": torch.zeros(count, 0, 4),
            "region_class_ids": torch.zeros(count, 0, dtype=torch.long),
            "region_mask": torch.zeros(count, 0, dtype=torch.long),
            "image_mask": torch.zeros(count, dtype=torch.long),
            "image_sizes": torch.ones(count, 2, dtype=torch.long),
        }
        batch = nothing | super().__call__(rows)
        for name in ("region_features", "region_boxes", "region_class_ids", "region_mask"):
            tensor = batch[name]
            missing = max(2 - tensor.shape[1], 0)
            batch[name] = torch.nn.functional.pad(tensor, (0, 0) * (tensor.dim() - 2) + (0, missing))
        return batch


def with_lengths(dataset: Dataset, processor: HamLearningProcessor) -> Dataset:
    """Adds `length`, how many sub-tokens of each tweet are read, by which batches are made.

    A tweet that is read in windows counts for as many whole ones.
    """
    return dataset.add_column("length", processor.count_sub_tokens(dataset["tokens"][:]).tolist())


class SeededByEpoch(Sampler):
    """Another sampler's order, decided by seed and epoch alone, whatever else has drawn random numbers before.

    So it is the same in an epoch that goes on from a checkpoint, and on all processes.
    """

    def __init__(self, sampler: Sampler, seed: int):
        self.sampler: Any = sampler  # with a length and a generator, which not every one has
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int):
        """Which epoch comes next."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[int]:
        digest = hashlib.sha256(f"{self.seed} {self.epoch}".encode()).digest()
        self.sampler.generator = torch.Generator().manual_seed(int.from_bytes(digest[:7]))
        return iter(self.sampler)


class WithIds:
    """A collator whose batches have the tweets' `ids` beside what the network takes.

    In a process that loads data its first batch is also where `outlive_a_signal` is called: `Trainer` has a
    `worker_init_fn` of its own.
    """

    def __init__(self, collate: Callable[[list[dict[str, Any]]], dict[str, Any]]):
        self.collate = collate
        self._process = os.getpid()

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """A batch of rows."""
        if os.getpid() != self._process and get_worker_info() is not None:
            self._process = os.getpid()
            outlive_a_signal()
        batch = dict(self.collate(rows))
        return batch | {"ids": [str(row["id"]) for row in rows]}
