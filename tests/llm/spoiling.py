"""Calls made wrong, one thing at a time; jsonschema says which of them are wrong indeed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jsonschema

from hermes3.llm.grammar_text import arguments_schema
from hermes3.prompt.messages import Tool, ToolCall

Spoiled = tuple[str, dict[str, Any]]  # name, arguments
OTHERS: tuple[Any, ...] = ("text", 7, -1.5, True, None, [], [[]], {}, {"a": 1}, [1, "a"])


def spoiled(call: ToolCall, tools: Sequence[Tool]) -> dict[str, list[Spoiled]]:
    """Wrong calls by what is wrong with them."""
    tool = next(tool for tool in tools if tool.name == call.name)
    schema = arguments_schema(tool)
    valid = jsonschema.Draft202012Validator(schema)
    found: dict[str, list[Spoiled]] = defaultdict(list)
    names = {each.name for each in tools}
    for name in (call.name + "s", call.name[:-1], call.name.upper(), call.name.lower() + "_", "", "eval"):
        if name not in names:
            found["unknown name"].append((name, dict(call.arguments)))
    for kind, arguments in _changed(dict(call.arguments), schema):
        if not valid.is_valid(arguments):
            found[kind].append((call.name, arguments))
    return found


def _changed(value: Any, schema: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Each change of one thing in a value that has this schema."""
    if isinstance(value, dict):
        for key in ("x_unknown", "", "Name", "arguments"):
            if key not in value:
                yield "unknown parameter", {**value, key: 1}
                yield "unknown parameter", {key: "x", **value}
        for key in value:
            yield "missing required", {other: value[other] for other in value if other != key}
        for key, part in value.items():
            for kind, other in _replaced(part, schema.get("properties", {}).get(key, {})):
                yield kind, {**value, key: other}
    elif isinstance(value, list):
        for index, part in enumerate(value[:2]):
            for kind, other in _replaced(part, schema.get("items", {})):
                yield kind, [*value[:index], other, *value[index + 1 :]]


def _replaced(value: Any, schema: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for other in (*OTHERS, str(value), [value]):
        yield "wrong type", other
    if "enum" in schema:
        for other in ("", f"{value}x", f"x{value}", str(value).swapcase()):
            yield "bad enum", other
    if isinstance(value, dict | list):
        yield from _changed(value, schema)
