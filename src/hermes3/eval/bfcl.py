"""Function calls measured by the files of the Berkeley Function Calling Leaderboard (BFCL v4)."""

from __future__ import annotations

import gzip
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, get_args

from tqdm import tqdm

from hermes3.errors import RequestError
from hermes3.eval.bfcl_check import Call, is_right
from hermes3.eval.lm import Hermes3LM, Messages
from hermes3.llm import Answering
from hermes3.prompt.chatml import render
from hermes3.prompt.functions import parse_tools
from hermes3.prompt.messages import parse_messages
from hermes3.prompt.splitter import parse_reply

Mode = Literal["free", "auto", "required"]
MODES: tuple[Mode, ...] = get_args(Mode)
CATEGORIES = ("simple_python", "multiple", "parallel", "irrelevance")
MAX_TOKENS = 512  # of an answer; the longest of the expected calls takes some 300
_TYPES = {"dict": "object", "float": "number", "tuple": "array", "any": "string"}  # as bfcl-eval maps them
_N_ANSWERS = 64  # generated at a time


@dataclass(frozen=True, slots=True)
class Result:
    """One category in one mode: documents, how many were answered rightly, how many held a broken call.

    Modes: ``free``, the model writes what it will; ``auto``, what it begins as a call must be one by the
    schemas; ``required``, it must call.
    """

    category: str
    mode: Mode
    n: int
    n_right: int
    n_broken: int

    @property
    def accuracy(self) -> float:
        return self.n_right / self.n

    @property
    def stderr(self) -> float:
        return math.sqrt(self.accuracy * (1 - self.accuracy) / max(1, self.n - 1))


def data_folder(data: Path | None) -> Path:
    """Where the files are: the folder that was named, or the installed bfcl-eval's.

    Raises:
        RequestError: neither is there.
    """
    if data is not None:
        return data
    spec = find_spec("bfcl_eval")
    if spec is None or spec.origin is None:
        raise RequestError(
            "BFCL's files are not here: name their folder with --data, or pip install --no-deps bfcl-eval",
            param="data",
        )
    return Path(spec.origin).parent / "data"


def evaluate(
    lm: Hermes3LM, folder: Path, *, modes: Sequence[Mode] = MODES, limit: int | None = None
) -> list[Result]:
    """Asks for each category's calls, greedily, and checks them; nothing is required where no call is due.

    Raises:
        RequestError: a file is missing.
    """
    return [result for category in CATEGORIES for result in _category(lm, folder, category, modes, limit)]


def table(results: Sequence[Result]) -> str:
    """Results as text, with each mode's plain mean over its categories."""
    lines = [f"{'category':16}{'mode':10}{'n':>6}{'right':>7}{'broken':>8}{'accuracy':>10}   stderr"]
    for each in results:
        counts = f"{each.mode:10}{each.n:6}{each.n_right:7}{each.n_broken:8}"
        lines.append(f"{each.category:16}{counts}{each.accuracy:10.4f} ± {each.stderr:.4f}")
    lines.append("")
    for mode in dict.fromkeys(each.mode for each in results):
        of_mode = [each.accuracy for each in results if each.mode == mode]
        mean = 100 * sum(of_mode) / len(of_mode)
        lines.append(f"Average, {mode}: {mean:.2f} (plain mean over {len(of_mode)} categories)")
    return "\n".join(lines) + "\n"


def as_json(results: Sequence[Result]) -> str:
    """Results as JSON."""
    rows = [{**asdict(each), "accuracy": each.accuracy, "stderr": each.stderr} for each in results]
    return json.dumps({"bfcl": rows}, indent=2)


def _category(
    lm: Hermes3LM, folder: Path, category: str, modes: Sequence[Mode], limit: int | None
) -> list[Result]:
    tasks, answers = tasks_of(folder, category)
    tasks = tasks[:limit]
    modes = [mode for mode in modes if mode != "required" or category != "irrelevance"]
    n_right, n_broken = dict.fromkeys(modes, 0), dict.fromkeys(modes, 0)
    with tqdm(total=len(tasks) * len(modes), desc=category) as bar:
        for start in range(0, len(tasks), _N_ANSWERS):
            batch = tasks[start : start + _N_ANSWERS]
            for mode in modes:
                for task, (calls, is_broken) in zip(batch, called(lm, batch, mode), strict=True):
                    n_broken[mode] += is_broken
                    n_right[mode] += is_right(category, task["function"], calls, answers[task["id"]])
                bar.update(len(batch))
    return [Result(category, mode, len(tasks), n_right[mode], n_broken[mode]) for mode in modes]


def tasks_of(folder: Path, category: str) -> tuple[list[dict[str, Any]], dict[str, list[Any]]]:
    """A category's documents that have an answer, and the answers by document."""
    tasks = _lines(folder, f"BFCL_v4_{category}")
    if category == "irrelevance":
        return tasks, {task["id"]: [] for task in tasks}
    found = _lines(folder, f"possible_answer_{category}", f"possible_answer/BFCL_v4_{category}")
    answers = {each["id"]: each["ground_truth"] for each in found}
    return [task for task in tasks if task["id"] in answers], answers


def called(
    lm: Hermes3LM, tasks: Sequence[dict[str, Any]], mode: Mode
) -> Iterator[tuple[list[Call], bool]]:
    """What the model calls, and whether one of the calls is broken."""
    if mode == "free":
        sampling = {"stop": [], "max_tokens": MAX_TOKENS, "temperature": 0.0}
        replies = lm.generated([(_prompt(lm, task), sampling) for task in tasks])
        for task, text in zip(tasks, replies, strict=True):
            yield calls_of(text, task["function"])
        return
    jobs: list[tuple[Messages, Answering]] = [
        (task["question"][0], {"tools": _tools(task), "tool_choice": mode}) for task in tasks
    ]
    for chosen in lm.chosen(jobs, max_tokens=MAX_TOKENS):
        yield [{name: arguments} for name, arguments in chosen.calls], chosen.n_broken > 0


def calls_of(text: str, functions: Sequence[Any]) -> tuple[list[Call], bool]:
    """Sound calls in a reply, and whether it holds one that is not, or of a function that does not exist."""
    parsed = parse_reply(text, tools={function["name"] for function in functions})
    sound = [call.to_tool_call() for call in parsed.calls if call.status == "ok"]
    return [{call.name: call.arguments} for call in sound], len(sound) < len(parsed.calls)


def _prompt(lm: Hermes3LM, task: dict[str, Any]) -> list[int]:
    messages, tools = parse_messages(task["question"][0]), parse_tools(_tools(task))
    return lm.llm.tokenizer.encode_segments(render(messages, template=lm.llm.template, tools=tools))


def _tools(task: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {"type": "function", "function": {**function, "parameters": _schema(function["parameters"])}}
        for function in task["function"]
    ]


def _schema(raw: Any) -> Any:
    """BFCL's schemas with JSON Schema's names of types."""
    if isinstance(raw, list):
        return [_schema(item) for item in raw]
    if not isinstance(raw, dict):
        return raw
    out = {key: _schema(value) for key, value in raw.items()}
    if isinstance(raw.get("type"), str):
        out["type"] = _TYPES.get(raw["type"], raw["type"])
    return out


def _lines(folder: Path, *names: str) -> list[dict[str, Any]]:
    """The JSON lines of the first file that is there."""
    for name in names:
        for file in (folder / f"{name}.json", folder / f"{name}.json.gz"):
            if file.is_file():
                raw = file.read_bytes()
                text = (gzip.decompress(raw) if file.suffix == ".gz" else raw).decode()
                return [json.loads(line) for line in text.splitlines() if line.strip()]
    raise RequestError(f"no {names[0]}.json or {names[0]}.json.gz in {folder}", param="data")
