"""Runs calls: side by side, each within its time, none of them able to hold up or bring down the run."""

from __future__ import annotations

import asyncio
import inspect
import threading
import time
import traceback
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextvars import copy_context
from dataclasses import dataclass
from typing import Any

from hermes3.agent.action import Action, ToolError
from hermes3.agent.arguments import ArgumentsError, reader_of
from hermes3.agent.events import Answer, Calling, Event, Result
from hermes3.agent.results import MIN_TOKENS, bounded, error_text, text_of
from hermes3.prompt.messages import ToolCall
from hermes3.prompt.pieces import ParsedCall

MAX_AT_ONCE = 16  # calls that run side by side

Ask = Callable[[ToolCall], bool]


class StoppedError(Exception):
    """The run was stopped from another thread."""


@dataclass(frozen=True, slots=True)
class Limit:
    """How long a result may be, in tokens."""

    n: int
    n_tokens: Callable[[str], int]

    def applied(self, text: str) -> str:
        """The text, cut where it is longer."""
        return bounded(text, self.n, self.n_tokens)


class Runner:
    """Runs the calls of one run.

    Args:
        actions: what may be called.
        timeout_s: seconds that a call may take.
        max_tokens: of the results of one answer together.
        n_tokens: counts a text's tokens.
        ask: is asked before a call of an action that writes runs; None asks nobody.
        loop: runs what is async; None for one of its own.
    """

    def __init__(
        self,
        actions: Sequence[Action],
        *,
        timeout_s: float,
        max_tokens: int,
        n_tokens: Callable[[str], int],
        ask: Ask | None,
        loop: asyncio.AbstractEventLoop | None,
    ) -> None:
        self._actions = {action.tool.name: action for action in actions}
        self._readers = {name: reader_of(action) for name, action in self._actions.items()}
        self._timeout_s, self._ask = timeout_s, ask
        self._max_tokens, self._n_tokens = max_tokens, n_tokens
        self._loop, self._own_loop = loop, OwnLoop()
        self._stop: Future[None] = Future()

    def stop(self) -> None:
        """End the run, from any thread: what is waited for here raises ``StoppedError``."""
        if not self._stop.done():
            self._stop.set_result(None)

    def close(self) -> None:
        """Let go of what is left."""
        self._own_loop.close()

    def carry_out(self, answer: Answer) -> Iterator[Event]:
        """Run an answer's calls; results come as they are there.

        Raises:
            StoppedError: see ``stop``.
        """
        broken = list(enumerate(answer.broken, len(answer.calls)))
        share = self._max_tokens // max(1, len(answer.calls) + len(broken))
        limit = Limit(max(MIN_TOKENS, share), self._n_tokens)
        for start in range(0, len(answer.calls), MAX_AT_ONCE):
            indexes = range(start, min(start + MAX_AT_ONCE, len(answer.calls)))
            yield from self._side_by_side([(index, answer.calls[index]) for index in indexes], limit)
        for index, call in broken:
            yield Result(index, None, _what_was_no_call(call), "broken", detail=call.error)

    def _side_by_side(self, calls: Sequence[tuple[int, ToolCall]], limit: Limit) -> Iterator[Event]:
        ready = []
        for index, call in calls:
            read = self._read(index, call)
            if isinstance(read, Result):
                yield read
            else:
                ready.append((index, call, read))
        jobs = []
        for index, call, arguments in sorted(
            ready, key=lambda each: not self._actions[each[1].name].is_attended
        ):
            yield Calling(index, call)
            if self._actions[call.name].is_attended:
                yield _attended(index, call, self._actions[call.name].run, arguments, limit)
                continue
            jobs.append(_Job(index, call, self._actions[call.name].run, arguments, self._awaited))
        try:
            yield from self._results(jobs, limit)
        finally:
            for job in jobs:
                job.abandon()

    def _read(self, index: int, call: ToolCall) -> Result | dict[str, Any]:
        """The arguments of a call that may run, or why it may not."""
        if call.name not in self._actions:
            there = ", ".join(self._actions)[:400]
            what = f"Error: there is no function {call.name!r:.80}; there are: {there}. "
            return Result(index, call, what + "Call one of these, with correct arguments.", "unknown")
        try:
            arguments = self._readers[call.name](call.arguments)
        except ArgumentsError as error:
            return Result(index, call, error_text(call.name, f"wrong arguments: {error}"), "arguments")
        if self._actions[call.name].writes and self._ask is not None and not self._ask(call):
            return Result(
                index, call, "Error: the user did not allow this call. Do not repeat it.", "refused"
            )
        return arguments

    def _results(self, jobs: Sequence[_Job], limit: Limit) -> Iterator[Result]:
        """The results of jobs as they end, or as their time does."""
        left: dict[Future[Any], _Job] = {job.future: job for job in jobs}
        while left:
            ends = min(job.begun for job in left.values()) + self._timeout_s
            seconds = max(0.0, ends - time.monotonic())
            done, _ = wait([*left, self._stop], timeout=seconds, return_when=FIRST_COMPLETED)
            if self._stop in done:
                raise StoppedError
            for future in done:
                yield left.pop(future).result(limit)
            now = time.monotonic()
            due = now - self._timeout_s
            for job in [job for job in left.values() if job.begun <= due and not job.future.done()]:
                del left[job.future]
                job.abandon()
                what = f"it gave no result within {self._timeout_s:g} s and was given up"
                yield Result(job.index, job.call, error_text(job.call.name, what), "timeout", now - job.begun)

    def _awaited(self, value: Awaitable[Any]) -> Future[Any]:
        async def awaited() -> Any:
            return await value

        return asyncio.run_coroutine_threadsafe(awaited(), self._loop or self._own_loop.get())


class OwnLoop:
    """An event loop in a thread of its own, begun when it is first needed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None

    def get(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                threading.Thread(target=self._loop.run_forever, name="hermes3-async", daemon=True).start()
            return self._loop

    def close(self) -> None:
        """Stop it; what still runs there is left alone."""
        with self._lock:
            if self._loop is not None:
                self._loop.call_soon_threadsafe(self._loop.stop)
                self._loop = None


class _Job:
    """One call in a thread of its own, which ends with Python and not before where the function does not."""

    def __init__(
        self,
        index: int,
        call: ToolCall,
        run: Callable[..., Any],
        arguments: Mapping[str, Any],
        awaited: Callable[[Awaitable[Any]], Future[Any]],
    ) -> None:
        self.index, self.call, self.begun = index, call, time.monotonic()
        self.future: Future[str] = Future()
        self._inner: Future[Any] | None = None
        self._is_abandoned = False
        self._ended = self.begun

        def work() -> None:
            try:
                text = text_of(self._waited(run(**arguments), awaited))
            except BaseException as error:  # sys.exit in a function, for example
                self._ended = time.monotonic()
                self.future.set_exception(error)
            else:
                self._ended = time.monotonic()
                self.future.set_result(text)

        threading.Thread(
            target=copy_context().run, args=(work,), name=f"hermes3-{call.name}", daemon=True
        ).start()

    def _waited(self, value: Any, awaited: Callable[[Awaitable[Any]], Future[Any]]) -> Any:
        inner = awaited(value) if inspect.isawaitable(value) else value
        if not isinstance(inner, Future):
            return inner
        self._inner = inner
        if self._is_abandoned:
            inner.cancel()
        return inner.result()

    def abandon(self) -> None:
        """Nobody waits for it any more; what can be cancelled is."""
        self._is_abandoned = True
        if self._inner is not None:
            self._inner.cancel()

    def result(self, limit: Limit) -> Result:
        """What came of it, once it is done."""
        seconds = self._ended - self.begun
        error = self.future.exception()
        if error is not None:
            return _failed(self.index, self.call, error, seconds)
        return Result(self.index, self.call, limit.applied(self.future.result()), "ok", seconds)


def _attended(
    index: int, call: ToolCall, run: Callable[..., Any], arguments: Mapping[str, Any], limit: Limit
) -> Result:
    """The result of a call that asks a person."""
    begun = time.monotonic()
    try:
        text = text_of(run(**arguments))
    except Exception as error:
        return _failed(index, call, error, time.monotonic() - begun)
    return Result(index, call, limit.applied(text), "ok", time.monotonic() - begun)


def _failed(index: int, call: ToolCall, error: BaseException, seconds: float) -> Result:
    what = str(error) or type(error).__name__
    if str(error) and not isinstance(error, ToolError):
        what = f"{type(error).__name__}: {error}"
    detail = "".join(traceback.format_exception(error))
    return Result(index, call, error_text(call.name, what), "error", seconds, detail)


def _what_was_no_call(call: ParsedCall) -> str:
    return error_text("the function", f"this was no sound call: {call.error or call.status}")
