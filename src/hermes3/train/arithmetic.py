"""How much arithmetic training takes, and how much the machine can do."""

from __future__ import annotations

import resource
import sys
import time

import torch

from hermes3.train.packing import Row
from hermes3.weights.config import ModelConfig

# Dense bfloat16 products, FLOP/s, as printed at https://www.nvidia.com/en-us/data-center/h100/ and the like
PRINTED = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "B200": 2250e12}


def n_matrix(config: ModelConfig) -> int:
    """Weights of the matrices of all layers, each of which multiplies every token."""
    hidden, head = config.hidden_size, config.head_dim
    attention = 2 * hidden * head * (config.num_attention_heads + config.num_key_value_heads)
    return config.num_hidden_layers * (attention + 3 * hidden * config.intermediate_size)


def n_parameters(config: ModelConfig) -> int:
    """All weights of a model."""
    norms = (2 * config.num_hidden_layers + 1) * config.hidden_size
    embeddings = config.vocab_size * config.hidden_size * (1 if config.tie_word_embeddings else 2)
    return n_matrix(config) + norms + embeddings


def row_flops(config: ModelConfig, row: Row, is_adapter: bool) -> float:
    """Floating-point operations that training on a row takes, what is recomputed not counted.

    Two for each weight and token forwards, four backwards (two where the weights themselves are frozen); the
    head at trained tokens alone; attention over what each token sees.
    """
    passes = 4 if is_adapter else 6
    seen = sum(
        (piece.stop - piece.start) * (piece.n_keys - (piece.stop - piece.start - 1) / 2)
        for piece in row.pieces
    )
    width = config.num_attention_heads * config.head_dim
    attention = 12 * config.num_hidden_layers * width * seen
    head = config.vocab_size * config.hidden_size * len(row.targets)
    return passes * (n_matrix(config) * len(row) + head) + attention


def peak_flops(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s of products: as printed for a known GPU in bfloat16, else measured on one large product."""
    if device.type == "cuda" and dtype == torch.bfloat16:
        name = torch.cuda.get_device_name(device)
        for part, flops in PRINTED.items():
            if part in name:
                return flops
    n = 4096 if device.type == "cuda" else 768
    a = torch.randn(n, n, device=device).to(dtype)
    seconds = [_product(a, device) for _ in range(5)]
    return 2 * n**3 / min(seconds)


def _product(a: torch.Tensor, device: torch.device) -> float:
    start = time.perf_counter()
    a @ a
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def peak_memory(device: torch.device) -> int:
    """Most bytes that this process has had: of the GPU's memory where there is one, else of the machine's."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
