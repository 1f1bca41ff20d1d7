"""Results in the order of jobs, few of them ahead of whoever reads."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from hermes3.ordered import in_order


def jobs(n: int, made: list[int]) -> Iterator[Callable[[], int]]:
    for i in range(n):
        made.append(i)
        yield lambda i=i: i * i  # type: ignore[misc]


def test_results_come_in_order_and_few_ahead() -> None:
    made: list[int] = []
    results = in_order(ThreadPoolExecutor(3), 3, jobs(50, made))
    assert [next(results), next(results)] == [0, 1]
    assert len(made) <= 2 + 2 * 3
    assert list(results) == [i * i for i in range(2, 50)]


def test_an_error_is_the_reader_s_and_ends_the_pool() -> None:
    def broken() -> int:
        raise ValueError("no")

    pool = ThreadPoolExecutor(2)
    with pytest.raises(ValueError, match="no"):
        list(in_order(pool, 2, [broken, lambda: 1]))
    with pytest.raises(RuntimeError):
        pool.submit(lambda: 1)
