"""Traces of requests for OpenTelemetry (extra ``otel``): where the time of each went.

A request is one span, with the waiting, reading and writing of each of its answers inside. Names are those of
https://opentelemetry.io/docs/specs/semconv/gen-ai/gen-ai-spans/; how to export is said by the standard OTEL_*
variables (https://opentelemetry.io/docs/specs/otel/protocol/exporter/). What clients or the model wrote is in
no trace unless it is asked for.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from starlette.types import ASGIApp, Receive, Scope, Send

from hermes3.errors import Hermes3Error
from hermes3.llm import Delta, Sampling
from hermes3.llm.async_stream import AsyncStream
from hermes3.server.answers import Envelope
from hermes3.server.chat_request import ChatRequest
from hermes3.server.protocol import CompletionRequest

PROTOCOL = "http/protobuf"
_SAID = {
    "gen_ai.request.temperature": "temperature",
    "gen_ai.request.top_p": "top_p",
    "gen_ai.request.top_k": "top_k",
    "gen_ai.request.max_tokens": "max_tokens",
    "gen_ai.request.seed": "seed",
    "gen_ai.request.frequency_penalty": "frequency_penalty",
    "gen_ai.request.presence_penalty": "presence_penalty",
}
_arrived: ContextVar[tuple[int, Context | None]] = ContextVar("arrived")


@dataclass
class _Request:
    """A request whose answers are in work.

    Attributes:
        began: nanoseconds of Unix time at which its answers were started.
        n: answers; ``n_per_prompt`` to each prompt.
        n_left: of them, those that have not ended.
        ends: last deltas of those that have, by their numbers.
    """

    span: Span
    began: int
    n: int
    n_per_prompt: int
    n_left: int
    ends: dict[int, Delta] = field(default_factory=dict)


class TraceHeads:
    """ASGI middleware that notes when a request came, and of which trace it says to be a part (W3C)."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._propagator = TraceContextTextMapPropagator()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        heads = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope.get("headers", ())}
        given = {name: heads[name] for name in ("traceparent", "tracestate") if name in heads}
        _arrived.set((time.time_ns(), self._propagator.extract(given) if given else None))
        await self._app(scope, receive, send)


class Traces:
    """Spans of the requests of one server.

    Args:
        processor: takes ended spans; see ``exporting``.
        has_prompts: messages and prompts are told, too.

    Attributes:
        Heads: the middleware that this needs.
    """

    Heads = TraceHeads

    def __init__(self, processor: SpanProcessor, *, has_prompts: bool = False) -> None:
        own = "service.name" in os.environ.get("OTEL_RESOURCE_ATTRIBUTES", "")
        is_named = own or bool(os.environ.get("OTEL_SERVICE_NAME"))
        named = {} if is_named else {"service.name": "hermes3"}
        self._provider = TracerProvider(resource=Resource.create(named))
        self._provider.add_span_processor(processor)
        self._tracer = self._provider.get_tracer("hermes3")
        self._has_prompts = has_prompts

    @classmethod
    def exporting(cls, endpoint: str | None, *, has_prompts: bool = False) -> Traces:
        """Sends spans by OTLP over HTTP.

        Args:
            endpoint: of a collector, to which /v1/traces is added; None for what the OTEL_* variables say.

        Raises:
            Hermes3Error: those ask for another protocol.
        """
        for name in ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"):
            if (given := os.environ.get(name) or PROTOCOL) != PROTOCOL:
                raise Hermes3Error(f"{name} is {given[:40]!r}, traces are sent by {PROTOCOL} alone: unset it")
        url = None if endpoint is None else endpoint.rstrip("/").removesuffix("/v1/traces") + "/v1/traces"
        return cls(BatchSpanProcessor(OTLPSpanExporter(endpoint=url)), has_prompts=has_prompts)

    def follow(
        self,
        envelope: Envelope,
        request: ChatRequest | CompletionRequest,
        sampling: Sampling,
        streams: Sequence[AsyncStream],
    ) -> None:
        """Tell of a request whose answers have just been started; it is told when they end."""
        arrived, parent = _arrived.get((time.time_ns(), None))
        kind = "chat" if isinstance(request, ChatRequest) else "text_completion"
        span = self._tracer.start_span(
            f"{kind} {envelope.model}",
            context=parent,
            kind=SpanKind.SERVER,
            attributes=self._attributes(kind, envelope, request, sampling),
            start_time=arrived,
        )
        n = len(streams)
        one = _Request(span, time.time_ns(), n, request.n_choices, n_left=n)
        for index, stream in enumerate(streams):
            stream.on_end = partial(self._ended, one, index, stream.on_end)

    def close(self) -> None:
        """Send what is left."""
        self._provider.shutdown()

    def _attributes(
        self,
        kind: str,
        envelope: Envelope,
        request: ChatRequest | CompletionRequest,
        sampling: Sampling,
    ) -> Mapping[str, Any]:
        said: dict[str, Any] = {name: sampling.get(own) for name, own in _SAID.items()}
        stops = sampling.get("stop")
        said |= {
            "gen_ai.operation.name": kind,
            "gen_ai.provider.name": "hermes3",
            "gen_ai.request.model": request.model,
            "gen_ai.response.model": envelope.model,
            "gen_ai.response.id": envelope.id,
            "gen_ai.request.choice.count": request.n_choices if request.n_choices > 1 else None,
            "gen_ai.request.stop_sequences": [stops] if isinstance(stops, str) else stops,
        }
        if self._has_prompts:
            said["gen_ai.input.messages"] = json.dumps(_messages(request), ensure_ascii=False)
        return {name: value for name, value in said.items() if value is not None}

    def _ended(self, one: _Request, index: int, before: Any, last: Delta | None) -> None:
        before(last)
        if last is not None:
            one.ends[index] = last
            self._tell_answer(one, index, last)
        one.n_left -= 1
        if not one.n_left:
            self._tell_request(one)

    def _tell_answer(self, one: _Request, index: int, last: Delta) -> None:
        usage, timings = last.usage, last.timings
        if usage is None or timings is None:
            return
        inside, at = set_span_in_context(one.span), one.began
        for name, seconds, counts in (
            ("queue", timings.queue_s, {}),
            (
                "prefill",
                timings.prefill_s - timings.queue_s,
                {"prompt_tokens": usage.prompt_tokens, "cached_tokens": usage.cached_tokens},
            ),
            (
                "decode",
                timings.decode_s,
                {
                    "completion_tokens": usage.completion_tokens,
                    "forced_tokens": usage.forced_tokens,
                    "drafted_tokens": usage.drafted_tokens,
                    "accepted_tokens": usage.accepted_tokens,
                    "mask_s": timings.mask_s,
                    "mask_wait_s": timings.mask_wait_s,
                },
            ),
        ):
            told = {f"hermes3.{key}": value for key, value in {"choice": index, **counts}.items()}
            span = self._tracer.start_span(name, context=inside, attributes=told, start_time=at)
            at += int(1e9 * max(0.0, seconds))
            span.end(at)

    def _tell_request(self, one: _Request) -> None:
        ends = [last for _, last in sorted(one.ends.items())]
        usages = [last.usage for last in ends if last.usage is not None]
        prompts = usages[:: one.n_per_prompt]
        one.span.set_attributes(
            {
                "gen_ai.response.finish_reasons": [str(last.finish_reason) for last in ends],
                "gen_ai.usage.input_tokens": sum(each.prompt_tokens for each in prompts),
                "gen_ai.usage.output_tokens": sum(each.completion_tokens for each in usages),
                "gen_ai.usage.cache_read.input_tokens": sum(each.cached_tokens for each in prompts),
            }
        )
        if len(ends) < one.n:
            one.span.set_attribute("error.type", "abandoned")
            one.span.set_status(Status(StatusCode.ERROR, "an answer failed, or nobody waited for it"))
        one.span.end()


def _messages(request: ChatRequest | CompletionRequest) -> list[dict[str, Any]]:
    """What was asked, in the form of the conventions."""
    if isinstance(request, CompletionRequest):
        texts = [each if isinstance(each, str) else f"{len(each)} token ids" for each in request.prompts]
        return [{"role": "user", "parts": [{"type": "text", "content": text}]} for text in texts]
    said = []
    for message in request.messages:
        content = message.get("content")
        texts = [content] if isinstance(content, str) else [part.get("text") for part in content or ()]
        kind, more = "text", {}
        if message.get("role") == "tool":
            kind, more = "tool_call_response", {"id": message.get("tool_call_id")}
        named = "content" if kind == "text" else "response"
        parts = [{"type": kind, **more, named: text} for text in texts]
        parts += [
            {"type": "tool_call", "id": call.get("id"), **call.get("function", {})}
            for call in message.get("tool_calls") or ()
        ]
        said.append({"role": message.get("role"), "parts": parts})
    return said
