"""What a run will take, before it is run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from hermes3.train import losses
from hermes3.train.arithmetic import n_matrix, n_parameters
from hermes3.train.build import can_fuse
from hermes3.train.material import Material
from hermes3.train.recipe import Recipe
from hermes3.weights.config import ModelConfig

SHARE = 0.4  # of the speed of large products that training is taken to reach


@dataclass(frozen=True, slots=True)
class Plan:
    """Counts of a run.

    Attributes:
        n_documents, n_tokens, n_trained: of the first epoch.
        n_held_out: documents that are measured alone.
        n_rows: packed rows of the first epoch.
        packed: share of those rows that holds tokens.
        n_steps: of the whole run.
        n_parameters, n_trained_parameters: of the model, and those that are trained.
        memory: bytes of each part for one process.
        seconds: that the arithmetic takes.
    """

    n_documents: int
    n_tokens: int
    n_trained: int
    n_held_out: int
    n_rows: int
    packed: float
    n_steps: int
    n_parameters: int
    n_trained_parameters: int
    memory: dict[str, int]
    seconds: float

    @property
    def n_bytes(self) -> int:
        """Of all parts of the memory."""
        return sum(self.memory.values())

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        names = [name for name in self.__slots__ if name != "memory"]
        return {name: getattr(self, name) for name in names} | {
            "memory": {**self.memory, "total": self.n_bytes}
        }


def plan(recipe: Recipe, config: ModelConfig, material: Material, n_ranks: int, peak: float) -> Plan:
    """Counts what a run will do.

    Args:
        n_ranks: processes.
        peak: FLOP/s of the products of each.
    """
    order = material.order(recipe)
    rows = order.rows_of_epoch(0)
    documents = np.array([document for row in rows for document in row])
    lengths, trained = material.train.lengths[documents], material.train.n_trained[documents]
    share = order.n_steps / max(1, -(-len(rows) // recipe.batch_size))  # epochs
    flops = share * _flops(recipe, config, lengths, int(trained.sum()))
    return Plan(
        n_documents=len(documents),
        n_tokens=int(lengths.sum()),
        n_trained=int(trained.sum()),
        n_held_out=sum(map(len, material.held_out_rows)),
        n_rows=len(rows),
        packed=int(lengths.sum()) / (len(rows) * recipe.max_length),
        n_steps=order.n_steps,
        n_parameters=n_parameters(config),
        n_trained_parameters=_trained_parameters(recipe, config),
        memory=_memory(recipe, config, n_ranks),
        seconds=flops / (SHARE * peak * n_ranks),
    )


def _flops(recipe: Recipe, config: ModelConfig, lengths: np.ndarray[Any, Any], n_trained: int) -> float:
    """Operations of an epoch; as ``row_flops``, and what is recomputed."""
    passes = {"none": 6, "mlp": 7.4, "all": 8}[recipe.recompute] - (2 if recipe.lora else 0)
    width = config.num_attention_heads * config.head_dim
    attention = 6 * config.num_hidden_layers * width * float((lengths.astype(float) ** 2).sum())
    head = config.vocab_size * config.hidden_size * n_trained
    return passes * n_matrix(config) * float(lengths.sum()) + 6 * head + attention


def _trained_parameters(recipe: Recipe, config: ModelConfig) -> int:
    if recipe.lora is None:
        return n_parameters(config)
    hidden, mlp = config.hidden_size, config.intermediate_size
    queries, keys = (n * config.head_dim for n in (config.num_attention_heads, config.num_key_value_heads))
    sides = {"q_proj": hidden + queries, "k_proj": hidden + keys, "v_proj": hidden + keys,
             "o_proj": queries + hidden, "gate_proj": hidden + mlp, "up_proj": hidden + mlp,
             "down_proj": mlp + hidden}  # fmt: skip
    return config.num_hidden_layers * recipe.lora.rank * sum(sides[name] for name in recipe.lora.targets)


def _memory(recipe: Recipe, config: ModelConfig, n_ranks: int) -> dict[str, int]:
    """Bytes of each part for one process; activations by what the backward pass of a full row keeps."""
    is_bf16 = recipe.precision == "bf16"
    n_all, n_trained = n_parameters(config), _trained_parameters(recipe, config)
    kept = 2 if is_bf16 or (recipe.lora and recipe.precision == "mixed") else 4
    own = 2 if is_bf16 else 4
    weights = n_all * kept + (n_trained * own if recipe.lora else 0)
    moments = 1 if recipe.rmsprop else 2
    hidden, mlp = config.hidden_size, config.intermediate_size
    keys = config.num_key_value_heads * config.head_dim
    # values a token keeps of a layer, and of its MLP; float32 is taken to be a CPU's, where layers are fused
    n_hidden, n_mlp = (4, 2) if can_fuse(recipe) else (8, 4)
    layer = n_hidden * hidden + 2 * keys + n_mlp * mlp
    each = {"none": config.num_hidden_layers * layer,
            "mlp": config.num_hidden_layers * (layer - n_mlp * mlp) + n_mlp * mlp,
            "all": config.num_hidden_layers * hidden + layer}[recipe.recompute]  # fmt: skip
    size = 4 if recipe.precision == "fp32" else 2
    n_kept = min(recipe.max_length, losses.most_kept(hidden))
    return {
        "weights": weights // n_ranks,
        "gradients": n_trained * own // n_ranks,
        "optimiser": n_trained * own * moments // n_ranks,
        "activations": recipe.max_length * each * size,
        "logits": config.vocab_size * n_kept * size + 4 * losses.CHUNK_VALUES,
    }
