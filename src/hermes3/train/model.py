"""A Llama in plain torch, for training: one packed row at a time, documents blind to each other.

Parameters have Hugging Face's names. The arithmetic is that of transformers' ``LlamaForCausalLM``, tested
against it in logits and gradients.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from hermes3.train import gradients
from hermes3.train.fused import FusedLayer
from hermes3.train.packing import Piece, Row
from hermes3.weights.config import ModelConfig, rope_frequencies

Recompute = Literal["none", "mlp", "all"]


@dataclass(frozen=True, slots=True)
class Batch:
    """A row as tensors on the model's device; shapes as in ``Row``.

    Attributes:
        read: int64, rising: the row's predictors, each once; two answers share their prompt's last token.
        which: int64 (n_trained,): where in ``read`` each predictor is.
    """

    ids: Tensor
    positions: Tensor
    pieces: tuple[Piece, ...]
    predictors: Tensor
    read: Tensor
    which: Tensor
    targets: Tensor
    weights: Tensor
    owners: Tensor
    n_documents: int

    @classmethod
    def of(cls, row: Row, device: torch.device) -> Batch:
        read, which = np.unique(row.predictors, return_inverse=True)

        def on(array: NDArray[Any]) -> Tensor:
            return torch.from_numpy(array).to(device)

        return cls(
            ids=on(row.ids), positions=on(row.positions), pieces=row.pieces, predictors=on(row.predictors),
            read=on(read), which=on(which), targets=on(row.targets), weights=on(row.weights),
            owners=on(row.owners), n_documents=row.n_documents,
        )  # fmt: skip


class Memory:
    """Keys and values of the tokens before, for an answer that is made token after token."""

    def __init__(self) -> None:
        self._held: tuple[Tensor, Tensor] | None = None

    def with_past(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """New keys and values, (n, n_kv_heads, head_dim), and behind them those of all tokens before."""
        if self._held is None:
            self._held = k, v
            return self._held
        old_k, old_v = self._held
        self._held = torch.cat([old_k, k]), torch.cat([old_v, v])
        return torch.cat([k, old_k]), torch.cat([v, old_v])


class Attention(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.memory: Memory | None = None
        self.head_dim = config.head_dim
        n_queries = config.num_attention_heads * config.head_dim
        n_keys = config.num_key_value_heads * config.head_dim
        self.q_proj = nn.Linear(config.hidden_size, n_queries, bias=False)
        self.k_proj = nn.Linear(config.hidden_size, n_keys, bias=False)
        self.v_proj = nn.Linear(config.hidden_size, n_keys, bias=False)
        self.o_proj = nn.Linear(n_queries, config.hidden_size, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, pieces: Sequence[Piece]) -> Tensor:
        n = x.shape[0]
        q = _rotate(self.q_proj(x).view(n, -1, self.head_dim), cos, sin)  # (n, n_heads, head_dim)
        k = _rotate(self.k_proj(x).view(n, -1, self.head_dim), cos, sin)  # (n, n_kv_heads, head_dim)
        v = self.v_proj(x).view(n, -1, self.head_dim)
        if self.memory is not None:
            k, v = self.memory.with_past(k, v)
        attend = _attend_flash if q.is_cuda and q.dtype in (torch.bfloat16, torch.float16) else _attend_each
        return self.o_proj(attend(q, k, v, pieces).reshape(n, -1))


class MLP(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.input_layernorm = nn.RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = Attention(config)
        self.post_attention_layernorm = nn.RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = MLP(config)
        self.recompute: Recompute = "none"
        self.is_fused = False

    def forward(
        self, x: Tensor, cos: Tensor, sin: Tensor, pieces: Sequence[Piece], rows: Tensor | None = None
    ) -> Tensor:
        """States behind the layer: of all tokens, or of those at ``rows``, int64 and rising."""
        if self.is_fused and torch.is_grad_enabled():
            rows = torch.arange(len(x)) if rows is None else rows
            eps, is_again = self.input_layernorm.eps, self.recompute == "mlp"
            return FusedLayer.apply(x, cos, sin, pieces, rows, eps, is_again, *self._weights())
        x = self._plain(x, cos, sin, pieces)
        return x if rows is None else x[rows]

    def _plain(self, x: Tensor, cos: Tensor, sin: Tensor, pieces: Sequence[Piece]) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), cos, sin, pieces)
        if self.recompute == "mlp" and torch.is_grad_enabled():
            return x + checkpoint(self._feed, x, use_reentrant=False)
        return x + self._feed(x)

    def _feed(self, x: Tensor) -> Tensor:
        return self.mlp(self.post_attention_layernorm(x))

    def _weights(self) -> tuple[Tensor, ...]:
        a, m = self.self_attn, self.mlp
        first = self.input_layernorm, a.q_proj, a.k_proj, a.v_proj, a.o_proj
        modules = *first, self.post_attention_layernorm, m.gate_proj, m.up_proj, m.down_proj
        return tuple(module.weight for module in modules)


class Decoder(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))
        self.norm = nn.RMSNorm(config.hidden_size, config.rms_norm_eps)


class Llama(nn.Module):
    """The model. ``forward`` gives the states that the head reads; the losses apply the head themselves."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.model = Decoder(config)
        if not config.tie_word_embeddings:
            self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.recompute: Recompute = "none"
        self.noise_alpha = 0.0  # NEFTune
        self._frequencies = self.frequencies(config)  # no buffer: never cast to bfloat16

    @staticmethod
    def frequencies(config: ModelConfig) -> Tensor:
        """Rotary angles per position, float32 (head_dim / 2,), on the CPU."""
        return torch.from_numpy(rope_frequencies(config))

    @property
    def head(self) -> Tensor:
        """The head's weight (vocab_size, hidden_size)."""
        return self.model.embed_tokens.weight if self.config.tie_word_embeddings else self.lm_head.weight

    def set_recompute(self, recompute: Recompute) -> None:
        """What the backward pass computes anew instead of keeping: nothing, the MLPs, or whole layers."""
        self.recompute = recompute
        for layer in self.model.layers:
            layer.recompute = recompute

    def set_fused(self, is_fused: bool) -> None:
        """Whether layers go by ``FusedLayer`` where gradients are wanted."""
        for layer in self.model.layers:
            layer.is_fused = is_fused

    def forward(self, batch: Batch, read: Callable[[Tensor, Tensor, Batch], Tensor] | None = None) -> Tensor:
        """States (n, hidden_size) of a row's tokens after the last norm.

        Args:
            batch: the row.
            read: given the states at ``batch.predictors``, the head's weight and the batch, makes what is
                returned instead. It runs in here, where sharded parameters are whole.
        """
        x = self._embedded(batch)
        angles = batch.positions[:, None].float() * self._frequencies.to(x.device)  # (n, head_dim / 2)
        cos, sin = angles.cos()[:, None].to(x.dtype), angles.sin()[:, None].to(x.dtype)
        *layers, last = self.model.layers
        for layer in layers:
            x = self._behind(layer, x, cos, sin, batch.pieces)
        if read is None:
            return self.model.norm(self._behind(last, x, cos, sin, batch.pieces))
        x = self.model.norm(self._behind(last, x, cos, sin, batch.pieces, batch.read))
        return read(x[batch.which], self.head, batch)

    def _behind(self, layer: nn.Module, *given: Any) -> Tensor:
        """What a layer gives."""
        if self.recompute == "all" and torch.is_grad_enabled():
            return checkpoint(layer, *given, use_reentrant=False)
        return layer(*given)

    def logits(self, batch: Batch) -> Tensor:
        """All logits (n, vocab_size); for tests and small models."""
        return F.linear(self(batch), self.head)

    def _embedded(self, batch: Batch) -> Tensor:
        x = gradients.embedded(batch.ids, self.model.embed_tokens.weight)
        if not (self.training and self.noise_alpha):
            return x
        lengths = torch.tensor([piece.n_keys for piece in batch.pieces], device=x.device)
        sizes = torch.tensor([piece.stop - piece.start for piece in batch.pieces], device=x.device)
        # arXiv 2310.05914: uniform noise of magnitude alpha / sqrt(length x width)
        magnitude = self.noise_alpha / (lengths * x.shape[1]).sqrt().repeat_interleave(sizes)
        return x + (torch.rand_like(x) * 2 - 1) * magnitude[:, None].to(x.dtype)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding, pairs half a head apart; x (n, heads, head_dim), cos and sin (n, 1, head_dim / 2)."""
    first, second = x.chunk(2, -1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], -1)


def _attend_each(q: Tensor, k: Tensor, v: Tensor, pieces: Sequence[Piece]) -> Tensor:
    """Attention piece after piece; (n, heads, head_dim) in and out."""
    group = q.shape[1] // k.shape[1]
    q, k, v = (x.transpose(0, 1) for x in (q, k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)))
    parts = []
    for piece in pieces:
        own, prefix = slice(piece.start, piece.stop), slice(piece.prefix_start, piece.prefix_stop)
        keys, values, mask = k[None, :, own], v[None, :, own], None
        if n_prefix := prefix.stop - prefix.start:
            keys = torch.cat([k[None, :, prefix], keys], 2)
            values = torch.cat([v[None, :, prefix], values], 2)
            size = piece.stop - piece.start
            mask = torch.ones(size, piece.n_keys, dtype=torch.bool, device=q.device).tril(n_prefix)
        parts.append(
            F.scaled_dot_product_attention(q[None, :, own], keys, values, mask, is_causal=mask is None)
        )
    return torch.cat(parts, 2)[0].transpose(0, 1)


def _attend_flash(q: Tensor, k: Tensor, v: Tensor, pieces: Sequence[Piece]) -> Tensor:
    """The same in one call of the flash kernel for sequences of many lengths."""
    from torch.nn.attention.varlen import varlen_attn

    def offsets(sizes: list[int]) -> Tensor:
        return torch.tensor([0, *sizes], device=q.device).cumsum(0).int()

    queries, keys = [piece.stop - piece.start for piece in pieces], [piece.n_keys for piece in pieces]
    if queries != keys:
        spans = [(p.prefix_start, p.prefix_stop, p.start, p.stop) for p in pieces]
        index = torch.cat([torch.arange(*s) for a, b, c, d in spans for s in ((a, b), (c, d))]).to(q.device)
        k, v = k[index], v[index]
    at, until = offsets(queries), offsets(keys)
    sizes = max(queries), max(keys)
    return varlen_attn(q, k, v, at, until, *sizes, window_size=(-1, 0), enable_gqa=True)
