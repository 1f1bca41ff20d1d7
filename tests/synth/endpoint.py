"""An endpoint that speaks OpenAI's protocol and says what a script tells it to."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Request = dict[str, Any]
Script = Callable[[Request], dict[str, Any] | int]  # a message, or the status of a refusal


@dataclass
class Endpoint:
    """What is asked and what is answered.

    Attributes:
        script: makes an assistant's message, or a status, of a request.
        requests: all that came.
        most: how many were at work at once.
    """

    script: Script
    requests: list[Request] = field(default_factory=list)
    most: int = 0
    url: str = ""
    lock: threading.Lock = field(default_factory=threading.Lock)
    n_now: int = 0


def called(name: str, **arguments: Any) -> dict[str, Any]:
    """A message that calls a function."""
    function = {"name": name, "arguments": json.dumps(arguments)}
    return {"content": None, "tool_calls": [{"id": "x", "type": "function", "function": function}]}


@contextmanager
def endpoint(script: Script) -> Iterator[Endpoint]:
    """The endpoint, on a port of its own."""
    state = Endpoint(script)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["content-length"])))
            with state.lock:
                state.requests.append(request)
                state.n_now += 1
                state.most = max(state.most, state.n_now)
            said = state.script(request)
            with state.lock:
                state.n_now -= 1
            self._send(said if isinstance(said, int) else 200, said)

        def _send(self, status: int, said: dict[str, Any] | int) -> None:
            body: dict[str, Any] = {"error": {"message": f"status {said}"}}
            if isinstance(said, dict):
                finish = said.pop("finish_reason", "stop")
                message = {"role": "assistant", **said}
                choice = {"index": 0, "finish_reason": finish, "message": message}
                body = {"id": "1", "object": "chat.completion", "created": 0, "model": "m"}
                body["choices"] = [choice]
            raw = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(raw)))
            if status in (429, 500, 503):
                self.send_header("retry-after-ms", "5")
            self.end_headers()
            self.wfile.write(raw)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    state.url = f"http://127.0.0.1:{server.server_port}/v1"
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
