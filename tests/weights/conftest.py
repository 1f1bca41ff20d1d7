"""What llama.cpp does, where it is built."""

from __future__ import annotations

import ctypes
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from hermes3.weights.checkpoint import open_checkpoint


@pytest.fixture(scope="session")
def ggml(llama_cpp: Path) -> ctypes.CDLL:
    """Its quantizers."""
    return ctypes.CDLL(str(next(llama_cpp.glob("libggml-base.*"))))


@pytest.fixture(scope="session")
def smol_values(smol_gguf: Path) -> NDArray[np.float32]:
    """A trained matrix of SmolLM2, float32 (576, 1536)."""
    return open_checkpoint(smol_gguf).tensor("model.layers.3.mlp.down_proj.weight").values()
