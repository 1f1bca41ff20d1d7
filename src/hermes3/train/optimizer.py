"""The optimiser of a recipe, and its learning rate at each step."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from hermes3.train.recipe import AdamW, Recipe


def optimizer_of(recipe: Recipe, model: nn.Module) -> torch.optim.Optimizer:
    """Over all parameters that are trained; weight decay is for matrices alone."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    matrices = [parameter for parameter in trained if parameter.ndim > 1]
    vectors = [parameter for parameter in trained if parameter.ndim <= 1]
    settings = recipe.rmsprop or recipe.adamw or AdamW()
    groups = [
        {"params": parameters, "weight_decay": decay}
        for parameters, decay in ((matrices, settings.weight_decay), (vectors, 0.0))
        if parameters
    ]
    if isinstance(settings, AdamW):
        betas = settings.beta1, settings.beta2
        return torch.optim.AdamW(groups, recipe.lr, betas, settings.eps, fused=True)
    return torch.optim.RMSprop(groups, recipe.lr, settings.smoothing, settings.eps, foreach=False)


def learning_rate(recipe: Recipe, step: int, n_steps: int) -> float:
    """Of a step, which counts from 0: up in a line from 0 over the warm-up, then as the schedule says.

    The same numbers as transformers' ``get_cosine_schedule_with_warmup`` and its like, where
    ``final_lr_share`` is 0.
    """
    if step < recipe.warmup_steps:
        return recipe.lr * step / recipe.warmup_steps
    done = (step - recipe.warmup_steps) / max(1, n_steps - recipe.warmup_steps)
    match recipe.schedule:
        case "cosine":
            share = 0.5 * (1 + math.cos(math.pi * done))
        case "linear":
            share = 1 - done
        case "constant":
            share = 1.0
    return recipe.lr * (recipe.final_lr_share + (1 - recipe.final_lr_share) * share)


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = lr


@torch.no_grad()
def clip(parameters: Iterable[nn.Parameter], most: float) -> float:
    """Scales gradients down to a norm of ``most``, if that is not 0; gives the norm that they had."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    norm: Tensor = nn.utils.get_total_norm(gradients)
    if isinstance(norm, DTensor):
        norm = norm.full_tensor()
    scale = most / (norm + 1e-6)
    if most and scale < 1:
        torch._foreach_mul_([_local(gradient) for gradient in gradients], scale.to(gradients[0].device))
    return float(norm)


def _local(tensor: Tensor) -> Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
