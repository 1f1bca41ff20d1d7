"""What `hermes3 call` shows: calls and results on standard error, the answer on standard output."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, TextIO

from hermes3.agent.events import Answer, Calling, Outcome, Result, Said
from hermes3.cli import status
from hermes3.cli.screen import PICTURES, is_dumb, on_screen

if TYPE_CHECKING:
    from hermes3.prompt.messages import ToolCall

MAX_SHOWN = 400  # characters of a call or a result; the trace has all of them
ENDINGS = {
    "depth": "(the rounds of --depth were used up; the last answer was made without tools)",
    "length": "(cut at the limit of max_tokens or of the context)",
}


class CallScreen:
    """Shows the events of a run.

    On a terminal the answer is shown as it grows; elsewhere it is printed when it is there, for only then it
    is certain that no call follows.
    """

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._is_live = out.isatty()
        self._shown = on_screen(out)
        self._is_line_open = self._is_thinking = False
        self._has_several = False  # calls in this answer
        self._line = _line_printer()
        self._allows_all = False

    def show(self, events: Iterable[Any]) -> None:
        """Show a run to its end.

        Raises:
            Hermes3Error: what the run raises.
            BrokenPipeError: nobody reads standard output any more.
        """
        try:
            for event in events:
                self._event(event)
        finally:
            self._close_line()

    def allows(self, call: ToolCall) -> bool:
        """Ask the user whether a call may run; nobody to ask allows nothing."""
        self._close_line()
        text = call_text(call.name, call.arguments)
        if self._allows_all:
            return True
        if sys.stdin is None or not sys.stdin.isatty():
            self._line(f"not run: {text}; nobody is there to allow it (--yes runs it without asking)", "red")
            return False
        given = (question(f"{text} changes something. Run it? [y]es, [n]o, [a]ll: ") or "").strip().lower()
        self._allows_all = given in ("a", "all")
        return given in ("y", "yes", "a", "all")

    def _event(self, event: Any) -> None:
        match event:
            case Said(text, is_thought) if self._is_live:
                if self._is_thinking and not is_thought:
                    self._close_line()
                self._is_thinking = is_thought
                self._say(_dim(text) if is_thought else self._shown(text))
            case Answer():
                self._answered(event)
            case Calling(index, call):
                self._line(f"→ {self._number(index)}{_cut(call_text(call.name, call.arguments))}", "cyan")
            case Result():
                self._result(event)
            case Outcome(text, reason):
                if not self._is_live:
                    self._say(text if text.endswith("\n") else f"{text}\n")
                if reason in ENDINGS:
                    self._line(ENDINGS[reason], "dim")

    def _answered(self, answer: Answer) -> None:
        """The end of an answer: what of it is not on the screen, where a call follows."""
        self._close_line()
        self._has_several = len(answer.calls) + len(answer.broken) > 1
        if not self._is_live:
            for text in (answer.reasoning, answer.text if answer.calls else ""):
                if text:
                    self._line(text, "dim")

    def _result(self, result: Result) -> None:
        name = result.call.name if result.call else "no call"
        seconds = f" ({result.seconds:.1f} s)" if result.seconds >= 0.1 else ""
        text = f"← {self._number(result.index)}{name}: {_cut(result.content)}{seconds}"
        self._line(text, "dim" if result.status == "ok" else "red")

    def _number(self, index: int) -> str:
        """Which call it is, where there are several: results come as they are there."""
        return f"{index + 1} " if self._has_several else ""

    def _say(self, text: str) -> None:
        self._out.write(text)
        self._out.flush()
        self._is_line_open = not text.endswith("\n") if text else self._is_line_open

    def _close_line(self) -> None:
        if self._is_line_open:
            self._say(self._shown("\n"))


def call_text(name: str, arguments: Mapping[str, Any]) -> str:
    """A call as people read it: ``weather(city="Paris", days=2)``."""
    pairs = (f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in arguments.items())
    return f"{name}({', '.join(pairs)})"


def question(text: str) -> str | None:
    """Ask the user for a line; None at the end of input."""
    print(text.translate(PICTURES), end="", file=sys.stderr, flush=True)
    line = sys.stdin.readline()
    return line.rstrip("\n") if line else None


def _dim(text: str) -> str:
    text = text.translate(PICTURES)
    return text if is_dumb() else f"\x1b[2m{text}\x1b[0m"


def _cut(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}..."


def _line_printer() -> Callable[[str, str], None]:
    """What prints a line in a colour on standard error, where that is a terminal; else without one."""
    if not sys.stderr.isatty():
        return lambda text, style: status.note(text)
    from rich.console import Console
    from rich.text import Text

    console = Console(stderr=True, highlight=False)
    return lambda text, style: console.print(Text(text.translate(PICTURES), style=style))
