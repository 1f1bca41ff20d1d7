"""From token ids to text that may be shown: decoding, stop strings, and the logprobs that go with it."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Protocol

from hermes3.llm.reply import Span, TokenLogprob, joined_spans


class Decoder(Protocol):
    """What the tokenizer's ``stream_decoder()`` gives."""

    def push(self, token_id: int, /) -> str: ...

    def flush(self) -> str: ...


class StopMatcher:
    """Finds stop strings in text that arrives in pieces, and holds back what could still become one.

    The stop string that is complete first wins, and of several that end at the same character the longest,
    so the result is the same however the text is cut into pieces.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""
        self.found: str | None = None

    def push(self, piece: str) -> str:
        """Add text; return what is now certain to be shown. After a match everything is swallowed."""
        if self.found is not None:
            return ""
        text = self._held + piece
        found = [(at + len(stop), at, stop) for stop in self._stops if (at := text.find(stop)) >= 0]
        if found:
            _, at, self.found = min(found)
            self._held = ""
            return text[:at]
        n_held = max((_overlap(text, stop) for stop in self._stops), default=0)
        self._held = text[len(text) - n_held :]
        return text[: len(text) - n_held]

    def flush(self) -> str:
        """The held text, at the end of the answer, when no stop string can come of it any more."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of ``text`` that is a beginning of ``stop``, all of it excluded."""
    longest = min(len(text), len(stop) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(stop[:n])), 0)


class AnswerText:
    """The text side of one sequence: ids and logprobs in, showable text and its logprobs out."""

    def __init__(self, decoder: Decoder, stops: Sequence[str]) -> None:
        self._decoder = decoder
        self._matcher = StopMatcher(stops)
        self._n_decoded = 0  # characters
        self._n_shown = 0
        self._waiting: deque[tuple[int, TokenLogprob]] = (
            deque()
        )  # (character where the token's text ends, entry)
        self._forced: deque[Span] = deque()  # characters of the answer that are not shown yet
        self._n_marked = 0

    @property
    def stop_string(self) -> str | None:
        """The stop string that is complete: nothing more will be shown."""
        return self._matcher.found

    def push(self, token_id: int, logprob: TokenLogprob | None, *, is_forced: bool = False) -> str:
        """Add one token; return what is now certain to be shown."""
        piece = self._decoder.push(token_id)
        if is_forced and piece:
            self._forced.append((self._n_decoded, self._n_decoded + len(piece)))
        self._n_decoded += len(piece)
        if logprob is not None:
            self._waiting.append((self._n_decoded, logprob))
        return self._shown(self._matcher.push(piece))

    def flush(self) -> str:
        """The rest, at the end of the answer: held characters and held beginnings of stop strings."""
        text = self._matcher.push(self._decoder.flush())
        return self._shown(text + self._matcher.flush())

    def logprobs(self) -> tuple[TokenLogprob, ...]:
        """Entries of the tokens whose text has been shown in full since the last call."""
        entries = []
        while self._waiting and self._waiting[0][0] <= self._n_shown:
            entries.append(self._waiting.popleft()[1])
        return tuple(entries)

    def forced(self) -> tuple[Span, ...]:
        """Where forced tokens stand in what has been shown since the last call, in characters of that."""
        first, self._n_marked = self._n_marked, self._n_shown
        spans = []
        while self._forced and self._forced[0][0] < self._n_shown:
            start, end = self._forced.popleft()
            if end > self._n_shown:
                self._forced.appendleft((self._n_shown, end))
            spans.append((start - first, min(end, self._n_shown) - first))
        return joined_spans(spans)

    def _shown(self, text: str) -> str:
        self._n_shown += len(text)
        return text
