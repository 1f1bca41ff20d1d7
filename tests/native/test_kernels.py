"""The kernels in force (HERMES3_ISA) against their twins in numpy."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from numpy.typing import NDArray

from hermes3.weights.quant import GGMLType, dequantize
from tests.weights.blocks import random_blocks

# What the module holds is found at run time: HERMES3_TEST_NATIVE may have put another build in its place.
native: Any = import_module("hermes3._native")

F32 = NDArray[np.float32]
FLOAT_TYPES = {GGMLType.F32, GGMLType.F16, GGMLType.BF16}
EPS = 1e-5


def rms_norm(x: F32, weight: F32, eps: float) -> NDArray[np.float64]:
    wide = x.astype(np.float64)
    return wide / np.sqrt((wide**2).mean(-1, keepdims=True) + eps) * weight


def swiglu(x: F32) -> NDArray[np.float64]:
    gate, up = np.split(x.astype(np.float64), 2, axis=-1)
    return gate / (1 + np.exp(-gate)) * up


def int8_rows(x: NDArray[Any]) -> NDArray[np.float64]:
    """The activations as the kernels see them: int8 in blocks of 32, scale max|x| / 127."""
    blocks = x.astype(np.float32).reshape(len(x), -1, 32)
    largest = np.abs(blocks).max(-1, keepdims=True)
    inverse = np.divide(np.float32(127), largest, out=np.zeros_like(largest), where=largest > 0)
    codes = np.rint(blocks * inverse).astype(np.float64)
    return (codes * (largest / np.float32(127))).reshape(x.shape)


def linear(weights: list[Any], x: F32, **options: Any) -> F32:
    out = np.full((len(x), sum(w.rows for w in weights)), np.nan, np.float32)
    given: dict[str, Any] = {"norm": None, "eps": EPS, "swiglu": False, "accumulate": False} | options
    native.linear(weights, x, out, *given.values())
    return out


def make(
    rng: np.random.Generator, type: GGMLType, rows: int, cols: int, size: float = 1.0
) -> tuple[Any, F32]:
    raw = random_blocks(rng, type, rows, cols, size)
    return native.Weight(int(type), rows, cols, raw), dequantize(raw, type, (rows, cols))


@pytest.mark.parametrize("type", GGMLType)
@pytest.mark.parametrize(
    ("rows", "cols", "n"), [(16, 256, 1), (1, 256, 3), (7, 512, 33), (33, 768, 32), (40, 256, 97)]
)
@pytest.mark.parametrize("size", [1.0, 1e-4, 1e3])
def test_product_and_rows(type: GGMLType, rows: int, cols: int, n: int, size: float) -> None:
    rng = np.random.default_rng([int(type), rows, n])
    weight, values = make(rng, type, rows, cols, size)
    out = np.empty((rows, cols), np.float32)
    native.embed(weight, np.arange(rows, dtype=np.int32)[::-1].copy(), out)
    np.testing.assert_array_equal(out[::-1], values)

    x = (rng.standard_normal((n, cols)) * 10.0 ** rng.integers(-6, 6, (n, 1))).astype(np.float32)
    seen = x.astype(np.float64) if type in FLOAT_TYPES else int8_rows(x)
    expected = seen @ values.astype(np.float64).T
    scale = np.abs(seen) @ np.abs(values.astype(np.float64)).T
    # float32 sums of up to 768 terms, and for codes with a bias their cancellation.
    assert (np.abs(linear([weight], x) - expected) <= 2e-5 * scale + 1e-30).all()


@pytest.mark.parametrize("type", GGMLType)
def test_a_row_does_not_depend_on_its_neighbours(type: GGMLType) -> None:
    rng = np.random.default_rng(int(type))
    weights = [make(rng, type, rows, 512)[0] for rows in (48, 20)]
    x = rng.standard_normal((70, 512)).astype(np.float32)
    norm = rng.standard_normal(512).astype(np.float32)
    together = linear(weights, x, norm=norm)
    for n in (1, 2, 5, 31, 64):
        np.testing.assert_array_equal(linear(weights, x[-n:].copy(), norm=norm), together[-n:])
    np.testing.assert_array_equal(linear(weights[1:], x, norm=norm), together[:, 48:])
    threads = native.threads()
    try:
        native.set_threads(1 if threads > 1 else 3)
        np.testing.assert_array_equal(linear(weights, x, norm=norm), together)
    finally:
        native.set_threads(threads)


@pytest.mark.parametrize("type", [GGMLType.F32, GGMLType.Q8_0, GGMLType.Q6_K])
@pytest.mark.parametrize("n", [1, 40])
def test_norm_swiglu_accumulate(type: GGMLType, n: int) -> None:
    rng = np.random.default_rng(n)
    weight, values = make(rng, type, 24, 512, 0.05)
    round_trip = int8_rows if type not in FLOAT_TYPES else (lambda x: x)
    x = rng.standard_normal((n, 512)).astype(np.float32)
    norm = rng.standard_normal(512).astype(np.float32)
    # A code may fall on the other side of a rounding edge: 1/127 of its block's largest in one column.
    tolerance = 1e-5 if type in FLOAT_TYPES else 2e-2
    np.testing.assert_allclose(
        linear([weight], x, norm=norm),
        round_trip(rms_norm(x, norm, EPS)) @ values.T,
        rtol=1e-4,
        atol=tolerance,
    )
    gate_up = rng.standard_normal((n, 1024)).astype(np.float32) * 3
    np.testing.assert_allclose(
        linear([weight], gate_up, swiglu=True),
        round_trip(swiglu(gate_up)) @ values.T,
        rtol=1e-4,
        atol=tolerance,
    )
    plain = linear([weight], x)
    start = rng.standard_normal(plain.shape).astype(np.float32)
    out = start.copy()
    native.linear([weight], x, out, None, EPS, False, True)
    np.testing.assert_array_equal(out, start + plain)


def test_mixed_types_in_one_call() -> None:
    rng = np.random.default_rng(5)
    pairs = [make(rng, type, 20, 256) for type in (GGMLType.Q4_K, GGMLType.F16, GGMLType.Q6_K)]
    x = rng.standard_normal((37, 256)).astype(np.float32)
    together = linear([weight for weight, _ in pairs], x)
    for i, (weight, _) in enumerate(pairs):
        np.testing.assert_array_equal(together[:, 20 * i : 20 * i + 20], linear([weight], x))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_broken_rows_show_and_stay_alone(bad: float) -> None:
    rng = np.random.default_rng(6)
    weight, _ = make(rng, GGMLType.Q4_0, 16, 256)
    x = rng.standard_normal((5, 256)).astype(np.float32)
    whole = linear([weight], x)
    x[2, 100] = bad
    out = linear([weight], x)
    assert np.isnan(out[2]).all()
    np.testing.assert_array_equal(np.delete(out, 2, 0), np.delete(whole, 2, 0))


def test_extremes() -> None:
    """The largest codes against the largest activations: no 16-bit sum may saturate."""
    for type in sorted(set(GGMLType) - FLOAT_TYPES):
        n_blocks = 16 * 512 // type.block_size
        raw = np.full((n_blocks, type.block_bytes), 255, np.uint8)
        places = {
            GGMLType.Q6_K: [208],
            GGMLType.Q4_K: [0, 2],
            GGMLType.Q5_K: [0, 2],
            GGMLType.Q4_1: [0, 2],
            GGMLType.Q5_1: [0, 2],
        }.get(type, [0])
        for place in places:
            raw[:, place : place + 2] = np.array([0.5], np.float16).view(np.uint8)
        if type is GGMLType.Q8_0:
            raw[:, 2:] = 128
        values = dequantize(raw.reshape(-1), type, (16, 512)).astype(np.float64)
        weight = native.Weight(int(type), 16, 512, raw.reshape(-1))
        for sign in (1, -1):
            x = np.full((3, 512), sign * 2.0, np.float32)
            np.testing.assert_allclose(
                linear([weight], x), x.astype(np.float64) @ values.T, rtol=1e-4, err_msg=type.name
            )
    zero = linear([weight], np.zeros((2, 512), np.float32))
    np.testing.assert_array_equal(zero, np.zeros_like(zero))


def reference_attention(q: F32, k: F32, v: F32) -> NDArray[np.float64]:
    """q (n, heads, dim) are the last n of the positions of k and v (positions, kv_heads, dim)."""
    n, heads, dim = q.shape
    group, first = heads // k.shape[1], len(k) - n
    out = np.empty((n, heads, dim))
    for i in range(n):
        for head in range(heads):
            visible = slice(0, first + i + 1)
            scores = k[visible, head // group].astype(np.float64) @ q[i, head] / np.sqrt(dim)
            weights = np.exp(scores - scores.max())
            out[i, head] = weights / weights.sum() @ v[visible, head // group]
    return out


def kept(x: F32, dtype: str) -> F32:
    """What a cache of this type keeps of keys or values (..., dim)."""
    if dtype == "f16":
        return x.astype(np.float16).astype(np.float32)
    if dtype == "q8_0":  # by gguf's own quantizer
        raw = gguf.quants.quantize(x.reshape(-1, x.shape[-1]), gguf.GGMLQuantizationType.Q8_0)
        return gguf.quants.dequantize(raw, gguf.GGMLQuantizationType.Q8_0).reshape(x.shape)
    return x


@pytest.mark.parametrize("dtype", ["f32", "f16", "q8_0"])
@pytest.mark.parametrize(
    ("heads", "kv_heads", "dim"), [(9, 3, 64), (6, 2, 128), (4, 4, 16), (5, 1, 80), (8, 1, 256)]
)
@pytest.mark.parametrize("n", [1, 32, 77])
def test_attention(dtype: str, heads: int, kv_heads: int, dim: int, n: int) -> None:
    if dtype == "q8_0" and dim % 32:
        with pytest.raises(ValueError, match="multiple of 32"):
            native.KVCache(3, 8, kv_heads, dim, dtype)
        return
    rng = np.random.default_rng([heads, n])
    raw = rng.standard_normal((n, heads + 2 * kv_heads, dim)).astype(np.float32)
    raw[n // 2] *= 30  # a peak that moves
    angles = np.outer(np.arange(n), 1 / 10000 ** (np.arange(0, dim, 2) / dim))
    cos, sin = np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)
    table = np.array([[5, 2, 7, 0]], np.int32)
    positions = np.arange(n)
    slots = (table[0, positions // native.PAGE] * native.PAGE + positions % native.PAGE).astype(np.int32)
    cache = native.KVCache(3, 8, kv_heads, dim, dtype)
    qkv = raw.reshape(n, -1).copy()
    native.rope_store(cache, 1, qkv, cos, sin, slots, heads)

    a, b = raw[..., : dim // 2], raw[..., dim // 2 :]
    turned = np.concatenate([a * cos[:, None] - b * sin[:, None], b * cos[:, None] + a * sin[:, None]], -1)
    q, k, v = turned[:, :heads], turned[:, heads : heads + kv_heads], raw[:, heads + kv_heads :]
    np.testing.assert_allclose(qkv.reshape(raw.shape)[:, :heads], q, rtol=1e-5, atol=1e-5)
    k, v = kept(k, dtype), kept(v, dtype)
    out = np.empty((n, heads * dim), np.float32)
    native.attention(cache, 1, qkv, out, np.array([0, n], np.int32), np.zeros(1, np.int32), table, heads)
    # A key rounds to its other neighbour where our rotation and numpy's differ in the last bit.
    tolerance = {"f32": 2e-5, "f16": 5e-3, "q8_0": 2e-2}[dtype]
    np.testing.assert_allclose(
        out.reshape(n, heads, dim), reference_attention(q, k, v), rtol=tolerance, atol=tolerance
    )

    alone = np.empty_like(out)
    for i in range(n):
        row = np.empty((1, heads * dim), np.float32)
        first = np.array([i], np.int32)
        native.attention(
            cache, 1, qkv[i : i + 1].copy(), row, np.array([0, 1], np.int32), first, table, heads
        )
        alone[i] = row
    np.testing.assert_array_equal(alone, out)


@pytest.mark.parametrize("type", [GGMLType.F16, GGMLType.Q4_0, GGMLType.Q6_K])
def test_read_from_a_file(tmp_path: Path, type: GGMLType) -> None:
    """The same panels as from memory, whatever stands before; a file that ends too early is refused."""
    rng = np.random.default_rng(9)
    raw = random_blocks(rng, type, 1100, 512, 1.0)
    path = tmp_path / "weights"
    path.write_bytes(b"before" + raw.tobytes())
    weight, read = (
        native.Weight(int(type), 1100, 512, raw),
        native.Weight.read(int(type), 1100, 512, str(path), 6),
    )
    outs = [np.empty((1100, 512), np.float32) for _ in range(2)]
    for each, out in zip((weight, read), outs, strict=True):
        native.embed(each, np.arange(1100, dtype=np.int32), out)
    np.testing.assert_array_equal(*outs)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(RuntimeError, match="ends before"):
        native.Weight.read(int(type), 1100, 512, str(path), 6)
    with pytest.raises(RuntimeError, match="cannot be read"):
        native.Weight.read(int(type), 1100, 512, str(tmp_path / "none"), 0)


def test_refusals() -> None:
    weight, _ = make(np.random.default_rng(0), GGMLType.Q8_0, 16, 64)
    x, out = np.zeros((2, 64), np.float32), np.zeros((2, 16), np.float32)
    with pytest.raises(ValueError, match="columns"):
        native.linear([weight], np.zeros((2, 32), np.float32), out, None, EPS, False, False)
    with pytest.raises(ValueError, match="out must be"):
        native.linear([weight], x, np.zeros((2, 15), np.float32), None, EPS, False, False)
    with pytest.raises(TypeError):
        native.linear([weight], x.astype(np.float64), out, None, EPS, False, False)
    with pytest.raises(TypeError):
        native.linear([weight], np.zeros((64, 2), np.float32).T, out, None, EPS, False, False)
    with pytest.raises(ValueError, match="bytes"):
        native.Weight(int(GGMLType.Q8_0), 16, 64, np.zeros(3, np.uint8))
    with pytest.raises(ValueError, match="multiple of 256"):
        native.Weight(int(GGMLType.Q4_K), 16, 64, np.zeros(3, np.uint8))
    with pytest.raises(ValueError, match="no kernel"):
        native.Weight(99, 16, 64, np.zeros(3, np.uint8))
    with pytest.raises(ValueError, match="id 16"):
        native.embed(weight, np.array([16], np.int32), np.zeros((1, 64), np.float32))
    cache = native.KVCache(1, 2, 1, 16, "f16")
    qkv, half = np.zeros((1, 48), np.float32), np.zeros((1, 8), np.float32)
    with pytest.raises(ValueError, match="slot 64"):
        native.rope_store(cache, 0, qkv, half, half, np.array([64], np.int32), 1)
    with pytest.raises(ValueError, match="pages in its table"):
        native.attention(
            cache,
            0,
            qkv,
            np.zeros((1, 16), np.float32),
            np.array([0, 1], np.int32),
            np.array([32], np.int32),
            np.zeros((1, 1), np.int32),
            1,
        )
    with pytest.raises(ValueError, match="page 2"):
        native.attention(
            cache,
            0,
            qkv,
            np.zeros((1, 16), np.float32),
            np.array([0, 1], np.int32),
            np.zeros(1, np.int32),
            np.array([[2]], np.int32),
            1,
        )
