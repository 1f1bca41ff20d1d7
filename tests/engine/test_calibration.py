"""Importance of columns against the inputs that hooks see in transformers' model; and what it gains."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from hermes3.convert.recipes import RECIPES
from hermes3.convert.to_gguf import to_gguf
from hermes3.engine.calibration import FLOOR, importance
from hermes3.weights.checkpoint import open_checkpoint
from hermes3.weights.quant import GGMLType
from tests.convert.quiet import QUIET
from tests.weights.tiny import CONFIG, hf_model

SMALL = dataclasses.replace(
    CONFIG, hidden_size=256, intermediate_size=512, head_dim=64, rope_scaling=None, tie_word_embeddings=True
)
WINDOWS = np.random.default_rng(8).integers(0, 40, (3, 64)).astype(np.int32)


def test_importance_is_the_mean_square_of_inputs(tmp_path: Path) -> None:
    model = hf_model(SMALL)
    model.save_pretrained(tmp_path)
    seen: dict[str, list[np.ndarray]] = {}
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear):
            tensor = "model.embed_tokens.weight" if name == "lm_head" else f"{name}.weight"
            module.register_forward_hook(
                lambda _, inputs, __, tensor=tensor: seen.setdefault(tensor, []).append(inputs[0].numpy())
            )
    with torch.no_grad():
        for window in WINDOWS:
            model(torch.tensor(window[None].astype(np.int64)))
    found = importance(open_checkpoint(tmp_path), WINDOWS)
    assert found.keys() == seen.keys()
    for name, inputs in seen.items():
        mean = np.square(np.concatenate(inputs, axis=1)[0], dtype=np.float64).mean(axis=0)
        expected = (mean / mean.mean() + FLOOR) / (1 + FLOOR)
        assert np.allclose(found[name], expected, rtol=1e-3), name
        assert found[name].mean() == pytest.approx(1, rel=1e-5)


@pytest.mark.parametrize("kind", ["q4_k_m", "q5_k_m", "q6_k"])
def test_calibrated_outputs_are_nearer(tmp_path: Path, kind: str) -> None:
    """Each matrix's own output for the inputs whose squares were measured: what is minimized."""
    model = hf_model(SMALL)
    model.save_pretrained(tmp_path / "m")
    checkpoint = open_checkpoint(tmp_path / "m")
    uneven = np.random.default_rng(2).lognormal(0, 2, 256).astype(np.float32)
    weights = {name: np.resize(uneven, checkpoint.entries[name].shape[-1]) for name in checkpoint.names}

    def error(path: Path) -> float:
        quantized = open_checkpoint(path)
        total = 0.0
        for name, weight in weights.items():
            if quantized.entries[name].type in (GGMLType.Q4_K, GGMLType.Q5_K, GGMLType.Q6_K):
                off = quantized.tensor(name).values() - checkpoint.tensor(name).values()
                total += float((weight * off.astype(np.float64) ** 2).sum())
        return total

    to_gguf(checkpoint, tmp_path / "plain.gguf", RECIPES[kind], QUIET)
    to_gguf(checkpoint, tmp_path / "calibrated.gguf", RECIPES[kind], QUIET, weights)
    assert 0 < error(tmp_path / "calibrated.gguf") < 0.6 * error(tmp_path / "plain.gguf")
