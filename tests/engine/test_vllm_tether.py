"""Processes that another one starts end with it, and a start that is broken off leaves none."""

from __future__ import annotations

import copy
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from hermes3.engine.vllm.engine import VllmEngine
from hermes3.engine.vllm.tether import TEXT, Tether

ROOT = Path(__file__).parent.parent.parent
STARTED = """
import multiprocessing, time
from hermes3.engine.vllm.tether import Tether
process = multiprocessing.get_context("spawn").Process(target=time.sleep, args=(600,))
{tether}
process.start()
print(process.pid, flush=True)
time.sleep(600)
"""


def wait_until(condition: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.02)


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize("is_tied", [True, False])
def test_they_end_with_a_killed_parent(is_tied: bool) -> None:
    code = STARTED.format(tether="process.about = {'it': Tether()}" if is_tied else "")
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        try:
            if is_tied:  # and no Ctrl-C of the parent's terminal reaches them
                wait_until(lambda: os.getsid(child) == child, "no session of its own")
            parent.kill()
            if is_tied:
                wait_until(lambda: not is_running(child), "it runs on")
            else:  # which is what the tether is for
                time.sleep(0.5)
                assert is_running(child)
        finally:
            parent.kill()
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)


def test_read_where_it_was_made_it_is_a_text() -> None:
    before = threading.active_count()
    tether = copy.deepcopy({"hermes3": Tether()})
    assert json.dumps(tether) == json.dumps({"hermes3": Tether()}) == json.dumps({"hermes3": TEXT})
    assert threading.active_count() == before


def test_ctrl_c_while_vllm_starts() -> None:
    started = []

    def start() -> None:
        """As vLLM does: starts a process, waits for it, fails when it ends."""
        process = multiprocessing.get_context("spawn").Process(target=time.sleep, args=(600,))
        process.start()
        started.append(process)
        os.kill(os.getpid(), signal.SIGINT)
        process.join()
        raise RuntimeError("the process has ended")

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            VllmEngine(start)  # type: ignore[arg-type]
    finally:
        signal.signal(signal.SIGINT, before)
    assert [process.exitcode for process in started] == [-signal.SIGKILL]
