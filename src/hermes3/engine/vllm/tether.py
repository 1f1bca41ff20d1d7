"""vLLM's processes end with the one that started them, and with nothing else that happens to it.

vLLM 0.32 has its workers watch its engine's process, and nobody watches for that one: whoever kills a server
with SIGKILL leaves it running. And a terminal's Ctrl-C goes to all of them, whereupon its workers drop the
answers that the server still waits for.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from contextlib import suppress


class Tether(str):
    """The id of the process that makes it; read by a process of vLLM's, it ties that one to this.

    It travels in vLLM's ``additional_config``, which each of its processes gets and nothing reads, and which
    is unpickled before all else that such a process does. There it is a plain text.
    """

    __slots__ = ()

    def __new__(cls) -> Tether:
        return super().__new__(cls, os.getpid())

    def __reduce__(self) -> tuple[object, ...]:
        return _tied, (str(self),)


def _tied(maker: str) -> str:
    """What a tether is unpickled by; in the process that made it nothing happens."""
    if os.getpid() != int(maker):
        with suppress(OSError):  # it leads a session by now
            os.setsid()
        threading.Thread(target=_end_with_parent, name="hermes3-tether", daemon=True).start()
    return maker


def _end_with_parent() -> None:
    """vLLM's workers see their engine's process end, and end themselves."""
    while (parent := multiprocessing.parent_process()) is None:  # known once all is unpickled
        time.sleep(0.05)
    parent.join()
    os.kill(os.getpid(), signal.SIGKILL)
