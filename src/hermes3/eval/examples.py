"""Examples for a card, run as its reader would run them: in a process of their own, in the model's folder."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from hermes3.errors import RequestError

TIME_LIMIT_S = 900.0
_SOURCES = str(Path(__file__).parents[2])  # so that the examples run this hermes3 and no other

_CHAT = """\
from hermes3 import LLM

messages = [
    {"role": "system", "content": "You are a helpful assistant. Answer in one or two sentences."},
    {"role": "user", "content": "What is the capital of France, and what is it known for?"},
]
with LLM(MODEL, n_ctx=2048) as llm:
    print(llm.chat(messages, temperature=0.0, max_tokens=120).text)
"""


@dataclass(frozen=True, slots=True)
class Example:
    """A piece of Python and what it printed."""

    title: str
    code: str
    output: str


def run_all(model: Path) -> list[Example]:
    """Runs every example on a model.

    Raises:
        RequestError: one of them failed, or took longer than the limit.
    """
    return [Example(title, code, _output(title, code, model)) for title, code in _codes(model)]


def _codes(model: Path) -> list[tuple[str, str]]:
    spec = "." if model.is_dir() else f"./{model.name}"
    return [(title, code.replace("MODEL", repr(spec))) for title, code in (("Chat", _CHAT),)]


def _output(title: str, code: str, model: Path) -> str:
    path = os.pathsep.join(filter(None, [_SOURCES, os.environ.get("PYTHONPATH")]))
    try:
        done = subprocess.run(
            [sys.executable, "-c", code],
            cwd=model if model.is_dir() else model.parent,
            env={**os.environ, "PYTHONPATH": path, "PYTHONUTF8": "1"},
            capture_output=True,
            encoding="utf-8",
            timeout=TIME_LIMIT_S,
        )
    except subprocess.TimeoutExpired as error:
        took = f"the example {title!r} took more than {TIME_LIMIT_S:.0f} s"
        raise RequestError(f"{took}: --no-run leaves the examples out") from error
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise RequestError(f"the example {title!r} failed ({last}): --no-run leaves the examples out")
    return done.stdout.rstrip("\n")
