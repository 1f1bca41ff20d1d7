"""`hermes3 train teacher`: what a larger model expects, for a smaller one to learn from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

from hermes3.cli import status
from hermes3.cli.failure import UsageError
from hermes3.cli.models import located
from hermes3.cli.train.sources import recipe_of, use_threads
from hermes3.errors import RequestError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from hermes3.train.examples import Example


def run(source: str, model: str, out: Path, top_k: int, changes: Sequence[str], threads: int | None) -> None:
    """Read all of data.train with the teacher; write the file and print its path.

    Raises:
        UsageError: the vocabularies differ, or the data make no sense.
        Hermes3Error: a model or the data cannot be had.
    """
    recipe = recipe_of(source, changes)
    if recipe.method != "sft":
        raise UsageError(f"{source} is of method {recipe.method!r}; distillation is for sft")
    use_threads(threads)
    from hermes3.train import folders
    from hermes3.train.build import text_of
    from hermes3.train.material import Material
    from hermes3.train.teacher import ask
    from hermes3.weights.checkpoint import open_checkpoint

    student, taught = (open_checkpoint(located(name)[1]) for name in (recipe.model, model))
    tokenizer, template = text_of(student)
    if student.config.vocab_size != taught.config.vocab_size:
        raise UsageError(
            f"{model} has {taught.config.vocab_size} tokens, {recipe.model} {student.config.vocab_size}; "
            "the teacher must have the student's vocabulary"
        )
    try:
        material = Material.read(recipe, tokenizer, template)
    except RequestError as error:
        raise UsageError(str(error)) from error
    corpus, done, total = material.train, 0, int(material.train.lengths.sum())
    with status.Line() as line:

        def advance(n_tokens: int) -> None:
            nonlocal done
            done += n_tokens
            line.show(f"asking the teacher: {done:,} of {total:,} tokens")

        made = ask(folders.load(taught), cast("Iterable[Example]", corpus), top_k, advance)
    made.save(out)
    print(out)
