"""Responses that can be fetched again, followed from the middle, gone on from, or ended: so many of them."""

from __future__ import annotations

import asyncio
import json
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterable, Sequence
from http import HTTPStatus

from hermes3.llm.async_stream import AsyncStream
from hermes3.server.answers import Body
from hermes3.server.failures import Failure, failure_of
from hermes3.server.keys import CALLER
from hermes3.server.responses_events import Growing
from hermes3.server.responses_request import Item


class Job:
    """A response in the making, and afterwards: its events, for whoever follows them.

    Args:
        growing: its body.
        items: the conversation before it.
        stream: its answer.
        n_asked: bytes of the request.

    Attributes:
        stream: its answer.
        owner: name of the key that it was asked for with.
        events: as JSON objects, each with its sequence_number.
        n_bytes: about what they take, once it is over.
    """

    def __init__(self, growing: Growing, items: Sequence[Item], stream: AsyncStream, n_asked: int) -> None:
        self.growing = growing
        self.items = list(items)
        self.owner = CALLER.get()
        self.events: list[Body] = []
        self.n_bytes = n_asked
        self.stream = stream
        self._news = asyncio.Event()
        self.task = asyncio.create_task(self._run())

    @property
    def id(self) -> str:
        return str(self.growing.body["id"])

    @property
    def is_over(self) -> bool:
        return self.task.done()

    def cancel(self) -> None:
        """Ask for the end; what came so far stays."""
        self.stream.cancel()

    def close(self) -> None:
        """End it at once: nobody will ask for it."""
        self.stream.close()
        self.task.cancel()

    async def follow(self, after: int = -1) -> AsyncIterator[list[Body]]:
        """Events with a sequence_number above ``after``, all that are there each time, to the last."""
        at = after + 1
        while True:
            while at < len(self.events):
                news, at = self.events[at:], len(self.events)
                yield news
            if self.is_over:
                return
            await self._news.wait()

    async def _run(self) -> None:
        try:
            self._add(self.growing.opening())
            async for batch in self.stream.batches():
                self._add(event for delta in batch for event in self.growing.take(delta))
        except Exception as error:
            failure = failure_of(error)
            self._add(self.growing.failed(str(failure), failure.code))
        finally:
            self.stream.close()
            self.n_bytes += len(json.dumps(self.events))
            asyncio.get_running_loop().call_soon(self._tell)  # once the task counts as done

    def _add(self, events: Iterable[Body]) -> None:
        for event in events:
            self.events.append({**event, "sequence_number": len(self.events)})
        self._tell()

    def _tell(self) -> None:
        news, self._news = self._news, asyncio.Event()
        news.set()


class Store:
    """The newest responses; older ones are forgotten when there are too many, or they are too large.

    Args:
        most: responses.
        most_bytes: of all together.
    """

    def __init__(self, most: int, most_bytes: int) -> None:
        self._most = most
        self._most_bytes = most_bytes
        self._jobs: OrderedDict[str, Job] = OrderedDict()

    def add(self, job: Job) -> None:
        self._jobs[job.id] = job
        job.task.add_done_callback(lambda _: self._forget())

    def get(self, name: str) -> Job:
        """A response of the caller's own.

        Raises:
            Failure: 404.
        """
        job = self._jobs.get(name)
        if job is None or job.owner != CALLER.get():
            raise Failure(
                HTTPStatus.NOT_FOUND,
                f"The response '{name[:100]}' is not kept here: it never was, is too old, or was deleted.",
                code="response_not_found",
            )
        return job

    def remove(self, name: str) -> None:
        """Forget it, and end it if it still runs.

        Raises:
            Failure: 404.
        """
        job = self.get(name)
        del self._jobs[name]
        job.close()

    def _forget(self) -> None:
        ended = [job for job in self._jobs.values() if job.is_over]
        total = sum(job.n_bytes for job in ended)
        for job in ended:
            if len(self._jobs) <= self._most and total <= self._most_bytes:
                return
            total -= job.n_bytes
            del self._jobs[job.id]
