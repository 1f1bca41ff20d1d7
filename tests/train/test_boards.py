"""TensorBoard's files, read back by TensorBoard."""

from __future__ import annotations

from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from hermes3.errors import RequestError
from hermes3.train import boards
from hermes3.train.events import Event, Step, lines_of
from hermes3.train.ranks import ranks
from hermes3.train.run import Run
from tests.train.runs import go, recipe


def test_boards_show_each_step_once_though_the_run_was_cut(tmp_path: Path) -> None:
    made = recipe(
        tmp_path,
        tensorboard=True,
        data={"train": [str(tmp_path / "chats.jsonl")], "eval_share": 0.1},
        evaluation={"every": 2, "samples": 1, "sample_tokens": 3},
        checkpoints={"every": 2},
    )

    def cut(event: Event) -> None:
        if isinstance(event, Step) and event.step == 3:
            raise InterruptedError

    with ranks() as mine, pytest.raises(InterruptedError):
        Run(made, Path(made.model), mine, cut).go()
    go(made)
    seen = EventAccumulator(str(tmp_path / "out" / "tensorboard")).Reload()
    lines = lines_of(tmp_path / "out" / "metrics.jsonl")
    steps = [line for line in lines if line["event"] == "step"]
    for tag, values in (
        ("train/loss", [line["values"]["loss"] for line in steps]),
        ("train/lr", [line["lr"] for line in steps]),
        ("train/grad_norm", [line["grad_norm"] for line in steps]),
        ("held_out/loss", [line["values"]["loss"] for line in lines if line["event"] == "evaluation"]),
    ):
        assert [scalar.value for scalar in seen.Scalars(tag)] == pytest.approx(values, rel=1e-6)
    assert [scalar.step for scalar in seen.Scalars("train/loss")] == list(range(1, len(steps) + 1))
    assert "sample/text_summary" in seen.Tags()["tensors"]


def test_without_tensorboard_a_run_says_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(boards, "find_spec", lambda name: None)
    with pytest.raises(RequestError, match="pip install tensorboard"):
        go(recipe(tmp_path, tensorboard=True))
    assert not (tmp_path / "out").exists()
