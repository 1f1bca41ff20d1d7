"""A server whose model says what a test wrote down: OpenAI's wire format, chunk by chunk."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from hermes3.server.page import Page

HOLD = "hold"  # in an answer: nothing more comes until `go` is set
CUT = "cut"  # in an answer: the connection ends here


def says(*texts: str) -> list[dict[str, Any]]:
    return [{"content": text} for text in texts]


def calls(name: str, *arguments: str, index: int = 0, id: str | None = None) -> list[dict[str, Any]]:
    """One function call, its arguments in pieces."""
    first = {"index": index, "id": id or f"call_{index}", "type": "function"}
    head = {"tool_calls": [{**first, "function": {"name": name, "arguments": ""}}]}
    return [
        head,
        *({"tool_calls": [{"index": index, "function": {"arguments": each}}]} for each in arguments),
    ]


def refuses(status: int, message: str, **headers: str) -> Response:
    error = {"message": message, "type": "invalid_request_error", "param": "tools", "code": "invalid_value"}
    return JSONResponse({"error": error}, status, headers=headers)


@dataclass
class Model:
    """What it will answer, and what it was asked."""

    name: str = "scripted"
    answers: list[Any] = field(default_factory=list)
    requests: list[dict[str, Any]] = field(default_factory=list)
    go: threading.Event = field(default_factory=threading.Event)
    n_left: int = 0  # answers that the client did not wait for

    def app(self) -> FastAPI:
        app = FastAPI()
        app.add_api_route("/", Page().show, response_model=None)
        app.add_api_route("/v1/models", self.models, response_model=None)
        app.add_api_route("/v1/chat/completions", self.chat, methods=["POST"], response_model=None)
        app.add_api_route("/apply-template", self.template, methods=["POST"], response_model=None)
        return app

    async def models(self) -> Response:
        return JSONResponse({"object": "list", "data": [{"id": self.name, "max_model_len": 1000}]})

    async def template(self, http: Request) -> Response:
        return JSONResponse({"prompt": json.dumps(await http.json())})

    async def chat(self, http: Request) -> Response:
        self.requests.append(await http.json())
        answer = self.answers.pop(0)
        if isinstance(answer, Response):
            return answer
        return StreamingResponse(self._events(answer), media_type="text/event-stream")

    async def _events(self, answer: list[Any]) -> AsyncIterator[str]:
        is_done, has_calls = False, False
        try:
            yield self._event({"role": "assistant", "content": ""})
            for piece in answer:
                if piece == HOLD:
                    while not self.go.is_set():
                        await asyncio.sleep(0.005)
                elif piece == CUT:
                    is_done = True
                    return
                elif "error" in piece:
                    yield f"data: {json.dumps(piece)}\n\n"
                elif "broken_tool_calls" in piece:
                    yield f"data: {json.dumps({'choices': [{'index': 0, 'delta': {}, **piece}]})}\n\n"
                else:
                    has_calls = has_calls or "tool_calls" in piece
                    yield self._event(piece)
            yield self._event({}, "tool_calls" if has_calls else "stop")
            usage = {"prompt_tokens": 700, "completion_tokens": 250, "total_tokens": 950}
            yield f"data: {json.dumps({'choices': [], 'usage': usage})}\n\ndata: [DONE]\n\n"
            is_done = True
        finally:
            self.n_left += not is_done

    def _event(self, delta: dict[str, Any], reason: str | None = None) -> str:
        body: dict[str, Any] = {"choices": [{"index": 0, "delta": delta, "finish_reason": reason}]}
        if reason:
            body["timings"] = {"prefill_s": 0.25, "decode_tokens_per_s": 31.25, "forced_tokens": 12}
        return f": 1 answers run\n\ndata: {json.dumps(body)}\n\n"
