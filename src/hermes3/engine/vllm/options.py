"""What vLLM can be told when it starts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from hermes3.engine.arguments import checked_integer
from hermes3.errors import RequestError

Backend = Literal["mp", "ray"]
DType = Literal["auto", "float32", "float16", "bfloat16"]
MAX_PARALLEL = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class VllmOptions:
    """Under vLLM's names and with its meanings (https://docs.vllm.ai/en/latest/configuration/engine_args.html).

    Attributes:
        max_model_len: most tokens of a prompt and its answer; None for the model's own limit.
        max_num_seqs: answers that run at once; None for vLLM's choice.
        tensor_parallel_size: devices that share each layer.
        pipeline_parallel_size: groups of devices that share the layers.
        distributed_executor_backend: "mp", processes of this machine, or "ray", those of a Ray cluster, which
            may be of many machines; None for vLLM's choice.
        dtype: of weights and activations; "auto" for the model's own.
        gpu_memory_utilization: share of each device's memory that vLLM may take; None for its own default.
        enforce_eager: run the model as it is, without compiling it first: starts sooner, answers slower.

    Raises:
        RequestError: a value outside its limits; ``param`` names it.
    """

    max_model_len: int | None = None
    max_num_seqs: int | None = None
    tensor_parallel_size: int = 1
    pipeline_parallel_size: int = 1
    distributed_executor_backend: Backend | None = None
    dtype: DType = "auto"
    gpu_memory_utilization: float | None = None
    enforce_eager: bool = False

    def __post_init__(self) -> None:
        for name in ("tensor_parallel_size", "pipeline_parallel_size"):
            checked_integer(name, getattr(self, name), MAX_PARALLEL)
        for name in ("max_model_len", "max_num_seqs"):
            if (value := getattr(self, name)) is not None:
                checked_integer(name, value, 1 << 31)
        if (backend := self.distributed_executor_backend) is not None:
            _check_choice("distributed_executor_backend", backend, get_args(Backend))
        _check_choice("dtype", self.dtype, get_args(DType))
        share = self.gpu_memory_utilization
        if share is not None and not (isinstance(share, int | float) and 0 < share <= 1):
            raise RequestError(
                f"gpu_memory_utilization is {share!r:.60}, it must be above 0, and 1 at most",
                param="gpu_memory_utilization",
            )

        if not isinstance(self.enforce_eager, bool):
            shown = f"{self.enforce_eager!r:.60}"
            raise RequestError(f"enforce_eager is {shown}, it must be true or false", param="enforce_eager")

    def arguments(self) -> dict[str, object]:
        """Those that are set, as vLLM's ``EngineArgs`` takes them."""
        values = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return {name: value for name, value in values.items() if value is not None}


def _check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise RequestError(f"{name} is {value!r:.60}, it must be one of {', '.join(choices)}", param=name)
