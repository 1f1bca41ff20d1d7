"""What was freed goes back to the system."""

from __future__ import annotations

import asyncio
import ctypes
from pathlib import Path

import pytest

from hermes3.server import memory

N, BYTES = 1000, 64 << 10  # below what malloc takes from the system piece by piece
_libc = ctypes.CDLL(None)
if not hasattr(_libc, "malloc_trim"):
    pytest.skip("this C library has no malloc_trim", allow_module_level=True)
_libc.malloc.restype = ctypes.c_void_p
_libc.free.argtypes = [ctypes.c_void_p]


def resident() -> int:
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) << 10 for line in status.splitlines() if line.startswith("VmRSS"))


def test_what_was_freed_goes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    pieces = [_libc.malloc(BYTES) for _ in range(N)]
    for piece in pieces:
        ctypes.memset(piece, 1, BYTES)
    held = resident()
    for piece in pieces[:-1]:  # the last one is in use, and the heap cannot shrink below it
        _libc.free(piece)
    assert resident() > held - N * BYTES // 4, "free has given it back, and there is nothing to be seen here"
    monkeypatch.setattr(memory, "EVERY_S", 0.01)
    asyncio.run(until(held - N * BYTES // 2))
    _libc.free(pieces[-1])


async def until(most: int) -> None:
    giving = asyncio.create_task(memory.keep_small())
    async with asyncio.timeout(60):
        while resident() > most:
            await asyncio.sleep(0.01)
    giving.cancel()


