"""A card's sections about the prompt format, by the renderer that every request goes through."""

from __future__ import annotations

import re

from hermes3.prompt.chatml import Template, render, text_of
from hermes3.prompt.functions import parse_tools
from hermes3.prompt.messages import Message, ToolCall

_SYSTEM = Message("system", "You are a sentient, superintelligent artificial general intelligence.")
_TOOL = {
    "type": "function",
    "function": {
        "name": "get_stock_price",
        "description": "get_stock_price(symbol: str) -> float - Get the price of a share.\n\n    Args:\n"
        "        symbol (str): The stock symbol.",
        "parameters": {
            "type": "object",
            "properties": {"symbol": {"type": "string"}},
            "required": ["symbol"],
        },
    },
}
_CALLED = (
    Message("user", "What does a share of Tesla cost?"),
    Message("assistant", tool_calls=(ToolCall("get_stock_price", {"symbol": "TSLA"}, id="1"),)),
    Message("tool", '{"price": 352.56}', tool_call_id="1"),
    Message("assistant", "A share of Tesla (TSLA) costs $352.56."),
)
_SCHEMA = {
    "title": "Person",
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
    "required": ["name", "age"],
}
CONVERSATION = (_SYSTEM, Message("user", "Hello, who are you?"))


def sections(template: Template, has_template: bool) -> str:
    """Prompt format, function calling and JSON mode, as Markdown.

    Args:
        template: the model's.
        has_template: whether its files hold a chat template that other programs apply.
    """
    return "\n\n".join(filter(None, [_format(template, has_template), _calls(template), _json(template)]))


def fenced(text: str, language: str = "") -> str:
    """A block of code whose fence is longer than any in the text."""
    longest = max((len(run) for run in re.findall(r"^`+", text, re.MULTILINE)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text}\n{fence}"


def _format(template: Template, has_template: bool) -> str:
    parts = [
        "# Prompt Format",
        "ChatML: each turn stands between `<|im_start|>` with its role and `<|im_end|>`. A system prompt "
        "sets rules, role and style; the answer begins after the last line:",
        fenced(text_of(render(CONVERSATION, template=template)).rstrip("\n")),
    ]
    if template.default_system is not None:
        text = text_of(render(CONVERSATION[1:], template=template)).rstrip("\n")
        parts += ["Without a system prompt the model's own default stands there:", fenced(text)]
    else:
        parts.append("Without a system prompt, that turn is left out.")
    if has_template and template.warning is None:
        parts.append(
            "The model's files hold this format as a chat template: `tokenizer.apply_chat_template(messages, "
            "add_generation_prompt=True)` gives the same text in transformers."
        )
    elif template.warning is not None:
        parts.append(f"Of the chat template in the model's files: {template.warning}.")
    return "\n\n".join(parts)


def _calls(template: Template) -> str:
    turns = text_of(
        render(_CALLED, template=template, tools=parse_tools([_TOOL]), add_generation_prompt=False)
    )
    system, *others = re.split(r"(?=<\|im_start\|>)", turns.rstrip("\n").removeprefix(template.bos or ""))[1:]
    said = (
        "The functions stand in the system turn, after the user's own system prompt where there is one:",
        "A question:",
        "The model calls a function, and the program runs it:",
        "Its result goes back in the role `tool`:",
        "The model answers:",
    )
    blocks = (fenced(turn.rstrip("\n")) for turn in (system, *others))
    pairs = [f"{words}\n{block}" for words, block in zip(said, blocks, strict=True)]
    return "\n\n".join(["## Prompt Format for Function Calling", *pairs])


def _json(template: Template) -> str:
    text = text_of(
        render(
            [Message("user", "Ada is 36 years old.")],
            template=template,
            schema=_SCHEMA,
        )
    )
    return "\n\n".join(
        [
            "## Prompt Format for JSON Mode / Structured Outputs",
            "The system turn holds the JSON schema, and the answer is a JSON object alone:",
            fenced(text.rstrip("\n")),
        ]
    )
