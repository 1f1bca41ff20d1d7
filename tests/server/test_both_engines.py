"""What the server promises whatever engine stands behind it: `openai` and plain HTTP, a real small model."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import openai
import pytest

from hermes3 import LLM
from hermes3.server.app import create_app
from tests.engines import ON_VLLM, opened
from tests.server.live import live

PARIS = [{"role": "user", "content": "Where is the Eiffel Tower?"}]  # a greedy answer far from any tie
SCHEMA = {
    "type": "object",
    "properties": {
        "town": {"enum": ["Paris", "Rome"]},
        "year": {"type": "integer", "minimum": 1, "maximum": 99},
    },
    "required": ["town", "year"],
    "additionalProperties": False,
}
TOOLS = [
    {"type": "function", "function": {"name": "visit", "parameters": SCHEMA}},
    {"type": "function", "function": {"name": "now"}},
]


@pytest.fixture(scope="module")
def llm(smol_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LLM]:
    with opened(smol_gguf, tmp_path_factory.mktemp("model"), 1024) as llm:
        yield llm


@pytest.fixture(scope="module")
def address(llm: LLM) -> Iterator[str]:
    with live(create_app(llm, served_model_name="smol")) as address:
        yield address


@pytest.fixture(scope="module")
def ask(address: str) -> Iterator[Callable[..., Any]]:
    """A chat's answer, or the chunks of a stream."""
    with openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0) as client:

        def asked(**given: Any) -> Any:
            extra = {name: given.pop(name) for name in ("guided_regex", "guided_choice", "top_k", "min_p",
                     "repetition_penalty", "ignore_eos", "reasoning", "forced_spans")
                     if name in given}  # fmt: skip
            given = {"model": "smol", "messages": PARIS, "temperature": 0, "max_tokens": 60, **given}
            answer = client.chat.completions.create(**given, extra_body=extra)
            return list(answer) if given.get("stream") else answer

        yield asked


def gauge(address: str, name: str) -> float:
    page = httpx.get(f"{address}/metrics").text
    found = re.search(rf"^{re.escape(name)}{{[^}}]*}} (\S+)$", page, re.MULTILINE)
    assert found is not None
    return float(found[1])


def wait_until(condition: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.02)


def test_a_stream_is_the_whole(ask: Callable[..., Any]) -> None:
    given = {"temperature": 1.2, "seed": 4, "logprobs": True, "top_logprobs": 3}
    whole = ask(**given).choices[0]
    chunks = [chunk.choices[0] for chunk in ask(stream=True, **given) if chunk.choices]
    assert "".join(chunk.delta.content or "" for chunk in chunks) == whole.message.content
    entries = [entry for chunk in chunks if chunk.logprobs for entry in chunk.logprobs.content]
    assert [entry.token for entry in entries] == [entry.token for entry in whole.logprobs.content]
    for entry in entries:
        tops = [top.logprob for top in entry.top_logprobs]
        assert len(tops) == 3
        assert tops == sorted(tops, reverse=True)
        assert entry.logprob <= tops[0] <= 0


def test_a_seed_is_an_answer_and_choices_differ(ask: Callable[..., Any]) -> None:
    first, again = (ask(seed=11, temperature=1.5, n=3).choices for _ in range(2))
    texts = [choice.message.content for choice in first]
    assert texts == [choice.message.content for choice in again]
    assert len(set(texts)) == 3
    assert [choice.index for choice in first] == [0, 1, 2]


@pytest.mark.parametrize("seed", range(3))
def test_required_calls_satisfy_their_schema(ask: Callable[..., Any], seed: int) -> None:
    wanted = {"type": "function", "function": {"name": "visit"}}
    given = {"temperature": 1, "seed": seed, "max_tokens": 200, "parallel_tool_calls": False}
    answer = ask(tools=TOOLS, tool_choice=wanted, **given)
    (call,) = answer.choices[0].message.tool_calls
    assert (call.function.name, answer.choices[0].finish_reason) == ("visit", "tool_calls")
    jsonschema.validate(json.loads(call.function.arguments), SCHEMA)


def test_auto_may_answer_in_words(ask: Callable[..., Any]) -> None:
    choice = ask(tools=TOOLS).choices[0]
    assert choice.message.content or choice.message.tool_calls
    assert choice.finish_reason in {"stop", "length", "tool_calls"}


def test_a_cut_call_is_no_call(ask: Callable[..., Any]) -> None:
    choice = ask(tools=TOOLS, tool_choice="required", max_tokens=9).choices[0]
    assert (choice.message.tool_calls, choice.finish_reason) == (None, "length")
    assert choice.model_extra["broken_tool_calls"]


@pytest.mark.parametrize("stream", [False, True])
def test_json_schema(ask: Callable[..., Any], stream: bool) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "it", "schema": SCHEMA}}
    answer = ask(response_format=form, temperature=1, seed=2, stream=stream, max_tokens=200)
    if stream:
        text = "".join(chunk.choices[0].delta.content or "" for chunk in answer if chunk.choices)
        reason = [chunk.choices[0].finish_reason for chunk in answer if chunk.choices][-1]
    else:
        text, reason = answer.choices[0].message.content, answer.choices[0].finish_reason
    jsonschema.validate(json.loads(text), SCHEMA)
    assert reason == "stop"


def test_what_the_grammar_forced_is_told(ask: Callable[..., Any]) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "it", "schema": SCHEMA}}
    message = ask(response_format=form, forced_spans=True, max_tokens=200).choices[0].message
    forced = "".join(message.content[first:end] for first, end in message.model_extra["forced_spans"])
    assert ("town" in forced, "year" in forced, "Paris" in forced) == (True, True, False)


def test_regex_and_choice(ask: Callable[..., Any]) -> None:
    for seed in range(3):
        given = {"temperature": 1.5, "seed": seed}
        text = ask(guided_regex="[a-f]{7}[0-9]", **given).choices[0].message.content
        assert re.fullmatch("[a-f]{7}[0-9]", text)
        assert ask(guided_choice=["nice", "Nîmes"], **given).choices[0].message.content in ("nice", "Nîmes")


def test_a_grammar_that_ends_ends_the_answer(ask: Callable[..., Any]) -> None:
    answer = ask(guided_choice=["one and only"])
    assert (answer.choices[0].message.content, answer.choices[0].finish_reason) == ("one and only", "stop")


def test_stop_and_length(ask: Callable[..., Any]) -> None:
    whole = ask().choices[0].message.content
    stop = whole[len(whole) // 2 :][:8]
    cut = ask(stop=[stop]).choices[0]
    assert (cut.message.content, cut.finish_reason) == (whole[: whole.index(stop)], "stop")
    short = ask(max_tokens=3)
    assert (short.choices[0].finish_reason, short.usage.completion_tokens) == ("length", 3)
    longer = ask(max_tokens=100, ignore_eos=True)
    assert (longer.choices[0].finish_reason, longer.usage.completion_tokens) == ("length", 100)


def test_what_shapes_the_choice(ask: Callable[..., Any]) -> None:
    greedy = ask(max_tokens=20).choices[0].message.content
    hot = {"temperature": 2, "seed": 1, "max_tokens": 20}
    assert ask(top_k=1, **hot).choices[0].message.content == greedy
    assert ask(top_p=0, **hot).choices[0].message.content == greedy
    assert ask(min_p=1, **hot).choices[0].message.content == greedy
    assert ask(**hot).choices[0].message.content != greedy
    for given in ({"repetition_penalty": 3.0}, {"frequency_penalty": 2, "presence_penalty": 2}):
        assert ask(max_tokens=60, **given).choices[0].message.content != ask().choices[0].message.content


def test_logit_bias_forbids(ask: Callable[..., Any], llm: LLM) -> None:
    first = ask(max_tokens=1, logprobs=True, top_logprobs=2).choices[0]
    token = llm.tokenizer.encode(first.message.content)[0]
    other = ask(max_tokens=1, logit_bias={str(token): -100}).choices[0]
    assert other.message.content == first.logprobs.content[0].top_logprobs[1].token


def test_thoughts_and_usage(ask: Callable[..., Any]) -> None:
    answer = ask(reasoning=True, max_tokens=10)
    timings = answer.model_extra["timings"]
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert timings["prefill_s"] > 0
    assert timings["decode_s"] > 0


@pytest.mark.parametrize(
    ("given", "param"),
    [
        ({"temperature": -1}, "temperature"),
        ({"logit_bias": {"99999999": 1}}, "logit_bias"),
        ({"max_tokens": 100_000}, "max_tokens"),
        ({"tools": [{"type": "function", "function": {"name": "f", "parameters": {"not": {}}}}],
          "tool_choice": "required"}, "tools[0].function.parameters"),
        ({"guided_regex": "(("}, "guided_regex"),
        ({"ignore_eos": True, "guided_regex": "a+"}, "ignore_eos"),
    ],
)  # fmt: skip
def test_errors_name_the_field(ask: Callable[..., Any], given: dict[str, Any], param: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        ask(**given)
    assert caught.value.param.startswith(param)


@pytest.mark.skipif(not ON_VLLM, reason="our own engine does what they ask")
def test_what_vllm_would_change_is_refused(ask: Callable[..., Any]) -> None:
    for param, given in (("temperature", {"temperature": 0.001}),
                         ("logprobs", {"logprobs": True, "guided_regex": "a+"})):  # fmt: skip
        with pytest.raises(openai.BadRequestError) as caught:
            ask(**given)
        assert caught.value.param == param


def test_who_leaves_frees_his_place(address: str) -> None:
    body = {"model": "smol", "messages": PARIS, "max_tokens": 900, "ignore_eos": True, "stream": True}
    with httpx.stream("POST", f"{address}/v1/chat/completions", json=body, timeout=60) as answer:
        lines = answer.iter_lines()
        next(line for line in lines if '"content"' in line)
        assert gauge(address, "vllm:num_requests_running") == 1
    wait_until(lambda: gauge(address, "vllm:num_requests_running") == 0, "it runs on")
    generated = gauge(address, "hermes3:computed_tokens_total")
    time.sleep(0.5)
    assert gauge(address, "hermes3:computed_tokens_total") == generated
    assert gauge(address, "vllm:kv_cache_usage_perc") == 0


def test_metrics_and_probes_tell_the_truth(address: str, ask: Callable[..., Any]) -> None:
    told, computed = "vllm:generation_tokens_total", "hermes3:computed_tokens_total"
    n_told, n_computed = gauge(address, told), gauge(address, computed)
    n_new = ask(max_tokens=7).usage.completion_tokens
    wait_until(lambda: gauge(address, told) == n_told + n_new, "tokens are not counted")
    assert gauge(address, computed) > n_computed
    assert gauge(address, "hermes3:stalled_seconds") == 0
    assert [httpx.get(f"{address}/{path}").status_code for path in ("health", "ready")] == [200, 200]


def test_explaining_costs_no_answer(address: str) -> None:
    told = httpx.post(f"{address}/v1/explain", json={"model": "smol", "messages": PARIS}).json()
    assert told["prompt_tokens"] > 10
    assert (told["cached_tokens"] is None) == ON_VLLM  # vLLM does not tell beforehand


def cores() -> list[int]:
    """vLLM's processes that compute, of this test's server."""
    found = []
    for entry in Path("/proc").iterdir():
        with suppress(OSError):
            if entry.name.isdigit() and (entry / "cmdline").read_bytes().startswith(b"VLLM::EngineCore"):
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                found += [int(entry.name)] if parent == os.getpid() else []
    return found


@pytest.mark.skipif(not ON_VLLM, reason="our own engine is this process")
def test_a_vllm_that_stands_still_and_one_that_is_gone(address: str) -> None:
    """The last test here: it leaves no engine behind."""

    def ready() -> int:
        return httpx.get(f"{address}/ready").status_code

    (core,) = cores()
    body = {"model": "smol", "messages": PARIS, "max_tokens": 800, "ignore_eos": True, "stream": True}
    with httpx.stream("POST", f"{address}/v1/chat/completions", json=body, timeout=120) as answer:
        lines = answer.iter_lines()
        next(line for line in lines if '"content"' in line)
        os.kill(core, signal.SIGSTOP)
        wait_until(lambda: ready() == 503, "ready while nothing comes")
        os.kill(core, signal.SIGCONT)
        wait_until(lambda: ready() == 200, "red though tokens come again")
        os.kill(core, signal.SIGKILL)
        assert any('"error"' in line for line in lines)
    wait_until(lambda: ready() == 503, "ready without an engine")
    refused = httpx.post(f"{address}/v1/chat/completions", json={"model": "smol", "messages": PARIS})
    assert (refused.status_code, "has ended" in refused.text or "engine" in refused.text) == (503, True)
