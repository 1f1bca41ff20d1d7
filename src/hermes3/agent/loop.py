"""``Agent``: ask the model, run what it calls, tell it the results, until it answers.

After the loop of https://github.com/NousResearch/Hermes-Function-Calling: five rounds, errors go back as text
that asks for a call with correct arguments.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future
from typing import Literal, Protocol, Self, Unpack, cast

from hermes3.agent.action import actions_of
from hermes3.agent.events import Answer, Event, Outcome, Reason, Result, Said
from hermes3.agent.recorded import Recorded
from hermes3.agent.running import Ask, Runner, StoppedError
from hermes3.agent.trace import Trace, begin_record, digest
from hermes3.errors import Hermes3Error, RequestError
from hermes3.llm import LLM, ChatOptions, Conversation, Sampling, Stream
from hermes3.llm.options import OnUncompilable
from hermes3.prompt.functions import parse_tools
from hermes3.prompt.messages import Message, Tool, parse_messages
from hermes3.prompt.tools import CallOrder

DEPTH = 5  # rounds with tools
TIMEOUT_S = 60.0
MAX_DEPTH = 100


class AgentOptions(Sampling, total=False):
    """Keyword arguments of an agent's answers: see ``hermes3.llm.Answering``.

    ``tool_choice`` counts for the first round: a call that must be made is made once.
    """

    tool_choice: object
    parallel_tool_calls: bool
    response_format: object
    call_order: CallOrder
    reasoning: bool
    on_uncompilable: OnUncompilable


class Agent:
    """A model with functions that it may call.

    Args:
        llm: the model.
        tools: Python functions with type hints, plain or async, and ``Action`` objects.
        system: system message, where the conversation has none.
        depth: rounds in which it may call; one more follows without tools, so that there is an answer.
        timeout_s: seconds that a call may take. One that takes longer is given up: what is async is
            cancelled, a plain function goes on in its thread until it ends, unheard.
        ask: is called with each call of a tool that writes, before it runs, and says whether it may; False
            runs such calls without asking. A must where there are such tools.
        max_result: tokens that the results of one answer may have together, what is longer is cut; None for
            a quarter of the context.
        options: of the answers: ``tool_choice``, ``response_format``, ``temperature`` and others.

    Raises:
        RequestError: a tool or an option that cannot be honoured; ``param`` names it.
    """

    def __init__(
        self,
        llm: LLM,
        tools: Iterable[object],
        *,
        system: str | None = None,
        depth: int = DEPTH,
        timeout_s: float = TIMEOUT_S,
        ask: Ask | Literal[False] | None = None,
        max_result: int | None = None,
        **options: Unpack[AgentOptions],
    ) -> None:
        self._llm = llm
        self._actions = actions_of(tools)
        self.tools: list[Tool] = [action.tool for action in self._actions]
        if not 1 <= depth <= MAX_DEPTH:
            raise RequestError(f"depth is {depth!r:.40}, it must be 1 to {MAX_DEPTH} rounds", param="depth")
        if not 0 < timeout_s <= threading.TIMEOUT_MAX:
            raise RequestError(
                f"timeout_s is {timeout_s!r:.40}, it must be a number of seconds above 0", param="timeout_s"
            )
        writing = [action.tool.name for action in self._actions if action.writes]
        if writing and ask is None:
            raise RequestError(
                f"{writing[0]} is marked as writing: give ask, a function that says whether a call may run, "
                "or ask=False to run it without asking",
                param="ask",
            )
        self._system, self._depth, self._timeout_s = system, depth, timeout_s
        self._ask: Ask | None = ask or None
        self._max_result = llm.n_ctx // 4 if max_result is None else max_result
        self._options = options

    def run(self, messages: Conversation) -> Outcome:
        """Answer, running what the model calls.

        Args:
            messages: the conversation, oldest first; a string is one user message.

        Raises:
            RequestError, ContextLengthError, Hermes3Error: see ``LLM.chat``; errors of tools are the model's
                to deal with.
        """
        return self.start(messages).outcome()

    def start(self, messages: Conversation) -> Run:
        """The same as it goes: iterate over its events. Nothing happens until that begins."""
        return self._start(messages, None)

    async def arun(self, messages: Conversation) -> Outcome:
        """``run`` for asyncio: async functions run on the caller's event loop."""
        run = self._start(messages, asyncio.get_running_loop())
        done: Future[Outcome] = Future()

        def work() -> None:
            try:
                done.set_result(run.outcome())
            except BaseException as error:
                done.set_exception(error)

        threading.Thread(target=work, name="hermes3-agent", daemon=True).start()
        try:
            return await asyncio.shield(asyncio.wrap_future(done))
        except asyncio.CancelledError:
            run.stop()
            raise

    def _start(self, messages: Conversation, loop: asyncio.AbstractEventLoop | None) -> Run:
        turns = _turns(messages, self._system)
        runner = Runner(
            self._actions,
            timeout_s=self._timeout_s,
            max_tokens=self._max_result,
            n_tokens=lambda text: len(self._llm.tokenizer.encode(text)),
            ask=self._ask,
            loop=loop,
        )
        choice = self._options.get("tool_choice", "auto")
        begin = begin_record(self._llm.name, self._depth, choice, turns, self.tools)
        live = _Live(self._llm, self.tools, self._options, runner)
        return Run(live, turns, self._depth, choice, Trace([begin]))


def replay(trace: Trace, messages: Conversation | None = None, tools: Iterable[object] | None = None) -> Run:
    """A run played again from its trace: the same answers and results, and nothing runs.

    Args:
        messages: what must have been asked; None for whatever it was.
        tools: what must have been there to be called; None for whatever it was.

    Raises:
        ReplayError: the trace is of another run. While it plays: it does not fit together.
    """
    turns = None if messages is None else _turns(messages, None)
    trace.begins_with(turns, None if tools is None else parse_tools(tools))
    return Run(Recorded(trace), trace.messages, trace.depth, trace.tool_choice, Trace(trace.records[:1]))


class World(Protocol):
    """Where answers and results come from: a model and functions, or a trace."""

    def answer(
        self, number: int, turns: Sequence[Message], choice: object, /
    ) -> Generator[Event, None, Answer]: ...

    def carry_out(self, answer: Answer, /) -> Iterator[Event]: ...

    def stop(self) -> None: ...

    def close(self) -> None: ...


class Run:
    """One run: iterate over its events, or take its ``outcome()``. Leaving it early ends what runs.

    Attributes:
        trace: what has happened so far.
    """

    def __init__(
        self, world: World, turns: Sequence[Message], depth: int, choice: object, trace: Trace
    ) -> None:
        self._world = world
        self._events = rounds(world, turns, depth, choice)
        self.trace = trace

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Event:
        """The next event, waiting for it.

        Raises:
            Hermes3Error: see ``Agent.run``.
        """
        try:
            event = next(self._events)
        except StoppedError as error:
            raise Hermes3Error("the run was stopped before there was an answer") from error
        self.trace.note(event)
        return event

    def outcome(self) -> Outcome:
        """Run to the end."""
        for event in self:
            if isinstance(event, Outcome):
                return event
        raise Hermes3Error("the run is over; its outcome was taken already")

    def stop(self) -> None:
        """End it from another thread."""
        self._world.stop()

    def close(self) -> None:
        """End it, where it was iterated over."""
        self._events.close()


def rounds(
    world: World, messages: Sequence[Message], depth: int, choice: object
) -> Generator[Event, None, None]:
    """The loop: at most ``depth`` rounds with tools, and one without."""
    turns = list(messages)
    reason: Reason = "answer"
    try:
        for number in range(depth + 1):
            allowed = "none" if number == depth else choice if number == 0 else "auto"
            answer = yield from world.answer(number, turns, allowed)
            yield answer
            turns.append(answer.message)
            if answer.is_cut or not (answer.calls or answer.broken):
                break
            results: dict[int, Result] = {}
            for event in world.carry_out(answer):
                if isinstance(event, Result):
                    results[event.index] = event
                yield event
            turns += [results[index].message for index in sorted(results)]
        if number == depth:
            reason = "depth"
        if answer.is_cut:
            reason = "length"
        yield Outcome(answer.text, reason, tuple(turns), answer.parsed)
    finally:
        world.close()


class _Live:
    """Answers of a model, results of functions."""

    def __init__(self, llm: LLM, tools: Sequence[Tool], options: AgentOptions, runner: Runner) -> None:
        self._llm, self._tools, self._options, self._runner = llm, tools, options, runner
        self._stream: Stream | None = None
        self._is_stopped = False

    def answer(self, number: int, turns: Sequence[Message], choice: object) -> Generator[Event, None, Answer]:
        begun = time.monotonic()
        options = cast(ChatOptions, {**self._options, "tools": self._tools, "tool_choice": choice})
        if not self._tools:
            del options["tool_choice"]
        with self._llm.chat(turns, stream=True, **options) as stream:
            self._stream = stream
            deltas = []
            for delta in stream:
                if self._is_stopped:
                    raise StoppedError
                deltas.append(delta)
                if delta.reasoning:
                    yield Said(delta.reasoning, is_thought=True)
                if delta.text:
                    yield Said(delta.text)
            reply = stream.joined(deltas)
        return Answer.of(reply, number=number, asked=digest(turns), seconds=time.monotonic() - begun)

    def carry_out(self, answer: Answer) -> Iterator[Event]:
        return self._runner.carry_out(answer)

    def stop(self) -> None:
        self._is_stopped = True
        self._runner.stop()
        if self._stream is not None:
            self._stream.cancel()

    def close(self) -> None:
        self._runner.close()


def _turns(messages: Conversation, system: str | None) -> list[Message]:
    turns = [Message("user", messages)] if isinstance(messages, str) else parse_messages(messages)
    if system is not None and turns[0].role != "system":
        turns.insert(0, Message("system", system))
    return turns
