"""Rows out of files: JSON or JSON Lines, gzipped or not, one row at a time.

Whatever a file holds, memory is bounded by ``MAX_ROW``. A row that cannot be read is given out as a ``Fault``
with its line, and reading goes on with the next; where there is no next one to be found (a truncated
archive, an array whose syntax is broken), the fault says that the file ends there.
"""

from __future__ import annotations

import codecs
import gzip
import json
import math
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

from hermes3.errors import FormatError

MAX_ROW = 4 << 20  # bytes of a line, characters of an array's element; 128 Ki tokens are about 0.5 MB of text
MAX_DEPTH = 64  # brackets within brackets
CHUNK = 1 << 16
_TOO_LONG = f"is longer than {MAX_ROW >> 20} MiB"

_SPACE = re.compile(r"[ \t\r\n]*")
_BRACKET = re.compile(r"[\[{]")
_HALF = re.compile("[\ud800-\udfff]")  # what bytes that are no UTF-8 are decoded to
_ESCAPED_HALF = re.compile(r"\\u[dD][89a-fA-F]")


@dataclass(frozen=True, slots=True)
class Row:
    """One row as it stands in its file: ``number`` counts rows from 1, ``line`` is where it begins."""

    line: int
    number: int
    value: Any


@dataclass(frozen=True, slots=True)
class Fault:
    """A row that cannot be used, and why.

    Attributes:
        path, line, number: the file; where the row begins; which row it is, from 1.
        reason: what is wrong with it.
        is_end: what follows in the file cannot be read.
    """

    path: Path
    line: int
    number: int
    reason: str
    is_end: bool = False

    def __str__(self) -> str:
        rest = "; what follows in the file cannot be read" if self.is_end else ""
        return f"{self.path}:{self.line}: row {self.number}: {self.reason}{rest}"


class Rows:
    """The rows of one file, to be iterated over once.

    Attributes:
        path: the file.
        n_bytes: its size on disk.

    Raises:
        FormatError: it is no file, or cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._file = path.open("rb")
            self.n_bytes = path.stat().st_size
        except OSError as error:
            raise FormatError(f"{path} cannot be read: {error.strerror}") from error

    @property
    def n_read(self) -> int:
        """Bytes of the file that were read so far."""
        return self.n_bytes if self._file.closed else self._file.tell()

    def __iter__(self) -> Iterator[Row | Fault]:
        self._line, self._number = 0, 0
        with self._file as file:
            try:
                is_gzip = file.read(2) == b"\x1f\x8b"
                file.seek(0)
                stream = cast(BinaryIO, gzip.GzipFile(fileobj=file)) if is_gzip else file
                yield from self._rows(stream)
            except (EOFError, zlib.error, OSError) as error:
                yield self._fault(self._line + 1, f"the file is damaged or cut: {error}", is_end=True)

    def _rows(self, stream: BinaryIO) -> Iterator[Row | Fault]:
        head = stream.read(3).removeprefix(codecs.BOM_UTF8) + stream.read(CHUNK)
        while head and not head.strip():
            self._line += head.count(b"\n")
            head = stream.read(CHUNK)
        source = _Source(head, stream)
        if head.lstrip()[:1] == b"[":
            yield from self._elements(_Window(source, self._line + 1))
        else:
            yield from self._lines(source)
        if not self._number:
            yield self._fault(1, "the file holds no rows", is_end=True)

    def _lines(self, source: _Source) -> Iterator[Row | Fault]:
        while raw := source.readline(MAX_ROW):
            self._line += 1
            line = self._line
            if len(raw) >= MAX_ROW and not raw.endswith(b"\n"):
                yield self._fault(line, _TOO_LONG)
                while raw and not raw.endswith(b"\n"):
                    raw = source.readline(CHUNK)
            elif raw.strip():
                yield self._parsed(line, raw)

    def _parsed(self, line: int, raw: bytes) -> Row | Fault:
        try:
            text = raw.decode()
        except UnicodeDecodeError as error:
            return self._fault(line, f"is not UTF-8 (byte {error.start + 1})")
        strict = _Strict()
        try:
            value = strict.decoder.decode(text)
        except RecursionError:
            return self._fault(line, _too_deep())
        except json.JSONDecodeError as error:
            return self._fault(line, f"is not JSON: {error.msg} (column {error.pos + 1})")
        return self._checked(line, value, text, strict.fault)

    def _elements(self, window: _Window) -> Iterator[Row | Fault]:
        """The elements of an array."""
        window.skip()
        is_first = True
        while True:
            char = window.peek()
            if char == "]" and is_first:
                break
            line = window.line
            strict = _Strict()
            try:
                value, text = window.element(strict.decoder)
            except _BrokenError as error:
                yield self._fault(line, str(error), is_end=True)
                return
            yield self._checked(line, value, text, strict.fault)
            is_first, char = False, window.peek()
            if char != ",":
                break
            window.skip()
        self._line = window.line
        if char != "]":
            found = repr(char) if char else "the end of the file"
            reason = f"{found} stands where ',' or ']' should, on line {window.line}"
            yield self._fault(window.line, reason, is_end=True)
            return
        window.skip()
        if window.peek():
            yield self._fault(window.line, f"{window.peek()!r} stands behind the array's end", is_end=True)

    def _checked(self, line: int, value: Any, text: str, fault: str | None) -> Row | Fault:
        fault = fault or _fault_of(text, value)
        if fault is None and not isinstance(value, dict):
            fault = f"is {_kind(value)}; a row is an object"
        if fault is not None:
            return self._fault(line, fault)
        self._number += 1
        return Row(line, self._number, value)

    def _fault(self, line: int, reason: str, *, is_end: bool = False) -> Fault:
        self._number += 1
        return Fault(self.path, line, self._number, reason, is_end)


class _BrokenError(Exception):
    """An element of an array whose end cannot be found."""


class _Strict:
    """A decoder that finds the end of a value even if there is something in it that is not allowed."""

    def __init__(self) -> None:
        self.fault: str | None = None
        self.decoder = json.JSONDecoder(
            object_pairs_hook=self._object, parse_constant=self._constant,
            parse_int=self._int, parse_float=self._float,
        )  # fmt: skip

    def _object(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        values = dict(pairs)
        if len(values) < len(pairs):
            seen: set[str] = set()
            twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
            self.fault = f"has the key {twice!r:.60} twice"
        return values

    def _constant(self, name: str) -> None:
        self.fault = f"holds {name}, which is no JSON"

    def _int(self, digits: str) -> int:
        if len(digits) > 400:
            self.fault = f"holds an integer of {len(digits)} digits"
            return 0
        return int(digits)

    def _float(self, digits: str) -> float:
        value = float(digits)
        if math.isinf(value):
            self.fault = f"holds the number {digits:.40}, which is too large"
        return value


class _Source:
    """A stream whose beginning was read already."""

    def __init__(self, head: bytes, stream: BinaryIO) -> None:
        self._head = head
        self._stream = stream

    def read(self, n: int) -> bytes:
        if self._head:
            head, self._head = self._head, b""
            return head
        return self._stream.read(n)

    def readline(self, limit: int) -> bytes:
        """As a file's."""
        if not self._head:
            return self._stream.readline(limit)
        end = self._head.find(b"\n") + 1
        if end:
            line, self._head = self._head[:end], self._head[end:]
            return line
        line, self._head = self._head, b""
        return line + self._stream.readline(max(0, limit - len(line)))


class _Window:
    """Text of a stream from where reading is, as much of it as is needed."""

    def __init__(self, source: _Source, line: int) -> None:
        self.line = line
        self._source = source
        self._decode = codecs.getincrementaldecoder("utf-8")("surrogateescape").decode
        self._text, self._at, self._is_ended = "", 0, False

    def peek(self) -> str:
        """The next character that is no space; empty at the end."""
        while True:
            match = _SPACE.match(self._text, self._at)
            self._advance(match.end() if match else self._at)
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._more(CHUNK):
                return ""

    def skip(self) -> None:
        """One character further."""
        self.peek()
        self._at += 1

    def element(self, decoder: json.JSONDecoder) -> tuple[Any, str]:
        """The next value and its text.

        Raises:
            _BrokenError: it is no JSON.
        """
        size = CHUNK
        while True:
            try:
                value, end = decoder.raw_decode(self._text, self._at)
                if end < len(self._text) or not self._more(CHUNK):  # a number may go on
                    text = self._text[self._at : end]
                    self._advance(end)
                    return value, text
            except RecursionError:
                raise _BrokenError(_too_deep()) from None
            except json.JSONDecodeError as error:
                if len(self._text) - self._at > MAX_ROW:
                    raise _BrokenError(f"{_TOO_LONG}, or {self._said(error)}") from error
                if not self._more(size):
                    raise _BrokenError(self._said(error)) from error
                size *= 2

    def _said(self, error: json.JSONDecodeError) -> str:
        line = self.line + self._text.count("\n", self._at, error.pos)
        return f"is not JSON: {error.msg} (line {line}, column {error.colno})"

    def _more(self, n: int) -> bool:
        if self._is_ended:
            return False
        raw = self._source.read(n)
        self._is_ended = not raw
        self._text = self._text[self._at :] + self._decode(raw, self._is_ended)
        self._at = 0
        return True

    def _advance(self, to: int) -> None:
        self.line += self._text.count("\n", self._at, to)
        self._at = to


def _fault_of(text: str, value: Any) -> str | None:
    """What is wrong with a value that was read well."""
    if len(text) > MAX_ROW:
        return _TOO_LONG
    if len(_BRACKET.findall(text)) > MAX_DEPTH and _depth(value) > MAX_DEPTH:
        return _too_deep()
    if _HALF.search(text):
        return "is not UTF-8"
    if _ESCAPED_HALF.search(text):
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            return "holds half a character (a lone surrogate)"
    return None


def _depth(value: Any) -> int:
    """How deep lists and objects stand within each other."""
    depth, level = 0, [value]
    while level:
        depth += 1
        level = [part for each in level if isinstance(each, dict | list)
                 for part in (each.values() if isinstance(each, dict) else each)]  # fmt: skip
    return depth - 1


def _too_deep() -> str:
    return f"is nested deeper than {MAX_DEPTH} levels"


def _kind(value: Any) -> str:
    kinds = {list: "an array", str: "a string", bool: "true or false", type(None): "null"}
    return kinds.get(type(value), "a number")
