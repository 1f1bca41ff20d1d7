"""Names that the server answers to, and pages of other origins."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import httpx
import pytest

from hermes3.server.app import create_app
from hermes3.server.hosts import names_for
from tests.llm.fakes import fake_llm
from tests.server.live import live


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    llm, _ = fake_llm()
    with llm, live(create_app(llm, hosts=["localhost", "box.lan", "*.example.org"])) as address:
        yield address


@pytest.mark.parametrize(
    "host",
    ["localhost", "LOCALHOST:8000", "localhost.", "127.0.0.1:1", "[::1]:8000", "192.168.1.7", "box.lan:80",
     "a.example.org", "b.a.example.org"],
)  # fmt: skip
def test_its_own_names(address: str, host: str) -> None:
    assert httpx.get(f"{address}/health", headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    "host",
    ["attacker.example", "localhost.attacker.example", "127.0.0.1.attacker.example", "example.org", "",
     "[::1].attacker.example", "evilexample.org", "localhost@attacker.example"],
)  # fmt: skip
@pytest.mark.parametrize("path", ["/health", "/v1/models", "/v1/chat/completions", "/metrics", "/"])
def test_dns_rebinding(address: str, host: str, path: str) -> None:
    answer = httpx.get(f"{address}{path}", headers={"host": host})
    assert answer.status_code == 421
    assert answer.json()["error"]["code"] == "unknown_host"


def test_two_hosts_are_none(address: str) -> None:
    host, _, port = address.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\nHost: attacker.example\r\n\r\n")
        assert b" 400 " in connection.recv(100) or b" 421 " in connection.recv(100)


def test_names_of_a_server() -> None:
    assert "attacker.example" not in names_for("0.0.0.0", ())
    assert socket.gethostname() in names_for("0.0.0.0", ())
    assert socket.gethostname() not in names_for("127.0.0.1", ()) or socket.gethostname() == "localhost"
    assert names_for("box.lan", ["a"])[-1] == "a"
    assert "box.lan" in names_for("box.lan", ())


def test_other_origins_are_closed_out_unless_named() -> None:
    llm, _ = fake_llm()
    asked = {"origin": "https://a.example", "access-control-request-method": "POST"}
    with llm, live(create_app(llm)) as address:
        assert httpx.options(f"{address}/v1/models", headers=asked).status_code == 405
        seen = httpx.get(f"{address}/v1/models", headers=asked).headers
        assert not [name for name in seen if name.startswith("access-control")]
    with llm, live(create_app(llm, cors_origins=["https://a.example"])) as address:
        assert httpx.options(f"{address}/v1/models", headers=asked).status_code == 200
        other = httpx.get(f"{address}/v1/models", headers={"origin": "https://b.example"})
        assert "access-control-allow-origin" not in other.headers
