"""`hermes3 train sft` and `dpo`: a run, shown while it goes on."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from hermes3.cli import status
from hermes3.cli.failure import UsageError
from hermes3.cli.train.sources import folder_of, recipe_of, use_threads
from hermes3.errors import Hermes3Error, RequestError

if TYPE_CHECKING:
    from hermes3.train.ranks import Ranks
    from hermes3.train.recipe import Recipe


def run(
    method: str, source: str, changes: Sequence[str], fresh: bool, gguf: str | None, threads: int | None
) -> None:
    """Train; print the path of what was made.

    Raises:
        UsageError: the recipe makes no sense, or is of the other method.
        KeyboardInterrupt: Ctrl-C; the run is saved.
        Hermes3Error: as ``Run.go``.
    """
    recipe = recipe_of(source, changes)
    if recipe.method != method:
        raise UsageError(f"{source} is of method {recipe.method!r}: hermes3 train {recipe.method} {source}")
    _check_gguf(gguf, recipe)
    use_threads(threads)
    from hermes3.train.allocation import keep_freed_memory
    from hermes3.train.ranks import ranks

    keep_freed_memory()
    with ranks() as mine, _signals() as received:
        if fresh:
            mine.first_then_others(lambda: _clear(Path(recipe.output)))
        made = _trained(recipe, mine, received)
        if made is not None and mine.is_first:
            _finish(recipe, made, gguf)
    if made is None:
        if mine.is_first:
            status.note("stopped and saved; the same command goes on from here")
        if signal.SIGINT in received:
            raise KeyboardInterrupt


def _trained(recipe: Recipe, mine: Ranks, received: set[int]) -> Path | None:
    """The model's folder; None where the run was stopped."""
    from hermes3.cli.train.show import Screen
    from hermes3.train.run import Run

    output = Path(recipe.output)
    mine.first_then_others(lambda: str(folder_of(recipe.model, output)))
    try:
        with Screen(recipe) as screen:
            run = Run(recipe, folder_of(recipe.model, output), mine, screen, lambda: bool(received))
            return run.go()
    except RequestError as error:
        raise UsageError(str(error)) from error
    except OSError as error:
        raise Hermes3Error(f"{output} cannot be written: {error.strerror or error}") from error


def _finish(recipe: Recipe, made: Path, gguf: str | None) -> None:
    from hermes3.train.export import draw

    drawing = draw(recipe, Path(recipe.output) / "metrics.jsonl")
    status.note(f"written: {made}, {drawing}")
    if gguf is not None:
        from hermes3.convert.recipes import RECIPES
        from hermes3.convert.to_gguf import to_gguf
        from hermes3.weights.checkpoint import open_checkpoint

        target = made.with_name(f"model.{gguf}.gguf")
        to_gguf(open_checkpoint(made), target, RECIPES[gguf], status.progress())
        status.note(f"written: {target}")
    print(made)


def _check_gguf(gguf: str | None, recipe: Recipe) -> None:
    if gguf is None:
        return
    from hermes3.convert.recipes import RECIPES

    if gguf not in RECIPES:
        raise UsageError(f"--gguf {gguf} is no type known here; there are {', '.join(RECIPES)}")
    if recipe.lora is not None and not recipe.lora.merge:
        raise UsageError("--gguf is for whole models; let lora.merge be true")


def _clear(output: Path) -> None:
    """Removes what a run writes, and nothing else."""
    for name in ("checkpoints", "model", "adapter"):
        shutil.rmtree(output / name, ignore_errors=True)
    for path in (*output.glob("reference*.npy"), *output.glob("model.*.gguf"), output / "metrics.jsonl"):
        path.unlink(missing_ok=True)


@contextmanager
def _signals() -> Iterator[set[int]]:
    """SIGTERM and the first Ctrl-C are written down; a second Ctrl-C ends the program at once."""
    received: set[int] = set()

    def note(number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and number in received:
            raise KeyboardInterrupt
        received.add(number)
        status.note("ending after this step; once more ends at once" if number == signal.SIGINT else "ending")

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
