"""The block formats of ggml in numpy: the plain twins of the kernels' tables.

A quantized row is a run of blocks, each with its own float16 scale (and minimum); the layouts are those of
``ggml-common.h``, the arithmetic that of ``ggml-quants.c``, every result a float32 rounded in the same order.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from hermes3.errors import FormatError

U8 = NDArray[np.uint8]
F32 = NDArray[np.float32]

# Values handled at a time: 1 MiB of float32, so that a pass's temporaries stay in the second-level cache.
_CHUNK = 1 << 18


class GGMLType(IntEnum):
    """Storage types that the engine reads; the numbers are ggml's."""

    F32 = 0
    F16 = 1
    Q4_0 = 2
    Q4_1 = 3
    Q5_0 = 6
    Q5_1 = 7
    Q8_0 = 8
    Q4_K = 12
    Q5_K = 13
    Q6_K = 14
    BF16 = 30

    @property
    def block_size(self) -> int:
        """Values in a block."""
        return _BLOCKS[self][0]

    @property
    def block_bytes(self) -> int:
        """Bytes of a block."""
        return _BLOCKS[self][1]

    def n_bytes(self, shape: tuple[int, ...]) -> int:
        """Bytes of a tensor whose rows (last dimension) are whole blocks.

        Raises:
            FormatError: the last dimension is not a multiple of the block size.
        """
        if not shape or shape[-1] % self.block_size:
            raise FormatError(
                f"shape {shape} does not divide into {self.name} blocks: "
                f"the last dimension must be a multiple of {self.block_size}"
            )
        return math.prod(shape) // self.block_size * self.block_bytes


_BLOCKS = {
    GGMLType.F32: (1, 4),
    GGMLType.F16: (1, 2),
    GGMLType.BF16: (1, 2),
    GGMLType.Q4_0: (32, 18),
    GGMLType.Q4_1: (32, 20),
    GGMLType.Q5_0: (32, 22),
    GGMLType.Q5_1: (32, 24),
    GGMLType.Q8_0: (32, 34),
    GGMLType.Q4_K: (256, 144),
    GGMLType.Q5_K: (256, 176),
    GGMLType.Q6_K: (256, 210),
}


def dequantize(raw: U8, type: GGMLType, shape: tuple[int, ...]) -> F32:
    """The exact values of a stored tensor.

    Args:
        raw: the tensor's bytes, uint8, 1-D.
        type: how they are stored.
        shape: of the result; the last dimension is the row.

    Returns:
        float32 of that shape.

    Raises:
        FormatError: the number of bytes is not the shape's.
    """
    if raw.size != (n_bytes := type.n_bytes(shape)):
        raise FormatError(f"{type.name} tensor of shape {shape} needs {n_bytes} bytes, got {raw.size}")
    blocks = np.ascontiguousarray(raw).reshape(-1, type.block_bytes)
    out = np.empty((len(blocks), type.block_size), np.float32)
    step = _CHUNK // type.block_size
    # A damaged file may hold scales that are infinite or not a number: they come out as they are.
    with np.errstate(invalid="ignore", over="ignore"):
        for start in range(0, len(blocks), step):
            out[start : start + step] = _DEQUANTIZE[type](blocks[start : start + step])
    return out.reshape(shape)


def quantize(values: F32, type: GGMLType) -> U8:
    """Stores values in a block format, bit for bit as the ``gguf`` package does.

    Args:
        values: float32; rows (last dimension) must be whole blocks.
        type: any type but the K formats.

    Returns:
        uint8, 1-D.

    Raises:
        FormatError: rows that do not divide into blocks, values that are not finite or too large for a
            block's float16 scale, or a format that can only be read.
    """
    if type not in _QUANTIZE:
        names = ", ".join(known.name for known in _QUANTIZE)
        raise FormatError(f"{type.name} can be read but not written; formats that can: {names}")
    n_bytes = type.n_bytes(values.shape)
    blocks = np.ascontiguousarray(values, np.float32).reshape(-1, type.block_size)
    out = np.empty((n_bytes // type.block_bytes, type.block_bytes), np.uint8)
    step = _CHUNK // type.block_size
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        for start in range(0, len(blocks), step):
            out[start : start + step] = _QUANTIZE[type](blocks[start : start + step])
    return out.reshape(-1)


def _scale(blocks: U8, start: int) -> F32:
    """The float16 at byte ``start`` of each block, as a float32 column."""
    return np.ascontiguousarray(blocks[:, start : start + 2]).view(np.float16).astype(np.float32)


def _half(scale: F32) -> U8:
    half = scale.astype(np.float16)
    if not np.isfinite(half).all():
        raise FormatError("weights are not finite, or too large for a block's float16 scale (65504)")
    return half.view(np.uint8)


def _nibbles(packed: U8) -> U8:
    """Low halves, then high halves, of each run of bytes: (..., n) -> (..., 2n)."""
    return np.concatenate([packed & np.uint8(15), packed >> np.uint8(4)], axis=-1)


def _fifth_bits(packed: U8) -> U8:
    """32 bits of each block, moved to bit 4: (n, 4) -> (n, 32)."""
    return np.unpackbits(packed, axis=1, bitorder="little") << np.uint8(4)


def _from_f16(blocks: U8) -> F32:
    return blocks.view(np.float16).astype(np.float32)


def _from_bf16(blocks: U8) -> F32:
    return (blocks.view(np.uint16).astype(np.uint32) << 16).view(np.float32)


def _from_q8_0(blocks: U8) -> F32:
    return _scale(blocks, 0) * blocks[:, 2:].view(np.int8).astype(np.float32)


def _from_q4_0(blocks: U8) -> F32:
    return _scale(blocks, 0) * (_nibbles(blocks[:, 2:]).astype(np.float32) - np.float32(8))


def _from_q4_1(blocks: U8) -> F32:
    return _scale(blocks, 0) * _nibbles(blocks[:, 4:]).astype(np.float32) + _scale(blocks, 2)


def _from_q5_0(blocks: U8) -> F32:
    q = _nibbles(blocks[:, 6:]) | _fifth_bits(blocks[:, 2:6])
    return _scale(blocks, 0) * (q.astype(np.float32) - np.float32(16))


def _from_q5_1(blocks: U8) -> F32:
    q = _nibbles(blocks[:, 8:]) | _fifth_bits(blocks[:, 4:8])
    return _scale(blocks, 0) * q.astype(np.float32) + _scale(blocks, 2)


def _k_scales(blocks: U8) -> tuple[F32, F32]:
    """Scales and minima of the eight sub-blocks of Q4_K and Q5_K, each (n, 8, 1).

    Twelve bytes from byte 4 hold them in six bits each: 0-3 the first four scales, 4-7 the first four
    minima, with the upper two bits of each lent to the last four, whose lower four bits lie in bytes 8-11.
    """
    scales, minima, rest = (blocks[:, start : start + 4] for start in (4, 8, 12))
    scales = np.concatenate([scales & 63, (rest & 15) | ((scales >> 2) & 48)], axis=1)
    minima = np.concatenate([minima & 63, (rest >> 4) | ((minima >> 2) & 48)], axis=1)
    d = _scale(blocks, 0) * scales.astype(np.float32)
    m = _scale(blocks, 2) * minima.astype(np.float32)
    return d[..., None], m[..., None]


def _from_q4_k(blocks: U8) -> F32:
    d, m = _k_scales(blocks)
    q = _nibbles(blocks[:, 16:].reshape(-1, 4, 32)).reshape(-1, 8, 32)
    return (d * q.astype(np.float32) - m).reshape(-1, 256)


def _from_q5_k(blocks: U8) -> F32:
    d, m = _k_scales(blocks)
    high = (blocks[:, None, 16:48] >> np.arange(8, dtype=np.uint8)[:, None]) & 1
    q = _nibbles(blocks[:, 48:].reshape(-1, 4, 32)).reshape(-1, 8, 32) | (high << 4)
    return (d * q.astype(np.float32) - m).reshape(-1, 256)


def _from_q6_k(blocks: U8) -> F32:
    low = _nibbles(blocks[:, :128].reshape(-1, 2, 64)).reshape(-1, 256)
    shifts = np.arange(0, 8, 2, dtype=np.uint8)[:, None]
    high = (blocks[:, 128:192].reshape(-1, 2, 1, 32) >> shifts) & 3
    q = (low | (high.reshape(-1, 256) << 4)).astype(np.float32) - np.float32(32)
    d = _scale(blocks, 208) * blocks[:, 192:208].view(np.int8).astype(np.float32)
    return (d[..., None] * q.reshape(-1, 16, 16)).reshape(-1, 256)


def _inverse(d: F32) -> F32:
    return np.where(d == 0, np.float32(0), np.float32(1) / d)


def _pack_nibbles(q: U8) -> U8:
    return (q[:, :16] & np.uint8(15)) | (q[:, 16:] << np.uint8(4))


def _pack_fifth_bits(q: U8) -> U8:
    return np.packbits(q >> np.uint8(4), axis=1, bitorder="little")


def _to_f16(blocks: F32) -> U8:
    half = blocks.astype(np.float16)
    if (np.isinf(half) & np.isfinite(blocks)).any():
        largest = float(np.abs(blocks[np.isfinite(blocks)]).max())
        raise FormatError(f"a weight of {largest:g} is too large for float16 (65504); bfloat16 holds it")
    return half.view(np.uint8)


def _to_bf16(blocks: F32) -> U8:
    bits = blocks.view(np.uint32)
    quiet = (bits & np.uint32(0xFFFF0000)) | np.uint32(0x400000)
    bits = np.where(np.isnan(blocks), quiet, bits).astype(np.uint64)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16).view(np.uint8)


def _to_q8_0(blocks: F32) -> U8:
    d = np.abs(blocks).max(axis=1, keepdims=True) / np.float32(127)
    half, scaled = _half(d), blocks * _inverse(d)
    magnitude = np.abs(scaled)
    whole = np.floor(magnitude)
    rounded = np.copysign(whole + np.floor(np.float32(2) * (magnitude - whole)), scaled)
    return np.concatenate([half, rounded.astype(np.int8).view(np.uint8)], axis=1)


def _signed(blocks: F32, n_levels: int) -> tuple[U8, U8]:
    """Levels around zero: the value of largest magnitude takes the lowest level. Returns scale and levels."""
    largest = np.take_along_axis(blocks, np.abs(blocks).argmax(axis=1, keepdims=True), axis=1)
    d = largest / np.float32(-n_levels // 2)
    half, scaled = _half(d), blocks * _inverse(d) + np.float32(n_levels / 2 + 0.5)
    return half, np.trunc(scaled).astype(np.uint8).clip(0, n_levels - 1)


def _affine(blocks: F32, n_levels: int) -> tuple[U8, U8]:
    """Levels from the minimum to the maximum. Returns scale and minimum side by side, and levels."""
    low = blocks.min(axis=1, keepdims=True)
    d = (blocks.max(axis=1, keepdims=True) - low) / np.float32(n_levels - 1)
    half, scaled = _half(np.concatenate([d, low], axis=1)), (blocks - low) * _inverse(d) + np.float32(0.5)
    return half, np.trunc(scaled).astype(np.uint8).clip(0, n_levels - 1)


def _to_q4_0(blocks: F32) -> U8:
    half, q = _signed(blocks, 16)
    return np.concatenate([half, _pack_nibbles(q)], axis=1)


def _to_q4_1(blocks: F32) -> U8:
    half, q = _affine(blocks, 16)
    return np.concatenate([half, _pack_nibbles(q)], axis=1)


def _to_q5_0(blocks: F32) -> U8:
    half, q = _signed(blocks, 32)
    return np.concatenate([half, _pack_fifth_bits(q), _pack_nibbles(q)], axis=1)


def _to_q5_1(blocks: F32) -> U8:
    half, q = _affine(blocks, 32)
    return np.concatenate([half, _pack_fifth_bits(q), _pack_nibbles(q)], axis=1)


_DEQUANTIZE: dict[GGMLType, Callable[[U8], F32]] = {
    GGMLType.F32: lambda blocks: blocks.view(np.float32),
    GGMLType.F16: _from_f16,
    GGMLType.BF16: _from_bf16,
    GGMLType.Q8_0: _from_q8_0,
    GGMLType.Q4_0: _from_q4_0,
    GGMLType.Q4_1: _from_q4_1,
    GGMLType.Q5_0: _from_q5_0,
    GGMLType.Q5_1: _from_q5_1,
    GGMLType.Q4_K: _from_q4_k,
    GGMLType.Q5_K: _from_q5_k,
    GGMLType.Q6_K: _from_q6_k,
}

_QUANTIZE: dict[GGMLType, Callable[[F32], U8]] = {
    GGMLType.F32: lambda blocks: blocks.view(np.uint8),
    GGMLType.F16: _to_f16,
    GGMLType.BF16: _to_bf16,
    GGMLType.Q8_0: _to_q8_0,
    GGMLType.Q4_0: _to_q4_0,
    GGMLType.Q4_1: _to_q4_1,
    GGMLType.Q5_0: _to_q5_0,
    GGMLType.Q5_1: _to_q5_1,
}
