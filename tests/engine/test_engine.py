"""The engine: what a request gets does not depend on its company; what it may not have is said plainly."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from hermes3 import _native
from hermes3.engine.engine import Engine
from hermes3.engine.model import Model
from hermes3.engine.sampling import SamplingParams
from hermes3.engine.sequence import Sequence
from hermes3.errors import CapacityError, ContextLengthError, RequestError
from hermes3.weights.checkpoint import open_checkpoint
from hermes3.weights.quant import GGMLType
from tests.engine.runs import CONFIG, load, model_file, random_ids, run
from tests.weights import tiny

WIDE = replace(CONFIG, hidden_size=256, intermediate_size=512, num_attention_heads=8, num_key_value_heads=2)
PAGE_BYTES = _native.PAGE * 2 * 2 * 2 * 32 * 2  # of the model below in f16: layers, keys and values, heads
Rows = list[NDArray[np.float32]]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return load(model_file(tmp_path_factory.mktemp("engine"), GGMLType.Q4_0, WIDE), n_batch=256, n_rows=16)


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = _native.threads()
    yield
    _native.set_threads(before)


def recorded(sequence: Sequence) -> Rows:
    """Collects every row of logits that this sequence's ids are chosen from."""
    rows: Rows = []
    sample = sequence.sampler.sample

    def noted(row: NDArray[np.float32], mask: NDArray[np.uint32] | None) -> Any:
        rows.append(row.copy())
        return sample(row, mask)

    sequence.sampler.sample = noted  # type: ignore[method-assign]
    return rows


def greedy(n: int, **more: Any) -> SamplingParams:
    return SamplingParams(temperature=0, max_tokens=n, ignore_eos=True, **more)


def alone(model: Model, ids: list[int], n: int, **options: Any) -> tuple[list[int], Rows]:
    engine = Engine(model, **options)
    sequence = engine.add(ids, greedy(n))
    rows = recorded(sequence)
    run(engine)
    return sequence.answer, rows


def test_one_prompt_all_ways(model: Model, two_threads: None) -> None:
    """Whole, chunked, token by token, among sixteen, beside cancelled ones, on 1 to 3 threads: same bits."""
    ids = random_ids(1, 200)
    expected, rows = alone(model, ids, 20)
    sizes, threads = [{"n_batch": n} for n in (64, 33, 1)], [{"n_threads": n} for n in (1, 3)]
    for options in ({"prefix_caching": False}, *sizes, *threads):
        answer, again = alone(model, ids, 20, **options)
        assert answer == expected
        np.testing.assert_array_equal(again, rows, str(options))
    for seed in range(3):
        rng = np.random.default_rng(seed)
        engine = Engine(model, n_batch=96)
        others = [engine.add(random_ids(i, int(rng.integers(1, 150))), greedy(30)) for i in range(7)]
        sequence = engine.add(ids, greedy(20))
        seen = recorded(sequence)
        others += [engine.add(random_ids(i, int(rng.integers(1, 150))), greedy(9)) for i in range(8)]
        while engine.has_work:
            engine.step()
            if others and rng.random() < 0.3:
                engine.cancel(others.pop(int(rng.integers(len(others)))))
        np.testing.assert_array_equal(seen, rows)
        assert engine.n_free_kv_tokens == engine.n_kv_tokens


def test_a_prefix_of_earlier_ones_shows_in_no_bit(model: Model) -> None:
    """Turns of a conversation, the same prompt again, and others with its beginning, at once and later."""
    engine = Engine(model, n_batch=64)
    ids = random_ids(1, 200)
    turns = [ids, ids, [*ids, *random_ids(2, 50)], [*ids[:130], *random_ids(3, 50)], ids[:97], ids[:96]]
    for first in (0, 3):
        sequences = [engine.add(turn, greedy(40)) for turn in turns[first : first + 3]]
        rows = [recorded(sequence) for sequence in sequences]
        run(engine)
        for turn, sequence, seen in zip(turns[first:], sequences, rows, strict=False):
            answer, expected = alone(model, turn, 40, prefix_caching=False)
            assert sequence.answer == answer
            np.testing.assert_array_equal(seen, expected)
    assert [sequence.n_cached for sequence in sequences] == [128, 96, 64]
    assert engine.n_free_kv_tokens == engine.n_kv_tokens
    longer = engine.add([*ids, *alone(model, ids, 40)[0], 7], greedy(1))
    run(engine)
    assert longer.n_cached == 224


def test_greedy_ids_are_those_of_transformers(tmp_path: Path) -> None:
    """Through the engine, float weights, sixteen prompts at once."""
    engine = Engine(open_checkpoint(model_file(tmp_path)))
    reference = tiny.hf_model(CONFIG)
    prompts = [random_ids(i, 5 + 9 * i) for i in range(16)]
    sequences = [engine.add(prompt, greedy(40)) for prompt in prompts]
    run(engine)
    given = {"max_new_tokens": 40, "eos_token_id": None, "do_sample": False, "pad_token_id": 0}
    for prompt, sequence in zip(prompts, sequences, strict=True):
        asked = torch.tensor([prompt])
        expected = reference.generate(asked, attention_mask=torch.ones_like(asked), **given)[0].tolist()
        assert sequence.ids == expected


def test_same_seed_same_ids_under_load_and_preemption(model: Model) -> None:
    prompts = [random_ids(i, 20 + 11 * i) for i in range(12)]
    params = [SamplingParams(temperature=1.5, seed=i, max_tokens=60, ignore_eos=True) for i in range(12)]

    def answers(together: bool, **options: Any) -> tuple[list[list[int]], int]:
        engine = Engine(model, **options)
        sequences = []
        for ids, each in zip(prompts, params, strict=True):
            sequences.append(engine.add(ids, each))
            if not together:
                run(engine)
        run(engine)
        assert engine.n_free_kv_tokens == engine.n_kv_tokens
        return [sequence.answer for sequence in sequences], engine._scheduler.n_preemptions

    expected, _ = answers(together=False)
    assert answers(together=True)[0] == expected
    scarce, n_preemptions = answers(together=True, kv_bytes=14 * PAGE_BYTES)
    assert n_preemptions > 0
    assert scarce == expected
    assert len({tuple(answer) for answer in expected}) == 12


def test_logprobs_are_log_softmax_of_the_row(model: Model) -> None:
    engine = Engine(model)
    params = SamplingParams(temperature=2, seed=1, max_tokens=5, logprobs=3, ignore_eos=True, top_k=9)
    sequence = engine.add(random_ids(9, 40), params)
    rows = recorded(sequence)
    run(engine)
    for row, token, entry in zip(rows, sequence.answer, sequence.logprobs, strict=True):
        expected = torch.log_softmax(torch.from_numpy(row).double(), -1)
        assert entry.id == token
        assert entry.logprob == pytest.approx(float(expected[token]), abs=1e-5)
        top = torch.topk(expected, 3)
        assert [i for i, _ in entry.top] == top.indices.tolist()
        assert [value for _, value in entry.top] == pytest.approx(top.values.tolist(), abs=1e-5)


def test_prompts_too_long_are_refused_with_both_numbers(model: Model) -> None:
    engine = Engine(model, n_ctx=100)
    with pytest.raises(ContextLengthError, match="the prompt has 100 tokens, the context holds 100"):
        engine.add(random_ids(1, 100), greedy(1))
    engine = Engine(model, n_ctx=1000, kv_bytes=3 * PAGE_BYTES)
    assert engine.n_kv_tokens == 96
    with pytest.raises(CapacityError, match=r"the prompt has 97 tokens, the memory for .* holds 96"):
        engine.add(random_ids(1, 97), greedy(1))
    with pytest.raises(CapacityError, match=f"one page of 32 tokens takes {PAGE_BYTES}"):
        Engine(model, kv_bytes=PAGE_BYTES - 1)


@pytest.mark.parametrize(("ids", "said"), [([], "no tokens"), ([1, 320], "id 320"), ([-1, 5], "id -1")])
def test_ids_that_are_none(model: Model, ids: list[int], said: str) -> None:
    with pytest.raises(RequestError, match=said):
        Engine(model).add(ids, greedy(1))


@pytest.mark.parametrize("given", [{"n_ctx": 0}, {"n_ctx": 131073}, {"n_batch": 257}, {"n_threads": 0},
                                   {"n_sequences": 17}, {"n_ctx": True}])  # fmt: skip
def test_arguments_outside_their_limits(model: Model, given: dict[str, int]) -> None:
    with pytest.raises(RequestError, match=f"{next(iter(given))} is .* it must be an integer from 1 to"):
        Engine(model, **given)


def test_a_cache_of_8_bits_holds_nearly_twice_as_many(model: Model) -> None:
    """34 bytes for 32 values beside 64; whatever else runs, a row keeps its bits."""
    kv_bytes = 34 * PAGE_BYTES
    half, byte = (Engine(model, kv_dtype=dtype, kv_bytes=kv_bytes) for dtype in ("f16", "q8_0"))
    assert byte.n_kv_tokens * 34 == half.n_kv_tokens * 64
    alone = byte.add(random_ids(1, 70), greedy(20))
    run(byte)
    others = [byte.add(random_ids(seed, 50), greedy(30)) for seed in range(3)]
    again = byte.add(random_ids(1, 70), greedy(20))
    run(byte)
    assert again.answer == alone.answer
    assert all(len(other.answer) == 30 for other in others)
    with pytest.raises(RequestError, match="kv_dtype is 'int4', it must be one of f16, f32, q8_0"):
        Engine(model, kv_dtype="int4")  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [0, -1.0, float("nan"), True, "fast", 1e9])
def test_a_latency_that_is_none(model: Model, value: Any) -> None:
    with pytest.raises(RequestError, match=r"latency_s is .* it must be a number of seconds above 0"):
        Engine(model, latency_s=value)


def test_a_stream_goes_on_while_a_long_prompt_is_computed(model: Model) -> None:
    """A target that no machine meets: the prompt gets on by a page a step, and the stream with each."""
    engine = Engine(model, latency_s=1e-6)
    stream = engine.add(random_ids(1, 10), greedy(200))
    engine.step()
    prompt = engine.add(random_ids(2, 230), greedy(1))
    n_before = stream.n_answer
    while not prompt.n_answer:
        engine.step()
    assert stream.n_answer - n_before >= 230 // 32
    assert prompt.answer == alone(model, random_ids(2, 230), 1)[0]


def test_how_answers_end(model: Model) -> None:
    ids = random_ids(3, 30)
    expected, _ = alone(model, ids, 12)
    engine = Engine(model, n_ctx=36)
    stop = expected[4]
    first = expected.index(stop)
    by_stop = engine.add(ids, greedy(12, stop_ids=frozenset({stop})))
    by_limit, by_context = engine.add(ids, greedy(3)), engine.add(ids, greedy(100))
    run(engine)
    assert (by_stop.answer, by_stop.finish_reason) == (expected[: first + 1], "stop")
    assert (by_limit.answer, by_limit.finish_reason) == (expected[:3], "length")
    assert (by_context.answer, by_context.finish_reason) == (expected[:6], "length")


def test_the_models_own_end(tmp_path: Path) -> None:
    """A model that can say nothing but its end-of-text id."""
    engine = Engine(open_checkpoint(tiny.gguf_file(tmp_path / "m.gguf")))
    bias = {token: -100.0 for token in range(40) if token != 2}
    ended = engine.add([5, 6], SamplingParams(logit_bias=bias, max_tokens=9))
    ignored = engine.add([5, 6], SamplingParams(logit_bias=bias, max_tokens=9, ignore_eos=True))
    run(engine)
    assert (ended.answer, ended.finish_reason) == ([2], "stop")
    assert (ignored.answer, ignored.finish_reason) == ([2] * 9, "length")


def test_memory_full_ends_the_lone_answer_that_fills_it(model: Model) -> None:
    engine = Engine(model, kv_bytes=2 * PAGE_BYTES)
    sequence, waiting = engine.add(random_ids(1, 40), greedy(500)), engine.add(random_ids(2, 60), greedy(2))
    run(engine)
    assert sequence.finish_reason == "length"
    assert len(sequence.ids) == 2 * _native.PAGE + 1
    assert waiting.n_answer == 2


def test_an_error_of_one_harms_no_other(model: Model) -> None:
    expected, _ = alone(model, random_ids(1, 50), 6)
    engine = Engine(model)
    well, sick = engine.add(random_ids(1, 50), greedy(6)), engine.add(random_ids(2, 50), greedy(6))
    sick.ids[20] = 10**6  # what the kernels refuse

    def broken(row: NDArray[np.float32], mask: object) -> Any:
        raise ZeroDivisionError("a sampler's fault")

    unlucky = engine.add(random_ids(3, 9), greedy(6))
    unlucky.sampler.sample = broken  # type: ignore[method-assign]
    outputs = run(engine)
    assert well.answer == expected
    assert (sick.finish_reason, type(sick.error)) == ("error", ValueError)
    assert (unlucky.finish_reason, type(unlucky.error)) == ("error", ZeroDivisionError)
    assert {o.sequence for o in outputs if o.error} == {sick, unlucky}
    assert engine.n_free_kv_tokens == engine.n_kv_tokens


def test_cancel_from_another_thread(model: Model) -> None:
    engine = Engine(model, n_ctx=4000)
    sequences = [engine.add(random_ids(i, 10), greedy(3900)) for i in range(4)]
    timer = threading.Timer(0.2, lambda: [engine.cancel(each) for each in sequences])
    timer.start()
    outputs = run(engine)
    timer.join()
    assert [each.finish_reason for each in sequences] == ["cancelled"] * 4
    assert sum(output.finish_reason == "cancelled" for output in outputs) == 4
    for each in sequences:
        assert [i for o in outputs if o.sequence is each for i in o.ids] == each.answer
        engine.cancel(each)
    assert run(engine) == []
    assert engine.n_free_kv_tokens == engine.n_kv_tokens


def test_counters(model: Model) -> None:
    engine = Engine(model, n_batch=64)
    sequence = engine.add(random_ids(1, 100), greedy(5))
    run(engine)
    counters = engine.counters
    assert (counters.n_steps, counters.n_computed, counters.n_generated) == (6, 104, 5)
    assert sequence.prefill_s > 0
    assert sequence.decode_s > 0
