"""What a run reports while it goes on: to whoever shows it, and as lines of ``metrics.jsonl``."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

from hermes3.weights.whole import whole_file


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One step was done.

    Attributes:
        step, n_steps: it, counted from 1, and all.
        epoch: epochs done, a fraction.
        values: loss and what else the objective sums up, per unit.
        lr, grad_norm: learning rate, and the gradients' norm before clipping.
        n_tokens, n_trained: tokens read in this step by all processes, and how many of them are learned from.
        seconds: that it took.
        mfu: share of the arithmetic that the machine could have done, 0 to 1.
        memory: most bytes this process has had, of the GPU where there is one.
    """

    kind: ClassVar[str] = "step"
    step: int
    n_steps: int
    epoch: float
    values: Mapping[str, float]
    lr: float
    grad_norm: float
    n_tokens: int
    n_trained: int
    seconds: float
    mfu: float
    memory: int

    @property
    def tokens_per_s(self) -> float:
        return self.n_tokens / self.seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluated:
    """The held-out data were measured after a step; ``values`` as in ``Step``."""

    kind: ClassVar[str] = "evaluation"
    step: int
    values: Mapping[str, float]
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampled:
    """What the model answers to a held-out prompt after a step."""

    kind: ClassVar[str] = "sample"
    step: int
    prompt: str
    answer: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Saved:
    """A checkpoint was written after a step."""

    kind: ClassVar[str] = "checkpoint"
    step: int
    path: str
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """A sentence for people."""

    kind: ClassVar[str] = "note"
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far something is that is no step: reading data, reference log-probabilities."""

    kind: ClassVar[str] = "progress"
    what: str
    done: int
    of: int


Event = Step | Evaluated | Sampled | Saved | Note | Progress
Listener = Callable[[Event], None]


class MetricsFile:
    """Steps, evaluations and samples as JSON lines.

    Args:
        path: appended to; lines after ``n_steps`` steps, of a run that was killed, are taken out first.
    """

    def __init__(self, path: Path, n_steps: int) -> None:
        kept = [line for line in lines_of(path) if line["step"] <= n_steps]
        text = "".join(json.dumps(line) + "\n" for line in kept).encode()
        with whole_file(path, len(text)) as file:
            file.write(text)
        self._file = path.open("a")

    def __call__(self, event: Event) -> None:
        if isinstance(event, Step | Evaluated | Sampled):
            self._file.write(json.dumps({"event": event.kind, **asdict(event)}, ensure_ascii=False) + "\n")
            self._file.flush()

    def close(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()


def lines_of(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a metrics file; a last one that was cut is left out."""
    if not path.is_file():
        return []
    lines = []
    for line in path.read_text("utf-8").splitlines():
        try:
            lines.append(json.loads(line))
        except ValueError:
            break
    return lines
