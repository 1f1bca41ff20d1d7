"""The HTTP application."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING

from fastapi import APIRouter, Depends, FastAPI
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from hermes3.errors import Hermes3Error
from hermes3.llm import LLM
from hermes3.server import openapi
from hermes3.server.desk import Desk
from hermes3.server.endpoints import Endpoints, names_of
from hermes3.server.failures import Failure, failure_of
from hermes3.server.headers import HeaderLimits
from hermes3.server.hosts import LOOPBACK_NAMES, HostNames
from hermes3.server.keys import CALLER, Keys
from hermes3.server.limits import Limits
from hermes3.server.messages import PATH as MESSAGES
from hermes3.server.messages import Messages, error_body
from hermes3.server.metrics import Metrics
from hermes3.server.page import Page
from hermes3.server.responses import Responses
from hermes3.server.texts import Texts

if TYPE_CHECKING:
    from hermes3.server.tracing import Traces

CLIENT_LEFT = 499  # nginx's status for it: nobody sees the response, the log does

_log = logging.getLogger("hermes3.server")


def create_app(
    llm: LLM,
    *,
    served_model_name: str | None = None,
    api_keys: Sequence[str] = (),
    api_key_file: Path | None = None,
    limits: Limits | None = None,
    hosts: Sequence[str] = LOOPBACK_NAMES,
    cors_origins: Sequence[str] = (),
    traces: Traces | None = None,
) -> FastAPI:
    """The application over one model.

    Args:
        llm: the hall; it stays the caller's to close.
        served_model_name: the model's name in requests and answers; None for the hall's. Its file's name and
            the hall's are taken too.
        api_keys: one of these must come as ``Authorization: Bearer KEY``, for all but the pages,
            /openapi.json, /health and /ready; none for no check.
        api_key_file: more keys, see ``Keys.of``.
        limits: how much is taken on; None for the defaults.
        hosts: names that requests may be for, see ``HostNames``; IP addresses always are.
        cors_origins: web pages, by origin, whose scripts may ask; "*" for all.
        traces: is told of each request; None for none.

    Raises:
        Hermes3Error: see ``Keys.of``; a limit of each key where there are none.
    """
    name, limits = served_model_name or llm.name, limits or Limits()
    keys = Keys.of(api_keys, api_key_file)
    if not keys.digests and (limits.requests_per_minute or limits.tokens_per_minute):
        raise Hermes3Error("requests_per_minute and tokens_per_minute are for each API key: set keys")
    metrics = Metrics(name)
    desk = Desk(llm, limits, metrics)
    app = FastAPI(title="hermes3", docs_url=None, redoc_url=None, openapi_url=None, lifespan=_watched)
    app.state.desk, app.state.metrics = desk, metrics
    routes = Endpoints(llm, name, names_of(llm), desk, metrics, traces)
    guard = Depends(_key_check(keys))
    v1 = APIRouter(prefix="/v1", dependencies=[guard])
    v1.add_api_route("/chat/completions", routes.chat, methods=["POST"], response_model=None)
    v1.add_api_route("/explain", routes.explain, methods=["POST"], response_model=None)
    v1.add_api_route("/completions", routes.completions, methods=["POST"], response_model=None)
    responses = Responses(llm, desk, routes)
    v1.add_api_route("/responses", responses.create, methods=["POST"], response_model=None)
    one = "/responses/{name}"
    v1.add_api_route(one, responses.retrieve, methods=["GET"], response_model=None)
    v1.add_api_route(one, responses.delete, methods=["DELETE"], response_model=None)
    v1.add_api_route(f"{one}/cancel", responses.cancel, methods=["POST"], response_model=None)
    v1.add_api_route(f"{one}/input_items", responses.input_items, methods=["GET"], response_model=None)
    anthropic = Messages(llm, desk, routes)
    v1.add_api_route("/messages", anthropic.create, methods=["POST"], response_model=None)
    v1.add_api_route("/messages/count_tokens", anthropic.count_tokens, methods=["POST"], response_model=None)
    v1.add_api_route("/models", routes.models, methods=["GET"], response_model=None)
    v1.add_api_route("/models/{name:path}", routes.model, methods=["GET"], response_model=None)
    texts = Texts(llm, desk, routes.check_model)
    v1.add_api_route("/embeddings", texts.embeddings, methods=["POST"], response_model=None)
    app.include_router(v1)
    for path, route in (
        ("/tokenize", texts.tokenize),
        ("/detokenize", texts.detokenize),
        ("/apply-template", texts.apply_template),
    ):
        app.add_api_route(path, route, methods=["POST"], response_model=None, dependencies=[guard])
    _add_pages(app, asks_for_keys=bool(keys.digests))
    app.add_api_route("/health", routes.health, methods=["GET"], response_model=None)
    app.add_api_route("/ready", routes.ready, methods=["GET"], response_model=None)
    app.add_api_route("/metrics", routes.metrics, methods=["GET"], response_model=None, dependencies=[guard])
    _add_handlers(app)
    if cors_origins:
        app.add_middleware(
            CORSMiddleware, allow_origins=cors_origins, allow_methods=["*"], allow_headers=["*"]
        )
    if traces is not None:
        app.add_middleware(traces.Heads)
    app.add_middleware(HostNames, names=hosts)
    app.add_middleware(HeaderLimits, max_headers=limits.max_headers, max_bytes=limits.max_header_bytes)
    return app


def _add_handlers(app: FastAPI) -> None:
    """Of what goes wrong."""
    for kind in (Failure, ValidationError, Hermes3Error, Exception):
        app.add_exception_handler(kind, _fail)
    app.add_exception_handler(HTTPException, _fail_http)
    app.add_exception_handler(ClientDisconnect, _client_left)


def _add_pages(app: FastAPI, *, asks_for_keys: bool) -> None:
    """What everybody may read."""
    listed = JSONResponse(openapi.document(asks_for_keys=asks_for_keys))
    for path, page in (("/", Page()), ("/docs", Page(openapi.page()))):
        for method in ("GET", "HEAD"):  # one route of both would give one operation ID to two operations
            app.add_api_route(path, page.show, methods=[method], response_model=None)
    app.add_api_route("/openapi.json", lambda: listed, methods=["GET"], response_model=None)


@asynccontextmanager
async def _watched(app: FastAPI) -> AsyncIterator[None]:
    """Somebody looks at the engine while the application runs."""
    watching = asyncio.create_task(app.state.desk.watch())
    yield
    watching.cancel()


def _key_check(keys: Keys) -> Callable[[Request], Awaitable[None]]:
    async def check(request: Request) -> None:
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        given = given.strip() if scheme.lower() == "bearer" else request.headers.get("x-api-key", "")
        name = keys.name_of(given)
        if keys.digests and name is None:
            raise Failure(
                HTTPStatus.UNAUTHORIZED,
                "Send one of the server's API keys as 'Authorization: Bearer KEY' or 'x-api-key: KEY'.",
                code="invalid_api_key",
                headers={"www-authenticate": "Bearer"},
            )
        CALLER.set(name or "")

    return check


async def _fail(request: Request, error: Exception) -> Response:
    failure = failure_of(error)
    request.app.state.metrics.refused(failure.status)
    if failure.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        _log.error("%s %s: %s", request.method, request.url.path, error)
    return _told(request, failure)


def _told(request: Request, failure: Failure) -> Response:
    """A failure in the words of the route's protocol."""
    if request.url.path.startswith(MESSAGES):
        return JSONResponse(error_body(failure), status_code=failure.status, headers=failure.headers)
    return failure.response()


async def _fail_http(request: Request, error: Exception) -> Response:
    """What the framework refuses by itself: unknown paths and methods."""
    assert isinstance(error, HTTPException)
    path = request.url.path
    message = f"{request.method} {path[:100]}: {error.detail}."
    headers = dict(error.headers) if error.headers else None
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED and len(all_of := openapi.methods_of(path)) > 1:
        headers = {"allow": ", ".join(all_of)}  # the framework names those of one of its routes
    return _told(request, Failure(error.status_code, message, headers=headers))


async def _client_left(request: Request, error: Exception) -> Response:
    return Response(status_code=CLIENT_LEFT)
