"""The end of a running answer that an asyncio task holds; by itself, for asyncio is slow to import."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field
from typing import Self
from weakref import WeakKeyDictionary

from hermes3.llm.form import PLAIN, Form
from hermes3.llm.load import Progress
from hermes3.llm.reply import Delta, Reply
from hermes3.llm.streams import IDLE, Handle, Item

WRITES_PER_S = 320  # to all streams of a loop: what they cost is taken from the kernels' cores
LONGEST_S = 0.1  # that a delta waits for others


class AsyncStream:
    """``Stream`` for asyncio; to be made, iterated and closed on one event loop.

    Attributes:
        on_end: called once, when it is over: with the last delta, or None after an error or ``close()``.
    """

    def __init__(self, *, with_logprobs: bool, form: Form = PLAIN) -> None:
        self._loop = asyncio.get_running_loop()
        self._inbox = _Inbox()
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
        loop, inbox, mailbox = self._loop, self._inbox, _mailbox_of(self._loop)

        def put(item: Item) -> None:
            mailbox.put(loop, inbox, item)

        return put

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Delta:
        """The next delta, waiting for it.

        Raises:
            Hermes3Error: the engine failed or was closed under the answer.
        """
        inbox = self._inbox
        while not self._is_over and not inbox.items:
            inbox.waiter = self._loop.create_future()
            await inbox.waiter
        if self._is_over:  # it may have been closed by another task while this one waited
            raise StopAsyncIteration
        item = inbox.items.popleft()
        if isinstance(item, Exception):
            self._end(None)
            raise item
        if item.finish_reason is not None:
            self._end(item)
        return item

    async def batches(self) -> AsyncGenerator[list[Delta], None]:
        """The deltas, each time all that are there.

        Raises:
            Hermes3Error: the engine failed or was closed under the answer.
        """
        async for delta in self:
            found, items = [delta], self._inbox.items
            while not self._is_over and items and not isinstance(items[0], Exception):
                found.append(await anext(self))
            yield found

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
        self._inbox.is_whole = True
        try:
            deltas = [delta async for delta in self]
        finally:
            self.close()
        return self._form.finished(Reply.joined(deltas, with_logprobs=self._with_logprobs))

    def _end(self, last: Delta | None) -> None:
        self._is_over = True
        self._inbox.wake()
        on_end, self.on_end = self.on_end, _ignore
        on_end(last)

    def __del__(self) -> None:
        self.close()


@dataclass(slots=True)
class _Inbox:
    """What came for one stream.

    Attributes:
        has_begun: its first item has come.
        is_whole: nobody wants to know before the last one is there.
        waiter: what whoever waits for the next one waits for.
    """

    items: deque[Item] = field(default_factory=deque)
    has_begun: bool = False
    is_whole: bool = False
    waiter: asyncio.Future[None] | None = None

    def wake(self) -> None:
        if self.waiter is not None and not self.waiter.done():
            self.waiter.set_result(None)


class _Mailbox:
    """What other threads send to the streams of one loop, which is woken once for all that comes together.

    After n streams were woken the loop rests for n / WRITES_PER_S seconds: what comes meanwhile is handed out
    together, and so goes out together, but for the first and the last of a stream.
    """

    def __init__(self) -> None:
        self._woken: deque[_Inbox] = deque()
        self._is_waking = False
        self._rests_until = 0.0

    def put(self, loop: asyncio.AbstractEventLoop, inbox: _Inbox, item: Item) -> None:
        """For any thread.

        Raises:
            RuntimeError: the loop is closed.
        """
        inbox.items.append(item)
        is_last = isinstance(item, Exception) or item.finish_reason is not None
        if inbox.is_whole and not is_last:
            return
        is_urgent, inbox.has_begun = is_last or not inbox.has_begun, True
        self._woken.append(inbox)
        if self._is_waking and not is_urgent and not loop.is_closed():
            return
        self._is_waking = True
        loop.call_soon_threadsafe(self._hand_out if is_urgent else self._rest, loop)

    def _rest(self, loop: asyncio.AbstractEventLoop) -> None:
        left_s = self._rests_until - loop.time()
        if left_s > 0:
            loop.call_later(left_s, self._hand_out, loop)
        else:
            self._hand_out(loop)

    def _hand_out(self, loop: asyncio.AbstractEventLoop) -> None:
        self._is_waking = False  # first: what comes from here on may be too late for this time
        n_before = len(self._woken)
        while self._woken:
            self._woken.popleft().wake()
        self._rests_until = loop.time() + min(n_before / WRITES_PER_S, LONGEST_S)


_mailboxes: WeakKeyDictionary[asyncio.AbstractEventLoop, _Mailbox] = WeakKeyDictionary()


def _mailbox_of(loop: asyncio.AbstractEventLoop) -> _Mailbox:
    """The loop's own; asked for on that loop alone."""
    return _mailboxes.setdefault(loop, _Mailbox())


def _ignore(last: Delta | None) -> None:
    """Nobody wants to know."""
