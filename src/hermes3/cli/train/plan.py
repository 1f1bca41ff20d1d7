"""`hermes3 train plan` and `recipe`: what a run will take, and the recipes that come with the program."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from hermes3.cli import status
from hermes3.cli.failure import UsageError
from hermes3.cli.models import located
from hermes3.cli.train.sources import recipe_of, use_threads
from hermes3.errors import RequestError


def run(source: str, changes: Sequence[str], processes: int, threads: int | None, json_only: bool) -> None:
    """Count, and print.

    Raises:
        UsageError: the recipe or its data make no sense.
        Hermes3Error: the model or the data cannot be had.
    """
    recipe = recipe_of(source, changes)
    use_threads(threads)
    from hermes3.train.arithmetic import peak_flops
    from hermes3.train.build import compute_type, text_of
    from hermes3.train.material import Material
    from hermes3.train.plan import SHARE, plan
    from hermes3.train.ranks import device_of
    from hermes3.weights.checkpoint import open_checkpoint

    checkpoint = open_checkpoint(located(recipe.model)[1])
    try:
        with status.Line() as line:
            material = Material.read(
                recipe,
                *text_of(checkpoint),
                lambda done, of: line.show(f"reading data: {done / max(1, of):.0%}"),
            )
    except RequestError as error:
        raise UsageError(str(error)) from error
    for note in material.notes:
        status.note(note)
    peak = peak_flops(device_of(0), compute_type(recipe))
    made = plan(recipe, checkpoint.config, material, processes, peak)
    if json_only:
        print(json.dumps({**made.to_dict(), "peak_flops": peak}))
        return
    trained = f"{made.n_trained_parameters / 1e6:,.1f} M of {made.n_parameters / 1e6:,.1f} M"
    rows = [
        ("documents", f"{made.n_documents:,}, {made.n_held_out:,} more held out"),
        ("tokens", f"{made.n_tokens:,} an epoch, {made.n_trained / made.n_tokens:.0%} of them learned from"),
        ("rows", f"{made.n_rows:,} of {recipe.max_length} tokens, {made.packed:.1%} full"),
        ("steps", f"{made.n_steps:,} of {recipe.batch_size} rows"),
        ("trained weights", trained),
        *((f"memory: {name}", f"{n / 1e9:.2f} GB") for name, n in made.memory.items()),
        ("memory: total", f"{made.n_bytes / 1e9:.2f} GB for each of {processes} processes"),
        ("time", f"{_time(made.seconds)}, at {SHARE:.0%} of {peak / 1e12:.2f} TFLOP/s a process"),
    ]
    for name, value in rows:
        print(f"{name:22}{value}")


def show(name: str) -> None:
    """Print a shipped recipe.

    Raises:
        UsageError: there is none of this name.
    """
    from hermes3.train.recipe import shipped

    known: dict[str, Path] = shipped()
    if name not in known:
        raise UsageError(f"no recipe {name} comes with the program; there are {', '.join(known)}")
    print(known[name].read_text("utf-8"), end="")


def _time(seconds: float) -> str:
    minutes = seconds / 60
    return (
        f"{seconds:.0f} s"
        if minutes < 2
        else f"{minutes:.0f} min"
        if minutes < 120
        else f"{minutes / 60:.1f} h"
    )
