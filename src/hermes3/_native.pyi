"""Kernels of the CPU engine (native/bindings.cpp).

Arrays must be C-contiguous and of exactly the dtype given; anything else is a ValueError or TypeError.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

PAGE: int

def isa() -> str: ...
def available_isas() -> list[str]: ...
def cpu_features() -> dict[str, bool]: ...
def physical_cores() -> int: ...
def set_threads(n: int) -> None: ...
def threads() -> int: ...
def read_bandwidth(seconds: float) -> float: ...
def int8_peak(seconds: float) -> float: ...

class Weight:
    def __init__(self, type: int, rows: int, cols: int, data: NDArray[np.uint8]) -> None: ...
    @property
    def type(self) -> int: ...
    @property
    def rows(self) -> int: ...
    @property
    def cols(self) -> int: ...
    @property
    def nbytes(self) -> int: ...

class KVCache:
    def __init__(self, n_layers: int, n_pages: int, n_kv_heads: int, head_dim: int, dtype: str) -> None: ...
    @property
    def n_pages(self) -> int: ...
    @property
    def nbytes(self) -> int: ...

def embed(weight: Weight, ids: NDArray[np.int32], out: NDArray[np.float32]) -> None: ...
def linear(
    weights: Sequence[Weight],
    x: NDArray[np.float32],
    out: NDArray[np.float32],
    norm: NDArray[np.float32] | None,
    eps: float,
    swiglu: bool,
    accumulate: bool,
) -> None: ...
def rope_store(
    cache: KVCache,
    layer: int,
    qkv: NDArray[np.float32],
    cos: NDArray[np.float32],
    sin: NDArray[np.float32],
    slots: NDArray[np.int32],
    n_heads: int,
) -> None: ...
def attention(
    cache: KVCache,
    layer: int,
    qkv: NDArray[np.float32],
    out: NDArray[np.float32],
    query_offsets: NDArray[np.int32],
    first_positions: NDArray[np.int32],
    tables: NDArray[np.int32],
    n_heads: int,
) -> None: ...
def quantize(
    type: int, x: NDArray[np.float32], importance: NDArray[np.float32] | None, out: NDArray[np.uint8]
) -> None: ...
