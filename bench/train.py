"""Our training beside TRL's trainers: the same model, documents, steps, float32 and no recomputing.

    python -m bench.train FOLDER --data ../shared/data/train/glaive-toolcall-300.json.gz
    python -m bench.train FOLDER --data ../shared/data/train/dpo-sharegpt-300.json.gz --method dpo

FOLDER is a Hugging Face folder in float32 (`hermes3 convert smol smol-f32 --to f32`). Each side runs in a
process of its own, in turn with the other. Counted is what the steps take, in seconds of the CPU: models and
data are loaded before, TRL's dataset has ids and labels already. Memory is the peak of the process less what
it had before the first step. Every step has the same documents on both sides, so the losses must agree.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Steps:
    """Documents of each step, packed into rows."""

    rows_of: list[list[tuple[int, ...]]]

    @property
    def n_steps(self) -> int:
        return len(self.rows_of)

    def rows(self, step: int) -> list[tuple[int, ...]]:
        return self.rows_of[step]

    def epochs_done(self, n_steps: int) -> float:
        return n_steps / self.n_steps

    def noise_seed(self, step: int, row: int) -> int:
        return 1000 * step + row


def documents(args: argparse.Namespace) -> list[Any]:
    """The first that are no longer than a row, as many as the steps take."""
    from hermes3.train.build import text_of
    from hermes3.train.data.corpus import Part, load
    from hermes3.train.data.rendered import Renderer
    from hermes3.weights.checkpoint import open_checkpoint

    corpus = load([Part(args.data)], Renderer(*text_of(open_checkpoint(args.folder))), skip_bad=True)
    found = [document for document in corpus if len(document) <= args.length]
    return found[: args.steps * args.batch]


def recipe_of(args: argparse.Namespace) -> Any:
    from hermes3.train.recipe import Recipe

    optimizer = {"rmsprop": {}} if args.method == "dpo" else {"adamw": {"weight_decay": 0.0}}
    names = {"method": args.method, "model": "m", "output": "o", "data": {"train": ["d"]}}
    settings = {"lr": args.lr, "schedule": "constant", "precision": "fp32", "max_length": args.length}
    return Recipe.of({**names, **settings, **optimizer})


def used() -> tuple[float, int]:
    """Seconds of the CPU, and bytes resident now."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return usage.ru_utime + usage.ru_stime, pages * os.sysconf("SC_PAGE_SIZE")


def ours(args: argparse.Namespace, made: list[Any]) -> tuple[Any, Any]:
    """What trains, and what gives the losses afterwards."""
    import torch

    from hermes3.train import folders
    from hermes3.train.allocation import keep_freed_memory
    from hermes3.train.loop import Loop, forward
    from hermes3.train.objectives import NextToken, Preference, answer_log_probs
    from hermes3.train.optimizer import optimizer_of
    from hermes3.train.packing import best_fit
    from hermes3.train.ranks import Ranks
    from hermes3.weights.checkpoint import open_checkpoint

    keep_freed_memory()
    recipe, model = recipe_of(args), folders.load(open_checkpoint(args.folder))
    model.set_fused(True)
    alone = Ranks(0, 1, torch.device("cpu"))
    steps = []
    for first in range(0, len(made), args.batch):
        lengths = [len(document) for document in made[first : first + args.batch]]
        steps.append([tuple(first + i for i in row) for row in best_fit(lengths, args.length)])
    seen: list[Any] = []

    def train() -> None:
        objective: Any
        if args.method == "dpo":
            reference = np.empty((len(made), 2), np.float32)
            objective = Preference(made, 0.1, reference)
            rows = [row for step in steps for row in step]
            scored = forward(recipe, model, rows, alone, objective.row, lambda documents: answer_log_probs)
            for indices, scores in scored:
                reference[list(indices)] = scores.numpy()
        else:
            objective = NextToken(made, np.array([document.n_trained for document in made]))
        optimizer = optimizer_of(recipe, model)
        order: Any = Steps(steps)
        Loop(recipe, model, optimizer, objective, order, alone, 1e9, seen.append, lambda n_done: True).run(0)

    return train, lambda: [step.values["loss"] for step in seen]


def theirs(args: argparse.Namespace, made: list[Any]) -> tuple[Any, Any]:
    """The same for TRL."""
    from datasets import Dataset
    from torch.utils.data import SequentialSampler
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

    common = {
        "output_dir": tempfile.mkdtemp(), "per_device_train_batch_size": args.batch, "max_steps": args.steps,
        "learning_rate": args.lr, "lr_scheduler_type": "constant", "logging_steps": 1, "report_to": "none",
        "use_cpu": True, "save_strategy": "no", "bf16": False, "max_length": None, "weight_decay": 0.0,
        "gradient_checkpointing": False, "disable_tqdm": True,
    }  # fmt: skip
    tokenizer = AutoTokenizer.from_pretrained(args.folder)
    tokenizer.pad_token = tokenizer.eos_token
    model = AutoModelForCausalLM.from_pretrained(args.folder, dtype="float32")
    if args.method == "dpo":

        class Ready(DPOTrainer):
            def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
                return dataset

        rows = [{"prompt_ids": p.prompt_ids.tolist(), "chosen_ids": p.chosen.ids.tolist(),
                 "rejected_ids": p.rejected.ids.tolist()} for p in made]  # fmt: skip
        config = DPOConfig(**common, optim="rmsprop", beta=0.1, precompute_ref_log_probs=False)
        trainer: Any = Ready(
            model, None, config, train_dataset=Dataset.from_list(rows), processing_class=tokenizer
        )
    else:
        rows = [{"input_ids": e.ids.tolist(), "labels": np.where(e.weights > 0, e.ids, -100).tolist()}
                for e in made]  # fmt: skip
        ready = {"skip_prepare_dataset": True}
        settings = SFTConfig(**common, optim="adamw_torch_fused", dataset_kwargs=ready)
        data = Dataset.from_list(rows)
        trainer = SFTTrainer(model, settings, train_dataset=data, processing_class=tokenizer)
    trainer._get_train_sampler = lambda *_: SequentialSampler(trainer.train_dataset)
    return trainer.train, lambda: [line["loss"] for line in trainer.state.log_history if "loss" in line]


def child(args: argparse.Namespace) -> None:
    """Runs one side and prints what came of it as a line of JSON."""
    import torch

    torch.set_num_threads(args.threads)
    made = documents(args)
    train, losses = (ours if args.side == "ours" else theirs)(args, made)
    cpu, resident = used()
    start = time.perf_counter()
    train()
    out = {
        "cpu_s": used()[0] - cpu,
        "wall_s": time.perf_counter() - start,
        "growth": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - resident,
        "tokens": sum(len(document) for document in made),
        "losses": losses(),
    }
    print("RESULT " + json.dumps(out), flush=True)


def run_child(side: str, args: argparse.Namespace) -> dict[str, Any]:
    words = ["--side", side]
    for name in ("data", "method", "steps", "batch", "length", "lr", "threads"):
        words += [f"--{name}", str(getattr(args, name))]
    done = subprocess.run(
        [sys.executable, "-m", "bench.train", args.folder, *words],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    line = next(line for line in done.stdout.splitlines() if line.startswith("RESULT "))
    result: dict[str, Any] = json.loads(line.removeprefix("RESULT "))
    return result


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--method", choices=["sft", "dpo"], default="sft")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--batch", type=int, default=4, help="documents of a step")
    parser.add_argument("--length", type=int, default=1024, help="tokens of a row, and most of a document")
    parser.add_argument("--lr", type=float, default=1e-5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--side", choices=["ours", "theirs"], help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        child(args)
        return
    found = [{side: run_child(side, args) for side in ("theirs", "ours")} for _ in range(args.rounds)]
    for side, name in (("theirs", "TRL"), ("ours", "hermes3")):
        speed = statistics.median(round[side]["tokens"] / round[side]["cpu_s"] for round in found)
        growth = statistics.median(round[side]["growth"] for round in found)
        wall = statistics.median(round[side]["tokens"] / round[side]["wall_s"] for round in found)
        speeds = f"{speed:8.1f} tokens/CPU-s {wall:8.1f} tokens/s"
        print(f"{name:10}{speeds} {growth / 2**20:8.0f} MiB more at the peak")
    faster = statistics.median(round["theirs"]["cpu_s"] / round["ours"]["cpu_s"] for round in found)
    leaner = statistics.median(round["ours"]["growth"] / round["theirs"]["growth"] for round in found)
    apart = max(abs(a - b) for round in found
                for a, b in zip(round["ours"]["losses"], round["theirs"]["losses"], strict=True))  # fmt: skip
    print(
        f"hermes3 over TRL: {faster:.2f} x as fast, {leaner:.2f} x the memory; losses differ by {apart:.1e}"
    )


if __name__ == "__main__":
    main()
