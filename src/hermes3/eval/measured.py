"""Results of lm-eval, as it or we wrote them: found, held against the model, cut into the card's tables."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hermes3.errors import FormatError, ModelNotFoundError, RequestError
from hermes3.eval.tables import Row, rows_of
from hermes3.eval.tasks import SUITES

FILE = "results.json"
_N_SAMPLES, _SAMPLE = 64, 4096  # pieces of each file, bytes of each
_WEIGHTS = (".gguf", ".safetensors")


@dataclass(frozen=True, slots=True)
class Measured:
    """What one file of results says.

    Attributes:
        results: lm-eval's.
        limit: documents of each task, None for all.
    """

    file: Path
    results: Mapping[str, Any]
    limit: int | None

    def sections(self) -> list[tuple[str, list[Row]]]:
        return sections(self.results, list(self.results["results"]))


def sections(results: Mapping[str, Any], tasks: Iterable[str]) -> list[tuple[str, list[Row]]]:
    """Title and rows of each suite of the card that is there whole, and of what is left ("tasks")."""
    left = list(tasks)
    found = []
    for name in ("gpt4all", "agieval", "bbh"):
        if set(SUITES[name]) <= set(left):
            found.append((name, rows_of(results, SUITES[name])))
            left = [task for task in left if task not in SUITES[name]]
    return [*found, ("tasks", rows_of(results, left))] if left else found


def identity(path: Path) -> str:
    """Tells one model's weights from another's by samples of their files, wherever they lie.

    Args:
        path: a GGUF file, or a folder with some or with safetensors.

    Returns:
        BLAKE2 of each file's size and of 64 pieces of 4 KiB spread over it, in hexadecimal.

    Raises:
        ModelNotFoundError: no weights there.
    """
    files = [path] if path.is_file() else sorted(each for each in path.glob("*") if each.suffix in _WEIGHTS)
    if not files:
        raise ModelNotFoundError(f"{path} has no .gguf or .safetensors file")
    digest = hashlib.blake2b(digest_size=16)
    for each in files:
        size = each.stat().st_size
        digest.update(size.to_bytes(8, "little"))
        with each.open("rb") as file:
            for index in range(_N_SAMPLES):
                file.seek(max(0, size - _SAMPLE) * index // (_N_SAMPLES - 1))
                digest.update(file.read(_SAMPLE))
    return digest.hexdigest()


def found(folders: Iterable[Path], model: Path) -> list[Measured]:
    """The results in some folders, of this model alone."""
    files = [folder / FILE for folder in folders]
    whose = identity(model)
    read_all = [(_read(file), file) for file in files if file.is_file()]
    return [_measured(raw, file) for raw, file in read_all if raw.get("hermes3", {}).get("weights") == whose]


def given(paths: Sequence[Path], model: Path) -> list[Measured]:
    """The results that were named: files, or folders with results.json.

    A file that does not say whose weights it measured, as those of lm-eval's own program, is believed.

    Raises:
        RequestError: nothing there, or results of other weights.
        FormatError: no results of lm-eval.
    """
    measured = []
    for path in paths:
        file = path / FILE if path.is_dir() else path
        if not file.is_file():
            raise RequestError(f"no results at {file}; hermes3 eval writes them", param="eval")
        raw = _read(file)
        whose = raw.get("hermes3", {}).get("weights")
        if whose is not None and whose != identity(model):
            name = raw["hermes3"].get("model", "another model")
            raise RequestError(f"{file} measured other weights ({name}) than those of {model}", param="eval")
        measured.append(_measured(raw, file))
    return measured


def _read(file: Path) -> dict[str, Any]:
    try:
        raw = json.loads(file.read_bytes())
    except (ValueError, OSError) as error:
        raise FormatError(f"{file} is no JSON: {error}") from error
    kinds = {"results": dict, "versions": dict, "n-shot": dict}
    if not isinstance(raw, dict) or not all(isinstance(raw.get(key), kind) for key, kind in kinds.items()):
        raise FormatError(f"{file} holds no results of lm-eval: results, versions and n-shot are needed")
    return raw


def _measured(raw: dict[str, Any], file: Path) -> Measured:
    config = raw.get("config")
    limit = raw.get("hermes3", {}).get("limit", config.get("limit") if isinstance(config, dict) else None)
    return Measured(file, raw, None if limit is None else int(limit))
