"""The Berkeley Function Calling Leaderboard's gold calls: written and read back, each is the same."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hermes3.prompt.chatml import Template, render, text_of
from hermes3.prompt.functions import parse_tools
from hermes3.prompt.messages import Message
from hermes3.prompt.splitter import parse_reply
from hermes3.prompt.tools import CallOrder
from tests.bfcl import SETS, gold, lines, openai_tools
from tests.prompt.splitting import merged, split


def body(message: Message, order: CallOrder) -> str:
    segments = render([message], template=Template(), add_generation_prompt=False, call_order=order)
    return text_of(segments).removeprefix("<|im_start|>assistant\n").removesuffix("<|im_end|>\n")


@pytest.mark.parametrize("order", ["name", "arguments"])
@pytest.mark.parametrize("name", SETS)
def test_gold_calls_are_read_back(shared_data: Path, name: str, order: CallOrder) -> None:
    for _, tools, calls in gold(shared_data / "bfcl", name):
        names = {tool.name for tool in tools}
        message = Message("assistant", None, calls)
        assert message.tool_calls
        text = body(message, order)
        parsed = parse_reply(text, tools=names)
        again = Message("assistant", None, tuple(call.to_tool_call() for call in parsed.calls))
        assert (again, parsed.content) == (message, "")
        assert {call.status for call in parsed.calls} == {"ok"}
        assert body(again, order) == text
        assert merged(split(list(text), tools=names)) == merged(split([text], tools=names))


@pytest.mark.parametrize("name", [*SETS, "irrelevance"])
def test_tools_stand_in_the_prompt_as_they_were_given(shared_data: Path, name: str) -> None:
    tasks = lines(shared_data / "bfcl", f"BFCL_v4_{name}")
    assert len(tasks) >= 200
    for task in tasks:
        given = openai_tools(task)
        text = text_of(render([], template=Template(), tools=parse_tools(given)))
        shown = text[text.index("<tools> ") + 8 : text.rindex("  </tools> ")]
        assert [json.loads(line) for line in shown.split("\n")] == given
