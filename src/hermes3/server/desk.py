"""The desk in front of the engine: who is let in, who is told when to come back, and whether work goes on."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Mapping, Sequence
from http import HTTPStatus

from hermes3.errors import Hermes3Error
from hermes3.llm import LLM, Delta
from hermes3.llm.async_stream import AsyncStream
from hermes3.server.failures import Failure
from hermes3.server.keys import CALLER, Allowance
from hermes3.server.limits import Limits
from hermes3.server.metrics import Metrics

FULL_CONTEXTS = 64  # of tokens in work or waiting, where no limit is given
FIRST_GUESS = 20.0  # tokens per second, before anything was measured
MAX_RETRY_S = 600
MEASURED = 16  # tokens of a prompt or an answer from which its speed is taken
LOOK_S = 0.5  # seconds between two looks at the engine

_log = logging.getLogger("hermes3.server")


class Desk:
    """Admits answers up to the limits, counts them until they end, and watches the engine meanwhile.

    Attributes:
        limits: what holds.
        is_draining: no new answers are taken, the process is about to end.
    """

    def __init__(self, llm: LLM, limits: Limits, metrics: Metrics) -> None:
        self._llm = llm
        self._metrics = metrics
        self._tokens: dict[int, int] = {}  # what each answer in work may come to, by its stream's id()
        self._rate = FIRST_GUESS
        self._speeds: dict[str, float] = {}  # tokens per second
        self._abandoned = False
        self.limits = limits
        self.is_draining = False
        self._most_tokens = limits.max_queued_tokens or FULL_CONTEXTS * llm.n_ctx
        self._allowances = {
            what: Allowance(per_minute)
            for what, per_minute in (
                ("requests", limits.requests_per_minute),
                ("tokens", limits.tokens_per_minute),
            )
            if per_minute is not None
        }

    @property
    def n_open(self) -> int:
        """Answers in work or waiting."""
        return len(self._tokens)

    def check_open(self) -> None:
        """Whether the server takes requests at all.

        Raises:
            Failure: 503 while it drains, and while the engine does not move.
        """
        if self.is_draining:
            raise _later(503, "The server is shutting down; send this to another one.", self.limits.drain_s)
        if self._llm.failure is not None:
            raise Failure(HTTPStatus.SERVICE_UNAVAILABLE, str(self._llm.failure), code="engine_error")
        if (why := self.trouble()) is not None:
            raise _later(503, f"{why} Try again later.", self.limits.stall_s)

    def admit(self, costs: Sequence[int]) -> None:
        """Let answers in that may come to so many tokens each, or none of them.

        Raises:
            Failure: 429 with Retry-After, the seconds after which they would probably be let in.
        """
        self.check_open()
        limits, n_open, held = self.limits, self.n_open, sum(self._tokens.values())
        if len(costs) > limits.max_requests or sum(costs) > self._most_tokens:
            raise Failure(
                HTTPStatus.BAD_REQUEST,
                f"The request asks for {len(costs)} answers of {sum(costs)} tokens in all, prompts included; "
                f"the server takes {limits.max_requests} answers and {self._most_tokens} tokens at a time. "
                "Ask for less.",
                code="request_too_large",
            )
        n_over = n_open + len(costs) - limits.max_requests
        if n_over > 0:
            raise self._full(
                f"{n_open} answers are in work and {len(costs)} more are asked for; the server takes "
                f"{limits.max_requests}.",
                held * n_over / max(n_open, 1),
            )
        if held + sum(costs) > self._most_tokens:
            raise self._full(
                f"Answers of up to {held} tokens are in work and {sum(costs)} more are asked for; the server "
                f"takes {self._most_tokens}.",
                held + sum(costs) - self._most_tokens,
            )
        self._charge({"requests": len(costs), "tokens": sum(costs)})

    def _charge(self, amounts: Mapping[str, int]) -> None:
        """Take from the caller's allowances, all or nothing."""
        name = CALLER.get()
        for what, allowance in self._allowances.items():
            if amounts[what] > allowance.per_minute:
                raise Failure(
                    HTTPStatus.BAD_REQUEST,
                    f"The request may take {amounts[what]} {what}, the API key {name!r} has "
                    f"{allowance.per_minute} a minute. Ask for less.",
                    code="request_too_large",
                )
            if (seconds := allowance.wait_s(name, amounts[what])) > 0:
                message = f"The API key {name!r} has used its {allowance.per_minute} {what} a minute."
                failure = _later(HTTPStatus.TOO_MANY_REQUESTS, f"{message} Try again later.", seconds)
                failure.code = "rate_limit_exceeded"
                raise failure
        for what, allowance in self._allowances.items():
            allowance.take(name, amounts[what])

    def enter(self, stream: AsyncStream, cost: int) -> None:
        """Count an admitted answer until it ends."""
        key, name = id(stream), CALLER.get()
        self._tokens[key] = cost

        def leave(last: Delta | None) -> None:
            self._tokens.pop(key, None)
            if "tokens" in self._allowances and last is not None and last.usage is not None:
                self._allowances["tokens"].take(name, last.usage.total_tokens - cost)
            if last is not None:
                self._measure(last)
            self._metrics.ended(last)

        stream.on_end = leave

    def _measure(self, last: Delta) -> None:
        """Speeds of an answer that ended, as a client saw them: its prompt's and its own."""
        usage, timings = last.usage, last.timings
        if usage is None or timings is None:
            return
        n_new = usage.prompt_tokens - usage.cached_tokens
        for name, n, seconds in (
            ("prefill", n_new, timings.prefill_s),
            ("decode", usage.completion_tokens - 1, timings.decode_s),
        ):
            if n >= MEASURED and seconds > 0:
                before = self._speeds.get(name, n / seconds)
                self._speeds[name] = before + 0.2 * (n / seconds - before)

    def seconds_for(self, n_prefill: int, n_decode: int) -> dict[str, float | None]:
        """How long they would take at the speeds of the last answers; None where nothing was measured yet.

        ``waiting`` is for what is ahead in the queue where no place is free.
        """
        load = self._llm.load()
        ahead = sum(self._tokens.values()) if load.n_waiting else 0
        seconds: dict[str, float | None] = {"waiting": ahead / max(self._rate, 0.1)}
        for name, n in (("prefill", n_prefill), ("decode", n_decode)):
            seconds[name] = n / self._speeds[name] if name in self._speeds else None
        return seconds

    def trouble(self) -> str | None:
        """Why the server is not ready, in a sentence, or None where it is."""
        if self._llm.failure is not None:
            return f"The engine has stopped: {self._llm.failure}."
        stalled = self._llm.load().stalled_s
        if stalled > self.limits.stall_s:
            return f"Answers are in work and the engine has brought nothing for {stalled:.0f} s."
        return None

    @property
    def is_wedged(self) -> bool:
        """The engine has not moved for so long that nobody waits for it any more."""
        return self._llm.failure is None and self._llm.load().stalled_s > self.limits.watchdog_s

    def keep_alive(self, streams: Sequence[AsyncStream]) -> str:
        """What a silent stream is told: how far its answers are."""
        if self._llm.failure is not None:
            return "the engine has stopped"
        known = [each for stream in streams if (each := stream.progress()) is not None]
        ahead = [each.n_ahead for each in known if each.n_ahead is not None]
        n_read, n_prompt = sum(each.n_read for each in known), sum(each.n_prompt for each in known)
        if not known:
            return "keep-alive"
        if ahead:
            return f"in the queue behind {max(ahead)}; the prompt has {n_prompt} tokens"
        if n_read < n_prompt:
            return f"{n_read} of {n_prompt} tokens of the prompt are read"
        return f"{sum(each.n_written for each in known)} tokens are written"

    def end_all(self, why: str) -> None:
        """End the answers in work with an error."""
        self._llm.abandon(Hermes3Error(why))

    async def watch(self) -> None:
        """Measure the engine, and give its answers up when it is wedged. Runs until it is cancelled."""
        n_before, before = 0, time.monotonic()
        while True:
            await asyncio.sleep(min(LOOK_S, self.limits.stall_s / 4))
            if self._llm.failure is not None:
                continue
            load, now = self._llm.load(), time.monotonic()
            if load.n_running:
                self._rate += 0.2 * ((load.n_computed - n_before) / (now - before) - self._rate)
            n_before, before = load.n_computed, now
            if not self.is_wedged:
                self._abandoned = False
            elif not self._abandoned:
                self._abandoned = True
                _log.error("the engine has brought nothing for %.0f s: its answers are ended", load.stalled_s)
                self.end_all(f"the engine brought nothing for {load.stalled_s:.0f} s and was given up")

    def _full(self, why: str, n_tokens: float) -> Failure:
        seconds = n_tokens / max(self._rate, 0.1)
        failure = _later(HTTPStatus.TOO_MANY_REQUESTS, f"{why} Try again later.", seconds)
        failure.code = "overloaded"
        return failure


def _later(status: int, message: str, seconds: float) -> Failure:
    retry = min(max(math.ceil(seconds), 1), MAX_RETRY_S)
    return Failure(status, message, code="unavailable", headers={"retry-after": str(retry)})
