"""The loop over the real engine and a small model that was never taught the format."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from hermes3 import LLM, Agent
from hermes3.agent import Result, Trace, replay

TAKEN: list[tuple[str, int, str]] = []


def weather(
    city: Annotated[str, Field(max_length=20)], days: Literal[1, 2, 3], unit: Literal["K", "C"] = "C"
) -> dict:
    """The weather to come."""
    TAKEN.append((city, days, unit))
    return {"city": city, "sun": True}


def test_what_it_must_call_is_called_with_sound_arguments(smol_gguf: Path, tmp_path: Path) -> None:
    options = {"temperature": 1.0, "max_tokens": 60, "parallel_tool_calls": False, "tool_choice": "required"}
    with LLM(smol_gguf, n_ctx=1024) as llm:
        for seed in range(3):
            TAKEN.clear()
            run = Agent(llm, [weather], depth=1, seed=seed, **options).start("Will it rain in Bern?")
            results = [event for event in run if isinstance(event, Result)]
            assert [result.status for result in results] == ["ok"]
            ((city, days, unit),) = TAKEN
            assert (len(city) <= 20, days in (1, 2, 3), unit in ("K", "C")) == (True, True, True)
    run.trace.save(tmp_path / "run.jsonl")
    replay(Trace.load(tmp_path / "run.jsonl"), tools=[weather]).outcome()
    assert len(TAKEN) == 1
