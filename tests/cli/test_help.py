"""Help teaches, its examples are right, and it comes at once."""

from __future__ import annotations

import re
import resource
import shlex
import subprocess
import sys
from functools import cache

import pytest

from tests.cli.program import ROOT, hermes3

COMMANDS = ["chat", "call", "json", "pull", "serve", "batch", "convert", "quantize", "compare", "eval",
            "card", "bench", "doctor", "data", "train"]  # fmt: skip
GROUPS = {"data": ["check", "show", "synth"], "train": ["sft", "dpo", "plan", "teacher", "recipe"]}
LEAVES = [f"{name} {part}".strip() for name in COMMANDS for part in GROUPS.get(name, [""])]
HEAVY = {"torch", "numpy", "rich", "prompt_toolkit", "tokenizers", "huggingface_hub", "fastapi", "jinja2",
         "hermes3._native", "hermes3.engine"}  # fmt: skip


@cache
def help_of(*command: str) -> str:
    return hermes3(*command, "--help").stdout


def options_in(text: str) -> set[str]:
    return set(re.findall(r"(?<![\w-])--?[a-zA-Z][\w-]*", text))


def test_the_program_lists_its_commands() -> None:
    shown = help_of()
    listed = re.findall(r"^  (\w+) ", shown.partition("Commands:")[2], re.MULTILINE)
    assert listed == COMMANDS
    assert "hf:owner/repo[:file]" in shown


@pytest.mark.parametrize("name", GROUPS)
def test_a_group_lists_its_commands(name: str) -> None:
    shown = help_of(name)
    assert re.findall(r"^  (\w+) ", shown.partition("Commands:")[2], re.MULTILINE) == GROUPS[name]
    assert all(f"hermes3 {name} {part}" in shown for part in GROUPS[name])


@pytest.mark.parametrize("name", LEAVES)
def test_examples_use_options_that_exist(name: str) -> None:
    shown = help_of(*name.split())
    about, _, listed = shown.partition("Options:")
    examples = [shlex.split(line)[2:] for line in re.findall(rf"hermes3 {name}[^|<>\n]*", about)]
    assert len(examples) >= 2
    used = {word for words in examples for word in words if re.match("--?[a-z]", word)}
    assert used <= options_in(listed)


def test_every_option_says_what_it_does() -> None:
    for name in LEAVES:
        listed = help_of(*name.split()).partition("Options:")[2]
        rows = re.findall(r"^  (-.*(?:\n {4,}.*)*)", listed, re.MULTILINE)
        assert rows
        assert [row for row in rows if not re.search(r"\s{2,}[A-Z0-9].* .*\.", row)] == []


def test_no_arguments_is_help() -> None:
    done = hermes3()
    assert "hermes3 chat" in done.stdout + done.stderr
    assert done.returncode == 2


def test_version() -> None:
    assert re.match(r"hermes3( \d+\.\d+\.\d+|, run from its sources)$", hermes3("--version").stdout)


def test_unknown_command_and_option() -> None:
    for arguments in (["frobnicate"], ["chat", "--frobnicate"]):
        done = hermes3(*arguments)
        assert done.returncode == 2
        assert "frobnicate" in done.stderr
        assert "Traceback" not in done.stderr


HELPS = [["--help"], *([*name.split(), "--help"] for name in LEAVES)]


@pytest.mark.parametrize("arguments", HELPS, ids=" ".join)
def test_help_loads_little(arguments: list[str]) -> None:
    code = f"""
import sys
from hermes3.cli import main
sys.argv[1:] = {arguments}
try: main()
finally: print(*sys.modules, file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert "Usage: hermes3" in done.stdout
    assert HEAVY & set(done.stderr.split()) == set()


def test_help_comes_at_once() -> None:
    """In seconds of computing: how long that takes is for others on the machine to say."""
    seconds = []
    for _ in range(5):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        hermes3("--help")
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(seconds) < 0.5
