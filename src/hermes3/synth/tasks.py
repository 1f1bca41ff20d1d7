"""What is to be written: conversations that begin with seed prompts, or need the tools of a set."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hermes3.errors import FormatError, RequestError
from hermes3.prompt.messages import Tool
from hermes3.prompt.tools import to_openai
from hermes3.train.data.rows import Fault, Rows
from hermes3.train.data.tools import tools_of


@dataclass(frozen=True, slots=True)
class Settings:
    """How conversations are written; all of it is part of a task's id.

    Attributes:
        teacher: name of the model that writes.
        n: conversations of each seed prompt and tool set.
        turns: requests of the user in each.
        temperature, max_tokens: of every answer.
        seed: of the random numbers, together with the task's id.
    """

    teacher: str
    n: int = 1
    turns: int = 1
    temperature: float = 0.8
    max_tokens: int = 1024
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Task:
    """One conversation to be written.

    Attributes:
        id: of what is asked for and the settings; the same in every run.
        source: where it comes from, file and line.
        number: which of the conversations of its source it is, from 0.
        prompt: the first request; None where the teacher is to think of one that needs the tools.
        system: the system message; None for none.
        tools: what may be called.
    """

    id: str
    source: str
    number: int
    prompt: str | None
    system: str | None
    tools: tuple[Tool, ...]

    def seed(self, step: int) -> int:
        """Seed of the random numbers of one of its answers."""
        digest = hashlib.blake2b(f"{self.id} {step}".encode(), digest_size=4).digest()
        return int.from_bytes(digest, "little") >> 1


@dataclass(frozen=True, slots=True)
class Source:
    """A seed prompt or a tool set as its file has it."""

    where: str
    prompt: str | None = None
    system: str | None = None
    tools: tuple[Tool, ...] = ()


def tasks_of(sources: Iterable[Source], settings: Settings) -> list[Task]:
    """All tasks, each once: sources that say the same are one.

    Raises:
        RequestError: there are none.
    """
    tasks: dict[str, Task] = {}
    for source in sources:
        for number in range(settings.n):
            task_id = _id_of(source, number, settings)
            task = Task(task_id, source.where, number, source.prompt, source.system, source.tools)
            tasks.setdefault(task_id, task)
    if not tasks:
        raise RequestError("there are no seed prompts and no tools to write from", param="seeds")
    return list(tasks.values())


def read_seeds(path: Path) -> Iterator[Source]:
    """Seed prompts of a file: lines of a .txt, or rows with prompt (or instruction, input), system, tools.

    Raises:
        FormatError: a row that is no seed.
    """
    if path.suffix == ".txt":
        yield from _lines(path)
        return
    for where, row in _rows(path):
        prompt = row.get("prompt", row.get("instruction"))
        given = row.get("input") or ""
        if not isinstance(prompt, str) or not prompt.strip() or not isinstance(given, str):
            raise FormatError(f"{where}: a seed has a prompt (or instruction and input), a text")
        text = f"{prompt}\n\n{given}" if given else prompt
        yield Source(where, text, _system(where, row), _tools(where, row))


def read_tools(path: Path) -> Iterator[Source]:
    """Tool sets of a file: rows with tools (and system); or tools, which are one set together.

    Raises:
        FormatError: a row that is neither.
    """
    alone: list[dict[str, Any]] = []
    for where, row in _rows(path):
        if "tools" not in row:
            alone.append(row)
        elif tools := _tools(where, row):
            yield Source(where, None, _system(where, row), tools)
        else:
            raise FormatError(f"{where}: the set of tools is empty")
    if alone:
        where = f"{path.name}:1"
        yield Source(where, tools=_tools(where, {"tools": alone}))


def _lines(path: Path) -> Iterator[Source]:
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise FormatError(f"{path} cannot be read: {error}") from error
    for number, line in enumerate(lines, 1):
        if line.strip():
            yield Source(f"{path.name}:{number}", line.strip())


def _rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    for row in Rows(path):
        if isinstance(row, Fault):
            raise FormatError(str(row))
        yield f"{path.name}:{row.line}", row.value


def _system(where: str, row: dict[str, Any]) -> str | None:
    system = row.get("system")
    if not isinstance(system, str | None):
        raise FormatError(f"{where}: system must be a text")
    return system or None


def _tools(where: str, row: dict[str, Any]) -> tuple[Tool, ...]:
    try:
        return tools_of(row.get("tools"), "tools").tools
    except RequestError as error:
        raise FormatError(f"{where}: {error}") from error


def _id_of(source: Source, number: int, settings: Settings) -> str:
    asked = {**asdict(settings), "n": 0}  # more of each does not change those that are there
    what = [source.prompt, source.system, openai_tools(source.tools), number, asked]
    return hashlib.blake2b(json.dumps(what, sort_keys=True).encode(), digest_size=8).hexdigest()


def openai_tools(tools: Sequence[Tool]) -> list[dict[str, Any]]:
    """Tools as OpenAI writes them."""
    return [to_openai(tool) for tool in tools]
