"""The unchanged `openai` client against /v1/responses."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from pydantic import BaseModel

from hermes3.llm import LLM
from hermes3.server.app import create_app
from hermes3.server.limits import Limits
from tests.llm.fakes import fake_llm, saying
from tests.server.live import live
from tests.server.test_staying_up import wait_for

WEATHER: Any = {
    "type": "function",
    "name": "weather",
    "description": "The weather to come.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"],
                   "additionalProperties": False},
    "strict": True,
}  # fmt: skip
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Paris"}}\n</tool_call>'


def client_of(address: str, key: str = "none") -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{address}/v1", api_key=key, max_retries=0)


@pytest.fixture(scope="module")
def client() -> Iterator[openai.OpenAI]:
    llm, _ = fake_llm(saying("Good morning."))
    with llm, live(create_app(llm)) as address:
        yield client_of(address)


@pytest.fixture(scope="module")
def caller() -> Iterator[openai.OpenAI]:
    llm, _ = fake_llm(saying(f"I look.\n{CALL}"), n_ctx=4000)
    with llm, live(create_app(llm)) as address:
        yield client_of(address)


def test_create_and_retrieve(client: openai.OpenAI) -> None:
    asked: Any = {"model": "fake", "input": "Hello", "instructions": "Be kind.", "metadata": {"a": "b"}}
    answer = client.responses.create(**asked)
    assert (answer.output_text, answer.status, answer.metadata) == ("Good morning.", "completed", {"a": "b"})
    assert answer.usage.output_tokens == len("Good morning.") + 1  # type: ignore[union-attr]
    again = client.responses.retrieve(answer.id)
    assert again.to_dict() == answer.to_dict()
    items = client.responses.input_items.list(answer.id).data
    assert [item.content[0].text for item in items] == ["Hello"]  # type: ignore[union-attr]
    client.responses.delete(answer.id)
    with pytest.raises(openai.NotFoundError, match="is not kept here"):
        client.responses.retrieve(answer.id)


def test_what_is_not_stored_is_not_there(client: openai.OpenAI) -> None:
    answer = client.responses.create(model="fake", input="Hello", store=False)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(answer.id)


def test_streamed_and_not_are_the_same(caller: openai.OpenAI) -> None:
    asked: Any = {"model": "fake", "input": "Rain in Paris?", "tools": [WEATHER]}
    whole = caller.responses.create(**asked)
    with caller.responses.stream(**asked) as stream:
        events = list(stream)
        last = stream.get_final_response()

    def plain(response: Any) -> list[Any]:
        return [{**item.to_dict(), "id": "", "call_id": ""} for item in response.output]

    assert [item.type for item in whole.output] == ["message", "function_call"]
    assert [(i["type"], i["status"]) for i in plain(last)] == [(i["type"], i["status"]) for i in plain(whole)]
    assert json.loads(whole.output[1].arguments) == {"city": "Paris"}  # type: ignore[union-attr]
    assert last.output_text == whole.output_text == "I look."
    kinds = [event.type for event in events]
    assert kinds[:2] == ["response.created", "response.in_progress"]
    assert kinds[-1] == "response.completed"
    assert kinds.count("response.output_item.added") == kinds.count("response.output_item.done") == 2
    assert kinds.count("response.function_call_arguments.delta") > 3
    assert [event.sequence_number for event in events] == list(range(len(events)))


def test_how_an_answer_ends(client: openai.OpenAI, caller: openai.OpenAI) -> None:
    cut = client.responses.create(model="fake", input="Hello", max_output_tokens=4)
    assert (cut.status, cut.output_text) == ("incomplete", "Good")
    assert cut.incomplete_details.reason == "max_output_tokens"  # type: ignore[union-attr]
    broken = caller.responses.create(model="fake", input="Hello", tools=[WEATHER], max_output_tokens=60)
    assert [item.type for item in broken.output] == ["message"], "a call that was cut is not reported as one"
    assert broken.to_dict()["broken_tool_calls"]


def prompts_of(script: str) -> tuple[LLM, list[str]]:
    prompts: list[str] = []

    def take(ids: list[int], _: object) -> list[int]:
        prompts.append(bytes(i for i in ids if i < 256).decode())
        return list(script.encode())

    return fake_llm(take, n_ctx=4000)[0], prompts


def test_a_conversation_goes_on_from_a_response() -> None:
    llm, prompts = prompts_of(f"I look.\n{CALL}")
    with llm, live(create_app(llm)) as address:
        create = client_of(address).responses.create
        first = create(model="fake", input="Rain in Paris?", tools=[WEATHER], instructions="First rule.")
        call = first.output[1]
        result = {"type": "function_call_output", "call_id": call.call_id, "output": "wet"}  # type: ignore[union-attr]
        by_id = create(model="fake", previous_response_id=first.id, input=[result])  # type: ignore[list-item]
        asked: Any = [{"role": "user", "content": "Rain in Paris?"}]
        asked += [item.to_dict() for item in first.output]
        create(model="fake", input=[*asked, result])
        assert by_id.previous_response_id == first.id
    assert prompts[1] == prompts[2]
    assert "First rule." not in prompts[1]
    order = ["Rain in Paris?", "I look.", '"name": "weather"', "wet"]
    assert sorted(order, key=prompts[1].index) == order


def test_in_the_background_and_followed_again() -> None:
    llm, engine = fake_llm(saying("word " * 60), step_s=0.005)
    with llm, live(create_app(llm)) as address:
        client = client_of(address)
        asked: Any = {"model": "fake", "input": "Hello", "background": True, "max_output_tokens": 400}
        with client.responses.create(**asked, stream=True) as stream:
            seen = [event for event, _ in zip(stream, range(40), strict=False)]
        name = seen[0].response.id  # type: ignore[union-attr]
        assert client.responses.retrieve(name).status == "in_progress", "who hangs up does not end it"
        at = seen[-1].sequence_number
        rest = list(client.responses.retrieve(name, stream=True, starting_after=at))
        assert [event.sequence_number for event in rest] == list(range(at + 1, at + 1 + len(rest)))
        assert rest[-1].type == "response.completed"
        text = "".join(e.delta for e in [*seen, *rest] if e.type == "response.output_text.delta")
        assert text == "word " * 60 == client.responses.retrieve(name).output_text
        name = client.responses.create(**asked).id
        wait_for(lambda: client.responses.retrieve(name).status == "in_progress")
        assert client.responses.cancel(name).status == "cancelled"
        wait_for(lambda: not engine.running)


def test_who_hangs_up_ends_what_is_not_in_the_background() -> None:
    llm, engine = fake_llm(saying("word " * 190), step_s=0.005)
    with llm, live(create_app(llm)) as address:
        with client_of(address).responses.create(model="fake", input="Hello", stream=True) as stream:
            next(iter(stream))
            wait_for(lambda: bool(engine.running))
        wait_for(lambda: not engine.running)
        assert len(engine.cancelled) == 1


def test_the_store_has_an_end_and_an_owner() -> None:
    llm, _ = fake_llm(saying("Yes."))
    limits = Limits(max_stored_responses=3)
    with llm, live(create_app(llm, api_keys=["a", "b"], limits=limits)) as address:
        mine, theirs = client_of(address, "a"), client_of(address, "b")
        names = [mine.responses.create(model="fake", input=str(i)).id for i in range(5)]
        kept = []
        for name in names:
            try:
                kept.append(mine.responses.retrieve(name).id)
            except openai.NotFoundError:
                continue
        assert kept == names[-len(kept) :]
        assert len(kept) <= 3
        for ask in (theirs.responses.retrieve, theirs.responses.cancel, theirs.responses.delete):
            with pytest.raises(openai.NotFoundError):
                ask(names[-1])
        with pytest.raises(openai.NotFoundError):
            theirs.responses.create(model="fake", input="x", previous_response_id=names[-1])


def test_the_bytes_of_what_was_asked_count_too() -> None:
    llm, _ = fake_llm(n_ctx=100_000)
    with llm, live(create_app(llm, limits=Limits(max_stored_bytes=100_000))) as address:
        client = client_of(address, "a")
        first = client.responses.create(model="fake", input="x" * 60_000, max_output_tokens=1).id
        assert client.responses.retrieve(first).id == first
        second = client.responses.create(model="fake", input="y" * 60_000, max_output_tokens=1).id
        assert client.responses.retrieve(second).id == second
        with pytest.raises(openai.NotFoundError):
            client.responses.retrieve(first)


class City(BaseModel):
    name: str
    is_capital: bool


def test_structured_output_and_tool_choice(smol_gguf: Path) -> None:
    with LLM(smol_gguf, n_ctx=1024) as llm, live(create_app(llm, served_model_name="smol")) as address:
        client = client_of(address)
        asked: Any = {"model": "smol", "input": "Paris", "temperature": 0, "max_output_tokens": 100}
        parsed = client.responses.parse(**asked, text_format=City)
        assert isinstance(parsed.output_parsed, City)
        for choice in ("required", {"type": "function", "name": "weather"}):
            wanted: Any = {"tools": [WEATHER], "tool_choice": choice, "parallel_tool_calls": False}
            forced = client.responses.create(**asked, **wanted)
            assert [item.type for item in forced.output] == ["function_call"]
            assert isinstance(json.loads(forced.output[0].arguments)["city"], str)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"colour": 1}, "colour"),
        ({"input": None}, "input"),
        ({"input": [{"role": "king", "content": "x"}]}, "input"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input"),
        ({"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]}, "input"),
        ({"input": [{"type": "function_call", "call_id": "a", "name": "f", "arguments": "{"}]}, "arguments"),
        ({"conversation": "c"}, "conversation"),
        ({"truncation": "auto"}, "truncation"),
        ({"reasoning": {"effort": "high"}}, "reasoning"),
        ({"reasoning": {"summary": "detailed"}}, "reasoning"),
        ({"tools": [{"type": "web_search"}]}, "tools"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"background": True, "store": False}, "store"),
        ({"max_output_tokens": 0}, "max_tokens"),
        ({"temperature": -1}, "temperature"),
        ({"include": ["file_search_call.results"]}, "include"),
        ({"text": {"format": {"type": "json_schema", "name": "x", "schema": {"type": "k"}}}}, "text.format"),
    ],
)
def test_bad_requests_are_named(client: openai.OpenAI, more: dict[str, Any], param: str) -> None:
    body = {"model": "fake", "input": "Hello", **more}
    answer = httpx.post(f"{client.base_url}responses", json=body)
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert param in f"{error['param']} {error['message']}"


@pytest.mark.parametrize("query", ["stream=yes", "starting_after=-5", "starting_after=x", "colour=red"])
def test_bad_queries_are_named(client: openai.OpenAI, query: str) -> None:
    name = client.responses.create(model="fake", input="Hello").id
    assert httpx.get(f"{client.base_url}responses/{name}?{query}").status_code == 400


def test_a_dying_engine_is_said() -> None:
    llm, _ = fake_llm(saying("Good morning."), fails_at=3)
    with llm, live(create_app(llm)) as address:
        events: Any = list(client_of(address).responses.create(model="fake", input="Hello", stream=True))
    assert (events[-1].type, events[-1].response.status) == ("response.failed", "failed")
    assert "no room for a step" in events[-1].response.error.message
