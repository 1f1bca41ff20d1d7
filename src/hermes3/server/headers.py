"""Bounds on a request's headers, before anything else looks at it."""

from __future__ import annotations

from http import HTTPStatus

from starlette.types import ASGIApp, Receive, Scope, Send

from hermes3.server.failures import Failure


class HeaderLimits:
    """ASGI middleware that answers 431 to a request with too many headers, or too large ones.

    The HTTP parser has bounds of its own (h11: 64 KiB for a head); these are ours, with a sentence.
    """

    def __init__(self, app: ASGIApp, *, max_headers: int, max_bytes: int) -> None:
        self._app = app
        self._max_headers = max_headers
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = scope.get("headers", ())
        n_bytes = sum(len(name) + len(value) for name, value in headers)
        if len(headers) <= self._max_headers and n_bytes <= self._max_bytes:
            return await self._app(scope, receive, send)
        failure = Failure(
            HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
            f"The request has {len(headers)} headers of {n_bytes} bytes; the server takes "
            f"{self._max_headers} of {self._max_bytes}.",
        )
        return await failure.response()(scope, receive, send)
