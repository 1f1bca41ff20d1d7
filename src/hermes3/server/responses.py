"""The routes of /v1/responses: create, stream, follow again, retrieve, cancel, delete."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import AsyncGenerator, Sequence
from http import HTTPStatus

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from hermes3.llm import LLM
from hermes3.server.answers import Body
from hermes3.server.asking import prepare_in_words
from hermes3.server.chat_request import ChatRequest
from hermes3.server.desk import Desk
from hermes3.server.endpoints import Endpoints, read_body
from hermes3.server.failures import Failure
from hermes3.server.responses_events import Growing
from hermes3.server.responses_request import Item, MessageItem, ResponsesRequest, item_of
from hermes3.server.responses_store import Job, Store
from hermes3.server.sse import event
from hermes3.server.worker import unless_gone

_NAMES = (
    ("].function.", "]."),
    ("response_format.json_schema", "text.format"),
    ("response_format", "text.format"),
)


class Responses:
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
        self._store = Store(desk.limits.max_stored_responses, desk.limits.max_stored_bytes)

    async def create(self, http: Request) -> Response:
        raw = await read_body(http, self._desk)
        asked = ResponsesRequest.model_validate_json(raw)
        self._routes.check_model(asked.model)
        given = asked.items()
        items = [*self._before(asked.previous_response_id), *given]
        request = asked.chat(items)
        job = await self._started(asked, request, items, len(raw))
        if asked.store is not False:
            self._store.add(job)
        if asked.stream:
            return self._routes.event_stream(_events(job, is_left=bool(asked.background)), [job.stream])
        if not asked.background:
            await unless_gone(http, _ended(job))
        return JSONResponse(job.growing.body)

    async def retrieve(self, http: Request, name: str) -> Response:
        """A response as it is now, or with ``?stream=true`` its events, after ``starting_after`` if given."""
        job, query = self._store.get(name), http.query_params
        if unknown := query.keys() - {"stream", "starting_after", "include", "include[]"}:
            raise _bad(sorted(unknown)[0], "is no parameter of this route")
        if query.get("stream", "false") not in ("true", "false"):
            raise _bad("stream", "must be true or false")
        after = query.get("starting_after", "-1")
        if after != "-1" and not (after.isascii() and after.isdigit() and len(after) < 10):
            raise _bad("starting_after", "must be the sequence_number of an event")
        if query.get("stream") == "true":
            return self._routes.event_stream(_events(job, is_left=True, after=int(after)), [job.stream])
        return JSONResponse(job.growing.body)

    async def cancel(self, name: str) -> Response:
        """End a response that still runs; what came so far stays."""
        job = self._store.get(name)
        job.cancel()
        await _ended(job)
        return JSONResponse(job.growing.body)

    async def delete(self, name: str) -> Response:
        self._store.remove(name)
        return JSONResponse({"id": name, "object": "response", "deleted": True})

    async def input_items(self, name: str) -> Response:
        """The conversation before a response, oldest last, as OpenAI has it."""
        items = [_dumped(item) for item in reversed(self._store.get(name).items)]
        ids = {"first_id": items[0]["id"], "last_id": items[-1]["id"]}
        return JSONResponse({"object": "list", "data": items, **ids, "has_more": False})

    def _before(self, name: str | None) -> list[Item]:
        """The conversation that a request goes on from.

        Raises:
            Failure: no such response, or it has not ended.
        """
        if name is None:
            return []
        job = self._store.get(name)
        if job.growing.body["status"] not in ("completed", "incomplete"):
            raise _bad("previous_response_id", f"names a response that is {job.growing.body['status']}")
        return [*job.items, *_as_items(job.growing.body)]

    async def _started(
        self, asked: ResponsesRequest, request: ChatRequest, items: Sequence[Item], n_asked: int
    ) -> Job:
        limits = self._desk.limits
        prepared = await asyncio.to_thread(prepare_in_words, self._llm, request, limits, _NAMES)
        envelope = self._routes.envelope("resp")
        (stream,) = await self._routes.start(envelope, request, [prepared], request.who)
        body = {"id": envelope.id.replace("-", "_"), "object": "response", "created_at": int(time.time())}
        return Job(Growing({**body, "model": envelope.model, **_said(asked)}), items, stream, n_asked)


async def _events(job: Job, *, is_left: bool, after: int = -1) -> AsyncGenerator[bytes, None]:
    """A job's events; who leaves ends it unless it goes on in the background."""
    try:
        async for news in job.follow(after):
            yield b"".join(event(json.dumps(each), str(each["type"])) for each in news)
    finally:
        if not is_left and not job.is_over:
            job.close()


async def _ended(job: Job) -> None:
    try:
        async for _ in job.follow(len(job.events)):
            pass
    except asyncio.CancelledError:
        job.close()
        raise


def _said(asked: ResponsesRequest) -> Body:
    """What a response repeats of its request; what was left out as OpenAI names it."""
    text = asked.text.model_dump(by_alias=True, exclude_none=True) if asked.text is not None else {}
    return {
        "background": bool(asked.background),
        "instructions": asked.instructions,
        "max_output_tokens": asked.max_output_tokens,
        "metadata": asked.metadata or {},
        "parallel_tool_calls": asked.parallel_tool_calls is not False,
        "previous_response_id": asked.previous_response_id,
        "reasoning": {"effort": None, "summary": None},
        "service_tier": "default",
        "store": asked.store is not False,
        "temperature": asked.temperature,
        "text": {"format": {"type": "text"}, **text},
        "tool_choice": asked.tool_choice or "auto",
        "tools": [_tool(tool.model_dump()) for tool in asked.tools or ()],
        "top_logprobs": asked.top_logprobs or 0,
        "top_p": asked.top_p,
        "truncation": "disabled",
        "user": asked.user,
    }


def _tool(raw: Body) -> Body:
    return {**raw, "strict": True}  # every schema is enforced


def _as_items(body: Body) -> list[Item]:
    """What a response said, as items of the next one's input."""
    output = body["output"]
    assert isinstance(output, list)
    return [item_of(item) for item in output]


def _dumped(item: Item) -> Body:
    body: Body = {"id": f"item_{uuid.uuid4().hex}", **item.model_dump(exclude_none=True)}
    if isinstance(item, MessageItem) and isinstance(item.content, str):
        kind = "output_text" if item.role == "assistant" else "input_text"
        body["content"] = [{"type": kind, "text": item.content}]
    return body


def _bad(param: str, why: str) -> Failure:
    return Failure(HTTPStatus.BAD_REQUEST, f"'{param[:100]}' {why}.", param=param[:100])
