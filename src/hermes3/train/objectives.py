"""What is learned: rows of packed documents and their losses. The loop knows nothing more of a method."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hermes3.train import losses
from hermes3.train.examples import Example, Pair
from hermes3.train.model import Batch
from hermes3.train.order import Documents
from hermes3.train.packing import I64, Row, example_row, pair_row
from hermes3.train.teacher import Teacher

Reader = Callable[[Tensor, Tensor, Batch], Tensor]
Item = TypeVar("Item", covariant=True)


class Indexed(Protocol[Item]):
    """What gives documents by their index: a list, or a corpus on disk."""

    def __getitem__(self, index: int, /) -> Item: ...


class Objective(Protocol):
    """Documents and their loss. A row is a tuple of indices of documents.

    Attributes:
        names: of the sums that a reader gives; the first is the loss.
    """

    names: tuple[str, ...]

    def units(self, documents: Documents) -> int:
        """What a row counts for: a step's sums are divided by that of all its rows."""
        ...

    def row(self, documents: Documents) -> Row:
        """The tokens of a row."""
        ...

    def reader(self, documents: Documents) -> Reader:
        """What makes sums, float32 (len(names),), of a row's states; ``Llama.forward`` takes it."""
        ...


class NextToken:
    """Supervised fine-tuning: the sum of weighted cross-entropies, in units of trained tokens.

    With a teacher, a share of the loss is the forward divergence from its likeliest tokens.

    Args:
        examples: they can be asked for by index.
        n_trained: trained tokens of each, int64.
        teacher: for the same examples in the same order.
        share: of the divergence.
    """

    def __init__(
        self, examples: Indexed[Example], n_trained: I64, teacher: Teacher | None = None, share: float = 0.0
    ) -> None:
        self._examples, self._n_trained = examples, n_trained
        self._teacher, self._share = teacher, share
        self.names: tuple[str, ...] = ("loss",) if teacher is None else ("loss", "nll")

    def units(self, documents: Documents) -> int:
        return int(self._n_trained[list(documents)].sum())

    def row(self, documents: Documents) -> Row:
        return example_row([self._examples[i] for i in documents])

    def reader(self, documents: Documents) -> Reader:
        if self._teacher is None:
            return _read_nll
        tokens, log_probs = self._teacher.rows(documents)
        return _Distilling(torch.from_numpy(tokens), torch.from_numpy(log_probs), self._share)


def _read_nll(states: Tensor, head: Tensor, batch: Batch) -> Tensor:
    return losses.weighted_nll(states, head, batch.targets, batch.weights)[None]


@dataclass(frozen=True, slots=True)
class _Distilling:
    tokens: Tensor  # int64 (m, k)
    log_probs: Tensor  # float32 (m, k)
    share: float

    def __call__(self, states: Tensor, head: Tensor, batch: Batch) -> Tensor:
        log_probs = self.log_probs.to(states.device)
        tokens = torch.cat([batch.targets[:, None], self.tokens.to(states.device)], 1)
        weight = batch.weights[:, None]
        teacher = log_probs.exp() * weight
        parts = torch.cat([(1 - self.share) * weight, self.share * teacher], 1)
        entropy = (teacher * log_probs).sum()
        with torch.no_grad():
            nll = losses.weighted_nll(states, head, batch.targets, batch.weights)
        return torch.stack([losses.weighted_nll(states, head, tokens, parts) + self.share * entropy, nll])


class Preference:
    """Direct preference optimisation, in units of pairs. Prompts are read once for both answers.

    Args:
        pairs: they can be asked for by index.
        beta: how dear it is to leave the reference.
        reference: log-probabilities of the chosen and rejected answers by the model that training began
            with, float32 (n_pairs, 2).
    """

    def __init__(self, pairs: Indexed[Pair], beta: float, reference: NDArray[np.float32]) -> None:
        self._pairs, self._beta, self._reference = pairs, beta, reference
        self.names: tuple[str, ...] = ("loss", "reward_chosen", "reward_rejected", "accuracy", "margin")

    def units(self, documents: Documents) -> int:
        return len(documents)

    def row(self, documents: Documents) -> Row:
        return pair_row([self._pairs[i] for i in documents])

    def reader(self, documents: Documents) -> Reader:
        reference = torch.from_numpy(self._reference[list(documents)])

        def read(states: Tensor, head: Tensor, batch: Batch) -> Tensor:
            policy = answer_log_probs(states, head, batch)
            known = reference.to(states.device)
            each, chosen, rejected = losses.dpo(
                policy[:, 0], policy[:, 1], known[:, 0], known[:, 1], self._beta
            )
            better = (chosen > rejected).float()
            margin = chosen - rejected
            return torch.stack([part.sum() for part in (each, chosen, rejected, better, margin)])

        return read


def answer_log_probs(states: Tensor, head: Tensor, batch: Batch) -> Tensor:
    """Log-probabilities of the answers of a row's pairs, chosen and rejected, (n_pairs, 2)."""
    each = losses.token_log_probs(states, head, batch.targets)
    sums = torch.zeros(batch.n_documents, dtype=torch.float32, device=each.device)
    return sums.index_add(0, batch.owners, each).view(-1, 2)
