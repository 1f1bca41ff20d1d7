"""`hermes3 batch`: a file of requests becomes a file of answers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hermes3.cli import status
from hermes3.cli.failure import UsageError
from hermes3.cli.models import located


@dataclass(frozen=True, slots=True)
class Task:
    """What is asked of the command.

    Attributes:
        options: of the engine, those that were given, by their names.
        ray: address of a Ray cluster; None for this process alone.
        n_workers: engines on that cluster.
    """

    source: Path
    target: Path
    model: str | None
    at_once: int
    served_model_name: str | None
    engine: str = "hermes3"
    n_ctx: int | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    ray: str | None = None
    n_workers: int | None = None


def run(task: Task) -> None:
    """Answer every line that has no answer yet.

    Raises:
        UsageError: both files are one, or workers are asked for without a cluster.
        Hermes3Error: see ``answer_all`` and ``answer_all_on_ray``; no such model, or it cannot be had.
    """
    source, target = task.source, task.target
    if target.exists() and source.exists() and target.samefile(source):
        raise UsageError(f"{target} is the file of requests; name another one for the answers")
    if task.n_workers is not None and task.ray is None:
        raise UsageError("--workers is for --ray; give both, or none")
    from hermes3.llm import EngineChoice
    from hermes3.server.batch import Outcome, answer_all, application, check
    from hermes3.server.limits import Limits

    engine = EngineChoice.of(
        task.engine, n_ctx=task.n_ctx, n_sequences=task.at_once, given=task.options
    )
    max_bytes = Limits().max_body_bytes
    names = check(source, max_bytes)
    name, path = located(task.model)
    served = task.served_model_name or name
    with status.Line() as line:
        told = _Progress(line, len(names))
        if task.ray is not None:
            from hermes3.server.batch_ray import Crew, answer_all_on_ray

            model = task.model or name
            model = str(Path(model).resolve()) if Path(model).exists() else model
            crew = Crew(model, served, engine, task.at_once, task.ray, task.n_workers)
            outcome: Outcome = answer_all_on_ray(
                crew, source, names, target, max_bytes=max_bytes, told=told
            )
        else:
            with engine.open(path) as llm:
                app = application(llm, served, task.at_once)
                work = answer_all(
                    app, source, names, target, at_once=task.at_once, max_bytes=max_bytes, told=told
                )
                outcome = asyncio.run(work)
    before = f", {outcome.n_before} of them by an earlier run" if outcome.n_before else ""
    failed = f"; {outcome.n_failed} failed, their answers say why" if outcome.n_failed else ""
    status.note(f"{target}: {outcome.n} lines answered{before}{failed}")


class _Progress:
    """The line that says how far it is."""

    def __init__(self, line: status.Line, n: int) -> None:
        self._line, self._n = line, n
        self._start, self._first = time.monotonic(), -1

    def __call__(self, n_done: int, n_failed: int) -> None:
        self._first = n_done if self._first < 0 else self._first
        failed = f", {n_failed} of them failed" if n_failed else ""
        left = _left(self._n - n_done, n_done - self._first, self._start)
        self._line.show(f"batch: {n_done} of {self._n} answered{failed}{left}")


def _left(n_left: int, n_done: int, start: float) -> str:
    """How long the rest will take, once that can be said."""
    if not n_done or not n_left:
        return ""
    seconds = n_left * (time.monotonic() - start) / n_done
    return f", {seconds / 60:.0f} min left" if seconds > 90 else f", {seconds:.0f} s left"
