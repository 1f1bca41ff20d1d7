"""`hermes3 eval` as people type it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.program import hermes3


def test_tables_and_files(smol_gguf: Path, shared_data: Path, tmp_path: Path) -> None:
    words = ("eval", str(smol_gguf), "--suite", "arc_easy", "--limit", "2", "--ctx", "1024")
    done = hermes3(*words, "--data", str(shared_data / "eval"), "--out", str(tmp_path / "out"))
    assert done.returncode == 0, done.stderr
    assert "|arc_easy|      1|none  |     0|acc     |↑  |" in done.stdout
    assert "plain mean over the tasks" in done.stdout
    names = {file.name for file in (tmp_path / "out").iterdir()}
    assert names == {"answers.jsonl", "results.json", "tables.txt", "report.md", "plot.svg"}
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["hermes3"]["n_requests"] == 8
    assert "torch" not in done.stderr


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("--suite", "boolq", "--data", "nowhere"), "--data nowhere is no folder"),
        (("--suite", "bfcl", "--data", ".", "--chat-template"), "--chat-template means nothing for bfcl"),
        (("--suite", "json"), "needs --data"),
        (("--suite", "boolq", "--enforce"), "--enforce means nothing for boolq"),
        (("--suite", "mmlu", "--data", "."), "the card's tasks alone"),
    ],
)
def test_what_means_nothing_is_said(
    smol_gguf: Path, tmp_path: Path, words: tuple[str, ...], complaint: str
) -> None:
    done = hermes3("eval", str(smol_gguf), *words, "--out", str(tmp_path))
    assert done.returncode in (1, 2)
    assert complaint in done.stderr
    assert "Traceback" not in done.stderr
