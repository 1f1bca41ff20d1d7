"""`serve` and `batch` with --engine vllm as processes: signals, kills, and who is left behind by them."""

from __future__ import annotations

import json
import os
import queue
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import openai
import pytest

from tests.cli.program import ROOT, command
from tests.engines import folder_of
from tests.server.test_batch import answers, request, written
from tests.server.test_both_engines import PARIS, SCHEMA, TOOLS

pytestmark = [pytest.mark.long, pytest.mark.timeout(3000), pytest.mark.usefixtures("vllm_installed")]
WAIT_S = 900  # on a machine that others use, and stop for minutes
OPTIONS = (
    "--engine",
    "vllm",
    "--ctx",
    "512",
    "--dtype",
    "float32",
    "--enforce-eager",
    "--served-model-name",
    "m",
)
LIMITS = [word for name in ("drain_s", "stall_s", "watchdog_s") for word in ("--limit", f"{name}={WAIT_S}")]
Process = tuple[int, str]  # its id and when it began, which ids that come again differ in


@pytest.fixture(scope="module")
def folder(smol_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folder_of(smol_gguf, tmp_path_factory.mktemp("model"))


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")


def wait_until(condition: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.05)


def all_processes() -> dict[Process, int]:
    """Each with its parent's id; none of those that have ended and wait to be asked for how."""
    found = {}
    for entry in Path("/proc").iterdir():
        with suppress(OSError):
            if entry.name.isdigit():
                state, parent, *rest = (entry / "stat").read_text().rpartition(")")[2].split()
                if state != "Z":
                    found[int(entry.name), rest[17]] = int(parent)
    return found


def below(pid: int) -> set[Process]:
    """Children of a process, theirs, and so on."""
    processes = all_processes()
    found: set[Process] = set()
    ids = {pid}
    while ids:
        new = {each for each, parent in processes.items() if parent in ids} - found
        found |= new
        ids = {each[0] for each in new}
    return found


def titles(processes: set[Process]) -> str:
    names = []
    for pid, _ in processes:
        with suppress(OSError):
            names.append(Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()[:80])
    return "; ".join(names)


def assert_gone(processes: set[Process]) -> None:
    wait_until(lambda: not processes & all_processes().keys(), f"left behind: {titles(processes)}")


class Served:
    """A server and what it says."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.log: list[str] = []
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        self.reader = threading.Thread(target=self._read)
        self.reader.start()

    def _read(self) -> None:
        for line in self.process.stderr or ():
            self._lines.put(line)
        self._lines.put("")

    def until(self, pattern: str) -> re.Match[str]:
        while True:
            self.log.append(self._lines.get(timeout=WAIT_S))
            if found := re.search(pattern, self.log[-1]):
                return found
            assert self.log[-1], f"it ended before {pattern!r}: {self.log[-30:]}"

    def ended(self) -> int:
        code = self.process.wait(WAIT_S)
        while line := self._lines.get(timeout=WAIT_S):
            self.log.append(line)
        return code


@contextmanager
def serving(folder: Path) -> Iterator[Served]:
    """In a session and a process group of its own, as a terminal has it."""
    words = command("serve", *OPTIONS, *LIMITS, "--model", str(folder), "--port", "0")
    with subprocess.Popen(
        words, cwd=ROOT, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        served = Served(process)
        try:
            yield served
        finally:
            process.kill()
            served.reader.join(WAIT_S)


def address_of(served: Served) -> str:
    address = served.until(r"serving m at (http://[\d.]+:\d+)")[1]
    wait_until(lambda: httpx.get(f"{address}/ready").status_code == 200, "not ready")
    return address


def chunks(lines: Iterator[str]) -> Iterator[str]:
    """What a stream says, and its last line."""
    for line in lines:
        if line.startswith("data: {"):
            for choice in json.loads(line.removeprefix("data: "))["choices"]:
                yield choice["delta"].get("content") or ""
        elif line:
            yield line


@contextmanager
def streaming(address: str, n: int) -> Iterator[Iterator[str]]:
    """A stream of n tokens; its first text has come."""
    body = {
        "model": "m",
        "messages": PARIS,
        "max_tokens": n,
        "ignore_eos": True,
        "stream": True,
        "temperature": 0,
    }
    with httpx.stream("POST", f"{address}/v1/chat/completions", json=body, timeout=WAIT_S) as answer:
        texts = chunks(answer.iter_lines())
        next(text for text in texts if text and not text.startswith(":"))
        yield texts


def check_answers(address: str) -> None:
    given: dict[str, Any] = {"model": "m", "messages": PARIS, "temperature": 0, "max_tokens": 200}
    form = {"type": "json_schema", "json_schema": {"name": "it", "schema": SCHEMA}}
    with openai.OpenAI(base_url=f"{address}/v1", api_key="none", timeout=WAIT_S, max_retries=0) as client:
        ask = client.chat.completions.create
        whole = ask(**given).choices[0].message.content
        assert whole is not None
        assert "Paris" in whole
        stream = [
            chunk.choices[0].delta.content or "" for chunk in ask(stream=True, **given) if chunk.choices
        ]
        assert ("".join(stream), len(stream) > 4) == (whole, True)
        wanted = {"type": "function", "function": {"name": "visit"}}
        held = {"tools": TOOLS[:1], "tool_choice": wanted, "parallel_tool_calls": False}
        (call,) = ask(**held, **given).choices[0].message.tool_calls or ()
        jsonschema.validate(json.loads(call.function.arguments), SCHEMA)
        told = ask(response_format=form, **given).choices[0].message.content
        jsonschema.validate(json.loads(told or ""), SCHEMA)


@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGINT])
def test_it_answers_and_a_signal_lets_answers_finish(folder: Path, sign: signal.Signals) -> None:
    """SIGTERM to the server, as a supervisor sends it; SIGINT to all of its group, as a terminal does."""
    with serving(folder) as served:
        address = address_of(served)
        processes = below(served.process.pid)
        assert "VLLM::EngineCore" in titles(processes)
        if sign == signal.SIGTERM:
            check_answers(address)
        with streaming(address, 300) as texts:
            (os.killpg if sign == signal.SIGINT else os.kill)(served.process.pid, sign)
            wait_until(lambda: refuses(address), "it takes new requests")
            *rest, last = texts
        assert (last, len("".join(rest)) > 100) == ("data: [DONE]", True)
        assert served.ended() == 0
        assert_gone(processes)
        log = "".join(served.log)  # what others say at Python's end comes behind our last word
        assert (log.count("INFO stopped\n"), "Traceback" in log) == (1, False), log


def refuses(address: str) -> bool:
    try:
        httpx.get(f"{address}/health")
    except httpx.TransportError:
        return True
    return False


def test_killed_it_leaves_nobody_behind(folder: Path) -> None:
    with serving(folder) as served:
        address = address_of(served)
        processes = below(served.process.pid)
        assert "VLLM::EngineCore" in titles(processes)
        with suppress(httpx.TransportError), streaming(address, 400) as texts:
            served.process.kill()
            list(texts)
        assert served.ended() == -signal.SIGKILL
        assert_gone(processes)


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGKILL])
def test_ended_while_it_starts(folder: Path, sign: signal.Signals) -> None:
    with serving(folder) as served:
        served.until("starting vLLM")
        pid = served.process.pid
        wait_until(lambda: "VLLM::EngineCore" in titles(below(pid)), "no process of vLLM's")
        processes = below(pid)
        os.killpg(pid, sign) if sign == signal.SIGINT else os.kill(pid, sign)
        assert served.ended() == (130 if sign == signal.SIGINT else -sign)
        assert_gone(processes)
        assert "serving m at" not in "".join(served.log)


def test_a_batch_killed_goes_on(folder: Path, tmp_path: Path) -> None:
    lines = [request(f"r{i}", f"Count to {i}.", model="m", max_tokens=40, temperature=0) for i in range(40)]
    lines[7]["body"]["temperature"] = 0.001
    lines[8]["body"]["response_format"] = {
        "type": "json_schema",
        "json_schema": {"name": "it", "schema": SCHEMA},
    }
    source, target = written(tmp_path / "in", lines), tmp_path / "out"
    words = command("batch", str(source), str(target), "--at-once", "4", "--model", str(folder), *OPTIONS)

    def n_answers() -> int:
        return target.read_bytes().count(b"\n") if target.exists() else 0

    with subprocess.Popen(words, cwd=ROOT, stderr=subprocess.DEVNULL) as process:
        wait_until(lambda: n_answers() >= 6 or process.poll() is not None, "no answers")
        processes = below(process.pid)
        process.kill()
    assert 6 <= (n_before := n_answers()) < 40
    assert_gone(processes)
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=WAIT_S)
    assert done.returncode == 0, done.stderr
    assert f"40 lines answered, {n_before} of them by an earlier run" in done.stderr
    found = answers(target)
    assert found.keys() == {line["custom_id"] for line in lines}
    bad = {
        name: answer["body"]["error"]["param"]
        for name, answer in found.items()
        if answer["status_code"] != 200
    }
    assert bad == {"r7": "temperature"}
    jsonschema.validate(json.loads(found["r8"]["body"]["choices"][0]["message"]["content"]), SCHEMA)
