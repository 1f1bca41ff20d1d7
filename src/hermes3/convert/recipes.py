"""Which tensor of a model gets which storage type."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from hermes3.weights.config import ModelConfig
from hermes3.weights.layout import expected_shapes
from hermes3.weights.quant import GGMLType


@dataclass(frozen=True, slots=True)
class Recipe:
    """A kind of file.

    Attributes:
        name: as the command line has it.
        file_type: llama.cpp's number for it (``llama_ftype``).
        common: the type of all matrices for which nothing else is said.
        bits: of a weight, on average, in Hermes 3 3B.
        about: what is said of it in a line.
    """

    name: str
    file_type: int
    common: GGMLType
    bits: float
    about: str


RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe("f32", 0, GGMLType.F32, 32, "exact"),
        Recipe("f16", 1, GGMLType.F16, 16, "what most engines quantize from"),
        Recipe("bf16", 32, GGMLType.BF16, 16, "exact for models that were trained in bfloat16"),
        Recipe("q8_0", 7, GGMLType.Q8_0, 8.5, "as good as float16"),
        Recipe("q6_k", 18, GGMLType.Q6_K, 6.6, "hardly to be told from float16"),
        Recipe("q5_k_m", 17, GGMLType.Q5_K, 5.7, "between the two beside it"),
        Recipe("q4_k_m", 15, GGMLType.Q4_K, 4.9, "the usual choice"),
        Recipe("q4_1", 3, GGMLType.Q4_1, 5.1, "simple 4-bit blocks with a minimum"),
        Recipe("q4_0", 2, GGMLType.Q4_0, 4.6, "simple 4-bit blocks: quickest, and loses the most"),
    )
}

# What takes the place of a K format where rows are not whole super-blocks of 256.
_FALLBACK = {
    GGMLType.Q4_K: GGMLType.Q5_0,
    GGMLType.Q5_K: GGMLType.Q5_1,
    GGMLType.Q6_K: GGMLType.Q8_0,
}


def types_for(recipe: Recipe, config: ModelConfig, names: Iterable[str]) -> dict[str, GGMLType]:
    """The type of each tensor, as llama.cpp's ``llama-quantize`` mixes them.

    Vectors stay float32. In quantized files the head (the embedding, where it serves as head) is Q6_K, and
    the M mixtures give Q6_K to half of the value and down projections: in the first and the last eighth of
    the layers, and in every third between.

    Raises:
        FormatError: rows that are not whole blocks of 32.
    """
    shapes = expected_shapes(config)
    head = "model.embed_tokens.weight" if config.tie_word_embeddings else "lm_head.weight"
    types: dict[str, GGMLType] = {}
    for name in names:
        shape = shapes[name]
        type = GGMLType.F32 if len(shape) == 1 else recipe.common
        if len(shape) > 1 and recipe.common.block_size > 1:
            is_finer = name == head or (recipe.name.endswith("_m") and _is_finer(name, config))
            type = GGMLType.Q6_K if is_finer and recipe.common is not GGMLType.Q8_0 else type
            type = type if shape[1] % type.block_size == 0 else _FALLBACK.get(type, type)
        type.n_bytes(shape)
        types[name] = type
    return types


def _is_finer(name: str, config: ModelConfig) -> bool:
    if not name.endswith(("self_attn.v_proj.weight", "mlp.down_proj.weight")):
        return False
    layer, n = int(name.split(".")[2]), config.num_hidden_layers
    return layer < n // 8 or layer >= 7 * n // 8 or (layer - n // 8) % 3 == 2
