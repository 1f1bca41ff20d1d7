"""The end of a running answer that an asyncio task holds; by itself, for asyncio is slow to import."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Self
from weakref import WeakKeyDictionary

from hermes3.llm.form import PLAIN, Form
from hermes3.llm.load import Progress
from hermes3.llm.reply import Delta, Reply
from hermes3.llm.streams import IDLE, Handle, Item


class AsyncStream:
    """``Stream`` for asyncio; to be made, iterated and closed on one event loop.

    Attributes:
        on_end: called once, when it is over: with the last delta, or None after an error or ``close()``.
    """

    def __init__(self, *, with_logprobs: bool, form: Form = PLAIN) -> None:
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[Item] = asyncio.Queue()
        self._with_logprobs = with_logprobs
        self._form = form
        self._handle = IDLE
        self._is_over = False
        self.on_end: Callable[[Delta | None], None] = _ignore

    def attach(self, handle: Handle) -> None:
        """Tell the stream of what feeds it."""
        self._handle = handle

    def progress(self) -> Progress | None:
        """How far the answer is; None where that is not known, or it is over."""
        return self._handle.progress()

    @property
    def sink(self) -> Callable[[Item], None]:
        """Takes the next delta, or the error that ends it. For any thread; does not keep the stream alive.

        Raises:
            RuntimeError: the event loop is closed, nobody is there to read it.
        """
        loop, queue, mailbox = self._loop, self._queue, _mailbox_of(self._loop)

        def put(item: Item) -> None:
            mailbox.put(loop, queue, item)

        return put

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Delta:
        """The next delta, waiting for it.

        Raises:
            Hermes3Error: the engine failed or was closed under the answer.
        """
        if self._is_over:
            raise StopAsyncIteration
        item = await self._queue.get()
        if self._is_over:  # closed by another task while this one waited
            raise StopAsyncIteration
        if isinstance(item, Exception):
            self._end(None)
            raise item
        if item.finish_reason is not None:
            self._end(item)
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
            self._end(None)
            self._handle.cancel()

    async def reply(self) -> Reply:
        """Wait for the end and join what has not been iterated over yet."""
        try:
            deltas = [delta async for delta in self]
        finally:
            self.close()
        return self._form.finished(Reply.joined(deltas, with_logprobs=self._with_logprobs))

    def _end(self, last: Delta | None) -> None:
        self._is_over = True
        on_end, self.on_end = self.on_end, _ignore
        on_end(last)

    def __del__(self) -> None:
        self.close()


class _Mailbox:
    """What other threads send to the streams of one loop, which is woken once for all that comes together.

    Waking takes a system call, and a step of the engine brings something for every stream at once.
    """

    def __init__(self) -> None:
        self._items: deque[tuple[asyncio.Queue[Item], Item]] = deque()
        self._is_waking = False

    def put(self, loop: asyncio.AbstractEventLoop, queue: asyncio.Queue[Item], item: Item) -> None:
        """For any thread.

        Raises:
            RuntimeError: the loop is closed.
        """
        self._items.append((queue, item))
        if self._is_waking and not loop.is_closed():
            return
        self._is_waking = True
        loop.call_soon_threadsafe(self._empty)

    def _empty(self) -> None:
        self._is_waking = False  # first: what comes from here on may be too late for this time
        while self._items:
            queue, item = self._items.popleft()
            queue.put_nowait(item)


_mailboxes: WeakKeyDictionary[asyncio.AbstractEventLoop, _Mailbox] = WeakKeyDictionary()


def _mailbox_of(loop: asyncio.AbstractEventLoop) -> _Mailbox:
    """The loop's own; asked for on that loop alone."""
    return _mailboxes.setdefault(loop, _Mailbox())


def _ignore(last: Delta | None) -> None:
    """Nobody wants to know."""
