"""The native module once more in plain numpy: float32 weights and sums, float64 attention, row by row.

The oracle for the engine's use of the kernels; a test puts it in the place of ``hermes3._native``.
Activations are not rounded to int8 for quantized weights, which the kernels do.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hermes3.weights.quant import GGMLType, dequantize

F32 = NDArray[np.float32]
I32 = NDArray[np.int32]
PAGE = 32


class Weight:
    def __init__(self, type: int, rows: int, cols: int, data: NDArray[np.uint8]) -> None:
        self.type, self.rows, self.cols = type, rows, cols
        self.values = dequantize(data, GGMLType(type), (rows, cols))

    @classmethod
    def read(cls, type: int, rows: int, cols: int, path: str, offset: int) -> Weight:
        kind = GGMLType(type)
        n_bytes = rows * cols // kind.block_size * kind.block_bytes
        return cls(type, rows, cols, np.fromfile(path, np.uint8, n_bytes, offset=offset))


class KVCache:
    """Keys and values: (n_layers, 2, slots, n_kv_heads, head_dim)."""

    def __init__(self, n_layers: int, n_pages: int, n_kv_heads: int, head_dim: int, dtype: str) -> None:
        self.n_pages = n_pages
        self.slots = np.zeros(
            (n_layers, 2, n_pages * PAGE, n_kv_heads, head_dim), {"f32": np.float32, "f16": np.float16}[dtype]
        )

    def copy_pages(self, sources: I32, targets: I32) -> None:
        pages = self.slots.reshape(*self.slots.shape[:2], self.n_pages, PAGE, *self.slots.shape[3:])
        for source, target in zip(sources, targets, strict=True):
            pages[:, :, target] = pages[:, :, source]


def set_threads(n: int) -> None:
    assert n >= 1


def embed(weight: Weight, ids: I32, out: F32) -> None:
    out[:] = weight.values[ids]


def linear(
    weights: list[Weight], x: F32, out: F32, norm: F32 | None, eps: float, swiglu: bool, accumulate: bool
) -> None:
    if norm is not None:
        x = x / np.sqrt(np.mean(x * x, axis=1, keepdims=True) + np.float32(eps)) * norm
    if swiglu:
        gate, up = np.split(x, 2, axis=1)
        x = gate / (1 + np.exp(-gate)) * up
    for i in range(len(x)):  # one row at a time: a product of many would sum in another order
        row = np.concatenate([weight.values @ x[i] for weight in weights])
        out[i] = out[i] + row if accumulate else row


def rope_store(cache: KVCache, layer: int, qkv: F32, cos: F32, sin: F32, slots: I32, n_heads: int) -> None:
    n_kv_heads, head_dim = cache.slots.shape[3:]
    heads = qkv.reshape(len(qkv), -1, head_dim)
    turning = heads[:, : n_heads + n_kv_heads]
    a, b = turning[..., : head_dim // 2].copy(), turning[..., head_dim // 2 :].copy()
    cos, sin = cos[:, None], sin[:, None]
    turning[..., : head_dim // 2] = a * cos - b * sin
    turning[..., head_dim // 2 :] = b * cos + a * sin
    cache.slots[layer, 0, slots] = heads[:, n_heads : n_heads + n_kv_heads]
    cache.slots[layer, 1, slots] = heads[:, n_heads + n_kv_heads :]


def attention(
    cache: KVCache,
    layer: int,
    qkv: F32,
    out: F32,
    query_offsets: I32,
    first_positions: I32,
    tables: I32,
    n_heads: int,
) -> None:
    n_kv_heads, head_dim = cache.slots.shape[3:]
    queries = qkv.reshape(len(qkv), -1, head_dim)[:, :n_heads]
    for s, first in enumerate(first_positions):
        slots = (tables[s][:, None] * PAGE + np.arange(PAGE)).ravel()
        for row in range(query_offsets[s], query_offsets[s + 1]):
            seen = slots[: first + row - query_offsets[s] + 1]
            keys, values = cache.slots[layer][:, seen].astype(np.float64)
            q = queries[row].reshape(n_kv_heads, n_heads // n_kv_heads, head_dim)
            scores = np.einsum("kgd,pkd->kgp", q, keys) / np.sqrt(head_dim)
            shares = np.exp(scores - scores.max(axis=-1, keepdims=True))
            shares /= shares.sum(axis=-1, keepdims=True)
            out[row] = np.einsum("kgp,pkd->kgd", shares, values).ravel()
