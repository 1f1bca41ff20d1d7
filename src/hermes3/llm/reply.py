"""What comes back from the hall: whole replies, and the deltas that a streamed one is made of."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

FinishReason = Literal["stop", "length", "cancelled"]


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
    """

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0

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
    """

    prefill_s: float
    decode_s: float
    prefill_tokens_per_s: float
    decode_tokens_per_s: float

    @classmethod
    def measured(cls, usage: Usage, submitted: float, first: float | None, last: float) -> Timings:
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
        )


@dataclass(frozen=True, slots=True)
class Delta:
    """A piece of a streamed answer; the last one, and only it, says why and at what cost the answer ended.

    Attributes:
        text: new text, whole characters, never part of a stop string; may be empty.
        logprobs: the tokens whose text ends within this piece, where logprobs were asked for.
        finish_reason: None until the last delta.
        usage: set on the last delta.
        timings: set on the last delta.
    """

    text: str
    logprobs: tuple[TokenLogprob, ...] = ()
    finish_reason: FinishReason | None = None
    usage: Usage | None = None
    timings: Timings | None = None


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole answer.

    Attributes:
        text: the answer, without the token or the string that ended it.
        finish_reason: ``stop`` (end token or stop string), ``length`` (max_tokens or context full) or
            ``cancelled``.
        logprobs: one entry per token of ``text``, or None where none were asked for.
    """

    text: str
    finish_reason: FinishReason
    usage: Usage
    timings: Timings
    logprobs: tuple[TokenLogprob, ...] | None = None

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
        )
