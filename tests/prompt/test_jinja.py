"""The renderer in Jinja, run by transformers, beside the renderer."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers.utils.chat_template_utils import render_jinja_template

from hermes3.prompt.chatml import Template, render, text_of
from hermes3.prompt.jinja import chat_template
from hermes3.prompt.messages import Message, Tool, ToolCall
from hermes3.prompt.tools import to_openai
from hermes3.train.data.files import DataFile, Sample

TEMPLATES = [Template(), Template(bos="<s>", default_system="You're {{ x }} 'a' \\ \"b\"\n")]
TOOL = Tool("f", "It's \"d\" <b>é", {"type": "object", "properties": {"name": {"type": "string"}}})
CALLS = (ToolCall("f", {"name": "ü & <x>"}, "1"), ToolCall("g", {}, "2"))
CONVERSATIONS = [
    [Message("user", "hi")],
    [Message("system", "s"), Message("user", "hi"), Message("assistant", "yo\n"), Message("user", " x ")],
    [Message("system", ""), Message("user", "hi")],
    [Message("user", "q"), Message("assistant", "well", CALLS), Message("tool", '{"a": 1}', (), "1"),
     Message("tool", "plain 'text'", (), "2"), Message("assistant", "done")],
    [Message("user", "q"), Message("assistant", None, CALLS), Message("tool", "12.5", (), None, "f"),
     Message("tool", "[1, 2]", (), None, "g"), Message("tool", "1.2.3", (), None, "g")],
    [Message("user", "q"), Message("tool", "<tool_response>\nx\n</tool_response>")],
]  # fmt: skip


def theirs(messages: list[Message], tools: list[Tool], template: Template, prompt: bool) -> str:
    turns = [message.to_dict() for message in messages]
    for turn in turns:
        for call in turn.get("tool_calls", []):
            call["function"]["arguments"] = json.loads(call["function"]["arguments"])
    given = [to_openai(tool) for tool in tools] or None
    texts, _ = render_jinja_template(
        [turns], tools=given, chat_template=chat_template(template), add_generation_prompt=prompt
    )
    return str(texts[0])


@pytest.mark.parametrize("prompt", [False, True])
@pytest.mark.parametrize("template", TEMPLATES, ids=["plain", "own"])
@pytest.mark.parametrize("tools", [[], [TOOL], [TOOL, Tool("g")]], ids=["none", "one", "two"])
def test_the_same_text(tools: list[Tool], template: Template, prompt: bool) -> None:
    for messages in CONVERSATIONS:
        ours = text_of(render(messages, template=template, tools=tools, add_generation_prompt=prompt))
        assert theirs(messages, tools, template, prompt) == ours


def test_tools_that_the_system_message_holds_come_once() -> None:
    text = text_of(render([Message("user", "x")], template=Template(), tools=[TOOL]))
    system = text.partition("system\n")[2].partition("<|im_end|>")[0]
    messages = [Message("system", f"Be brief.\n{system}"), Message("user", "x")]
    ours = text_of(render(messages, template=Template(), tools=[TOOL], add_generation_prompt=False))
    assert theirs(messages, [TOOL], Template(), False) == ours


@pytest.mark.parametrize("template", TEMPLATES, ids=["plain", "own"])
def test_it_is_found_again_by_probing(template: Template) -> None:
    found = Template.of_model(chat_template(template), bos_token=template.bos or "<s>", add_bos=False)
    assert found == template


def test_sample_conversations(shared_data: Path) -> None:
    n = 0
    for name in ("glaive-toolcall-300.json.gz", "reason-tool-use-50.jsonl.gz"):
        for item in DataFile(shared_data / "train" / name):
            if isinstance(item, Sample):
                said = item.value
                tools = list(said.tools) if said.shows_tools else []
                messages = list(said.messages)
                ours = text_of(render(messages, template=Template(), tools=tools))
                assert theirs(messages, tools, Template(), True) == ours
                n += 1
    assert n > 300
