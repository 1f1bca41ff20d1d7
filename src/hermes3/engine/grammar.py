"""Grammars: which ids may come next, computed by llguidance beside the forward pass.

The engine knows ids alone: the vocabulary comes as bytes, a grammar as text in a language of llguidance's
(https://github.com/guidance-ai/llguidance/blob/main/docs/syntax.md). Nothing here depends on keys and values,
so a sequence that is preempted and computed anew goes on where it was.
"""

from __future__ import annotations

import json
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Literal

import numpy as np
from llguidance import LLMatcher, LLParserLimits, LLTokenizer
from llguidance._tokenizer import TokenizerWrapper
from numpy.typing import NDArray

from hermes3.engine import trial
from hermes3.errors import Hermes3Error, RequestError

GrammarKind = Literal["json_schema", "regex", "lark"]
Mask = NDArray[np.uint32]

MAX_GRAMMAR_CHARS = 1 << 18
N_CACHED = 64
MAX_CACHED_CHARS = 1 << 20  # of all of them; a compiled grammar takes up to 200 bytes for each
N_TRIED = 24  # tokens of some answer that are tried at once: what is too complex shows early
N_THREADS = 2  # a slow mask must not hold up the others
# Seconds that an answer's masks may take: of computing for them all, more for each token; of waiting for one.
MASKS_S, MASK_S, MAX_WAIT_S = 0.5, 0.01, 30.0
# One line break a gap, and at most so many blanks: without a bound small models write blanks without end.
WHITESPACE = r"( ?|\n[ \t]{0,32})"

_LIMITS = LLParserLimits(**trial.LIMITS)


class GrammarVocabulary:
    """A vocabulary as grammars need it. Building it takes about a second for 128k tokens.

    Args:
        tokens: the bytes of each id; ids without a token, and those above the list, are never allowed.
        control_ids: ids that are no text, such as ``<|im_start|>``: text never holds them.
        end_ids: ids that end an answer, allowed where the grammar is satisfied.
        encode: ids of UTF-8 text, so that forced text comes in the tokens that the model knows it by.
        n_vocab: length of a row of logits, at least that of ``tokens``.

    Raises:
        RequestError: no end id, or one outside the vocabulary.
    """

    def __init__(
        self,
        tokens: Sequence[bytes],
        *,
        control_ids: Collection[int],
        end_ids: Collection[int],
        encode: Callable[[bytes], list[int]],
        n_vocab: int,
    ) -> None:
        ends = sorted(end for end in end_ids if 0 <= end < len(tokens))
        if not ends:
            raise RequestError("the vocabulary has no id that ends an answer, so that no grammar can end")
        padded = [*tokens, *[b""] * (n_vocab - len(tokens))]
        source = _Source(padded, sorted({*control_ids, *ends}), ends[0], encode)
        self._tokenizer = LLTokenizer(TokenizerWrapper(source), eos_token=ends)
        self._special = [tokens[token].decode(errors="replace") for token in sorted({*control_ids, *ends})]
        self._n_words = -(-n_vocab // 32)
        self._visible = _bits([not text[:1].isspace() and text != b"" for text in padded])
        self._pool = ThreadPoolExecutor(N_THREADS, thread_name_prefix="hermes3-grammar")
        self._lock = threading.Lock()
        self._compiled: OrderedDict[tuple[GrammarKind, str], LLMatcher] = OrderedDict()

    def compile(self, kind: GrammarKind, text: str, *, param: str = "grammar") -> Grammar:
        """A grammar in a form that many sequences can follow. For any thread; the GIL is released meanwhile.

        Args:
            param: what errors call it.

        Raises:
            RequestError: it is too large, nothing satisfies it, or llguidance cannot compile it (its words).
        """
        if len(text) > MAX_GRAMMAR_CHARS:
            limit = f"at most {MAX_GRAMMAR_CHARS} are compiled"
            raise RequestError(f"{param} makes a grammar of {len(text)} characters, {limit}", param=param)
        with self._lock:
            known = self._compiled.get((kind, text))
            if known is not None:
                self._compiled.move_to_end((kind, text))
        if known is None:
            known = self._compiled_anew(kind, text, param)
            with self._lock:
                self._compiled[kind, text] = known
                while len(self._compiled) > N_CACHED or self._n_cached_chars > MAX_CACHED_CHARS:
                    self._compiled.popitem(last=False)
        return Grammar(known, self._n_words, self._pool, param, kind, text)

    @property
    def _n_cached_chars(self) -> int:
        return sum(len(text) for _, text in self._compiled)

    def _compiled_anew(self, kind: GrammarKind, text: str, param: str) -> LLMatcher:
        try:
            grammar = _grammar(kind, text)
        except ValueError as error:  # no JSON, or nested too deep
            raise RequestError(f"{param} cannot be compiled: {error}", param=param) from error
        if fault := trial.fault_of(grammar, self._special, 32 * self._n_words):
            raise RequestError(f"{param} {fault}", param=param)
        made = LLMatcher(self._tokenizer, grammar, log_level=0, limits=_LIMITS)
        begun = made.deep_copy()
        for _ in range(N_TRIED):
            mask = np.frombuffer(begun.compute_bitmask(), np.uint32)[: self._n_words]
            if _is_dead(begun):
                raise RequestError(f"{param} describes nothing: no text can satisfy it", param=param)
            if begun.is_error():
                raise RequestError(f"{param} cannot be compiled: {_words(begun)}", param=param)
            allowed = mask & self._visible
            if begun.is_stopped() or not allowed.any():
                break
            word = int(allowed.argmax())
            begun.consume_token(32 * word + int(allowed[word]).bit_length() - 1)
        return made

    def objection(self, kind: GrammarKind, text: str) -> str | None:
        """What llguidance says against a grammar, None where it compiles. Nothing is kept of it."""
        try:
            grammar = _grammar(kind, text)
        except ValueError as error:
            return str(error)
        if fault := trial.fault_of(grammar, self._special, 32 * self._n_words):
            return fault
        # validate_grammar lets Rust's panics through, which are no Exception; a matcher keeps them as words
        tried = LLMatcher(self._tokenizer, grammar, log_level=0, limits=_LIMITS)
        return _words(tried) if tried.is_error() else None

    def close(self) -> None:
        """Stops the threads that compute masks."""
        self._pool.shutdown(cancel_futures=True)


class Grammar:
    """A compiled grammar.

    Attributes:
        param: what errors call it.
        kind, text: what it was compiled from.
    """

    def __init__(
        self,
        matcher: LLMatcher,
        n_words: int,
        pool: ThreadPoolExecutor,
        param: str,
        kind: GrammarKind,
        text: str,
    ) -> None:
        self._matcher = matcher
        self._n_words = n_words
        self._pool = pool
        self.param = param
        self.kind = kind
        self.text = text

    def named(self, param: str) -> Grammar:
        """The same, with errors that call it by another name."""
        return Grammar(self._matcher, self._n_words, self._pool, param, self.kind, self.text)

    def matcher(self) -> Matcher:
        """A matcher at the grammar's start, for one sequence. For any thread."""
        return Matcher(self._matcher.deep_copy(), self._n_words, self._pool, self.param)

    def follower(self) -> Follower:
        """What holds one answer of another engine against it, from its start. For any thread."""
        return Follower(self._matcher.deep_copy())


class Follower:
    """How far an answer has come that another engine writes; no mask is computed."""

    def __init__(self, matcher: LLMatcher) -> None:
        self._matcher = matcher
        self._forced: list[int] = matcher.compute_ff_tokens()

    def forces(self, token: int) -> bool:
        """Whether an id is what must come next, as the tokenizer would write it; see ``Matcher.forced``."""
        return self._forced[:1] == [token]

    def accept(self, token: int) -> bool:
        """Goes on by an id; False where the grammar does not allow it."""
        rest = self._forced[1:] if self.forces(token) else []
        is_allowed = bool(self._matcher.consume_token(token))
        ends = self.is_over or not is_allowed
        self._forced = rest or ([] if ends else self._matcher.compute_ff_tokens())
        return is_allowed

    @property
    def is_satisfied(self) -> bool:
        """The answer may end here."""
        return bool(self._matcher.is_accepting())

    @property
    def is_over(self) -> bool:
        """The answer must end here."""
        return bool(self._matcher.is_stopped())


class Matcher:
    """How far one sequence has come in its grammar. The next mask is computed while the model computes.

    Attributes:
        is_over: the grammar is satisfied and allows nothing more.
        forced: ids of the text that must come next, if any, as the tokenizer would write it whatever follows;
            the mask may allow other ways to write the same.
        spent_s: seconds of computing that its masks took.
        waited_s: seconds that somebody waited for them.
    """

    def __init__(self, matcher: LLMatcher, n_words: int, pool: ThreadPoolExecutor, param: str) -> None:
        self._matcher = matcher
        self._mask = np.zeros(n_words, np.uint32)
        self._pool = pool
        self._param = param
        self._computing: Future[None] | None = None
        self.spent_s = 0.0
        self.waited_s = 0.0
        self._n_masks = 0
        self.is_over = False
        self.forced: list[int] = matcher.compute_ff_tokens()
        self._start()

    def is_ready(self, within_s: float = 0.0) -> bool:
        """Whether the next id can be chosen without waiting for a mask, now or after so many seconds."""
        if self._computing is not None and not self._computing.done() and within_s > 0:
            wait((self._computing,), within_s)
        return self._computing is None or self._computing.done()

    def mask(self) -> Mask:
        """Bits of the ids that may come next, uint32 (ceil(n_vocab / 32),); waits for them if need be.

        Raises:
            RequestError: the grammar is too complex to go on, or its masks take too long for those who wait.
        """
        if self._computing is None:
            self._computing = self._pool.submit(self._compute)
        self._wait()
        return self._mask

    def accept(self, token: int) -> None:
        """Goes on by an id, and starts on the next mask.

        Raises:
            Hermes3Error: the grammar does not allow it.
            RequestError: the grammar is too complex to go on.
        """
        self._wait()
        if not self._matcher.consume_token(token):
            if self._is_allowed(token):
                raise self._too_complex(_words(self._matcher))
            raise Hermes3Error(f"the grammar does not allow id {token}: {_words(self._matcher)}")
        self._move()

    def take_forced(self, most: int) -> list[int]:
        """Goes on by up to ``most`` of the ids that must come next, and says by which; there may be more.

        Raises:
            RequestError: the grammar is too complex to go on.
        """
        taken = self.forced[: max(0, most)]
        if not taken:
            return []
        self._wait()
        n_taken = self._matcher.try_consume_tokens(taken)
        if n_taken:
            self._move()
        else:
            self.forced = []  # not what the mask says: that one counts
            self._start()
        return taken[:n_taken]

    def _is_allowed(self, token: int) -> bool:
        """As far as was computed; where an id must come next, no mask of this place need be there."""
        if self._computing is None:
            return token in self.forced[:1]
        return bool(self._mask[token // 32] >> token % 32 & 1)

    def _wait(self) -> None:
        if self._computing is None:
            return
        began = time.perf_counter()
        try:
            self._computing.result(MAX_WAIT_S)
        except TimeoutError:
            raise self._too_complex(f"a token's mask is not there after {MAX_WAIT_S} s") from None
        finally:
            self.waited_s += time.perf_counter() - began

    def _move(self) -> None:
        self.is_over = self._matcher.is_stopped()
        self.forced = [] if self.is_over else self._matcher.compute_ff_tokens()
        self._start()

    def _start(self) -> None:
        """Starts on the next mask, unless there is nothing to choose."""
        nothing_to_choose = self.is_over or self.forced
        self._computing = None if nothing_to_choose else self._pool.submit(self._compute)

    def _compute(self) -> None:
        began = time.thread_time()
        self._matcher.unsafe_compute_mask_ptr(self._mask.ctypes.data, self._mask.nbytes)
        if self._matcher.is_error():
            raise self._too_complex(_words(self._matcher))
        self.spent_s += time.thread_time() - began
        self._n_masks += 1
        if self.spent_s > MASKS_S + MASK_S * self._n_masks:
            raise self._too_complex(f"the masks of {self._n_masks} tokens took {self.spent_s:.1f} s")

    def _too_complex(self, why: str) -> RequestError:
        return RequestError(f"{self._param} is too complex: {why}", param=self._param)


class _Source:
    """A vocabulary in the form that llguidance's wrapper reads."""

    bos_token_id = None

    def __init__(
        self, tokens: list[bytes], special: list[int], end: int, encode: Callable[[bytes], list[int]]
    ) -> None:
        self.tokens = tokens
        self.special_token_ids = special
        self.eos_token_id = end
        self._encode = encode

    def __call__(self, text: bytes) -> list[int]:
        return self._encode(text)


def _grammar(kind: GrammarKind, text: str) -> str:
    if kind == "json_schema":
        return str(LLMatcher.grammar_from_json_schema(text, overrides={"whitespace_pattern": WHITESPACE}))
    return str(LLMatcher.grammar_from_regex(text)) if kind == "regex" else json.dumps(
        {"grammars": [{"lark_grammar": text}]}
    )


def _bits(flags: list[bool]) -> Mask:
    """As in a mask: one bit an id, those of a word from the lowest."""
    padded = np.zeros(-(-len(flags) // 32) * 32, bool)
    padded[: len(flags)] = flags
    return np.packbits(padded, bitorder="little").view(np.uint32)


def _is_dead(matcher: LLMatcher) -> bool:
    """Whether nothing satisfies a grammar, as the mask computed last shows."""
    if matcher.is_error():
        return _words(matcher) == "NoExtensionBias"  # llguidance's word where no token may follow
    return matcher.is_stopped() and not matcher.is_accepting()


def _words(matcher: LLMatcher) -> str:
    return _own(str(matcher.get_error()))


def _own(message: str) -> str:
    """llguidance's message, less what it says about its state."""
    return message.partition("<state>")[0].partition("<non-verbose/>")[0].strip()[:1000]
