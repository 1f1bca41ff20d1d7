"""What a grammar forces: taken without logits, and no id of any answer shows it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from hermes3 import _native
from hermes3.engine.engine import Engine
from hermes3.engine.grammar import Grammar, GrammarVocabulary
from hermes3.engine.model import Model
from hermes3.engine.sampling import SamplingParams
from hermes3.engine.sequence import Sequence
from hermes3.weights.quant import GGMLType
from tests.engine.runs import CONFIG, load, model_file, random_ids, run

END = 10
CALL = r'start: /[ab]{3}/ "{\"name\": \"get_weather\"" /[0-9]{4}/ "}, end"'
PAGE_BYTES = _native.PAGE * 2 * 2 * 2 * 32 * 2
TEMPERATURES = pytest.mark.parametrize("temperature", [0.0, 1.0])


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return load(model_file(tmp_path_factory.mktemp("forced"), GGMLType.Q4_0), n_batch=256, n_rows=16)


@pytest.fixture(scope="module")
def vocabulary() -> Iterator[GrammarVocabulary]:
    """A token is a byte."""
    made = GrammarVocabulary(
        [bytes([i]) for i in range(256)], control_ids=(), end_ids=[END], encode=list, n_vocab=320
    )
    yield made
    made.close()


@pytest.fixture(autouse=True)
def _masks_are_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a busy machine, whose masks are late, takes more steps; ``test_held.py`` is about that."""
    monkeypatch.setattr("hermes3.engine.engine.PATIENCE", 1e6)


def answers(model: Model, grammar: Grammar, sampling: dict[str, Any], **options: Any) -> tuple[Any, Engine]:
    engine = Engine(model, **options)
    sequences = [
        engine.add(random_ids(seed, 10), SamplingParams(seed=seed, **sampling), grammar)
        for seed in range(6)
    ]
    outputs = run(engine)
    for each in sequences:
        own = [output for output in outputs if output.sequence is each]
        assert [i for output in own for i in output.ids] == each.answer
        assert [is_forced for output in own for is_forced in output.forced] == each.forced
        assert (len(each.forced), sum(each.forced)) == (each.n_answer, each.n_forced)
    assert engine.n_free_kv_tokens == engine.n_kv_tokens
    return [(each.answer, each.finish_reason, each.forced) for each in sequences], engine


@TEMPERATURES
def test_answers_are_the_same_in_a_fraction_of_the_steps(
    model: Model, vocabulary: GrammarVocabulary, temperature: float
) -> None:
    """Against one id a step; 12 of 35 ids are left to choose, and the first can follow the prompt at once."""
    grammar = vocabulary.compile("lark", CALL)
    sampling = {"temperature": temperature, "max_tokens": 99, "frequency_penalty": 0.5}
    plain, slow = answers(model, grammar, sampling, speculative=False)
    fast, engine = answers(model, grammar, sampling)
    assert fast == plain
    assert all(bytes(answer)[3:25] == b'{"name": "get_weather"' for answer, *_ in fast)
    assert {reason for _, reason, _ in fast} == {"stop"}
    flags = [*[False] * 3, *[True] * 22, *[False] * 4, *[True] * 6]
    assert [forced for *_, forced in fast] == [flags] * 6
    assert (slow.counters.n_steps, slow.counters.n_forced) == (35, 0)
    assert (engine.counters.n_steps, engine.counters.n_forced) == (7, 6 * 28)
    assert slow.counters.n_generated == engine.counters.n_generated == 6 * 35


def test_logprobs_have_their_rows(model: Model, vocabulary: GrammarVocabulary) -> None:
    """The same ids; each with its log-probability, tried several a step."""
    grammar = vocabulary.compile("lark", CALL)
    found = []
    for options in ({"speculative": False}, {}):
        engine = Engine(model, n_sequences=16, **options)
        params = SamplingParams(temperature=1, seed=3, max_tokens=99, logprobs=2)
        sequence = engine.add(random_ids(1, 10), params, grammar)
        run(engine)
        found.append((sequence.answer, sequence.logprobs))
    assert found[0] == found[1]
    assert [entry.id for entry in found[0][1]] == found[0][0]
    assert engine.counters.n_steps < 20
    unlogged = Engine(model).add
    engine = Engine(model)
    unlogged = engine.add(
        random_ids(1, 10), SamplingParams(temperature=1, seed=3, max_tokens=99), grammar
    )
    run(engine)
    assert unlogged.answer == found[0][0]


@pytest.mark.parametrize("max_tokens", [1, 2, 3, 4, 7, 24, 25, 26, 34, 35])
def test_max_tokens_and_context_cut_what_is_forced(
    model: Model, vocabulary: GrammarVocabulary, max_tokens: int
) -> None:
    grammar = vocabulary.compile("lark", CALL)
    sampling = {"temperature": 1.0, "max_tokens": max_tokens}
    for options in ({}, {"n_ctx": 10 + max_tokens}):
        plain, _ = answers(model, grammar, sampling, speculative=False, **options)
        fast, _ = answers(model, grammar, sampling, **options)
        assert fast == plain
        assert {len(answer) for answer, *_ in fast} == {max_tokens}


def test_a_stop_id_among_what_is_forced_ends_the_answer(model: Model, vocabulary: GrammarVocabulary) -> None:
    sampling = {"temperature": 1.0, "stop_ids": frozenset({ord("_")})}
    fast, _ = answers(model, vocabulary.compile("lark", CALL), sampling)
    plain, _ = answers(model, vocabulary.compile("lark", CALL), sampling, speculative=False)
    assert fast == plain
    assert all(bytes(answer).endswith(b'"get_') and reason == "stop" for answer, reason, _ in fast)


def test_an_answer_that_is_forced_to_its_end_computes_nothing(
    model: Model, vocabulary: GrammarVocabulary
) -> None:
    fast, engine = answers(model, vocabulary.compile("regex", "only this"), {})
    plain, _ = answers(model, vocabulary.compile("regex", "only this"), {}, speculative=False)
    assert fast == plain == [(list(b"only this"), "stop", [True] * 9)] * 6
    assert (engine.counters.n_steps, engine.counters.n_computed) == (0, 0)


@TEMPERATURES
def test_preemption_and_chunks_change_nothing(
    model: Model, vocabulary: GrammarVocabulary, temperature: float
) -> None:
    """Forced ids longer than a batch, and a cache that does not hold all answers."""
    grammar = vocabulary.compile("lark", 'start: /[ab]{3}/ "' + "forced " * 12 + r'" /[0-9]{9}/ "end"')
    sampling = {"temperature": temperature, "max_tokens": 200}
    plain, _ = answers(model, grammar, sampling, speculative=False)
    for options in ({"n_batch": 16}, {"kv_bytes": 9 * PAGE_BYTES}, {"kv_bytes": 4 * PAGE_BYTES}):
        fast, engine = answers(model, grammar, sampling, **options)
        assert fast == plain
        if "kv_bytes" in options:
            assert engine._scheduler.n_preemptions > 0


def test_cancelled_between_what_is_forced(model: Model, vocabulary: GrammarVocabulary) -> None:
    engine = Engine(model, n_batch=16)
    grammar = vocabulary.compile("lark", 'start: "' + "x" * 100 + '" /[ab]{3}/')
    sequence = engine.add(random_ids(1, 10), SamplingParams(), grammar)
    engine.step()
    engine.cancel(sequence)
    outputs = run(engine)
    assert (sequence.finish_reason, sequence.answer) == ("cancelled", [ord("x")] * 100)
    assert [output.ids for output in outputs] == [sequence.answer]
    assert engine.n_free_kv_tokens == engine.n_kv_tokens


def test_no_row_of_logits_for_what_is_forced(model: Model, vocabulary: GrammarVocabulary) -> None:
    rows: list[int] = []

    class Counting(Engine):
        def _forward(self, chunks: list[Any]) -> Any:
            logits = super()._forward(chunks)
            rows.append(len(logits))
            return logits

    engine = Counting(model)
    sequence: Sequence = engine.add(
        random_ids(1, 10), SamplingParams(), vocabulary.compile("lark", CALL)
    )
    run(engine)
    assert sequence.finish_reason == "stop"
    assert sum(rows) == 7
    assert CONFIG.vocab_size == 320
