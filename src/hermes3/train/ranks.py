"""The processes of a run: one, or those that torchrun started, which share the weights out (FSDP2)."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

from hermes3.errors import Hermes3Error
from hermes3.train.model import Llama


@dataclass(frozen=True, slots=True)
class Ranks:
    """This process among those of the run.

    Attributes:
        rank: which one it is.
        n: how many there are.
        device: where it computes.
    """

    rank: int
    n: int
    device: torch.device

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def sum(self, values: Tensor) -> Tensor:
        """The sum over all processes, in place."""
        if self.n > 1:
            dist.all_reduce(values)
        return values

    def wait(self) -> None:
        """Until all processes are here."""
        if self.n > 1:
            dist.barrier()

    def first_then_others(self, act: Callable[[], object]) -> None:
        """What the first process does for all; where it fails, all do.

        Raises:
            Hermes3Error: the first process failed; its own error says why.
        """
        error: Exception | None = None
        if self.is_first:
            try:
                act()
            except Exception as failure:
                error = failure
        failed = self.sum(torch.tensor(float(error is not None), device=self.device))
        if error is not None:
            raise error
        if failed:
            raise Hermes3Error("the first process failed; its own error says why")

    def share_out(self, model: Llama, dtype: torch.dtype) -> None:
        """Gives each process its part of every weight; ``dtype`` is what they compute in."""
        if self.n == 1:
            return
        # no casting of what goes in: the weights of the loss among it stay float32
        policy = MixedPrecisionPolicy(
            param_dtype=dtype, reduce_dtype=torch.float32, cast_forward_inputs=False
        )
        for layer in model.model.layers:
            fully_shard(layer, mp_policy=policy)
        fully_shard(model, mp_policy=policy)
        for module in (model, *model.model.layers):
            module.set_gradient_divide_factor(1.0)  # losses are divided by what all processes learn from
            module.set_force_sum_reduction_for_comms(True)


def device_of(local_rank: int) -> torch.device:
    """The GPU of a process, or the CPU where there is none."""
    return torch.device("cuda", local_rank) if torch.cuda.is_available() else torch.device("cpu")


def set_threads(n: int) -> None:
    """CPU threads of this process."""
    torch.set_num_threads(n)


@contextmanager
def ranks() -> Iterator[Ranks]:
    """Joins the processes that torchrun started, or stays alone."""
    n, local = int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("LOCAL_RANK", 0))
    device = device_of(local)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if n == 1:
        yield Ranks(0, 1, device)
        return
    dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
    try:
        yield Ranks(dist.get_rank(), n, device)
    finally:
        dist.destroy_process_group()
