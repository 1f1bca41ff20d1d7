"""One file: which form it has, its samples, and what of it cannot be used."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hermes3.errors import RequestError
from hermes3.train.data.conversation import Conversation, Preference
from hermes3.train.data.forms import FORMS, READ, Form, form_of, sample_of
from hermes3.train.data.rows import Fault, Row, Rows

MAX_UNREAD = 100  # fields that are counted by name


@dataclass(frozen=True, slots=True)
class Sample:
    """A row that can be learned from: ``number`` counts rows from 1, ``line`` is where it begins."""

    line: int
    number: int
    value: Conversation | Preference


class DataFile:
    """A file of conversations or pairs, to be iterated over once: each row is a sample or a fault.

    Args:
        path: JSON (an array of objects) or JSON Lines, gzipped or not.
        form: messages, sharegpt, alpaca or preference; None for what the first row shows.

    Attributes:
        form: as given or found; None until a row shows it.
        why: what it was found by.
        unread: fields of rows that mean nothing here, with the number of rows that have them.

    Raises:
        FormatError: there is no such file, or it cannot be opened.
        RequestError: another form than these.
    """

    def __init__(self, path: Path, form: str | None = None) -> None:
        if form is not None and form not in FORMS:
            known = ", ".join(FORMS)
            raise RequestError(f"format is {form!r:.60}, it must be one of {known}", param="format")
        self.path = path
        self.form: Form | None = form
        self.why = "as it was said" if form else "no row shows its form"
        self.unread: Counter[str] = Counter()
        self._rows = Rows(path)

    @property
    def n_bytes(self) -> int:
        """Size on disk."""
        return self._rows.n_bytes

    @property
    def n_read(self) -> int:
        """Bytes that were read so far."""
        return self._rows.n_read

    def __iter__(self) -> Iterator[Sample | Fault]:
        for row in self.rows():
            yield row if isinstance(row, Fault) else sample(self.path, self.form, row)

    def rows(self) -> Iterator[Row | Fault]:
        """Rows that ``sample`` has not read yet; their form is known before they are given out."""
        for row in self._rows:
            if isinstance(row, Row):
                self._look_at(row)
            yield row

    def _look_at(self, row: Row) -> None:
        if self.form is None and (found := form_of(row.value)) is not None:
            self.form, self.why = found
        if self.form is not None:
            names = (key for key in row.value if key not in READ)
            self.unread.update(key for key in names if key in self.unread or len(self.unread) < MAX_UNREAD)


def sample(path: Path, form: Form | None, row: Row) -> Sample | Fault:
    """What a row says, or what is wrong with it.

    Args:
        path: of the file.
        form: of its rows; None where none was found.
    """
    if form is None:
        shown = ", ".join(map(str, row.value))[:100] or "none"
        reason = f"is in none of the forms {', '.join(FORMS)}; its fields: {shown}"
        return Fault(path, row.line, row.number, reason)
    try:
        return Sample(row.line, row.number, sample_of(row.value, form))
    except RequestError as error:
        return Fault(path, row.line, row.number, str(error))
