"""The unchanged `openai` client against a real server on 127.0.0.1, with a scripted engine behind it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

import openai
import pytest

from hermes3.server.app import create_app
from tests.llm.fakes import FakeEngine, echo, fake_llm
from tests.server.live import live

HI = [{"role": "user", "content": "hi 🦙"}]


def backwards(ids, params) -> list[int]:
    text = bytes(i for i in ids if i < 256).decode()
    return list((text[::-1] + f" {params.seed}" if params.seed is not None else text[::-1]).encode())


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[str, FakeEngine]]:
    llm, engine = fake_llm(backwards, step_s=0.0005)
    with llm, live(create_app(llm, served_model_name="house/model")) as address:
        yield address, engine


@pytest.fixture(scope="module")
def client(served) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=served[0] + "/v1", api_key="none", max_retries=0) as client:
        yield client


def text_of(messages) -> str:
    """What the script answers to these messages."""
    prompt = "".join(f"{one['role']}\n{one['content']}\n" for one in messages) + "assistant\n"
    return prompt[::-1]


def test_chat(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="house/model", messages=HI)
    (choice,) = answer.choices
    assert choice.message.content == text_of(HI)
    assert (choice.message.role, choice.finish_reason, choice.index) == ("assistant", "stop", 0)
    assert (answer.object, answer.model) == ("chat.completion", "house/model")
    assert answer.id.startswith("chatcmpl-")
    assert abs(answer.created - time.time()) < 60
    n_answer = len(text_of(HI).encode()) + 1
    n_prompt = n_answer - 1 + 3  # three ChatML marks
    usage = answer.usage
    assert (usage.prompt_tokens, usage.completion_tokens) == (n_prompt, n_answer)
    assert usage.total_tokens == n_prompt + n_answer
    assert usage.prompt_tokens_details.cached_tokens == 0


def test_chat_stream_with_usage(client: openai.OpenAI) -> None:
    plain = client.chat.completions.create(model="fake", messages=HI, logprobs=True, top_logprobs=2)
    chunks = list(
        client.chat.completions.create(
            model="fake",
            messages=HI,
            stream=True,
            stream_options={"include_usage": True},
            logprobs=True,
            top_logprobs=2,
        )
    )
    *body, last = chunks
    assert len({chunk.id for chunk in chunks}) == 1
    assert body[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in body) == plain.choices[0].message.content
    assert [chunk.choices[0].finish_reason for chunk in body] == [None] * (len(body) - 1) + ["stop"]
    assert last.choices == []
    assert last.usage == plain.usage
    assert all(chunk.usage is None for chunk in body)
    streamed = [
        entry for chunk in body if chunk.choices[0].logprobs for entry in chunk.choices[0].logprobs.content
    ]
    assert streamed == plain.choices[0].logprobs.content
    assert bytes(byte for entry in streamed for byte in entry.bytes).decode() == text_of(HI)
    assert [len(entry.top_logprobs) for entry in streamed] == [2] * len(streamed)


def test_stream_without_usage_has_none(client: openai.OpenAI) -> None:
    chunks = list(client.chat.completions.create(model="fake", messages=HI, stream=True))
    assert all(chunk.choices for chunk in chunks)
    assert all("usage" not in chunk.model_fields_set for chunk in chunks)


def test_n_choices_differ_by_seed(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="fake", messages=HI, n=3, seed=5)
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    expected = [text_of(HI) + f" {5 + i}" for i in range(3)]
    assert [choice.message.content for choice in answer.choices] == expected
    one = client.chat.completions.create(model="fake", messages=HI, seed=5)
    assert answer.usage.prompt_tokens == one.usage.prompt_tokens
    assert answer.usage.completion_tokens == 3 * one.usage.completion_tokens
    texts = ["", "", ""]
    for chunk in client.chat.completions.create(model="fake", messages=HI, n=3, seed=5, stream=True):
        texts[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    assert texts == [choice.message.content for choice in answer.choices]


def test_stop_length_and_extensions(client: openai.OpenAI) -> None:
    def ask(**more):
        return client.chat.completions.create(model="fake", messages=HI, **more).choices[0]

    choice = ask(stop=["🦙", "zz"])
    assert (choice.message.content, choice.finish_reason) == (text_of(HI).partition("🦙")[0], "stop")
    for name in ("max_tokens", "max_completion_tokens"):
        choice = ask(**{name: 4})
        assert (choice.message.content, choice.finish_reason) == (text_of(HI)[:4], "length")
    more = {"top_k": 3, "min_p": 0.1, "repetition_penalty": 1.1, "ignore_eos": True}
    choice = ask(max_tokens=len(text_of(HI).encode()) + 1, extra_body=more)
    assert choice.message.content == text_of(HI) + "<|im_end|>"


def test_completions(client: openai.OpenAI) -> None:
    answer = client.completions.create(model="fake", prompt="abc")
    assert (answer.object, answer.choices[0].text, answer.choices[0].finish_reason) == (
        "text_completion", "cba", "stop",
    )  # fmt: skip
    long = client.completions.create(model="fake", prompt="a" * 30)
    assert (long.choices[0].text, long.choices[0].finish_reason) == ("a" * 16, "length")  # OpenAI's default
    several = client.completions.create(model="fake", prompt=["ab", "cd"], n=2, seed=1, echo=True)
    assert [choice.text for choice in several.choices] == ["abba 1", "abba 2", "cddc 1", "cddc 2"]
    assert several.usage.prompt_tokens == 4
    ids = client.completions.create(model="fake", prompt=[[97, 98], [99]], echo=True)
    assert [choice.text for choice in ids.choices] == ["abba", "cc"]
    assert client.completions.create(model="fake", prompt=[97, 98]).choices[0].text == "ba"


def test_completion_logprobs(client: openai.OpenAI) -> None:
    given = {"model": "fake", "prompt": "a🦙b", "logprobs": 1}
    plain = client.completions.create(**given).choices[0]
    assert plain.text == "b🦙a"
    raw = [f"bytes:\\x{byte:02x}" for byte in "🦙".encode()]
    assert plain.logprobs.tokens == ["b", *raw, "a"]
    assert plain.logprobs.text_offset == [0, 1, 1, 1, 1, 2]
    assert plain.logprobs.token_logprobs == [-1.0] * 6
    assert plain.logprobs.top_logprobs[0] == {"b": -1.0}
    parts = [chunk.choices[0].logprobs for chunk in client.completions.create(**given, stream=True)]
    assert [token for part in parts if part for token in part.tokens] == plain.logprobs.tokens
    assert [at for part in parts if part for at in part.text_offset] == plain.logprobs.text_offset


def test_completion_stream(client: openai.OpenAI) -> None:
    given = {"model": "fake", "prompt": ["ab", "cd"], "echo": True, "stream": True}
    chunks = list(client.completions.create(**given, stream_options={"include_usage": True}))
    texts = ["", ""]
    for chunk in chunks[:-1]:
        texts[chunk.choices[0].index] += chunk.choices[0].text
    assert texts == ["abba", "cddc"]
    assert (chunks[-1].choices, chunks[-1].usage.total_tokens) == ([], 4 + 6)


def test_models(client: openai.OpenAI) -> None:
    (model,) = client.models.list().data
    assert (model.id, model.object, model.owned_by) == ("house/model", "model", "hermes3")
    for name in ("house/model", "fake", "Fake-1B.Q4_0.gguf", "Fake-1B.Q4_0"):
        assert client.models.retrieve(name).id == name
        assert client.chat.completions.create(model=name, messages=HI, max_tokens=1).model == "house/model"
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("gpt-4o")
    assert caught.value.body["code"] == "model_not_found"
    with pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.create(model="gpt-4o", messages=HI)
    assert (caught.value.body["param"], caught.value.code) == ("model", "model_not_found")


def test_errors_have_openais_shape(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="fake", messages=HI, temperature=-1)
    error = caught.value
    assert (error.param, error.code, error.type) == ("temperature", "invalid_value", "invalid_request_error")
    with pytest.raises(openai.BadRequestError, match="holds 1000") as caught:
        client.chat.completions.create(model="fake", messages=[{"role": "user", "content": "x" * 1000}])
    assert caught.value.code == "context_length_exceeded"


@pytest.mark.parametrize("stream", [True, False])
def test_hanging_up_cancels(served, stream: bool) -> None:
    address, engine = served
    engine.cancelled.clear()
    engine.go.clear()
    client = openai.OpenAI(base_url=address + "/v1", api_key="none", max_retries=0, timeout=0.3)
    with pytest.raises(Exception, match="timed out"):  # its own error, or of its transport by its version
        for _ in client.chat.completions.create(model="fake", messages=HI, n=4, stream=stream):
            pass
    client.close()
    assert len(engine.running) == 4
    engine.step_s, step_s = 0.05, engine.step_s
    engine.go.set()
    end = time.monotonic() + 5
    while engine.running:
        assert time.monotonic() < end
        time.sleep(0.01)
    engine.step_s = step_s
    assert len(engine.cancelled) == 4


def test_leaving_a_stream_cancels(served, client: openai.OpenAI) -> None:
    _, engine = served
    engine.cancelled.clear()
    engine.step_s, step_s = 0.05, engine.step_s
    with client.chat.completions.create(model="fake", messages=HI, stream=True) as stream:
        assert next(iter(stream)).choices[0].delta.role == "assistant"
    end = time.monotonic() + 5
    while engine.running:
        assert time.monotonic() < end
        time.sleep(0.01)
    engine.step_s = step_s
    assert len(engine.cancelled) == 1


def test_concurrent_clients_get_what_they_get_alone(served) -> None:
    address, engine = served

    async def ask(client, number: int) -> str:
        answer = await client.chat.completions.create(
            model="fake", messages=[{"role": "user", "content": f"number {number}"}], seed=number
        )
        return answer.choices[0].message.content

    async def everybody() -> list[str]:
        async with openai.AsyncOpenAI(base_url=address + "/v1", api_key="none", max_retries=0) as client:
            alone = [await ask(client, number) for number in range(12)]
            engine.most_at_once = 0
            assert await asyncio.gather(*(ask(client, number) for number in range(12))) == alone
        return alone

    assert len(set(asyncio.run(everybody()))) == 12
    assert engine.most_at_once > 6


def test_api_keys() -> None:
    llm, _ = fake_llm(echo)
    with llm, live(create_app(llm, api_keys=["first", "sécond"])) as address:
        for key, is_right in (("first", True), ("wrong", False), ("first2", False)):
            client = openai.OpenAI(base_url=address + "/v1", api_key=key, max_retries=0)
            if is_right:
                assert client.models.list().data[0].id == "fake"
                continue
            for call in (client.models.list, lambda c=client: c.completions.create(model="fake", prompt="x")):
                with pytest.raises(openai.AuthenticationError) as caught:
                    call()
                assert caught.value.code == "invalid_api_key"
        assert openai.DefaultHttpxClient().get(address + "/health").json() == {"status": "ok"}


def test_a_dying_engine_is_said() -> None:
    llm, _ = fake_llm(backwards, fails_at=5)
    with llm, live(create_app(llm)) as address:
        client = openai.OpenAI(base_url=address + "/v1", api_key="none", max_retries=0)
        with pytest.raises(openai.APIError, match="MemoryError"):
            list(client.chat.completions.create(model="fake", messages=HI, stream=True))
        with pytest.raises(openai.InternalServerError) as caught:
            client.chat.completions.create(model="fake", messages=HI)
        assert (caught.value.status_code, caught.value.code) == (503, "engine_error")
        health = openai.DefaultHttpxClient().get(address + "/health")
        assert (health.status_code, health.json()["status"]) == (503, "failed")
