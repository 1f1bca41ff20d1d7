"""Results as the model card prints them: read, written, averaged."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import groupby
from typing import Any, NamedTuple

FORMULA = (
    "plain mean over the tasks, each counted once: acc_norm where the task has one, else acc; "
    "stderr = sqrt(p (1 - p) / (n - 1))"
)
_HEADERS = ("Tasks", "Version", "Filter", "n-shot", "Metric", "", "Value", "", "Stderr")
_WIDTHS = (0, 7, 6, 6, 8, 3, 6, 3, 6)
_RIGHT = {1, 3, 6, 8}  # columns of numbers


class Row(NamedTuple):
    """One line of a table: one metric of one task, values from 0 to 1."""

    task: str
    version: str
    filter: str
    n_shot: int
    metric: str
    value: float
    stderr: float | None


def rows_of(results: Mapping[str, Any], tasks: Iterable[str]) -> list[Row]:
    """Rows out of lm-eval's results, tasks in the order given, metrics by name."""
    rows = []
    for task in tasks:
        values = results["results"][task]
        for key in sorted(key for key, value in values.items() if isinstance(value, float | int)):
            metric, _, name = key.partition(",")
            if not name or metric.endswith("_stderr"):
                continue
            stderr = values.get(f"{metric}_stderr,{name}")
            version = results["versions"].get(task, "")
            rows.append(
                Row(
                    task,
                    f"{version:g}" if isinstance(version, float | int) else str(version),
                    name,
                    int(results["n-shot"].get(task, 0)),
                    metric,
                    float(values[key]),
                    float(stderr) if isinstance(stderr, float | int) else None,
                )
            )
    return rows


def average(rows: Iterable[Row]) -> float:
    """The card's average of a table, in percent: see FORMULA."""
    chosen = []
    for _, of_task in groupby(rows, key=lambda row: row.task):
        values = {row.metric: row.value for row in of_task}
        chosen.append(values.get("acc_norm", values.get("acc", next(iter(values.values())))))
    return 100 * sum(chosen) / len(chosen)


def write(rows: Iterable[Row]) -> str:
    """The card's text table."""
    cells, last = [], ""
    for row in rows:
        is_first = row.task != last
        last = row.task
        head = (row.task, row.version) if is_first else ("", "")
        stderr = "N/A" if row.stderr is None else f"{row.stderr:.4f}"
        cells.append((*head, row.filter, str(row.n_shot), row.metric, "↑", f"{row.value:.4f}", "±", stderr))
    widths = [max(width, *(len(line[i]) for line in cells)) for i, width in enumerate(_WIDTHS)]
    widths[0] = max(widths[0], len(_HEADERS[0]))
    lines = [
        "|".join(_centred(name, width) for name, width in zip(_HEADERS, widths, strict=True)),
        "|".join("-" * (width - 1) + ":" if i in _RIGHT else "-" * width for i, width in enumerate(widths)),
    ]
    for line in cells:
        pairs = enumerate(zip(line, widths, strict=True))
        lines.append("|".join(c.rjust(width) if i in _RIGHT else c.ljust(width) for i, (c, width) in pairs))
    return "\n".join(f"|{line}|" for line in lines)


def read(text: str) -> list[list[Row]]:
    """All tables of that form in a text, in order."""
    tables: list[list[Row]] = []
    task = version = ""
    for line in text.split("\n"):
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")] if line.startswith("|") else []
        if cells == list(_HEADERS):
            tables.append([])
        elif len(cells) == len(_HEADERS) and tables and not cells[0].startswith("---"):
            task, version = (cells[0], cells[1]) if cells[0] else (task, version)
            stderr = None if cells[8] == "N/A" else float(cells[8])
            row = Row(task, version, cells[2], int(cells[3]), cells[4], float(cells[6]), stderr)
            tables[-1].append(row)
    return tables


def _centred(text: str, width: int) -> str:
    left = (width - len(text)) // 2
    return " " * left + text + " " * (width - len(text) - left)
