"""A server's memory goes back to the system once it is not needed.

Two things keep it. What failed requests leave are cycles (an exception, its traceback, the frames and what
they hold), and Python looks for those among its old objects only when a quarter has come to them: here, after
thousands of requests. And glibc has a heap for each thread and gives back only its end: a text of 45,000 ids
takes 23 MB while it is encoded, and all of that would stay with whichever thread encoded it, in each of them
once.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import os

EVERY_S = 5.0  # a millisecond or two each time, and page faults of whoever needs the memory again

N_HEAPS = 2  # what a thread has freed is there for others; most of them take turns by Python's lock anyway
_M_ARENA_MAX = -8  # of malloc.h


def share_heaps() -> None:
    """Lets the threads that come share glibc's heaps, unless its own variable says how many there may be.

    Source: https://man7.org/linux/man-pages/man3/mallopt.3.html. Elsewhere it does nothing.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None and "MALLOC_ARENA_MAX" not in os.environ:
        mallopt(_M_ARENA_MAX, N_HEAPS)


async def keep_small() -> None:
    """Gives back what it can every few seconds, until it is cancelled.

    What exists when it begins is taken to stay, and is never looked at again. malloc_trim is glibc's alone
    (https://man7.org/linux/man-pages/man3/malloc_trim.3.html); elsewhere only cycles are looked for.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    gc.collect()
    gc.freeze()
    while True:
        await asyncio.sleep(EVERY_S)
        gc.collect()  # here and not in another thread: what ends with it belongs to this loop
        if trim is not None:
            await asyncio.to_thread(trim, 0)
