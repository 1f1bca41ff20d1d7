"""A trace played again: answers and results come out of it, and nothing runs."""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator, Mapping, Sequence
from typing import Any, NoReturn, cast

from hermes3.agent.events import Answer, Calling, Event, Result, Said
from hermes3.agent.trace import Record, Trace, digest, field
from hermes3.errors import ReplayError
from hermes3.llm import Usage
from hermes3.prompt.json_text import read_json
from hermes3.prompt.messages import Message, ToolCall
from hermes3.prompt.pieces import ParsedCall


class Recorded:
    """Takes answers and results from a trace instead of making them."""

    def __init__(self, trace: Trace) -> None:
        self._records = trace.records
        self._at = 1

    def answer(self, number: int, turns: Sequence[Message], choice: object) -> Generator[Event, None, Answer]:
        """The next answer.

        Raises:
            ReplayError: the trace holds none there, or one to another conversation.
        """
        record = self._next("answer", f"the answer of round {number + 1}")
        if record.get("asked") != digest(turns):
            self._differs("answers another conversation: what came before it was changed")
        try:
            answer = _answer(record)
        except (TypeError, KeyError, ValueError) as error:
            self._differs(f"holds no sound answer: {type(error).__name__}: {error}")
        if answer.reasoning:
            yield Said(answer.reasoning, is_thought=True)
        if answer.text:
            yield Said(answer.text)
        return answer

    def carry_out(self, answer: Answer) -> Iterator[Event]:
        """The results of an answer's calls, in the order in which they came.

        Raises:
            ReplayError: the trace holds others.
        """
        left = set(range(len(answer.calls) + len(answer.broken)))
        while left:
            record = self._next("result", f"the result of call {min(left) + 1}")
            index = record.get("index")
            if not isinstance(index, int) or index not in left:
                self._differs(f"is of call {index!r:.40}, which has no open place there")
            left.remove(index)
            call = answer.calls[index] if index < len(answer.calls) else None
            if record.get("call") != (call.to_dict() if call else None):
                wanted = f"{call.name}({json.dumps(dict(call.arguments))[:200]})" if call else "a broken call"
                self._differs(f"is of another call than the answer's {wanted}")
            if call is not None:
                yield Calling(index, call)
            yield Result(
                index,
                call,
                field(record, "content", str, self._at),
                cast(Any, field(record, "status", str, self._at)),
                float(record.get("seconds") or 0.0),
                record.get("detail"),
            )

    def stop(self) -> None:
        """Nothing runs here."""

    close = stop

    def _next(self, kind: str, wanted: str) -> Record:
        if self._at >= len(self._records):
            raise ReplayError(f"the trace ends where {wanted} should stand; it is of a run that was cut off")
        record = self._records[self._at]
        self._at += 1
        if record["event"] != kind:
            self._differs(f"is {record['event']!r}, where {wanted} should stand")
        return record

    def _differs(self, what: str) -> NoReturn:
        raise ReplayError(f"line {self._at} of the trace {what}")


def _answer(record: Record) -> Answer:
    """An answer out of its record.

    Raises:
        TypeError, KeyError, ValueError: it holds none.
    """
    return Answer(
        number=record["number"],
        asked=record["asked"],
        text=record["text"],
        reasoning=record["reasoning"],
        calls=tuple(_call(call) for call in record["calls"]),
        broken=tuple(
            ParsedCall(None, call["name"], "", call["raw"], "broken", call["error"])
            for call in record["broken"]
        ),
        finish_reason=record["finish_reason"],
        usage=Usage(**record["usage"]),
        seconds=record["seconds"],
    )


def _call(raw: Mapping[str, Any]) -> ToolCall:
    written = raw["function"]["arguments"]
    return ToolCall(raw["function"]["name"], read_json(written), raw["id"], written)
