"""Whatever the server says in OpenAI's protocol is as OpenAI's public OpenAPI document describes it.

The document is not in the repository (3.4 MB); fields of our own beside its fields are allowed by it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from hermes3.server.app import create_app
from hermes3.server.limits import Limits
from tests.llm.fakes import fake_llm, saying
from tests.server.live import live
from tests.server.openai_document import NULLS, Document
from tests.server.test_clients import ASKED, WEATHER, script

HI = [{"role": "user", "content": "hi"}]
CITY = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "people": {"type": "integer"}},
    "required": ["name", "people"],
}
FLAT: dict[str, Any] = {"type": "function", **WEATHER["function"]}  # type: ignore[dict-item]
CHATS: dict[str, dict[str, Any]] = {
    "text": {"messages": HI},
    "several": {"messages": HI, "n": 2, "seed": 1, "logprobs": True, "top_logprobs": 3},
    "calls": {"messages": ASKED, "tools": [WEATHER]},
    "cut": {"messages": ASKED, "tools": [WEATHER], "max_tokens": 60},
    "json": {"messages": HI,
             "response_format": {"type": "json_schema", "json_schema": {"name": "c", "schema": CITY}}},
    "ours": {"messages": HI, "metadata": {"a": "b"}, "citations": True, "reasoning": True},
}  # fmt: skip
TEXTS: dict[str, dict[str, Any]] = {
    "text": {"prompt": "hi"},
    "several": {"prompt": ["hi", "ho"], "n": 2, "echo": True},
    "logprobs": {"prompt": [104, 105], "logprobs": 3, "max_tokens": 3},
}
RESPONSES: dict[str, dict[str, Any]] = {
    "text": {"input": "hi"},
    "settings": {"input": HI, "instructions": "Be brief.", "metadata": {"a": "b"}, "temperature": 0.5,
                 "top_p": 0.9, "user": "u", "top_logprobs": 2, "max_output_tokens": 5},
    "calls": {"input": "weather?", "tools": [FLAT], "tool_choice": "required", "parallel_tool_calls": False},
    "one": {"input": "weather?", "tools": [FLAT], "tool_choice": {"type": "function", "name": "weather"}},
    "cut": {"input": "weather?", "tools": [FLAT], "tool_choice": "required", "max_output_tokens": 60},
    "json": {"input": "x", "text": {"format": {"type": "json_schema", "name": "c", "schema": CITY}}},
    "background": {"input": "hi", "background": True, "reasoning": {"effort": "none"}},
}  # fmt: skip


@pytest.fixture(scope="module")
def document(openai_document: Path) -> Document:
    return Document(openai_document)


@pytest.fixture(scope="module")
def http(document: Document) -> Iterator[httpx.Client]:
    llm, _ = fake_llm(script, n_ctx=16_000)
    limits = Limits(max_tools_bytes=2000)
    with llm, live(create_app(llm, api_keys=["k"], limits=limits)) as address:
        headers = {"authorization": "Bearer k"}
        with httpx.Client(base_url=address, headers=headers, timeout=60) as client:
            yield client


def whole(http: httpx.Client, path: str, body: dict[str, Any]) -> Any:
    answer = http.post(path, json={"model": "fake", **body})
    assert answer.status_code == 200, answer.text
    return answer.json()


def events(http: httpx.Client, path: str, body: dict[str, Any]) -> list[Any]:
    answer = http.post(path, json={"model": "fake", **body, "stream": True})
    return [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: {")]


def test_what_may_be_null_all_the_same_is_so_in_the_documents_examples(document: Document) -> None:
    for name in NULLS:
        assert f'\\"{name}\\": null' in document.text


def test_the_judge_sees_faults(document: Document) -> None:
    chunk = {"id": 1, "choices": [{"index": 0, "delta": {"content": 3}, "finish_reason": "over"}],
             "created": 1, "model": "m", "object": "chat.completion"}  # fmt: skip
    assert len(document.faults("CreateChatCompletionStreamResponse", chunk)) == 4


@pytest.mark.parametrize("case", CHATS)
def test_chats(http: httpx.Client, document: Document, case: str) -> None:
    path, body = "/v1/chat/completions", CHATS[case]
    assert document.faults("CreateChatCompletionResponse", whole(http, path, body)) == []
    for more in ({}, {"stream_options": {"include_usage": True}}):
        chunks = events(http, path, {**body, **more})
        assert len(chunks) > 2
        assert [document.faults("CreateChatCompletionStreamResponse", each) for each in chunks] == [
            [] for _ in chunks
        ]


@pytest.mark.parametrize("case", TEXTS)
def test_completions(http: httpx.Client, document: Document, case: str) -> None:
    path, body = "/v1/completions", TEXTS[case]
    assert document.faults("CreateCompletionResponse", whole(http, path, body)) == []
    for more in ({}, {"stream_options": {"include_usage": True}}):
        chunks = events(http, path, {**body, **more})
        assert len(chunks) > 2
        assert [document.faults("CreateCompletionResponse", each) for each in chunks] == [[] for _ in chunks]


@pytest.mark.parametrize("case", RESPONSES)
def test_responses(http: httpx.Client, document: Document, case: str) -> None:
    path, body = "/v1/responses", RESPONSES[case]
    answer = whole(http, path, body)
    one = f"{path}/{answer['id']}"
    ended = http.post(f"{one}/cancel").json()
    for each in (answer, ended, http.get(one).json()):
        assert document.faults("Response", each) == []
    if case in ("text", "calls", "json"):  # a conversation goes on
        followed = whole(http, path, {"input": "and?", "previous_response_id": answer["id"]})
        one = f"{path}/{followed['id']}"
    assert document.faults("ResponseItemList", http.get(f"{one}/input_items").json()) == []
    told = events(http, path, body)
    assert told[-1]["type"] in ("response.completed", "response.incomplete")
    assert [document.faults(document.events[each["type"]], each) for each in told] == [[] for _ in told]


def test_a_response_that_failed(document: Document) -> None:
    llm, _ = fake_llm(saying("x" * 99), fails_at=5)
    with llm, live(create_app(llm)) as address, httpx.Client(base_url=address, timeout=60) as http:
        told = events(http, "/v1/responses", {"input": "hi"})
        assert told[-1]["type"] == "response.failed"
        assert [document.faults(document.events[each["type"]], each) for each in told] == [[] for _ in told]
        assert document.faults("ErrorResponse", http.post("/v1/responses", json={}).json()) == []


def test_a_response_that_is_cancelled(document: Document) -> None:
    llm, engine = fake_llm(saying("x" * 99), step_s=0.01)
    with llm, live(create_app(llm)) as address, httpx.Client(base_url=address, timeout=60) as http:
        engine.go.clear()
        begun = whole(http, "/v1/responses", {"input": "hi", "background": True})
        assert begun["status"] == "in_progress"
        assert document.faults("Response", begun) == []
        engine.go.set()
        ended = http.post(f"/v1/responses/{begun['id']}/cancel").json()
        assert ended["status"] == "cancelled"
        assert document.faults("Response", ended) == []


def test_models(http: httpx.Client, document: Document) -> None:
    assert document.faults("ListModelsResponse", http.get("/v1/models").json()) == []
    assert document.faults("Model", http.get("/v1/models/fake").json()) == []


def test_errors(http: httpx.Client, document: Document) -> None:
    chat = "/v1/chat/completions"
    refused = [
        http.get("/v1/models", headers={"authorization": "Bearer x"}),
        http.post(chat, json={}),
        http.post(chat, json={"model": "other", "messages": HI}),
        http.post(chat, json={"model": "fake", "messages": HI, "audio": {}}),
        http.post(chat, json={"model": "fake", "messages": HI, "tools": [WEATHER] * 20}),
        http.post(chat, content=b"{", headers={"content-type": "application/json"}),
        http.post(chat, content=b"{}", headers={"content-type": "text/plain"}),
        http.put("/v1/models"),
        http.get("/v1/nothing"),
        http.get("/v1/responses/resp_none"),
        http.post("/v1/responses", json={"model": "fake", "input": [{"type": "item_reference"}]}),
        http.post("/v1/embeddings", json={"model": "fake", "input": "x"}),
        http.get("/health", headers={"host": "example.org"}),
    ]
    assert sorted({each.status_code for each in refused}) == [400, 401, 404, 405, 415, 421]
    assert [document.faults("ErrorResponse", each.json()) for each in refused] == [[] for _ in refused]
