"""Answers of the model while it is trained: greedy, token after token."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager

import torch

from hermes3.train.loop import arithmetic, at_rest
from hermes3.train.model import Attention, Batch, Llama, Memory
from hermes3.train.packing import Piece
from hermes3.train.ranks import Ranks
from hermes3.train.recipe import Recipe


@torch.no_grad()
def answer(
    recipe: Recipe, model: Llama, ranks: Ranks, prompt: Sequence[int], end_ids: Collection[int], n_most: int
) -> list[int]:
    """The likeliest token after the prompt, then after that, and so on; without the one that ends it.

    Args:
        end_ids: ids that end an answer.
        n_most: tokens of it, at most.
    """
    new, n_past = list(prompt), 0
    made: list[int] = []
    with at_rest(model), _remembering(model):
        while len(made) < n_most:
            with arithmetic(recipe, ranks):
                logits = model(_batch(new, n_past, ranks.device), lambda x, head, batch: x @ head.T)
            chosen = logits.argmax(-1)
            token = int(ranks.sum(chosen if ranks.is_first else torch.zeros_like(chosen)))
            if token in end_ids:
                break
            n_past += len(new)
            new = [token]
            made.append(token)
    return made


def _batch(ids: Sequence[int], n_past: int, device: torch.device) -> Batch:
    n, none = len(ids), torch.empty(0, dtype=torch.int64, device=device)
    last = torch.tensor([n - 1], device=device)
    return Batch(
        ids=torch.tensor(ids, device=device),
        positions=torch.arange(n_past, n_past + n, device=device),
        pieces=(Piece(0, n, n, n + n_past),),
        predictors=last,
        read=last,
        which=torch.zeros_like(last),
        targets=none,
        weights=none,
        owners=none,
        n_documents=1,
    )


@contextmanager
def _remembering(model: Llama) -> Iterator[None]:
    attentions = [module for module in model.modules() if isinstance(module, Attention)]
    for attention in attentions:
        attention.memory = Memory()
    try:
        yield
    finally:
        for attention in attentions:
            attention.memory = None
