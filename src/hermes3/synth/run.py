"""All tasks, several at a time; judged and written in their order, so that every run gives the same."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from hermes3.errors import Hermes3Error
from hermes3.prompt.messages import Message
from hermes3.synth.judging import Judge
from hermes3.synth.output import Output
from hermes3.synth.tasks import Settings, Task, openai_tools
from hermes3.synth.teacher import RejectedError, Teacher, UnansweredError
from hermes3.synth.writing import written

AHEAD = 4  # conversations, in multiples of those at work, that may wait for one before them
PATIENCE = 10  # tasks without an answer, one after the other, until the run gives up


@dataclass(slots=True)
class Outcome:
    """What became of all tasks, earlier runs included.

    Attributes:
        n_kept, n_dropped: conversations written and left out.
        n_unanswered: those that another run may try again.
        n_before: of all, those that were there already.
    """

    n_kept: int
    n_dropped: int
    n_unanswered: int
    n_before: int

    @property
    def n(self) -> int:
        """Tasks that something became of."""
        return self.n_kept + self.n_dropped + self.n_unanswered


Told = Callable[[Outcome], None]
Result = list[Message] | RejectedError | UnansweredError


async def synthesize(
    tasks: Sequence[Task],
    teacher: Teacher,
    settings: Settings,
    output: Output,
    judge: Judge,
    *,
    at_once: int,
    told: Told,
) -> Outcome:
    """Writes the conversations that are not there yet.

    Args:
        at_once: conversations at work together.
        told: is told of every one.

    Raises:
        Hermes3Error: the teacher will not answer, or did not ten times in a row.
    """
    for row in output.kept:
        judge.remember(row["provenance"]["id"], row)
    left = [task for task in tasks if task.id not in output.done]
    outcome = Outcome(len(output.kept), output.n_dropped, 0, len(tasks) - len(left))
    silent = 0
    async with teacher:
        async for task, result in _in_order(left, teacher, settings, at_once):
            if isinstance(result, UnansweredError):
                outcome.n_unanswered += 1
                silent += 1
                if silent >= PATIENCE:
                    raise Hermes3Error(f"{silent} in a row got no answer ({result}); run it again later")
            else:
                silent = 0
                _write(task, result, settings, output, judge)
            outcome.n_kept, outcome.n_dropped = len(output.kept), output.n_dropped
            told(outcome)
    return outcome


async def _in_order(
    tasks: Sequence[Task], teacher: Teacher, settings: Settings, at_once: int
) -> AsyncIterator[tuple[Task, Result]]:
    """Results in the order of the tasks; some are worked at while an earlier one is waited for."""
    gate = asyncio.Semaphore(at_once)
    fatal: Hermes3Error | None = None  # no other is begun after it, whichever is waited for

    async def one(task: Task) -> Result:
        nonlocal fatal
        async with gate:
            if fatal is not None:
                raise fatal
            try:
                return await written(task, teacher, settings)
            except (RejectedError, UnansweredError) as error:
                return error
            except Hermes3Error as error:
                fatal = error
                raise

    running: deque[tuple[Task, asyncio.Task[Result]]] = deque()
    try:
        for task in tasks:
            running.append((task, asyncio.create_task(one(task))))
            if len(running) >= AHEAD * at_once:
                first, future = running[0]
                yield first, await future
                running.popleft()
        while running:
            first, future = running[0]
            yield first, await future
            running.popleft()
    finally:
        for _, future in running:
            future.cancel()
        await asyncio.gather(*(future for _, future in running), return_exceptions=True)


def _write(
    task: Task, result: list[Message] | RejectedError, settings: Settings, output: Output, judge: Judge
) -> None:
    provenance = _provenance(task, settings)
    if isinstance(result, RejectedError):
        output.drop({"reason": str(result), "provenance": provenance})
        return
    row: dict[str, Any] = {"messages": [message.to_dict() for message in result]}
    if task.tools:
        row["tools"] = openai_tools(task.tools)
    row["provenance"] = provenance
    try:
        judge.judge(row)
        judge.remember(task.id, row)
    except RejectedError as error:
        output.drop({"reason": str(error), **row})
    else:
        output.keep(row)


def _provenance(task: Task, settings: Settings) -> dict[str, Any]:
    """Where a conversation comes from: all that is needed to write it again."""
    asked = {name: value for name, value in asdict(settings).items() if name != "n"}
    return {"id": task.id, "source": task.source, "number": task.number, "writer": "hermes3", **asked}
