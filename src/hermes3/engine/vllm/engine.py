"""The engine whose steps are vLLM's: answers go out to its processes, what comes back is handed on."""

from __future__ import annotations

import asyncio
import multiprocessing
import threading
import time
from collections.abc import Callable
from collections.abc import Sequence as Ids
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, NoReturn

from hermes3.engine.arguments import check_prompt
from hermes3.engine.grammar import Follower, Grammar
from hermes3.engine.protocol import Counters, StepOutput
from hermes3.engine.sampling import SamplingParams, TokenLogprob
from hermes3.engine.sequence import FinishReason
from hermes3.engine.vllm.client import Client
from hermes3.engine.vllm.options import VllmOptions
from hermes3.errors import CapacityError, ContextLengthError, Hermes3Error, RequestError

WAIT_S = 0.05  # of a step in which nothing comes: so long a cancelling may take
_REASONS: dict[str, FinishReason] = {"stop": "stop", "length": "length", "abort": "cancelled"}


@dataclass(eq=False, slots=True)
class VllmSequence:
    """One answer in vLLM.

    Attributes:
        key: vLLM's name for it.
        follower: where it is in its grammar; None where none binds it.
        stop_ids: ids that end it.
        n_top: of the likeliest ids, how many are told with each; None for no log-probabilities.
        n_prompt, n_answer, n_cached, added, started: see ``Answer``. Of the others vLLM tells nothing: they
            are 0, but n_forced, which its grammar tells.
        task: reads its outputs; None before it begins.
        is_over: its last output was given out, or nobody wants it any more.
    """

    key: str
    grammar: Grammar | None
    follower: Follower | None
    stop_ids: frozenset[int]
    n_top: int | None
    n_prompt: int
    n_answer: int = 0
    n_cached: int = 0
    n_forced: int = 0
    n_drafted: int = 0
    n_accepted: int = 0
    mask_s: float = 0.0
    mask_wait_s: float = 0.0
    added: float = field(default_factory=time.perf_counter)
    started: float | None = None
    task: asyncio.Task[None] | None = field(default=None, repr=False)
    is_cancelled: bool = False
    is_over: bool = False

    @property
    def n_computed(self) -> int:
        """vLLM does not tell how far it is with a prompt before its first output."""
        return self.n_prompt + self.n_answer if self.n_answer else 0


Output = StepOutput[VllmSequence]


class VllmEngine:
    """Speaks ``EngineProtocol`` for vLLM, which runs in processes of its own.

    A thread of its own runs the event loop that vLLM's client lives on. Each answer is held against its
    grammar once more as it comes: where vLLM gives a grammar up, it ends the answer as if it were whole.

    Args:
        open: makes the client; called on that loop.

    Raises:
        Hermes3Error: see ``Client``.
    """

    def __init__(self, open: Callable[[], Client]) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="hermes3-vllm", daemon=True)
        self._thread.start()
        self._arrived: SimpleQueue[Output] = SimpleQueue()
        self._open: set[VllmSequence] = set()  # given out with an end, they leave
        self._keys = count()
        before = set(multiprocessing.active_children())
        try:
            self._client: Client = self._on_loop(open)
        except BaseException:
            self._give_up(before)
            raise
        self.n_ctx = self._client.n_ctx
        self.n_kv_tokens = self._client.n_kv_tokens

    @classmethod
    def of_folder(cls, path: Path, options: VllmOptions) -> VllmEngine:
        """Start vLLM on a Hugging Face folder.

        Raises:
            Hermes3Error, FormatError: see ``Client``.
        """
        return cls(lambda: Client(path, options))

    @property
    def n_vocab(self) -> int:
        return self._client.n_vocab

    @property
    def counters(self) -> Counters:
        """What vLLM's steps added up to."""
        return self._client.told.counters

    @property
    def n_free_kv_tokens(self) -> int:
        """As its last step said; all of them while nothing is in work, for then it makes no step."""
        share = self._client.told.kv_share if self._open else 0.0
        return int(self.n_kv_tokens * (1 - share))

    @property
    def n_running(self) -> int:
        return len(self._open) - self.n_waiting

    @property
    def n_waiting(self) -> int:
        return min(self._client.told.n_waiting, len(self._open))

    @property
    def has_work(self) -> bool:
        return bool(self._open)

    @property
    def keeps_prefixes(self) -> bool:
        return False

    @property
    def failure(self) -> Hermes3Error | None:
        """vLLM's processes ended."""
        if not self._client.is_dead:
            return None
        return Hermes3Error("vLLM's engine has ended; its own messages say why. Start it again")

    def add(
        self, ids: Ids[int], params: SamplingParams, grammar: Grammar | None = None, n_prefix: int = 0
    ) -> VllmSequence:
        """Sends a prompt to vLLM; ``n_prefix`` has no effect, for nothing is kept on disk (keeps_prefixes).

        Raises:
            ContextLengthError, CapacityError: the prompt leaves no room for an answer.
            RequestError: no ids, ids outside the vocabulary, or what vLLM cannot honour; ``param`` names it.
        """
        self._check(ids)
        asked = self._client.params(params, grammar)
        follower = None if grammar is None else grammar.follower()
        sequence = VllmSequence(
            f"hermes3-{next(self._keys)}", grammar, follower, params.stop_ids, params.logprobs, len(ids)
        )
        self._open.add(sequence)
        self._loop.call_soon_threadsafe(self._begin, sequence, list(ids), asked)
        return sequence

    def cancel(self, sequence: VllmSequence) -> None:
        """Aborts it in vLLM; one that has ended stays so."""
        sequence.is_cancelled = True
        self._loop.call_soon_threadsafe(self._abort, sequence)

    def step(self) -> list[Output]:
        """What has come since the last one, or comes within 50 ms.

        Raises:
            Hermes3Error: vLLM's processes ended.
        """
        outputs = []
        try:
            outputs.append(self._followed(self._arrived.get(timeout=WAIT_S)))
            while True:
                outputs.append(self._followed(self._arrived.get_nowait()))
        except Empty:
            pass
        if (failure := self.failure) is not None:
            raise failure
        return [output for output in outputs if output is not None]

    def recall(self, ids: Ids[int]) -> None:
        """Nothing is kept on disk."""

    def n_known(self, ids: Ids[int]) -> None:
        """None: vLLM does not tell."""

    def scorer(self) -> NoReturn:
        """Refused: scores are those of the project's own engine.

        Raises:
            RequestError: always.
        """
        raise RequestError("the engine vllm scores no given texts, our own engine does")

    def close(self) -> None:
        """Ends vLLM's processes and the loop."""
        for sequence in list(self._open):
            self.cancel(sequence)
        try:
            self._on_loop(self._client.close)
        finally:
            self._end_loop()

    def _check(self, ids: Ids[int]) -> None:
        check_prompt(ids, self.n_vocab)
        if len(ids) >= self.n_ctx:
            raise ContextLengthError(
                f"the prompt has {len(ids)} tokens, the context holds {self.n_ctx} with at least one for the "
                "answer: shorten the prompt or start vLLM with a larger context",
                param="prompt",
            )
        if len(ids) > self.n_kv_tokens:
            raise CapacityError(
                f"the prompt has {len(ids)} tokens, vLLM's memory for keys and values holds "
                f"{self.n_kv_tokens}: shorten the prompt or let vLLM have more memory",
                param="prompt",
            )

    def _begin(self, sequence: VllmSequence, ids: list[int], asked: Any) -> None:
        if sequence.is_cancelled:
            self._arrived.put(StepOutput(sequence, finish_reason="cancelled"))
        else:
            sequence.task = self._loop.create_task(self._read(sequence, ids, asked))
            sequence.task.add_done_callback(lambda task: self._ended(sequence, task))

    def _abort(self, sequence: VllmSequence) -> None:
        if sequence.task is not None:
            sequence.task.cancel()  # vLLM's generator aborts its request then

    async def _read(self, sequence: VllmSequence, ids: list[int], asked: Any) -> None:
        async for output in self._client.generate(ids, asked, sequence.key):
            self._arrived.put(_step_output(sequence, output))

    def _ended(self, sequence: VllmSequence, task: asyncio.Task[None]) -> None:
        """Gives every answer an end; one that has had its own by now gets no second."""
        if task.cancelled():
            self._arrived.put(StepOutput(sequence, finish_reason="cancelled"))
            return
        error = task.exception() or Hermes3Error("vLLM's outputs ended before the answer did")
        why = self._client.explained(error, sequence.grammar)
        self._arrived.put(StepOutput(sequence, finish_reason="error", error=why))

    def _followed(self, output: Output) -> Output | None:
        """An output as the hall gets it: with the end that its grammar says; None after the end."""
        sequence = output.sequence
        if sequence.is_over:
            return None
        output = _held(output)
        if output.finish_reason is not None:
            sequence.is_over = True
            self._open.discard(sequence)
            if output.finish_reason in ("stop", "error"):
                self.cancel(sequence)  # nothing to one that vLLM has ended
        return output

    def _on_loop(self, call: Callable[[], Any]) -> Any:
        async def called() -> Any:
            return call()

        return asyncio.run_coroutine_threadsafe(called(), self._loop).result()

    def _give_up(self, before: set[multiprocessing.process.BaseProcess]) -> None:
        """End the loop before vLLM runs; a start that goes on there (Ctrl-C) fails without its processes."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        while self._thread.is_alive():
            for process in set(multiprocessing.active_children()) - before:
                process.kill()
            self._thread.join(0.1)
        self._end_loop()

    def _end_loop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


def _step_output(sequence: VllmSequence, output: Any) -> Output:
    """vLLM's ``RequestOutput`` of one sequence, as a step's."""
    (completion,) = output.outputs
    ids = list(completion.token_ids)
    sequence.n_answer += len(ids)
    if output.num_cached_tokens is not None:
        sequence.n_cached = max(0, int(output.num_cached_tokens))
    if sequence.started is None:
        sequence.started = sequence.added + _queue_s(output.metrics)
    logprobs = []
    if sequence.n_top is not None:
        logprobs = [_logprob(*each, sequence.n_top) for each in zip(ids, completion.logprobs, strict=True)]
    reason = completion.finish_reason
    if reason is None:
        return StepOutput(sequence, ids, logprobs)
    if (known := _REASONS.get(reason)) is None:
        why = Hermes3Error(f"vLLM ended this answer with {reason!r:.60}; its own messages say why")
        return StepOutput(sequence, ids, logprobs, "error", why)
    return StepOutput(sequence, ids, logprobs, known)


def _queue_s(stats: Any) -> float:
    """Seconds that a request waited in vLLM before its first work, by vLLM's clock."""
    if stats is None or not stats.scheduled_ts:
        return 0.0
    return max(0.0, float(stats.scheduled_ts - stats.queued_ts))


def _logprob(token: int, entries: Any, n_top: int) -> TokenLogprob:
    """vLLM's entry of one place: a dict by id, of the likeliest ``n_top`` and the one that was taken."""
    ranked = sorted((entry.rank, other, entry.logprob) for other, entry in entries.items())
    top = tuple((other, float(logprob)) for rank, other, logprob in ranked if rank <= n_top)
    return TokenLogprob(token, float(entries[token].logprob), top[:n_top])


def _held(output: Output) -> Output:
    """An output held against its answer's grammar."""
    sequence, follower = output.sequence, output.sequence.follower
    if follower is None or sequence.grammar is None or output.finish_reason in ("cancelled", "error"):
        return output
    param, forced = sequence.grammar.param, [False] * len(output.ids)
    for index, token in enumerate(output.ids):
        if output.finish_reason == "stop" and index == len(output.ids) - 1 and token in sequence.stop_ids:
            break
        forced[index] = follower.forces(token)
        sequence.n_forced += forced[index]
        if not follower.accept(token):
            why = RequestError(f"{param} is too complex: vLLM left it at id {token}", param=param)
            return StepOutput(sequence, output.ids[:index], output.logprobs[:index], "error", why)
        if follower.is_over:
            n = index + 1
            return StepOutput(sequence, output.ids[:n], output.logprobs[:n], "stop", forced=forced[:n])
    if output.finish_reason == "stop" and not follower.is_satisfied:
        why = RequestError(f"{param} is too complex: vLLM gave it up before it was satisfied", param=param)
        return StepOutput(sequence, [], [], "error", why)
    return replace(output, forced=forced)
