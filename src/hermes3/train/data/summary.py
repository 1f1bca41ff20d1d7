"""What a file of training data holds, in numbers."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from hermes3.errors import RequestError
from hermes3.train.data.conversation import Conversation, Preference
from hermes3.train.data.files import DataFile, Sample
from hermes3.train.data.rendered import Renderer
from hermes3.train.data.rows import Fault
from hermes3.train.examples import Pair


class Summary:
    """Counts of one file, or of several.

    Attributes:
        n_rows, n_bad, n_repeated: rows; those that cannot be used; those that say what one before said.
        n_calls, n_rewritten: calls of tools; rows with descriptions of tools made into JSON Schema.
        roles: messages by who speaks, what both sides of a pair share once.
        unread: fields that mean nothing here, with the number of rows that have them.
        n_trained: tokens that something is learned from.
        lengths: tokens of each row that can be used; empty without a tokenizer.
    """

    def __init__(self) -> None:
        self.n_rows = self.n_bad = self.n_repeated = self.n_calls = self.n_rewritten = self.n_trained = 0
        self.roles: Counter[str] = Counter()
        self.unread: Counter[str] = Counter()
        self.lengths: list[int] = []
        self._seen: set[bytes] = set()

    def add(self, sample: Conversation | Preference) -> None:
        """A row that can be used."""
        self.n_rows += 1
        first = sample.chosen if isinstance(sample, Preference) else sample
        messages = list(first.messages)
        if isinstance(sample, Preference):
            messages += sample.rejected.messages[sample.n_shared :]
        self.roles.update(message.role for message in messages)
        self.n_calls += sum(len(message.tool_calls) for message in messages)
        self.n_rewritten += first.is_rewritten
        key = hashlib.blake2b(repr(messages).encode("utf-8", "replace"), digest_size=8).digest()
        self.n_repeated += key in self._seen
        self._seen.add(key)

    def add_bad(self) -> None:
        """A row that cannot be used."""
        self.n_rows += 1
        self.n_bad += 1

    def add_tokens(self, n: int, n_trained: int) -> None:
        """The size of a row that can be used."""
        self.lengths.append(n)
        self.n_trained += n_trained

    def join(self, other: Summary) -> None:
        """The counts of another file, too."""
        for name in ("n_rows", "n_bad", "n_calls", "n_rewritten", "n_trained"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.n_repeated += other.n_repeated + len(self._seen & other._seen)
        self._seen |= other._seen
        self.roles += other.roles
        self.unread += other.unread
        self.lengths += other.lengths

    def as_json(self) -> dict[str, Any]:
        """All of it."""
        out: dict[str, Any] = {
            "rows": self.n_rows, "bad": self.n_bad, "repeated": self.n_repeated, "roles": dict(self.roles),
            "tool_calls": self.n_calls, "rewritten_tools": self.n_rewritten, "unread": dict(self.unread),
        }  # fmt: skip
        if self.lengths:
            low, median, high, most = self._quantiles()
            out |= {"tokens": sum(self.lengths), "trained_tokens": self.n_trained}
            out["lengths"] = {"min": low, "median": median, "p95": high, "max": most}
        return out

    def lines(self) -> Iterator[str]:
        """All of it, for people."""
        yield f"rows     {self.n_rows:,}: {self.n_bad:,} bad, {self.n_repeated:,} repeated"
        roles = ", ".join(f"{role} {n:,}" for role, n in self.roles.most_common()) or "none"
        yield f"turns    {roles}" + (f"; {self.n_calls:,} calls of tools" if self.n_calls else "")
        if self.lengths:
            total = sum(self.lengths)
            yield f"tokens   {total:,}, trained {self.n_trained:,} ({self.n_trained / total:.1%})"
            low, median, high, most = self._quantiles()
            yield f"lengths  {low:,} to {most:,}, half below {median:,}, 95 % below {high:,}"
        if self.n_rewritten:
            yield f"tools    of {self.n_rewritten:,} rows described in another form, read as JSON Schema"
        if self.unread:
            yield "unread   " + ", ".join(f"{name} ({n:,})" for name, n in self.unread.most_common(12))

    def _quantiles(self) -> list[int]:
        found = np.quantile(self.lengths, [0, 0.5, 0.95, 1], method="inverted_cdf")
        return [int(each) for each in found]


class Check:
    """Reads a file and counts what is in it.

    Args:
        path, form: as ``DataFile``.
        renderer: counts tokens; None to leave them out.

    Attributes:
        file: what is read.
        summary: what was found so far.
    """

    def __init__(self, path: Path, renderer: Renderer | None, form: str | None = None) -> None:
        self.file = DataFile(path, form)
        self.summary = Summary()
        self._renderer = renderer

    def __iter__(self) -> Iterator[Fault | None]:
        """For each row its fault, or None where it has none."""
        for item in self.file:
            fault = item if isinstance(item, Fault) else self._fault_of(item)
            if fault is not None:
                self.summary.add_bad()
            yield fault
        self.summary.unread = self.file.unread

    def _fault_of(self, item: Sample) -> Fault | None:
        if self._renderer is not None:
            try:
                made = self._renderer.rendered(item.value)
            except RequestError as error:
                return Fault(self.file.path, item.line, item.number, str(error))
            sides = [made.chosen, made.rejected] if isinstance(made, Pair) else [made]
            weights = [side.weights if isinstance(made, Pair) else side.weights[1:] for side in sides]
            self.summary.add_tokens(len(made), sum(int(np.count_nonzero(each)) for each in weights))
        self.summary.add(item.value)
        return None
