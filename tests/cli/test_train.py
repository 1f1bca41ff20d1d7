"""`hermes3 train`: recipes, plans, a whole run with a GGUF file, and refusals that say why."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from hermes3.weights.checkpoint import open_checkpoint
from tests.cli.program import inside
from tests.train.runs import recipe


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The file of a small recipe."""
    file = tmp_path / "recipe.json"
    file.write_text(json.dumps(recipe(tmp_path, max_steps=3).to_dict()))
    torch.set_num_threads(1)
    return file


def test_shipped_recipes_are_printed() -> None:
    done = inside("train", "recipe", "smol-cpu")
    assert done.returncode == 0
    assert 'model = "smol"' in done.stdout
    other = inside("train", "recipe", "nonsense")
    assert other.returncode == 2
    assert "hermes-3b-sft" in other.stderr


def test_a_run_prints_where_its_model_is(tmp_path: Path, path: Path) -> None:
    done = inside("train", "sft", str(path), "--set", "evaluation.samples=0", "--gguf", "q8_0")
    assert done.returncode == 0, done.stderr
    out = tmp_path / "out"
    assert done.stdout == f"{out / 'model'}\n"
    assert "step 3/3  loss " in done.stderr
    assert (out / "loss.svg").read_text().startswith("<svg")
    assert open_checkpoint(out / "model.q8_0.gguf").description == "Q8_0"
    again = inside("train", "sft", str(path))
    assert again.returncode == 2
    assert "this run is finished" in again.stderr
    assert inside("train", "sft", str(path), "--fresh").returncode == 0


def test_a_plan_trains_nothing(tmp_path: Path, path: Path) -> None:
    done = inside("train", "plan", str(path), "--json", "--processes", "2")
    assert done.returncode == 0, done.stderr
    plan = json.loads(done.stdout)
    assert (plan["n_steps"], plan["n_documents"]) == (3, 40)
    assert plan["n_parameters"] == sum(p.numel() for p in _model(tmp_path).parameters())
    assert not (tmp_path / "out").exists()
    assert "rows" in inside("train", "plan", str(path)).stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("dpo", "R"), "is of method 'sft'"),
        (("sft", "R", "--set", "lr=-1"), "lr is -1"),
        (("sft", "R", "--set", "nonsense=1"), "nonsense is not known"),
        (("sft", "R", "--gguf", "q9"), "--gguf q9 is no type"),
        (("sft", "R", "--set", "max_length=8"), "longer than max_length"),
        (("sft", "R", "--set", "data.train=missing.jsonl"), "missing.jsonl"),
        (("sft", "missing.toml"), "no recipe missing.toml"),
    ],
)
def test_refusals(path: Path, words: tuple[str, ...], message: str) -> None:
    done = inside("train", *(str(path) if word == "R" else word for word in words))
    assert done.returncode in (1, 2)
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def _model(tmp_path: Path) -> torch.nn.Module:
    from hermes3.train.folders import load

    return load(open_checkpoint(tmp_path / "base"))
