"""Hostile requests beside healthy clients: nothing crashes, hangs or is a 500; the healthy notice nothing.

The number of the long test's requests is HERMES3_FUZZ (100,000), its time is bounded by HERMES3_FUZZ_S (600).
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice

import httpx
import pytest

from hermes3.server.app import create_app
from hermes3.server.deadlines import timed
from hermes3.server.limits import Limits
from tests.llm.fakes import FakeEngine, fake_llm
from tests.server.fuzz import Fuzzer, Sent, answer
from tests.server.live import live

N_HEALTHY, N_HOSTILE = 4, 4
HANG_S = 240.0  # a busy machine may stand still for a minute
LIMITS = Limits(max_requests=1024, body_s=1.0, stall_s=HANG_S, watchdog_s=HANG_S)
HTTP = timed(head_s=HANG_S, body_s=LIMITS.body_s, send_s=HANG_S)  # as `serve` has it
INSIDE = (b"internal_error", b"server_error", b"api_error", b"Traceback")


class Healthy:
    """Clients that ask the same again and again, and compare."""

    def __init__(self, address: str) -> None:
        self._address, self._over = address, threading.Event()
        self.n_answers, self.longest_s = 0, 0.0
        self.wrong: list[str] = []

    def run(self, number: int) -> None:
        chat = {"model": "fake", "messages": [{"role": "user", "content": f"{number} ABC"}]}
        if number % 2:
            chat["stream"] = True
        first = None
        with httpx.Client(base_url=self._address, timeout=HANG_S) as client:
            while not self._over.is_set():
                began = time.monotonic()
                got = client.post("/v1/chat/completions", json=chat)
                self.longest_s = max(self.longest_s, time.monotonic() - began)
                text = self._text(got)
                first = first or text
                if got.status_code != 200 or not text or text != first:
                    self.wrong.append(got.text[:500])
                self.n_answers += 1
                self._over.wait(0.02)

    def _text(self, got: httpx.Response) -> str:
        if got.status_code != 200:
            return ""
        if "text/event-stream" not in got.headers["content-type"]:
            return str(got.json()["choices"][0]["message"]["content"])
        lines = [line[6:] for line in got.text.splitlines() if line.startswith("data: {")]
        return "".join(json.loads(line)["choices"][0]["delta"].get("content") or "" for line in lines)

    @contextmanager
    def beside(self) -> Iterator[None]:
        with ThreadPoolExecutor(N_HEALTHY) as pool:
            running = [pool.submit(self.run, number) for number in range(N_HEALTHY)]
            try:
                yield
            finally:
                self._over.set()
            for each in running:
                each.result()


def fault(sent: Sent, got: bytes) -> str | None:
    """What is wrong with an answer, or None."""
    while got.startswith(b"HTTP/1.1 100"):
        got = got.partition(b"\r\n\r\n")[2]
    head, _, body = got.partition(b"\r\n\r\n")
    if not got or sent.is_left:
        return "no answer" if sent.is_whole and not sent.is_left and len(sent.raw) < 1 << 18 else None
    status = int(head[9:12])
    if body.startswith(b'{"openapi":'):
        return None  # it names them
    if status >= 500 or any(word in body for word in INSIDE):
        return f"{status}: {body[:300]!r}"
    if status >= 400 and body and b"json" in head.lower() and b'"message"' not in body:
        return f"{status} without a message: {body[:300]!r}"
    return None


def hail(seed: int, n: int, seconds: float) -> tuple[Counter[str], Healthy, FakeEngine]:
    """So many requests at most, for so long at most, by several clients; kinds of those that were sent."""
    llm, engine = fake_llm(n_ctx=1000, is_obedient=True)
    kinds, until, faults = Counter[str](), time.monotonic() + seconds, []
    app = create_app(llm, limits=LIMITS)
    with llm, live(app, http=HTTP, ws="none") as address:
        host, port = address.removeprefix("http://").split(":")
        healthy = Healthy(address)

        def send(client: int) -> None:
            for sent in islice(Fuzzer(seed * N_HOSTILE + client), n // N_HOSTILE):
                if time.monotonic() > until:
                    return
                try:
                    wrong = fault(sent, answer((host, int(port)), sent, HANG_S))
                except TimeoutError:
                    wrong = "hangs"
                if wrong:
                    faults.append((wrong, sent.why, sent.raw[:1500]))
                kinds[sent.why.split()[0]] += 1

        with healthy.beside(), ThreadPoolExecutor(N_HOSTILE) as pool:
            for done in [pool.submit(send, client) for client in range(N_HOSTILE)]:
                done.result()
        end = time.monotonic() + 20
        while llm.load().n_running and time.monotonic() < end:
            time.sleep(0.01)
        assert not faults, f"{len(faults)} of {kinds.total()}, the first: {faults[:3]}"
        assert healthy.wrong == []
        assert llm.load().n_running == 0, "answers run on for nobody"
        assert app.state.desk.n_open == 0, "answers are counted that have ended"
        assert httpx.get(address + "/ready").status_code == 200
    return kinds, healthy, engine


def test_hundreds_of_hostile_requests() -> None:
    kinds, healthy, _ = hail(seed=1, n=400, seconds=200)
    assert kinds.total() == 400
    assert healthy.n_answers >= N_HEALTHY


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_a_hundred_thousand_hostile_requests() -> None:
    n, seconds = int(os.environ.get("HERMES3_FUZZ", 100_000)), float(os.environ.get("HERMES3_FUZZ_S", 600))
    kinds, healthy, _ = hail(seed=int(os.environ.get("HERMES3_FUZZ_SEED", 2)), n=n, seconds=seconds)
    print(dict(kinds), f"{healthy.n_answers} healthy answers, the longest took {healthy.longest_s:.2f} s")
    assert set(kinds) == {"json", "bytes", "size", "head", "route", "http"}
