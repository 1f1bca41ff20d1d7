"""Which names a server answers to: a web page elsewhere must not reach it through a name of its own."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Sequence
from http import HTTPStatus

from starlette.types import ASGIApp, Receive, Scope, Send

from hermes3.server.failures import Failure

LOOPBACK_NAMES = ("localhost", "localhost.localdomain")


class HostNames:
    """ASGI middleware that answers 421 to a request for a host that this server is not.

    A page of attacker.example, whose name is bound to 127.0.0.1 once it is loaded (DNS rebinding), speaks to
    this server with ``Host: attacker.example``. IP addresses cannot be rebound and are always taken.

    Args:
        names: hosts by name, without port; ``*`` for any, ``*.example.org`` for those below one.
    """

    def __init__(self, app: ASGIApp, *, names: Sequence[str]) -> None:
        self._app = app
        self._names = {name.lower() for name in names}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        given = [value.decode("latin-1") for name, value in scope["headers"] if name == b"host"]
        if len(given) <= 1 and self._is_ours(_without_port(given[0] if given else "")):
            return await self._app(scope, receive, send)
        failure = Failure(
            HTTPStatus.MISDIRECTED_REQUEST,
            f"This server is not {', '.join(given)[:100]!r}. If it should be, start it with "
            "--allowed-host NAME.",
            code="unknown_host",
        )
        return await failure.response()(scope, receive, send)

    def _is_ours(self, name: str) -> bool:
        if "*" in self._names or name in self._names or _is_address(name):
            return True
        parents = name.split(".")[1:]
        return any("*." + ".".join(parents[index:]) in self._names for index in range(len(parents)))


def names_for(host: str, allowed: Sequence[str]) -> tuple[str, ...]:
    """The names of a server that listens on ``host``: loopback's, its own, this machine's where it is open to
    the network, and those that were named."""
    machine = () if host in LOOPBACK_NAMES or _is_loopback(host) else (socket.gethostname(),)
    return (*LOOPBACK_NAMES, host, *machine, *allowed)


def _without_port(host: str) -> str:
    """A Host header's name (RFC 9112, 3.2): lower case, without port, brackets and the root's dot."""
    if host.startswith("["):
        name, _, port = host[1:].partition("]")
        return "" if port and not port.startswith(":") else name.lower()
    return host.partition(":")[0].rstrip(".").lower()


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _is_loopback(name: str) -> bool:
    return _is_address(name) and ipaddress.ip_address(name).is_loopback
