"""`hermes3 eval`: the card's benchmarks."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from hermes3.cli.failure import UsageError

if TYPE_CHECKING:
    from hermes3.eval.lm import Hermes3LM


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
    enforce: bool | None


def run(options: EvalOptions) -> None:
    """Evaluate, print the card's tables, write the files; a run that was killed goes on where it was.

    Raises:
        UsageError: the libraries are not here, or a task is unknown.
        Hermes3Error: the model or the data cannot be had.
    """
    if find_spec("lm_eval") is None:
        raise UsageError("hermes3 eval needs lm-eval; install it with: pip install 'hermes3[eval]'")
    from hermes3.eval.lm import Hermes3LM
    from hermes3.llm import LLM

    if options.data is not None and not options.data.is_dir():
        raise UsageError(f"--data {options.data} is no folder")
    if options.enforce is not None and options.suite not in _ENFORCED:
        which = "--enforce" if options.enforce else "--no-enforce"
        raise UsageError(f"{which} means nothing for {options.suite}; it is for bfcl and json")
    with LLM(options.model, n_ctx=options.ctx, n_threads=options.threads) as llm:
        out = options.out or Path("hermes3-eval") / llm.name
        journal = out / "answers.jsonl"
        if options.fresh:
            journal.unlink(missing_ok=True)
        lm = Hermes3LM(llm, journal=journal)
        files = _ENFORCED.get(options.suite, _tasks)(lm, options, out)
    print(f"written: {', '.join(map(str, files))}", file=sys.stderr)


def _tasks(lm: Hermes3LM, options: EvalOptions, out: Path) -> list[Path]:
    from hermes3.eval.run import evaluate
    from hermes3.eval.tasks import tasks_of

    report = evaluate(
        lm,
        tasks_of(options.suite),
        data=options.data,
        limit=options.limit,
        chat_template=options.chat_template,
    )
    print(report.text(), end="")
    return report.save(out)


def _calls(lm: Hermes3LM, options: EvalOptions, out: Path) -> list[Path]:
    from hermes3.eval import bfcl

    _refuse_chat_template(options)
    modes = [mode for mode in bfcl.MODES if options.enforce in (None, mode != "free")]
    results = bfcl.evaluate(lm, bfcl.data_folder(options.data), modes=modes, limit=options.limit)
    return _written(out, "bfcl", bfcl.table(results), bfcl.as_json(results))


def _json(lm: Hermes3LM, options: EvalOptions, out: Path) -> list[Path]:
    from hermes3.eval import json_mode

    _refuse_chat_template(options)
    if options.data is None:
        raise UsageError("--suite json needs --data: a folder with json-mode-eval.jsonl")
    modes = [mode for mode in json_mode.MODES if options.enforce in (None, mode != "free")]
    results = json_mode.evaluate(lm, options.data, modes=modes, limit=options.limit)
    return _written(out, "json", json_mode.table(results), json_mode.as_json(results))


def _refuse_chat_template(options: EvalOptions) -> None:
    if options.chat_template:
        raise UsageError(f"--chat-template means nothing for {options.suite}, all of whose prompts have it")


def _written(out: Path, name: str, text: str, json_text: str) -> list[Path]:
    print(text, end="")
    out.mkdir(parents=True, exist_ok=True)
    files = [out / f"{name}.txt", out / f"{name}.json"]
    files[0].write_text(text)
    files[1].write_text(json_text)
    return files


_ENFORCED = {"bfcl": _calls, "json": _json}  # suites whose answers can be held to a schema
