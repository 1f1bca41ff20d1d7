"""What a run begins with: a recipe, and the folder of a model."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from hermes3.cli import status
from hermes3.cli.failure import UsageError
from hermes3.cli.models import located
from hermes3.errors import RequestError

if TYPE_CHECKING:
    from hermes3.train.recipe import Recipe


def recipe_of(source: str, changes: Sequence[str]) -> Recipe:
    """The recipe, with what ``--set`` says.

    Raises:
        UsageError: torch is not here, or a setting makes no sense.
        Hermes3Error: there is no such file, or it is damaged.
    """
    if find_spec("torch") is None:
        raise UsageError("hermes3 train needs torch; install it with: pip install 'hermes3[train]'")
    from hermes3.train.recipe import read

    try:
        return read(source, changes)
    except RequestError as error:
        raise UsageError(str(error)) from error


def use_threads(threads: int | None) -> None:
    """torch's own choice, physical cores, unless it was said."""
    from hermes3.train.ranks import set_threads

    if threads is not None:
        set_threads(threads)


def folder_of(model: str, output: Path) -> Path:
    """The folder of a model; a GGUF file becomes one within ``output``, its weights as float32.

    Raises:
        Hermes3Error: no such model, or it cannot be fetched or converted.
    """
    path = located(model)[1]
    if path.is_dir():
        return path
    base = output / "base"
    if not base.is_dir():
        from hermes3.convert.to_folder import to_folder
        from hermes3.weights.checkpoint import open_checkpoint
        from hermes3.weights.quant import GGMLType

        output.mkdir(parents=True, exist_ok=True)
        checkpoint = open_checkpoint(path)
        status.note(
            f"{model} is a GGUF file ({checkpoint.description}): its weights become float32 in {base}"
        )
        to_folder(checkpoint, base, GGMLType.F32, status.progress())
    return base
