"""JSON mode measured by documents in the form of NousResearch/json-mode-eval.

A line holds ``prompt`` (messages; the system message has the schema), ``schema`` (JSON text or an object)
and, where there is a reference, ``completion`` (JSON text).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jsonschema
from tqdm import tqdm

from hermes3.errors import FormatError, RequestError
from hermes3.eval.lm import Hermes3LM
from hermes3.prompt.chatml import render
from hermes3.prompt.messages import parse_messages

FILE = "json-mode-eval.jsonl"
MAX_TOKENS = 1024  # of an answer
_N_ANSWERS = 64  # generated at a time


@dataclass(frozen=True, slots=True)
class Result:
    """Documents; answers that are JSON; that satisfy the schema; references; answers equal to theirs."""

    n: int
    n_json: int
    n_valid: int
    n_references: int
    n_equal: int


def evaluate(lm: Hermes3LM, folder: Path, *, limit: int | None = None) -> Result:
    """Asks for each document's JSON, unconstrained and greedily, and judges it.

    Raises:
        RequestError: the file is missing, or has no documents.
        FormatError: a line that is no document.
    """
    documents = _documents(folder / FILE)[:limit]
    sampling = {"stop": [], "max_tokens": MAX_TOKENS, "temperature": 0.0}
    verdicts = []
    with tqdm(total=len(documents), desc="json") as bar:
        for start in range(0, len(documents), _N_ANSWERS):
            batch = documents[start : start + _N_ANSWERS]
            jobs = [(_prompt(lm, document), sampling) for document in batch]
            verdicts += [judge(*pair) for pair in zip(batch, lm.generated(jobs), strict=True)]
            bar.update(len(batch))
    return Result(
        n=len(documents),
        n_json=sum(verdict[0] for verdict in verdicts),
        n_valid=sum(verdict[1] for verdict in verdicts),
        n_references=sum(document.get("completion") is not None for document in documents),
        n_equal=sum(verdict[2] for verdict in verdicts),
    )


def judge(document: Mapping[str, Any], text: str) -> tuple[bool, bool, bool]:
    """Whether an answer is JSON, whether it satisfies the schema, whether it equals the reference."""
    try:
        value = json.loads(text)
    except ValueError:
        return False, False, False
    schema, reference = _value(document["schema"]), document.get("completion")
    is_valid = jsonschema.Draft202012Validator(schema).is_valid(value)
    return True, is_valid, reference is not None and value == _value(reference)


def table(result: Result) -> str:
    """A result as text."""
    lines = [f"{result.n} documents, unconstrained"]
    for name, n, of in (
        ("JSON", result.n_json, result.n),
        ("valid", result.n_valid, result.n),
        ("equal to the reference", result.n_equal, result.n_references),
    ):
        share = f"{n / of:.4f}" if of else "-"
        lines.append(f"{name:24}{n:6} of {of:6}{share:>10}")
    return "\n".join(lines) + "\n"


def as_json(result: Result) -> str:
    """A result as JSON."""
    return json.dumps({"json_mode": asdict(result), "constrained": False}, indent=2)


def _documents(file: Path) -> list[dict[str, Any]]:
    if not file.is_file():
        raise RequestError(f"no {FILE} in {file.parent}", param="data")
    documents = []
    for number, line in enumerate(file.read_text().splitlines(), 1):
        try:
            document = json.loads(line)
            jsonschema.Draft202012Validator.check_schema(_value(document["schema"]))
            parse_messages(document["prompt"])
        except (ValueError, KeyError, TypeError, RequestError, jsonschema.SchemaError) as error:
            raise FormatError(f"{file}, line {number} is no document: {str(error)[:200]}") from error
        documents.append(document)
    if not documents:
        raise RequestError(f"{file} has no documents", param="data")
    return documents


def _prompt(lm: Hermes3LM, document: Mapping[str, Any]) -> list[int]:
    segments = render(parse_messages(document["prompt"]), template=lm.llm.template)
    return lm.llm.tokenizer.encode_segments(segments)


def _value(given: Any) -> Any:
    return json.loads(given) if isinstance(given, str) else given
