"""How the next token is chosen from one row of logits.

The steps and their order are those of Hugging Face's ``generate``, after the mask of a grammar and the bias:
mask, bias, repetition penalty, presence and frequency penalty, temperature, top-k, top-p, min-p, draw.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from hermes3.engine import filters
from hermes3.errors import Hermes3Error, RequestError

MAX_LOGPROBS = 20  # OpenAI's limit for top_logprobs
SEED_LIMIT = 1 << 64
_DRAWS = 256  # uniform numbers made at a time: a Philox generator costs 25 us to build and 3 us to ask

_LIMITS: dict[str, tuple[float, float]] = {
    "temperature": (0.0, 100.0),
    "top_p": (0.0, 1.0),
    "min_p": (0.0, 1.0),
    "repetition_penalty": (0.01, 100.0),
    "presence_penalty": (-2.0, 2.0),
    "frequency_penalty": (-2.0, 2.0),
    "top_k": (0, 1 << 31),
    "max_tokens": (1, 1 << 31),
    "logprobs": (0, MAX_LOGPROBS),
    "seed": (-(1 << 63), SEED_LIMIT - 1),
}
_BIAS_LIMIT = 100.0
_INTEGERS = {"top_k", "max_tokens", "logprobs", "seed"}
_OPTIONAL = {"max_tokens", "logprobs", "seed"}


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """What a request asks of the sampler, checked on construction.

    Attributes:
        temperature: divisor of the logits, 0 to 100; 0 is greedy: the largest logit, of equals the lowest id.
        top_k: only the k largest logits (and what ties with the last of them); 0 is all.
        top_p: only the most probable tokens, the fewest whose mass reaches top_p; 1 is all.
        min_p: only tokens at least min_p times as probable as the most probable; 0 is all.
        repetition_penalty: logits of ids in prompt or answer are divided by it where positive and multiplied
            where negative (Hugging Face's definition, arXiv 1909.05858); 1 is none.
        presence_penalty: subtracted from the logit of each id in the answer (as OpenAI defines it), -2 to 2.
        frequency_penalty: subtracted once for each time the id stands in the answer (OpenAI), -2 to 2.
        logit_bias: id to what is added to its logit, -100 to 100.
        seed: same seed, prompt and model give the same ids, whatever else the engine does; None draws one.
        max_tokens: at most so many new ids; None is up to the end of the context.
        stop_ids: ids that end the answer, beside the model's own end-of-text ids.
        ignore_eos: the model's own end-of-text ids are tokens like others; stop_ids still hold.
        logprobs: None is none; n is the log-probability of each new id and of the n most probable, 0 to 20.
            They are the model's own: natural logarithm of the softmax of the logits before mask, bias,
            penalties, temperature and filters.

    Raises:
        RequestError: a value outside its limits; ``param`` names the field.
    """

    temperature: float = 0.8
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    seed: int | None = None
    max_tokens: int | None = None
    stop_ids: frozenset[int] = frozenset()
    ignore_eos: bool = False
    logprobs: int | None = None

    def __post_init__(self) -> None:
        for item in fields(self):
            if item.name in _LIMITS:
                _check_number(item.name, getattr(self, item.name))
        if not isinstance(self.ignore_eos, bool):
            shown = f"{self.ignore_eos!r:.80}"
            raise RequestError(f"ignore_eos is {shown}, it must be true or false", param="ignore_eos")
        for token, bias in self.logit_bias.items():
            _check_id("logit_bias", token)
            if not _is_real(bias) or not -_BIAS_LIMIT <= bias <= _BIAS_LIMIT:
                limits = f"between {-_BIAS_LIMIT} and {_BIAS_LIMIT}"
                raise RequestError(
                    f"logit_bias[{token}] is {bias!r:.80}, it must lie {limits}", param="logit_bias"
                )
        for token in self.stop_ids:
            _check_id("stop_ids", token)
        object.__setattr__(self, "logit_bias", MappingProxyType(dict(self.logit_bias)))
        object.__setattr__(self, "stop_ids", frozenset(self.stop_ids))


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """Natural log-probability of a new id under the model, and of the most probable ids, largest first."""

    id: int
    logprob: float
    top: tuple[tuple[int, float], ...]


class Sampler:
    """One sequence's choices. They depend on its parameters and its own ids alone.

    Args:
        params: what the request asks.
        prompt: ids of the prompt, for the repetition penalty.
        n_vocab: length of a row of logits.

    Attributes:
        seed: the one in use, drawn where the parameters have none; 0 <= seed < 2**64.

    Raises:
        RequestError: logit_bias names an id outside the vocabulary.
    """

    def __init__(self, params: SamplingParams, prompt: Iterable[int], n_vocab: int) -> None:
        self.params = params
        self.seed = secrets.randbits(63) if params.seed is None else params.seed % SEED_LIMIT
        self._random = np.random.Generator(np.random.Philox(key=self.seed))
        self._uniforms: list[float] = []  # the n-th new id uses the n-th, however often asked
        self._n_accepted = 0
        self._seen = set(prompt) if params.repetition_penalty != 1.0 else set()
        self._seen_ids = np.fromiter(self._seen, np.intp, len(self._seen))
        self._answered: set[int] = set()
        self._penalties: NDArray[np.float32] | None = None  # (n_vocab,), what the answer so far subtracts
        if params.presence_penalty or params.frequency_penalty:
            self._penalties = np.zeros(n_vocab, np.float32)
        if outside := [token for token in params.logit_bias if token >= n_vocab]:
            raise RequestError(
                f"logit_bias names id {outside[0]}, the vocabulary ends at {n_vocab - 1}", param="logit_bias"
            )
        self._bias_ids = np.fromiter(params.logit_bias.keys(), np.intp, len(params.logit_bias))
        self._biases = np.fromiter(params.logit_bias.values(), np.float32, len(params.logit_bias))

    def sample(
        self, logits: NDArray[np.float32], mask: NDArray[np.uint32] | None = None
    ) -> tuple[int, TokenLogprob | None]:
        """Chooses the next id. The choice counts for penalties and seed only once it is accepted.

        Args:
            logits: float32 (n_vocab,), overwritten.
            mask: uint32 (ceil(n_vocab / 32),), bit ``id % 32`` of word ``id // 32`` set where id is allowed.

        Returns:
            the id, and its log-probabilities where the parameters ask for them.

        Raises:
            Hermes3Error: logits that are not finite, or a mask that allows nothing.
        """
        n_top = self.params.logprobs
        raw = None if n_top is None else logits.copy()
        if mask is not None:
            filters.apply_mask(logits, mask)
        self._penalize(logits)
        if self.params.temperature == 0:
            token = int(logits.argmax())
            _check_finite(float(logits[token]))
        else:
            token = self._draw(logits)
        return token, None if raw is None or n_top is None else _logprob(raw, token, n_top, logits)

    def logprob(self, logits: NDArray[np.float32], token: int) -> TokenLogprob | None:
        """Log-probabilities of an id that was not chosen here, where the parameters ask for them.

        Args:
            logits: float32 (n_vocab,), overwritten.
        """
        n_top = self.params.logprobs
        return None if n_top is None else _logprob(logits, token, n_top, np.empty_like(logits))

    def accept(self, token: int) -> None:
        """Takes an id as part of the answer: penalties count it and the random numbers move on."""
        self._n_accepted += 1
        if self.params.repetition_penalty != 1.0 and token not in self._seen:
            self._seen.add(token)
            self._seen_ids = np.append(self._seen_ids, token)
        if self._penalties is not None:
            if token not in self._answered:
                self._answered.add(token)
                self._penalties[token] = self.params.presence_penalty
            self._penalties[token] += self.params.frequency_penalty

    def _penalize(self, logits: NDArray[np.float32]) -> None:
        if self._bias_ids.size:
            logits[self._bias_ids] += self._biases
        if self.params.repetition_penalty != 1.0:
            seen = logits[self._seen_ids]
            penalty = self.params.repetition_penalty
            logits[self._seen_ids] = np.where(seen < 0, seen * penalty, seen / penalty)
        if self._penalties is not None:
            logits -= self._penalties

    def _draw(self, logits: NDArray[np.float32]) -> int:
        params = self.params
        largest = logits.max()
        _check_finite(float(largest))
        logits -= largest  # before the division, so that only towards minus infinity it can overflow
        with np.errstate(over="ignore"):
            logits /= params.temperature
        ids: NDArray[np.intp] | None = None  # of the candidates; None is all
        if 0 < params.top_k < logits.size:
            ids = filters.top_k(logits, params.top_k)
            logits = logits[ids]
        weights = np.exp(logits, out=logits)
        for kept in self._kept(weights):
            weights = weights[kept]
            ids = kept if ids is None else ids[kept]
        chosen = filters.draw(weights, self._uniform())
        return chosen if ids is None else int(ids[chosen])

    def _kept(self, weights: NDArray[np.float32]) -> Iterable[NDArray[np.intp]]:
        """Indices that top-p keeps, then, among those, the indices that min-p keeps."""
        if self.params.top_p < 1:
            kept = filters.top_p(weights, self.params.top_p)
            weights = weights[kept]
            yield kept
        if self.params.min_p > 0:
            yield np.flatnonzero(weights >= self.params.min_p * weights.max())

    def _uniform(self) -> float:
        while self._n_accepted >= len(self._uniforms):
            self._uniforms += self._random.random(_DRAWS).tolist()
        return self._uniforms[self._n_accepted]


def _logprob(
    logits: NDArray[np.float32], token: int, n_top: int, scratch: NDArray[np.float32]
) -> TokenLogprob:
    logits -= logits.max()
    norm = math.log(float(np.exp(logits, out=scratch).sum()))
    top: list[int] = []
    if n_top:
        ids = filters.top_k(logits, min(n_top, logits.size))
        top = ids[np.argsort(-logits[ids], kind="stable")][:n_top].tolist()
    return TokenLogprob(token, float(logits[token]) - norm, tuple((i, float(logits[i]) - norm) for i in top))


def _check_finite(largest: float) -> None:
    if largest == -math.inf:
        raise Hermes3Error("the mask allows no token at all: the grammar cannot go on from here")
    if not math.isfinite(largest):
        raise Hermes3Error(f"the largest logit is {largest}: the model's weights are damaged or out of range")


def _is_real(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _check_number(name: str, value: object) -> None:
    if value is None and name in _OPTIONAL:
        return
    low, high = _LIMITS[name]
    is_right_kind = _is_real(value) and (name not in _INTEGERS or isinstance(value, int))
    if not is_right_kind or not low <= value <= high:  # type: ignore[operator]
        kind = "an integer" if name in _INTEGERS else "a number"
        raise RequestError(f"{name} is {value!r:.80}, it must be {kind} between {low} and {high}", param=name)


def _check_id(name: str, token: object) -> None:
    if not isinstance(token, int) or isinstance(token, bool) or token < 0:
        raise RequestError(f"{name} names id {token!r:.80}, ids are integers from 0", param=name)
