"""Runs over a small model and made-up conversations."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from hermes3.train.events import lines_of
from hermes3.train.ranks import ranks
from hermes3.train.recipe import Recipe
from hermes3.train.run import Run
from tests.train.tiny import folder

LETTERS = "!\"#$%&'()*+,-./0123456789:;<=>?@"  # what the small vocabulary spells


def text(rng: np.random.Generator, longest: int) -> str:
    return "".join(rng.choice(list(LETTERS), rng.integers(1, longest)))


def conversations(path: Path, n: int = 40, seed: int = 0) -> Path:
    """A file of conversations in OpenAI's form."""
    rng = np.random.default_rng(seed)
    rows = [{"messages": [{"role": "user", "content": text(rng, 20)},
                          {"role": "assistant", "content": text(rng, 20)}]} for _ in range(n)]  # fmt: skip
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def preferences(path: Path, n: int = 30, seed: int = 0) -> Path:
    """A file of pairs."""
    rng = np.random.default_rng(seed)
    rows = [{"chosen": [user, {"role": "assistant", "content": text(rng, 20)}],
             "rejected": [user, {"role": "assistant", "content": text(rng, 20)}]}
            for _ in range(n) for user in [{"role": "user", "content": text(rng, 20)}]]  # fmt: skip
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def recipe(tmp: Path, **changes: Any) -> Recipe:
    """A run over the files of ``tmp``, which are made where they are missing."""
    if not (tmp / "base").is_dir():
        folder(tmp / "base")
        conversations(tmp / "chats.jsonl")
        preferences(tmp / "pairs.jsonl")
    method = changes.get("method", "sft")
    values = {
        "method": "sft",
        "model": str(tmp / "base"),
        "output": str(tmp / "out"),
        "data": {"train": [str(tmp / ("chats.jsonl" if method == "sft" else "pairs.jsonl"))]},
        "epochs": 2,
        "batch_size": 2,
        "max_length": 128,
        "lr": 1e-2,
        "warmup_steps": 2,
        "precision": "fp32",
        "export_type": "f32",
        **changes,
    }
    return Recipe.of(values)


def go(made: Recipe, stop_after: int | None = None) -> list[float]:
    """Trains; gives the losses of all steps that the run's file holds."""
    seen = 0

    def listen(event: object) -> None:
        nonlocal seen
        seen += type(event).__name__ == "Step"

    with ranks() as mine:
        Run(made, Path(made.model), mine, listen, lambda: seen == stop_after).go()
    return losses(made)


def losses(made: Recipe) -> list[float]:
    """The losses of all steps so far."""
    lines = lines_of(Path(made.output) / "metrics.jsonl")
    return [line["values"]["loss"] for line in lines if line["event"] == "step"]
