"""How long a connection may owe the rest of a request: uvicorn's h11 protocol waits for it without end.

Slow heads are the attack called slow loris: connections that send a byte now and then and take all places.
What no application sees has its deadline here: a head, and a body whose request was answered before it was
read. `read_body` (endpoints.py) answers 408 to the others at the same time. A client that reads nothing of
what is written to it is left to the kernel (TCP_USER_TIMEOUT, tcp(7), Linux alone): a closed connection
waits in asyncio until all is sent.
"""

from __future__ import annotations

import asyncio
import json
import socket
from http import HTTPStatus
from typing import ClassVar

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

from hermes3.server.failures import Failure

ANSWERED_S = 1.0  # for an application's own 408 to go first
_INT_MAX = 2**31 - 1
_USER_TIMEOUT: int | None = getattr(socket, "TCP_USER_TIMEOUT", None)


class Timed(H11Protocol):
    """A connection with deadlines. Answers in work, however long, and idle connections have none of these."""

    head_s: ClassVar[float]
    body_s: ClassVar[float]
    send_s: ClassVar[float]
    _owed: tuple[object, RequestResponseCycle | None] | None = None
    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's
        super().connection_made(transport)
        own = transport.get_extra_info("socket")
        if own is not None and own.family in (socket.AF_INET, socket.AF_INET6) and _USER_TIMEOUT is not None:
            milliseconds = min(max(int(1000 * self.send_s), 1), _INT_MAX)  # 0 is the kernel's own
            own.setsockopt(socket.IPPROTO_TCP, _USER_TIMEOUT, milliseconds)
        self._watch()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget()
        super().connection_lost(exc)

    def _watch(self) -> None:
        """A deadline for what is owed now; one for the same part of the same request stays as it is."""
        owed = (self.conn.their_state, self.cycle)
        if owed == self._owed:
            return
        self._forget()
        self._owed = owed
        parts = {h11.IDLE: self.head_s, h11.SEND_BODY: self.body_s + ANSWERED_S}
        if (seconds := parts.get(self.conn.their_state)) is not None:
            self._deadline = self.loop.call_later(seconds, self._give_up)

    def _forget(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _give_up(self) -> None:
        if self.conn.our_state is h11.IDLE and self.conn.trailing_data[0]:
            self.transport.write(self._too_late())
        self.transport.close()

    def _too_late(self) -> bytes:
        """408, for a head that has begun."""
        message = f"The request's head took longer than {self.head_s:g} s."
        body = json.dumps(Failure(HTTPStatus.REQUEST_TIMEOUT, message).body()).encode()
        headers = {
            "content-type": "application/json",
            "content-length": str(len(body)),
            "connection": "close",
        }
        status = HTTPStatus.REQUEST_TIMEOUT
        events = (
            h11.Response(status_code=status, headers=list(headers.items()), reason=status.phrase.encode()),
            h11.Data(data=body),
            h11.EndOfMessage(),
        )
        return b"".join(self.conn.send(event) or b"" for event in events)


def timed(*, head_s: float, body_s: float, send_s: float) -> type[Timed]:
    """The protocol with its seconds, as uvicorn's ``http``."""

    class Bounded(Timed):
        pass

    Bounded.head_s, Bounded.body_s, Bounded.send_s = head_s, body_s, send_s
    return Bounded
