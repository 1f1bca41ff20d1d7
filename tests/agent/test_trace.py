"""A run written down and played again: the same, without a model and without running anything."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hermes3 import Agent
from hermes3.agent import Outcome, Result, Trace, replay
from hermes3.errors import FormatError, Hermes3Error, ReplayError
from tests.agent.scripted import calling, model

RAN: list[str] = []


def weather(city: str) -> dict:
    """The weather to come."""
    RAN.append(city)
    if city == "Nowhere":
        raise LookupError(city)
    return {"sun": city != "Bergen"}


CALLS = "\n".join(calling("weather", city=city) for city in ("Bern", "Nowhere", "Bergen"))
CALLS = CALLS.replace('{"city": "Bern"}', '{"city" :"Bern" }')  # as the model wrote it, so it is replayed


def recorded() -> tuple[Trace, list[object]]:
    with model(f"I look.\n{CALLS}", calling("weather", city="Chur"), "Sunny.") as (llm, _):
        run = Agent(llm, [weather], system="Be brief.").start("Will it rain?")
        events = [event for event in run if isinstance(event, Result | Outcome)]
        return run.trace, events


@pytest.fixture
def path(tmp_path: Path) -> Path:
    recorded()[0].save(tmp_path / "run.jsonl")
    RAN.clear()
    return tmp_path / "run.jsonl"


def test_what_is_written_down(path: Path) -> None:
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["event"] for line in lines] == [
        "begin", "answer", "result", "result", "result", "answer", "result", "answer", "end",
    ]  # fmt: skip
    assert lines[0]["model"] == "fake"
    assert lines[0]["tools"][0]["function"]["name"] == "weather"
    assert [line["status"] for line in lines if line["event"] == "result"].count("error") == 1
    assert any("Traceback" in (line.get("detail") or "") for line in lines)
    assert lines[-1] == {"event": "end", "reason": "answer", "text": "Sunny."}


def test_the_same_again_and_nothing_runs(tmp_path: Path) -> None:
    trace, events = recorded()
    trace.save(tmp_path / "a.jsonl")
    RAN.clear()
    run = replay(Trace.load(tmp_path / "a.jsonl"))
    again = [event for event in run if isinstance(event, Result | Outcome)]
    assert RAN == []
    assert again[-1] == events[-1]  # messages, ids of the calls and all
    run.trace.save(tmp_path / "b.jsonl")
    assert (tmp_path / "a.jsonl").read_text() == (tmp_path / "b.jsonl").read_text()


def test_a_given_question_and_given_tools_must_be_the_same(path: Path) -> None:
    trace = Trace.load(path)
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Will it rain?"}]
    assert replay(trace, turns, [weather]).outcome().text == "Sunny."
    with pytest.raises(
        ReplayError, match=r"message 2 is not the one of the trace: here .*snow.*, there .*rain"
    ):
        replay(trace, [turns[0], {"role": "user", "content": "Will it snow?"}])
    with pytest.raises(ReplayError, match="here are 1 messages, the trace has 2"):
        replay(trace, turns[:1])

    def weather_too(city: str) -> dict: ...  # type: ignore[empty-body]

    with pytest.raises(ReplayError, match="tool 1 is not the one of the trace"):
        replay(trace, tools=[weather_too])
    with pytest.raises(ReplayError, match="here are 0 tools, the trace has 1"):
        replay(trace, tools=[])


def changed(path: Path, line: int, **fields: object) -> Path:
    lines = path.read_text().splitlines()
    lines[line - 1] = json.dumps({**json.loads(lines[line - 1]), **fields})
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.mark.parametrize(
    ("line", "fields", "said"),
    [
        (3, {"content": "snow"}, "line 6 of the trace answers another conversation"),
        (3, {"index": 7}, "line 3 of the trace is of call 7"),
        (3, {"call": None}, "line 3 of the trace is of another call than the answer's weather"),
        (3, {"content": 1}, "line 3 of the trace: content is 1"),
        (2, {"calls": 3}, "line 2 of the trace holds no sound answer: TypeError"),
        (2, {"usage": {}}, "line 2 of the trace holds no sound answer"),
        (6, {"event": "end"}, "line 6 of the trace is 'end', where the answer of round 2 should stand"),
    ],
)
def test_a_trace_that_was_changed_says_where(path: Path, line: int, fields: dict, said: str) -> None:
    trace = Trace.load(changed(path, line, **fields))
    with pytest.raises(ReplayError, match=said):
        replay(trace).outcome()


def test_a_trace_that_was_cut_off(path: Path) -> None:
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:4]))
    with pytest.raises(ReplayError, match="should stand; it is of a run that was cut off"):
        replay(Trace.load(path)).outcome()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "its first line does not begin one"),
        ("{", "line 1 of .* is not JSON"),
        ("[]\n", "line 1 of .* is no record of a run"),
        ('{"event": "answer"}\n', "does not begin one"),
        ('{"event": "begin", "version": 2}\n', "version 2"),
    ],
)
def test_no_trace(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "x").write_text(text)
    with pytest.raises(FormatError, match=said):
        Trace.load(tmp_path / "x")


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(Hermes3Error, match="cannot be read"):
        Trace.load(tmp_path / "x")
    (tmp_path / "x").write_bytes(b"\xff")
    with pytest.raises(Hermes3Error, match="cannot be read"):
        Trace.load(tmp_path / "x")
