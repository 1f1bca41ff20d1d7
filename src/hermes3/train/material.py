"""What a recipe's files give to learn from, and what is held out."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np

from hermes3.errors import RequestError
from hermes3.prompt.chatml import Template
from hermes3.tokenizer import Tokenizer
from hermes3.train.data.corpus import Corpus, Part, load
from hermes3.train.data.rendered import Renderer
from hermes3.train.examples import Example, Pair
from hermes3.train.order import Documents, Order
from hermes3.train.packing import I64, best_fit
from hermes3.train.recipe import Method, Recipe

Mask = np.ndarray[tuple[int], np.dtype[np.bool_]]
KINDS: dict[Method, type[Example] | type[Pair]] = {"sft": Example, "dpo": Pair}


@dataclass(frozen=True, slots=True)
class Material:
    """The documents of a run.

    Attributes:
        train: all of data.train's files.
        usable: bool (n,): those of them that are learned from; the others are held out or too long.
        held_out: documents to measure, None for none.
        held_out_rows: those of ``held_out`` that are measured, packed.
        notes: what was left out, in sentences.
        digest: of all that is learned from.
    """

    train: Corpus
    usable: Mask
    held_out: Corpus | None
    held_out_rows: list[Documents]
    notes: tuple[str, ...]
    digest: str

    @classmethod
    def read(
        cls,
        recipe: Recipe,
        tokenizer: Tokenizer,
        template: Template,
        progress: Callable[[int, int], None] | None = None,
    ) -> Self:
        """Reads the files of a recipe.

        Args:
            progress: told bytes read and bytes in all.

        Raises:
            FormatError: as ``data.corpus.load``.
            RequestError: documents of another kind than the method's, longer than a row, or none left.
        """
        renderer = Renderer(tokenizer, template)
        data = recipe.data
        weights = data.weights or (1.0,) * len(data.train)
        parts = [Part(Path(path), weight) for path, weight in zip(data.train, weights, strict=True)]
        train = load(parts, renderer, skip_bad=data.skip_bad, progress=progress)
        usable, notes = _fitting(train, recipe, "data.train")
        apart = None
        held = _held_out(usable, recipe)
        usable[held] = False
        if data.eval:
            apart = load([Part(Path(path)) for path in data.eval], renderer, skip_bad=data.skip_bad)
            fits, more = _fitting(apart, recipe, "data.eval")
            held, notes = np.flatnonzero(fits), notes + more
        if not usable.any():
            raise RequestError("data.train leaves nothing to learn from", param="data.train")
        held_out = apart or (train if len(held) else None)
        rows = [] if held_out is None else packed(held_out.lengths, held, recipe.max_length)
        return cls(train, usable, held_out, rows, tuple(notes), _digest(train))

    def prompt(self, document: int) -> list[int]:
        """What stands before the first trained token of a held-out document."""
        assert self.held_out is not None
        held = self.held_out[document]
        if isinstance(held, Pair):
            return held.prompt_ids.tolist()
        return held.ids[: int(np.flatnonzero(held.weights[1:])[0]) + 1].tolist()

    def order(self, recipe: Recipe) -> Order:
        """The steps of a run over what is learned from."""

        def documents(epoch: int) -> I64:
            chosen = self.train.order(recipe.seed, epoch)
            return chosen[self.usable[chosen]]

        return Order(
            self.train.lengths,
            recipe.max_length,
            recipe.batch_size,
            recipe.epochs,
            recipe.max_steps,
            recipe.seed,
            documents,
        )


def _fitting(corpus: Corpus, recipe: Recipe, name: str) -> tuple[Mask, list[str]]:
    """Which documents are no longer than a row, and sentences about all that is left out."""
    if corpus.kind is not KINDS[recipe.method]:
        kind = "pairs" if corpus.kind is Pair else "conversations"
        raise RequestError(f"{name} holds {kind}, which method {recipe.method!r} cannot use", param=name)
    notes = []
    if corpus.faults:
        notes.append(f"{len(corpus.faults)} bad rows of {name} are left out; the first: {corpus.faults[0]}")
    fits = corpus.lengths <= recipe.max_length
    if not fits.all():
        what = (
            f"{int((~fits).sum())} of {len(corpus)} documents of {name} are longer than max_length, "
            f"{recipe.max_length} tokens; the longest has {corpus.lengths.max()}"
        )
        if recipe.too_long == "refuse":
            raise RequestError(f"{what}; raise max_length, or let too_long be 'drop'", param="max_length")
        notes.append(f"{what}: they are left out")
    return fits, notes


def _held_out(usable: Mask, recipe: Recipe) -> I64:
    """A share of the documents, by the seed."""
    candidates = np.flatnonzero(usable)
    if not recipe.data.eval_share or len(candidates) < 2:
        return candidates[:0]
    n = min(max(1, round(len(candidates) * recipe.data.eval_share)), len(candidates) - 1)
    return np.sort(np.random.default_rng([recipe.seed, 0xE7A1]).permutation(candidates)[:n])


def packed(lengths: I64, documents: I64, capacity: int) -> list[Documents]:
    """Rows of some documents."""
    rows = best_fit(lengths[documents].tolist(), capacity)
    return [tuple(documents[row].tolist()) for row in rows]


def _digest(corpus: Corpus) -> str:
    digest = hashlib.sha256()
    for document in corpus:
        parts = [document] if isinstance(document, Example) else [document.chosen, document.rejected]
        if isinstance(document, Pair):
            digest.update(document.prompt_ids.tobytes())
        for part in parts:
            digest.update(len(part).to_bytes(8, "little") + part.ids.tobytes() + part.weights.tobytes())
    return digest.hexdigest()
