"""What a training run shows on a terminal."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest

from hermes3.cli.train.show import Screen
from hermes3.train.events import Evaluated, Note, Progress, Sampled, Saved, Step
from hermes3.train.recipe import Recipe
from tests.cli.program import ESCAPES
from tests.train.runs import recipe


class Tty(io.StringIO):
    """A terminal that keeps what it is told."""

    def isatty(self) -> bool:
        return True


def step(number: int, n_steps: int = 4) -> Step:
    return Step(
        step=number, n_steps=n_steps, epoch=number / n_steps, values={"loss": 1.5 / number, "margin": 0.25},
        lr=1e-5, grad_norm=1.0, n_tokens=1000, n_trained=300, seconds=2.0, mfu=0.37, memory=2 * 10**9,
    )  # fmt: skip


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Recipe:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "150")
    return recipe(tmp_path)


def test_a_live_bar_and_what_happens_above_it(made: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = Tty()
    monkeypatch.setattr(sys, "stderr", shown)
    with Screen(made) as screen:
        screen(Progress(what="reading data", done=1, of=2))
        screen(Note(text="3 documents [bold]are[/bold] left out"))
        for number in range(1, 5):
            screen(step(number))
        screen(Evaluated(step=4, values={"loss": 0.5}, seconds=1.0))
        screen(Sampled(step=4, prompt="6 x 7", answer="42 [/]"))
        screen(Saved(step=4, path="out/step-4", seconds=1.2))
    text = ESCAPES.sub("", shown.getvalue())
    assert "reading data: 50%" in text
    assert "3 documents [bold]are[/bold] left out\n" in text
    assert "━" in text
    line = "step 4/4  loss 0.3750  margin 0.250  lr 1.00e-05  500 tokens/s  MFU 37%  2.0 GB  left 0:00:00"
    assert line in text
    for sentence in ("held out: loss 0.5000", "6 x 7\n42 [/]", "saved in 1.2 s: out/step-4"):
        assert f"step 4: {sentence}" in text
    assert text.rindex(line) > text.index("held out")  # the bar stays below


def test_elsewhere_plain_lines(made: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = io.StringIO()
    monkeypatch.setattr(sys, "stderr", shown)
    with Screen(made) as screen:
        for number in range(1, 41):
            screen(step(number, 40))
    lines = shown.getvalue().splitlines()
    assert lines[0].startswith("step 1/40  loss 1.5000")
    assert lines[-1].startswith("step 40/40  loss 0.0375")
    assert len(lines) < 40
    assert "\x1b" not in shown.getvalue()
