"""A server left running among clients of every kind: memory and answers stay, and nothing is left over.

HERMES3_SOAK_S are the seconds (60; JOURNAL.md has figures of 1,800), of which the first fifth warms up.
"""

from __future__ import annotations

import json
import os
import random
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.server.fuzz import Fuzzer, answer

SECONDS = float(os.environ.get("HERMES3_SOAK_S", 60))
WARM_UP, N_WINDOWS, MOST_GROWTH = 0.2, 8, 0.02
N_CTX, N_AT_ONCE = 1024, 16
ARENA_BYTES = 64 << 20  # glibc's heaps of threads begin at multiples of it
KEPT_S = 1.0  # less than the server keeps idle connections: else one is closed as the next request comes
PATIENCE_S = 1800.0  # other programs may stop this one for minutes
# Bounds that would refuse healthy clients for what hostile ones ask, or take a process that was stopped
# for a wedged one.
# What may grow to a bound by design, the store of responses, is at its bound after a few.
LIMITS = (
    *("max_queued_tokens=100000000", "max_requests=4096", "max_stored_responses=20"),
    *(f"{name}=1800" for name in ("stall_s", "watchdog_s", "send_s", "body_s", "head_s")),
)
SCHEMA = {
    "type": "object",
    "properties": {"town": {"type": "string", "maxLength": 20}, "size": {"enum": ["small", "large"]}},
    "required": ["town", "size"],
    "additionalProperties": False,
}
TOOL = {"type": "function", "function": {"name": "look_up", "parameters": SCHEMA}}
FORM = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}
TEXTS = ("Where is the Eiffel Tower?", "Name a town by the sea.", "What is rain?", "Count to ten.")


def chats() -> Iterator[dict[str, Any]]:
    for seed, text in enumerate(TEXTS):
        for more in ({}, {"response_format": FORM}, {"tools": [TOOL], "tool_choice": "required"}):
            said = {"messages": [{"role": "user", "content": text}], "max_tokens": 60, "temperature": 1}
            yield {"model": "fake", "seed": seed, **said, **more, "stream": seed % 2 == 0}


ASKED: list[tuple[str, dict[str, Any]]] = [
    *(("/v1/chat/completions", body) for body in chats()),
    *(
        ("/v1/completions", {"model": "fake", "prompt": f"{text} " * 12, "seed": 7, "max_tokens": 40, "n": 2})
        for text in TEXTS
    ),
]


def told(response: httpx.Response) -> str:
    """What an answer says, streamed or not, without what differs from time to time."""
    if "text/event-stream" in response.headers["content-type"]:
        lines = [line[6:] for line in response.text.splitlines() if line.startswith("data: {")]
        choices = [choice for line in lines for choice in json.loads(line)["choices"]]
        said: list[Any] = ["".join(each["delta"].get("content") or "" for each in choices)]
        calls = [call["function"] for each in choices for call in each["delta"].get("tool_calls", ())]
        said += ["".join(call.get("name", "") + call["arguments"] for call in calls)]
        return json.dumps([*said, choices[-1]["finish_reason"]])
    choices = response.json()["choices"]
    for choice in choices:
        for call in choice.get("message", {}).get("tool_calls", ()):
            del call["id"]
    return json.dumps(choices)


@dataclass
class Soak:
    """Clients of one server, and what they saw."""

    address: str
    expected: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    over: threading.Event = field(default_factory=threading.Event)

    def client(self) -> httpx.Client:
        kept = httpx.Limits(keepalive_expiry=KEPT_S)
        return httpx.Client(base_url=self.address, timeout=PATIENCE_S, limits=kept)

    def learn(self) -> None:
        """Each answer alone, and every page of the cache touched once."""
        with self.client() as client:
            self.expected = [told(client.post(path, json=body)) for path, body in ASKED]
            source = random.Random(0)
            prompts = [[source.randrange(1000, 40_000) for _ in range(N_CTX - 8)] for _ in range(N_AT_ONCE)]
            with ThreadPoolExecutor(N_AT_ONCE) as pool:
                list(pool.map(lambda ids: self.fill(client, ids), prompts))

    def fill(self, client: httpx.Client, ids: list[int]) -> None:
        body = {"model": "fake", "prompt": ids, "max_tokens": 7, "ignore_eos": True}
        assert client.post("/v1/completions", json=body).status_code == 200

    def healthy(self, number: int) -> None:
        source = random.Random(number)
        with self.client() as client:
            while not self.over.is_set():
                index = source.randrange(len(ASKED))
                path, body = ASKED[index]
                got = client.post(path, json=body)
                said = told(got) if got.status_code == 200 else got.text
                if said != self.expected[index]:
                    self.wrong.append(f"{index}: {said[:500]} instead of {self.expected[index][:500]}")
                self.counts["healthy"] += 1

    def leaving(self, number: int) -> None:
        """Hangs up in the middle of a stream, or before a whole answer came."""
        source = random.Random(number)
        body = {"model": "fake", "prompt": "Once upon a time", "max_tokens": 300, "ignore_eos": True}
        while not self.over.is_set():
            with self.client() as client:
                if source.random() < 0.5:
                    with client.stream("POST", "/v1/completions", json={**body, "stream": True}) as got:
                        for _, _ in zip(range(source.randrange(40)), got.iter_lines(), strict=False):
                            pass
                else:
                    with suppress(httpx.TimeoutException):
                        client.post("/v1/completions", json=body, timeout=source.uniform(0.01, 2))
            self.counts["left"] += 1

    def cancelling(self, number: int) -> None:
        source = random.Random(number)
        body = {"model": "fake", "input": "Tell me a story.", "background": True, "max_output_tokens": 400}
        with self.client() as client:
            while not self.over.is_set():
                name = client.post("/v1/responses", json=body).json()["id"]
                time.sleep(source.uniform(0, 1))
                if source.random() < 0.5:
                    assert client.post(f"/v1/responses/{name}/cancel").status_code == 200
                assert client.delete(f"/v1/responses/{name}").status_code == 200
                self.counts["cancelled"] += 1

    def hostile(self, number: int) -> None:
        host, port = self.address.removeprefix("http://").split(":")
        for sent in Fuzzer(number):
            if self.over.is_set():
                return
            got = answer((host, int(port)), sent, PATIENCE_S)
            if b"internal_error" in got or got[9:12] == b"500":
                self.wrong.append(f"{sent.why}: {got[:500]!r} to {sent.raw[:1500]!r}")
            self.counts["hostile"] += 1

    def run(self, seconds: float) -> Iterator[None]:
        """All clients for so long; every half second it yields."""
        roles = [*[self.healthy] * 8, *[self.leaving] * 3, *[self.cancelling] * 2, *[self.hostile] * 3]
        end = time.monotonic() + seconds
        with ThreadPoolExecutor(len(roles)) as pool:
            running = [pool.submit(role, number) for number, role in enumerate(roles)]
            try:
                while time.monotonic() < end and not any(each.done() for each in running):
                    time.sleep(0.5)
                    yield
            finally:
                self.over.set()
        for each in running:
            each.result()


@contextmanager
def serving(model: Path) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    options = ["--served-model-name", "fake", "--port", str(port), "--ctx", str(N_CTX)]
    options += [word for limit in LIMITS for word in ("--limit", limit)]
    main = "from hermes3.cli import main; main()"
    command = [sys.executable, "-c", main, "serve", "-m", str(model), *options]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        wait_for(lambda: is_ready(f"http://127.0.0.1:{port}"))
        yield process, f"http://127.0.0.1:{port}"
        assert process.poll() is None, "the server ended"
    finally:
        process.kill()
        process.wait()


def is_ready(address: str) -> bool:
    try:
        return httpx.get(address + "/ready", timeout=PATIENCE_S).status_code == 200
    except httpx.TransportError:
        return False


def wait_for(what: Any) -> None:
    end = time.monotonic() + 300
    while not what():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)


def resident(pid: int) -> int:
    """Bytes of a process in memory."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


def mapped(pid: int) -> Counter[str]:
    """Bytes of a process in memory, by the files' names and by what other memory is for."""
    found, kind = Counter[str](), ""
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        word, *rest = line.split()
        if word == "Rss:":
            found[kind] += int(rest[0]) << 10
        elif not word.endswith(":"):
            begin = int(word.partition("-")[0], 16)
            own = "a thread's heap" if begin % ARENA_BYTES == 0 else "anonymous"
            kind = Path(rest[4]).name if len(rest) > 4 else own
    return found


def metric(address: str, name: str) -> float:
    lines = httpx.get(address + "/metrics", timeout=PATIENCE_S).text.splitlines()
    return next(float(line.split()[-1]) for line in lines if line.startswith(f"{name}{{"))


def mib(n_bytes: float) -> float:
    return round(n_bytes / 2**20, 1)


@pytest.mark.long
@pytest.mark.timeout(3 * SECONDS + 3600)
def test_soak(smol_gguf: Path) -> None:
    with serving(smol_gguf) as (process, address):
        soak, sizes, warm = Soak(address), list[int](), Counter[str]()
        soak.learn()
        end = time.monotonic() + WARM_UP * SECONDS
        for _ in soak.run(SECONDS):
            sizes.append(resident(process.pid))
            if not warm and time.monotonic() > end:
                warm = mapped(process.pid)
        grown = mapped(process.pid)
        grown.subtract(warm)
        wait_for(lambda: metric(address, "vllm:num_requests_running") == 0)
        pages, threads = metric(address, "vllm:kv_cache_usage_perc"), Path(f"/proc/{process.pid}/task")
        n_threads, n_files = (len(list(each.iterdir())) for each in (threads, threads.parent / "fd"))
    after = sizes[int(WARM_UP * len(sizes)) :]
    step = len(after) // N_WINDOWS
    medians = [statistics.median(after[at * step : (at + 1) * step]) for at in range(N_WINDOWS)]
    print(f"{dict(soak.counts)}; MiB by time {list(map(mib, medians))}")
    print(f"MiB after the warm-up: first {mib(after[0])}, last {mib(after[-1])}, most {mib(max(after))}")
    print("of that grew, in MiB:", {kind: mib(n) for kind, n in grown.most_common() if abs(n) > 1 << 18})
    print(f"{n_threads} threads and {n_files} open files at the end")
    assert soak.wrong == []
    assert {"healthy", "left", "cancelled", "hostile"} == set(soak.counts)
    assert pages == 0
    assert max(medians) <= (1 + MOST_GROWTH) * medians[0]
    assert n_files < 100
