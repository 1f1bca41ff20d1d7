"""Writes safetensors files, one or several with their index, as transformers reads them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hermes3.weights.whole import whole_file, write_checked

SHARD_BYTES = 5_000_000_000  # transformers' default


@dataclass(frozen=True, slots=True)
class StoredSource:
    """A tensor to write.

    Attributes:
        dtype: as the format spells it: "F32", "F16", "BF16", "F8_E4M3".
        n_bytes: that ``read`` will give.
        read: gives them, uint8, at once or in parts; called once, in the order of the files.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    n_bytes: int
    read: Callable[[], NDArray[np.uint8] | Iterable[NDArray[np.uint8]]]


def write_shards(folder: Path, tensors: Sequence[StoredSource], shard_bytes: int = SHARD_BYTES) -> None:
    """Writes model.safetensors, or numbered parts and model.safetensors.index.json where it would be larger.

    Args:
        tensors: in the order in which they are to lie.
        shard_bytes: most bytes of a part; a larger tensor gets one of its own.

    Raises:
        FormatError: a tensor whose bytes are not as many as it says.
        DiskSpaceError, OSError: as ``whole_file``.
    """
    shards = _shards(tensors, shard_bytes)
    names = [f"model-{i + 1:05}-of-{len(shards):05}.safetensors" for i in range(len(shards))]
    if len(shards) == 1:
        names = ["model.safetensors"]
    for name, shard in zip(names, shards, strict=True):
        write_file(folder / name, shard)
    if len(shards) > 1:
        total = sum(tensor.n_bytes for tensor in tensors)
        where = {tensor.name: name for name, shard in zip(names, shards, strict=True) for tensor in shard}
        index = {"metadata": {"total_size": total}, "weight_map": where}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n", "utf-8")


def _shards(tensors: Sequence[StoredSource], most: int) -> list[list[StoredSource]]:
    shards: list[list[StoredSource]] = [[]]
    n_bytes = 0
    for tensor in tensors:
        if shards[-1] and n_bytes + tensor.n_bytes > most:
            shards.append([])
            n_bytes = 0
        shards[-1].append(tensor)
        n_bytes += tensor.n_bytes
    return shards


def write_file(path: Path, tensors: Sequence[StoredSource]) -> None:
    """Writes one file of these tensors; raises as ``write_shards``."""
    rows: dict[str, object] = {"__metadata__": {"format": "pt"}}  # without it transformers refuses the file
    offset = 0
    for tensor in tensors:
        offsets = [offset, offset := offset + tensor.n_bytes]
        rows[tensor.name] = {"dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": offsets}
    header = json.dumps(rows, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    with whole_file(path, 8 + len(header) + offset) as file:
        file.write(len(header).to_bytes(8, "little") + header)
        for tensor in tensors:
            write_checked(file, tensor.name, tensor.read(), tensor.n_bytes)
