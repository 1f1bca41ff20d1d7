"""What a model that never saw the format makes of it when its answers are held to grammars, at temperature 1.

    python -m bench.constrained --data ../shared/data [--model smol] [--n 200]

Three runs: BFCL's questions with a call required, the same with the model's own choice, and JSON for the
schemas of json-mode-eval, each with several seeds. Every call and every object is validated with jsonschema;
what max_tokens cut is told apart, with how much of its end is blank.
"""

from __future__ import annotations

import argparse
import gzip
import json
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jsonschema

from hermes3 import LLM
from hermes3.errors import RequestError
from hermes3.llm import Reply
from hermes3.llm.grammar_text import arguments_schema
from hermes3.prompt.functions import parse_tools
from hermes3.prompt.messages import Tool

SETS = ("simple_python", "multiple", "parallel")
TYPES = {"dict": "object", "float": "number", "tuple": "array", "any": None}
BLANK_END = 200  # characters of a cut answer that are looked at

Asked = tuple[str, dict[str, Any], Callable[[Reply], Counter[str]]]


def json_types(raw: Any) -> Any:
    """BFCL's schemas with the type names of JSON Schema."""
    if isinstance(raw, list):
        return [json_types(item) for item in raw]
    if not isinstance(raw, dict):
        return raw
    kind = raw.get("type")
    out = {key: json_types(value) for key, value in raw.items() if key != "type" or not isinstance(kind, str)}
    name = TYPES.get(kind, kind) if isinstance(kind, str) else None
    return {"type": name, **out} if name else out


def read(path: Path) -> list[dict[str, Any]]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def calls(data: Path, n: int, choice: str) -> Iterator[Asked]:
    """BFCL's questions, as many of each set as fall to it."""
    for index, name in enumerate(SETS):
        share = n // len(SETS) + (index < n % len(SETS))
        for task in read(data / "bfcl" / f"BFCL_v4_{name}.json.gz")[:share]:
            tools = [
                {"type": "function", "function": {**each, "parameters": json_types(each["parameters"])}}
                for each in task["function"]
            ]
            kinds = {tool.name: tool for tool in parse_tools(tools)}
            asked = {"tools": tools, "tool_choice": choice}
            yield task["question"][0][-1]["content"], asked, lambda reply, k=kinds: judged_calls(reply, k)


def judged_calls(reply: Reply, tools: dict[str, Tool]) -> Counter[str]:
    count = Counter({"answers": 1, f"ended by {reply.finish_reason}": 1})
    for call in reply.tool_calls:
        valid = call.name in tools and jsonschema.Draft202012Validator(
            arguments_schema(tools[call.name])
        ).is_valid(call.arguments)
        count["calls that validate" if valid else "CALLS THAT DO NOT"] += 1
    for broken in reply.broken_calls:
        is_cut = reply.finish_reason == "length" and broken is reply.broken_calls[-1]
        count[f"calls cut by max_tokens, reported as {broken.status}" if is_cut else "BROKEN CALLS"] += 1
        if not is_cut or broken.status != "cut":
            print(f"{reply.finish_reason}, {broken.status}, {broken.error}: {broken.raw!r}", flush=True)
    if reply.finish_reason == "length":
        count[blank(reply.broken_calls[-1].raw if reply.broken_calls else reply.text)] += 1
    return count


def objects(data: Path, n: int) -> Iterator[Asked]:
    """The schemas of json-mode-eval that compile, over and over."""
    sample = read(data / "schemas" / "maskbench-sample.jsonl.gz")
    rows = [row for row in sample if row["id"].startswith("JME_")]
    for index in range(n):
        schema = rows[index % len(rows)]["schema"]
        asked = {"response_format": {"type": "json_schema", "json_schema": {"name": "it", "schema": schema}}}
        yield "Make up an example.", asked, lambda reply, s=schema: judged_object(reply, s)


def judged_object(reply: Reply, schema: Any) -> Counter[str]:
    count = Counter({"answers": 1, f"ended by {reply.finish_reason}": 1})
    if reply.finish_reason == "length":
        count[blank(reply.text)] += 1
        return count
    kind = jsonschema.validators.validator_for(schema, jsonschema.Draft202012Validator)
    try:
        valid = kind(schema).is_valid(json.loads(reply.text))
    except ValueError:
        valid = False
    count["objects that validate" if valid else "OBJECTS THAT DO NOT"] += 1
    return count


def blank(text: str) -> str:
    """What a cut answer was doing when it was cut: no string of JSON ends in blanks by our grammar alone."""
    end = text[-BLANK_END:]
    share = sum(map(len, re.findall(r"\s{3,}", end))) / max(1, len(end))
    if share > 0.5:
        print(f"blanks: {text!r}", flush=True)
    return "cut amid BLANKS" if share > 0.5 else "cut amid text"


def run(llm: LLM, title: str, asked: list[Asked], max_tokens: int) -> None:
    start = time.perf_counter()
    n_tokens = 0

    def one(item: tuple[int, Asked]) -> Counter[str]:
        nonlocal n_tokens
        seed, (question, options, judge) = item
        try:
            reply = llm.chat(question, **options, temperature=1.0, seed=seed, max_tokens=max_tokens)
        except RequestError as error:
            return Counter({f"refused: {str(error)[:90]}": 1})
        n_tokens += reply.usage.completion_tokens
        return judge(reply)

    with ThreadPoolExecutor(16) as pool:
        total = sum(pool.map(one, enumerate(asked)), Counter[str]())
    print(f"{title}: {n_tokens} tokens in {time.perf_counter() - start:.0f} s", flush=True)
    for what, count in sorted(total.items()):
        print(f"    {count:5} {what}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", default="smol")
    parser.add_argument("--n", type=int, default=200)
    parser.add_argument("--max-tokens", type=int, default=400)
    parser.add_argument("--runs", default="required,auto,json", help="which of them")
    args = parser.parse_args()
    with LLM(args.model, n_ctx=4096) as llm:
        for choice in {"required", "auto"} & set(args.runs.split(",")):
            run(llm, f"BFCL, {choice}", list(calls(args.data, args.n, choice)), args.max_tokens)
        if "json" in args.runs.split(","):
            run(llm, "json_schema", list(objects(args.data, args.n)), args.max_tokens)


if __name__ == "__main__":
    main()
