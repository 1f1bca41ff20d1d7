"""Rows out of files: the same in every layout, and nothing lost where a file is hostile."""

from __future__ import annotations

import gzip
import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hermes3.errors import FormatError
from hermes3.train.data import rows as module
from hermes3.train.data.rows import Fault, Row, Rows

SMALL = settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
ROWS = st.lists(st.dictionaries(st.text(max_size=8), VALUES, max_size=4), min_size=1, max_size=6)


def read(path: Path, raw: bytes | str) -> list[Row | Fault]:
    path.write_bytes(raw.encode() if isinstance(raw, str) else raw)
    return list(Rows(path))


@SMALL
@given(rows=ROWS, ascii=st.booleans(), indent=st.sampled_from([None, 0, 3]), chunk=st.integers(1, 40),
       is_gzip=st.booleans(), bom=st.booleans())  # fmt: skip
def test_every_layout_gives_the_rows(
    tmp_path: Path, rows: list[dict[str, Any]], ascii: bool, indent: int | None, chunk: int, is_gzip: bool,
    bom: bool,
) -> None:  # fmt: skip
    array = json.dumps(rows, ensure_ascii=ascii, indent=indent)
    lines = "\r\n\n".join(json.dumps(row, ensure_ascii=ascii) for row in rows)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "CHUNK", chunk)
        for text in (array, lines, f"\n \n{array}\n", f"\n{lines}\n"):
            raw = text.encode()
            raw = b"\xef\xbb\xbf" + raw if bom else raw
            items = read(tmp_path / "x", gzip.compress(raw) if is_gzip else raw)
            assert [item.value for item in items if isinstance(item, Row)] == rows, items
            assert [item.number for item in items] == list(range(1, len(rows) + 1))


def test_lines_are_where_rows_begin(tmp_path: Path) -> None:
    assert [row.line for row in read(tmp_path / "x", '{"a": 1}\n\n{"a": 2}\n')] == [1, 3]
    assert [row.line for row in read(tmp_path / "x", '\n[\n {"a":\n  1}, {},\n {}]')] == [3, 4, 5]


BAD_ROWS = [  # a row in the middle of two good ones, and what is said of it
    ('{"a": NaN}', "holds NaN, which is no JSON"),
    ('{"a": -Infinity}', "holds -Infinity"),
    ('{"a": 1e999}', "holds the number 1e999, which is too large"),
    ('{"a": ' + "9" * 5000 + "}", "holds an integer of 5000 digits"),
    ('{"a": 1, "b": {"c": 1, "c": 2}}', "has the key 'c' twice"),
    ("[1, 2]", "is an array; a row is an object"),
    ('"text"', "is a string; a row is an object"),
    ("null", "is null; a row is an object"),
    ("17", "is a number; a row is an object"),
    ('{"a": "\\ud800"}', "half a character"),
    (json.dumps({"a": "x" * (5 << 20)}), "is longer than 4 MiB"),
    ('{"a": ' + "[" * 70 + "]" * 70 + "}", "is nested deeper than 64 levels"),
]  # fmt: skip


@pytest.mark.parametrize(("bad", "reason"), BAD_ROWS, ids=[reason[:24] for _, reason in BAD_ROWS])
def test_a_bad_row_is_reported_and_the_others_are_read(tmp_path: Path, bad: str, reason: str) -> None:
    for text in (f'{{"n": 1}}\n{bad}\n{{"n": 2}}', f'[{{"n": 1}},\n{bad}\n,\n{{"n": 2}}]'):
        first, fault, last = read(tmp_path / "x", text)
        assert isinstance(fault, Fault)
        assert reason in fault.reason
        assert (fault.line, fault.number, fault.is_end) == (2, 2, False)
        assert [getattr(row, "value", None) for row in (first, last)] == [{"n": 1}, {"n": 2}]


BAD_LINES = [
    (b'{"a": }', "is not JSON: Expecting value (column 7)"),
    (b'{"a": 1} {"a": 2}', "is not JSON: Extra data (column 10)"),
    (b'{"a": "\xff"}', "is not UTF-8 (byte 8)"),
    (b"[" * 100_000, "is nested deeper than 64 levels"),
    (b'{"a": ' * 100_000, "is nested deeper than 64 levels"),
    (b'{"a": "' + b"x" * (5 << 20) + b'"}', "is longer than 4 MiB"),
    (b"x" * (4 << 20), "is longer than 4 MiB"),
]


@pytest.mark.parametrize(("bad", "reason"), BAD_LINES, ids=[reason[:24] for _, reason in BAD_LINES])
def test_a_broken_line_costs_itself_alone(tmp_path: Path, bad: bytes, reason: str) -> None:
    first, fault, last = read(tmp_path / "x", b'{"n": 1}\n' + bad + b'\n{"n": 2}\n')
    assert isinstance(fault, Fault)
    assert reason in fault.reason
    assert (fault.line, fault.number, fault.is_end) == (2, 2, False)
    assert isinstance(first, Row)
    assert isinstance(last, Row)
    assert last.line == 3


BAD_FILES = [
    (b"", 0, "holds no rows"),
    (b" \n\n", 0, "holds no rows"),
    (b"[]", 0, "holds no rows"),
    (b'[{"n": 1},\n{"a": }, {}]', 1, "is not JSON: Expecting value (line 2, column 7)"),
    (b'[{"n": 1}', 1, "the end of the file stands where"),
    (b'[{"n": 1} {"n": 2}]', 1, "'{' stands where ',' or ']' should, on line 1"),
    (b'[{"n": 1}] {"n": 2}', 1, "stands behind the array's end"),
    (b'[{"n": 1}, ]', 1, "is not JSON"),
    (b"[{\"n\": 1}, " + b"[" * 100_000, 1, "is nested deeper than 64 levels"),
    (b'[{"n": 1}, {"a": "' + b"x" * (20 << 20) + b'"}]', 1, "is longer than 4 MiB"),
    (gzip.compress(b'{"n": 1}\n' * 1000)[:-12], 1000, "is damaged or cut"),
    (gzip.compress(b'[{"n": 1}]')[:-4] + b"\0\0\0\0", 1, "is damaged or cut"),
    (b"\x1f\x8b\x08" + b"\xff" * 40, 0, "is damaged or cut"),
]  # fmt: skip


@pytest.mark.parametrize(("raw", "n_good", "reason"), BAD_FILES, ids=range(len(BAD_FILES)))
def test_where_a_file_cannot_be_read_on_it_is_said(
    tmp_path: Path, raw: bytes, n_good: int, reason: str
) -> None:
    *good, fault = read(tmp_path / "x", raw)
    assert all(isinstance(row, Row) for row in good)
    assert len(good) <= n_good
    assert len(good) == n_good or raw[:2] == b"\x1f\x8b"  # a cut archive loses its last block
    assert isinstance(fault, Fault)
    assert fault.is_end
    assert reason in fault.reason


@SMALL
@given(raw=st.binary(max_size=200), keep=st.integers(0, 60))
def test_no_bytes_make_it_fail(tmp_path: Path, raw: bytes, keep: int) -> None:
    good = b'[{"a": [1, "x"]}, {"b": null}]'
    for data in (raw, good[:keep] + raw, gzip.compress(good)[:keep] + raw):
        items = read(tmp_path / "x", data)
        assert items
        assert [item.number for item in items] == list(range(1, len(items) + 1))


@pytest.mark.parametrize("is_array", [False, True])
def test_memory_does_not_grow_with_the_file(tmp_path: Path, is_array: bool) -> None:
    row = json.dumps({"text": "x" * 10_000})
    text = f"[{', '.join([row] * 3_000)}]" if is_array else f"{row}\n" * 3_000
    path = tmp_path / "x.gz"
    path.write_bytes(gzip.compress(text.encode(), 1))
    tracemalloc.start()
    assert sum(isinstance(item, Row) for item in Rows(path)) == 3_000
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2 << 20


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"nothing\.json cannot be read: No such file"):
        Rows(tmp_path / "nothing.json")
    with pytest.raises(FormatError, match="cannot be read: Is a directory"):
        Rows(tmp_path)
