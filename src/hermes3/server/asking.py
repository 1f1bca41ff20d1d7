"""From a request's fields, in several dialects, to what the hall is asked; within the server's bounds."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, cast

from hermes3.errors import RequestError
from hermes3.llm import LLM, Answering, Prepared
from hermes3.prompt.json_text import read_json
from hermes3.server.chat_request import ChatRequest
from hermes3.server.limits import Limits

Names = Sequence[tuple[str, str]]

_SCHEMA_AT = "response_format.json_schema.schema"


class Wanted(NamedTuple):
    """What the text of an answer must be.

    Attributes:
        field: of the request.
        value: of that field.
        option: the hall's name for it: "response_format" or "grammar".
        asked: what the hall is asked there.
    """

    field: str
    value: object
    option: str
    asked: Mapping[str, Any]


def prepare(llm: LLM, request: ChatRequest, limits: Limits) -> Prepared:
    """The prompt and the grammar of a request. It takes long: not for the event loop.

    Raises:
        RequestError: something cannot be honoured, or exceeds a bound; ``param`` names the request's field.
        ContextLengthError: the prompt exceeds the context.
    """
    wanted = _wanted(request)
    _check_bounds(request, wanted, limits)
    given: dict[str, object] = {
        "tools": request.tools,
        "tool_choice": request.tool_choice,
        "parallel_tool_calls": request.parallel_tool_calls,
        "call_order": request.call_order,
        "reasoning": request.reasoning,
        "on_uncompilable": request.on_uncompilable,
        "citations": request.citations,
        "forced_spans": request.forced_spans,
    }
    if wanted is not None:
        given[wanted.option] = wanted.asked
    asked = cast(Answering, {name: value for name, value in given.items() if value is not None})
    try:
        prepared = llm.prepare(request.messages, **asked)
    except RequestError as error:
        raise _in_words_of(wanted, error) from error
    if wanted is None or wanted.field == _SCHEMA_AT:
        return prepared
    return _named(prepared, wanted.option, wanted.field)


def prepare_in_words(llm: LLM, request: ChatRequest, limits: Limits, names: Names) -> Prepared:
    """``prepare`` for a request of another dialect: what goes wrong, now or in the answer, has its names.

    Args:
        names: a chat's names, each with the dialect's; that of ``response_format`` is among them.

    Raises:
        RequestError, ContextLengthError: see ``prepare``.
    """
    try:
        prepared = prepare(llm, request, limits)
    except RequestError as error:
        raise _renamed(error, names) from error
    return _named(prepared, "response_format", dict(names)["response_format"])


def _named(prepared: Prepared, option: str, field: str) -> Prepared:
    """With a name of the request's for what the hall calls ``option``, in what may go wrong as it answers."""
    grammar = prepared.grammar
    if grammar is None or grammar.param != option:
        return prepared
    return replace(prepared, grammar=grammar.named(field))


def _renamed(error: RequestError, names: Names) -> RequestError:
    """The error with other names, each after the one that it replaces."""
    message, param = str(error), error.param or ""
    for theirs, ours in names:
        message, param = message.replace(theirs, ours), param.replace(theirs, ours)
    return type(error)(message, param=param or None)


def _wanted(request: ChatRequest) -> Wanted | None:
    structured = request.structured_outputs
    if request.response_format is not None and request.response_format != {"type": "text"}:
        return _format(request.response_format)
    for name, schema in (
        ("json_schema", request.json_schema),
        ("guided_json", request.guided_json),
        ("structured_outputs.json", structured and structured.json_schema),
    ):
        if schema is not None:
            return _schema(name, schema)
    if structured is not None and structured.json_object:
        return Wanted("structured_outputs.json_object", True, "response_format", {"type": "json_object"})
    for name, kind, value in (
        ("guided_regex", "regex", request.guided_regex),
        ("guided_choice", "choice", request.guided_choice),
        ("guided_grammar", "gbnf", request.guided_grammar),
        ("structured_outputs.regex", "regex", structured and structured.regex),
        ("structured_outputs.choice", "choice", structured and structured.choice),
        ("structured_outputs.grammar", "gbnf", structured and structured.grammar),
    ):
        if value is not None:
            return Wanted(name, value, "grammar", {kind: value})
    if request.grammar is None:
        return None
    own = request.grammar if isinstance(request.grammar, dict) else {"gbnf": request.grammar}
    return Wanted("grammar", next(iter(own.values()), None), "grammar", own)


def _format(raw: Mapping[str, Any]) -> Wanted:
    """OpenAI's forms, and llama.cpp's, which has the schema beside the type."""
    schema = raw.get("schema")
    if raw.get("type") in ("json_object", "json_schema") and schema is not None and "json_schema" not in raw:
        return _schema("response_format.schema", schema)
    named = raw.get("json_schema")
    schema = named.get("schema") if isinstance(named, dict) else None
    return Wanted(_SCHEMA_AT, schema, "response_format", raw)


def _schema(field: str, raw: object) -> Wanted:
    """A schema as an object, or as its JSON text.

    Raises:
        RequestError: the text is no JSON, or what it holds is no object.
    """
    schema = raw
    if isinstance(raw, str):
        try:
            schema = read_json(raw)
        except ValueError as error:
            raise RequestError(f"{field} is not JSON: {error}", param=field) from error
    if not isinstance(schema, dict):
        raise RequestError(f"{field} must be a JSON Schema object", param=field)
    asked = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
    return Wanted(field, schema, "response_format", asked)


def _in_words_of(wanted: Wanted | None, error: RequestError) -> RequestError:
    """The error with the request's name for a field instead of the hall's."""
    if wanted is None or wanted.field in (_SCHEMA_AT, error.param):
        return error
    for name in (_SCHEMA_AT, wanted.option):
        if error.param is not None and error.param.startswith(name):
            param = wanted.field + error.param.removeprefix(name)
            return type(error)(str(error).replace(name, wanted.field, 1), param=param)
    return error


def _check_bounds(request: ChatRequest, wanted: Wanted | None, limits: Limits) -> None:
    tools = request.tools or []
    _check("tools", "tools", len(tools), limits.max_tools, "max_tools")
    _check("tools", "bytes", _n_bytes(tools), limits.max_tools_bytes, "max_tools_bytes")
    for index, tool in enumerate(tools):
        function = tool.get("function")
        if isinstance(function, dict):
            where = f"tools[{index}].function.parameters"
            _check_schema(where, function.get("parameters"), limits)
    if wanted is None:
        return
    if wanted.option == "response_format":
        _check_schema(wanted.field, wanted.value, limits)
    else:
        _check(wanted.field, "bytes", _n_bytes(wanted.value), limits.max_schema_bytes, "max_schema_bytes")
        if isinstance(wanted.value, str) and "regex" in wanted.asked:
            _check_pattern(wanted.field, wanted.value, limits)


def _check_schema(where: str, schema: object, limits: Limits) -> None:
    _check(where, "bytes", _n_bytes(schema), limits.max_schema_bytes, "max_schema_bytes")
    for depth, pattern in _parts(schema):
        _check(where, "levels of nesting", depth, limits.max_schema_depth, "max_schema_depth")
        _check_pattern(where, pattern, limits)


def _check_pattern(where: str, pattern: str, limits: Limits) -> None:
    _check(where, "characters of a pattern", len(pattern), limits.max_pattern_chars, "max_pattern_chars")


def _parts(schema: object) -> Iterator[tuple[int, str]]:
    """Each object and list inside, as its depth, with the longest pattern that stands there."""
    waiting: list[tuple[int, object]] = [(1, schema)]
    while waiting:
        depth, part = waiting.pop()
        if isinstance(part, dict):
            named = part.get("patternProperties")
            patterns = [*(named if isinstance(named, dict) else ()), part.get("pattern")]
            yield depth, max((each for each in patterns if isinstance(each, str)), key=len, default="")
        if isinstance(part, dict | list):
            waiting += [(depth + 1, each) for each in (part.values() if isinstance(part, dict) else part)]


def _check(where: str, unit: str, given: int, limit: int, name: str) -> None:
    if given > limit:
        raise RequestError(
            f"{where} has {given} {unit}, this server takes {limit} (its limit {name}); send less",
            param=where,
        )


def _n_bytes(value: object) -> int:
    return len(json.dumps(value, ensure_ascii=False).encode(errors="replace"))
