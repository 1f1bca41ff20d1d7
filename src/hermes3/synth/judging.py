"""What is left out: refusals, what training could not read, and what was said before."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hermes3.errors import FormatError, RequestError
from hermes3.synth.near import LEAST, Near
from hermes3.synth.teacher import RejectedError
from hermes3.train.data.conversation import Conversation
from hermes3.train.data.forms import sample_of

OPENING = 300  # characters of an answer in which a refusal shows

# The report (arXiv 2408.11857, section 3) filters "refusals" and "conversations with missing or empty turns"
# and gives no list; these are the openings that assistants refuse with.
REFUSALS = (
    r"\bas an ai\b",
    r"\bas a (?:large )?language model\b",
    r"\bi(?:'m| am) (?:just |only )?an ai\b",
    r"\bi(?:'m| am) (?:sorry|afraid)[,. ]+(?:but )?i (?:can(?:no|')t|am (?:not able|unable))",
    r"\bi(?:'m| am) (?:sorry|afraid)[,. ]+(?:but )?i (?:won't|will not|don't|do not)\b",
    r"\bi (?:can(?:no|')t|am (?:not able|unable) to|won't|will not) (?:assist|help|provide|fulfil|comply)\b",
    r"\bi must (?:decline|refuse)\b",
    r"\bagainst my (?:programming|guidelines|policy)\b",
)


def read_refusals(path: Path) -> tuple[str, ...]:
    """Regular expressions of a file, one a line; lines that begin with # say nothing.

    Raises:
        FormatError: it cannot be read, or a line is no regular expression.
    """
    try:
        lines = [line.strip() for line in path.read_text("utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise FormatError(f"{path} cannot be read: {error}") from error
    for number, line in enumerate(lines, 1):
        try:
            re.compile(line)
        except re.error as error:
            raise FormatError(f"{path}:{number}: {line!r:.60} is no regular expression: {error}") from error
    return tuple(line for line in lines if line and not line.startswith("#"))


class Judge:
    """Decides about conversations one after the other; what it took it remembers.

    Args:
        refusals: regular expressions, looked for in the beginning of each answer, large letters like small.
        near: similarity from which on a conversation counts as a repetition; 1 for the same words alone.

    Raises:
        RequestError: a similarity outside of 0.5 to 1.
    """

    def __init__(self, refusals: Sequence[str] = REFUSALS, near: float = 0.8) -> None:
        if not LEAST <= near <= 1:
            raise RequestError(f"near is {near}, it must be from {LEAST} to 1", param="near")
        self._refusal = re.compile("|".join(f"(?:{each})" for each in refusals) or "(?!)", re.IGNORECASE)
        self._near = Near(near)
        self._exact: dict[str, str] = {}

    def remember(self, name: str, row: dict[str, Any]) -> None:
        """A conversation that was kept earlier, by its name.

        Raises:
            RejectedError: it is none that training could read.
        """
        text = _text(_read(row))
        self._exact[_plain(text)] = name
        self._near.add(name, text)

    def judge(self, row: dict[str, Any]) -> None:
        """Whether a conversation is to be kept.

        Raises:
            RejectedError: it is not.
        """
        sample = _read(row)
        for message in sample.messages:
            opening = (message.content or "")[:OPENING].replace("\u2019", "'")
            found = self._refusal.search(opening) if message.role == "assistant" else None
            if found:
                raise RejectedError(f"refusal: {found[0]!r}")
        text = _text(sample)
        same = self._exact.get(_plain(text))
        if same is not None:
            raise RejectedError(f"repeats {same}")
        near = self._near.find(text)
        if near is not None:
            raise RejectedError(f"resembles {near[0]} ({near[1]:.2f})")


def _read(row: dict[str, Any]) -> Conversation:
    try:
        sample = sample_of(row, "messages")
    except RequestError as error:
        raise RejectedError(str(error)) from error
    if not isinstance(sample, Conversation):
        raise RejectedError("it is no conversation")
    return sample


def _plain(text: str) -> str:
    return " ".join(text.lower().split())


def _text(sample: Conversation) -> str:
    """What was said and called, without system messages and results."""
    said = [message for message in sample.messages if message.role in ("user", "assistant")]
    calls = [[(call.name, dict(call.arguments)) for call in message.tool_calls] for message in said]
    pairs = zip(said, calls, strict=True)
    return "\n".join(f"{message.content or ''} {made or ''}" for message, made in pairs)
