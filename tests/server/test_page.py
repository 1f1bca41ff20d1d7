"""The file at /: its headers, its size, what it may not hold."""

from __future__ import annotations

import base64
import hashlib
import re

import httpx
import pytest
from fastapi.testclient import TestClient

from hermes3.server.app import create_app
from hermes3.server.page import PAGE
from tests.llm.fakes import fake_llm

TEXT = PAGE.read_text()
MOST_BYTES = 60_000


@pytest.fixture(scope="module")
def answer() -> httpx.Response:
    llm, _ = fake_llm()
    with llm, TestClient(create_app(llm, api_keys=["k"]), base_url="http://localhost") as client:
        assert client.get("/index.html").status_code == 404
        assert client.post("/").status_code == 405
        assert client.get("/v1/models").status_code == 401
        head = client.head("/")
        assert (head.status_code, head.content) == (200, b"")
        return client.get("/")


def test_it_comes_whole_and_without_a_key(answer: httpx.Response) -> None:
    assert (answer.status_code, answer.text) == (200, TEXT)
    assert answer.headers["content-type"] == "text/html; charset=utf-8"


def test_nothing_but_its_own_script_and_style_may_run(answer: httpx.Response) -> None:
    policy = dict(part.split(" ", 1) for part in answer.headers["content-security-policy"].split("; "))
    for tag in ("script", "style"):
        (text,) = re.findall(rf"<{tag}\b[^>]*>(.*?)</{tag}>", TEXT, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert policy[f"{tag}-src"] == f"'sha256-{digest}'"
    assert policy["connect-src"] == "'self'"
    assert policy["require-trusted-types-for"] == "'script'"
    for name in ("default-src", "base-uri", "form-action", "frame-ancestors", "trusted-types"):
        assert policy[name] == "'none'"


def test_the_other_headers(answer: httpx.Response) -> None:
    expected = {
        "x-content-type-options": "nosniff",
        "x-frame-options": "DENY",
        "referrer-policy": "no-referrer",
        "cross-origin-opener-policy": "same-origin",
        "cross-origin-resource-policy": "same-origin",
        "cache-control": "no-cache",
    }
    assert {name: answer.headers[name] for name in expected} == expected
    assert "camera=()" in answer.headers["permissions-policy"]


def test_it_is_small_and_needs_nobody_else() -> None:
    assert len(PAGE.read_bytes()) < MOST_BYTES
    assert "\r" not in TEXT  # a browser would hash another text
    assert re.findall(r"https?://(?!\?)[\w.-]+", TEXT) == []
    assert re.findall(r"@import|url\(|\bsrc=|<link(?! rel=\"icon\" href=\"data:)", TEXT) == []


def test_no_way_from_text_to_markup_is_in_it() -> None:
    found = re.findall(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|DOMParser|srcdoc|createContextualFragment"
        r"|setHTML|\beval\b|new Function|\sstyle=|\son\w+=\"",
        TEXT,
    )
    assert found == []
