"""A training run on the screen: one live line, and a line for each thing that happens."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Self

from hermes3.cli import status
from hermes3.train.events import Evaluated, Event, Note, Progress, Sampled, Saved, Step

if TYPE_CHECKING:
    import rich.progress

    from hermes3.train.recipe import Recipe

PLAIN_PAUSE_S = 10.0  # between lines where standard error is no terminal
SMOOTHING = 0.9  # of the seconds of a step


class Screen:
    """What a run reports, shown on standard error."""

    def __init__(self, recipe: Recipe) -> None:
        self._title = f"{recipe.method} {recipe.model}"
        self._bar: rich.progress.Progress | None = None
        self._seconds = 0.0
        self._said_at = 0.0
        self._line = status.Line()
        self._is_terminal = sys.stderr.isatty()  # asked before the bar: what rich puts there may not know

    def __call__(self, event: Event) -> None:
        match event:
            case Step():
                self._step(event)
            case Progress():
                self._line.show(f"{event.what}: {event.done / max(1, event.of):.0%}")
            case Evaluated():
                values = "  ".join(f"{name} {value:.4f}" for name, value in event.values.items())
                self._say(f"step {event.step}: held out: {values}")
            case Sampled():
                self._say(f"step {event.step}: {_tail(event.prompt)}\n{event.answer}")
            case Saved():
                self._say(f"step {event.step}: saved in {event.seconds:.1f} s: {event.path}")
            case Note():
                self._say(event.text)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._line.__exit__(kind, error, trace)
        if self._bar is not None:
            self._bar.stop()

    def _step(self, event: Step) -> None:
        old = self._seconds or event.seconds
        self._seconds = SMOOTHING * old + (1 - SMOOTHING) * event.seconds
        text = line(event, self._seconds * (event.n_steps - event.step))
        if self._is_terminal:
            self._draw(event, text)
        elif time.monotonic() - self._said_at > PLAIN_PAUSE_S or event.step in (1, event.n_steps):
            self._said_at = time.monotonic()
            status.note(text)

    def _draw(self, event: Step, text: str) -> None:
        if self._bar is None:
            from rich import progress as columns
            from rich.console import Console

            self._line.__exit__(None, None, None)
            self._bar = columns.Progress(
                columns.BarColumn(bar_width=24),
                columns.TextColumn("{task.description}", markup=False),
                console=Console(stderr=True),
            )
            self._bar.add_task(self._title, total=event.n_steps)
            self._bar.start()
        self._bar.update(self._bar.task_ids[0], completed=event.step, description=text)

    def _say(self, text: str) -> None:
        if self._bar is not None:
            self._bar.console.print(text, markup=False, highlight=False)
        else:
            self._line.__exit__(None, None, None)
            status.note(text)


def line(event: Step, left_s: float) -> str:
    """One step in words."""
    loss, *others = event.values.items()
    more = "".join(f"  {name} {value:.3f}" for name, value in others)
    minutes, seconds = divmod(round(left_s), 60)
    return (
        f"step {event.step}/{event.n_steps}  loss {loss[1]:.4f}{more}  lr {event.lr:.2e}  "
        f"{event.tokens_per_s:,.0f} tokens/s  MFU {event.mfu:.0%}  {event.memory / 1e9:.1f} GB  "
        f"left {minutes // 60}:{minutes % 60:02}:{seconds:02}"
    )


def _tail(text: str, most: int = 200) -> str:
    return text if len(text) <= most else f"... {text[-most:]}"
