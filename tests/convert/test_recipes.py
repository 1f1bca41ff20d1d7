"""The mixtures are llama.cpp's: its own program gives every tensor the same type, and opens our files."""

from __future__ import annotations

import dataclasses
import subprocess
from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFReader
from gguf import quants as gguf_quants

from hermes3.convert.recipes import RECIPES, types_for
from hermes3.convert.to_gguf import to_gguf
from hermes3.errors import FormatError
from hermes3.weights.checkpoint import open_checkpoint
from hermes3.weights.config import ModelConfig
from hermes3.weights.quant import GGMLType
from tests.convert.quiet import QUIET
from tests.weights.tiny import CONFIG, gguf_file

WIDE = dataclasses.replace(
    CONFIG, hidden_size=256, intermediate_size=512, num_hidden_layers=10, head_dim=64, rope_scaling=None
)
NARROW = dataclasses.replace(WIDE, hidden_size=192, intermediate_size=352, num_hidden_layers=3, head_dim=48)
CONFIGS = {
    "wide": WIDE,
    "wide, tied": dataclasses.replace(WIDE, tie_word_embeddings=True),
    "narrow": NARROW,
    "narrow, tied": dataclasses.replace(NARROW, tie_word_embeddings=True),
}
QUANTIZED = [name for name, recipe in RECIPES.items() if recipe.common.block_size > 1]


def types_in(path: Path) -> dict[str, str]:
    return {tensor.name: tensor.tensor_type.name for tensor in GGUFReader(path).tensors}


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
@pytest.mark.parametrize("name", QUANTIZED)
def test_types_are_those_of_llama_quantize(
    tmp_path: Path, name: str, config: ModelConfig, llama_cpp: Path
) -> None:
    source = gguf_file(tmp_path / "m.gguf", config, GGMLType.F32)
    theirs, ours = tmp_path / "theirs.gguf", tmp_path / "ours.gguf"
    subprocess.run([llama_cpp / "llama-quantize", source, theirs, name], check=True, capture_output=True)
    to_gguf(open_checkpoint(source), ours, RECIPES[name], QUIET)
    assert types_in(ours) == types_in(theirs)
    file_type = "general.file_type"
    assert GGUFReader(ours).fields[file_type].contents() == GGUFReader(theirs).fields[file_type].contents()


@pytest.mark.parametrize("name", ["q8_0", "q4_0", "q4_1"])
def test_simple_types_are_bitwise_those_of_gguf(tmp_path: Path, name: str) -> None:
    source = gguf_file(tmp_path / "m.gguf", WIDE, GGMLType.F32)
    to_gguf(open_checkpoint(source), tmp_path / "out.gguf", RECIPES[name], QUIET)
    values = {tensor.name: tensor.data for tensor in GGUFReader(source).tensors}
    compared = 0
    for tensor in GGUFReader(tmp_path / "out.gguf").tensors:
        if tensor.tensor_type.name.lower() == name:
            assert np.array_equal(tensor.data, gguf_quants.quantize(values[tensor.name], tensor.tensor_type))
            compared += 1
    assert compared >= 7 * WIDE.num_hidden_layers


def test_rows_that_are_no_whole_blocks_are_refused(tmp_path: Path) -> None:
    odd = dataclasses.replace(CONFIG, intermediate_size=100)
    checkpoint = open_checkpoint(gguf_file(tmp_path / "m.gguf", odd, GGMLType.F32))
    with pytest.raises(FormatError, match=r"does not divide into Q5_0 blocks.*multiple of 32"):
        types_for(RECIPES["q4_k_m"], checkpoint.config, checkpoint.names)
