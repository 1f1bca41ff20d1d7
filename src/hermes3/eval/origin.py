"""What a model's own files tell about it, for its card."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from hermes3.errors import FormatError, ModelNotFoundError, RequestError
from hermes3.weights.checkpoint import Checkpoint, open_checkpoint
from hermes3.weights.gguf import read_gguf

RECIPES = ("recipe.toml", "recipe.json")
_METHODS = {"sft": "supervised fine-tuning", "dpo": "direct preference optimization (DPO)"}


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a model comes from.

    Attributes:
        path: the GGUF file, or the folder of safetensors.
        name: what the card calls it.
        recipe: settings of the training run, by dotted names; empty where there is no recipe.
        license, base_model: None where nothing says them.
        languages, tags: as its files say.
        others: GGUF files beside it.
    """

    path: Path
    checkpoint: Checkpoint
    name: str
    recipe: Mapping[str, str]
    license: str | None
    base_model: str | None
    languages: tuple[str, ...]
    tags: tuple[str, ...]
    others: tuple[Path, ...]

    @property
    def n_parameters(self) -> int:
        """Weights, one for each element of the stored tensors."""
        return sum(prod(entry.shape) for entry in self.checkpoint.entries.values())

    @property
    def method(self) -> str | None:
        """How it was trained, in words, where its recipe says so."""
        value = self.recipe.get("method")
        return None if value is None else _METHODS.get(value, value)


def model_in(folder: Path, file: str | None) -> Path:
    """The model that a folder holds: itself where it has config.json, else its GGUF file.

    Args:
        file: name of the GGUF file that is meant, where there are several.

    Raises:
        ModelNotFoundError: no folder, or none in it.
        RequestError: several.
    """
    if not folder.is_dir():
        raise ModelNotFoundError(f"{folder} is no folder; the card is written into the model's own")
    if file is not None:
        if not (folder / file).is_file() or Path(file).name != file:
            raise ModelNotFoundError(f"{folder} has no file {file}")
        return folder / file
    if (folder / "config.json").is_file():
        return folder
    files = sorted(folder.glob("*.gguf"))
    if not files:
        raise ModelNotFoundError(f"{folder} has neither config.json nor a .gguf file")
    if len(files) > 1:
        names = ", ".join(each.name for each in files)
        raise RequestError(f"{folder} has {len(files)} models: say which with --file ({names})", param="file")
    return files[0]


def origin_of(
    path: Path,
    *,
    recipe: Path | None = None,
    name: str | None = None,
    license: str | None = None,
    base_model: str | None = None,
) -> Origin:
    """Reads what is known; what is given goes before what the recipe says, and that before the file.

    Raises:
        FormatError, UnsupportedError, ModelNotFoundError: the model or the recipe cannot be read.
    """
    checkpoint = open_checkpoint(path)
    folder = path if path.is_dir() else path.parent
    beside = [folder / each for each in RECIPES if (folder / each).is_file()]
    source = recipe or (beside[0] if beside else None)
    settings = {} if source is None else dict(_flat(_read_recipe(source)))
    metadata = _metadata(path)
    resolved = path.resolve()
    return Origin(
        path=path,
        checkpoint=checkpoint,
        name=_line(name or settings.get("name") or metadata.get("general.name") or _stem(resolved)),
        recipe=settings,
        license=license or settings.get("license") or _text(metadata, "general.license"),
        base_model=base_model or _base_model(settings, metadata),
        languages=_texts(metadata, "general.languages"),
        tags=_texts(metadata, "general.tags"),
        others=tuple(sorted(each for each in folder.glob("*.gguf") if each.resolve() != resolved)),
    )


def _base_model(settings: Mapping[str, str], metadata: Mapping[str, Any]) -> str | None:
    for key in ("base_model", "model", "model.path"):
        if key in settings:
            return settings[key]
    url = _text(metadata, "general.base_model.0.repo_url")
    return url.removeprefix("https://huggingface.co/") if url else None


def _read_recipe(path: Path) -> dict[str, Any]:
    try:
        raw = path.read_text("utf-8")
        values = tomllib.loads(raw) if path.suffix == ".toml" else json.loads(raw)
    except OSError as error:
        raise FormatError(f"recipe {path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise FormatError(f"recipe {path} is damaged: {error}") from error
    if not isinstance(values, dict):
        raise FormatError(f"recipe {path} holds no table of settings")
    return values


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict):
            yield from _flat(value, f"{name}.")
        elif isinstance(value, str):
            yield name, _line(value)
        elif value is not None:
            yield name, _line(json.dumps(value, ensure_ascii=False, default=str))


def _metadata(path: Path) -> Mapping[str, Any]:
    if path.is_dir():
        return {}
    with path.open("rb") as file:
        return read_gguf(file).metadata


def _text(metadata: Mapping[str, Any], key: str) -> str | None:
    value = metadata.get(key)
    return _line(value) or None if isinstance(value, str) else None


def _texts(metadata: Mapping[str, Any], key: str) -> tuple[str, ...]:
    value = metadata.get(key)
    return tuple(_line(each) for each in value) if isinstance(value, list) else ()


def _stem(path: Path) -> str:
    return path.name if path.is_dir() else path.stem


def _line(text: str) -> str:
    """In one line, so that it cannot become a heading or a fence of the card."""
    return " ".join(text.split())
