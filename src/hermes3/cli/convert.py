"""`hermes3 convert` and `hermes3 quantize`: a model file in another form, or in fewer bits."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hermes3.cli import status
from hermes3.cli.compare import read_text
from hermes3.cli.failure import UsageError
from hermes3.cli.models import located
from hermes3.compare.measure import Text
from hermes3.convert.fp8 import to_fp8_folder
from hermes3.convert.recipes import RECIPES, Recipe
from hermes3.convert.to_folder import to_folder
from hermes3.convert.to_gguf import to_gguf
from hermes3.engine.calibration import importance
from hermes3.errors import Hermes3Error
from hermes3.llm.parts import tokenizer_of
from hermes3.weights.checkpoint import Checkpoint, open_checkpoint
from hermes3.weights.hub.progress import size_text
from hermes3.weights.quant import GGMLType
from hermes3.weights.quant_k import K_TYPES

CALIBRATION_CTX, CALIBRATION_WINDOWS = 512, 32  # 16,384 tokens
FLOATS = {"f32": GGMLType.F32, "f16": GGMLType.F16, "bf16": GGMLType.BF16}


def run_convert(source: str, target: Path, to: str | None) -> None:
    """Write a GGUF file where the target ends in .gguf, else a folder, and print its path.

    Raises:
        UsageError: an unknown type, or a target that exists or lies nowhere.
        Hermes3Error: the source cannot be had or read, or the target not be written.
    """
    if to is not None and to not in (*FLOATS, "fp8"):
        raise UsageError(f"--to {to} is no float type; there are {', '.join(FLOATS)}, fp8")
    if to == "fp8" and target.suffix == ".gguf":
        raise UsageError("--to fp8 is for folders, GGUF has no such type; `quantize --to q8_0` is near it")
    checkpoint = _opened(source, target)
    is_file = target.suffix == ".gguf"
    if to is None and not (is_file and checkpoint.source.is_file()):
        to = _own_type(checkpoint)
    if to is None:
        raise UsageError(f"{source} is a GGUF file already; name a float type with --to")
    if is_file:
        _written(checkpoint, target, RECIPES[to], {})
    else:
        with _failures(target):
            start = time.perf_counter()
            if to == "fp8":
                to_fp8_folder(checkpoint, target, status.progress())
            else:
                to_folder(checkpoint, target, FLOATS[to], status.progress())
        _report(checkpoint, target, to, time.perf_counter() - start)


def run_quantize(source: str, target: Path, to: str, requantize: bool, calibrate: Path | None) -> None:
    """Write a GGUF file of the type asked for, and print its path.

    Args:
        calibrate: a text; what the model makes of it says which columns of its matrices matter.

    Raises:
        UsageError: an unknown type, a quantized source, or a target that exists or lies nowhere.
        Hermes3Error: the source cannot be had or read, or the target not be written.
    """
    if to not in RECIPES:
        raise UsageError(f"--to {to} is no type known here; there are {', '.join(RECIPES)}")
    if target.suffix != ".gguf":
        raise UsageError(f"{target} does not end in .gguf, and quantized weights are written as GGUF alone")
    if calibrate is not None and RECIPES[to].common not in K_TYPES:
        raise UsageError(f"--calibrate has no effect on {to}; it is for q4_k_m, q5_k_m and q6_k")
    text = None if calibrate is None else read_text(calibrate)
    checkpoint = _opened(source, target)
    if not requantize and _is_quantized(checkpoint):
        raise UsageError(
            f"{source} is {checkpoint.description} already and would lose twice; take the original weights, "
            "or add --requantize"
        )
    _written(checkpoint, target, RECIPES[to], {} if text is None else _importance(checkpoint, text))


def _importance(checkpoint: Checkpoint, text: str) -> dict[str, NDArray[np.float32]]:
    tokenizer = tokenizer_of(checkpoint)
    n_ctx = min(CALIBRATION_CTX, checkpoint.config.max_position_embeddings)
    bos = tokenizer.bos_id if tokenizer.add_bos else None
    windows = Text.of(tokenizer.encode(text), n_ctx, CALIBRATION_WINDOWS, bos).windows
    with status.Line() as line:
        return importance(
            checkpoint, windows, lambda done, of: line.show(f"calibrating: window {done + 1} of {of}")
        )


def _opened(source: str, target: Path) -> Checkpoint:
    """The source, once it is sure that the target may be written."""
    if not target.parent.is_dir():
        raise UsageError(f"{target.parent} is no folder; make it first")
    path = located(source)[1]
    if target.exists() or target.is_symlink():
        same = target.exists() and target.samefile(path)
        what = "is the source itself" if same else "exists"
        raise UsageError(f"{target} {what}; choose another name for the result, or remove it first")
    return open_checkpoint(path)


def _written(
    checkpoint: Checkpoint, target: Path, recipe: Recipe, weights: Mapping[str, NDArray[np.float32]]
) -> None:
    start = time.perf_counter()
    with _failures(target):
        to_gguf(checkpoint, target, recipe, status.progress(), weights)
    _report(checkpoint, target, recipe.name, time.perf_counter() - start)


@contextmanager
def _failures(target: Path) -> Iterator[None]:
    """Ctrl-C says that nothing was written; the system's refusals become sentences."""
    try:
        yield
    except KeyboardInterrupt:
        status.note(f"stopped; nothing was written to {target}")
        raise
    except OSError as error:
        raise Hermes3Error(f"{target} cannot be written: {error.strerror or error}") from error


def _own_type(checkpoint: Checkpoint) -> str:
    """The float type that most of the weights have; f16 where they are quantized."""
    name = checkpoint.description.lower()
    if name in FLOATS:
        return name
    status.note(f"the weights are {checkpoint.description} and become f16; --to f32 keeps every bit of them")
    return "f16"


def _is_quantized(checkpoint: Checkpoint) -> bool:
    return any(entry.type not in FLOATS.values() for entry in checkpoint.entries.values())


def _report(checkpoint: Checkpoint, target: Path, kind: str, seconds: float) -> None:
    files = [target] if target.is_file() else list(target.iterdir())
    size = sum(file.stat().st_size for file in files)
    what = f"{checkpoint.description}, {size_text(checkpoint.n_bytes)} to {kind}, {size_text(size)}"
    status.note(f"{checkpoint.source.name}: {what}, in {seconds:.1f} s")
    print(target)
