"""Traces: one span a request, its answers' times inside, part of the caller's trace."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import httpx
import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from hermes3.errors import Hermes3Error
from hermes3.server import process
from hermes3.server.app import create_app
from hermes3.server.settings import load
from hermes3.server.tracing import Traces
from tests.llm.fakes import FakeEngine, fake_llm, saying
from tests.server.live import live
from tests.server.test_staying_up import wait_for

CHAT = {"model": "fake", "messages": [{"role": "user", "content": "A secret"}], "max_tokens": 20}
PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"  # the example of W3C's document
Spans = Callable[[], list[ReadableSpan]]


@contextmanager
def traced(**options: bool) -> Iterator[tuple[httpx.Client, Spans, FakeEngine]]:
    """A server, what it has told, children before their parents."""
    exporter = InMemorySpanExporter()
    traces = Traces(SimpleSpanProcessor(exporter), **options)
    llm, engine = fake_llm(saying("x" * 400), step_s=0.002)
    app = create_app(llm, traces=traces)
    with llm, live(app) as address, httpx.Client(base_url=address, timeout=60) as client:
        yield client, lambda: list(exporter.get_finished_spans()), engine
    traces.close()


@pytest.mark.parametrize("stream", [False, True])
def test_a_request_and_where_its_time_went(stream: bool) -> None:
    with traced() as (client, spans, _):
        body = {**CHAT, "temperature": 0.5, "seed": 3, "stop": ["y", "z"], "stream": stream}
        got = client.post("/v1/chat/completions", json=body, headers={"traceparent": PARENT})
        wait_for(lambda: len(spans()) == 4)
        *inside, request = spans()
    assert [span.name for span in inside] == ["queue", "prefill", "decode"]
    assert (request.name, request.kind) == ("chat fake", SpanKind.SERVER)
    assert f"{request.context.trace_id:032x}" == PARENT.split("-")[1]
    assert f"{request.parent.span_id:016x}" == PARENT.split("-")[2]
    for before, span in zip([None, *inside], inside, strict=False):
        assert span.parent.span_id == request.context.span_id
        assert before is None or span.start_time == before.end_time
    assert request.start_time <= inside[0].start_time
    assert inside[2].end_time - inside[2].start_time > 19 * 0.002e9
    said = dict(request.attributes)
    identity = said.pop("gen_ai.response.id")
    assert identity in got.text
    assert said == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "hermes3",
        "gen_ai.request.model": "fake",
        "gen_ai.response.model": "fake",
        "gen_ai.request.temperature": 0.5,
        "gen_ai.request.seed": 3,
        "gen_ai.request.max_tokens": 20,
        "gen_ai.request.stop_sequences": ("y", "z"),
        "gen_ai.response.finish_reasons": ("length",),
        "gen_ai.usage.input_tokens": 3 + len("user\nA secret\nassistant\n"),
        "gen_ai.usage.output_tokens": 20,
        "gen_ai.usage.cache_read.input_tokens": 0,
    }
    assert inside[2].attributes["hermes3.completion_tokens"] == 20
    assert request.status.status_code == StatusCode.UNSET
    assert request.resource.attributes["service.name"] == "hermes3"
    assert not any("secret" in str(span.to_json()) for span in (*inside, request))


def test_several_answers_are_one_request() -> None:
    with traced() as (client, spans, _):
        body = {"model": "fake", "prompt": ["ab", "abcd"], "n": 2, "max_tokens": 5}
        client.post("/v1/completions", json=body, headers={"traceparent": "nonsense"})
        *inside, request = spans()
    assert sorted(span.attributes["hermes3.choice"] for span in inside) == sorted([*range(4)] * 3)
    assert (request.name, request.parent) == ("text_completion fake", None)
    assert request.attributes["gen_ai.request.choice.count"] == 2
    assert request.attributes["gen_ai.usage.input_tokens"] == 2 + 4
    assert request.attributes["gen_ai.usage.output_tokens"] == 4 * 5


def test_whoever_leaves_is_an_error() -> None:
    with traced() as (client, spans, engine):
        with client.stream("POST", "/v1/chat/completions", json={**CHAT, "stream": True}) as answer:
            next(answer.iter_lines())
        wait_for(lambda: bool(spans()))
        (request,) = spans()
        wait_for(lambda: not engine.running)
    assert request.status.status_code == StatusCode.ERROR
    assert request.attributes["error.type"] == "abandoned"


def test_messages_are_told_where_that_is_asked_for() -> None:
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    turns = [
        {"role": "user", "content": [{"type": "text", "text": "A secret"}]},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c", "content": "done"},
    ]
    with traced(has_prompts=True) as (client, spans, _):
        assert client.post("/v1/chat/completions", json={**CHAT, "messages": turns}).status_code == 200
        told = spans()[-1].attributes["gen_ai.input.messages"]
    assert json.loads(told) == [
        {"role": "user", "parts": [{"type": "text", "content": "A secret"}]},
        {"role": "assistant", "parts": [{"type": "tool_call", "id": "c", "name": "f", "arguments": "{}"}]},
        {"role": "tool", "parts": [{"type": "tool_call_response", "id": "c", "response": "done"}]},
    ]


@pytest.fixture
def unset(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in [name for name in os.environ if name.startswith("OTEL_")]:
        monkeypatch.delenv(name)
    return monkeypatch


def test_what_asks_for_traces(unset: pytest.MonkeyPatch) -> None:
    assert process._traces(load({}, None)) is None
    with pytest.raises(Hermes3Error, match="give otlp_endpoint"):
        process._traces(load({"trace_prompts": True}, None))
    unset.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    traces = process._traces(load({}, None))
    assert traces is not None
    traces.close()
    for name, value in (("SDK_DISABLED", "true"), ("TRACES_EXPORTER", "none")):
        unset.setenv(f"OTEL_{name}", value)
        assert process._traces(load({}, None)) is None
        unset.delenv(f"OTEL_{name}")
    unset.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
    with pytest.raises(Hermes3Error, match="'grpc', traces are sent by http/protobuf alone"):
        process._traces(load({}, None))


def test_without_the_extra_the_remedy_is_told(unset: pytest.MonkeyPatch) -> None:
    unset.setitem(sys.modules, "hermes3.server.tracing", None)
    with pytest.raises(Hermes3Error, match=r"otlp_endpoint asks for traces: pip install .hermes3\[otel\]"):
        process._traces(load({"otlp_endpoint": "http://localhost:4318"}, None))
