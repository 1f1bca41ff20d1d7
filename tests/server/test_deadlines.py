"""What a client owes of a request has its time; answers and idle connections have none."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from hermes3.server.app import create_app
from hermes3.server.deadlines import timed
from hermes3.server.limits import Limits
from tests.llm.fakes import fake_llm, saying
from tests.server.live import live

HEAD_S = 1.0  # time enough for a healthy head on a busy machine
PATIENCE_S = 100.0


@contextmanager
def served(seconds: float) -> Iterator[tuple[str, int]]:
    llm, _ = fake_llm(saying("x" * 900), step_s=0.01)
    app = create_app(llm, limits=Limits(head_s=seconds, body_s=seconds))
    protocol = timed(head_s=seconds, body_s=seconds, send_s=seconds)
    with llm, live(app, http=protocol, ws="none", timeout_keep_alive=PATIENCE_S) as address:
        host, port = address.removeprefix("http://").split(":")
        yield host, int(port)


def trickled(address: tuple[str, int], begin: bytes) -> bytes:
    """What the server says until it hangs up, while bytes come in ones."""
    got = bytearray()
    with socket.create_connection(address, timeout=0.02) as connection:
        connection.sendall(begin)
        end = time.monotonic() + PATIENCE_S
        while time.monotonic() < end:
            try:
                if not (more := connection.recv(1 << 16)):
                    return bytes(got)
                got += more
            except TimeoutError:
                pass
            except OSError:  # bytes that it did not read any more make the end a reset
                return bytes(got)
            try:
                connection.sendall(b"x")
            except OSError:
                return bytes(got)
    raise AssertionError(f"the server still waits; it said {bytes(got)!r}")


def connections() -> list[str]:
    """The kernel's, a line each: proc_pid_net(5)."""
    return Path("/proc/net/tcp").read_text().splitlines()


def test_slow_heads_are_ended() -> None:
    with served(0.2) as address:
        for begin in (b"G", b"GET /health HTTP/1.1\r\nhost: localhost\r\nx-slow: "):
            head, _, body = trickled(address, begin).partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 408 Request Timeout")
            assert json.loads(body)["error"]["message"] == "The request's head took longer than 0.2 s."


def test_connections_that_say_nothing_are_ended() -> None:
    with served(0.2) as address, socket.create_connection(address, timeout=PATIENCE_S) as silent:
        assert silent.recv(100) == b""


@pytest.mark.parametrize(
    ("route", "status"),
    [
        (b"GET /health", b"200"),  # reads no body
        (b"POST /v1/embeddings", b"400"),  # refuses before it would
        (b"POST /v1/completions", b"408"),  # waits for it
    ],
)
def test_slow_bodies_are_ended_whoever_waits_for_them(route: bytes, status: bytes) -> None:
    fields = b"host: localhost\r\ncontent-type: application/json\r\ncontent-length: 100000"
    with served(0.2) as address:
        got = trickled(address, route + b" HTTP/1.1\r\n" + fields + b"\r\n\r\n{")
        assert got[9:12] == status


def test_a_slow_second_head_is_ended() -> None:
    with served(0.2) as address:
        whole = b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n"
        got = trickled(address, whole + b"GET /he")
        assert got.startswith(b"HTTP/1.1 200")
        assert got.count(b"HTTP/1.1 408") == 1


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="the kernel has no such time-out")
def test_clients_that_read_nothing_are_ended() -> None:
    text = "x" * (6 << 20)  # more than sockets hold
    body = json.dumps({"messages": [{"role": "user", "content": text}]}).encode()
    fields = b"host: localhost\r\ncontent-type: application/json\r\ncontent-length: %d" % len(body)
    with served(HEAD_S) as address, socket.create_connection(address, timeout=PATIENCE_S) as connection:
        connection.sendall(b"POST /apply-template HTTP/1.1\r\n" + fields + b"\r\n\r\n" + body)
        ends = f":{address[1]:04X} ", f":{connection.getsockname()[1]:04X} "  # the server's side of it
        end = time.monotonic() + PATIENCE_S
        while any(line.find(ends[0]) < line.find(ends[1]) for line in connections() if ends[0] in line):
            assert time.monotonic() < end, "the server still waits for its reader"
            time.sleep(0.05)
        with pytest.raises(ConnectionError):
            list(iter(partial(connection.recv, 1 << 20), b""))


def test_long_answers_and_idle_connections_go_on() -> None:
    with served(HEAD_S) as address, socket.create_connection(address, timeout=PATIENCE_S) as connection:
        body = json.dumps({"model": "fake", "prompt": "x", "stream": True, "max_tokens": 200}).encode()
        fields = b"host: localhost\r\ncontent-type: application/json\r\ncontent-length: %d" % len(body)
        begin, got = time.monotonic(), bytearray()
        connection.sendall(b"POST /v1/completions HTTP/1.1\r\n" + fields + b"\r\n\r\n" + body)
        while b"[DONE]" not in got:
            got += connection.recv(1 << 16)
        assert time.monotonic() - begin > 1.5 * HEAD_S
        assert got.count(b'"text": "x"') == 200
        time.sleep(1.5 * HEAD_S)
        connection.sendall(b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n")
        while b'{"status":"ok"}' not in got:
            more = connection.recv(1 << 16)
            assert more, "the idle connection was closed"
            got += more


def test_bounds_without_end() -> None:
    with served(1e12) as address, socket.create_connection(address, timeout=PATIENCE_S) as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
        assert b"".join(iter(partial(connection.recv, 1000), b"")).endswith(b'{"status":"ok"}')
