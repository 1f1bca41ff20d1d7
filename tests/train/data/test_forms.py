"""What rows of every form say, and what is refused in them."""

from __future__ import annotations

import contextlib
import json
import time
from typing import Any

import pytest

from hermes3.errors import RequestError
from hermes3.prompt.messages import Message, ToolCall
from hermes3.train.data.conversation import Conversation, Preference
from hermes3.train.data.forms import form_of, sample_of

ADD = {"name": "add", "description": "Adds.", "parameters": {
    "type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}}, "required": ["a"],
}}  # fmt: skip
OPENAI_ADD = {"type": "function", "function": ADD}
CALL = ToolCall("add", {"a": 1})
CALLED = Message("assistant", None, (CALL,))
Q, A = Message("user", "Q"), Message("assistant", "A")
ASK, TELL = {"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}
HUMAN, GPT = {"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}
FUNCTION_CALL = {"from": "function_call", "value": '{"name": "add", "arguments": {"a": 1}}'}
OBSERVATION = {"from": "observation", "value": "3"}
SYSTEM = {"role": "system", "content": "S"}
SUM = Message("tool", "3", name="add")


def read(row: dict[str, Any]) -> Conversation:
    found = form_of(row)
    assert found is not None
    sample = sample_of(row, found[0])
    assert isinstance(sample, Conversation)
    return sample


def read_pair(row: dict[str, Any]) -> tuple[list[Message], list[Message], list[Message]]:
    found = form_of(row)
    assert found is not None
    assert found[0] == "preference"
    sample = sample_of(row, "preference")
    assert isinstance(sample, Preference)
    n = sample.n_shared
    assert sample.rejected.messages[:n] == sample.chosen.messages[:n]
    chosen, rejected = list(sample.chosen.messages), list(sample.rejected.messages)
    return chosen[:n], chosen[n:], rejected[n:]


def openai_call(name: str = "add", arguments: object = '{"a": 1}') -> dict[str, Any]:
    return {"id": "c1", "type": "function", "function": {"name": name, "arguments": arguments}}


SAME = [  # rows, and the messages that they are
    ({"messages": [ASK, TELL]}, [Q, A]),
    ({"messages": [{"role": "developer", "content": "S"}, ASK, TELL]}, [Message("system", "S"), Q, A]),
    ({"messages": [ASK, {"role": "assistant", "content": [{"type": "text", "text": "A"}]}]}, [Q, A]),
    ({"messages": [ASK, {"role": "assistant", "content": [{"type": "text", "value": "A"}]}]}, [Q, A]),
    ({"messages": [ASK, {**TELL, "reasoning_content": "T"}]},
     [Q, Message("assistant", "<THINKING>\nT\n</THINKING>\nA")]),
    ({"messages": [ASK, {"role": "assistant", "content": [{"type": "reasoning", "value": "T"},
                                                          {"type": "text", "value": "A"}]}]},
     [Q, Message("assistant", "<THINKING>\nT\n</THINKING>\nA")]),
    ({"messages": [ASK, {**TELL, "refusal": None, "audio": None, "tool_calls": []}], "id": 7}, [Q, A]),
    ({"conversations": [HUMAN, GPT]}, [Q, A]),
    ({"conversations": [{"from": "system", "value": "S"}, HUMAN, GPT]}, [Message("system", "S"), Q, A]),
    ({"conversations": [HUMAN, GPT], "system": "S"}, [Message("system", "S"), Q, A]),
    ({"conversations": [ASK, TELL]}, [Q, A]),
    ({"instruction": "Q", "input": "", "output": "A"}, [Q, A]),
    ({"instruction": "Q", "response": "A"}, [Q, A]),
    ({"instruction": "Q", "input": "I", "output": "A", "system": "S"},
     [Message("system", "S"), Message("user", "Q\n\nI"), A]),
    ({"instruction": "Q", "input": "", "output": "A", "history": [["Q", "A"]]}, [Q, A, Q, A]),
]  # fmt: skip


@pytest.mark.parametrize(("row", "messages"), SAME, ids=range(len(SAME)))
def test_what_rows_say(row: dict[str, Any], messages: list[Message]) -> None:
    sample = read(row)
    assert list(sample.messages) == messages
    assert sample.weights == tuple(float(message.role == "assistant") for message in messages)


CALLS = [  # rows that say: a question, add(a=1), its result 3, an answer
    {"messages": [ASK, {"role": "assistant", "tool_calls": [openai_call()]},
                  {"role": "tool", "tool_call_id": "c1", "content": "3"}, TELL], "tools": [OPENAI_ADD]},
    {"messages": [ASK, {"role": "assistant", "content": "", "tool_calls": [openai_call(arguments={"a": 1})]},
                  {"role": "tool", "name": "add", "content": "3"}, TELL], "tools": json.dumps([ADD])},
    {"messages": [ASK, {"role": "assistant", "content": None,
                        "function_call": {"name": "add", "arguments": '{"a": 1}'}},
                  {"role": "function", "name": "add", "content": "3"}, TELL], "functions": [ADD]},
    {"messages": [ASK, {"role": "assistant", "content": [
        {"type": "tool_call", "value": '{"name": "add", "arguments": {"a": 1}}'}]},
        {"role": "tool", "content": "3"}, TELL], "tools": [OPENAI_ADD]},
    {"messages": [ASK, {"role": "assistant",
                        "content": '<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>'},
                  {"role": "tool", "content": "3"}, TELL], "tools": [OPENAI_ADD]},
    {"conversations": [HUMAN, FUNCTION_CALL, OBSERVATION, GPT], "tools": json.dumps([ADD])},
    {"conversations": [HUMAN, {"from": "function_call", "value": {"name": "add", "arguments": {"a": 1}}},
                       {"from": "observation", "value": 3 and "3"}, GPT], "tools": [ADD]},
    # Hermes function-calling v1
    {"conversations": [
        HUMAN,
        {"from": "gpt", "value": "<tool_call>\n{'arguments': {'a': 1}, 'name': 'add'}\n</tool_call>\n"},
        {"from": "tool", "value": '<tool_response>\n{"name": "add", "content": 3}\n</tool_response>\n'}, GPT],
     "tools": json.dumps([OPENAI_ADD])},
]  # fmt: skip


@pytest.mark.parametrize("row", CALLS, ids=range(len(CALLS)))
def test_calls_and_their_results_in_every_form(row: dict[str, Any]) -> None:
    sample = read(row)
    question, call, result, answer = sample.messages
    assert (question, answer) == (Q, A)
    assert call.content is None
    assert [(each.name, each.arguments) for each in call.tool_calls] == [("add", {"a": 1})]
    assert (result.role, result.content) == ("tool", "3")
    assert result.name == "add" or result.tool_call_id == call.tool_calls[0].id == "c1"
    assert [tool.name for tool in sample.tools] == ["add"]
    assert sample.shows_tools
    assert not sample.is_rewritten
    assert sample.weights == (0, 1, 0, 1)


def test_tools_of_a_system_message_are_known_and_not_said_again() -> None:
    system = (
        "You are a function calling AI model. Here are the available tools:<tools> "
        f"[{{'type': 'function', 'function': {ADD!r}}}] </tools>Use the following"
    )
    call = {"from": "gpt", "value": '<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>'}
    sample = read({"conversations": [{"from": "system", "value": system}, HUMAN, call], "tools": "[]"})
    assert [tool.name for tool in sample.tools] == ["add"]
    assert not sample.shows_tools
    assert sample.messages[0].content == system
    with pytest.raises(RequestError, match=r"calls 'sub', which is not among the tools \(add\)"):
        read({"conversations": [{"from": "system", "value": system}, HUMAN,
                                {**call, "value": call["value"].replace("add", "sub")}]})  # fmt: skip


def test_words_and_calls_are_one_turn() -> None:
    words = {"from": "gpt", "value": "Let me see."}
    turns = [HUMAN, words, FUNCTION_CALL, FUNCTION_CALL, OBSERVATION, OBSERVATION, GPT]
    sample = read({"conversations": turns, "tools": [ADD]})
    assert list(sample.messages) == [Q, Message("assistant", "Let me see.", (CALL, CALL)), SUM, SUM, A]


RESULTS = [  # of add(a=1) and sub(a=1): what a turn says, and what it means
    (['[{"name": "add", "content": 1}, {"name": "sub", "content": "x"}]'], [("add", "1"), ("sub", "x")]),
    (["1", "x"], [("add", "1"), ("sub", "x")]),
    (['[1, "x"]'], [("add", "1"), ("sub", "x")]),
    (["<tool_response>{'name': 'add', 'content': None}</tool_response>\n"
      '<tool_response>{"name": "sub", "content": "x"}</tool_response>'], [("add", "null"), ("sub", "x")]),
    (["<tool_response>no JSON</tool_response>"], [(None, "<tool_response>no JSON</tool_response>")]),
]  # fmt: skip


@pytest.mark.parametrize(("texts", "meant"), RESULTS, ids=range(len(RESULTS)))
def test_results_find_their_calls(texts: list[str], meant: list[tuple[str | None, str]]) -> None:
    both = {"from": "function_call", "value": '{"name": "add", "arguments": {"a": 1}}\n'
                                              '{"name": "sub", "arguments": {"a": 1}}'}  # fmt: skip
    turns = [HUMAN, both, *({"from": "observation", "value": text} for text in texts), GPT]
    messages = read({"conversations": turns, "tools": [ADD, {**ADD, "name": "sub"}]}).messages
    assert [(message.name, message.content) for message in messages if message.role == "tool"] == meant


def test_a_result_that_lists_names_is_one_result() -> None:
    found = '[{"name": "Ada", "content": "x"}, {"name": "Bob", "content": "y"}]'
    row = {"conversations": [HUMAN, FUNCTION_CALL, {**OBSERVATION, "value": found}, GPT], "tools": [ADD]}
    assert read(row).messages[2] == Message("tool", found, name="add")


PAIRS = [
    {"chosen": [ASK, TELL], "rejected": [ASK, {**TELL, "content": "B"}]},
    {"chosen_messages": [ASK, TELL], "rejected_messages": [ASK, {**TELL, "content": "B"}]},
    {"prompt": [ASK], "chosen": [TELL], "rejected": [{**TELL, "content": "B"}]},
    {"prompt": "Q", "chosen": "A", "rejected": "B"},
    {"prompt": "Q", "chosen": TELL, "rejected": {**TELL, "content": "B"}},
    {"conversations": [HUMAN], "chosen": GPT, "rejected": {**GPT, "value": "B"}},
    {"messages": [ASK], "chosen": TELL, "rejected": {**TELL, "content": "B"}},
    {"instruction": "Q", "input": "", "chosen": "A", "rejected": "B"},
]


@pytest.mark.parametrize("row", PAIRS, ids=range(len(PAIRS)))
def test_pairs(row: dict[str, Any]) -> None:
    assert read_pair(row) == ([Q], [A], [Message("assistant", "B")])


def test_a_pair_parts_at_its_first_different_answer() -> None:
    more = {**TELL, "content": "B"}
    row = {"chosen": [ASK, TELL, ASK, TELL], "rejected": [ASK, TELL, ASK, more, ASK, more]}
    prompt, chosen, rejected = read_pair(row)
    assert prompt == [Q, A, Q]
    assert chosen == [A]
    assert len(rejected) == 3


WEIGHTS = [({"weight": 0}, 0.0), ({"weight": 0.25}, 0.25), ({"loss_weight": 2.0}, 2.0),
           ({"train": False}, 0.0), ({"train": True}, 1.0), ({"weight": None}, 1.0),
           ({"weight": 1, "train": True}, 1.0)]  # fmt: skip


@pytest.mark.parametrize(("said", "weight"), WEIGHTS, ids=str)
def test_weights(said: dict[str, Any], weight: float) -> None:
    for ask, tell, key in ((ASK, TELL, "messages"), (HUMAN, GPT, "conversations")):
        sample = read({key: [ask, {**tell, **said}, ask, tell]})
        assert sample.weights == (0.0, weight, 0.0, 1.0)


def rows_of(*turns: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"messages": list(turns), **more}


REFUSED = [
    (rows_of(), "the conversation has no turns"),
    (rows_of(ASK), r"messages\[0\] is a user turn at the end"),
    (rows_of(TELL), r"messages\[0\] is an assistant turn at the beginning"),
    (rows_of(ASK, ASK, TELL), r"messages\[1\] is a user turn after a user turn"),
    (rows_of(ASK, TELL, TELL), r"messages\[2\] is an assistant turn after an assistant turn"),
    (rows_of(ASK, TELL, SYSTEM, TELL), r"messages\[2\] is a system turn in the middle"),
    (rows_of(SYSTEM), "has no turns"),
    (rows_of(ASK, {"role": "tool", "name": "add", "content": "3"}, TELL), "nothing was called before"),
    (rows_of(ASK, {"role": "assistant", "content": " \n"}), r"messages\[1\] is an empty assistant turn"),
    (rows_of({"role": "user", "content": ""}, TELL), r"messages\[0\] is an empty user turn"),
    (rows_of(ASK, {**TELL, "weight": 0}), "none has an assistant's answer to learn from"),
    (rows_of({**ASK, "weight": 1}, TELL), r"messages\[0\] has the weight 1; only what the assistant"),
    (rows_of(ASK, {**TELL, "weight": -1}), r"messages\[1\]\.weight is -1; it must be 0 or more"),
    (rows_of(ASK, {**TELL, "weight": "1"}), r"messages\[1\]\.weight is '1'; it must be a number"),
    (rows_of(ASK, {**TELL, "weight": True}), r"messages\[1\]\.weight is True; it must be a number"),
    (rows_of(ASK, {**TELL, "train": 1}), r"messages\[1\]\.train is 1; it must be true or false"),
    (rows_of(ASK, {**TELL, "train": False, "weight": 1}), "has several weights"),
    (rows_of({**ASK, "role": "narrator"}, TELL), r"messages\[0\]\.role is 'narrator'"),
    (rows_of(ASK, {**TELL, "content": 7}), r"messages\[1\]\.content must be a string"),
    (rows_of(ASK, {**TELL, "content": [{"type": "image_url"}]}), r"content\[0\]\.type is 'image_url'"),
    (rows_of(ASK, {**TELL, "mood": "glad"}), r"messages\[1\]\.mood is not a field"),
    (rows_of(ASK, "A"), r"messages\[1\] must be an object, not str"),  # type: ignore[arg-type]
    ({"messages": {}}, "messages must be a list of turns, not dict"),
    ({"messages": None}, "messages is missing"),
    ({"conversations": [HUMAN, {**GPT, "from": "narrator"}]}, r"conversations\[1\]\.from is 'narrator'"),
    ({"conversations": [HUMAN, {**GPT, "value": None}]}, r"conversations\[1\]\.value must be a string"),
    ({"conversations": [HUMAN, {**GPT, "mood": "glad"}]}, r"conversations\[1\]\.mood is not a field"),
    ({"instruction": "Q", "output": ""}, "output is an empty assistant turn"),
    ({"instruction": ["Q"], "output": "A"}, "instruction must be a string, not list"),
    ({"prompt": "Q", "chosen": "A", "rejected": "A"}, "holds two answers that are the same"),
    ({"chosen": "A", "rejected": "B"}, "is an assistant turn at the beginning"),
    ({"chosen": [ASK, TELL], "rejected": [{**ASK, "content": "R"}, TELL]}, r"part at a user message"),
    ({"chosen": [ASK, TELL], "rejected": [ASK, TELL, ASK, TELL]}, "that the other one only continues"),
    ({"prompt": "Q", "chosen": TELL, "rejected": {**TELL, "content": "B", "weight": 0}}, "to learn from"),
    (rows_of(SYSTEM, ASK, TELL, system="T"), "system stands beside a system turn"),
]  # fmt: skip


@pytest.mark.parametrize(("row", "reason"), REFUSED, ids=range(len(REFUSED)))
def test_what_is_refused(row: dict[str, Any], reason: str) -> None:
    found = form_of(row)
    assert found is not None
    with pytest.raises(RequestError, match=reason):
        sample_of(row, found[0])


def called(call: dict[str, Any], tools: object = None) -> dict[str, Any]:
    turn = {"role": "assistant", "content": None, "tool_calls": [call]}
    return rows_of(ASK, turn, tools=[OPENAI_ADD] if tools is None else tools)


BROKEN_CALLS = [
    (called(openai_call("sub")), r"messages\[1\]\.tool_calls\[0\] calls 'sub', which is not among the tools"),
    (called(openai_call(), []), r"calls 'add', which is not among the tools \(none\)"),
    (called(openai_call(arguments='{"a": "1"}')), r"forbids: \['a'\]: '1' is not of type 'integer'"),
    (called(openai_call(arguments="{}")), r"forbids: 'a' is a required property"),
    (called(openai_call(arguments='{"a": 1')), "arguments is not JSON"),
    (called(openai_call(arguments='{"a": NaN}')), "NaN is not a JSON number"),
    (called(openai_call(arguments="[1]")), "must be a JSON object of arguments"),
    (rows_of(ASK, {**TELL, "content": "<tool_call>\n{'a': }\n</tool_call>"}, tools=[OPENAI_ADD]),
     r"messages\[1\] holds a call that is broken"),
    (rows_of(ASK, {**TELL, "content": '<tool_call>\n{"name": "add", "argu'}), "a call that is cut"),
    ({"conversations": [HUMAN, {**FUNCTION_CALL, "value": "add(1)"}], "tools": [ADD]}, "is broken"),
    ({"conversations": [HUMAN, {**FUNCTION_CALL, "value": "[]"}], "tools": [ADD]}, "holds"),
    (called(openai_call(), "add"), "tools is 'add'; it must be a list of tools, or JSON of one"),
    (called(openai_call(), [{"name": ""}]), r"tools\[0\]\.function\.name must be a string of 1"),
    (called(openai_call(), [OPENAI_ADD, OPENAI_ADD]), "is called 'add', as one before it"),
    *((called(openai_call(), [{**ADD, "parameters": schema}]), "the schema of add cannot be followed")
      for schema in ({"type": "object", "properties": {"a": {"type": "number", "maximum": "x"}}},
                     {"type": "object", "properties": {"a": {"type": "text"}}},
                     {"$ref": "#"}, {"$ref": "http://127.0.0.1:1/x.json"})),
    ({"conversations": [HUMAN, FUNCTION_CALL, HUMAN, GPT], "tools": [ADD]}, "is a user turn after calls"),
    ({"conversations": [HUMAN, FUNCTION_CALL, FUNCTION_CALL, OBSERVATION, GPT], "tools": [ADD]},
     "there are 1 results for 2 calls"),
    (rows_of(ASK, {"role": "assistant", "tool_calls": [openai_call()]},
             {"role": "tool", "tool_call_id": "c2", "content": "3"}, TELL, tools=[OPENAI_ADD]),
     "belongs to the call 'c2', which was not made"),
    (rows_of(ASK, {"role": "assistant", "tool_calls": [openai_call()]},
             {"role": "tool", "name": "sub", "content": "3"}, TELL, tools=[OPENAI_ADD]),
     "is a result of 'sub', which was not called"),
]  # fmt: skip


@pytest.mark.parametrize(("row", "reason"), BROKEN_CALLS, ids=range(len(BROKEN_CALLS)))
def test_broken_calls_are_refused(row: dict[str, Any], reason: str) -> None:
    found = form_of(row)
    assert found is not None
    with pytest.raises(RequestError, match=reason):
        sample_of(row, found[0])


DIALECTS = [  # parameters as files have them, and as JSON Schema
    ({"type": "dict", "properties": {"a": {"type": "float"}, "b": {"type": "List[str]"}}},
     {"type": "object", "properties": {"a": {"type": "number"},
                                       "b": {"type": "array", "items": {"type": "string"}}}}),
    ({"a": {"type": "int"}, "b": {"type": "str, optional", "description": "B"}},
     {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "string", "description": "B"}},
      "required": ["a"]}),
    ({"properties": {"type": {"type": "any"}, "a": {"type": "tuple", "items": {"type": "bool"}}}},
     {"properties": {"type": {}, "a": {"type": "array", "items": {"type": "boolean"}}}}),
]  # fmt: skip


@pytest.mark.parametrize(("given", "meant"), DIALECTS, ids=range(len(DIALECTS)))
def test_dialects_of_tools(given: dict[str, Any], meant: dict[str, Any]) -> None:
    sample = read(rows_of(ASK, TELL, tools=[{"name": "f", "parameters": given}]))
    assert sample.tools[0].parameters == meant
    assert sample.is_rewritten


def large(n: int) -> list[dict[str, Any]]:
    """Rows of a few megabytes that would take hours where time grows with the square of their size."""
    many = [FUNCTION_CALL] * n
    schema = {"type": "object", "properties": {"a": {"enum": list(range(n))}}}
    pair = [{"role": "assistant", "tool_calls": [openai_call()]},
            {"role": "tool", "name": "add", "content": "3"}]  # fmt: skip
    return [
        {"conversations": [HUMAN, *many], "tools": [ADD]},
        {"conversations": [HUMAN, *many, *[OBSERVATION] * n, GPT], "tools": [ADD]},
        {"conversations": [{"from": "system", "value": "<tools>" * n}, HUMAN, GPT]},
        {"conversations": [{"from": "system", "value": "<tools>" + " " * 20 * n}, HUMAN, GPT]},
        {"conversations": [HUMAN, FUNCTION_CALL, {**OBSERVATION, "value": "<tool_response>" * n}, GPT],
         "tools": [ADD]},
        rows_of(ASK, {**TELL, "content": "<tool_call>" * n}, tools=[OPENAI_ADD]),
        rows_of(ASK, *pair * (n // 8), TELL, tools=[{**ADD, "parameters": schema}]),
        rows_of(ASK, *[TELL, ASK] * n, TELL),
    ]  # fmt: skip


def test_time_is_linear_in_a_row() -> None:
    def seconds(n: int) -> list[float]:
        found = []
        for row in large(n):
            start = time.process_time()
            with contextlib.suppress(RequestError):
                read(row)
            found.append(time.process_time() - start)
        return found

    small, big = seconds(1_000), seconds(8_000)
    assert [now for before, now in zip(small, big, strict=True) if now > 24 * before + 0.2] == []


def test_required_beside_the_parameters() -> None:
    tool = {"name": "f", "parameters": {"type": "object", "properties": {"a": {}}}, "required": ["a"]}
    sample = read(rows_of(ASK, TELL, tools=[{"type": "function", "function": tool}]))
    assert sample.tools[0].parameters == {"type": "object", "properties": {"a": {}}, "required": ["a"]}
    assert sample.is_rewritten


def test_forms_are_found_by_their_fields() -> None:
    assert form_of({"messages": []}) == ("messages", "rows have messages")
    assert form_of({"conversations": [HUMAN]}) == ("sharegpt", "rows have conversations with from and value")
    assert form_of({"conversations": [ASK]}) == ("messages", "rows have conversations with role and content")
    assert form_of({"instruction": "", "response": ""}) == ("alpaca", "rows have instruction and response")
    pair = {"messages": [], "chosen": 1, "rejected": 2}
    assert form_of(pair) == ("preference", "rows have chosen and rejected")
    assert form_of({"text": "x"}) is None
