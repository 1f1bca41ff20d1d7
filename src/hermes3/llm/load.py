"""How busy a hall is, whether it moves, and how far an answer is: what a server says about itself."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Load:
    """One look at the engine, by any thread.

    Attributes:
        n_running, n_waiting: answers in the batch, and before it.
        n_kv_tokens, n_free_kv_tokens: tokens that the KV cache holds, and those free in it.
        n_computed, n_generated: tokens that went through the model, and new ones, since it was loaded.
        n_drafts, n_drafted, n_accepted: times that tokens were guessed, those tokens, and those that came.
        stalled_s: seconds since the engine last brought anything, 0.0 while no answer is in work.
    """

    n_running: int
    n_waiting: int
    n_kv_tokens: int
    n_free_kv_tokens: int
    n_computed: int
    n_generated: int
    stalled_s: float
    n_drafts: int = 0
    n_drafted: int = 0
    n_accepted: int = 0


@dataclass(frozen=True, slots=True)
class Progress:
    """How far one answer is.

    Attributes:
        n_ahead: answers before it that wait as it does, or None where it does not wait.
        n_prompt, n_read: tokens of its prompt, and those of them that are computed or came from the cache.
        n_written: tokens of the answer.
    """

    n_ahead: int | None
    n_prompt: int
    n_read: int
    n_written: int
