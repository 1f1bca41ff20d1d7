"""A layer whose backward pass is written by hand: float32 on a CPU, where every weight is trained.

The same numbers as ``model.Layer`` by autograd, the oracle of its tests. It keeps about half of what
autograd keeps (norms and activations are made again from what they were made of: a pass over memory, no
product), works in place, and adds products to the weights' gradients where these lie.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from hermes3.train import gradients
from hermes3.train.attention import attend, attend_backward
from hermes3.train.packing import Piece


class FusedLayer(torch.autograd.Function):
    """States (n, hidden) before a layer to those behind it, (m, hidden).

    Args:
        x: states.
        cos, sin: (n, 1, head_dim / 2).
        pieces: of the row.
        rows: int64 (m,): tokens whose states are wanted, rising. Of the others only keys and values are made.
        eps: of the norms.
        recompute: whether gate and up are made again in the backward pass.
        weights: norm, q, k, v, o, norm, gate, up, down.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, cos: Tensor, sin: Tensor, pieces: Sequence[Piece], rows: Tensor, eps: float,
        recompute: bool, *weights: Tensor,
    ) -> Tensor:  # fmt: skip
        norm, w_q, w_k, w_v, w_o, norm_2, w_gate, w_up, w_down = weights
        scale = _rms_scale(x, eps)
        h = _normed(x, scale, norm)
        flat = torch.mm(_picked(h, rows), w_q.T), torch.mm(h, w_k.T), torch.mm(h, w_v.T)
        q, k, v = (part.view(len(part), -1, 2 * cos.shape[2]) for part in flat)
        _rotate(q, _picked(cos, rows), _picked(sin, rows))
        _rotate(k, cos, sin)
        out = attend(q, k, v, pieces, rows).view(len(rows), -1)
        y = torch.addmm(_picked(x, rows), out, w_o.T)
        scale_2 = _rms_scale(y, eps)
        h = _normed(y, scale_2, norm_2)
        gate, up = torch.mm(h, w_gate.T), torch.mm(h, w_up.T)
        made = torch.addmm(y, F.silu(gate).mul_(up), w_down.T)
        kept = () if recompute else (gate, up)
        ctx.save_for_backward(x, scale, q, k, v, out, y, scale_2, cos, sin, rows, *kept)
        ctx.pieces, ctx.weights = pieces, weights
        return made

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, scale, q, k, v, out, y, scale_2, cos, sin, rows, *kept = ctx.saved_tensors
        norm, w_q, w_k, w_v, w_o, norm_2, *mlp = ctx.weights
        h = _normed(y, scale_2, norm_2)
        grad_h, *of_mlp = _mlp_backward(grad, h, mlp, kept)
        grad_y, of_norm_2 = _norm_backward(grad_h, y, scale_2, norm_2, grad)
        of_o = gradients.of_product(w_o, grad_y.T, out)
        parts = attend_backward(torch.mm(grad_y, w_o).view(q.shape), q, k, v, ctx.pieces, rows)
        _rotate(parts[0], _picked(cos, rows), -_picked(sin, rows))
        _rotate(parts[1], cos, -sin)
        of_q, of_k, of_v = (part.view(len(part), -1) for part in parts)
        h = _normed(x, scale, norm)
        of_weights = (
            gradients.of_product(w_q, of_q.T, _picked(h, rows)),
            gradients.of_product(w_k, of_k.T, h),
            gradients.of_product(w_v, of_v.T, h),
        )
        grad_h = _added(torch.mm(of_k, w_k, out=h).addmm_(of_v, w_v), rows, torch.mm(of_q, w_q))
        beside = grad_y if len(rows) == len(x) else _added(torch.zeros_like(x), rows, grad_y)
        grad_x, of_norm = _norm_backward(grad_h, x, scale, norm, beside)
        return grad_x, *[None] * 6, of_norm, *of_weights, of_o, of_norm_2, *of_mlp


def _picked(x: Tensor, rows: Tensor) -> Tensor:
    return x if len(rows) == len(x) else x[rows]


def _added(target: Tensor, rows: Tensor, part: Tensor) -> Tensor:
    return target.add_(part) if len(rows) == len(target) else target.index_add_(0, rows, part)


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
