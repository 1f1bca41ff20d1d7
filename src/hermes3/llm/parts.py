"""What a hall is made of, and how that comes from a file."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from hermes3.engine.engine import Engine
from hermes3.engine.model import KVType
from hermes3.engine.pace import LATENCY_S
from hermes3.engine.prefix_store import DEFAULT_BYTES
from hermes3.engine.protocol import EngineProtocol
from hermes3.engine.vllm.options import VllmOptions
from hermes3.errors import FormatError
from hermes3.prompt.chatml import Template
from hermes3.tokenizer import Tokenizer
from hermes3.weights import hf_folder
from hermes3.weights.checkpoint import Checkpoint, open_checkpoint


@dataclass(frozen=True, slots=True)
class Parts:
    """An engine, and the text that goes with its numbers.

    Attributes:
        tokenizer: text to ids and back.
        template: how prompts differ from plain ChatML.
        end_ids: ids that end an answer.
    """

    engine: EngineProtocol[Any]
    tokenizer: Tokenizer
    template: Template
    end_ids: frozenset[int]

    @classmethod
    def load(
        cls,
        path: Path,
        *,
        n_ctx: int | None,
        n_threads: int | None,
        n_sequences: int | None,
        kv_dtype: KVType | None,
        kv_bytes: int | None,
        prefix_caching: bool = True,
        speculative: bool = True,
        latency_s: float = LATENCY_S,
        prefix_folder: Path | None = None,
        prefix_bytes: int = DEFAULT_BYTES,
    ) -> Self:
        """From a GGUF file or a folder; arguments as for ``LLM``.

        Raises:
            FormatError: the file is damaged, not of its format, or without a vocabulary.
            CapacityError: the model does not fit into memory.
        """
        checkpoint = open_checkpoint(path)
        with ThreadPoolExecutor(1) as pool:  # the vocabulary is read while the weights are repacked
            reading = pool.submit(_text_of, checkpoint)
            engine = Engine(
                checkpoint,
                n_ctx=n_ctx,
                n_threads=n_threads,
                n_sequences=n_sequences,
                kv_dtype=kv_dtype,
                kv_bytes=kv_bytes,
                prefix_caching=prefix_caching,
                speculative=speculative,
                latency_s=latency_s,
                prefix_folder=prefix_folder,
                prefix_bytes=prefix_bytes,
            )
            tokenizer, template = reading.result()
        return cls(engine, tokenizer, template, tokenizer.eos_ids | checkpoint.eos_ids)

    @classmethod
    def on_vllm(cls, path: Path, options: VllmOptions) -> Self:
        """vLLM over a Hugging Face folder, whose texts are read here; vLLM alone reads the weights.

        Raises:
            Hermes3Error: vLLM is not installed, or cannot run the model.
            FormatError: no such folder, or one without a vocabulary.
        """
        from hermes3.engine.vllm.client import check_runnable
        from hermes3.engine.vllm.engine import VllmEngine

        check_runnable(path)
        try:
            values = hf_folder.read_config(path)
            ends = hf_folder.read_eos_ids(path, values, int(values.get("vocab_size", 0)))
            own = hf_folder.read_chat_template(path)
        except FormatError as error:
            raise type(error)(f"{path}: {error}") from error
        tokenizer = _tokenizer_in(path)
        template = _template(own, tokenizer)
        return cls(VllmEngine.of_folder(path, options), tokenizer, template, tokenizer.eos_ids | ends)


def _text_of(checkpoint: Checkpoint) -> tuple[Tokenizer, Template]:
    tokenizer = tokenizer_of(checkpoint)
    return tokenizer, template_of(checkpoint, tokenizer)


def template_of(checkpoint: Checkpoint, tokenizer: Tokenizer) -> Template:
    """How a model's prompts differ from plain ChatML, by its own template."""
    return _template(checkpoint.chat_template, tokenizer)


def _template(own: str | None, tokenizer: Tokenizer) -> Template:
    own = own or tokenizer.chat_template
    return Template.of_model(own, bos_token=tokenizer.bos_token, add_bos=tokenizer.add_bos)


def tokenizer_of(checkpoint: Checkpoint) -> Tokenizer:
    """The tokenizer in a model's own files.

    Raises:
        FormatError: they hold none, or a damaged one.
    """
    if checkpoint.vocabulary is not None:
        return Tokenizer.from_gguf(checkpoint.vocabulary)
    return _tokenizer_in(checkpoint.source)


def _tokenizer_in(folder: Path) -> Tokenizer:
    if not (path := folder / "tokenizer.json").is_file():
        raise FormatError(f"{folder} has no vocabulary; a folder needs tokenizer.json beside its weights")
    return Tokenizer.from_file(path)
