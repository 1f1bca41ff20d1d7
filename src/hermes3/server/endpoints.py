"""The answers to each route: read the request, start its answers, stream or join them."""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from hermes3.llm import LLM, Prepared, Sampling
from hermes3.llm.async_stream import AsyncStream
from hermes3.server.answers import Body, Envelope, chat_choice, completion_choice, timings_body, usage_body
from hermes3.server.asking import prepare
from hermes3.server.chat_request import ChatRequest
from hermes3.server.desk import Desk
from hermes3.server.events import chat_events, completion_events
from hermes3.server.failures import Failure
from hermes3.server.metrics import CONTENT_TYPE, Metrics
from hermes3.server.protocol import CompletionRequest
from hermes3.server.sse import EventStream
from hermes3.server.worker import close_all, replies, unless_gone

if TYPE_CHECKING:
    from hermes3.server.tracing import Traces

_log = logging.getLogger("hermes3.server")


class Endpoints:
    """One model's routes.

    Args:
        llm: the hall to ask.
        name: the model's name in answers.
        aliases: further names that requests may use.
        desk: lets requests in.
        metrics: what /metrics shows.
        traces: is told of each request; None for none.
    """

    def __init__(
        self,
        llm: LLM,
        name: str,
        aliases: frozenset[str],
        desk: Desk,
        metrics: Metrics,
        traces: Traces | None = None,
    ) -> None:
        self._llm = llm
        self._traces = traces
        self._desk = desk
        self._metrics = metrics
        self._name = name
        self._names = aliases | {name}
        self._created = int(time.time())

    async def health(self) -> JSONResponse:
        """Whether the process is of any use: red says that it should be started anew."""
        failure = self._llm.failure
        if failure is None and not self._desk.is_wedged:
            return JSONResponse({"status": "ok"})
        why = str(failure) if failure is not None else self._desk.trouble()
        return JSONResponse({"status": "failed", "reason": why}, HTTPStatus.SERVICE_UNAVAILABLE)

    async def ready(self) -> JSONResponse:
        """Whether to send requests here: work in hand goes on, and the process is not about to end."""
        why = "The server is shutting down." if self._desk.is_draining else self._desk.trouble()
        if why is None:
            return JSONResponse({"status": "ready", **asdict(self._llm.load())})
        return JSONResponse({"status": "not ready", "reason": why}, HTTPStatus.SERVICE_UNAVAILABLE)

    async def metrics(self) -> Response:
        return Response(self._metrics.text(self._llm.load()), media_type=CONTENT_TYPE)

    async def models(self) -> JSONResponse:
        return JSONResponse({"object": "list", "data": [self._model(self._name)]})

    async def model(self, name: str) -> JSONResponse:
        self.check_model(name)
        return JSONResponse(self._model(name))

    async def chat(self, http: Request) -> Response:
        request = ChatRequest.model_validate_json(await read_body(http, self._desk))
        self.check_model(request.model)
        prepared = await asyncio.to_thread(prepare, self._llm, request, self._desk.limits)
        envelope = self.envelope("chatcmpl")
        streams = await self.start(envelope, request, [prepared], request.who)
        if request.stream:
            events = chat_events(
                envelope,
                streams,
                n_per_prompt=len(streams),
                include_usage=request.include_usage,
                may_call=bool(prepared.form.callable),
            )
            return self.event_stream(events, streams)
        answers = await unless_gone(http, replies(streams))
        body = envelope.around(
            "chat.completion", [chat_choice(index, one) for index, one in enumerate(answers)]
        )
        body["usage"] = usage_body([one.usage for one in answers], n_per_prompt=len(answers))
        body["timings"] = timings_body([(one.timings, one.usage) for one in answers])
        if request.metadata is not None:
            body["metadata"] = request.metadata
        return JSONResponse(body)

    async def explain(self, http: Request) -> Response:
        """What a chat's request would come to, without an answer: prompt, tokens, grammar, time."""
        request = ChatRequest.model_validate_json(await read_body(http, self._desk))
        self.check_model(request.model)
        start = time.perf_counter()
        prepared = await asyncio.to_thread(prepare, self._llm, request, self._desk.limits)
        seconds, n_cached = time.perf_counter() - start, self._llm.cached_tokens(prepared)
        bound = self._bounded(request.sampling(0), prepared.ids)["max_tokens"] or 0
        text = prepared.form.grammar
        body: Body = {
            "object": "explanation",
            "model": self._name,
            "prompt": self._llm.tokenizer.decode(prepared.ids),
            "prompt_tokens": len(prepared.ids),
            "cached_tokens": n_cached,
            "max_tokens": bound,
            "context": self._llm.n_ctx,
            "prepare_s": seconds,
            "grammar": None if text is None else {"kind": text.kind, "of": text.param, "text": text.text},
            "estimated_s": self._desk.seconds_for(len(prepared.ids) - (n_cached or 0), bound),
        }
        return JSONResponse(body)

    async def completions(self, http: Request) -> Response:
        request = CompletionRequest.model_validate_json(await read_body(http, self._desk))
        self.check_model(request.model)
        encode = partial(self._llm.encode, allow_special=request.allow_special)
        prompts = [Prepared(await asyncio.to_thread(encode, prompt)) for prompt in request.prompts]
        envelope = self.envelope("cmpl")
        streams = await self.start(envelope, request, prompts, {"user": request.user})
        n = request.n_choices
        echoes = [self._echo(prompt) if request.echo else "" for prompt in request.prompts for _ in range(n)]
        if request.stream:
            events = completion_events(
                envelope, streams, echoes, n_per_prompt=n, include_usage=request.include_usage
            )
            return self.event_stream(events, streams)
        answers = await unless_gone(http, replies(streams))
        choices = [
            completion_choice(index, one, echoed=echo)
            for index, (one, echo) in enumerate(zip(answers, echoes, strict=True))
        ]
        body = envelope.around("text_completion", choices)
        body["usage"] = usage_body([one.usage for one in answers], n_per_prompt=n)
        body["timings"] = timings_body([(one.timings, one.usage) for one in answers])
        return JSONResponse(body)

    async def start(
        self,
        envelope: Envelope,
        request: ChatRequest | CompletionRequest,
        prompts: Sequence[Prepared],
        who: Mapping[str, object],
    ) -> list[AsyncStream]:
        """One stream per prompt and choice, all running; none if one of them is refused."""
        n = request.n_choices
        asked = [
            (each, self._bounded(request.sampling(choice), each.ids))
            for each in prompts
            for choice in range(n)
        ]
        costs = [
            min(len(each.ids) + (sampling["max_tokens"] or 0), self._llm.n_ctx) for each, sampling in asked
        ]
        self._desk.admit(costs)
        streams: list[AsyncStream] = []
        try:
            for (each, sampling), cost in zip(asked, costs, strict=True):
                streams.append(self._llm.astart(each, **sampling))
                self._desk.enter(streams[-1], cost)
        except BaseException:
            close_all(streams)
            raise
        if self._traces is not None:
            self._traces.follow(envelope, request, asked[0][1], streams)
        given = {name: value for name, value in who.items() if value is not None}
        n_tokens = [len(each.ids) for each in prompts]
        _log.info("%s: prompts of %s tokens, n = %d %r", envelope.id, n_tokens, n, given)
        return streams

    def _bounded(self, sampling: Sampling, ids: Sequence[int]) -> Sampling:
        """With an end to it: max_tokens by default, and no more than the context leaves."""
        room = max(self._llm.n_ctx - len(ids), 1)
        sampling.setdefault("max_tokens", min(self._desk.limits.max_tokens_default, room))
        return sampling

    def event_stream(
        self, events: AsyncGenerator[bytes, None], streams: Sequence[AsyncStream]
    ) -> EventStream:
        """Events as they come of answers, with comments in between where none comes for long."""
        limits, remark = self._desk.limits, partial(self._desk.keep_alive, streams)
        return EventStream(events, remark=remark, ping_s=limits.ping_s, send_s=limits.send_s)

    def _echo(self, prompt: str | list[int]) -> str:
        return prompt if isinstance(prompt, str) else self._llm.tokenizer.decode(prompt)

    def check_model(self, name: str) -> None:
        """Whether this is the model that is served.

        Raises:
            Failure: 404.
        """
        if name not in self._names:
            message = f"The model '{name[:100]}' does not exist here; this server has '{self._name}'."
            raise Failure(HTTPStatus.NOT_FOUND, message, param="model", code="model_not_found")

    def envelope(self, prefix: str) -> Envelope:
        """What a new response's bodies share."""
        return Envelope(f"{prefix}-{uuid.uuid4().hex}", int(time.time()), self._name)

    def _model(self, name: str) -> Body:
        return {
            "id": name,
            "object": "model",
            "created": self._created,
            "owned_by": "hermes3",
            "max_model_len": self._llm.n_ctx,
        }


def names_of(llm: LLM) -> frozenset[str]:
    """The names that a model goes by without being told: the hall's, its file's, and that without ending."""
    return frozenset({llm.name, llm.path.name, llm.path.stem})


async def read_body(http: Request, desk: Desk) -> bytes:
    """The JSON body, bounded in size and time, once the desk says that anything is taken at all.

    Raises:
        Failure: see ``Desk.check_open``; not declared as JSON (415, which also keeps other web
            pages' forms out) or compressed (415 too), too large (413), or too slow (408).
    """
    desk.check_open()
    limits = desk.limits
    kind = http.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise Failure(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
            f"Content-Type is '{kind[:100]}', it must be 'application/json'.",
        )
    if (encoding := http.headers.get("content-encoding", "identity")) != "identity":
        raise Failure(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
            f"Content-Encoding is '{encoding[:100]}'; send bodies as they are: nothing is unpacked here.",
        )
    body = bytearray()
    try:
        async with asyncio.timeout(limits.body_s):
            async for chunk in http.stream():
                body += chunk
                if len(body) > limits.max_body_bytes:
                    raise Failure(
                        HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
                        f"The body is larger than {limits.max_body_bytes} bytes.",
                    )
    except TimeoutError:
        raise Failure(
            HTTPStatus.REQUEST_TIMEOUT, f"The body took longer than {limits.body_s:g} s."
        ) from None
    return bytes(body)
