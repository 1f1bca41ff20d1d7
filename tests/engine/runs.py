"""Models for the engine's tests, and ways of running them."""

from __future__ import annotations

from collections.abc import Sequence as Ordered
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hermes3 import _native
from hermes3.engine.engine import Engine
from hermes3.engine.model import Model
from hermes3.engine.protocol import StepOutput
from hermes3.engine.sampling import SamplingParams
from hermes3.engine.scheduler import Batch, Chunk, make_batch
from hermes3.engine.sequence import Sequence
from hermes3.weights.checkpoint import open_checkpoint
from hermes3.weights.config import ModelConfig, RopeScaling, rope_frequencies
from hermes3.weights.quant import GGMLType
from tests.weights import tiny

F32 = NDArray[np.float32]
CONFIG = ModelConfig(
    hidden_size=128,
    intermediate_size=192,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=32,
    vocab_size=320,
    max_position_embeddings=131072,
    rms_norm_eps=1e-5,
    rope_theta=500000.0,
    rope_scaling=RopeScaling(8.0, 1.0, 4.0, 8192),
    tie_word_embeddings=False,
)


def model_file(folder: Path, type: GGMLType = GGMLType.F32, config: ModelConfig = CONFIG) -> Path:
    """A GGUF file of a random model. No id ends an answer."""
    plain = replace(config, rope_scaling=None)
    factors = (rope_frequencies(plain) / rope_frequencies(config)).astype(np.float32)
    ends = {"tokenizer__ggml__eos_token_id": None, "tokenizer__ggml__eot_token_id": None}
    return tiny.gguf_file(folder / f"{type.name}.gguf", config, type, factors=factors, **ends)


def load(path: Path, n_batch: int = 512, n_rows: int = 512) -> Model:
    return Model.from_checkpoint(open_checkpoint(path), n_batch=n_batch, n_rows=n_rows)


def random_ids(seed: int, n: int, n_vocab: int = CONFIG.vocab_size) -> list[int]:
    return np.random.default_rng(seed).integers(0, n_vocab, n).tolist()


def placed(ids: Ordered[int], pages: Ordered[int]) -> Sequence:
    """A sequence that has these pages of a cache."""
    sequence = Sequence(ids, SamplingParams(), 1 << 20)
    sequence.pages = np.array(pages, np.int32)
    return sequence


def all_rows(chunks: list[Chunk]) -> Batch:
    """A batch that asks for the logits of every token."""
    batch = make_batch(chunks, _native.PAGE)
    return replace(batch, rows=np.arange(len(batch.ids), dtype=np.int32))


def logits_in_chunks(model: Model, ids: Ordered[int], size: int, dtype: Any = None) -> F32:
    """Logits of every position, (n, vocab), computed in chunks of so many."""
    n_pages = -(-len(ids) // _native.PAGE)
    cache = model.new_cache(n_pages + 1, dtype or model.kv_dtype)
    sequence = placed(ids, range(n_pages, 0, -1))
    found = []
    while sequence.n_left:
        chunk = Chunk(sequence, min(size, sequence.n_left))
        found.append(model.forward(all_rows([chunk]), cache).copy())
        sequence.n_computed += chunk.n_tokens
    return np.concatenate(found)


def run(engine: Engine, limit: int = 100_000) -> list[StepOutput]:
    """Steps until nothing is left to do; fails where that takes too long."""
    outputs: list[StepOutput] = []
    for _ in range(limit):
        if not engine.has_work:
            return outputs
        outputs += engine.step()
    raise AssertionError(f"still at work after {limit} steps")
