"""Packing: documents side by side in rows of bounded length, none of which sees another.

Best-fit decreasing: the longest document first, each into the fullest row that still has room. Rows are not
padded; what a document may attend to is said by *pieces*, and positions start anew with each document. The
two answers of a preference pair are pieces with the prompt as their prefix, which is computed once.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hermes3.errors import RequestError
from hermes3.train.examples import Example, Pair

I64 = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Piece:
    """Tokens ``start:stop`` of a row. Each sees the prefix, and its piece up to itself."""

    start: int
    stop: int
    prefix_start: int = 0
    prefix_stop: int = 0

    @property
    def n_keys(self) -> int:
        return self.stop - self.start + self.prefix_stop - self.prefix_start


@dataclass(frozen=True, slots=True, eq=False)
class Row:
    """One row, ready for the model.

    Attributes:
        ids, positions: int64 (n,).
        pieces: they cover the row without gap.
        predictors: int64 (n_trained,): where in the row the state lies that predicts a trained token.
        targets: int64 (n_trained,): the trained tokens.
        weights: float32 (n_trained,): weight of the loss of each, never 0.
        owners: int64 (n_trained,): the document of each; of pair i, 2 i is chosen and 2 i + 1 rejected.
        n_documents: examples in the row; of pairs, twice their number.
    """

    ids: I64
    positions: I64
    pieces: tuple[Piece, ...]
    predictors: I64
    targets: I64
    weights: NDArray[np.float32]
    owners: I64
    n_documents: int

    def __len__(self) -> int:
        return len(self.ids)


def best_fit(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Indices of the documents of each row; every document is in one row.

    Raises:
        RequestError: documents longer than a row.
    """
    too_long = [length for length in lengths if length > capacity]
    if too_long:
        raise RequestError(
            f"{len(too_long)} of {len(lengths)} documents are longer than a row of {capacity} tokens, "
            f"the longest has {max(too_long)}; raise max_length, or let too_long be 'drop'",
            param="max_length",
        )
    rows: list[list[int]] = []
    room: list[tuple[int, int]] = []  # (tokens that still fit, index of the row), sorted
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        at = bisect_left(room, (lengths[index], -1))
        if at < len(room):
            left, row = room.pop(at)
        else:
            left, row = capacity, len(rows)
            rows.append([])
        rows[row].append(index)
        if left > lengths[index]:
            insort(room, (left - lengths[index], row))
    return rows


def pack_examples(examples: Sequence[Example], capacity: int) -> list[Row]:
    """Rows of at most ``capacity`` tokens.

    Raises:
        RequestError: as ``best_fit``.
    """
    return [example_row([examples[i] for i in row])
            for row in best_fit([len(example) for example in examples], capacity)]  # fmt: skip


def pack_pairs(pairs: Sequence[Pair], capacity: int) -> list[Row]:
    """Rows of at most ``capacity`` tokens, each pair's prompt once.

    Raises:
        RequestError: as ``best_fit``.
    """
    return [pair_row([pairs[i] for i in row]) for row in best_fit([len(pair) for pair in pairs], capacity)]


def example_row(examples: Sequence[Example]) -> Row:
    """One row of these examples."""
    builder = _Builder()
    for example in examples:
        builder.add(example.ids, example.weights, None)
    return builder.row(len(examples))


def pair_row(pairs: Sequence[Pair]) -> Row:
    """One row of these pairs: prompt, chosen, rejected, and so on."""
    builder = _Builder()
    for number, pair in enumerate(pairs):
        prompt = builder.add(pair.prompt_ids, np.zeros(len(pair.prompt_ids), np.float32), None)
        builder.add(pair.chosen.ids, pair.chosen.weights, prompt, 2 * number)
        builder.add(pair.rejected.ids, pair.rejected.weights, prompt, 2 * number + 1)
    return builder.row(2 * len(pairs))


class _Builder:
    def __init__(self) -> None:
        self._ids: list[NDArray[np.int32]] = []
        self._positions: list[I64] = []
        self._trained: list[tuple[I64, I64, NDArray[np.float32], I64]] = []
        self._pieces: list[Piece] = []
        self._end = 0

    def add(
        self,
        ids: NDArray[np.int32],
        weights: NDArray[np.float32],
        prefix: Piece | None,
        owner: int | None = None,
    ) -> Piece:
        begin, end = (prefix.start, prefix.stop) if prefix else (0, 0)
        piece = Piece(self._end, self._end + len(ids), begin, end)
        owner = len(self._pieces) if owner is None else owner
        before = np.arange(piece.start - 1, piece.stop - 1)  # the state that predicts each id
        if prefix and len(ids):
            before[0] = prefix.stop - 1
        trained = np.flatnonzero(weights)
        if not prefix:
            trained = trained[trained > 0]
        self._ids.append(ids)
        self._positions.append(np.arange(end - begin, end - begin + len(ids)))
        owners = np.full(len(trained), owner)
        self._trained.append((before[trained], ids[trained].astype(np.int64), weights[trained], owners))
        self._pieces.append(piece)
        self._end = piece.stop
        return piece

    def row(self, n_documents: int) -> Row:
        predictors, targets, weights, owners = (
            np.concatenate([part[i] for part in self._trained]) for i in range(4)
        )
        return Row(
            np.concatenate(self._ids).astype(np.int64), np.concatenate(self._positions), tuple(self._pieces),
            predictors, targets, weights.astype(np.float32), owners, n_documents,
        )  # fmt: skip
