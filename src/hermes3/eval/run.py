"""A run of the harness, and what it leaves: JSON, the card's tables, Markdown, a picture."""

from __future__ import annotations

import json
import resource
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import lm_eval
import lm_eval.evaluator
import lm_eval.utils
from lm_eval.tasks import TaskManager

from hermes3.errors import RequestError
from hermes3.eval.card import PRINTED_AVERAGES, card_figures
from hermes3.eval.lm import Counters, Hermes3LM, silence
from hermes3.eval.measured import identity, sections
from hermes3.eval.plot import Point, svg
from hermes3.eval.tables import FORMULA, Row, average, rows_of, write
from hermes3.eval.tasks import SUITES, is_known, offline, packaged


@dataclass(frozen=True, slots=True)
class Report:
    """What a run measured.

    Attributes:
        model: its name.
        weights: see ``identity``.
        tasks: in order.
        results: lm-eval's results, as its own program writes them.
        counters: requests and positions.
        seconds: wall time.
        limit: documents of each task, None for all.
    """

    model: str
    weights: str
    tasks: tuple[str, ...]
    results: dict[str, Any]
    counters: Counters
    seconds: float
    limit: int | None

    def sections(self) -> list[tuple[str, list[Row]]]:
        """Title and rows of each suite that was run whole, and of what is left."""
        return sections(self.results, self.tasks)

    def text(self) -> str:
        """The card's tables, their averages and what the run cost."""
        parts = []
        for name, rows in self.sections():
            card = PRINTED_AVERAGES.get(name)
            beside = "" if card is None else f" (the card of Hermes 3 3B: {card:.2f})"
            parts.append(f"{name}:\n{write(rows)}\n\nAverage: {average(rows):.2f}{beside}")
        return "\n\n".join([*parts, f"Average: {FORMULA}.", self.cost()]) + "\n"

    def markdown(self) -> str:
        """The same as a page."""
        lines = [f"# Benchmarks of {self.model}", ""]
        if self.limit is not None:
            lines += [f"The first {self.limit} documents of each task: not comparable with whole tasks.", ""]
        for name, rows in self.sections():
            lines += [f"## {name}", "", write(rows), "", f"Average: {average(rows):.2f}", ""]
        return "\n".join([*lines, f"Average: {FORMULA}.", "", self.cost(), ""])

    def cost(self) -> str:
        """Time, positions and memory, in a sentence."""
        n = self.counters
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # KiB on Linux
        parts = [f"{n.n_requests:,} requests in {self.seconds:,.0f} s"]
        if n.n_found:
            parts.append(f"{n.n_found:,} of them from an earlier run")
        parts.append(f"{n.n_computed:,} positions computed for {n.n_given:,}, {n.n_scored:,} scored")
        parts.append(f"{n.n_truncated} contexts cut to fit")
        limit = [] if self.limit is None else [f"limit {self.limit} documents a task"]
        return "; ".join([*parts, *limit, f"peak memory {peak:.2f} GB"]) + "."

    def picture(self) -> str:
        """Each task's figure beside the card's, SVG."""
        card, points = card_figures(), []
        for row in rows_of(self.results, self.tasks):
            others = {each.metric for each in rows_of(self.results, [row.task])}
            if row.metric != ("acc_norm" if "acc_norm" in others else row.metric):
                continue
            printed = card.get(row.task, {}).get(row.metric)
            points.append(
                Point(
                    f"{row.task} ({row.metric})",
                    100 * row.value,
                    100 * (row.stderr or 0.0),
                    None if printed is None else 100 * printed,
                )
            )
        return svg(f"{self.model}, percent", points)

    def save(self, folder: Path) -> list[Path]:
        """Writes results.json, tables.txt, report.md and plot.svg."""
        folder.mkdir(parents=True, exist_ok=True)
        ours = {"model": self.model, "weights": self.weights, "limit": self.limit, "seconds": self.seconds}
        whole = {**self.results, "hermes3": {**ours, **asdict(self.counters)}}
        texts = {
            "results.json": json.dumps(whole, indent=2, default=str),
            "tables.txt": self.text(),
            "report.md": self.markdown(),
            "plot.svg": self.picture(),
        }
        for name, text in texts.items():
            (folder / name).write_text(text)
        return [folder / name for name in texts]


def evaluate(
    lm: Hermes3LM,
    tasks: Sequence[str],
    *,
    data: Path | None = None,
    limit: int | None = None,
    chat_template: bool = False,
) -> Report:
    """Runs tasks through lm-eval.

    Args:
        lm: the model.
        tasks: names of the card's tasks or of any that lm-eval knows.
        data: folder of local data for the card's tasks; None for the hub, as lm-eval does.
        limit: documents of each task, None for all.
        chat_template: whether prompts are conversations in the model's template.

    Raises:
        RequestError: a task that is unknown, or has no data where local data is asked for.
    """
    silence()
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder, _without_waste():
        specs, manager = _specs(tasks, data, Path(folder))
        results = lm_eval.simple_evaluate(
            model=lm,
            tasks=specs,
            task_manager=manager,
            limit=limit,
            apply_chat_template=chat_template,
            log_samples=False,
        )
    seconds = time.perf_counter() - start
    weights = identity(lm.llm.path)
    return Report(lm.llm.name, weights, tuple(tasks), results, lm.counters, seconds, limit)


def _specs(tasks: Sequence[str], data: Path | None, folder: Path) -> tuple[list[str], TaskManager]:
    """Tasks as lm-eval takes them, and its manager: without the 14,000 files of its own where it can."""
    if data is not None:
        files = [str(offline(task, data, folder)) for task in tasks]
        return files, TaskManager(include_defaults=False)
    if all(is_known(task) for task in tasks):
        return [str(packaged(task)) for task in tasks], TaskManager(include_defaults=False)
    manager = TaskManager()
    if unknown := [task for task in tasks if task not in manager.all_tasks]:
        raise RequestError(
            f"lm-eval has no task {unknown[0]!r}; `lm_eval ls tasks` lists them; suites here are "
            f"{', '.join(SUITES)}",
            param="suite",
        )
    return list(tasks), manager


@contextmanager
def _without_waste() -> Iterator[None]:
    """Spares a run what lm-eval does beside its work.

    It compiles a task's Jinja templates anew for each document, three quarters of its own time, and where
    torch is installed it asks torch for a description of the machine, which takes seconds.
    """
    environment, describe = lm_eval.utils.env, lm_eval.evaluator.add_env_info
    environment.from_string = lru_cache(4096)(environment.from_string)
    lm_eval.evaluator.add_env_info = lambda results: None
    try:
        yield
    finally:
        del environment.from_string
        lm_eval.evaluator.add_env_info = describe
