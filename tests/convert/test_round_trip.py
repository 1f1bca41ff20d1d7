"""Folder to GGUF to folder: every bit comes back, and transformers computes the same with it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from gguf import GGUFReader
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from hermes3.convert.recipes import RECIPES
from hermes3.convert.to_folder import to_folder
from hermes3.convert.to_gguf import to_gguf
from hermes3.errors import DiskSpaceError, FormatError, UnsupportedError
from hermes3.weights.checkpoint import open_checkpoint
from hermes3.weights.config import ModelConfig, RopeScaling
from hermes3.weights.quant import GGMLType
from tests.convert.quiet import QUIET
from tests.weights.tiny import CONFIG, gguf_file, hf_model

TYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}
TIED = dataclasses.replace(CONFIG, tie_word_embeddings=True)
LLAMA32 = dataclasses.replace(CONFIG, rope_scaling=RopeScaling(32.0, 1.0, 4.0, 8192))


def state(folder: Path) -> dict[str, torch.Tensor]:
    return {name: value for file in folder.glob("*.safetensors") for name, value in load_file(file).items()}


def logits(folder: Path) -> torch.Tensor:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        result: torch.Tensor = model(torch.arange(40)[None]).logits
    return result


def there_and_back(tmp_path: Path, config: ModelConfig, kind: str, shard: int = 1 << 40) -> tuple[Path, Path]:
    first, between, second = tmp_path / "first", tmp_path / "between.gguf", tmp_path / "second"
    hf_model(config, TYPES[kind]).save_pretrained(first, max_shard_size=shard)
    to_gguf(open_checkpoint(first), between, RECIPES[kind], QUIET)
    to_folder(open_checkpoint(between), second, GGMLType[kind.upper()], QUIET, shard)
    return first, second


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("config", [CONFIG, TIED, LLAMA32], ids=["untied", "tied", "llama 3.2"])
def test_every_bit_comes_back(tmp_path: Path, kind: str, config: ModelConfig) -> None:
    first, second = there_and_back(tmp_path, config, kind)
    before, after = state(first), state(second)
    assert before.keys() == after.keys()
    for name, value in before.items():
        assert after[name].dtype == TYPES[kind]
        assert torch.equal(value.view(torch.uint8), after[name].view(torch.uint8)), name
    assert open_checkpoint(second).config == config
    assert torch.equal(logits(first), logits(second))


def test_parts_and_their_index(tmp_path: Path) -> None:
    first, second = there_and_back(tmp_path, CONFIG, "f32", shard=40_000)
    index = json.loads((second / "model.safetensors.index.json").read_text())
    files = sorted(file.name for file in second.glob("*.safetensors"))
    assert len(files) > 3
    assert files == sorted(set(index["weight_map"].values()))
    assert files[0] == f"model-00001-of-{len(files):05}.safetensors"
    assert torch.equal(logits(first), logits(second))
    sizes = {file.name: file.stat().st_size for file in second.glob("*.safetensors")}
    assert max(sizes.values()) < 42_000


def test_the_file_is_as_gguf_reads_it(tmp_path: Path) -> None:
    folder, path = tmp_path / "m", tmp_path / "m.gguf"
    model = hf_model(LLAMA32)
    model.save_pretrained(folder)
    to_gguf(open_checkpoint(folder), path, RECIPES["q8_0"], QUIET)
    reader = GGUFReader(path)
    kinds = {tensor.name: tensor.tensor_type.name for tensor in reader.tensors}
    assert kinds["rope_freqs.weight"] == kinds["blk.0.attn_norm.weight"] == "F32"
    assert kinds["blk.1.ffn_down.weight"] == kinds["token_embd.weight"] == kinds["output.weight"] == "Q8_0"
    factors = next(tensor.data for tensor in reader.tensors if tensor.name == "rope_freqs.weight")
    scaled = model.model.rotary_emb.inv_freq.numpy()
    plain = 10000.0 ** -(np.arange(0, 32, 2) / 32)
    assert np.allclose(plain / factors, scaled, rtol=1e-6)


def test_a_gguf_file_keeps_its_metadata(tmp_path: Path) -> None:
    source = gguf_file(tmp_path / "a.gguf", CONFIG, general__url="somewhere", x__wide=np.uint64(1 << 40))
    to_gguf(open_checkpoint(source), tmp_path / "b.gguf", RECIPES["f16"], QUIET)
    before, after = GGUFReader(source), GGUFReader(tmp_path / "b.gguf")
    values = {key: field.contents() for key, field in before.fields.items() if not key.startswith("GGUF.")}
    changed = {"general.file_type": 1, "general.quantization_version": 2}
    written = {key: field.contents() for key, field in after.fields.items() if not key.startswith("GGUF.")}
    assert written == values | changed


def test_scaling_of_other_files_is_recognized(tmp_path: Path) -> None:
    factors = np.ones(16, np.float32)
    plain = dataclasses.replace(CONFIG, rope_scaling=None)
    source = gguf_file(tmp_path / "a.gguf", plain, factors=3 * factors, tokenizer__ggml__tokens=None)
    with pytest.raises(UnsupportedError, match="those of no known Llama 3"):
        to_folder(open_checkpoint(source), tmp_path / "out", GGMLType.F32, QUIET)
    hf_model(LLAMA32).save_pretrained(tmp_path / "m")
    to_gguf(open_checkpoint(tmp_path / "m"), tmp_path / "b.gguf", RECIPES["f32"], QUIET)
    raw = (tmp_path / "b.gguf").read_bytes()
    (tmp_path / "b.gguf").write_bytes(raw.replace(b"hermes3.rope_scaling", b"hermes3.rope_unknown"))
    to_folder(open_checkpoint(tmp_path / "b.gguf"), tmp_path / "again", GGMLType.F32, QUIET)
    assert open_checkpoint(tmp_path / "again").config == LLAMA32


def test_what_float16_cannot_hold_is_refused_and_nothing_is_left(tmp_path: Path) -> None:
    model = hf_model(CONFIG)
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight[3, 3] = 70000.0
    model.save_pretrained(tmp_path / "m")
    checkpoint = open_checkpoint(tmp_path / "m")
    with pytest.raises(FormatError, match="70000 is too large for float16"):
        to_gguf(checkpoint, tmp_path / "out.gguf", RECIPES["f16"], QUIET)
    with pytest.raises(FormatError, match="70000 is too large for float16"):
        to_folder(checkpoint, tmp_path / "out", GGMLType.F16, QUIET)
    assert [path.name for path in tmp_path.iterdir()] == ["m"]
    to_gguf(checkpoint, tmp_path / "out.gguf", RECIPES["bf16"], QUIET)


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = open_checkpoint(gguf_file(tmp_path / "a.gguf", tokenizer__ggml__tokens=None))
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 1000}))
    with pytest.raises(DiskSpaceError, match=r"GB are needed on the disk of .*, 0\.00 GB are free"):
        to_gguf(checkpoint, tmp_path / "b.gguf", RECIPES["f32"], QUIET)
    with pytest.raises(DiskSpaceError):
        to_folder(checkpoint, tmp_path / "out", GGMLType.F32, QUIET)
    assert [path.name for path in tmp_path.iterdir()] == ["a.gguf"]


def test_a_disk_that_becomes_full_leaves_nothing(tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full")
    (tmp_path / "b.gguf.part").symlink_to("/dev/full")
    checkpoint = open_checkpoint(gguf_file(tmp_path / "a.gguf"))
    with pytest.raises(DiskSpaceError, match=r"became full while b\.gguf was written"):
        to_gguf(checkpoint, tmp_path / "b.gguf", RECIPES["f32"], QUIET)
    assert [path.name for path in tmp_path.iterdir()] == ["a.gguf"]
