"""The process that serves the application: its socket, its signals, its end."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import os
import signal
import socket
import ssl
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import uvicorn

from hermes3.errors import Hermes3Error
from hermes3.llm import LLM
from hermes3.server import logs, memory
from hermes3.server.app import create_app
from hermes3.server.deadlines import timed
from hermes3.server.desk import Desk
from hermes3.server.hosts import names_for
from hermes3.server.keys import Keys
from hermes3.server.settings import Settings, limits_of

if TYPE_CHECKING:
    from hermes3.server.tracing import Traces

LAST_WORDS_S = 3  # for errors to reach their clients, once the time for answers is over
MAX_CONNECTIONS = 2048

_log = logging.getLogger("hermes3.server")


class DrainingServer(uvicorn.Server):
    """Takes nothing new once it is told to end, and gives answers in work so long to end by themselves."""

    def __init__(self, config: uvicorn.Config, desk: Desk) -> None:
        super().__init__(config)
        self._desk = desk
        self._tidying: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._tidying = asyncio.create_task(memory.keep_small())

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._desk.is_draining = True
        seconds = self._desk.limits.drain_s
        loop = asyncio.get_running_loop()
        late = loop.call_later(
            seconds, self._desk.end_all, f"the server shut down before the answer was done ({seconds:g} s)"
        )
        await super().shutdown(sockets)
        late.cancel()
        if self._tidying is not None:
            self._tidying.cancel()


def serve(model: str, settings: Settings) -> None:
    """Load a model and serve it until SIGTERM or Ctrl-C.

    Args:
        model: its path; that the settings name is what clients call it.

    Raises:
        Hermes3Error: the model cannot be loaded, the address cannot be listened on, or a setting will not do.
    """
    logs.start(settings.log_format)
    memory.share_heaps()
    limits = limits_of(settings)
    tls = _tls(settings)
    Keys.of(settings.api_key, settings.api_key_file)  # told before the model is loaded
    traces = _traces(settings)
    if settings.engine == "vllm":
        _log.info("starting vLLM with %s, which takes a while", model)
    with (
        _listen(settings.host, settings.port) as listener,
        settings.engine_choice().open(model) as llm,
        suppress(KeyboardInterrupt),
    ):
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # uvicorn raises it again when it has ended
        app = create_app(
            llm,
            served_model_name=settings.served_model_name,
            api_keys=settings.api_key,
            api_key_file=settings.api_key_file,
            limits=limits,
            hosts=names_for(settings.host, settings.allowed_host),
            cors_origins=settings.cors_origin,
            traces=traces,
        )
        _greet(settings, llm, listener.getsockname()[1])
        config = uvicorn.Config(
            app,
            # of h11: httptools' heads have no bound
            http=timed(head_s=limits.head_s, body_s=limits.body_s, send_s=limits.send_s),
            ws="none",
            limit_concurrency=MAX_CONNECTIONS,
            log_config=None,
            log_level="warning",
            access_log=False,
            timeout_graceful_shutdown=int(limits.drain_s) + LAST_WORDS_S,
            **tls,
        )
        DrainingServer(config, app.state.desk).run(sockets=[listener])
        if traces is not None:
            traces.close()
    _log.info("stopped")


def _greet(settings: Settings, llm: LLM, port: int) -> None:
    host, scheme = settings.host, "https" if settings.tls_cert else "http"
    address = f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"
    name = settings.served_model_name or llm.name
    _log.info("serving %s at %s/v1, context of %d tokens", name, address, llm.n_ctx)
    if not (settings.api_key or settings.api_key_file) and not _is_loopback(host):
        _log.warning("%s is open to the network and no API key is set: anybody there can ask", host)


def _traces(settings: Settings) -> Traces | None:
    """What sends traces, where the settings or the standard variables ask for that.

    Raises:
        Hermes3Error: they ask for what cannot be had.
    """
    names = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
    by = "otlp_endpoint" if settings.otlp_endpoint else next((n for n in names if os.environ.get(n)), None)
    is_off = os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true"
    if by is None or is_off or os.environ.get("OTEL_TRACES_EXPORTER") == "none":
        if settings.trace_prompts:
            raise Hermes3Error("trace_prompts is set, but no traces are sent: give otlp_endpoint")
        return None
    try:
        from hermes3.server.tracing import Traces
    except ImportError as error:
        raise Hermes3Error(f"{by} asks for traces: pip install 'hermes3[otel]' ({error})") from error
    return Traces.exporting(settings.otlp_endpoint, has_prompts=settings.trace_prompts)


def _tls(settings: Settings) -> dict[str, Any]:
    """uvicorn's arguments for https, none for http.

    Raises:
        Hermes3Error: certificate and key cannot be read, or do not fit.
    """
    if settings.tls_cert is None or settings.tls_key is None:
        return {}
    try:
        ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(
            settings.tls_cert, settings.tls_key, password=_no_password
        )
    except OSError as error:  # ssl.SSLError is one
        raise Hermes3Error(
            f"cannot serve https with {settings.tls_cert} and {settings.tls_key}: {error}"
        ) from error
    return {"ssl_certfile": str(settings.tls_cert), "ssl_keyfile": str(settings.tls_key)}


def _no_password() -> str:
    raise OSError("the key has a password, which a server cannot be asked for")


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
