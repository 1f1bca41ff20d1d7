"""A run from beginning to end: what a recipe says, from files to a model in a folder."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from hermes3.errors import RequestError
from hermes3.tokenizer import Tokenizer
from hermes3.train import export
from hermes3.train.answers import answer
from hermes3.train.arithmetic import peak_flops
from hermes3.train.boards import Boards, check_boards
from hermes3.train.build import check_compiler, compute_type, model_of, text_of
from hermes3.train.checkpoints import Checkpoints
from hermes3.train.events import Event, Listener, MetricsFile, Note, Progress, Sampled, Saved
from hermes3.train.loop import Loop, evaluate
from hermes3.train.material import Material
from hermes3.train.model import Llama
from hermes3.train.objectives import Objective
from hermes3.train.optimizer import optimizer_of
from hermes3.train.order import Order
from hermes3.train.ranks import Ranks
from hermes3.train.recipe import Recipe
from hermes3.train.reference import objectives_of
from hermes3.weights.checkpoint import open_checkpoint

METRICS = "metrics.jsonl"
FREE = {"output", "checkpoints", "evaluation", "tensorboard", "export_type"}  # may change when a run goes on


@dataclass(slots=True)
class Run:
    """A training run in its folder.

    Args:
        recipe: what is to be done.
        source: the folder of the model that training begins with.
        ranks: the processes that do it.
        listen: told all that happens, on the first process.
        is_stopped: asked after each step; where any process says yes, the run is saved and ends.
    """

    recipe: Recipe
    source: Path
    ranks: Ranks
    listen: Listener
    is_stopped: Callable[[], bool] = lambda: False

    @property
    def folder(self) -> Path:
        """Where all lies that the run writes."""
        return Path(self.recipe.output)

    def go(self) -> Path | None:
        """Trains, from the last checkpoint where there is one, and writes the model.

        Returns:
            where that is; None where the run was stopped before its end.

        Raises:
            RequestError: data or recipe cannot be honoured, or the folder holds another run.
            FormatError: a file is damaged.
            DiskSpaceError: a checkpoint or the model does not fit; checkpoints before are whole.
            Hermes3Error: training diverged.
        """
        target = export.target_of(self.recipe)
        if self.recipe.tensorboard:
            check_boards()
        if self.recipe.compile:
            check_compiler()
        if target.exists():
            raise RequestError(f"{target} is there already: this run is finished", param="output")
        self.ranks.first_then_others(lambda: self.folder.mkdir(parents=True, exist_ok=True))
        checkpoint = open_checkpoint(self.source)
        tokenizer, template = text_of(checkpoint)
        material = Material.read(self.recipe, tokenizer, template, self.progress("reading data"))
        for text in filter(None, (template.warning, *material.notes)):
            self.tell(Note(text=text))
        model = model_of(self.recipe, checkpoint, self.ranks)
        training = _Training(self, model, material, tokenizer, tokenizer.eos_ids | checkpoint.eos_ids)
        if not training.go():
            return None
        export.write(self.recipe, model, self.source, tokenizer, template, self.ranks)
        return target

    def tell(self, event: Event) -> None:
        if self.ranks.is_first:
            self.listen(event)

    def progress(self, what: str) -> Callable[[int, int], None]:
        """What passes on how far something is."""
        return lambda done, of: self.tell(Progress(what=what, done=done, of=of))


class _Training:
    """The steps of a run, and what happens between them."""

    def __init__(
        self, run: Run, model: Llama, material: Material, tokenizer: Tokenizer, end_ids: frozenset[int]
    ) -> None:
        recipe, ranks = run.recipe, run.ranks
        self._run, self._recipe, self._ranks = run, recipe, ranks
        self._model, self._material, self._tokenizer, self._end_ids = model, material, tokenizer, end_ids
        self._order: Order = material.order(recipe)
        self._optimizer: torch.optim.Optimizer = optimizer_of(recipe, model)
        self._checkpoints = Checkpoints(run.folder / "checkpoints", recipe.checkpoints.keep, ranks)
        self._objective: Objective
        self._held_out: Objective | None
        self._objective, self._held_out = objectives_of(
            recipe, material, model, ranks, run.folder, run.progress("reference log-probabilities")
        )
        self._sinks: list[MetricsFile | Boards] = []
        self._saved = -1  # steps that the newest checkpoint has

    def go(self) -> bool:
        """Whether it came to its end."""
        n_done = self._resume()
        if self._ranks.is_first:
            self._sinks.append(MetricsFile(self._run.folder / METRICS, n_done))
            if self._recipe.tensorboard:
                self._sinks.append(Boards(self._run.folder / "tensorboard", n_done))
        try:
            if not n_done and self._recipe.evaluation.every:
                self._measure(0)
            peak = peak_flops(self._ranks.device, compute_type(self._recipe))
            n_done = Loop(
                self._recipe, self._model, self._optimizer, self._objective, self._order, self._ranks, peak,
                self._tell, self._after,
            ).run(n_done)  # fmt: skip
            if n_done < self._order.n_steps:
                return False
            self._measure(n_done)
            return True
        finally:
            for sink in self._sinks:
                sink.close()

    def _resume(self) -> int:
        """Steps that are done already; weights and optimiser are then as they were after those."""
        newest = self._checkpoints.latest()
        if newest is None:
            return 0
        state = self._checkpoints.state(newest)
        if differing := _differing(state["recipe"], self._recipe.to_dict()):
            raise RequestError(
                f"{self._run.folder} holds a run with other settings ({', '.join(differing)}); start it "
                "with its own, or anew with --fresh, or choose another output",
                param=differing[0],
            )
        if state["digest"] != self._material.digest:
            raise RequestError(
                f"{self._run.folder} holds a run over other data: files of data.train, the tokenizer or the "
                "template have changed; start anew with --fresh, or choose another output",
                param="data.train",
            )
        self._checkpoints.load(newest, self._model, self._optimizer)
        self._saved = int(state["n_steps"])
        self._run.tell(Note(text=f"going on after step {self._saved} of {self._order.n_steps}"))
        return self._saved

    def _after(self, n_done: int) -> bool:
        """Saves and measures where it is time; whether to go on."""
        flag = torch.tensor(float(self._run.is_stopped()), device=self._ranks.device)
        is_stopped, is_last = bool(self._ranks.sum(flag)), n_done == self._order.n_steps
        every = self._recipe.evaluation.every
        if every and n_done % every == 0 and not is_last:
            self._measure(n_done)
        every = self._recipe.checkpoints.every
        if is_stopped or is_last or (every and n_done % every == 0):
            self._save(n_done)
        return not is_stopped

    def _save(self, n_done: int) -> None:
        start = time.perf_counter()
        state = {"n_steps": n_done, "recipe": self._recipe.to_dict(), "digest": self._material.digest}
        path = self._checkpoints.save(n_done, self._model, self._optimizer, state)
        self._tell(Saved(step=n_done, path=str(path), seconds=time.perf_counter() - start))

    def _measure(self, n_done: int) -> None:
        """The held-out loss, and some answers."""
        if self._held_out is None:
            return
        rows = self._material.held_out_rows
        self._tell(evaluate(self._recipe, self._model, self._held_out, rows, self._ranks, n_done))
        documents = sorted(document for row in rows for document in row)
        for document in documents[: self._recipe.evaluation.samples]:
            prompt = self._material.prompt(document)
            made = answer(
                self._recipe, self._model, self._ranks, prompt, self._end_ids,
                self._recipe.evaluation.sample_tokens,
            )  # fmt: skip
            texts = self._tokenizer.decode(prompt), self._tokenizer.decode(made)
            self._tell(Sampled(step=n_done, prompt=texts[0], answer=texts[1]))

    def _tell(self, event: Event) -> None:
        for sink in self._sinks:
            sink(event)
        self._run.tell(event)


def _differing(saved: dict[str, object], now: dict[str, object]) -> list[str]:
    return sorted(key for key in {*saved, *now} - FREE if _plain(saved.get(key)) != _plain(now.get(key)))


def _plain(value: object) -> object:
    """As JSON gives it back."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
