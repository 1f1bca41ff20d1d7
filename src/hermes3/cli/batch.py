"""`hermes3 batch`: a file of requests becomes a file of answers."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from hermes3.cli import status
from hermes3.cli.failure import UsageError
from hermes3.cli.models import located


def run(
    source: Path,
    target: Path,
    model: str | None,
    at_once: int,
    n_ctx: int | None,
    n_threads: int | None,
    served_model_name: str | None,
) -> None:
    """Answer every line that has no answer yet.

    Raises:
        UsageError: both files are one.
        Hermes3Error: see ``answer_all``; no such model, or it cannot be fetched or loaded.
    """
    if target.exists() and source.exists() and target.samefile(source):
        raise UsageError(f"{target} is the file of requests; name another one for the answers")
    from hermes3.llm import LLM
    from hermes3.server.app import create_app
    from hermes3.server.batch import answer_all, check
    from hermes3.server.limits import Limits
    from hermes3.server.protocol import MAX_CHOICES

    max_bytes = Limits().max_body_bytes
    names = check(source, max_bytes)
    n = len(names)
    name, path = located(model)
    start, first = time.monotonic(), -1

    def told(n_done: int, n_failed: int) -> None:
        nonlocal first
        first = n_done if first < 0 else first
        failed = f", {n_failed} of them failed" if n_failed else ""
        line.show(f"batch: {n_done} of {n} answered{failed}{_left(n - n_done, n_done - first, start)}")

    with LLM(path, n_ctx=n_ctx, n_threads=n_threads, n_sequences=at_once) as llm, status.Line() as line:
        n_answers = at_once * MAX_CHOICES
        limits = Limits(max_requests=n_answers, max_queued_tokens=n_answers * llm.n_ctx)
        app = create_app(llm, served_model_name=served_model_name or name, limits=limits)
        work = answer_all(app, source, names, target, at_once=at_once, max_bytes=max_bytes, told=told)
        outcome = asyncio.run(work)
    before = f", {outcome.n_before} of them by an earlier run" if outcome.n_before else ""
    failed = f"; {outcome.n_failed} failed, their answers say why" if outcome.n_failed else ""
    status.note(f"{target}: {outcome.n} lines answered{before}{failed}")


def _left(n_left: int, n_done: int, start: float) -> str:
    """How long the rest will take, once that can be said."""
    if not n_done or not n_left:
        return ""
    seconds = n_left * (time.monotonic() - start) / n_done
    return f", {seconds / 60:.0f} min left" if seconds > 90 else f", {seconds:.0f} s left"
