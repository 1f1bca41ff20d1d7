"""JSON mode's measure."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hermes3.errors import FormatError, RequestError
from hermes3.eval import json_mode
from hermes3.eval.json_mode import Result, evaluate, judge, table
from hermes3.eval.lm import Hermes3LM
from hermes3.llm import LLM

SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
DOCUMENT = {
    "prompt": [{"role": "system", "content": "Answer in JSON."}, {"role": "user", "content": "Two."}],
    "schema": json.dumps(SCHEMA),
    "completion": '{"n": 2}',
}


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ('{"n":2}', (True, True, True)),
        (' {"n": 3}\n', (True, True, False)),
        ('{"n": "2"}', (True, False, False)),
        ('{"n": 2', (False, False, False)),
        ('Here: {"n": 2}', (False, False, False)),
    ],
)
def test_verdicts(text: str, verdict: tuple[bool, bool, bool]) -> None:
    assert judge(DOCUMENT, text) == verdict
    assert judge({**DOCUMENT, "completion": None, "schema": SCHEMA}, text) == (*verdict[:2], False)


def test_a_run(smol_gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [DOCUMENT, {**DOCUMENT, "completion": None}, DOCUMENT]
    (tmp_path / json_mode.FILE).write_text("\n".join(map(json.dumps, lines)))

    def answers(self: Hermes3LM, jobs: list[Any]) -> Iterator[str]:
        assert all("Two." in self.llm.tokenizer.decode(ids) for ids, _ in jobs)
        return iter(['{"n": 2}', '{"n": 2.5}', "no"][: len(jobs)])

    monkeypatch.setattr(Hermes3LM, "generated", answers)
    with LLM(smol_gguf, n_ctx=2048) as llm:
        (result,) = evaluate(Hermes3LM(llm), tmp_path, modes=["free"])
        assert evaluate(Hermes3LM(llm), tmp_path, modes=["free"], limit=1) == [Result("free", 1, 1, 1, 1, 1)]
        (held,) = evaluate(Hermes3LM(llm), tmp_path, modes=["schema"])
    assert result == Result("free", 3, 2, 1, 2, 1)
    assert (held.mode, held.n, held.n_json, held.n_valid) == ("schema", 3, 3, 3)
    assert "valid                        1 of      3    0.3333" in table([result])
    assert json.loads(json_mode.as_json([result]))["json_mode"][0]["n_equal"] == 1


@pytest.mark.parametrize(
    "line", ["nonsense", "{}", '{"schema": "{", "prompt": []}', '{"schema": {"type": 1}, "prompt": []}']
)
def test_damaged_files(tmp_path: Path, line: str) -> None:
    (tmp_path / json_mode.FILE).write_text(f"{json.dumps(DOCUMENT)}\n{line}\n")
    with pytest.raises(FormatError, match="line 2 is no document"):
        json_mode._documents(tmp_path / json_mode.FILE)


def test_missing_files(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"no json-mode-eval\.jsonl"):
        json_mode._documents(tmp_path / json_mode.FILE)
    (tmp_path / json_mode.FILE).write_text("")
    with pytest.raises(RequestError, match="has no documents"):
        json_mode._documents(tmp_path / json_mode.FILE)
