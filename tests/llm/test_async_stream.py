"""The end that an asyncio task holds: woken for many streams at once, and no more often than it must be."""

from __future__ import annotations

import asyncio
import threading

import pytest

from hermes3.errors import Hermes3Error
from hermes3.llm import async_stream
from hermes3.llm.async_stream import AsyncStream
from hermes3.llm.reply import Delta, Timings, Usage

LAST = Delta("", finish_reason="stop", usage=Usage(1, 1), timings=Timings(0, 0, 0, 0))


def from_elsewhere(*acts) -> None:
    """On a thread of its own, as the engine's deltas come."""
    thread = threading.Thread(target=lambda: [act() for act in acts])
    thread.start()
    thread.join()


def test_what_comes_together_is_handed_out_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """After the first the loop rests; only a timer, or the last one, wakes whoever waits."""
    monkeypatch.setattr(async_stream, "WRITES_PER_S", 0.001)
    monkeypatch.setattr(async_stream, "LONGEST_S", 1000)

    async def main() -> None:
        stream, loop, timers = AsyncStream(with_logprobs=False), asyncio.get_running_loop(), []
        put, batches = stream.sink, stream.batches()
        loop.call_later = lambda *given: timers.append(given)  # type: ignore[method-assign]

        async def turns() -> None:
            for _ in range(5):
                await asyncio.sleep(0)

        async def next_texts(*texts: str) -> asyncio.Future:
            waiting = asyncio.ensure_future(anext(batches))
            await turns()
            from_elsewhere(*[lambda text=text: put(Delta(text)) for text in texts])
            await turns()
            return waiting

        first = await next_texts("a")
        assert [each.text for each in await first] == ["a"]
        assert timers == []
        later = await next_texts("b", "c", "d")
        assert not later.done()
        ((delay_s, hand_out, *given),) = timers
        assert 0 < delay_s <= 1000
        hand_out(*given)
        assert [each.text for each in await later] == ["b", "c", "d"]
        last = await next_texts("e")
        assert (last.done(), len(timers)) == (False, 2)
        from_elsewhere(lambda: put(LAST))
        assert [each.text for each in await last] == ["e", ""]
        with pytest.raises(StopAsyncIteration):
            await anext(batches)

    asyncio.run(main())


def test_a_whole_answer_wakes_the_loop_once() -> None:
    async def main() -> int:
        stream = AsyncStream(with_logprobs=False)
        loop, n_wakes = asyncio.get_running_loop(), 0
        call, put, reply = loop.call_soon_threadsafe, stream.sink, asyncio.ensure_future(stream.reply())

        def counting(*args, **more):
            nonlocal n_wakes
            n_wakes += 1
            return call(*args, **more)

        await asyncio.sleep(0)
        loop.call_soon_threadsafe = counting  # type: ignore[method-assign]
        from_elsewhere(*[lambda: put(Delta("x"))] * 50, lambda: put(LAST))
        assert (await reply).text == "x" * 50
        return n_wakes

    assert asyncio.run(main()) == 1


def test_an_error_comes_after_what_came_before_it() -> None:
    async def main() -> None:
        stream = AsyncStream(with_logprobs=False)
        put = stream.sink
        from_elsewhere(lambda: put(Delta("a")), lambda: put(Hermes3Error("gone")))
        batches = stream.batches()
        assert [each.text for each in await anext(batches)] == ["a"]
        with pytest.raises(Hermes3Error, match="gone"):
            await anext(batches)

    asyncio.run(main())


def test_closing_wakes_whoever_waits() -> None:
    async def main() -> None:
        stream = AsyncStream(with_logprobs=False)
        waiting = asyncio.ensure_future(anext(stream))
        await asyncio.sleep(0)
        stream.close()
        with pytest.raises(StopAsyncIteration):
            await asyncio.wait_for(waiting, 10)

    asyncio.run(main())


def test_many_streams_lose_nothing() -> None:
    """Items of several threads, in the order of each."""

    async def main() -> None:
        streams = [AsyncStream(with_logprobs=False) for _ in range(20)]
        sinks = [stream.sink for stream in streams]

        def feed(put) -> None:
            for number in range(200):
                put(Delta(f"{number} "))
            put(LAST)

        threads = [threading.Thread(target=feed, args=(put,)) for put in sinks]
        for thread in threads:
            thread.start()
        replies = await asyncio.gather(*(stream.reply() for stream in streams[:10]))
        texts = [reply.text for reply in replies]
        texts += ["".join([delta.text async for delta in stream]) for stream in streams[10:]]
        assert set(texts) == {"".join(f"{number} " for number in range(200))}
        for thread in threads:
            thread.join()

    asyncio.run(main())


def test_nobody_is_left_where_the_loop_is_closed() -> None:
    async def main() -> AsyncStream:
        return AsyncStream(with_logprobs=False)

    stream, mailbox = asyncio.run(main()), async_stream._Mailbox()
    for _ in range(2):
        with pytest.raises(RuntimeError):
            mailbox.put(stream._loop, stream._inbox, Delta("x"))
