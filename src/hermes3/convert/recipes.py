"""Which tensor of a model gets which storage type."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from hermes3.weights.layout import TensorEntry
from hermes3.weights.quant import GGMLType


@dataclass(frozen=True, slots=True)
class Recipe:
    """A kind of file.

    Attributes:
        name: as the command line has it.
        file_type: llama.cpp's number for it (``llama_ftype``).
        common: the type of all matrices for which nothing else is said.
        bits: bits of a weight, about; what is said of it in a line.
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
    )
}


def types_for(recipe: Recipe, entries: Mapping[str, TensorEntry]) -> dict[str, GGMLType]:
    """The type of each tensor: vectors stay float32, as llama.cpp asks for."""
    return {
        name: GGMLType.F32 if len(entry.shape) == 1 else recipe.common for name, entry in entries.items()
    }
