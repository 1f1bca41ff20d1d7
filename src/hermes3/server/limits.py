"""How much the server takes on, and how long it waits: every bound of it that an operator may move."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds that hold for all clients together, or for each request.

    Attributes:
        max_requests: answers in work or waiting; more are refused with 429 and a time to come back.
        max_queued_tokens: tokens that those answers may come to, prompts and max_tokens together; None for
            64 full contexts.
        max_tokens_default: tokens of a chat answer whose request names no max_tokens.
        max_body_bytes: of a request's body (413 above); 8 MiB are four times the text of 128k tokens.
        body_s: seconds in which a body must be here (408 after).
        max_headers, max_header_bytes: of a request (431 above).
        send_s: a client that does not read for so long has left.
        ping_s: seconds between the comments that keep a silent stream open.
        stall_s: /ready is red when answers are in work and the engine has brought nothing for so long.
        watchdog_s: after so long the answers in work end with an error, and /health is red, too.
        drain_s: seconds that answers in work have after SIGTERM; then they end with an error.
    """

    max_requests: int = 256
    max_queued_tokens: int | None = None
    max_tokens_default: int = 4096
    max_body_bytes: int = 8 << 20
    body_s: float = 60.0
    max_headers: int = 100
    max_header_bytes: int = 32 << 10
    send_s: float = 60.0
    ping_s: float = 15.0
    stall_s: float = 10.0
    watchdog_s: float = 120.0
    drain_s: float = 30.0
