"""Results of a pool of threads or processes, in the order of the jobs."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from typing import TypeVar

T = TypeVar("T")


def in_order(pool: Executor, n_workers: int, jobs: Iterable[Callable[[], T]]) -> Iterator[T]:
    """Results of jobs in their order, few ahead of the reader; the pool is shut down at the end.

    Args:
        pool: not used by others. Jobs for processes must be picklable.
        n_workers: of the pool.
    """
    running: deque[Future[T]] = deque()
    try:
        for job in jobs:
            running.append(pool.submit(job))
            if len(running) > 2 * n_workers:
                yield running.popleft().result()
        while running:
            yield running.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
