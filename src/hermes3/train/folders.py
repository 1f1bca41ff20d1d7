"""Models from disk and back: any checkpoint in, a Hugging Face folder out."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hermes3.errors import FormatError, UnsupportedError
from hermes3.train.model import Llama
from hermes3.weights.checkpoint import Checkpoint
from hermes3.weights.hf_folder import read_config
from hermes3.weights.safetensors_writer import StoredSource, write_shards
from hermes3.weights.strict_json import read_object
from hermes3.weights.whole import whole_folder

CARRIED = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")
DTYPES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}


def load(checkpoint: Checkpoint, dtype: torch.dtype = torch.float32, device: str = "cpu") -> Llama:
    """The model of a checkpoint, its weights as numbers of ``dtype``; quantized ones are dequantized.

    Raises:
        UnsupportedError: rotary factors of a GGUF file, which the configuration does not express.
        FormatError: as ``Checkpoint.tensor``.
    """
    if checkpoint.rope_factors is not None:
        raise UnsupportedError(
            f"{checkpoint.source} brings its own rotary factors; `hermes3 convert` it to a folder first"
        )
    with torch.device("meta"):
        model = Llama(checkpoint.config)
    model = model.to(dtype).to_empty(device=device)
    for name, parameter in model.named_parameters():
        with torch.no_grad():
            parameter.copy_(torch.from_numpy(checkpoint.tensor(name).values()))
    return model


def save(
    tensors: Mapping[str, Tensor], source: Path, target: Path, dtype: torch.dtype, end_id: int | None = None
) -> None:
    """Writes a folder that transformers, vLLM and the engine open; whole or not at all.

    Args:
        tensors: by Hugging Face's names.
        source: the folder that training began with: configuration, tokenizer and chat template come from it.
        target: must not exist.
        dtype: of the weights in the files.
        end_id: the token that ends an answer as it was trained, added to those the source names.

    Raises:
        UnsupportedError: the source is no folder.
        DiskSpaceError, OSError: there is no room, or it cannot be written.
    """
    if not source.is_dir():
        raise UnsupportedError(f"{source} is no folder; `hermes3 convert` it to one, and train that")
    config = read_config(source)
    path = source / "generation_config.json"
    generation: dict[str, Any] = {"_from_model_config": True}
    if path.is_file():
        generation = read_object(path, 1 << 20)
    if end_id is not None:
        ends = sorted({end_id, *_ids(config), *_ids(generation)})
        config["eos_token_id"] = generation["eos_token_id"] = ends[0] if len(ends) == 1 else ends
    config.pop("dtype", None)
    config["torch_dtype"] = str(dtype).removeprefix("torch.")
    config["tie_word_embeddings"] = "lm_head.weight" not in tensors
    stored = [_source(name, tensor, dtype) for name, tensor in tensors.items()]
    with whole_folder(target, sum(tensor.n_bytes for tensor in stored)) as part:
        for name in CARRIED:
            if (source / name).is_file():
                shutil.copyfile(source / name, part / name)
        for name, value in (("config.json", config), ("generation_config.json", generation)):
            (part / name).write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", "utf-8")
        write_shards(part, stored)


def _ids(values: Mapping[str, Any]) -> list[int]:
    value = values.get("eos_token_id")
    return value if isinstance(value, list) else [] if value is None else [value]


def _source(name: str, tensor: Tensor, dtype: torch.dtype) -> StoredSource:
    def read() -> NDArray[np.uint8]:
        data = tensor.detach().to("cpu", dtype).contiguous()
        if not torch.isfinite(data).all():
            raise FormatError(f"tensor {name} holds values that are no numbers: the training has diverged")
        return data.reshape(-1).view(torch.uint8).numpy()

    n_bytes = tensor.numel() * dtype.itemsize
    return StoredSource(name, DTYPES[dtype], tuple(tensor.shape), n_bytes, read)
