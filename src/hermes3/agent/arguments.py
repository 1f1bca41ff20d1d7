"""Arguments of a call: checked against the tool's schema, and turned into what the function's hints say."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Iterator, Mapping
from typing import Any, cast

from hermes3.agent.action import Action
from hermes3.llm.grammar_text import arguments_schema
from hermes3.prompt.json_text import json_text
from hermes3.prompt.messages import Tool

MAX_SAID = 5  # things wrong that are told at once

Arguments = Mapping[str, Any]


class ArgumentsError(ValueError):
    """Arguments that a tool does not take; says what is wrong with which."""


def reader_of(action: Action) -> Callable[[Arguments], dict[str, Any]]:
    """What checks the arguments of an action and gives them in the types of its hints.

    What it returns raises ``ArgumentsError``.
    """
    check = _check(action.tool)
    turned = _turned(action.run) if action.is_typed else dict

    def read(arguments: Arguments) -> dict[str, Any]:
        wrong = list(check(arguments))
        if wrong:
            raise ArgumentsError("; ".join(wrong[:MAX_SAID]))
        return turned(arguments)

    return read


def _check(tool: Tool) -> Callable[[Arguments], Iterator[str]]:
    """What says what is wrong by the schema.

    Schemas may come from strangers: references to other documents are not followed, and regular expressions,
    on which Python's ``re`` may hang, are left to the grammar, which follows them in linear time as the model
    writes.
    """
    from jsonschema import Draft202012Validator, validators
    from referencing import Registry

    passed = dict.fromkeys(("pattern", "patternProperties"), _ignored)
    beside = {
        name: _unless_patterns(Draft202012Validator.VALIDATORS[name])
        for name in ("additionalProperties", "unevaluatedProperties")
    }
    kind = validators.extend(Draft202012Validator, {**passed, **beside})
    validator = kind(arguments_schema(tool), registry=Registry())

    def check(arguments: Arguments) -> Iterator[str]:
        try:
            for error in validator.iter_errors(dict(arguments)):
                yield _said(error.absolute_path, error.message)
        except Exception as error:  # a reference that leads nowhere, a schema that is none
            yield f"the schema of {tool.name} cannot be followed: {str(error)[:200]}"

    return check


def _ignored(*_: Any) -> None:
    """What is enforced elsewhere."""


def _unless_patterns(keyword: Callable[..., Any]) -> Callable[..., Any]:
    def check(validator: Any, value: Any, instance: Any, schema: Any) -> Any:
        return () if "patternProperties" in schema else keyword(validator, value, instance, schema)

    return check


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
