"""The program as its users run it, with its real model or one that reports what it was asked."""

from __future__ import annotations

import io
import json
import os
import re
import select
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
REAL = "from hermes3.cli import main; main()"
FAKE = "from tests.cli.program import main_with_fake; main_with_fake()"
SCRIPTED = "from tests.cli.program import main_with_script; main_with_script()"
QUICK = "from tests.cli.program import main_with_limits; main_with_limits()"
ESCAPES = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b[()][A-B0-2]|\x1b[=>78]")
WAIT_S = 10


def command(*arguments: str, program: str = REAL) -> list[str]:
    return [sys.executable, "-c", program, *arguments]


def hermes3(
    *arguments: str, stdin: bytes = b"", program: str = REAL, **env: str
) -> subprocess.CompletedProcess[str]:
    """Run to the end; `stdin` comes through a pipe."""
    done = subprocess.run(
        command(*arguments, program=program), input=stdin, capture_output=True, timeout=60, cwd=ROOT,
        env=os.environ | env,
    )  # fmt: skip
    return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())


def inside(*arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[str]:
    """The same in this process, which is quicker; for what needs no model and no signal."""
    from hermes3.cli import main

    out, err = io.StringIO(), io.StringIO()
    with tempfile.TemporaryFile("w+b") as pipe, pytest.MonkeyPatch.context() as patch:
        pipe.write(stdin)
        pipe.seek(0)
        patch.setattr(sys, "argv", ["hermes3", *arguments])
        patch.setattr(sys, "stdin", io.TextIOWrapper(pipe))
        with redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as ended:
            main()
    code = ended.value.code
    assert isinstance(code, int)
    return subprocess.CompletedProcess(list(arguments), code, out.getvalue(), err.getvalue())


class Terminal:
    """A program on a terminal: what it shows, and keys for it."""

    def __init__(self, master: int, process: subprocess.Popen[bytes]) -> None:
        self._master, self.process = master, process
        self._raw = b""
        self._seen = 0  # characters of `text` that were expected already

    @property
    def text(self) -> str:
        """All that was shown, without what moves and colours."""
        return ESCAPES.sub("", self._raw.decode(errors="replace")).replace("\r", "")

    def press(self, keys: str) -> None:
        os.write(self._master, keys.encode())

    def say(self, line: str) -> None:
        self.press(f"{line}\r")

    def interrupt(self) -> None:
        """Ctrl-C while the program works: the terminal makes a signal of it, once no prompt reads keys."""
        end = time.monotonic() + WAIT_S
        while not termios.tcgetattr(self._master)[3] & termios.ISIG:
            assert time.monotonic() < end, "the prompt does not end"
            time.sleep(0.01)
        self.press("\x03")

    def expect(self, pattern: str) -> re.Match[str]:
        """Wait until a pattern comes, after what was expected before."""
        end = time.monotonic() + WAIT_S
        while True:
            found = re.compile(pattern).search(self.text, self._seen)
            if found:
                self._seen = found.end()
                return found
            assert self._read(end - time.monotonic()), f"{pattern!r} did not come; after it:\n{self.tail()}"

    def tail(self) -> str:
        return self.text[self._seen :]

    def finish(self) -> int:
        """Exit code; whatever comes till then is read."""
        end = time.monotonic() + WAIT_S
        while self._read(end - time.monotonic()):
            pass
        return self.process.wait(timeout=WAIT_S)

    def _read(self, timeout: float) -> bool:
        """Whether something came; not after the end."""
        try:
            ready = timeout > 0 and select.select([self._master], [], [], timeout)[0]
            piece = os.read(self._master, 65536) if ready else b""
        except OSError:  # Linux: the other side is closed
            return False
        self._raw += piece
        return bool(piece)


@contextmanager
def terminal(*arguments: str, program: str = FAKE, **env: str) -> Iterator[Terminal]:
    """The program on a terminal of its own, 100 columns wide."""
    master, slave = os.openpty()
    plain = {"TERM": "xterm-256color", "PROMPT_TOOLKIT_NO_CPR": "1", "COLUMNS": "100", "LINES": "50"}
    process = subprocess.Popen(
        command(*arguments, program=program), stdin=slave, stdout=slave, stderr=slave, cwd=ROOT,
        env=os.environ | plain | env, preexec_fn=lambda: os.login_tty(os.dup(slave)),
    )  # fmt: skip
    os.close(slave)
    try:
        yield Terminal(master, process)
    finally:
        process.kill()
        process.wait()
        os.close(master)


def report(ids: list[int], params: object) -> list[int]:
    """What the model was asked, as its answer; or what the question asks for."""
    from tests.llm.fakes import FakeTokenizer

    turns = FakeTokenizer().decode(ids).split("<|im_start|>")[1:-1]
    roles, texts = zip(*(turn.removesuffix("<|im_end|>\n").split("\n", 1) for turn in turns), strict=True)
    question = texts[-1]
    if question == "slow":
        print("thinking", file=sys.stderr, flush=True)
        time.sleep(1)
    if question == "long":
        answer = "word " * 2000
    elif question == "clear":
        answer = "\x1b[2Jstill here"
    else:
        system = texts[0] if roles[0] == "system" else None
        answer = f"<{len(turns)} messages, {system=}, t={params.temperature}, {question=}>"
    return list(answer.encode())


def with_fake(patch: pytest.MonkeyPatch) -> None:
    """`hermes3 chat` gets a model that reports what it was asked, a byte in 2 ms."""
    from tests.llm.fakes import fake_llm

    llm, _ = fake_llm(report, step_s=0.002, n_ctx=20000)
    patch.setattr("hermes3.llm.LLM", lambda *arguments, **named: llm)
    patch.setattr("hermes3.cli.chat.located", lambda model: ("fake", Path("Fake-1B.Q4_0.gguf")))


def with_limits(patch: pytest.MonkeyPatch) -> None:
    """`bench` and `doctor` know what the machine can do without the seconds that it takes to measure it."""
    patch.setattr("hermes3.cli.roofline.Limits.now", known_limits)


def known_limits(seconds: float) -> object:
    from hermes3.cli.roofline import Limits

    return Limits(read_gb_s=20.0, int8_gop_s=300.0)


def with_script(patch: pytest.MonkeyPatch, *answers: str) -> list[str]:
    """`hermes3` gets a model that gives these answers in turn; the prompts that it was asked."""
    from tests.agent.scripted import scripted

    llm, prompts = scripted(*answers)
    patch.setattr("hermes3.llm.LLM", lambda *arguments, **named: llm)
    patch.setattr("hermes3.cli.chat.located", lambda model: ("fake", Path("Fake-1B.Q4_0.gguf")))
    return prompts


def main_with_script() -> None:
    """The same as a program: the answers are lines of JSON in HERMES3_TEST_ANSWERS."""
    from hermes3.cli import main

    with_script(pytest.MonkeyPatch(), *map(json.loads, os.environ["HERMES3_TEST_ANSWERS"].splitlines()))
    main()


def main_with_limits() -> None:
    from hermes3.cli import main

    with_limits(pytest.MonkeyPatch())
    main()


def main_with_fake() -> None:
    from hermes3.cli import main

    with_fake(pytest.MonkeyPatch())
    main()
