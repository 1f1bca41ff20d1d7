"""Writes a model as a Hugging Face folder: config.json, safetensors, tokenizer.json."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hermes3.convert.stream import Part, Recoder, recoded
from hermes3.convert.to_gguf import ROPE_SCALING
from hermes3.errors import FormatError, UnsupportedError
from hermes3.tokenizer.export import to_config, to_json
from hermes3.weights.checkpoint import Checkpoint, RawTensor
from hermes3.weights.config import ModelConfig, RopeScaling, rope_frequencies
from hermes3.weights.gguf import read_gguf
from hermes3.weights.hf_folder import read_config
from hermes3.weights.quant import GGMLType
from hermes3.weights.safetensors_writer import SHARD_BYTES, StoredSource, write_shards
from hermes3.weights.strict_json import parse_object
from hermes3.weights.whole import whole_folder

if TYPE_CHECKING:
    from hermes3.weights.hub import Progress

DTYPES = {GGMLType.F32: "float32", GGMLType.F16: "float16", GGMLType.BF16: "bfloat16"}  # torch's names
CARRIED = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja",
           "generation_config.json")  # fmt: skip

# Published Llamas with scaled rotary frequencies: 3.1, 3.2, 3.3.
_LLAMA3 = [RopeScaling(factor, 1.0, 4.0, 8192) for factor in (8.0, 32.0, 16.0)]


def to_folder(
    checkpoint: Checkpoint,
    path: Path,
    type: GGMLType,
    progress: Progress,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Writes the folder, whole or not at all.

    Args:
        checkpoint: in any form; what lies beside the weights of a folder is taken over.
        type: F32, F16 or BF16.
        progress: told of the bytes read.
        shard_bytes: most bytes of a safetensors file.

    Raises:
        FormatError: weights that the type cannot hold.
        UnsupportedError: a tokenizer, or a scaling of rotary frequencies, that the folder could not express.
        DiskSpaceError, OSError: there is no room, or it cannot be written.
    """
    beside = files_beside(checkpoint, DTYPES[type])

    def recode(part: Part, raw: RawTensor) -> NDArray[np.uint8]:
        return recoded(raw, type)

    recoder = Recoder(checkpoint, checkpoint.names, recode, progress)
    tensors = [source_of(checkpoint, name, type, recoder) for name in checkpoint.names]
    progress.begin(path.name, checkpoint.n_bytes, 0)
    try:
        with whole_folder(path, sum(tensor.n_bytes for tensor in tensors)) as part:
            write_beside(checkpoint, part, beside)
            write_shards(part, tensors, shard_bytes)
    finally:
        progress.end()


def write_beside(checkpoint: Checkpoint, folder: Path, objects: dict[str, dict[str, Any]]) -> None:
    """Writes JSON files, and copies what lies beside a folder's own weights and is not among them."""
    if checkpoint.source.is_dir():
        for name in CARRIED:
            if name not in objects and (checkpoint.source / name).is_file():
                shutil.copyfile(checkpoint.source / name, folder / name)
    for name, value in objects.items():
        (folder / name).write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", "utf-8")


def source_of(checkpoint: Checkpoint, name: str, type: GGMLType, recoder: Recoder) -> StoredSource:
    shape = checkpoint.entries[name].shape
    return StoredSource(name, type.name, shape, type.n_bytes(shape), lambda: recoder.read(name))


def files_beside(checkpoint: Checkpoint, dtype: str) -> dict[str, dict[str, Any]]:
    """The JSON files of the folder, less those that are copied, by name."""
    if checkpoint.source.is_dir():
        config = read_config(checkpoint.source)
        config.pop("dtype", None)
        tied = checkpoint.config.tie_word_embeddings
        return {"config.json": {**config, "torch_dtype": dtype, "tie_word_embeddings": tied}}
    vocabulary = checkpoint.vocabulary
    config = {**_with_scaling(checkpoint).to_hf(), "torch_dtype": dtype}
    if vocabulary is None:
        return {"config.json": config}
    n_positions = checkpoint.config.max_position_embeddings
    ends = sorted(checkpoint.eos_ids)
    ids: dict[str, Any] = {"bos_token_id": vocabulary.bos_id}
    ids["eos_token_id"] = ends[0] if len(ends) == 1 else ends or None
    if vocabulary.padding_id is not None:
        ids["pad_token_id"] = vocabulary.padding_id
    return {
        "config.json": config | ids,
        "generation_config.json": {"_from_model_config": True, **ids},
        "tokenizer.json": to_json(vocabulary),
        "tokenizer_config.json": to_config(vocabulary, checkpoint.chat_template, n_positions),
    }


def _with_scaling(checkpoint: Checkpoint) -> ModelConfig:
    """The configuration with the scaling that the file's divisors of rotary frequencies came from.

    Raises:
        UnsupportedError: no known scaling gives them.
    """
    config, factors = checkpoint.config, checkpoint.rope_factors
    if factors is None:
        return config
    with checkpoint.source.open("rb") as file:
        named = read_gguf(file).metadata.get(ROPE_SCALING)
    candidates = [] if named is None else [_scaling(named)]
    wanted = rope_frequencies(config, factors)
    for scaling in candidates + _LLAMA3:
        scaled = replace(config, rope_scaling=scaling)
        if np.allclose(rope_frequencies(scaled), wanted, rtol=1e-4, atol=0):
            return scaled
    raise UnsupportedError(
        f"{checkpoint.source}: the factors of its rotary frequencies are those of no known Llama 3, and "
        "config.json has no other way to say them; convert the original folder instead"
    )


def _scaling(text: object) -> RopeScaling:
    values = parse_object(text.encode() if isinstance(text, str) else b"", ROPE_SCALING)
    try:
        return RopeScaling(**values)
    except TypeError as error:
        raise FormatError(f"{ROPE_SCALING} is {text!r:.120}, it must hold RopeScaling's fields") from error
