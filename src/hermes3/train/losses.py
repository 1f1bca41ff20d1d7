"""Losses. Probabilities are kept for the backward pass where they take no more room than two gradients of the
head would, else they are made again, some hundred tokens at a time.

``torch.nn.functional.linear_cross_entropy`` does the same for equal weights; it has no weight per token and
no log-probability of each, which weighted turns and DPO need.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from hermes3.train import gradients

CHUNK_VALUES = 1 << 24  # logits held at a time: 64 MiB as float32


def most_kept(hidden: int) -> int:
    """Tokens whose probabilities take as much room as two gradients of the head."""
    return 2 * hidden


def chunk_rows(vocab_size: int) -> int:
    return max(16, CHUNK_VALUES // vocab_size)


def weighted_nll(states: Tensor, head: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """Sum over tokens of weight times negative log-likelihood.

    Args:
        states: (m, hidden), those that predict the targets.
        head: (vocab, hidden).
        targets: int64 (m,), or (m, k) for several at each place, as a teacher's likeliest tokens.
        weights: float32, of the targets' shape.

    Returns:
        float32 scalar.
    """
    shape = len(targets), -1
    each = _LogProbs.apply(*_cast(states, head), targets.view(shape))
    return -(weights.view(shape) * each).sum()


def token_log_probs(states: Tensor, head: Tensor, targets: Tensor) -> Tensor:
    """Log-probability of each target, float32 (m,)."""
    return _LogProbs.apply(*_cast(states, head), targets[:, None])[:, 0]


def dpo(
    policy_chosen: Tensor,
    policy_rejected: Tensor,
    reference_chosen: Tensor,
    reference_rejected: Tensor,
    beta: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Direct preference optimisation, equation 7 of arXiv 2305.18290.

    Args:
        policy_chosen, ...: sums of log-probabilities of the answers, (n_pairs,).
        beta: how dear it is to leave the reference.

    Returns:
        losses, and rewards of the chosen and the rejected answers, each (n_pairs,).
    """
    chosen = beta * (policy_chosen - reference_chosen)
    rejected = beta * (policy_rejected - reference_rejected)
    return -F.logsigmoid(chosen - rejected), chosen.detach(), rejected.detach()


def _cast(states: Tensor, head: Tensor) -> tuple[Tensor, Tensor]:
    """Both of one type: autocast's where it is on, else the states'."""
    kind = states.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else head.dtype
    return states.to(dtype), head.to(dtype)


class _LogProbs(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, states: Tensor, head: Tensor, targets: Tensor) -> Tensor:
        keeps = any(ctx.needs_input_grad) and len(targets) <= most_kept(head.shape[1])
        kept = head.new_empty(len(targets), head.shape[0]) if keeps else None
        out = torch.empty(targets.shape, dtype=torch.float32, device=states.device)
        for part in _chunks(len(targets), head):
            logits = _logits(states[part], head, None if kept is None else kept[part])
            lse = logits.logsumexp(1, keepdim=True)
            out[part] = logits.gather(1, targets[part]) - lse
            if kept is not None:
                kept[part] = logits.sub_(lse).exp_()
        ctx.save_for_backward(states, targets, kept)
        ctx.head = head
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        states, targets, kept = ctx.saved_tensors
        head, wants_head = ctx.head, ctx.needs_input_grad[1]
        grad_states, grad_head = torch.empty_like(states), None
        parts = [slice(None)] if kept is not None else _chunks(len(targets), head)
        for part in parts:
            shares = _logits(states[part], head).softmax(1) if kept is None else kept
            delta = shares.mul_(-grad[part].sum(1, keepdim=True))
            delta = delta.scatter_add_(1, targets[part], grad[part].to(delta.dtype)).to(head.dtype)
            torch.mm(delta, head, out=grad_states[part])
            made = gradients.of_product(head, delta.T, states[part]) if wants_head else None
            if made is not None:
                grad_head = made if grad_head is None else grad_head.add_(made)
        return grad_states, grad_head, None


def _chunks(n: int, head: Tensor) -> list[slice]:
    size = chunk_rows(head.shape[0])
    return [slice(start, start + size) for start in range(0, n, size)]


def _logits(states: Tensor, head: Tensor, out: Tensor | None = None) -> Tensor:
    """float32."""
    if out is None or out.dtype != torch.float32:
        return (states @ head.T).float()
    return torch.mm(states, head.T, out=out)
