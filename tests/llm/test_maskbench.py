"""A sample of MaskBench: schemas people wrote, each with instances that satisfy it or do not.

https://github.com/guidance-ai/jsonschemabench/tree/main/maskbench. What compiles, and what is said against
the rest, is kept in maskbench.txt; HERMES3_WRITE_EXPECTED=1 writes it anew. Keys come in the order in which a
schema names them; where a valid instance is refused as it is written, it is tried in that order.
"""

from __future__ import annotations

import gzip
import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from hermes3.errors import RequestError
from tests.llm.accepting import Judge, in_order

EXPECTED = Path(__file__).with_name("maskbench.txt")
N_SCHEMAS = 370
WRITTEN: dict[str, dict[str, Any]] = {
    "compact": {"separators": (",", ":")},
    "spaced": {},
    "indented": {"indent": 2},
}


def rows(folder: Path) -> list[dict[str, Any]]:
    with gzip.open(folder / "schemas" / "maskbench-sample.jsonl.gz", "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def set_of(row: dict[str, Any]) -> str:
    return str(row["id"]).split("---")[0].split("_")[0]


def asked(schema: Any) -> dict[str, Any]:
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "it", "schema": schema}}}


def verdict(judge: Judge, row: dict[str, Any]) -> str:
    """``compiles``, with what is wrong where instances are judged wrongly; else why it does not."""
    try:
        grammar = judge.compiled(**asked(row["schema"]))
    except RequestError as error:
        words = str(error).partition("; on_uncompilable=")[0]
        return " ".join(words.partition(" cannot be compiled: ")[2].split()) or words
    wrong = []
    for test in row["tests"]:
        for style, options in WRITTEN.items():
            text = json.dumps(test["data"], ensure_ascii=False, **options)
            if judge.takes(grammar, text) == test["valid"]:
                continue
            ordered = json.dumps(in_order(test["data"], row["schema"]), ensure_ascii=False, **options)
            if test["valid"] and judge.takes(grammar, ordered):
                wrong.append("refuses a valid instance in another order of keys")
            else:
                wrong.append(f"{'REFUSES a valid' if test['valid'] else 'ACCEPTS an invalid'} one, {style}")
    return "; ".join(["compiles", *sorted(set(wrong))])


def report(judge: Judge, folder: Path) -> str:
    """A line for each set, then one for each schema."""
    read = rows(folder)
    verdicts = [(set_of(row), row["id"], verdict(judge, row)) for row in read]
    n_all = Counter(name for name, _, _ in verdicts)
    n_compiled = Counter(name for name, _, said in verdicts if said.startswith("compiles"))
    lines = [f"{name}: {n_compiled[name]} of {n_all[name]} compile" for name in n_all]
    lines += ["", *(f"{row_id}: {said}" for _, row_id, said in verdicts)]
    return "\n".join(lines) + "\n"


@pytest.fixture(scope="module")
def reported(judge: Judge, shared_data: Path) -> str:
    return report(judge, shared_data)


def test_what_compiles_is_what_compiled(reported: str) -> None:
    print(reported.partition("\n\n")[0])
    if os.environ.get("HERMES3_WRITE_EXPECTED"):
        EXPECTED.write_text(reported, encoding="utf-8")
    assert reported == EXPECTED.read_text(encoding="utf-8")


def test_no_instance_is_judged_wrongly(reported: str) -> None:
    lines = reported.splitlines()
    assert sum(": compiles" in line for line in lines) >= 280
    assert [line for line in lines if "ACCEPTS" in line or "REFUSES" in line] == []


@pytest.mark.filterwarnings("ignore::FutureWarning")  # of re, on two of the patterns
def test_jsonschema_agrees_with_the_sample(shared_data: Path) -> None:
    """But for formats, most of which it checks only beside packages that are not here."""
    n_tests, differ = 0, []
    for row in rows(shared_data):
        kind = jsonschema.validators.validator_for(row["schema"], jsonschema.Draft202012Validator)
        valid = kind(row["schema"], format_checker=kind.FORMAT_CHECKER)
        for test in row["tests"]:
            n_tests += 1
            if valid.is_valid(test["data"]) != test["valid"]:
                differ.append((row["id"], test["valid"], '"format"' in json.dumps(row["schema"])))
    assert n_tests == 775
    assert len(differ) <= 12
    assert all(not is_valid and has_format for _, is_valid, has_format in differ)

