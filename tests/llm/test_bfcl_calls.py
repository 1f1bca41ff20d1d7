"""BFCL's gold calls against the grammar that calls are held to: the right ones pass, spoiled ones do not.

Arguments come in the order in which the schema names them: a JSON object has none of its own, and the fixed
one leaves more of the text to the grammar. 3 of the 1,140 gold calls are written in another. One more has
true for a string: jsonschema refuses it, and so must we.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from hermes3.llm.grammar_text import arguments_schema
from hermes3.prompt.messages import Tool, ToolCall
from hermes3.prompt.splitter import parse_reply
from hermes3.prompt.tools import CallOrder, call_text
from tests.bfcl import SETS, gold
from tests.llm.accepting import Judge, in_order
from tests.llm.spoiling import spoiled

N_CALLS = {"simple_python": 400, "multiple": 200, "parallel": 540}
N_OUT_OF_ORDER = {"simple_python": 0, "multiple": 1, "parallel": 2}
N_INVALID = {"simple_python": 1, "multiple": 0, "parallel": 0}
KINDS = ("wrong type", "missing required", "unknown name", "unknown parameter", "bad enum")


def text_of(call: ToolCall, order: CallOrder) -> str:
    return "".join(text for text, _ in call_text([call], order, "calls"))


def schema_of(call: ToolCall, tools: list[Tool]) -> Any:
    return next(arguments_schema(tool) for tool in tools if tool.name == call.name)


def ordered(call: ToolCall, tools: list[Tool]) -> ToolCall:
    return replace(call, arguments=in_order(call.arguments, schema_of(call, tools)))


def check(judge: Judge, tools: list[Tool], call: ToolCall, order: CallOrder, counts: Counter[str]) -> bool:
    """One gold call, required and by the model's own choice. Returns whether jsonschema takes it."""
    grammars = [
        judge.compiled(tools=tools, call_order=order, tool_choice=choice) for choice in ("required", "auto")
    ]
    text = text_of(call, order)
    is_valid = jsonschema.Draft202012Validator(schema_of(call, tools)).is_valid(call.arguments)
    for grammar in grammars:
        assert judge.takes(grammar, text) == is_valid, text
    (again,) = parse_reply(text, tools={tool.name for tool in tools}).calls
    assert again.to_tool_call() == call
    assert text_of(again.to_tool_call(), order) == text
    n = 0
    for kind, wrong in spoiled(call, tools).items():
        counts[kind] += len(wrong)
        n += len(wrong)
        for name, arguments in wrong:
            text = text_of(ToolCall(name, arguments), order)
            assert not any(judge.takes(grammar, text) for grammar in grammars), (kind, text)
    assert n >= 10, call
    return is_valid


def run(
    judge: Judge, folder: Path, name: str, order: CallOrder, every: int
) -> tuple[list[int], Counter[str]]:
    """How many calls, of these out of order, and invalid; how many wrong ones of each kind were rejected."""
    n_calls = n_out_of_order = n_invalid = 0
    counts: Counter[str] = Counter()
    for _, tools, calls in gold(folder, name)[::every]:
        for written in calls:
            call = ordered(written, tools)
            n_calls += 1
            n_out_of_order += text_of(call, order) != text_of(written, order)
            n_invalid += not check(judge, tools, call, order, counts)
    return [n_calls, n_out_of_order, n_invalid], counts


@pytest.mark.long
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("order", ["name", "arguments"])
@pytest.mark.parametrize("name", SETS)
def test_all_gold_calls(judge: Judge, shared_data: Path, name: str, order: CallOrder) -> None:
    seen, counts = run(judge, shared_data / "bfcl", name, order, 1)
    print(f"{name}, {order} first: calls, of these reordered, invalid: {seen}; rejected: {dict(counts)}")
    assert seen == [N_CALLS[name], N_OUT_OF_ORDER[name], N_INVALID[name]]
    assert set(counts) == set(KINDS)


@pytest.mark.parametrize("order", ["name", "arguments"])
@pytest.mark.parametrize("name", SETS)
def test_some_gold_calls(judge: Judge, shared_data: Path, name: str, order: CallOrder) -> None:
    seen, _ = run(judge, shared_data / "bfcl", name, order, 40)
    assert seen[0] >= SETS[name] // 40


@pytest.mark.parametrize("name", SETS)
def test_gold_answers_in_the_models_tokens(judge: Judge, shared_data: Path, name: str) -> None:
    """Several calls in one answer, each token looked up in the mask."""
    for _, tools, calls in gold(shared_data / "bfcl", name)[::40]:
        text = "".join(t for t, _ in call_text([ordered(call, tools) for call in calls], "name", "calls"))
        assert judge.follows(judge.compiled(tools=tools, tool_choice="required"), text)
        assert judge.follows(judge.compiled(tools=tools), "Let me see.\n" + text)
