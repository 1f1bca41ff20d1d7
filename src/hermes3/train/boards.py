"""A run's numbers for TensorBoard."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from hermes3.errors import RequestError
from hermes3.train.events import Evaluated, Event, Sampled, Step


def check_boards() -> None:
    """Raises RequestError where TensorBoard is not installed."""
    if find_spec("tensorboard") is None:
        raise RequestError(
            "tensorboard is true, and not installed: pip install tensorboard", param="tensorboard"
        )


class Boards:
    """Steps, evaluations and samples as TensorBoard's events.

    Args:
        folder: of its files.
        n_steps: that are done; later ones, of a run that was killed, are hidden.
    """

    def __init__(self, folder: Path, n_steps: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder), purge_step=n_steps + 1)

    def __call__(self, event: Event) -> None:
        match event:
            case Step():
                numbers = {"lr": event.lr, "grad_norm": event.grad_norm, "tokens_per_s": event.tokens_per_s,
                           "mfu": event.mfu}  # fmt: skip
                self._scalars({f"train/{k}": v for k, v in {**event.values, **numbers}.items()}, event.step)
            case Evaluated():
                self._scalars({f"held_out/{k}": v for k, v in event.values.items()}, event.step)
            case Sampled():
                self._writer.add_text("sample", f"{event.prompt}{event.answer}", event.step)

    def close(self) -> None:
        self._writer.close()

    def _scalars(self, values: dict[str, float], step: int) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
