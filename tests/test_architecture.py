"""Floors: every import points down, never sideways. Read from the syntax trees, so lazy imports count too."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "src" / "hermes3"
FLOORS = [
    {"errors", "ordered"},
    {"prompt", "tokenizer", "weights", "_native"},
    {"engine", "train", "convert"},
    {"llm"},
    {"agent", "server", "eval", "compare", "synth"},
    {"__init__"},  # the front door
    {"cli"},
    {"__main__"},
]
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
ONLY_IN = {  # third-party library -> the rooms that may import it
    "torch": {"train"},
    "lm_eval": {"eval"},
    **{library: {"server"} for library in ("fastapi", "starlette", "uvicorn", "opentelemetry")},
    **{library: {"cli"} for library in ("typer", "rich", "prompt_toolkit")},
    "huggingface_hub": {"weights"},
    "pydantic": {"prompt", "server", "agent"},
    "pydantic_settings": {"server"},
    "mcp": {"agent"},
    "openai": {"synth"},
    "tokenizers": {"tokenizer"},
    "llguidance": {"engine"},
    "vllm": {"engine"},
    "ray": {"server"},
    **{oracle: set() for oracle in ("transformers", "trl", "peft", "gguf", "llama_cpp")},
}
NEVER_IN = {  # room -> what it must not know
    "prompt": {"numpy", "os", "io", "pathlib", "socket", "urllib", "http", "subprocess", "requests"},
    "engine": {"hermes3.prompt", "hermes3.tokenizer"},  # numbers, never text
}
FILES = sorted(SOURCE.rglob("*.py"))
NO_NAMES = {"utils", "util", "common", "base", "core", "helpers", "misc"}  # they say nothing
CLI_MAY_LOAD = {"typer", "click", "hermes3"}  # whatever more it loads, `hermes3 --help` waits for


def room_of(file: Path) -> str:
    return file.relative_to(SOURCE).parts[0].removesuffix(".py")


def imports(file: Path, tree: ast.AST) -> Iterator[str]:
    """Absolute dotted names of all that is imported anywhere in the tree, `from a import b` as a.b."""
    package = ["hermes3", *file.relative_to(SOURCE).parent.parts]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{module}.{alias.name}" for alias in node.names)


def room_imported(name: str) -> str | None:
    """The room that a dotted name of ours lies in; the front door for what `hermes3` itself exports."""
    parts = name.split(".")
    if parts[0] != "hermes3":
        return None
    return parts[1] if len(parts) > 1 and parts[1] in FLOOR_OF else "__init__"


def complaints(file: Path, tree: ast.AST) -> Iterator[str]:
    room = room_of(file)
    for name in imports(file, tree):
        library, target = name.split(".")[0], room_imported(name)
        if target and target != room and FLOOR_OF[target] >= FLOOR_OF[room]:
            yield f"{room} imports {name}, which is not below it"
        if room not in ONLY_IN.get(library, {room}):
            yield f"{room} imports {library}, which only {sorted(ONLY_IN[library])} may"
        if any(name == banned or name.startswith(f"{banned}.") for banned in NEVER_IN.get(room, ())):
            yield f"{room} imports {name}, which it must not know"


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(SOURCE)))
def test_imports_point_down(file: Path) -> None:
    assert room_of(file) in FLOOR_OF, f"{file} belongs to no floor: see docs/architecture.md"
    assert list(complaints(file, ast.parse(file.read_text()))) == []


def test_modules_are_named_after_what_they_do() -> None:
    assert [file for file in FILES if NO_NAMES & {part.removesuffix(".py") for part in file.parts[-2:]}] == []


def test_the_rules_bite() -> None:
    bad = {
        "engine/x.py": "def f():\n    from hermes3.llm import LLM",
        "weights/x.py": "from .. import tokenizer",
        "prompt/x.py": "import numpy as np",
        "engine/y.py": "import torch",
        "llm.py": "from hermes3 import Message",
    }
    for path, text in bad.items():
        assert len(list(complaints(SOURCE / path, ast.parse(text)))) == 1, path
    assert list(complaints(SOURCE / "llm.py", ast.parse("from hermes3.engine import engine"))) == []


def loaded_with(module: str, seen: dict[str, set[str]]) -> None:
    """Follow what runs when `module` is imported: the imports at the top level of it and of its packages."""
    path = SOURCE.parent.joinpath(*module.split("."))
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    if module in seen or not file.is_file():
        return
    body = ast.parse(file.read_text()).body
    top: list[ast.stmt] = [node for node in body if isinstance(node, ast.Import | ast.ImportFrom)]
    seen[module] = set(imports(file, ast.Module(body=top, type_ignores=[])))
    for name in [module, *seen[module]]:
        parts = name.split(".")
        for end in range(1, len(parts) + 1):
            loaded_with(".".join(parts[:end]), seen)


def test_cli_imports_inside_its_commands() -> None:
    seen: dict[str, set[str]] = {}
    loaded_with("hermes3.cli", seen)
    assert "hermes3.cli" in seen
    allowed = CLI_MAY_LOAD | set(sys.stdlib_module_names)
    heavy = {f"{module} loads {name}" for module, names in seen.items() for name in names
             if name.split(".")[0] not in allowed}
    assert heavy == set()
