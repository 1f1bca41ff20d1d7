"""JSON mode measured by documents in the form of NousResearch/json-mode-eval.

A line holds ``prompt`` (messages; the system message has the schema), ``schema`` (JSON text or an object)
and, where there is a reference, ``completion`` (JSON text).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import jsonschema
from tqdm import tqdm

from hermes3.errors import FormatError, RequestError
from hermes3.eval.lm import Hermes3LM, Messages
from hermes3.llm import Answering
from hermes3.prompt.chatml import render
from hermes3.prompt.messages import parse_messages

FILE = "json-mode-eval.jsonl"
MAX_TOKENS = 1024  # of an answer
Mode = Literal["free", "schema"]
MODES: tuple[Mode, ...] = get_args(Mode)
_N_ANSWERS = 64  # generated at a time


@dataclass(frozen=True, slots=True)
class Result:
    """One mode: documents; answers that are JSON; that satisfy the schema; references; answers equal to them.

    Modes: ``free``, the model writes what it will; ``schema``, the answer is held to the schema.
    """

    mode: Mode
    n: int
    n_json: int
    n_valid: int
    n_references: int
    n_equal: int


def evaluate(
    lm: Hermes3LM, folder: Path, *, modes: Sequence[Mode] = MODES, limit: int | None = None
) -> list[Result]:
    """Asks for each document's JSON, greedily, and judges it.

    Raises:
        RequestError: the file is missing, has no documents, or a schema that does not compile.
        FormatError: a line that is no document.
    """
    documents = _documents(folder / FILE)[:limit]
    verdicts: dict[Mode, list[tuple[bool, bool, bool]]] = {mode: [] for mode in modes}
    with tqdm(total=len(documents) * len(modes), desc="json") as bar:
        for start in range(0, len(documents), _N_ANSWERS):
            batch = documents[start : start + _N_ANSWERS]
            for mode in modes:
                verdicts[mode] += [judge(*pair) for pair in zip(batch, _texts(lm, batch, mode), strict=True)]
                bar.update(len(batch))
    n_references = sum(document.get("completion") is not None for document in documents)
    return [
        Result(
            mode=mode,
            n=len(documents),
            n_json=sum(verdict[0] for verdict in of_mode),
            n_valid=sum(verdict[1] for verdict in of_mode),
            n_references=n_references,
            n_equal=sum(verdict[2] for verdict in of_mode),
        )
        for mode, of_mode in verdicts.items()
    ]


def _texts(lm: Hermes3LM, documents: Sequence[dict[str, Any]], mode: Mode) -> Iterator[str]:
    if mode == "free":
        sampling = {"stop": [], "max_tokens": MAX_TOKENS, "temperature": 0.0}
        return lm.generated([(_prompt(lm, document), sampling) for document in documents])
    jobs: list[tuple[Messages, Answering]] = [
        (document["prompt"], {"response_format": _format(document["schema"])}) for document in documents
    ]
    return (chosen.text for chosen in lm.chosen(jobs, max_tokens=MAX_TOKENS))


def _format(schema: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": _value(schema)}}


def judge(document: Mapping[str, Any], text: str) -> tuple[bool, bool, bool]:
    """Whether an answer is JSON, whether it satisfies the schema, whether it equals the reference."""
    try:
        value = json.loads(text)
    except ValueError:
        return False, False, False
    schema, reference = _value(document["schema"]), document.get("completion")
    is_valid = jsonschema.Draft202012Validator(schema).is_valid(value)
    return True, is_valid, reference is not None and value == _value(reference)


def table(results: Sequence[Result]) -> str:
    """Results as text."""
    lines = []
    for result in results:
        lines.append(f"{result.n} documents, {result.mode}")
        for name, n, of in (
            ("JSON", result.n_json, result.n),
            ("valid", result.n_valid, result.n),
            ("equal to the reference", result.n_equal, result.n_references),
        ):
            share = f"{n / of:.4f}" if of else "-"
            lines.append(f"{name:24}{n:6} of {of:6}{share:>10}")
    return "\n".join(lines) + "\n"


def as_json(results: Sequence[Result]) -> str:
    """Results as JSON."""
    return json.dumps({"json_mode": [asdict(result) for result in results]}, indent=2)


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
