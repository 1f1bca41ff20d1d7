"""`hermes3 json`: a valid object, or an error."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from tests.cli.program import hermes3, inside, with_script

SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 30}, "age": {"type": "integer", "maximum": 150}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
CLASS = """
from pydantic import BaseModel, field_validator
print("loaded")
class Person(BaseModel):
    age: int
    @field_validator("age")
    @classmethod
    def _grown(cls, age: int) -> int:
        if age < 18:
            raise ValueError("too young")
        return age
"""


@pytest.fixture
def schema(tmp_path: Path) -> str:
    (tmp_path / "s.json").write_text(json.dumps(SCHEMA))
    return str(tmp_path / "s.json")


@pytest.mark.usefixtures("smol")
def test_smol_writes_a_valid_object(schema: str) -> None:
    done = hermes3("json", "-m", "smol", "--schema", schema, "-n", "200", "-c", "600", "Jane is 43.")
    assert done.returncode == 0, done.stderr
    Draft202012Validator(SCHEMA).validate(json.loads(done.stdout))


def test_a_class_and_any_object(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "m.py").write_text(CLASS)
    spec = f"{tmp_path / 'm.py'}:Person"
    prompts = with_script(monkeypatch, '{"age": 43}')
    done = inside("json", "--schema", spec, "Jane is 43.")
    assert (done.stdout, done.stderr) == ('{"age": 43}\n', "loaded\n")
    assert "<schema>" in prompts[0]
    with_script(monkeypatch, '{"age": 3}')
    young = inside("json", "--schema", spec, "Jane is 3.")
    assert (young.returncode, young.stdout) == (1, "")
    assert "too young" in young.stderr
    with_script(monkeypatch, '{"b": [1]}')
    assert inside("json", stdin=b"Anything.").stdout == '{"b": [1]}\n'


def test_openais_form_of_a_schema(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}
    (tmp_path / "s.json").write_text(json.dumps(form))
    prompts = with_script(monkeypatch, '{"name": "x", "age": 1}')
    assert inside("json", "--schema", str(tmp_path / "s.json"), "x").returncode == 0
    assert json.dumps(SCHEMA) in prompts[0]


def test_a_schema_that_no_grammar_can_be_made_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    odd = {"type": "object", "properties": {"a": {"type": "string", "format": "none-such", "maxLength": 3}}}
    (tmp_path / "odd.json").write_text(json.dumps(odd))
    given = ("json", "--schema", str(tmp_path / "odd.json"), "x")
    with_script(monkeypatch, '{"a": "ab"}')
    refused = inside(*given)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "none-such" in refused.stderr
    with_script(monkeypatch, '{"a": "ab"}')
    assert inside(*given, "--retry").stdout == '{"a": "ab"}\n'
    with_script(monkeypatch, '{"a": "long"}')
    wrong = inside(*given, "--retry")
    assert (wrong.returncode, wrong.stdout) == (1, "")
    assert "nor did 2 before it" in wrong.stderr


def test_a_cut_object_is_an_error_that_shows_it(schema: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with_script(monkeypatch, '{"name": "Jane", "age": 43}')
    done = inside("json", "--schema", schema, "-n", "12", "x")
    assert (done.returncode, done.stdout) == (1, "")
    assert 'cut at the limit of max_tokens or of the context; what came: {"name": "Ja' in done.stderr


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[]", "holds no JSON Schema"),
        ("{", "is not JSON"),
        ('{"type": "object", "properties": {"a": {"format": "none-such"}}}', "Unknown format: none-such"),
    ],
)
def test_no_schema(tmp_path: Path, text: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "s.json").write_text(text)
    with_script(monkeypatch, "{}")
    done = inside("json", "--schema", str(tmp_path / "s.json"), "x")
    assert done.returncode == 1
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_wrong_usage(schema: str) -> None:
    assert "nothing to answer" in inside("json", "--schema", schema).stderr
    assert inside("json", "-t", "200", "x").returncode == 2
