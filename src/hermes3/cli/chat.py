"""`hermes3 chat`: one question and its answer, or the way into the interactive session."""

from __future__ import annotations

import select
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hermes3.cli import status
from hermes3.cli.failure import UsageError
from hermes3.cli.models import located
from hermes3.cli.screen import on_screen
from hermes3.errors import RequestError

if TYPE_CHECKING:
    from hermes3.llm import LLM, Delta

ENDINGS = {"length": "(cut at the limit of max_tokens or of the context)", "cancelled": "(stopped)"}
PATIENCE = 2.0  # seconds of silence on standard input before we say that we wait for it


@dataclass(frozen=True, slots=True)
class ChatOptions:
    """What the command line asks for; None where it says nothing.

    Attributes:
        sampling: keyword arguments for `LLM.chat`, only those that were given.
    """

    prompt: str | None
    model: str | None
    system: str | None
    sampling: Mapping[str, Any]
    n_ctx: int | None
    n_threads: int | None
    bos: bool | None
    show_stats: bool
    prefix_folder: Path | None = None


def run(options: ChatOptions) -> None:
    """Answer once where there is a prompt or a pipe, else hold a conversation.

    Raises:
        UsageError: nothing to answer, or a sampling option outside its limits.
        Hermes3Error: the model cannot be had, or the prompt cannot be honoured.
        KeyboardInterrupt: Ctrl-C while the one answer is made.
    """
    check_sampling(options.sampling)
    prompt, is_piped = asked(options.prompt)
    if prompt is not None:
        with open_llm(options) as llm:
            answer(llm, messages_of(options.system, prompt), options)
        return
    if is_piped:
        raise UsageError("nothing to answer: give a PROMPT, or pipe some text in")
    if not sys.stdout.isatty():
        raise UsageError("a conversation needs a terminal; with standard output redirected give a PROMPT")
    from hermes3.cli.session import Session

    with open_llm(options) as llm:
        Session(llm, options).run()


def open_llm(options: ChatOptions) -> LLM:
    """The model that the options mean, fetched and loaded.

    Raises:
        Hermes3Error: see `hermes3.LLM`.
    """
    from hermes3.llm import LLM

    name, _ = located(options.model)
    llm = LLM(
        name,
        n_ctx=options.n_ctx,
        n_threads=options.n_threads,
        bos=options.bos,
        prefix_folder=options.prefix_folder,
    )
    if llm.template.warning:
        status.note(f"warning: {llm.template.warning}")
    return llm


def answer(llm: LLM, messages: list[dict[str, str]], options: ChatOptions) -> None:
    """One answer to standard output, a newline after it; all else goes to standard error.

    Raises:
        Hermes3Error: see `LLM.chat`.
        BrokenPipeError: nobody reads standard output any more.
    """
    if sys.stdout.isatty():
        sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]  # a locale that is not UTF-8
    with llm.chat(messages, stream=True, **options.sampling) as stream:
        printed = Printed(stream)
        try:
            printed.print()
        finally:
            if not printed.text.endswith("\n"):
                print(flush=True)
    for line in printed.endings(show_stats=options.show_stats):
        status.note(line)


class Printed:
    """An answer that is printed while it comes.

    Attributes:
        text: what was printed so far.
        last: the delta that came last.
    """

    def __init__(self, stream: Iterable[Delta]) -> None:
        self._stream = stream
        self.text = ""
        self.last: Delta | None = None
        self._shown = on_screen(sys.stdout)

    def print(self) -> None:
        """Print what comes until the stream is over; after an interruption it can be called again."""
        for delta in self._stream:
            self.last = delta
            self.text += delta.text
            sys.stdout.write(self._shown(delta.text))
            sys.stdout.flush()

    @property
    def stats(self) -> str:
        """How fast it was."""
        return status.stats_line(self.last) if self.last else ""

    def endings(self, *, show_stats: bool) -> list[str]:
        """What is to be said below it: that it was cut, and how fast it was."""
        lines = []
        if self.last and self.last.finish_reason in ENDINGS:
            lines.append(ENDINGS[self.last.finish_reason])
        if show_stats and self.stats:
            lines.append(f"({self.stats})")
        return lines


def check_sampling(sampling: Mapping[str, Any]) -> None:
    """Refuse before a model is fetched and loaded what it could not honour anyway."""
    from hermes3.llm.options import split

    try:
        split(None, sampling)  # type: ignore[arg-type]  # typer has seen to the types
    except RequestError as error:
        raise UsageError(f"--{str(error).replace('_', '-', 1) if error.param else error}") from error


def asked(prompt: str | None) -> tuple[str | None, bool]:
    """The prompt with what came through a pipe below it, None where there is neither; and whether there is a
    pipe.

    Raises:
        UsageError: one of them is not UTF-8.
    """
    piped = None if sys.stdin is None or sys.stdin.isatty() else _piped_text()
    return _joined(prompt, piped), piped is not None


def messages_of(system: str | None, prompt: str) -> list[dict[str, str]]:
    """A question, and the system message before it."""
    turns = [{"role": "system", "content": system}] if system is not None else []
    return [*turns, {"role": "user", "content": prompt}]


def _joined(prompt: str | None, piped: str | None) -> str | None:
    """Prompt, then what came through the pipe, a blank line between; None where there is neither."""
    parts = [part for part in (prompt, piped.rstrip("\n") if piped else None) if part and part.strip()]
    return "\n\n".join(_utf8(part) for part in parts) or None


def _utf8(argument: str) -> str:
    """Text of the command line, where bytes that are not UTF-8 arrive as lone surrogates."""
    try:
        argument.encode("utf-8")
    except UnicodeEncodeError as error:
        at = f"at character {error.start}"
        raise UsageError(f"the prompt is not UTF-8 ({at}); convert it with iconv") from error
    return argument


def _piped_text() -> str:
    """All of standard input, which is a pipe or a file."""
    stdin = sys.stdin.buffer
    if not select.select([stdin], [], [], PATIENCE)[0]:
        status.note("reading standard input until it ends (`< /dev/null` gives none)")
    raw = stdin.read()
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(
            f"standard input is not UTF-8: byte 0x{raw[error.start]:02x} at offset {error.start}; "
            "convert it with iconv"
        ) from error
