"""Tools of MCP servers (https://modelcontextprotocol.io), started or reached as a user's file says.

A server is a stranger: it gets the command and the environment that the file names (and of ours what the mcp
package takes for harmless: HOME, PATH and the like), and it is offered neither the model nor the user.
"""

from __future__ import annotations

import asyncio
import logging
import tempfile
import threading
from collections.abc import AsyncIterator, Coroutine, Iterable, Mapping
from concurrent.futures import Future
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

from hermes3.agent.action import Action, ToolError
from hermes3.agent.results import text_of
from hermes3.errors import Hermes3Error
from hermes3.prompt.functions import MAX_TOOLS, tool_of
from hermes3.prompt.messages import Tool
from hermes3.prompt.refusal import first_line, kind_of, refuse, refuse_unknown

if TYPE_CHECKING:
    from mcp import Client

_T = TypeVar("_T")

START_S = 60.0  # for a server to start and to say what it can do; some are fetched first
CLOSE_S = 15.0
MAX_PAGES = 100  # of a list of tools
MAX_LOG = 400  # characters of what a server said last that errors quote


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """An entry of ``mcpServers``: a command, or an address.

    Attributes:
        command: the program of a server that speaks over standard input and output; else None.
        url: of a server that speaks streamable HTTP; else None.
    """

    name: str
    command: str | None = None
    args: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    cwd: str | None = None
    url: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


def parse_servers(raw: Mapping[str, Any], *, param: str = "mcpServers") -> list[ServerConfig]:
    """The servers of a user's file; those that are ``disabled`` are left out.

    Raises:
        RequestError: an entry that cannot be honoured; ``param`` names it.
    """
    configs = [_config(name, entry, f"{param}.{name}") for name, entry in raw.items()]
    return [config for config in configs if config is not None]


def _config(name: str, raw: object, where: str) -> ServerConfig | None:
    if not isinstance(raw, Mapping):
        refuse(where, f"must be an object with a command or a url, not {kind_of(raw)}")
    kinds = {"stdio": "command", "http": "url", "streamable-http": "url", "streamableHttp": "url"}
    kind = raw.get("type", "stdio" if "command" in raw else "http")
    if kind not in kinds:
        refuse(f"{where}.type", f"is {kind!r:.60}; spoken are stdio and http (streamable HTTP)")
    if not isinstance(raw.get(kinds[kind]), str) or not raw[kinds[kind]]:
        refuse(f"{where}.{kinds[kind]}", "must be a text that is not empty")
    own = {"command", "args", "env", "cwd"} if kind == "stdio" else {"url", "headers"}
    refuse_unknown(raw, {"type", "disabled", *own}, where)
    if not isinstance(raw.get("disabled", False), bool):
        refuse(f"{where}.disabled", "must be true or false")
    if raw.get("disabled"):
        return None
    args = raw.get("args") or []
    if not isinstance(args, list) or not all(isinstance(each, str) for each in args):
        refuse(f"{where}.args", "must be a list of texts")
    if not isinstance(raw.get("cwd"), str | None):
        refuse(f"{where}.cwd", "must be a folder")
    if kind != "stdio" and not raw["url"].startswith(("http://", "https://")):
        refuse(f"{where}.url", f"is {raw['url']!r:.60}; it must begin with http:// or https://")
    return ServerConfig(
        name,
        command=raw.get("command"),
        args=tuple(args),
        env=_texts(raw, "env", where),
        cwd=raw.get("cwd"),
        url=raw.get("url"),
        headers=_texts(raw, "headers", where),
    )


def _texts(raw: Mapping[str, Any], key: str, where: str) -> dict[str, str]:
    value = raw.get(key) or {}
    if not isinstance(value, dict) or not all(isinstance(each, str) for each in value.values()):
        refuse(f"{where}.{key}", "must be an object of texts")
    return value


class Servers:
    """MCP servers in use, in a thread of their own: enter it to start them, leave it to end them.

    Args:
        configs: the servers.
        start_s: seconds that each has to start and to list its tools.

    Attributes:
        actions: their tools, ready to be given to an agent. A name that two servers have is preceded by the
            server's on the second.
    """

    def __init__(self, configs: Iterable[ServerConfig], *, start_s: float = START_S) -> None:
        self._configs, self._start_s = list(configs), start_s
        self._servers: list[_Server] = []
        self.actions: list[Action] = []

    def __enter__(self) -> Self:
        """Start them all, side by side.

        Raises:
            Hermes3Error: one does not start, or lists no tools that can be used; says which and why.
        """
        try:
            import mcp  # noqa: F401
        except ImportError as error:
            raise Hermes3Error("MCP servers need the package mcp: pip install 'hermes3[mcp]'") from error
        logging.getLogger("mcp").addHandler(logging.NullHandler())  # else Python prints what nobody handles
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="hermes3-mcp", daemon=True)
        self._thread.start()
        self._servers = [_Server(config) for config in self._configs]
        try:
            listed = self._wait(_all(server.start(self._start_s) for server in self._servers))
            for server, tools in zip(self._servers, listed, strict=True):
                self.actions += self._actions_of(server, tools)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End them all."""
        try:
            self._wait(_all(server.close() for server in self._servers))
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(CLOSE_S)

    def _wait(self, work: Coroutine[Any, Any, _T]) -> _T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def _actions_of(self, server: _Server, listed: list[Any]) -> list[Action]:
        taken = {action.tool.name for action in self.actions}
        actions = []
        for index, raw in enumerate(listed):
            tool = tool_of(raw, where=f"the MCP server {server.config.name}: tools[{index}]")
            name = f"{server.config.name}_{tool.name}" if tool.name in taken else tool.name
            shown = Tool(name, tool.description or raw.title, tool.parameters)
            actions.append(Action(shown, self._caller(server, tool.name), _writes(raw)))
        return actions

    def _caller(self, server: _Server, name: str) -> Any:
        def call(**arguments: Any) -> Future[str]:
            return asyncio.run_coroutine_threadsafe(server.call(name, arguments), self._loop)

        return call


async def _all(work: Iterable[Coroutine[Any, Any, _T]]) -> list[_T]:
    return await asyncio.gather(*work)


def _writes(raw: Any) -> bool:
    """Whether a tool changes something, by its annotations: unless it says that it only reads, and nothing
    else contradicts that."""
    hints = raw.annotations
    return hints is None or not hints.read_only_hint or bool(hints.destructive_hint)


class _Server:
    """One server. All of it runs in the event loop."""

    def __init__(self, config: ServerConfig) -> None:
        self.config = config
        self._closing = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._log: Any = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115
        self._client: Client | None = None

    async def start(self, seconds: float) -> list[Any]:
        """Its tools."""
        ready: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()
        self._task = asyncio.create_task(self._live(ready))
        try:
            return await asyncio.wait_for(ready, seconds)
        except TimeoutError as error:
            self._task.cancel()
            raise Hermes3Error(self._said(f"was not ready within {seconds:g} s")) from error

    async def close(self) -> None:
        """End it; what does not end by itself is cancelled."""
        self._closing.set()
        if self._task is not None:
            if self._client is None and not self._task.cancelling():  # it is still starting
                self._task.cancel()  # once: a second time would break into the ending of its process
            _, left = await asyncio.wait([self._task], timeout=CLOSE_S)
            for task in left:
                task.cancel()
        self._log.close()

    async def call(self, name: str, arguments: dict[str, Any]) -> str:
        """What a tool says.

        Raises:
            ToolError: it failed, or the server is gone.
        """
        if self._client is None:
            raise ToolError(self._said("has ended; its functions cannot be called any more"))
        from mcp.shared.exceptions import MCPError

        try:
            result = await self._client.call_tool(name, arguments)
        except MCPError as error:
            if self._task is not None and not self._task.done() and error.message != "Connection closed":
                raise ToolError(first_line(error)) from error
            raise ToolError(self._said("ended during the call")) from error
        except asyncio.CancelledError:
            raise
        except Exception as error:
            raise ToolError(self._said(f"answered with what is no result: {_reason(error)}")) from error
        text = _text_of(result)
        if result.is_error:
            raise ToolError(text or "the function failed and does not say why")
        return text

    async def _live(self, ready: asyncio.Future[list[Any]]) -> None:
        """From start to end, in one task, as the ``mcp`` package asks for it."""
        try:
            async with self._connected() as client:
                tools = await _listed(client)
                self._client = client
                if not ready.done():
                    ready.set_result(tools)
                await self._closing.wait()
        except BaseException as error:
            if not ready.done():
                reason = self._said(f"does not start: {_reason(error)}")
                ready.set_exception(Hermes3Error(reason))
        finally:
            self._client = None

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[Client]:
        from mcp import Client, StdioServerParameters
        from mcp.client.stdio import stdio_client
        from mcp.client.streamable_http import streamable_http_client

        config = self.config
        async with AsyncExitStack() as stack:
            if config.command is not None:
                program = StdioServerParameters(
                    command=config.command, args=list(config.args), env=dict(config.env), cwd=config.cwd
                )
                transport = stdio_client(program, errlog=self._log)
            else:
                import httpx2

                timeout = httpx2.Timeout(30.0, read=300.0)
                http = httpx2.AsyncClient(headers=dict(config.headers), timeout=timeout)
                transport = streamable_http_client(
                    config.url or "", http_client=await stack.enter_async_context(http)
                )
            yield await stack.enter_async_context(Client(transport))

    def _said(self, what: str) -> str:
        """A sentence about it, with what it wrote on standard error last."""
        try:
            self._log.seek(0)
            lines = self._log.read().split("\n")
        except ValueError:  # closed
            lines = []
        last = next((line.strip() for line in reversed(lines) if line.strip()), "")
        quoted = f'; it said last: "{last[-MAX_LOG:]}"' if last else ""
        return f"the MCP server {self.config.name} {what}{quoted}"


async def _listed(client: Client) -> list[Any]:
    """All tools of a server, ``MAX_TOOLS`` and a page at most."""
    tools: list[Any] = []
    cursor: str | None = None
    for _ in range(MAX_PAGES):
        page = await client.list_tools(cursor=cursor)
        tools += page.tools
        cursor = page.next_cursor
        if cursor is None or len(tools) > MAX_TOOLS:
            break
    return tools


def _text_of(result: Any) -> str:
    """A result as text: its structured form where it has one, else its texts, and a word for all others."""
    structured = result.structured_content
    if structured is not None and all(part.type == "text" for part in result.content):
        is_wrapped = isinstance(structured, dict) and structured.keys() == {"result"}
        return text_of(structured["result"] if is_wrapped else structured)
    return "\n".join(map(_part, result.content))


def _part(part: Any) -> str:
    match part.type:
        case "text":
            return str(part.text)
        case "image" | "audio":
            size = f"{len(part.data.rstrip('=')) * 3 // 4:,} bytes"  # of base64
            return f"[{part.type} of type {part.mime_type}, {size}: only text can be read here]"
        case "resource" if hasattr(part.resource, "text"):
            return str(part.resource.text)
        case "resource":
            return f"[resource {part.resource.uri}, binary: only text can be read here]"
        case "resource_link":
            return f"[resource {part.uri}]"
        case other:
            return f"[{other!r:.60}: only text can be read here]"


def _reason(error: BaseException) -> str:
    """The first error of a group, which says the most."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return first_line(error) if isinstance(error, Exception) and str(error) else type(error).__name__
