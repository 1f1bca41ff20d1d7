"""Losses. None of them holds the logits of more than some hundred tokens at a time.

``torch.nn.functional.linear_cross_entropy`` does the same for equal weights; it has no weight per token and
no log-probability of each, which weighted turns and DPO need.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

CHUNK_VALUES = 1 << 24  # logits held at a time: 64 MiB as float32


def chunk_rows(vocab_size: int) -> int:
    return max(16, CHUNK_VALUES // vocab_size)


def weighted_nll(states: Tensor, head: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """Sum over tokens of weight times negative log-likelihood.

    Gradients are made along with the loss, while a chunk's logits are there: three products in all, none
    again in the backward pass.

    Args:
        states: (m, hidden), those that predict the targets.
        head: (vocab, hidden).
        targets: int64 (m,), or (m, k) for several at each place, as a teacher's likeliest tokens.
        weights: float32, of the targets' shape.

    Returns:
        float32 scalar.
    """
    if targets.ndim == 1:
        targets, weights = targets[:, None], weights[:, None]
    return _WeightedNLL.apply(*_cast(states, head), targets, weights)


def token_log_probs(states: Tensor, head: Tensor, targets: Tensor) -> Tensor:
    """Log-probability of each target, float32 (m,); the logits are computed once more for the gradients."""
    return _TokenLogProbs.apply(*_cast(states, head), targets)


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


class _WeightedNLL(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, states: Tensor, head: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
        wants_states, wants_head, *_ = ctx.needs_input_grad
        total = torch.zeros((), dtype=torch.float32, device=states.device)
        grad_states = torch.empty_like(states) if wants_states else None
        grad_head = torch.zeros_like(head) if wants_head else None
        size = chunk_rows(head.shape[0])
        for start in range(0, len(targets), size):
            part = slice(start, start + size)
            x, at, weight = states[part], targets[part], weights[part]
            logits = (x @ head.T).float()
            lse = logits.logsumexp(1, keepdim=True)
            total += (weight * (lse - logits.gather(1, at))).sum()
            if grad_states is None and grad_head is None:
                continue
            delta = logits.sub_(lse).exp_().mul_(weight.sum(1, keepdim=True)).scatter_add_(1, at, -weight)
            delta = delta.to(head.dtype)
            if grad_states is not None:
                torch.mm(delta, head, out=grad_states[part])
            if grad_head is not None:
                grad_head.addmm_(delta.T, x)
        ctx.save_for_backward(grad_states, grad_head)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        states, head = ctx.saved_tensors
        grad_states = None if states is None else states * grad
        return grad_states, None if head is None else head.mul_(grad), None, None


class _TokenLogProbs(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, states: Tensor, head: Tensor, targets: Tensor) -> Tensor:
        ctx.save_for_backward(states, head, targets)
        out = torch.empty(len(targets), dtype=torch.float32, device=states.device)
        size = chunk_rows(head.shape[0])
        for start in range(0, len(targets), size):
            part = slice(start, start + size)
            logits = (states[part] @ head.T).float()
            out[part] = logits.gather(1, targets[part, None])[:, 0] - logits.logsumexp(1)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        states, head, targets = ctx.saved_tensors
        grad_states = torch.empty_like(states)
        grad_head = torch.zeros_like(head) if ctx.needs_input_grad[1] else None
        size = chunk_rows(head.shape[0])
        for start in range(0, len(targets), size):
            part = slice(start, start + size)
            delta = (states[part] @ head.T).float().softmax(1).neg_()
            delta.scatter_add_(1, targets[part, None], torch.ones_like(delta[:, :1])).mul_(grad[part, None])
            delta = delta.to(head.dtype)
            torch.mm(delta, head, out=grad_states[part])
            if grad_head is not None:
                grad_head.addmm_(delta.T, states[part])
        return grad_states, grad_head, None
