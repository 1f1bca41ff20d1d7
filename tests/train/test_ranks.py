"""Several processes on one CPU (gloo, FSDP2) beside one: the same losses, gradients and weights."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hermes3.train.events import lines_of
from hermes3.train.order import of_rank
from hermes3.train.recipe import Recipe
from hermes3.weights.checkpoint import open_checkpoint
from tests.cli.program import ROOT
from tests.train.runs import go, recipe

LORA = {"rank": 4, "alpha": 8, "dropout": 0.0}
HELD_OUT = {"train": ["chats.jsonl"], "eval_share": 0.1}

CASES: dict[str, dict[str, Any]] = {
    "sft": {"neftune_alpha": 2.0, "recompute": "all"},
    "sft-measured": {"data": HELD_OUT, "evaluation": {"every": 2, "samples": 1, "sample_tokens": 3}},
    "sft-lora": {"lora": LORA},
    "dpo": {"method": "dpo", "rmsprop": {"eps": 1e-3}},
    "dpo-lora": {"method": "dpo", "lora": LORA, "neftune_alpha": 2.0},
    "goes-on": {},
    "goes-on-at-an-epoch": {"epochs": 3},
}
ROUNDED: dict[str, dict[str, Any]] = {
    "mixed": {"precision": "mixed"},
    "mixed-lora": {"precision": "mixed", "lora": LORA},
    "bf16": {"precision": "bf16", "lr": 3e-3},
}


def test_each_row_counts_once_and_all_ranks_have_as_many() -> None:
    rows = [(i,) for i in range(7)]
    for n in (1, 2, 3, 4, 8):
        parts = [of_rank(rows, rank, n) for rank in range(n)]
        assert len({len(part) for part in parts}) == 1
        assert sorted(row for part in parts for _, row, counts in part if counts) == rows


def launch(n: int, words: list[str], cwd: Path) -> None:
    """torchrun with so many processes."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(n)]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}"}
    done = subprocess.run(
        [sys.executable, *launcher, *words], capture_output=True, text=True, env=env, cwd=cwd, timeout=500
    )
    first = done.stderr[max(0, done.stderr.find("Traceback")) :]  # what follows is the launcher's
    assert done.returncode == 0, first[:3000]


def steps(made: Recipe) -> list[dict[str, Any]]:
    """The steps of a run, as its file has them."""
    return [line for line in lines_of(Path(made.output) / "metrics.jsonl") if line["event"] == "step"]


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Recipe, Recipe]]:
    """Each case by one process, and by two."""
    tmp, pairs, plan = tmp_path_factory.mktemp("ranks"), {}, []
    for name, changes in {**CASES, **ROUNDED}.items():
        files = changes.get("data", {})
        there = {"data": {**files, "train": [str(tmp / file) for file in files["train"]]}} if files else {}
        alone, apart = (
            recipe(tmp, **{**changes, **there, "output": str(tmp / f"{name}-{n}")}) for n in (1, 2)
        )
        pairs[name] = alone, apart
        go(alone)
        if name.startswith("goes-on"):
            whole = [step["epoch"] for step in steps(alone)]
            go(apart, whole.index(1.0) + 1 if name.endswith("epoch") else 3)
        plan.append([apart.to_dict(), 0])
    (tmp / "plan.json").write_text(json.dumps(plan))
    launch(2, ["-m", "tests.train.spread", str(tmp / "plan.json")], tmp)
    return pairs


@pytest.mark.parametrize("name", CASES)
def test_processes_change_nothing(both: dict[str, tuple[Recipe, Recipe]], name: str) -> None:
    alone, apart = both[name]
    expected, found = steps(alone), steps(apart)
    assert len(found) == len(expected) >= 6
    for one, two in zip(expected, found, strict=True):
        assert two["values"] == pytest.approx(one["values"], rel=5e-5, abs=1e-5)
        assert two["grad_norm"] == pytest.approx(one["grad_norm"], rel=1e-3)
    left, right = (open_checkpoint(Path(made.output) / "model") for made in (alone, apart))
    assert left.names == right.names
    for tensor in left.names:
        ours, theirs = (each.tensor(tensor).values() for each in (left, right))
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ROUNDED)
def test_processes_round_as_one_does(both: dict[str, tuple[Recipe, Recipe]], name: str) -> None:
    """Where bfloat16 is what is computed in, sums over processes are in another order, in float32."""
    alone, apart = both[name]
    for one, two in zip(steps(alone), steps(apart), strict=True):
        assert two["values"]["loss"] == pytest.approx(one["values"]["loss"], rel=1e-2)
        assert two["grad_norm"] == pytest.approx(one["grad_norm"], rel=5e-2)
    name_of_one = "model.layers.0.mlp.up_proj.weight"
    folders = [Path(made.output) / "model" for made in (alone, apart)]
    weights = [open_checkpoint(folder).tensor(name_of_one).values() for folder in folders]
    is_bf16 = [not (values.view(np.uint32) & 0xFFFF).any() for values in weights]
    assert is_bf16 == [name == "bf16"] * 2 or name == "mixed-lora"


@pytest.mark.long
def test_the_program_under_torchrun(tmp_path: Path) -> None:
    """Four processes; then a run that they began goes on alone."""
    whole = recipe(tmp_path, output=str(tmp_path / "whole"))
    go(whole)
    expected = [step["values"]["loss"] for step in steps(whole)]
    apart = whole.replace(output=str(tmp_path / "apart"))
    (tmp_path / "recipe.json").write_text(json.dumps(apart.to_dict()))
    launch(4, ["-m", "hermes3", "train", "sft", str(tmp_path / "recipe.json")], tmp_path)
    assert [step["values"]["loss"] for step in steps(apart)] == pytest.approx(expected, rel=2e-5)
    cut = whole.replace(output=str(tmp_path / "cut"))
    (tmp_path / "plan.json").write_text(json.dumps([[cut.to_dict(), 4]]))
    launch(4, ["-m", "tests.train.spread", str(tmp_path / "plan.json")], tmp_path)
    assert len(steps(cut)) == 4
    go(cut)
    assert [step["values"]["loss"] for step in steps(cut)] == pytest.approx(expected, rel=2e-5)
