"""What the header of a GGUF file says about a Llama: configuration, vocabulary, tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from hermes3.errors import FormatError, UnsupportedError
from hermes3.weights.config import ModelConfig
from hermes3.weights.gguf import GGUF, MetadataValue
from hermes3.weights.layout import TensorEntry, name_from_gguf
from hermes3.weights.quant import GGMLType

ROPE_FACTORS = "rope_freqs.weight"
EOS_IDS = "hermes3.eos_token_ids"  # our own key, for models with more of them than there are keys for

# llama.cpp's llama_ftype: the mix of a file whose tensors have several types.
_FILE_TYPES = {0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 7: "Q8_0", 8: "Q5_0", 9: "Q5_1", 14: "Q4_K_S"}
_FILE_TYPES |= {15: "Q4_K_M", 16: "Q5_K_S", 17: "Q5_K_M", 18: "Q6_K", 32: "BF16"}

# Keys that llama.cpp honours and the engine does not compute, with the values that change nothing.
_NEUTRAL: dict[str, tuple[MetadataValue, ...]] = {
    "llama.expert_count": (0,),
    "llama.rope.scaling.type": ("none",),
    "llama.rope.scaling.factor": (0.0, 1.0),
    "llama.rope.scale_linear": (0.0, 1.0),
    "llama.attention.scale": (0.0,),
    "llama.attention.causal": (True,),
    "llama.attention.clamp_kqv": (0.0,),
    "llama.attention.sliding_window": (0,),
    "llama.use_parallel_residual": (False,),
    "llama.logit_scale": (0.0, 1.0),
    "llama.embedding_scale": (0.0, 1.0),
    "llama.residual_scale": (0.0, 1.0),
    "split.count": (0, 1),
}


@dataclass(frozen=True, slots=True)
class GGUFVocabulary:
    """The tokenizer's data as the file holds it (keys ``tokenizer.ggml.*`` and ``tokenizer.chat_template``).

    Attributes:
        model: kind of tokenizer, "gpt2" for byte-level BPE.
        pre: name of the pre-tokenizer, as "llama-bpe" or "smollm".
        tokens: text of each id, in the tokenizer's own spelling (byte-level for "gpt2").
        merges: pairs "left right", best first.
        token_types: for each token: 1 normal, 2 unknown, 3 control, 4 user-defined, 5 unused, 6 byte.
        add_bos: whether the model expects ``bos_id`` in front; None where the file does not say.
        eos_ids: of all the tokens that end an answer: end of sequence, of turn, of message.
    """

    model: str
    pre: str | None
    tokens: list[str]
    merges: list[str]
    token_types: list[int] | None
    bos_id: int | None
    eos_id: int | None
    eot_id: int | None
    eos_ids: frozenset[int]
    unknown_id: int | None
    padding_id: int | None
    add_bos: bool | None
    chat_template: str | None


def read_config(gguf: GGUF) -> ModelConfig:
    """The configuration of a file of architecture ``llama``.

    A scaling of the rotary frequencies is not part of it: such files bring the divisors as a tensor.

    Raises:
        FormatError: a key is missing, of wrong type or absurd.
        UnsupportedError: another architecture, or an option that the engine does not compute.
    """
    metadata = gguf.metadata
    if (architecture := _text(metadata, "general.architecture")) != "llama":
        raise UnsupportedError(f"general.architecture is {architecture!r:.80}, the engine runs 'llama' only")
    _refuse_unsupported(metadata)
    n_heads = _integer(metadata, "llama.attention.head_count")
    hidden_size = _integer(metadata, "llama.embedding_length")
    head_dim = _head_dim(metadata, hidden_size, n_heads)
    config = ModelConfig(
        hidden_size=hidden_size,
        intermediate_size=_integer(metadata, "llama.feed_forward_length"),
        num_hidden_layers=_integer(metadata, "llama.block_count"),
        num_attention_heads=n_heads,
        num_key_value_heads=_integer(metadata, "llama.attention.head_count_kv", n_heads),
        head_dim=head_dim,
        vocab_size=_vocab_size(gguf),
        max_position_embeddings=_integer(metadata, "llama.context_length"),
        rms_norm_eps=_real(metadata, "llama.attention.layer_norm_rms_epsilon"),
        rope_theta=_real(metadata, "llama.rope.freq_base", 10000.0),
        tie_word_embeddings="output.weight" not in gguf.tensors,
    )
    if (n_rotated := _integer(metadata, "llama.rope.dimension_count", head_dim)) != head_dim:
        raise UnsupportedError(
            f"llama.rope.dimension_count is {n_rotated}, the engine rotates whole heads ({head_dim})"
        )
    return config


def read_vocabulary(metadata: Mapping[str, MetadataValue], vocab_size: int) -> GGUFVocabulary | None:
    """The tokenizer's data, or None in a file without.

    Args:
        metadata: of the file.
        vocab_size: rows of the embedding, which the tokens may not exceed.

    Raises:
        FormatError: a key of wrong type, or tokens and ids that do not fit each other.
    """
    if "tokenizer.ggml.tokens" not in metadata:
        return None
    tokens = _strings(metadata, "tokenizer.ggml.tokens")
    if not 1 <= len(tokens) <= vocab_size:
        raise FormatError(
            f"tokenizer.ggml.tokens holds {len(tokens)} tokens, the embedding has {vocab_size} rows"
        )
    named = {
        name: _token_id(metadata, f"tokenizer.ggml.{name}_token_id", len(tokens))
        for name in ("bos", "eos", "eot", "eom", "unknown", "padding")
    }
    ends = [named["eos"], named["eot"], named["eom"], *_more_ends(metadata, len(tokens))]
    template = metadata.get("tokenizer.chat_template")
    add_bos = metadata.get("tokenizer.ggml.add_bos_token")
    return GGUFVocabulary(
        model=_text(metadata, "tokenizer.ggml.model"),
        pre=_text(metadata, "tokenizer.ggml.pre") if "tokenizer.ggml.pre" in metadata else None,
        tokens=tokens,
        merges=_strings(metadata, "tokenizer.ggml.merges") if "tokenizer.ggml.merges" in metadata else [],
        token_types=_token_types(metadata, len(tokens)),
        bos_id=named["bos"],
        eos_id=named["eos"],
        eot_id=named["eot"],
        eos_ids=frozenset(id for id in ends if id is not None),
        unknown_id=named["unknown"],
        padding_id=named["padding"],
        add_bos=add_bos if add_bos is None else _flag(metadata, "tokenizer.ggml.add_bos_token"),
        chat_template=template if template is None else _text(metadata, "tokenizer.chat_template"),
    )


def _more_ends(metadata: Mapping[str, MetadataValue], n_tokens: int) -> list[int]:
    ids = metadata.get(EOS_IDS)
    if ids is None:
        return []
    if not isinstance(ids, np.ndarray) or ids.dtype.kind not in "iu":
        raise FormatError(_complaint(EOS_IDS, ids, "an array of integers"))
    if outside := [int(id) for id in ids if not 0 <= id < n_tokens]:
        raise FormatError(f"{EOS_IDS} holds {outside[0]}, but there are {n_tokens} tokens")
    return [int(id) for id in ids]


def read_entries(gguf: GGUF, config: ModelConfig, path: Path) -> dict[str, TensorEntry]:
    """The tensors under Hugging Face's names, less the rotary factors."""
    n_rope_heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    entries: dict[str, TensorEntry] = {}
    for tensor in gguf.tensors.values():
        name = name_from_gguf(tensor.name)
        if tensor.name == ROPE_FACTORS:
            continue
        if name in entries:
            raise FormatError(f"tensor {name} occurs twice, under its own name and as {tensor.name}")
        part = name.split(".")[-2] if name.startswith("model.layers.") else ""
        entries[name] = TensorEntry(
            name, tensor.type, tensor.shape, path, tensor.offset, tensor.n_bytes, n_rope_heads.get(part, 0)
        )
    return entries


def read_rope_factors(gguf: GGUF, config: ModelConfig, file: BinaryIO) -> NDArray[np.float32] | None:
    """The divisors of the rotary frequencies, float32, shape (head_dim // 2,), or None in a file without.

    Raises:
        FormatError: of another type or shape, or not positive numbers.
    """
    tensor = gguf.tensors.get(ROPE_FACTORS)
    if tensor is None:
        return None
    if tensor.type != GGMLType.F32 or tensor.shape != (config.head_dim // 2,):
        raise FormatError(
            f"tensor {ROPE_FACTORS} is {tensor.type.name} of shape {tensor.shape}, "
            f"it must be F32 of shape {(config.head_dim // 2,)}"
        )
    file.seek(tensor.offset)
    factors = np.frombuffer(file.read(tensor.n_bytes), "<f4").astype(np.float32)
    if bad := [float(factor) for factor in factors if not 1e-6 <= factor <= 1e6]:
        raise FormatError(f"tensor {ROPE_FACTORS} holds {bad[0]}, it must lie between 1e-06 and 1000000.0")
    return factors


def description(gguf: GGUF) -> str | None:
    """The name of the file's quantization, as "Q4_K_M"; None where it does not say, or a number unknown."""
    kind = gguf.metadata.get("general.file_type")
    return _FILE_TYPES.get(kind) if isinstance(kind, int) else None


def _refuse_unsupported(metadata: Mapping[str, MetadataValue]) -> None:
    for key, neutral in _NEUTRAL.items():
        value = metadata.get(key)
        if value is None:
            continue
        if isinstance(value, np.ndarray) or value not in neutral:
            remedy = "; join its parts with llama-gguf-split --merge" if key == "split.count" else ""
            raise UnsupportedError(f"{key} is {value!r:.80}, which the engine does not compute{remedy}")


def _head_dim(metadata: Mapping[str, MetadataValue], hidden_size: int, n_heads: int) -> int:
    default = 0 if n_heads < 1 or hidden_size % n_heads else hidden_size // n_heads
    key = _integer(metadata, "llama.attention.key_length", default)
    value = _integer(metadata, "llama.attention.value_length", default)
    if key != value:
        raise UnsupportedError(
            f"llama.attention.key_length is {key} and value_length {value}: the engine needs them to be equal"
        )
    if key < 1:
        raise FormatError(
            f"llama.embedding_length is {hidden_size}, "
            f"it must be a positive multiple of llama.attention.head_count ({n_heads})"
        )
    return key


def _vocab_size(gguf: GGUF) -> int:
    embedding = gguf.tensors.get("token_embd.weight")
    if embedding is None:
        raise FormatError("tensor token_embd.weight is missing")
    n_rows = embedding.shape[0]
    if (declared := _integer(gguf.metadata, "llama.vocab_size", n_rows)) != n_rows:
        raise FormatError(f"llama.vocab_size is {declared}, but token_embd.weight has {n_rows} rows")
    return n_rows


def _token_types(metadata: Mapping[str, MetadataValue], n_tokens: int) -> list[int] | None:
    key = "tokenizer.ggml.token_type"
    value = metadata.get(key)
    if value is None:
        return None
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "iu" or len(value) != n_tokens:
        raise FormatError(f"{key} must hold an integer for each of the {n_tokens} tokens")
    types: list[int] = value.tolist()
    return types


def _token_id(metadata: Mapping[str, MetadataValue], key: str, n_tokens: int) -> int | None:
    if key not in metadata:
        return None
    if not 0 <= (value := _integer(metadata, key)) < n_tokens:
        raise FormatError(f"{key} is {value}, but there are {n_tokens} tokens")
    return value


def _integer(metadata: Mapping[str, MetadataValue], key: str, default: int | None = None) -> int:
    value = metadata.get(key, default)
    if type(value) is not int:
        raise FormatError(_complaint(key, value, "an integer"))
    return value


def _real(metadata: Mapping[str, MetadataValue], key: str, default: float | None = None) -> float:
    """A float32 by its shortest decimal: 1e-05 as in the original config.json, not 9.99999974e-06."""
    value = metadata.get(key, default)
    if type(value) is not float:
        raise FormatError(_complaint(key, value, "a number"))
    return float(str(np.float32(value))) if np.float32(value) == value else value


def _text(metadata: Mapping[str, MetadataValue], key: str) -> str:
    value = metadata.get(key)
    if not isinstance(value, str):
        raise FormatError(_complaint(key, value, "a string"))
    return value


def _flag(metadata: Mapping[str, MetadataValue], key: str) -> bool:
    value = metadata.get(key)
    if not isinstance(value, bool):
        raise FormatError(_complaint(key, value, "true or false"))
    return value


def _strings(metadata: Mapping[str, MetadataValue], key: str) -> list[str]:
    value = metadata.get(key)
    if not isinstance(value, list):
        raise FormatError(_complaint(key, value, "an array of strings"))
    return value


def _complaint(key: str, value: MetadataValue | None, kind: str) -> str:
    if value is None:
        return f"{key} is missing"
    shown = f"an array of {len(value)}" if isinstance(value, list | np.ndarray) else f"{value!r:.80}"
    return f"{key} is {shown}, it must be {kind}"
