"""What comes back from the hall: whole replies, and the deltas that a streamed one is made of."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

from hermes3.prompt.citations import Citation, parse_citations
from hermes3.prompt.json_text import read_json
from hermes3.prompt.messages import ToolCall
from hermes3.prompt.pieces import ParsedCall

FinishReason = Literal["stop", "length", "cancelled", "tool_calls"]
Span = tuple[int, int]  # characters of a text, from the first to before the second


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """One token with its natural-log probability.

    Attributes:
        id: token id.
        text: the token alone, with U+FFFD where its bytes are not UTF-8 by themselves.
        bytes: the token's exact bytes; those of consecutive tokens join to the text's UTF-8.
        logprob: log probability under the model's unmodified distribution.
        top: the likeliest alternatives at this position, best first (empty where none were asked for).
    """

    id: int
    text: str
    bytes: bytes
    logprob: float
    top: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one request. The token that ends the answer counts as generated; a stop string's do too.

    Attributes:
        cached_tokens: of the prompt, those taken from earlier requests that began alike.
        forced_tokens: of the answer, those that a grammar left no choice about.
        drafted_tokens: tokens that were guessed to come next, and tried.
        accepted_tokens: of those, the ones that came.
    """

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0
    forced_tokens: int = 0
    drafted_tokens: int = 0
    accepted_tokens: int = 0

    @property
    def total_tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens


@dataclass(frozen=True, slots=True)
class Timings:
    """Wall-clock times of one request, waiting for others included.

    Attributes:
        prefill_s: seconds from submission to the first token.
        decode_s: seconds from the first token to the last.
        prefill_tokens_per_s: prompt tokens over ``prefill_s``.
        decode_tokens_per_s: tokens after the first over ``decode_s``; 0.0 where there is at most one token.
        queue_s: seconds from submission to the first work on it; a part of ``prefill_s``.
        mask_s: seconds of computing that the masks of its grammar took, beside the model's.
        mask_wait_s: seconds that it was held up by them; a part of the other times.
    """

    prefill_s: float
    decode_s: float
    prefill_tokens_per_s: float
    decode_tokens_per_s: float
    queue_s: float = 0.0
    mask_s: float = 0.0
    mask_wait_s: float = 0.0

    @classmethod
    def measured(
        cls,
        usage: Usage,
        submitted: float,
        first: float | None,
        last: float,
        *,
        queue_s: float = 0.0,
        mask_s: float = 0.0,
        mask_wait_s: float = 0.0,
    ) -> Timings:
        """From three readings of one monotonic clock, in seconds; ``first`` is None where no token came."""
        prefill_s = (last if first is None else first) - submitted
        decode_s = 0.0 if first is None else last - first
        n_decoded = usage.completion_tokens - 1
        return cls(
            prefill_s=prefill_s,
            decode_s=decode_s,
            prefill_tokens_per_s=usage.prompt_tokens / prefill_s
            if first is not None and prefill_s > 0
            else 0.0,
            decode_tokens_per_s=n_decoded / decode_s if n_decoded > 0 and decode_s > 0 else 0.0,
            queue_s=queue_s,
            mask_s=mask_s,
            mask_wait_s=mask_wait_s,
        )


@dataclass(frozen=True, slots=True)
class ToolCallDelta:
    """A call grows. Its first delta, and only that, has id and name; the arguments' JSON is to be joined.

    Attributes:
        index: its place among the answer's calls, from 0.
    """

    index: int
    id: str | None
    name: str | None
    arguments: str


@dataclass(frozen=True, slots=True)
class Delta:
    """A piece of a streamed answer; the last one, and only it, says why and at what cost the answer ended.

    Attributes:
        text: new text, whole characters, never part of a stop string; may be empty.
        logprobs: the tokens whose text ends within this piece, where logprobs were asked for.
        finish_reason: None until the last delta.
        usage: set on the last delta.
        timings: set on the last delta.
        reasoning: new text of the thoughts, where they are told apart.
        tool_calls: how calls grow, where tools were given.
        broken_calls: calls that ended here and cannot be made; one that has an index had deltas before.
        stop_string: on the last delta, the one that ended the answer, if one did.
        citations: on the last delta, those in the answer's text, where they were asked for.
        forced_spans: characters of ``text`` that a grammar left no choice about, where they were asked for.
    """

    text: str
    logprobs: tuple[TokenLogprob, ...] = ()
    finish_reason: FinishReason | None = None
    usage: Usage | None = None
    timings: Timings | None = None
    reasoning: str = ""
    tool_calls: tuple[ToolCallDelta, ...] = ()
    broken_calls: tuple[ParsedCall, ...] = ()
    stop_string: str | None = None
    citations: tuple[Citation, ...] | None = None
    forced_spans: tuple[Span, ...] | None = None


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole answer.

    Attributes:
        text: the answer, without the token or the string that ended it; calls and, if asked, thoughts taken
            out.
        finish_reason: ``stop`` (end token or stop string), ``tool_calls`` (the same, and there are calls),
            ``length`` (max_tokens or context full) or ``cancelled``.
        logprobs: one entry per token of the answer as the model wrote it, or None where none were asked for.
        reasoning: the thoughts, where they are told apart.
        tool_calls: the calls that can be made, in their order.
        broken_calls: those that cannot, cut by the end of the answer for example.
        parsed: an instance of the class that ``response_format`` was; None where the answer was cut.
        stop_string: the one that ended the answer, if one did.
        citations: those in the text, None where they were not asked for; ``text[slice(*citation.span)]`` is
            what one marks.
        forced_spans: characters of the text that a grammar left no choice about, None where they were not
            asked for.
    """

    text: str
    finish_reason: FinishReason
    usage: Usage
    timings: Timings
    logprobs: tuple[TokenLogprob, ...] | None = None
    reasoning: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    broken_calls: tuple[ParsedCall, ...] = ()
    parsed: Any = None
    stop_string: str | None = None
    citations: tuple[Citation, ...] | None = None
    forced_spans: tuple[Span, ...] | None = None

    def cited(self) -> tuple[str, list[Citation]]:
        """The text without the tags of its citations, ``<co: doc_id>...</co>``, and the citations."""
        return parse_citations(self.text)

    @classmethod
    def joined(cls, deltas: Iterable[Delta], *, with_logprobs: bool) -> Reply:
        """The reply that a finished stream adds up to.

        Raises:
            ValueError: the stream ended without a final delta.
        """
        pieces = list(deltas)
        last = pieces[-1] if pieces else Delta("")
        if last.finish_reason is None or last.usage is None or last.timings is None:
            raise ValueError("a stream of deltas ended without a finish_reason")
        logprobs = tuple(entry for piece in pieces for entry in piece.logprobs)
        return cls(
            text="".join(piece.text for piece in pieces),
            finish_reason=last.finish_reason,
            usage=last.usage,
            timings=last.timings,
            logprobs=logprobs if with_logprobs else None,
            reasoning="".join(piece.reasoning for piece in pieces),
            tool_calls=tuple(_calls(pieces)),
            broken_calls=tuple(call for piece in pieces for call in piece.broken_calls),
            stop_string=last.stop_string,
            citations=last.citations,
            forced_spans=_forced_spans(pieces) if last.forced_spans is not None else None,
        )


def joined_spans(spans: Iterable[Span]) -> tuple[Span, ...]:
    """Spans in their order, with those in one that touch."""
    joined: list[Span] = []
    for start, end in spans:
        if joined and joined[-1][1] == start:
            joined[-1] = joined[-1][0], end
        else:
            joined.append((start, end))
    return tuple(joined)


def _forced_spans(deltas: Iterable[Delta]) -> tuple[Span, ...]:
    """Those of the whole text."""
    spans, n_before = [], 0
    for delta in deltas:
        spans += [(n_before + start, n_before + end) for start, end in delta.forced_spans or ()]
        n_before += len(delta.text)
    return joined_spans(spans)


@dataclass(slots=True)
class _Growing:
    id: str | None
    name: str
    arguments: list[str] = field(default_factory=list)


def _calls(deltas: Iterable[Delta]) -> Iterable[ToolCall]:
    """The calls that deltas add up to, without those that broke."""
    calls: dict[int, _Growing] = {}
    for delta in deltas:
        for piece in delta.tool_calls:
            if piece.name is not None:
                calls[piece.index] = _Growing(piece.id, piece.name)
            calls[piece.index].arguments.append(piece.arguments)
        for broken in delta.broken_calls:
            if broken.index is not None:
                del calls[broken.index]
    written = [(call, "".join(call.arguments)) for call in calls.values()]
    return [ToolCall(call.name, read_json(text), call.id, text) for call, text in written]
