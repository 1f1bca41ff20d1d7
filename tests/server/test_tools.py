"""Tools and JSON mode by the `openai` client; the scripted engine holds each script to its grammar."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import openai
import pytest

from hermes3.engine import grammar
from hermes3.server.app import create_app
from hermes3.server.limits import Limits
from tests.llm.fakes import FakeEngine, fake_llm, saying
from tests.server.live import live

HI = [{"role": "user", "content": "x"}]
WEATHER = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
    "required": ["city"],
}
TOOLS = [
    {"type": "function", "function": {"name": "weather", "description": "To come.", "parameters": WEATHER}},
    {"type": "function", "function": {"name": "now"}},
]
NOW = {"type": "function", "function": {"name": "now"}}
PARIS = '<tool_call>\n{"name": "weather", "arguments": {"city": "Paris",\n "days": 2}}\n</tool_call>'
ARGUMENTS = '{"city": "Paris",\n "days": 2}'
TIME = '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>'
CARD = '<tool_call>\n{"arguments": {"city": "Paris"}, "name": "weather"}\n</tool_call>'
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
FORMAT = {"type": "json_schema", "json_schema": {"name": "it", "schema": SCHEMA}}


class Scripted:
    """A server whose engine says what it is told to."""

    def __init__(self, client: openai.OpenAI, engine: FakeEngine) -> None:
        self.client, self.engine = client, engine

    def ask(self, text: str, *, obedient: bool = False, ids_at_once: int = 1, **more: Any) -> Any:
        self.engine.script = saying(text)
        self.engine.is_obedient, self.engine.ids_at_once = obedient, ids_at_once
        answer = self.client.chat.completions.create(model="fake", **{"messages": HI, **more})
        return list(answer) if more.get("stream") else answer

    def refused(self, **more: Any) -> openai.BadRequestError:
        with pytest.raises(openai.BadRequestError) as caught:
            self.ask("x", **more)
        return caught.value

    def post(self, path: str, **body: Any) -> dict[str, Any]:
        address = str(self.client.base_url).removesuffix("/v1/")
        return httpx.post(address + path, json=body).json()


@contextmanager
def scripted(limits: Limits | None = None) -> Iterator[Scripted]:
    llm, engine = fake_llm(n_ctx=8000)
    with (
        llm,
        live(create_app(llm, limits=limits)) as address,
        openai.OpenAI(base_url=address + "/v1", api_key="none", max_retries=0) as client,
    ):
        yield Scripted(client, engine)


@pytest.fixture(scope="module")
def server() -> Iterator[Scripted]:
    with scripted() as server:
        yield server


def joined(chunks) -> list[dict[str, Any]]:
    """Messages by choice, out of chunks, by the rules of OpenAI's documentation."""
    out: dict[int, dict[str, Any]] = {}
    for chunk in chunks:
        for choice in chunk.choices:
            message = out.setdefault(choice.index, {"content": "", "calls": {}, "finish": None, "broken": []})
            message["content"] += choice.delta.content or ""
            message["finish"] = choice.finish_reason or message["finish"]
            message["broken"] += getattr(choice, "broken_tool_calls", [])
            for step in choice.delta.tool_calls or []:
                if step.id is not None:
                    assert (step.type, step.function.arguments) == ("function", "")
                    message["calls"][step.index] = [step.id, step.function.name, ""]
                else:
                    message["calls"][step.index][2] += step.function.arguments
    return [out[index] for index in sorted(out)]


def test_calls(server: Scripted) -> None:
    answer = server.ask(f"Let me see.\n{PARIS}\n{TIME}", tools=TOOLS)
    (choice,) = answer.choices
    assert (choice.finish_reason, choice.message.content) == ("tool_calls", "Let me see.")
    calls = choice.message.tool_calls
    assert [call.type for call in calls] == ["function", "function"]
    assert [call.function.name for call in calls] == ["weather", "now"]
    assert [call.function.arguments for call in calls] == [ARGUMENTS, "{}"]
    assert len({call.id for call in calls}) == 2
    assert server.ask(TIME, tools=TOOLS).choices[0].message.content is None
    n_tools = len(json.dumps(TOOLS))
    assert answer.usage.prompt_tokens > n_tools, "the tools' text counts"


@pytest.mark.parametrize("at_once", [1, 2, 7, 10_000])
def test_streamed_is_unstreamed(server: Scripted, at_once: int) -> None:
    """At every size of step: the whole call in the last chunk, too, with its arguments."""
    text = f"Look:\n{PARIS}\n{TIME}"
    given = {"tools": TOOLS, "n": 2, "seed": 1, "ids_at_once": at_once}
    plain = server.ask(text, **given)
    *chunks, last = server.ask(text, **given, stream=True, stream_options={"include_usage": True})
    for message, choice in zip(joined(chunks), plain.choices, strict=True):
        assert (message["content"], message["finish"]) == ("Look:", "tool_calls")
        assert (choice.message.content, choice.finish_reason) == ("Look:", "tool_calls")
        expected = [[call.function.name, call.function.arguments] for call in choice.message.tool_calls]
        assert [call[1:] for _, call in sorted(message["calls"].items())] == expected
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[0].choices[0].delta.content is None
    assert last.usage.total_tokens == plain.usage.total_tokens


def test_the_name_comes_first_and_arguments_as_they_are_written(server: Scripted) -> None:
    steps = [
        step
        for chunk in server.ask(PARIS, tools=TOOLS, stream=True)
        for step in chunk.choices[0].delta.tool_calls or []
    ]
    assert (steps[0].function.name, steps[0].function.arguments) == ("weather", "")
    assert len(steps) > 20
    assert all(step.function.name is None and step.id is None for step in steps[1:])


def test_tool_choice(server: Scripted) -> None:
    def names(text: str, **more: Any) -> list[str]:
        message = server.ask(text, obedient=True, tools=TOOLS, **more).choices[0].message
        return [call.function.name for call in message.tool_calls or []]

    def only(mode: str) -> dict[str, Any]:
        return {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": [NOW]}}

    assert names("No.") == names("No.", tool_choice="auto") == []
    assert names(TIME) == names(TIME, tool_choice="auto") == ["now"]
    assert names("No.", tool_choice="required") != []
    assert names("No.", tool_choice=NOW) == ["now"]
    assert names(PARIS, tool_choice=NOW) == ["now"]
    assert names(TIME, tool_choice="none") == []
    assert names("No.", tool_choice=only("auto")) == []
    assert set(names(PARIS, tool_choice=only("auto"))) == {"now"}
    assert names("No.", tool_choice=only("required")) == ["now"]
    assert names(f"{TIME}\n{TIME}") == ["now", "now"]
    assert names(f"{TIME}\n{TIME}", parallel_tool_calls=False) == ["now"]


def test_the_cards_order_streams_too(server: Scripted) -> None:
    given = {"tools": TOOLS, "extra_body": {"call_order": "arguments"}}
    (call,) = server.ask(CARD, **given).choices[0].message.tool_calls
    assert (call.function.name, call.function.arguments) == ("weather", '{"city": "Paris"}')
    (message,) = joined(server.ask(CARD, stream=True, **given))
    assert [each[1:] for each in message["calls"].values()] == [["weather", '{"city": "Paris"}']]


def test_a_cut_call_is_no_call(server: Scripted) -> None:
    more = {"tools": TOOLS, "max_tokens": len(TIME) + 60}
    (choice,) = server.ask(f"{TIME}\n{PARIS}", **more).choices
    assert choice.finish_reason == "length"
    assert [call.function.name for call in choice.message.tool_calls] == ["now"]
    (broken,) = choice.broken_tool_calls
    assert (broken["index"], broken["name"], broken["status"]) == (1, "weather", "cut")
    assert "ends inside" in broken["error"]
    (message,) = joined(server.ask(f"{TIME}\n{PARIS}", stream=True, **more))
    assert (message["finish"], message["broken"]) == ("length", [broken])
    assert set(message["calls"]) == {0, broken["index"]}, "it was streamed, and then named as broken"


def test_what_has_no_name_yet_stays_in_the_text(server: Scripted) -> None:
    (choice,) = server.ask(PARIS, tools=TOOLS, max_tokens=15).choices
    assert (choice.message.content, choice.message.tool_calls) == (PARIS[:15], None)
    assert (choice.finish_reason, choice.broken_tool_calls[0]["index"]) == ("length", None)


HISTORY = [
    {"role": "developer", "content": [{"type": "text", "text": "Be"}, {"type": "text", "text": "brief."}]},
    {"role": "user", "content": "x"},
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {"id": "a", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Paris"}'}}
        ],
    },
    {"role": "tool", "tool_call_id": "a", "content": '{"sun": true}'},
]


def test_tool_turns_in_the_history(server: Scripted) -> None:
    answer = server.ask("Sunny.", messages=HISTORY, tools=TOOLS)
    assert answer.choices[0].message.content == "Sunny."
    text = server.post("/apply-template", messages=HISTORY, tools=TOOLS)["prompt"]
    assert server.post("/tokenize", messages=HISTORY, tools=TOOLS)["count"] == answer.usage.prompt_tokens
    assert text.startswith("<|im_start|>system\nBe\nbrief.\nYou are a function calling AI model.")
    call = '<tool_call>\n{"name": "weather", "arguments": {"city": "Paris"}}\n</tool_call>'
    assert f"<|im_start|>assistant\n{call}<|im_end|>" in text
    result = '<tool_response>\n{"name": "weather", "content": {"sun": true}}\n</tool_response>'
    assert f"<|im_start|>tool\n{result}" in text


def broken_history(**function: Any) -> list[dict[str, Any]]:
    call = {"id": "a", "type": "function", "function": {"name": "now", "arguments": "{}", **function}}
    return [*HI, {"role": "assistant", "content": None, "tool_calls": [call]}]


CALL = "messages[1].tool_calls[0].function"


@pytest.mark.parametrize(
    ("more", "param", "said"),
    [
        ({"messages": broken_history(arguments='{"city": "Par')}, f"{CALL}.arguments", "not JSON"),
        ({"messages": broken_history(arguments="[1]")}, f"{CALL}.arguments", "object"),
        ({"messages": broken_history(arguments=None)}, f"{CALL}.arguments", "null"),
        ({"messages": broken_history(name=None)}, f"{CALL}.name", "None"),
        ({"messages": [*HI, {"role": "tool", "tool_call_id": "b", "content": "x"}]},
         "messages[1].tool_call_id", "'b'"),
        ({"messages": [*HI, {"role": "function", "name": "f", "content": "x"}]}, "messages[1].role", "tool"),
        ({"messages": [*HI, {"role": "assistant", "content": None}]}, "messages[1].content", "tool_calls"),
        ({"functions": [{"name": "f"}]}, "functions", "Send 'tools'"),
        ({"function_call": "auto"}, "function_call", "Send 'tool_choice'"),
        ({"tools": [{"type": "custom", "custom": {"name": "f"}}]}, "tools[0].type", "'custom'"),
        ({"tools": [NOW, NOW]}, "tools[1]", "names must differ"),
        ({"tools": [NOW], "tool_choice": "any"}, "tool_choice", "'any'"),
        ({"tools": [NOW], "tool_choice": {"type": "function", "function": {"name": "f"}}},
         "tool_choice.function.name", "there are: now"),
        ({"tool_choice": "required"}, "tool_choice", "no tools"),
        ({"response_format": {"type": "xml"}}, "response_format.type", "xml"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema", "schema"),
    ],
)  # fmt: skip
def test_what_cannot_be_honoured_is_named(
    server: Scripted, more: dict[str, Any], param: str, said: str
) -> None:
    error = server.refused(**more)
    assert error.param == param
    assert said in error.body["message"]


def test_json_mode(server: Scripted) -> None:
    for form in (FORMAT, {"type": "json_object"}, {"type": "json_object", "schema": SCHEMA}):
        choice = server.ask('{"a": 1}', response_format=form).choices[0]
        assert (choice.message.content, choice.finish_reason) == ('{"a": 1}', "stop")
    assert server.ask("Sure", response_format={"type": "text"}).choices[0].message.content == "Sure"


EXTRAS = {  # field of another server's, with an answer that it asks for and one that it forbids
    "guided_json": (SCHEMA, '{"a": 1}', '{"a": "1"}'),
    "json_schema": (SCHEMA, '{"a": 1}', '{"a": "1"}'),
    "guided_regex": ("[ab]{2}", "ab", "ac"),
    "guided_choice": (["yes", "no"], "yes", "maybe"),
    "guided_grammar": ('root ::= "x" [0-9]+', "x12", "12"),
    "grammar": ('root ::= "x" [0-9]+', "x12", "12"),
    "structured_outputs": ({"json": SCHEMA}, '{"a": 1}', '{"a": "1"}'),
}
MORE_EXTRAS = [
    ("guided_json", json.dumps(SCHEMA), '{"a": 1}', '{"a": "1"}'),
    ("grammar", {"lark": 'start: "x" /[0-9]+/'}, "x12", "12"),
    ("guided_grammar", 'start: "x" /[0-9]+/', "x12", "12"),
    ("structured_outputs", {"regex": "[ab]{2}"}, "ab", "ac"),
    ("structured_outputs", {"choice": ["yes", "no"]}, "no", "maybe"),
    ("structured_outputs", {"grammar": 'root ::= "x" [0-9]+'}, "x1", "12"),
    ("structured_outputs", {"json_object": True}, '{"b": 1}', "Sure"),
]


@pytest.mark.parametrize(
    ("name", "value", "good", "bad"), [*((name, *rest) for name, rest in EXTRAS.items()), *MORE_EXTRAS]
)
def test_fields_of_vllm_and_llama_cpp(server: Scripted, name: str, value: Any, good: str, bad: str) -> None:
    assert server.ask(good, extra_body={name: value}).choices[0].message.content == good
    obeyed = server.ask(bad, obedient=True, extra_body={name: value}, max_tokens=50)
    assert obeyed.choices[0].message.content != bad


DEEP = {"type": "object", "properties": {"a": {"type": "array", "items": {"format": "none-such"}}}}
NESTED: dict[str, Any] = {"type": "object"}
for _ in range(40):
    NESTED = {"type": "object", "properties": {"a": NESTED}}


@pytest.mark.parametrize(
    ("more", "param", "said"),
    [
        ({"guided_json": DEEP}, "guided_json.properties.a.items", "Unknown format: none-such"),
        ({"json_schema": DEEP}, "json_schema.properties.a.items", "Unknown format: none-such"),
        ({"structured_outputs": {"json": DEEP}}, "structured_outputs.json.properties.a.items", "none-such"),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": DEEP}}},
         "response_format.json_schema.schema.properties.a.items", "none-such"),
        ({"response_format": {"type": "json_object", "schema": DEEP}},
         "response_format.schema.properties.a.items", "none-such"),
        ({"guided_json": "{"}, "guided_json", "not JSON"),
        ({"guided_json": "[]"}, "guided_json", "object"),
        ({"guided_regex": "(a"}, "guided_regex", "unclosed group"),
        ({"structured_outputs": {"regex": "(a"}}, "structured_outputs.regex", "unclosed group"),
        ({"structured_outputs": {}}, "structured_outputs", "one of json"),
        ({"structured_outputs": {"regex": "a", "choice": ["a"]}}, "structured_outputs", "one of json"),
        ({"structured_outputs": {"structural_tag": "x"}}, "structured_outputs.structural_tag", "Unknown"),
        ({"guided_grammar": "root ::= nothing"}, "guided_grammar", "Rule 'nothing' not found"),
        ({"grammar": "root ::= nothing"}, "grammar", "Rule 'nothing' not found"),
        ({"grammar": {"ebnf": "x"}}, "grammar", "regex, choice, lark, gbnf"),
        ({"guided_regex": "a", "guided_json": SCHEMA}, "guided_regex", "give one"),
        ({"guided_regex": "a", "tools": TOOLS}, "guided_regex", "tools"),
        ({"call_order": "x"}, "call_order", "name"),
        ({"reasoning": "yes"}, "reasoning", "boolean"),
        ({"guided_json": NESTED}, "guided_json", "levels of nesting"),
        ({"guided_json": {"pattern": "a" * 3000}}, "guided_json", "characters of a pattern"),
        ({"guided_json": {"patternProperties": {"a" * 3000: {}}}}, "guided_json", "characters of a pattern"),
        ({"guided_json": {"description": "é" * 40_000}}, "guided_json", "80019 bytes"),
        ({"guided_regex": "a" * 3000}, "guided_regex", "2048"),
        ({"guided_choice": ["a" * 70_000]}, "guided_choice", "max_schema_bytes"),
        ({"tools": [{"type": "function", "function": {"name": "f", "parameters": NESTED}}]},
         "tools[0].function.parameters", "max_schema_depth"),
        ({"tools": [NOW] * 129}, "tools", "129 tools, this server takes 128"),
        ({"tools": [{"type": "function", "function": {"name": "f", "description": "x" * 300_000}}]},
         "tools", "max_tools_bytes"),
    ],
)  # fmt: skip
def test_bounds_and_errors_have_the_requests_names(
    server: Scripted, more: dict[str, Any], param: str, said: str
) -> None:
    error = server.refused(extra_body=more)
    assert error.param == param
    assert said in error.body["message"]


@pytest.mark.parametrize(
    ("more", "field"),
    [
        ({"guided_regex": "[ab]+"}, "guided_regex"),
        ({"structured_outputs": {"choice": ["ab", "cd"]}}, "structured_outputs.choice"),
        ({"guided_json": SCHEMA}, "guided_json"),
        ({"response_format": FORMAT}, "response_format"),
        ({"tools": TOOLS, "tool_choice": "required"}, "tools"),
    ],
)
def test_so_have_errors_that_come_as_it_answers(
    server: Scripted, monkeypatch: pytest.MonkeyPatch, more: dict[str, Any], field: str
) -> None:
    monkeypatch.setattr(grammar, "MASKS_S", -1.0)
    monkeypatch.setattr(grammar, "MASK_S", 0.0)
    for is_streamed in (False, True):
        with pytest.raises(openai.APIError) as caught:
            server.ask("ab", extra_body=more, stream=is_streamed)
        assert caught.value.body["param"] == field  # type: ignore[index]
        assert caught.value.body["message"].startswith(f"{field} is too complex")  # type: ignore[index]


ODD = {"type": "object", "properties": {"a": {"type": "string", "format": "none-such", "maxLength": 3}}}


def test_what_cannot_be_compiled_is_checked_by_option(server: Scripted) -> None:
    retry = {"guided_json": ODD, "on_uncompilable": "retry"}
    assert server.ask('{"a": "ab"}', extra_body=retry).choices[0].message.content == '{"a": "ab"}'
    chunks = server.ask('{"a": "ab"}', extra_body=retry, stream=True)
    assert joined(chunks)[0]["content"] == '{"a": "ab"}'
    with pytest.raises(openai.UnprocessableEntityError, match="nor did 2 before it") as caught:
        server.ask('{"a": "long"}', extra_body=retry)
    assert caught.value.body["code"] == "answer_invalid"  # type: ignore[index]
    with pytest.raises(openai.APIError, match="nor did 2 before it"):
        server.ask('{"a": "long"}', extra_body=retry, stream=True)
    assert server.refused(extra_body={**retry, "on_uncompilable": None}).param == "guided_json.properties.a"
    remote = {"guided_json": {**ODD, "$ref": "http://x/y"}, "on_uncompilable": "retry"}
    assert server.refused(extra_body=remote).param == "guided_json"
    tool = {"type": "function", "name": "odd", "parameters": ODD}
    given: Any = {"model": "fake", "input": "x", "tools": [tool], "extra_body": {"on_uncompilable": "retry"}}
    server.engine.script = saying('<tool_call>\n{"name": "odd", "arguments": {"a": "ab"}}\n</tool_call>')
    assert server.client.responses.create(**given).output[0].type == "function_call"
    server.engine.script = saying('<tool_call>\n{"name": "odd", "arguments": {"a": 1}}\n</tool_call>')
    failed = server.client.responses.create(**given)
    assert (failed.status, failed.error.code, failed.output) == ("failed", "answer_invalid", [])


def test_citations(server: Scripted) -> None:
    text, given = "It is <co: 1,b>wet</co>.", {"extra_body": {"citations": True}}
    (choice,) = server.ask(text, **given).choices
    told = [{"start": 15, "end": 18, "text": "wet", "documents": ["1", "b"]}]
    assert (choice.message.content, choice.message.citations) == (text, told)
    assert text[15:18] == "wet"
    chunks = server.ask(text, stream=True, **given)
    assert joined(chunks)[0]["content"] == text
    deltas = [chunk.choices[0].delta for chunk in chunks]
    assert [delta.citations for delta in deltas if hasattr(delta, "citations")] == [told]
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert not hasattr(server.ask(text).choices[0].message, "citations")


def test_forced_spans(server: Scripted) -> None:
    text, given = "b: xé 1", {"extra_body": {"forced_spans": True, "guided_regex": "[ab]: xé [0-9]"}}
    (choice,) = server.ask(text, **given).choices
    assert (choice.message.content, choice.message.forced_spans) == (text, [[1, 6]])
    chunks = server.ask(text, stream=True, **given)
    deltas = [chunk.choices[0].delta for chunk in chunks]
    marked = [
        delta.content[start:end]
        for delta in deltas
        for start, end in getattr(delta, "forced_spans", ())
    ]
    assert "".join(marked) == ": xé "
    assert not hasattr(server.ask(text).choices[0].message, "forced_spans")
    with pytest.raises(openai.BadRequestError, match="leave forced_spans out") as refused:
        server.ask(text, extra_body={"forced_spans": True, "reasoning": True})
    assert refused.value.param == "forced_spans"


def test_bounds_can_be_moved() -> None:
    with scripted(Limits.of(["max_tools=1"])) as server:
        assert "its limit max_tools" in server.refused(tools=TOOLS).body["message"]


def test_thoughts(server: Scripted) -> None:
    thought = "<scratch_pad>\nGoal: know\n</scratch_pad>\n"
    given = {"tools": TOOLS, "extra_body": {"reasoning": True}}
    (choice,) = server.ask(thought + TIME, **given).choices
    assert choice.message.reasoning_content.strip() == "Goal: know"
    assert choice.message.tool_calls[0].function.name == "now"
    deltas = [chunk.choices[0].delta for chunk in server.ask(thought + TIME, stream=True, **given)]
    streamed = "".join(getattr(delta, "reasoning_content", None) or "" for delta in deltas)
    assert streamed == choice.message.reasoning_content
    assert all(not delta.content for delta in deltas)
    turn = {"role": "assistant", "content": "So.", "reasoning_content": "Goal: know"}
    text = server.post("/apply-template", messages=[*HI, turn])["prompt"]  # as it was written
    assert f"<|im_start|>assistant\n{thought}So.<|im_end|>" in text
