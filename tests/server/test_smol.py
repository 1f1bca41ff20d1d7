"""The unchanged `openai` client, the server, the real engine and a small model."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import jsonschema
import openai
import pytest
from prometheus_client.parser import text_string_to_metric_families

from hermes3.server.app import create_app
from tests.engines import ON_VLLM, opened, own_alone
from tests.server.live import live

PARIS = [{"role": "user", "content": "Where is the Eiffel Tower?"}]  # a greedy answer far from any tie


@pytest.fixture(scope="module")
def address(smol_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with (
        opened(smol_gguf, tmp_path_factory.mktemp("model"), 1024) as llm,
        live(create_app(llm, served_model_name="smol")) as address,
    ):
        yield address + "/v1"


@pytest.fixture(scope="module")
def client(address: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=address, api_key="none", max_retries=0) as client:
        yield client


def test_chat_streamed_and_not(client: openai.OpenAI) -> None:
    plain = client.chat.completions.create(model="smol", messages=PARIS, temperature=0)
    assert "Paris" in plain.choices[0].message.content
    *chunks, last = client.chat.completions.create(
        model="smol", messages=PARIS, temperature=0, stream=True, stream_options={"include_usage": True}
    )
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text == plain.choices[0].message.content
    assert chunks[-1].choices[0].finish_reason == plain.choices[0].finish_reason == "stop"
    n_full = (last.usage.prompt_tokens - 1) // 32 * 32
    if not ON_VLLM:  # whose pages are not ours
        assert last.usage.prompt_tokens_details.cached_tokens == n_full, "it was asked before"
    plain.usage.prompt_tokens_details = last.usage.prompt_tokens_details
    assert last.usage == plain.usage


@own_alone
def test_forced_tokens_are_counted(client: openai.OpenAI) -> None:
    schema = {"type": "object", "properties": {"the_answer_to_it": {"enum": ["Paris", "Rome"]}}}
    schema |= {"required": ["the_answer_to_it"], "additionalProperties": False}
    form = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
    answer = client.chat.completions.create(
        model="smol", messages=PARIS, temperature=0, response_format=form
    )
    n_forced = answer.model_extra["timings"]["forced_tokens"]
    assert json.loads(answer.choices[0].message.content) == {"the_answer_to_it": "Paris"}
    assert 4 < n_forced < answer.usage.completion_tokens  # all but the choice of a town
    timings = answer.model_extra["timings"]
    assert 0 < timings["mask_s"] < 5
    assert timings["mask_wait_s"] >= 0
    free = client.chat.completions.create(model="smol", messages=PARIS, max_tokens=5)
    timings = free.model_extra["timings"]
    assert [timings[name] for name in ("forced_tokens", "mask_s", "mask_wait_s")] == [0, 0, 0]


@own_alone
def test_guesses_are_counted(client: openai.OpenAI, address: str) -> None:
    """Numbers that go on as they began are guessed from the prompt, and metrics add up what timings say."""
    before = samples(address)
    text = ", ".join(str(number % 10) for number in range(60))
    answer = client.completions.create(model="smol", prompt=text, temperature=0, max_tokens=60)
    timings, after = answer.model_extra["timings"], samples(address)
    assert timings["drafted_tokens"] >= timings["accepted_tokens"] > 20
    for name, count in (("draft", "drafted_tokens"), ("accepted", "accepted_tokens")):
        name = f"vllm:spec_decode_num_{name}_tokens_total"
        assert after[name] - before[name] == timings[count]
    assert after["vllm:spec_decode_num_drafts_total"] > before["vllm:spec_decode_num_drafts_total"]


def samples(address: str) -> dict[str, float]:
    """Counters by name."""
    text = httpx.get(address.removesuffix("/v1") + "/metrics").text
    found = [each for family in text_string_to_metric_families(text) for each in family.samples]
    return {each.name: each.value for each in found if "le" not in each.labels}


def test_completions(client: openai.OpenAI) -> None:
    answer = client.completions.create(
        model="smol", prompt=["The capital of France is", "Two plus two is"], temperature=0, logprobs=2
    )
    assert "Paris" in answer.choices[0].text
    assert all(choice.finish_reason in {"stop", "length"} for choice in answer.choices)
    for choice in answer.choices:
        assert len(choice.logprobs.tokens) == len(choice.logprobs.text_offset)
        assert all(
            choice.text[at:].startswith(token)
            for token, at in zip(choice.logprobs.tokens, choice.logprobs.text_offset, strict=True)
            if not token.startswith("bytes:")
        )


def test_logit_bias_by_token_id(client: openai.OpenAI) -> None:
    first = client.completions.create(model="smol", prompt="1 2 3", max_tokens=1, temperature=0, logprobs=1)
    ids = {str(token_id): -100 for token_id in range(1000)}
    other = client.completions.create(
        model="smol", prompt="1 2 3", max_tokens=1, temperature=0, logprobs=1, logit_bias=ids
    )
    assert other.choices[0].text != first.choices[0].text
    assert other.choices[0].logprobs.top_logprobs == first.choices[0].logprobs.top_logprobs  # the model's own


def test_context_length(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="holds 1024") as caught:
        client.chat.completions.create(model="smol", messages=[{"role": "user", "content": "word " * 1100}])
    assert caught.value.code == "context_length_exceeded"


def test_concurrent_clients_get_the_text_they_get_alone(address: str) -> None:
    async def ask(client: openai.AsyncOpenAI, number: int) -> str:
        answer = await client.chat.completions.create(
            model="smol",
            messages=[{"role": "user", "content": f"Tell me about the number {number}."}],
            seed=number,
            max_tokens=24,
        )
        return answer.choices[0].message.content

    async def everybody() -> tuple[list[str], list[str]]:
        async with openai.AsyncOpenAI(base_url=address, api_key="none", max_retries=0) as client:
            alone = [await ask(client, number) for number in range(8)]
            return alone, await asyncio.gather(*(ask(client, number) for number in range(8)))

    alone, together = asyncio.run(everybody())
    assert together == alone
    assert len(set(alone)) > 1


def test_a_model_that_never_saw_a_tool_calls_it_soundly(client: openai.OpenAI) -> None:
    schema = {
        "type": "object",
        "properties": {"unit": {"enum": ["celsius", "fahrenheit"]}, "days": {"type": "integer"}},
        "required": ["unit", "days"],
    }
    tool = {"type": "function", "function": {"name": "weather", "parameters": schema}}
    for seed in range(3):
        given = {
            "model": "smol", "messages": PARIS, "tools": [tool], "tool_choice": "required", "temperature": 1,
            "seed": seed, "parallel_tool_calls": False, "max_tokens": 200,
        }  # fmt: skip
        choice = client.chat.completions.create(**given).choices[0]
        (call,) = choice.message.tool_calls
        assert choice.finish_reason == "tool_calls"
        jsonschema.validate(json.loads(call.function.arguments), schema)
        with client.chat.completions.stream(**given) as stream:
            (streamed,) = stream.get_final_completion().choices[0].message.tool_calls
        assert streamed.function.arguments == call.function.arguments
