"""`hermes3 train`: recipes, plans, a whole run with a GGUF file, and refusals that say why."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch._dynamo.utils import counters

from hermes3.train.events import lines_of
from hermes3.weights.checkpoint import open_checkpoint
from tests.cli import program
from tests.cli.program import REAL, inside, terminal
from tests.train.runs import recipe
from tests.train.tiny import CONFIG, folder


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


def test_a_teacher_is_written_down_and_learned_from(tmp_path: Path, path: Path) -> None:
    """A student comes nearer to a teacher that it shares nothing with but the vocabulary."""
    other = folder(tmp_path / "teacher")
    tensors = load_file(other / "model.safetensors")
    generator = torch.Generator().manual_seed(1)
    changed = {name: tensor + 0.2 * torch.randn(tensor.shape, generator=generator) * ("head" in name)
               for name, tensor in tensors.items()}  # fmt: skip
    save_file(changed, other / "model.safetensors", {"format": "pt"})
    taught = tmp_path / "t.npz"
    words = ("--teacher", str(other), "--out", str(taught), "--top-k", "16")
    asked = inside("train", "teacher", str(path), *words)
    assert asked.returncode == 0, asked.stderr
    assert asked.stdout == f"{taught}\n"
    with np.load(taught) as stored:
        assert stored["tokens"].shape == stored["log_probs"].shape == (stored["ends"][-1], 16)
    words = ("--set", f"distill.teacher={taught}", "--set", "distill.share=1.0", "--set", "max_steps=0")
    done = inside("train", "sft", str(path), *words, "--set", "epochs=6", "--set", "adamw.weight_decay=0.0")
    assert done.returncode == 0, done.stderr
    steps = [line["values"] for line in lines_of(tmp_path / "out" / "metrics.jsonl")]
    assert steps[0].keys() == {"loss", "nll"}
    divergences = [values["loss"] for values in steps]
    assert np.mean(divergences[-3:]) < 0.8 * divergences[0]
    assert "  nll " in done.stderr


def test_a_teacher_of_another_vocabulary_is_refused(tmp_path: Path, path: Path) -> None:
    folder(tmp_path / "wide", replace(CONFIG, vocab_size=60))
    words = ("--teacher", str(tmp_path / "wide"), "--out", str(tmp_path / "t.npz"))
    done = inside("train", "teacher", str(path), *words)
    assert done.returncode == 2
    assert "has 60 tokens" in done.stderr
    wrong = inside("train", "teacher", str(path), *words, "--set", "method=dpo")
    assert wrong.returncode == 2
    assert "distillation is for sft" in wrong.stderr


@pytest.mark.long  # inductor compiles for half a minute
def test_compiled_mlps_learn_the_same(tmp_path: Path, path: Path) -> None:
    found, n_before = [], counters["stats"]["unique_graphs"]
    for compiled in ("false", "true"):
        output = tmp_path / compiled
        words = ("--set", f"compile={compiled}", "--set", f"output={output}", "--set", "recompute=mlp")
        done = inside("train", "sft", str(path), *words)
        assert done.returncode == 0, done.stderr
        found.append([line["values"]["loss"] for line in lines_of(output / "metrics.jsonl")])
    assert found[1] == pytest.approx(found[0], rel=1e-4)
    assert counters["stats"]["unique_graphs"] > n_before


def test_compiling_needs_a_compiler(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "/nowhere/g++")
    done = inside("train", "sft", str(path), "--set", "compile=true")
    assert done.returncode == 2
    assert "no C++ compiler /nowhere/g++" in done.stderr


@pytest.mark.long  # a process of its own, which loads torch
def test_ctrl_c_on_a_terminal_saves(tmp_path: Path, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(program, "WAIT_S", 250)
    words = ("train", "sft", str(path), "--set", "max_steps=0", "--set", "epochs=5000", "--threads", "1")
    with terminal(*words, program=REAL) as shown:
        shown.expect(r"━.*step \d+/")
        shown.press("\x03")
        shown.expect("ending after this step; once more ends at once")
        shown.expect("saved in ")
        shown.expect("the same command goes on from here")
        assert shown.finish() == 130
    assert list((tmp_path / "out" / "checkpoints").glob("step-*/state.json"))


def _model(tmp_path: Path) -> torch.nn.Module:
    from hermes3.train.folders import load

    return load(open_checkpoint(tmp_path / "base"))
