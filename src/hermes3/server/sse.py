"""Server-sent events over ASGI: each goes out as it comes, for as little computing as that takes.

Form: https://html.spec.whatwg.org/multipage/server-sent-events.html. The event loop shares its cores with the
model, so that what an event costs is taken from tokens: with a task, a lock and a timer for each of them, as
libraries have it, it cost as much again as everything else (JOURNAL.md).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from http import HTTPStatus

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from hermes3.server.worker import gone

HEADERS = {"cache-control": "no-store", "x-accel-buffering": "no"}


def event(data: str, name: str | None = None) -> bytes:
    """An event's bytes; ``data`` is one line, as JSON is."""
    return f"data: {data}\n\n".encode() if name is None else f"event: {name}\ndata: {data}\n\n".encode()


class EventStream(Response):
    """A response of events. It ends with them, or when the client has left or does not read.

    Args:
        events: their bytes; closed where the client leaves early.
        remark: one line for a client who has heard nothing for long, sent as a comment.
        ping_s: so long.
        send_s: seconds after which a client that does not read has left.
    """

    media_type = "text/event-stream"

    def __init__(
        self, events: AsyncGenerator[bytes, None], *, remark: Callable[[], str], ping_s: float, send_s: float
    ) -> None:
        self.status_code = HTTPStatus.OK
        self.background = None
        self.init_headers(HEADERS)
        self._events = events
        self._remark = remark
        self._ping_s = ping_s
        self._send_s = send_s
        self._clock = asyncio.get_running_loop().time
        self._n_sending = 0
        self._since = self._clock()  # when what is being sent was begun, or the last was sent

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        tasks = [asyncio.create_task(each) for each in (self._pump(send), self._watch(send), gone(receive))]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if tasks[0].done():
                tasks[0].result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _pump(self, send: Send) -> None:
        async with aclosing(self._events) as events:
            head = {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers}
            await send(head)
            async for each in events:
                await self._write(send, each)
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _watch(self, send: Send) -> None:
        """Breaks the silence; ends when the client does not read."""
        while True:
            silent_s = self._clock() - self._since
            if self._n_sending and silent_s >= self._send_s:
                return
            if not self._n_sending and silent_s >= self._ping_s:
                await self._write(send, f": {self._remark()}\n\n".encode())
            rest_s = self._ping_s - silent_s if silent_s < self._ping_s else self._ping_s
            await asyncio.sleep(min(rest_s, self._send_s / 4))

    async def _write(self, send: Send, data: bytes) -> None:
        if not self._n_sending:
            self._since = self._clock()
        self._n_sending += 1
        await send({"type": "http.response.body", "body": data, "more_body": True})
        self._n_sending -= 1
        self._since = self._clock()
