"""Checkpoints of a run: whole or not there, the last few kept, read by any number of processes."""

from __future__ import annotations

import json
import os
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict, set_state_dict
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from hermes3.errors import DiskSpaceError, FormatError
from hermes3.train.ranks import Ranks
from hermes3.weights.strict_json import read_object
from hermes3.weights.whole import check_room

STATE = "state.json"
_TRAINED = StateDictOptions(ignore_frozen_params=True, flatten_optimizer_state_dict=True, strict=False)


@dataclass(frozen=True, slots=True)
class Checkpoints:
    """The checkpoints in a folder, each named by the number of steps done.

    Args:
        folder: made when needed.
        keep: how many stay.
    """

    folder: Path
    keep: int
    ranks: Ranks

    def latest(self) -> Path | None:
        """The newest one; what a killed run left half written does not count."""
        found = self._all()
        return found[-1] if found else None

    def save(
        self, n_steps: int, model: nn.Module, optimizer: torch.optim.Optimizer, state: dict[str, Any]
    ) -> Path:
        """Writes weights that are trained, the optimiser's state and ``state``; then removes old ones.

        Raises:
            DiskSpaceError: it did not fit; the checkpoint before is as it was.
            OSError: it could not be written.
        """
        target = self.folder / f"step-{n_steps:08}"
        part = target.with_name(f"{target.name}.part")
        tensors = _tensors(model, optimizer)
        self.ranks.first_then_others(lambda: self._make_room(part, tensors))
        try:
            with _alone():
                save(tensors, checkpoint_id=part, no_dist=self.ranks.n == 1)
        except CheckpointException as error:
            shutil.rmtree(part, ignore_errors=True)
            raise _written(error, self.folder) from error
        self.ranks.first_then_others(lambda: self._name(part, target, state))
        return target

    def load(self, path: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Fills in the trained weights and the optimiser's state.

        Raises:
            FormatError: it is damaged, or of another model or optimiser.
        """
        tensors = _tensors(model, optimizer)
        try:
            with _alone():
                load(tensors, checkpoint_id=path, no_dist=self.ranks.n == 1)
        except (CheckpointException, RuntimeError, KeyError, ValueError, OSError) as error:
            raise FormatError(f"{path} cannot be read back: {_first_line(error)}") from error
        set_state_dict(
            model,
            optimizer,
            model_state_dict=tensors["model"],
            optim_state_dict=tensors["optimizer"],
            options=_TRAINED,
        )

    @staticmethod
    def state(path: Path) -> dict[str, Any]:
        """What was saved beside the tensors.

        Raises:
            FormatError: it is damaged.
        """
        return read_object(path / STATE, 1 << 20)

    def _all(self) -> list[Path]:
        return sorted(path for path in self.folder.glob("step-*") if (path / STATE).is_file()
                      and path.suffix != ".part")  # fmt: skip

    def _make_room(self, part: Path, tensors: dict[str, Any]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        for left in self.folder.glob("*.part"):
            shutil.rmtree(left)
        sizes = (value.numel() * value.element_size() for values in tensors.values()
                 for value in values.values() if isinstance(value, torch.Tensor))  # fmt: skip
        check_room(self.folder, sum(sizes))

    def _name(self, part: Path, target: Path, state: dict[str, Any]) -> None:
        with (part / STATE).open("w") as file:
            json.dump(state, file)
            file.flush()
            os.fsync(file.fileno())
        if target.exists():  # of a run that went on from an earlier one
            shutil.rmtree(target)
        part.rename(target)
        handle = os.open(self.folder, os.O_RDONLY)
        os.fsync(handle)
        os.close(handle)
        for old in self._all()[: -self.keep]:
            shutil.rmtree(old)


@contextmanager
def _alone() -> Iterator[None]:
    """Without torch's warning that there is but one process."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled")
        yield


def _tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    of_model, of_optimizer = get_state_dict(model, optimizer, options=_TRAINED)
    return {"model": of_model, "optimizer": of_optimizer}


def _written(error: CheckpointException, folder: Path) -> Exception:
    """What went wrong, out of what each process met."""
    causes = [failure[0] for failure in error.failures.values()]
    full = next((cause for cause in causes if isinstance(cause, OSError) or "space" in str(cause)), causes[0])
    return DiskSpaceError(
        f"a checkpoint could not be written to {folder}: {_first_line(full)}; the one before is whole. Make "
        "room, and start the same command again to go on from there"
    )


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
