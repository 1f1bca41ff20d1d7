"""/openapi.json says what the routes are and what they take; /docs shows it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import httpx
import pytest

from hermes3.server.app import create_app
from hermes3.server.chat_request import ChatRequest
from hermes3.server.openapi import ROUTES, document
from tests.llm.fakes import fake_llm
from tests.server.live import live


@pytest.fixture(scope="module")
def http() -> Iterator[httpx.Client]:
    llm, _ = fake_llm()
    with llm, live(create_app(llm, api_keys=["k"])) as address, httpx.Client(base_url=address) as client:
        yield client


@pytest.mark.filterwarnings("error:Duplicate Operation ID")
def test_every_route_stands_there() -> None:
    with fake_llm()[0] as llm:
        paths = create_app(llm).openapi()["paths"]  # FastAPI's own list of them, which is not served
    served = {(method, path.replace(":path", "")) for path, methods in paths.items() for method in methods}
    listed = {(route.method, route.path) for route in ROUTES}
    assert len(listed) == len(ROUTES)
    assert {(method, path) for method, path in served if method != "head"} == listed


def test_every_field_of_a_chat_stands_there(http: httpx.Client) -> None:
    properties = http.get("/openapi.json").json()["components"]["schemas"]["ChatRequest"]["properties"]
    assert set(properties) == {*ChatRequest.model_fields, *ChatRequest.refused}
    assert properties["service_tier"]["enum"] == [None, "auto", "default"]


def test_every_operation_has_a_name_of_its_own() -> None:
    paths = document(asks_for_keys=False)["paths"]
    names = [operation["operationId"] for methods in paths.values() for operation in methods.values()]
    assert len(set(names)) == len(names) == len(ROUTES)


def test_keys_are_asked_for_where_it_says_so(http: httpx.Client) -> None:
    for path, methods in http.get("/openapi.json").json()["paths"].items():
        for method, operation in methods.items():
            answer = http.request(method, path.replace("{name}", "x"))
            assert (answer.status_code == 401) == ("security" in operation), path
    assert "security" not in json.dumps(document(asks_for_keys=False)["paths"])


def test_docs_load_nothing_and_run_nothing(http: httpx.Client) -> None:
    answer = http.get("/docs")
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'none'" in policy
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert not re.search(r"<script|https?:|src=| on\w+=", answer.text)
    assert all(f"<h2>{route.method.upper()} {route.path}</h2>" in answer.text for route in ROUTES)
    assert "<code>temperature</code>" in answer.text
