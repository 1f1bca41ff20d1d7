"""Guesses at a sequence's next ids, so that one step can confirm several of them.

The ids that followed the last time the same three ids came are a good guess wherever an answer repeats its
prompt: names and values of calls, quotations, code (prompt lookup decoding,
https://github.com/apoorvumang/prompt-lookup-decoding). A guess costs its row of a step whether right or
wrong. On two AVX2 cores that is a third of a step, so guessing stops where it does not pay.
"""

from __future__ import annotations

from collections.abc import Sequence as Ids

N_GRAM = 3  # ids that must have come before in the same order
MOST = 8  # ids guessed at once
FIRST_PAUSE, LONGEST_PAUSE = 4, 256  # ids of the answer without a guess, after a wrong one


class Guesser:
    """What one sequence's ids lead to expect.

    Guesses one id at first and twice as many after each time that all were right. Where fewer than half were
    right it pauses, twice as long each time: where nothing can be guessed, an answer of 128 ids pays for six.
    """

    def __init__(self) -> None:
        self._next_of: dict[tuple[int, ...], int] = {}  # where the ids stand that last followed these
        self._n_seen = N_GRAM  # ids whose predecessors are in there, and the first that have too few
        self._width = 1
        self._pause = FIRST_PAUSE
        self._resume_at = 0

    def guess(self, ids: Ids[int], most: int) -> list[int]:
        """Up to ``most`` ids that may follow; ``ids`` are those of the last call and what came since."""
        if len(ids) < max(self._resume_at, N_GRAM):
            return []
        for at in range(self._n_seen, len(ids)):
            self._next_of[tuple(ids[at - N_GRAM : at])] = at
        self._n_seen = max(self._n_seen, len(ids))
        at = self._next_of.get(tuple(ids[-N_GRAM:]), len(ids))
        return list(ids[at : at + min(most, self._width)])

    def judge(self, n_guessed: int, n_right: int, n_ids: int) -> None:
        """Learns from a guess; ``n_ids`` are the sequence's ids by now."""
        if 2 * n_right < n_guessed:
            self._width = 1
            self._resume_at = n_ids + self._pause
            self._pause = min(2 * self._pause, LONGEST_PAUSE)
        else:
            self._pause = FIRST_PAUSE
            if n_right == n_guessed:
                self._width = min(max(self._width, 2 * n_guessed), MOST)
