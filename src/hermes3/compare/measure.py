"""Reads the same text with two models and compares what they expect of each next token."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from hermes3 import _native
from hermes3.engine.engine import Engine
from hermes3.engine.model import Model
from hermes3.engine.sampling import SamplingParams
from hermes3.engine.windows import window_batch
from hermes3.errors import RequestError
from hermes3.tokenizer import Tokenizer
from hermes3.weights.checkpoint import Checkpoint

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]

ROWS = 64  # of logits that are compared at a time: 33 MB of float32 for Llama 3's vocabulary
PROMPT, ANSWER = 32, 64  # tokens whose speed is measured
N_REPEATS = 3


@dataclass(frozen=True, slots=True)
class Text:
    """A text as windows of ids.

    Attributes:
        windows: int32 (n_windows, n_ctx).
        n_left_out: ids behind the last whole window.
    """

    windows: NDArray[np.int32]
    n_left_out: int

    @classmethod
    def of(cls, ids: list[int], n_ctx: int, n_most: int | None, bos_id: int | None) -> Text:
        """Cuts ids into windows; ``bos_id`` takes the place of each window's first id.

        Raises:
            RequestError: there is not one whole window.
        """
        n_windows = len(ids) // n_ctx if n_most is None else min(len(ids) // n_ctx, n_most)
        if n_windows == 0:
            raise RequestError(
                f"the text has {len(ids)} tokens, one window takes {n_ctx}; give a longer text or a smaller "
                "--ctx"
            )
        windows = np.array(ids[: n_windows * n_ctx], np.int32).reshape(n_windows, n_ctx)
        if bos_id is not None:
            windows[:, 0] = bos_id
        return cls(windows, len(ids) - n_windows * n_ctx)


class Subject:
    """A loaded model that reads windows.

    Args:
        name: for the report.
        checkpoint: of the model.
        n_ctx: tokens of a window.
    """

    def __init__(self, name: str, checkpoint: Checkpoint, n_ctx: int) -> None:
        self.name = name
        self.checkpoint = checkpoint
        self.seconds = 0.0
        self.n_read = 0
        self._model = Model.from_checkpoint(checkpoint, n_batch=n_ctx, n_rows=n_ctx - n_ctx // 2)
        n_pages = -(-n_ctx // _native.PAGE)
        self._cache = self._model.new_cache(n_pages, self._model.kv_dtype)

    def logits(self, window: NDArray[np.int32]) -> F32:
        """What follows each id of the second half but the last: float32 (n_scored, vocab), a view."""
        n = len(window)
        batch = window_batch(window, n // 2, n - n // 2 - 1)
        start = time.perf_counter()
        logits = self._model.forward(batch, self._cache)
        self.seconds += time.perf_counter() - start
        self.n_read += n
        return logits

    def decode_rate(self, prompt: list[int]) -> float:
        """Tokens per second of an answer: the best of some runs."""
        params = SamplingParams(temperature=0, max_tokens=ANSWER, ignore_eos=True)
        n_ctx = PROMPT + ANSWER
        engine = Engine(self._model, n_ctx=n_ctx, n_sequences=1, prefix_caching=False, speculative=False)
        rates = []
        for _ in range(N_REPEATS):
            sequence = engine.add(prompt[:PROMPT], params)
            while engine.has_work:
                engine.step()
            rates.append((sequence.n_answer - 1) / sequence.decode_s)
        return max(rates)


@dataclass(slots=True)
class Tally:
    """Figures of each scored token, float64 once they are joined."""

    losses: list[F64] = field(default_factory=list)  # -log p of what came, of both: (2, n)
    divergences: list[F64] = field(default_factory=list)  # KL(reference || other)
    agreements: list[NDArray[np.bool_]] = field(default_factory=list)

    def add(self, reference: F32, other: F32, targets: NDArray[np.int32]) -> None:
        """Compares logits (n, vocab) before the tokens ``targets`` (n,)."""
        for start in range(0, len(targets), ROWS):
            rows = slice(start, start + ROWS)
            p, q = log_softmax(reference[rows]), log_softmax(other[rows])
            at = targets[rows, None]
            taken = [-np.take_along_axis(each, at, axis=1)[:, 0] for each in (p, q)]
            self.losses.append(np.array(taken, np.float64))
            divergence = (np.exp(p) * (p - q)).sum(axis=1, dtype=np.float64)
            self.divergences.append(np.maximum(divergence, 0))  # rounding may take it a hair below
            self.agreements.append(p.argmax(axis=1) == q.argmax(axis=1))


@dataclass(frozen=True, slots=True)
class Comparison:
    """A model beside the reference; divergences in nats.

    Attributes:
        divergences: KL(reference || model) of each scored token, rising.
        perplexities: of reference and model, with the standard error of the logarithm.
        agreement: share of tokens where both expect the same one most.
        prefill_rate, decode_rate: tokens per second, reading the windows and writing one answer.
    """

    name: str
    description: str
    n_bytes: int
    n_scored: int
    divergences: F64
    perplexities: tuple[float, float]
    loss_error: float
    agreement: float
    prefill_rate: float
    decode_rate: float


def log_softmax(logits: F32) -> F32:
    """Row-wise; sums in float64."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    total = np.log(np.exp(shifted).sum(axis=1, keepdims=True, dtype=np.float64))
    result: F32 = shifted - total.astype(np.float32)
    return result


def compare(
    reference: Subject, other: Subject, text: Text, show: Callable[[int, int], None] = lambda done, of: None
) -> Comparison:
    """Reads all windows with both; ``show`` is told how many are done.

    Raises:
        RequestError: their vocabularies have different sizes.
    """
    sizes = [each.checkpoint.config.vocab_size for each in (reference, other)]
    if sizes[0] != sizes[1]:
        raise RequestError(
            f"{reference.name} has {sizes[0]} tokens and {other.name} {sizes[1]}: nothing to compare"
        )
    tally, seconds, n_read = Tally(), other.seconds, other.n_read
    for index, window in enumerate(text.windows):
        show(index, len(text.windows))
        first = reference.logits(window)
        second = first if other is reference else other.logits(window)
        tally.add(first, second, window[len(window) // 2 + 1 :])
    losses = np.concatenate(tally.losses, axis=1)
    means = losses.mean(axis=1)
    return Comparison(
        name=other.name,
        description=other.checkpoint.description,
        n_bytes=other.checkpoint.n_bytes,
        n_scored=losses.shape[1],
        divergences=np.sort(np.concatenate(tally.divergences)),
        perplexities=(math.exp(means[0]), math.exp(means[1])),
        loss_error=float(losses[1].std() / math.sqrt(losses.shape[1])),
        agreement=float(np.concatenate(tally.agreements).mean()),
        prefill_rate=(other.n_read - n_read) / (other.seconds - seconds),
        decode_rate=other.decode_rate(text.windows[0].tolist()),
    )


def ids_of(text: str, tokenizers: dict[str, Tokenizer]) -> list[int]:
    """The text's ids, which must be the same by all tokenizers.

    Raises:
        RequestError: they differ, so that next tokens cannot be compared; the names of two that do.
    """
    encoded = {name: tokenizer.encode(text) for name, tokenizer in tokenizers.items()}
    (first, ids), *others = encoded.items()
    for name, theirs in others:
        if theirs != ids:
            raise RequestError(
                f"{first} and {name} cut the text into different tokens: only models of one vocabulary "
                "can be compared"
            )
    return ids
