"""Low-rank adaptation (arXiv 2106.09685): in PEFT's arithmetic, names and files."""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hermes3.train import folders
from hermes3.train.model import MLP, Attention, Llama
from hermes3.train.recipe import Lora
from hermes3.weights.safetensors_writer import write_file
from hermes3.weights.whole import whole_folder

PREFIX = "base_model.model."


class LoraLinear(nn.Linear):
    """A frozen matrix and a trained addition of low rank: x W' + (alpha / rank) dropout(x) A' B'."""

    def __init__(self, linear: nn.Linear, lora: Lora, dtype: torch.dtype) -> None:
        device = linear.weight.device
        super().__init__(linear.in_features, linear.out_features, bias=False, device="meta")
        self.weight = nn.Parameter(linear.weight.detach(), requires_grad=False)
        self.lora_A = nn.Linear(self.in_features, lora.rank, bias=False, dtype=dtype, device=device)
        self.lora_B = nn.Linear(lora.rank, self.out_features, bias=False, dtype=dtype, device=device)
        self.scale, self.dropout = lora.alpha / lora.rank, lora.dropout

    def forward(self, x: Tensor) -> Tensor:
        low = F.dropout(x, self.dropout, self.training).to(self.lora_A.weight.dtype)
        return F.linear(x, self.weight) + (self.lora_B(self.lora_A(low)) * self.scale).to(x.dtype)


def add(model: Llama, lora: Lora, dtype: torch.dtype = torch.float32) -> None:
    """Freezes the model and gives its target matrices additions, whose numbers ``begin`` fills in.

    Args:
        dtype: of the additions.
    """
    model.requires_grad_(False)
    for part in [module for module in model.modules() if isinstance(module, Attention | MLP)]:
        for name, linear in list(part.named_children()):
            if name in lora.targets and isinstance(linear, nn.Linear):
                setattr(part, name, LoraLinear(linear, lora, dtype))


@torch.no_grad()
def begin(model: Llama, seed: int) -> None:
    """Fills in additions that change nothing yet: A uniform as PEFT's, B zero; the same on any ranks."""
    for name, parameter in model.named_parameters():
        if name.endswith("lora_B.weight"):
            parameter.zero_()
        elif name.endswith("lora_A.weight"):
            generator = torch.Generator().manual_seed(seed ^ zlib.crc32(name.encode()))
            bound = 1 / math.sqrt(parameter.shape[1])
            values = torch.empty(parameter.shape).uniform_(-bound, bound, generator=generator)
            part, span = folders.own_part(parameter)
            part.copy_(values[span])


def merged(tensors: Mapping[str, Tensor], lora: Lora) -> dict[str, Tensor]:
    """Weights with their additions in them, under the model's own names.

    Args:
        tensors: all of an adapted model's, by name.
    """
    out = {name: tensor for name, tensor in tensors.items() if ".lora_" not in name}
    for name, a in tensors.items():
        if name.endswith(".lora_A.weight"):
            stem = name.removesuffix(".lora_A.weight")
            weight = out[f"{stem}.weight"]
            low = tensors[f"{stem}.lora_B.weight"].float() @ a.float()
            out[f"{stem}.weight"] = (weight.float() + low * (lora.alpha / lora.rank)).to(weight.dtype)
    return out


def save(tensors: Mapping[str, Tensor], lora: Lora, base: str, target: Path) -> None:
    """Writes an adapter that ``PeftModel.from_pretrained`` opens; whole or not at all.

    Args:
        tensors: of an adapted model, by name; those of the additions are written.
        base: what PEFT is told that the adapter belongs to.
        target: must not exist.

    Raises:
        FormatError: numbers that are none.
        DiskSpaceError, OSError: there is no room, or it cannot be written.
    """
    additions = [folders.stored(PREFIX + name, tensor, torch.float32)
                 for name, tensor in tensors.items() if ".lora_" in name]  # fmt: skip
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": lora.rank,
        "lora_alpha": lora.alpha,
        "lora_dropout": lora.dropout,
        "target_modules": list(lora.targets),
        "bias": "none",
        "inference_mode": True,
    }
    with whole_folder(target, sum(each.n_bytes for each in additions)) as part:
        (part / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n", "utf-8")
        write_file(part / "adapter_model.safetensors", additions)
