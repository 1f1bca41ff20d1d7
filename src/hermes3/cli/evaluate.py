"""`hermes3 eval`: the card's benchmarks."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from hermes3.cli.failure import UsageError


@dataclass(frozen=True, slots=True)
class EvalOptions:
    """What the command line asked for."""

    model: str
    suite: str
    limit: int | None
    data: Path | None
    out: Path | None
    chat_template: bool
    fresh: bool
    ctx: int | None
    threads: int | None


def run(options: EvalOptions) -> None:
    """Evaluate, print the card's tables, write the files; a run that was killed goes on where it was.

    Raises:
        UsageError: the libraries are not here, or a task is unknown.
        Hermes3Error: the model or the data cannot be had.
    """
    if find_spec("lm_eval") is None:
        raise UsageError("hermes3 eval needs lm-eval; install it with: pip install 'hermes3[eval]'")
    from hermes3.eval.lm import Hermes3LM
    from hermes3.eval.run import evaluate
    from hermes3.eval.tasks import tasks_of
    from hermes3.llm import LLM

    tasks = tasks_of(options.suite)
    if options.data is not None and not options.data.is_dir():
        raise UsageError(f"--data {options.data} is no folder")
    with LLM(options.model, n_ctx=options.ctx, n_threads=options.threads) as llm:
        out = options.out or Path("hermes3-eval") / llm.name
        journal = out / "answers.jsonl"
        if options.fresh:
            journal.unlink(missing_ok=True)
        lm = Hermes3LM(llm, journal=journal)
        report = evaluate(
            lm, tasks, data=options.data, limit=options.limit, chat_template=options.chat_template
        )
        print(report.text(), end="")
        files = report.save(out)
    print(f"written: {', '.join(map(str, files))}", file=sys.stderr)
