"""Libraries that speak to many services, unchanged, against our server: litellm, llm, inspect-ai.

They are not in the extra `test`: with them pip takes too long to find versions that fit together. The
scripted engine answers by what the prompt ends with, and holds each answer to its grammar.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from hermes3.server.app import create_app
from tests.llm.fakes import fake_llm
from tests.server.live import live
from tests.server.test_clients import ASKED, CITY, SUNNY, WEATHER, City, script

pytestmark = pytest.mark.long

Extra = Callable[[str], ModuleType]
FUNCTION = 'def weather(city: str) -> str:\n    """The weather in a city."""\n    return "sunny"\n'
MODELS = """
- {model_id: house, model_name: fake, api_base: "%(address)s", supports_tools: true, supports_schema: true}
- {model_id: house-responses, model_name: fake, api_base: "%(address)s", supports_tools: true,
   supports_schema: true, responses: true}
- {model_id: house-completion, model_name: fake, api_base: "%(address)s", completion: true}
"""


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    llm, _ = fake_llm(script, n_ctx=16_000)
    with llm, live(create_app(llm)) as address:
        yield address + "/v1"


@pytest.fixture
def litellm(extra_client: Extra, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # or it asks the network for prices
    return extra_client("litellm")


def test_litellm_chats(litellm: ModuleType, address: str) -> None:
    given = {"model": "openai/fake", "api_base": address, "api_key": "none", "num_retries": 0}
    hello = [{"role": "user", "content": "Hello"}]
    whole = litellm.completion(messages=hello, temperature=0.5, max_tokens=100, **given)
    assert (whole.choices[0].message.content, whole.choices[0].finish_reason) == (SUNNY, "stop")
    assert whole.usage.completion_tokens == len(SUNNY) + 1
    assert asyncio.run(litellm.acompletion(messages=hello, **given)).choices[0].message.content == SUNNY
    chunks = list(
        litellm.completion(messages=hello, stream=True, stream_options={"include_usage": True}, **given)
    )
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == SUNNY
    assert litellm.stream_chunk_builder(chunks).usage.completion_tokens == len(SUNNY) + 1
    typed = litellm.completion(
        messages=[{"role": "user", "content": "A city."}], response_format=City, **given
    )
    assert City.model_validate_json(typed.choices[0].message.content).name == "Paris"


def test_litellm_calls(litellm: ModuleType, address: str) -> None:
    given = {"model": "openai/fake", "api_base": address, "api_key": "none", "tools": [WEATHER]}
    messages: list[Any] = [*ASKED]
    (call,) = litellm.completion(messages=messages, **given).choices[0].message.tool_calls
    assert (call.function.name, json.loads(call.function.arguments)) == ("weather", {"city": "Paris"})
    built = litellm.stream_chunk_builder(list(litellm.completion(messages=messages, stream=True, **given)))
    assert built.choices[0].message.tool_calls[0].function.arguments == call.function.arguments
    messages += [built.choices[0].message, {"role": "tool", "tool_call_id": call.id, "content": "sunny"}]
    assert litellm.completion(messages=messages, **given).choices[0].message.content == SUNNY


def test_litellm_speaks_the_other_protocols(litellm: ModuleType, address: str) -> None:
    given = {"api_base": address, "api_key": "none"}
    answer = litellm.responses(model="openai/fake", input="Hello", **given)
    assert answer.output[0].content[0].text == SUNNY
    events = list(litellm.responses(model="openai/fake", input="Hello", stream=True, **given))
    assert events[-1].type == "response.completed"
    text = litellm.text_completion(
        model="text-completion-openai/fake", prompt="Hello", max_tokens=50, **given
    )
    assert text.choices[0].text == SUNNY
    with pytest.raises(litellm.BadRequestError, match="top_k"):
        litellm.completion(model="openai/fake", messages=ASKED, extra_body={"top_k": -5}, **given)


def test_llm(extra_client: Extra, address: str, tmp_path: Path) -> None:
    extra_client("llm")
    (tmp_path / "extra-openai-models.yaml").write_text(MODELS % {"address": address})

    def asked(*arguments: str) -> str:
        return subprocess.run(
            [sys.executable, "-m", "llm", *arguments],
            env={**os.environ, "LLM_USER_PATH": str(tmp_path)}, capture_output=True, text=True, check=True,
            stdin=subprocess.DEVNULL,
        ).stdout.strip()  # fmt: skip

    for model in ("house", "house-responses"):
        assert asked("-m", model, "Hello") == SUNNY
        assert (
            asked("-m", model, "--no-stream", "-s", "Be brief.", "-o", "temperature", "0.5", "Hello") == SUNNY
        )
        assert asked("-c", "And now?") == SUNNY
        assert json.loads(asked("-m", model, "--schema", "name, people int", "A city.")) == json.loads(CITY)
        for how in ((), ("--no-stream",)):
            said = asked("-m", model, *how, "--functions", FUNCTION, "How is the weather in Paris?")
            assert said.endswith(SUNNY)
    assert asked("-m", "house-completion", "Hello") == SUNNY


def test_inspect_ai(extra_client: Extra, address: str, tmp_path: Path) -> None:
    inspect = extra_client("inspect_ai")
    from inspect_ai.dataset import Sample
    from inspect_ai.model import get_model
    from inspect_ai.scorer import match
    from inspect_ai.solver import generate, use_tools
    from inspect_ai.tool import tool

    asked = []

    @tool
    def weather():  # type: ignore[no-untyped-def]  # as its documentation has tools
        async def execute(city: str) -> str:
            """The weather in a city.

            Args:
                city: its name
            """
            asked.append(city)
            return "sunny"

        return execute

    for uses_responses in (False, True):
        model = get_model(
            "openai-api/house/fake", base_url=address, api_key="none", responses_api=uses_responses
        )
        task = inspect.Task(
            dataset=[Sample(id=i, input="How is the weather in Paris?", target=SUNNY) for i in (1, 2)],
            solver=[use_tools(weather()), generate()],
            scorer=match(),
        )
        (log,) = inspect.eval(task, model=model, log_dir=str(tmp_path), display="none", max_tokens=200)
        assert log.status == "success", log.error
        assert log.results.scores[0].metrics["accuracy"].value == 1.0
    assert asked == ["Paris"] * 4
