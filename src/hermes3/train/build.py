"""The model of a run: read, adapted, shared out among the processes."""

from __future__ import annotations

import os
import shutil
import sys

import torch

from hermes3.errors import FormatError, RequestError
from hermes3.prompt.chatml import IM_END, IM_START, Template
from hermes3.tokenizer import Tokenizer
from hermes3.train import folders, lora
from hermes3.train.model import MLP, Llama
from hermes3.train.ranks import Ranks
from hermes3.train.recipe import Recipe
from hermes3.weights.checkpoint import Checkpoint


def model_of(recipe: Recipe, checkpoint: Checkpoint, ranks: Ranks) -> Llama:
    """The model that training begins with; every process reads its own part of the weights.

    Raises:
        UnsupportedError, FormatError: as ``folders.fill``.
    """
    model = folders.bare(checkpoint, _weights_type(recipe))
    if recipe.lora is not None:
        lora.add(model, recipe.lora, torch.bfloat16 if recipe.precision == "bf16" else torch.float32)
    ranks.share_out(model, compute_type(recipe))
    model.to_empty(device=ranks.device)
    folders.fill(model, checkpoint)
    lora.begin(model, recipe.seed)
    model.set_recompute(recipe.recompute)
    model.noise_alpha = recipe.neftune_alpha
    model.set_fused(ranks.device.type == "cpu" and can_fuse(recipe))
    if recipe.compile:
        for mlp in [module for module in model.modules() if isinstance(module, MLP)]:
            mlp.compile(dynamic=True)
    return model


def can_fuse(recipe: Recipe) -> bool:
    """Whether ``fused.FusedLayer`` does what the recipe says, on a CPU."""
    return recipe.precision == "fp32" and recipe.lora is None and not recipe.compile


def check_compiler() -> None:
    """Raises RequestError where torch.compile has no C++ compiler to work with."""
    compiler = os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")  # as torch chooses
    if shutil.which(compiler) is None:
        raise RequestError(
            f"compile is true, and there is no C++ compiler {compiler} here: install one, name one with CXX, "
            "or let compile be false",
            param="compile",
        )


def compute_type(recipe: Recipe) -> torch.dtype:
    """What products are computed in."""
    return torch.float32 if recipe.precision == "fp32" else torch.bfloat16


def _weights_type(recipe: Recipe) -> torch.dtype:
    """What weights are kept in: those that are trained in float32, unless the recipe says bf16."""
    is_frozen = recipe.lora is not None and recipe.precision == "mixed"
    return torch.bfloat16 if recipe.precision == "bf16" or is_frozen else torch.float32


def text_of(checkpoint: Checkpoint) -> tuple[Tokenizer, Template]:
    """A model's tokenizer, and how its prompts differ from plain ChatML.

    Raises:
        FormatError: its files hold no tokenizer.
        RequestError: its vocabulary has not the two tokens of ChatML.
    """
    if checkpoint.vocabulary is not None:
        tokenizer = Tokenizer.from_gguf(checkpoint.vocabulary)
    elif checkpoint.tokenizer_json is not None:
        tokenizer = Tokenizer.from_file(checkpoint.tokenizer_json)
    else:
        raise FormatError(f"{checkpoint.source} has no tokenizer.json, and training reads text")
    missing = [text for text in (IM_START, IM_END) if tokenizer.token_id(text) is None]
    if missing:
        raise RequestError(
            f"the vocabulary of {checkpoint.source} has no {' and no '.join(missing)}; give two of its "
            "reserved tokens these names in tokenizer.json, or begin with a model that speaks ChatML",
            param="model",
        )
    own = checkpoint.chat_template or tokenizer.chat_template
    return tokenizer, Template.of_model(own, bos_token=tokenizer.bos_token, add_bos=tokenizer.add_bos)
