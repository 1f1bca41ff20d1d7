"""The forms that files of conversations have: which one a row is in, and what it says."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, get_args

from hermes3.prompt.json_text import json_text
from hermes3.prompt.messages import Role, ToolCall, parse_message
from hermes3.prompt.refusal import kind_of, refuse, refuse_unknown
from hermes3.train.data.conversation import Conversation, Preference, Turn, conversation, preference
from hermes3.train.data.tools import CallCheck, Tools, calls_in, calls_of, tools_in, tools_of

Form = Literal["messages", "sharegpt", "alpaca", "preference"]
FORMS: tuple[Form, ...] = get_args(Form)
THOUGHTS = "THINKING"  # tag of the Hermes 3 report that thoughts stand in, where a file has them apart

_ANSWERS = ("output", "response")
_SPEAKERS: dict[str, Role] = {
    "human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "model": "assistant",
    "chatgpt": "assistant", "bing": "assistant", "bard": "assistant", "system": "system",
    "observation": "tool", "tool": "tool", "function_response": "tool", "function": "tool",
}  # fmt: skip
_WEIGHTS = ("weight", "loss_weight", "train")
_REASONING = "reasoning_content"
READ = frozenset((  # fields of a row that are read, whatever its form
    "messages", "conversations", "conversation", "system", "tools", "functions", "instruction", "input",
    "history", "prompt", "chosen", "rejected", "chosen_messages", "rejected_messages", *_ANSWERS,
))  # fmt: skip
_SHAREGPT = ("from", "value", "name", *_WEIGHTS)
_PARTS = {"text": "text", "reasoning": "thought", "thinking": "thought", "tool_call": "call"}


def form_of(row: Mapping[str, Any]) -> tuple[Form, str] | None:
    """The form that a row is in, and what shows it; None where it is in none of them."""
    for chosen, rejected in (("chosen", "rejected"), ("chosen_messages", "rejected_messages")):
        if chosen in row and rejected in row:
            return "preference", f"rows have {chosen} and {rejected}"
    if "messages" in row:
        return "messages", "rows have messages"
    for key in ("conversations", "conversation"):
        if key in row:
            is_openai = "role" in _first(row[key])
            return "messages" if is_openai else "sharegpt", f"rows have {key} with {_said(row[key])}"
    answer = next((key for key in _ANSWERS if key in row), None)
    return ("alpaca", f"rows have instruction and {answer}") if "instruction" in row and answer else None


def sample_of(row: Mapping[str, Any], form: Form) -> Conversation | Preference:
    """What a row says.

    Raises:
        RequestError: it is not in that form, or holds what nothing can be learned from.
    """
    return _READERS[form](row)


def _messages(row: Mapping[str, Any]) -> Conversation:
    return _whole(row, _turns(row, _field(row, "messages", "conversations", "conversation")))


def _sharegpt(row: Mapping[str, Any]) -> Conversation:
    return _whole(row, _turns(row, _field(row, "conversations", "conversation")))


def _alpaca(row: Mapping[str, Any]) -> Conversation:
    return _whole(row, [*_asked(row), Turn(key := _field(row, *_ANSWERS), "assistant", _text(row, key))])


def _preference(row: Mapping[str, Any]) -> Preference:
    keys = [_field(row, name, f"{name}_messages") for name in ("chosen", "rejected")]
    prompt = _prompt(row)
    chosen, rejected = (_whole(row, [*prompt, *_answer(row, key)]) for key in keys)
    return preference(chosen, rejected, " and ".join(keys))


_READERS: dict[Form, Callable[[Mapping[str, Any]], Conversation | Preference]] = {
    "messages": _messages, "sharegpt": _sharegpt, "alpaca": _alpaca, "preference": _preference,
}  # fmt: skip


def _whole(row: Mapping[str, Any], turns: Sequence[Turn]) -> Conversation:
    """A conversation of these turns, with the row's own system prompt and tools."""
    system = _text(row, "system") if row.get("system") else ""
    if system and turns and turns[0].role == "system" and turns[0].text != system:
        refuse("system", "stands beside a system turn that says something else")
    if system and not (turns and turns[0].role == "system"):
        turns = [Turn("system", "system", system), *turns]
    given = turns[0].text if turns and turns[0].role == "system" else ""
    shown = tools_in(given) if "<tools>" in given else None
    known = _tools(row) if shown is None else shown
    merged = [_with_calls(turn) for turn in turns]
    made = conversation(merged, known, shows_tools=shown is None)
    check = CallCheck(known.tools)
    for turn in merged:
        check(turn.calls, turn.where)
    return made


def _tools(row: Mapping[str, Any]) -> Tools:
    key = "functions" if row.get("tools") is None and row.get("functions") is not None else "tools"
    return tools_of(row.get(key), key)


def _with_calls(turn: Turn) -> Turn:
    """An assistant's turn, the calls in its text taken out."""
    if turn.role != "assistant":
        return turn
    text, calls = calls_in(turn.text, turn.where)
    return replace(turn, text=text, calls=[*calls, *turn.calls]) if calls else turn


def _asked(row: Mapping[str, Any]) -> list[Turn]:
    """Alpaca's question: the instruction, the input below it; earlier turns before both."""
    asked = _text(row, "instruction")
    given = _text(row, "input") if row.get("input") else ""
    turns = []
    for index, pair in enumerate(row.get("history") or ()):
        where = f"history[{index}]"
        if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(each, str) for each in pair):
            refuse(where, "must be a question and its answer, two strings")
        turns += [Turn(where, "user", pair[0]), Turn(where, "assistant", pair[1])]
    return [*turns, Turn("instruction", "user", f"{asked}\n\n{given}" if given.strip() else asked)]


def _prompt(row: Mapping[str, Any]) -> list[Turn]:
    """What both answers of a pair answer; empty where they repeat it themselves."""
    for key in ("prompt", "conversations", "conversation", "messages"):
        if row.get(key) is not None:
            given = row[key]
            return [Turn(key, "user", given)] if isinstance(given, str) else _turns(row, key)
    return _asked(row) if "instruction" in row else []


def _answer(row: Mapping[str, Any], key: str) -> list[Turn]:
    given = row[key]
    if isinstance(given, str):
        return [Turn(key, "assistant", given)]
    if isinstance(given, Mapping):
        return _turns({key: [given]}, key)
    return _turns(row, key)


def _turns(row: Mapping[str, Any], key: str) -> list[Turn]:
    """Turns of a list, in OpenAI's words or ShareGPT's."""
    raw = row[key]
    if not isinstance(raw, list):
        refuse(key, f"must be a list of turns, not {kind_of(raw)}")
    turns: list[Turn] = []
    for index, each in enumerate(raw):
        where = f"{key}[{index}]"
        if not isinstance(each, Mapping):
            refuse(where, f"must be an object, not {kind_of(each)}")
        if "role" in each:
            turns.append(_openai_turn(each, where))
        else:
            _add_sharegpt_turn(turns, each, where)
    return turns


def _openai_turn(raw: Mapping[str, Any], where: str) -> Turn:
    given = {name: value for name, value in raw.items() if name not in (*_WEIGHTS, _REASONING)}
    thoughts = [_string(raw[_REASONING], f"{where}.{_REASONING}")] if raw.get(_REASONING) else []
    calls: list[ToolCall] = []
    if isinstance(given.get("content"), list):
        given["content"] = _content(given["content"], thoughts, calls, f"{where}.content")
    if given.get("content") is None and (calls or thoughts):
        given["content"] = ""
    if given.get("role") == "function":
        given["role"] = "tool"
    if legacy := given.pop("function_call", None):
        given["tool_calls"] = [{"type": "function", "function": legacy}]
    message = parse_message(given, where)
    if message.role != "assistant" and (calls or thoughts):
        refuse(f"{where}.content", f"holds thoughts or calls, which a {message.role} turn has not")
    text = message.content or ""
    if thoughts:
        joined = "\n".join(thoughts)
        text = f"<{THOUGHTS}>\n{joined}\n</{THOUGHTS}>" + (f"\n{text}" if text else "")
    return Turn(where, message.role, text, [*calls, *message.tool_calls], message.tool_call_id, message.name,
                _weight(raw, where))  # fmt: skip


def _content(parts: list[Any], thoughts: list[str], calls: list[ToolCall], where: str) -> str:
    """The text of content in parts; thoughts and calls are added to their lists."""
    texts: list[str] = []
    for index, part in enumerate(parts):
        at = f"{where}[{index}]"
        if not isinstance(part, Mapping):
            refuse(at, f"must be an object with type and text, not {kind_of(part)}")
        kind = part.get("type")
        if not isinstance(kind, str) or kind not in _PARTS:
            refuse(f"{at}.type", f"is {kind!r:.60}; it must be one of {', '.join(_PARTS)}")
        key = next((name for name in (kind, "text", "value") if name in part), "text")
        text = _string(part.get(key), f"{at}.{key}")
        if _PARTS[kind] == "call":
            calls += calls_of(text, at)
        else:
            (texts if kind == "text" else thoughts).append(text)
    return "\n".join(texts)


def _add_sharegpt_turn(turns: list[Turn], raw: Mapping[str, Any], where: str) -> None:
    """One more turn; calls that follow each other, or the assistant's words, are one turn with them."""
    refuse_unknown(raw, _SHAREGPT, where)
    speaker, value, name = raw.get("from"), raw.get("value"), raw.get("name")
    weight = _weight(raw, where)
    if speaker == "function_call":
        _add_calls(turns, Turn(where, "assistant", "", calls_of(value, f"{where}.value"), weight=weight))
        return
    if not isinstance(speaker, str) or speaker not in _SPEAKERS:
        known = ", ".join(("function_call", *_SPEAKERS))
        refuse(f"{where}.from", f"is {speaker!r:.60}; it must be one of {known}")
    role = _SPEAKERS[speaker]
    if name is not None and (role != "tool" or not isinstance(name, str)):
        refuse(f"{where}.name", "must be a string, and belongs to results of calls alone")
    if role == "tool" and isinstance(value, list | dict):
        value = json_text(value, f"{where}.value")
    turns.append(Turn(where, role, _string(value, f"{where}.value"), name=name or None, weight=weight))


def _add_calls(turns: list[Turn], calls: Turn) -> None:
    last = turns[-1] if turns and turns[-1].role == "assistant" else None
    if last is None:
        turns.append(calls)
    elif calls.weight != last.weight:
        refuse(calls.where, "has another weight than the words that it is one turn with")
    else:
        last.calls.extend(calls.calls)


def _weight(raw: Mapping[str, Any], where: str) -> float | None:
    """How much a turn counts; None where it does not say."""
    given = [(key, raw[key]) for key in _WEIGHTS if raw.get(key) is not None]
    for key, value in given:
        if key == "train" and not isinstance(value, bool):
            refuse(f"{where}.train", f"is {value!r:.60}; it must be true or false")
        if key != "train" and (isinstance(value, bool) or not isinstance(value, int | float)):
            refuse(f"{where}.{key}", f"is {value!r:.60}; it must be a number")
        if not 0 <= value < math.inf:
            refuse(f"{where}.{key}", f"is {value!r:.60}; it must be 0 or more")
    weights = {float(value) for _, value in given}
    if len(weights) > 1:
        refuse(where, f"has several weights: {', '.join(key for key, _ in given)}")
    return weights.pop() if weights else None


def _field(row: Mapping[str, Any], *names: str) -> str:
    """Which of these fields a row has."""
    found = next((name for name in names if row.get(name) is not None), None)
    if found is None:
        refuse(names[0], "is missing")
    return found


def _text(row: Mapping[str, Any], name: str) -> str:
    return _string(row.get(name), name)


def _string(value: object, where: str) -> str:
    if not isinstance(value, str):
        refuse(where, f"must be a string, not {kind_of(value)}")
    return value


def _first(turns: object) -> Mapping[str, Any]:
    first = turns[0] if isinstance(turns, list) and turns else None
    return first if isinstance(first, Mapping) else {}


def _said(turns: object) -> str:
    return "role and content" if "role" in _first(turns) else "from and value"
