"""Grammars over a real vocabulary."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from hermes3.tokenizer import Tokenizer
from hermes3.weights.checkpoint import open_checkpoint
from tests.llm.accepting import Judge


@pytest.fixture(scope="session")
def judge(smol_gguf: Path) -> Iterator[Judge]:
    """Over smol's vocabulary of 49,152 tokens."""
    checkpoint = open_checkpoint(smol_gguf)
    assert checkpoint.vocabulary is not None
    tokenizer = Tokenizer.from_gguf(checkpoint.vocabulary)
    made = Judge(tokenizer, tokenizer.eos_ids | checkpoint.eos_ids)
    yield made
    made.grammars.close()
