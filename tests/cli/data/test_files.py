"""`hermes3 data check` and `hermes3 data show` as their users run them."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest

from tests.cli.program import REAL, inside, terminal

GOOD = {"messages": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]}
EMPTY = {"messages": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": ""}]}
NO_MODEL = "no model on this machine"


def written(path: Path, *rows: object) -> str:
    path.write_text("".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows))
    return str(path)


def test_bad_rows_by_line_and_what_is_there(tmp_path: Path, smol_gguf: Path) -> None:
    file = written(tmp_path / "a.jsonl", GOOD, EMPTY, '{"messages": NaN}', GOOD)
    done = inside("data", "check", file, "--model", str(smol_gguf))
    assert done.returncode == 1
    assert done.stdout.splitlines() == [
        f"{file}:2: row 2: messages[1] is an empty assistant turn.",
        f"{file}:3: row 3: holds NaN, which is no JSON",
        f"{file}: messages (rows have messages)",
        "  rows     4: 2 bad, 1 repeated",
        "  turns    user 2, assistant 2",
        "  tokens   68, trained 4 (5.9%)",
        "  lengths  34 to 34, half below 34, 95 % below 34",
    ]
    assert done.stderr == "2 bad rows: mend, or leave out with --skip-bad\n"


def test_skipping_says_how_many(tmp_path: Path) -> None:
    file = written(tmp_path / "a.jsonl", GOOD, EMPTY)
    done = inside("data", "check", file, "--skip-bad")
    assert done.returncode == 0
    assert "1 bad row left out" in done.stderr
    assert NO_MODEL in done.stderr
    assert "tokens" not in done.stdout


def test_a_damaged_file_is_an_error_all_the_same(tmp_path: Path) -> None:
    file = written(tmp_path / "a.json", f"[{json.dumps(GOOD)},")
    done = inside("data", "check", file, "--skip-bad")
    assert done.returncode == 1
    assert "what follows in the file cannot be read" in done.stdout


def test_several_files_and_json(tmp_path: Path) -> None:
    files = [written(tmp_path / f"{name}.jsonl", GOOD, {**GOOD, "id": 7}, *rows) for name, rows in
             (("a", []), ("b", [EMPTY]))]  # fmt: skip
    assert inside("data", "check", files[0]).returncode == 0
    text = inside("data", "check", *files).stdout
    assert re.search(r"^all files\n  rows     5: 1 bad, 3 repeated$", text, re.MULTILINE)
    assert "unread   id (2)" in text
    done = inside("data", "check", *files, "--json")
    assert done.returncode == 1
    found = json.loads(done.stdout)
    assert (found["rows"], found["bad"], found["roles"]) == (5, 1, {"user": 4, "assistant": 4})
    assert [file["format"] for file in found["files"]] == ["messages"] * 2
    (bad,) = found["bad_rows"]
    assert (bad["file"], bad["line"], bad["ends_file"]) == (files[1], 3, False)


def test_a_named_form_and_wrong_names(tmp_path: Path) -> None:
    file = written(tmp_path / "a.jsonl", GOOD)
    done = inside("data", "check", file, "--format", "sharegpt")
    assert "row 1: conversations is missing" in done.stdout
    assert f"{file}: sharegpt (as it was said)" in done.stdout
    done = inside("data", "check", file, "--format", "parquet")
    assert (done.returncode, "format is 'parquet', it must be one of messages" in done.stderr) == (1, True)
    done = inside("data", "check", str(tmp_path / "none.json"))
    assert (done.returncode, "none.json cannot be read: No such file" in done.stderr) == (1, True)


def test_what_a_row_looks_like(tmp_path: Path, smol_gguf: Path) -> None:
    system = {"role": "system", "content": "S\x1b[2J"}
    ask, tell = GOOD["messages"]
    row = {"messages": [system, ask, tell, ask, {**tell, "weight": 0.5}]}
    done = inside("data", "show", written(tmp_path / "a.jsonl", GOOD, row), "2", "--model", str(smol_gguf))
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    assert lines[0].endswith("a.jsonl:2: row 2, messages")
    assert lines[1] == "36 tokens, 4 trained"
    assert "S␛[2J<|im_end|>" in lines[3]
    assert "⟦A<|im_end|>⟧" in lines
    assert "weights beside 0 and 1: 0.5" in lines
    table = lines[lines.index("            id  weight  token") :]
    found = [line.split()[1:] for line in table if "'A'" in line]
    assert found == [["49", "1", "'A'"], ["49", "0.5", "'A'"]]
    assert any(re.match(r" +\.\.\. +\d+ more", line) for line in table)


def test_colours_are_for_terminals(tmp_path: Path, smol_gguf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    shown = inside("data", "show", written(tmp_path / "a.jsonl", GOOD), "1", "--model", str(smol_gguf)).stdout
    assert "\x1b[32mA" in shown  # green
    assert "⟦" not in shown


def test_all_tokens_of_a_pair(tmp_path: Path, smol_gguf: Path) -> None:
    file = written(tmp_path / "a.jsonl", {"prompt": "Q", "chosen": "yes", "rejected": "no"})
    text = inside("data", "show", file, "1", "--all", "--model", str(smol_gguf)).stdout
    assert "row 1, preference" in text
    for name, answer in (("chosen", "yes"), ("rejected", "no")):
        assert f"{name}: 3 tokens, 2 trained\n⟦{answer}<|im_end|>⟧" in text
    assert " more" not in text


def test_rows_that_cannot_be_shown(tmp_path: Path, smol_gguf: Path) -> None:
    file = written(tmp_path / "a.jsonl", GOOD, EMPTY)
    done = inside("data", "show", file, "2", "--model", str(smol_gguf))
    assert done.returncode == 1
    assert done.stdout == f"{file}:2: row 2: messages[1] is an empty assistant turn.\n"
    done = inside("data", "show", file, "3", "--model", str(smol_gguf))
    assert (done.returncode, done.stderr) == (2, f"error: {file} has 2 rows, and no row 3\n")


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="no terminals here")
def test_a_bar_while_reading(tmp_path: Path) -> None:
    rows = [{"instruction": "x" * 300, "output": f"{i}"} for i in range(3_000)]
    at_once = f"from hermes3.cli import status; status.BAR_AFTER = 0; {REAL}"
    with terminal("data", "check", written(tmp_path / "a.jsonl", *rows), program=at_once) as screen:
        screen.expect(r"reading a\.jsonl .*/1\.0 MB")
        screen.expect("3,000: 0 bad")
