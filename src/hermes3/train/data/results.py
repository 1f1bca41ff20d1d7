"""Results of calls: which call each belongs to, in the forms that files have for it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from hermes3.prompt.json_text import read_json
from hermes3.prompt.literal import LiteralError, LiteralScanner
from hermes3.prompt.messages import Message, ToolCall
from hermes3.prompt.refusal import refuse

if TYPE_CHECKING:
    from hermes3.train.data.conversation import Turn

MAX_CALLS = 1024  # of one turn, and results of such


def named_results(turns: Sequence[Turn]) -> Iterator[tuple[Turn, Message]]:
    """Messages of all turns; results have the name of their function.

    A result without name or id belongs to the only call before it, or to the one of the same place where
    there are as many results as calls. One turn may hold the results of several calls, as ``<tool_response>``
    blocks or as a JSON list. Results in the card's form that are no JSON stand as they are.

    Raises:
        RequestError: a result that belongs to no call.
    """
    at = 0
    while at < len(turns):
        turn = turns[at]
        if turn.role != "tool":
            content = turn.text if turn.text or not turn.calls else None
            yield turn, Message(turn.role, content, tuple(turn.calls))
            at += 1
            continue
        end = at
        while end < len(turns) and turns[end].role == "tool":
            end += 1
        yield from _named(turns[at:end], turns[at - 1].calls)
        at = end


def _named(results: Sequence[Turn], calls: Sequence[ToolCall]) -> Iterator[tuple[Turn, Message]]:
    """The results of one assistant turn's calls."""
    if max(len(calls), len(results)) > MAX_CALLS:
        refuse(results[0].where, f"answers more than {MAX_CALLS} calls of one turn")
    parts = [(turn, part) for turn in results for part in _parts(turn, calls)]
    for index, (turn, part) in enumerate(parts):
        is_named = part.name is not None or part.tool_call_id is not None
        if is_named or "<tool_response>" in (part.content or ""):
            _check(part, calls, turn.where)
            yield turn, part
        elif len(parts) == len(calls) or len(calls) == 1:
            yield turn, replace(part, name=calls[min(index, len(calls) - 1)].name)
        else:
            what = f"{len(parts)} results for {len(calls)} calls"
            refuse(turn.where, f"says of no result which call it belongs to; there are {what}")


def _check(part: Message, calls: Sequence[ToolCall], where: str) -> None:
    if part.name is not None:
        if part.name not in {call.name for call in calls}:
            refuse(where, f"is a result of {part.name!r:.60}, which was not called before it")
    elif part.tool_call_id is not None and part.tool_call_id not in {call.id for call in calls}:
        refuse(where, f"belongs to the call {part.tool_call_id!r:.60}, which was not made before it")


def _parts(turn: Turn, calls: Sequence[ToolCall]) -> Iterator[Message]:
    """The results in one turn."""
    if turn.name is not None or turn.call_id is not None:
        yield Message("tool", turn.text, tool_call_id=turn.call_id, name=turn.name)
        return
    blocks, rest = tagged(turn.text, "tool_response")
    if blocks:
        found = [_result(value_of(block)) for block in blocks]
        is_whole = not rest.strip()
        yield from found if is_whole and all(found) else [Message("tool", turn.text)]  # type: ignore[misc]
        return
    value = value_of(turn.text)
    several = value if isinstance(value, list) and len(value) > 1 else []
    named = [_result(each) for each in several]
    called = {call.name for call in calls}
    if several and all(part is not None and part.name in called for part in named):
        yield from (part for part in named if part)
    elif several and not any(named) and len(several) == len(calls):
        yield from (Message("tool", _text(each)) for each in several)
    else:
        yield Message("tool", turn.text)


def _result(value: Any) -> Message | None:
    """The result that an object with name and content is."""
    if not isinstance(value, dict) or not isinstance(value.get("name"), str) or "content" not in value:
        return None
    return Message("tool", _text(value["content"]), name=value["name"])


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def tagged(text: str, name: str) -> tuple[list[str], str]:
    """What stands between the tags of a name, each without space around it, and the text beside them."""
    opening, closing = f"<{name}>", f"</{name}>"
    found, beside, at = [], [], 0
    while (start := text.find(opening, at)) >= 0 and (end := text.find(closing, start)) >= 0:
        found.append(text[start + len(opening) : end].strip())
        beside.append(text[at:start])
        at = end + len(closing)
    return found, "".join([*beside, text[at:]])


def value_of(text: str) -> Any:
    """The value of JSON, or of what Python's ``repr`` makes of such; None where the text is neither."""
    scanner = LiteralScanner()
    text = text.strip()
    if text[:1] not in ("{", "["):
        return None
    try:
        end = scanner.feed(text, 0, len(text))
        return read_json(scanner.take()) if scanner.is_done and end == len(text) else None
    except (LiteralError, ValueError):
        return None
