"""Pages of the KV cache: who has which, what they hold, and how much memory there may be of them.

A page may have several holders, sequences that begin alike. Nobody writes to a page that others hold, too:
``fork`` gives whoever goes on from a place within a page a copy of it.

A full page may be remembered by what it holds: its own ids after those of the pages before it. It stays
findable when its last holder has given it back, until it is needed for something else (the scheme of vLLM's
automatic prefix caching, https://docs.vllm.ai/en/latest/design/prefix_caching.html, but with the ids
themselves for a key: no two prefixes are ever taken for each other).
"""

from __future__ import annotations

import os
from collections.abc import Sequence as Ids
from itertools import islice
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

Pages = NDArray[np.int32]

_CGROUP = Path("/sys/fs/cgroup")


class Link(NamedTuple):
    """What a page holds: the number of the prefix before it (0 where none is), and its ids as int32 bytes."""

    before: int
    ids: bytes

    @classmethod
    def of(cls, before: int, ids: Ids[int]) -> Self:
        """Of the ids of a page."""
        return cls(before, np.array(ids, np.int32).tobytes())


class PageAllocator:
    """Hands out page numbers; a page given back last goes out first, for it is in memory already.

    Pages that are remembered go out after all others, those that have not been used for longest first.

    Args:
        n_pages: pages of the cache.
        page_size: tokens of a page.
        n_idle: most pages that stay remembered while nobody holds them.

    Attributes:
        n_free: pages that nobody holds, remembered or not.
    """

    def __init__(self, n_pages: int, page_size: int, n_idle: int = 0) -> None:
        self.n_pages = n_pages
        self.page_size = page_size
        self.n_free = n_pages
        self._n_idle = n_idle
        self._free = np.arange(n_pages - 1, -1, -1, dtype=np.int32)  # a stack of n_free less the idle
        self._n_holders = np.zeros(n_pages, np.int32)  # of each page
        self._idle: dict[int, None] = {}  # remembered pages without a holder, the one to lose first in front
        self._page_at: dict[Link, int] = {}
        self._link_of: dict[int, Link] = {}
        self._number_of: dict[int, int] = {}  # of a remembered page's whole prefix; never given twice
        self._last_number = 0

    def pages_for(self, n_tokens: int) -> int:
        """Pages that hold so many tokens."""
        return -(-n_tokens // self.page_size)

    def take(self, n: int) -> Pages | None:
        """So many pages, int32 (n,), or None and no change where there are fewer."""
        if n > self.n_free:
            return None
        n_stack = self.n_free - len(self._idle)
        n_popped = min(n, n_stack)
        pages = self._free[n_stack - n_popped : n_stack][::-1].copy()
        if n > n_popped:
            oldest = list(islice(self._idle, n - n_popped))
            for page in oldest:
                self._forget(page)
            pages = np.append(pages, np.array(oldest, np.int32))
        self.n_free -= n
        self._n_holders[pages] = 1
        return pages

    def share(self, pages: Pages) -> None:
        """Counts one more holder of pages that somebody has or that are remembered; to be given back."""
        for page in pages[self._n_holders[pages] == 0].tolist():
            del self._idle[page]
            self.n_free -= 1
        self._n_holders[pages] += 1

    def find(self, link: Link) -> tuple[int, int] | None:
        """The page that holds this, and the number of the prefix that ends with it; None if there is none."""
        page = self._page_at.get(link)
        return None if page is None else (page, self._number_of[page])

    def remember(self, page: int, link: Link) -> tuple[int, int]:
        """Makes a full page findable, for as long as there is room for it.

        Returns:
            the page to go on with, and the number of the prefix that ends with it. Where an equal page is
            remembered already, it is that one: the page was given back, and the other is the caller's.
        """
        if (found := self.find(link)) is not None:
            self.share(np.array(found[:1], np.int32))
            self.give_back(np.array([page], np.int32))
            return found
        self._last_number += 1
        self._page_at[link], self._link_of[page] = page, link
        self._number_of[page] = self._last_number
        return page, self._last_number

    def _forget(self, page: int) -> None:
        del self._idle[page], self._page_at[self._link_of.pop(page)], self._number_of[page]

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
        known = [page for page in free[::-1].tolist() if page in self._link_of]  # a prefix outlives its ends
        self._push(free[~np.isin(free, known)] if known else free)
        self.n_free += len(known)
        self._idle.update(dict.fromkeys(known))
        while len(self._idle) > self._n_idle:
            oldest = next(iter(self._idle))
            self._forget(oldest)
            self.n_free -= 1
            self._push(np.array([oldest], np.int32))

    def _push(self, pages: Pages) -> None:
        n_stack = self.n_free - len(self._idle)
        self._free[n_stack : n_stack + pages.size] = pages
        self.n_free += pages.size


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
