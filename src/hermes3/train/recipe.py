"""A recipe: all that a training run is told, in TOML or JSON. What is unknown or senseless is refused."""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from types import UnionType
from typing import Any, Literal, NoReturn, Self, get_args, get_origin, get_type_hints

from hermes3.errors import FormatError, ModelNotFoundError, RequestError

Method = Literal["sft", "dpo"]
Precision = Literal["fp32", "mixed", "bf16"]
Recompute = Literal["none", "mlp", "all"]
Schedule = Literal["cosine", "linear", "constant"]
FileType = Literal["f32", "bf16", "f16"]
LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True, slots=True, kw_only=True)
class Data:
    """What is learned from.

    Attributes:
        train: files or folders of conversations, or of preference pairs.
        weights: of each of ``train`` in the mixture: 2 reads it twice an epoch, 0.5 half of it; none: all 1.
        eval: files whose loss is measured and not learned from.
        eval_share: of ``train``, held out for the same purpose, 0 to 0.5.
        skip_bad: bad rows are counted and left out; otherwise they are refused.
    """

    train: tuple[str, ...]
    weights: tuple[float, ...] = ()
    eval: tuple[str, ...] = ()
    eval_share: float = 0.0
    skip_bad: bool = False

    def __post_init__(self) -> None:
        _check(bool(self.train), "data.train", self.train, "at least one file")
        n_weights = len(self.weights)
        _check(n_weights in (0, len(self.train)), "data.weights", self.weights, "one for each of data.train")
        _check(all(0 < w < math.inf for w in self.weights), "data.weights", self.weights, "above 0")
        _within("data.eval_share", self.eval_share, 0, 0.5)
        _check(not (self.eval and self.eval_share), "data.eval_share", self.eval_share, "0 beside data.eval")


@dataclass(frozen=True, slots=True, kw_only=True)
class AdamW:
    """arXiv 1711.05101. ``weight_decay`` is for matrices, not for norms."""

    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.01

    def __post_init__(self) -> None:
        _within("adamw.beta1", self.beta1, 0, 0.9999)
        _within("adamw.beta2", self.beta2, 0, 0.99999)
        _within("adamw.eps", self.eps, 1e-20, 1)
        _within("adamw.weight_decay", self.weight_decay, 0, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class RMSProp:
    """torch.optim.RMSprop, without momentum."""

    smoothing: float = 0.99
    eps: float = 1e-8
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        _within("rmsprop.smoothing", self.smoothing, 0, 0.99999)
        _within("rmsprop.eps", self.eps, 1e-20, 1)
        _within("rmsprop.weight_decay", self.weight_decay, 0, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Lora:
    """arXiv 2106.09685: instead of the weights, low-rank additions to ``targets`` are trained.

    Attributes:
        merge: the result is a whole model; otherwise an adapter in PEFT's form.
    """

    rank: int = 32
    alpha: float = 16.0
    dropout: float = 0.05
    targets: tuple[str, ...] = LINEAR
    merge: bool = True

    def __post_init__(self) -> None:
        _within("lora.rank", self.rank, 1, 4096)
        _within("lora.alpha", self.alpha, 1e-6, 1e6)
        _within("lora.dropout", self.dropout, 0, 0.95)
        known = bool(self.targets) and set(self.targets) <= set(LINEAR)
        _check(known, "lora.targets", self.targets, f"some of {', '.join(LINEAR)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Dpo:
    """arXiv 2305.18290: ``beta`` is how dear it is to leave the model that training began with."""

    beta: float = 0.1

    def __post_init__(self) -> None:
        _within("dpo.beta", self.beta, 1e-6, 100)


@dataclass(frozen=True, slots=True, kw_only=True)
class Distill:
    """Learning from a teacher's probabilities, too (``hermes3 train teacher`` writes the file).

    Attributes:
        teacher: file of its likeliest tokens at each trained token of ``data.train``.
        share: of the forward Kullback-Leibler divergence in the loss; the rest is cross-entropy.
    """

    teacher: str
    share: float = 0.5

    def __post_init__(self) -> None:
        _within("distill.share", self.share, 0, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoints:
    """Every so many steps (0: at the end and when stopped) the run is saved; the last ``keep`` stay."""

    every: int = 200
    keep: int = 2

    def __post_init__(self) -> None:
        _within("checkpoints.every", self.every, 0, 10**9)
        _within("checkpoints.keep", self.keep, 1, 1000)


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """At the beginning, after every so many steps and at the end the held-out loss is measured.

    Attributes:
        every: so many steps; 0: at the end alone.
        samples: prompts of the held-out data that the model answers each time.
        sample_tokens: most tokens of such an answer.
    """

    every: int = 0
    samples: int = 0
    sample_tokens: int = 64

    def __post_init__(self) -> None:
        _within("evaluation.every", self.every, 0, 10**9)
        _within("evaluation.samples", self.samples, 0, 100)
        _within("evaluation.sample_tokens", self.sample_tokens, 1, 4096)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """A training run.

    Attributes:
        method: supervised fine-tuning, or direct preference optimisation.
        model: what training begins with: a name, a path or hf:owner/repo.
        output: folder of the run: checkpoints, metrics, the model in the end.
        seed: of the order of the data and of all noise.
        epochs: how often the data are read.
        max_steps: end after so many; 0: after the epochs. The schedule ends there, too.
        batch_size: packed rows of a step, over all processes and accumulated.
        max_length: tokens of a row.
        too_long: documents longer than a row are refused, or dropped and counted.
        lr: highest learning rate.
        schedule: how it falls after the warm-up.
        warmup_steps: it rises for so long.
        final_lr_share: of ``lr``, at the end.
        max_grad_norm: gradients are scaled down to it; 0: never.
        precision: fp32; mixed, float32 weights and bfloat16 arithmetic; bf16, all of it: half the memory, and
            updates below 1/256 of a weight are lost.
        recompute: what the backward pass computes anew instead of keeping it: nothing, MLPs, or whole layers.
        compile: MLPs through torch.compile.
        neftune_alpha: noise on embeddings, arXiv 2310.05914; 0: none.
        export_type: numbers in the model's files.
        tensorboard: metrics for it, too.
    """

    method: Method
    model: str
    output: str
    data: Data
    seed: int = 0
    epochs: int = 1
    max_steps: int = 0
    batch_size: int = 8
    max_length: int = 2048
    too_long: Literal["refuse", "drop"] = "refuse"
    lr: float = 7e-6
    schedule: Schedule = "cosine"
    warmup_steps: int = 0
    final_lr_share: float = 0.0
    max_grad_norm: float = 1.0
    precision: Precision = "mixed"
    recompute: Recompute = "none"
    compile: bool = False
    neftune_alpha: float = 0.0
    export_type: FileType = "bf16"
    tensorboard: bool = False
    adamw: AdamW | None = None
    rmsprop: RMSProp | None = None
    lora: Lora | None = None
    dpo: Dpo | None = None
    distill: Distill | None = None
    checkpoints: Checkpoints = field(default_factory=Checkpoints)
    evaluation: Evaluation = field(default_factory=Evaluation)

    def __post_init__(self) -> None:
        _check(bool(self.model), "model", self.model, "a name or path")
        _check(bool(self.output), "output", self.output, "a folder")
        _within("seed", self.seed, 0, 2**63 - 1)
        _within("epochs", self.epochs, 1, 10**6)
        _within("max_steps", self.max_steps, 0, 10**9)
        _within("batch_size", self.batch_size, 1, 10**6)
        _within("max_length", self.max_length, 8, 1 << 20)
        _within("lr", self.lr, 1e-12, 10)
        _within("warmup_steps", self.warmup_steps, 0, 10**9)
        _within("final_lr_share", self.final_lr_share, 0, 1)
        _within("max_grad_norm", self.max_grad_norm, 0, 1e9)
        _within("neftune_alpha", self.neftune_alpha, 0, 1000)
        self._check_tables()

    def _check_tables(self) -> None:
        if self.adamw and self.rmsprop:
            _refuse("rmsprop", "stands beside [adamw]; a run has one optimiser, leave one of them out")
        if self.dpo and self.method != "dpo":
            _refuse("dpo", f"has no effect with method {self.method!r}; leave it out, or let method be 'dpo'")
        if self.distill and self.method != "sft":
            _refuse("distill", "is for method 'sft' alone; leave it out")
        if self.evaluation.samples and not (self.data.eval or self.data.eval_share):
            _refuse("evaluation.samples", "needs held-out data: give data.eval or data.eval_share")
        if self.evaluation.every and not (self.data.eval or self.data.eval_share):
            _refuse("evaluation.every", "needs held-out data: give data.eval or data.eval_share")

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Self:
        """A recipe from parsed TOML or JSON.

        Raises:
            RequestError: a key that is unknown, missing or of wrong type or value; ``param`` names it.
        """
        return _table(cls, values, "")

    def to_dict(self) -> dict[str, Any]:
        """All settings, defaults included; ``of`` reads them back equal. Absent tables are left out."""
        values = dataclasses.asdict(self)
        return {key: value for key, value in values.items() if value is not None}

    def replace(self, **changes: Any) -> Self:
        """The recipe with other values, checked again."""
        return dataclasses.replace(self, **changes)


def shipped() -> dict[str, Path]:
    """Recipes that come with the program, by name."""
    folder = Path(str(files("hermes3.train"))) / "recipes"
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


def read(source: str, changes: Sequence[str] = ()) -> Recipe:
    """The recipe of a TOML or JSON file, or of a shipped one's name.

    Args:
        changes: settings that go before those of the file, as ``lr=1e-5`` or ``data.train=["a.jsonl"]``.

    Raises:
        ModelNotFoundError: there is no such file.
        FormatError: it is neither.
        RequestError: as ``Recipe.of``.
    """
    path = shipped().get(source, Path(source))
    if not path.is_file():
        raise ModelNotFoundError(f"no recipe {source}; shipped ones: {', '.join(shipped())}; or give a file")
    try:
        text = path.read_text("utf-8")
        values = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except (ValueError, OSError) as error:
        raise FormatError(f"{path} is damaged: {error}") from error
    if not isinstance(values, dict):
        raise FormatError(f"{path} holds {type(values).__name__}, it must be a table of settings")
    for change in changes:
        _set(values, change)
    return Recipe.of(values)


def _set(values: dict[str, Any], change: str) -> None:
    name, equals, text = change.partition("=")
    if not equals or not name:
        raise RequestError(f"--set {change} is no NAME=VALUE, as lr=1e-5", param=name)
    *tables, key = name.strip().split(".")
    for table in tables:
        values = values.setdefault(table, {})
        if not isinstance(values, dict):
            _refuse(name, f"lies within {table}, which is no table")
    try:
        values[key] = tomllib.loads(f"x = {text}")["x"]
    except tomllib.TOMLDecodeError:
        values[key] = text  # a string without quotes


def _table(cls: Any, values: Mapping[str, Any], where: str) -> Any:
    kinds = get_type_hints(cls)
    fields = {field.name: field for field in dataclasses.fields(cls)}
    for key in values:
        if key not in fields:
            near = difflib.get_close_matches(key, fields, 1)
            hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(fields)}"
            _refuse(f"{where}{key}", f"is not known; {hint}")
    for name, each in fields.items():
        has_default = (each.default, each.default_factory) != (dataclasses.MISSING,) * 2
        if name not in values and not has_default:
            _refuse(f"{where}{name}", "is missing")
    return cls(**{key: _value(kinds[key], value, f"{where}{key}") for key, value in values.items()})


def _value(kind: Any, value: Any, name: str) -> Any:
    if isinstance(kind, UnionType):  # a table that may be absent
        kind = get_args(kind)[0]
    if dataclasses.is_dataclass(kind):
        if not isinstance(value, Mapping):
            _refuse(name, f"is {value!r:.60}; it must be a table")
        return _table(kind, value, f"{name}.")
    if get_origin(kind) is Literal:
        if value not in get_args(kind):
            _refuse(name, f"is {value!r:.60}; it must be one of {', '.join(map(repr, get_args(kind)))}")
        return value
    if get_origin(kind) is tuple:
        if not isinstance(value, list | tuple):
            value = [value]
        return tuple(_value(get_args(kind)[0], item, name) for item in value)
    if kind is float and type(value) is int:
        value = float(value)
    if type(value) is not kind:
        _refuse(name, f"is {value!r:.60}; it must be of type {kind.__name__}")
    return value


def _within(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        _refuse(name, f"is {value}; it must lie between {low} and {high}")


def _check(is_right: bool, name: str, value: object, wanted: str) -> None:
    if not is_right:
        _refuse(name, f"is {value!r:.60}; it must be {wanted}")


def _refuse(name: str, why: str) -> NoReturn:
    raise RequestError(f"recipe: {name} {why}", param=name)
