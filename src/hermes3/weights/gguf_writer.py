"""Writes GGUF files, version 3, little-endian."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from hermes3.errors import FormatError
from hermes3.weights.gguf import DEFAULT_ALIGNMENT, MAGIC
from hermes3.weights.quant import GGMLType
from hermes3.weights.whole import whole_file, write_checked

Writable: TypeAlias = "bool | int | float | str | np.generic | Sequence[str] | NDArray[Any]"

_CODES = {
    "u1": 0,
    "i1": 1,
    "u2": 2,
    "i2": 3,
    "u4": 4,
    "i4": 5,
    "f4": 6,
    "b1": 7,
    "u8": 10,
    "i8": 11,
    "f8": 12,
}
_STRING, _ARRAY = 8, 9


@dataclass(frozen=True, slots=True)
class TensorSource:
    """A tensor to write.

    Attributes:
        name: GGUF's, as "blk.0.attn_q.weight".
        shape: outermost dimension first, the row last.
        read: gives the stored bytes, uint8, at once or in parts; called once, when their turn comes, so that
            a model larger than memory can be written.
    """

    name: str
    type: GGMLType
    shape: tuple[int, ...]
    read: Callable[[], NDArray[np.uint8] | Iterable[NDArray[np.uint8]]]


def write_gguf(path: Path, metadata: Mapping[str, Writable], tensors: Sequence[TensorSource]) -> None:
    """Writes a file; it takes its name only when it is whole.

    Args:
        metadata: keys and values. A Python int is stored as uint32, a float as float32; a numpy scalar or
            array says its type itself; other sequences hold strings.
        tensors: in the order in which they are to lie.

    Raises:
        FormatError: a value that does not fit its type, or a tensor whose bytes are not those of its shape.
        DiskSpaceError, OSError: as ``whole_file``.
    """
    if len({tensor.name for tensor in tensors}) < len(tensors):
        raise FormatError("two tensors have the same name")
    if metadata.get("general.alignment", DEFAULT_ALIGNMENT) != DEFAULT_ALIGNMENT:
        raise FormatError(
            f"general.alignment is {metadata['general.alignment']}, the writer aligns to 32 only"
        )
    header = bytearray(MAGIC + struct.pack("<IQQ", 3, len(tensors), len(metadata)))
    for key, value in metadata.items():
        header += _string(key) + _value(key, value)
    offset = 0
    for tensor in tensors:
        dimensions = tensor.shape[::-1]
        header += _string(tensor.name) + struct.pack(f"<I{len(dimensions)}Q", len(dimensions), *dimensions)
        header += struct.pack("<IQ", tensor.type, offset)
        offset += _padded(tensor.type.n_bytes(tensor.shape))
    header += bytes(_padded(len(header)) - len(header))
    with whole_file(path, len(header) + offset) as file:
        file.write(header)
        for tensor in tensors:
            n_bytes = tensor.type.n_bytes(tensor.shape)
            write_checked(file, tensor.name, tensor.read(), n_bytes)
            file.write(bytes(_padded(n_bytes) - n_bytes))


def _padded(n_bytes: int) -> int:
    return -(-n_bytes // DEFAULT_ALIGNMENT) * DEFAULT_ALIGNMENT


def _value(key: str, value: Writable) -> bytes:
    if isinstance(value, str):
        return struct.pack("<I", _STRING) + _string(value)
    if isinstance(value, np.ndarray):
        little = value.astype(value.dtype.newbyteorder("<"))
        return struct.pack("<IIQ", _ARRAY, _code(key, value.dtype), value.size) + little.tobytes()
    if isinstance(value, Sequence):
        return struct.pack("<IIQ", _ARRAY, _STRING, len(value)) + b"".join(map(_string, value))
    scalar = _scalar(key, value)
    return (
        struct.pack("<I", _code(key, scalar.dtype)) + scalar.astype(scalar.dtype.newbyteorder("<")).tobytes()
    )


def _scalar(key: str, value: bool | int | float | np.generic) -> NDArray[Any]:
    if isinstance(value, np.generic | bool):
        return np.array(value)
    if isinstance(value, float):
        return np.array(value, np.float32)
    if not 0 <= value < 1 << 32:
        raise FormatError(f"{key} is {value}: outside uint32, it takes a numpy integer of the type wanted")
    return np.array(value, np.uint32)


def _code(key: str, dtype: np.dtype[Any]) -> int:
    code = _CODES.get(f"{dtype.kind}{dtype.itemsize}")
    if code is None:
        raise FormatError(f"{key} has numpy type {dtype}, which GGUF cannot hold")
    return code


def _string(text: str) -> bytes:
    raw = text.encode()
    return struct.pack("<Q", len(raw)) + raw
