"""The adapter to vLLM, over a script that plays vLLM's part."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hermes3.engine.grammar import GrammarVocabulary
from hermes3.engine.sampling import SamplingParams, TokenLogprob
from hermes3.engine.vllm.client import check_runnable
from hermes3.engine.vllm.engine import VllmEngine
from hermes3.engine.vllm.options import VllmOptions
from hermes3.errors import CapacityError, ContextLengthError, FormatError, Hermes3Error, RequestError
from tests.engine.fake_vllm import DIE, FAIL, HANG, REFUSE, VANISH, AsyncLLM, Script, install

END = 256
TOKENS = [*(bytes([byte]) for byte in range(256)), b"<|im_end|>", b"<|im_start|>"]


@pytest.fixture
def vocabulary() -> Iterator[GrammarVocabulary]:
    made = GrammarVocabulary(TOKENS, control_ids=[257], end_ids=[END], encode=list, n_vocab=258)
    yield made
    made.close()


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    """An engine whose vLLM follows a script, and that vLLM."""
    opened = []

    def started(
        script: Script, options: VllmOptions | None = None, **given: Any
    ) -> tuple[VllmEngine, AsyncLLM]:
        fake = install(monkeypatch, script, **given)
        engine = VllmEngine.of_folder(tmp_path, options or VllmOptions())
        opened.append(engine)
        return engine, fake

    yield started
    for engine in opened:
        engine.close()


def saying(*steps: Any) -> Script:
    return lambda ids, params: list(steps)


def text(words: str) -> list[int]:
    return list(words.encode())


def asked(**given: Any) -> SamplingParams:
    return SamplingParams(stop_ids=frozenset({END}), **{"max_tokens": 100, **given})


def all_of(engine: VllmEngine) -> list[Any]:
    outputs: list[Any] = []
    end = time.monotonic() + 20
    while engine.has_work:
        assert time.monotonic() < end, "it does not end"
        outputs += engine.step()
    return outputs


def answer(engine: VllmEngine, params: SamplingParams, grammar: Any = None) -> tuple[list[int], Any]:
    """Ids of one answer, and its last output."""
    engine.add([1, 2], params, grammar)
    outputs = all_of(engine)
    assert [output.finish_reason is None for output in outputs] == [True] * (len(outputs) - 1) + [False]
    return [token for output in outputs for token in output.ids], outputs[-1]


def test_what_is_asked_arrives(start: Any) -> None:
    engine, fake = start(saying(*text("ab"), END))
    params = asked(
        temperature=0.5, top_k=4, top_p=0.9, min_p=0.1, repetition_penalty=1.2, presence_penalty=0.3,
        frequency_penalty=-0.4, logit_bias={5: -100.0}, seed=-1, ignore_eos=True, logprobs=None,
    )  # fmt: skip
    ids, last = answer(engine, params)
    assert (ids, last.finish_reason) == ([*text("ab"), END], "stop")
    (prompt, given, _), *others = fake.asked
    assert (prompt, others) == ([1, 2], [])
    assert (given.temperature, given.top_k, given.top_p, given.min_p) == (0.5, 4, 0.9, 0.1)
    assert (given.repetition_penalty, given.presence_penalty, given.frequency_penalty) == (1.2, 0.3, -0.4)
    assert (given.logit_bias, given.seed, given.max_tokens) == ({5: -100.0}, (1 << 63) - 1, 100)
    assert (given.stop_token_ids, given.ignore_eos, given.detokenize) == ([END], True, False)
    assert given.output_kind.name == "DELTA"
    assert last.sequence.n_cached == 3
    assert last.sequence.started == pytest.approx(last.sequence.added + 0.25)


def test_the_likeliest_alone(start: Any) -> None:
    engine, fake = start(saying(END))
    answer(engine, asked(top_p=0.0, top_k=1 << 31))
    answer(engine, asked(top_k=1 << 31))
    assert [(given.top_p, given.top_k) for _, given, _ in fake.asked] == [(1.0, 1), (1.0, 258)]


@pytest.mark.parametrize(
    ("given", "param"), [({"temperature": 0.001}, "temperature"), ({"logit_bias": {258: 1.0}}, "logit_bias")]
)
def test_what_vllm_would_bend_is_refused_by_name(start: Any, given: Any, param: str) -> None:
    engine, fake = start(saying(END))
    with pytest.raises(RequestError) as caught:
        engine.add([1], asked(**given))
    assert (caught.value.param, fake.asked, engine.has_work) == (param, [], False)


def test_prompts_that_do_not_fit(start: Any) -> None:
    engine, _ = start(saying(END), n_ctx=5000)
    for prompt, kind in (([], RequestError), ([258], RequestError), ([1] * 5000, ContextLengthError),
                         ([1] * 1601, CapacityError)):  # fmt: skip
        with pytest.raises(kind) as caught:
            engine.add(prompt, asked())
        assert caught.value.param == "prompt"
    assert (engine.n_ctx, engine.n_kv_tokens, engine.n_vocab) == (5000, 1600, 258)


def test_logprobs(start: Any) -> None:
    engine, _ = start(saying(text("ab"), END))
    engine.add([1], asked(logprobs=2))
    first, _ = all_of(engine)
    assert first.logprobs == [TokenLogprob(id, -0.5, ((7, -0.25), (id, -0.5))) for id in text("ab")]
    engine.add([1], asked(logprobs=0))
    assert all_of(engine)[0].logprobs[0] == TokenLogprob(ord("a"), -0.5, ())


def test_length_and_many_at_once(start: Any) -> None:
    engine, fake = start(lambda ids, params: [ids[0]] * 50)
    sequences = [engine.add([n], asked(max_tokens=n)) for n in range(1, 20)]
    outputs = all_of(engine)
    for n, sequence in enumerate(sequences, 1):
        own = [output for output in outputs if output.sequence is sequence]
        assert [token for output in own for token in output.ids] == [n] * n
        assert own[-1].finish_reason == "length"
    assert fake.running == 0


def test_its_state(start: Any) -> None:
    engine, _ = start(saying(*text("abc"), HANG))
    assert (engine.has_work, engine.n_running, engine.n_free_kv_tokens) == (False, 0, 1600)
    sequence = engine.add([1], asked())
    end = time.monotonic() + 10
    while engine.counters.n_generated < 3:
        assert time.monotonic() < end
        engine.step()
    assert (engine.n_running, engine.n_waiting, engine.n_free_kv_tokens) == (1, 0, 1200)
    assert engine.counters.n_steps == 3
    engine.cancel(sequence)
    assert all_of(engine)[-1].finish_reason == "cancelled"
    assert (engine.has_work, engine.n_running, engine.n_free_kv_tokens) == (False, 0, 1600)
    assert (engine.keeps_prefixes, engine.n_known([1])) == (False, None)


def test_cancelling_aborts_in_vllm(start: Any) -> None:
    engine, fake = start(saying(HANG))
    early = engine.add([1], asked())
    engine.cancel(early)  # before it began
    assert [output.finish_reason for output in all_of(engine)] == ["cancelled"]
    late = engine.add([1], asked())
    end = time.monotonic() + 10
    while not fake.running:
        assert time.monotonic() < end
        engine.step()
    engine.cancel(late)
    assert [output.finish_reason for output in all_of(engine)] == ["cancelled"]
    assert len(fake.aborted) >= 1
    assert fake.running == 0
    engine.cancel(late)  # nothing more
    assert engine.step() == []


@pytest.mark.parametrize(
    ("step", "kind", "words"),
    [
        (FAIL, Hermes3Error, "vLLM failed at this answer .RuntimeError: a tensor is amiss"),
        (REFUSE, RequestError, "vLLM refuses the request: too hot"),
        (VANISH, Hermes3Error, "ended before the answer did"),
    ],
)
def test_one_answer_fails_alone(start: Any, step: str, kind: type[Exception], words: str) -> None:
    engine, _ = start(lambda ids, params: [ids[0], step if ids[0] == 1 else END])
    bad, good = engine.add([1], asked()), engine.add([2], asked())
    outputs = all_of(engine)
    last = {output.sequence: output for output in outputs if output.finish_reason}
    assert last[good].finish_reason == "stop"
    with pytest.raises(kind, match=words):
        raise last[bad].error
    assert engine.failure is None


def test_a_dead_vllm_ends_the_engine(start: Any) -> None:
    engine, _ = start(saying(65, DIE))
    engine.add([1], asked())
    with pytest.raises(Hermes3Error, match="vLLM's engine has ended"):
        all_of(engine)
    assert engine.failure is not None


def test_grammars_go_as_llguidances_text(start: Any, vocabulary: GrammarVocabulary) -> None:
    engine, fake = start(saying(END))
    lark = vocabulary.compile("lark", 'start: "a"')
    odd = vocabulary.compile("lark", 'start[capture]: "a"')
    schema = vocabulary.compile("json_schema", json.dumps({"type": "integer"}))
    for grammar in (lark, odd, vocabulary.compile("regex", "a+"), schema):
        answer(engine, asked(), grammar)
    given = [params.structured_outputs for _, params, _ in fake.asked]
    assert (given[0].grammar, given[2].regex) == ('start: "a"', "a+")
    assert given[1].grammar == '%llguidance {}\nstart[capture]: "a"'
    assert given[3].grammar.startswith('start: %json {"type": "integer", "x-guidance"')
    for refused in ({"ignore_eos": True}, {"logprobs": 0}):
        with pytest.raises(RequestError) as caught:
            engine.add([1], asked(**refused), lark)
        assert caught.value.param == next(iter(refused))


def test_a_grammar_ends_its_answer(start: Any, vocabulary: GrammarVocabulary) -> None:
    """As in our own engine: without the end token, and whatever stands behind."""
    engine, fake = start(saying(text("ab"), text("cxyz"), HANG))
    ids, last = answer(engine, asked(), vocabulary.compile("regex", "abc"))
    assert (ids, last.finish_reason) == (text("abc"), "stop")
    end = time.monotonic() + 10
    while fake.running:
        assert time.monotonic() < end, "vLLM goes on behind our back"
        time.sleep(0.01)
    ids, last = answer(engine, asked(max_tokens=2), vocabulary.compile("regex", "abc"))
    assert (ids, last.finish_reason) == (text("ab"), "length")


def test_what_the_grammar_forced_is_told(start: Any, vocabulary: GrammarVocabulary) -> None:
    """Though vLLM computes it like anything else."""
    engine, _ = start(saying(text("a"), text("xy"), text("z5")))
    sequence = engine.add([1, 2], asked(), vocabulary.compile("regex", "[ab]xyz[0-9]"))
    outputs = all_of(engine)
    assert [token for output in outputs for token in output.ids] == text("axyz5")
    flags = [is_forced for output in outputs for is_forced in output.forced]
    assert (flags, sequence.n_forced) == ([False, True, True, True, False], 3)


@pytest.mark.parametrize("steps", [[*text("ab"), END], text("abx"), [text("abx")]])
def test_an_answer_that_left_its_grammar_is_none(
    start: Any, vocabulary: GrammarVocabulary, steps: list[Any]
) -> None:
    """vLLM ends an answer as if it were whole where llguidance gave up."""
    engine, _ = start(saying(*steps))
    _, last = answer(engine, asked(), vocabulary.compile("regex", "abc+", param="tools"))
    assert (last.finish_reason, last.error.param) == ("error", "tools")
    assert "too complex" in str(last.error)


def test_what_vllm_is_told(start: Any, tmp_path: Path) -> None:
    options = VllmOptions(max_model_len=64, tensor_parallel_size=2, distributed_executor_backend="ray")
    _, fake = start(saying(END), options)
    assert fake.arguments is not None
    given = fake.arguments.given
    assert given["model"] == str(tmp_path)
    assert (given["max_model_len"], given["tensor_parallel_size"], given["dtype"]) == (64, 2, "auto")
    assert (given["distributed_executor_backend"], given["structured_outputs_config"]) == (
        "ray",
        {"backend": "guidance"},
    )
    assert "gpu_memory_utilization" not in given


def test_closing_ends_vllm(start: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake = install(monkeypatch, saying(HANG))
    engine = VllmEngine.of_folder(tmp_path, VllmOptions())
    engine.add([1], asked())
    engine.close()
    assert fake.is_shut


def test_a_start_that_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    install(monkeypatch, saying())
    (tmp_path / "unheard_of").mkdir()
    with pytest.raises(Hermes3Error, match=r"vLLM cannot run .*unheard_of: no such architecture"):
        VllmEngine.of_folder(tmp_path / "unheard_of", VllmOptions())
    (tmp_path / "model.gguf").touch()
    with pytest.raises(FormatError, match=r"is no folder.*hermes3 convert .*model.gguf FOLDER --to bf16"):
        check_runnable(tmp_path / "model.gguf")


def test_without_vllm(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("hermes3.engine.vllm.client.find_spec", lambda name: None)
    with pytest.raises(Hermes3Error, match=r"not installed: pip install 'hermes3\[vllm\]'"):
        check_runnable(tmp_path)


@pytest.mark.parametrize(
    "given",
    [
        {"tensor_parallel_size": 0},
        {"pipeline_parallel_size": True},
        {"max_model_len": 0},
        {"distributed_executor_backend": "uni"},
        {"dtype": "int8"},
        {"gpu_memory_utilization": 1.5},
        {"enforce_eager": 1},
    ],
)
def test_options_are_checked_by_name(given: dict[str, Any]) -> None:
    with pytest.raises(RequestError) as caught:
        VllmOptions(**given)
    assert caught.value.param == next(iter(given))
