"""Causal attention of a row's pieces on a CPU, forwards and backwards: float32, blocks of queries.

A block's scores are one product for each head of keys and values, and stay in the cache. What comes after a
block's last query is not computed, also behind a prefix, where torch's kernel takes a mask and computes all.
The softmax is made again in the backward pass.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hermes3.train.packing import Piece

BLOCK = 64  # queries; 48 to 128 are equal on a core with 2 MB of second-level cache, 192 slower


def attend(q: Tensor, k: Tensor, v: Tensor, pieces: Sequence[Piece], rows: Tensor) -> Tensor:
    """What each query reads, (m, n_heads, head_dim).

    Args:
        q: (m, n_heads, head_dim), queries of some tokens.
        k, v: (n, n_kv_heads, head_dim), of all tokens of the row.
        pieces: they cover the row.
        rows: int64 (m,): where in the row the queries' tokens stand, rising.
    """
    out = torch.empty_like(q)
    for asked in _asked(q, k, v, pieces, rows):
        queries = _by_head(q[asked.span], k.shape[1]).mul_(q.shape[2] ** -0.5)
        read = torch.empty_like(queries)
        for part, n_keys, shares in asked.shares(queries):
            read[:, part] = torch.bmm(shares, asked.values[:, :n_keys])
        out[asked.span] = _by_token(read, q.shape[1])
    return out


def attend_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, pieces: Sequence[Piece], rows: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, k and v, of their shapes; ``grad`` is that of what ``attend`` gave."""
    of_q, of_k, of_v = (torch.zeros_like(x) for x in (q, k, v))
    scale = q.shape[2] ** -0.5
    for asked in _asked(q, k, v, pieces, rows):
        queries = _by_head(q[asked.span], k.shape[1]).mul_(scale)
        wanted = _by_head(grad[asked.span], k.shape[1])
        of_queries, of_keys, of_values = (torch.zeros_like(x) for x in (queries, asked.keys, asked.values))
        for part, n_keys, shares in asked.shares(queries):
            of_values[:, :n_keys].baddbmm_(shares.transpose(1, 2), wanted[:, part])
            of_shares = torch.bmm(wanted[:, part], asked.values[:, :n_keys].transpose(1, 2))
            of_scores = torch._softmax_backward_data(of_shares, shares, -1, torch.float32)
            of_queries[:, part] = torch.bmm(of_scores, asked.keys[:, :n_keys])
            of_keys[:, :n_keys].baddbmm_(of_scores.transpose(1, 2), queries[:, part])
        of_q[asked.span] = _by_token(of_queries.mul_(scale), q.shape[1])
        for target, made in ((of_k, of_keys), (of_v, of_values)):
            asked.add(_by_token(made, k.shape[1]), target)
    return of_q, of_k, of_v


@dataclass(frozen=True, slots=True)
class _Asked:
    """A piece, its queries, and the keys and values that they may see: (n_kv_heads, n_keys, head_dim)."""

    piece: Piece
    span: slice  # of the queries
    last: list[int]  # of each query: the last key that it sees
    keys: Tensor
    values: Tensor

    def shares(self, queries: Tensor) -> Iterator[tuple[slice, int, Tensor]]:
        """Blocks: which of ``queries``, how many keys, and weights (n_kv_heads, queries, keys)."""
        n_heads, group = len(queries), queries.shape[1] // len(self.last)
        turned = self.keys.transpose(1, 2).contiguous()
        for start in range(0, len(self.last), BLOCK):
            last = self.last[start : start + BLOCK]
            part, n_keys = slice(start * group, (start + len(last)) * group), last[-1] + 1
            scores = torch.bmm(queries[:, part], turned[:, :, :n_keys])
            after = torch.arange(last[0], n_keys) > torch.tensor(last)[:, None]
            unseen = queries.new_zeros(after.shape).masked_fill_(after, -math.inf)[:, None]
            scores.view(n_heads, len(last), group, n_keys)[..., last[0] :].add_(unseen)
            yield part, n_keys, torch.softmax(scores, -1)

    def add(self, gradient: Tensor, target: Tensor) -> None:
        """Adds what comes for keys or values, (n_keys, n_kv_heads, head_dim), to those of the row."""
        n_prefix = self.piece.prefix_stop - self.piece.prefix_start
        target[self.piece.prefix_start : self.piece.prefix_stop] += gradient[:n_prefix]
        target[self.piece.start : self.piece.stop] += gradient[n_prefix:]


def _asked(q: Tensor, k: Tensor, v: Tensor, pieces: Sequence[Piece], rows: Tensor) -> Iterator[_Asked]:
    """The pieces that have queries."""
    for piece in pieces:
        first, end = torch.searchsorted(rows, torch.tensor([piece.start, piece.stop])).tolist()
        if first < end:
            n_prefix = piece.prefix_stop - piece.prefix_start
            last = (rows[first:end] - piece.start + n_prefix).tolist()
            keys, values = (_by_head(_seen(x, piece), k.shape[1]) for x in (k, v))
            yield _Asked(piece, slice(first, end), last, keys, values)


def _seen(x: Tensor, piece: Piece) -> Tensor:
    own = x[piece.start : piece.stop]
    if piece.prefix_stop == piece.prefix_start:
        return own
    return torch.cat([x[piece.prefix_start : piece.prefix_stop], own])


def _by_head(x: Tensor, n_kv_heads: int) -> Tensor:
    """A copy of (n, n_kv_heads * group, head_dim) as (n_kv_heads, n * group, head_dim)."""
    n, _, size = x.shape
    copy = x.reshape(n, n_kv_heads, -1, size).transpose(0, 1).clone(memory_format=torch.contiguous_format)
    return copy.view(n_kv_heads, -1, size)


def _by_token(x: Tensor, n_heads: int) -> Tensor:
    """Back: (n_kv_heads, n * group, head_dim) as (n, n_heads, head_dim)."""
    n_kv_heads, _, size = x.shape
    return x.view(n_kv_heads, -1, n_heads // n_kv_heads, size).transpose(0, 1).reshape(-1, n_heads, size)
