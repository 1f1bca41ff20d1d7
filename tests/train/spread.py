"""A program for torchrun: several runs one after the other, since starting the processes takes longest.

    python -m torch.distributed.run --nproc-per-node 2 -m tests.train.spread PLAN.json

PLAN.json lists recipes and how many steps to stop after, 0 for none.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from hermes3.train.events import Event, Step
from hermes3.train.ranks import Ranks, ranks
from hermes3.train.recipe import Recipe
from hermes3.train.run import Run


def go(made: Recipe, mine: Ranks, stop_after: int) -> None:
    """One run; the first process, which is told of the steps, says when it ends."""
    seen = 0

    def listen(event: Event) -> None:
        nonlocal seen
        seen += isinstance(event, Step)

    Run(made, Path(made.model), mine, listen, lambda: bool(stop_after) and seen == stop_after).go()


def main() -> None:
    plan = json.loads(Path(sys.argv[1]).read_text())
    with ranks() as mine:
        for values, stop_after in plan:
            go(Recipe.of(values), mine, stop_after)


if __name__ == "__main__":
    main()
