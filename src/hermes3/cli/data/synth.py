"""`hermes3 data synth`: a teacher writes training data."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from hermes3.cli import status
from hermes3.cli.failure import UsageError
from hermes3.cli.models import located
from hermes3.synth.judging import REFUSALS, Judge, read_refusals
from hermes3.synth.output import Output
from hermes3.synth.run import Outcome, synthesize
from hermes3.synth.tasks import Settings, Task, read_seeds, read_tools, tasks_of
from hermes3.synth.teacher import EndpointTeacher, HallTeacher, Teacher

RETRIES = 5


@dataclass(frozen=True, slots=True)
class SynthOptions:
    """What the command line asked for."""

    out: Path
    seeds: Path | None
    tools: Path | None
    model: str | None
    base_url: str | None
    api_key: str
    n: int
    turns: int
    temperature: float
    max_tokens: int
    seed: int
    concurrency: int
    near: float
    refusals: Path | None
    retries: int | None
    n_ctx: int | None
    n_threads: int | None


def run(options: SynthOptions) -> bool:
    """Write; whether the teacher answered all that was asked of it.

    Raises:
        UsageError: options that do not go together.
        Hermes3Error: a file cannot be read or written, or the teacher will not answer.
    """
    _check(options)
    judge = Judge(read_refusals(options.refusals) if options.refusals else REFUSALS, options.near)
    name = options.model if options.base_url else located(options.model)[0]
    settings = Settings(
        name or "", options.n, options.turns, options.temperature, options.max_tokens, options.seed
    )
    tasks = _tasks(options, settings)
    with Output(options.out, {task.id for task in tasks}) as output:
        if len(output.done) == len(tasks):
            outcome = Outcome(len(output.kept), output.n_dropped, 0, len(tasks))
        else:
            with _teacher(options, settings) as teacher, status.Line() as line:
                outcome = asyncio.run(
                    synthesize(tasks, teacher, settings, output, judge, at_once=options.concurrency,
                               told=lambda now: line.show(_progress(now, len(tasks))))
                )  # fmt: skip
    _say(outcome, output)
    return not outcome.n_unanswered


def _check(options: SynthOptions) -> None:
    if options.seeds is None and options.tools is None:
        raise UsageError("there is nothing to write from: give --seeds FILE, --tools FILE or both")
    if options.base_url is None:
        if options.retries is not None:
            raise UsageError("--retries is for endpoints (--base-url); our own engine always answers")
        return
    if options.model is None:
        raise UsageError("--base-url needs --model: the name that the endpoint has for the teacher")
    if options.n_ctx is not None or options.n_threads is not None:
        raise UsageError("--ctx and --threads are for our own engine, not for --base-url")
    if find_spec("openai") is None:
        raise UsageError("--base-url needs the openai package; install it with: pip install 'hermes3[synth]'")


def _tasks(options: SynthOptions, settings: Settings) -> list[Task]:
    seeds = list(read_seeds(options.seeds)) if options.seeds else []
    return tasks_of([*seeds, *(read_tools(options.tools) if options.tools else [])], settings)


@contextlib.contextmanager
def _teacher(options: SynthOptions, settings: Settings) -> Iterator[Teacher]:
    if options.base_url is not None:
        retries = RETRIES if options.retries is None else options.retries
        yield EndpointTeacher(options.base_url, options.api_key, retries, settings)
        return
    from hermes3.llm import LLM

    with LLM(settings.teacher, n_ctx=options.n_ctx, n_threads=options.n_threads,
             n_sequences=options.concurrency) as llm:  # fmt: skip
        yield HallTeacher(llm, settings)


def _progress(outcome: Outcome, n: int) -> str:
    return f"synth: {outcome.n} of {n}, {outcome.n_kept} kept, {outcome.n_dropped} dropped"


def _say(outcome: Outcome, output: Output) -> None:
    before = f", {outcome.n_before} of them by an earlier run" if outcome.n_before else ""
    status.note(f"{output.path}: {outcome.n_kept} conversations{before}")
    if outcome.n_dropped:
        status.note(f"{output.dropped_path}: {outcome.n_dropped} dropped, each with its reason")
    if outcome.n_unanswered:
        status.note(f"{outcome.n_unanswered} got no answer; run the same again to try them again")
