"""What a run leaves: a model's folder or an adapter, the recipe, the drawing of its losses."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from hermes3.prompt.chatml import IM_END, Template
from hermes3.prompt.jinja import chat_template
from hermes3.tokenizer import Tokenizer
from hermes3.train import folders, lora, plot
from hermes3.train.events import lines_of
from hermes3.train.model import Llama
from hermes3.train.ranks import Ranks
from hermes3.train.recipe import FileType, Recipe

DTYPES: dict[FileType, torch.dtype] = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}


def target_of(recipe: Recipe) -> Path:
    """Where the model, or the adapter, will be."""
    is_adapter = recipe.lora is not None and not recipe.lora.merge
    return Path(recipe.output) / ("adapter" if is_adapter else "model")


def write(
    recipe: Recipe, model: Llama, source: Path, tokenizer: Tokenizer, template: Template, ranks: Ranks
) -> None:
    """Writes it all. The model's folder has the template that it was trained in, and the recipe.

    Raises:
        FormatError: weights that are no numbers.
        DiskSpaceError, OSError: there is no room, or it cannot be written.
    """
    tensors = folders.gathered(model, ranks.is_first)
    target = target_of(recipe)

    def act() -> None:
        if recipe.lora is not None and not recipe.lora.merge:
            lora.save(tensors, recipe.lora, str(source.resolve()), target)
            return
        whole = tensors if recipe.lora is None else lora.merged(tensors, recipe.lora)
        beside = {
            "chat_template.jinja": chat_template(template),
            "recipe.json": json.dumps(recipe.to_dict(), indent=2) + "\n",
        }
        end_id = tokenizer.token_id(IM_END)
        folders.save(whole, source, target, DTYPES[recipe.export_type], end_id, beside)

    ranks.first_then_others(act)


def draw(recipe: Recipe, metrics: Path) -> Path:
    """Draws the losses of a run as ``loss.svg``."""
    lines = lines_of(metrics)
    path = metrics.with_name("loss.svg")
    title = f"{recipe.model}, {recipe.method}: loss"
    path.write_text(plot.svg(title, lines), "utf-8")
    return path
