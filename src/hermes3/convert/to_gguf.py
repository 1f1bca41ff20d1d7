"""Writes a model as a GGUF file that llama.cpp opens, too."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hermes3.convert.recipes import Recipe, types_for
from hermes3.convert.stream import Part, Recoder, recoded
from hermes3.tokenizer.export import FullVocabulary, to_lists
from hermes3.weights.checkpoint import Checkpoint, RawTensor
from hermes3.weights.config import ModelConfig, rope_frequencies
from hermes3.weights.gguf import read_gguf
from hermes3.weights.gguf_llama import EOS_IDS, ROPE_FACTORS
from hermes3.weights.gguf_writer import TensorSource, write_gguf
from hermes3.weights.layout import name_to_gguf
from hermes3.weights.quant import GGMLType

if TYPE_CHECKING:
    from hermes3.weights.hub import Progress

ROPE_SCALING = "hermes3.rope_scaling"  # our own key: what rope_freqs.weight was made of, for the way back


def to_gguf(
    checkpoint: Checkpoint,
    path: Path,
    recipe: Recipe,
    progress: Progress,
    importance: Mapping[str, NDArray[np.float32]] = MappingProxyType({}),
) -> None:
    """Writes the file, whole or not at all.

    Args:
        checkpoint: in any form; the metadata of a GGUF file are taken over.
        progress: told of the bytes read; its label is the path.
        importance: of the columns of matrices, by name (``engine.calibration``); used for the K formats.

    Raises:
        FormatError: weights that the type cannot hold; a tokenizer that GGUF cannot.
        DiskSpaceError, OSError: there is no room, or the file cannot be written.
    """
    types = types_for(recipe, checkpoint.config, checkpoint.names)
    heads = {"q_proj": checkpoint.config.num_attention_heads, "k_proj": checkpoint.config.num_key_value_heads}

    def recode(part: Part, raw: RawTensor) -> NDArray[np.uint8]:
        data = recoded(raw, types[part.name], importance.get(part.name))
        if part.name.split(".")[-2] in heads:
            data = permuted(data, raw.shape[0], checkpoint.config.head_dim)
        return data

    recoder = Recoder(checkpoint, checkpoint.names, recode, progress)
    tensors = [_source(checkpoint, name, types[name], recoder) for name in checkpoint.names]
    progress.begin(path.name, checkpoint.n_bytes, 0)
    try:
        write_gguf(path, metadata(checkpoint, recipe), [*rope_tensor(checkpoint), *tensors])
    finally:
        progress.end()


def _source(checkpoint: Checkpoint, name: str, type: GGMLType, recoder: Recoder) -> TensorSource:
    shape = checkpoint.entries[name].shape
    return TensorSource(name_to_gguf(name), type, shape, lambda: recoder.read(name))


def permuted(data: NDArray[np.uint8], n_rows: int, head_dim: int) -> NDArray[np.uint8]:
    """Rows of whole heads from Hugging Face's order, a rotated pair half a head apart, to llama.cpp's."""
    pairs = data.reshape(n_rows // head_dim, 2, head_dim // 2, -1)
    return np.ascontiguousarray(pairs.swapaxes(1, 2)).reshape(-1)


def rope_tensor(checkpoint: Checkpoint) -> list[TensorSource]:
    """The divisors of the rotary frequencies as a tensor, where there are any."""
    factors, config = checkpoint.rope_factors, checkpoint.config
    if factors is None and config.rope_scaling is None:
        return []
    if factors is None:
        plain = rope_frequencies(config, np.ones(config.head_dim // 2, np.float32))
        factors = (plain / rope_frequencies(config)).astype(np.float32)
    data = factors.view(np.uint8)
    return [TensorSource(ROPE_FACTORS, GGMLType.F32, factors.shape, lambda: data)]


def metadata(checkpoint: Checkpoint, recipe: Recipe) -> dict[str, Any]:
    """Keys and values of the file."""
    if checkpoint.source.is_file():
        with checkpoint.source.open("rb") as file:
            values: dict[str, Any] = {key: _typed(value) for key, value in read_gguf(file).metadata.items()}
        values.pop("general.alignment", None)
    else:
        values = {"general.architecture": "llama", "general.type": "model"}
        values |= {"general.name": checkpoint.source.resolve().name, **_of_config(checkpoint.config)}
        if checkpoint.tokenizer_json is not None:
            lists = to_lists(checkpoint.tokenizer_json, checkpoint.config.vocab_size)
            values |= _of_vocabulary(lists, checkpoint.eos_ids, checkpoint.chat_template)
    return values | {"general.file_type": recipe.file_type, "general.quantization_version": 2}


def _typed(value: Any) -> Any:
    """An integer of a GGUF file such that the writer finds a type for it."""
    is_wide = type(value) is int and not 0 <= value < 1 << 32
    return (np.uint64 if value >= 1 << 63 else np.int64)(value) if is_wide else value


def _of_config(config: ModelConfig) -> dict[str, Any]:
    scaling = {} if config.rope_scaling is None else {ROPE_SCALING: json.dumps(asdict(config.rope_scaling))}
    return {
        "llama.vocab_size": config.vocab_size,
        "llama.context_length": config.max_position_embeddings,
        "llama.embedding_length": config.hidden_size,
        "llama.block_count": config.num_hidden_layers,
        "llama.feed_forward_length": config.intermediate_size,
        "llama.attention.head_count": config.num_attention_heads,
        "llama.attention.head_count_kv": config.num_key_value_heads,
        "llama.attention.key_length": config.head_dim,
        "llama.attention.value_length": config.head_dim,
        "llama.attention.layer_norm_rms_epsilon": float(config.rms_norm_eps),
        "llama.rope.dimension_count": config.head_dim,
        "llama.rope.freq_base": float(config.rope_theta),
        **scaling,
    }


def _of_vocabulary(
    vocabulary: FullVocabulary, eos_ids: frozenset[int], chat_template: str | None
) -> Mapping[str, Any]:
    eos = min(eos_ids, default=None) if vocabulary.eos_id is None else vocabulary.eos_id
    ids = {
        "bos": vocabulary.bos_id,
        "eos": eos,
        "eot": vocabulary.eot_id,
        "unknown": vocabulary.unknown_id,
        "padding": vocabulary.padding_id,
    }
    keys: dict[str, Any] = {
        "model": vocabulary.model,
        "pre": vocabulary.pre,
        "tokens": vocabulary.tokens,
        "token_type": np.array(vocabulary.token_types, np.int32),
        "merges": vocabulary.merges,
        **{f"{name}_token_id": id for name, id in ids.items() if id is not None},
        "add_bos_token": bool(vocabulary.add_bos),
    }
    values = {f"tokenizer.ggml.{key}": value for key, value in keys.items()}
    if eos_ids - {eos, vocabulary.eot_id}:
        values[EOS_IDS] = np.array(sorted(eos_ids), np.int32)
    if chat_template is not None:
        values["tokenizer.chat_template"] = chat_template
    return values
