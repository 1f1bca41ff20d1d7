"""The loop: the one path that every method and any number of processes go along."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.distributed.fsdp import FSDPModule

from hermes3.errors import Hermes3Error
from hermes3.train import gradients
from hermes3.train.arithmetic import peak_memory, row_flops
from hermes3.train.events import Evaluated, Listener, Step
from hermes3.train.model import Batch, Llama
from hermes3.train.objectives import Objective, Reader
from hermes3.train.optimizer import clip, learning_rate, set_learning_rate
from hermes3.train.order import Documents, Order, of_rank
from hermes3.train.packing import Row
from hermes3.train.ranks import Ranks
from hermes3.train.recipe import Recipe


@dataclass(slots=True)
class Loop:
    """Steps of a run.

    Attributes:
        peak: FLOP/s of the machine's products.
        after_step: told how many steps are done, after each; whether to go on.
    """

    recipe: Recipe
    model: Llama
    optimizer: torch.optim.Optimizer
    objective: Objective
    order: Order
    ranks: Ranks
    peak: float
    listen: Listener
    after_step: Callable[[int], bool]
    _parameters: list[torch.nn.Parameter] = field(init=False)

    def __post_init__(self) -> None:
        # not the model's: FSDP2 may hold whole weights there, and their gradients are taken away
        self._parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        if self.ranks.n == 1 and self.ranks.device.type == "cpu":
            gradients.add_in_place(self._parameters)

    def run(self, n_done: int) -> int:
        """Goes on after ``n_done`` steps; gives how many are done in the end.

        Raises:
            Hermes3Error: the loss or the gradients are no numbers any more.
        """
        while n_done < self.order.n_steps:
            self.listen(self._step(n_done))
            n_done += 1
            if not self.after_step(n_done):
                break
        return n_done

    def _step(self, step: int) -> Step:
        start = time.perf_counter()
        rows = self.order.rows(step)
        n_units = sum(map(self.objective.units, rows))
        sums, work = self._gradients(step, rows, n_units)
        norm = clip(self._parameters, self.recipe.max_grad_norm)
        values = dict(zip(self.objective.names, (sums / max(1, n_units)).tolist(), strict=True))
        if not math.isfinite(norm + values["loss"]):
            raise Hermes3Error(
                f"step {step + 1}: the loss is {values['loss']}, the gradients' norm {norm}: training has "
                "diverged; the last checkpoint is whole; try a lower lr, or a longer warmup_steps"
            )
        lr = learning_rate(self.recipe, step, self.order.n_steps)
        set_learning_rate(self.optimizer, lr)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        seconds = time.perf_counter() - start
        return Step(
            step=step + 1,
            n_steps=self.order.n_steps,
            epoch=self.order.epochs_done(step + 1),
            values=values,
            lr=lr,
            grad_norm=norm,
            n_tokens=int(work[1]),
            n_trained=int(work[2]),
            seconds=seconds,
            mfu=float(work[0]) / seconds / self.peak / self.ranks.n,
            memory=peak_memory(self.ranks.device),
        )

    def _gradients(self, step: int, rows: Sequence[Documents], n_units: int) -> tuple[Tensor, Tensor]:
        """Adds up the gradients of a step's rows.

        Returns:
            over all processes, float64: the objective's sums; operations, tokens and trained tokens.
        """
        self.model.train()
        device, n_names = self.ranks.device, len(self.objective.names)
        totals = torch.zeros(n_names + 3, dtype=torch.float64, device=device)
        for number, documents, counts in of_rank(rows, self.ranks.rank, self.ranks.n):
            torch.manual_seed(self.order.noise_seed(step, number))
            row = self.objective.row(documents)
            with arithmetic(self.recipe, self.ranks):
                sums = self.model(Batch.of(row, device), self.objective.reader(documents))
            (sums[0] * (counts / max(1, n_units))).backward()
            if counts:
                flops = row_flops(self.model.config, row, self.recipe.lora is not None)
                work = torch.tensor([flops, len(row), len(row.targets)], dtype=torch.float64, device=device)
                totals += torch.cat([sums.detach().double(), work])
        self.ranks.sum(totals)
        return totals[:n_names], totals[n_names:]


def arithmetic(recipe: Recipe, ranks: Ranks) -> AbstractContextManager[object]:
    """What the model computes in: bfloat16 over float32 weights where the recipe says so.

    Weights shared out among processes are cast when they are gathered instead.
    """
    if recipe.precision != "mixed" or ranks.n > 1:
        return nullcontext()
    return torch.autocast(ranks.device.type, torch.bfloat16)


def evaluate(
    recipe: Recipe, model: Llama, objective: Objective, rows: Sequence[Documents], ranks: Ranks, step: int
) -> Evaluated:
    """The mean of each of the objective's values over all units of some rows."""
    start = time.perf_counter()
    totals = torch.zeros(len(objective.names), dtype=torch.float64, device=ranks.device)
    for _, sums in forward(recipe, model, rows, ranks, objective.row, objective.reader):
        totals += sums.double()
    means = (ranks.sum(totals) / max(1, sum(map(objective.units, rows)))).tolist()
    values = dict(zip(objective.names, means, strict=True))
    return Evaluated(step=step, values=values, seconds=time.perf_counter() - start)


def forward(
    recipe: Recipe,
    model: Llama,
    rows: Sequence[Documents],
    ranks: Ranks,
    row: Callable[[Documents], Row],
    reader: Callable[[Documents], Reader],
) -> Iterator[tuple[Documents, Tensor]]:
    """This process's share of some rows, and what a reader makes of each, without gradients."""
    with at_rest(model), torch.no_grad():
        for _, documents, counts in of_rank(rows, ranks.rank, ranks.n):
            with arithmetic(recipe, ranks):
                out = model(Batch.of(row(documents), ranks.device), reader(documents))
            if counts:
                yield documents, out


@contextmanager
def at_rest(model: Llama) -> Iterator[None]:
    """The model without noise and dropout; afterwards no process holds more than its part of the weights.

    FSDP2 keeps the outermost weights whole until the next backward pass, which does not follow here.
    """
    model.eval()
    try:
        yield
    finally:
        model.train()
        if isinstance(model, FSDPModule):
            model.reshard()
