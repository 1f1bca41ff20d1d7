"""Event streams over ASGI: what is sent, and how they end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from typing import Any

import pytest

from hermes3.server.sse import EventStream, event

Events = Callable[[list[str]], AsyncGenerator[bytes, None]]


async def two(told: list[str]) -> AsyncGenerator[bytes, None]:
    yield event('{"a": 1}')
    yield event("{}", "named")


async def silent(told: list[str]) -> AsyncGenerator[bytes, None]:
    try:
        yield event("1")
        await asyncio.sleep(60)
    finally:
        told.append("closed")


async def failing(told: list[str]) -> AsyncGenerator[bytes, None]:
    yield event("1")
    raise ValueError("it broke")


def respond(events: Events, *, until: bytes = b"", blocks: bool = False, send_s: float = 60) -> Any:
    """What was sent, and what the events noted. The client leaves when it has read ``until``."""

    async def main() -> tuple[list[dict[str, Any]], list[str]]:
        sent: list[dict[str, Any]] = []
        told: list[str] = []
        left = asyncio.Event()

        async def send(message: Any) -> None:
            sent.append(message)
            if until and until in message.get("body", b""):
                left.set()
            if blocks and message["type"] == "http.response.body":
                await asyncio.sleep(60)

        async def receive() -> Any:
            await left.wait()
            return {"type": "http.disconnect"}

        response = EventStream(events(told), remark=lambda: "still here", ping_s=0.01, send_s=send_s)
        await asyncio.wait_for(response({"type": "http"}, receive, send), 30)
        return sent, told

    return asyncio.run(main())


def test_events_in_their_form() -> None:
    sent, _ = respond(two)
    head, *bodies = sent
    assert head["status"] == 200
    names = dict(head["headers"])
    assert names[b"content-type"].startswith(b"text/event-stream")
    assert names[b"cache-control"] == b"no-store"
    assert b"content-length" not in names
    text = b"".join(body["body"] for body in bodies if not body["body"].startswith(b":"))
    assert text == b'data: {"a": 1}\n\nevent: named\ndata: {}\n\n'
    assert [body["more_body"] for body in bodies[-2:]] == [True, False]


def test_silence_is_broken_and_who_leaves_ends_it() -> None:
    sent, told = respond(silent, until=b": still here\n\n")
    assert sent[1]["body"] == b"data: 1\n\n"
    assert sent[2]["body"] == b": still here\n\n"
    assert told == ["closed"]


def test_who_does_not_read_has_left() -> None:
    sent, told = respond(silent, blocks=True, send_s=0.05)
    assert [message["type"] for message in sent] == ["http.response.start", "http.response.body"]
    assert told == ["closed"]


def test_an_error_of_the_events_is_the_responses() -> None:
    with pytest.raises(ValueError, match="it broke"):
        respond(failing)
