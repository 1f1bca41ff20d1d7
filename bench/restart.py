"""How long a server that was killed under load takes to be ready again.

    python -m bench.restart

Seconds from starting the process to /ready, each time after a kill -9 of the one before, which had 16 answers
in work; the first start is not counted.
"""

from __future__ import annotations

import argparse
import http.client
import json
import statistics
import subprocess
import threading
import time
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from bench.peers import HERMES3, NAME, answers, free_port
from bench.report import Limits, Machine
from tests.downloads import smol_gguf

N_CLIENTS, START_S, LOAD_S = 16, 60.0, 1.5


def started(command: list[str], port: int) -> tuple[subprocess.Popen[bytes], float]:
    """The process once it is ready, and after how many seconds that was."""
    began = time.perf_counter()
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    while not answers(port, "/ready"):
        if process.poll() is not None or time.perf_counter() - began > START_S:
            process.kill()
            raise SystemExit("the server did not start")
        time.sleep(0.005)
    return process, time.perf_counter() - began


def ask(port: int) -> None:
    """One long answer, of which nobody expects the end."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=START_S)
    body = json.dumps({"model": NAME, "prompt": "Once upon a time", "max_tokens": 2000, "ignore_eos": True})
    with suppress(OSError, http.client.HTTPException):
        connection.request("POST", "/v1/completions", body, {"Content-Type": "application/json"})
        connection.getresponse().read()


def main() -> None:
    parser = argparse.ArgumentParser(description="How long a killed server takes to be ready again.")
    parser.add_argument("--model", type=Path, help="default: SmolLM2-135M-Instruct.Q4_1.gguf")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    port = free_port()
    options = ["--served-model-name", NAME, "--port", str(port), "--threads", str(given.threads)]
    command = [*HERMES3, "serve", "-m", str(given.model or smol_gguf()), *options]
    before, seconds = Limits.now(given.threads), []
    for _ in range(given.rounds + 1):
        process, took = started(command, port)
        seconds.append(took)
        clients = [threading.Thread(target=ask, args=(port,)) for _ in range(N_CLIENTS)]
        for client in clients:
            client.start()
        time.sleep(LOAD_S)
        process.kill()
        process.wait()
        for client in clients:
            client.join()
    counted = seconds[1:]
    print(
        f"ready after {statistics.median(counted):.2f} s (median of {len(counted)}, most {max(counted):.2f})"
    )
    after, machine = Limits.now(given.threads), asdict(Machine.this())
    print(json.dumps({"machine": machine, "before": asdict(before), "after": asdict(after), "rows": counted}))


if __name__ == "__main__":
    main()
