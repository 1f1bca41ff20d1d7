"""Answers for a client who may leave: several streams as one, and a wait that ends with the connection."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Sequence
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect, Request
from starlette.types import Receive

from hermes3.llm import Delta, Reply
from hermes3.llm.async_stream import AsyncStream

T = TypeVar("T")


async def merged(streams: Sequence[AsyncStream]) -> AsyncIterator[list[tuple[int, Delta]]]:
    """The deltas of all streams as they come, each with the index of its stream; in lists of what is there.

    Leaving early cancels every stream that has not ended, and so does an error in one of them.
    """
    if len(streams) == 1:  # without a task for each delta
        try:
            async for batch in streams[0].batches():
                yield [(0, delta) for delta in batch]
        finally:
            close_all(streams)
        return
    waiting = {asyncio.ensure_future(anext(stream)): index for index, stream in enumerate(streams)}
    try:
        while waiting:
            done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            found = []
            for task in done:
                index = waiting.pop(task)
                delta = task.result()
                if delta.finish_reason is None:
                    waiting[asyncio.ensure_future(anext(streams[index]))] = index
                found.append((index, delta))
            yield found
    finally:
        for task in waiting:
            task.cancel()
        close_all(streams)


async def replies(streams: Sequence[AsyncStream]) -> list[Reply]:
    """All answers, whole. An error in one cancels the others."""
    try:
        return [await stream.reply() for stream in streams]
    finally:
        close_all(streams)


def close_all(streams: Sequence[AsyncStream]) -> None:
    """Cancel what still runs."""
    for stream in streams:
        stream.close()


async def unless_gone(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """The result of ``work``, which is cancelled when the client hangs up. The body must have been read.

    Raises:
        ClientDisconnect: the client hung up first.
    """
    task = asyncio.create_task(work)
    leaving = asyncio.create_task(gone(request.receive))
    try:
        await asyncio.wait((task, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnect
        return task.result()
    finally:
        leaving.cancel()
        if not task.done():
            task.cancel()
            await asyncio.wait((task,))


async def gone(receive: Receive) -> None:
    """Returns when the client has left. The body must have been read."""
    while (await receive())["type"] != "http.disconnect":
        pass
