"""The examples run: with a scripted model, on recorded data."""

from __future__ import annotations

import ast
import json
import runpy
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import hermes3
from tests.agent.scripted import calling, scripted
from tests.cli.program import inside, with_script
from tests.prompt.test_tools import card

STOCK = Path(__file__).parent.parent / "examples" / "stock.py"
OFFLINE = "HERMES3_EXAMPLE_OFFLINE"
TSLA = calling("get_stock_fundamentals", symbol="TSLA")
QUESTION = "Fetch the stock fundamentals data for Tesla (TSLA)"


def cards_result() -> object:
    """The result on the card, which is Python's repr of it."""
    line = card("function_response").splitlines()[2]
    return ast.literal_eval(
        line.removeprefix('{"name": "get_stock_fundamentals", "content": ').removesuffix("}")
    )


def run(
    monkeypatch: pytest.MonkeyPatch, *arguments: str, answers: tuple[str, ...] = (TSLA, "So be it.")
) -> list[str]:
    """Run the example as a program; the prompts that its model was asked."""
    llm, prompts = scripted(*answers)
    monkeypatch.setattr(hermes3, "LLM", lambda *given: llm, raising=False)
    monkeypatch.setattr(sys, "argv", ["stock.py", *arguments])
    runpy.run_path(str(STOCK), run_name="__main__")
    return prompts


@pytest.fixture(autouse=True)
def online(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(OFFLINE, "")


def test_the_cards_conversation(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = run(monkeypatch, "--offline")
    blocks = [card(f"function_{part}") + "\n" for part in ("system", "user")]
    plain = (
        "".join(blocks).replace("<|im_start|>", "").replace("<|im_end|>", "")
    )  # of which no bytes are left
    assert first == f"{plain}assistant\n"
    response = second.split("<tool_response>\n")[1].split("\n</tool_response>")[0]
    assert json.loads(response) == {"name": "get_stock_fundamentals", "content": cards_result()}
    shown = capsys.readouterr()
    assert shown.out == "So be it.\n"
    assert shown.err.startswith("-> get_stock_fundamentals({'symbol': 'TSLA'})\n<- {")


def test_by_hermes3_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(OFFLINE, "1")
    with_script(monkeypatch, TSLA, calling("get_stock_fundamentals", symbol="AAPL"), "So be it.")
    done = inside("call", "--tools", str(STOCK), QUESTION)
    assert (done.returncode, done.stdout) == (0, "So be it.\n")
    assert "Tesla, Inc." in done.stderr
    assert "nothing is recorded of AAPL; there is: TSLA" in done.stderr


def test_without_yfinance_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "yfinance", None)
    with pytest.raises(
        SystemExit, match="this example needs yfinance: pip install yfinance; or run it on recorded"
    ):
        run(monkeypatch)
    with_script(monkeypatch, TSLA, "Sorry.")
    assert "needs yfinance: pip install yfinance" in inside("call", "--tools", str(STOCK), QUESTION).stderr


def test_with_yfinance(monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = {"longName": "Tesla, Inc.", "beta": 2.4, "unknown": 1}
    fake = SimpleNamespace(Ticker=lambda symbol: SimpleNamespace(info=theirs))
    monkeypatch.setitem(sys.modules, "yfinance", fake)
    _, second = run(monkeypatch)
    assert '"company_name": "Tesla, Inc.", "sector": null' in second
    assert set(json.loads((STOCK.with_name("stock.json")).read_text())["TSLA"]) <= set(
        json.loads(second.split("<tool_response>\n")[1].split("\n</tool_response>")[0])["content"]
    )
