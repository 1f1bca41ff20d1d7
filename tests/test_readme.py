"""What the README tells people to type exists and works."""

from __future__ import annotations

import ast
import importlib
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
import venv
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
SHELL = [line for language, block in BLOCKS if language == "sh" for line in block.splitlines()]
PYTHON = [block for language, block in BLOCKS if language == "python"]
GROUPS = {"data", "train"}  # commands that have commands of their own
FIRST_BLOCK = BLOCKS[0][1].splitlines()


def words_of(program: str) -> list[list[str]]:
    """The arguments of each call of a program in the README's shell lines, comments and pipes removed."""
    commands = [part for line in SHELL for part in line.split("#")[0].split(" | ")]
    return [words[1:] for words in map(shlex.split, commands) if words and words[0] == program]


@cache
def help_of(*command: str) -> str:
    plain = {**os.environ, "COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"}
    arguments = [sys.executable, "-c", "from hermes3.cli import main; main()", *command, "--help"]
    done = subprocess.run(arguments, capture_output=True, text=True, env=plain, timeout=60)
    assert done.returncode == 0, f"hermes3 {' '.join(command)} --help: {done.stderr}"
    return done.stdout


def test_the_first_block_is_the_two_commands() -> None:
    assert FIRST_BLOCK == ["pip install .", 'hermes3 chat --model smol "What is the capital of France?"']


@pytest.mark.parametrize("words", words_of("hermes3"), ids=" ".join)
def test_commands_exist_with_their_options(words: list[str]) -> None:
    assert words[0] in help_of()
    command = words[: 2 if words[0] in GROUPS else 1]
    named = set(re.findall(r"(?<![\w-])--?[a-z][\w-]*", help_of(*command)))
    assert {word.split("=")[0] for word in words if word.startswith("-")} <= named


@pytest.mark.parametrize("words", words_of("make"), ids=" ".join)
def test_make_targets_exist(words: list[str]) -> None:
    assert f"\n{words[0]}:" in (ROOT / "Makefile").read_text()


@pytest.mark.parametrize("block", PYTHON, ids=range(len(PYTHON)))
def test_python_imports_exist(block: str) -> None:
    for node in ast.walk(ast.parse(block)):
        if isinstance(node, ast.ImportFrom):
            module = importlib.import_module(node.module or "")
            assert [name.name for name in node.names if not hasattr(module, name.name)] == []


def test_links_lead_somewhere() -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", README)
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


def copy_of_the_project(target: Path) -> None:
    """The files that git tracks or would track, as they are now: nothing that was built."""
    command = ["git", "-C", ROOT, "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True)
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)


@pytest.mark.long
@pytest.mark.timeout(900)
def test_the_two_commands_in_an_empty_environment(tmp_path: Path) -> None:
    project = tmp_path / "project"
    copy_of_the_project(project)
    venv.create(tmp_path / "venv", with_pip=True)
    path = f"{tmp_path / 'venv' / 'bin'}{os.pathsep}{os.environ['PATH']}"
    homes = {"HERMES3_HOME": str(tmp_path / "home"), "HF_HOME": str(tmp_path / "hf")}
    unset = {"PYTHONPATH", "VIRTUAL_ENV"}
    empty = {**{key: value for key, value in os.environ.items() if key not in unset}, "PATH": path, **homes}
    install, chat = FIRST_BLOCK
    subprocess.run(install, shell=True, cwd=project, env=empty, check=True)
    frozen = subprocess.run("pip freeze", shell=True, cwd=project, env=empty, capture_output=True, text=True)
    assert "torch" not in frozen.stdout

    with subprocess.Popen(chat, shell=True, cwd=tmp_path, env=empty, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        pieces = []
        while piece := os.read(process.stdout.fileno(), 65536):
            pieces.append((time.monotonic(), piece))
    answer = b"".join(piece for _, piece in pieces).decode()
    assert process.returncode == 0
    assert len(answer.split()) >= 2, answer
    assert len(pieces) >= 3, f"not streamed: {pieces}"
