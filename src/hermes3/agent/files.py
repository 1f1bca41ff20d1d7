"""Tools out of files: Python functions, OpenAI's JSON, and MCP servers in the usual ``mcpServers`` form."""

from __future__ import annotations

import importlib.util
import inspect
import json
import sys
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from hermes3.agent.action import Action, actions_of
from hermes3.agent.servers import ServerConfig, parse_servers
from hermes3.errors import FormatError, Hermes3Error
from hermes3.prompt.functions import parse_tools
from hermes3.prompt.json_text import read_json
from hermes3.prompt.messages import Tool


@dataclass(frozen=True, slots=True)
class Found:
    """What a file holds.

    Attributes:
        actions: what can be run.
        tools: what is only described.
        servers: MCP servers.
    """

    actions: list[Action] = field(default_factory=list)
    tools: list[Tool] = field(default_factory=list)
    servers: list[ServerConfig] = field(default_factory=list)


def tools_in(path: Path) -> Found:
    """The tools of a file.

    A .py file is run; its ``TOOLS`` count, or else its public functions with docstrings. A .json file holds
    OpenAI's tools, one or a list or an object with ``tools``, or an object with ``mcpServers``.

    Raises:
        Hermes3Error: it cannot be read, or fails when it is run.
        FormatError: there are no tools in it.
        RequestError: a tool that cannot be honoured; ``param`` names it.
    """
    if path.suffix == ".py":
        return _of_module(loaded(path), path)
    if path.suffix != ".json":
        raise FormatError(
            f"{path} must be a .py file of functions, or a .json file of tools or of MCP servers"
        )
    return _of_json(json_in(path), path)


def loaded(path: Path) -> ModuleType:
    """A Python file, run as a module; like a script it may import what lies beside it.

    Raises:
        Hermes3Error: there is no such file, or it fails.
    """
    if not path.is_file():
        raise Hermes3Error(f"there is no file {path}")
    name = f"hermes3_file_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise Hermes3Error(f"{path} cannot be loaded as a Python module")
    module = importlib.util.module_from_spec(spec)
    folder = str(path.resolve().parent)
    if folder not in sys.path:
        sys.path.insert(0, folder)
    sys.modules[name] = module  # where type hints are looked up
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        what = traceback.format_exception_only(error)[-1].strip()
        raise Hermes3Error(f"{path}{_line_in(error, path)} fails: {what}") from error
    return module


def named(spec: str) -> Any:
    """What ``file.py:Name`` names.

    Raises:
        Hermes3Error: there is no such file or name, or the file fails.
    """
    file, _, name = spec.rpartition(":")
    module = loaded(Path(file))
    if not hasattr(module, name):
        raise Hermes3Error(f"{file} has no {name!r}")
    return getattr(module, name)


def json_in(path: Path) -> Any:
    """The value of a JSON file.

    Raises:
        Hermes3Error: it cannot be read.
        FormatError: it is not JSON.
    """
    try:
        return read_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise Hermes3Error(f"{path} cannot be read: {error.strerror}") from error
    except json.JSONDecodeError as error:
        raise FormatError(f"{path} is not JSON: {error}") from error
    except ValueError as error:
        raise FormatError(f"{path} is not UTF-8, or not JSON: {str(error)[:200]}") from error


def _of_module(module: ModuleType, path: Path) -> Found:
    given = getattr(module, "TOOLS", None)
    if given is not None:
        if not isinstance(given, (list, tuple)):
            raise FormatError(f"TOOLS in {path} must be a list, not {type(given).__name__}")
        return Found(actions_of(given, param=f"TOOLS in {path.name}"))
    functions = [each for each in vars(module).values() if _is_meant(each, module)]
    if not functions:
        raise FormatError(f"{path} has no tools: no TOOLS, and no public function with a docstring")
    return Found(actions_of(functions, param=path.name))


def _is_meant(value: object, module: ModuleType) -> bool:
    """A public function with a docstring, of this module and not only imported there."""
    return (
        inspect.isfunction(value)
        and value.__module__ == module.__name__
        and not value.__name__.startswith("_")
        and bool((value.__doc__ or "").strip())
    )


def _of_json(raw: Any, path: Path) -> Found:
    if isinstance(raw, Mapping) and "mcpServers" in raw:
        servers = raw["mcpServers"]
        if not isinstance(servers, dict) or not servers:
            raise FormatError(f"mcpServers in {path} must be an object with an entry for each server")
        return Found(servers=parse_servers(servers))
    if isinstance(raw, Mapping):
        raw = raw.get("tools", [raw])
    if not isinstance(raw, list) or not raw:
        raise FormatError(f"{path} holds neither a list of OpenAI's tools nor mcpServers")
    return Found(tools=parse_tools(raw, param=f"{path.name}: tools"))


def _line_in(error: BaseException, path: Path) -> str:
    """``, line 3``: where in a file an error came from; empty where that is not known."""
    if isinstance(error, SyntaxError):
        return f", line {error.lineno}" if error.lineno else ""
    lines = [
        frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)
    ]
    return f", line {lines[-1]}" if lines else ""
