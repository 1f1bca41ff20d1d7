"""Every field is honoured or refused by its name; whatever is sent, the answer has OpenAI's shape."""

from __future__ import annotations

import gzip
import json
import socket
from collections.abc import Iterator
from typing import Any, get_type_hints

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from openai.types import completion_create_params
from openai.types.chat import completion_create_params as chat_create_params

from hermes3.server.app import create_app
from hermes3.server.chat_request import ChatRequest
from hermes3.server.limits import Limits
from hermes3.server.protocol import CompletionRequest
from tests.llm.fakes import fake_llm
from tests.server.live import live

CHAT: dict[str, Any] = {"model": "fake", "messages": [{"role": "user", "content": "hi"}]}
TEXT: dict[str, Any] = {"model": "fake", "prompt": "hi"}
PATHS = {"/v1/chat/completions": CHAT, "/v1/completions": TEXT}


@pytest.fixture(scope="module")
def http() -> Iterator[httpx.Client]:
    llm, _ = fake_llm(n_ctx=4000, is_obedient=True)
    with llm, live(create_app(llm)) as address, httpx.Client(base_url=address) as client:
        yield client


def refusal(answer: httpx.Response, status: int = 400) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    (error,) = answer.json().values()
    assert set(error) == {"message", "type", "param", "code"}
    assert len(error["message"]) > 10
    return error


REFUSED = {  # OpenAI's fields that would change the answer in a way that this server cannot
    "audio": {"voice": "alloy", "format": "wav"},
    "function_call": "auto",
    "functions": [{"name": "f"}],
    "modalities": ["text", "audio"],
    "moderation": {"model": "omni-moderation-latest"},
    "prediction": {"type": "content", "content": "x"},
    "prompt_cache_options": {"mode": "implicit"},
    "prompt_cache_retention": "24h",
    "reasoning_effort": "high",
    "service_tier": "flex",
    "store": True,
    "verbosity": "low",
    "web_search_options": {},
    "best_of": 2,
    "suffix": "x",
}
HONOURED = {
    "echo": True,
    "frequency_penalty": 0.5,
    "logit_bias": {"97": -100},
    "logprobs": {"/v1/chat/completions": True, "/v1/completions": 2},
    "max_completion_tokens": 3,
    "max_tokens": 3,
    "metadata": {"run": "7"},
    "n": 2,
    "parallel_tool_calls": False,
    "presence_penalty": 0.5,
    "prompt_cache_key": "x",
    "response_format": {"type": "json_object"},
    "safety_identifier": "someone",
    "seed": 7,
    "stop": ["x"],
    "stream": True,
    "temperature": 0.5,
    "tool_choice": "auto",
    "tools": [{"type": "function", "function": {"name": "f"}}],
    "top_p": 0.5,
    "user": "someone",
}
WITH_ANOTHER = {"stream_options": {"stream": True}, "top_logprobs": {"logprobs": True}}
VALUES = {"stream_options": {"include_usage": True}, "top_logprobs": 2}


def openai_fields(path: str) -> set[str]:
    """The fields as the openai package knows them."""
    module = chat_create_params if "chat" in path else completion_create_params
    return {
        name
        for kind in (module.CompletionCreateParamsNonStreaming, module.CompletionCreateParamsStreaming)
        for name in get_type_hints(kind)
    }


@pytest.mark.parametrize("path", PATHS)
def test_every_openai_field_is_honoured_or_refused_by_name(http: httpx.Client, path: str) -> None:
    for name in sorted(openai_fields(path) - set(PATHS[path])):
        if name in REFUSED:
            error = refusal(http.post(path, json={**PATHS[path], name: REFUSED[name]}))
            assert (error["param"], error["code"]) == (name, "unsupported_parameter")
            assert f"'{name}'" in error["message"]
            continue
        value = VALUES.get(name, HONOURED.get(name))
        value = value[path] if isinstance(value, dict) and path in value else value
        body = {**PATHS[path], name: value, **WITH_ANOTHER.get(name, {})}
        assert value is not None, f"{name} is new: honour it or refuse it"
        assert http.post(path, json=body).status_code == 200, name
        assert http.post(path, json={**PATHS[path], name: None}).status_code == 200, f"{name}: null"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("store", False),
        ("service_tier", "auto"),
        ("modalities", ["text"]),
        ("response_format", {"type": "text"}),
        ("reasoning_effort", "none"),
        ("tools", None),
    ],
)
def test_values_that_say_what_happens_anyway(http: httpx.Client, name: str, value: object) -> None:
    assert http.post("/v1/chat/completions", json={**CHAT, name: value}).status_code == 200


def test_honoured_fields_reach_the_engine() -> None:
    seen = []
    llm, _ = fake_llm(lambda ids, params: seen.append(params) or [97])
    more = {
        "temperature": 0.25, "top_p": 0.5, "top_k": 9, "min_p": 0.125, "repetition_penalty": 1.5, "seed": 11,
        "presence_penalty": 0.75, "frequency_penalty": -0.5, "logit_bias": {"97": 3}, "max_tokens": 5,
        "ignore_eos": True,
    }  # fmt: skip
    bodies = {
        "/v1/chat/completions": {**CHAT, **more, "logprobs": True, "top_logprobs": 4},
        "/v1/completions": {**TEXT, **more, "logprobs": 4},
    }
    with llm, live(create_app(llm)) as address:
        for path, body in bodies.items():
            assert httpx.post(address + path, json=body).status_code == 200
    assert len(seen) == 2
    for params in seen:
        for name, value in more.items():
            assert getattr(params, name) == ({97: 3} if name == "logit_bias" else value)
        assert params.logprobs == 4
        assert params.stop_ids == frozenset()  # ignore_eos


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    ("name", "value", "param"),
    [
        ("colour", "red", "colour"),
        ("temperature", "0.5", "temperature"),
        ("temperature", True, "temperature"),
        ("temperature", 101, "temperature"),
        ("top_p", 1.5, "top_p"),
        ("max_tokens", 0, "max_tokens"),
        ("max_tokens", 1.5, "max_tokens"),
        ("max_tokens", 10**30, "max_tokens"),
        ("max_tokens", 5000, "max_tokens"),
        ("n", 0, "n"),
        ("n", 65, "n"),
        ("n", "2", "n"),
        ("seed", 2**63, "seed"),
        ("stop", [], "stop"),
        ("stop", "", "stop"),
        ("stop", ["x"] * 17, "stop"),
        ("stop", ["x" * 257], "stop"),
        ("stop", 5, "stop"),
        ("stream", "yes", "stream"),
        ("stream_options", {"include_usage": True}, "stream_options"),
        ("logit_bias", {"x": 1}, "logit_bias"),
        ("logit_bias", {"-1": 1}, "logit_bias"),
        ("logit_bias", {"97": 101}, "logit_bias"),
        ("logit_bias", {str(i): 1 for i in range(1025)}, "logit_bias"),
        ("top_k", -1, "top_k"),
        ("model", None, "model"),
        ("model", 5, "model"),
        ("user", 5, "user"),
    ],
)
def test_bad_values_are_named(http: httpx.Client, path: str, name: str, value: object, param: str) -> None:
    assert refusal(http.post(path, json={**PATHS[path], name: value}))["param"] == param


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": "hi"}, "messages"),
        ({"messages": [5]}, "messages"),
        ({"messages": [{"role": "user", "content": "x"}] * 2049}, "messages"),
        ({"messages": [{"role": "king", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content[0].type"),
        ({"messages": [{"role": "user", "content": "x", "mood": "sad"}]}, "messages[0].mood"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"max_tokens": 5, "max_completion_tokens": 5}, "max_tokens"),
        ({"stream": True, "stream_options": {"colour": 1}}, "stream_options.colour"),
        (
            {"stream": True, "stream_options": {"include_obfuscation": True}},
            "stream_options.include_obfuscation",
        ),
        ({"metadata": {"k" * 65: "v"}}, "metadata"),
        ({"metadata": {"k": 5}}, "metadata"),
        ({"prompt": "x"}, "prompt"),
    ],
)
def test_bad_chat_requests(http: httpx.Client, more: dict[str, Any], param: str) -> None:
    assert refusal(http.post("/v1/chat/completions", json={**CHAT, **more}))["param"] == param


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"prompt": None}, "prompt"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [[]]}, "prompt"),
        ({"prompt": ["x", 5]}, "prompt"),
        ({"prompt": [258]}, "prompt"),
        ({"prompt": [-1]}, "prompt"),
        ({"prompt": [True]}, "prompt"),
        ({"prompt": ["x"] * 65}, "prompt"),
        ({"prompt": ["x"] * 33, "n": 2}, "n"),
        ({"echo": True, "logprobs": 1}, "echo"),
        ({"logprobs": 21}, "logprobs"),
        ({"messages": []}, "messages"),
    ],
)
def test_bad_completion_requests(http: httpx.Client, more: dict[str, Any], param: str) -> None:
    assert refusal(http.post("/v1/completions", json={**TEXT, **more}))["param"] == param


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"nonsense", b"[]", b"5", b"null", b'"x"', b"\xff\xfe{}", b"{}" * 2, b"[" * 100_000,
        b'{"a":' * 100_000, b'{"model": "fake", "temperature": NaN}', b'{"model": "\\ud800"}',
        b'{"model": "fake", "seed": ' + b"9" * 10_000 + b"}", b'{"model": "fake", "temperature": 1e999}',
    ],
    ids=lambda body: repr(body[:24]),
)  # fmt: skip
def test_bad_json(http: httpx.Client, path: str, body: bytes) -> None:
    refusal(http.post(path, content=body, headers={"content-type": "application/json"}))


def test_missing_fields(http: httpx.Client) -> None:
    error = refusal(http.post("/v1/chat/completions", json={"model": "fake"}))
    assert (error["param"], error["code"]) == ("messages", "missing_required_parameter")


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", ""])
def test_only_json_is_read(http: httpx.Client, kind: str) -> None:
    refusal(http.post("/v1/completions", content=json.dumps(TEXT), headers={"content-type": kind}), 415)


def test_a_gzip_bomb_is_not_unpacked(http: httpx.Client) -> None:
    bomb = gzip.compress(b" " * (64 << 20))
    headers = {"content-type": "application/json", "content-encoding": "gzip"}
    assert len(bomb) < 100_000
    refusal(http.post("/v1/completions", content=bomb, headers=headers), 415)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "name",
    ["chat_template", "chat_template_kwargs", "template", "documents", "tokenizer", "tool_parser",
     "tool_call_parser", "guided_decoding_backend", "lora_path", "model_path", "priority", "cache_salt"],
)  # fmt: skip
def test_nothing_internal_comes_with_a_request(http: httpx.Client, path: str, name: str) -> None:
    error = refusal(http.post(path, json={**PATHS[path], name: "{{ ().__class__.__mro__ }}"}))
    assert error["param"] == name


def test_jinja_in_a_message_stays_text(http: httpx.Client) -> None:
    hostile = "{{ 7 * 7 }}{% for i in range(10**9) %}{% endfor %}"
    messages = [{"role": role, "content": hostile} for role in ("system", "user", "assistant", "user")]
    shown = http.post("/apply-template", json={"model": "fake", "messages": messages}).json()["prompt"]
    assert shown.count(hostile) == 4


def test_bodies_are_bounded(http: httpx.Client) -> None:
    big = {**TEXT, "prompt": "x" * Limits().max_body_bytes}
    refusal(http.post("/v1/completions", json=big), 413)


def test_slow_bodies_are_bounded() -> None:
    llm, _ = fake_llm()
    with llm, live(create_app(llm, limits=Limits(body_s=0.2))) as address:
        host, port = address.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=5) as slow:
            slow.sendall(
                b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
                b"content-length: 99\r\n\r\n{"
            )
            assert slow.recv(1000).startswith(b"HTTP/1.1 408")


def test_unknown_routes_and_methods(http: httpx.Client) -> None:
    assert "/v1/images" in refusal(http.post("/v1/images", json={}), 404)["message"]
    answer = http.get("/v1/completions")
    refusal(answer, 405)
    assert answer.headers["allow"] == "POST"
    assert http.put("/v1/responses/x").headers["allow"] == "GET, DELETE"
    assert http.put("/docs").headers["allow"] == "GET, HEAD"


def test_docs_of_the_framework_are_off(http: httpx.Client) -> None:
    for path in ("/redoc", "/docs/oauth2-redirect"):
        refusal(http.get(path), 404)


def test_metadata_comes_back(http: httpx.Client) -> None:
    answer = http.post("/v1/chat/completions", json={**CHAT, "metadata": {"run": "7"}}).json()
    assert answer["metadata"] == {"run": "7"}


def test_callers_are_in_the_log(http: httpx.Client, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", "hermes3.server"):
        body = {**CHAT, "user": "me\nroot: all is well", "metadata": {"run": "7"}}
        http.post("/v1/chat/completions", json=body)
    (line,) = (record.getMessage() for record in caplog.records if "chatcmpl" in record.getMessage())
    assert "'me\\nroot: all is well'" in line
    assert "'run': '7'" in line
    assert "\n" not in line


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
FIELDS = st.sampled_from(sorted({*ChatRequest.model_fields, *CompletionRequest.model_fields, *REFUSED, "x"}))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(sorted(PATHS)), st.dictionaries(FIELDS, JSON, min_size=1, max_size=3))
def test_whatever_comes_is_answered_or_refused(http: httpx.Client, path: str, more: dict[str, Any]) -> None:
    body = json.dumps({**PATHS[path], **more})
    answer = http.post(path, content=body, headers={"content-type": "application/json"})
    if answer.status_code != 200:
        refusal(answer, 404 if answer.status_code == 404 and "model" in more else 400)
