"""Guesses: where they come from, when they stop, and that no id of any answer shows them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from hermes3.engine.engine import Engine
from hermes3.engine.guesses import Guesser
from hermes3.engine.model import Model
from hermes3.engine.sampling import SamplingParams
from hermes3.weights.quant import GGMLType
from tests.engine.runs import load, model_file, random_ids, run

TEXT = random_ids(5, 40)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return load(model_file(tmp_path_factory.mktemp("guesses"), GGMLType.Q4_0), n_batch=64, n_rows=16)


def test_what_followed_last_time_is_guessed() -> None:
    guesser = Guesser()
    ids = [*TEXT, 7, 7, 1, 2, 3, 4, 5, *TEXT[10:13]]
    assert guesser.guess(ids, 9) == TEXT[13:14]
    ids = [*ids, *TEXT[13:15], 1, 2, 3]
    assert guesser.guess(ids, 9) == [4]
    assert guesser.guess([*ids, 6, 1, 2, 3], 9) == [6], "the last time counts"
    assert guesser.guess([*ids, 6, 1, 2, 3], 0) == []
    assert Guesser().guess([1, 2], 9) == []
    assert Guesser().guess([1, 2, 3], 9) == []


def test_more_are_guessed_while_all_are_right() -> None:
    guesser, ids, widths = Guesser(), [*TEXT, *TEXT[:5]], []
    while len(ids) < 2 * len(TEXT) - 8:
        guesses = guesser.guess(ids, 99)
        assert guesses == TEXT[len(ids) - len(TEXT) :][: len(guesses)]
        ids += [*guesses, TEXT[len(ids) + len(guesses) - len(TEXT)]]
        guesser.judge(len(guesses), len(guesses), len(ids))
        widths.append(len(guesses))
    assert widths == [1, 2, 4, 8, 8]


def test_where_nothing_is_right_an_answer_of_128_pays_for_six() -> None:
    guesser, ids, n_guessed = Guesser(), [1, 2, 3], 0
    for _ in range(128):
        guesses = guesser.guess(ids, 99)
        n_guessed += len(guesses)
        ids += [[1, 2, 3][len(ids) % 3]]
        if guesses:
            guesser.judge(len(guesses), 0, len(ids))
    assert 4 <= n_guessed <= 6


@pytest.mark.parametrize("sampling", [{"temperature": 0}, {"temperature": 0.7, "repetition_penalty": 1.1}])
def test_answers_are_the_same_with_and_without(model: Model, sampling: dict[str, Any]) -> None:
    """Ids, log-probabilities and reasons; prompts repeat themselves, and so do a small model's answers."""
    params = [
        SamplingParams(**sampling, seed=seed, max_tokens=90, logprobs=2, ignore_eos=True, stop_ids=(3, 4))
        for seed in range(6)
    ]
    prompts = [random_ids(seed, 30) * 3 for seed in range(6)]
    found = []
    for is_on in (False, True):
        engine = Engine(model, n_ctx=170, n_sequences=6, speculative=is_on)
        sequences = [engine.add(*each) for each in zip(prompts[:3], params, strict=False)]
        run(engine)
        sequences += [engine.add(*each) for each in zip(prompts[3:], params[3:], strict=False)]
        run(engine)
        found.append([(each.answer, each.logprobs, each.finish_reason) for each in sequences])
        assert engine.n_free_kv_tokens == engine.n_kv_tokens
    assert found[0] == found[1]
    if not sampling["temperature"]:
        assert engine.counters.n_accepted > 20
    assert engine.counters.n_drafted >= engine.counters.n_accepted
    for name in ("n_drafted", "n_accepted"):
        assert sum(getattr(each, name) for each in sequences) == getattr(engine.counters, name)
    assert 0 < engine.counters.n_drafts <= engine.counters.n_drafted
    # A guess that was right may end its answer, in a step that brings nothing else.
    n_steps = engine.counters.n_generated - engine.counters.n_accepted + len(sequences)
    assert sum(len(each.answer) for each in sequences) == engine.counters.n_generated
    assert engine.counters.n_steps <= n_steps


def test_a_forged_guesser_changes_nothing(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guesses of every length at every place, right up to any point: the answer stays."""
    engine = Engine(model, speculative=False)
    expected = engine.add(random_ids(1, 50), SamplingParams(temperature=0, max_tokens=100, ignore_eos=True))
    run(engine)
    rng = np.random.default_rng(0)

    def guess(self: Guesser, ids: list[int], most: int) -> list[int]:
        n, n_right = int(rng.integers(0, most + 1)), int(rng.integers(0, most + 1))
        right = expected.ids[len(ids) : len(ids) + min(n, n_right)]
        return [*right, *random_ids(int(rng.integers(1 << 30)), n - len(right))]

    monkeypatch.setattr(Guesser, "guess", guess)
    engine = Engine(model)
    again = engine.add(random_ids(1, 50), SamplingParams(temperature=0, max_tokens=100, ignore_eos=True))
    run(engine)
    assert again.answer == expected.answer
    assert 10 < engine.counters.n_accepted < engine.counters.n_drafted
    assert engine.counters.n_steps < 90
