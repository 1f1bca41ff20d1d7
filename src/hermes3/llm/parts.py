"""What a hall is made of, and how that comes from a file."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from hermes3.engine.engine import Engine
from hermes3.engine.model import KVType
from hermes3.engine.pace import LATENCY_S
from hermes3.engine.prefix_store import DEFAULT_BYTES
from hermes3.errors import FormatError
from hermes3.prompt.chatml import Template
from hermes3.tokenizer import Tokenizer
from hermes3.weights.checkpoint import Checkpoint, open_checkpoint


@dataclass(frozen=True, slots=True)
class Parts:
    """An engine, and the text that goes with its numbers.

    Attributes:
        tokenizer: text to ids and back.
        template: how prompts differ from plain ChatML.
        end_ids: ids that end an answer.
    """

    engine: Engine
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


def _text_of(checkpoint: Checkpoint) -> tuple[Tokenizer, Template]:
    tokenizer = tokenizer_of(checkpoint)
    return tokenizer, template_of(checkpoint, tokenizer)


def template_of(checkpoint: Checkpoint, tokenizer: Tokenizer) -> Template:
    """How a model's prompts differ from plain ChatML, by its own template."""
    own = checkpoint.chat_template or tokenizer.chat_template
    return Template.of_model(own, bos_token=tokenizer.bos_token, add_bos=tokenizer.add_bos)


def tokenizer_of(checkpoint: Checkpoint) -> Tokenizer:
    """The tokenizer in a model's own files.

    Raises:
        FormatError: they hold none, or a damaged one.
    """
    if checkpoint.vocabulary is not None:
        return Tokenizer.from_gguf(checkpoint.vocabulary)
    if checkpoint.tokenizer_json is not None:
        return Tokenizer.from_file(checkpoint.tokenizer_json)
    raise FormatError(
        f"{checkpoint.source} has no vocabulary; a folder needs tokenizer.json beside its weights"
    )
