"""K formats by weighted least squares: the plain twin of native/quantize.inl, bit for bit, and slow.

A super-block of 256 values is 8 sub-blocks of 32 with x ~ (d s) q - (dmin m), s and m integers of 6 bits
(Q4_K, Q5_K), or 16 of 16 with x ~ (d s) q, s of 8 bits (Q6_K). Three steps, each minimizing sum w (x - ~x)^2:

1. each sub-block alone: real scale and minimum, from several starts, levels and least squares in turn;
2. d and dmin from the largest of them; for each sub-block the best integers near its own;
3. d and dmin by least squares over the whole super-block, and 2. again: as often as it helps.

Arrays are float32 of shape (n_sub_blocks, values, n_blocks) less what is summed, sums run in order.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hermes3.errors import FormatError
from hermes3.weights.quant import GGMLType

U8 = NDArray[np.uint8]
F32 = NDArray[np.float32]

# Share of the negative end, and of the positive end, that a search begins with; see native/quantize.inl.
_STARTS = [(1, 1), (0.94, 0.94), (0.88, 0.88), (0.82, 0.82), (1, 0.9), (0.9, 1), (1, 0.8), (0.8, 1)]
_STARTS += [(1, 1.0333), (1, 1.0167), (1.0333, 1), (1.07, 1)]
_LEVELS = (32, 31, 30, 29, 33, -31, -30, -29, -32)
_POLISH, _ROUNDS = 2, 3
_MAGIC = np.float32(12582912)  # adding it leaves no bits behind the point

K_TYPES = (GGMLType.Q4_K, GGMLType.Q5_K, GGMLType.Q6_K)


def quantize_k(values: F32, type: GGMLType, importance: F32 | None = None) -> U8:
    """Stores values in a K format, of least squared error.

    Args:
        values: float32; rows (last dimension) must be whole super-blocks of 256.
        type: one of ``K_TYPES``.
        importance: float32 (columns,), not negative: weight of each column's squared error.

    Returns:
        uint8, 1-D.

    Raises:
        FormatError: rows that do not divide, values that are not finite or too large for a float16 scale.
    """
    type.n_bytes(values.shape)
    blocks = np.ascontiguousarray(values, np.float32).reshape(-1, 256)
    weights = np.ones(values.shape[-1:], np.float32) if importance is None else importance
    weights = np.resize(weights, blocks.size).reshape(-1, 256)
    n_sub_blocks = 16 if type is GGMLType.Q6_K else 8
    x, w = (np.moveaxis(a.reshape(len(a), n_sub_blocks, -1), 0, 2) for a in (blocks, weights))
    with np.errstate(all="ignore"):
        top = 15 if type is GGMLType.Q4_K else 31
        packed = _linear(x, w) if type is GGMLType.Q6_K else _affine(x, w, top)
    if packed is None or not np.isfinite(blocks).all():
        raise FormatError("weights are not finite, or too large for a block's float16 scale (65504)")
    return packed.reshape(-1)


def _sum(a: F32) -> F32:
    """Over the values of each sub-block, or over the sub-blocks, in order: axis -2."""
    total: F32 = np.add.accumulate(a, axis=-2)[..., -1, :]
    return total


def _ratio(a: F32, b: F32) -> F32:
    return np.where(b != 0, a / np.where(b != 0, b, np.float32(1)), np.float32(0))


def _between(a: F32, low: float, high: float) -> F32:
    return np.minimum(np.maximum(a, np.float32(low)), np.float32(high))


def _nearest(a: F32) -> F32:
    return (a + _MAGIC) - _MAGIC


def _half(a: F32) -> F32:
    return a.astype(np.float16).astype(np.float32)


class _Fit(NamedTuple):
    s: F32
    m: F32
    gain: F32

    def or_better(self, other: _Fit) -> _Fit:
        return _Fit(*(np.where(other.gain > self.gain, b, a) for a, b in zip(self, other, strict=True)))


def _affine_level(x: F32, inverse: F32, m: F32, top: int) -> F32:
    return _nearest(_between((x + m[:, None]) * inverse[:, None], 0, top))


def _fit_affine(x: F32, w: F32, inverse: F32, m: F32, top: int) -> _Fit:
    q = _affine_level(x, inverse, m, top)
    wq = w * q
    sw, sx, sq, sqq, sqx = _sum(w), _sum(w * x), _sum(wq), _sum(wq * q), _sum(wq * x)
    det = sw * sqq - sq * sq
    s = np.where(det > sw * sqq * np.float32(1e-5), _ratio(sw * sqx - sx * sq, det), np.float32(0))
    m = _ratio(s * sq - sx, sw)
    is_through_zero = (m < 0) | (s < 0)
    s = np.where(is_through_zero, np.maximum(_ratio(sqx, sqq), np.float32(0)), s)
    m = np.where(is_through_zero, np.float32(0), m)
    return _Fit(s, m, s * sqx - m * sx)


def _search_affine(x: F32, w: F32, top: int) -> _Fit:
    low, high = np.minimum(x.min(axis=1), np.float32(0)), np.maximum(x.max(axis=1), np.float32(0))
    one, zero = np.ones_like(low), np.zeros_like(low)
    best = _Fit(zero, zero, zero)
    for negative, positive in _STARTS:
        m = low * -np.float32(negative)
        fit = _fit_affine(x, w, _ratio(one * np.float32(top), high * np.float32(positive) + m), m, top)
        best = best.or_better(fit)
        best = best.or_better(_fit_affine(x, w, _ratio(one, fit.s), fit.m, top))
    for _ in range(_POLISH):
        best = best.or_better(_fit_affine(x, w, _ratio(one, best.s), best.m, top))
    return best


class _Scales(NamedTuple):
    d: F32  # (n_blocks,)
    dmin: F32
    s: F32  # (n_sub_blocks, n_blocks), integers
    m: F32
    error: F32  # (n_blocks,)

    def or_other(self, is_other: NDArray[np.bool_], other: _Scales) -> _Scales:
        return _Scales(*(np.where(is_other, b, a) for a, b in zip(self, other, strict=True)))


def _inverse(a: F32) -> F32:
    return _ratio(np.ones_like(a), a)


def _choose_affine(x: F32, w: F32, own: _Fit, d: F32, dmin: F32, top: int) -> _Scales:
    near_s = _nearest(np.minimum(own.s * _inverse(d), np.float32(63)))
    near_m = _nearest(np.minimum(own.m * _inverse(dmin), np.float32(63)))
    best_s = best_m = np.zeros_like(near_s)
    best = _sum(w * x * x)
    for ds in (-1, 0, 1):
        for dm in (-1, 0, 1):
            s, m = _between(near_s + np.float32(ds), 0, 63), _between(near_m + np.float32(dm), 0, 63)
            real_s, real_m = s * d, m * dmin
            off = x - (real_s[:, None] * _affine_level(x, _inverse(real_s), real_m, top) - real_m[:, None])
            error = _sum(w * off * off)
            is_better = error < best
            best_s, best_m = np.where(is_better, s, best_s), np.where(is_better, m, best_m)
            best = np.where(is_better, error, best)
    return _Scales(d, dmin, best_s, best_m, _sum(best))


def _refit_affine(x: F32, w: F32, scales: _Scales, top: int) -> tuple[F32, F32]:
    s, m = scales.s * scales.d, scales.m * scales.dmin
    b = scales.m[:, None]
    a = scales.s[:, None] * _affine_level(x, _inverse(s), m, top)
    wa, wb = w * a, w * b
    saa, sab, sbb, sax, sbx = (_sum(_sum(each)) for each in (wa * a, wa * b, wb * b, wa * x, wb * x))
    det = saa * sbb - sab * sab
    is_pair = det > np.float32(1e-5) * saa * sbb
    d = np.where(is_pair, (sax * sbb - sab * sbx) / det, np.where(saa > 0, sax / saa, np.float32(0)))
    dmin = np.where(is_pair, (sax * sab - saa * sbx) / det, np.float32(0))
    return _half(d), _half(dmin)


def _affine(x: F32, w: F32, top: int) -> U8 | None:
    own = _search_affine(x, w, top)
    d, dmin = (_half(a.max(axis=0) / np.float32(63)) for a in (own.s, own.m))
    best = _choose_affine(x, w, own, d, dmin, top)
    is_active = np.ones(x.shape[2], np.bool_)
    for _ in range(_ROUNDS):
        d, dmin = _refit_affine(x, w, best, top)
        other = _choose_affine(x, w, own, d, dmin, top)
        is_active &= (d > 0) & (dmin >= 0) & (other.error < best.error)
        best = best.or_other(is_active, other)
    if not all(np.isfinite(each).all() for each in (best.d, best.dmin, best.error)):
        return None
    s = best.s * best.d
    levels = _affine_level(x, _inverse(s), best.m * best.dmin, top).astype(np.uint8)
    return _pack_affine(best, np.moveaxis(levels, 2, 0), top)


def _pack_affine(scales: _Scales, q: U8, top: int) -> U8:
    """d, dmin, twelve bytes of scales and minima as ``quant._k_scales`` reads them, fifth bits, nibbles."""
    halves = np.stack([scales.d, scales.dmin], axis=1).astype(np.float16).view(np.uint8)
    s, m = (a.T.astype(np.uint8) for a in (scales.s, scales.m))
    first, last = slice(0, 4), slice(4, 8)
    packed = [a[:, first] | (a[:, last] >> 4) << 6 for a in (s, m)]
    packed.append((s[:, last] & 15) | (m[:, last] & 15) << 4)
    parts = [halves, *packed]
    if top > 15:
        parts.append(np.packbits(q >> 4, axis=1, bitorder="little").reshape(len(q), 32))
    parts.append(((q[:, ::2] & 15) | (q[:, 1::2] & 15) << 4).reshape(len(q), 128))
    return np.concatenate(parts, axis=1)


def _linear_level(x: F32, inverse: F32) -> F32:
    return _nearest(_between(x * inverse[:, None], -32, 31))


def _search_linear(x: F32, w: F32) -> F32:
    largest = np.take_along_axis(x, np.abs(x).argmax(axis=1)[:, None], axis=1)[:, 0]
    unit = _ratio(-np.ones_like(largest), largest)
    best_s = best = np.zeros_like(largest)
    for level in _LEVELS:
        q = _linear_level(x, unit * np.float32(level))
        wq = w * q
        sqx = _sum(wq * x)
        s = _ratio(sqx, _sum(wq * q))
        is_better = s * sqx > best
        best_s, best = np.where(is_better, s, best_s), np.where(is_better, s * sqx, best)
    return best_s


def _choose_linear(x: F32, w: F32, own: F32, d: F32) -> tuple[F32, F32]:
    """Integer scales (16, n_blocks) and the error (n_blocks,)."""
    centre = _nearest(_between(own * _inverse(d), -128, 127))
    best_s, best = np.zeros_like(own), _sum(w * x * x)
    for step in (-1, 0, 1):
        s = _between(centre + np.float32(step), -128, 127)
        real = s * d
        off = x - real[:, None] * _linear_level(x, _inverse(real))
        error = _sum(w * off * off)
        best_s, best = np.where(error < best, s, best_s), np.where(error < best, error, best)
    return best_s, _sum(best)


def _linear(x: F32, w: F32) -> U8 | None:
    own = _search_linear(x, w)
    positive, negative = own.max(axis=0), (-own).max(axis=0)
    d = _half(np.where(positive > negative, positive / np.float32(-128), negative / np.float32(128)))
    s, error = _choose_linear(x, w, own, d)
    is_active = np.ones(x.shape[2], np.bool_)
    for _ in range(_ROUNDS):
        a = s[:, None] * _linear_level(x, _inverse(s * d))
        saa, sax = _sum(_sum(w * a * a)), _sum(_sum(w * a * x))
        other_d = _half(np.where(saa > 0, sax / saa, np.float32(0)))
        other_s, other_error = _choose_linear(x, w, own, other_d)
        is_active &= (other_d != 0) & (other_error < error)
        d, error = np.where(is_active, other_d, d), np.where(is_active, other_error, error)
        s = np.where(is_active, other_s, s)
    if not (np.isfinite(d) & np.isfinite(error)).all():
        return None
    codes = np.moveaxis(_linear_level(x, _inverse(s * d)) + np.float32(32), 2, 0).astype(np.uint8)
    return _pack_linear(d, s, codes.reshape(-1, 2, 4, 32))


def _pack_linear(d: F32, s: F32, q: U8) -> U8:
    """Low halves of the levels, upper two bits, sixteen scales, d; levels (n_blocks, half, quarter, 32)."""
    low = (q[:, :, :2] & 15) | (q[:, :, 2:] & 15) << 4
    high = (q >> 4) << np.arange(0, 8, 2, dtype=np.uint8)[:, None]
    upper = np.bitwise_or.reduce(high, axis=2)
    scales = np.ascontiguousarray(s.T).astype(np.int8).view(np.uint8)
    half = d.astype(np.float16)[:, None].view(np.uint8)
    return np.concatenate([low.reshape(len(q), 128), upper.reshape(len(q), 64), scales, half], axis=1)
