"""Models from disk and back: any checkpoint in, a Hugging Face folder out."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

from hermes3.errors import FormatError, UnsupportedError
from hermes3.train.model import Llama
from hermes3.weights.checkpoint import Checkpoint
from hermes3.weights.hf_folder import read_config
from hermes3.weights.safetensors_writer import StoredSource, write_shards
from hermes3.weights.strict_json import read_object
from hermes3.weights.whole import whole_folder

TEMPLATE, TOKENIZER = "chat_template.jinja", "tokenizer_config.json"
CARRIED = ("tokenizer.json", TOKENIZER, "special_tokens_map.json", TEMPLATE)
DTYPES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}


def load(checkpoint: Checkpoint, dtype: torch.dtype = torch.float32, device: str = "cpu") -> Llama:
    """The model of a checkpoint, its weights as numbers of ``dtype``; quantized ones are dequantized.

    Raises:
        UnsupportedError, FormatError: as ``fill``.
    """
    model = bare(checkpoint, dtype).to_empty(device=device)
    fill(model, checkpoint)
    return model


def bare(checkpoint: Checkpoint, dtype: torch.dtype) -> Llama:
    """The model of a checkpoint on the meta device, without numbers."""
    with torch.device("meta"):
        return Llama(checkpoint.config).to(dtype)


@torch.no_grad()
def fill(model: Llama, checkpoint: Checkpoint) -> None:
    """Reads a model's weights; of one that is shared out among processes, each reads its own part.

    Raises:
        UnsupportedError: rotary factors of a GGUF file, which the configuration does not express.
        FormatError: as ``Checkpoint.tensor``.
    """
    if checkpoint.rope_factors is not None:
        raise UnsupportedError(
            f"{checkpoint.source} brings its own rotary factors; `hermes3 convert` it to a folder first"
        )
    for name, parameter in model.named_parameters():
        if name in checkpoint.entries:
            part, span = own_part(parameter)
            values = checkpoint.rows(name, span.start, span.stop).values()
            part.copy_(torch.from_numpy(values[span] if values.ndim == 1 else values))


def own_part(parameter: Tensor) -> tuple[Tensor, slice]:
    """What this process holds of a parameter, and which rows of the whole that is."""
    if not isinstance(parameter, DTensor):
        return parameter, slice(0, parameter.shape[0])
    size, offset = compute_local_shape_and_global_offset(
        parameter.shape, parameter.device_mesh, parameter.placements
    )
    return parameter.to_local(), slice(offset[0], offset[0] + size[0])


def gathered(model: Llama, keep: bool) -> dict[str, Tensor]:
    """All weights, by name; those shared out are put together, on the CPU.

    Args:
        keep: whether this process wants them; all must ask.
    """
    tensors = {}
    for name, parameter in model.named_parameters():
        whole = parameter.detach()
        if isinstance(whole, DTensor):
            whole = whole.full_tensor().cpu() if keep else whole.full_tensor()
        if keep:
            tensors[name] = whole
    return tensors


def save(
    tensors: Mapping[str, Tensor],
    source: Path,
    target: Path,
    dtype: torch.dtype,
    end_id: int | None = None,
    beside: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Writes a folder that transformers, vLLM and the engine open; whole or not at all.

    Args:
        tensors: by Hugging Face's names.
        source: the folder that training began with: configuration and tokenizer come from it.
        target: must not exist.
        dtype: of the weights in the files.
        end_id: the token that ends an answer as it was trained, added to those the source names.
        beside: texts of more files, by name; a chat template goes before the source's.

    Raises:
        UnsupportedError: the source is no folder.
        DiskSpaceError, OSError: there is no room, or it cannot be written.
    """
    if not source.is_dir():
        raise UnsupportedError(f"{source} is no folder; `hermes3 convert` it to one, and train that")
    config = {**read_config(source), "torch_dtype": str(dtype).removeprefix("torch.")}
    config.pop("dtype", None)
    config["tie_word_embeddings"] = "lm_head.weight" not in tensors
    generation = _object(source / "generation_config.json") or {"_from_model_config": True}
    if end_id is not None:
        ends = sorted({end_id, *_ids(config), *_ids(generation)})
        config["eos_token_id"] = generation["eos_token_id"] = ends[0] if len(ends) == 1 else ends
    objects = {"config.json": config, "generation_config.json": generation}
    if TEMPLATE in beside and (of_tokenizer := _object(source / TOKENIZER)):
        of_tokenizer.pop("chat_template", None)
        objects[TOKENIZER] = of_tokenizer
    sources = [stored(name, tensor, dtype) for name, tensor in tensors.items()]
    with whole_folder(target, sum(source.n_bytes for source in sources)) as part:
        for name in CARRIED:
            if (source / name).is_file():
                shutil.copyfile(source / name, part / name)
        for name, value in objects.items():
            (part / name).write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", "utf-8")
        for name, text in beside.items():
            (part / name).write_text(text, "utf-8")
        write_shards(part, sources)


def _object(path: Path) -> dict[str, Any]:
    return read_object(path, 1 << 25) if path.is_file() else {}


def _ids(values: Mapping[str, Any]) -> list[int]:
    value = values.get("eos_token_id")
    return value if isinstance(value, list) else [] if value is None else [value]


def stored(name: str, tensor: Tensor, dtype: torch.dtype) -> StoredSource:
    """A tensor as it is written; FormatError, once it is read, where it holds values that are no numbers."""

    def read() -> NDArray[np.uint8]:
        data = tensor.detach().to("cpu", dtype).contiguous()
        if not torch.isfinite(data).all():
            raise FormatError(f"tensor {name} holds values that are no numbers: the training has diverged")
        return data.reshape(-1).view(torch.uint8).numpy()

    n_bytes = tensor.numel() * dtype.itemsize
    return StoredSource(name, DTYPES[dtype], tuple(tensor.shape), n_bytes, read)
