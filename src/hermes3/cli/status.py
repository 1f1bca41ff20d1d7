"""What goes to standard error: notes, the bar of a download, tokens per second."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Self

from hermes3.cli.screen import on_screen
from hermes3.weights.hub import LineProgress, Progress

if TYPE_CHECKING:
    import rich.progress

    from hermes3.llm import Delta, Reply

BAR_AFTER = 0.5  # seconds that a transfer may take before a bar is drawn


def note(line: str) -> None:
    """One line for the user, whatever standard output is connected to."""
    print(on_screen(sys.stderr)(line), file=sys.stderr, flush=True)


def progress() -> Progress:
    """What shows downloads: a bar on a terminal, plain lines elsewhere."""
    return BarProgress() if sys.stderr.isatty() else LineProgress()


class BarProgress(LineProgress):
    """A bar with size, speed and time left, for transfers that take long enough to look at it."""

    _bar: rich.progress.Progress | None = None

    def note(self, line: str) -> None:
        if self._bar is not None:
            self._bar.console.print(line, markup=False, highlight=False)
        else:
            note(line)

    def begin(self, label: str, total: int, done: int) -> None:
        self._label, self._total, self._done = label, total, done
        self._start = time.monotonic()

    def advance(self, n_bytes: int) -> None:
        self._done += n_bytes
        if self._bar is None and time.monotonic() - self._start > BAR_AFTER:
            self._draw()
        if self._bar is not None:
            done = min(self._done, self._total) if self._total else self._done  # an estimate may be too low
            self._bar.update(self._bar.task_ids[0], completed=done)

    def end(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _draw(self) -> None:
        from rich import progress as columns
        from rich.console import Console

        self._bar = columns.Progress(
            columns.TextColumn("{task.description}", markup=False),
            columns.BarColumn(),
            columns.DownloadColumn(),
            columns.TransferSpeedColumn(),
            columns.TimeRemainingColumn(),
            console=Console(stderr=True),
        )
        self._bar.add_task(self._label, total=self._total or None, completed=self._done)
        self._bar.start()


class Line:
    """One line on a terminal that says how far something is, written over again and gone at the end.

    Where standard error is no terminal it says nothing.
    """

    PAUSE = 0.1  # seconds between changes of the same sentence

    def __init__(self) -> None:
        self._is_terminal = sys.stderr.isatty()
        self._next = 0.0
        self._kind = ""

    def show(self, text: str) -> None:
        """Replace the line; what is before a colon says what goes on, the rest how far."""
        kind, now = text.partition(":")[0], time.monotonic()
        if self._is_terminal and (kind != self._kind or now >= self._next):
            self._kind, self._next = kind, now + self.PAUSE
            print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._kind:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def stats_line(last: Delta | Reply) -> str:
    """Tokens per second of one answer, from it or its last delta; empty where that has none."""
    if last.usage is None or last.timings is None:
        return ""
    usage, timings = last.usage, last.timings
    return (
        f"prompt {usage.prompt_tokens} tokens in {timings.prefill_s:.2f} s "
        f"({timings.prefill_tokens_per_s:.1f} tokens/s), "
        f"answer {usage.completion_tokens} tokens in {timings.decode_s:.2f} s "
        f"({timings.decode_tokens_per_s:.1f} tokens/s), {last.finish_reason}"
    )
