"""`hermes3 eval` beside lm-eval's own hf model: the same float32 weights, requests, threads and machine.

    python -m bench.eval WEIGHTS --data ../shared/data/eval --tasks bbh --limit 10
    python -m bench.eval WEIGHTS --data ../shared/data/eval --tasks arc_easy,boolq --limit 100

WEIGHTS is a Hugging Face folder in float32 (`hermes3 convert smol smol-f32 --to f32`). Each backend runs in a
process of its own. The time is that of lm_eval.simple_evaluate, requests built and results aggregated, models
loaded before; the hf model is spared lm-eval's index of 14,000 task files, as ours is. Every log-likelihood,
is_greedy and accuracy is compared. --native adds a quantized file to the table.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any


def load(backend: str, weights: str, threads: int, batch: int) -> Any:
    """The model as lm-eval takes it."""
    if backend == "hf":
        import torch
        from lm_eval.models.huggingface import HFLM

        torch.set_num_threads(threads)
        return HFLM(pretrained=weights, dtype="float32", device="cpu", batch_size=batch)
    from hermes3 import LLM
    from hermes3.eval.lm import Hermes3LM

    return Hermes3LM(LLM(weights, n_threads=threads))


def answers_of(lm: Any, tasks: list[str], data: Path, limit: int) -> dict[str, Any]:
    """Seconds, log-likelihoods in lm-eval's order, and accuracies by task."""
    from hermes3.eval import run
    from hermes3.eval.lm import Hermes3LM

    run.silence()
    answers: list[Any] = []
    inner = type(lm).loglikelihood
    lm.loglikelihood = lambda *args, **kwargs: answers.extend(inner(lm, *args, **kwargs)) or answers
    start = time.perf_counter()
    if isinstance(lm, Hermes3LM):
        results = run.evaluate(lm, tasks, data=data, limit=limit).results
    else:
        results = _plainly(lm, tasks, data, limit)
    seconds = time.perf_counter() - start
    del lm.loglikelihood
    values = {
        task: {k: v for k, v in results["results"][task].items() if k.startswith("acc") and "stderr" not in k}
        for task in tasks
    }
    return {"seconds": seconds, "answers": answers, "values": values}


def _plainly(lm: Any, tasks: list[str], data: Path, limit: int) -> Any:
    """As lm-eval runs by itself, but for the description of the machine that takes torch some seconds."""
    import lm_eval
    import lm_eval.evaluator
    from lm_eval.tasks import TaskManager

    from hermes3.eval.tasks import offline

    lm_eval.evaluator.add_env_info = lambda results: None
    with tempfile.TemporaryDirectory() as folder:
        specs = [str(offline(name, data, Path(folder))) for name in tasks]
        manager = TaskManager(include_defaults=False)
        return lm_eval.simple_evaluate(
            model=lm, tasks=specs, task_manager=manager, limit=limit, log_samples=False
        )


def child(args: argparse.Namespace) -> None:
    """Runs one backend and prints what came of it as a line of JSON."""
    from hermes3.eval.tasks import tasks_of

    lm = load(args.backend, args.weights, args.threads, args.batch)
    out = answers_of(lm, tasks_of(args.tasks), args.data, args.limit)
    out["peak_gb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    if args.backend != "hf":
        counters = lm.counters
        out |= {"given": counters.n_given, "computed": counters.n_computed, "scored": counters.n_scored}
    print("RESULT " + json.dumps(out), flush=True)


def run_child(backend: str, weights: str, args: argparse.Namespace) -> dict[str, Any]:
    words = ["--backend", backend]
    for name in ("data", "tasks", "limit", "threads", "batch"):
        words += [f"--{name}", str(getattr(args, name))]
    done = subprocess.run(
        [sys.executable, "-m", "bench.eval", weights, *words], stdout=subprocess.PIPE, text=True, check=True
    )
    line = next(line for line in done.stdout.splitlines() if line.startswith("RESULT "))
    result: dict[str, Any] = json.loads(line.removeprefix("RESULT "))
    return result


def compare(ours: dict[str, Any], theirs: dict[str, Any]) -> str:
    """What differs between two backends' answers."""
    pairs = list(zip(ours["answers"], theirs["answers"], strict=True))
    worst = max(abs(a[0] - b[0]) for a, b in pairs)
    greedy = sum(bool(a[1]) != bool(b[1]) for a, b in pairs)
    tasks = [task for task in ours["values"] if ours["values"][task] != theirs["values"][task]]
    accuracies = "every accuracy identical" if not tasks else f"accuracies differ in {', '.join(tasks)}"
    return (
        f"{len(pairs)} log-likelihoods: largest difference {worst:.1e}, is_greedy differs {greedy} times, "
        f"{accuracies}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("weights")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--tasks", default="bbh")
    parser.add_argument("--limit", type=int, default=10)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, default=4, help="of the hf model")
    parser.add_argument("--native", help="a quantized file of the same model, for one more row")
    parser.add_argument("--backend", choices=["hf", "hermes3"], help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.backend:
        child(args)
        return
    ours = run_child("hermes3", args.weights, args)
    theirs = run_child("hf", args.weights, args)
    rows = [("lm-eval hf, float32", theirs), ("hermes3, float32", ours)]
    if args.native:
        rows.append((f"hermes3, {Path(args.native).name}", run_child("hermes3", args.native, args)))
    print(f"{args.tasks}, {args.limit} documents a task, {args.threads} threads")
    for name, row in rows:
        n, speed = len(row["answers"]), theirs["seconds"] / row["seconds"]
        print(
            f"{name:32} {row['seconds']:8.1f} s {n / row['seconds']:8.2f} requests/s {speed:6.2f} x "
            f"{row['peak_gb']:6.2f} GB"
        )
    print(f"positions: {ours['given']} given, {ours['computed']} computed, {ours['scored']} scored")
    print(compare(ours, theirs))


if __name__ == "__main__":
    main()
