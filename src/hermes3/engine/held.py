"""Answers whose next mask is not there yet: their logits wait for it, and nobody else does."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hermes3.engine.sequence import Sequence

F32 = NDArray[np.float32]


class Held:
    """Rows of logits of sequences that can choose their next id only when their mask is computed."""

    def __init__(self) -> None:
        self._rows: dict[Sequence, F32] = {}

    def keep(self, sequence: Sequence, row: F32) -> None:
        """Takes a copy of a row, (n_vocab,): the model's buffer is the next step's."""
        self._rows[sequence] = row.copy()

    def ready(self, *, waits: bool) -> list[tuple[Sequence, F32]]:
        """Those whose masks are there, in the order in which they came; they are forgotten.

        Args:
            waits: there is nothing else to do: the first of them counts as ready.
        """
        found = []
        for sequence in list(self._rows):
            if sequence.is_cancelled or sequence.finish_reason is not None or sequence.n_left:
                del self._rows[sequence]  # it ends, has ended, or is to be computed anew
            elif sequence.matcher is None or waits or sequence.matcher.is_ready():
                found.append((sequence, self._rows.pop(sequence)))
                waits = False
        return found
