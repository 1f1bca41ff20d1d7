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

TEXT = "ends with the process that started it"


class Tether(str):
    """A text that ties the process of vLLM's that reads it to the one that wrote it.

    It travels in vLLM's ``additional_config``, which each of its processes gets and nothing reads, and which
    is unpickled before all else that such a process does. It is the same text in every run, for vLLM finds
    what it compiled in an earlier one by a hash of all its settings.
    """

    __slots__ = ()

    def __new__(cls) -> Tether:
        return super().__new__(cls, TEXT)

    def __reduce__(self) -> tuple[object, ...]:
        return _tied, (os.getpid(),)


def _tied(writer: int) -> str:
    """What a tether is unpickled by; in the process that wrote it nothing happens."""
    if os.getpid() != writer:
        with suppress(OSError):  # it leads a session by now
            os.setsid()
        threading.Thread(target=_end_with_parent, name="hermes3-tether", daemon=True).start()
    return TEXT


def _end_with_parent() -> None:
    """vLLM's workers see their engine's process end, and end themselves."""
    while (parent := multiprocessing.parent_process()) is None:  # known once all is unpickled
        time.sleep(0.05)
    parent.join()
    os.kill(os.getpid(), signal.SIGKILL)
