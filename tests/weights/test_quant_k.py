"""The K formats: twin and kernels bit for bit, and less error than llama.cpp's own quantizer."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from gguf import GGMLQuantizationType, quants
from numpy.typing import NDArray

from hermes3 import _native
from hermes3.errors import FormatError
from hermes3.weights.quant import GGMLType, dequantize
from hermes3.weights.quant_k import K_TYPES, quantize_k

F32 = NDArray[np.float32]
ROOT = Path(__file__).parent.parent.parent


def cases(columns: int = 512) -> F32:
    """Rows of all kinds, and such as make scales vanish or codes saturate."""
    x = np.random.default_rng(1).standard_normal((32, columns)).astype(np.float32)
    x[16:24] = np.random.default_rng(2).standard_t(3, (8, columns))
    x[0], x[1, ::3], x[2], x[3], x[4] = 0, 0, -0.3, 0.3, np.abs(x[4])
    x[5], x[6], x[7], x[8], x[9] = -np.abs(x[5]), 1e-6 * x[6], 1e-9 * x[7], 1e4 * x[8], 1e-30
    x[10, 1:], x[11] = 0, np.round(x[11] * 4) / 4
    return x


def native(x: F32, type: GGMLType, importance: F32 | None = None) -> NDArray[np.uint8]:
    out = np.empty(type.n_bytes(x.shape), np.uint8)
    _native.quantize(int(type), x, importance, out)
    return out


def importance(columns: int = 512) -> F32:
    weights = np.random.default_rng(5).random(columns).astype(np.float32) ** 2
    weights[5] = 0
    return weights


@pytest.mark.parametrize("type", K_TYPES)
@pytest.mark.parametrize("weights", [None, importance()], ids=["plain", "importance"])
def test_twin_and_kernel_are_bitwise_equal(type: GGMLType, weights: F32 | None) -> None:
    x = cases()
    assert np.array_equal(native(x, type, weights), quantize_k(x, type, weights))


@pytest.mark.parametrize("isa", sorted({"scalar", "avx2"} & set(_native.available_isas()) - {_native.isa()}))
def test_other_instruction_sets_give_the_same_bits(tmp_path: Path, isa: str) -> None:
    code = """
import sys, numpy as np
from tests.weights.test_quant_k import K_TYPES, cases, importance, native
parts = [native(cases(), type, weights) for type in K_TYPES for weights in (None, importance())]
np.save(sys.argv[1], np.concatenate(parts))
"""
    saved = []
    for name in (isa, _native.isa()):
        path = tmp_path / f"{name}.npy"
        env = os.environ | {"HERMES3_ISA": name}
        subprocess.run([sys.executable, "-c", code, str(path)], env=env, cwd=ROOT, check=True)
        saved.append(np.load(path))
    assert np.array_equal(*saved)


@pytest.mark.parametrize("type", K_TYPES)
def test_gguf_reads_the_same_values(type: GGMLType) -> None:
    x = cases()
    packed = native(x, type)
    theirs = quants.dequantize(packed.reshape(len(x), -1), GGMLQuantizationType(type))
    assert np.array_equal(theirs, dequantize(packed, type, x.shape))
    levels = {GGMLType.Q4_K: 15, GGMLType.Q5_K: 31, GGMLType.Q6_K: 63}[type]
    step = np.ptp(np.concatenate([x[16:], 0 * x[16:, :1]], axis=1).reshape(16, -1), axis=1) / levels
    assert (np.abs(theirs - x)[16:].max(axis=1) < 1.5 * step).all()


@pytest.mark.parametrize("type", K_TYPES)
@pytest.mark.parametrize("value", [0.0, -0.3, 0.3, 5.0, -0.02])
def test_what_is_constant_comes_back(type: GGMLType, value: float) -> None:
    x = np.full((1, 256), value, np.float32)
    assert np.allclose(dequantize(native(x, type), type, x.shape), x, rtol=1e-2)


@pytest.mark.parametrize("type", K_TYPES)
def test_importance_moves_the_error(type: GGMLType) -> None:
    x = np.random.default_rng(3).standard_normal((64, 512)).astype(np.float32)
    weights = np.where(np.arange(512) % 8 == 0, 100, 1).astype(np.float32)

    def error(packed: NDArray[np.uint8]) -> F32:
        off = (dequantize(packed, type, x.shape) - x).astype(np.float64) ** 2
        return np.array([off[:, ::8].mean(), off.mean()])

    with_importance, without = error(native(x, type, weights)), error(native(x, type))
    assert with_importance[0] < 0.6 * without[0]
    assert with_importance[1] > without[1]


@pytest.mark.parametrize("type", K_TYPES)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 3e38])
def test_what_a_scale_cannot_hold_is_refused(type: GGMLType, bad: float) -> None:
    x = cases()
    x[3, 300] = bad
    for refused in (lambda: native(x, type), lambda: quantize_k(x, type)):
        with pytest.raises((ValueError, FormatError), match="not finite, or too large"):
            refused()


def test_arguments_are_checked() -> None:
    x, out = np.zeros((2, 256), np.float32), np.zeros(288, np.uint8)
    with pytest.raises(ValueError, match="is not one of Q4_K"):
        _native.quantize(2, x, None, out)
    with pytest.raises(ValueError, match="multiple of 256, got 128"):
        _native.quantize(12, x[:, :128].copy(), None, out)
    with pytest.raises(ValueError, match="importance must have 256"):
        _native.quantize(12, x, np.ones(255, np.float32), out)
    with pytest.raises(ValueError, match="out has 287 bytes, the shape needs 288"):
        _native.quantize(12, x, None, out[:287].copy())
    with pytest.raises(FormatError, match="multiple of 256"):
        quantize_k(x[:, :128], GGMLType.Q4_K)


@pytest.mark.parametrize("type", K_TYPES)
@pytest.mark.parametrize("kind", ["normal", "t5", "smol"])
def test_less_error_than_llama_cpp(type: GGMLType, kind: str, ggml: ctypes.CDLL, smol_values: F32) -> None:
    rng = np.random.default_rng(4)
    drawn = {"normal": rng.standard_normal, "t5": lambda shape: rng.standard_t(5, shape)}
    x = smol_values if kind == "smol" else np.float32(drawn[kind]((256, 1024)))
    theirs = np.empty(type.n_bytes(x.shape), np.uint8)
    pointer, count = ctypes.c_void_p, ctypes.c_int64
    ggml.ggml_quantize_chunk.argtypes = [ctypes.c_int, pointer, pointer, count, count, count, pointer]
    ggml.ggml_quantize_chunk(int(type), x.ctypes.data, theirs.ctypes.data, 0, *x.shape, None)

    def error(packed: NDArray[np.uint8]) -> float:
        return float(((dequantize(packed, type, x.shape) - x).astype(np.float64) ** 2).mean())

    assert error(native(x, type)) < error(theirs)
