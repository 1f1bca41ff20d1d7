"""The process that serves the application: its socket, its signals, its end."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import signal
import socket
from contextlib import suppress

import uvicorn
from sse_starlette.sse import AppStatus

from hermes3.errors import Hermes3Error
from hermes3.llm import LLM
from hermes3.server.app import create_app
from hermes3.server.desk import Desk
from hermes3.server.limits import Limits

LAST_WORDS_S = 3  # for errors to reach their clients, once the time for answers is over
MAX_CONNECTIONS = 2048

_log = logging.getLogger("hermes3.server")


class DrainingServer(uvicorn.Server):
    """Takes nothing new once it is told to end, and gives answers in work so long to end by themselves."""

    def __init__(self, config: uvicorn.Config, desk: Desk) -> None:
        super().__init__(config)
        self._desk = desk

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._desk.is_draining = True
        seconds = self._desk.limits.drain_s
        loop = asyncio.get_running_loop()
        late = loop.call_later(
            seconds, self._desk.end_all, f"the server shut down before the answer was done ({seconds:g} s)"
        )
        await super().shutdown(sockets)
        late.cancel()


def serve(
    model: str | None,
    host: str,
    port: int,
    n_ctx: int | None,
    n_threads: int | None,
    served_model_name: str | None,
    api_key: list[str] | None,
    limits: Limits | None = None,
) -> None:
    """Load a model and serve it until SIGTERM or Ctrl-C.

    Args:
        host: address to listen on.
        port: TCP port; 0 for any free one.
        api_key: see ``create_app``; None for no check.
        limits: see ``create_app``.

    Raises:
        Hermes3Error: the model cannot be loaded, or the address cannot be listened on.
    """
    keys = api_key or []
    if any(not key.strip() for key in keys):
        raise Hermes3Error("an API key is empty; give one with characters in it, or none at all")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    with (
        _listen(host, port) as listener,
        LLM(model, n_ctx=n_ctx, n_threads=n_threads) as llm,
        suppress(KeyboardInterrupt),
    ):
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # uvicorn raises it again when it has ended
        limits = limits or Limits()
        app = create_app(llm, served_model_name=served_model_name, api_keys=keys, limits=limits)
        address = f"http://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}"
        _log.info(
            "serving %s at %s/v1, context of %d tokens", served_model_name or llm.name, address, llm.n_ctx
        )
        if not keys and not _is_loopback(host):
            _log.warning("%s is open to the network and no API key is set: anybody there can ask", host)
        AppStatus.enable_automatic_graceful_drain = False  # it would cut streams off at the signal
        config = uvicorn.Config(
            app,
            http="h11",  # its heads are bounded, httptools' are not
            ws="none",
            limit_concurrency=MAX_CONNECTIONS,
            log_config=None,
            log_level="warning",
            access_log=False,
            timeout_graceful_shutdown=int(limits.drain_s) + LAST_WORDS_S,
        )
        DrainingServer(config, app.state.desk).run(sockets=[listener])
    _log.info("stopped")


def _listen(host: str, port: int) -> socket.socket:
    """A socket that listens there: before the model is loaded, so that a taken port is known at once."""
    try:
        if not 0 <= port < 1 << 16:  # getaddrinfo takes it modulo 65536
            raise OverflowError("ports are 0 to 65535")
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(socket.SOMAXCONN)
    except (OSError, OverflowError) as error:
        raise Hermes3Error(
            f"cannot listen on {host} port {port}: {error}; choose another with --host and --port"
        ) from error
    return listener


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
