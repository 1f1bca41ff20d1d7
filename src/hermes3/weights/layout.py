"""The tensors of a Llama: their names, their shapes, and where in a file they lie."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from hermes3.errors import FormatError, UnsupportedError
from hermes3.weights.config import ModelConfig
from hermes3.weights.quant import GGMLType

_GGUF_OUTER = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
_GGUF_LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_TO_GGUF = {hf: gguf for gguf, hf in (_GGUF_OUTER | _GGUF_LAYER).items()}


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """Where a tensor lies.

    Attributes:
        name: Hugging Face's.
        shape: (rows, cols) or (n,).
        offset: of its first byte in the file ``path``.
        n_rope_heads: heads whose rows lie in the order of llama.cpp's rotation; 0 for Hugging Face's order.
    """

    name: str
    type: GGMLType
    shape: tuple[int, ...]
    path: Path
    offset: int
    n_bytes: int
    n_rope_heads: int = 0


def name_from_gguf(name: str) -> str:
    """Hugging Face's name for a tensor of a GGUF file; names that no Llama has stay as they are."""
    if name in _GGUF_OUTER:
        return _GGUF_OUTER[name]
    match name.split("."):
        case ["blk", layer, part, kind] if part in _GGUF_LAYER:
            return f"model.layers.{layer}.{_GGUF_LAYER[part]}.{kind}"
    return name


def name_to_gguf(name: str) -> str:
    """The name of a Llama's tensor in a GGUF file; the inverse of ``name_from_gguf``.

    Raises:
        KeyError: a tensor that no Llama has.
    """
    stem, _, kind = name.rpartition(".")
    if stem.startswith("model.layers."):
        _, _, layer, part = stem.split(".", 3)
        return f"blk.{layer}.{_TO_GGUF[part]}.{kind}"
    return _TO_GGUF[name]


def check_layout(entries: Mapping[str, TensorEntry], config: ModelConfig) -> None:
    """Holds the tensors of a file against what the configuration asks for.

    Raises:
        FormatError: a tensor is missing or has another shape.
        UnsupportedError: a tensor that the engine has no use for, such as a bias.
    """
    for name in entries:
        if name.endswith(".bias"):
            raise UnsupportedError(f"tensor {name} is a bias: the engine runs Llamas without biases only")
    # Checked first, because a small file could claim many layers.
    if len(entries) < 9 * config.num_hidden_layers:
        raise FormatError(
            f"num_hidden_layers is {config.num_hidden_layers}, but there are only {len(entries)} tensors, "
            "9 are needed for each layer"
        )
    expected = expected_shapes(config)
    for name, shape in expected.items():
        if name not in entries:
            raise FormatError(f"tensor {name} is missing")
        if entries[name].shape != shape:
            raise FormatError(
                f"tensor {name} has shape {entries[name].shape}, the configuration asks for {shape}"
            )
    for name in entries:
        if name not in expected:
            raise UnsupportedError(
                f"tensor {name} has no place in the Llama that the configuration describes"
            )


def expected_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Names and shapes of all tensors of a Llama; "lm_head.weight" is absent where the embedding is tied."""
    hidden, inner = config.hidden_size, config.intermediate_size
    n_q, n_kv = config.num_attention_heads * config.head_dim, config.num_key_value_heads * config.head_dim
    layer: dict[str, tuple[int, ...]] = {
        "input_layernorm": (hidden,),
        "self_attn.q_proj": (n_q, hidden),
        "self_attn.k_proj": (n_kv, hidden),
        "self_attn.v_proj": (n_kv, hidden),
        "self_attn.o_proj": (hidden, n_q),
        "post_attention_layernorm": (hidden,),
        "mlp.gate_proj": (inner, hidden),
        "mlp.up_proj": (inner, hidden),
        "mlp.down_proj": (hidden, inner),
    }
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (config.vocab_size, hidden)}
    for i in range(config.num_hidden_layers):
        shapes |= {f"model.layers.{i}.{part}.weight": shape for part, shape in layer.items()}
    shapes["model.norm.weight"] = (hidden,)
    if not config.tie_word_embeddings:
        shapes["lm_head.weight"] = (config.vocab_size, hidden)
    return shapes
