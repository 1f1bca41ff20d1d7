"""`hermes3 compare`: what a model lost, or gained, against another one, on a text."""

from __future__ import annotations

import json
from pathlib import Path

from hermes3 import _native
from hermes3.cli import status
from hermes3.cli.failure import UsageError
from hermes3.cli.models import located
from hermes3.compare.measure import Comparison, Subject, Text, compare, ids_of
from hermes3.compare.plot import svg
from hermes3.compare.report import figures, table
from hermes3.llm.parts import tokenizer_of
from hermes3.weights.checkpoint import Checkpoint, open_checkpoint
from hermes3.weights.hub import KNOWN

MAX_TEXT = 1 << 28  # bytes


def run(
    models: list[str],
    text: Path,
    n_ctx: int,
    n_windows: int | None,
    plot: Path | None,
    threads: int | None,
    json_only: bool,
) -> None:
    """Compare all models with the first; print a table, or JSON lines alone, and draw a plot.

    Raises:
        UsageError: a text that cannot be read, or a plot that would overwrite something else.
        RequestError: a text shorter than a window, or models of different vocabularies.
        Hermes3Error: no such model, or it cannot be fetched or loaded.
    """
    if len(models) < 2:
        raise UsageError(f"{models[0]} alone: name the model to compare it with as well")
    if plot is not None and (plot.suffix != ".svg" or not plot.parent.is_dir()):
        raise UsageError(f"--plot {plot}: it must end in .svg, in a folder that exists")
    whole = read_text(text)
    if threads is not None:
        _native.set_threads(threads)
    opened = {name: open_checkpoint(path) for name, path in map(located, models)}
    if len(opened) < len(models):
        raise UsageError("the same model twice: there is nothing to compare")
    windows = _windows(whole, opened, n_ctx, n_windows)
    comparisons = _compared(opened, windows, n_ctx)
    if not json_only:
        print(table(comparisons), end="\n\n")
    for comparison in comparisons:
        print(json.dumps(figures(comparison)))
    if plot is not None:
        plot.write_text(svg(comparisons[0].name, comparisons[1:]), "utf-8")
        status.note(f"drawn to {plot}")


def read_text(text: Path) -> str:
    """A file of UTF-8.

    Raises:
        UsageError: it is none, or too large.
    """
    try:
        if text.stat().st_size > MAX_TEXT:
            raise UsageError(f"{text} has {text.stat().st_size} bytes, the limit is {MAX_TEXT}")
        return text.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{text} cannot be read as UTF-8 text: {error}") from error


def _windows(whole: str, opened: dict[str, Checkpoint], n_ctx: int, n_windows: int | None) -> Text:
    for name, checkpoint in opened.items():
        if n_ctx > (limit := checkpoint.config.max_position_embeddings):
            raise UsageError(f"--ctx {n_ctx}: the context of {name} ends at {limit}")
    tokenizers = {name: tokenizer_of(checkpoint) for name, checkpoint in opened.items()}
    first = next(iter(tokenizers.values()))
    return Text.of(ids_of(whole, tokenizers), n_ctx, n_windows, first.bos_id if first.add_bos else None)


def _compared(opened: dict[str, Checkpoint], windows: Text, n_ctx: int) -> list[Comparison]:
    """The reference with itself, which costs nothing more than reading, then each other with it."""
    reference: Subject | None = None
    comparisons = []
    with status.Line() as line:
        for spec, checkpoint in opened.items():
            source = checkpoint.source
            name = spec if spec in KNOWN else source.stem if source.is_file() else source.name
            line.show(f"{name}: loading")
            subject = Subject(name, checkpoint, n_ctx)
            reference = reference or subject

            def show(done: int, of: int, name: str = name) -> None:
                line.show(f"{name}: window {done + 1} of {of}")

            comparisons.append(compare(reference, subject, windows, show))
    return comparisons
