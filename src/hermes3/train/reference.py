"""The objectives of a recipe; for pairs with what the model that training begins with makes of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray

from hermes3.train.data.corpus import Corpus
from hermes3.train.examples import Example, Pair
from hermes3.train.loop import forward
from hermes3.train.material import Material, packed
from hermes3.train.model import Llama
from hermes3.train.objectives import Indexed, NextToken, Objective, Preference, answer_log_probs
from hermes3.train.packing import pair_row
from hermes3.train.ranks import Ranks
from hermes3.train.recipe import Dpo, Recipe
from hermes3.train.teacher import Teacher
from hermes3.weights.whole import whole_file

Advance = Callable[[int, int], None]  # rows read, rows in all


def objectives_of(
    recipe: Recipe, material: Material, model: Llama, ranks: Ranks, folder: Path, advance: Advance
) -> tuple[Objective, Objective | None]:
    """What is learned, and what is measured on held-out documents.

    Args:
        model: as it is before the first step.
        folder: reference log-probabilities are kept there, for when the run goes on.
        advance: told how far their computation is.

    Raises:
        FormatError, RequestError: as ``Teacher.load``.
    """
    corpus, held_out = material.train, material.held_out
    if recipe.method == "dpo":
        learned = _preference(recipe, corpus, model, ranks, folder / "reference.npy", advance)
        if held_out is None or held_out is corpus:
            return learned, held_out and learned
        path = folder / "reference-eval.npy"
        return learned, _preference(recipe, held_out, model, ranks, path, advance)
    measured = None if held_out is None else NextToken(cast(Indexed[Example], held_out), held_out.n_trained)
    examples = cast(Indexed[Example], corpus)
    if recipe.distill is None:
        return NextToken(examples, corpus.n_trained), measured
    teacher = Teacher.load(Path(recipe.distill.teacher), corpus.n_trained, model.config.vocab_size)
    return NextToken(examples, corpus.n_trained, teacher, recipe.distill.share), measured


def _preference(
    recipe: Recipe, corpus: Corpus, model: Llama, ranks: Ranks, path: Path, advance: Advance
) -> Preference:
    found = np.load(path, allow_pickle=False) if path.is_file() else None
    if found is None or found.shape != (len(corpus), 2):
        found = _log_probs(recipe, corpus, model, ranks, advance)
        ranks.first_then_others(lambda: _save(path, found))
    return Preference(cast(Indexed[Pair], corpus), (recipe.dpo or Dpo()).beta, found)


def _log_probs(
    recipe: Recipe, corpus: Corpus, model: Llama, ranks: Ranks, advance: Advance
) -> NDArray[np.float32]:
    """Log-probabilities of the answers of all pairs that fit into a row, float32 (n_pairs, 2)."""
    pairs = cast(Indexed[Pair], corpus)
    rows = packed(corpus.lengths, np.flatnonzero(corpus.lengths <= recipe.max_length), recipe.max_length)
    found = torch.zeros((len(corpus), 2), dtype=torch.float64, device=ranks.device)
    scored = forward(
        recipe,
        model,
        rows,
        ranks,
        lambda documents: pair_row([pairs[i] for i in documents]),
        lambda documents: answer_log_probs,
    )
    for n, (documents, scores) in enumerate(scored, 1):
        found[list(documents)] = scores.double()
        advance(min(len(rows), n * ranks.n), len(rows))
    return ranks.sum(found).float().cpu().numpy()


def _save(path: Path, found: NDArray[np.float32]) -> None:
    with whole_file(path, found.nbytes + 128) as file:
        np.save(file, found, allow_pickle=False)
