"""One stretch of ids as a batch of its own: for reading a text without generating any."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hermes3 import _native
from hermes3.engine.scheduler import Batch


def window_batch(ids: NDArray[np.int32], first_row: int, n_rows: int) -> Batch:
    """A sequence that begins with these ids, its pages in order from the cache's first.

    Args:
        ids: int32 (n,).
        first_row, n_rows: the ids whose logits are wanted.
    """
    n = len(ids)
    positions = np.arange(n, dtype=np.int32)  # pages lie in order, so they are the slots, too
    return Batch(
        ids=ids,
        positions=positions,
        slots=positions,
        query_offsets=np.array([0, n], np.int32),
        first_positions=np.zeros(1, np.int32),
        tables=np.arange(-(-n // _native.PAGE), dtype=np.int32)[None],
        rows=positions[first_row : first_row + n_rows],
    )
