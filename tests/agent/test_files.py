"""Tools out of files, and what is said of files that are none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hermes3.agent.files import named, tools_in
from hermes3.agent.servers import ServerConfig
from hermes3.errors import Hermes3Error

FUNCTIONS = '''
from __future__ import annotations
import asyncio
from dataclasses import dataclass
from os.path import join
from hermes3 import writes
import beside

@dataclass
class Place:
    """No tool."""
    city: str

def weather(place: Place) -> dict:
    """The weather to come."""
    return {"city": place.city, "beside": beside.X}

@writes
async def note(text: str) -> None:
    """Write something down."""

def unsaid(text: str) -> None: ...
def _private(text: str) -> None:
    """No tool either."""
'''
OPENAI = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}


def written(folder: Path, name: str, text: object) -> Path:
    path = folder / name
    path.write_text(text if isinstance(text, str) else json.dumps(text))
    return path


def test_public_functions_with_docstrings(tmp_path: Path) -> None:
    written(tmp_path, "beside.py", "X = 7")
    found = tools_in(written(tmp_path, "tools.py", FUNCTIONS))
    assert [(action.tool.name, action.writes) for action in found.actions] == [
        ("weather", False),
        ("note", True),
    ]
    assert found.actions[0].tool.description == "weather(place: Place) -> dict - The weather to come."
    place = named(f"{tmp_path / 'tools.py'}:Place")
    assert place.__name__ == "Place"


def test_a_list_goes_before_functions(tmp_path: Path) -> None:
    text = 'def f() -> int:\n    return 1\ndef g() -> int:\n    """G."""\n    return 1\nTOOLS = [f]\n'
    assert [action.tool.name for action in tools_in(written(tmp_path, "t.py", text)).actions] == ["f"]


@pytest.mark.parametrize("value", [OPENAI, [OPENAI], {"tools": [OPENAI], "model": "x"}])
def test_openais_json(tmp_path: Path, value: object) -> None:
    found = tools_in(written(tmp_path, "t.json", value))
    assert [tool.name for tool in found.tools] == ["f"]
    assert found.actions == []


def test_mcp_servers(tmp_path: Path) -> None:
    servers = {"x": {"command": "y"}}
    assert tools_in(written(tmp_path, "t.json", {"mcpServers": servers, "theme": 1})).servers == [
        ServerConfig("x", "y")
    ]


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("t.txt", "", "must be a .py file of functions, or a .json file"),
        ("t.py", "x = 1", "has no tools: no TOOLS, and no public function with a docstring"),
        ("t.py", "TOOLS = 3", "must be a list, not int"),
        ("t.py", "TOOLS = [3]", r"TOOLS in t.py\[0\] is 3"),
        ("t.py", "x = 1\n\nx[0]", "t.py, line 3 fails: TypeError: 'int' object is not"),
        ("t.py", "def f(:\n", "t.py, line 1 fails: SyntaxError"),
        ("t.py", "import sys; sys.exit(3)", "fails: SystemExit: 3"),
        (
            "t.py",
            'def f(a) -> None:\n    """F."""\n',
            r"t.py\[0\] is the function f, whose parameter a has no type",
        ),
        ("t.json", "{", "t.json is not JSON"),
        ("t.json", "[]", "holds neither a list of OpenAI's tools nor mcpServers"),
        ("t.json", '{"mcpServers": []}', "must be an object with an entry for each server"),
        ("t.json", '[{"type": "web_search"}]', r"t.json: tools\[0\].type is 'web_search'"),
        ("t.json", "[" * 100_000, "nested too deeply"),
    ],
)
def test_what_is_no_file_of_tools(tmp_path: Path, name: str, text: str, said: str) -> None:
    with pytest.raises(Hermes3Error, match=said):
        tools_in(written(tmp_path, name, text))


def test_no_file(tmp_path: Path) -> None:
    for name in ("none.py", "none.json"):
        with pytest.raises(Hermes3Error, match=name):
            tools_in(tmp_path / name)
    with pytest.raises(Hermes3Error, match="has no 'X'"):
        named(f"{written(tmp_path, 'x.py', '')}:X")
