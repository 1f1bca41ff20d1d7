"""The files of a run: conversations that were kept, and those that were not, with the reason.

Lines are added in the order of the tasks, each whole. A run that was killed goes on behind the last one.
"""

from __future__ import annotations

import fcntl
import json
from collections.abc import Collection
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

from hermes3.errors import CapacityError, FormatError, RequestError


class Output:
    """Where conversations go: ``path``, and beside it ``NAME.dropped.jsonl`` for those left out.

    Args:
        path: of the training data, JSON Lines.
        known: ids of all tasks; what the files hold must be among them.

    Attributes:
        kept: rows that an earlier run kept, in their order.
        done: ids of all that were decided about.

    Raises:
        CapacityError: another process writes the file.
        RequestError: it holds rows of other tasks or settings.
        FormatError: it cannot be opened, or is not a file of such rows.
    """

    def __init__(self, path: Path, known: Collection[str]) -> None:
        self.path = path
        self.dropped_path = path.with_name(f"{path.stem}.dropped.jsonl")
        self._kept_file = _opened(path)
        try:
            self._dropped_file = _opened(self.dropped_path)
        except BaseException:
            self._kept_file.close()
            raise
        try:
            self._read(known)
        except BaseException:
            self.close()
            raise

    def _read(self, known: Collection[str]) -> None:
        path = self.path
        self.kept = _read(self._kept_file, path)
        dropped = _read(self._dropped_file, self.dropped_path)
        self.done = {_id(row, path) for row in self.kept} | {_id(row, self.dropped_path) for row in dropped}
        self.n_dropped = len(dropped)
        others = self.done - set(known)
        if others:
            raise RequestError(
                f"{path} holds {len(others)} rows of other prompts, tools, teacher or settings than these; "
                "name another file, or ask for the same again",
                param="out",
            )

    def keep(self, row: dict[str, Any]) -> None:
        """One more row of training data."""
        self.kept.append(row)
        _add(self._kept_file, row)

    def drop(self, row: dict[str, Any]) -> None:
        """One more that was left out."""
        self.n_dropped += 1
        _add(self._dropped_file, row)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Lets others write the files."""
        self._kept_file.close()
        self._dropped_file.close()


def _opened(path: Path) -> BinaryIO:
    try:
        file = path.open("a+b")
    except OSError as error:
        raise FormatError(f"{path} cannot be opened: {error.strerror}") from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.close()
        raise CapacityError(f"{path} is being written by another process; wait for its end") from error
    return file


def _read(file: BinaryIO, path: Path) -> list[dict[str, Any]]:
    """The rows of a file; half a line at its end, of a run that was killed, is cut off."""
    file.seek(0)
    raw = file.read()
    end = raw.rfind(b"\n") + 1
    file.truncate(end)
    try:
        return [json.loads(line) for line in raw[:end].splitlines()]
    except ValueError as error:
        raise FormatError(f"{path} is damaged: {error}; name another file") from error


def _id(row: Any, path: Path) -> str:
    try:
        found = row["provenance"]["id"]
    except (TypeError, KeyError) as error:
        raise FormatError(f"{path} holds rows without provenance; name another file") from error
    return str(found)


def _add(file: BinaryIO, row: dict[str, Any]) -> None:
    file.write(json.dumps(row, ensure_ascii=False).encode("utf-8", "replace") + b"\n")
    file.flush()
