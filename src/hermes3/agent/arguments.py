"""Arguments of a call: checked against the tool's schema, and turned into what the function's hints say."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Mapping
from itertools import islice
from typing import Any, cast

from hermes3.agent.action import Action
from hermes3.errors import RequestError
from hermes3.llm.grammar_text import arguments_schema
from hermes3.prompt.checking import Checker
from hermes3.prompt.json_text import json_text

MAX_SAID = 5  # things wrong that are told at once
MAX_S = 1.0  # of computing for one call

Arguments = Mapping[str, Any]


class ArgumentsError(ValueError):
    """Arguments that a tool does not take; says what is wrong with which."""


def reader_of(action: Action) -> Callable[[Arguments], dict[str, Any]]:
    """What checks the arguments of an action and gives them in the types of its hints.

    What it returns raises ``ArgumentsError``.
    """
    schema = arguments_schema(action.tool)
    turned = _turned(action.run) if action.is_typed else dict

    def read(arguments: Arguments) -> dict[str, Any]:
        checker = Checker(f"the schema of {action.tool.name}", schema, max_s=MAX_S)  # it is for one thread
        try:
            wrong = list(islice(checker.errors(arguments), MAX_SAID))
        except RequestError as error:  # a schema may come from a stranger
            raise ArgumentsError(str(error)) from error
        if wrong:
            raise ArgumentsError("; ".join(wrong))
        return turned(arguments)

    return read


def _turned(function: Callable[..., Any]) -> Callable[[Arguments], dict[str, Any]]:
    """What turns arguments into the types of a function's hints, with pydantic."""
    from pydantic import TypeAdapter, ValidationError

    def stand_in(**arguments: Any) -> dict[str, Any]:
        return arguments

    # pydantic reads the signature of the one and calls the other.
    stand_in.__signature__ = inspect.signature(function)  # type: ignore[attr-defined]
    stand_in.__annotations__ = typing.get_type_hints(function, include_extras=True)
    adapter: TypeAdapter[dict[str, Any]] = TypeAdapter(cast(Any, stand_in))

    def turned(arguments: Arguments) -> dict[str, Any]:
        try:
            return adapter.validate_json(json_text(dict(arguments), "arguments"))
        except ValidationError as error:
            wrong = [_said(each["loc"], each["msg"]) for each in error.errors(include_url=False)]
            raise ArgumentsError("; ".join(wrong[:MAX_SAID])) from error

    return turned


def _said(path: typing.Iterable[object], message: str) -> str:
    where = ".".join(map(str, path))
    return f"{where}: {message[:200]}" if where else message[:200]
