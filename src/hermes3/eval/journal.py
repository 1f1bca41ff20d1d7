"""Answers on disk as they come, so that a run that was killed goes on where it was."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from hermes3.errors import RequestError

_FLUSH_S = 2.0
_PAGES = {".md", ".txt", ".svg", ".png"}


def key_of(kind: str, *parts: Sequence[int] | str) -> str:
    """Name of a request: its kind and all that its answer depends on beside the model."""
    digest = hashlib.blake2b(kind.encode(), digest_size=12)
    for part in parts:
        raw = part.encode() if isinstance(part, str) else np.asarray(part, np.int32).tobytes()
        digest.update(len(raw).to_bytes(8, "little") + raw)
    return digest.hexdigest()


def fingerprint(path: Path) -> dict[str, Any]:
    """What tells one model from another: names, sizes and times of its files, but for pages about it."""
    files = [path] if path.is_file() else sorted(each for each in path.iterdir() if each.is_file())
    files = [each for each in files if each.suffix not in _PAGES]
    stats = [(each.name, each.stat().st_size, each.stat().st_mtime_ns) for each in files]
    return {"path": str(path.resolve()), "files": hashlib.sha256(repr(stats).encode()).hexdigest()}


class Journal:
    """A file of answers: a line that says for which model, then a JSON line for each.

    Args:
        path: the file; made where there is none.
        model: see ``fingerprint``.

    Attributes:
        answers: by key, those of earlier runs and of this one.
        n_found: how many were there at the start.

    Raises:
        RequestError: the file is that of another model, or no journal.
    """

    def __init__(self, path: Path, model: dict[str, Any]) -> None:
        self.answers: dict[str, Any] = {}
        self._path = path
        good = self._read(path, model) if path.exists() else 0
        self.n_found = len(self.answers)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("r+b" if path.exists() else "w+b")
        self._file.truncate(good)  # half a line, where the run was killed in the middle of it
        self._file.seek(good)
        self._flushed = time.monotonic()
        if not good:
            self._file.write(json.dumps(model).encode() + b"\n")

    def _read(self, path: Path, model: dict[str, Any]) -> int:
        raw = path.read_bytes()
        end = raw.rfind(b"\n") + 1
        if not end:
            return 0
        try:
            head, *lines = map(json.loads, raw[:end].splitlines())
            self.answers = dict(lines)
        except (ValueError, TypeError) as error:
            raise RequestError(f"{path} is damaged ({error}): delete it, or name another folder") from error
        if head != model:
            raise RequestError(
                f"{path} holds answers of another model or of files that have changed since ({head}): "
                "start anew with --fresh, or name another folder with --out"
            )
        return end

    def add(self, key: str, answer: Any) -> None:
        """Keeps an answer; it is on disk after two seconds at most of adding, or when the journal closes."""
        self.answers[key] = answer
        self._file.write(json.dumps([key, answer]).encode() + b"\n")
        if time.monotonic() - self._flushed > _FLUSH_S:
            self._file.flush()
            self._flushed = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
