"""A teacher's likeliest tokens at each trained token of some examples, in a file (NumPy's npz)."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hermes3.errors import FormatError, RequestError
from hermes3.train.examples import Example
from hermes3.train.losses import chunk_rows
from hermes3.train.model import Batch, Llama
from hermes3.train.packing import example_row
from hermes3.weights.whole import whole_file

MAX_K = 1024


@dataclass(frozen=True, slots=True, eq=False)
class Teacher:
    """What a teacher expects.

    Attributes:
        tokens: int32 (n_trained of all examples, k).
        log_probs: float32 of the same shape.
        ends: int64 (n_examples,), where each example's rows end.
    """

    tokens: NDArray[np.int32]
    log_probs: NDArray[np.float32]
    ends: NDArray[np.int64]

    def rows(self, examples: Sequence[int]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Tokens and log-probabilities of some examples, one after the other."""
        spans = [slice(self.ends[i - 1] if i else 0, self.ends[i]) for i in examples]
        tokens = np.concatenate([self.tokens[span] for span in spans]).astype(np.int64)
        return tokens, np.concatenate([self.log_probs[span] for span in spans])

    def save(self, path: Path) -> None:
        """Writes the file, whole or not at all.

        Raises:
            DiskSpaceError, OSError: as ``whole_file``.
        """
        n_bytes = self.tokens.nbytes + self.log_probs.nbytes + self.ends.nbytes
        with whole_file(path, n_bytes) as file:
            np.savez(file, tokens=self.tokens, log_probs=self.log_probs, ends=self.ends)

    @classmethod
    def load(cls, path: Path, n_trained: NDArray[np.int64], vocab_size: int) -> Self:
        """Reads the file and holds it against the examples it is to teach, by their trained tokens.

        Raises:
            FormatError: it is damaged.
            RequestError: it was made for other examples.
        """
        taught = cls(*_read(path))
        if not np.array_equal(np.cumsum(n_trained), taught.ends):
            raise RequestError(f"{path} was made for other examples than data.train", param="distill.teacher")
        n, k = taught.tokens.shape if taught.tokens.ndim == 2 else (0, 0)
        if n != taught.ends[-1] or taught.log_probs.shape != (n, k) or not 1 <= k <= MAX_K:
            raise FormatError(f"{path}: shapes {taught.tokens.shape}, {taught.log_probs.shape} do not fit")
        if not ((taught.tokens >= 0) & (taught.tokens < vocab_size)).all():
            raise FormatError(f"{path} holds ids that the vocabulary of {vocab_size} does not have")
        if not ((taught.log_probs <= 0) & np.isfinite(taught.log_probs)).all():
            raise FormatError(f"{path} holds numbers that are no logarithms of probabilities")
        return taught


@torch.no_grad()
def ask(model: Llama, examples: Iterable[Example], k: int, advance: Callable[[int], None]) -> Teacher:
    """The ``k`` likeliest tokens of a model at each trained token.

    Args:
        advance: told how many tokens were read.
    """
    tokens, log_probs = [], []
    device = next(model.parameters()).device
    for example in examples:
        top = model(Batch.of(example_row([example]), device), lambda x, head, batch: _top(x, head, k))
        tokens.append(top[1].int().cpu().numpy())
        log_probs.append(top[0].cpu().numpy())
        advance(len(example))
    ends = np.cumsum([len(rows) for rows in tokens])
    return Teacher(np.concatenate(tokens), np.concatenate(log_probs), ends)


def _top(states: Tensor, head: Tensor, k: int) -> tuple[Tensor, Tensor]:
    chunks = states.split(chunk_rows(head.shape[0]))
    parts = [(chunk @ head.T).float().log_softmax(1).topk(k, 1) for chunk in chunks]
    return torch.cat([part.values for part in parts]), torch.cat([part.indices for part in parts])


def _read(path: Path) -> tuple[NDArray[np.int32], NDArray[np.float32], NDArray[np.int64]]:
    try:
        with np.load(path, allow_pickle=False) as stored:
            tokens, log_probs, ends = (stored[name] for name in ("tokens", "log_probs", "ends"))
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise FormatError(f"{path} is no teacher's file: {error}") from error
    wanted = np.dtype(np.int32), np.dtype(np.float32), np.dtype(np.int64)
    if (tokens.dtype, log_probs.dtype, ends.dtype) != wanted:
        raise FormatError(f"{path} holds {tokens.dtype}, {log_probs.dtype}, {ends.dtype}, not {wanted}")
    return tokens, log_probs, ends
