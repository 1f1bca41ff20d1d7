"""OpenAI's batch files: a request a line in, exactly one answer a line out.

Form: https://platform.openai.com/docs/guides/batch. Answers are appended as they come, so their order is not
the requests'; ``custom_id`` says which is whose.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import uuid
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

from fastapi import FastAPI

from hermes3.errors import FormatError, Hermes3Error, RequestError
from hermes3.llm import LLM
from hermes3.server.app import create_app
from hermes3.server.limits import Limits
from hermes3.server.protocol import MAX_CHOICES

ROUTES = ("/v1/chat/completions", "/v1/completions")
PATIENCE_S = 3600.0  # with an engine that brings nothing
MAX_SHOWN = 5  # bad lines that an error names
_FIELDS = {"custom_id", "method", "url", "body"}

Told = Callable[[int, int], None]
Answer = dict[str, Any]  # a line of the file of answers


@dataclass(frozen=True, slots=True)
class Outcome:
    """Lines of the input; those answered before this run; answers that are no success, of this run."""

    n: int
    n_before: int
    n_failed: int


@dataclass(frozen=True, slots=True)
class Line:
    """One request."""

    custom_id: str
    url: str
    body: Mapping[str, Any]


def check(source: Path, max_bytes: int) -> list[str]:
    """The custom_ids of a file of requests, in order; nothing is computed for a file with a bad line.

    Args:
        max_bytes: of a line.

    Raises:
        FormatError: lines that are no requests, by number, or two of one custom_id.
        RequestError: the file cannot be read.
    """
    seen: dict[str, int] = {}
    bad = []
    for number, found in _lines(source, max_bytes):
        if isinstance(found, str):
            bad.append(f"line {number}: {found}")
        elif found.custom_id in seen:
            bad.append(f"line {number}: custom_id {found.custom_id!r:.60} is line {seen[found.custom_id]}'s")
        else:
            seen[found.custom_id] = number
    if bad:
        more = f"; and {len(bad) - MAX_SHOWN} more" if len(bad) > MAX_SHOWN else ""
        raise FormatError(f"{source}: {'; '.join(bad[:MAX_SHOWN])}{more}")
    return list(seen)


async def answer_all(
    app: FastAPI,
    source: Path,
    names: Collection[str],
    target: Path,
    *,
    at_once: int,
    max_bytes: int,
    told: Told,
) -> Outcome:
    """Answers each line that has no answer in ``target`` yet. Stopped anywhere, it goes on when called again.

    Args:
        app: the application that answers; nobody else uses it meanwhile.
        source: the requests.
        names: their custom_ids, out of ``check``.
        target: the answers; appended to.
        at_once: answers in work at a time.
        max_bytes: of a request.
        told: is told how many lines are answered, and how many of them failed, as they are.

    Raises:
        FormatError: ``target`` has a bad line, or is that of other requests.
        RequestError: a file cannot be read or written, or another run writes ``target``.
        Hermes3Error: the engine stopped; what was answered is kept.
    """
    with Ledger(target, names, told) as ledger:
        async with app.router.lifespan_context(app):
            async for answer in answers(app, ledger.open(source, max_bytes), at_once):
                ledger.take(answer)
    return ledger.outcome


class Ledger:
    """The file of answers: who has one, and that nobody gets two.

    Args:
        target: the file, made where there is none.
        names: custom_ids of all requests.
        told: as for ``answer_all``.

    Raises:
        FormatError, RequestError: see ``answer_all``.
    """

    def __init__(self, target: Path, names: Collection[str], told: Told) -> None:
        self._told = told
        self._file = _opened(target)
        try:
            self._done = _answered(self._file, target, set(names))
        except BaseException:
            self._file.close()
            raise
        self._n, self._n_before, self._n_failed = len(names), len(self._done), 0
        told(self._n_before, 0)

    def open(self, source: Path, max_bytes: int) -> Iterator[Line]:
        """The requests without an answer."""
        lines = (line for _, line in _lines(source, max_bytes) if isinstance(line, Line))
        return (line for line in lines if line.custom_id not in self._done)

    def take(self, answer: Answer) -> None:
        """Write an answer down; a second one of the same request is dropped."""
        if answer["custom_id"] in self._done:
            return
        self._file.write(json.dumps(answer, ensure_ascii=False).encode() + b"\n")
        self._file.flush()
        self._done.add(answer["custom_id"])
        self._n_failed += answer["response"]["status_code"] != HTTPStatus.OK
        self._told(len(self._done), self._n_failed)

    @property
    def outcome(self) -> Outcome:
        return Outcome(self._n, self._n_before, self._n_failed)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()


def application(llm: LLM, name: str, at_once: int) -> FastAPI:
    """An application for a batch alone, which takes so many requests at a time and refuses none for want of
    room; on a machine that stands still for a while it waits, for nobody else could go on instead."""
    n_answers = at_once * MAX_CHOICES
    limits = Limits(
        max_requests=n_answers,
        max_queued_tokens=n_answers * llm.n_ctx,
        stall_s=PATIENCE_S,
        watchdog_s=PATIENCE_S,
    )
    return create_app(llm, served_model_name=name, limits=limits)


async def answers(app: FastAPI, todo: Iterator[Line], at_once: int) -> AsyncIterator[Answer]:
    """Answers as they come, with so many in work.

    Raises:
        Hermes3Error: the engine stopped.
    """
    working: set[asyncio.Task[Answer]] = set()
    try:
        while True:
            while len(working) < at_once and (line := next(todo, None)) is not None:
                working.add(asyncio.create_task(_answer(app, line)))
            if not working:
                return
            ended, _ = await asyncio.wait(working, return_when=asyncio.FIRST_COMPLETED)
            for task in ended:
                yield task.result()
                working.remove(task)
    finally:
        for task in working:
            task.cancel()
        await asyncio.gather(*working, return_exceptions=True)


async def _answer(app: FastAPI, line: Line) -> Answer:
    status, body = 400, _error("stream", "A batch has no streams: leave 'stream' out.")
    if not line.body.get("stream"):
        status, body = await _post(app, line.url, json.dumps(line.body).encode())
    if status == HTTPStatus.SERVICE_UNAVAILABLE and (why := app.state.desk.trouble()) is not None:
        raise Hermes3Error(f"{why} What was answered is kept: the same command goes on from there")
    response = {"status_code": status, "request_id": body.get("id") or uuid.uuid4().hex, "body": body}
    return {
        "id": f"batch_req_{uuid.uuid4().hex}",
        "custom_id": line.custom_id,
        "response": response,
        "error": None,
    }


async def _post(app: FastAPI, path: str, body: bytes) -> tuple[int, dict[str, Any]]:
    """A request to the application without a network between (ASGI 3.0, its HTTP messages)."""
    sent: list[dict[str, Any]] = []
    given = iter([{"type": "http.request", "body": body, "more_body": False}])

    async def receive() -> dict[str, Any]:
        if (message := next(given, None)) is None:
            await asyncio.Event().wait()  # nobody hangs up
            raise AssertionError
        return message

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST", "scheme": "http",
        "path": path, "raw_path": path.encode(), "root_path": "", "query_string": b"", "client": None,
        "server": None, "headers": [(b"host", b"localhost"), (b"content-type", b"application/json")],
    }  # fmt: skip
    with suppress(Exception):  # what nobody foresaw is raised again, after its 500 was sent and logged
        await app(scope, receive, send)
    status = next(message["status"] for message in sent if message["type"] == "http.response.start")
    raw = b"".join(message.get("body", b"") for message in sent if message["type"] == "http.response.body")
    return status, json.loads(raw)


def _error(param: str, message: str) -> dict[str, Any]:
    return {"error": {"message": message, "type": "invalid_request_error", "param": param, "code": None}}


def _lines(source: Path, max_bytes: int) -> Iterator[tuple[int, Line | str]]:
    """Each line that is not empty, by number: a request, or what is wrong with it."""
    try:
        with source.open("rb") as file:
            number = 0
            while raw := file.readline(max_bytes + 1):
                number += 1
                if len(raw) > max_bytes:
                    raise FormatError(f"{source}: line {number} is longer than {max_bytes} bytes")
                if raw.strip():
                    yield number, _line(raw)
    except OSError as error:
        raise RequestError(f"{source} cannot be read: {error}") from error


def _line(raw: bytes) -> Line | str:
    try:
        given = json.loads(raw)
    except (ValueError, RecursionError) as error:
        return f"is not JSON ({error})"
    if not isinstance(given, dict):
        return "is not a JSON object"
    if unknown := given.keys() - _FIELDS:
        return f"has the unknown field {sorted(unknown)[0]!r:.60}"
    name, url, body = given.get("custom_id"), given.get("url"), given.get("body")
    if not isinstance(name, str) or not name:
        return f"custom_id is {name!r:.60}, it must be a text"
    if given.get("method") != "POST":
        return f"method is {given.get('method')!r:.60}, it must be 'POST'"
    if url not in ROUTES:
        return f"url is {url!r:.60}, it must be one of {', '.join(ROUTES)}"
    return Line(name, url, body) if isinstance(body, dict) else f"body is {body!r:.60}, it must be an object"


def _opened(target: Path) -> BinaryIO:
    """The file of answers, made where there is none, and nobody else's until it is closed."""
    try:
        file = target.open("r+b" if target.exists() else "x+b")
    except OSError as error:
        raise RequestError(f"{target} cannot be written: {error}") from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.close()
        raise RequestError(f"{target} is being written by another run") from error
    return file


def _answered(file: BinaryIO, target: Path, names: set[str]) -> set[str]:
    """The custom_ids with an answer; half a line, where a run was killed within it, is cut off."""
    done: set[str] = set()
    good = 0
    for number, raw in enumerate(file, 1):
        if not raw.endswith(b"\n"):
            break
        try:
            name = json.loads(raw)["custom_id"]
        except (ValueError, TypeError, KeyError, RecursionError):
            raise FormatError(f"{target}: line {number} is no answer; name another file") from None
        if name not in names or name in done:
            why = "is answered twice" if name in done else "is not among the requests"
            raise FormatError(f"{target}: line {number}: custom_id {name!r:.60} {why}; name another file")
        done.add(name)
        good += len(raw)
    file.truncate(good)
    file.seek(good)
    return done
