"""Libraries that people have, unchanged, against our server: their loops, parsers and accumulators.

The scripted engine answers by what the prompt ends with, and holds each answer to its grammar.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator

import openai
import pytest
from pydantic import BaseModel

from hermes3.server.app import create_app
from tests.llm.fakes import fake_llm
from tests.server.live import live

CALL = '<tool_call>\n{"name": "%s", "arguments": {"city": "Paris"}}\n</tool_call>'
SUNNY = "It is sunny in Paris."
CITY = '{"name": "Paris", "people": 2100000}'


class City(BaseModel):
    """A city."""

    name: str
    people: int


def script(ids, params) -> list[int]:
    """JSON where it is asked for, a call where there are tools and no result yet, else a sentence."""
    text = bytes(i for i in ids if i < 256).decode()
    if "<tool_response>" in text:
        return list((CITY if "<schema>" in text else SUNNY).encode())
    if "<tools>" in text:
        tools = text.partition("<tools> ")[2].partition("  </tools>")[0]
        function = json.loads(tools.splitlines()[0])["function"]
        if "people" in function["parameters"].get("properties", {}):  # a class to be filled in
            call = {"name": function["name"], "arguments": json.loads(CITY)}
            return list(f"<tool_call>\n{json.dumps(call)}\n</tool_call>".encode())
        return list((CALL % function["name"]).encode())
    return list((CITY if "<schema>" in text else SUNNY).encode())


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    llm, _ = fake_llm(script, n_ctx=16_000)
    with llm, live(create_app(llm)) as address:
        yield address + "/v1"


@pytest.fixture(scope="module")
def client(address: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=address, api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture  # its connections belong to one event loop
def async_client(address: str) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=address, api_key="none", max_retries=0)


ASKED = [{"role": "user", "content": "How is the weather in Paris?"}]
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "strict": True,
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}


def test_openai_parses_into_a_class(client: openai.OpenAI) -> None:
    given = {"model": "fake", "messages": [{"role": "user", "content": "A city."}], "response_format": City}
    answer = client.chat.completions.parse(**given)
    assert answer.choices[0].message.parsed == City(name="Paris", people=2_100_000)
    with pytest.raises(openai.LengthFinishReasonError):
        client.chat.completions.parse(**given, max_tokens=5)
    with client.chat.completions.stream(**given) as stream:
        assert stream.get_final_completion().choices[0].message.parsed == City(name="Paris", people=2_100_000)


def test_openai_accumulates_calls(client: openai.OpenAI) -> None:
    given = {"model": "fake", "messages": ASKED, "tools": [WEATHER]}
    with client.chat.completions.stream(**given) as stream:
        events = list(stream)
        final = stream.get_final_completion()
    (call,) = final.choices[0].message.tool_calls
    assert (call.function.name, call.function.parsed_arguments) == ("weather", {"city": "Paris"})
    assert final.choices[0].finish_reason == "tool_calls"
    steps = [event for event in events if event.type == "tool_calls.function.arguments.delta"]
    assert "".join(event.arguments_delta for event in steps) == call.function.arguments
    assert [event.name for event in events if event.type == "tool_calls.function.arguments.done"] == [
        "weather"
    ]
    with (
        pytest.raises(openai.LengthFinishReasonError),
        client.chat.completions.stream(**given, max_tokens=60) as stream,
    ):
        stream.until_done()


def test_openai_tools_loop(client: openai.OpenAI) -> None:
    messages: list = [*ASKED]
    for _ in range(2):
        choice = client.chat.completions.create(model="fake", messages=messages, tools=[WEATHER]).choices[0]
        messages.append(choice.message)
        for call in choice.message.tool_calls or []:
            assert json.loads(call.function.arguments) == {"city": "Paris"}
            messages.append({"role": "tool", "tool_call_id": call.id, "content": "sunny"})
    assert messages[-1].content == SUNNY


@pytest.mark.long
def test_openai_agents(async_client: openai.AsyncOpenAI) -> None:
    agents = pytest.importorskip("agents")
    agents.set_tracing_disabled(True)
    asked = []

    @agents.function_tool
    def weather(city: str) -> str:
        """The weather in a city."""
        asked.append(city)
        return "sunny"

    model = agents.OpenAIChatCompletionsModel("fake", async_client)

    async def both() -> list:
        agent = agents.Agent("a", instructions="Be brief.", model=model, tools=[weather])
        whole = await agents.Runner.run(agent, "How is the weather in Paris?")
        streamed = agents.Runner.run_streamed(agent, "How is the weather in Paris?")
        async for _ in streamed.stream_events():
            pass
        typed = await agents.Runner.run(agents.Agent("b", model=model, output_type=City), "A city.")
        return [whole.final_output, streamed.final_output, typed.final_output]

    assert asyncio.run(both()) == [SUNNY, SUNNY, City(name="Paris", people=2_100_000)]
    assert asked == ["Paris", "Paris"]


@pytest.mark.long
def test_openai_agents_over_responses(async_client: openai.AsyncOpenAI) -> None:
    """The API that the library takes where it is not told otherwise."""
    agents = pytest.importorskip("agents")
    agents.set_tracing_disabled(True)
    asked = []

    @agents.function_tool
    def weather(city: str) -> str:
        """The weather in a city."""
        asked.append(city)
        return "sunny"

    model = agents.OpenAIProvider(openai_client=async_client).get_model("fake")
    assert isinstance(model, agents.OpenAIResponsesModel)
    given = {"model": model, "instructions": "Be brief.", "tools": [weather]}

    async def all_of_it() -> None:
        agent = agents.Agent("a", **given)
        whole = await agents.Runner.run(agent, "How is the weather in Paris?")
        assert whole.final_output == SUNNY
        streamed = agents.Runner.run_streamed(agent, "How is the weather in Paris?")
        kinds = [event.type async for event in streamed.stream_events()]
        assert (streamed.final_output, set(kinds) >= {"raw_response_event", "run_item_stream_event"}) == (
            SUNNY,
            True,
        )
        typed = await agents.Runner.run(agents.Agent("b", model=model, output_type=City), "A city.")
        assert typed.final_output == City(name="Paris", people=2_100_000)
        followed = await agents.Runner.run(
            agent, "And now?", previous_response_id=typed.raw_responses[-1].response_id
        )
        assert followed.final_output
        settings = agents.ModelSettings(
            tool_choice="required", parallel_tool_calls=False, temperature=0.5, max_tokens=200, store=False
        )
        forced = await agents.Runner.run(agents.Agent("c", model_settings=settings, **given), "Paris?")
        assert forced.final_output == SUNNY

    asyncio.run(all_of_it())
    assert asked[:2] == ["Paris", "Paris"]


@pytest.mark.long
def test_pydantic_ai(address: str) -> None:
    ai = pytest.importorskip("pydantic_ai")
    from pydantic_ai.models.openai import OpenAIChatModel
    from pydantic_ai.providers.openai import OpenAIProvider

    model = OpenAIChatModel("fake", provider=OpenAIProvider(base_url=address, api_key="none"))
    asked = []

    def weather(city: str) -> str:
        """The weather in a city."""
        asked.append(city)
        return "sunny"

    assert ai.Agent(model, tools=[weather]).run_sync("How is the weather in Paris?").output == SUNNY
    assert asked == ["Paris"]
    for output in (City, ai.NativeOutput(City), ai.ToolOutput(City)):
        assert ai.Agent(model, output_type=output).run_sync("A city.").output.name == "Paris"

    async def streamed() -> str:
        async with ai.Agent(model, tools=[weather]).run_stream("How is the weather in Paris?") as result:
            return await result.get_output()

    assert asyncio.run(streamed()) == SUNNY


@pytest.mark.long
def test_instructor(address: str) -> None:
    instructor = pytest.importorskip("instructor")
    client = openai.OpenAI(base_url=address, api_key="none", max_retries=0)
    for mode in (instructor.Mode.TOOLS, instructor.Mode.JSON_SCHEMA, instructor.Mode.TOOLS_STRICT):
        ask = instructor.from_openai(client, mode=mode).chat.completions
        given = {"model": "fake", "messages": [{"role": "user", "content": "A city."}], "max_retries": 0}
        assert ask.create(response_model=City, **given).model_dump() == json.loads(CITY), mode
        *_, last = ask.create_partial(response_model=City, **given)
        assert last.people == 2_100_000
