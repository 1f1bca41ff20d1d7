"""An engine and a tokenizer that tests can see through: a token is a byte, and the answers are scripted."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from hermes3.engine.grammar import Grammar, Mask, Matcher
from hermes3.engine.protocol import Counters, StepOutput
from hermes3.engine.sampling import SamplingParams, TokenLogprob
from hermes3.errors import Hermes3Error, RequestError
from hermes3.llm import LLM, Parts
from hermes3.prompt.chatml import Template

IM_START, IM_END = 256, 257
BROKEN = -1  # in a script: the engine gives the answer up
MARKS = {"<|im_start|>": IM_START, "<|im_end|>": IM_END}
Script = Callable[[list[int], SamplingParams], list[int]]


class FakeTokenizer:
    """Ids 0 to 255 are bytes, 256 and 257 ChatML's marks."""

    vocab_size = 258
    bos_id = bos_token = chat_template = None
    add_bos = False
    control_ids = frozenset({IM_START, IM_END})
    eos_ids = frozenset({IM_END})

    def encode(self, text: str, allow_special: bool = False) -> list[int]:
        return [MARKS[text]] if allow_special and text in MARKS else list(text.encode())

    def least(self, n_chars: int) -> int:
        return -(-n_chars // max(map(len, MARKS)))

    def encode_segments(self, segments) -> list[int]:
        return [i for each in segments for i in self.encode(each.text, each.is_special)]

    def decode(self, ids: list[int]) -> str:
        return b"".join(self.token_bytes(i) for i in ids).decode("utf-8", "replace")

    def token_id(self, text: str) -> int | None:
        return MARKS.get(text)

    def token_bytes(self, token_id: int) -> bytes:
        names = {i: text for text, i in MARKS.items()}
        return names[token_id].encode() if token_id in names else bytes([token_id])

    def stream_decoder(self) -> FakeDecoder:
        return FakeDecoder(self)


class FakeDecoder:
    """Holds bytes back until they are whole characters."""

    def __init__(self, tokenizer: FakeTokenizer) -> None:
        self.tokenizer, self.held = tokenizer, b""

    def push(self, token_id: int) -> str:
        self.held += self.tokenizer.token_bytes(token_id)
        try:
            text, self.held = self.held.decode(), b""
        except UnicodeDecodeError:
            return ""
        return text

    def flush(self) -> str:
        text, self.held = self.held.decode("utf-8", "replace"), b""
        return text


@dataclass(eq=False)
class FakeSequence:
    params: SamplingParams
    left: list[int]
    matcher: Matcher | None = None
    n_done: int = 0
    n_cached: int = 0
    n_forced: int = 0
    n_drafted: int = 0
    n_accepted: int = 0
    mask_s: float = 0.0
    mask_wait_s: float = 0.0
    added: float = field(default_factory=time.perf_counter)
    started: float | None = field(default_factory=time.perf_counter)
    n_prompt: int = 0
    n_computed: int = 0
    is_cancelled: bool = False

    @property
    def n_answer(self) -> int:
        return self.n_done


@dataclass
class FakeEngine:
    """One scripted id for each running sequence and step; at the script's end, the end of the turn."""

    script: Script
    n_ctx: int = 1000
    step_s: float = 0.0
    fails_at: int | None = None  # step
    running: list[FakeSequence] = field(default_factory=list)
    cancelled: list[FakeSequence] = field(default_factory=list)
    n_steps: int = 0
    most_at_once: int = 0
    go: threading.Event = field(default_factory=threading.Event)
    eos_ids = frozenset({IM_END})
    n_kv_tokens = n_free_kv_tokens = 16_000
    n_waiting = 0
    keeps_prefixes = False
    failure = None
    counters: Counters = field(default_factory=Counters)
    n_vocab = FakeTokenizer.vocab_size
    is_obedient: bool = False  # where a grammar does not allow the script's id, the shortest way out is taken
    ids_at_once: int = 1  # of a step

    def __post_init__(self) -> None:
        self.go.set()

    @property
    def has_work(self) -> bool:
        return bool(self.running)

    @property
    def n_running(self) -> int:
        return len(self.running)

    def add(
        self, ids: list[int], params: SamplingParams, grammar: Grammar | None = None, n_prefix: int = 0
    ) -> FakeSequence:
        matcher = None if grammar is None else grammar.matcher()
        sequence = FakeSequence(params, [*self.script(ids, params), IM_END], matcher)
        sequence.n_prompt = sequence.n_computed = len(ids)
        self.running.append(sequence)
        return sequence

    def close(self) -> None: ...

    def n_known(self, ids: list[int]) -> int:
        return 0

    def cancel(self, sequence: FakeSequence) -> None:
        sequence.is_cancelled = True

    def drop_cancelled(self) -> list[StepOutput]:
        dropped = [sequence for sequence in self.running if sequence.is_cancelled]
        for sequence in dropped:
            self.running.remove(sequence)
        self.cancelled += dropped
        return [StepOutput(sequence, finish_reason="cancelled") for sequence in dropped]

    def step(self) -> list[StepOutput]:
        self.go.wait(10)
        time.sleep(self.step_s)
        self.n_steps += 1
        if self.n_steps == self.fails_at:
            raise MemoryError("no room for a step")
        dropped = self.drop_cancelled()
        self.most_at_once = max(self.most_at_once, len(self.running))
        return dropped + [self.advance(sequence) for sequence in list(self.running)]

    def advance(self, sequence: FakeSequence) -> StepOutput:
        if sequence.left[:1] == [BROKEN]:
            self.running.remove(sequence)
            return StepOutput(sequence, finish_reason="error", error=Hermes3Error("logits are not finite"))
        try:
            return self.advance_by_some(sequence)
        except RequestError as error:  # a grammar that gave up
            self.running.remove(sequence)
            return StepOutput(sequence, finish_reason="error", error=error)

    def advance_by_some(self, sequence: FakeSequence) -> StepOutput:
        output = self.advance_by_one(sequence)
        for _ in range(self.ids_at_once - 1):
            if output.finish_reason is None and sequence.left[:1] != [BROKEN]:
                more = self.advance_by_one(sequence)
                output = StepOutput(
                    sequence,
                    [*output.ids, *more.ids],
                    [*output.logprobs, *more.logprobs],
                    more.finish_reason,
                    forced=[*output.forced, *more.forced],
                )
        return output

    def advance_by_one(self, sequence: FakeSequence) -> StepOutput:
        token = sequence.left.pop(0) if sequence.left else IM_END
        sequence.n_done += 1
        self.counters.n_computed += 1
        self.counters.n_generated += 1
        is_forced = sequence.matcher is not None and bool(sequence.matcher.forced)
        if sequence.matcher is not None:
            mask = sequence.matcher.mask()
            if self.is_obedient:
                token = allowed(mask, token)
            sequence.matcher.accept(token)  # the script must keep to the grammar
        reason = None
        if token in sequence.params.stop_ids or (sequence.matcher and sequence.matcher.is_over):
            reason = "stop"
        elif sequence.n_done == sequence.params.max_tokens:
            reason = "length"
        if reason:
            self.running.remove(sequence)
        logprobs = []
        if sequence.params.logprobs is not None:
            top = tuple(((token + i) % 256, -1.0 - i) for i in range(sequence.params.logprobs))
            logprobs = [TokenLogprob(token, -1.0, top)]
        return StepOutput(sequence, [token], logprobs, reason, forced=[is_forced])


def allowed(mask: Mask, token: int) -> int:
    """The id, or one that the mask allows: the end before what closes, and that before anything else."""
    ids = [i for i in range(FakeTokenizer.vocab_size) if mask[i // 32] >> (i % 32) & 1]
    return token if token in ids else min(ids, key=lambda i: (i != IM_END, chr(i) not in '}]"', i))


def saying(text: str) -> Script:
    return lambda ids, params: list(text.encode())


def echo(ids: list[int], params: SamplingParams) -> list[int]:
    """What the prompt said last, backwards: answers differ with the prompt."""
    return [i for i in reversed(ids) if i < 256][:40]


def fake_llm(script: Script = echo, **engine) -> tuple[LLM, FakeEngine]:
    made = FakeEngine(script, **engine)
    parts = Parts(made, FakeTokenizer(), Template(), frozenset({IM_END}))
    return LLM.of_parts(parts, name="fake", path=Path("models/Fake-1B.Q4_0.gguf")), made
