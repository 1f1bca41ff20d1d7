"""The sample files: every row is read, or reported with its line and what is wrong with it."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from hermes3.train.data.conversation import Conversation, Preference
from hermes3.train.data.files import DataFile, Sample
from hermes3.train.data.rows import Fault

FILES = {  # file -> form, rows that are faults
    "alpaca-999.json.gz": ("alpaca", 0),
    "dpo-messages-10.jsonl.gz": ("preference", 0),
    "dpo-sharegpt-300.json.gz": ("preference", 0),
    "glaive-toolcall-300.json.gz": ("sharegpt", 1),
    "gpteacher-codegen.json.gz": ("alpaca", 0),
    "gpteacher-roleplay.json.gz": ("alpaca", 0),
    "reason-tool-use-50.jsonl.gz": ("messages", 0),
    "sft-messages-500.jsonl.gz": ("messages", 0),
}


def raw_rows(path: Path) -> list[dict[str, Any]]:
    text = gzip.decompress(path.read_bytes()).decode()
    rows: list[dict[str, Any]] = json.loads(text) if text.lstrip()[0] == "[" else [
        json.loads(line) for line in text.splitlines()
    ]
    return rows


def words(row: object) -> list[str]:
    """Every text that somebody says in a row."""
    if isinstance(row, list):
        return [text for part in row for text in words(part)]
    if not isinstance(row, dict):
        return []
    keys = ("instruction", "input", "output", "response", "value", "content")
    said = [row[key] for key in keys if isinstance(row.get(key), str)]
    return said + [text for key, part in row.items() if key != "tools" for text in words(part)]


def test_no_file_is_forgotten(shared_data: Path) -> None:
    assert {path.name for path in (shared_data / "train").iterdir()} == set(FILES)


@pytest.mark.parametrize("name", FILES)
def test_every_row_is_read_or_reported(shared_data: Path, name: str) -> None:
    form, n_faults = FILES[name]
    file = DataFile(shared_data / "train" / name)
    items, rows = list(file), raw_rows(file.path)
    assert file.form == form
    assert [item.number for item in items] == list(range(1, len(rows) + 1))
    assert sum(isinstance(item, Fault) for item in items) == n_faults
    for item, row in zip(items, rows, strict=True):
        if isinstance(item, Sample):
            value = item.value
            assert isinstance(value, Preference) == (form == "preference")
            sides = [value.chosen, value.rejected] if isinstance(value, Preference) else [value]
            _check_nothing_is_lost(row, sides)


def _check_nothing_is_lost(row: dict[str, Any], sides: list[Conversation]) -> None:
    said = "\n".join(message.content or "" for side in sides for message in side.messages)
    calls = [call for side in sides for message in side.messages for call in message.tool_calls]
    for text in words(row):
        if text in said:
            continue
        value = json.loads(text)
        if isinstance(value, dict):
            assert any((call.name, call.arguments) == (value["name"], value["arguments"]) for call in calls)
        else:  # results of several calls, each a message now
            texts = [each["content"] for each in value]
            texts = [each if isinstance(each, str) else json.dumps(each, ensure_ascii=False)
                     for each in texts]  # fmt: skip
            assert all(each in said for each in texts)


def test_the_one_bad_row_is_named_with_its_reason(shared_data: Path) -> None:
    path = shared_data / "train" / "glaive-toolcall-300.json.gz"
    (fault,) = [item for item in DataFile(path) if isinstance(item, Fault)]
    lines = gzip.decompress(path.read_bytes()).decode().splitlines()
    assert lines[fault.line - 1].strip() == "{"
    assert "[150, 350, 800]" in "".join(lines[fault.line - 1 : fault.line + 24])
    assert fault.reason == (
        "conversations[3].tool_calls[0] calls track_calories with arguments that its schema forbids: "
        "['calories_per_item']: [150, 350, 800] is not of type 'number'."
    )
