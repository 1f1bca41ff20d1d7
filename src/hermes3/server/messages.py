"""Anthropic's /v1/messages: its bodies and events, from the hall's replies and deltas."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, Iterator
from dataclasses import asdict

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from hermes3.llm import LLM, Delta, Prepared, Reply, ToolCallDelta, Usage
from hermes3.llm.async_stream import AsyncStream
from hermes3.server.answers import Body, Envelope, timings_body
from hermes3.server.asking import prepare_in_words
from hermes3.server.chat_request import ChatRequest
from hermes3.server.desk import Desk
from hermes3.server.endpoints import Endpoints, read_body
from hermes3.server.failures import Failure, failure_of
from hermes3.server.messages_request import CountRequest, MessagesRequest
from hermes3.server.sse import event
from hermes3.server.worker import replies, unless_gone

PATH = "/v1/messages"
_log = logging.getLogger("hermes3.server")
_NAMES = (
    ("].function.parameters", "].input_schema"),
    ("].function.", "]."),
    ("response_format.json_schema", "output_config.format"),
    ("response_format", "output_config.format"),
)
_KINDS = {
    400: "invalid_request_error", 401: "authentication_error", 403: "permission_error",
    404: "not_found_error", 413: "request_too_large", 429: "rate_limit_error", 503: "overloaded_error",
}  # fmt: skip


class Messages:
    """The routes.

    Args:
        llm: the hall.
        desk: lets requests in.
        routes: starts answers.
    """

    def __init__(self, llm: LLM, desk: Desk, routes: Endpoints) -> None:
        self._llm = llm
        self._desk = desk
        self._routes = routes

    async def create(self, http: Request) -> Response:
        asked = MessagesRequest.model_validate_json(await read_body(http, self._desk))
        self._routes.check_model(asked.model)
        request = asked.chat()
        prepared = await self._prepared(request)
        envelope = self._routes.envelope("msg")
        (stream,) = await self._routes.start(envelope, request, [prepared], request.who)
        if asked.stream:
            return self._routes.event_stream(events(envelope, stream, len(prepared.ids)), [stream])
        (reply,) = await unless_gone(http, replies([stream]))
        return JSONResponse(message(envelope, reply))

    async def count_tokens(self, http: Request) -> Response:
        asked = CountRequest.model_validate_json(await read_body(http, self._desk))
        self._routes.check_model(asked.model)
        prepared = await self._prepared(asked.chat())
        return JSONResponse({"input_tokens": len(prepared.ids)})

    async def _prepared(self, request: ChatRequest) -> Prepared:
        return await asyncio.to_thread(prepare_in_words, self._llm, request, self._desk.limits, _NAMES)


def error_body(failure: Failure) -> Body:
    """A failure in Anthropic's shape."""
    kind = _KINDS.get(failure.status, "api_error" if failure.status >= 500 else "invalid_request_error")
    return {"type": "error", "error": {"type": kind, "message": str(failure)}}


def message(envelope: Envelope, reply: Reply) -> Body:
    """A whole answer. A call that the end of the answer cut is told beside the content, not in it."""
    content: list[Body] = []
    if reply.reasoning:
        content.append({"type": "thinking", "thinking": reply.reasoning, "signature": ""})
    if reply.text:
        content.append({"type": "text", "text": reply.text, "citations": None})
    content += [
        {"type": "tool_use", "id": call.id, "name": call.name, "input": call.arguments}
        for call in reply.tool_calls
    ]
    broken = {"broken_tool_calls": [asdict(call) for call in reply.broken_calls]}
    return {
        **_opening(envelope, content),
        **_end(reply),
        **_spent(reply),
        **(broken if reply.broken_calls else {}),
    }


async def events(
    envelope: Envelope, stream: AsyncStream, n_prompt: int
) -> AsyncGenerator[bytes, None]:
    """A streamed answer: blocks that open, grow and close, one after the other."""
    started = {**_opening(envelope, []), "stop_reason": None, "stop_sequence": None}
    started["usage"] = _usage(Usage(n_prompt, 0))
    yield _event({"type": "message_start", "message": started})
    blocks = _Blocks()
    try:
        async for batch in stream.batches():
            bodies = [body for delta in batch for body in blocks.of(delta)]
            if (last := batch[-1]).finish_reason is not None:
                bodies.append({"type": "message_delta", "delta": _end(last), **_spent(last)})
            if bodies:
                yield b"".join(map(_event, bodies))
    except Exception as error:
        failure = failure_of(error)
        _log.error("%s failed: %s", envelope.id, failure, exc_info=error)
        yield _event(error_body(failure))
        return
    finally:
        stream.close()
    yield _event({"type": "message_stop"})


class _Blocks:
    """Deltas as content blocks. Calls grow one at a time, so that one block is open at most."""

    def __init__(self) -> None:
        self._n = 0
        self._open: object = None  # "thinking", "text", or a call's index

    def of(self, delta: Delta) -> Iterator[Body]:
        if delta.reasoning:
            yield from self._enter("thinking", {"type": "thinking", "thinking": "", "signature": ""})
            yield self._grown({"type": "thinking_delta", "thinking": delta.reasoning})
        if delta.text:
            yield from self._enter("text", {"type": "text", "text": "", "citations": None})
            yield self._grown({"type": "text_delta", "text": delta.text})
        for call in delta.tool_calls:
            yield from self._call(call)
        if delta.finish_reason is not None:
            yield from self._close()

    def _call(self, call: ToolCallDelta) -> Iterator[Body]:
        if call.name is not None:
            block: Body = {"type": "tool_use", "id": call.id, "name": call.name, "input": {}}
            yield from self._enter(call.index, block)
        if call.arguments:
            yield self._grown({"type": "input_json_delta", "partial_json": call.arguments})

    def _enter(self, what: object, block: Body) -> Iterator[Body]:
        if self._open == what:
            return
        yield from self._close()
        self._open = what
        yield {"type": "content_block_start", "index": self._n, "content_block": block}

    def _grown(self, delta: Body) -> Body:
        return {"type": "content_block_delta", "index": self._n, "delta": delta}

    def _close(self) -> Iterator[Body]:
        if self._open is not None:
            yield {"type": "content_block_stop", "index": self._n}
            self._n += 1
            self._open = None


def _opening(envelope: Envelope, content: list[Body]) -> Body:
    return {
        "id": envelope.id,
        "type": "message",
        "role": "assistant",
        "model": envelope.model,
        "content": content,
    }


def _end(last: Reply | Delta) -> Body:
    reasons = {"length": "max_tokens", "tool_calls": "tool_use"}
    reason = "stop_sequence" if last.stop_string else reasons.get(last.finish_reason or "", "end_turn")
    return {"stop_reason": reason, "stop_sequence": last.stop_string}


def _spent(last: Reply | Delta) -> Body:
    """What an answer took; of a stream's deltas the last one knows it."""
    if last.usage is None or last.timings is None:
        return {}
    return {"usage": _usage(last.usage), "timings": timings_body([(last.timings, last.usage)])}


def _usage(usage: Usage) -> Body:
    """As they count: what came from the cache is not among the input tokens."""
    return {
        "input_tokens": usage.prompt_tokens - usage.cached_tokens,
        "cache_read_input_tokens": usage.cached_tokens,
        "cache_creation_input_tokens": 0,
        "output_tokens": usage.completion_tokens,
    }


def _event(body: Body) -> bytes:
    return event(json.dumps(body), str(body["type"]))
