"""A real MCP server for tests: good tools, and some that die, hang, fail or say too much.

python tests/agent/mcp_server.py stdio | http PORT | silent | dying
"""

from __future__ import annotations

import os
import sys
import time

from mcp.server import MCPServer
from mcp.server.mcpserver import Image
from mcp.server.mcpserver.exceptions import ToolError
from mcp.types import ToolAnnotations
from pydantic import BaseModel

server = MCPServer("tests")


class Place(BaseModel):
    city: str
    country: str = "CH"


@server.tool(annotations=ToolAnnotations(read_only_hint=True))
def where(place: Place) -> Place:
    """Where a place is."""
    return place


@server.tool(annotations=ToolAnnotations(read_only_hint=True))
def environment() -> list[str]:
    """Names of the environment's variables."""
    return sorted(os.environ)


@server.tool()
def greet(name: str) -> str:
    """Greet somebody."""
    return f"Hello {name}"


@server.tool(annotations=ToolAnnotations(read_only_hint=False, destructive_hint=False))
def append(text: str) -> str:
    """Append to a file."""
    return "done"


@server.tool(annotations=ToolAnnotations(read_only_hint=True, destructive_hint=True))
def contradict() -> str:
    """Says two things."""
    return "done"


@server.tool(annotations=ToolAnnotations(read_only_hint=True))
def fail() -> str:
    """Fails."""
    raise ToolError("no luck today")


@server.tool(annotations=ToolAnnotations(read_only_hint=True))
def hang() -> str:
    """Never answers."""
    time.sleep(30)
    return ""


@server.tool(annotations=ToolAnnotations(read_only_hint=True))
def die() -> str:
    """Ends the server."""
    print("I die now", file=sys.stderr, flush=True)
    os._exit(3)


@server.tool(annotations=ToolAnnotations(read_only_hint=True))
def picture() -> Image:
    """A picture."""
    return Image(data=b"\x89PNG" * 25, format="png")


@server.tool(annotations=ToolAnnotations(read_only_hint=True))
def much() -> str:
    """10 MB."""
    return "x" * 10_000_000


if __name__ == "__main__":
    kind = sys.argv[1]
    if kind == "stdio":
        server.run("stdio")
    elif kind == "http":
        server.run("streamable-http", host="127.0.0.1", port=int(sys.argv[2]))
    elif kind == "silent":
        time.sleep(60)
    else:
        print("Traceback ...\n  no such database", file=sys.stderr)
        sys.exit(1)
