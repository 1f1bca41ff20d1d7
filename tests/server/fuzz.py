"""Requests that nobody should send, out of good ones: as bytes, as JSON, in their types, sizes and order.

The same seed gives the same requests.
"""

from __future__ import annotations

import json
import random
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

PATIENCE_S = 0.1  # after which a client that sent half a request hangs up
TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Weather of a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "pattern": "^[A-Z][a-z]+$"}, "days": {"enum": [1, 3]}},
            "required": ["city"],
        },
    },
}
MESSAGES = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": [{"type": "text", "text": "Weather?"}]},
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city":"Rome"}'}}
        ],
    },
    {"role": "tool", "tool_call_id": "c1", "content": "sunny"},
    {"role": "user", "content": "Thanks"},
]
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer", "minimum": 0}}, "required": ["a"]}
_FORMAT = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}
_CHAT: dict[str, Any] = {
    "model": "fake", "messages": MESSAGES, "tools": [TOOL], "tool_choice": "auto", "max_tokens": 20,
    "temperature": 0.5, "top_p": 0.9, "stop": ["x", "y"], "seed": 3, "n": 2, "logit_bias": {"97": -5},
    "metadata": {"run": "1"}, "logprobs": True, "top_logprobs": 2,
}  # fmt: skip
_PLAIN: dict[str, Any] = {
    "model": "fake", "messages": MESSAGES[-1:], "max_tokens": 20, "stream": True,
    "stream_options": {"include_usage": True},
}  # fmt: skip
_ITEMS = [
    {"role": "user", "content": [{"type": "input_text", "text": "hi"}]},
    {"type": "reasoning", "summary": [{"type": "summary_text", "text": "hm"}]},
    {"type": "function_call", "call_id": "c1", "name": "weather", "arguments": "{}"},
    {"type": "function_call_output", "call_id": "c1", "output": "sunny"},
]
_FLAT_TOOL = {"type": "function", **TOOL["function"]}  # type: ignore[dict-item]
_BLOCKS = [
    {"role": "user", "content": [{"type": "text", "text": "hi"}]},
    {
        "role": "assistant",
        "content": [
            {"type": "thinking", "thinking": "hm"},
            {"type": "tool_use", "id": "c1", "name": "weather", "input": {"city": "Rome"}},
        ],
    },
    {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c1", "content": "sunny"}]},
]
_CLAUDE_TOOL = {"name": "weather", "input_schema": SCHEMA}
GOOD: list[tuple[str, dict[str, Any]]] = [
    ("/v1/chat/completions", _CHAT),
    ("/v1/chat/completions", _PLAIN),
    ("/v1/chat/completions", {**_PLAIN, "response_format": _FORMAT}),
    ("/v1/chat/completions", {**_PLAIN, "grammar": 'root ::= "a" [b-d]+', "stream": False}),
    ("/v1/chat/completions", {**_PLAIN, "structured_outputs": {"regex": "[ab]{2,5}"}}),
    ("/v1/explain", _CHAT),
    ("/v1/completions", {"model": "fake", "prompt": ["hi", "you"], "max_tokens": 9, "n": 2, "echo": True}),
    ("/v1/completions", {"model": "fake", "prompt": [104, 105], "logprobs": 2, "stream": True}),
    ("/v1/responses", {"model": "fake", "input": _ITEMS, "tools": [_FLAT_TOOL], "max_output_tokens": 9,
                       "instructions": "Be brief.", "metadata": {"a": "b"}, "store": False}),
    ("/v1/responses", {"model": "fake", "input": "hi", "stream": True, "text": {"format": {
        "type": "json_schema", "name": "x", "schema": SCHEMA}}, "top_logprobs": 2}),
    ("/v1/messages", {"model": "fake", "messages": _BLOCKS, "max_tokens": 9, "tools": [_CLAUDE_TOOL],
                      "tool_choice": {"type": "auto"}, "stop_sequences": ["x"], "system": "Be brief."}),
    ("/v1/messages", {"model": "fake", "messages": _BLOCKS[:1], "max_tokens": 9, "stream": True}),
    ("/v1/messages/count_tokens", {"model": "fake", "messages": _BLOCKS, "tools": [_CLAUDE_TOOL]}),
    ("/tokenize", {"prompt": "hi <|im_end|>", "allow_special": True, "return_token_strs": True}),
    ("/tokenize", {"messages": MESSAGES, "tools": [TOOL]}),
    ("/detokenize", {"tokens": [104, 105, 256]}),
    ("/apply-template", {"messages": MESSAGES, "tools": [TOOL], "response_format": _FORMAT}),
    ("/v1/embeddings", {"model": "fake", "input": "x"}),
]  # fmt: skip
PATHS = sorted({path for path, _ in GOOD})
READ = ("/", "/health", "/ready", "/metrics", "/v1/models", "/v1/models/fake", "/v1/models/../../etc/passwd",
        "/v1/responses/resp_1", "/v1/responses/x/input_items", "/v1/responses/%00", "/v1", "/%ff", "//",
        "/..", "/v1/responses/resp_1?stream=true&starting_after=99999999999",
        "/docs", "/openapi.json")  # fmt: skip
_SCALARS: list[Any] = [
    None, True, False, 0, 1, -1, 2, 17, 2**31, 2**63, -(2**63) - 1, 10**40, 0.5, -0.0, 1e308, 1e-320,
    float("nan"), float("inf"), "", " ", "x", "auto", "fake", "user", "function", "text", "object", "name",
    "\x00", "\n", "é", "😀", "\ud83d", "\u202e", "<|im_end|>", "{{7*7}}", "%s%n", "../../etc/passwd", "1e5",
    "x" * 300, "y" * 5000, "((((" * 50, "(a+)+$", "[", "\\", "a{1000000}", "(?<=x)", "\\p{L}{1,500}", "$ref",
    'root ::= root root | "a"', 'root ::= "' + "a" * 5000 + '"', "start: start", "<tool_call>",
    "data: [DONE]",
]  # fmt: skip
_SCHEMAS: list[Any] = [
    {"$ref": "#"}, {"$ref": "http://169.254.169.254/"}, {"$ref": "file:///etc/passwd"}, {"allOf": [{}] * 50},
    {"not": {}}, {"enum": []}, {"enum": list(range(300))}, {"type": ["string", "null"]}, {"type": "nothing"},
    {"type": "array", "minItems": 10**9, "items": {}}, {"minimum": float("nan")}, {"const": {"a": [1e308]}},
    {"type": "string", "minLength": 10**6}, {"anyOf": [{"const": i} for i in range(50)]}, {"pattern": "["},
    {"type": "number", "multipleOf": 1e-300}, {"properties": {"\x00": {}, "": {}, "é" * 99: {}}}, {"": {}},
    {"type": "integer", "minimum": 10**40}, {"$defs": {"a": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"},
]  # fmt: skip
_FIELDS = sorted(
    {name for _, body in GOOD for name in body}
    | {"x", "", "response_format", "grammar", "guided_json", "guided_regex", "guided_choice", "json_schema",
       "structured_outputs", "reasoning", "call_order", "ignore_eos", "suffix", "functions", "store",
       "background", "previous_response_id", "truncation", "thinking", "output_config", "include", "top_k",
       "min_p", "repetition_penalty", "parallel_tool_calls", "max_completion_tokens", "__proto__"}
)  # fmt: skip
_KINDS = (
    "text/plain",
    "application/json; charset=utf-16",
    "APPLICATION/JSON",
    "",
    "multipart/form-data",
    "\xff",
)
_HEADERS = (("content-encoding", "gzip"), ("host", "attacker.example"), ("host", ""),
            ("expect", "100-continue"), ("authorization", "Bearer \xff"), ("x-api-key", "\x7f" * 50),
            ("x-long", "y" * 40_000), ("transfer-encoding", "gzip"), ("content-length", "-1"),
            ("content-length", "99999999999999999999"), ("upgrade", "websocket"), ("cookie", "=" * 500),
            ("origin", "null"), ("range", "bytes=0-1"))  # fmt: skip


_BITS = (b"\x00", b"\xff", b'"', b"{", b"]", b",", b"\r\n", b"\\ud800", b"1e999")


@dataclass(frozen=True)
class Sent:
    """One connection's worth of bytes.

    Attributes:
        raw: what is sent.
        is_left: nobody waits for the answer.
        is_whole: it ends where its head says.
        why: how it was made.
    """

    raw: bytes
    is_left: bool
    is_whole: bool
    why: str


class Fuzzer:
    """Requests without end.

    Args:
        seed: of all chances.
    """

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def __iter__(self) -> Iterator[Sent]:
        while True:
            yield self.one()

    def one(self) -> Sent:
        chance, draw = self._random.random(), self._random
        path, good = draw.choice(GOOD)
        if chance < 0.62:
            path = draw.choice(PATHS) if draw.random() < 0.1 else path
            return self._sent(path, self._text(self._spoiled(good)), "json")
        if chance < 0.78:
            return self._sent(path, self._bitten(self._text(good)), "bytes")
        if chance < 0.83:
            return self._sent(path, self._huge(), "size")
        if chance < 0.91:
            return self._sent(path, self._text(good), "head", strange=True)
        if chance < 0.96:
            method = draw.choice(("GET", "HEAD", "PUT", "DELETE", "OPTIONS", "PATCH", "BREW", "POST"))
            return self._sent(draw.choice((*READ, *PATHS)), b"", "route", method=method)
        head = self._bitten(self._sent(path, self._text(good), "").raw)
        return Sent(head, is_left=draw.random() < 0.3, is_whole=False, why="http")

    def _sent(self, path: str, body: bytes, why: str, *, method: str = "POST", strange: bool = False) -> Sent:
        draw = self._random
        headers = [("host", "localhost"), ("content-type", "application/json")]
        if not (strange and draw.random() < 0.3):
            length = len(body) if not strange or draw.random() < 0.8 else draw.choice((0, 3, len(body) + 9))
            headers.append(("content-length", str(length)))
        if strange:
            headers += draw.sample(_HEADERS, draw.randint(0, 2))
            headers[1] = ("content-type", draw.choice((*_KINDS, "application/json", "application/json")))
            headers += [("x-many", "1")] * draw.choice((0, 0, 0, 200))
        head = f"{method} {path} HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in headers)
        raw = (head + "connection: close\r\n\r\n").encode("latin-1") + body
        return Sent(raw, draw.random() < 0.08, is_whole=not strange, why=f"{why} {method} {path}")

    def _text(self, body: object) -> bytes:
        return json.dumps(body).encode()

    def _spoiled(self, good: dict[str, Any]) -> Any:
        """A body with one to three of its parts replaced, left out, doubled, or joined by others."""
        body = json.loads(json.dumps(good))
        for _ in range(self._random.choice((1, 1, 1, 2, 3))):
            self._spoil(body)
        return body

    def _spoil(self, body: Any) -> None:
        draw, parts = self._random, [body]
        for part in parts:  # it grows meanwhile
            inner = part.values() if isinstance(part, dict) else part
            parts += [each for each in inner if isinstance(each, dict | list) and each]
        part = draw.choice(parts) if draw.random() < 0.7 else body
        if isinstance(part, list):
            at: Any = draw.randrange(len(part))
        else:
            at = draw.choice(_FIELDS) if not part or draw.random() < 0.3 else draw.choice(list(part))
        if draw.random() < 0.1 and (at in part if isinstance(part, dict) else len(part) > 1):
            del part[at]
        elif isinstance(part, list) and draw.random() < 0.2:
            part += [part[at]] * draw.choice((1, 3, 70, 3000))
        else:
            part[at] = self._value()

    def _value(self, depth: int = 0) -> Any:
        draw, chance = self._random, self._random.random()
        if chance < 0.6 or depth > 2:
            return draw.choice(_SCALARS)
        if chance < 0.75:
            return json.loads(json.dumps(draw.choice(_SCHEMAS)))
        if chance < 0.85:
            return [self._value(depth + 1) for _ in range(draw.randint(0, 3))]
        if chance < 0.95:
            return {str(draw.choice(_FIELDS)): self._value(depth + 1) for _ in range(draw.randint(0, 3))}
        return json.loads(json.dumps(draw.choice(list(draw.choice(GOOD)[1].values()))))

    def _bitten(self, raw: bytes) -> bytes:
        """With some bytes changed, put in, left out, or doubled."""
        draw, out = self._random, bytearray(raw)
        for _ in range(draw.choice((1, 1, 2, 5))):
            at, chance = draw.randrange(len(out) + 1), draw.random()
            if chance < 0.35:
                out[at : at + 1] = draw.randbytes(1)
            elif chance < 0.55:
                del out[at : at + draw.choice((1, 1, 8, len(out)))]
            elif chance < 0.75:
                out[at:at] = draw.choice(
                    (b"\x00", b"\xff", b'"', b"{", b"]", b",", b"\r\n", b"\\ud800", b"1e999")
                )
            else:
                out[at:at] = out[at : at + 40] * draw.choice((1, 2, 20))
        return bytes(out)

    def _huge(self) -> bytes:
        n = self._random.choice((190, 210, 5000, 60_000))
        return self._random.choice(
            (b"[" * n, b'{"a":' * n, b'"' + b"x" * n, b"9" * n,
             b'{"model":"fake","messages":' + b"[" * n + b"]" * n + b"}",
             b'{"model":"fake","prompt":"' + b"x" * n + b'"}', b'{"prompt":"' + b"\\u0000" * n + b'"}',
             b'{"tokens":[' + b"1," * n + b"1]}", b'{"tokens":[' + b"9" * n + b"]}",
             b'{"model":"fake","messages":[{"role":"user","content":"hi"}],"tools":[{"type":"function","function":'
             b'{"name":"f","parameters":{"const":' + b"[" * n + b"]" * n + b"}}}]}",
             b'{"model":"fake","input":"hi","tools":[{"type":"function","name":"f",'
             b'"parameters":{"default":' + b"9" * min(n, 4300) + b"}}]}",
             b"{" + b",".join(b'"k%d":1' % i for i in range(n // 10)) + b"}")
        )  # fmt: skip


def answer(address: tuple[str, int], sent: Sent, timeout: float) -> bytes:
    """All that comes back on a connection of its own; b"" where nobody waits.

    Raises:
        TimeoutError: nothing came for so long, although the request was whole or the client said that it was
            all.
    """
    got = bytearray()
    with socket.create_connection(address, timeout=timeout if sent.is_whole else PATIENCE_S) as client:
        try:
            client.sendall(sent.raw)
            if sent.is_left:
                return b""
            while piece := _more(client, sent, timeout):
                got += piece
        except (ConnectionResetError, BrokenPipeError):
            pass  # refused before all of it was read
    return bytes(got)


def _more(client: socket.socket, sent: Sent, timeout: float) -> bytes:
    try:
        return client.recv(1 << 16)
    except TimeoutError:
        if sent.is_whole:
            raise
        client.settimeout(timeout)
        client.shutdown(socket.SHUT_WR)
        return client.recv(1 << 16)
