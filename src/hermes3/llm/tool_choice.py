"""Whether an answer must call a tool, and which: OpenAI's ``tool_choice``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from hermes3.errors import RequestError
from hermes3.prompt.messages import Tool

Choice = Literal["auto", "required", "none"]


def choice_of(raw: object, tools: Sequence[Tool]) -> tuple[Choice, tuple[Tool, ...]]:
    """Whether there must be a call, and of what.

    Args:
        raw: "auto", "required", "none"; ``{"type": "function", "function": {"name": ...}}``; or
            ``{"type": "allowed_tools", "allowed_tools": {"mode": "auto" or "required", "tools": [...]}}``.
        tools: what the prompt says about.

    Raises:
        RequestError: it is none of these, or names a tool that is not there.
    """
    if raw is None or raw == "auto":
        return "auto", tuple(tools)
    if raw == "none":
        return "none", ()
    if not (raw == "required" or isinstance(raw, Mapping)):
        shown = f"{raw!r:.60}"
        raise RequestError(
            f"tool_choice is {shown}, it must be 'auto', 'required', 'none' or an object that names a tool",
            param="tool_choice",
        )
    if not tools:
        raise RequestError("tool_choice asks for a call, but there are no tools", param="tool_choice")
    if not isinstance(raw, Mapping):
        return "required", tuple(tools)
    if raw.get("type") == "allowed_tools":
        return _allowed(raw.get("allowed_tools"), tools)
    return "required", (_named(raw, tools, "tool_choice"),)


def _allowed(raw: object, tools: Sequence[Tool]) -> tuple[Choice, tuple[Tool, ...]]:
    """Some of the tools; the prompt says about all of them, so that what is cached of it stays of use."""
    where = "tool_choice.allowed_tools"
    mode = raw.get("mode") if isinstance(raw, Mapping) else None
    names = raw.get("tools") if isinstance(raw, Mapping) else None
    if mode not in ("auto", "required"):
        raise RequestError(
            f"{where}.mode is {mode!r:.60}, it must be 'auto' or 'required'", param=f"{where}.mode"
        )
    if not isinstance(names, Sequence) or isinstance(names, str) or not names:
        raise RequestError(f"{where}.tools must be a list of at least one tool", param=f"{where}.tools")
    found = [_named(each, tools, f"{where}.tools[{index}]") for index, each in enumerate(names)]
    return mode, tuple(tool for tool in tools if tool in found)


def _named(raw: Any, tools: Sequence[Tool], where: str) -> Tool:
    kind = raw.get("type") if isinstance(raw, Mapping) else None
    if kind != "function":
        raise RequestError(f"{where}.type is {kind!r:.60}; only 'function' exists", param=f"{where}.type")
    function = raw.get("function")
    name = function.get("name") if isinstance(function, Mapping) else None
    if not isinstance(name, str):
        raise RequestError(
            f"{where} names no function; write {{'type': 'function', 'function': {{'name': ...}}}}",
            param=f"{where}.function",
        )
    for tool in tools:
        if tool.name == name:
            return tool
    known = ", ".join(tool.name for tool in tools)[:400]
    raise RequestError(
        f"{where} names the function {name!r:.80}; there are: {known}", param=f"{where}.function.name"
    )
