"""The unchanged `anthropic` client against /v1/messages."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic
import httpx
import pytest

from hermes3.llm import LLM
from hermes3.server.app import create_app
from tests.llm.fakes import fake_llm, saying
from tests.server.live import live

WEATHER = {
    "name": "weather",
    "description": "The weather to come.",
    "input_schema": {
        "type": "object",
        "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
        "required": ["city"],
    },
}
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Paris", "days": 2}}\n</tool_call>'
HELLO: Any = [{"role": "user", "content": "Hello"}]


def client_of(address: str, key: str = "none") -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=address, api_key=key, max_retries=0)


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    llm, _ = fake_llm(saying("Good morning."))
    with llm, live(create_app(llm)) as address:
        yield address


@pytest.fixture(scope="module")
def caller() -> Iterator[anthropic.Anthropic]:
    llm, _ = fake_llm(saying(f"I look.\n{CALL}"), n_ctx=4000)
    with llm, live(create_app(llm)) as address:
        yield client_of(address)


def test_a_message(address: str) -> None:
    asked: Any = {"model": "fake", "messages": HELLO, "system": "Be kind."}
    answer = client_of(address).messages.create(**asked, max_tokens=50)
    assert answer.content[0].text == "Good morning."
    assert (answer.stop_reason, answer.stop_sequence, answer.role) == ("end_turn", None, "assistant")
    counted = client_of(address).messages.count_tokens(**asked)
    assert answer.usage.input_tokens == counted.input_tokens > len("Be kind.Hello")
    assert answer.usage.output_tokens == len("Good morning.") + 1


def test_how_an_answer_ends(address: str) -> None:
    create = client_of(address).messages.create
    cut = create(model="fake", max_tokens=4, messages=HELLO)
    assert (cut.stop_reason, cut.content[0].text) == ("max_tokens", "Good")
    stopped = create(model="fake", max_tokens=50, messages=HELLO, stop_sequences=["xyz", "morn"])
    assert (stopped.stop_reason, stopped.stop_sequence) == ("stop_sequence", "morn")
    assert stopped.content[0].text == "Good "


def test_streamed_and_not_are_the_same(caller: anthropic.Anthropic) -> None:
    asked: Any = {"model": "fake", "max_tokens": 200, "messages": HELLO, "tools": [WEATHER]}
    whole = caller.messages.create(**asked)
    with caller.messages.stream(**asked) as stream:
        kinds = [event.type for event in stream]
        last = stream.get_final_message()
    ours, theirs = ([{**b.to_dict(), "id": ""} for b in each.content] for each in (last, whole))
    assert ours == theirs
    text, call = whole.content
    assert (text.text, call.name, call.input) == ("I look.", "weather", {"city": "Paris", "days": 2})
    assert whole.stop_reason == last.stop_reason == "tool_use"
    assert last.usage.output_tokens == whole.usage.output_tokens
    assert kinds.count("content_block_start") == kinds.count("content_block_stop") == 2
    assert (kinds[0], kinds[-1]) == ("message_start", "message_stop")


def test_arguments_grow_as_they_come(caller: anthropic.Anthropic) -> None:
    events = caller.messages.create(
        model="fake", max_tokens=200, messages=HELLO, tools=[WEATHER], stream=True  # type: ignore[arg-type]
    )
    parts = [e.delta.partial_json for e in events if getattr(getattr(e, "delta", None), "partial_json", None)]
    assert len(parts) > 5
    assert json.loads("".join(parts)) == {"city": "Paris", "days": 2}


def test_the_loop_of_a_call_and_its_result() -> None:
    prompts: list[bytes] = []
    llm, _ = fake_llm(lambda ids, params: prompts.append(bytes(i for i in ids if i < 256)) or list(b"Rain."))
    messages: Any = [
        {"role": "user", "content": [
            {"type": "text", "text": "Rain in Paris?", "cache_control": {"type": "ephemeral"}}]},
        {"role": "assistant", "content": [
            {"type": "thinking", "thinking": "I must look.", "signature": ""},
            {"type": "text", "text": "I look."},
            {"type": "tool_use", "id": "a", "name": "weather", "input": {"city": "Paris"}}]},
        {"role": "user", "content": [
            {"type": "tool_result", "tool_use_id": "a", "content": [{"type": "text", "text": "wet"}]},
            {"type": "tool_result", "tool_use_id": "a", "content": "no net", "is_error": True},
            {"type": "text", "text": "So?"}]},
    ]  # fmt: skip
    with llm, live(create_app(llm)) as address:
        answer = client_of(address).messages.create(model="fake", max_tokens=50, messages=messages)
    assert answer.content[0].text == "Rain."
    (prompt,) = prompts
    order = [b"Rain in Paris?", b"I must look.", b"I look.", b'"weather"', b"wet", b"Error: no net", b"So?"]
    assert sorted(order, key=prompt.index) == order


def test_tool_choice_is_obeyed(smol_gguf: Path) -> None:
    asked: Any = {"model": "smol", "max_tokens": 60, "messages": HELLO, "tools": [WEATHER]}
    with LLM(smol_gguf, n_ctx=1024) as llm, live(create_app(llm, served_model_name="smol")) as address:
        create = client_of(address).messages.create
        for choice in ({"type": "any"}, {"type": "tool", "name": "weather"}):
            forced = create(**asked, tool_choice=choice, extra_body={"temperature": 0})
            assert [block.type for block in forced.content] == ["tool_use"]
            assert isinstance(forced.content[0].input["city"], str)
        free = create(**asked, tool_choice={"type": "none"})
        assert {block.type for block in free.content} == {"text"}
        city = {"type": "object", "properties": {"city": {"enum": ["Paris", "Rome"]}}, "required": ["city"],
                "additionalProperties": False}  # fmt: skip
        config = {"format": {"type": "json_schema", "schema": city}}
        held = create(**{**asked, "tools": []}, extra_body={"output_config": config})
        assert json.loads(held.content[0].text)["city"] in ("Paris", "Rome")


def test_the_key_comes_their_way() -> None:
    llm, _ = fake_llm(saying("Yes."))
    with llm, live(create_app(llm, api_keys=["secret"])) as address:
        right = client_of(address, "secret").messages.create(model="fake", max_tokens=9, messages=HELLO)
        assert right.content[0].text == "Yes."
        with pytest.raises(anthropic.AuthenticationError) as refused:
            client_of(address, "guess").messages.create(model="fake", max_tokens=9, messages=HELLO)
        assert refused.value.body["error"]["type"] == "authentication_error"  # type: ignore[index]


ODD = {"type": "object", "properties": {"a": {"type": "string", "format": "none-such"}}}


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"max_tokens": None}, "max_tokens"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"colour": 1}, "colour"),
        ({"mcp_servers": [{}]}, "mcp_servers"),
        ({"thinking": {"type": "enabled", "budget_tokens": 1024}}, "thinking"),
        ({"messages": [{"role": "system", "content": "x"}]}, "messages"),
        ({"messages": [*HELLO, {"role": "assistant", "content": "I"}]}, "must end with a user's"),
        ({"messages": [{"role": "user", "content": [{"type": "image", "source": {}}]}]}, "messages"),
        ({"tools": [{"name": "f"}]}, "tools"),
        ({"tools": [{**WEATHER, "type": "bash_20250124"}]}, "tools"),
        ({"tools": [WEATHER], "tool_choice": {"type": "tool"}}, "tool_choice"),
        ({"tool_choice": {"type": "any"}}, "tool_choice"),
        ({"temperature": -1}, "temperature"),
        ({"stop_sequences": [""]}, "stop_sequences"),
        ({"model": "gpt"}, "gpt"),
        ({"tools": [{**WEATHER, "input_schema": ODD}]}, "tools[0].input_schema cannot be compiled"),
        ({"output_config": {"format": {"type": "json_schema", "schema": ODD}}},
         "output_config.format.schema cannot be compiled"),
    ],
)
def test_refusals_have_their_shape(address: str, more: dict[str, Any], said: str) -> None:
    body = {"model": "fake", "max_tokens": 9, "messages": HELLO, **more}
    answer = httpx.post(f"{address}/v1/messages", json=body)
    assert answer.status_code in (400, 404)
    error = answer.json()
    assert error["type"] == "error"
    assert error["error"]["type"] == ("not_found_error" if "model" in more else "invalid_request_error")
    assert said in error["error"]["message"]


def test_a_dying_engine_is_said_in_the_stream() -> None:
    llm, _ = fake_llm(saying("Good morning."), fails_at=3)
    with llm, live(create_app(llm)) as address, pytest.raises(anthropic.APIStatusError):
        list(client_of(address).messages.create(model="fake", max_tokens=50, messages=HELLO, stream=True))
