"""Gradients that are added to where they lie.

Autograd makes the gradient of every row as a tensor of its own and adds that to ``grad``: for each row, as
much as all of a model's weights is written once and read twice more, and that of the vocabulary is set to
zero first, twice where head and embedding are one. A product that adds to its target costs none of this.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


def add_in_place(parameters: Iterable[Tensor]) -> None:
    """From here on backward passes add to these parameters' ``grad`` themselves.

    Not for weights that are shared out among processes, nor on a GPU, where rows are added in no order, nor
    where ``torch.autograd.grad`` is to return them.
    """
    for parameter in parameters:
        parameter.adds_in_place = True  # type: ignore[attr-defined]


def does_add(weight: Tensor) -> bool:
    """Whether a weight's gradient is added to in place."""
    return getattr(weight, "adds_in_place", False)


def of_product(weight: Tensor, left: Tensor, right: Tensor) -> Tensor | None:
    """``left @ right`` as (a part of) a weight's gradient; None where it is in its place already."""
    if not does_add(weight):
        return left @ right
    if weight.grad is None:
        weight.grad = left @ right
    else:
        weight.grad.addmm_(left, right)
    return None


def of_vector(weight: Tensor, gradient: Tensor) -> Tensor | None:
    """The same of a gradient that is at hand."""
    if not does_add(weight):
        return gradient
    weight.grad = gradient if weight.grad is None else weight.grad.add_(gradient)
    return None


def embedded(ids: Tensor, weight: Tensor) -> Tensor:
    """Rows of a weight, (n, hidden)."""
    return _Embedding.apply(ids, weight) if does_add(weight) else F.embedding(ids, weight)


class _Embedding(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, ids: Tensor, weight: Tensor) -> Tensor:
        ctx.ids, ctx.weight = ids, weight
        return F.embedding(ids, weight)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, None]:
        if ctx.weight.grad is None:
            ctx.weight.grad = torch.zeros_like(ctx.weight)
        ctx.weight.grad.index_add_(0, ctx.ids, grad)
        return None, None
