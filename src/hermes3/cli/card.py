"""`hermes3 card`: a model card of one's own."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hermes3.cli.failure import UsageError

if TYPE_CHECKING:
    from hermes3.eval.origin import Origin


@dataclass(frozen=True, slots=True)
class CardOptions:
    """What the command line asked for."""

    folder: Path
    results: list[Path]
    recipe: Path | None
    file: str | None
    name: str | None
    license: str | None
    base_model: str | None
    no_run: bool
    force: bool


def run(options: CardOptions) -> None:
    """Write README.md into the model's folder.

    Raises:
        UsageError: there is one already, or what was named does not fit together.
        Hermes3Error: the model, its recipe or its results cannot be read, or an example failed.
    """
    from hermes3.errors import RequestError
    from hermes3.eval import examples, measured, origin, page
    from hermes3.llm.parts import template_of, tokenizer_of

    try:
        model = origin.model_in(options.folder, options.file)
        if (options.folder / page.FILE).exists() and not options.force:
            raise UsageError(f"{options.folder / page.FILE} is there already; --force overwrites it")
        known = origin.origin_of(
            model,
            recipe=options.recipe,
            name=options.name,
            license=options.license,
            base_model=options.base_model,
        )
        here = [options.folder, options.folder / "eval", Path("hermes3-eval") / _stem(model)]
        results = measured.given(options.results, model) or measured.found(here, model)
        shown = None if options.no_run else examples.run_all(model)
        template = template_of(known.checkpoint, tokenizer_of(known.checkpoint))
        text = page.page(known, results, shown, template)
        path = page.save(options.folder, text, overwrite=options.force)
    except RequestError as error:
        raise UsageError(str(error)) from error
    _tell(path, known, len(results))


def _stem(model: Path) -> str:
    return model.resolve().name if model.is_dir() else model.stem


def _tell(path: Path, known: Origin, n_results: int) -> None:
    missing = [name for name in ("license", "base_model") if getattr(known, name) is None]
    if not n_results:
        missing.append("benchmarks (run hermes3 eval, or name results with --eval)")
    if not known.recipe:
        missing.append("a recipe (recipe.toml beside the model, or --recipe)")
    print(f"written: {path}", file=sys.stderr)
    if missing:
        print(f"not known, and left out: {', '.join(missing)}", file=sys.stderr)
