"""How much the server takes on, and how long it waits: every bound of it that an operator may move."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Self

from hermes3.errors import Hermes3Error


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds that hold for all clients together, or for each request.

    Attributes:
        max_requests: answers in work or waiting; more are refused with 429 and a time to come back.
        max_queued_tokens: tokens that those answers may come to, prompts and max_tokens together; None for
            64 full contexts.
        max_tokens_default: tokens of a chat answer whose request names no max_tokens.
        max_body_bytes: of a request's body (413 above); 8 MiB are four times the text of 128k tokens.
        head_s: seconds in which a request's head must be here, from its first byte on, or on a new connection
            from its begin (408, where it has begun; the connection is closed).
        body_s: seconds in which a body must be here (408 after).
        max_headers, max_header_bytes: of a request (431 above).
        max_tools, max_tools_bytes: of a request; more than 128 tools are never taken.
        max_schema_bytes: of each JSON Schema, regular expression, list of choices or grammar.
        max_schema_depth: of each JSON Schema: objects and lists inside each other.
        max_pattern_chars: of each regular expression, in a schema or by itself.
        send_s: a client that does not read for so long has left.
        ping_s: seconds between the comments that keep a silent stream open.
        stall_s: /ready is red when answers are in work and the engine has brought nothing for so long.
        watchdog_s: after so long the answers in work end with an error, and /health is red, too.
        drain_s: seconds that answers in work have after SIGTERM; then they end with an error.
        max_stored_responses, max_stored_bytes: of /v1/responses that can be fetched again; older ones are
            forgotten.
        requests_per_minute: answers that each API key may ask for (429 above); None for any number.
        tokens_per_minute: tokens of each API key, prompts and answers; an answer counts as max_tokens until
            it has ended.
    """

    max_requests: int = 256
    max_queued_tokens: int | None = None
    max_tokens_default: int = 4096
    max_body_bytes: int = 8 << 20
    head_s: float = 20.0
    body_s: float = 60.0
    max_headers: int = 100
    max_header_bytes: int = 32 << 10
    max_tools: int = 128
    max_tools_bytes: int = 256 << 10
    max_schema_bytes: int = 64 << 10
    max_schema_depth: int = 64
    max_pattern_chars: int = 2048
    send_s: float = 60.0
    ping_s: float = 15.0
    stall_s: float = 10.0
    watchdog_s: float = 120.0
    drain_s: float = 30.0
    max_stored_responses: int = 1000
    max_stored_bytes: int = 64 << 20
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None

    @classmethod
    def of(cls, settings: Iterable[str]) -> Self:
        """From texts such as ``drain_s=60``; the rest has its default, and of two the last one counts.

        Raises:
            Hermes3Error: an unknown name, or a value that is no number above 0; it names both.
        """
        kinds = {field.name: float if field.name.endswith("_s") else int for field in fields(cls)}
        given: dict[str, int | float] = {}
        for setting in settings:
            name, _, value = setting.partition("=")
            if name not in kinds:
                raise Hermes3Error(f"{name[:40]!r} is no limit; there are {', '.join(kinds)}")
            try:
                given[name] = kinds[name](value)
            except ValueError:
                given[name] = -1
            if not 0 < given[name] < math.inf:
                kind = "seconds" if kinds[name] is float else "a whole number"
                raise Hermes3Error(f"the limit {name} is {value[:40]!r}, it must be {kind} above 0")
        return cls(**given)  # type: ignore[arg-type]  # each was made by its field's kind
