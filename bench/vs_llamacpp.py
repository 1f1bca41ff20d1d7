"""hermes3 beside llama.cpp: same files, threads and machine, in alternating rounds; medians and ratios.

    python -m bench.vs_llamacpp --llama-bench path/to/llama-bench [--only "3B Q4_0"] [--readme]

llama-bench is a ready binary, llama-batched-bench is expected beside it. Each row is measured by itself, with
what the machine can do (read bandwidth, int8 rate, load) before and after it, so that a busy machine shows;
rows of earlier runs on the same machine stay in its results file until they are measured again.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.make_model import make_model
from bench.report import Limits, Report, Row
from tests.downloads import CACHE, smol_gguf

HERMES3 = [sys.executable, "-m", "hermes3"]
OURS = [sys.executable, "-m", "bench.sequences"]
QUESTION = "What is the capital of France?"
CONTEXT, N_LAST = 4096, 16  # peak memory is taken with the context full; so many of its tokens are decoded
N_PAST, N_TOGETHER = 128, 8

Pair = tuple[Callable[[], float], Callable[[], float] | None]


@dataclass(frozen=True)
class Models:
    smol: Path
    q4_0: Path
    q4_k_m: Path


class Runner:
    """Runs both programs on one number of threads."""

    def __init__(self, llama_bench: Path, ik_bench: Path | None, n_threads: int) -> None:
        self.llama_bench, self.ik_bench = llama_bench, ik_bench
        self.threads = ["--threads", str(n_threads)]

    def ours(self, model: Path, prompt: int, answer: int, sequences: int, key: str) -> float:
        sizes = ["--prompt", str(prompt), "--answer", str(answer), "--sequences", str(sequences)]
        command = [*OURS, str(model), *sizes, *self.threads, "--warm-up"]
        return float(json.loads(output_of(command).splitlines()[-1])[key])

    def theirs(self, binary: Path, model: Path, n_prompt: int, n_decode: int, n_past: int) -> float:
        sizes = [
            "-p",
            str(n_prompt),
            "-n",
            str(n_decode),
            "-r",
            "1",
            *(["-d", str(n_past)] if n_past else []),
        ]
        report = output_of([str(binary), "-m", str(model), *sizes, *self.threads, "-o", "json"])
        return float(json.loads(report)[0]["avg_ts"])

    def decode(self, model: Path, n: int) -> Pair:
        """Tokens per second, n of them after N_PAST."""
        return (
            lambda: self.ours(model, N_PAST, n, 1, "decode_tokens_per_s"),
            lambda: self.theirs(self.llama_bench, model, 0, n, N_PAST),
        )

    def prefill(self, model: Path, n: int, peer: Path | None = None) -> Pair:
        """Tokens per second of a prompt."""
        binary = peer or self.llama_bench
        return (
            lambda: self.ours(model, n, 0, 1, "prefill_tokens_per_s"),
            lambda: self.theirs(binary, model, n, 0, 0),
        )

    def together(self, model: Path, n: int) -> Pair:
        """Tokens per second of N_TOGETHER sequences in all, n of each after N_PAST."""
        return lambda: self.ours(model, N_PAST, n, N_TOGETHER, "decode_tokens_per_s"), lambda: self._batched(
            model, n
        )

    def _batched(self, model: Path, n: int) -> float:
        binary, context = self.llama_bench.with_name("llama-batched-bench"), N_TOGETHER * (N_PAST + n)
        sizes = ["-npp", str(N_PAST), "-ntg", str(n), "-npl", str(N_TOGETHER), "-c", str(context)]
        threads = ["-t", self.threads[1], "-tb", self.threads[1]]
        lines = output_of([str(binary), "-m", str(model), *sizes, *threads, "--output-format", "jsonl"])
        return float(
            json.loads(next(line for line in lines.splitlines() if line.startswith("{")))["speed_tg"]
        )

    def beside(self, pair: Pair) -> Pair:
        """The same while another process computes on the last of the processors that this one may use."""

        def loaded(run: Callable[[], float]) -> Callable[[], float]:
            def with_neighbour() -> float:
                with busy_neighbour():
                    return run()

            return with_neighbour

        ours, theirs = pair
        assert theirs is not None
        return loaded(ours), loaded(theirs)

    def first_token(self, command: list[str]) -> float:
        """Seconds from the start of a process to the first byte that it prints."""
        start = time.perf_counter()
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
            assert process.stdout is not None
            first = os.read(process.stdout.fileno(), 1)
            seconds = time.perf_counter() - start
            process.stdout.read()
        if process.returncode or not first:
            raise SystemExit(f"{command} ended with {process.returncode} after {first!r}")
        return seconds

    def chat_start(self, model: Path) -> Pair:
        return lambda: self.first_token(
            [*HERMES3, "chat", "--model", str(model), *self.threads, QUESTION]
        ), None

    def cold_start(self, model: Path) -> Pair:
        """From process start through loading to the first token of an answer to 16 tokens."""
        sizes = ["--prompt", "16", "--answer", "0", *self.threads]
        return lambda: self.first_token([*OURS, str(model), *sizes]), None

    def peak_memory(self, model: Path) -> Pair:
        """Peak resident bytes over the file's, with every token of the context in use."""

        def measured() -> float:
            sizes = ["--prefill", str(CONTEXT - N_LAST), "--decode", str(N_LAST), "--runs", "1", "--json"]
            command = [*HERMES3, "bench", "--model", str(model), *sizes, *self.threads]
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            if process.returncode:
                raise SystemExit(f"{command} ended with {process.returncode}")
            unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss: bytes on macOS, KiB on Linux
            return usage.ru_maxrss * unit / model.stat().st_size

        return measured, None


@contextmanager
def busy_neighbour() -> Iterator[None]:
    cpu = max(os.sched_getaffinity(0))
    code = f"import os; os.sched_setaffinity(0, [{cpu}])\nwhile True: pass"
    process = subprocess.Popen([sys.executable, "-c", code])
    try:
        time.sleep(0.3)
        yield
    finally:
        process.kill()
        process.wait()


def output_of(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{command} ended with {done.returncode}: {done.stderr.strip()}")
    return done.stdout


def plan(runner: Runner, at: Models) -> Iterator[tuple[Row, Pair]]:
    """The table's rows and how each is measured, ours and theirs."""
    smol, three = "SmolLM2-135M Q4_1", "3B {}"
    yield Row(f"{smol}, decode", "tokens/s", 3.0), runner.decode(at.smol, 128)
    yield (
        Row(f"{smol}, decode, the other core taken", "tokens/s", 5.0),
        runner.beside(runner.decode(at.smol, 32)),
    )
    yield Row(f"{smol}, {N_TOGETHER} sequences decode", "tokens/s", 4.0), runner.together(at.smol, 32)
    yield Row(f"{smol}, prefill 512", "tokens/s", 6.0), runner.prefill(at.smol, 512)
    for name, model, n in (("Q4_0", at.q4_0, 64), ("Q4_K_M", at.q4_k_m, 64)):
        yield Row(f"{three.format(name)}, decode", "tokens/s", 1.2), runner.decode(model, n)
        yield Row(f"{three.format(name)}, prefill 512", "tokens/s", 1.8), runner.prefill(model, 512)
        if runner.ik_bench:
            row = Row(f"{three.format(name)}, prefill 512, beside ik_llama.cpp", "tokens/s", 1.35)
            yield row, runner.prefill(model, 512, runner.ik_bench)
        yield (
            Row(f"{three.format(name)}, {N_TOGETHER} sequences decode", "tokens/s", 2.0),
            runner.together(model, 16),
        )
    start = "process start to first token"
    yield Row(f"`hermes3 chat --model smol`, {start}", "s", 1.0, "below"), runner.chat_start(at.smol)
    yield Row(f"3B Q4_0, file in the page cache, {start}", "s", 3.0, "below"), runner.cold_start(at.q4_0)
    memory = f"peak memory over file size, 3B Q4_0, context of {CONTEXT} full"
    yield Row(memory, "x", 1.35, "below"), runner.peak_memory(at.q4_0)


def measure(row: Row, pair: Pair, rounds: int, n_threads: int) -> None:
    """Fills a row; who went second in one round goes first in the next."""
    ours, theirs = pair
    turns = [(row.ours, ours)] + ([(row.theirs, theirs)] if theirs else [])
    row.limits = [Limits.now(n_threads)]
    for _ in range(rounds):
        for figures, run in turns:
            figures.append(run())
        turns.reverse()
    row.limits.append(Limits.now(n_threads))
    row.date = time.strftime("%Y-%m-%d", time.gmtime())


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="hermes3 beside llama.cpp.")
    parser.add_argument("--llama-bench", required=True, type=Path, help="a ready llama-bench binary")
    parser.add_argument("--ik-bench", type=Path, help="ik_llama.cpp's llama-bench, for a row of its own")
    parser.add_argument("--peer", default="llama.cpp of unknown version", help="what that is, for the record")
    parser.add_argument("--smol", type=Path, help="SmolLM2-135M-Instruct.Q4_1.gguf")
    for name in ("q4_0", "q4_k_m"):
        flag = "--" + name.replace("_", "-")
        parser.add_argument(flag, type=Path, help=f"the 3B's shape in {name}; made where it is missing")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default="", help="the row of this name, or those with it in theirs")
    parser.add_argument("--readme", action="store_true", help="write the table into README.md")
    return parser.parse_args()


def model_at(given: Path | None, name: str) -> Path:
    path = given or CACHE / f"3b-{name}.gguf"
    if not path.exists():
        make_model(path, name)
    return path


def main() -> None:
    given = arguments()
    models = Models(given.smol or smol_gguf(), model_at(given.q4_0, "q4_0"), model_at(given.q4_k_m, "q4_k_m"))
    runner = Runner(given.llama_bench, given.ik_bench, given.threads)
    report = Report.load(given.peer, given.threads, given.rounds)
    names = [row.name for row, _ in plan(runner, models)]
    wanted = {given.only} & set(names) or {name for name in names if given.only in name}
    for row, pair in plan(runner, models):
        if row.name in wanted:
            measure(row, pair, given.rounds, given.threads)
            print(f"{row.name}: ours {row.ours}, theirs {row.theirs}", file=sys.stderr, flush=True)
            report.put(row)
            report.save()
    report.rows.sort(key=lambda row: names.index(row.name) if row.name in names else len(names))
    report.save()
    print(report.markdown())
    if given.readme:
        report.write_readme()


if __name__ == "__main__":
    main()
