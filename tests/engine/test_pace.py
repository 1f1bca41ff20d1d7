"""The latency target: how many tokens of prompts a step takes beside running answers."""

from __future__ import annotations

import pytest

from hermes3.engine.pace import LEAST, Pace


def learned(target_s: float, answers_s: float, token_s: float) -> Pace:
    pace = Pace(target_s)
    for _ in range(40):
        pace.note(4, 0, answers_s)
        pace.note(4, 100, answers_s + 100 * token_s)
    return pace


def test_a_step_takes_what_its_time_allows() -> None:
    assert learned(0.25, 0.05, 0.001).n_prompt_tokens() == pytest.approx(200, abs=2)
    assert learned(0.50, 0.05, 0.001).n_prompt_tokens() == pytest.approx(450, abs=2)


def test_prompts_get_on_however_slow_the_machine() -> None:
    assert Pace(0.25).n_prompt_tokens() == LEAST, "nothing is known yet"
    assert learned(0.25, 0.05, 0.1).n_prompt_tokens() == LEAST
    assert learned(0.25, 0.50, 0.001).n_prompt_tokens() == LEAST


def test_it_follows_a_machine_that_changes() -> None:
    pace = learned(0.25, 0.05, 0.001)
    for _ in range(40):
        pace.note(4, 50, 0.05 + 50 * 0.004)
    assert pace.n_prompt_tokens() == pytest.approx(50, abs=2)


def test_a_prompt_alone_and_small_parts() -> None:
    """Without answers the whole step is the prompt's; a few tokens say nothing."""
    pace = Pace(0.25)
    pace.note(0, 512, 0.512)
    pace.note(3, 2, 9.0)
    assert pace.n_prompt_tokens() == 250
