"""What a row says may be called, and whether its calls are such."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hermes3.prompt.checking import Checker, checker_of
from hermes3.prompt.functions import parse_tools
from hermes3.prompt.json_text import json_text
from hermes3.prompt.messages import Tool, ToolCall
from hermes3.prompt.refusal import kind_of, refuse
from hermes3.prompt.splitter import parse_reply
from hermes3.prompt.tools import END_TOOL_CALL, TOOL_CALL
from hermes3.train.data.dialects import as_openai
from hermes3.train.data.results import tagged, value_of


@dataclass(frozen=True, slots=True)
class Tools:
    """What may be called; whether descriptions were rewritten, see ``dialects``."""

    tools: tuple[Tool, ...] = ()
    is_rewritten: bool = False


def tools_of(raw: object, where: str) -> Tools:
    """Tools out of a row's field: a list, or its JSON; each in OpenAI's form, or the function alone.

    Raises:
        RequestError: anything else.
    """
    if raw is None or raw == "":
        return Tools()
    if isinstance(raw, str):
        value = value_of(raw)
        if value is None:
            refuse(where, f"is {raw!r:.60}; it must be a list of tools, or JSON of one")
        raw = value
    if isinstance(raw, Mapping):
        raw = [raw]
    if not isinstance(raw, list):
        refuse(where, f"must be a list of tools, not {kind_of(raw)}")
    read = [as_openai(each) for each in raw]
    tools = parse_tools([tool for tool, _ in read], param=where)
    return Tools(tuple(tools), any(is_new for _, is_new in read))


def tools_in(system: str) -> Tools | None:
    """The tools that a system message names between its tags; None where it has none."""
    found = [body for body in tagged(system, "tools")[0] if body]
    if not found:
        return None
    value = value_of(found[-1])
    if value is None:  # the card's form: several stand one per line
        value = [value_of(line) for line in found[-1].splitlines()]
    return tools_of(value, "tools of the system message")


def calls_in(text: str, where: str) -> tuple[str, list[ToolCall]]:
    """The calls that an assistant's text holds in their tags, and the text without them.

    Raises:
        RequestError: what is meant as a call and is none.
    """
    if TOOL_CALL not in text:
        return text, []
    reply = parse_reply(text)
    for call in reply.calls:
        if call.status in ("broken", "cut"):
            refuse(where, f"holds a call that is {call.status}: {call.error}")
    return reply.content, [call.to_tool_call() for call in reply.calls]


def calls_of(raw: object, where: str) -> list[ToolCall]:
    """Calls out of a ``function_call`` turn: one object, or several, or their JSON.

    Raises:
        RequestError: they are no calls.
    """
    text = raw if isinstance(raw, str) else json_text(raw, where)
    if TOOL_CALL not in text:
        text = f"{TOOL_CALL}\n{text}\n{END_TOOL_CALL}"
    rest, calls = calls_in(text, where)
    if rest.strip() or not calls:
        refuse(where, f"holds {rest.strip()!r:.60} beside calls" if calls else "holds no call")
    return calls


class CallCheck:
    """Whether calls are of tools that exist, with arguments that their schemas allow.

    Args:
        tools: what may be called.
    """

    def __init__(self, tools: Sequence[Tool]) -> None:
        self._tools = {tool.name: tool for tool in tools}
        self._checkers: dict[str, Checker] = {}

    def __call__(self, calls: Sequence[ToolCall], where: str) -> None:
        """Check the calls of one turn.

        Raises:
            RequestError: one is not so; or it is of a tool whose schema is none.
        """
        for index, call in enumerate(calls):
            at = f"{where}.tool_calls[{index}]"
            if call.name not in self._tools:
                known = ", ".join(self._tools)[:200] or "none"
                refuse(at, f"calls {call.name!r:.60}, which is not among the tools ({known})")
            if call.name not in self._checkers:
                self._checkers[call.name] = checker_of(self._tools[call.name])
            error = next(self._checkers[call.name].errors(call.arguments), None)
            if error is not None:
                refuse(at, f"calls {call.name} with arguments that its schema forbids: {error}")
