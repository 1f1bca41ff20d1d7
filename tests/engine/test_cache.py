"""Pages with several holders."""

from __future__ import annotations

import numpy as np

from hermes3 import _native
from hermes3.engine.cache import PageAllocator


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
