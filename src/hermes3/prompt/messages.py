"""Messages of a conversation, and their parsing from OpenAI-style dicts.

Honoured or refused: a field that the Hermes format has no place for is a ``RequestError`` that names it (its
``param`` reads ``messages[2].name``), unless it is null or empty, as in the dumps of the ``openai`` client.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, cast, get_args

from hermes3.prompt.json_text import read_json
from hermes3.prompt.refusal import kind_of, refuse

Role = Literal["system", "user", "assistant", "tool"]
ROLES: tuple[Role, ...] = get_args(Role)

_KNOWN_FIELDS = {"role", "content", "name", "tool_calls", "tool_call_id", "reasoning_content"}


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One call that the assistant made.

    Attributes:
        name: the function's name.
        arguments: its arguments, already decoded from JSON.
        id: what the tool's answer refers to; None where nobody gave one.
        written: JSON of the arguments as the model wrote it, so that streamed and whole answers are the same.
    """

    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    id: str | None = None
    written: str | None = field(default=None, compare=False, repr=False)

    def to_dict(self) -> dict[str, Any]:
        """The call as OpenAI writes it, arguments as a JSON string."""
        arguments = self.written or json.dumps(self.arguments, ensure_ascii=False)
        function = {"name": self.name, "arguments": arguments}
        return {"id": self.id, "type": "function", "function": function}


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that the model may call.

    Attributes:
        name: the function's name.
        description: what it does, for the model to read.
        parameters: JSON Schema of its arguments; None for a function without any.
    """

    name: str
    description: str | None = None
    parameters: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation.

    Attributes:
        role: who speaks.
        content: what is said; None only beside tool calls.
        tool_calls: calls made by the assistant.
        tool_call_id: the call that a tool message answers.
        name: the function that a tool message comes from.
    """

    role: Role
    content: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    name: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """The message as OpenAI writes it; ``parse_messages`` reads it back equal."""
        out: dict[str, Any] = {"role": self.role, "content": self.content}
        if self.tool_calls:
            out["tool_calls"] = [call.to_dict() for call in self.tool_calls]
        if self.tool_call_id is not None:
            out["tool_call_id"] = self.tool_call_id
        if self.name is not None:
            out["name"] = self.name
        return out


def parse_messages(raw: Iterable[Mapping[str, Any] | Message], *, param: str = "messages") -> list[Message]:
    """Messages from OpenAI-style dicts; ``Message`` objects are checked and passed through.

    ``developer`` reads as ``system``. Content may be a string or a list of parts of type ``text``, which are
    joined by newlines (as vLLM and llama.cpp join them). An assistant's ``reasoning_content`` goes back to
    where it was written, in front of the content, as ``<scratch_pad>``.

    Args:
        raw: the conversation, oldest first.
        param: what errors call it.

    Raises:
        RequestError: at the first field that is missing, mistyped or cannot be honoured; ``param`` names it.
    """
    if isinstance(raw, (str, bytes, Mapping)) or not isinstance(raw, Iterable):
        refuse(param, f"must be a list of messages, not {kind_of(raw)}")
    messages = [parse_message(item, f"{param}[{index}]") for index, item in enumerate(raw)]
    if not messages:
        refuse(param, "is empty; give at least one message")
    return messages


def parse_message(raw: Mapping[str, Any] | Message, where: str) -> Message:
    """One message; see ``parse_messages``.

    Args:
        where: what errors call it.

    Raises:
        RequestError: see ``parse_messages``.
    """
    if isinstance(raw, Message):
        raw = raw.to_dict()
    if not isinstance(raw, Mapping):
        refuse(where, f"must be an object with role and content, not {kind_of(raw)}")
    role = _role(raw, where)
    _refuse_unknown(raw, role, where)
    calls = _tool_calls(raw.get("tool_calls") or (), f"{where}.tool_calls")
    thought = _optional_text(raw, "reasoning_content", where)
    content = _content(raw.get("content"), f"{where}.content", may_be_null=bool(calls or thought))
    if thought:
        content = "\n".join(["<scratch_pad>", thought, "</scratch_pad>", *([content] if content else [])])
    return Message(
        role=role,
        content=content,
        tool_calls=calls,
        tool_call_id=_optional_text(raw, "tool_call_id", where),
        name=_optional_text(raw, "name", where),
    )


def _role(raw: Mapping[str, Any], where: str) -> Role:
    if "role" not in raw:
        refuse(f"{where}.role", f"is missing; it must be one of {_roles()}")
    given = raw["role"]
    if given == "developer":
        return "system"
    if given not in ROLES:
        refuse(f"{where}.role", f"is {_shown(given)}; it must be one of {_roles()}")
    return cast(Role, given)


def _refuse_unknown(raw: Mapping[str, Any], role: Role, where: str) -> None:
    places = {
        "tool_calls": "assistant",
        "reasoning_content": "assistant",
        "tool_call_id": "tool",
        "name": "tool",
    }
    for key, value in raw.items():
        if value is None or value == "" or value == [] or value == {}:
            continue
        if key not in _KNOWN_FIELDS:
            refuse(f"{where}.{key}", "is not a field that the Hermes format has a place for; leave it out")
        if key in places and role != places[key]:
            refuse(f"{where}.{key}", f"belongs to messages of role {places[key]}, not {role}; leave it out")


def _content(raw: object, where: str, *, may_be_null: bool) -> str | None:
    if raw is None:
        if may_be_null:
            return None
        refuse(where, "is null or missing, which only an assistant message with tool_calls may have")
    if isinstance(raw, str):
        return raw
    if not isinstance(raw, Sequence) or isinstance(raw, (bytes, bytearray)):
        refuse(where, f"must be a string or a list of text parts, not {kind_of(raw)}")
    return "\n".join(_part(part, f"{where}[{index}]") for index, part in enumerate(raw))


def _part(raw: object, where: str) -> str:
    if not isinstance(raw, Mapping):
        refuse(where, f"must be an object with type and text, not {kind_of(raw)}")
    if raw.get("type") != "text":
        refuse(f"{where}.type", f"is {_shown(raw.get('type'))}; the model reads parts of type 'text' alone")
    text = raw.get("text")
    if not isinstance(text, str):
        refuse(f"{where}.text", f"must be a string, not {kind_of(text)}")
    return text


def _tool_calls(raw: object, where: str) -> tuple[ToolCall, ...]:
    if not isinstance(raw, Sequence) or isinstance(raw, (str, bytes, bytearray)):
        refuse(where, f"must be a list of tool calls, not {kind_of(raw)}")
    return tuple(_tool_call(call, f"{where}[{index}]") for index, call in enumerate(raw))


def _tool_call(raw: object, where: str) -> ToolCall:
    if not isinstance(raw, Mapping):
        refuse(where, f"must be an object with id, type and function, not {kind_of(raw)}")
    if raw.get("type", "function") != "function":
        refuse(f"{where}.type", f"is {_shown(raw['type'])}; only 'function' exists")
    function = raw.get("function")
    if not isinstance(function, Mapping):
        refuse(f"{where}.function", f"must be an object with name and arguments, not {kind_of(function)}")
    name = function.get("name")
    if not isinstance(name, str) or not name:
        refuse(f"{where}.function.name", f"must be a non-empty string, not {_shown(name)}")
    arguments = _arguments(function.get("arguments"), f"{where}.function.arguments")
    return ToolCall(name=name, arguments=arguments, id=_optional_text(raw, "id", where))


def _arguments(raw: object, where: str) -> Mapping[str, Any]:
    """Decoded arguments. The empty string counts as no arguments: OpenAI's own models send it."""
    if raw == "":
        return {}
    if isinstance(raw, str):
        try:
            raw = read_json(raw)
        except ValueError as error:
            refuse(where, f"is not JSON: {error}")
    if not isinstance(raw, Mapping):
        refuse(where, f"must be a JSON object of arguments, not {kind_of(raw)}")
    return raw


def _optional_text(raw: Mapping[str, Any], key: str, where: str) -> str | None:
    value = raw.get(key)
    if value is not None and not isinstance(value, str):
        refuse(f"{where}.{key}", f"must be a string, not {kind_of(value)}")
    return value or None


def _roles() -> str:
    return ", ".join(ROLES) + " (or developer, read as system)"


def _shown(value: object) -> str:
    """A value as an error quotes it, at most 60 characters."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
