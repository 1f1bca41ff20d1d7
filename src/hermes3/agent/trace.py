"""A run written down, one JSON object a line.

    {"event": "begin", "version": 1, "model": ..., "depth": 5, "messages": [...], "tools": [...], ...}
    {"event": "answer", "number": 0, "asked": ..., "text": ..., "calls": [...], "broken": [...], ...}
    {"event": "result", "index": 0, "call": {...}, "content": ..., "status": "ok", "seconds": ...}
    {"event": "end", "reason": "answer", "text": ...}

Messages, tools and calls stand in OpenAI's form. ``asked`` is a digest of the conversation that was answered.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hermes3.agent.events import Answer, Calling, Event, Outcome, Result, Said
from hermes3.errors import FormatError, Hermes3Error, ReplayError
from hermes3.prompt.json_text import read_json
from hermes3.prompt.messages import Message, Tool, parse_messages
from hermes3.prompt.tools import to_openai

VERSION = 1
KINDS = ("begin", "answer", "result", "end")
MAX_LINE = 64 * 1024 * 1024  # characters

Record = dict[str, Any]


class Trace:
    """What a run was asked and what happened, in records; grows while it runs.

    Attributes:
        records: the lines of its file.
    """

    def __init__(self, records: Sequence[Record] = ()) -> None:
        self.records = list(records)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write it to a file."""
        Path(path).write_text("".join(map(line_of, self.records)), encoding="utf-8")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Trace:
        """Read it from a file.

        Raises:
            FormatError: the file is no trace; says the line.
            Hermes3Error: it cannot be read.
        """
        try:
            with open(path, encoding="utf-8") as file:
                records = [_record(line, number, path) for number, line in enumerate(file, 1)]
        except (OSError, UnicodeDecodeError) as error:
            raise Hermes3Error(f"the trace {os.fspath(path)} cannot be read: {error}") from error
        if not records or records[0]["event"] != "begin":
            raise FormatError(f"{os.fspath(path)} is no trace of a run: its first line does not begin one")
        if records[0].get("version") != VERSION:
            shown = f"{records[0].get('version')!r:.40}"
            raise FormatError(
                f"{os.fspath(path)} is a trace of version {shown}; this hermes3 reads {VERSION}"
            )
        return cls(records)

    def note(self, event: Event) -> None:
        """Write an event down; text that comes in pieces, and what only begins, leave no record."""
        match event:
            case Answer():
                self.records.append(_answer_record(event))
            case Result():
                call = event.call.to_dict() if event.call else None
                self.records.append(
                    {
                        "event": "result",
                        "index": event.index,
                        "call": call,
                        "content": event.content,
                        "status": event.status,
                        "seconds": round(event.seconds, 3),
                        "detail": event.detail,
                    }
                )
            case Outcome():
                self.records.append({"event": "end", "reason": event.reason, "text": event.text})
            case Said() | Calling():
                pass

    @property
    def depth(self) -> int:
        """Rounds with tools that it was allowed."""
        return int(field(self.records[0], "depth", int, 1))

    @property
    def tool_choice(self) -> Any:
        return self.records[0].get("tool_choice")

    @property
    def messages(self) -> list[Message]:
        """What it was asked.

        Raises:
            RequestError: a message that is none.
        """
        return parse_messages(self.records[0].get("messages") or (), param="line 1: messages")

    def begins_with(self, messages: Sequence[Message] | None, tools: Sequence[Tool] | None) -> None:
        """Hold what is asked now against what it was asked; None for whatever that was.

        Raises:
            ReplayError: they differ.
        """
        head = self.records[0]
        if messages is not None:
            given = [message.to_dict() for message in messages]
            _compare("message", given, [message.to_dict() for message in self.messages])
        if tools is not None:
            _compare("tool", [to_openai(tool) for tool in tools], head.get("tools") or [])


def begin_record(
    model: str, depth: int, tool_choice: object, messages: Sequence[Message], tools: Sequence[Tool]
) -> Record:
    """The first line."""
    return {
        "event": "begin",
        "version": VERSION,
        "model": model,
        "depth": depth,
        "tool_choice": tool_choice,
        "messages": [message.to_dict() for message in messages],
        "tools": [to_openai(tool) for tool in tools],
    }


def line_of(record: Record) -> str:
    """A record as its line."""
    return json.dumps(record, ensure_ascii=False) + "\n"


def digest(messages: Sequence[Message]) -> str:
    """A conversation's digest: SHA-256 of its JSON, the first 16 hexadecimal digits."""
    text = json.dumps([message.to_dict() for message in messages], ensure_ascii=False, sort_keys=True)
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:16]


def _record(line: str, number: int, path: str | os.PathLike[str]) -> Record:
    where = f"line {number} of {os.fspath(path)}"
    if len(line) > MAX_LINE:
        raise FormatError(f"{where} has {len(line):,} characters; a trace's have at most {MAX_LINE:,}")
    try:
        record = read_json(line)
    except ValueError as error:
        raise FormatError(f"{where} is not JSON: {error}") from error
    if not isinstance(record, dict) or record.get("event") not in KINDS:
        raise FormatError(f"{where} is no record of a run; its event must be one of {', '.join(KINDS)}")
    return record


def field(record: Record, name: str, kind: type, line: int) -> Any:
    """A field of a record.

    Raises:
        ReplayError: it is missing, or of another type.
    """
    value = record.get(name)
    if not isinstance(value, kind):
        raise ReplayError(f"line {line} of the trace: {name} is {value!r:.60}, no {kind.__name__}")
    return value


def _answer_record(answer: Answer) -> Record:
    return {
        "event": "answer",
        "number": answer.number,
        "asked": answer.asked,
        "text": answer.text,
        "reasoning": answer.reasoning,
        "calls": [call.to_dict() for call in answer.calls],
        "broken": [{"name": call.name, "raw": call.raw, "error": call.error} for call in answer.broken],
        "finish_reason": answer.finish_reason,
        "usage": {
            "prompt_tokens": answer.usage.prompt_tokens,
            "completion_tokens": answer.usage.completion_tokens,
            "cached_tokens": answer.usage.cached_tokens,
        },
        "seconds": round(answer.seconds, 3),
    }


def _compare(what: str, given: Sequence[object], recorded: Sequence[object]) -> None:
    for index, (here, there) in enumerate(zip(given, recorded, strict=False)):
        if here != there:
            raise ReplayError(
                f"{what} {index + 1} is not the one of the trace: here {_shown(here)}, there {_shown(there)}"
            )
    if len(given) != len(recorded):
        raise ReplayError(f"here are {len(given)} {what}s, the trace has {len(recorded)}")


def _shown(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 200 else f"{text[:197]}..."
