"""Arguments against schemas, beside jsonschema's own answers; and schemas of strangers."""

from __future__ import annotations

import gzip
import json
import time
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from hermes3.errors import RequestError
from hermes3.prompt.checking import checker_of
from hermes3.prompt.messages import Tool


def errors(schema: dict[str, Any], arguments: dict[str, Any]) -> list[str]:
    return list(checker_of(Tool("f", None, schema)).errors(arguments))


CASES = [
    ({"properties": {"a": {"pattern": "^x+$"}}}, [{"a": "xx"}, {"a": "xy"}, {"a": 1}, {}]),
    ({"patternProperties": {"^n_": {"type": "integer"}}}, [{"n_a": 1}, {"n_a": "1"}, {"b": "1"}]),
    ({"patternProperties": {"^n_": {}}, "properties": {"a": {}}, "additionalProperties": False},
     [{"n_a": 1, "a": 2}, {"b": 1}, {"n": 1}]),
    ({"patternProperties": {"^n_": {}}, "additionalProperties": {"type": "integer"}},
     [{"n_a": ""}, {"b": ""}]),
    ({"properties": {"a": {}}, "additionalProperties": False}, [{"a": 1}, {"b": 1}]),
    ({"allOf": [{"properties": {"a": {}}}], "unevaluatedProperties": False}, [{"a": 1}, {"b": 1}]),
    ({"$defs": {"t": {"properties": {"next": {"$ref": "#/$defs/t"}, "n": {"type": "integer"}}}},
      "$ref": "#/$defs/t"}, [{"next": {"next": {"n": 1}}}, {"next": {"next": {"n": "1"}}}]),
]  # fmt: skip


@pytest.mark.parametrize(("schema", "instances"), CASES, ids=range(len(CASES)))
def test_jsonschema_says_the_same(schema: dict[str, Any], instances: list[dict[str, Any]]) -> None:
    theirs = jsonschema.Draft202012Validator(schema)
    verdicts = [theirs.is_valid(instance) for instance in instances]
    assert [not errors(schema, instance) for instance in instances] == verdicts
    assert len(set(verdicts)) == 2  # the case tells something


def test_jsonschema_says_the_same_of_real_schemas(shared_data: Path) -> None:
    path = shared_data / "schemas" / "maskbench-sample.jsonl.gz"
    n, n_refused = {True: 0, False: 0}, 0
    for line in gzip.decompress(path.read_bytes()).splitlines():
        row = json.loads(line)
        schema = row["schema"]
        if "http" in json.dumps([value for key, value in schema.items() if key == "$ref"]):
            continue
        for test in row["tests"][:4]:
            if not isinstance(test["data"], dict):
                continue
            try:
                is_valid = not errors(schema, test["data"])
            except RequestError:
                n_refused += 1
                continue
            n[is_valid] += 1
            assert is_valid == jsonschema.Draft202012Validator(schema).is_valid(test["data"]), row.get("id")
    assert min(n.values()) > 50
    assert n_refused < 0.05 * sum(n.values())


def laughs(depth: int) -> dict[str, Any]:
    """Parts that each refer to the next one twice."""
    parts = {f"p{i}": {"allOf": [{"$ref": f"#/$defs/p{i + 1}"}] * 2} for i in range(depth)}
    return {"$defs": {**parts, f"p{depth}": {}}, "$ref": "#/$defs/p0"}


HOSTILE = [
    ({"properties": {"a": {"pattern": r"(?=x)y"}}}, "look-around"),
    ({"properties": {"a": {"pattern": r"(x)\1"}}}, "backreferences are not supported"),
    ({"properties": {"a": {"pattern": "("}}}, "unclosed group"),
    ({"properties": {"a": {"pattern": 7}}}, "cannot be followed"),
    ({"properties": {"a": {"pattern": r"(\w{100}){100}{100}"}}}, "exceeds size limit"),
    (laughs(40), "refers to more than 10000 parts"),
    ({"$ref": "#"}, "cannot be followed"),
    ({"$ref": "file:///etc/passwd"}, "cannot be followed"),
    ({"patternProperties": {"a": {}}, "unevaluatedProperties": False}, "is not followed here"),
    ({"properties": 7}, "cannot be followed"),
]  # fmt: skip


@pytest.mark.parametrize(("schema", "said"), HOSTILE, ids=range(len(HOSTILE)))
def test_schemas_that_cannot_be_followed(schema: dict[str, Any], said: str) -> None:
    with pytest.raises(RequestError, match="the schema of f cannot be followed") as refused:
        errors(schema, {"a": "x"})
    assert said in str(refused.value)


def test_no_pattern_hangs() -> None:
    text, start = "a" * 100_000 + "!", time.monotonic()
    for pattern in (r"^(a+)+$", r"^(a|a)*$", r"^(a|aa)+$", r"a*a*a*a*a*b", r"(.*,)*b"):
        assert len(errors({"properties": {"a": {"pattern": pattern}}}, {"a": text})) == 1
        assert errors({"patternProperties": {pattern: False}}, {text: 1}) == []
        closed = {"patternProperties": {pattern: {}}, "additionalProperties": False}
        assert len(errors(closed, {text: 1})) == 1
    assert time.monotonic() - start < 20
