"""Several processes on one CPU (gloo, FSDP2) beside one: the same losses, the same weights."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hermes3.train.order import of_rank
from hermes3.weights.checkpoint import open_checkpoint
from tests.cli.program import ROOT
from tests.train.runs import go, losses, recipe

LORA = {"rank": 4, "alpha": 8, "dropout": 0.0}


def test_each_row_counts_once_and_all_ranks_have_as_many() -> None:
    rows = [(i,) for i in range(7)]
    for n in (1, 2, 3, 4, 8):
        parts = [of_rank(rows, rank, n) for rank in range(n)]
        assert len({len(part) for part in parts}) == 1
        assert sorted(row for part in parts for _, row, counts in part if counts) == rows


def spread(path: Path, n: int, *changes: str) -> None:
    """The program under torchrun."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(n)]
    command = [sys.executable, *launcher, "-m", "hermes3", "train"]
    method = json.loads(path.read_text())["method"]
    settings = [word for change in changes for word in ("--set", change)]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(
        [*command, method, str(path), *settings], capture_output=True, text=True, env=env, cwd=path.parent,
        timeout=280,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.parametrize(
    ("n", "changes"),
    [
        (2, {"neftune_alpha": 2.0, "data.eval_share": 0.1}),
        pytest.param(4, {}, marks=pytest.mark.long),
        pytest.param(2, {"lora": LORA}, marks=pytest.mark.long),
    ],
    ids=["sft", "four", "lora"],
)
def test_processes_change_nothing(tmp_path: Path, n: int, changes: dict[str, Any]) -> None:
    share = changes.pop("data.eval_share", 0.0)
    alone = recipe(tmp_path, output=str(tmp_path / "alone"), **changes)
    alone = alone.replace(data=type(alone.data)(train=alone.data.train, eval_share=share))
    expected = go(alone)
    apart = alone.replace(output=str(tmp_path / "apart"))
    (tmp_path / "recipe.json").write_text(json.dumps(apart.to_dict()))
    spread(tmp_path / "recipe.json", n)
    assert losses(apart) == pytest.approx(expected, rel=2e-5)
    left, right = (open_checkpoint(tmp_path / name / "model") for name in ("alone", "apart"))
    for name in left.names:
        np.testing.assert_allclose(
            left.tensor(name).values(), right.tensor(name).values(), rtol=1e-3, atol=1e-4
        )


@pytest.mark.long
def test_a_run_goes_on_with_another_number_of_processes(tmp_path: Path) -> None:
    whole = go(recipe(tmp_path, output=str(tmp_path / "whole")))
    cut = recipe(tmp_path, output=str(tmp_path / "cut"))
    go(cut, 3)
    (tmp_path / "recipe.json").write_text(json.dumps(cut.to_dict()))
    spread(tmp_path / "recipe.json", 2)
    assert losses(cut) == pytest.approx(whole, rel=2e-5)
