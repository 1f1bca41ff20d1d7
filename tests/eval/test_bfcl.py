"""BFCL's rules, beside bfcl-eval's own checker."""

from __future__ import annotations

import copy
import importlib.util
import random
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from hermes3.errors import RequestError
from hermes3.eval import bfcl
from hermes3.eval.bfcl import CATEGORIES, Result, calls_of, data_folder, table
from hermes3.eval.bfcl_check import is_right
from hermes3.eval.lm import Hermes3LM
from hermes3.llm import LLM

CHECKED = [category for category in CATEGORIES if category != "irrelevance"]


def load(data: Path, category: str) -> list[tuple[list[Any], list[Any]]]:
    """Functions and the expected calls of each document."""
    answers = {a["id"]: a["ground_truth"] for a in bfcl._lines(data / "bfcl", f"possible_answer_{category}")}
    tasks = bfcl._lines(data / "bfcl", f"BFCL_v4_{category}")
    return [(task["function"], answers[task["id"]]) for task in tasks if task["id"] in answers]


def chosen(options: Any) -> Any:
    value = next((option for option in options if option != ""), "")
    if isinstance(value, dict):
        return {key: inner for key, each in value.items() if (inner := chosen(each)) != ""}
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return [{key: chosen(each) for key, each in item.items()} for item in value]
    return value


def gold(answer: list[Any]) -> list[dict[str, Any]]:
    return [
        {name: {key: value for key, each in values.items() if (value := chosen(each)) != ""}}
        for call in answer
        for name, values in call.items()
    ]


def spoiled(calls: list[dict[str, Any]], rng: random.Random) -> list[dict[str, Any]]:
    """The calls with something changed, which may leave them right."""
    calls = copy.deepcopy(calls)
    arguments = next(iter(rng.choice(calls).values()))
    name = rng.choice(list(arguments) or ["x"])
    value = arguments.get(name, 0)
    match rng.randrange(9):
        case 0:
            arguments.pop(name, None)
        case 1:
            arguments[name] = str(value).upper() + " "
        case 2:
            arguments[name] = [value]
        case 3:
            arguments["another"] = 1
        case 4:
            calls = calls[1:] if rng.random() < 0.5 else [*calls, calls[0]]
        case 5:
            calls = [{key + rng.choice(["", "x"]): each} for call in calls for key, each in call.items()]
        case 6:
            arguments[name] = float(value) if type(value) is int else 3
        case 7:
            arguments[name] = value[::-1] if isinstance(value, str | list) else not value
        case _:
            rng.shuffle(calls)
    return calls


@pytest.fixture(scope="module")
def checker() -> Any:
    """bfcl-eval's ast_checker, without the model handlers that it imports beside."""
    spec = importlib.util.find_spec("bfcl_eval")
    if spec is None or spec.origin is None:
        pytest.skip("bfcl-eval is not here: pip install --no-deps bfcl-eval")
    names = ["bfcl_eval.constants.model_config"]
    names += [f"bfcl_eval.eval_checker.ast_eval.type_convertor.{x}_type_converter" for x in ("java", "js")]
    kept = {name: sys.modules.get(name) for name in names}
    for name in names:
        module = ModuleType(name)
        module.MODEL_CONFIG_MAPPING = {"m": SimpleNamespace(underscore_to_dot=False)}  # type: ignore[attr-defined]
        module.java_type_converter = module.js_type_converter = None  # type: ignore[attr-defined]
        sys.modules[name] = module
    try:
        from bfcl_eval.constants.enums import Language
        from bfcl_eval.eval_checker.ast_eval.ast_checker import ast_checker
    finally:
        for name, module in kept.items():
            sys.modules.pop(name)
            if module is not None:
                sys.modules[name] = module

    def check(category: str, functions: Any, calls: Any, answer: Any) -> bool:
        return bool(ast_checker(functions, calls, answer, Language.PYTHON, category, "m")["valid"])

    return check


@pytest.mark.parametrize("category", CHECKED)
def test_expected_calls_are_right(shared_data: Path, category: str) -> None:
    documents = load(shared_data, category)
    assert len(documents) >= 199
    for functions, answer in documents:
        assert is_right(category, functions, gold(answer), answer), answer
        assert not is_right(category, functions, [], answer)


@pytest.mark.parametrize("category", CHECKED)
def test_the_verdicts_are_bfcls(shared_data: Path, checker: Any, category: str) -> None:
    rng, verdicts = random.Random(7), []
    for functions, answer in load(shared_data, category):
        for _ in range(8):
            calls = spoiled(gold(answer), rng)
            try:
                expected = checker(category, functions, calls, answer)
            except (TypeError, KeyError, AttributeError, IndexError):
                continue  # it falls over lists where it expects dicts
            assert is_right(category, functions, calls, answer) == expected, (calls, answer)
            verdicts.append(expected)
    assert 0.1 < sum(verdicts) / len(verdicts) < 0.9


def test_irrelevance_expects_no_call() -> None:
    assert is_right("irrelevance", [], [], [])
    assert not is_right("irrelevance", [], [{"f": {}}], [])


def test_calls_out_of_replies() -> None:
    text = '<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>'
    assert calls_of(text, [{"name": "f"}]) == ([{"f": {"a": 1}}], False)
    assert calls_of(text, [{"name": "g"}]) == ([], True)
    assert calls_of("I cannot.", [{"name": "f"}]) == ([], False)


def test_the_table() -> None:
    rows = [Result("simple_python", "free", 4, 3, 1), Result("irrelevance", "free", 2, 1, 0)]
    shown = table([*rows, Result("simple_python", "required", 4, 4, 0)])
    assert "simple_python   free           4      3       1    0.7500 ± 0.2500" in shown
    assert "Average, free: 62.50 (plain mean over 2 categories)" in shown
    assert "Average, required: 100.00 (plain mean over 1 categories)" in shown


def test_a_run_over_a_model(
    smol_gguf: Path, shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bfcl, "MAX_TOKENS", 8)
    with LLM(smol_gguf, n_ctx=4096) as llm:
        results = bfcl.evaluate(Hermes3LM(llm), shared_data / "bfcl", limit=1)
        free = bfcl.evaluate(Hermes3LM(llm), shared_data / "bfcl", modes=["free"], limit=1)
    expected = [(category, mode) for category in CATEGORIES for mode in bfcl.MODES]
    assert [(each.category, each.mode) for each in results] == expected[:-1], "no call is due in irrelevance"
    assert [each for each in results if each.mode == "free"] == free
    with pytest.raises(RequestError, match="no BFCL_v4_simple_python"):
        bfcl.evaluate(Hermes3LM(llm), tmp_path)
    assert data_folder(tmp_path) == tmp_path


def test_what_is_held_to_a_schema_comes_back_from_the_journal(
    smol_gguf: Path, shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bfcl, "CATEGORIES", ["multiple"])
    monkeypatch.setattr(bfcl, "MAX_TOKENS", 48)
    with LLM(smol_gguf, n_ctx=4096) as llm:
        lm = Hermes3LM(llm, journal=tmp_path / "answers.jsonl")
        (result,) = bfcl.evaluate(lm, shared_data / "bfcl", modes=["required"], limit=3)
        assert result.n == 3
        assert result.n_broken < 3, "one call at least is whole within 48 tokens"
        lm._journal.__exit__(None, None, None)
        again = Hermes3LM(llm, journal=tmp_path / "answers.jsonl")
        monkeypatch.setattr(llm, "start", None)
        assert bfcl.evaluate(again, shared_data / "bfcl", modes=["required"], limit=3) == [result]
