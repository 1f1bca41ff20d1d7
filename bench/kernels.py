"""What share of the machine's ceiling each kernel reaches: one line for each format and number of tokens.

    python -m bench.kernels [--types Q4_0,Q4_K] [--tokens 1,8,512]

A product's ceiling is the larger of two times: its weights' bytes at the read bandwidth, its operations at
the int8 rate (float weights: the float rate), all three measured in the same run on the same threads. The
matrices of a product are many copies, larger together than the caches, as a model's layers are.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from bench.report import Limits, Machine
from hermes3 import _native
from hermes3.weights.quant import GGMLType

FLOATS = {GGMLType.F32, GGMLType.F16, GGMLType.BF16}
SHAPE = (3072, 8192)  # of the largest matrices of Llama-3.2-3B
HEADS, KV_HEADS, HEAD_DIM = 24, 8, 128  # its attention
COPIES_BYTES = 500 << 20


@dataclass(frozen=True)
class Ceiling:
    """Rates of this machine on the threads of the run: GB/s, Gop/s of int8, Gop/s of float32."""

    bandwidth: float
    int8: float
    float32: float

    def share(self, seconds: float, n_bytes: float, operations: float, *, is_int8: bool) -> float:
        """The least time that bytes or operations take, over the time taken."""
        rate = self.int8 if is_int8 else self.float32
        return max(n_bytes / self.bandwidth, operations / rate) / 1e9 / seconds


def best_time(run: Callable[[], None], seconds: float) -> float:
    """Least time of a call: a busy neighbour can only lengthen it."""
    run()
    best, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end or best == float("inf"):
        start = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - start)
    return best


def weights_of(type: GGMLType, rows: int, cols: int) -> list[_native.Weight]:
    """Copies of one random matrix: normal values of floats (subnormal ones take a hundred times as long), and
    bytes of blocks, whose scales are no NaN."""
    n_bytes, random = rows * cols // type.block_size * type.block_bytes, np.random.default_rng(0)
    if type in FLOATS:
        values = random.standard_normal(rows * cols, np.float32)
        raw = values.astype(np.float16).view(np.uint8) if type is GGMLType.F16 else values.view(np.uint8)
        if type is GGMLType.BF16:
            raw = np.ascontiguousarray(values.view(np.uint16)[1::2]).view(np.uint8)
    else:
        raw = random.integers(0, 64, n_bytes, np.uint8)
    n_copies = max(1, COPIES_BYTES // n_bytes)
    return [_native.Weight(int(type), rows, cols, raw) for _ in range(n_copies)]


def products(type: GGMLType, tokens: list[int], ceiling: Ceiling, seconds: float) -> None:
    rows, cols = SHAPE
    weights = weights_of(type, rows, cols)
    for n in tokens:
        x = np.random.default_rng(n).standard_normal((n, cols)).astype(np.float32)
        out = np.empty((n, rows), np.float32)
        used = weights if n <= 64 else weights[:2]

        def run(used: list[_native.Weight] = used, x: np.ndarray = x, out: np.ndarray = out) -> None:
            for weight in used:
                _native.linear([weight], x, out, None, 1e-5, False, False)

        taken = best_time(run, seconds) / len(used)
        n_bytes, operations = weights[0].nbytes, 2.0 * rows * cols * n
        share = ceiling.share(taken, n_bytes, operations, is_int8=type not in FLOATS)
        line(type.name, n, taken, n_bytes, operations, share)


def attention(n: int, n_past: int, dtype: str, ceiling: Ceiling, seconds: float) -> None:
    """n tokens of one sequence after n_past others; bytes of its pages, operations of q k and p v."""
    n_pages, layers = -(-(n_past + n) // _native.PAGE), 4
    cache = _native.KVCache(layers, n_pages, KV_HEADS, HEAD_DIM, dtype)
    total = n_past + n
    width = (HEADS + 2 * KV_HEADS) * HEAD_DIM
    slots = np.arange(total, dtype=np.int32)
    rows = np.random.default_rng(n).standard_normal((total, width)).astype(np.float32)
    half = np.ones((total, HEAD_DIM // 2), np.float32)
    for layer in range(layers):
        _native.rope_store(cache, layer, rows.copy(), half, 0 * half, slots, HEADS)
    qkv, out = rows[n_past:].copy(), np.empty((n, HEADS * HEAD_DIM), np.float32)
    where = np.array([0, n], np.int32), np.array([n_past], np.int32), np.arange(n_pages, dtype=np.int32)[None]

    def run() -> None:
        for layer in range(layers):
            _native.attention(cache, layer, qkv, out, *where, HEADS)

    taken = best_time(run, seconds) / layers
    pairs = sum(n_past + i + 1 for i in range(n))
    operations = 4.0 * pairs * HEADS * HEAD_DIM
    n_bytes = 2.0 * total * KV_HEADS * HEAD_DIM * (2 if dtype == "f16" else 4)
    share = ceiling.share(taken, n_bytes, operations, is_int8=False)
    line(f"attention {dtype} after {n_past}", n, taken, n_bytes, operations, share)


def preparation(name: str, n: int, k: int, seconds: float) -> None:
    """Norm or SwiGLU, and rounding: a product with a matrix of one panel, which costs nothing beside it."""
    weight = _native.Weight(int(GGMLType.Q4_0), 1, k, np.zeros(k // 32 * 18, np.uint8))
    is_swiglu = name == "swiglu"
    x = np.random.default_rng(0).standard_normal((n, 2 * k if is_swiglu else k)).astype(np.float32)
    out, norm = np.empty((n, 1), np.float32), None if is_swiglu else np.ones(k, np.float32)
    taken = best_time(lambda: _native.linear([weight], x, out, norm, 1e-5, is_swiglu, False), seconds)
    print(f"{name + ' and rounding':28s} {n:5d} {taken * 1e6:10.1f} us {x.nbytes / taken / 1e9:8.1f} GB/s")


def line(name: str, n: int, taken: float, n_bytes: float, operations: float, share: float) -> None:
    rates = f"{n_bytes / taken / 1e9:8.1f} GB/s {operations / taken / 1e9:8.0f} Gop/s"
    print(f"{name:28s} {n:5d} {taken * 1e6:10.1f} us {rates} {share:6.0%} of its ceiling", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Each kernel beside its ceiling.")
    every = ",".join(type.name for type in GGMLType)
    parser.add_argument("--types", default=every, help="formats, or 'none'")
    parser.add_argument("--tokens", default="1,2,4,8,16,64,512")
    parser.add_argument("--threads", type=int, default=_native.physical_cores())
    parser.add_argument("--seconds", type=float, default=0.1, help="for each line")
    parser.add_argument("--no-attention", action="store_true")
    given = parser.parse_args()
    at, limits = Machine.this(), Limits.now(given.threads)
    ceiling = Ceiling(limits.read_gb_s, limits.int8_gop_s, _native.float_peak(0.5))
    print(f"{at.cpu} ({at.model}), {at.instruction_set}, {given.threads} threads, load {limits.load}")
    print(ceiling)
    tokens = [int(n) for n in given.tokens.split(",")]
    for name in given.types.split(","):
        if name != "none":
            products(GGMLType[name], tokens, ceiling, given.seconds)
    for name, n, k in (("norm", 1, 3072), ("norm", 512, 3072), ("swiglu", 1, 8192), ("swiglu", 512, 8192)):
        preparation(name, n, k, given.seconds)
    if not given.no_attention:
        for n, n_past in ((1, 128), (1, 4096), (8, 4096), (512, 0), (512, 3584)):
            for dtype in ("f16", "f32"):
                attention(n, n_past, dtype, ceiling, given.seconds)


if __name__ == "__main__":
    main()
