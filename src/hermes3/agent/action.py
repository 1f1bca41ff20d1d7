"""A tool and what runs it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from hermes3.prompt.functions import parse_tools
from hermes3.prompt.messages import Tool
from hermes3.prompt.refusal import refuse

_F = TypeVar("_F", bound=Callable[..., Any])


class ToolError(Exception):
    """A function failed; its message is told to the model as it is, without the name of a Python class."""


_MARK = "__hermes3_writes__"


@dataclass(frozen=True, slots=True)
class Action:
    """A tool and what runs it.

    Attributes:
        tool: what the model reads.
        run: is called with the arguments by name, in a thread of its own; gives the result, or an awaitable
            or a ``concurrent.futures.Future`` of it, which are cancelled when the time is over.
        writes: it changes something in the world: its calls are asked about before they run.
        is_typed: ``run`` has type hints, which the arguments are turned into.
        is_attended: ``run`` asks a person: it runs in the thread that iterates over the run, alone and as
            long as it takes.
    """

    tool: Tool
    run: Callable[..., Any]
    writes: bool = False
    is_typed: bool = False
    is_attended: bool = False


def writes(function: _F) -> _F:
    """Mark a function as one that changes something in the world: its calls are asked about before they run.

    To be written above its ``def``: ``@writes``.
    """
    setattr(function, _MARK, True)
    return function


def actions_of(raw: Iterable[object], *, param: str = "tools") -> list[Action]:
    """What an agent may do.

    Args:
        raw: Python functions, plain or async, and ``Action`` objects.
        param: what errors call it.

    Raises:
        RequestError: one that cannot be run or described, too many, or a name given twice.
    """
    if isinstance(raw, Iterable) and not isinstance(raw, (str, bytes, Mapping)):
        raw = list(raw)
        for index, each in enumerate(raw):
            if not isinstance(each, Action) and (not callable(each) or inspect.isclass(each)):
                what = "has nothing that runs it; give a function, or Action(tool, function)"
                refuse(f"{param}[{index}]", f"is {each!r:.60}, which {what}")
        tools = parse_tools([each.tool if isinstance(each, Action) else each for each in raw], param=param)
    else:
        tools = parse_tools(raw, param=param)  # which refuses it
    return [_action(each, tool) for each, tool in zip(raw, tools, strict=True)]


def _action(raw: Any, tool: Tool) -> Action:
    if isinstance(raw, Action):
        return replace(raw, tool=tool)
    return Action(tool, raw, getattr(raw, _MARK, False), is_typed=True)
