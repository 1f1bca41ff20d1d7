"""What the HTTP layer costs beside calling the hall: tokens/s of the same requests, either way.

    python -m bench.http

One process holds the model and the server, as `hermes3 serve` does. In turn, 16 answers are asked for in
Python, and by 16 clients over HTTP, streamed and whole; the clients are one other process that reads sockets
and counts, so that their own cost is small (it is printed: on two cores it is taken from the server). Greedy,
no cache of prompts, so that every round computes the same. The overhead is the median of the rounds' ratios.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import uvicorn

from bench.report import Limits, Machine
from hermes3 import LLM
from hermes3.server.app import create_app
from tests.downloads import smol_gguf

N_CLIENTS, N_OUT, ROUNDS, MOST_OVERHEAD = 16, 200, 5, 3.0
CLIENTS = """
import json, selectors, socket, sys, time
port, bodies = int(sys.argv[1]), json.load(sys.stdin)
waiting, n = selectors.DefaultSelector(), 0
began = time.perf_counter()
for body in bodies:
    raw = json.dumps(body).encode()
    client = socket.create_connection(("127.0.0.1", port))
    client.sendall(b"POST /v1/chat/completions HTTP/1.1\\r\\nHost: localhost\\r\\nConnection: close\\r\\n"
                   b"Content-Type: application/json\\r\\nContent-Length: %d\\r\\n\\r\\n" % len(raw) + raw)
    waiting.register(client, selectors.EVENT_READ)
while waiting.get_map():
    for key, _ in waiting.select():
        got = key.fileobj.recv(1 << 16)
        n += len(got)
        if not got:
            waiting.unregister(key.fileobj)
print(time.perf_counter() - began, time.process_time(), n)
"""


@dataclass(frozen=True)
class Round:
    """One way to ask for all answers.

    Attributes:
        tokens_per_s: of the answers.
        loop_us: of the event loop's computing for each token.
        clients_us: of the clients' computing for each token.
    """

    tokens_per_s: float
    loop_us: float = 0.0
    clients_us: float = 0.0


@contextmanager
def serving(llm: LLM) -> Iterator[tuple[int, int]]:
    """The server's port, and the clock of its thread's computing."""
    app = create_app(llm)
    server = uvicorn.Server(uvicorn.Config(app, port=0, http="h11", ws="none", log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    assert thread.ident is not None
    yield server.servers[0].sockets[0].getsockname()[1], time.pthread_getcpuclockid(thread.ident)
    server.should_exit = True
    thread.join()


def conversations(n: int) -> list[list[dict[str, str]]]:
    return [[{"role": "user", "content": f"Tell me the story of number {number}."}] for number in range(n)]


def in_python(llm: LLM, n_out: int) -> Round:
    began = time.perf_counter()
    streams = [
        llm.chat(each, stream=True, max_tokens=n_out, ignore_eos=True, temperature=0)
        for each in conversations(N_CLIENTS)
    ]
    n = sum(stream.reply().usage.completion_tokens for stream in streams)
    return Round(n / (time.perf_counter() - began))


def over_http(port: int, clock: int, n_out: int, *, is_streamed: bool) -> Round:
    same = {"model": "bench", "max_tokens": n_out, "ignore_eos": True, "temperature": 0}
    same["stream"] = is_streamed
    bodies = json.dumps([{**same, "messages": each} for each in conversations(N_CLIENTS)])
    before = time.clock_gettime(clock)
    command = [sys.executable, "-S", "-c", CLIENTS, str(port)]
    done = subprocess.run(command, input=bodies, capture_output=True, text=True, check=True)
    loop_s = time.clock_gettime(clock) - before
    seconds, clients_s, _ = map(float, done.stdout.split())
    n = N_CLIENTS * n_out
    return Round(n / seconds, 1e6 * loop_s / n, 1e6 * clients_s / n)


def main() -> None:
    parser = argparse.ArgumentParser(description="What the HTTP layer costs.")
    parser.add_argument("--model", type=Path, help="default: SmolLM2-135M-Instruct.Q4_1.gguf")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--out", type=int, default=N_OUT)
    given = parser.parse_args()
    before = Limits.now(given.threads)
    found: dict[str, list[Round]] = {}
    with LLM(given.model or smol_gguf(), n_ctx=512, n_threads=given.threads, prefix_caching=False) as llm:
        llm.name = "bench"
        with serving(llm) as (port, clock):
            ways: dict[str, Callable[[], Round]] = {
                "in Python": lambda: in_python(llm, given.out),
                "HTTP, streamed": lambda: over_http(port, clock, given.out, is_streamed=True),
                "HTTP, whole": lambda: over_http(port, clock, given.out, is_streamed=False),
            }
            for way in ways.values():
                way()
            for number in range(given.rounds):
                names = list(ways)[:: 1 if number % 2 else -1]  # what drifts favours nobody
                for name in names:
                    found.setdefault(name, []).append(ways[name]())
    print("| | tokens/s | overhead | loop, us a token | clients, us a token |\n|---|---:|---:|---:|---:|")
    alone = [each.tokens_per_s for each in found["in Python"]]
    for name in ways:
        rounds = found[name]
        speed, loop_us, clients_us = (
            statistics.median(getattr(each, field) for each in rounds)
            for field in ("tokens_per_s", "loop_us", "clients_us")
        )
        ratios = [each.tokens_per_s / base for each, base in zip(rounds, alone, strict=True)]
        overhead = 100 * (1 - statistics.median(ratios))
        print(f"| {name} | {speed:.0f} | {overhead:.1f} % | {loop_us:.1f} | {clients_us:.1f} |")
    after, machine = Limits.now(given.threads), asdict(Machine.this())
    rows = {name: [asdict(each) for each in rounds] for name, rounds in found.items()}
    print(f"(the goal is {MOST_OVERHEAD:.0f} % at most)")
    print(json.dumps({"machine": machine, "before": asdict(before), "after": asdict(after), "rows": rows}))


if __name__ == "__main__":
    main()
