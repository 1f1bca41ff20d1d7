"""Pages with several holders."""

from __future__ import annotations

import numpy as np

from hermes3 import _native
from hermes3.engine.cache import Link, PageAllocator


def test_a_fork_shares_full_pages_and_copies_the_last() -> None:
    allocator = PageAllocator(8, 4)
    first = allocator.take(3)
    assert first is not None
    forked = allocator.fork(first, 6, 13)
    assert forked is not None
    table, copied = forked
    assert copied is not None
    assert table.tolist() == [first[0], *table[1:]]
    assert not set(table[1:].tolist()) & set(first.tolist())
    assert [pages.tolist() for pages in copied] == [[first[1]], [table[1]]]
    assert allocator.n_free == 2
    allocator.give_back(first)
    assert allocator.n_free == 4  # the shared page is still the fork's
    allocator.give_back(table)
    assert allocator.n_free == 8
    everything = allocator.take(8)
    assert everything is not None
    assert sorted(everything.tolist()) == list(range(8))


def test_a_fork_at_a_border_copies_nothing() -> None:
    allocator = PageAllocator(4, 4)
    first = allocator.take(2)
    assert first is not None
    forked = allocator.fork(first, 8, 8)
    assert forked is not None
    assert forked[0].tolist() == first.tolist()
    assert forked[1] is None
    assert allocator.n_free == 2


def test_a_fork_without_room_changes_nothing() -> None:
    allocator = PageAllocator(3, 4)
    first = allocator.take(2)
    assert first is not None
    assert allocator.fork(first, 5, 12) is None
    assert allocator.n_free == 1
    allocator.give_back(first)
    assert allocator.n_free == 3


def test_copied_pages_hold_the_same() -> None:
    rng = np.random.default_rng(1)
    cache = _native.KVCache(2, 4, 1, 16, "f32")
    rows = {}
    for layer in range(2):
        qkv = rng.standard_normal((40, 48)).astype(np.float32)
        turn = np.ones((40, 8), np.float32), np.zeros((40, 8), np.float32)
        _native.rope_store(cache, layer, qkv, *turn, np.arange(40, dtype=np.int32), 1)
        rows[layer] = qkv
    cache.copy_pages(np.array([0, 1], np.int32), np.array([3, 2], np.int32))
    for layer, qkv in rows.items():
        outs = []
        for table in ([0, 1], [3, 2]):
            out = np.empty((1, 16), np.float32)
            where = np.array([0, 1], np.int32), np.array([39], np.int32), np.array([table], np.int32)
            _native.attention(cache, layer, qkv[-1:], out, *where, 1)
            outs.append(out)
        assert outs[0].tobytes() == outs[1].tobytes()
        assert outs[0].any()


def ids(*values: int) -> bytes:
    return np.array(values, np.int32).tobytes()


def taken(allocator: PageAllocator, n: int) -> list[int]:
    pages = allocator.take(n)
    assert pages is not None
    return pages.tolist()


def test_remembered_pages_go_out_last_and_the_end_of_a_prefix_before_its_beginning() -> None:
    allocator = PageAllocator(6, 2, n_idle=3)
    pages = allocator.take(3)
    assert pages is not None
    number = 0
    for page, own in zip(pages.tolist(), [ids(1, 2), ids(3, 4), ids(5, 6)], strict=True):
        kept, number = allocator.remember(page, Link(number, own))
        assert kept == page
    allocator.give_back(pages)
    assert allocator.n_free == 6
    assert taken(allocator, 4) == [3, 4, 5, int(pages[2])]
    begin = allocator.find(Link(0, ids(1, 2)))
    assert begin is not None
    end = allocator.find(Link(begin[1], ids(3, 4)))
    assert end is not None
    assert allocator.find(Link(end[1], ids(5, 6))) is None
    assert allocator.find(Link(0, ids(3, 4))) is None, "the same ids elsewhere are something else"


def test_a_page_that_is_there_already_is_given_up_for_it() -> None:
    allocator = PageAllocator(4, 2, n_idle=4)
    first, second = taken(allocator, 2)
    assert allocator.remember(first, Link(0, ids(1, 2))) == (first, 1)
    assert allocator.remember(second, Link(0, ids(1, 2))) == (first, 1)
    assert allocator.n_free == 3
    allocator.give_back(np.array([first, first], np.int32)[:1])
    allocator.give_back(np.array([first], np.int32))
    assert allocator.n_free == 4


def test_a_number_is_never_given_twice() -> None:
    """A page whose beginning is gone cannot be taken for the end of something else."""
    allocator = PageAllocator(2, 2, n_idle=2)
    begin, end = taken(allocator, 2)
    _, number = allocator.remember(begin, Link(0, ids(1, 2)))
    allocator.remember(end, Link(number, ids(3, 4)))
    allocator.give_back(np.array([begin], np.int32))
    again = taken(allocator, 1)[0]
    assert again == begin
    _, other = allocator.remember(again, Link(0, ids(9, 9)))
    assert allocator.find(Link(other, ids(3, 4))) is None


def test_no_more_than_n_idle_pages_stay_remembered() -> None:
    allocator = PageAllocator(4, 1, n_idle=1)
    for value in (1, 2, 3):
        page = allocator.take(1)
        assert page is not None
        allocator.remember(int(page[0]), Link(0, ids(value)))
        allocator.give_back(page)
    assert [allocator.find(Link(0, ids(value))) is not None for value in (1, 2, 3)] == [False, False, True]
    assert allocator.n_free == 4
