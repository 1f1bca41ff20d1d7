"""Masks that come late: their own answers wait, the others do not, and no id of any answer shows it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from hermes3 import _native
from hermes3.engine.engine import Engine
from hermes3.engine.grammar import Grammar, GrammarVocabulary, Matcher
from hermes3.engine.model import Model
from hermes3.engine.sampling import SamplingParams
from hermes3.engine.sequence import Sequence
from hermes3.weights.quant import GGMLType
from tests.engine.runs import load, model_file, random_ids, run

LETTERS = "[a-z]{12}"  # a choice at each place
PAGE_BYTES = _native.PAGE * 2 * 2 * 2 * 32 * 2


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return load(model_file(tmp_path_factory.mktemp("held"), GGMLType.Q4_0), n_batch=64, n_rows=8)


@pytest.fixture(scope="module")
def grammar() -> Iterator[Grammar]:
    """A token is a byte."""
    made = GrammarVocabulary(
        [bytes([i]) for i in range(256)], control_ids=(), end_ids=[10], encode=list, n_vocab=320
    )
    yield made.compile("regex", LETTERS)
    made.close()


@pytest.fixture
def go(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """While it is not set, no mask is computed."""
    event, compute = threading.Event(), Matcher._compute

    def late(self: Matcher) -> None:
        assert event.wait(60)
        compute(self)

    monkeypatch.setattr(Matcher, "_compute", late)
    yield event
    event.set()


def params(seed: int, **more: Any) -> SamplingParams:
    return SamplingParams(temperature=1.0, seed=seed, max_tokens=20, **more)


def alone(model: Model, grammar: Grammar | None, seed: int) -> list[int]:
    engine = Engine(model)
    sequence = add(engine, grammar, seed)
    run(engine)
    return sequence.answer


def add(engine: Engine, grammar: Grammar | None, seed: int) -> Sequence:
    return engine.add(random_ids(seed, 40), params(seed), grammar)


def test_the_others_go_on(model: Model, grammar: Grammar, go: threading.Event) -> None:
    go.set()
    expected = [alone(model, grammar, 1), alone(model, grammar, 2), alone(model, None, 3)]
    go.clear()
    engine = Engine(model)
    late = [add(engine, grammar, 1), add(engine, grammar, 2)]
    other = add(engine, None, 3)
    for _ in range(100):
        if other.finish_reason is None:
            engine.step()
    assert (other.finish_reason, [each.answer for each in late]) == ("length", [[], []])
    later = add(engine, None, 3)
    while not later.answer:
        engine.step()
    go.set()
    run(engine)
    assert [each.answer for each in (*late, other)] == expected
    assert later.answer == expected[2]
    assert engine.n_free_kv_tokens == engine.n_kv_tokens


def test_whoever_is_alone_waits(model: Model, grammar: Grammar, go: threading.Event) -> None:
    """Instead of turning in a loop; so do those who are all late."""
    go.set()
    expected = [alone(model, grammar, seed) for seed in (1, 2)]
    go.clear()
    for seeds in ((1,), (1, 2)):
        engine = Engine(model)
        sequences = [add(engine, grammar, seed) for seed in seeds]
        timer = threading.Timer(0.05, go.set)
        timer.start()
        outputs = run(engine)
        timer.join()
        go.clear()
        assert [each.answer for each in sequences] == expected[: len(seeds)]
        assert engine.counters.n_steps <= 1 + 12 * len(seeds)
        assert all(output.ids or output.finish_reason for output in outputs)


def test_cancelled_and_preempted_meanwhile(model: Model, grammar: Grammar, go: threading.Event) -> None:
    go.set()
    expected = [alone(model, None, 3), alone(model, grammar, 2)]
    go.clear()
    engine = Engine(model, kv_bytes=4 * PAGE_BYTES)  # two pages each, and a third is needed
    first, kept = add(engine, None, 3), add(engine, grammar, 2)
    cancelled = None
    for step in range(200):
        engine.step()
        if step == 2:
            cancelled = add(engine, grammar, 1)
        if step == 6 and cancelled is not None:
            engine.cancel(cancelled)
        if first.finish_reason is not None:
            break
    assert (first.answer, kept.answer) == (expected[0], [])
    assert cancelled is not None
    assert cancelled.finish_reason == "cancelled"
    go.set()
    run(engine)
    assert kept.answer == expected[1]
    assert engine.n_free_kv_tokens == engine.n_kv_tokens
