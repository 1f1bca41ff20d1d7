"""Which rows each step takes: a function of seed, epoch and step alone, whoever computes them."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import accumulate

import numpy as np

from hermes3.train.packing import I64, best_fit

Documents = tuple[int, ...]  # of one row


class Order:
    """The steps of a run. Each epoch is packed anew, and its rows are shuffled; its last step may be smaller.

    Args:
        lengths: tokens of all documents.
        capacity: tokens of a row.
        batch_size: rows of a step.
        epochs: how many there are.
        max_steps: the run ends after so many; 0: after the epochs.
        documents: those of an epoch, in its order.

    Attributes:
        n_steps: of the whole run.

    Raises:
        RequestError: a document is longer than a row.
    """

    def __init__(
        self,
        lengths: I64,
        capacity: int,
        batch_size: int,
        epochs: int,
        max_steps: int,
        seed: int,
        documents: Callable[[int], I64],
    ) -> None:
        self._batch_size, self._seed = batch_size, seed

        @lru_cache(maxsize=2)
        def packed(epoch: int) -> list[Documents]:
            chosen = documents(epoch)
            rows = best_fit(lengths[chosen].tolist(), capacity)
            shuffled = np.random.default_rng([seed, epoch]).permutation(len(rows))
            return [tuple(chosen[rows[i]].tolist()) for i in shuffled]

        self.rows_of_epoch = packed
        sizes: list[int] = []
        while len(sizes) < epochs and not (max_steps and sum(sizes) >= max_steps):
            sizes.append(-(-len(packed(len(sizes))) // batch_size))
        self._ends = list(accumulate(sizes))
        self.n_steps = min(self._ends[-1], max_steps or self._ends[-1])

    def epochs_done(self, n_steps: int) -> float:
        """Epochs that are done after so many steps."""
        epoch = bisect_right(self._ends, n_steps)
        begin = self._ends[epoch - 1] if epoch else 0
        if epoch == len(self._ends):
            return float(epoch)
        return epoch + (n_steps - begin) / (self._ends[epoch] - begin)

    def rows(self, step: int) -> list[Documents]:
        """The rows of a step, which counts from 0."""
        epoch = bisect_right(self._ends, step)
        at = (step - (self._ends[epoch - 1] if epoch else 0)) * self._batch_size
        return self.rows_of_epoch(epoch)[at : at + self._batch_size]

    def noise_seed(self, step: int, row: int) -> int:
        """Seed of all random numbers that are drawn while a step's row of that number is computed."""
        high, low = np.random.SeedSequence([self._seed, step, row]).generate_state(2, np.uint32)
        return int(high) << 31 ^ int(low)


def of_rank(rows: Sequence[Documents], rank: int, n_ranks: int) -> list[tuple[int, Documents, bool]]:
    """Numbers and documents of the rows that one of several processes computes, and whether they count.

    All processes get as many, since they move weights about together: who has fewer repeats a row that does
    not count.
    """
    mine = [(number, rows[number], True) for number in range(rank, len(rows), n_ranks)]
    n_each = -(-len(rows) // n_ranks)
    return mine + [(0, rows[0], False)] * (n_each - len(mine))
