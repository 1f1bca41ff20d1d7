"""The process in which grammars are tried: what ends it is told, and the next one finds another."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from hermes3.engine import trial
from hermes3.errors import Hermes3Error


def lark(text: str) -> str:
    return json.dumps({"grammars": [{"lark_grammar": text}]})


@pytest.fixture(autouse=True)
def _no_idle_children(monkeypatch) -> None:
    monkeypatch.setattr(trial, "_idle", [])


def test_one_child_for_many_grammars() -> None:
    for _ in range(3):
        assert trial.fault_of(lark('start: "a"'), [], 300) is None
    assert trial.fault_of(lark("start: nonsense"), [], 300) is None  # llguidance says that itself
    (child,) = trial._idle
    assert child.poll() is None


def test_a_child_that_was_killed_meanwhile_harms_nobody() -> None:
    assert trial.fault_of(lark('start: "a"'), [], 300) is None
    trial._idle[0].kill()
    trial._idle[0].wait()
    assert trial.fault_of(lark('start: "a"'), [], 300) is None


def test_a_crash_is_a_fault_and_the_next_grammar_is_tried_anew() -> None:
    chain = "start: a0\n" + "".join(f"a{n}: a{n + 1}\n" for n in range(9000)) + 'a9000: "x"'
    assert trial.fault_of(lark(chain), [], 300) == "is nested too deep to be compiled"
    assert trial._idle == []
    assert trial.fault_of(lark('start: "a"'), [], 300) is None


def test_a_panic_is_told_and_nobody_else_needs_to_have_it() -> None:
    """llguidance takes a backtrace of it, and keeps what it has read for that."""
    schema = {"properties": {"a": {"required": {"aa": "é" * 99}}}}
    grammar = json.dumps({"grammars": [{"json_schema": schema}]})
    for _ in range(2):
        fault = trial.fault_of(grammar, [], 300)
        assert fault is not None
        assert fault.startswith("makes llguidance panic: end byte index")
        assert len(trial._idle) == 1
    assert trial.fault_of(lark('start: "a"'), [], 300) is None


def test_tokens_that_grammars_may_name() -> None:
    """Else a grammar that names one would not be tried at all."""
    chain = "start: <|im_end|> a0\n" + "".join(f"a{n}: a{n + 1}\n" for n in range(9000)) + 'a9000: "x"'
    assert trial.fault_of(lark(chain), ["<|im_end|>"], 300) is not None


def test_a_wait_that_is_too_long_ends(monkeypatch) -> None:
    monkeypatch.setattr(trial, "MAX_WALL_S", 0.0)
    assert trial.fault_of(lark('start: "a"'), [], 300) == "takes more than 0 s to compile"
    assert trial._idle == []


def test_hostile_grammars_wait_for_each_other(monkeypatch) -> None:
    """However many come, there are so many processes and no more."""
    seen, lock, running = [], threading.Lock(), []

    def tried(question: bytes) -> None:
        with lock:
            running.append(question)
            seen.append(len(running))
        time.sleep(0.005)
        with lock:
            running.pop()

    monkeypatch.setattr(trial, "_tried", tried)
    with ThreadPoolExecutor(50) as pool:
        found = list(pool.map(lambda _: trial.fault_of(lark('start: "a"'), [], 300), range(50)))
    assert (found, max(seen)) == ([None] * 50, trial.N_AT_ONCE)


def test_who_waits_too_long_is_told(monkeypatch) -> None:
    monkeypatch.setattr(trial, "MAX_WAIT_S", 0.01)
    for _ in range(trial.N_AT_ONCE):
        assert trial._turns.acquire(timeout=10)
    try:
        with pytest.raises(Hermes3Error, match=r"2 other grammars are being tried .* ask again later"):
            trial.fault_of(lark('start: "a"'), [], 300)
    finally:
        for _ in range(trial.N_AT_ONCE):
            trial._turns.release()
    assert trial.fault_of(lark('start: "a"'), [], 300) is None


def test_a_child_is_bounded() -> None:
    """A child may take a gibibyte of address space, whatever it is asked to compile."""
    grammar = lark("start: /a/")
    assert trial.fault_of(grammar, [], 300) is None
    (child,) = trial._idle
    limits = Path(f"/proc/{child.pid}/limits").read_text()
    assert f"Max address space         {1 << 30} " in limits


def test_children_end_with_their_parent() -> None:
    code = (
        "from hermes3.engine import trial\n"
        """trial.fault_of('{"grammars": [{"lark_grammar": "start: /a/"}]}', [], 300)\n"""
        "print(trial._idle[0].pid)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    process = Path(f"/proc/{int(done.stdout)}/stat")
    for _ in range(100):
        if not process.exists() or " Z " in process.read_text():
            return
        time.sleep(0.1)
    raise AssertionError("it is still there after 10 s")
