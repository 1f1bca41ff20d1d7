"""The engine: sequences in, new ids out, one step at a time. Speaks ``protocol.EngineProtocol``."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence as Ids
from itertools import islice, takewhile
from pathlib import Path

from hermes3 import _native
from hermes3.engine.arguments import check_end, check_prompt, checked_count, checked_seconds
from hermes3.engine.cache import PageAllocator, available_memory
from hermes3.engine.grammar import Grammar
from hermes3.engine.held import Held
from hermes3.engine.model import F32, KVType, Model
from hermes3.engine.pace import LATENCY_S, Pace
from hermes3.engine.prefix_store import DEFAULT_BYTES, PrefixStore, identity_of
from hermes3.engine.prefixes import Prefixes
from hermes3.engine.protocol import Counters, StepOutput
from hermes3.engine.sampling import SamplingParams, TokenLogprob
from hermes3.engine.scheduler import Chunk, Scheduler, make_batch
from hermes3.engine.scoring import Scorer
from hermes3.engine.sequence import FinishReason, Sequence
from hermes3.errors import CapacityError, ContextLengthError, RequestError
from hermes3.weights.checkpoint import Checkpoint

DEFAULT_N_CTX = 8192  # tokens; for so many the 3B model takes 0.9 GB, as they come
DEFAULT_N_BATCH = 512
DEFAULT_N_SEQUENCES = 16
MEMORY_SHARE = 0.5  # of what is available, for keys and values
PATIENCE = 0.1  # of a step's time, for masks that are late
IDLE_SHARE = 0.25  # of the cache, for beginnings that nobody uses at the moment
MOST_GUESSING = 4  # answers at once: with more, rows cost what they bring, and only what is forced is tried
MAX_THREADS = 1024
_UNBOUND = (1 << 20, 1 << 12)  # tokens and rows where no model has its buffers yet


class Engine:
    """Runs many sequences through one model. ``add`` and ``cancel`` are for any thread, ``step`` for one.

    Args:
        source: a checkpoint, or a model made of one.
        n_ctx: most ids of a sequence, prompt and answer together; by default 8192, or the model's own limit
            where that is less.
        n_threads: of the kernels, for the whole process; None leaves it as it is: a thread for each core that
            the process may use.
        n_batch: most tokens of a step, and so of a chunk of a prompt; by default 512, or the model's.
        n_sequences: most sequences that run at once, others wait; by default 16, or the model's ``n_rows``.
        kv_dtype: "f16", "f32" or "q8_0" (int8, a scale for each 32 values: 53 % of f16's memory); by default
            f16 beside quantized weights and f32 beside float weights.
        kv_bytes: memory for keys and values, taken as it is needed; by default what n_sequences full contexts
            need, but no more than half of the available memory.
        prefix_caching: whether what a prompt begins with is taken from earlier sequences that began alike; up
            to a quarter of the cache is kept for that when nothing runs. Changes no bit of any answer.
        speculative: whether a step may bring several ids: what a grammar forces, which needs no logits, and
            guesses (``guesses``), each still drawn from its own row. No answer changes, at any temperature.
        latency_s: seconds that a step may take while answers run, as far as parts of prompts decide on that.
        prefix_folder: where beginnings that are worth it (``add``) outlive the process; None for nowhere.
        prefix_bytes: most that they may take there.

    Attributes:
        n_ctx, n_batch, n_sequences: as above.
        n_kv_tokens: tokens whose keys and values fit into kv_bytes.
        counters: what has been done.

    Raises:
        RequestError: an argument outside its limits; ``param`` names it.
        CapacityError: the memory for keys and values does not hold a single page.
        FormatError: the checkpoint's files have changed since it was opened.
    """

    def __init__(
        self,
        source: Checkpoint | Model,
        *,
        n_ctx: int | None = None,
        n_threads: int | None = None,
        n_batch: int | None = None,
        n_sequences: int | None = None,
        kv_dtype: KVType | None = None,
        kv_bytes: int | None = None,
        prefix_caching: bool = True,
        speculative: bool = True,
        latency_s: float = LATENCY_S,
        prefix_folder: Path | None = None,
        prefix_bytes: int = DEFAULT_BYTES,
    ) -> None:
        limit = source.config.max_position_embeddings
        most_tokens, most_rows = (source.n_batch, source.n_rows) if isinstance(source, Model) else _UNBOUND
        self.n_ctx = checked_count("n_ctx", n_ctx, min(DEFAULT_N_CTX, limit), limit)
        self.n_batch = checked_count("n_batch", n_batch, min(DEFAULT_N_BATCH, most_tokens), most_tokens)
        most = min(most_rows, self.n_batch)
        self.n_sequences = checked_count("n_sequences", n_sequences, min(DEFAULT_N_SEQUENCES, most), most)
        if n_threads is not None:
            _native.set_threads(checked_count("n_threads", n_threads, 1, MAX_THREADS))
        checkpoint = None if isinstance(source, Model) else source
        if not isinstance(source, Model):
            source = Model.from_checkpoint(source, n_batch=self.n_batch, n_rows=self.n_sequences)
        self._model = source
        dtype = kv_dtype or source.kv_dtype
        n_pages = self._n_pages(dtype, kv_bytes)
        self.n_kv_tokens = n_pages * _native.PAGE
        self._kv_dtype: KVType = dtype
        self._cache = source.new_cache(n_pages, dtype)
        self._scheduler = Scheduler(
            PageAllocator(n_pages, _native.PAGE, n_idle=int(n_pages * IDLE_SHARE)),
            n_batch=self.n_batch,
            n_sequences=self.n_sequences,
            prefix_caching=prefix_caching,
        )
        self._speculative = speculative
        self._pace = Pace(checked_seconds("latency_s", latency_s))
        self._lock = threading.Lock()  # of the scheduler; the model computes without it
        self._computing = threading.Lock()  # of the model's buffers
        self._held = Held()
        self._prefixes = None
        if prefix_folder is not None:
            self._prefixes = self._kept(checkpoint, prefix_folder, prefix_bytes, prefix_caching)
        self.counters = Counters()

    @property
    def n_vocab(self) -> int:
        """Length of a row of logits: the vocabulary, and what pads it."""
        return self._model.config.vocab_size

    @property
    def has_work(self) -> bool:
        """Whether a step would do anything."""
        return bool(self._scheduler.running or self._scheduler.waiting)

    @property
    def n_running(self) -> int:
        """Sequences that steps advance."""
        return len(self._scheduler.running)

    @property
    def n_waiting(self) -> int:
        """Sequences that wait for a place among them, or for memory."""
        return len(self._scheduler.waiting)

    @property
    def n_free_kv_tokens(self) -> int:
        """Tokens whose keys and values would fit beside those of the running sequences."""
        return self._scheduler.allocator.n_free * _native.PAGE

    @property
    def keeps_prefixes(self) -> bool:
        """Whether beginnings are kept on disk."""
        return self._prefixes is not None

    @property
    def failure(self) -> None:
        """None: what fails here fails in a step, which says so."""
        return None

    def recall(self, ids: Ids[int]) -> None:
        """Has a prompt's beginning read from disk where it is kept there; for any thread."""
        if self._prefixes is not None:
            self._prefixes.recall(ids)

    def n_known(self, ids: Ids[int]) -> int:
        """How many of a prompt's ids need not be computed, were it to come now; for any thread."""
        return self._scheduler.n_known(ids)

    def settle(self) -> None:
        """Waits until the beginnings that are being written to disk are there."""
        if self._prefixes is not None:
            self._prefixes.settle()

    def add(
        self, ids: Ids[int], params: SamplingParams, grammar: Grammar | None = None, n_prefix: int = 0
    ) -> Sequence:
        """Queues a prompt.

        Args:
            grammar: what the answer must follow; None for none.
            n_prefix: ids that other prompts will begin with, too, after this process's end: they go to disk.

        Raises:
            ContextLengthError: the prompt leaves no room for an answer in the context.
            CapacityError: its keys and values do not fit into the memory set aside for them.
            RequestError: no ids, or ids outside the vocabulary, in the prompt or the parameters; ignore_eos
                beside a grammar.
        """
        n_vocab = self._model.config.vocab_size
        check_prompt(ids, n_vocab)
        if len(ids) >= self.n_ctx:
            raise ContextLengthError(
                f"the prompt has {len(ids)} tokens, the context holds {self.n_ctx} with at least one for the "
                "answer: shorten the prompt or load the model with a larger n_ctx",
                param="prompt",
            )
        if len(ids) > self.n_kv_tokens:
            raise CapacityError(
                f"the prompt has {len(ids)} tokens, the memory for keys and values holds {self.n_kv_tokens}: "
                "shorten the prompt or give more kv_bytes",
                param="prompt",
            )
        check_end(ignore_eos=params.ignore_eos, is_bound=grammar is not None)
        sequence = Sequence(ids, params, n_vocab, None if grammar is None else grammar.matcher())
        sequence.n_prefix = min(n_prefix, len(ids) - 1)
        sequence.will_end = self._take_forced(sequence)
        with self._lock:
            self._scheduler.add(sequence)
        return sequence

    def cancel(self, sequence: Sequence) -> None:
        """Ends a sequence in the step under way or the next, which says so; one that has ended stays so."""
        sequence.is_cancelled = True

    def scorer(self) -> Scorer:
        """Scores given texts with this engine's model, from any thread, while answers go on.

        It has a KV cache of its own, of the engine's kind and size.
        """
        return Scorer(
            self._model,
            n_ctx=self.n_ctx,
            n_batch=self.n_batch,
            n_pages=self.n_kv_tokens // _native.PAGE,
            kv_dtype=self._kv_dtype,
            lock=self._computing,
        )

    def close(self) -> None:
        """Nothing to do: its memory goes with it."""

    def step(self) -> list[StepOutput[Sequence]]:
        """Computes one batch: an id for each running answer, and as much of the prompts as fits beside.

        Returns:
            what is new, for those sequences where something is. A failure that one sequence causes ends that
            one with "error"; the others are computed without it.
        """
        began = time.perf_counter()
        outputs = self._resumed(waits=False)
        with self._lock:
            outputs += self._drop()
            chunks, outgrown = self._scheduler.schedule(self._pace.n_prompt_tokens())
            if outgrown is not None:
                outputs.append(self._end(outgrown, "length"))
        if not chunks:
            return outputs or self._resumed(waits=True)
        self.counters.n_steps += 1
        n_answers = sum(chunk.sequence.is_answering for chunk in chunks)
        n_prompt = sum(chunk.n_tokens for chunk in chunks if not chunk.sequence.is_answering)
        if self._speculative:
            chunks = self._with_guesses(chunks)
        try:
            logits = self._forward(chunks)
        except Exception as error:
            return outputs + self._each_alone(chunks, error)
        seconds = time.perf_counter() - began
        outputs += self._commit(chunks, logits, PATIENCE * seconds)
        self._pace.note(n_answers, n_prompt, time.perf_counter() - began)
        return outputs

    def _resumed(self, *, waits: bool) -> list[StepOutput[Sequence]]:
        """Goes on with answers whose masks were late."""
        return [self._extend(Chunk(sequence, 0), [row]) for sequence, row in self._held.ready(waits=waits)]

    def _with_guesses(self, chunks: list[Chunk]) -> list[Chunk]:
        """Adds guesses to answers as far as there are rows, and room in the pages that they have already."""
        n_answers = sum(chunk.is_last for chunk in chunks)
        n_rows = min(self.n_sequences - n_answers, self.n_batch - sum(chunk.n_tokens for chunk in chunks))
        share = -(-n_rows // max(1, n_answers))
        tried = []
        for chunk in chunks:
            sequence, guesses = chunk.sequence, list[int]()
            if chunk.is_last:
                n_page = sequence.pages.size * _native.PAGE - len(sequence.ids)
                n_room = max(0, min(n_rows, share, n_page, self._room(sequence) - 1))
                guesses = sequence.guesses(n_room, may_look_up=n_answers <= MOST_GUESSING)
            n_rows -= len(guesses)
            tried.append(chunk._replace(guesses=guesses))
        return tried

    def _room(self, sequence: Sequence) -> int:
        """Ids that its answer may still take, by max_tokens, the context and the cache."""
        n_ids, most = len(sequence.ids), sequence.params.max_tokens
        by_request = self.n_ctx if most is None else most - sequence.n_answer
        return min(by_request, self.n_ctx - n_ids, self.n_kv_tokens - n_ids)

    def _forward(self, chunks: list[Chunk]) -> F32:
        with self._computing:
            return self._model.forward(make_batch(chunks, _native.PAGE), self._cache)

    def _each_alone(self, chunks: list[Chunk], error: Exception) -> list[StepOutput[Sequence]]:
        """After a failed step, finds whom it concerns: rows do not depend on their company."""
        if len(chunks) == 1:
            with self._lock:
                return [self._end(chunks[0].sequence, "error", error)]
        outputs = []
        for chunk in chunks:
            try:
                logits = self._forward([chunk])
            except Exception as own:
                outputs += self._each_alone([chunk], own)
            else:
                outputs += self._commit([chunk], logits)
        return outputs

    def _commit(
        self, chunks: list[Chunk], logits: F32, patience_s: float = 0.0
    ) -> list[StepOutput[Sequence]]:
        """Counts what is computed, and gives each sequence that is computed to its end the next ids.

        Where others run, masks that are late are waited for so long; then their rows are kept for them.
        """
        rows = iter(logits)
        outputs, late = [], []
        for chunk in chunks:
            own = list(islice(rows, 1 + len(chunk.guesses))) if chunk.is_last else []
            with self._lock:
                self._scheduler.advance(chunk)
                if self._prefixes is not None:
                    self._prefixes.keep(chunk.sequence)
            self.counters.n_computed += chunk.n_tokens + len(chunk.guesses)
            matcher = chunk.sequence.matcher
            if not own or chunk.sequence.is_cancelled:
                continue
            if matcher is None or matcher.is_ready():
                outputs.append(self._extend(chunk, own))
            else:
                late.append((chunk, own, matcher))
        until = time.perf_counter() + patience_s
        for chunk, own, matcher in late:
            if self.n_running + self.n_waiting == 1 or matcher.is_ready(until - time.perf_counter()):
                outputs.append(self._extend(chunk, own))
            else:
                self._held.keep(chunk.sequence, own[0])
        with self._lock:
            return outputs + self._drop()

    def _extend(self, chunk: Chunk, rows: Ids[F32]) -> StepOutput[Sequence]:
        """Gives a sequence its next ids: one, what is forced after it, and more while guesses were right."""
        sequence, guesses, n_right = chunk.sequence, chunk.guesses, 0
        reason: FinishReason | None = None
        error: Exception | None = None
        is_confirmed = True
        while is_confirmed and reason is None:
            n_before = len(sequence.ids)
            try:
                reason = self._choose(sequence, rows[n_right])
            except Exception as caught:
                reason, error = "error", caught
            new = sequence.ids[n_before:]
            n_same = _n_same(guesses[n_right:], new)
            if n_same and reason is None:  # their keys and values are there
                with self._lock:
                    self._scheduler.advance(Chunk(sequence, n_same))
            n_right += n_same
            is_confirmed = n_same == len(new)
        self._judge(sequence, len(guesses), n_right)
        if reason is not None:
            with self._lock:
                return self._end(sequence, reason, error)
        return _output(sequence)

    def _judge(self, sequence: Sequence, n_drafted: int, n_accepted: int) -> None:
        sequence.judge(n_drafted, n_accepted)
        self.counters.n_drafts += n_drafted > 0
        self.counters.n_drafted += n_drafted
        self.counters.n_accepted += n_accepted

    def _choose(self, sequence: Sequence, row: F32) -> FinishReason | None:
        """Takes the next id, and those that it makes the only ones; says whether that ends the answer."""
        matcher, sampler = sequence.matcher, sequence.sampler
        is_forced = matcher is not None and bool(matcher.forced)
        if matcher is not None and is_forced:
            token = matcher.forced[0]
            logprob = sampler.logprob(row, token)
        else:
            token, logprob = sampler.sample(row, None if matcher is None else matcher.mask())
        if matcher is not None:
            matcher.accept(token)
        reason = self._take(sequence, [token], logprob, is_forced=is_forced)
        return reason or self._take_forced(sequence)

    def _take_forced(self, sequence: Sequence) -> FinishReason | None:
        """Takes the ids that the grammar forces next: nothing needs to be computed to know them.

        Where log-probabilities are asked for, each needs its row and is taken from there.
        """
        matcher = sequence.matcher
        if matcher is None or sequence.params.logprobs is not None or not self._speculative:
            return None
        reason = None
        while reason is None and (forced := matcher.take_forced(self._room(sequence))):
            reason = self._take(sequence, forced, is_forced=True)
            self.counters.n_forced += len(forced)
        return reason

    def _take(
        self, sequence: Sequence, ids: Ids[int], logprob: TokenLogprob | None = None, *, is_forced: bool
    ) -> FinishReason | None:
        """Appends ids, up to one that ends the answer; says whether it ends with them."""
        params = sequence.params
        for token in ids:
            sequence.append(token, logprob, is_forced=is_forced)
            self.counters.n_generated += 1
            if token in params.stop_ids or (not params.ignore_eos and token in self._model.eos_ids):
                return "stop"
        if sequence.matcher is not None and sequence.matcher.is_over:
            return "stop"
        if sequence.n_answer == params.max_tokens or len(sequence.ids) >= self.n_ctx:
            return "length"
        return None

    def _end(
        self, sequence: Sequence, reason: FinishReason, error: Exception | None = None
    ) -> StepOutput[Sequence]:
        self._scheduler.remove(sequence)
        sequence.finish(reason, error)
        return _output(sequence, reason, error)

    def _drop(self) -> list[StepOutput[Sequence]]:
        """Ends those that were cancelled, and those whose whole answer was known before it was computed."""
        outputs = []
        for sequence in (*self._scheduler.running, *self._scheduler.waiting):
            reason: FinishReason | None = "cancelled" if sequence.is_cancelled else sequence.will_end
            if reason is not None:
                outputs.append(self._end(sequence, reason))
        return outputs

    def _kept(
        self, checkpoint: Checkpoint | None, folder: Path, most_bytes: int, prefix_caching: bool
    ) -> Prefixes:
        if checkpoint is None or not prefix_caching:
            missing = "a checkpoint" if checkpoint is None else "prefix_caching"
            raise RequestError(f"prefix_folder needs {missing}", param="prefix_folder")
        store = PrefixStore(
            folder,
            identity=identity_of(checkpoint, self._kv_dtype),
            page_bytes=self._cache.page_bytes,
            page_size=_native.PAGE,
            most_bytes=checked_count("prefix_bytes", most_bytes, DEFAULT_BYTES, 1 << 50),
        )
        return Prefixes(store, self._cache, self._scheduler.allocator, self._lock)

    def _n_pages(self, dtype: KVType, kv_bytes: int | None) -> int:
        page_bytes = self._model.page_bytes(dtype)
        if kv_bytes is None:
            kv_bytes = int(available_memory() * MEMORY_SHARE)
        if (n_pages := kv_bytes // page_bytes) < 1:
            raise CapacityError(
                f"{kv_bytes} bytes for keys and values, one page of {_native.PAGE} tokens takes {page_bytes}",
                param="kv_bytes",
            )
        return int(min(n_pages, self.n_sequences * -(-self.n_ctx // _native.PAGE)))


def _output(
    sequence: Sequence, reason: FinishReason | None = None, error: Exception | None = None
) -> StepOutput[Sequence]:
    """With what the sequence has not given out yet."""
    ids, logprobs, forced = sequence.tell()
    return StepOutput(sequence, ids, logprobs, reason, error, forced)


def _n_same(guesses: Ids[int], ids: Ids[int]) -> int:
    """How many ids both begin with."""
    pairs = zip(guesses, ids, strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
