"""How this process hands freed memory back: not at all, while it trains."""

from __future__ import annotations

import ctypes
import sys

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4  # glibc's malloc.h; mallopt(3)


def keep_freed_memory() -> None:
    """Has glibc keep what is freed for what is allocated next; does nothing where there is no glibc.

    A step frees and allocates the same tensors again, some of hundreds of megabytes. By default glibc maps
    each of these anew, and the kernel fills its pages with zeros, one fault for 4 KiB: a fifth of a step's
    CPU time where that was measured, on a virtual machine.
    """
    if not sys.platform.startswith("linux"):
        return
    library = ctypes.CDLL(None)
    if hasattr(library, "gnu_get_libc_version"):
        for option, value in ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, 2**31 - 1), (M_TOP_PAD, 1 << 26)):
            library.mallopt(option, value)
