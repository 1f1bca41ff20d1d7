"""The text of grammars, in llguidance's dialect of Lark, for what an answer may look like.

Calls stand as the prompt room writes them into a history, to the character: only the names and the arguments
are the model's own. Strings in Lark are those of JSON:
https://github.com/guidance-ai/llguidance/blob/main/docs/syntax.md
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hermes3.engine.grammar import WHITESPACE
from hermes3.prompt.messages import Tool
from hermes3.prompt.schema import closed
from hermes3.prompt.splitter import REASONING_TAGS
from hermes3.prompt.tools import END_TOOL_CALL, TOOL_CALL, CallOrder

Schema = Mapping[str, Any]

_ANYTHING = "/(?s:.*)/"


@dataclass(frozen=True, slots=True)
class Calls:
    """Calls that an answer may hold.

    Attributes:
        tools: what may be called.
        is_free: text may stand around the calls, and instead of them.
        is_single: at most one call.
        order: the key that comes first.
    """

    tools: Sequence[Tool]
    is_free: bool
    is_single: bool
    order: CallOrder


def grammar_of(calls: Calls | None, schema: Schema | None, *, has_thoughts: bool) -> str:
    """The grammar of an answer that is made of calls, or of JSON, or of either.

    Args:
        calls: None for none.
        schema: of the JSON that the answer must be where it is no call; None for text.
        has_thoughts: the answer may begin with thoughts in tags.
    """
    rules = list(_call_rules(calls)) if calls else []
    if calls and calls.is_free and schema is None:  # thoughts are text like other text
        start = "trigger call | TEXT" if calls.is_single else "(trigger call)* TEXT"
        return _joined(start, [f"trigger[lazy]: TEXT {_string(TOOL_CALL)}", f"TEXT: {_ANYTHING}", *rules])
    forms = []
    if calls:
        next_call = _string(f"\n{TOOL_CALL}")
        more = "" if calls.is_single else f" ({next_call} call)*"
        forms.append(f"{_string(TOOL_CALL)} call{more}")
    if schema is not None and (calls is None or calls.is_free):
        forms.append("answer")
        rules.append(f"answer: {_json(schema)}")
    start = " | ".join(forms)
    if has_thoughts:
        start = f'(thought "\\n"?)? ({start})'
        rules += _thought_rules()
    return _joined(start, rules)


def no_calls_grammar() -> str:
    """The grammar of text that holds no call."""
    return _joined("TEXT", [f"TEXT: {_ANYTHING} & ~/(?s:.*){TOOL_CALL}(?s:.*)/"])


def choice_grammar(choices: Sequence[str]) -> str:
    """The grammar of one out of several texts."""
    return _joined(" | ".join(map(_string, choices)), [])


def arguments_schema(tool: Tool) -> Schema:
    """What the arguments of a tool must satisfy."""
    if not tool.parameters:
        return {"type": "object", "properties": {}, "additionalProperties": False}
    return closed({"type": "object", **tool.parameters})


def _call_rules(calls: Calls) -> Iterator[str]:
    """What stands behind ``<tool_call>``."""
    forms = []
    for index, tool in enumerate(calls.tools):
        name = json.dumps(tool.name, ensure_ascii=False)
        if calls.order == "name":
            lead = _string(f'{name}, "arguments": ')
            forms.append(f"{lead} arguments_{index}")
        else:
            forms.append(f"arguments_{index} " + _string(f', "name": {name}'))
        yield f"arguments_{index}: {_json(arguments_schema(tool))}"
    head, tail = _string(f'\n{{"{calls.order}": '), _string(f"}}\n{END_TOOL_CALL}")
    yield f"call: {head} ({' | '.join(forms)}) {tail}"


def _thought_rules() -> Iterator[str]:
    names = sorted(REASONING_TAGS)
    yield "thought: " + " | ".join(f"thought_{index}" for index in range(len(names)))
    for index, name in enumerate(names):
        yield f'thought_{index}[lazy]: "<{name}>" {_ANYTHING} "</{name}>"'


def _json(schema: Schema) -> str:
    return "%json " + json.dumps({**schema, "x-guidance": {"whitespace_pattern": WHITESPACE}})


def _string(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _joined(start: str, rules: Sequence[str]) -> str:
    return "\n".join([f"start: {start}", *rules])
