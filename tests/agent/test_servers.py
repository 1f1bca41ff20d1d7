"""Tools of real MCP servers, over both transports; and servers that die, hang, fail or say too much."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mcp.types
import pytest

from hermes3 import Agent
from hermes3.agent import ToolError
from hermes3.agent.servers import Servers, parse_servers
from hermes3.errors import Hermes3Error, RequestError
from hermes3.prompt.functions import tool_of
from hermes3.prompt.messages import Tool
from tests.agent.scripted import calling, model, results_in

SERVER = str(Path(__file__).parent / "mcp_server.py")
WAIT_S = 60  # the machine may be busy


def started(**entries: dict[str, Any]) -> Servers:
    return Servers(parse_servers(entries))


def stdio(kind: str = "stdio", **more: Any) -> dict[str, Any]:
    return {"command": sys.executable, "args": [SERVER, kind], **more}


def by_name(servers: Servers) -> dict[str, Any]:
    return {action.tool.name: action for action in servers.actions}


def said(servers: Servers, name: str, /, **arguments: Any) -> str:
    return by_name(servers)[name].run(**arguments).result(WAIT_S)


@pytest.fixture(scope="module")
def over_stdio() -> Iterator[Servers]:
    with started(tests=stdio(env={"SECRET": "x"})) as servers:
        yield servers


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with subprocess.Popen([sys.executable, SERVER, "http", str(port)], stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if b"running on" in line:
                break
        yield f"http://127.0.0.1:{port}/mcp"
        process.kill()


@pytest.fixture(scope="module")
def over_http(address: str) -> Iterator[Servers]:
    with started(tests={"type": "http", "url": address, "headers": {"X-Key": "k"}}) as servers:
        yield servers


def test_tools_and_what_writes(over_stdio: Servers) -> None:
    """Nothing said is taken for writing; a contradiction, too."""
    assert {name: action.writes for name, action in by_name(over_stdio).items()} == {
        "where": False, "environment": False, "greet": True, "append": True, "contradict": True,
        "fail": False, "hang": False, "die": False, "picture": False, "much": False,
    }  # fmt: skip
    place = by_name(over_stdio)["where"].tool
    assert place.description == "Where a place is."
    assert place.parameters["properties"]["place"] == {"$ref": "#/$defs/Place"}


def test_a_tool_object_of_the_protocol_is_a_tool() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    raw = mcp.types.Tool(name="f", title="F", description="Does.", input_schema=schema)
    assert tool_of(raw) == Tool("f", "Does.", schema)
    assert tool_of(raw.model_dump(by_alias=True, mode="json")) == Tool("f", "Does.", schema)


@pytest.mark.parametrize("transport", ["over_stdio", "over_http"])
def test_an_agent_calls_them(transport: str, request: pytest.FixtureRequest) -> None:
    servers = request.getfixturevalue(transport)
    calls = [
        calling("where", place={"city": "Bern"}),
        calling("greet", name="Zoë"),
        calling("picture"),
        calling("fail"),
    ]
    with model("\n".join(calls), "Done.") as (llm, prompts):
        Agent(llm, servers.actions, ask=False, timeout_s=WAIT_S).run("x")
    assert [result["content"] for result in results_in(prompts[1])] == [
        {"city": "Bern", "country": "CH"},
        "Hello Zoë",
        "[image of type image/png, 100 bytes: only text can be read here]",
        "Error: Error executing tool fail: no luck today. Call fail again with correct arguments.",
    ]


def test_the_environment_is_the_files(over_stdio: Servers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "secret")
    names = said(over_stdio, "environment")
    assert '"SECRET"' in names
    assert '"PATH"' in names
    assert "TOKEN" not in names


def test_a_server_that_hangs_costs_its_call(over_stdio: Servers) -> None:
    with model(calling("hang"), "Sorry.") as (llm, prompts):
        outcome = Agent(llm, over_stdio.actions, ask=False, timeout_s=0.5).run("x")
    assert outcome.text == "Sorry."
    assert "it gave no result within 0.5 s" in str(results_in(prompts[1]))
    assert said(over_stdio, "greet", name="you") == "Hello you"


def test_a_server_that_dies_is_told() -> None:
    with started(mortal=stdio()) as servers:
        for _ in range(2):
            with pytest.raises(
                ToolError, match=r'the MCP server mortal .*ended.*; it said last: "I die now"'
            ):
                said(servers, "die")


@pytest.mark.long
@pytest.mark.parametrize("transport", ["over_stdio", "over_http"])
def test_ten_megabytes(transport: str, request: pytest.FixtureRequest) -> None:
    servers = request.getfixturevalue(transport)
    with model(calling("much"), "Done.") as (llm, prompts):
        Agent(llm, servers.actions, ask=False, timeout_s=WAIT_S).run("x")
    assert "the first 5,000 of 10,000,000 characters" in str(results_in(prompts[1])[0]["content"])


def test_two_servers_with_the_same_names(over_http: Servers, address: str) -> None:
    with started(one={"url": address}, two={"type": "streamable-http", "url": address}) as servers:
        names = [action.tool.name for action in servers.actions]
        assert len(set(names)) == 2 * len(over_http.actions)
        assert said(servers, "two_greet", name="you") == "Hello you"


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        (stdio("dying"), r'the MCP server it does not start: .*; it said last: "no such database"'),
        (stdio("silent"), "the MCP server it was not ready within 1 s"),
        ({"command": "/no/such/program"}, "the MCP server it does not start: .*No such file"),
        (stdio(cwd="/no/such/folder"), "the MCP server it does not start: .*No such file"),
        ({"url": "http://127.0.0.1:9/mcp"}, "the MCP server it does not start"),
    ],
)
def test_a_server_that_does_not_start(entry: dict[str, Any], said: str) -> None:
    begun = time.monotonic()
    with (
        pytest.raises(Hermes3Error, match=said),
        Servers(parse_servers({"it": entry}), start_s=1 if "silent" in str(entry) else WAIT_S),
    ):
        pass
    assert time.monotonic() - begun < WAIT_S


def test_ctrl_c_while_a_server_starts() -> None:
    code = f"""
from hermes3.agent.servers import Servers, parse_servers
print("starting", flush=True)
with Servers(parse_servers({{"it": {stdio("silent")!r}}})):
    pass
"""
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(1)
        process.send_signal(signal.SIGINT)
        assert process.wait(12) != 0
        assert process.stderr is not None
        assert b"KeyboardInterrupt" in process.stderr.read()


def test_an_address_that_speaks_something_else(address: str) -> None:
    with (
        pytest.raises(Hermes3Error, match="the MCP server it does not start"),
        started(it={"url": f"{address}/no"}),
    ):
        pass


@pytest.mark.parametrize(
    ("entry", "param", "said"),
    [
        (3, "mcpServers.x", "an object with a command or a url"),
        ({}, "mcpServers.x.url", "must be a text"),
        ({"type": "sse", "url": "http://x"}, "mcpServers.x.type", "spoken are stdio and http"),
        ({"type": "stdio", "url": "http://x"}, "mcpServers.x.command", "must be a text"),
        ({"command": ["x"]}, "mcpServers.x.command", "must be a text"),
        ({"command": "x", "args": "y"}, "mcpServers.x.args", "list of texts"),
        ({"command": "x", "env": {"A": 1}}, "mcpServers.x.env", "object of texts"),
        ({"command": "x", "cwd": 1}, "mcpServers.x.cwd", "folder"),
        ({"command": "x", "url": "http://x"}, "mcpServers.x.url", "not a field known here"),
        ({"command": "x", "autoApprove": ["f"]}, "mcpServers.x.autoApprove", "not a field known here"),
        ({"url": "file:///etc/passwd"}, "mcpServers.x.url", "must begin with http"),
        ({"url": "http://x", "disabled": "yes"}, "mcpServers.x.disabled", "true or false"),
    ],
)
def test_entries_that_cannot_be_honoured(entry: object, param: str, said: str) -> None:
    with pytest.raises(RequestError, match=said) as caught:
        parse_servers({"x": entry})
    assert caught.value.param == param


def test_disabled_servers_are_left_out() -> None:
    assert parse_servers({"x": {"command": "y", "disabled": True}}) == []


def test_the_package_is_an_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mcp", None)
    with pytest.raises(Hermes3Error, match=r"pip install 'hermes3\[mcp\]'"), started(x={"command": "y"}):
        pass
