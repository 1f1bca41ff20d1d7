"""`hermes3 data check`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hermes3.cli import status
from hermes3.cli.data.reading import renderer_of
from hermes3.cli.screen import on_screen
from hermes3.train.data.rows import Fault
from hermes3.train.data.summary import Check, Summary

STEP = 1 << 16  # bytes between changes of the bar


def run(files: list[Path], model: str | None, form: str | None, skip_bad: bool, json_only: bool) -> bool:
    """Print bad rows and a summary; whether all is well.

    Raises:
        Hermes3Error: a file cannot be opened, the form is unknown, or the model cannot be had.
    """
    renderer = renderer_of(model, needed=False)
    total = Summary()
    checks = [Check(path, renderer, form) for path in files]
    faults: list[Fault] = []
    is_well = True
    for check in checks:
        for fault in _faults(check):
            is_well &= skip_bad and not fault.is_end
            if json_only:
                faults.append(fault)
            else:
                print(_line(str(fault)))
        total.join(check.summary)
    if json_only:
        _print_json(checks, total, faults)
    else:
        _print_text(checks, total)
        _say_end(total.n_bad, skip_bad, is_well)
    return is_well


def _faults(check: Check) -> Iterator[Fault]:
    """The faults of a file; a bar says how far it is, and goes while one is printed."""
    bar = status.progress()
    label, n_read = f"reading {check.file.path.name}", 0
    bar.begin(label, check.file.n_bytes, 0)
    try:
        for fault in check:
            if check.file.n_read - n_read >= STEP:
                n_read, before = check.file.n_read, n_read
                bar.advance(n_read - before)
            if fault is not None:
                bar.end()
                yield fault
                bar.begin(label, check.file.n_bytes, n_read)
    finally:
        bar.end()


def _print_text(checks: list[Check], total: Summary) -> None:
    for check in checks:
        print(_line(f"{check.file.path}: {check.file.form or 'unknown'} ({check.file.why})"))
        print(*(_line(f"  {line}") for line in check.summary.lines()), sep="\n")
    if len(checks) > 1:
        print("all files")
        print(*(_line(f"  {line}") for line in total.lines()), sep="\n")


def _say_end(n_bad: int, skip_bad: bool, is_well: bool) -> None:
    rows = "1 bad row" if n_bad == 1 else f"{n_bad:,} bad rows"
    if n_bad and is_well:
        status.note(f"{rows} left out")
    elif n_bad and skip_bad:
        status.note(f"{rows}, and a file that cannot be read to its end: mend it")
    elif n_bad:
        status.note(f"{rows}: mend, or leave out with --skip-bad")


def _print_json(checks: list[Check], total: Summary, faults: list[Fault]) -> None:
    files = [{"file": str(check.file.path), "format": check.file.form, "why": check.file.why,
              **check.summary.as_json()} for check in checks]  # fmt: skip
    bad: list[dict[str, Any]] = [
        {"file": str(fault.path), "line": fault.line, "row": fault.number, "reason": fault.reason,
         "ends_file": fault.is_end} for fault in faults
    ]  # fmt: skip
    print(json.dumps({**total.as_json(), "files": files, "bad_rows": bad}, ensure_ascii=False))


def _line(text: str) -> str:
    """A line for standard output, without what could move a terminal's cursor."""
    return on_screen(sys.stdout)(" ".join(text.splitlines()))
