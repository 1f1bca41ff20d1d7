"""Pages of the KV cache: who has which, and how much memory there may be of them.

A page may have several holders, sequences that begin alike. Nobody writes to a page that others hold, too:
``fork`` gives whoever goes on from a place within a page a copy of it.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Pages = NDArray[np.int32]

_CGROUP = Path("/sys/fs/cgroup")


class PageAllocator:
    """Hands out page numbers; a page given back last goes out first, for it is in memory already.

    Args:
        n_pages: pages of the cache.
        page_size: tokens of a page.
    """

    def __init__(self, n_pages: int, page_size: int) -> None:
        self.n_pages = n_pages
        self.page_size = page_size
        self.n_free = n_pages
        self._free = np.arange(n_pages - 1, -1, -1, dtype=np.int32)  # a stack of n_free
        self._n_holders = np.zeros(n_pages, np.int32)  # of each page

    def pages_for(self, n_tokens: int) -> int:
        """Pages that hold so many tokens."""
        return -(-n_tokens // self.page_size)

    def take(self, n: int) -> Pages | None:
        """So many pages, int32 (n,), or None and no change where there are fewer."""
        if n > self.n_free:
            return None
        self.n_free -= n
        pages = self._free[self.n_free : self.n_free + n][::-1].copy()
        self._n_holders[pages] = 1
        return pages

    def share(self, pages: Pages) -> None:
        """Counts one more holder of pages that somebody has, who is to give them back for himself."""
        self._n_holders[pages] += 1

    def fork(
        self, pages: Pages, n_tokens: int, n_total: int
    ) -> tuple[Pages, tuple[Pages, Pages] | None] | None:
        """The table of a sequence that begins with another's first tokens.

        Args:
            pages: the other's table.
            n_tokens: how many of its tokens are taken over.
            n_total: tokens that the new table has room for, at least n_tokens.

        Returns:
            the table, and pages to copy before anything is computed, (sources, targets), or None where
            n_tokens fill their pages; None and no change where there are too few free pages.
        """
        n_full = n_tokens // self.page_size
        fresh = self.take(self.pages_for(n_total) - n_full)
        if fresh is None:
            return None
        self.share(pages[:n_full])
        table = np.concatenate([pages[:n_full], fresh])
        return table, (pages[n_full : n_full + 1], fresh[:1]) if n_tokens % self.page_size else None

    def give_back(self, pages: Pages) -> None:
        """Pages that ``take``, ``share`` or ``fork`` gave, each once; free are those that nobody else has."""
        self._n_holders[pages] -= 1
        free = pages[self._n_holders[pages] == 0]
        self._free[self.n_free : self.n_free + free.size] = free
        self.n_free += free.size


def available_memory() -> int:
    """Bytes that this process may still take: what the system has, or its control group (v2) allows."""
    limits = [_system_memory()]
    try:
        limit = (_CGROUP / "memory.max").read_text().strip()
        if limit != "max":
            limits.append(max(0, int(limit) - int((_CGROUP / "memory.current").read_text())))
    except (OSError, ValueError):
        pass  # no such control group: the system's figure stands
    return min(limits)


def _system_memory() -> int:
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass  # not Linux: half of what is built in
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
