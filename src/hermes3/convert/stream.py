"""A model's tensors in parts of a few megabytes: read, recoded by all cores, handed on in order."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from hermes3 import _native
from hermes3.errors import FormatError
from hermes3.ordered import in_order
from hermes3.weights.checkpoint import Checkpoint, RawTensor
from hermes3.weights.hub import Progress
from hermes3.weights.quant import GGMLType, quantize
from hermes3.weights.quant_k import K_TYPES

U8 = NDArray[np.uint8]

PART_VALUES = 1 << 20  # 4 MiB as float32; two threads hold six such parts


@dataclass(frozen=True, slots=True)
class Part:
    """Some rows of a tensor."""

    name: str
    start: int
    stop: int


def parts_of(checkpoint: Checkpoint, name: str) -> list[Part]:
    """A tensor cut into runs of whole attention heads of about ``PART_VALUES`` values; a vector is one."""
    shape = checkpoint.entries[name].shape
    if len(shape) == 1:
        return [Part(name, 0, 1)]
    unit = checkpoint.config.head_dim
    step = max(1, PART_VALUES // shape[1] // unit) * unit
    return [Part(name, start, min(start + step, shape[0])) for start in range(0, shape[0], step)]


def recoded(raw: RawTensor, type: GGMLType, importance: NDArray[np.float32] | None = None) -> U8:
    """The tensor's bytes in another type; untouched where it is the same.

    Args:
        importance: of its columns, float32, for the K formats; others have no choice to make.

    Raises:
        FormatError: values that the type cannot hold, with the tensor's name.
    """
    if raw.type is type:
        return raw.data
    try:
        if type not in K_TYPES:
            return quantize(raw.values(), type)
        out = np.empty(type.n_bytes(raw.shape), np.uint8)
        _native.quantize(int(type), raw.values(), importance, out)
        return out
    except (FormatError, ValueError) as error:
        raise FormatError(f"tensor {raw.name}: {error}") from error


class Recoder:
    """Recodes a model's tensors one after the other.

    Args:
        names: in the order in which ``read`` will be called.
        recode: makes a tensor's bytes of a part of it.
        progress: told of bytes read.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        names: Iterable[str],
        recode: Callable[[Part, RawTensor], U8],
        progress: Progress,
    ) -> None:
        parts = {name: parts_of(checkpoint, name) for name in names}
        self._n_parts: Mapping[str, int] = {name: len(each) for name, each in parts.items()}
        self._progress = progress

        def job(part: Part) -> Callable[[], tuple[int, U8]]:
            def run() -> tuple[int, U8]:
                raw = checkpoint.rows(part.name, part.start, part.stop)
                return raw.data.size, recode(part, raw)

            return run

        jobs = (job(part) for each in parts.values() for part in each)
        n_threads = _native.physical_cores()
        self._results = in_order(ThreadPoolExecutor(n_threads), n_threads, jobs)

    def read(self, name: str) -> Iterator[U8]:
        """The parts of the next tensor, which must be this one."""
        for n_bytes, data in islice(self._results, self._n_parts[name]):
            self._progress.advance(n_bytes)
            yield data
