"""The process: it says where it listens, ends cleanly on a signal, and tells what keeps it from starting."""

from __future__ import annotations

import json
import queue
import re
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from hermes3.errors import Hermes3Error
from hermes3.server import process
from hermes3.server.settings import load

ROOT = Path(__file__).parent.parent.parent
SCRIPT = """
from hermes3.llm import choice
from hermes3.server import process
from hermes3.server.settings import load
from tests.llm.fakes import fake_llm, saying
choice.LLM = lambda model, **_: fake_llm(saying("x" * 900), step_s=0.005)[0]
process.serve("", load({settings!r}, None))
"""


@contextmanager
def running_server(**settings: Any) -> Iterator[tuple[subprocess.Popen, list[str]]]:
    """A server process, and its log: up to where it says its address, after the context all of it."""
    code = SCRIPT.format(settings={"port": 0, **settings})
    running = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stderr=subprocess.PIPE, text=True)
    lines: queue.SimpleQueue[str] = queue.SimpleQueue()
    reader = threading.Thread(target=lambda: [lines.put(line) for line in running.stderr])
    reader.start()
    try:
        seen = []
        while not seen or "serving" not in seen[-1]:
            seen.append(lines.get(timeout=120))
        yield running, seen
        reader.join(10)
        while not lines.empty():
            seen.append(lines.get())
    finally:
        running.kill()
        running.wait()


def address_in(lines: list[str]) -> str:
    return re.search(r"http://\S+:\d+", "".join(lines))[0]


@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_answers_in_work_finish(sign: signal.Signals) -> None:
    with running_server(served_model_name="house") as (running, lines):
        address = address_in(lines)
        assert httpx.get(address + "/v1/models").json()["data"][0]["id"] == "house"
        body = {"model": "house", "prompt": "x", "stream": True, "max_tokens": 400}
        with httpx.stream("POST", address + "/v1/completions", json=body) as answer:
            events = answer.iter_lines()
            next(events)
            running.send_signal(sign)
            time.sleep(0.3)
            with pytest.raises(httpx.ConnectError):
                httpx.get(address + "/health")
            data = [line for line in events if line.startswith("data:")]
        assert data[-1] == "data: [DONE]"
        assert sum('"text": "x"' in line for line in data) >= 399
        assert running.wait(timeout=20) == 0
    assert "Traceback" not in "".join(lines)
    assert lines[-1].rstrip().endswith("stopped")


def test_draining_has_a_deadline() -> None:
    with running_server(served_model_name="house", limits={"drain_s": 0.5}) as (running, lines):
        body = {"model": "house", "prompt": "x", "stream": True, "max_tokens": 890}
        with httpx.stream("POST", address_in(lines) + "/v1/completions", json=body) as answer:
            events = answer.iter_lines()
            next(events)
            running.terminate()
            last = [line for line in events if line.startswith("data:")][-1]
        assert "the server shut down before the answer was done" in last
        assert running.wait(timeout=20) == 0
    assert lines[-1].rstrip().endswith("stopped")


def test_open_to_the_network_without_a_key_is_said() -> None:
    warned = {}
    for case in ({"host": "0.0.0.0"}, {"host": "0.0.0.0", "api_key": ["k"]}, {"host": "127.0.0.1"}):
        with running_server(**case) as (running, lines):
            httpx.get(address_in(lines).replace("0.0.0.0", "127.0.0.1") + "/health")
            running.terminate()
        warned[str(case)] = any("WARNING" in line and "no API key" in line for line in lines)
    assert list(warned.values()) == [True, False, False], warned


def test_a_taken_port_is_said_before_the_model_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "LLM", None)
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(Hermes3Error, match=f"cannot listen on 127.0.0.1 port {port}: .*--port"):
            process.serve("", load({"port": port}, None))


def test_bad_addresses_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "LLM", None)
    with pytest.raises(Hermes3Error, match="cannot listen"):
        process.serve("", load({"host": "256.1.1.1"}, None))
    with pytest.raises(Hermes3Error, match="port: Input should be less than or equal to 65535"):
        load({"port": 70000}, None)


def test_an_empty_key_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "LLM", None)
    with pytest.raises(Hermes3Error, match="API key is empty"):
        process.serve("", load({"api_key": [""]}, None))


def test_https(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "key.pem", "-out", "cert.pem",
         "-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"],
        cwd=tmp_path, check=True, capture_output=True,
    )  # fmt: skip
    cert, key = str(tmp_path / "cert.pem"), str(tmp_path / "key.pem")
    with running_server(tls_cert=cert, tls_key=key) as (running, lines):
        address = re.search(r"https://\S+:\d+", "".join(lines))[0]
        trusted = ssl.create_default_context(cafile=cert)
        assert httpx.get(address + "/health", verify=trusted).json() == {"status": "ok"}
        with pytest.raises(httpx.RemoteProtocolError):
            httpx.get(address.replace("https", "http") + "/health")
        running.terminate()
    with pytest.raises(Hermes3Error, match="tls_cert and tls_key go together"):
        load({"tls_cert": cert}, None)
    monkeypatch.setattr(process, "LLM", None)
    with pytest.raises(Hermes3Error, match="cannot serve https with"):
        process.serve("", load({"tls_cert": cert, "tls_key": cert, "port": 0}, None))


def test_the_log_as_json() -> None:
    with running_server(log_format="json", served_model_name="house") as (running, lines):
        address = address_in(lines)
        secret = {"model": "house", "messages": [{"role": "user", "content": "my secret"}], "max_tokens": 3}
        answer = httpx.post(address + "/v1/chat/completions", json=secret).json()
        running.terminate()
    logged = [json.loads(line) for line in lines]
    assert all({"time", "level", "logger", "message"} <= line.keys() for line in logged)
    assert any(answer["id"] in line["message"] for line in logged)
    assert "my secret" not in "".join(lines)
