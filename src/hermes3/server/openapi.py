"""/openapi.json and /docs: the routes and what they take, made from the models that read the requests.

Form: OpenAPI 3.1 (https://spec.openapis.org/oas/v3.1.0). Fields that are refused by name stand there with the
values that are taken all the same. What JSON Schema cannot say (two fields that exclude each other, ids that
this model has, a grammar that compiles) is a 400 in the answer's own words.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from html import escape
from http import HTTPStatus
from importlib.metadata import version
from typing import Any, NamedTuple

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from hermes3.server.chat_request import ChatRequest
from hermes3.server.messages import PATH as MESSAGES
from hermes3.server.messages_request import CountRequest, MessagesRequest
from hermes3.server.protocol import CompletionRequest
from hermes3.server.responses_request import ResponsesRequest
from hermes3.server.texts import DetokenizeRequest, TemplateRequest, TokenizeRequest

Object = dict[str, Any]
_REF = "#/components/schemas/"
_BEFORE = (421, 431)  # said of hosts and headers before any route
_BODY = (400, 404, 408, 413, 415, 429, 503)  # what a route that reads a body may answer instead


class Route(NamedTuple):
    """One method of one path.

    Attributes:
        says: what it does.
        takes: the model of its body, None for none.
        gives: keys of its JSON, or its media type.
        streams: whether the answer may be server-sent events.
        refuses: statuses of its refusals; those of keys, hosts and headers are added.
        is_open: no key is asked for.
    """

    method: str
    path: str
    says: str
    takes: type[BaseModel] | None = None
    gives: tuple[str, ...] | str = ()
    streams: bool = False
    refuses: tuple[int, ...] = ()
    is_open: bool = False


_PAGE = "text/html"
_ANSWER = ("id", "object", "created", "model", "choices", "usage", "timings")
_RESPONSE = ("id", "object", "created_at", "status", "model", "output")
ROUTES = (
    Route("post", "/v1/chat/completions", "Answer a chat (OpenAI's protocol)", ChatRequest, _ANSWER,
          True, _BODY),
    Route("post", "/v1/completions", "Go on with a text (OpenAI's protocol)", CompletionRequest, _ANSWER,
          True, _BODY),
    Route("post", "/v1/explain", "What a chat's request would come to, without an answer", ChatRequest,
          ("object", "model", "prompt", "prompt_tokens", "grammar", "estimated_s"), refuses=_BODY),
    Route("post", "/v1/responses", "Answer, and keep the answer (OpenAI's protocol)", ResponsesRequest,
          _RESPONSE, True, _BODY),
    Route("get", "/v1/responses/{name}", "A response as it is, or its events", None, _RESPONSE, True,
          (400, 404)),
    Route("delete", "/v1/responses/{name}", "Forget a response", None, ("id", "object", "deleted"),
          refuses=(404,)),
    Route("post", "/v1/responses/{name}/cancel", "End a response", None, _RESPONSE, refuses=(404,)),
    Route("get", "/v1/responses/{name}/input_items", "The conversation before a response", None,
          ("object", "data", "has_more"), refuses=(404,)),
    Route("post", "/v1/messages", "Answer a chat (Anthropic's protocol)", MessagesRequest,
          ("id", "type", "role", "model", "content", "stop_reason", "usage"), True, _BODY),
    Route("post", "/v1/messages/count_tokens", "Count a prompt's tokens (Anthropic's protocol)", CountRequest,
          ("input_tokens",), refuses=_BODY),
    Route("get", "/v1/models", "The model that is served", None, ("object", "data")),
    Route("get", "/v1/models/{name}", "The model by one of its names", None, ("id", "object"),
          refuses=(404,)),
    Route("post", "/v1/embeddings", "Refused: there are none here", refuses=(400,)),
    Route("post", "/tokenize", "A text's or a conversation's token ids", TokenizeRequest,
          ("count", "max_model_len", "tokens"), refuses=_BODY),
    Route("post", "/detokenize", "The text of token ids", DetokenizeRequest, ("prompt",), refuses=_BODY),
    Route("post", "/apply-template", "A conversation as the model gets it", TemplateRequest, ("prompt",),
          refuses=_BODY),
    Route("get", "/metrics", "Counters for Prometheus", gives="text/plain"),
    Route("get", "/health", "Whether the process is of any use", gives=("status",), refuses=(503,),
          is_open=True),
    Route("get", "/ready", "Whether to send requests here", gives=("status",), refuses=(503,), is_open=True),
    Route("get", "/", "The chat page", gives=_PAGE, is_open=True),
    Route("get", "/docs", "This list, to be read", gives=_PAGE, is_open=True),
    Route("get", "/openapi.json", "This list, as OpenAPI", gives=("openapi", "info", "paths"), is_open=True),
)  # fmt: skip
_NULL_OR_TEXT = {"type": ["string", "null"]}
_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string", "minLength": 1},
                "type": {"enum": ["invalid_request_error", "server_error"]},
                "param": _NULL_OR_TEXT,
                "code": _NULL_OR_TEXT,
            },
            "additionalProperties": False,
        }
    },
    "additionalProperties": False,
}
_ANTHROPIC_ERROR = {
    "type": "object",
    "required": ["type", "error"],
    "properties": {
        "type": {"const": "error"},
        "error": {
            "type": "object",
            "required": ["type", "message"],
            "properties": {"type": {"type": "string"}, "message": {"type": "string", "minLength": 1}},
            "additionalProperties": False,
        },
    },
    "additionalProperties": False,
}
_TROUBLE = {
    "type": "object",
    "required": ["status", "reason"],
    "properties": {"status": {"enum": ["failed", "not ready"]}, "reason": {"type": "string"}},
}
_NUMBER = {"type": "integer", "minimum": 0, "maximum": 999_999_999}
_QUERY: list[Object] = [
    {"name": "stream", "in": "query", "schema": {"enum": ["true", "false"]}, "description": "its events"},
    {"name": "starting_after", "in": "query", "schema": _NUMBER, "description": "of them those after this"},
]


def document(*, asks_for_keys: bool) -> Object:
    """The whole of /openapi.json. It names no model and no setting."""
    kinds = list(dict.fromkeys(route.takes for route in ROUTES if route.takes is not None))
    names, found = models_json_schema(
        [(kind, "validation") for kind in kinds], ref_template=_REF + "{model}"
    )
    schemas = {**found["$defs"], "Error": _ERROR, "AnthropicError": _ANTHROPIC_ERROR, "Trouble": _TROUBLE}
    bodies = {kind: names[kind, "validation"] for kind in kinds}
    for kind, ref in bodies.items():
        _add_refused(kind, schemas[ref["$ref"].removeprefix(_REF)])
    paths: dict[str, Object] = {}
    for route in ROUTES:
        operation = _operation(route, bodies)
        if asks_for_keys and not route.is_open:
            operation["security"] = [{"bearer": []}]
        paths.setdefault(route.path, {})[route.method] = operation
    keys = {"bearer": {"type": "http", "scheme": "bearer"}}
    return {
        "openapi": "3.1.0",
        "info": {"title": "hermes3", "version": version("hermes3"), "license": {"name": "Apache-2.0"}},
        "paths": paths,
        "components": {"schemas": schemas, "securitySchemes": keys},
    }


def methods_of(path: str) -> list[str]:
    """The methods that a request's path has: those that are listed, and HEAD of pages."""
    found = [
        route
        for route in ROUTES
        if re.fullmatch(re.escape(route.path).replace(r"\{name\}", "[^/]+"), path)
    ]
    heads = ["HEAD"] if any(route.gives == _PAGE for route in found) else []
    return [route.method.upper() for route in found] + heads


def page() -> str:
    """/docs: the same to be read; plain HTML, nothing to load and nothing to run."""
    given = document(asks_for_keys=True)
    schemas, lines = given["components"]["schemas"], [_HEAD]
    for path, methods in given["paths"].items():
        for method, operation in methods.items():
            lines += [f"<h2>{method.upper()} {escape(path)}</h2>", f"<p>{escape(operation['summary'])}.</p>"]
            body = operation.get("requestBody")
            if body is not None:
                name = body["content"]["application/json"]["schema"]["$ref"].removeprefix(_REF)
                lines += _fields(schemas[name])
    return "\n".join([*lines, "</html>", ""])


_HEAD = (
    '<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n<title>hermes3: routes</title>\n'
    '<meta name="viewport" content="width=device-width">\n<style>:root{color-scheme:light dark}'
    "body{font:1rem/1.5 system-ui;max-width:60rem;margin:auto;padding:1rem}"
    "td{vertical-align:top;padding-right:1rem}h2{font:600 1.1rem ui-monospace,monospace;margin-top:2rem}"
    '</style>\n<h1>Routes</h1>\n<p>For programs: <a href="/openapi.json">openapi.json</a>. For people: '
    '<a href="/">chat</a>.</p>'
)


def _fields(schema: Object) -> Iterator[str]:
    required = schema.get("required", ())
    yield "<table>"
    for name, field in sorted(schema["properties"].items()):
        must = "required. " if name in required else ""
        yield f"<tr><td><code>{escape(name)}</code><td>{must}{escape(field.get('description', ''))}"
    yield "</table>"


def _add_refused(kind: type[BaseModel], schema: Object) -> None:
    """OpenAI's fields that are not honoured: what may be said there all the same."""
    for name, refused in getattr(kind, "refused", {}).items():
        why = f"Refused: {refused.why}. {refused.remedy}"
        schema["properties"][name] = {"enum": [None, *refused.harmless], "description": why}


def _operation(route: Route, bodies: dict[type[BaseModel], Any]) -> Object:
    operation: Object = {
        "summary": route.says,
        "operationId": "_".join([route.method, *re.findall(r"\w+", route.path)]),
        "responses": _responses(route),
    }
    if "{name}" in route.path:
        name = {"name": "name", "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
        operation["parameters"] = [name]
        if route.streams:
            operation["parameters"] += _QUERY
    if route.takes is not None:
        operation["requestBody"] = {"required": True, "content": _json(bodies[route.takes])}
    return operation


def _responses(route: Route) -> Object:
    found: Object = {}
    if isinstance(route.gives, str):
        found["200"] = {"description": "OK", "content": {route.gives: {"schema": {"type": "string"}}}}
    elif route.gives:
        body = {"type": "object", "required": list(route.gives)}
        found["200"] = {"description": "OK", "content": _json(body)}
        if route.streams:
            found["200"]["content"]["text/event-stream"] = {}
    for status in (*route.refuses, *(() if route.is_open else (401,)), *_BEFORE):
        name = "Error"
        if route.is_open and status == HTTPStatus.SERVICE_UNAVAILABLE:
            name = "Trouble"
        elif route.path.startswith(MESSAGES) and status not in _BEFORE:
            name = "AnthropicError"
        phrase = HTTPStatus(status).phrase
        found[str(status)] = {"description": phrase, "content": _json({"$ref": _REF + name})}
    return found


def _json(schema: Object) -> Object:
    return {"application/json": {"schema": schema}}
