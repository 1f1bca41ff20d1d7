"""Answers that are checked once they are whole, and asked for again where they do not pass."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import astuple, replace

from hermes3.errors import AnswerError
from hermes3.llm.checks import Checks, asked_again
from hermes3.llm.load import Progress
from hermes3.llm.reply import Delta, Reply, Timings, Usage
from hermes3.llm.request import Sink
from hermes3.llm.streams import IDLE, Handle
from hermes3.prompt.messages import Message

N_TRIES = 3  # in all; what a model does not see by then, it does not see

# Starts an answer to a conversation whose deltas go to a sink.
Submit = Callable[[Sequence[Message], Sink], Handle]


class Retrying:
    """One answer.

    Whole answers are checked by a thread of their own: the engine's must not wait for it. Cancelling takes no
    lock, for garbage collection may do it anywhere.

    Args:
        turns: the conversation.
        checks: what the answer must satisfy.
        submit: starts a try.
        sink: takes the deltas of the try that passed, or the error that ends it.
    """

    def __init__(self, turns: Sequence[Message], checks: Checks, submit: Submit, sink: Sink) -> None:
        self._turns = turns
        self._checks = checks
        self._submit = submit
        self._sink = sink
        self._deltas: list[Delta] = []
        self._spent: list[tuple[Usage, Timings]] = []  # of each try
        self._is_cancelled = False
        self._handle = IDLE  # of the try in work

    def start(self) -> Handle:
        """Begin with the first try.

        Raises:
            RequestError, Hermes3Error: as ``submit`` does.
        """
        self._try()
        return Handle(self.cancel, self.progress)

    def cancel(self) -> None:
        self._is_cancelled = True
        self._handle.cancel()

    def progress(self) -> Progress | None:
        """Of the try in work."""
        return self._handle.progress()

    def _try(self) -> None:
        self._deltas = []
        self._handle = self._submit(self._turns, self._take)
        if self._is_cancelled:  # meanwhile, when there was nothing to cancel yet
            self._handle.cancel()

    def _take(self, item: Delta | Exception) -> None:
        """Called by the engine's thread."""
        if isinstance(item, Exception):
            self._sink(item)
            return
        self._deltas.append(item)
        if item.finish_reason is None or item.usage is None or item.timings is None:
            return
        self._handle = IDLE
        self._spent.append((item.usage, item.timings))
        if item.finish_reason == "cancelled":
            self._end_cancelled()
        else:
            threading.Thread(target=self._judge, name="hermes3-check", daemon=True).start()

    def _judge(self) -> None:
        try:
            self._go_on()
        except Exception as error:
            self._give(error)

    def _go_on(self) -> None:
        reply = Reply.joined(self._deltas, with_logprobs=False)
        faults = self._checks.faults(reply)
        if faults is None:
            for delta in self._deltas[:-1]:
                self._give(delta)
            self._give(self._with_all_spent(self._deltas[-1]))
        elif len(self._spent) == N_TRIES:
            raise AnswerError(
                f"the answer does not satisfy its schema, nor did {N_TRIES - 1} before it: {faults}"[:1000]
            )
        elif self._is_cancelled:
            self._end_cancelled()
        else:
            self._turns = asked_again(self._turns, reply, faults)
            self._try()

    def _end_cancelled(self) -> None:
        """With nothing of what has not been checked."""
        self._give(self._with_all_spent(Delta("", finish_reason="cancelled")))

    def _with_all_spent(self, last: Delta) -> Delta:
        """The last delta with what all tries took together."""
        usages, timings = zip(*self._spent, strict=True)
        usage = Usage(*map(sum, zip(*map(astuple, usages), strict=True)))
        prefill_s = sum(each.prefill_s for each in timings)
        decode_s = sum(each.decode_s for each in timings)
        names = ("queue_s", "mask_s", "mask_wait_s")
        of_them = {name: sum(getattr(each, name) for each in timings) for name in names}
        measured = Timings.measured(usage, 0.0, prefill_s, prefill_s + decode_s, **of_them)
        return replace(last, usage=usage, timings=measured)

    def _give(self, item: Delta | Exception) -> None:
        try:
            self._sink(item)
        except RuntimeError:  # nobody is left to take it
            self._is_cancelled = True
