"""What happens in a run, as it happens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from hermes3.llm import FinishReason, Reply, Usage
from hermes3.prompt.messages import Message, ToolCall
from hermes3.prompt.pieces import ParsedCall

Status = Literal["ok", "error", "arguments", "unknown", "timeout", "refused", "broken"]
Reason = Literal["answer", "depth", "length"]


@dataclass(frozen=True, slots=True)
class Said:
    """New text of the model's."""

    text: str
    is_thought: bool = False


@dataclass(frozen=True, slots=True)
class Answer:
    """The model has answered, with calls or without.

    Attributes:
        number: of the round, from 0.
        asked: digest of the conversation that it answers.
        calls: what it wants to be run; those of functions that do not exist come last.
        broken: what was meant as a call and is none.
        parsed: an instance of the class that ``response_format`` was.
    """

    number: int
    asked: str
    text: str
    reasoning: str
    calls: tuple[ToolCall, ...]
    broken: tuple[ParsedCall, ...]
    finish_reason: FinishReason
    usage: Usage
    seconds: float
    parsed: Any = None

    @classmethod
    def of(cls, reply: Reply, *, number: int, asked: str, seconds: float) -> Answer:
        """A round's answer out of the hall's reply."""
        unknown = [call for call in reply.broken_calls if call.status == "unknown"]
        made = [call.to_tool_call(f"unknown_{number}_{index}") for index, call in enumerate(unknown)]
        return cls(
            number=number,
            asked=asked,
            text=reply.text,
            reasoning=reply.reasoning,
            calls=(*reply.tool_calls, *made),
            broken=tuple(call for call in reply.broken_calls if call.status != "unknown"),
            finish_reason=reply.finish_reason,
            usage=reply.usage,
            seconds=seconds,
            parsed=reply.parsed,
        )

    @property
    def is_cut(self) -> bool:
        """Its end is missing."""
        return self.finish_reason in ("length", "cancelled")

    @property
    def message(self) -> Message:
        """It as the conversation holds it: what is no call stands as the model wrote it; a cut answer has no
        calls, for nobody answers them."""
        raw = [call.raw for call in self.broken if call.name is not None]  # others are in the text already
        text = "\n".join(part for part in (self.text, *raw) if part)
        calls = () if self.is_cut else self.calls
        return Message("assistant", text or (None if calls else ""), calls)


@dataclass(frozen=True, slots=True)
class Calling:
    """A call begins to run.

    Attributes:
        index: of the call in its answer.
    """

    index: int
    call: ToolCall


@dataclass(frozen=True, slots=True)
class Result:
    """What came of a call.

    Attributes:
        index: of the call in its answer; broken ones come after the others.
        call: None where it was none.
        content: what the model is told.
        status: ``ok``; ``error``, it raised one; ``arguments``, it does not take them; ``unknown``, there is
            no such function; ``timeout``; ``refused``, by who was asked; ``broken``, it was no call.
        seconds: that it ran.
        detail: the traceback of an error, for people.
    """

    index: int
    call: ToolCall | None
    content: str
    status: Status = "ok"
    seconds: float = 0.0
    detail: str | None = None

    @property
    def message(self) -> Message:
        """It as the conversation holds it."""
        if self.call is None:
            return Message("tool", self.content, name="tool_call")
        return Message("tool", self.content, tool_call_id=self.call.id, name=self.call.name)


@dataclass(frozen=True, slots=True)
class Outcome:
    """The end of a run.

    Attributes:
        text: the final answer.
        reason: ``answer``; ``depth``, the rounds were used up and the last one had no tools; ``length``, the
            answer was cut by max_tokens or the context.
        messages: the whole conversation, to go on with.
        parsed: an instance of the class that ``response_format`` was; None where there is none.
    """

    text: str
    reason: Reason
    messages: tuple[Message, ...]
    parsed: Any = None


Event = Said | Answer | Calling | Result | Outcome
