"""Which engine a hall stands on, chosen by name: for front ends that leave that to their users."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self, get_args

from hermes3.engine.vllm.options import VllmOptions
from hermes3.errors import RequestError
from hermes3.llm.hall import LLM
from hermes3.llm.parts import Parts

EngineName = Literal["hermes3", "vllm"]
OWN = ("threads", "latency_s", "kv_dtype", "prefix_folder")  # options of our own engine alone
ON_VLLM = tuple(
    name for name in VllmOptions.__dataclass_fields__ if name not in ("max_model_len", "max_num_seqs")
)
_NAMES = {"threads": "n_threads"}  # what ``LLM`` calls otherwise than users do


def on_vllm(
    model: str | os.PathLike[str], options: VllmOptions | None = None, *, bos: bool | None = None
) -> LLM:
    """A hall on vLLM instead of our own engine: same prompts, answers' forms and errors.

    Its answers are vLLM's: a seed gives the same answer again as far as vLLM's batches do not change its
    rounding, no token is forced without being computed, and no given text is scored.

    Args:
        model: a Hugging Face folder, or ``hf:owner/repo`` of one; fetched where it is not here yet.
        options: what vLLM is told.
        bos: whether prompts begin with the BOS token; None for what the model's own template says.

    Raises:
        Hermes3Error: vLLM is not installed, or cannot run the model.
        ModelNotFoundError, DownloadError, FormatError: the model cannot be had, or is no such folder.
    """
    from hermes3.weights import hub

    path = hub.resolve(model)
    parts = Parts.on_vllm(path, options or VllmOptions())
    return LLM.of_parts(parts, name=path.stem if path.is_file() else path.name, path=path, bos=bos)


@dataclass(frozen=True, slots=True)
class EngineChoice:
    """An engine that is not started yet; can be sent to other processes.

    Attributes:
        own: arguments of ``LLM``, for our own engine.
        vllm: for vLLM; None for our own engine.
    """

    own: Mapping[str, Any] = field(default_factory=dict)
    vllm: VllmOptions | None = None

    @classmethod
    def of(
        cls,
        name: str,
        *,
        n_ctx: int | None,
        n_sequences: int | None,
        given: Mapping[str, Any],
    ) -> Self:
        """From what users write.

        Args:
            name: of the engine.
            n_ctx, n_sequences: as for ``LLM``; both engines have them.
            given: options of one engine alone (``OWN``, ``ON_VLLM``), those that were given.

        Raises:
            RequestError: no engine of that name, or an option that the engine does not have; by name.
        """
        names = get_args(EngineName)
        if name not in names:
            raise RequestError(f"engine is {name!r:.60}, it must be {' or '.join(names)}", param="engine")
        its = ON_VLLM if name == "vllm" else OWN
        if other := next((option for option in given if option not in its), None):
            raise RequestError(f"{other} is no option of the engine {name}; leave it out", param=other)
        if name == "vllm":
            return cls(vllm=VllmOptions(max_model_len=n_ctx, max_num_seqs=n_sequences, **given))
        named = {_NAMES.get(option, option): value for option, value in given.items()}
        return cls(own={"n_ctx": n_ctx, "n_sequences": n_sequences, **named})

    def open(self, model: str | Path) -> LLM:
        """Start it on a model.

        Raises:
            Hermes3Error: see ``LLM`` and ``on_vllm``.
        """
        return LLM(model, **self.own) if self.vllm is None else on_vllm(model, self.vllm)
