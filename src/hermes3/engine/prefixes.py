"""Beginnings that outlive the process: from the cache to a ``PrefixStore``, and back."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from collections.abc import Sequence as Ids
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from hermes3 import _native
from hermes3.engine.cache import Link, PageAllocator, Pages
from hermes3.engine.prefix_store import Bytes, PrefixStore
from hermes3.engine.sequence import Sequence
from hermes3.errors import Hermes3Error

LEAST = 128  # ids; a shorter beginning is computed in a second on any machine
_log = logging.getLogger(__name__)


class Prefixes:
    """Writes beginnings in a thread of its own once they are computed, and reads them before they are needed.

    Args:
        store: where they lie.
        cache, allocator: the engine's.
        lock: of the allocator.
    """

    def __init__(
        self, store: PrefixStore, cache: _native.KVCache, allocator: PageAllocator, lock: threading.Lock
    ) -> None:
        self._store, self._cache, self._allocator, self._lock = store, cache, allocator, lock
        self._disk = threading.Lock()  # of the store
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="hermes3-prefixes")
        self._writing: list[Future[None]] = []
        self._seen: set[bytes] = set()  # beginnings that are on disk, or were tried

    def recall(self, ids: Ids[int]) -> None:
        """Has a beginning in the cache where it is on disk, as an earlier prompt would have left it there.

        For any thread; reads from disk and from nothing else, and is of no effect where memory is short.
        """
        size = self._allocator.page_size
        n_pages = len(ids) // size
        with self._lock:
            if len(ids) < LEAST or self._n_known(ids) == n_pages:
                return
        own = ids[: n_pages * size]
        with self._disk:
            found = self._store.load(own)
        if found is None:
            return
        with self._lock:
            self._seen.add(_key(own))
            pages = self._allocator.take(n_pages)
        if pages is None:
            return
        for page, data in zip(pages.tolist(), found, strict=True):
            self._cache.write_page(page, data)
        with self._lock:
            self._remember(pages, own)

    def keep(self, sequence: Sequence) -> None:
        """Starts to write a sequence's beginning once it is computed; under the lock."""
        n_pages = sequence.n_prefix // self._allocator.page_size
        n_ids = n_pages * self._allocator.page_size
        if not sequence.n_prefix or sequence.n_computed < n_ids:
            return
        sequence.n_prefix = 0
        ids = sequence.ids[:n_ids]
        if n_ids < LEAST or _key(ids) in self._seen:
            return
        self._seen.add(_key(ids))
        pages = sequence.pages[:n_pages].copy()
        self._allocator.share(pages)  # so that nobody writes to them meanwhile
        self._writing = [each for each in self._writing if not each.done()]
        self._writing.append(self._writer.submit(self._write, ids, pages))

    def settle(self) -> None:
        """Waits for what is being written."""
        for each in list(self._writing):
            each.result()

    def _write(self, ids: list[int], pages: Pages) -> None:
        try:
            with self._disk:
                if not self._store.has(ids):
                    self._store.save(ids, self._contents(pages))
        except (OSError, Hermes3Error) as error:
            _log.warning("a prompt's beginning could not be kept on disk: %s", error)
        finally:
            with self._lock:
                self._allocator.give_back(pages)

    def _contents(self, pages: Pages) -> Iterator[Bytes]:
        buffer = np.empty(self._cache.page_bytes, np.uint8)
        for page in pages.tolist():
            self._cache.read_page(page, buffer)
            yield buffer

    def _n_known(self, ids: Ids[int]) -> int:
        size, number = self._allocator.page_size, 0
        for n_known in range(len(ids) // size):
            found = self._allocator.find(Link.of(number, ids[n_known * size : (n_known + 1) * size]))
            if found is None:
                return n_known
            number = found[1]
        return len(ids) // size

    def _remember(self, pages: Pages, ids: Ids[int]) -> None:
        size, number = self._allocator.page_size, 0
        for index in range(len(pages)):
            link = Link.of(number, ids[index * size : (index + 1) * size])
            pages[index], number = self._allocator.remember(int(pages[index]), link)
        self._allocator.give_back(pages)


def _key(ids: Ids[int]) -> bytes:
    return np.array(ids, np.int32).tobytes()
