"""One door to a model's weights, whether they lie in a GGUF file or a Hugging Face directory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from hermes3.errors import FormatError, ModelNotFoundError
from hermes3.weights import gguf_llama, hf_folder
from hermes3.weights.config import ModelConfig
from hermes3.weights.gguf import read_gguf
from hermes3.weights.gguf_llama import GGUFVocabulary
from hermes3.weights.layout import TensorEntry, check_layout
from hermes3.weights.quant import GGMLType, dequantize

_EMBEDDING, _HEAD = "model.embed_tokens.weight", "lm_head.weight"
_STEP = 1 << 24  # bytes compared at a time


@dataclass(frozen=True, slots=True)
class RawTensor:
    """A tensor as it is stored.

    Attributes:
        name: Hugging Face's.
        shape: (rows, cols) or (n,).
        data: uint8, 1-D, contiguous: the rows one after the other, each a run of whole blocks.
    """

    name: str
    type: GGMLType
    shape: tuple[int, ...]
    data: NDArray[np.uint8]

    def values(self) -> NDArray[np.float32]:
        """The exact values, float32 of ``shape``."""
        return dequantize(self.data, self.type, self.shape)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checked model on disk; tensors are read when they are asked for.

    Attributes:
        source: the file or directory.
        config: hyper-parameters.
        entries: where each tensor lies, by Hugging Face's names; complete, of the shapes of ``config``.
        rope_factors: divisors of the rotary frequencies, float32, shape (head_dim // 2,), where the file
            brings them.
        eos_ids: ids that end an answer, from all places that name some.
        vocabulary: tokenizer's data of a GGUF file.
        tokenizer_json: the tokenizer's file of a directory.
        chat_template: Jinja text of the model's own template.
        description: how the weights are stored, as "Q4_K_M" or "BF16".
    """

    source: Path
    config: ModelConfig
    entries: Mapping[str, TensorEntry]
    rope_factors: NDArray[np.float32] | None
    eos_ids: frozenset[int]
    vocabulary: GGUFVocabulary | None
    tokenizer_json: Path | None
    chat_template: str | None
    description: str

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all tensors; "lm_head.weight" is absent where the embedding serves as head."""
        return tuple(self.entries)

    @property
    def n_bytes(self) -> int:
        """Bytes of all tensors as stored."""
        return sum(entry.n_bytes for entry in self.entries.values())

    def tensor(self, name: str) -> RawTensor:
        """Reads one tensor.

        Raises:
            KeyError: no such name.
            FormatError: the file has become shorter or cannot be read any more.
        """
        entry = self.entries[name]
        data = _read(entry)
        if entry.n_rope_heads:
            data = _unpermute(data, entry.shape[0], entry.n_rope_heads)
        return RawTensor(name, entry.type, entry.shape, data)

    def rows(self, name: str, start: int, stop: int) -> RawTensor:
        """Some rows of one tensor, for those larger than memory should hold at once.

        Args:
            start, stop: as in a slice, 0 <= start < stop <= rows; a tensor of one dimension is one row.

        Raises:
            KeyError, FormatError: as ``tensor``.
        """
        entry = self.entries[name]
        if len(entry.shape) == 1:
            return self.tensor(name)
        n_rows, n_columns = entry.shape
        row_bytes = entry.n_bytes // n_rows
        head_rows = n_rows // entry.n_rope_heads if entry.n_rope_heads else 1
        first, last = start // head_rows * head_rows, -(-stop // head_rows) * head_rows
        data = _read(entry, first * row_bytes, (last - first) * row_bytes)
        if entry.n_rope_heads:
            data = _unpermute(data, last - first, (last - first) // head_rows)
        data = data[(start - first) * row_bytes : (stop - first) * row_bytes]
        return RawTensor(name, entry.type, (stop - start, n_columns), data)


def open_checkpoint(path: Path | str) -> Checkpoint:
    """Opens a GGUF file, or a directory with config.json, safetensors and tokenizer.json.

    Raises:
        ModelNotFoundError: nothing there, or nothing of either kind.
        FormatError: damaged; the message begins with the path.
        UnsupportedError: sound, but not a model that the engine runs.
    """
    path = Path(path)
    if not path.exists():
        raise ModelNotFoundError(f"{path} does not exist")
    try:
        return _open_folder(path) if path.is_dir() else _open_gguf(path)
    except FormatError as error:
        raise type(error)(f"{path}: {error}") from error
    except OSError as error:
        raise FormatError(f"{path} cannot be read: {error.strerror}") from error


def read_gguf_checkpoint(file: BinaryIO, path: Path) -> Checkpoint:
    """The model of an open GGUF file; ``path`` is where its tensors will be read later.

    Raises:
        FormatError, UnsupportedError: as ``open_checkpoint``.
    """
    gguf = read_gguf(file)
    config = gguf_llama.read_config(gguf)
    entries = gguf_llama.read_entries(gguf, config, path)
    check_layout(entries, config)
    vocabulary = gguf_llama.read_vocabulary(gguf.metadata, config.vocab_size)
    return Checkpoint(
        source=path,
        config=config,
        entries=entries,
        rope_factors=gguf_llama.read_rope_factors(gguf, config, file),
        eos_ids=vocabulary.eos_ids if vocabulary else frozenset(),
        vocabulary=vocabulary,
        tokenizer_json=None,
        chat_template=vocabulary.chat_template if vocabulary else None,
        description=gguf_llama.description(gguf) or _majority(entries),
    )


def _open_gguf(path: Path) -> Checkpoint:
    with path.open("rb") as file:
        return read_gguf_checkpoint(file, path)


def _open_folder(folder: Path) -> Checkpoint:
    values = hf_folder.read_config(folder)
    config = ModelConfig.from_hf(values)
    entries = hf_folder.read_entries(folder)
    if config.tie_word_embeddings and (head := entries.get(_HEAD)) is not None:
        if _is_copy(head, entries.get(_EMBEDDING)):
            del entries[_HEAD]
        else:
            config = replace(config, tie_word_embeddings=False)
    check_layout(entries, config)
    tokenizer_json = folder / "tokenizer.json"
    return Checkpoint(
        source=folder,
        config=config,
        entries=entries,
        rope_factors=None,
        eos_ids=hf_folder.read_eos_ids(folder, values, config.vocab_size),
        vocabulary=None,
        tokenizer_json=tokenizer_json if tokenizer_json.is_file() else None,
        chat_template=hf_folder.read_chat_template(folder),
        description=_majority(entries),
    )


def _is_copy(head: TensorEntry, embedding: TensorEntry | None) -> bool:
    """Whether a head that the configuration calls tied is the embedding once more; where not, it counts.

    So does transformers (``PreTrainedModel.tie_weights``).
    """
    if embedding is None or (head.type, head.shape) != (embedding.type, embedding.shape):
        return False
    return all(
        np.array_equal(_read(head, start, _STEP), _read(embedding, start, _STEP))
        for start in range(0, head.n_bytes, _STEP)
    )


def _majority(entries: Mapping[str, TensorEntry]) -> str:
    """The type that holds the most bytes."""
    n_bytes: Counter[GGMLType] = Counter()
    for entry in entries.values():
        n_bytes[entry.type] += entry.n_bytes
    return n_bytes.most_common(1)[0][0].name


def _read(entry: TensorEntry, start: int = 0, n_most: int | None = None) -> NDArray[np.uint8]:
    """The tensor's bytes from ``start``, all or ``n_most``."""
    n_bytes = min(entry.n_bytes - start, entry.n_bytes if n_most is None else n_most)
    try:
        data = np.fromfile(entry.path, np.uint8, n_bytes, offset=entry.offset + start)
    except OSError as error:
        raise FormatError(f"{entry.path}: tensor {entry.name} cannot be read: {error}") from error
    if data.size != n_bytes:
        raise FormatError(
            f"{entry.path}: tensor {entry.name} has {data.size} bytes left of {n_bytes}: "
            "the file has changed since it was opened"
        )
    return data


def _unpermute(data: NDArray[np.uint8], n_rows: int, n_heads: int) -> NDArray[np.uint8]:
    """Rows from llama.cpp's order, a rotated pair adjacent, to Hugging Face's, a pair half a head apart.

    The inverse of ``LlamaModel.permute`` in llama.cpp's converter.
    """
    pairs = data.reshape(n_heads, n_rows // n_heads // 2, 2, -1)
    return np.ascontiguousarray(pairs.swapaxes(1, 2)).reshape(-1)
