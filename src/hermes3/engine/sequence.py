"""One request inside the engine."""

from __future__ import annotations

import time
from collections.abc import Sequence as Ids
from typing import Literal

import numpy as np

from hermes3.engine.cache import Pages
from hermes3.engine.grammar import Matcher
from hermes3.engine.guesses import Guesser
from hermes3.engine.sampling import Sampler, SamplingParams, TokenLogprob

FinishReason = Literal["stop", "length", "cancelled", "error"]


class Sequence:
    """Ids of a prompt and of the answer so far, and how far the model has come with them.

    Attributes:
        ids: prompt, then answer; an id that ended the answer is its last.
        n_prompt: how many of them are the prompt.
        n_computed: how many have their keys and values in the cache.
        matcher: where it is in the grammar that binds its answer; None where none does.
        is_answering: whether the cache has held all its ids since it was (last) admitted, so that what it has
            beyond n_computed are ids of the answer.
        n_prefix: of the prompt's ids, those that are to be kept on disk when they are computed.
        n_told: how many ids of the answer have been given out.
        n_cached: how many of the prompt's had them there already when it was (last) admitted.
        n_forced: how many of the answer's a grammar left no choice about.
        n_drafted, n_accepted: ids that were guessed to come next, and those of them that came.
        forced: for each of them whether it is one of those; empty where there is no grammar.
        prefix: (full pages that are remembered by what they hold, the number of the prefix they make).
        pages: the cache's pages that hold them, int32, in order of position.
        logprobs: one for each id of the answer where the parameters ask for them, else empty.
        finish_reason: "stop" (an end or stop id), "length" (max_tokens, context or memory is full),
            "cancelled", "error" (``error`` holds it), or None while it runs.
        added, started, answered, finished: seconds of ``time.perf_counter``: when it came, when its first ids
            went into the model, when its first new ids were given out, when it ended; None before.
    """

    def __init__(
        self, prompt: Ids[int], params: SamplingParams, n_vocab: int, matcher: Matcher | None = None
    ) -> None:
        self.ids = list(prompt)
        self.n_prompt = len(self.ids)
        self.n_computed = 0
        self.is_answering = False
        self.n_prefix = 0
        self.n_told = 0
        self.n_cached = 0
        self.n_forced = 0
        self.forced: list[bool] = []
        self.n_drafted = 0
        self.n_accepted = 0
        self.prefix = (0, 0)
        self.pages: Pages = np.empty(0, np.int32)
        self.params = params
        self.sampler = Sampler(params, self.ids, n_vocab)
        self.matcher = matcher
        self._guesser = Guesser()
        self._was_forced = False
        self.logprobs: list[TokenLogprob] = []
        self.is_cancelled = False  # asked for; finish_reason says when it is done
        self.will_end: FinishReason | None = None  # known before its first step
        self.finish_reason: FinishReason | None = None
        self.error: Exception | None = None
        self.added = time.perf_counter()
        self.started: float | None = None
        self.answered: float | None = None
        self.finished: float | None = None

    @property
    def answer(self) -> list[int]:
        """The new ids."""
        return self.ids[self.n_prompt :]

    @property
    def n_answer(self) -> int:
        return len(self.ids) - self.n_prompt

    @property
    def n_left(self) -> int:
        """Ids that the model has not seen."""
        return len(self.ids) - self.n_computed

    @property
    def prefill_s(self) -> float:
        """Seconds from the first work on the prompt to the first new id, 0 before there is one."""
        return _between(self.started, self.answered)

    @property
    def decode_s(self) -> float:
        """Seconds from the first new id to the end of the answer, 0 before the end."""
        return _between(self.answered, self.finished)

    @property
    def mask_s(self) -> float:
        """Seconds of computing that the masks of its grammar took so far, beside the model's."""
        return 0.0 if self.matcher is None else self.matcher.spent_s

    @property
    def mask_wait_s(self) -> float:
        """Seconds that its steps waited for those masks."""
        return 0.0 if self.matcher is None else self.matcher.waited_s

    def guesses(self, most: int, *, may_look_up: bool) -> list[int]:
        """Up to ``most`` ids that may come next: what the grammar forces, else what the ids suggest."""
        self._was_forced = self.matcher is not None and bool(self.matcher.forced)
        if self.matcher is not None and self._was_forced:
            return self.matcher.forced[:most]
        return self._guesser.guess(self.ids, most) if may_look_up else []

    def judge(self, n_guessed: int, n_right: int) -> None:
        """Takes notice of how many of the last guesses were right."""
        self.n_drafted += n_guessed
        self.n_accepted += n_right
        if n_guessed and not self._was_forced:
            self._guesser.judge(n_guessed, n_right, len(self.ids))

    def append(self, token: int, logprob: TokenLogprob | None, *, is_forced: bool = False) -> None:
        """Takes a new id into the answer."""
        self.ids.append(token)
        if self.matcher is not None:
            self.forced.append(is_forced)
            self.n_forced += is_forced
        self.sampler.accept(token)
        if logprob is not None:
            self.logprobs.append(logprob)

    def tell(self) -> tuple[list[int], list[TokenLogprob], list[bool]]:
        """The ids of the answer that have not been given out yet, their log-probabilities, and ``forced``."""
        first, self.n_told = self.n_told, self.n_answer
        if self.n_told and self.answered is None:
            self.answered = time.perf_counter()
        return self.ids[self.n_prompt + first :], self.logprobs[first:], self.forced[first:]

    def finish(self, reason: FinishReason, error: Exception | None = None) -> None:
        """Ends it, once."""
        self.finish_reason = reason
        self.error = error
        self.finished = time.perf_counter()


def _between(first: float | None, second: float | None) -> float:
    return 0.0 if first is None or second is None else second - first
