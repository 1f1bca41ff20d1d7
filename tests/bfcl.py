"""The Berkeley Function Calling Leaderboard's files, as tests read them."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

from hermes3.prompt.functions import parse_tools
from hermes3.prompt.messages import Tool, ToolCall

SETS = {"simple_python": 400, "multiple": 200, "parallel": 200}
TYPES = {"dict": "object", "float": "number", "tuple": "array", "any": None}


def lines(folder: Path, name: str) -> list[dict[str, Any]]:
    with gzip.open(folder / f"{name}.json.gz", "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def chosen(options: Any) -> Any:
    """One of the values that the gold answer allows; "" and null beside it allow to leave it out."""
    kinds = ("", None) if "" in options else ("",)
    return _chosen_inside(next((option for option in options if option not in kinds), ""))


def _chosen_inside(value: Any) -> Any:
    if isinstance(value, list):
        return [_chosen_inside(item) for item in value]
    if not isinstance(value, dict):
        return value
    return {key: inner for key, options in value.items() if (inner := chosen(options)) != ""}


def gold_calls(answer: dict[str, Any]) -> tuple[ToolCall, ...]:
    return tuple(
        ToolCall(name, {key: value for key, options in arguments.items() if (value := chosen(options)) != ""})
        for call in answer["ground_truth"]
        for name, arguments in call.items()
    )


def schema(raw: Any) -> Any:
    """BFCL's schemas with the type names of JSON Schema."""
    if isinstance(raw, list):
        return [schema(item) for item in raw]
    if not isinstance(raw, dict):
        return raw
    out = {key: schema(value) for key, value in raw.items() if key != "type" or not isinstance(value, str)}
    kind = TYPES.get(raw.get("type"), raw.get("type")) if isinstance(raw.get("type"), str) else None
    return {"type": kind, **out} if kind else out


def openai_tools(task: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {"type": "function", "function": {**function, "parameters": schema(function["parameters"])}}
        for function in task["function"]
    ]


def gold(folder: Path, name: str) -> list[tuple[str, list[Tool], tuple[ToolCall, ...]]]:
    """Of each task its id, its tools and the calls that answer it."""
    tasks = {task["id"]: task for task in lines(folder, f"BFCL_v4_{name}")}
    answers = lines(folder, f"possible_answer_{name}")
    assert len(answers) == SETS[name]
    return [(each["id"], parse_tools(openai_tools(tasks[each["id"]])), gold_calls(each)) for each in answers]
