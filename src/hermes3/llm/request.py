"""One answer in the making: the engine's ids for it become deltas for whoever waits."""

from __future__ import annotations

import time
from collections.abc import Callable
from collections.abc import Sequence as Texts
from typing import Any, Protocol

from hermes3.engine import sampling
from hermes3.engine.protocol import Answer, StepOutput
from hermes3.errors import Hermes3Error
from hermes3.llm.reading import Reader
from hermes3.llm.reply import Delta, FinishReason, Span, Timings, TokenLogprob, Usage
from hermes3.llm.text import AnswerText, Decoder

Sink = Callable[[Delta | Exception], None]


class Vocabulary(Protocol):
    """What the hall needs of a tokenizer to show an answer."""

    def stream_decoder(self) -> Decoder: ...

    def token_bytes(self, token_id: int, /) -> bytes: ...


class Request:
    """The text side of one sequence. Used by the worker's thread alone, once it is submitted.

    Args:
        n_prompt: tokens of the prompt.
        stops: strings that end the answer.
        end_ids: ids that end the answer and have no place in its text.
        vocabulary: names the ids.
        reader: tells text, thoughts and calls apart.
        tells_forced: each delta says which of its characters a grammar forced.
        sink: takes the deltas, or the error that ends them; a RuntimeError from it means that nobody is left.
    """

    def __init__(
        self,
        n_prompt: int,
        stops: Texts[str],
        end_ids: frozenset[int],
        vocabulary: Vocabulary,
        reader: Reader,
        sink: Sink,
        *,
        tells_forced: bool = False,
    ) -> None:
        self._n_prompt = n_prompt
        self._end_ids = end_ids
        self._vocabulary = vocabulary
        self._reader = reader
        self._sink = sink
        self._tells_forced = tells_forced
        self._text = AnswerText(vocabulary.stream_decoder(), stops)
        self._n_tokens = 0
        self._sequence: Answer | None = None  # the engine's side, once it was heard of
        self._submitted = time.perf_counter()
        self._first: float | None = None

    def take(self, output: StepOutput[Any]) -> bool:
        """Pass on what one engine step brought.

        Returns:
            whether the answer is over: the engine ended it, a stop string is complete, or nobody listens.
        """
        if output.finish_reason == "error":
            return self.failed(output.error or Hermes3Error("the engine gave this answer up"))
        self._sequence = output.sequence
        now = time.perf_counter()
        if output.ids and self._first is None:
            self._first = now
        shown = ""
        for index, token_id in enumerate(output.ids):
            self._n_tokens += 1
            if output.finish_reason == "stop" and token_id in self._end_ids:
                break
            entry = self._named(output.logprobs[index]) if output.logprobs else None
            is_forced = self._tells_forced and bool(output.forced) and output.forced[index]
            shown += self._text.push(token_id, entry, is_forced=is_forced)
            if self._text.stop_string is not None:
                return self._end(shown, "stop", now)
        if output.finish_reason is None:
            read = self._reader.read(shown)
            return not self._give(
                Delta(logprobs=self._text.logprobs(), forced_spans=self._forced_spans(), **read._asdict())
            )
        return self._end(shown, output.finish_reason, now)

    def cancelled(self) -> bool:
        """Pass on that the answer was cancelled."""
        return self._end("", "cancelled", time.perf_counter())

    def failed(self, error: Exception) -> bool:
        """Pass on the error that ends the answer."""
        self._give(error)
        return True

    def _end(self, shown: str, finish_reason: FinishReason, now: float) -> bool:
        read = self._reader.read(shown + self._text.flush(), is_last=True)
        if finish_reason == "stop" and self._reader.n_calls:
            finish_reason = "tool_calls"
        usage, timings = self._spent(now)
        self._give(
            Delta(
                logprobs=self._text.logprobs(),
                finish_reason=finish_reason,
                usage=usage,
                timings=timings,
                stop_string=self._text.stop_string,
                forced_spans=self._forced_spans(),
                **read._asdict(),
            )
        )
        return True

    def _forced_spans(self) -> tuple[Span, ...] | None:
        return self._text.forced() if self._tells_forced else None

    def _spent(self, now: float) -> tuple[Usage, Timings]:
        own = self._sequence
        if own is None:  # it was cancelled before anything came
            usage = Usage(self._n_prompt, self._n_tokens)
            waited_s = now - self._submitted
            return usage, Timings.measured(usage, self._submitted, None, now, queue_s=waited_s)
        usage = Usage(
            self._n_prompt, self._n_tokens, own.n_cached, own.n_forced, own.n_drafted, own.n_accepted
        )
        started = now if own.started is None else own.started
        return usage, Timings.measured(
            usage,
            self._submitted,
            self._first,
            now,
            queue_s=max(0.0, started - self._submitted),
            mask_s=own.mask_s,
            mask_wait_s=own.mask_wait_s,
        )

    def _give(self, item: Delta | Exception) -> bool:
        """False where nobody is left to take it."""
        try:
            self._sink(item)
        except RuntimeError:
            return False
        return True

    def _named(self, entry: sampling.TokenLogprob) -> TokenLogprob:
        top = tuple(self._token(token_id, logprob) for token_id, logprob in entry.top)
        return self._token(entry.id, entry.logprob, top)

    def _token(self, token_id: int, logprob: float, top: tuple[TokenLogprob, ...] = ()) -> TokenLogprob:
        raw = self._vocabulary.token_bytes(token_id)
        return TokenLogprob(token_id, raw.decode("utf-8", "replace"), raw, logprob, top)
