"""Function calls and JSON one after the other, beside llama.cpp's server with the same schemas enforced.

    python -m bench.tool_calls --llama-server path/to/llama-server --data ../shared/data

20 questions of BFCL over one prompt of tools (1,500 tokens), a call required; then 50 objects with the
schemas of json-mode-eval, the schema in the system prompt as on the card. Temperature 0, one request at a
time, over HTTP, on the same threads; the tools' prompt begins anew in each round. hermes3 is asked as an
OpenAI client asks it. llama-server does not hold its own tool calls to the schemas with Hermes' template,
so it gets hermes3's prompt as ids, with the ``<tool_call>`` of a call, and the schema of what follows
(`/completion` with json_schema): both read the same and are held to the same. Every answer is checked. A
model of random weights never ends a string: --bounded gives strings, lists and numbers of the schemas an
end, on both sides.
"""

from __future__ import annotations

import argparse
import gzip
import json
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import jsonschema
from llguidance import LLMatcher

from bench import peers
from bench.report import Limits, Machine
from hermes3.llm.grammar_text import arguments_schema
from hermes3.llm.parts import template_of, tokenizer_of
from hermes3.prompt.chatml import render
from hermes3.prompt.functions import parse_tools
from hermes3.prompt.messages import parse_messages
from hermes3.prompt.schema import closed
from hermes3.prompt.tools import TOOL_CALL
from hermes3.weights.checkpoint import open_checkpoint
from tests.downloads import smol_gguf

N_CTX = 4096
MAX_TOKENS = 256
CALLS_GOAL, OBJECTS_GOAL = 3.0, 2.5
TOOLS, SCHEMAS = "bfcl/BFCL_v4_simple_python.json.gz", "schemas/maskbench-sample.jsonl.gz"
TYPES = {"dict": "object", "float": "number", "tuple": "array"}  # BFCL's names
BOUNDS: dict[str, dict[str, Any]] = {
    "string": {"maxLength": 12},
    "array": {"maxItems": 2},
    "integer": {"minimum": 0, "maximum": 999},
    "number": {"minimum": 0, "maximum": 999},
}

SAMPLING = {"temperature": 0, "max_tokens": MAX_TOKENS}

Payload = dict[str, Any]


class Task(NamedTuple):
    """One request: as OpenAI's clients ask it, its prompt as ids, and the schema of the answer."""

    chat: Payload
    ids: list[int]
    schema: Payload


@dataclass
class Row:
    """One line of the table: seconds of all requests of a round, and tokens that came."""

    name: str
    goal: float
    seconds: dict[str, list[float]] = field(default_factory=dict)
    tokens: dict[str, list[int]] = field(default_factory=dict)
    n_valid: dict[str, list[int]] = field(default_factory=dict)

    def ratio(self) -> float:
        ours, theirs = (statistics.median(self.seconds[name]) for name in ("hermes3", "llama-server"))
        return theirs / ours

    def markdown(self) -> str:
        cells = []
        for name in ("llama-server", "hermes3"):
            seconds, tokens = statistics.median(self.seconds[name]), statistics.median(self.tokens[name])
            cells.append(f"{seconds:.2f} s ({tokens:.0f} tokens)")
        verdict = "" if self.ratio() >= self.goal else " **missed**"
        return f"| {self.name} | {' | '.join(cells)} | {self.ratio():.2f}x | {self.goal}x{verdict} |"


def lines_of(path: Path) -> Iterator[Any]:
    with gzip.open(path, "rt") as lines:
        yield from map(json.loads, lines)


def plain(raw: Any) -> Any:
    """A schema with JSON Schema's names of types, less what is no part of it."""
    if isinstance(raw, list):
        return [plain(item) for item in raw]
    if not isinstance(raw, dict):
        return raw
    out = {key: plain(value) for key, value in raw.items() if key != "optional"}
    if isinstance(raw.get("type"), str):
        out["type"] = TYPES.get(raw["type"], raw["type"])
        if out["type"] == "any":
            out["type"] = "string"
    return out


def bounded(raw: Any) -> Any:
    """A schema whose values have an end."""
    if isinstance(raw, list):
        return [bounded(item) for item in raw]
    if not isinstance(raw, dict):
        return raw
    out = {key: bounded(value) for key, value in raw.items()}
    if isinstance(raw.get("type"), str) and "enum" not in raw:
        out = {**BOUNDS.get(raw["type"], {}), **out}
        if raw["type"] == "number":
            out["type"] = "integer"
    return out


def tools_of(reader: Reader, data: Path, n_tokens: int, is_bounded: bool) -> list[Payload]:
    """OpenAI's tools, as many as make a prompt of so many tokens."""
    tools: list[Payload] = []
    for task in lines_of(data / TOOLS):
        function = {**task["function"][0], "parameters": plain(task["function"][0]["parameters"])}
        if is_bounded:
            function["parameters"] = bounded(function["parameters"])
        function["name"] = function["name"].replace(".", "_")
        if function["name"] in [tool["function"]["name"] for tool in tools]:
            continue
        longer = [*tools, {"type": "function", "function": function}]
        if len(reader.ids([{"role": "user", "content": "?"}], tools=parse_tools(longer))) > n_tokens:
            break
        tools = longer
    return tools


def calls(reader: Reader, data: Path, tools: list[Payload], n: int, turn: int) -> list[Task]:
    """Requests for one call each; with another turn the prompts begin otherwise."""
    turned = [*tools[turn % len(tools) :], *tools[: turn % len(tools)]]
    parsed = parse_tools(turned)
    one_of = [
        closed(
            {
                "type": "object",
                "properties": {"name": {"const": tool.name}, "arguments": arguments_schema(tool)},
                "required": ["name", "arguments"],
            }
        )
        for tool in parsed
    ]
    lead = reader.tokenizer.encode(TOOL_CALL + "\n", allow_special=True)
    asked = {"tools": turned, "tool_choice": "required", "parallel_tool_calls": False, **SAMPLING}
    tasks = []
    for task in islice(lines_of(data / TOOLS), n):
        messages = task["question"][0]
        ids = reader.ids(messages, tools=parsed) + lead
        tasks.append(Task({"messages": messages, **asked}, ids, {"anyOf": one_of}))
    return tasks


def objects(reader: Reader, data: Path, n: int, is_bounded: bool) -> list[Task]:
    """Requests for one object each: the values of an example as text, to be put into its schema.

    Schemas that hermes3 refuses (those with `if`, say) are nobody's.
    """
    tasks = []
    for line in islice((each for each in lines_of(data / SCHEMAS) if is_taken(each)), n):
        schema = bounded(line["schema"]) if is_bounded else line["schema"]
        example = next(test["data"] for test in line["tests"] if test["valid"])
        question = "Give me these as a JSON object: " + ", ".join(f"{k} is {v}" for k, v in example.items())
        messages = [{"role": "user", "content": question}]
        form = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
        chat = {"messages": messages, "response_format": form, **SAMPLING}
        tasks.append(Task(chat, reader.ids(messages, schema=schema), schema))
    return tasks


def is_taken(line: Payload) -> bool:
    """Whether a line is one of json-mode-eval's, and its schema compiles."""
    grammar = LLMatcher.grammar_from_json_schema(line["schema"])
    return line["id"].startswith("JME_") and not LLMatcher.validate_grammar(grammar)


class Reader:
    """What hermes3 reads, as ids."""

    def __init__(self, model: Path) -> None:
        checkpoint = open_checkpoint(model)
        self.tokenizer = tokenizer_of(checkpoint)
        self._template = template_of(checkpoint, self.tokenizer)

    def ids(self, messages: list[Payload], **form: Any) -> list[int]:
        segments = render(parse_messages(messages), template=self._template, **form)
        return self.tokenizer.encode_segments(segments)


def asked_ours(server: peers.Server, task: Task) -> tuple[Any, int]:
    """The value of one answer, and its tokens."""
    answer = server.post("/v1/chat/completions", task.chat)
    message = answer["choices"][0]["message"]
    n_tokens = answer["usage"]["completion_tokens"]
    if "tools" not in task.chat:
        return read(message["content"]), n_tokens
    if not message["tool_calls"]:
        return None, n_tokens
    function = message["tool_calls"][0]["function"]
    return {"name": function["name"], "arguments": read(function["arguments"])}, n_tokens


def asked_theirs(server: peers.Server, task: Task) -> tuple[Any, int]:
    given = {"prompt": task.ids, "json_schema": task.schema, "n_predict": MAX_TOKENS, "temperature": 0}
    answer = server.post("/completion", {**given, "cache_prompt": True})
    return read(answer["content"]), answer["tokens_predicted"]


def read(text: str) -> Any:
    """A JSON value, None where it was cut."""
    try:
        return json.loads(text)
    except ValueError:
        return None


def is_valid(task: Task, value: Any) -> bool:
    try:
        jsonschema.validate(value, task.schema)
    except jsonschema.ValidationError:
        return False
    return True


def play(server: peers.Server, tasks: list[Task], row: Row) -> None:
    """Asks one after the other, and notes it."""
    ask = asked_ours if server.name == "hermes3" else asked_theirs
    began = time.perf_counter()
    answers = [ask(server, task) for task in tasks]
    row.seconds.setdefault(server.name, []).append(time.perf_counter() - began)
    row.tokens.setdefault(server.name, []).append(sum(n for _, n in answers))
    n_valid = sum(is_valid(task, value) for task, (value, _) in zip(tasks, answers, strict=True))
    row.n_valid.setdefault(server.name, []).append(n_valid)
    told = f"{row.seconds[server.name][-1]:.2f} s, {row.tokens[server.name][-1]} tokens, {n_valid} valid"
    print(f"{row.name}: {server.name}: {told}", file=sys.stderr, flush=True)


def measure(given: argparse.Namespace, model: Path) -> list[Row]:
    reader = Reader(model)
    tools = tools_of(reader, given.data, given.prompt, given.bounded)
    rows = []
    if given.calls:
        rows.append(Row(f"{model.stem}: {given.calls} calls over {given.prompt} tokens of tools", CALLS_GOAL))
    if given.objects:
        rows.append(Row(f"{model.stem}: {given.objects} objects of a schema", OBJECTS_GOAL))
    with ExitStack() as stack:
        more = given.llama_options.split()
        ours = peers.hermes3(model, given.threads, N_CTX)
        theirs = peers.llama_server(given.llama_server, model, given.threads, N_CTX, 1, more)
        servers = [stack.enter_context(server) for server in (ours, theirs)]
        for server in servers:
            warm_up = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2}
            server.post("/v1/chat/completions", warm_up)
        for turn in range(given.rounds):
            for row in rows:
                tasks = (
                    calls(reader, given.data, tools, given.calls, turn)
                    if row.goal == CALLS_GOAL
                    else objects(reader, given.data, given.objects, given.bounded)
                )
                for server in servers:
                    play(server, tasks, row)
            servers.reverse()
    return rows


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Function calls and JSON, one after the other.")
    parser.add_argument("--llama-server", default="llama-server", help="a ready llama-server binary")
    parser.add_argument("--llama-options", default="", help="more options for it, with spaces between")
    parser.add_argument("--data", type=Path, required=True, help=f"the folder of {TOOLS} and {SCHEMAS}")
    parser.add_argument("--model", type=Path, help="default: SmolLM2-135M-Instruct.Q4_1.gguf")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--calls", type=int, default=20)
    parser.add_argument("--objects", type=int, default=50)
    parser.add_argument("--prompt", type=int, default=1500, help="tokens of the tools' prompt, at most")
    parser.add_argument("--bounded", action="store_true", help="schemas whose values have an end")
    return parser.parse_args()


def main() -> None:
    given = arguments()
    before = Limits.now(given.threads)
    rows = measure(given, given.model or smol_gguf())
    print("| | llama-server | hermes3 | ratio | goal |\n|---|---:|---:|---:|---:|")
    for row in rows:
        print(row.markdown())
    after, machine = Limits.now(given.threads), asdict(Machine.this())
    found = [asdict(row) for row in rows]
    print(json.dumps({"machine": machine, "before": asdict(before), "after": asdict(after), "rows": found}))


if __name__ == "__main__":
    main()
