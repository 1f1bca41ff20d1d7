"""Streamed answers as the JSON texts of OpenAI's server-sent events."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator, Callable, Sequence

from hermes3.llm import Delta, Usage
from hermes3.llm.async_stream import AsyncStream
from hermes3.server.answers import (
    Body,
    CompletionLogprobs,
    Envelope,
    chat_chunk_choices,
    chat_opening,
    completion_chunk_choice,
    timings_body,
    usage_body,
)
from hermes3.server.failures import failure_of
from hermes3.server.worker import merged

_log = logging.getLogger("hermes3.server")
DONE = "[DONE]"
ChunkChoices = Callable[[int, Delta], list[Body]]


async def chat_events(
    envelope: Envelope,
    streams: Sequence[AsyncStream],
    *,
    n_per_prompt: int,
    include_usage: bool,
    may_call: bool,
) -> AsyncIterator[str]:
    """chat.completion.chunk events: each choice's role at once, then what comes, usage, ``[DONE]``."""
    opening = [chat_opening(index, may_call=may_call) for index in range(len(streams))]
    chunks = _Chunks(envelope, "chat.completion.chunk", n_per_prompt, include_usage)
    async for event in chunks.of(streams, opening, chat_chunk_choices):
        yield event


async def completion_events(
    envelope: Envelope,
    streams: Sequence[AsyncStream],
    echoes: Sequence[str],
    *,
    n_per_prompt: int,
    include_usage: bool,
) -> AsyncIterator[str]:
    """text_completion events: echoed prompts first, then text as it comes, usage, ``[DONE]``."""
    writers = [CompletionLogprobs() for _ in streams]
    opening = [completion_chunk_choice(index, Delta(text)) for index, text in enumerate(echoes) if text]

    def choices(index: int, delta: Delta) -> list[Body]:
        logprobs = writers[index].body(delta.logprobs) if delta.logprobs else None
        if not (delta.text or logprobs or delta.finish_reason):
            return []
        return [completion_chunk_choice(index, delta, logprobs)]

    chunks = _Chunks(envelope, "text_completion", n_per_prompt, include_usage)
    async for event in chunks.of(streams, opening, choices):
        yield event


class _Chunks:
    """The events of one response; an error on the way becomes the last of them."""

    def __init__(self, envelope: Envelope, kind: str, n_per_prompt: int, include_usage: bool) -> None:
        self._envelope = envelope
        self._kind = kind
        self._n_per_prompt = n_per_prompt
        self._include_usage = include_usage

    async def of(
        self, streams: Sequence[AsyncStream], opening: Sequence[Body], choices: ChunkChoices
    ) -> AsyncIterator[str]:
        for first in opening:
            yield self._event([first])
        usages: dict[int, Usage] = {}
        try:
            async for index, delta in merged(streams):
                if delta.usage is not None:
                    usages[index] = delta.usage
                for choice in choices(index, delta):
                    yield self._event([choice], last=delta if choice["finish_reason"] else None)
        except Exception as error:
            failure = failure_of(error)
            _log.error("%s failed: %s", self._envelope.id, failure, exc_info=error)
            yield json.dumps(failure.body())
            return
        if self._include_usage:
            in_order = [usages[index] for index in range(len(streams))]
            yield self._event([], usage_body(in_order, n_per_prompt=self._n_per_prompt))
        yield DONE

    def _event(self, choices: Sequence[Body], usage: Body | None = None, last: Delta | None = None) -> str:
        body = self._envelope.around(self._kind, choices)
        if last is not None and last.timings is not None and last.usage is not None:
            body["timings"] = timings_body([(last.timings, last.usage)])
        return json.dumps({**body, "usage": usage} if self._include_usage else body)
