"""Runs that end before their time: killed, asked to end, out of disk."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from hermes3.errors import DiskSpaceError, FormatError, Hermes3Error, RequestError
from hermes3.train.recipe import Recipe
from tests.cli.program import ROOT
from tests.train.runs import conversations, go, losses, recipe


def started(made: Recipe, tmp: Path) -> subprocess.Popen[str]:
    """The program in a process of its own."""
    path = tmp / "recipe.json"
    path.write_text(json.dumps(made.to_dict()))
    env = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-m", "hermes3", "train", made.method, str(path), "--threads", "1"]
    return subprocess.Popen(words, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for_steps(made: Recipe, n: int, process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + 200
    while len(losses(made)) < n:
        assert time.monotonic() < end
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.002)


def test_killed_at_a_random_step_it_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    settings = {"epochs": 6, "checkpoints": {"every": 2}, "neftune_alpha": 1.0}
    whole = go(recipe(tmp_path, output=str(tmp_path / "whole"), **settings))
    cut = recipe(tmp_path, output=str(tmp_path / "cut"), **settings)
    process = started(cut, tmp_path)
    wait_for_steps(cut, int(np.random.default_rng().integers(3, len(whole) - 3)), process)
    process.kill()
    process.wait()
    assert not (tmp_path / "cut" / "model").exists()
    assert go(cut) == whole
    assert len(list((tmp_path / "cut" / "checkpoints").iterdir())) == 2


def test_sigterm_saves_and_ends_well(tmp_path: Path) -> None:
    settings = {"epochs": 12}
    cut = recipe(tmp_path, output=str(tmp_path / "cut"), **settings)
    process = started(cut, tmp_path)
    wait_for_steps(cut, 2, process)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=200)
    assert process.returncode == 0, said
    assert "the same command goes on from here" in said
    n_done = len(losses(cut))
    assert (tmp_path / "cut" / "checkpoints" / f"step-{n_done:08}").is_dir()
    whole = go(recipe(tmp_path, output=str(tmp_path / "whole"), **settings))
    assert go(cut) == whole


def test_a_full_disk_leaves_the_checkpoint_before(tmp_path: Path) -> None:
    made = recipe(tmp_path)
    go(made, 2)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(DiskSpaceError, match="the one before is whole"):
            go(made, 2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [path.name for path in (tmp_path / "out" / "checkpoints").iterdir()] == ["step-00000002"]
    assert go(made) == go(recipe(tmp_path, output=str(tmp_path / "whole")))


def test_what_does_not_belong_to_a_run_is_refused(tmp_path: Path) -> None:
    made = recipe(tmp_path)
    go(made, 2)
    with pytest.raises(RequestError, match=r"other settings \(lr\)"):
        go(made.replace(lr=1e-3))
    conversations(tmp_path / "chats.jsonl", seed=1)
    with pytest.raises(RequestError, match="other data"):
        go(made)
    conversations(tmp_path / "chats.jsonl")
    state = tmp_path / "out" / "checkpoints" / "step-00000002" / "state.json"
    state.write_text(state.read_text()[:40])
    with pytest.raises(FormatError):
        go(made)


def test_divergence_is_an_error(tmp_path: Path) -> None:
    made = recipe(tmp_path)
    path = tmp_path / "base" / "model.safetensors"
    tensors = load_file(path)
    tensors["model.norm.weight"][3] = float("inf")
    save_file(tensors, path, {"format": "pt"})
    with pytest.raises(Hermes3Error, match=r"step 1: .* training has diverged"):
        go(made.replace(output=str(tmp_path / "other")))
