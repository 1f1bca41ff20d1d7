"""Writes a model as a folder with 8-bit floats, in the form of compressed-tensors, which vLLM loads.

The products of the layers become E4M3 with a scale for each row; their inputs are meant to be quantized as
they come, token by token. Embedding, norms and head stay bfloat16. https://github.com/vllm-project/compressed-tensors
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hermes3.convert.stream import Part, Recoder, recoded
from hermes3.convert.to_folder import files_beside, source_of, write_beside
from hermes3.errors import FormatError
from hermes3.weights.checkpoint import Checkpoint, RawTensor
from hermes3.weights.quant import GGMLType
from hermes3.weights.safetensors_writer import SHARD_BYTES, StoredSource, write_shards
from hermes3.weights.whole import whole_folder

if TYPE_CHECKING:
    from hermes3.weights.hub import Progress

F32 = NDArray[np.float32]
U8 = NDArray[np.uint8]

LARGEST = 448.0  # of E4M3

_WEIGHTS = {"num_bits": 8, "type": "float", "symmetric": True, "strategy": "channel", "dynamic": False}
_INPUTS = {"num_bits": 8, "type": "float", "symmetric": True, "strategy": "token", "dynamic": True}
QUANTIZATION: dict[str, Any] = {
    "quant_method": "compressed-tensors",
    "format": "float-quantized",
    "quantization_status": "compressed",
    "ignore": ["lm_head"],
    "config_groups": {"group_0": {"targets": ["Linear"], "weights": _WEIGHTS, "input_activations": _INPUTS}},
}


def to_fp8_folder(checkpoint: Checkpoint, path: Path, progress: Progress) -> None:
    """Writes the folder, whole or not at all.

    Raises:
        FormatError: weights that are not finite.
        UnsupportedError, DiskSpaceError, OSError: as ``to_folder``.
    """
    beside = files_beside(checkpoint, "bfloat16")
    beside["config.json"]["quantization_config"] = QUANTIZATION
    scales: dict[Part, F32] = {}

    def recode(part: Part, raw: RawTensor) -> U8:
        if not _is_product(part.name):
            return recoded(raw, GGMLType.BF16)
        data, scales[part] = quantize_rows(raw.values())
        return data

    recoder = Recoder(checkpoint, checkpoint.names, recode, progress)
    tensors: list[StoredSource] = []
    for name in checkpoint.names:
        if _is_product(name):
            tensors += _pair(checkpoint, name, recoder, scales)
        else:
            tensors.append(source_of(checkpoint, name, GGMLType.BF16, recoder))
    progress.begin(path.name, checkpoint.n_bytes, 0)
    try:
        with whole_folder(path, sum(tensor.n_bytes for tensor in tensors)) as folder:
            write_beside(checkpoint, folder, beside)
            write_shards(folder, tensors, SHARD_BYTES)
    finally:
        progress.end()


def quantize_rows(values: F32) -> tuple[U8, F32]:
    """E4M3 codes, uint8 1-D, and the rows' scales, float32 (rows, 1).

    Raises:
        FormatError: values that are not finite.
    """
    if not np.isfinite(values).all():
        raise FormatError("weights are not finite")
    scale = np.abs(values).max(axis=1, keepdims=True) / np.float32(LARGEST)
    scale = np.where(scale > 0, scale, np.float32(1)).astype(np.float32)
    return to_e4m3(values / scale).reshape(-1), scale


def to_e4m3(values: F32) -> U8:
    """The nearest E4M3 numbers, ties to even, as bytes; what is beyond 448 becomes 448."""
    magnitude = np.minimum(np.abs(values), np.float32(LARGEST))
    bits = magnitude.view(np.uint32)
    rounded = (bits + np.uint32(0x7FFFF) + ((bits >> 20) & 1)) >> 20  # three bits of mantissa left
    normal = rounded - np.uint32((127 - 7) << 3)
    subnormal = np.rint(magnitude * np.float32(512)).astype(np.uint32)  # steps of 2^-9
    code = np.where(magnitude < np.float32(2**-6), subnormal, normal)
    signed: U8 = (code | np.signbit(values).astype(np.uint32) << 7).astype(np.uint8)
    return signed


def _is_product(name: str) -> bool:
    return name.endswith("_proj.weight")


def _pair(
    checkpoint: Checkpoint, name: str, recoder: Recoder, scales: dict[Part, F32]
) -> list[StoredSource]:
    """A matrix, and behind it its scales, which are there once it has been read."""
    shape = checkpoint.entries[name].shape

    def read_scales() -> U8:
        parts = sorted((part for part in scales if part.name == name), key=lambda part: part.start)
        return np.concatenate([scales.pop(part) for part in parts]).reshape(-1).view(np.uint8)

    return [
        StoredSource(name, "F8_E4M3", shape, shape[0] * shape[1], lambda: recoder.read(name)),
        StoredSource(f"{name}_scale", "F32", (shape[0], 1), 4 * shape[0], read_scales),
    ]
