"""What an answer may look like, over a scripted engine that holds the script to the grammar."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass

import pytest
from pydantic import BaseModel, field_validator

from hermes3.errors import Hermes3Error, RequestError
from hermes3.prompt.messages import Tool, ToolCall
from tests.llm.fakes import fake_llm, saying


def weather(city: str, days: int = 1) -> str:
    """The weather to come."""
    return ""


def now() -> str:
    """What time it is."""
    return ""


TOOLS = [weather, now]
PARIS = '<tool_call>\n{"name": "weather", "arguments": {"city": "Paris", "days": 2}}\n</tool_call>'
TIME = '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>'
CARD = '<tool_call>\n{"arguments": {"city": "Paris"}, "name": "weather"}\n</tool_call>'
THOUGHT = "<scratch_pad>\nGoal: know\n</scratch_pad>\n"
NAMED = {"type": "function", "function": {"name": "now"}}
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
FORMAT = {"type": "json_schema", "json_schema": {"name": "it", "schema": SCHEMA}}


def asked(text: str, **options):
    with fake_llm(saying(text), n_ctx=4000)[0] as llm:
        return llm.chat("x", **options)


def refused(text: str, **options) -> bool:
    """Whether the grammar stops the script."""
    try:
        asked(text, **options)
    except Hermes3Error as error:
        if "does not allow" not in str(error):
            raise
        return True
    return False


def test_auto_takes_text_and_calls_apart() -> None:
    reply = asked(f"Let me see.\n{PARIS}\n{TIME}", tools=TOOLS)
    assert [(call.name, call.arguments) for call in reply.tool_calls] == [
        ("weather", {"city": "Paris", "days": 2}),
        ("now", {}),
    ]
    assert len({call.id for call in reply.tool_calls} - {None}) == 2
    assert (reply.text, reply.finish_reason, reply.broken_calls) == ("Let me see.", "tool_calls", ())


def test_citations_are_told_and_the_text_stays() -> None:
    text = "It is <co: 1>wet, <co: a, 2>very</co> wet</co>. <co: 3>Cut"
    assert asked(text).citations is None
    for more in ({}, {"tools": TOOLS}, {"reasoning": True}):
        reply = asked(text, citations=True, **more)
        assert reply.text == text
        first, second = reply.citations
        assert (first.text, first.documents, second.documents) == ("wet, very wet", ("1",), ("a", "2"))
        assert text[slice(*first.span)] == "wet, <co: a, 2>very</co> wet"
        assert text[slice(*second.span)] == second.text == "very"
        assert (reply.cited()[1], asked("None.", citations=True, **more).citations) == ([first, second], ())


def test_forced_spans_of_an_answer_and_of_its_deltas() -> None:
    text, grammar = "bé: xé! xyz", {"regex": "[ab]é: [xy]é! xyz"}
    assert asked(text, grammar=grammar).forced_spans is None
    for options in ({}, {"logprobs": 0}):
        reply = asked(text, grammar=grammar, forced_spans=True, **options)
        assert (reply.text, reply.forced_spans) == (text, ((1, 4), (5, 11)))
    assert asked(text, grammar=grammar, forced_spans=True, stop="!").forced_spans == ((1, 4), (5, 6))
    assert asked("Hi", forced_spans=True).forced_spans == ()
    with fake_llm(saying(text), n_ctx=4000, ids_at_once=4)[0] as llm:
        deltas = list(llm.chat("x", stream=True, grammar=grammar, forced_spans=True))
    marked = [[delta.text[start:end] for start, end in delta.forced_spans] for delta in deltas]
    assert "".join(piece for pieces in marked for piece in pieces) == "é: é! xyz"
    assert len(deltas) > 2


@pytest.mark.parametrize("options", [{"tools": TOOLS}, {"reasoning": True}])
def test_forced_spans_are_refused_where_the_answer_is_taken_apart(options) -> None:
    with pytest.raises(RequestError, match="leave forced_spans out") as refused:
        asked("Hi", forced_spans=True, **options)
    assert refused.value.param == "forced_spans"
    assert asked("Hi", forced_spans=True, tools=TOOLS, tool_choice="none").forced_spans == ()


TAGS = """scratch_pad SCRATCHPAD REASONING INNER_MONOLOGUE PLAN EXECUTION REFLECTION THINKING
SOLUTION EXPLANATION UNIT_TEST"""


@pytest.mark.parametrize("tag", TAGS.split())
def test_every_tag_of_the_report_is_a_thought_or_an_answer(tag: str) -> None:
    text = f"<{tag}>one</{tag}>"
    reply = asked(text + "\ntwo", reasoning=True)
    if tag in ("SOLUTION", "EXPLANATION", "UNIT_TEST"):
        assert (reply.reasoning, reply.text) == ("", text + "\ntwo")
        return
    assert (reply.reasoning, reply.text.strip()) == ("one", "two")
    json_too = asked(text + '\n{"a": 1}', reasoning=True, response_format=FORMAT)
    assert (json_too.reasoning, json.loads(json_too.text)) == ("one", {"a": 1})
    called = asked(f"{text}\n{TIME}", reasoning=True, tools=TOOLS, tool_choice="required")
    assert (called.reasoning, called.tool_calls[0].name) == ("one", "now")


def test_auto_may_do_without() -> None:
    reply = asked("No need. <tool_call", tools=TOOLS)
    assert (reply.text, reply.finish_reason, reply.tool_calls) == ("No need. <tool_call", "stop", ())


@pytest.mark.parametrize(
    "text",
    [
        "<tool_call>x",
        PARIS.replace("weather", "whether"),
        PARIS.replace("city", "town"),
        PARIS.replace("2", '"2"'),
        PARIS.replace('"city": "Paris", ', ""),
        PARIS.replace("}}", ', "x": 1}}'),
        "text " + CARD,
    ],
)
def test_a_malformed_call_cannot_be_written(text: str) -> None:
    assert refused(text, tools=TOOLS)
    assert refused(text, tools=TOOLS, tool_choice="required")


def test_required_named_none_and_single() -> None:
    assert refused("Hello", tools=TOOLS, tool_choice="required")
    assert len(asked(f"{PARIS}\n{TIME}", tools=TOOLS, tool_choice="required").tool_calls) == 2
    assert refused(PARIS, tools=TOOLS, tool_choice=NAMED)
    assert asked(TIME, tools=TOOLS, tool_choice=NAMED).tool_calls[0].name == "now"
    assert refused(PARIS, tools=TOOLS, tool_choice="none")
    assert asked("Hello <b>", tools=TOOLS, tool_choice="none").text == "Hello <b>"
    for choice in ("auto", "required"):
        given = {"tools": TOOLS, "tool_choice": choice, "parallel_tool_calls": False}
        assert len(asked(f"{PARIS}\n{TIME}", **given).tool_calls) == 1  # the engine ends it there


def test_allowed_tools() -> None:
    def allowed(mode: str) -> dict:
        return {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": [NAMED]}}

    for mode in ("auto", "required"):
        assert asked(TIME, tools=TOOLS, tool_choice=allowed(mode)).tool_calls[0].name == "now"
        assert refused(PARIS, tools=TOOLS, tool_choice=allowed(mode))
    assert asked("Hello", tools=TOOLS, tool_choice=allowed("auto")).text == "Hello"
    assert refused("Hello", tools=TOOLS, tool_choice=allowed("required"))


def test_the_cards_order() -> None:
    reply = asked(CARD, tools=TOOLS, call_order="arguments")
    assert [(call.name, call.arguments) for call in reply.tool_calls] == [("weather", {"city": "Paris"})]
    assert refused(PARIS, tools=TOOLS, call_order="arguments")


def test_a_cut_call_is_reported_and_not_made() -> None:
    reply = asked(f"{TIME}\n{PARIS}", tools=TOOLS, max_tokens=len(TIME) + 60)
    assert (reply.finish_reason, [call.name for call in reply.tool_calls]) == ("length", ["now"])
    assert [(call.name, call.status) for call in reply.broken_calls] == [("weather", "cut")]


def test_streamed_is_unstreamed() -> None:
    with fake_llm(saying(f"Look:\n{PARIS}\n{TIME}"), n_ctx=4000)[0] as llm:
        deltas = list(llm.chat("x", stream=True, tools=TOOLS))
        reply = llm.chat("x", tools=TOOLS)
    pieces = [piece for delta in deltas for piece in delta.tool_calls]
    assert [(piece.index, piece.name) for piece in pieces if piece.name] == [(0, "weather"), (1, "now")]
    assert all((piece.id is None) == (piece.name is None) for piece in pieces)
    for index, call in enumerate(reply.tool_calls):
        text = "".join(piece.arguments for piece in pieces if piece.index == index)
        assert json.loads(text) == call.arguments
    assert len(pieces) > 10  # arguments come as they are written
    assert "".join(delta.text for delta in deltas) == reply.text == "Look:"
    assert deltas[-1].finish_reason == "tool_calls"


def test_asyncio_and_batch() -> None:
    with fake_llm(saying(PARIS), n_ctx=4000)[0] as llm:

        async def ask():
            return await llm.achat("x", tools=TOOLS).reply()

        replies = [asyncio.run(ask()), *llm.chat_batch(["x", "y"], tools=TOOLS, tool_choice="required")]
    assert {reply.tool_calls[0].name for reply in replies} == {"weather"}
    assert {reply.finish_reason for reply in replies} == {"tool_calls"}


def test_thoughts_are_told_apart_where_asked() -> None:
    for choice in ("auto", "required"):
        reply = asked(THOUGHT + PARIS, tools=TOOLS, tool_choice=choice, reasoning=True)
        assert (reply.reasoning.strip(), len(reply.tool_calls)) == ("Goal: know", 1)
    assert refused(THOUGHT + PARIS, tools=TOOLS, tool_choice="required")
    reply = asked(THOUGHT + '{"a": 1}', response_format=FORMAT, reasoning=True)
    assert (json.loads(reply.text), reply.reasoning.strip()) == ({"a": 1}, "Goal: know")
    assert asked("<PLAN>x</PLAN>y").text == "<PLAN>x</PLAN>y"
    assert asked("<PLAN>x</PLAN>y", reasoning=True).reasoning == "x"


def test_citations_are_told_apart_where_asked() -> None:
    text, (first, second) = asked("The <co: 1>sky</co> is <co: 1,2>blue</co>.").cited()
    assert text == "The sky is blue."
    assert (first.text, first.documents, text[second.start : second.end]) == ("sky", ("1",), "blue")
    assert second.documents == ("1", "2")


def test_json_mode() -> None:
    assert asked('{"a": 1}', response_format=FORMAT).text == '{"a": 1}'
    assert refused('{"a": "1"}', response_format=FORMAT)
    assert refused("Sure", response_format={"type": "json_object"})
    assert asked('{"b": [1, null]}', response_format={"type": "json_object"}).finish_reason == "stop"
    assert asked("Sure", response_format={"type": "text"}).text == "Sure"


def test_json_or_calls() -> None:
    for text in (PARIS, '{"a": 1}'):
        assert not refused(text, tools=TOOLS, response_format=FORMAT)
    assert refused("Sure", tools=TOOLS, response_format=FORMAT)
    assert refused('{"a": 1}', tools=TOOLS, response_format=FORMAT, tool_choice="required")
    assert refused(PARIS, tools=TOOLS, response_format=FORMAT, tool_choice="none")


class Pet(BaseModel):
    """A pet."""

    name: str
    legs: int = 4

    @field_validator("legs")
    @classmethod
    def _even(cls, legs: int) -> int:
        if legs % 2:
            raise ValueError("odd")
        return legs


@dataclass
class Point:
    x: int


def test_a_class_in_an_instance_out() -> None:
    assert asked('{"name": "Rex"}', response_format=Pet).parsed == Pet(name="Rex")
    assert asked('{"x": 3}', response_format=Point).parsed == Point(3)
    assert refused('{"name": "Rex", "wings": 2}', response_format=Pet)
    assert asked('{"name": "Rex"}', response_format=Pet, max_tokens=4).parsed is None
    with pytest.raises(Hermes3Error, match="odd"):
        asked('{"name": "Rex", "legs": 3}', response_format=Pet)


def test_the_prompt_says_what_is_wanted() -> None:
    seen = []

    def script(ids, params):
        seen.append(bytes(token for token in ids if token < 256).decode())
        return list(b'{"a": 1}')

    with fake_llm(script, n_ctx=4000)[0] as llm:
        llm.chat("x", response_format=FORMAT)
        llm.chat(
            [{"role": "system", "content": "<schema>{}</schema>"}, {"role": "user", "content": "x"}],
            response_format=FORMAT,
        )
        llm.chat("x", tools=TOOLS, tool_choice="none")
    assert f"<schema>\n{json.dumps(SCHEMA)}\n</schema>" in seen[0]
    assert seen[1].count("<schema>") == 1
    assert '"name": "weather"' in seen[2]


@pytest.mark.parametrize(
    ("grammar", "good", "bad"),
    [
        ({"regex": "[ab]{2}"}, "ab", "ac"),
        ({"choice": ["yes", 'n"ö\n']}, 'n"ö\n', "no"),
        ({"lark": 'start: "x" /[0-9]+/'}, "x12", "12"),
        ({"gbnf": 'root ::= "x" digit+ # a comment\ndigit ::= [0-9]'}, "x12", "12"),
        ({"gbnf": 'start: "x" /[0-9]+/'}, "x12", "12"),
    ],
)
def test_grammars_of_ones_own(grammar, good: str, bad: str) -> None:
    assert asked(good, grammar=grammar).text == good
    assert refused(bad, grammar=grammar)


DEEP = {"type": "object", "properties": {"a": {"type": "array", "items": {"format": "none-such"}}}}


@pytest.mark.parametrize(
    ("options", "param", "said"),
    [
        ({"tool_choice": "required"}, "tool_choice", "no tools"),
        ({"tool_choice": "any", "tools": TOOLS}, "tool_choice", "'any'"),
        ({"tool_choice": {"type": "function", "function": {"name": "f"}}, "tools": TOOLS},
         "tool_choice.function.name", "weather, now"),
        ({"tool_choice": {"type": "tool"}, "tools": TOOLS}, "tool_choice.type", "'tool'"),
        ({"parallel_tool_calls": 1, "tools": TOOLS}, "parallel_tool_calls", "true or false"),
        ({"call_order": "x"}, "call_order", "arguments"),
        ({"response_format": 3}, "response_format", "class"),
        ({"response_format": {"type": "xml"}}, "response_format.type", "xml"),
        ({"grammar": {"ebnf": "x"}}, "grammar", "regex, choice, lark, gbnf"),
        ({"grammar": {"gbnf": "root ::= x"}}, "grammar", "Rule 'x' not found"),
        ({"grammar": {"gbnf": "root ::= " + "(" * 9999}}, "grammar", "nested too deeply"),
        ({"grammar": {"gbnf": "root ::= 'x' # " + "x" * 20_000}}, "grammar", "at most 16384"),
        ({"tool_choice": {"type": "allowed_tools"}, "tools": TOOLS},
         "tool_choice.allowed_tools.mode", "required"),
        ({"tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": []}},
          "tools": TOOLS}, "tool_choice.allowed_tools.tools", "at least one"),
        ({"tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [
            {"type": "function", "function": {"name": "f"}}]}}, "tools": TOOLS},
         "tool_choice.allowed_tools.tools[0].function.name", "weather, now"),
        ({"grammar": {"choice": []}}, "grammar", "1 to 1024"),
        ({"grammar": {"regex": "(a"}}, "grammar", "unclosed group"),
        ({"grammar": {"regex": "a"}, "tools": TOOLS}, "grammar", "tools"),
        ({"grammar": {"regex": "a"}, "response_format": FORMAT}, "grammar", "response_format"),
        ({"tools": [now, Tool("f", None, DEEP)]}, "tools[1].function.parameters.properties.a.items",
         "Unknown format: none-such (at /properties/a/items)"),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": DEEP}}},
         "response_format.json_schema.schema.properties.a.items", "/properties/a/items"),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {
            "type": "object", "properties": 1, "allOf": True}}}},
         "response_format.json_schema.schema", "properties"),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {
            "properties": {"a": {"required": {"aa": "é" * 99}}}}}}},  # llguidance panics over an é
         "response_format.json_schema.schema.properties.a", "llguidance panic"),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(options, param: str, said: str) -> None:
    with pytest.raises(RequestError) as caught:
        asked("x", **options)
    assert caught.value.param == param
    assert said in str(caught.value)


@pytest.mark.parametrize("depth", [200, 100_000])
def test_schemas_that_nest_too_deep_are_refused(depth: int) -> None:
    schema: dict = {}
    for _ in range(depth):
        schema = {"type": "array", "items": schema}
    arguments = {"type": "object", "properties": {"a": schema}}
    for options, param in (
        ({"response_format": {**FORMAT, "json_schema": {"name": "it", "schema": schema}}}, "response_format"),
        ({"tools": [Tool("f", None, arguments)]}, "tools"),
    ):
        with fake_llm(saying("x"), n_ctx=40_000)[0] as llm, pytest.raises(RequestError) as caught:
            llm.chat("x", **options)
        assert str(caught.value.param).startswith(param)
    while schema:  # Python's own destructor would recurse
        schema = schema.pop("items", {})


def test_a_schema_cannot_loosen_the_bounds_of_whitespace() -> None:
    schema = {**SCHEMA, "x-guidance": {"whitespace_pattern": "[ \n]*"}}
    form = {"type": "json_schema", "json_schema": {"name": "it", "schema": schema}}
    assert refused('{"a":\n\n1}', response_format=form)
    assert not refused('{"a":\n 1}', response_format=form)


def test_calls_of_a_reply_go_back_into_the_history() -> None:
    reply = asked(PARIS, tools=TOOLS)
    (call,) = reply.tool_calls
    assert isinstance(call, ToolCall)
    turns = [
        {"role": "user", "content": "x"},
        {"role": "assistant", "content": None, "tool_calls": [call.to_dict()]},
        {"role": "tool", "tool_call_id": call.id, "content": '{"sun": true}'},
    ]
    with fake_llm(saying("Sunny."), n_ctx=4000)[0] as llm:
        ids = llm.prepare(turns, tools=TOOLS).ids
        assert llm.chat(turns, tools=TOOLS).text == "Sunny."
    text = bytes(token for token in ids if token < 256).decode()
    assert PARIS in text
    assert '<tool_response>\n{"name": "weather", "content": {"sun": true}}\n</tool_response>' in text
