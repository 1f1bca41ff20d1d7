"""Grammars in the engine: a random model, whose tokens are bytes, cannot leave them."""

from __future__ import annotations

import contextlib
import json
import re
import time
from types import SimpleNamespace

import jsonschema
import pytest

from hermes3.engine import grammar, trial
from hermes3.engine.engine import Engine
from hermes3.engine.grammar import GrammarVocabulary
from hermes3.engine.sampling import SamplingParams
from hermes3.errors import Hermes3Error, RequestError
from tests.engine import runs

END, MARK, TAG = 256, 257, 258
TOKENS = [*(bytes([byte]) for byte in range(256)), b"<|im_end|>", b"<|im_start|>", b"<tool_call>"]
SCHEMA = {
    "type": "object",
    "properties": {"unit": {"enum": ["C", "F"]}, "n": {"type": "integer", "minimum": 0, "maximum": 99}},
    "required": ["unit", "n"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def vocabulary():
    made = GrammarVocabulary(
        TOKENS, control_ids=[MARK], end_ids=[END], encode=list, n_vocab=runs.CONFIG.vocab_size
    )
    yield made
    made.close()


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return runs.load(runs.model_file(tmp_path_factory.mktemp("model")))


def text_of(sequence) -> str:
    return b"".join(TOKENS[token] for token in sequence.answer if token != END).decode()


def allowed(matcher) -> set[int]:
    mask = matcher.mask()
    return {token for token in range(mask.size * 32) if mask[token // 32] >> token % 32 & 1}


def after(vocabulary, kind: str, rules: str, text: bytes):
    matcher = vocabulary.compile(kind, rules).matcher()
    for byte in text:
        matcher.accept(byte)
    return matcher


def test_random_logits_in_one_batch_each_follow_their_grammar(model, vocabulary) -> None:
    engine = Engine(model, n_ctx=512)
    params = [SamplingParams(temperature=1.0, seed=seed, max_tokens=300) for seed in range(9)]
    grammars = [("json_schema", json.dumps(SCHEMA)), ("regex", "[ab]{3}c?"), ("lark", 'start: "yes" | "no"')]
    sequences = [
        engine.add(runs.random_ids(seed, 9), each, vocabulary.compile(*grammars[seed % 3]))
        for seed, each in enumerate(params)
    ]
    runs.run(engine)
    assert {sequence.finish_reason for sequence in sequences} == {"stop"}
    for sequence in sequences[0::3]:
        jsonschema.validate(json.loads(text_of(sequence)), SCHEMA)
    assert all(re.fullmatch("[ab]{3}c?", text_of(sequence)) for sequence in sequences[1::3])
    assert all(text_of(sequence) in ("yes", "no") for sequence in sequences[2::3])


def test_preemption_changes_nothing(model, vocabulary) -> None:
    def answers(**limits) -> tuple[list[list[int]], int]:
        engine = Engine(model, n_ctx=256, **limits)
        sequences = [
            engine.add(
                runs.random_ids(seed, 20),
                SamplingParams(temperature=1.0, seed=seed),
                vocabulary.compile("regex", "[a-z]{90}"),
            )
            for seed in range(3)
        ]
        runs.run(engine)
        assert all(re.fullmatch("[a-z]{90}", text_of(sequence)) for sequence in sequences)
        return [sequence.answer for sequence in sequences], engine._scheduler.n_preemptions

    page = 32 * 2 * 2 * 2 * 32 * 4
    at_ease, in_need = answers(), answers(kv_bytes=6 * page)
    assert at_ease[1] == 0
    assert in_need[1] > 0
    assert in_need[0] == at_ease[0]


def test_an_answer_ends_with_its_grammar_and_not_before(vocabulary) -> None:
    matcher = after(vocabulary, "regex", "ab?", b"a")
    assert allowed(matcher) == {ord("b"), END}
    assert not matcher.is_over
    matcher.accept(ord("b"))
    assert matcher.is_over


def test_control_tokens_are_no_text_and_ids_without_token_are_nothing(vocabulary) -> None:
    ids = allowed(vocabulary.compile("lark", "start: /(?s:.+)/").matcher())
    assert TAG in ids
    assert ord("a") in ids
    assert not ids & {END, MARK, *range(len(TOKENS), runs.CONFIG.vocab_size)}


def test_a_tag_may_be_one_token_or_text(vocabulary) -> None:
    ids = allowed(vocabulary.compile("lark", 'start: "<tool_call>" "x"').matcher())
    assert ids in ({TAG, ord("<")}, {ord("<")})
    matcher = vocabulary.compile("lark", 'start: /[a-z]*/ "<tool_call>" "x"').matcher()
    matcher.accept(TAG)
    assert allowed(matcher) == {ord("x")}


def test_whitespace_is_bounded(vocabulary) -> None:
    schema = '{"type": "array", "items": {"type": "integer"}}'
    assert ord("\n") in allowed(after(vocabulary, "json_schema", schema, b"["))
    assert ord("\n") not in allowed(after(vocabulary, "json_schema", schema, b"[\n"))
    assert ord(" ") in allowed(after(vocabulary, "json_schema", schema, b"[\n" + b" " * 31))
    assert ord(" ") not in allowed(after(vocabulary, "json_schema", schema, b"[\n" + b" " * 32))


@pytest.mark.parametrize(
    ("kind", "rules", "said"),
    [
        ("regex", "(a", "unclosed group"),
        ("lark", "start: x", "x"),
        ("json_schema", '{"type": "string", "format": "none-such"}', "Unknown format: none-such"),
        ("json_schema", '{"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}}', "describes nothing"),
        ("regex", "a" * ((1 << 18) + 1), "at most 262144"),
    ],
)
def test_what_cannot_be_compiled_is_refused_in_the_compilers_words(vocabulary, kind, rules, said) -> None:
    with pytest.raises(RequestError, match=re.escape(said)) as caught:
        vocabulary.compile(kind, rules, param="response_format")
    assert caught.value.param == "response_format"


HOSTILE = {
    "chain": ("lark", "start: a0\n" + "".join(f"a{n}: a{n + 1}\n" for n in range(9000)) + 'a9000: "x"'),
    "parentheses": ("lark", f"start: {'(' * 100_000}\"a\"{')' * 100_000}"),
    "ambiguous": ("lark", 'start: s\ns: s s | s s s | "a" | '),
    "doubling": (
        "lark",
        "start: a0\n" + "".join(f"a{n}: a{n + 1} a{n + 1}\n" for n in range(60)) + 'a60: "x"',
    ),
    "deep": ("json_schema", '{"items": ' * 5000 + "{}" + "}" * 5000),
    "million": ("regex", "(ab|ba){1,1000000}c"),
    "overlap": ("regex", "(.*a){30}.*b"),
    "choices": (
        "json_schema",
        json.dumps({"allOf": [{"anyOf": [{"required": [f"{k}{n}"]} for k in "pq"]} for n in range(20)]}),
    ),
    "long": ("json_schema", '{"type": "string", "pattern": "^(a|b)*c", "maxLength": 1000000}'),
    "loop": ("json_schema", '{"$ref": "#/$defs/a", "$defs": {"a": {"anyOf": [{"$ref": "#/$defs/a"}, {}]}}}'),
    "file": ("json_schema", '{"$ref": "file:///etc/passwd"}'),
    "enum": ("json_schema", json.dumps({"enum": [f"x{n}" for n in range(20_000)]})),
    "nested": ("regex", "((a{1,1000}){1,1000}){1,1000}"),
    "subsets": ("regex", "(a|b)*a(a|b){200}"),
    "items": ("json_schema", '{"type": "array", "minItems": 1000000, "items": {"type": "string"}}'),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_grammar_costs_little(vocabulary, name) -> None:
    """In seconds of this process, all threads together."""
    began = time.process_time()
    with contextlib.suppress(RequestError):
        matcher = vocabulary.compile(*HOSTILE[name]).matcher()
        assert time.process_time() - began < 2 * trial.MAX_CPU_S
        for _ in range(200):
            began = time.process_time()
            matcher.accept(min(allowed(matcher)))
            assert time.process_time() - began < 0.2
            if matcher.is_over:
                break


@pytest.mark.parametrize(
    ("name", "said"), [("chain", "nested too deep"), ("deep", "recursion limit"), ("file", "passwd")]
)
def test_what_would_end_the_process_is_refused(vocabulary, name, said) -> None:
    with pytest.raises(RequestError, match=said) as caught:
        vocabulary.compile(*HOSTILE[name], param="response_format")
    assert caught.value.param == "response_format"


@pytest.mark.long
def test_what_takes_long_to_compile_is_given_up(vocabulary) -> None:
    terms = " & ".join(f"/(?s:.*)a{n}(?s:.*)/" for n in range(40))
    with pytest.raises(RequestError, match="more than 2 s to compile"):
        vocabulary.compile("lark", f"start: T\nT: {terms}")


def test_compiled_grammars_are_kept_within_bounds(vocabulary, monkeypatch) -> None:
    monkeypatch.setattr(grammar, "MAX_CACHED_CHARS", 1000)
    monkeypatch.setattr(grammar, "N_CACHED", 3)
    for n in range(5):
        vocabulary.compile("regex", f"a{n}")
    assert [text for _, text in vocabulary._compiled] == ["a2", "a3", "a4"]
    known = vocabulary._compiled["regex", "a2"]
    assert vocabulary.compile("regex", "a2")._matcher is known
    assert [text for _, text in vocabulary._compiled] == ["a3", "a4", "a2"]
    vocabulary.compile("regex", "b" * 997)
    assert [text for _, text in vocabulary._compiled] == ["a2", "b" * 997]


class Slow:
    """A matcher whose masks take long to compute."""

    def __init__(self, matcher, seconds: float) -> None:
        self.matcher, self.seconds = matcher, seconds

    def unsafe_compute_mask_ptr(self, *where) -> None:
        end = time.thread_time() + self.seconds
        while time.thread_time() < end:
            pass
        self.matcher.unsafe_compute_mask_ptr(*where)

    def __getattr__(self, name: str):
        return getattr(self.matcher, name)


def test_slow_masks_end_their_own_answer(model, vocabulary, monkeypatch) -> None:
    monkeypatch.setattr(grammar, "MASKS_S", 0.1)
    monkeypatch.setattr(grammar, "MASK_S", 0.0)
    engine = Engine(model, n_ctx=512)
    params = SamplingParams(temperature=1.0, seed=1, max_tokens=60)
    slow = vocabulary.compile("regex", "[a-z]{100}").matcher()
    slow.mask()
    slow._matcher = Slow(slow._matcher, 0.04)
    ended, other, free = (
        engine.add(runs.random_ids(1, 9), params, bound)
        for bound in (SimpleNamespace(matcher=lambda: slow), vocabulary.compile("regex", "[a-z]{50}"), None)
    )
    runs.run(engine)
    assert (ended.finish_reason, ended.n_answer) == ("error", 3)
    assert "too complex: the masks of 4 tokens took 0.1 s" in str(ended.error)
    assert other.finish_reason == "stop"
    assert free.finish_reason in ("stop", "length")


def test_a_mask_that_does_not_come_ends_its_answer(vocabulary, monkeypatch) -> None:
    monkeypatch.setattr(grammar, "MAX_WAIT_S", 0.05)
    matcher = vocabulary.compile("regex", "[a-z]{100}").matcher()
    matcher.mask()
    matcher._matcher = Slow(matcher._matcher, 0.3)
    matcher.accept(ord("a"))
    with pytest.raises(RequestError, match="is not there after"):
        matcher.mask()


def test_an_id_outside_the_grammar_is_an_error(vocabulary) -> None:
    with pytest.raises(Hermes3Error, match="does not allow id 98"):
        vocabulary.compile("regex", "a*").matcher().accept(ord("b"))


class Exhausted:
    """A matcher that takes no more ids, though the grammar would."""

    def __init__(self, matcher) -> None:
        self.matcher = matcher

    def consume_token(self, token: int) -> bool:
        return False

    def get_error(self) -> str:
        return "ParserTooComplex"

    def __getattr__(self, name: str):
        return getattr(self.matcher, name)


def test_a_forced_id_that_is_not_taken_is_the_grammars_fault(vocabulary) -> None:
    matcher = after(vocabulary, "regex", "[xy]abc[xy]", b"x")
    assert matcher.forced == list(b"abc")
    matcher._matcher = Exhausted(matcher._matcher)
    with pytest.raises(Hermes3Error, match="does not allow id 120"):  # the last mask's, not this one's
        matcher.accept(ord("x"))
    with pytest.raises(RequestError, match="too complex: ParserTooComplex"):
        matcher.accept(ord("a"))


def test_no_grammar_beside_ignore_eos(model, vocabulary) -> None:
    with pytest.raises(RequestError) as caught:
        Engine(model).add([1], SamplingParams(ignore_eos=True), vocabulary.compile("regex", "a"))
    assert caught.value.param == "ignore_eos"


def test_a_vocabulary_without_end_is_refused() -> None:
    with pytest.raises(RequestError, match="no id that ends"):
        GrammarVocabulary(TOKENS, control_ids=[], end_ids=[], encode=list, n_vocab=300)
