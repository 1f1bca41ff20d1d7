"""8-bit floats against torch's own, and as compressed-tensors reads them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from hermes3.convert.fp8 import to_e4m3, to_fp8_folder
from hermes3.errors import FormatError, UnsupportedError
from hermes3.weights.checkpoint import open_checkpoint
from tests.convert.quiet import QUIET
from tests.weights.tiny import CONFIG, hf_model

PLAIN = dataclasses.replace(CONFIG, rope_scaling=None)


def test_rounding_is_torchs() -> None:
    every = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn).float()
    exact = every[torch.isfinite(every)].sort().values.numpy()
    between = (exact[1:] + exact[:-1]) / 2
    drawn = np.random.default_rng(1).lognormal(0, 4, 5000).astype(np.float32)
    x = np.concatenate([exact, between, np.nextafter(between, 1e9, dtype=np.float32), drawn, -drawn])
    x = x.clip(-448, 448).astype(np.float32)
    theirs = torch.tensor(x).to(torch.float8_e4m3fn).view(torch.uint8).numpy()
    assert np.array_equal(to_e4m3(x), theirs)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    hf_model(PLAIN, torch.bfloat16).save_pretrained(tmp_path / "m")
    to_fp8_folder(open_checkpoint(tmp_path / "m"), tmp_path / "fp8", QUIET)
    return tmp_path / "fp8"


def test_tensors(folder: Path) -> None:
    before, after = (load_file(path / "model.safetensors") for path in (folder.parent / "m", folder))
    for name, value in before.items():
        if not name.endswith("_proj.weight"):
            assert torch.equal(after[name], value)
            continue
        scale = value.float().abs().amax(1, keepdim=True) / 448
        assert torch.equal(after[f"{name}_scale"], scale)
        assert torch.equal(after[name].float(), (value.float() / scale).to(torch.float8_e4m3fn).float())
    assert len(after) == len(before) + 7 * PLAIN.num_hidden_layers


def test_compressed_tensors_reads_it(folder: Path) -> None:
    pytest.importorskip("compressed_tensors", reason="transformers loads such folders only with it")
    ids = torch.arange(40)[None]
    models = [AutoModelForCausalLM.from_pretrained(path) for path in (folder.parent / "m", folder)]
    with torch.no_grad():
        plain, theirs = (torch.log_softmax(model(ids).logits.float(), -1) for model in models)
    assert type(models[1].config.quantization_config).__name__ == "CompressedTensorsConfig"
    divergence = (plain.exp() * (plain - theirs)).sum(-1).mean()
    assert 0 < divergence < 1e-3


def test_our_engine_says_that_it_is_not_for_it(folder: Path) -> None:
    with pytest.raises(UnsupportedError, match="quantization_config is set"):
        open_checkpoint(folder)


def test_what_is_not_finite_is_refused(tmp_path: Path) -> None:
    model = hf_model(PLAIN)
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight[1, 1] = torch.inf
    model.save_pretrained(tmp_path / "m")
    with pytest.raises(FormatError, match="not finite"):
        to_fp8_folder(open_checkpoint(tmp_path / "m"), tmp_path / "fp8", QUIET)
    assert [path.name for path in tmp_path.iterdir()] == ["m"]
