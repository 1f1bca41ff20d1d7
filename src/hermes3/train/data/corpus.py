"""Files with weights, as numbers: read once, kept on disk, given in the order of an epoch."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hermes3.errors import FormatError, RequestError
from hermes3.train.data.files import DataFile
from hermes3.train.data.rendered import Renderer
from hermes3.train.data.rows import Fault
from hermes3.train.data.tokenized import tokenized
from hermes3.train.examples import Example, Pair

I64 = NDArray[np.int64]
Progress = Callable[[int, int], None]  # bytes read, bytes in all

SHOWN = 5  # faults that an error quotes


@dataclass(frozen=True, slots=True)
class Part:
    """A file of a mixture.

    Attributes:
        path: the file.
        weight: how often a row comes in an epoch, on average: 2 twice; 0.5 every other epoch.
        form: as ``DataFile`` has it.
    """

    path: Path
    weight: float = 1.0
    form: str | None = None


class Corpus:
    """Examples, or pairs, of one or several files. They lie in a temporary file: memory does not grow.

    Attributes:
        kind: Example or Pair; all are of one kind.
        lengths: int64 (n,): tokens of each, a pair's prompt counted once.
        n_trained: int64 (n,): those of them that something is learned from.
        faults: rows that were left out because ``skip_bad`` said so.
    """

    def __init__(self, weights: Sequence[float]) -> None:
        self.kind: type[Example] | type[Pair] | None = None
        self.faults: list[Fault] = []
        self._weights = tuple(weights)
        self._ids, self._losses = (_Column(dtype) for dtype in (np.int32, np.float32))
        self._cuts: list[tuple[int, int, int]] = []  # tokens of prompt, of chosen or the example, of rejected
        self._parts: list[int] = []
        self._trained: list[int] = []

    def add(self, item: Example | Pair, part: int) -> None:
        """One more, of the part of that number."""
        self.kind = type(item)
        if isinstance(item, Pair):
            zeros = np.zeros(len(item.prompt_ids), np.float32)
            ids = [item.prompt_ids, item.chosen.ids, item.rejected.ids]
            losses = [zeros, item.chosen.weights, item.rejected.weights]
            self._trained.append(sum(int(np.count_nonzero(each)) for each in losses))
        else:
            ids, losses = [item.ids[:0], item.ids, item.ids[:0]], [item.weights]
            self._trained.append(item.n_trained)
        for each in ids:
            self._ids.write(each)
        for each in losses:
            self._losses.write(each)
        self._cuts.append((len(ids[0]), len(ids[1]), len(ids[2])))
        self._parts.append(part)

    def close(self) -> None:
        """Nothing more is added; now it can be read."""
        self._ids.close()
        self._losses.close()
        self._sizes = np.array(self._cuts, np.int64).reshape(-1, 3)
        self.lengths: I64 = self._sizes.sum(1)
        self.n_trained: I64 = np.array(self._trained, np.int64)
        self._ends = np.cumsum(self.lengths)
        self._of: I64 = np.array(self._parts, np.int64)

    def __len__(self) -> int:
        return len(self._cuts)

    def __getitem__(self, index: int) -> Example | Pair:
        if not 0 <= index < len(self):
            raise IndexError(index)
        end = int(self._ends[index])
        n_prompt, n_first, _ = self._sizes[index]
        start = end - int(self.lengths[index])
        ids, losses = self._ids.read(start, end), self._losses.read(start, end)
        if self.kind is Example:
            return Example(ids, losses)
        middle = n_prompt + n_first
        chosen = Example(ids[n_prompt:middle], losses[n_prompt:middle])
        return Pair(ids[:n_prompt], chosen, Example(ids[middle:], losses[middle:]))

    def __iter__(self) -> Iterator[Example | Pair]:
        return (self[index] for index in range(len(self)))

    def order(self, seed: int, epoch: int) -> I64:
        """Indices of an epoch's documents: the same for the same seed and epoch, on any number of ranks.

        A part of n rows with weight w gives round(n w) of them; epochs go on where the one before stopped in
        the part's own shuffled order, so that no row comes a second time before all came once.
        """
        chosen = []
        for part, weight in enumerate(self._weights):
            rows = np.flatnonzero(self._of == part)
            n_drawn = round(len(rows) * weight)
            if n_drawn:
                rows = np.random.default_rng([seed, part]).permutation(rows)
                chosen.append(rows[(epoch * n_drawn + np.arange(n_drawn)) % len(rows)])
        drawn = np.concatenate(chosen) if chosen else np.empty(0, np.int64)
        return np.random.default_rng([seed, len(self._weights), epoch]).permutation(drawn)


def load(
    parts: Sequence[Part], renderer: Renderer, *, skip_bad: bool = False, progress: Progress | None = None
) -> Corpus:
    """Reads all files of a mixture.

    Args:
        skip_bad: leave rows out that cannot be used; ``Corpus.faults`` has them.
        progress: told how far reading is, often.

    Raises:
        FormatError: rows that cannot be used, where those are not to be left out; a file that is damaged so
            that nobody knows how many rows it had; no row at all.
        RequestError: a weight that is none, or pairs beside conversations.
    """
    for part in parts:
        if not 0 < part.weight < float("inf"):
            raise RequestError(f"weight of {part.path} is {part.weight}; it must be above 0", param="weight")
    files = [DataFile(part.path, part.form) for part in parts]
    *before, total = accumulate((file.n_bytes for file in files), initial=0)
    corpus = Corpus([part.weight for part in parts])
    kinds: dict[type, Path] = {}
    for number, n_read, made in tokenized(files, renderer):
        if isinstance(made, Fault):
            corpus.faults.append(made)
        else:
            kinds.setdefault(type(made), files[number].path)
            _check_kinds(kinds)
            corpus.add(made, number)
        if progress is not None:
            progress(before[number] + n_read, total)
    _check(corpus, skip_bad)
    corpus.close()
    return corpus


def _check_kinds(kinds: dict[type, Path]) -> None:
    if len(kinds) > 1:
        examples, pairs = kinds[Example], kinds[Pair]
        raise RequestError(f"{pairs} holds pairs, {examples} conversations; train on one kind", param="data")


def _check(corpus: Corpus, skip_bad: bool) -> None:
    shown = [fault for fault in corpus.faults if fault.is_end] if skip_bad else corpus.faults
    if shown:
        quoted = "; ".join(map(str, shown[:SHOWN])) + ("; ..." if len(shown) > SHOWN else "")
        remedy = "mend the file" if skip_bad else "`hermes3 data check` lists all, skip_bad leaves them out"
        raise FormatError(f"{len(shown)} rows cannot be used ({quoted}); {remedy}")
    if not len(corpus):
        raise FormatError("the data holds no rows to learn from")


class _Column:
    """Numbers in a temporary file: written one after the other, then read anywhere."""

    def __init__(self, dtype: type) -> None:
        self._dtype = np.dtype(dtype)
        self._file = tempfile.TemporaryFile(prefix="hermes3-data-")  # noqa: SIM115  (lives as long as the column)
        self._map: NDArray[Any] = np.empty(0, dtype)

    def write(self, values: NDArray[Any]) -> None:
        self._file.write(values.astype(self._dtype, copy=False).tobytes())

    def close(self) -> None:
        self._file.flush()
        if self._file.tell():
            self._map = np.memmap(self._file, self._dtype, "r")

    def read(self, start: int, end: int) -> NDArray[Any]:
        return np.array(self._map[start:end])
