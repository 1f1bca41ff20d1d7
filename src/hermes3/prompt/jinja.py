"""The renderer as a chat template (Jinja), for programs that know no other: transformers, vLLM, llama.cpp.

What it cannot do in that language: a tool's result counts as JSON by its first and last character, and
arguments that are a string stand as they are.
"""

from __future__ import annotations

import json

from hermes3.prompt.chatml import Template
from hermes3.prompt.messages import Tool
from hermes3.prompt.tools import tool_text

_MARK = "\x00"

_TEMPLATE = r"""
{%- set ns = namespace(system=none, text='', at=0, open=false) -%}
{%- if messages and messages[0].role in ['system', 'developer'] -%}
  {%- set ns.system = messages[0].content -%}{%- set ns.at = 1 -%}
{%- endif -%}
{%- if tools -%}
  {%- set ns.text = HEAD -%}
  {%- for tool in tools -%}
    {%- set f = tool.function if tool.function is defined else tool -%}
    {%- set ns.text = ns.text ~ ('' if loop.first else '\n') ~ '{"type": "function", "function": ' -%}
    {%- set ns.text = ns.text ~ '{"name": ' ~ f.name|tojson -%}
    {%- if f.description is defined and f.description is not none -%}
      {%- set ns.text = ns.text ~ ', "description": ' ~ f.description|tojson -%}
    {%- endif -%}
    {%- set given = f.parameters|tojson if f.parameters else '{}' -%}
    {%- set ns.text = ns.text ~ ', "parameters": ' ~ given ~ '}}' -%}
  {%- endfor -%}
  {%- set ns.text = ns.text ~ TAIL -%}
  {%- if ns.system and ns.text not in ns.system -%}
    {%- set ns.system = ns.system ~ '\n' ~ ns.text -%}
  {%- elif not ns.system -%}
    {%- set ns.system = ns.text -%}
  {%- endif -%}
{%- elif ns.system is none and DEFAULT is not none -%}
  {%- set ns.system = DEFAULT -%}
{%- endif -%}
{{- BOS -}}
{%- if ns.system is not none -%}
  {{- '<|im_start|>system\n' ~ ns.system ~ '<|im_end|>\n' -}}
{%- endif -%}
{%- for message in messages[ns.at:] -%}
  {%- set is_result = message.role == 'tool' and (message.name or message.tool_call_id) -%}
  {%- if ns.open and not is_result -%}
    {%- set ns.open = false -%}{{- '<|im_end|>\n' -}}
  {%- endif -%}
  {%- if is_result -%}
    {%- if not ns.open -%}{{- '<|im_start|>tool\n' -}}{%- set ns.open = true -%}{%- endif -%}
    {%- set name = message.name -%}
    {%- if not name -%}
      {%- set found = namespace(name='') -%}
      {%- for other in messages -%}
        {%- for call in other.tool_calls or [] -%}
          {%- if call.id == message.tool_call_id -%}{%- set found.name = call.function.name -%}{%- endif -%}
        {%- endfor -%}
      {%- endfor -%}
      {%- set name = found.name -%}
    {%- endif -%}
    {%- set text = message.content.strip() -%}
    {%- set ends = text[:1] ~ text[-1:] -%}
    {%- set next = text[1:].strip()[:1] -%}
    {%- set digits = text.replace('-', '', 1).replace('.', '', 1) -%}
    {%- set nested = text|length > 1 and ends in ['{}', '[]', '""'] and next != "'" -%}
    {%- if not nested and text not in ['true', 'false', 'null'] and not digits.isdigit() -%}
      {%- set text = message.content|tojson -%}
    {%- endif -%}
    {{- '<tool_response>\n{"name": ' ~ name|tojson ~ ', "content": ' ~ text ~ '}\n</tool_response>\n' -}}
  {%- else -%}
    {{- '<|im_start|>' ~ ('system' if message.role == 'developer' else message.role) ~ '\n' -}}
    {{- message.content or '' -}}
    {%- if message.tool_calls -%}
      {{- '\n' if message.content else '' -}}
      {%- for call in message.tool_calls -%}
        {%- set f = call.function if call.function is defined else call -%}
        {{- '' if loop.first else '\n' -}}
        {{- '<tool_call>\n{"name": ' ~ f.name|tojson ~ ', "arguments": ' -}}
        {{- (f.arguments or '{}') if f.arguments is string else (f.arguments or {})|tojson -}}
        {{- '}\n</tool_call>' -}}
      {%- endfor -%}
    {%- endif -%}
    {{- '<|im_end|>\n' -}}
  {%- endif -%}
{%- endfor -%}
{%- if ns.open -%}{{- '<|im_end|>\n' -}}{%- endif -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\n' -}}{%- endif -%}
"""


def chat_template(template: Template) -> str:
    """The text of ``chat_template.jinja`` for a model: what ``render`` does, in Jinja.

    Args:
        template: the model's BOS and default system prompt.
    """
    head, _, tail = "".join(text for text, _ in tool_text([Tool(_MARK)])).partition(_signature())
    default = "none" if template.default_system is None else _quoted(template.default_system)
    bos = _quoted(template.bos or "")
    values = {"HEAD": _quoted(head), "TAIL": _quoted(tail), "DEFAULT": default, "BOS": bos}
    text = "\n".join(line.strip() for line in _TEMPLATE.strip().splitlines())
    for name, value in values.items():
        text = text.replace(name, value)
    return text + "\n"


def _signature() -> str:
    return json.dumps({"type": "function", "function": {"name": _MARK, "parameters": {}}})


def _quoted(text: str) -> str:
    """A text as a literal of Jinja, whose escapes are Python's."""
    return repr(text)
