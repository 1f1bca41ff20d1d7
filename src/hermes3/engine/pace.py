"""How much of the prompts a step may compute while others read along: the latency target."""

from __future__ import annotations

LATENCY_S = 0.25
LEAST = 32  # tokens of prompts in every step, however slow the machine: prompts always get on
MEASURABLE = 16  # tokens of prompts from which a step says what one costs
WEIGHT = 0.25  # of the last step in the running means


class Pace:
    """Learns what answers and prompts cost on this machine, and divides a step's time between them.

    A prompt that is alone is computed in the largest chunks there are. Beside running answers, whose next
    tokens somebody waits for, a step takes as many tokens of prompts as its time allows, and at least 32
    (chunked prefill as in Sarathi-Serve, arXiv 2403.02310, with a measured bound in place of a fixed one).

    Args:
        target_s: seconds that a step with running answers should take.
    """

    def __init__(self, target_s: float) -> None:
        self._target_s = target_s
        self._answers_s = 0.0  # a step without prompts
        self._token_s = 0.0  # a token of a prompt; 0.0 before there was one

    def n_prompt_tokens(self) -> int:
        """Tokens of prompts that fit beside running answers."""
        if not self._token_s:
            return LEAST
        return max(LEAST, int((self._target_s - self._answers_s) / self._token_s))

    def note(self, n_answers: int, n_prompt: int, seconds: float) -> None:
        """Learns from a step.

        Args:
            n_answers: running answers that took part.
            n_prompt: tokens of prompts.
            seconds: what it took.
        """
        if not n_prompt:
            self._answers_s = _mean(self._answers_s, seconds)
        elif n_prompt >= MEASURABLE:
            own = max(0.0, seconds - self._answers_s) if n_answers else seconds
            self._token_s = _mean(self._token_s, own / n_prompt)


def _mean(mean: float, value: float) -> float:
    return mean + WEIGHT * (value - mean) if mean else value
