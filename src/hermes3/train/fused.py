"""A layer whose backward pass is written by hand: float32 on a CPU, where every weight is trained.

The same numbers as ``model.Layer`` by autograd, the oracle of its tests. It keeps about half of what
autograd keeps (norms and activations are made again from what they were made of: a pass over memory, no
product), works in place, and adds products to the weights' gradients where these lie.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from hermes3.train import gradients
from hermes3.train.packing import Piece

_flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_flash_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


class FusedLayer(torch.autograd.Function):
    """States (n, hidden) before a layer to those behind it.

    Args:
        x: states.
        cos, sin: (n, 1, head_dim / 2).
        pieces: of the row.
        eps: of the norms.
        recompute: whether gate and up are made again in the backward pass.
        weights: norm, q, k, v, o, norm, gate, up, down.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, cos: Tensor, sin: Tensor, pieces: Sequence[Piece], eps: float, recompute: bool,
        *weights: Tensor,
    ) -> Tensor:  # fmt: skip
        norm, w_q, w_k, w_v, w_o, norm_2, w_gate, w_up, w_down = weights
        shape = (len(x), -1, 2 * cos.shape[2])
        scale = _rms_scale(x, eps)
        h = _normed(x, scale, norm)
        q, k, v = (torch.mm(h, w.T) for w in (w_q, w_k, w_v))
        _rotate(q.view(shape), cos, sin)
        _rotate(k.view(shape), cos, sin)
        out, sums = _attend(q.view(shape), k.view(shape), v.view(shape), pieces)
        y = torch.addmm(x, out, w_o.T)
        scale_2 = _rms_scale(y, eps)
        h = _normed(y, scale_2, norm_2)
        gate, up = torch.mm(h, w_gate.T), torch.mm(h, w_up.T)
        made = torch.addmm(y, F.silu(gate).mul_(up), w_down.T)
        kept = () if recompute else (gate, up)
        ctx.save_for_backward(x, scale, q, k, v, out, y, scale_2, cos, sin, *sums, *kept)
        ctx.pieces, ctx.weights = pieces, weights
        return made

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, scale, q, k, v, out, y, scale_2, cos, sin, *more = ctx.saved_tensors
        sums, kept = more[: len(ctx.pieces)], more[len(ctx.pieces) :]
        norm, w_q, w_k, w_v, w_o, norm_2, *mlp = ctx.weights
        h = _normed(y, scale_2, norm_2)
        grad_h, *of_mlp = _mlp_backward(grad, h, mlp, kept)
        grad_y, of_norm_2 = _norm_backward(grad_h, y, scale_2, norm_2, grad)
        of_o = gradients.of_product(w_o, grad_y.T, out)
        grads = _attend_backward(torch.mm(grad_y, w_o), (q, k, v, out), sums, ctx.pieces, 2 * cos.shape[2])
        for part in grads[:2]:
            _rotate(part, cos, -sin)
        flat = [part.view(len(x), -1) for part in grads]
        h = _normed(x, scale, norm)
        of_qkv = [gradients.of_product(w, g.T, h) for w, g in zip((w_q, w_k, w_v), flat, strict=True)]
        grad_h = torch.mm(flat[0], w_q, out=h).addmm_(flat[1], w_k).addmm_(flat[2], w_v)
        grad_x, of_norm = _norm_backward(grad_h, x, scale, norm, grad_y)
        return grad_x, None, None, None, None, None, of_norm, *of_qkv, of_o, of_norm_2, *of_mlp


def _mlp_backward(
    grad: Tensor, h: Tensor, weights: Sequence[Tensor], kept: Sequence[Tensor]
) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]:
    """Gradients of what goes in, h, which is overwritten, and of gate, up and down."""
    w_gate, w_up, w_down = weights
    gate, up = kept or (torch.mm(h, w_gate.T), torch.mm(h, w_up.T))
    act = F.silu(gate)
    of_down = gradients.of_product(w_down, grad.T, act * up)
    grad_act = torch.mm(grad, w_down)
    grad_gate = torch.ops.aten.silu_backward(grad_act * up, gate)
    grad_up = grad_act.mul_(act)
    of_gate = gradients.of_product(w_gate, grad_gate.T, h)
    of_up = gradients.of_product(w_up, grad_up.T, h)
    return torch.mm(grad_gate, w_gate, out=h).addmm_(grad_up, w_up), of_gate, of_up, of_down


def _rms_scale(x: Tensor, eps: float) -> Tensor:
    """What RMSNorm multiplies each row by, (n, 1)."""
    return torch.linalg.vector_norm(x, dim=1, keepdim=True).square_().div_(x.shape[1]).add_(eps).rsqrt_()


def _normed(x: Tensor, scale: Tensor, weight: Tensor) -> Tensor:
    return (x * scale).mul_(weight)


def _norm_backward(
    grad: Tensor, x: Tensor, scale: Tensor, weight: Tensor, beside: Tensor
) -> tuple[Tensor, Tensor | None]:
    """x's gradient, that beside the norm added, and the weight's; ``grad`` is overwritten."""
    products = grad * x
    along = torch.mv(products, weight)[:, None].mul_(scale.pow(3)).div_(x.shape[1])
    of_weight = gradients.of_vector(weight, torch.mv(products.T, scale[:, 0]))
    of_x = torch.addcmul(beside, grad.mul_(weight), scale, out=products)
    return of_x.addcmul_(x, along, value=-1), of_weight


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> None:
    """Rotary embedding in place, pairs half a head apart; x (n, heads, head_dim)."""
    first, second = x.chunk(2, -1)
    turned = first * sin
    first.mul_(cos).addcmul_(second, sin, value=-1)
    second.mul_(cos).add_(turned)


def _keys(piece: Piece) -> list[slice]:
    """Where in a row the keys lie that a piece sees."""
    own, prefix = slice(piece.start, piece.stop), slice(piece.prefix_start, piece.prefix_stop)
    return [prefix, own] if prefix.stop > prefix.start else [own]


def _mask(piece: Piece, like: Tensor) -> Tensor | None:
    """None for a piece that sees itself alone."""
    n, n_prefix = piece.stop - piece.start, piece.prefix_stop - piece.prefix_start
    if not n_prefix:
        return None
    unseen = like.new_ones((n, piece.n_keys), dtype=torch.bool).triu(n_prefix + 1)
    return like.new_zeros(n, piece.n_keys).masked_fill_(unseen, -math.inf)


def _heads(x: Tensor, spans: Sequence[slice]) -> Tensor:
    """Spans of (n, heads, head_dim) as (1, heads, n, head_dim)."""
    picked = x[spans[0]] if len(spans) == 1 else torch.cat([x[span] for span in spans])
    return picked[None].transpose(1, 2)


def _attend(q: Tensor, k: Tensor, v: Tensor, pieces: Sequence[Piece]) -> tuple[Tensor, list[Tensor]]:
    """Attention (n, heads * head_dim), and of each piece the logarithms of its sums."""
    out, sums = torch.empty_like(q), []
    for piece in pieces:
        own, keys, mask = slice(piece.start, piece.stop), _keys(piece), _mask(piece, q)
        part, of_part = _flash(
            _heads(q, [own]), _heads(k, keys), _heads(v, keys), 0.0, mask is None, attn_mask=mask
        )
        out[own] = part[0].transpose(0, 1)
        sums.append(of_part)
    return out.view(len(q), -1), sums


def _attend_backward(
    grad: Tensor, kept: Sequence[Tensor], sums: Sequence[Tensor], pieces: Sequence[Piece], head_dim: int
) -> list[Tensor]:
    """Gradients of q, k and v, (n, heads, head_dim) each."""
    grad, q, k, v, out = (x.view(len(x), -1, head_dim) for x in (grad, *kept))
    grads = [torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)]
    for piece, of_piece in zip(pieces, sums, strict=True):
        own, keys, mask = slice(piece.start, piece.stop), _keys(piece), _mask(piece, q)
        parts = _flash_backward(
            _heads(grad, [own]), _heads(q, [own]), _heads(k, keys), _heads(v, keys), _heads(out, [own]),
            of_piece, 0.0, mask is None, attn_mask=mask,
        )  # fmt: skip
        grads[0][own] = parts[0][0].transpose(0, 1)
        for target, part in zip(grads[1:], parts[1:], strict=True):
            rows = part[0].transpose(0, 1)
            for span in keys:
                target[span] += rows[: span.stop - span.start]
                rows = rows[span.stop - span.start :]
    return grads
