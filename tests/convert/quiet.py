"""Progress that nobody watches."""

from __future__ import annotations

from hermes3.weights.hub import LineProgress


class Quiet(LineProgress):
    """Says nothing."""

    def note(self, line: str) -> None:
        pass


QUIET = Quiet()
