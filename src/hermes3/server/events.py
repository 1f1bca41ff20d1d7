"""Streamed answers as OpenAI's server-sent events."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncGenerator, Callable, Sequence

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
from hermes3.server.sse import event
from hermes3.server.worker import merged

_log = logging.getLogger("hermes3.server")
DONE = event("[DONE]")
ChunkChoices = Callable[[int, Delta], list[Body]]


async def chat_events(
    envelope: Envelope,
    streams: Sequence[AsyncStream],
    *,
    n_per_prompt: int,
    include_usage: bool,
    may_call: bool,
) -> AsyncGenerator[bytes, None]:
    """chat.completion.chunk events: each choice's role at once, then what comes, usage, ``[DONE]``."""
    opening = [chat_opening(index, may_call=may_call) for index in range(len(streams))]
    chunks = _Chunks(envelope, "chat.completion.chunk", n_per_prompt, include_usage)
    async for each in chunks.of(streams, opening, chat_chunk_choices):
        yield each


async def completion_events(
    envelope: Envelope,
    streams: Sequence[AsyncStream],
    echoes: Sequence[str],
    *,
    n_per_prompt: int,
    include_usage: bool,
) -> AsyncGenerator[bytes, None]:
    """text_completion events: echoed prompts first, then text as it comes, usage, ``[DONE]``."""
    writers = [CompletionLogprobs() for _ in streams]
    opening = [completion_chunk_choice(index, Delta(text)) for index, text in enumerate(echoes) if text]

    def choices(index: int, delta: Delta) -> list[Body]:
        logprobs = writers[index].body(delta.logprobs) if delta.logprobs else None
        if not (delta.text or logprobs or delta.finish_reason):
            return []
        return [completion_chunk_choice(index, delta, logprobs)]

    chunks = _Chunks(envelope, "text_completion", n_per_prompt, include_usage)
    async for each in chunks.of(streams, opening, choices):
        yield each


class _Chunks:
    """The events of one response; an error on the way becomes the last of them.

    What all chunks have in common is made into JSON once.
    """

    def __init__(self, envelope: Envelope, kind: str, n_per_prompt: int, include_usage: bool) -> None:
        self._envelope = envelope
        self._kind = kind
        self._n_per_prompt = n_per_prompt
        self._include_usage = include_usage
        self._head, self._tail = self._body([]).split("[]")

    async def of(
        self, streams: Sequence[AsyncStream], opening: Sequence[Body], choices: ChunkChoices
    ) -> AsyncGenerator[bytes, None]:
        if opening:
            yield b"".join(map(self._chunk, opening))
        usages: dict[int, Usage] = {}
        try:
            async for batch in merged(streams):
                usages |= {index: delta.usage for index, delta in batch if delta.usage is not None}
                if told := b"".join(self._of_one(delta, choices(index, delta)) for index, delta in batch):
                    yield told
        except Exception as error:
            failure = failure_of(error)
            _log.error("%s failed: %s", self._envelope.id, failure, exc_info=error)
            yield event(json.dumps(failure.body()))
            return
        if self._include_usage:
            in_order = [usages[index] for index in range(len(streams))]
            yield event(self._body([], usage=usage_body(in_order, n_per_prompt=self._n_per_prompt))) + DONE
        else:
            yield DONE

    def _of_one(self, delta: Delta, choices: Sequence[Body]) -> bytes:
        """The chunks of a delta; the last of an answer tells its timings."""
        if delta.usage is None or delta.timings is None:
            return b"".join(map(self._chunk, choices))
        spent = timings_body([(delta.timings, delta.usage)])
        return b"".join(map(self._chunk, choices[:-1])) + event(self._body(choices[-1:], timings=spent))

    def _chunk(self, choice: Body) -> bytes:
        return f"data: {self._head}[{json.dumps(choice)}]{self._tail}\n\n".encode()

    def _body(self, choices: Sequence[Body], **more: Body) -> str:
        usage: Body = {"usage": None} if self._include_usage else {}
        return json.dumps({**self._envelope.around(self._kind, choices), **usage, **more})
