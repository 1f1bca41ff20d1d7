"""The end of a running answer that its caller holds."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from queue import SimpleQueue
from types import TracebackType
from typing import NamedTuple, Self

from hermes3.llm.form import PLAIN, Form
from hermes3.llm.load import Progress
from hermes3.llm.reply import Delta, Reply

Item = Delta | Exception


class Handle(NamedTuple):
    """What can be done about an answer that runs: cancel it, and see how far it is (None for not known)."""

    cancel: Callable[[], None]
    progress: Callable[[], Progress | None]


def nothing() -> None:
    """Before anything runs there is nothing to cancel, and no progress."""


IDLE = Handle(nothing, nothing)


class Stream:
    """An answer as it grows: iterate over its deltas, or take the ``reply()``.

    Leaving it early, by ``close()``, by ``with`` or by dropping it, cancels the answer and frees its memory.
    """

    def __init__(self, *, with_logprobs: bool, form: Form = PLAIN) -> None:
        self._queue: SimpleQueue[Item] = SimpleQueue()
        self._with_logprobs = with_logprobs
        self._form = form
        self._handle = IDLE
        self._is_over = False

    def attach(self, handle: Handle) -> None:
        """Tell the stream of what feeds it."""
        self._handle = handle

    def progress(self) -> Progress | None:
        """How far the answer is; None where that is not known, or it is over."""
        return self._handle.progress()

    @property
    def sink(self) -> Callable[[Item], None]:
        """Takes the next delta, or the error that ends it. For any thread; does not keep the stream alive."""
        return self._queue.put

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Delta:
        """The next delta, waiting for it.

        Raises:
            Hermes3Error: the engine failed or was closed under the answer.
        """
        if self._is_over:
            raise StopIteration
        item = self._queue.get()
        if self._is_over:  # closed by another thread while this one waited
            raise StopIteration
        if isinstance(item, Exception):
            self._is_over = True
            raise item
        self._is_over = item.finish_reason is not None
        return item

    @property
    def is_over(self) -> bool:
        """The last delta, an error or ``close()`` has ended it."""
        return self._is_over

    def cancel(self) -> None:
        """Ask for the end: the stream still gives its last delta, with finish_reason ``cancelled``."""
        self._handle.cancel()

    def close(self) -> None:
        """End it at once: nothing more comes out of the stream."""
        if not self._is_over:
            self._is_over = True
            self._handle.cancel()

    def reply(self) -> Reply:
        """Wait for the end and join what has not been iterated over yet."""
        with self:
            return self.joined(self)

    def joined(self, deltas: Iterable[Delta]) -> Reply:
        """The reply that deltas, all up to the last, add up to."""
        return self._form.finished(Reply.joined(deltas, with_logprobs=self._with_logprobs))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()
