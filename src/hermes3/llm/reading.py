"""What the text of an answer says: plain text, thoughts and calls, as it comes."""

from __future__ import annotations

import secrets
from typing import NamedTuple

from hermes3.llm.reply import ToolCallDelta
from hermes3.prompt.citations import Citation, parse_citations
from hermes3.prompt.pieces import CallDelta, CallEnd, ParsedCall, ReasoningDelta, TextDelta
from hermes3.prompt.splitter import Splitter


class Read(NamedTuple):
    """What became certain: the fields of a ``Delta``."""

    text: str
    reasoning: str = ""
    tool_calls: tuple[ToolCallDelta, ...] = ()
    broken_calls: tuple[ParsedCall, ...] = ()
    citations: tuple[Citation, ...] | None = None


class Reader:
    """Reads one answer.

    Args:
        splitter: takes it apart; None where its text is all there is.
        has_citations: tell those in its text, with the last of it.

    Attributes:
        n_calls: calls that can be made, so far.
    """

    def __init__(self, splitter: Splitter | None, *, has_citations: bool = False) -> None:
        self._splitter = splitter
        self._texts: list[str] | None = [] if has_citations else None
        self.n_calls = 0

    def read(self, text: str, *, is_last: bool = False) -> Read:
        """Add text; ``is_last`` says that nothing follows."""
        read = self._parted(text, is_last=is_last)
        if self._texts is None:
            return read
        self._texts.append(read.text)
        return read._replace(citations=tuple(parse_citations("".join(self._texts))[1])) if is_last else read

    def _parted(self, text: str, *, is_last: bool) -> Read:
        if self._splitter is None:
            return Read(text)
        pieces = self._splitter.push(text) if text else []
        if is_last:
            pieces += self._splitter.flush()
        calls: list[ToolCallDelta] = []
        broken: list[ParsedCall] = []
        for piece in pieces:
            if isinstance(piece, CallDelta):
                call_id = None if piece.name is None else f"call_{secrets.token_hex(12)}"
                calls.append(ToolCallDelta(piece.index, call_id, piece.name, piece.arguments))
            elif isinstance(piece, CallEnd) and piece.call.status == "ok":
                self.n_calls += 1
            elif isinstance(piece, CallEnd):
                broken.append(piece.call)
        return Read(
            "".join(piece.text for piece in pieces if isinstance(piece, TextDelta)),
            "".join(piece.text for piece in pieces if isinstance(piece, ReasoningDelta)),
            tuple(calls),
            tuple(broken),
        )
