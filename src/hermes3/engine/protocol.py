"""What the hall asks of an engine: the one protocol behind which engines can be exchanged.

``engine.Engine`` was the first that spoke it and is what it was taken from; ``vllm.VllmEngine`` speaks it for
an engine that runs in processes of its own, on several machines if need be.
"""

from __future__ import annotations

from collections.abc import Sequence as Ids
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from hermes3.engine.grammar import Grammar
from hermes3.engine.sampling import SamplingParams, TokenLogprob
from hermes3.engine.scoring import Scorer
from hermes3.engine.sequence import FinishReason
from hermes3.errors import Hermes3Error


class Answer(Protocol):
    """An answer in work, as far as who waits for it is told of more than its ids."""

    @property
    def n_cached(self) -> int:
        """Of the prompt's ids, those that were computed for earlier prompts."""

    @property
    def n_forced(self) -> int:
        """Of the answer's ids, those that a grammar left no choice about."""

    @property
    def n_drafted(self) -> int:
        """Ids that were guessed to come next."""

    @property
    def n_accepted(self) -> int:
        """Of those, the ones that came."""

    @property
    def n_prompt(self) -> int:
        """Ids of the prompt."""

    @property
    def n_computed(self) -> int:
        """Of prompt and answer, those whose keys and values are there, as far as the engine tells."""

    @property
    def n_answer(self) -> int:
        """Ids of the answer so far."""

    @property
    def added(self) -> float:
        """Seconds of ``time.perf_counter`` when it came."""

    @property
    def started(self) -> float | None:
        """Seconds of ``time.perf_counter`` when its first ids went into the model; None before."""

    @property
    def mask_s(self) -> float:
        """Seconds of computing that the masks of its grammar took, beside the model's."""

    @property
    def mask_wait_s(self) -> float:
        """Seconds that its steps waited for those masks."""


A = TypeVar("A", bound=Answer)


@dataclass(frozen=True, slots=True)
class StepOutput(Generic[A]):
    """What a step brought one answer.

    Attributes:
        ids: new ids; one that ended the answer ("stop") is the last.
        logprobs: one for each, or empty where none were asked for.
        finish_reason: why it ended in this step: "stop" (an end or stop id, or the end of its grammar),
            "length" (max_tokens, context or memory is full), "cancelled" or "error"; None while it goes on.
        error: what went wrong where the reason is "error".
        forced: for each id whether the grammar left no choice about it; empty where there is no grammar.
    """

    sequence: A
    ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    finish_reason: FinishReason | None = None
    error: Exception | None = None
    forced: list[bool] = field(default_factory=list)


@dataclass(slots=True)
class Counters:
    """What an engine has done since it was made."""

    n_steps: int = 0
    n_computed: int = 0  # tokens that went through the model, those computed anew included
    n_generated: int = 0
    n_forced: int = 0  # of those, ids that a grammar forced and no logits were computed for
    n_drafts: int = 0  # times that ids were tried that might come next
    n_drafted: int = 0  # those ids
    n_accepted: int = 0  # of them, the ones that came


class EngineProtocol(Protocol[A]):
    """Many answers at once: prompts go in as ids with what is asked of them, new ids come out of ``step``.

    ``step`` and ``close`` are for one thread, all else is for any. An answer that was added ends once, with
    an output that says why, unless ``step`` raises: then the engine has failed for good.

    Attributes:
        n_ctx: most ids of an answer and its prompt together.
        n_vocab: length of a row of logits: the vocabulary, and what pads it.
        n_kv_tokens, n_free_kv_tokens: tokens whose keys and values fit into memory, and into what is free.
        n_running, n_waiting: answers that steps advance, and those that wait for a place among them.
        has_work: whether there is anything that a step could bring.
        counters: what has been done. ``n_steps`` grows whenever the engine gets on with anything.
        keeps_prefixes: whether beginnings of prompts are kept on disk.
        failure: why it will do nothing any more, where that shows without a step; None where all is well.
    """

    @property
    def n_ctx(self) -> int: ...

    @property
    def n_kv_tokens(self) -> int: ...

    @property
    def counters(self) -> Counters: ...

    @property
    def n_vocab(self) -> int: ...

    @property
    def n_free_kv_tokens(self) -> int: ...

    @property
    def n_running(self) -> int: ...

    @property
    def n_waiting(self) -> int: ...

    @property
    def has_work(self) -> bool: ...

    @property
    def keeps_prefixes(self) -> bool: ...

    @property
    def failure(self) -> Hermes3Error | None: ...

    def add(self, ids: Ids[int], params: SamplingParams, grammar: Grammar | None, n_prefix: int, /) -> A:
        """Queues a prompt. Every parameter holds, or is refused by its name.

        Args:
            grammar: what the answer must follow; None for none.
            n_prefix: of the ids, those worth keeping on disk, where beginnings are kept.

        Raises:
            RequestError: something asked for cannot be honoured; ``param`` names it.
        """

    def cancel(self, sequence: A, /) -> None:
        """Ends an answer within one step and frees what it holds; one that has ended stays so."""

    def step(self) -> list[StepOutput[A]]:
        """What is new, after at most one step of the model; may be nothing."""

    def recall(self, ids: Ids[int], /) -> None:
        """Has a prompt's beginning read from disk, where it is kept there."""

    def n_known(self, ids: Ids[int], /) -> int | None:
        """How many of a prompt's ids need not be computed, were it to come now; None: cannot be told."""

    def scorer(self) -> Scorer:
        """What scores given texts.

        Raises:
            RequestError: the engine has none.
        """

    def close(self) -> None:
        """Lets go of all that is not freed with the object itself; nothing is asked of it afterwards."""
